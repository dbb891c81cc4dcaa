# SPDX-License-Identifier: GPL-3.0-or-later
"""One launch, from a request to a running activity: the road, in order.

    Request → (Policy, Identity, Host) → Plan → apply → hand over, verified → go

`launch` walks it for the daemon. Whatever fails ends the sandbox and gives everything
back; before "go" no byte of activity code has run.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from . import (
    expected,
    filters,
    foreign,
    kernel,
    lodging,
    plan,
    pool,
    reopen,
    road,
    rooms,
    steps,
    view,
)
from .activity import Activity, Wanted
from .errors import IsolauncherError, RequestError, StepError
from .policy import choose, environment
from .policy.model import Policy
from .request import Caller, Request
from .road import Clock
from .zygote import program as programs

if TYPE_CHECKING:
    from .daemon import Daemon

# Standard streams may be these character devices and terminals, nothing else: a
# device that the policy does not grant must not come in by a redirection.
_MEMORY_DEVICES = frozenset(os.makedev(1, n) for n in (3, 5, 7, 8, 9))


def to_run(
    daemon: Daemon,
    request: Request,
    fds: Mapping[str, int],
    caller: Caller,
    before: Wanted | None = None,
) -> Wanted:
    """A program, by its name, its file or its module.

    ``before``: what the very same came to the last time.
    """
    policy = _policy(daemon, request, fds, caller)
    if before is not None and before.policy is policy:
        return replace(before, fds=fds, cwd=view.cwd(fds))
    variables, dropped = environment.build(policy, request.environment, request.setenv)
    lease_key = None
    if policy.identity.uid == "bundle":
        # Not a bundle: the program is what keeps its uid from run to run.
        lease_key = f"run:{policy.name}:{request.program_kind}:{request.argv[0]}"
    return Wanted(
        policy=policy,
        variables=variables,
        not_kept=tuple(not_kept(request.setenv, dropped)),
        program_kind=request.program_kind,
        argv=request.argv,
        fds=fds,
        id=request.id,
        umask=request.umask,
        tied=request.tied,
        tier=request.tier,
        lease_key=lease_key,
        cwd=view.cwd(fds),
        fresh=why_fresh(daemon, policy, variables),
    )


def why_fresh(daemon: Daemon, policy: Policy, variables: Mapping[str, str]) -> str:
    """Why no forked interpreter can serve this environment, or ""."""
    why = programs.needs_exec(variables, daemon.locales, set_name=policy.preload.set)
    return why or ""


async def launch(
    daemon: Daemon, wanted: Wanted, caller: Caller, received_us: int
) -> Activity:
    """Launch; returns the running activity. The descriptors stay who's they are.

    Raises the IsolauncherError that tells what failed; then nothing is left of it.
    """
    clock = Clock(received_us)
    clock.lap("queue")
    policy, fds = wanted.policy, wanted.fds
    # Refused before anything is made for it, if it cannot be compiled.
    filters.compile(policy.kernel.syscalls)
    for name in road.STREAMS:
        _check_stream(name, fds[name], network=policy.network == "host")
    tier, set_name, skipped = await _how(daemon, wanted)
    made_from = rooms.facts(
        daemon,
        policy,
        caller,
        home=wanted.at.home if wanted.at else wanted.variables.get("HOME", "/"),
        own_home=wanted.at is not None,
        set_name=set_name,
        lease_key=wanted.lease_key,
    )
    # What is exec'ed takes longer by itself than all that could be done before.
    session = lodging.of(wanted) if wanted.bundle and tier == "fork" else None
    words = None if wanted.bundle or tier == "exec" else expected.of(wanted)
    asked = session or words
    # A room's own id, where the caller has no other in mind: its lease has it already.
    likely = daemon.rooms.find(made_from, asked)
    activity_id = wanted.id or (likely.id if likely else rooms.new_id())
    if wanted.id is not None and (likely is None or wanted.id != likely.id):
        daemon.refuse_taken(wanted.id)
    activity = Activity.of(
        wanted, caller, activity_id=activity_id, tier=tier, skipped=skipped
    )
    daemon.add(activity)
    clock.lap("plan")
    program: reopen.Program | None = None
    try:
        async with asyncio.timeout(daemon.config.limits.launch_ms / 1000):
            await _take(daemon, activity, made_from, wanted, asked)
            # The caller's opener and the stem are at work meanwhile.
            activity.note_client()
            await daemon.spare_memory(set_name, waits=activity.room.ahead)
            program = await _room(daemon, activity, made_from, fds.get("program"))
            clock.lap("fork")
            try:
                await _road(activity, daemon, wanted, program, clock)
            except IsolauncherError as e:
                if not await _is_of_its_age(e, activity):
                    raise
                # It was right when it was made, and is not any more.
                rooms.close_program(program)
                program = None
                activity.skipped = list(skipped)
                program = await _another(
                    daemon, activity, made_from, fds.get("program")
                )
                clock.lap("fork")
                await _road(activity, daemon, wanted, program, clock)
    except TimeoutError:
        await daemon.abandon(activity)
        raise StepError(
            "the sandbox did not get ready in time",
            step="launch",
            code="launch-timeout",
        ) from None
    except IsolauncherError as e:
        activity.timings = clock.spans
        e.report = activity.report()
        await daemon.abandon(activity)
        raise
    except BaseException:
        await daemon.abandon(activity)
        raise
    else:
        daemon.rooms.launched(
            made_from,
            lodging.again(session, wanted)
            if session is not None
            else expected.again(words, wanted, tier, skipped),
        )
    finally:
        rooms.close_program(program)
        daemon.rooms.consider()
    activity.timings = clock.spans
    return activity


async def _take(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    wanted: Wanted,
    asked: object,
) -> None:
    """Give the activity a room that was prepared ahead, if there is one.

    Its opener is asked for the program, and its stem begins; where it has expected just
    this, it gets its streams. A room that lacks an opener that it needs is of no use.
    """
    room = await daemon.rooms.take(made_from, asked)
    if room is None:
        return
    if activity.room.dissolved:
        room.end()
    activity.room = room
    if activity.tier != "exec":
        activity.path = "pool"
    assert room.checker is not None  # noqa: S101 (for the type checker)
    assert room.sandbox is not None  # noqa: S101
    try:
        if room.waiting is not None:
            # Who sent it could open it then, and it is the same file.
            room.look_again(None)
            room.sandbox.dress(road.streams(wanted))
            return
        room.look_again(wanted.fds.get("program"))
        begun = plan.begin(
            road.start(activity, wanted, wanted.path),
            wanted.umask,
            rooms.compiled_filter(made_from.policy),
        )
        room.sandbox.begin_rest(activity.id, begun, road.streams(wanted))
        room.begun = begun
    except StepError:
        # Its opener was the caller's to end; or all of it has ended.
        room.close_checker()


async def _room(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> reopen.Program | None:
    """Make its room the activity's, or make it a new one."""
    room = activity.room
    if not room.ahead:
        return await _new_room(daemon, activity, made_from, program)
    if room.checker is None:
        return await _another(daemon, activity, made_from, program)
    if room.waiting is not None:
        if room.leased_as != activity.id:
            _own(daemon, activity)
        return None  # its record says what there is to give back; "go", the rest
    if program is None:
        return None  # and its record is written while others are at work
    try:
        _own(daemon, activity)
        return await room.checker.program()
    except StepError:
        # Its opener was the caller's to end.
        return await _another(daemon, activity, made_from, program)


def _own(daemon: Daemon, activity: Activity) -> None:
    """Record and lease of a room that was prepared ahead say whose it is from now on.

    Before, they say that it waits, which is enough to give it back.
    """
    room = activity.room
    assert room.leased_as is not None  # noqa: S101 (for the type checker)
    assert room.record is not None  # noqa: S101
    if room.leased_as != activity.id:
        room.record.rename(activity.id)
        daemon.ledger.pass_on(room.uid, room.leased_as, activity.id)
        room.leased_as = activity.id
    _note_planned(daemon, activity)


async def _road(
    activity: Activity,
    daemon: Daemon,
    wanted: Wanted,
    program: reopen.Program | None,
    clock: Clock,
) -> None:
    waiting = activity.room.waiting
    if waiting is None:
        room = activity.room
        later = room.ahead and program is None
        own = partial(_own, daemon, activity) if later else road.nothing
        sealed = await road.seal(activity, daemon, wanted, program, clock, own)
        await road.go(activity, daemon, sealed, clock)
    else:
        activity.skipped = list(waiting.skipped)
        await road.go(activity, daemon, waiting, clock, road.streams(wanted))


async def _is_of_its_age(error: IsolauncherError, activity: Activity) -> bool:
    """Whether what failed in a room that was prepared ahead may be the room's fault.

    A difference never is: it ends the launch, and is told. Nor is what came after "go":
    nothing is let run twice.
    """
    room = activity.room
    if error.code == "verify-difference" or activity.state != "starting":
        return False
    if room.dissolved or not room.ahead:
        return False
    return room.waiting is not None or await road.is_stale(room)


async def _another(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> reopen.Program | None:
    """A new room, for a launch that had one which was stale."""
    await _leave_room(daemon, activity)
    return await _new_room(daemon, activity, made_from, program)


async def _new_room(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> reopen.Program | None:
    found = await rooms.prepare(daemon, activity.room, made_from, program)
    try:
        _note_planned(daemon, activity)
    except BaseException:
        rooms.close_program(found)
        raise
    return found


def _note_planned(daemon: Daemon, activity: Activity) -> None:
    """The record tells, from now on, whose room it is."""
    assert activity.room.record is not None  # noqa: S101 (for the type checker)
    activity.room.record.append("planned", daemon.describe(activity))


async def _leave_room(daemon: Daemon, activity: Activity) -> None:
    """Give back a room that was prepared ahead, for another that is not there yet."""
    left = activity.room
    # At once: whoever wants an end of it from here on means the new one.
    activity.room = rooms.Room(id=activity.id, dissolved=left.dissolved)
    leaving = daemon.rooms.dissolve(left)
    try:
        # Waited for: the new one is called the same.
        await asyncio.shield(leaving)
    except asyncio.CancelledError:
        await asyncio.wait((leaving,))
        raise
    if activity.tier != "exec":
        activity.path = "demand"


def not_kept(
    setenv: Mapping[str, str], dropped: Iterable[tuple[str, str]]
) -> Iterator[steps.Skipped]:
    """What was asked for by name, one by one; of the rest of a shell's, one line."""
    others: dict[str, list[str]] = {}
    for name, why in dropped:
        if name in setenv:
            yield steps.Skipped(what=f"environment variable {name}", why=why)
        else:
            others.setdefault(why, []).append(name)
    for why, names in others.items():
        yield steps.Skipped(what=f"environment variables {', '.join(names)}", why=why)


def _policy(
    daemon: Daemon, request: Request, fds: Mapping[str, int], caller: Caller
) -> Policy:
    if "policy" in fds:
        try:
            path = os.readlink(f"/proc/self/fd/{fds['policy']}")
        except OSError as e:
            raise RequestError(
                f"the policy file cannot be looked at: {e.strerror}",
                code="policy-unreadable",
            ) from e
        return choose.for_file(
            daemon.store, caller=caller, descriptor=fds["policy"], path=path
        ).policy
    return choose.for_run(daemon.store, caller=caller, name=request.policy).policy


async def _how(
    daemon: Daemon, wanted: Wanted
) -> tuple[Literal["fork", "exec"], str, list[steps.Skipped]]:
    """(tier, set, what is let pass of it)."""
    skipped = list(wanted.not_kept)
    tier, why = _tier(wanted)
    if why:
        skipped.append(steps.Skipped(what="tier fork", why=why))
    if tier == "exec":
        return tier, pool.BARE, skipped
    set_name, why = await daemon.pool.usable(wanted.policy.preload.set)
    if why:
        what = f"preload set {wanted.policy.preload.set}"
        skipped.append(steps.Skipped(what=what, why=f"{why}; it has {set_name}"))
    return tier, set_name, skipped


def _tier(wanted: Wanted) -> tuple[Literal["fork", "exec"], str]:
    """A policy's exec cannot be asked away; its fork can."""
    if wanted.policy.preload.tier == "exec":
        asked = 'the policy says "exec"' if wanted.tier == "fork" else ""
        return "exec", asked
    if wanted.tier == "exec":
        return "exec", ""
    return ("exec", wanted.fresh) if wanted.fresh else ("fork", "")


def _check_stream(name: str, fd: int, *, network: bool) -> None:
    """A standard stream is a file, pipe, connected socket, terminal or memory device.

    A directory, or a descriptor opened with O_PATH, would be a way around the view.
    """
    try:
        status = os.fstat(fd)
    except OSError as e:
        # A file system in user space that shows itself to its owner alone.
        raise RequestError(
            f"{name} is a file that root may not look at: {e.strerror}",
            code="request-bad-stream",
            hint="pass it through a pipe",
        ) from e
    mode = status.st_mode
    if kernel.access_mode(fd) & os.O_PATH:
        what = "a path, not an open file"
    elif stat.S_ISREG(mode) and not os.readlink(f"/proc/self/fd/{fd}").startswith("/"):
        # "mnt:[4026531841]": as far as fstat(2) says, a file like any other.
        what = "a namespace"
    elif stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return
    elif stat.S_ISSOCK(mode):
        why = foreign.refuse_socket(fd, network=network)
        if why is None:
            return
        what = why
    elif stat.S_ISCHR(mode):
        if status.st_rdev in _MEMORY_DEVICES or kernel.is_tty(fd):
            return
        what = "a device"
    else:
        what = "a directory or a disk"
    raise RequestError(
        f"{name} is {what}", code="request-bad-stream", hint="redirect it elsewhere"
    )


def new_outside() -> int:
    """An O_PATH descriptor of a readable file in a mount that is attached nowhere.

    No Landlock rule can cover it, so opening it is the probe for a Landlock domain.
    """
    linux = kernel.Linux()
    mount = linux.detached_mount(
        "tmpfs", {"size": "4096", "nr_inodes": "4", "mode": "0755"}, 0
    )
    try:
        fd = os.open(
            "probe", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=mount
        )
        os.fchmod(fd, 0o444)
        os.close(fd)
        return os.open("probe", os.O_PATH | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


__all__ = ["Activity", "Wanted", "launch", "new_outside"]
