# SPDX-License-Identifier: GPL-3.0-or-later
"""What is, against what was planned: reads /proc from outside, before "go".

The daemon has its own plan (never the sandbox's copy) and looks at each part of it as
soon as nothing will change it any more, so that nobody waits for it where that can be
helped: `verify_room` at a room that waits, `verify_begun` at what the rest of the plan
leaves alone, `verify_left` at what init has had a part in, when that has given up its
powers, `verify` at the sealed stem, which hands over meanwhile, and `verify_ready` at
what a hand-over may touch for a moment, the descriptors, and all that is of one
process; again, if need be, when that is done (and of a launch that was expected once
more, while it hands over with its streams). Each difference is a line; one is enough
to end the launch.
What /proc does not show (which filter, which Landlock domain, the securebits) is judged
by the errno of calls that must have been refused.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TypeVar

from . import foreign, kernel, plan, steps
from .errors import VerifyError

_T = TypeVar("_T")

_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
"""Of what is below /proc/PID, and of a mountinfo without a mount namespace."""

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")

_LIMIT_NAMES = {
    "core": "Max core file size",
    "cpu": "Max cpu time",
    "data": "Max data size",
    "fsize": "Max file size",
    "memlock": "Max locked memory",
    "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority",
    "nofile": "Max open files",
    "nproc": "Max processes",
    "rtprio": "Max realtime priority",
    "sigpending": "Max pending signals",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    path: str
    root: str
    options: frozenset[str]
    propagation: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The sandbox as the daemon holds it: host pids, descriptors, probe answers.

    ``sent`` says device and inode of what the daemon sent, by the plan's names;
    ``probes`` are the stem's answers: errno by name, and its securebits. ``looked`` is
    what `verify_room` found while the room waited; ``living`` is `rooms.Room`'s.
    ``inside`` is the mount, by its id, that its directory was found in when it waited
    for its streams.
    """

    init: int
    stem: int
    sent: Mapping[str, tuple[int, int]]
    probes: Mapping[str, int]
    notes: tuple[steps.Skipped, ...]
    looked: Looked | None = None
    living: Mapping[int, str] = field(default_factory=dict)
    inside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was as planned in a room that waits for its request.

    ``namespaces``: the stem's, in which what the kernel lets nobody change (the maps)
    and what only root outside could (the cgroup's limits) was right. ``mounts``: each
    line of its mountinfo that is right, and the path. A line begins with the mount's
    id, so the same line is the same mount, which need not be looked at again.
    """

    namespaces: Mapping[str, str]
    mounts: Mapping[str, str]


def verify_room(room: plan.Room, sealed: Sealed) -> Looked:
    """Of a room that waits: what is not left to the rest; VerifyError with differences.

    ``sealed`` has no answers to probes yet, here and in the next two.
    """
    names: dict[str, str] = {}
    mounts: dict[str, str] = {}
    # Sealed with the rest.
    planned: list[steps.Step] = [
        p.step for p in room.steps if not isinstance(p.step, steps.NewRoot)
    ]

    def differences() -> Iterator[str]:
        names.update(_namespaces_of(sealed.stem))
        yield from _proc()
        yield from _namespaces(planned, sealed, names)
        yield from _maps(planned, sealed)
        yield from _cgroup(planned, sealed)
        lines = _read(sealed.stem, "mountinfo").splitlines()
        mounts.update((li, m.path) for li in lines if (m := _mount(li)).path != "/")
        yield from _mounts(planned, sealed, list(mounts))

    _refuse(differences(), sealed)
    return Looked(namespaces=names, mounts=mounts)


def verify_begun(room: plan.Room, sealed: Sealed) -> None:
    """The same of what the rest of a plan leaves alone, while that is done."""
    _refuse(_differences_begun([p.step for p in room.steps], sealed), sealed)


def verify_left(whole: plan.Plan, sealed: Sealed) -> dict[str, str]:
    """The same of all that init has a part in, when it has given up its powers.

    The namespaces' names for the report.
    """
    names: dict[str, str] = {}

    def differences() -> Iterator[str]:
        names.update(_namespaces_of(sealed.stem))
        yield from _differences_left([p.step for p in whole.steps], sealed, names)

    _refuse(differences(), sealed)
    return names


def verify(whole: plan.Plan, sealed: Sealed, names: Mapping[str, str]) -> None:
    """The same of a sealed stem, save what the hand-over touches; its namespaces are
    still those of ``names``.
    """
    _refuse(_differences([p.step for p in whole.steps], sealed, names), sealed)


def verify_ready(whole: plan.Plan, sealed: Sealed) -> None:
    """The same of what the hand-over may have touched; for good when it is done."""
    _refuse(_differences_when_ready([p.step for p in whole.steps], sealed), sealed)


def _refuse(differences: Iterator[str], sealed: Sealed) -> None:
    try:
        found = list(differences)
        if found and any(_is_ending(pid) for pid in (sealed.init, sealed.stem)):
            # It has nothing left to show before /proc says that it is not there.
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    except OSError as e:
        if e.errno not in _GONE:
            raise
        raise VerifyError(
            f"the sandbox ended while it was looked at: {e}", code="verify-gone"
        ) from e
    if found:
        raise VerifyError(
            "not as planned: " + "; ".join(found),
            code="verify-difference",
            hint="this is a fault of isolauncher or of the kernel: please report it",
        )


_PF_EXITING = 0x4
"""proc_pid_stat(5), field 9: set before anything is taken from the process."""


def _is_ending(pid: int) -> bool:
    flags = _read(pid, "stat").rpartition(")")[2].split()[6]
    return bool(int(flags) & _PF_EXITING)


def _differences_begun(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    yield from _proc()
    if sealed.looked is None:
        yield from _maps(planned, sealed)
    yield from _limits(planned, sealed)
    yield from _cgroup(planned, sealed)


def _differences_left(
    planned: list[steps.Step], sealed: Sealed, names: Mapping[str, str]
) -> Iterator[str]:
    yield from _init(planned, sealed)
    yield from _namespaces(planned, sealed, names)
    if sealed.looked is not None and sealed.looked.namespaces != names:
        yield "its namespaces are not those it had in the room"
    yield from _mounts(planned, sealed, _read(sealed.stem, "mountinfo").splitlines())
    yield from _directories(sealed)
    yield from _kept_by_init(sealed)


def _differences(
    planned: list[steps.Step], sealed: Sealed, names: Mapping[str, str]
) -> Iterator[str]:
    if _namespaces_of(sealed.stem) != names:
        yield "it has left one of its namespaces"
    yield from _shown(planned, sealed)
    yield from _probes(planned, sealed)


def _differences_when_ready(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    # First: a hand-over reads the program's file at its end.
    yield from _descriptors(sealed)
    yield from _process(planned, sealed)
    yield from _working_directory(sealed)


def _proc() -> Iterator[str]:
    # CVE-2025-52881: who answers in its place can say anything of all that follows.
    if not kernel.proc_is_the_kernels():
        yield "what is at /proc is not the kernel's"


def _read(pid: int, name: str) -> str:
    return _text(f"/proc/{pid}/{name}")


def _text(path: str) -> str:
    return os.fsdecode(kernel.read_all(path))


_NO_CAPABILITY = "0" * 16
_NO_CAPABILITIES = {
    name: _NO_CAPABILITY for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
}


def _mask(*numbers: int) -> str:
    return f"{sum(1 << (number - 1) for number in numbers):016x}"


# As a started Python has them; what is to be exec'ed gets them all back.
_PYTHONS = {
    "SigIgn": _mask(signal.SIGPIPE, signal.SIGXFSZ),
    "SigCgt": _mask(signal.SIGINT),
}
# The C library's own, from a process's first thread on, for its setuid(3).
_SETXID = 33
_AND_HAD_THREADS = {**_PYTHONS, "SigCgt": _mask(signal.SIGINT, _SETXID)}


def _process(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    identity = _one(planned, steps.MapIdentity)
    umask = _one(planned, steps.SetUmask).umask
    expected: dict[str, str] = {
        "Uid": "\t".join([str(identity.uid)] * 4),
        "Gid": "\t".join([str(identity.gid)] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Umask": f"{umask:04o}",
        "Threads": "1",
        "SigBlk": _NO_CAPABILITY,
        "SigIgn": _NO_CAPABILITY,
        "SigCgt": _NO_CAPABILITY,
    }
    found = _read(sealed.stem, "status")
    for known in (_PYTHONS, *((_AND_HAD_THREADS,) if sealed.living else ())):
        if all(_value(found, name) == mask for name, mask in known.items()):
            expected |= known
    yield from _compare("", found, expected | _NO_CAPABILITIES)
    # One filter more than the daemon's own would mean that something else sealed it.
    filters = _value(found, "Seccomp_filters")
    own = _own_filters(os.getpid())
    if filters is not None and int(filters) != own + 1:
        yield f"{filters} seccomp filters, not {own + 1}"


@cache
def _own_filters(pid: int) -> int:
    """What bound the daemon before its first launch; it binds itself no further."""
    return int(_value(_read(pid, "status"), "Seccomp_filters") or 0)


def _init(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    leaving = _one(planned, steps.LeavePrivileges)
    expected = {
        "Uid": "\t".join([str(leaving.uid)] * 4),
        "Gid": "\t".join([str(leaving.uid)] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
    }
    yield from _compare(
        "init's ", _read(sealed.init, "status"), expected | _NO_CAPABILITIES
    )


def _maps(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    identity = _one(planned, steps.MapIdentity)
    for name, value in (
        ("uid_map", f"{identity.inner_uid} {identity.uid} 1"),
        ("gid_map", f"{identity.inner_gid} {identity.gid} 1"),
        ("setgroups", "deny"),
    ):
        given = " ".join(_read(sealed.stem, name).split())
        if given != value:
            yield f"{name} is {given!r}, not {value!r}"


def _value(status: str, name: str) -> str | None:
    """What a line of proc_pid_status(5) says."""
    _, found, after = status.partition(f"\n{name}:\t")
    return after.partition("\n")[0].strip() if found else None


def _compare(whose: str, status: str, expected: Mapping[str, str]) -> Iterator[str]:
    for name, value in expected.items():
        given = _value(status, name)
        if given != value:
            yield f"{whose}{name} is {given!r}, not {value!r}"


def _namespaces_of(pid: int) -> dict[str, str]:
    try:
        return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}
    except PermissionError as e:
        # Of one that is reaped just now the kernel says this (proc_ns_readlink).
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from e


@cache
def _own_namespaces(pid: int) -> Mapping[str, str]:
    """The daemon's, which it never leaves."""
    return _namespaces_of(pid)


def _namespaces(
    planned: list[steps.Step], sealed: Sealed, names: Mapping[str, str]
) -> Iterator[str]:
    made = (s.namespaces for s in planned if isinstance(s, steps.Unshare))
    fresh = {"pid", "user", *(name for names in made for name in names)}
    owns, inits = _own_namespaces(os.getpid()), _namespaces_of(sealed.init)
    for name, stem in names.items():
        own, init = owns[name], inits[name]
        if (stem != own) != (name in fresh):
            yield f"namespace {name} is {'shared' if stem == own else 'not shared'}"
        if name != "user" and stem != init:
            yield f"namespace {name} is not init's"
        if name == "user" and init != own:
            yield "init is in a user namespace"


_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounts_of(pid: int) -> list[Mount]:
    return [_mount(line) for line in _read(pid, "mountinfo").splitlines()]


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, _, root, path, options, *propagation = before.split(" ")
    if "\\" in path:
        path = _ESCAPE.sub(lambda m: chr(int(m[1], 8)), path)
    return Mount(
        path=path,
        root=root,
        options=frozenset(options.split(",")),
        propagation=tuple(propagation),
        kind=after.partition(" ")[0],
    )


_TMPFS = frozenset(("rw", "nosuid", "nodev"))


def _expected_mounts(
    planned: list[steps.Step], sealed: Sealed
) -> Iterator[tuple[str, str, frozenset[str], bool]]:
    """(path, kind or "", options it must have, whether more may be mounted below)."""
    notes = {n.what: n.why for n in sealed.notes}
    for step in planned:
        match step:
            case steps.NewRoot():
                yield "/", "tmpfs", frozenset(("ro", "nosuid", "nodev")), False
            case steps.MemoryFiles():
                extra = () if step.executable else ("noexec",)
                yield step.path, "tmpfs", _TMPFS | set(extra), False
            case steps.MountDevices():
                yield "/dev", "tmpfs", frozenset(("ro", "nosuid", "noexec")), False
            case steps.MountProc():
                options = frozenset(("rw", "nosuid", "nodev", "noexec"))
                yield "/proc", "proc", options, False
            case steps.MountTerminals():
                options = frozenset(("rw", "nosuid", "noexec"))
                yield "/dev/pts", "devpts", options, False
            case steps.Attach():
                unmapped = notes.get(f"id-mapped mount of {step.path}")
                if unmapped == "copied in instead":
                    continue
                wanted = _options(step.attributes)
                if step.mapped is not None and unmapped is None:
                    wanted |= {"idmapped"}
                yield step.path, "", wanted, step.kind == "directory"
            case _:
                pass


@cache
def _options(attributes: int) -> frozenset[str]:
    names = {
        kernel.MOUNT_ATTR_NOSUID: "nosuid",
        kernel.MOUNT_ATTR_NODEV: "nodev",
        kernel.MOUNT_ATTR_NOEXEC: "noexec",
    }
    options = {name for bit, name in names.items() if attributes & bit}
    options.add("ro" if attributes & kernel.MOUNT_ATTR_RDONLY else "rw")
    return frozenset(options)


def _mounts(
    planned: list[steps.Step], sealed: Sealed, lines: list[str]
) -> Iterator[str]:
    expected = list(_expected_mounts(planned, sealed))
    known = sealed.looked.mounts if sealed.looked is not None else {}
    looked = {known[line] for line in lines if line in known}
    found = [_mount(line) for line in lines if line not in known]
    places = {path: (kind, options) for path, kind, options, _ in expected}
    trees = {path: options for path, _, options, tree in expected if tree}
    seen = set(looked)
    for mount in found:
        if mount.propagation:
            yield f"mount {mount.path} propagates ({' '.join(mount.propagation)})"
        if mount.path in places and mount.path not in seen:
            seen.add(mount.path)
            kind, options = places[mount.path]
            if kind and mount.kind != kind:
                yield f"{mount.path} is {mount.kind}, not {kind}"
            if mount.path == "/dev" and "nodev" in mount.options:
                yield "no device opens in /dev (nodev)"
        else:
            above = [t for t in trees if mount.path.startswith(t.rstrip("/") + "/")]
            if not above:
                yield f"something is mounted at {mount.path}"
                continue
            options = trees[max(above, key=len)]
        if not options <= mount.options:
            yield f"{mount.path} lacks {','.join(sorted(options - mount.options))}"
    yield from (f"nothing is mounted at {p}" for p in places if p not in seen)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    root = os.open(f"/proc/{sealed.stem}/root", flags)
    try:
        for step in planned:
            if isinstance(step, steps.Attach) and step.path in seen - looked:
                yield from _right_thing(step, root, sealed)
            if isinstance(step, steps.MakeDevices) and "/dev" not in looked:
                yield from _devices(step, planned, root, sealed)
    finally:
        os.close(root)


def _devices(
    step: steps.MakeDevices, planned: list[steps.Step], root: int, sealed: Sealed
) -> Iterator[str]:
    """Nodes, owners and numbers; and that there is nothing else in any directory.

    Whoever looks once has looked for good: it is sealed by then (see `Looked`).
    """
    refused = {n.what for n in sealed.notes}
    nodes = {
        n.path: (n.major, n.minor, n.mode, step.owner)
        for n in step.nodes
        if f"device {n.path}" not in refused
    }
    kinds = (steps.Directory, steps.WriteFile, steps.Symlink)
    made = {s.path for s in planned if isinstance(s, kinds)}
    # What lies below these two is in mounts of their own.
    other = ("/dev/pts/", "/dev/shm/")  # noqa: S108
    expected = {p for p in made if p.startswith("/dev/") and not p.startswith(other)}
    expected |= set(nodes)
    found = set(_below("/dev", root, closed=other))
    yield from (f"{path} is not there" for path in sorted(expected - found))
    yield from (f"{path} is there, too" for path in sorted(found - expected))
    for path in sorted(found & set(nodes)):
        inside = os.stat(path.lstrip("/"), dir_fd=root, follow_symlinks=False)
        number = (os.major(inside.st_rdev), os.minor(inside.st_rdev))
        is_ = (*number, stat.S_IMODE(inside.st_mode), inside.st_uid)
        if not stat.S_ISCHR(inside.st_mode) or is_ != nodes[path]:
            major, minor, mode, owner = nodes[path]
            yield f"{path} is not {major}:{minor} of uid {owner}, mode {mode:o}"


def _below(top: str, root: int, *, closed: tuple[str, ...]) -> Iterator[str]:
    """Every path below ``top`` in the sandbox, but in none of ``closed``."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(top.lstrip("/"), flags, dir_fd=root)
    try:
        with os.scandir(fd) as entries:
            found = [
                (f"{top}/{e.name}", e.is_dir(follow_symlinks=False)) for e in entries
            ]
    finally:
        os.close(fd)
    for path, is_directory in found:
        yield path
        if is_directory and f"{path}/" not in closed:
            yield from _below(path, root, closed=closed)


def _directories(sealed: Sealed) -> Iterator[str]:
    """A working directory outside the root is a way out of it (CVE-2024-21626)."""
    host = os.stat("/")
    for whose, pid in (("its", sealed.stem), ("init's", sealed.init)):
        root = os.stat(f"/proc/{pid}/root")
        if (root.st_dev, root.st_ino) == (host.st_dev, host.st_ino):
            yield f"{whose} root is the host's"
    # Its own is the root still.
    here = os.stat(f"/proc/{sealed.init}/cwd")
    if (here.st_dev, here.st_ino) != (root.st_dev, root.st_ino):
        yield "init's working directory is not its root"


def _working_directory(sealed: Sealed) -> Iterator[str]:
    """In one of its mounts: where it was led by what the sandbox shows."""
    mount = mount_of_directory(sealed.stem)
    known = sealed.looked.mounts if sealed.looked is not None else ()
    begins = f"{mount} "
    if mount == sealed.inside or any(line.startswith(begins) for line in known):
        return  # nobody can unmount it
    if f"\n{begins}" not in "\n" + _read(sealed.stem, "mountinfo"):
        yield "its working directory is in none of its mounts"


def mount_of_directory(pid: int) -> str:
    """The id of the mount that its working directory lies in."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(f"/proc/{pid}/cwd", flags)
    try:
        # Not by stat(2), for which a person's program may have us wait (foreign.py).
        return foreign.mount_id(here)
    finally:
        os.close(here)


def _right_thing(step: steps.Attach, root: int, sealed: Sealed) -> Iterator[str]:
    # There is no link on the way: it was attached through none.
    here = step.path.lstrip("/")
    inside = os.stat(here, dir_fd=root, follow_symlinks=False)
    if step.kind == "device":
        number = plan.DEVICES[step.path.rpartition("/")[2]]
        found = (os.major(inside.st_rdev), os.minor(inside.st_rdev))
        if not stat.S_ISCHR(inside.st_mode) or found != number:
            yield f"{step.path} is not the device {number}"
        return
    if (inside.st_dev, inside.st_ino) != sealed.sent[step.descriptor]:
        yield f"{step.path} is not what was sent"


def _descriptors(sealed: Sealed) -> Iterator[str]:
    found = {int(n) for n in os.listdir(f"/proc/{sealed.stem}/fd")}
    extra = sorted(found - {0, 1, 2} - sealed.living.keys())
    if len(extra) != 1 or not {0, 1, 2} <= found:
        yield f"descriptors are {sorted(found)}"
        return
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        inside = os.stat(f"/proc/{sealed.stem}/fd/{number}")
        if (inside.st_dev, inside.st_ino) != sealed.sent[name]:
            yield f"descriptor {number} is not the caller's {name}"
    kind = os.readlink(f"/proc/{sealed.stem}/fd/{extra[0]}")
    if not kind.startswith("socket:"):
        yield f"descriptor {extra[0]} is {kind}"
    for number, was in sealed.living.items():
        if (
            number not in found
            or os.readlink(f"/proc/{sealed.stem}/fd/{number}") != was
        ):
            yield f"descriptor {number} is not the {was} that it lived with"


def _kept_by_init(sealed: Sealed) -> Iterator[str]:
    # Init keeps its ways to the daemon and the stem, the record it ends with, the pipe
    # by which the person's processes learn that it has ended, and what it becomes.
    names = ("record", "hold", "waiter")
    kept_files = [sealed.sent[n] for n in names if n in sealed.sent]
    for held in os.listdir(f"/proc/{sealed.init}/fd"):
        try:
            kept = os.stat(f"/proc/{sealed.init}/fd/{held}")
        except FileNotFoundError:
            continue  # its end of the baton, closed just now
        same = (kept.st_dev, kept.st_ino) in kept_files
        if not (same or stat.S_ISSOCK(kept.st_mode)):
            yield f"init keeps the descriptor {held}"


def _limits(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    yield from _compare_limits(
        _read(sealed.stem, "limits"), _one(planned, steps.SetLimits).limits
    )
    # proc_pid_stat(5): session 6, tty_nr 7, nice 19, policy 41; two are cut off.
    priority = _one(planned, steps.Priority)
    for whose, pid in (("init's", sealed.init), ("its", sealed.stem)):
        fields = _read(pid, "stat").rpartition(")")[2].split()
        if fields[16] != str(priority.nice):
            yield f"{whose} nice is {fields[16]}, not {priority.nice}"
        if fields[38] != str(os.SCHED_OTHER):
            yield f"{whose} scheduling policy is {fields[38]}, not {os.SCHED_OTHER}"
        score = _read(pid, "oom_score_adj").strip()
        if score != str(priority.oom_score_adj):
            yield f"{whose} oom_score_adj is {score}, not {priority.oom_score_adj}"
    if fields[3] != str(sealed.init):
        yield f"its session is {fields[3]}, not init's"
    if fields[4] != "0":
        yield "it has a controlling terminal"


@lru_cache(maxsize=16)
def _compare_limits(text: str, limits: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """The same for all launches under a policy, so compared once."""
    lines = text.splitlines()[1:]
    found = {line[:26].strip(): tuple(line[26:].split()[:2]) for line in lines}
    return tuple(
        f"limit {name} is {found.get(_LIMIT_NAMES[name])}, not {value}"
        for name, value in limits
        if found.get(_LIMIT_NAMES[name]) != (str(value), str(value))
    )


def _cgroup(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    for step in planned:
        if not isinstance(step, steps.JoinCgroup):
            continue
        for directory in step.directories:
            members = _text(f"{directory.path}/cgroup.procs").split()
            if not {str(sealed.init), str(sealed.stem)} <= set(members):
                yield f"not in the cgroup {directory.path}"
            for name, value in directory.settings if sealed.looked is None else ():
                yield from _setting(f"{directory.path}/{name}", value)


def _setting(path: str, value: str) -> Iterator[str]:
    try:
        found = _text(path).strip()
    except FileNotFoundError:
        if not path.endswith(steps.SWAP_FILES):
            yield f"{path} is missing"
        return
    # The kernel rounds sizes down to pages and shares to what its scheduler knows.
    slack = os.sysconf("SC_PAGE_SIZE") if "memory" in path else 0
    if not found.isdigit() or not 0 <= int(value) - int(found) <= slack:
        yield f"{path} is {found}, not {value}"


def _shown(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    if any(n.what == "/proc/self/cmdline and environ" for n in sealed.notes):
        return
    shown = _one(planned, steps.ShowAs)
    for name, values in (("cmdline", shown.argv), ("environ", shown.environ)):
        if _read(sealed.stem, name) != "".join(v + "\0" for v in values):
            yield f"/proc/PID/{name} is not what was planned"


def _probes(planned: list[steps.Step], sealed: Sealed) -> Iterator[str]:
    seccomp = _one(planned, steps.Seccomp)
    if sealed.probes.get("seccomp") != seccomp.probe_errno:
        yield f"the filter {seccomp.name} did not answer its probe"
    if sealed.probes.get("securebits") != kernel.SECUREBITS:
        yield f"securebits are {sealed.probes.get('securebits')}"
    confined = steps.Landlock in {type(s) for s in planned}
    if confined and sealed.probes.get("landlock") != errno.EACCES:
        yield "Landlock let a file be opened that no rule covers"


def _one(planned: list[steps.Step], kind: type[_T]) -> _T:
    return next(s for s in planned if isinstance(s, kind))
