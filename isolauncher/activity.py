# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a launch, and what became of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from . import furniture, opener, records, rooms, steps
from .bundle import Bundle
from .policy.model import Policy
from .request import Caller, Furnish, ProgramKind, TierName


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to run and under which policy, whoever asked for it and how.

    ``variables`` is its environment, ``not_kept`` what it will not have of what was
    asked for; ``fresh`` why these variables need a fresh interpreter, if they do.
    ``path`` is the program's inside, where it is known already. ``fds`` are the
    caller's descriptors by name. ``bundle`` and what came for it are of a Sugar bundle
    only, and so is the home that is made for it; ``looking`` is the caller's opener
    that looks at what came, and nothing is made of it before that has `checked`.
    """

    policy: Policy
    variables: Mapping[str, str]
    not_kept: tuple[steps.Skipped, ...]
    program_kind: ProgramKind
    argv: tuple[str, ...]
    fds: Mapping[str, int]
    id: str | None
    umask: int
    tied: bool
    tier: TierName | None = None
    lease_key: str | None = None
    path: str = ""
    cwd: str = "/"
    bundle: Bundle | None = None
    asked: Furnish | None = None
    at: furniture.Place | None = None
    scratch: bool = False
    looking: opener.Opener | None = None
    fresh: str = ""


State = Literal["starting", "running", "stopping", "exited"]


@dataclass(slots=True, kw_only=True)
class Activity:
    """A launch and what it became, in the daemon's memory.

    ``clients`` counts the connections that wait for its end. ``pid`` is the host pid
    of its main process. ``status`` is waitpid(2)'s, None while it runs; ``reason`` is
    that of whoever stopped it.
    """

    id: str
    caller_uid: int
    caller_gid: int
    bundle_id: str | None
    policy: str
    policy_files: tuple[str, ...]
    tier: str
    path: str
    program: list[str]
    room: rooms.Room
    tied: bool
    scratch: bool = False
    client_pid: int = 0
    client_start: int = 0
    started: float = 0.0
    pid: int = 0
    state: State = "starting"
    clients: int = 0
    namespaces: dict[str, str] = field(default_factory=dict)
    enforced: tuple[str, ...] = ()
    skipped: list[steps.Skipped] = field(default_factory=list)
    timings: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(
        cls,
        wanted: Wanted,
        caller: Caller,
        *,
        activity_id: str,
        tier: Literal["fork", "exec"],
        skipped: Iterable[steps.Skipped],
    ) -> Activity:
        """One that is to start, in a room that is not there yet."""
        policy = wanted.policy
        return cls(
            id=activity_id,
            caller_uid=caller.uid,
            caller_gid=caller.gid,
            bundle_id=wanted.bundle.bundle_id if wanted.bundle else None,
            policy=policy.name,
            policy_files=policy.files,
            tier=tier,
            path="exec" if tier == "exec" else "demand",
            program=list(wanted.argv),
            room=rooms.Room(id=activity_id),
            scratch=wanted.scratch,
            tied=wanted.tied,
            client_pid=caller.pid,
            started=asyncio.get_running_loop().time(),
            skipped=list(skipped),
        )

    def note_client(self) -> None:
        """When the client has started: its pid may be another's one day."""
        if self.client_pid:
            self.client_start = records.start_time(self.client_pid)

    def exit(self) -> tuple[int | None, int | None]:
        """(what isolauncher returns, the signal that ended it), getopt-style 128+N."""
        if self.status is None:
            return None, None
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return 128 + number, number
        return os.WEXITSTATUS(self.status), None

    def report(self) -> dict[str, object]:
        status, number = self.exit()
        why = {"reason": self.reason} if self.reason else {}
        return {
            "version": 1,
            "activity": {
                "id": self.id,
                "bundle_id": self.bundle_id,
                "program": self.program,
                "pid": self.pid or None,
                "tier": self.tier,
                "path": self.path,
            },
            "caller": {"uid": self.caller_uid, "gid": self.caller_gid},
            "policy": {"name": self.policy, "files": list(self.policy_files)},
            "identity": {
                "uid": self.room.uid,
                "gid": self.room.uid,
                "groups": [],
                "inner_uid": self.room.inner_uid,
            },
            "namespaces": self.namespaces,
            "enforced": list(self.enforced),
            "skipped": [{"what": s.what, "why": s.why} for s in self.skipped],
            "timings_us": self.timings,
            "exit": {"status": status, "signal": number, **why},
        }


class Counts:
    """Of one daemon's activities by their callers' uids: those that have not ended.

    Each is entered once; from then on its state changes here alone, or not at all in
    what is counted.
    """

    def __init__(self) -> None:
        self.alive: Counter[int] = Counter()
        self.starting: Counter[int] = Counter()

    def enter(self, activity: Activity) -> None:
        self.alive[activity.caller_uid] += 1
        if activity.state == "starting":
            self.starting[activity.caller_uid] += 1

    def runs(self, activity: Activity) -> None:
        """From here on."""
        _take_one(self.starting, activity.caller_uid)
        activity.state = "running"

    def ended(self, activity: Activity) -> None:
        if activity.state == "starting":
            _take_one(self.starting, activity.caller_uid)
        if activity.state != "exited":
            _take_one(self.alive, activity.caller_uid)
        activity.state = "exited"


def _take_one(counter: Counter[int], uid: int) -> None:
    counter[uid] -= 1
    if not counter[uid]:
        del counter[uid]
