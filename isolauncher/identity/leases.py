# SPDX-License-Identifier: GPL-3.0-or-later
"""A lease: a uid belongs to an activity, or to a bundle; and the file that says so.

Here: what can be said, and how it is written and read. Who gets a lease, and where its
file is, is the ledger's (ledger.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["instance", "bundle"]
InstalledBy = Literal["system", "user"]

MAX_BYTES: Final = 16 * 1024
ID = re.compile(r"[0-9a-zA-Z_]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One uid given out.

    ``key`` and ``installed_by`` are empty for an instance lease. ``activity_id`` is
    empty for a bundle lease nothing runs under now. ``taker_pid`` and
    ``taker_start`` (clock ticks since boot) name the process that took it, so that
    another process's gc leaves a launch in flight alone.
    """

    uid: int
    gid: int
    mode: Mode
    key: str
    installed_by: InstalledBy | Literal[""]
    caller_uid: int
    caller_name: str
    activity_id: str
    created: float
    boot_id: str
    taker_pid: int
    taker_start: int


class Unusable(Exception):
    """What a file holds is not a lease."""


_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {
    "uid": int,
    "gid": int,
    "mode": str,
    "key": str,
    "installed_by": str,
    "caller_uid": int,
    "caller_name": str,
    "activity_id": str,
    "created": (int, float),
    "boot_id": str,
    "taker_pid": int,
    "taker_start": int,
}


def content(lease: Lease) -> bytes:
    """What its file holds."""
    fields = {
        "version": 1,
        **{field: getattr(lease, field) for field in _FIELDS},
    }
    return json.dumps(fields).encode() + b"\n"


def parse(content: bytes) -> Lease:
    try:
        fields: object = json.loads(content)
    except (ValueError, RecursionError):
        raise Unusable("it is not JSON") from None
    if not isinstance(fields, dict) or fields.pop("version", None) != 1:
        raise Unusable("it is not of version 1")
    if fields.keys() != _FIELDS.keys():
        odd = sorted(fields.keys() ^ _FIELDS.keys())
        raise Unusable(f"missing or unknown: {', '.join(odd)[:200]}")
    for name, kind in _FIELDS.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise Unusable(f"{name} has the wrong type")
    lease = Lease(**fields)
    bundle = lease.mode == "bundle"
    if (
        lease.mode not in ("instance", "bundle")
        or lease.installed_by not in (("system", "user") if bundle else ("",))
        or bool(lease.key) != bundle
        or lease.gid != lease.uid
        or (lease.activity_id and not ID.fullmatch(lease.activity_id))
    ):
        raise Unusable("its values contradict each other")
    return lease


def key(lease: Lease) -> tuple[int, str, str]:
    return (lease.caller_uid, lease.key, lease.installed_by)


def digest(lease: Lease) -> str:
    """The name of a bundle lease's second link."""
    # JSON, because it says where one part of the key ends and the next begins.
    return hashlib.sha256(json.dumps(key(lease)).encode()).hexdigest()
