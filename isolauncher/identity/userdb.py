# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of activities' uids on this machine: records for nss-systemd(8).

A user and a group record for each, with links by their numbers. A record names the
state directory of the ledger whose uid it is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from pathlib import Path
from typing import Final, Literal

from . import files
from .leases import Lease

USERDB: Final = Path("/run/userdb")

_MAX_RECORD: Final = 16 * 1024

_MARK: Final = "org.sugarlabs.isolauncher"

_OUR_RECORD = re.compile(
    r"(?:isolauncher-)?([1-9][0-9]{0,9})\.(?:user|group)"
    r"|\.isolauncher-([1-9][0-9]{0,9})\.(?:user|group)\.new"
)


def write(directory: Path, lease: Lease, state: str) -> None:
    """A user and a group record (systemd's JSON user records), then their numbers."""
    directory.mkdir(mode=0o755, exist_ok=True)
    name = f"isolauncher-{lease.uid}"
    common = {
        "disposition": "dynamic",
        "service": _MARK,
        _MARK: {"stateDirectory": state},
    }
    user = {
        "userName": name,
        "uid": lease.uid,
        "gid": lease.gid,
        "realName": f"isolauncher activity of uid {lease.caller_uid}",
        "homeDirectory": "/",
        "shell": "/usr/sbin/nologin",
        "locked": True,
        **common,
    }
    fd = files.open_dir(directory, None)
    try:
        for kind, record in (
            ("group", {"groupName": name, "gid": lease.gid, **common}),
            ("user", user),
        ):
            files.replace(f"{name}.{kind}", json.dumps(record).encode() + b"\n", fd)
            with contextlib.suppress(FileExistsError):
                os.symlink(f"{name}.{kind}", f"{lease.uid}.{kind}", dir_fd=fd)
    finally:
        os.close(fd)


def remove(directory: Path, uid: int) -> None:
    for kind in ("user", "group"):
        ours = f"isolauncher-{uid}.{kind}"
        if _link_to(directory / f"{uid}.{kind}") == ours:
            os.unlink(directory / f"{uid}.{kind}")
        for name in (f".{ours}.new", ours):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(directory / name)


def uids(directory: Path) -> set[int]:
    """Those that there is a record of ours for, or a part of one."""
    return {
        int(match[1] or match[2])
        for match in map(_OUR_RECORD.fullmatch, os.listdir(directory))
        if match
    }


def whose(directory: Path, uid: int, state: str) -> Literal["none", "ours", "other"]:
    """Ours names our state directory; another ledger's uid is somebody else's."""
    for kind in ("user", "group"):
        ours = f"isolauncher-{uid}.{kind}"
        if _link_to(directory / f"{uid}.{kind}") not in (None, ours):
            return "other"
        try:
            with open(directory / ours, "rb") as file:
                record: object = json.loads(file.read(_MAX_RECORD))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            return "other"
        mark = record.get(_MARK) if isinstance(record, dict) else None
        if not isinstance(mark, dict) or mark.get("stateDirectory") != state:
            return "other"
        return "ours"
    return "none"


def _link_to(path: Path) -> str | None:
    """What a link says; empty for anything but a link, None for nothing."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        raise
