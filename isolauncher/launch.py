# SPDX-License-Identifier: GPL-3.0-or-later
"""One launch, from a request to a running activity: the road, in order.

    Request → (Policy, Identity, Host) → Plan → apply → verify → hand over → go

`launch` walks it for the daemon. Whatever fails ends the sandbox and gives everything
back; before "go" no byte of activity code has run.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from . import (
    filters,
    foreign,
    identity,
    kernel,
    opener,
    plan,
    pool,
    records,
    verify,
    wire,
)
from .channel import Channel
from .errors import (
    IsolauncherError,
    ProgramNotExecutable,
    ProgramNotFound,
    RequestError,
    StepError,
    WireError,
    from_fields,
)
from .policy import choose, environment
from .policy.model import Policy
from .request import Caller, Request
from .zygote import program as programs

if TYPE_CHECKING:
    from .daemon import Daemon

# Standard streams may be these character devices and terminals, nothing else: a
# device that the policy does not grant must not come in by a redirection.
_MEMORY_DEVICES = frozenset(os.makedev(1, n) for n in (3, 5, 7, 8, 9))

State = Literal["starting", "running", "stopping", "exited"]


@dataclass(slots=True, kw_only=True)
class Activity:
    """A launch and what it became, in the daemon's memory.

    ``clients`` counts the connections that wait for its end. ``pid`` is the host pid
    of its main process. ``status`` is waitpid(2)'s, None while it runs.
    """

    id: str
    caller_uid: int
    caller_gid: int
    policy: str
    policy_files: tuple[str, ...]
    tier: str
    path: str
    program: list[str]
    uid: int
    inner_uid: int
    tied: bool
    client_pid: int = 0
    client_start: int = 0
    owner_pid: int = 0
    owner_start: int = 0
    started: float = 0.0
    record: records.Record | None = None
    cgroups: tuple[str, ...] = ()
    sandbox: pool.Sandbox | None = None
    pid: int = 0
    state: State = "starting"
    leased: bool = False
    clients: int = 0
    namespaces: dict[str, str] = field(default_factory=dict)
    enforced: tuple[str, ...] = ()
    skipped: list[plan.Skipped] = field(default_factory=list)
    timings: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stop_asked: bool = False

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
        return {
            "version": 1,
            "activity": {
                "id": self.id,
                "bundle_id": None,
                "program": self.program,
                "pid": self.pid or None,
                "tier": self.tier,
                "path": self.path,
            },
            "caller": {"uid": self.caller_uid, "gid": self.caller_gid},
            "policy": {"name": self.policy, "files": list(self.policy_files)},
            "identity": {
                "uid": self.uid,
                "gid": self.uid,
                "groups": [],
                "inner_uid": self.inner_uid,
            },
            "namespaces": self.namespaces,
            "enforced": list(self.enforced),
            "skipped": [{"what": s.what, "why": s.why} for s in self.skipped],
            "timings_us": self.timings,
            "exit": {"status": status, "signal": number},
        }


class _Clock:
    """CLOCK_MONOTONIC readings of one launch, in microseconds."""

    def __init__(self, received_us: int) -> None:
        self.received = received_us
        self.last = received_us
        self.spans: dict[str, int] = {}

    def lap(self, name: str) -> None:
        now = kernel.monotonic_us()
        self.spans[name] = self.spans.get(name, 0) + now - self.last
        self.last = now


async def launch(
    daemon: Daemon,
    request: Request,
    fds: Mapping[str, int],
    caller: Caller,
    received_us: int,
) -> Activity:
    """Launch; returns the running activity. ``fds`` stay the caller's to close.

    Raises the IsolauncherError that tells what failed; then nothing is left of it.
    """
    clock = _Clock(received_us)
    clock.lap("queue")
    policy = _policy(daemon, request, fds, caller)
    variables, dropped = environment.build(policy, request.environment, request.setenv)
    compiled = filters.compile(policy.kernel.syscalls)
    for name in ("stdin", "stdout", "stderr"):
        _check_stream(name, fds[name], network=policy.network == "host")
    activity_id = request.id or secrets.token_hex(8)
    daemon.refuse_taken(activity_id)
    tier, why_exec = _tier(daemon, request, policy, variables)
    activity = Activity(
        id=activity_id,
        caller_uid=caller.uid,
        caller_gid=caller.gid,
        policy=policy.name,
        policy_files=policy.files,
        tier=tier,
        path="exec" if tier == "exec" else "demand",
        program=list(request.argv),
        uid=-1,
        inner_uid=-1,
        tied=request.tied,
        client_pid=caller.pid,
        client_start=records.start_time(caller.pid),
        owner_pid=os.getpid(),
        owner_start=records.start_time(os.getpid()),
        started=asyncio.get_running_loop().time(),
    )
    activity.skipped += _not_kept(request, dropped)
    if why_exec:
        activity.skipped.append(plan.Skipped(what="tier fork", why=why_exec))
    daemon.add(activity)
    clock.lap("plan")
    held: list[int] = []
    try:
        set_name = policy.preload.set if tier == "fork" else pool.BARE
        sandbox, (opened, program) = await _both(
            daemon.pool.sandbox(set_name), _open(policy, request, fds, caller), activity
        )
        held += [o.fd for o in opened if o.fd >= 0]
        if program is not None and program.fd >= 0:
            held.append(program.fd)
        clock.lap("fork")
        _take_identity(daemon, activity, policy, caller, request)
        view, descriptors = _view(
            daemon, policy, request, fds, opened, program, activity, held
        )
        whole = _build(
            daemon, request, fds, policy, caller, activity, variables, view, compiled
        )
        activity.skipped += whole.skipped
        activity.record = records.create(
            daemon.run_dir, activity.id, daemon.describe(activity)
        )
        clock.lap("plan")
        async with asyncio.timeout(daemon.config.limits.launch_ms / 1000):
            await _road(daemon, activity, sandbox, whole, descriptors, fds, clock)
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
    finally:
        wire.close_all(held)
    activity.timings = clock.spans
    return activity


def _not_kept(
    request: Request, dropped: tuple[tuple[str, str], ...]
) -> Iterator[plan.Skipped]:
    """What was asked for by name, one by one; of the rest of a shell's, one line."""
    others: dict[str, list[str]] = {}
    for name, why in dropped:
        if name in request.setenv:
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


def _tier(
    daemon: Daemon, request: Request, policy: Policy, variables: Mapping[str, str]
) -> tuple[Literal["fork", "exec"], str]:
    """A policy's exec cannot be asked away; its fork can."""
    if policy.preload.tier == "exec":
        asked = 'the policy says "exec"' if request.tier == "fork" else ""
        return "exec", asked
    if request.tier == "exec":
        return "exec", ""
    why = programs.needs_exec(variables, daemon.locales)
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


async def _both(
    forking: object, opening: object, activity: Activity
) -> tuple[pool.Sandbox, tuple[tuple[opener.Opened, ...], opener.Program | None]]:
    """Fork and open at once; if either fails, what the other brought is given back."""
    both = asyncio.gather(
        forking,
        opening,
        return_exceptions=True,  # type: ignore[call-overload]
    )
    cut_short: BaseException | None = None
    try:
        sandbox, found = await asyncio.shield(both)
    except asyncio.CancelledError as e:
        # To their ends all the same: a zygote's answer that nobody took would be
        # the next launch's, and what they bring must become somebody's to close.
        cut_short = e
        sandbox, found = await both
    if isinstance(sandbox, pool.Sandbox):
        activity.sandbox = sandbox
    if isinstance(found, BaseException):
        raise cut_short or found
    opened, program = found
    failed_ = sandbox if isinstance(sandbox, BaseException) else cut_short
    if failed_ is None and activity.stop_asked:
        failed_ = StepError("it was stopped", step="launch", code="stopped")
    if failed_ is None and sandbox.zygote is not None and sandbox.zygote.killed:
        # Before the daemon knew whose sandbox it was: see `Daemon._zygote_died`.
        failed_ = StepError(
            "its zygote has died", step="launch", code="zygote-died", hint="ask again"
        )
    if failed_ is not None:
        wire.close_all(o.fd for o in opened if o.fd >= 0)
        if program is not None and program.fd >= 0:
            os.close(program.fd)
        raise failed_
    return sandbox, (opened, program)


async def _open(
    policy: Policy, request: Request, fds: Mapping[str, int], caller: Caller
) -> tuple[tuple[opener.Opened, ...], opener.Program | None]:
    # The host's network is of little use without the names its resolver knows.
    resolver = ("/etc/resolv.conf",) if policy.network == "host" else ()
    wants = (
        *(opener.Want(path=p, writable=False) for p in (*policy.view.read, *resolver)),
        *(opener.Want(path=p, writable=True) for p in policy.view.write),
    )
    return await opener.open_as(caller, wants, fds.get("program"))


def _take_identity(
    daemon: Daemon,
    activity: Activity,
    policy: Policy,
    caller: Caller,
    request: Request,
) -> None:
    key = None
    if policy.identity.uid == "bundle":
        # Not a bundle: the program is what keeps its uid from run to run.
        key = f"run:{policy.name}:{request.program_kind}:{request.argv[0]}"
    lease = daemon.ledger.take(
        mode=policy.identity.uid,
        caller_uid=caller.uid,
        caller_name=_name(caller.uid),
        activity_id=activity.id,
        bundle_key=key,
    )
    activity.uid = lease.uid
    activity.leased = True
    same = policy.identity.inner_uid == "same" or caller.uid == 0
    activity.inner_uid = lease.uid if same else caller.uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _view(
    daemon: Daemon,
    policy: Policy,
    request: Request,
    fds: Mapping[str, int],
    opened: tuple[opener.Opened, ...],
    program: opener.Program | None,
    activity: Activity,
    held: list[int],
) -> tuple[plan.View, dict[str, int]]:
    """What becomes visible, and the detached mounts for it (made here, by root)."""
    descriptors: dict[str, int] = {}
    trees: list[plan.Tree] = []
    links: list[plan.Link] = []
    linux = daemon.kernel

    def clone(name: str, fd: int, *, recursive: bool, shown: str) -> None:
        try:
            descriptors[name] = linux.open_tree(fd, recursive=recursive)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise StepError(
                    f"{shown}: {e.strerror}", step="open-tree", errno=e.errno or 0
                ) from e
            raise RequestError(
                f"{shown} lies in another mount namespace, or cannot be mounted",
                code="foreign-mount",
                hint="name a file that this machine's root sees under the same name",
            ) from e
        held.append(descriptors[name])

    for entry in sorted(opened, key=lambda o: o.path):
        if entry.kind == "link":
            links.append(plan.Link(path=entry.path, target=entry.target))
        elif entry.kind == "absent":
            activity.skipped.append(
                plan.Skipped(what=f"files {entry.path}", why=entry.why)
            )
        else:
            if entry.writable and (why := daemon.store.refuse_write(entry.path)):
                raise RequestError(
                    f"files.write: {entry.path}: {why}", code="write-refused"
                )
            if _covered(entry, trees):
                continue
            name = f"tree:{len(trees)}"
            clone(name, entry.fd, recursive=entry.kind == "directory", shown=entry.path)
            trees.append(
                plan.Tree(
                    path=entry.path,
                    descriptor=name,
                    kind=entry.kind,
                    writable=entry.writable,
                    owned_by=_owner(entry, activity),
                    group=activity.caller_gid,
                )
            )
    for name in plan.DEVICES:
        _device(daemon, name, clone)
    shown = None
    if program is not None:
        path = _program_path(fds["program"])
        opener.check_program(program, path)
        if path in plan.MADE_FILES:
            raise ProgramNotExecutable(
                f"{path}: the sandbox has a file of its own there",
                code="program-not-a-file",
            )
        inside = tuple(t for t in trees if t.kind == "directory")
        if plan.below(path, inside):
            # Named by its path inside: it must be that very file there.
            _refuse_other(linux, path, fds["program"], inside, descriptors)
        else:
            clone("program", fds["program"], recursive=False, shown=path)
            if program.fd >= 0:
                descriptors["program:read"] = program.fd
            shown = plan.Tree(
                path=path,
                descriptor="program",
                kind="file",
                writable=False,
                # Its owner's rights include reading: only to one who may.
                owned_by=None
                if program.public or not program.readable
                else program.owner,
                group=activity.caller_gid,
                copy_mode=_copy_mode(program),
            )
    view = plan.View(trees=tuple(trees), links=tuple(links), program=shown)
    return view, descriptors


def _copy_mode(program: opener.Program) -> int | None:
    """How a copy would be made in place of a mount; None: nothing to copy from."""
    if program.fd < 0:
        return None
    return 0o555 if program.executable else 0o444


def _covered(entry: opener.Opened, trees: list[plan.Tree]) -> bool:
    """Already shown, with the same access, by a tree above."""
    above = [
        t
        for t in trees
        if t.kind == "directory" and entry.path.startswith(t.path.rstrip("/") + "/")
    ]
    return bool(above) and above[-1].writable == entry.writable and not entry.writable


def _owner(entry: opener.Opened, activity: Activity) -> int | None:
    """Whose files become the activity's own: the caller's, where it needs them so.

    Wherever it may write, whoever owns the directory: what it makes must not be left
    to its own uid, which another activity gets one day.
    """
    private = entry.owner == activity.caller_uid and not entry.public
    return activity.caller_uid if entry.writable or private else None


def _device(daemon: Daemon, name: str, clone: object) -> None:
    fd = os.open(f"/dev/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        number = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISCHR(status.st_mode) or number != plan.DEVICES[name]:
            # CVE-2025-31133: a file in the place of a device would be mounted.
            raise StepError(
                f"/dev/{name} is not the device {plan.DEVICES[name]}",
                step="devices",
                code="device-replaced",
            )
        clone(f"device:{name}", fd, recursive=False, shown=f"/dev/{name}")  # type: ignore[operator]
    finally:
        os.close(fd)


def _refuse_other(
    linux: kernel.Kernel,
    path: str,
    fd: int,
    inside: tuple[plan.Tree, ...],
    descriptors: Mapping[str, int],
) -> None:
    """RequestError unless ``path`` in the trees shown is the file of ``fd``.

    The kernel tells the path as it is in the mount namespace of the file: another
    file may have that name here, or be mounted over it.
    """
    tree = max((t for t in inside if plan.below(path, (t,))), key=lambda t: len(t.path))
    below = path.removeprefix(tree.path).lstrip("/")
    resolve = (
        kernel.RESOLVE_IN_ROOT
        | kernel.RESOLVE_NO_SYMLINKS
        | kernel.RESOLVE_NO_MAGICLINKS
    )
    found = (-1, -1)
    with suppress(FileNotFoundError, NotADirectoryError):
        shown = linux.openat2(descriptors[tree.descriptor], below, os.O_PATH, resolve)
        try:
            status = os.fstat(shown)
            found = (status.st_dev, status.st_ino)
        finally:
            os.close(shown)
    sent = os.fstat(fd)
    if found != (sent.st_dev, sent.st_ino):
        raise RequestError(
            f"{path} is another file here than the one that was sent",
            code="foreign-mount",
            hint="name a file that this machine's root sees under the same name",
        )


def _program_path(fd: int) -> str:
    """Where the kernel says the caller's descriptor lies."""
    path = "the program"
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        status = os.fstat(fd)
    except OSError as e:
        # Deeper than PATH_MAX, or in a file system that shows itself to its owner.
        raise ProgramNotExecutable(
            f"{path}: root cannot look at it: {e.strerror}",
            code="program-not-reachable",
            hint="copy it to another place",
        ) from e
    if status.st_nlink == 0 or not path.startswith("/"):
        raise ProgramNotFound(
            f"{path}: the program has no name any more", code="program-deleted"
        )
    for hidden in ("/proc/", "/sys/"):
        if path.startswith(hidden):
            raise ProgramNotExecutable(
                f"{path}: not a program", code="program-not-a-file"
            )
    return path


def _cwd(fds: Mapping[str, int]) -> str:
    if "cwd" not in fds:
        return "/"
    try:
        mode = os.fstat(fds["cwd"]).st_mode
        path = os.readlink(f"/proc/self/fd/{fds['cwd']}")
    except OSError:
        return "/"  # as where it is not in the view: see `_program_path`
    if not stat.S_ISDIR(mode):
        raise RequestError("cwd is not a directory", code="request-bad-cwd")
    return path if path.startswith("/") else "/"


def _build(
    daemon: Daemon,
    request: Request,
    fds: Mapping[str, int],
    policy: Policy,
    caller: Caller,
    activity: Activity,
    variables: Mapping[str, str],
    view: plan.View,
    compiled: filters.Filter,
) -> plan.Plan:
    same = activity.inner_uid == activity.uid
    inner_gid = activity.uid if same or caller.gid == 0 else caller.gid
    views = identity.views(  # noqa: S604 - "shell" is a field of passwd(5)
        inner_uid=activity.inner_uid,
        inner_gid=inner_gid,
        # Its own uid has a name outside only, which is ours and not worth asking NSS.
        name="user" if same else _name(activity.inner_uid) or "user",
        home=variables.get("HOME", "/"),
        shell="/bin/sh",
        hostname=policy.hostname,
    )
    person = plan.Person(
        uid=activity.uid,
        gid=activity.uid,
        inner_uid=activity.inner_uid,
        inner_gid=inner_gid,
        passwd=views.passwd,
        group=views.group,
        nsswitch=views.nsswitch,
        hosts=views.hosts,
    )
    machine = daemon.machine(activity.id)
    activity.cgroups = tuple(place.path for place in machine.cgroups)
    number, arguments, errno_ = compiled.probe
    path = ""
    if request.program_kind == "file":
        path = _program_path(fds["program"])
    return plan.build(
        activity_id=activity.id,
        policy=policy,
        person=person,
        view=view,
        machine=machine,
        filter_=plan.CompiledFilter(
            name=compiled.name,
            program=compiled.bpf,
            probe_number=number,
            probe_arguments=arguments,
            probe_errno=errno_,
        ),
        start=plan.Start(
            program_kind=request.program_kind,
            path=path,
            argv=request.argv,
            environment=tuple(sorted(variables.items())),
            cwd=_cwd(fds),
            tier="exec" if activity.tier == "exec" else "fork",
            hostname=policy.hostname,
            preload=policy.preload.set,
        ),
        umask=request.umask,
    )


# ------------------------------------------------------------------------- the road


async def _road(
    daemon: Daemon,
    activity: Activity,
    sandbox: pool.Sandbox,
    whole: plan.Plan,
    descriptors: Mapping[str, int],
    fds: Mapping[str, int],
    clock: _Clock,
) -> None:
    """Send the plan, hear both ends, verify, hand over, go."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sandbox.stem_channel = Channel(ours)
    record = activity.record
    assert record is not None  # noqa: S101
    sent = dict(descriptors)
    sent |= {n: fds[n] for n in ("stdin", "stdout", "stderr")}
    paper = os.memfd_create("isolauncher-plan", os.MFD_CLOEXEC)
    try:
        with theirs, open(paper, "wb", closefd=False) as f:
            f.write(json.dumps(plan.pack(whole)).encode())
            f.flush()
            everything = sent | {
                "plan": paper,
                "record": record.fd,
                "stem": theirs.fileno(),
                "landlock-probe": daemon.outside,
            }
            tell(
                sandbox.channel,
                "plan",
                {"descriptors": list(everything)},
                tuple(everything.values()),
            )
    finally:
        os.close(paper)
    notes, probes = await _sealed(sandbox, activity)
    activity.skipped += notes
    clock.lap("apply")
    activity.namespaces = verify.verify(
        whole,
        verify.Sealed(
            init=sandbox.pid,
            stem=sandbox.stem_pid,
            descriptors=sent | {"record": record.fd},
            probes=probes,
            notes=tuple(notes),
        ),
    )
    # Only now: of a launch that failed before, nothing was in force.
    activity.enforced = whole.enforced()
    activity.pid = sandbox.stem_pid
    record.append("forked", daemon.pids(activity))
    clock.lap("verify")
    stem = sandbox.stem_channel
    tell(stem, "hand-over", {"verb": "hand-over"})
    ready = (await _said(stem, "ready")).fields
    activity.tier = str(ready["tier"])
    if activity.tier == "exec":
        activity.path = "exec"
    if ready.get("why"):
        activity.skipped.append(plan.Skipped(what="tier fork", why=str(ready["why"])))
    clock.lap("handover")
    # Before "go": from the first byte of activity code on, a daemon that comes after
    # us must know that this runs.
    record.append("go", daemon.describe(activity))
    tell(stem, "go", {"verb": "go"})
    running = (await _said(stem, "running")).fields
    at = running.get("at_us")
    clock.spans["total"] = (at if isinstance(at, int) else 0) - clock.received
    await _executed(stem)
    activity.state = "running"


async def _sealed(
    sandbox: pool.Sandbox, activity: Activity
) -> tuple[list[plan.Skipped], dict[str, int]]:
    """Hear init and stem until both have done their steps."""
    assert sandbox.stem_channel is not None  # noqa: S101
    from_stem = asyncio.create_task(_said(sandbox.stem_channel, "sealed"))
    try:
        forked = await _said(sandbox.channel, "stem", max_fds=1)
        sandbox.stem = forked.fds[0]
        sandbox.stem_pid = pool.pid_of(sandbox.stem)
        from_init = asyncio.create_task(_said(sandbox.channel, "left"))
        try:
            # Where one fails the other ends with it, and only the one knows why.
            await _first_reason(from_stem, from_init)
            sealed, left = await from_stem, await from_init
        finally:
            from_init.cancel()
    finally:
        from_stem.cancel()
    notes = [*_notes(left.fields), *_notes(sealed.fields)]
    probes = sealed.fields.get("probes")
    if not isinstance(probes, dict):
        raise StepError("no probes came", step="verify", code="verify-no-probes")
    return notes, {str(k): v for k, v in probes.items() if isinstance(v, int)}


async def _first_reason(*heard: asyncio.Task[wire.Message]) -> None:
    """Wait for all; raise what one says of its failure, not that another is gone."""
    await asyncio.wait(heard, return_when=asyncio.FIRST_EXCEPTION)
    gone: StepError | None = None
    for task in sorted(heard, key=lambda t: not t.done()):
        try:
            await task
        except StepError as e:
            if e.code != "sandbox-died":
                raise
            gone = gone or e
    if gone is not None:
        raise gone


def _notes(fields: Mapping[str, object]) -> Iterator[plan.Skipped]:
    notes = fields.get("notes")
    for packed in notes if isinstance(notes, list) else []:
        note = plan.unpack(packed)
        if isinstance(note, plan.Skipped):
            yield note


def tell(
    channel: Channel,
    step: str,
    message: Mapping[str, object],
    fds: tuple[int, ...] = (),
) -> None:
    """Send it into the sandbox; one that has ended is not a client that went away."""
    try:
        channel.send(message, fds)
    except WireError as e:
        raise StepError(
            f"the sandbox ended before it was told: {e.message}",
            step=step,
            code="sandbox-died",
        ) from e


async def _said(channel: Channel, event: str, *, max_fds: int = 0) -> wire.Message:
    """The expected event, or the error that came instead."""
    try:
        message = await channel.recv(max_fds=max_fds)
    except WireError as e:
        raise StepError(
            f"the sandbox ended before it said {event!r}",
            step=event,
            code="sandbox-died",
        ) from e
    fields = message.fields
    if fields.get("event") == "failed":
        raise from_fields(fields)
    if fields.get("event") != event:
        message.close()
        raise StepError(
            f"{fields.get('event')!r} came instead of {event!r}",
            step=event,
            code="unexpected-message",
        )
    return message


async def _executed(stem: Channel) -> None:
    """The channel closes when the program has taken over; a refusal comes before."""
    try:
        message = await stem.recv()
    except WireError as e:
        if e.code == "wire-closed":
            return
        raise
    raise from_fields(message.fields)


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
