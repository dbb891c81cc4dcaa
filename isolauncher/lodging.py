# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms that wait in a person's session, for any of its activities.

What a launch of a bundle brings is of two kinds. Some of it is the bundle's: its own
directory and those of the person's that are its own, its bus. The rest is the same for
each activity of one session: the display with its cookie, the person's settings, most
of the environment. So a room that has been given the latter, as it was brought by the
launch before, can wait with a stem that has done what each activity does first: it is
connected to the display, and has drawn what all of them have (`zygote.warm`).

It serves a launch only that brings the very same (`Session`), the display's socket by
device and inode. It is confined as any room is: nobody's uid, no capabilities, its own
namespaces and root, a cgroup; no byte of an activity's code has run. Landlock and the
filter of system calls bind it with the rest of the plan, as any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import foreign, furniture, plan, rooms, view
from .activity import Wanted
from .errors import StepError, VerifyError
from .zygote.handover import gtk

if TYPE_CHECKING:
    from .daemon import Daemon

SET = "sugar3"
"""What is preloaded for it."""

PROGRAM = "sugar-activity3"
"""What nearly all of Sugar's activities run, by this name, before their own code."""

_KINDS = ("socket:", "anon_inode:[eventfd]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All that a session brings to each of its launches.

    ``socket`` is the display's device and inode; ``variables`` are those that no bundle
    has a say in, ``files`` what is written into the home.
    """

    display: str
    socket: tuple[int, int]
    cookie: bytes | None
    files: tuple[tuple[str, bytes], ...]
    variables: tuple[tuple[str, str], ...]
    at: tuple[str, str]


def of(wanted: Wanted) -> Session | None:
    """What to compare; None for what cannot be prepared in a session."""
    asked, at = wanted.asked, wanted.at
    if wanted.bundle is None or asked is None or at is None or wanted.lease_key:
        return None
    runs_it = wanted.program_kind == "name" and wanted.argv[0] == PROGRAM
    if not runs_it or wanted.policy.preload.set != SET:
        return None
    if asked.display is None or wanted.policy.network == "host":
        return None  # in the host's network the display has another number each time
    if not foreign.answers_at_once(wanted.fds["display"]):
        return None  # and it is not asked: what it is was not looked at yet
    return Session(
        display=asked.display,
        socket=rooms.file_of(wanted.fds["display"]),
        cookie=asked.cookie,
        files=tuple(sorted(asked.files.items())),
        variables=tuple(
            sorted((n, v) for n, v in wanted.variables.items() if n not in gtk.LATER)
        ),
        at=(at.home, at.runtime),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lodger:
    """A launch as it was, for a room that is to wait where that one was.

    ``display`` is an O_PATH descriptor of ours, for `close` to close.
    """

    serves: Session
    wanted: Wanted
    display: int
    times: int = 1
    beside: bool = False

    async def prepare(self, daemon: Daemon, room: rooms.Room) -> None:
        """Give the room what is the session's, and have its stem live there."""
        await _lodge(daemon, room, self)

    def another(self) -> Lodger:
        return replace(self, display=os.dup(self.display))

    def close(self) -> None:
        os.close(self.display)


def again(session: Session, wanted: Wanted) -> Lodger:
    """Keep what is needed to prepare it."""
    return Lodger(
        serves=session,
        wanted=replace(wanted, fds={}),
        display=os.dup(wanted.fds["display"]),
    )


async def _lodge(daemon: Daemon, room: rooms.Room, lodger: Lodger) -> None:
    sandbox, wanted = room.sandbox, lodger.wanted
    assert sandbox is not None  # noqa: S101 (for the type checker)
    assert room.planned is not None  # noqa: S101
    assert room.frame is not None  # noqa: S101
    assert room.visible is not None  # noqa: S101
    assert wanted.asked is not None  # noqa: S101
    assert wanted.at is not None  # noqa: S101
    variables = dict(lodger.serves.variables)
    mounts = view.Mounts(daemon.kernel)
    try:
        brought = furniture.of_session(
            mounts,
            asked=wanted.asked,
            fds={"display": lodger.display},
            at=wanted.at,
            visible=room.visible,
            variables=variables,
        )
        steps, room.frame = plan.lodge(room.frame, brought)
        room.sent |= {name: rooms.file_of(fd) for name, fd in mounts.fds.items()}
        notes, lacks, held = await sandbox.lodge(
            room.id, steps, _start(wanted, variables), mounts.fds
        )
    finally:
        mounts.close()
    if lacks:
        raise StepError(
            f"the stem cannot live in the session: {lacks}",
            step="lodge",
            code="not-lodged",
        )
    room.skipped += notes
    room.planned = replace(room.planned, steps=(*room.planned.steps, *steps))
    room.living = dict(_living(sandbox.stem_pid, held))
    rooms.look(room)


def _start(wanted: Wanted, variables: Mapping[str, str]) -> plan.Start:
    """As far as it is known: without a bundle's words, its directory and variables."""
    assert wanted.bundle is not None  # noqa: S101 (for the type checker)
    path = wanted.variables["PATH"].removeprefix(f"{wanted.bundle.path}/bin:")
    return plan.Start(
        program_kind="name",
        path="",
        argv=(PROGRAM,),
        environment=tuple(sorted({**variables, "PATH": path}.items())),
        cwd="/",
        tier="fork",
        hostname=wanted.policy.hostname,
        preload=wanted.policy.preload.set,
    )


def _living(pid: int, held: list[int]) -> Iterator[tuple[int, str]]:
    """What the stem says that it has open for it, as it is seen from outside."""
    for number in held:
        kind = os.readlink(f"/proc/{pid}/fd/{number}")
        if not kind.startswith(_KINDS):
            raise VerifyError(
                f"the stem has {kind} open for the session", code="verify-difference"
            )
        yield number, kind
