# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of those who had a uid before: processes, records, files.

Looks, and judges nothing: what follows for a uid is the ledger's (ledger.py). What it
cannot see: files outside STATE/data.

The processes of a uid are found by reading /proc/PID/status without its threads:
a sandbox maps one uid only, so that no thread of it can have another.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import IdentityError
from . import files

_MAX_RECORD: Final = 1024 * 1024
_MAX_DEPTH: Final = 64


def found(uids: range, records: Path, data: Path) -> dict[int, str]:
    """Processes first: a uid without any makes no new file while we look."""
    found = {uid: f"process {pid} has it" for uid, pid in in_proc(uids).items()}
    for uid, path in _in_records(records).items():
        found.setdefault(uid, f"{path} records it")
    for uid, path in in_data(uids, data).items():
        found.setdefault(uid, f"{path} is its")
    return found


def in_proc(uids: range) -> dict[int, int]:
    """uid → one pid that has it as any of its four uids or gids; zombies count."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/status", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue
        try:
            text = os.read(fd, 8192)
        except ProcessLookupError:
            continue
        finally:
            os.close(fd)
        for line in text.split(b"\n"):
            if line.startswith((b"Uid:", b"Gid:")):
                for word in line.split()[1:]:
                    if int(word) in uids:
                        found.setdefault(int(word), int(name))
    return found


def _in_records(records: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    try:
        names = os.listdir(records)
    except FileNotFoundError:
        return found
    for name in names:
        path = records / name
        try:
            # Its first line says whose it is; see records.py.
            with open(path, "rb") as file:
                record: object = json.loads(file.readline(_MAX_RECORD))
        except FileNotFoundError:
            continue
        except (ValueError, RecursionError):
            record = None
        uids = _uids_of(record)
        if not uids:
            raise IdentityError(
                f"{path} does not say whose uid it is, so that no uid can be "
                "shown to be free of its activity",
                code="identity-record",
                hint="remove it if its activity has ended",
            )
        for uid in uids:
            found.setdefault(uid, path)
    return found


def _uids_of(record: object) -> set[int]:
    """The uid of an activity's record, as ``uid`` or as ``identity.uid``."""
    if not isinstance(record, dict):
        return set()
    identity = record.get("identity")
    inner = identity.get("uid") if isinstance(identity, dict) else None
    return {uid for uid in (record.get("uid"), inner) if type(uid) is int}


def in_data(uids: range, data: Path) -> dict[int, Path]:
    """uid → one file of it. Walks descriptors: an activity may swap a directory
    for a link meanwhile. What lies too deep was made by one who could write in
    the last directory seen, and that one's owner is counted."""
    found: dict[int, Path] = {}
    try:
        stack = [(files.open_dir(data, None), data)]
    except FileNotFoundError:
        return found
    fds = [stack[0][0]]
    try:
        waiting: list[Iterator[os.DirEntry[str]]] = [_entries(fds[0])]
        while waiting:
            path = stack[-1][1]
            for entry in waiting[-1]:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                for uid in (info.st_uid, info.st_gid):
                    if uid in uids:
                        found.setdefault(uid, path / entry.name)
                if stat.S_ISDIR(info.st_mode) and len(fds) < _MAX_DEPTH:
                    try:
                        fd = files.open_dir(entry.name, fds[-1])
                    except OSError as error:
                        if error.errno in (
                            errno.ENOENT,
                            errno.ENOTDIR,
                            errno.ELOOP,
                        ):
                            continue
                        raise
                    fds.append(fd)
                    stack.append((fd, path / entry.name))
                    waiting.append(_entries(fd))
                    break
            else:
                waiting.pop()
                stack.pop()
                os.close(fds.pop())
    finally:
        for fd in fds:
            os.close(fd)
    return found


def _entries(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        yield from entries
