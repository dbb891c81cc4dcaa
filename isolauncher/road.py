# SPDX-License-Identifier: GPL-3.0-or-later
"""From a room to a running program: the rest of the plan, sealed, handed over, "go".

`seal` does all for which nobody has to have asked: a launch that is expected is sealed
ahead (see expected.py) and waits for its caller's streams. `go` does what is left, and
is the only place from which a program is let run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import furniture, kernel, plan, records, reopen, rooms, steps, verify, view
from .errors import StepError, VerifyError

if TYPE_CHECKING:
    from .daemon import Daemon
    from .launch import Activity, Wanted

STREAMS = ("stdin", "stdout", "stderr")


def streams(wanted: Wanted) -> dict[str, int]:
    """The caller's, by name, in the order of their numbers."""
    return {name: wanted.fds[name] for name in STREAMS}


def nothing() -> None:
    """What there is to do meanwhile, mostly."""


class Clock:
    """CLOCK_MONOTONIC readings of one launch, in microseconds."""

    def __init__(self, received_us: int) -> None:
        self.received = received_us
        self.last = received_us
        self.spans: dict[str, int] = {}

    def lap(self, name: str, at_us: int | None = None) -> None:
        """It has ended, now or when another process has read the same clock."""
        now = kernel.monotonic_us() if at_us is None else at_us
        self.spans[name] = self.spans.get(name, 0) + now - self.last
        self.last = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A sandbox in which nothing is missing but "go", and what was found right of it.

    ``skipped`` is all that was let pass on the way, ``enforced`` what is in force.
    """

    whole: plan.Plan
    state: verify.Sealed
    namespaces: Mapping[str, str]
    skipped: tuple[steps.Skipped, ...]
    enforced: tuple[str, ...]


async def seal(
    activity: Activity,
    daemon: Daemon,
    wanted: Wanted,
    program: reopen.Program | None,
    clock: Clock,
    meanwhile: Callable[[], None] = nothing,
) -> Sealed:
    """Have the rest of the plan done in the activity's room, and verify it.

    ``meanwhile`` is called when init and the stem are at work. The stem is handing over
    by the time this returns.
    """
    room = activity.room
    sandbox, record = room.sandbox, room.record
    assert sandbox is not None  # noqa: S101 (for the type checker)
    assert record is not None  # noqa: S101
    assert room.planned is not None  # noqa: S101
    assert room.visible is not None  # noqa: S101
    mounts = view.Mounts(daemon.kernel)
    try:
        if _needs_its_root(wanted, room.visible):
            await rooms.made(room)
        # Else they find it there when they are through with the room.
        if wanted.looking is not None:
            await wanted.looking.checked()
        rest = _rest(activity, daemon, wanted, program, mounts)
        for_stem = {name: mounts.fds[name] for name in rest.named_by_stem()}
        for_init = {**mounts.fds, "record": record.fd}
        if "hold" in wanted.fds:
            for_init["hold"] = wanted.fds["hold"]
        if daemon.waiter >= 0:
            for_init["waiter"] = daemon.waiter
        if program is not None and program.fd >= 0:
            for_init["program:read"] = program.fd
        if not room.begun:
            for_stem |= streams(wanted)
        told = {**for_init, **for_stem, **streams(wanted)}
        sent = {n: rooms.file_of(fd) for n, fd in told.items()}
        clock.lap("plan")
        sandbox.tell_rest(rest, for_init, for_stem, room.begun)
        meanwhile()
        await rooms.made(room)
    except StepError as e:
        if e.code != "sandbox-died":
            raise
        # A stem that has begun may have failed, or init; and has said why.
        raise await sandbox.why_ended() or e from e
    finally:
        mounts.close()
    activity.skipped += room.skipped
    state = verify.Sealed(
        init=sandbox.pid,
        stem=sandbox.stem_pid,
        sent=room.sent | sent,
        probes={},
        notes=tuple(activity.skipped),
        looked=room.looked,
        living=room.living,
    )
    whole = plan.Plan(room=room.planned, rest=rest)
    differs: VerifyError | None = None
    try:
        verify.verify_begun(whole.room, state)
    except VerifyError as e:
        # Raised below, unless it is that somebody has ended, who says why.
        differs = e
    namespaces: dict[str, str] = {}

    def left(notes: list[steps.Skipped]) -> None:
        activity.skipped.extend(notes)
        namespaces.update(
            verify.verify_left(whole, replace(state, notes=tuple(activity.skipped)))
        )

    try:
        notes, probes = await sandbox.sealed(left)
        if differs is not None:
            raise differs
        activity.skipped += notes
        clock.lap("apply")
        state = replace(state, probes=probes, notes=tuple(activity.skipped))
        # The stem is handing over meanwhile: first what that leaves as it is.
        verify.verify(whole, state, namespaces)
    except VerifyError as e:
        # Or it has ended, since there was nothing that it could have started.
        said = await sandbox.why_ended() if e.code == "verify-gone" else None
        raise said or e from None
    return Sealed(
        whole=whole,
        state=state,
        namespaces=namespaces,
        skipped=tuple(activity.skipped),
        enforced=whole.enforced(),
    )


async def go(
    activity: Activity,
    daemon: Daemon,
    sealed: Sealed,
    clock: Clock,
    late: Mapping[str, int] | None = None,
) -> None:
    """Verify what the hand-over may have touched, and let the program run.

    ``late``: the streams of a launch that was expected, which its stem is getting.
    """
    room = activity.room
    sandbox, record = room.sandbox, room.record
    assert sandbox is not None  # noqa: S101 (for the type checker)
    assert record is not None  # noqa: S101
    if late is None:
        record.append("forked", daemon.pids(activity))
    namespaces = dict(sealed.namespaces)
    enforced = sealed.enforced
    state = daemon.describe(activity)
    state |= {"namespaces": namespaces, "enforced": list(enforced)}
    go = records.line("go", state | {"tier": activity.tier, "path": activity.path})
    looked_at = sealed.state
    if late is not None:
        sent = {name: rooms.file_of(fd) for name, fd in late.items()}
        looked_at = replace(looked_at, sent={**looked_at.sent, **sent})
        await sandbox.dressed()
        clock.lap("apply")
    if await is_stale(room):
        raise StepError(
            "what the room was made from has changed", step="launch", code="room-stale"
        )
    right = is_right(sealed.whole, looked_at)
    if late is not None or not right:
        # The hand-over opens files, and may have had one just then: it is through
        # with them when it is ready. Or it has ended, and says why.
        clock.lap("verify")
        await sandbox.ready()
        clock.lap("handover")
    if not right:
        verify.verify_ready(sealed.whole, looked_at)
    # Only now: of a launch that failed before, nothing was in force.
    activity.namespaces, activity.enforced = namespaces, enforced
    activity.pid = sandbox.stem_pid
    clock.lap("verify")
    if (ended := rooms.told_to_end(room)) is not None:
        # It has SIGKILL, which takes effect in the kernel's own time.
        raise ended
    # Before "go": from the first byte of activity code on, a daemon that comes after
    # us must know that this runs.
    record.write(go)
    # From here on it is nobody's but its own: a zygote's death does not end it.
    daemon.counts.runs(activity)
    running = await sandbox.go()
    clock.lap("handover", running.at_us)
    clock.spans["total"] = running.at_us - clock.received
    if running.tier != activity.tier:
        activity.tier = activity.path = running.tier
        record.append("go", state | {"tier": running.tier, "path": running.tier})
    if running.why:
        activity.skipped.append(steps.Skipped(what="tier fork", why=running.why))
    room.close_checker_later()


def is_right(whole: plan.Plan, state: verify.Sealed) -> bool:
    try:
        verify.verify_ready(whole, state)
    except VerifyError:
        return False
    return True


async def is_stale(room: rooms.Room) -> bool:
    """Whether what failed in a room that was prepared ahead may be the room's fault."""
    if room.dissolved or room.checker is None or not room.ahead:
        return False
    try:
        return not await room.is_same()
    except StepError:
        # Its opener was the caller's to end.
        return True


def _needs_its_root(wanted: Wanted, visible: plan.View) -> bool:
    """Whether what is in the room decides how it goes on: it has to be made for that.

    Of a program whose path is shown already, whether it is that file there.
    """
    if wanted.bundle is not None:
        return True
    program = wanted.fds.get("program")
    return program is not None and plan.below(view.program_path(program), visible.trees)


def _rest(
    activity: Activity,
    daemon: Daemon,
    wanted: Wanted,
    program: reopen.Program | None,
    mounts: view.Mounts,
) -> plan.Rest:
    """The part of the plan that the request makes."""
    room = activity.room
    assert room.sandbox is not None  # noqa: S101 (for the type checker)
    assert room.frame is not None  # noqa: S101
    assert room.visible is not None  # noqa: S101
    assert room.facts is not None  # noqa: S101
    policy = room.facts.policy
    path = wanted.path
    brought = plan.Furniture()
    root = room.sandbox.open_root() if room.made else -1
    try:
        if program is not None:
            path = view.program_path(wanted.fds["program"])
            shown = view.show_program(
                mounts,
                program,
                wanted.fds["program"],
                room.visible,
                root,
                room.facts.caller,
            )
            brought = plan.Furniture(trees=(shown,) if shown else ())
        elif wanted.bundle is not None and wanted.asked is not None and wanted.at:
            brought = furniture.furnish(
                mounts,
                bundle=wanted.bundle,
                asked=wanted.asked,
                fds=wanted.fds,
                at=wanted.at,
                caller=room.facts.caller,
                visible=room.visible,
                root=root,
                variables=wanted.variables,
                lodged=bool(room.frame.lodged),
            )
    finally:
        if root >= 0:
            os.close(root)
    return plan.rest(
        activity_id=activity.id,
        frame=room.frame,
        furniture=brought,
        filter_=rooms.compiled_filter(policy),
        start=start(activity, wanted, path),
        umask=wanted.umask,
        init_uid=room.facts.machine.init_uid,
    )


def start(activity: Activity, wanted: Wanted, path: str) -> plan.Start:
    return plan.Start(
        program_kind=wanted.program_kind,
        path=path,
        argv=wanted.argv,
        environment=tuple(sorted(wanted.variables.items())),
        cwd=wanted.cwd,
        tier="exec" if activity.tier == "exec" else "fork",
        hostname=wanted.policy.hostname,
        preload=wanted.policy.preload.set,
    )
