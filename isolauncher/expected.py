# SPDX-License-Identifier: GPL-3.0-or-later
"""Launches that are expected: sealed, handed over and verified ahead.

Who has launched the same program twice, in the same words, may do so again. So a room
of theirs goes on to where only the caller's streams and "go" are missing. It serves no
other request than the very same (`Expected`), with the file that was meant then: the
same inode, which nobody has changed since. No byte of the program has run.

What is asked for once more when somebody comes: the streams; what the hand-over finds
in the file system, by doing it again (the program is read then, too); whether all that
the room shows is as it was, as of any room; and its state as /proc tells it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from . import foreign, kernel, reopen, road, rooms, seen, steps, verify
from .activity import Activity, Wanted
from .errors import StepError

if TYPE_CHECKING:
    from .daemon import Daemon


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """All of a request that a sandbox is made from beside its `rooms.Facts`.

    ``file``: where the program's file lies, and what fstat(2) says of it.
    """

    said: tuple[object, ...]
    file: tuple[object, ...] | None


def of(wanted: Wanted) -> Expected | None:
    """What to compare; None where the like of it is not to be expected."""
    if wanted.id is not None or wanted.bundle is not None or wanted.lease_key:
        return None
    if wanted.program_kind == "name":
        return None  # another file may have come to be the first of that name
    fd = wanted.fds.get("program")
    file = None if fd is None else _file(fd)
    if fd is not None and file is None:
        return None  # nobody could tell it from another
    return Expected(
        said=(
            wanted.program_kind,
            wanted.argv,
            wanted.tier,
            wanted.umask,
            wanted.cwd,
            wanted.variables,
            wanted.not_kept,
        ),
        file=file,
    )


def _file(fd: int) -> tuple[object, ...] | None:
    try:
        found = os.fstat(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None  # whoever launches it is told
    changed = found.st_size, found.st_mtime_ns, found.st_ctime_ns
    owners = found.st_mode, found.st_uid, found.st_gid, found.st_nlink
    where = path, foreign.mount_id(fd), found.st_dev, found.st_ino
    return (*where, *owners, *changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A launch that may come again, with the program's file as it was meant.

    ``program`` is an O_PATH descriptor of ours, for `close` to close.
    """

    serves: Expected
    wanted: Wanted
    tier: Literal["fork", "exec"]
    skipped: tuple[steps.Skipped, ...]
    program: int
    times: int = 2
    beside: bool = True

    async def prepare(self, daemon: Daemon, room: rooms.Room) -> None:
        """Have it go on to where only streams and "go" are missing."""
        await _seal(daemon, room, self)

    def another(self) -> Again:
        return replace(self, program=os.dup(self.program) if self.program >= 0 else -1)

    def close(self) -> None:
        if self.program >= 0:
            os.close(self.program)


def again(
    expected: Expected | None,
    wanted: Wanted,
    tier: Literal["fork", "exec"],
    skipped: Iterable[steps.Skipped],
) -> Again | None:
    """Keep what is needed to prepare it; None where it cannot be, or is not to be.

    ``expected``: what is to be compared then. Not a file that lies on a disk which
    somebody may want to take away.
    """
    if expected is None:
        return None
    program = wanted.fds.get("program", -1)
    if program >= 0 and not seen.stays(program):
        return None
    return Again(
        serves=expected,
        wanted=replace(wanted, fds={}),
        tier=tier,
        skipped=tuple(skipped),
        program=os.dup(program) if program >= 0 else -1,
    )


async def _seal(daemon: Daemon, room: rooms.Room, launch: Again) -> None:
    checker, sandbox = room.checker, room.sandbox
    assert checker is not None  # noqa: S101 (for the type checker)
    assert sandbox is not None  # noqa: S101
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    fds = dict.fromkeys(road.STREAMS, null)
    program: reopen.Program | None = None
    try:
        if launch.program >= 0:
            fds["program"] = launch.program
        room.look_again(fds.get("program"))
        if "program" in fds:
            program = await checker.program()
        if not await room.is_same():
            raise _changed()
        wanted = replace(launch.wanted, fds=fds)
        assert room.facts is not None  # noqa: S101
        activity = Activity.of(
            wanted,
            room.facts.caller,
            activity_id=room.id,
            tier=launch.tier,
            skipped=launch.skipped,
        )
        activity.room = room
        clock = road.Clock(kernel.monotonic_us())
        sealed = await road.seal(activity, daemon, wanted, program, clock)
        await sandbox.ready()
        verify.verify_ready(sealed.whole, sealed.state)
        inside = verify.mount_of_directory(sandbox.stem_pid)
        sealed = replace(sealed, state=replace(sealed.state, inside=inside))
    finally:
        os.close(null)
        rooms.close_program(program)
    assert room.record is not None  # noqa: S101
    room.record.append("forked", daemon.pids(activity))
    room.waiting = sealed


def _changed() -> StepError:
    return StepError(
        "what the room was made from has changed", step="launch", code="room-stale"
    )
