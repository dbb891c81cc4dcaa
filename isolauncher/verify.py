# SPDX-License-Identifier: GPL-3.0-or-later
"""What is, against what was planned: reads /proc from outside, before "go".

The daemon calls `verify` with its own plan (never the sandbox's copy) while the stem
stands sealed and init has given up its powers. Each difference is a line; one is
enough to end the launch. What /proc does not show (which filter, which Landlock
domain, the securebits) is judged by the errno of calls that must have been refused.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from . import kernel, plan
from .errors import VerifyError

_T = TypeVar("_T")

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
    ``probes`` are the stem's answers: errno by name, and its securebits.
    """

    init: int
    stem: int
    sent: Mapping[str, tuple[int, int]]
    probes: Mapping[str, int]
    notes: tuple[plan.Skipped, ...]


def verify(whole: plan.Plan, sealed: Sealed) -> dict[str, str]:
    """The namespaces' names for the report; VerifyError with every difference."""
    try:
        names = {n: os.readlink(f"/proc/{sealed.stem}/ns/{n}") for n in NAMESPACES}
        differences = list(_differences(whole, sealed, names))
    except (FileNotFoundError, ProcessLookupError) as e:
        raise VerifyError(
            f"the sandbox ended while it was looked at: {e}", code="verify-gone"
        ) from e
    if differences:
        raise VerifyError(
            "not as planned: " + "; ".join(differences),
            code="verify-difference",
            hint="this is a fault of isolauncher or of the kernel: please report it",
        )
    return names


def _differences(
    whole: plan.Plan, sealed: Sealed, names: Mapping[str, str]
) -> Iterator[str]:
    steps = [p.step for p in whole.steps]
    yield from _proc()
    yield from _ids(steps, sealed)
    yield from _namespaces(steps, sealed, names)
    yield from _mounts(steps, sealed)
    yield from _directories(sealed)
    yield from _descriptors(sealed)
    yield from _limits(steps, sealed)
    yield from _cgroup(steps, sealed)
    yield from _shown(steps, sealed)
    yield from _probes(steps, sealed)


def _proc() -> Iterator[str]:
    # CVE-2025-52881: who answers in its place can say anything of all that follows.
    if not kernel.proc_is_the_kernels():
        yield "what is at /proc is not the kernel's"


def _read(pid: int, name: str) -> str:
    return _text(f"/proc/{pid}/{name}")


def _text(path: str) -> str:
    """All of a file of the kernel's, which tells no size beforehand."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while block := os.read(fd, 1 << 16):
            data += block
    finally:
        os.close(fd)
    return os.fsdecode(data)


def _status(pid: int) -> dict[str, str]:
    """The lines of proc_pid_status(5) by name, the values as they stand there."""
    lines = (line.partition(":\t") for line in _read(pid, "status").split("\n"))
    return {key: value for key, _, value in lines}


_NO_CAPABILITY = "0" * 16


def _ids(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    identity = _one(steps, plan.MapIdentity)
    umask = _one(steps, plan.SetUmask).umask
    leaving = _one(steps, plan.LeavePrivileges)
    expected: dict[str, str] = {
        "Uid": " ".join([str(identity.uid)] * 4),
        "Gid": " ".join([str(identity.gid)] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Umask": f"{umask:04o}",
        "Threads": "1",
        "SigBlk": _NO_CAPABILITY,
        "SigIgn": _NO_CAPABILITY,
        "SigCgt": _NO_CAPABILITY,
    }
    none = {
        name: _NO_CAPABILITY
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }
    yield from _compare("", _status(sealed.stem), expected | none)
    # One filter more than the daemon's own would mean that something else sealed it.
    own = int(_status(os.getpid()).get("Seccomp_filters", "0"))
    filters = _status(sealed.stem).get("Seccomp_filters")
    if filters is not None and int(filters) != own + 1:
        yield f"{filters} seccomp filters, not {own + 1}"
    init_expected = {
        "Uid": " ".join([str(leaving.uid)] * 4),
        "Gid": " ".join([str(leaving.uid)] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
    }
    yield from _compare("init's ", _status(sealed.init), init_expected | none)
    maps = {
        "uid_map": f"{identity.inner_uid} {identity.uid} 1",
        "gid_map": f"{identity.inner_gid} {identity.gid} 1",
        "setgroups": "deny",
    }
    found = {n: _read(sealed.stem, n) for n in maps}
    yield from _compare("", found, maps)


def _compare(
    whose: str, found: Mapping[str, str], expected: Mapping[str, str]
) -> Iterator[str]:
    for name, value in expected.items():
        given = " ".join(found[name].split()) if name in found else None
        if given != value:
            yield f"{whose}{name} is {given!r}, not {value!r}"


def _namespaces(
    steps: list[plan.Step], sealed: Sealed, names: Mapping[str, str]
) -> Iterator[str]:
    fresh = {"pid", "user", *_one(steps, plan.Unshare).namespaces}
    for name, stem in names.items():
        own = os.readlink(f"/proc/self/ns/{name}")
        init = os.readlink(f"/proc/{sealed.init}/ns/{name}")
        if (stem != own) != (name in fresh):
            yield f"namespace {name} is {'shared' if stem == own else 'not shared'}"
        if name != "user" and stem != init:
            yield f"namespace {name} is not init's"
        if name == "user" and init != own:
            yield "init is in a user namespace"


_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounts_of(pid: int) -> list[Mount]:
    mounts = []
    for line in _read(pid, "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, path, options, *propagation = before.split(" ")
        if "\\" in path:
            path = _ESCAPE.sub(lambda m: chr(int(m[1], 8)), path)
        mounts.append(
            Mount(
                path=path,
                root=root,
                options=frozenset(options.split(",")),
                propagation=tuple(propagation),
                kind=after.partition(" ")[0],
            )
        )
    return mounts


_TMPFS = frozenset(("rw", "nosuid", "nodev"))


def _expected_mounts(
    steps: list[plan.Step], sealed: Sealed
) -> Iterator[tuple[str, str, frozenset[str], bool]]:
    """(path, kind or "", options it must have, whether more may be mounted below)."""
    notes = {n.what: n.why for n in sealed.notes}
    for step in steps:
        match step:
            case plan.NewRoot():
                yield "/", "tmpfs", frozenset(("ro", "nosuid", "nodev")), False
            case plan.MemoryFiles():
                extra = () if step.executable else ("noexec",)
                yield step.path, "tmpfs", _TMPFS | set(extra), False
            case plan.MountProc():
                options = frozenset(("rw", "nosuid", "nodev", "noexec"))
                yield "/proc", "proc", options, False
            case plan.MountTerminals():
                options = frozenset(("rw", "nosuid", "noexec"))
                yield "/dev/pts", "devpts", options, False
            case plan.Attach():
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


def _mounts(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    expected = list(_expected_mounts(steps, sealed))
    found = mounts_of(sealed.stem)
    places = {path: (kind, options) for path, kind, options, _ in expected}
    trees = {path: options for path, _, options, tree in expected if tree}
    seen: set[str] = set()
    for mount in found:
        if mount.propagation:
            yield f"mount {mount.path} propagates ({' '.join(mount.propagation)})"
        if mount.path in places and mount.path not in seen:
            seen.add(mount.path)
            kind, options = places[mount.path]
            if kind and mount.kind != kind:
                yield f"{mount.path} is {mount.kind}, not {kind}"
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
        for step in steps:
            if isinstance(step, plan.Attach) and step.path in seen:
                yield from _right_thing(step, root, sealed)
    finally:
        os.close(root)


def _directories(sealed: Sealed) -> Iterator[str]:
    """A working directory outside the root is a way out of it (CVE-2024-21626)."""
    host = os.stat("/")
    for whose, pid in (("its", sealed.stem), ("init's", sealed.init)):
        root, here = os.stat(f"/proc/{pid}/root"), os.stat(f"/proc/{pid}/cwd")
        if (root.st_dev, root.st_ino) == (host.st_dev, host.st_ino):
            yield f"{whose} root is the host's"
        if (here.st_dev, here.st_ino) != (root.st_dev, root.st_ino):
            yield f"{whose} working directory is not its root"


def _right_thing(step: plan.Attach, root: int, sealed: Sealed) -> Iterator[str]:
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
    extra = sorted(found - {0, 1, 2})
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
    # Init keeps its ways to the daemon and the stem, the record it ends with, and the
    # pipe by which the person's processes learn that it has ended.
    kept_files = [sealed.sent[n] for n in ("record", "hold") if n in sealed.sent]
    for held in os.listdir(f"/proc/{sealed.init}/fd"):
        try:
            kept = os.stat(f"/proc/{sealed.init}/fd/{held}")
        except FileNotFoundError:
            continue  # its end of the baton, closed just now
        same = (kept.st_dev, kept.st_ino) in kept_files
        if not (same or stat.S_ISSOCK(kept.st_mode)):
            yield f"init keeps the descriptor {held}"


def _limits(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    lines = _read(sealed.stem, "limits").splitlines()[1:]
    found = {line[:26].strip(): tuple(line[26:].split()[:2]) for line in lines}
    for name, value in _one(steps, plan.SetLimits).limits:
        pair = (str(value), str(value))
        if found.get(_LIMIT_NAMES[name]) != pair:
            yield f"limit {name} is {found.get(_LIMIT_NAMES[name])}, not {value}"
    fields = _read(sealed.stem, "stat").rpartition(")")[2].split()
    # proc_pid_stat(5): session 6, tty_nr 7, nice 19, policy 41; two are cut off.
    priority = _one(steps, plan.Priority)
    if fields[16] != str(priority.nice):
        yield f"nice is {fields[16]}, not {priority.nice}"
    for whose, policy in (
        ("its", fields[38]),
        ("init's", _read(sealed.init, "stat").rpartition(")")[2].split()[38]),
    ):
        if policy != str(os.SCHED_OTHER):
            yield f"{whose} scheduling policy is {policy}, not {os.SCHED_OTHER}"
    if fields[3] != str(sealed.init):
        yield f"its session is {fields[3]}, not init's"
    if fields[4] != "0":
        yield "it has a controlling terminal"
    score = _read(sealed.stem, "oom_score_adj").strip()
    if score != str(priority.oom_score_adj):
        yield f"oom_score_adj is {score}, not {priority.oom_score_adj}"


def _cgroup(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    for step in steps:
        if not isinstance(step, plan.JoinCgroup):
            continue
        for directory in step.directories:
            members = _text(f"{directory.path}/cgroup.procs").split()
            if not {str(sealed.init), str(sealed.stem)} <= set(members):
                yield f"not in the cgroup {directory.path}"
            for name, value in directory.settings:
                yield from _setting(f"{directory.path}/{name}", value)


def _setting(path: str, value: str) -> Iterator[str]:
    try:
        found = _text(path).strip()
    except FileNotFoundError:
        if not path.endswith(plan.SWAP_FILES):
            yield f"{path} is missing"
        return
    # The kernel rounds sizes down to pages and shares to what its scheduler knows.
    slack = os.sysconf("SC_PAGE_SIZE") if "memory" in path else 0
    if not found.isdigit() or not 0 <= int(value) - int(found) <= slack:
        yield f"{path} is {found}, not {value}"


def _shown(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    if any(n.what == "/proc/self/cmdline and environ" for n in sealed.notes):
        return
    shown = _one(steps, plan.ShowAs)
    for name, values in (("cmdline", shown.argv), ("environ", shown.environ)):
        if _read(sealed.stem, name) != "".join(v + "\0" for v in values):
            yield f"/proc/PID/{name} is not what was planned"


def _probes(steps: list[plan.Step], sealed: Sealed) -> Iterator[str]:
    seccomp = _one(steps, plan.Seccomp)
    if sealed.probes.get("seccomp") != seccomp.probe_errno:
        yield f"the filter {seccomp.name} did not answer its probe"
    if sealed.probes.get("securebits") != kernel.SECUREBITS:
        yield f"securebits are {sealed.probes.get('securebits')}"
    confined = any(isinstance(s, plan.Landlock) for s in steps)
    if confined and sealed.probes.get("landlock") != errno.EACCES:
        yield "Landlock let a file be opened that no rule covers"


def _one(steps: list[plan.Step], kind: type[_T]) -> _T:
    return next(s for s in steps if isinstance(s, kind))
