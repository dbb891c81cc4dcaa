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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from . import (
    filters,
    foreign,
    furniture,
    kernel,
    opener,
    plan,
    pool,
    records,
    rooms,
    verify,
    view,
)
from .bundle import Bundle
from .errors import (
    IsolauncherError,
    RequestError,
    StepError,
    VerifyError,
)
from .policy import choose, environment
from .policy.model import Policy
from .request import Caller, Furnish, ProgramKind, Request, TierName
from .zygote import program as programs

if TYPE_CHECKING:
    from .daemon import Daemon

# Standard streams may be these character devices and terminals, nothing else: a
# device that the policy does not grant must not come in by a redirection.
_MEMORY_DEVICES = frozenset(os.makedev(1, n) for n in (3, 5, 7, 8, 9))

_STREAMS = ("stdin", "stdout", "stderr")

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
    skipped: list[plan.Skipped] = field(default_factory=list)
    timings: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

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


class _Clock:
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
class Wanted:
    """What is to run and under which policy, whoever asked for it and how.

    ``variables`` is its environment, ``not_kept`` what it will not have of what was
    asked for. ``path`` is the program's inside, where it is known already. ``fds``
    are the caller's descriptors by name. ``bundle`` and what came for it are of a
    Sugar bundle only, and so is the home that is made for it.
    """

    policy: Policy
    variables: Mapping[str, str]
    not_kept: tuple[plan.Skipped, ...]
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


def to_run(
    daemon: Daemon, request: Request, fds: Mapping[str, int], caller: Caller
) -> Wanted:
    """A program, by its name, its file or its module."""
    policy = _policy(daemon, request, fds, caller)
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
    )


async def launch(
    daemon: Daemon, wanted: Wanted, caller: Caller, received_us: int
) -> Activity:
    """Launch; returns the running activity. The descriptors stay who's they are.

    Raises the IsolauncherError that tells what failed; then nothing is left of it.
    """
    clock = _Clock(received_us)
    clock.lap("queue")
    policy, fds = wanted.policy, wanted.fds
    # Refused before anything is made for it, if it cannot be compiled.
    filters.compile(policy.kernel.syscalls)
    for name in _STREAMS:
        _check_stream(name, fds[name], network=policy.network == "host")
    tier, why_exec = _tier(daemon, wanted)
    set_name, why_less = pool.BARE, ""
    if tier == "fork":
        set_name, why_less = await daemon.pool.usable(policy.preload.set)
    made_from = rooms.facts(
        daemon,
        policy,
        caller,
        home=wanted.at.home if wanted.at else wanted.variables.get("HOME", "/"),
        own_home=wanted.at is not None,
        set_name=set_name,
        lease_key=wanted.lease_key,
    )
    # A room's own id, where the caller has no other in mind: its lease has it already.
    likely = daemon.rooms.find(made_from)
    activity_id = wanted.id or (likely.id if likely else rooms.new_id())
    if likely is None or activity_id != likely.id:
        daemon.refuse_taken(activity_id)
    activity = Activity(
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
        client_start=records.start_time(caller.pid),
        started=asyncio.get_running_loop().time(),
    )
    skipped = list(wanted.not_kept)
    if why_exec:
        skipped.append(plan.Skipped(what="tier fork", why=why_exec))
    if why_less:
        what = f"preload set {policy.preload.set}"
        skipped.append(plan.Skipped(what=what, why=f"{why_less}; it has {set_name}"))
    activity.skipped = list(skipped)
    daemon.add(activity)
    clock.lap("plan")
    program: opener.Program | None = None
    try:
        async with asyncio.timeout(daemon.config.limits.launch_ms / 1000):
            await _take(daemon, activity, made_from, wanted)
            # The caller's opener and the stem are at work meanwhile.
            await daemon.spare_memory(set_name, waits=activity.room.ahead)
            program = await _room(daemon, activity, made_from, fds.get("program"))
            clock.lap("fork")
            try:
                await _road(activity, daemon, wanted, program, clock)
            except IsolauncherError as e:
                # A difference is never the room's age: it ends the launch, and is told.
                if e.code == "verify-difference" or not await _is_stale(activity.room):
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
        daemon.rooms.launched(made_from)
    finally:
        rooms.close_program(program)
        daemon.rooms.consider()
    activity.timings = clock.spans
    return activity


async def _take(
    daemon: Daemon, activity: Activity, made_from: rooms.Facts, wanted: Wanted
) -> None:
    """Give the activity a room that was prepared ahead, if there is one.

    Its opener is asked for the program, and its stem begins. Where it has no opener
    left, it is of no use.
    """
    room = await daemon.rooms.take(made_from)
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
        room.checker.open_again(wanted.fds.get("program"))
        if wanted.bundle is None:
            # What a bundle's variables are is known when it is furnished.
            begun = plan.begin(
                _start(activity, wanted, "", wanted.variables),
                wanted.umask,
                rooms.compiled_filter(made_from.policy),
            )
            streams = {name: wanted.fds[name] for name in _STREAMS}
            room.sandbox.begin_rest(activity.id, begun, streams)
            room.begun = begun
    except StepError:
        # Its opener was the caller's to end; or all of it has ended.
        room.close_checker()


async def _room(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> opener.Program | None:
    """Make its room the activity's, or make it a new one."""
    room = activity.room
    if not room.ahead:
        return await _new_room(daemon, activity, made_from, program)
    if room.checker is None:
        return await _another(daemon, activity, made_from, program)
    assert room.leased_as is not None  # noqa: S101
    assert room.record is not None  # noqa: S101
    try:
        if room.leased_as != activity.id:
            room.record.rename(activity.id)
            daemon.ledger.pass_on(room.uid, room.leased_as, activity.id)
            room.leased_as = activity.id
        _note_planned(daemon, activity)
        return None if program is None else await room.checker.program()
    except StepError:
        # Its opener was the caller's to end.
        return await _another(daemon, activity, made_from, program)


async def _is_stale(room: rooms.Room) -> bool:
    """Whether what failed in a room that was prepared ahead may be the room's fault."""
    if room.dissolved or room.checker is None:
        return False
    try:
        return not await room.checker.same()
    except StepError:
        # Its opener was the caller's to end.
        return True


async def _another(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> opener.Program | None:
    """A new room, for a launch that had one which was stale."""
    await _leave_room(daemon, activity)
    return await _new_room(daemon, activity, made_from, program)


async def _new_room(
    daemon: Daemon,
    activity: Activity,
    made_from: rooms.Facts,
    program: int | None,
) -> opener.Program | None:
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
) -> Iterator[plan.Skipped]:
    """What was asked for by name, one by one; of the rest of a shell's, one line."""
    others: dict[str, list[str]] = {}
    for name, why in dropped:
        if name in setenv:
            yield plan.Skipped(what=f"environment variable {name}", why=why)
        else:
            others.setdefault(why, []).append(name)
    for why, names in others.items():
        yield plan.Skipped(what=f"environment variables {', '.join(names)}", why=why)


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


def _tier(daemon: Daemon, wanted: Wanted) -> tuple[Literal["fork", "exec"], str]:
    """A policy's exec cannot be asked away; its fork can."""
    if wanted.policy.preload.tier == "exec":
        asked = 'the policy says "exec"' if wanted.tier == "fork" else ""
        return "exec", asked
    if wanted.tier == "exec":
        return "exec", ""
    why = programs.needs_exec(
        wanted.variables, daemon.locales, set_name=wanted.policy.preload.set
    )
    return ("exec", why) if why else ("fork", "")


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


# ------------------------------------------------------------------------- the road


async def _road(
    activity: Activity,
    daemon: Daemon,
    wanted: Wanted,
    program: opener.Program | None,
    clock: _Clock,
) -> None:
    """From a room to a running program: seal, hand over, verify, go."""
    room = activity.room
    sandbox, record = room.sandbox, room.record
    assert sandbox is not None  # noqa: S101 (for the type checker)
    assert record is not None  # noqa: S101
    assert room.planned is not None  # noqa: S101
    activity.skipped += room.skipped
    mounts = view.Mounts(daemon.kernel)
    try:
        rest = _rest(activity, daemon, wanted, program, mounts)
        streams = {name: wanted.fds[name] for name in _STREAMS}
        for_stem = {name: mounts.fds[name] for name in rest.named_by_stem()}
        for_init = {**mounts.fds, "record": record.fd}
        if "hold" in wanted.fds:
            for_init["hold"] = wanted.fds["hold"]
        if program is not None and program.fd >= 0:
            for_init["program:read"] = program.fd
        if not room.begun:
            for_stem |= streams
        told = {**for_init, **for_stem, **streams}
        sent = {n: rooms.file_of(fd) for n, fd in told.items()}
        clock.lap("plan")
        sandbox.tell_rest(rest, for_init, for_stem, room.begun)
    except StepError as e:
        if e.code != "sandbox-died":
            raise
        # A stem that has begun may have failed, or init; and has said why.
        raise await sandbox.why_ended() or e from e
    finally:
        mounts.close()
    sealed = verify.Sealed(
        init=sandbox.pid,
        stem=sandbox.stem_pid,
        sent=room.sent | sent,
        probes={},
        notes=tuple(activity.skipped),
        looked=room.looked,
    )
    whole = plan.Plan(room=room.planned, rest=rest)
    differs: VerifyError | None = None
    try:
        verify.verify_begun(whole.room, sealed)
    except VerifyError as e:
        # Raised below, unless it is that somebody has ended, who says why.
        differs = e
    namespaces: dict[str, str] = {}

    def left(notes: list[plan.Skipped]) -> None:
        activity.skipped.extend(notes)
        namespaces.update(
            verify.verify_left(whole, replace(sealed, notes=tuple(activity.skipped)))
        )

    try:
        notes, probes = await sandbox.sealed(left)
        if differs is not None:
            raise differs
        activity.skipped += notes
        clock.lap("apply")
        sealed = replace(sealed, probes=probes, notes=tuple(activity.skipped))
        # The stem is handing over meanwhile: first what that leaves as it is.
        verify.verify(whole, sealed, namespaces)
    except VerifyError as e:
        # Or it has ended, since there was nothing that it could have started.
        said = await sandbox.why_ended() if e.code == "verify-gone" else None
        raise said or e from None
    record.append("forked", daemon.pids(activity))
    enforced = whole.enforced()
    state = daemon.describe(activity)
    state |= {"namespaces": namespaces, "enforced": list(enforced)}
    if room.ahead and await _is_stale(room):
        raise StepError(
            "what the room was made from has changed", step="launch", code="room-stale"
        )
    try:
        verify.verify_ready(whole, sealed)
    except VerifyError:
        # The hand-over opens files, and may have had one just then: it is through
        # with them when it is ready. Or it has ended, and says why.
        clock.lap("verify")
        await sandbox.ready()
        clock.lap("handover")
        verify.verify_ready(whole, sealed)
    # Only now: of a launch that failed before, nothing was in force.
    activity.namespaces, activity.enforced = namespaces, enforced
    activity.pid = sandbox.stem_pid
    clock.lap("verify")
    if (ended := rooms.told_to_end(room)) is not None:
        # It has SIGKILL, which takes effect in the kernel's own time.
        raise ended
    # Before "go": from the first byte of activity code on, a daemon that comes after
    # us must know that this runs.
    record.append("go", state | {"tier": activity.tier, "path": activity.path})
    # From here on it is nobody's but its own: a zygote's death does not end it.
    activity.state = "running"
    running = await sandbox.go()
    clock.lap("handover", running.at_us)
    clock.spans["total"] = running.at_us - clock.received
    if running.tier != activity.tier:
        activity.tier = activity.path = running.tier
        record.append("go", state | {"tier": running.tier, "path": running.tier})
    if running.why:
        activity.skipped.append(plan.Skipped(what="tier fork", why=running.why))
    # Not before: its end, too, takes time.
    room.close_checker()


def _rest(
    activity: Activity,
    daemon: Daemon,
    wanted: Wanted,
    program: opener.Program | None,
    mounts: view.Mounts,
) -> plan.Rest:
    """The part of the plan that the request makes."""
    room = activity.room
    assert room.sandbox is not None  # noqa: S101 (for the type checker)
    assert room.frame is not None  # noqa: S101
    assert room.visible is not None  # noqa: S101
    assert room.facts is not None  # noqa: S101
    policy = room.facts.policy
    path, variables = wanted.path, dict(wanted.variables)
    brought = plan.Furniture()
    root = room.sandbox.open_root()
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
            furnished = furniture.furnish(
                mounts,
                bundle=wanted.bundle,
                asked=wanted.asked,
                fds=wanted.fds,
                at=wanted.at,
                caller=room.facts.caller,
                visible=room.visible,
                root=root,
                policy=policy,
            )
            brought = furnished.furniture
            variables |= furnished.variables
    finally:
        os.close(root)
    return plan.rest(
        activity_id=activity.id,
        frame=room.frame,
        furniture=brought,
        filter_=rooms.compiled_filter(policy),
        start=_start(activity, wanted, path, variables),
        umask=wanted.umask,
        init_uid=room.facts.machine.init_uid,
    )


def _start(
    activity: Activity, wanted: Wanted, path: str, variables: Mapping[str, str]
) -> plan.Start:
    return plan.Start(
        program_kind=wanted.program_kind,
        path=path,
        argv=wanted.argv,
        environment=tuple(sorted(variables.items())),
        cwd=wanted.cwd,
        tier="exec" if activity.tier == "exec" else "fork",
        hostname=wanted.policy.hostname,
        preload=wanted.policy.preload.set,
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


__all__ = ["Activity", "launch", "new_outside"]
