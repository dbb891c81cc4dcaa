# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine can do, found by trying it, never by asking for a version.

Every trial that would change the process runs in a forked child that is thrown away;
what a trial makes outside the process (a cgroup) it removes. `Host` holds the answers
and decides nothing: whether a policy can do without something is for the plan to say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import grp
import importlib.util
import os
import pwd
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from .errors import HostError

if TYPE_CHECKING:
    from .kernel import Kernel

UID_RANGE = range(70000, 90000)
CONTROLLERS = ("memory", "pids", "cpu")
TYPELIBS = ("/usr/lib/girepository-1.0", "/usr/lib/*/girepository-1.0")
"""Patterns of the directories in which GObject's libraries are described."""

TRIAL = "isolauncher-probe-"
"""How a cgroup that is made for a trial is called, with the pid of who makes it."""

# A trial takes milliseconds; one that hangs is a machine that cannot.
_PATIENCE_MS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlace:
    """Where groups of one controller can be made, and by which version's rules.

    ``path`` is the directory to make them in. In version 2 the controller must be
    switched on in ``path/cgroup.subtree_control`` first, unless ``enabled``.
    """

    version: Literal[1, 2]
    path: str
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The answers. ``why`` holds, by the name of a field or of a namespace, the reason
    for each no; a name that is not in it can be relied on."""

    machine: str
    ids: bool
    mapped_ids: bool
    namespaces: frozenset[str]
    mount_api: bool
    idmapped_mounts: bool
    pivot_root: bool
    proc: bool
    device_nodes: bool
    chrooted: bool
    landlock: int
    seccomp: bool
    keyring: bool
    cgroups: Mapping[str, CgroupPlace]
    pidfd: bool
    openat2: bool
    close_range: bool
    mm_map: bool
    waiter: bool
    core: bool
    sys_resource: bool
    libseccomp: bool
    prctl: bool
    pyroute2: bool
    dbus: bool
    gi: bool
    bus_filter: bool
    uids_taken: tuple[int, ...]
    gtk3: bool = False
    sugar3: bool = False
    why: Mapping[str, str] = field(default_factory=dict)


BUS_FILTER = "/usr/bin/xdg-dbus-proxy"
"""Between an activity and its person's session bus."""


@functools.cache
def this_host() -> Host:
    """`probe` of this machine, once per process."""
    return probe()


def probe(
    *, uids: range = UID_RANGE, idmap_of: str = "/var/lib", proc: str = "/proc"
) -> Host:
    """Try everything. Takes some twenty forks, so call it before a process is large.

    ``idmap_of`` lies in the file system whose idmapped mounts are asked about;
    ``proc`` is where self/cgroup and self/mountinfo are read from.
    """
    trial = _Trials()
    packages = {
        name: trial.note(name, _missing_package(name))
        for name in ("prctl", "pyroute2", "dbus", "gi")
    }
    packages["gtk3"] = trial.note("gtk3", _missing_toolkit("gi", "Gtk-3.0"))
    packages["sugar3"] = trial.note(
        "sugar3", _missing_toolkit("sugar3", "Gtk-3.0", "TelepathyGLib-0.12")
    )
    packages["libseccomp"] = trial.note("libseccomp", _missing_package("seccomp"))
    if packages["prctl"]:
        _require_proc()
    taken = _uids_taken(uids)
    if taken:
        trial.why["uids_taken"] = (
            f"{len(taken)} of {uids.start}-{uids.stop - 1} have owners, the first is "
            f"{taken[0]}"
        )
    sys_resource = trial.note("sys_resource", _no_capability(24, "CAP_SYS_RESOURCE"))
    core = trial.note("core", _core_helper(proc))
    chrooted = not trial.note("chrooted", _chroot())
    cgroups = _cgroups(trial, proc)
    if not packages["prctl"]:
        why = "cannot be tried: python3-prctl, which the trials need, is missing"
        for name in _KERNEL_TRIALS:
            trial.why[name] = why
        kernel_says = dict.fromkeys(_KERNEL_TRIALS, False)
        spaces: frozenset[str] = frozenset()
        landlock = 0
    else:
        # Only now: the module imports python-prctl, whose lack must be sayable.
        from .kernel import Linux

        kernel = Linux()
        tries = _kernel_trials(kernel, uids.start, idmap_of)
        kernel_says = {
            name: trial.note(name, tried(attempt)) for name, attempt in tries.items()
        }
        spaces = _namespaces(trial, kernel)
        landlock = _landlock(trial, kernel)
    return Host(
        machine=os.uname().machine,
        ids=kernel_says["ids"],
        mapped_ids=kernel_says["mapped_ids"],
        namespaces=spaces,
        mount_api=kernel_says["mount_api"],
        idmapped_mounts=kernel_says["idmapped_mounts"],
        pivot_root=kernel_says["pivot_root"],
        proc=kernel_says["proc"],
        device_nodes=kernel_says["device_nodes"],
        chrooted=chrooted,
        landlock=landlock,
        seccomp=kernel_says["seccomp"],
        keyring=kernel_says["keyring"],
        cgroups=cgroups,
        pidfd=trial.note("pidfd", tried(lambda: os.pidfd_open(os.getpid()))),
        openat2=kernel_says["openat2"],
        close_range=kernel_says["close_range"],
        mm_map=kernel_says["mm_map"],
        waiter=kernel_says["waiter"],
        core=core,
        sys_resource=sys_resource,
        libseccomp=packages["libseccomp"],
        prctl=packages["prctl"],
        pyroute2=packages["pyroute2"],
        dbus=packages["dbus"],
        gi=packages["gi"],
        bus_filter=trial.note("bus_filter", _missing_program(BUS_FILTER)),
        uids_taken=taken,
        gtk3=packages["gtk3"],
        sugar3=packages["sugar3"],
        why=dict(trial.why),
    )


def tried(attempt: Callable[[], object]) -> str | None:
    """Run ``attempt`` in a child that is thrown away; None, or why it failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _try_and_leave(writer, attempt)
    os.close(writer)
    try:
        words = _answer(reader, child)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    return words or f"the trial ended with wait status {status}"


def _try_and_leave(writer: int, attempt: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        attempt()
        status = 0
    except OSError as refused:
        os.write(writer, (refused.strerror or str(refused)).encode())
    except BaseException as why:
        os.write(writer, f"{type(why).__name__}: {why}".encode())
    finally:
        os._exit(status)


def _answer(reader: int, child: int) -> str:
    # A grandchild may hold the pipe as well: its end is not waited for without limit.
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(_PATIENCE_MS):
        os.kill(child, signal.SIGKILL)
        return f"no answer within {_PATIENCE_MS // 1000} s"
    return os.read(reader, 4096).decode("utf-8", "replace")


@dataclass(slots=True, kw_only=True)
class _Trials:
    why: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, reason: str | None) -> bool:
        if reason is not None:
            self.why[name] = reason
        return reason is None


_KERNEL_TRIALS = (
    "ids",
    "mapped_ids",
    "mount_api",
    "idmapped_mounts",
    "pivot_root",
    "proc",
    "device_nodes",
    "seccomp",
    "keyring",
    "openat2",
    "close_range",
    "mm_map",
    "waiter",
    "landlock",
    "namespaces",
)


def _kernel_trials(
    kernel: Kernel, uid: int, idmap_of: str
) -> dict[str, Callable[[], object]]:
    """By name; each runs in a child of its own and may leave it in any state."""
    from . import kernel as k

    def ids() -> None:
        kernel.setgroups(())
        kernel.setresgid(uid)
        kernel.setresuid(uid)

    def new_root() -> int:
        """A tmpfs as a detached mount, attached over /usr, which every system has."""
        kernel.unshare(k.CLONE_NEWNS)
        kernel.make_private()
        tmpfs = kernel.detached_mount("tmpfs", {"mode": "755"}, k.MOUNT_ATTR_NODEV)
        target = os.open("/usr", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        kernel.move_mount(tmpfs, target)
        return tmpfs

    def pivot() -> None:
        kernel.pivot_root(new_root())
        kernel.unmount(".")

    def mount_api() -> None:
        kernel.unshare(k.CLONE_NEWNS)
        kernel.make_private()
        here = os.open("/usr", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = kernel.open_tree(here, recursive=True)
        kernel.mount_setattr(tree, set_=k.MOUNT_ATTR_RDONLY, recursive=True)
        kernel.move_mount(tree, here)

    def idmapped_mounts() -> None:
        kernel.unshare(k.CLONE_NEWNS)
        kernel.make_private()
        here = os.open(idmap_of, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = kernel.open_tree(here, recursive=False)
        with _mapped_child(kernel, uid) as child:
            space = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            kernel.mount_setattr(tree, set_=0, recursive=False, userns=space)

    def proc() -> None:
        kernel.unshare(k.CLONE_NEWPID | k.CLONE_NEWNS)
        kernel.make_private()
        reason = tried(lambda: kernel.mount("proc", "/proc", "proc", 0, ""))
        if reason is not None:
            raise OSError(0, reason)

    def device_nodes() -> None:
        os.fchdir(kernel.detached_mount("tmpfs", {"mode": "755"}, 0))
        kernel.mknod("zero", 0o600, 1, 5)
        os.open("zero", os.O_RDWR | os.O_CLOEXEC)

    def seccomp() -> None:
        kernel.no_new_privs()
        # One instruction: return SECCOMP_RET_ALLOW.
        kernel.seccomp(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))

    def openat2() -> None:
        kernel.openat2(k.AT_FDCWD, "/", os.O_PATH, k.RESOLVE_NO_MAGICLINKS)

    def mm_map() -> None:
        kernel.set_argument_area((b"isolauncher",), (b"A=b",))
        with open("/proc/self/cmdline", "rb") as shown:
            if shown.read() != b"isolauncher\0":
                raise OSError(0, "/proc/self/cmdline does not show what was set")

    return {
        "ids": ids,
        "mapped_ids": lambda: _map_ids(kernel, uid),
        "mount_api": mount_api,
        "idmapped_mounts": idmapped_mounts,
        "pivot_root": pivot,
        "proc": proc,
        "device_nodes": device_nodes,
        "seccomp": seccomp,
        "keyring": kernel.join_session_keyring,
        "openat2": openat2,
        # The pipe for the answer is gone afterwards, which the status alone says.
        "close_range": lambda: kernel.close_except(frozenset({0, 1, 2})),
        "mm_map": mm_map,
        "waiter": lambda: _wait(kernel, uid),
    }


def _wait(kernel: Kernel, uid: int) -> None:
    """Have a child become what an init does, and tell of the end of its own child."""
    from . import kernel as k
    from . import waiter

    program = waiter.make()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            stem = os.fork()
            if stem == 0:
                os._exit(3)
            if os.geteuid() == 0:
                kernel.setgroups(())
                kernel.setresgid(uid)
                kernel.setresuid(uid)
            theirs.set_inheritable(True)
            words = ("isolauncher: init(trial)", str(stem), "-1", str(theirs.fileno()))
            k.become(program, words)
        except OSError as refused:
            theirs.send((refused.strerror or str(refused)).encode())
        finally:
            os._exit(1)
    theirs.close()
    said = ours.recv(4096)
    os.waitpid(child, 0)
    if said != b'{"event": "exited", "status": %d}\n' % (3 << 8):
        why = said.decode(errors="replace")
        raise OSError(0, why or "it was begun, and ended without a word")


@contextlib.contextmanager
def _mapped_child(kernel: Kernel, uid: int) -> Iterator[_Mapped]:
    """A child in a user namespace of root's, in which ``uid`` is called 0."""
    from . import kernel as k

    up_reader, up_writer = os.pipe()
    down_reader, down_writer = os.pipe()

    def live() -> None:
        # Its own end of the pipe must go, or it would not notice that we went.
        os.close(down_writer)
        kernel.setgroups(())
        kernel.unshare(k.CLONE_NEWUSER)
        os.write(up_writer, b".")
        if os.read(down_reader, 1):
            kernel.setresgid(0)
            kernel.setresuid(0)
            kernel.clear_capabilities()

    child = os.fork()
    if child == 0:
        _try_and_leave(up_writer, live)
    os.close(up_writer)
    os.close(down_reader)
    mapped = _Mapped(pid=child, writer=down_writer, reader=up_reader)
    try:
        answer = _answer(up_reader, child)
        if answer != ".":
            raise OSError(0, answer or "the child went away")
        # In this order: gid_map is refused to whoever could still call setgroups
        # (user_namespaces(7)).
        for name, value in (
            ("setgroups", "deny"),
            ("gid_map", f"0 {uid} 1"),
            ("uid_map", f"0 {uid} 1"),
        ):
            kernel.write_file(f"/proc/{child}/{name}", value.encode())
        yield mapped
    finally:
        os.close(down_writer)
        os.close(up_reader)
        os.waitpid(child, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapped:
    pid: int
    writer: int
    reader: int

    def become_root_inside(self) -> None:
        os.write(self.writer, b"!")
        words = _answer(self.reader, self.pid)
        if words:
            raise OSError(0, words)


def _map_ids(kernel: Kernel, uid: int) -> None:
    with _mapped_child(kernel, uid) as child:
        child.become_root_inside()


def _namespaces(trial: _Trials, kernel: Kernel) -> frozenset[str]:
    from . import kernel as k

    flags = {
        "mnt": k.CLONE_NEWNS,
        "pid": k.CLONE_NEWPID,
        "net": k.CLONE_NEWNET,
        "ipc": k.CLONE_NEWIPC,
        "uts": k.CLONE_NEWUTS,
        "user": k.CLONE_NEWUSER,
        "cgroup": k.CLONE_NEWCGROUP,
    }
    together = 0
    for flag in flags.values():
        together |= flag
    # One child for all, which is the usual case; one each only to name the culprit.
    if tried(lambda: kernel.unshare(together)) is None:
        return frozenset(flags)
    return frozenset(
        name
        for name, flag in flags.items()
        if trial.note(name, tried(functools.partial(kernel.unshare, flag)))
    )


def _landlock(trial: _Trials, kernel: Kernel) -> int:
    from . import kernel as k

    def restrict() -> None:
        abi = kernel.landlock_abi()
        if abi == 0:
            raise OSError(0, "the kernel lacks it or was started without it")
        ruleset = kernel.landlock_ruleset(*k.landlock_rights(abi))
        kernel.no_new_privs()
        kernel.landlock_restrict(ruleset)

    return kernel.landlock_abi() if trial.note("landlock", tried(restrict)) else 0


def _require_proc() -> None:
    """CVE-2025-52881: every id map and all that is read back goes by way of /proc."""
    from .kernel import proc_is_the_kernels

    if not proc_is_the_kernels():
        raise HostError(
            "what is at /proc is not the kernel's, and nothing is told by it",
            code="proc-replaced",
            hint="mount -t proc proc /proc",
        )


def _missing_package(module: str) -> str | None:
    """Found, not imported: dbus and pyroute2 are large and not needed here."""
    if importlib.util.find_spec(module) is None:
        return f"there is no Python module {module} for this interpreter"
    return None


def _missing_program(path: str) -> str | None:
    return None if os.access(path, os.X_OK) else f"there is no {path}"


def _missing_toolkit(module: str, *typelibs: str) -> str | None:
    """What a preload set cannot do without, by its files."""
    missing = _missing_package(module)
    if missing is not None:
        return missing
    for name in typelibs:
        if not any(glob.glob(f"{place}/{name}.typelib") for place in TYPELIBS):
            return f"there is no typelib {name}"
    return None


def _no_capability(number: int, name: str) -> str | None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("CapEff:") and int(line.split()[1], 16) >> number & 1:
                return None
    return f"this process does not have {name}"


def _core_helper(proc: str) -> str | None:
    """A core pattern that is a pipe is read by a program of the host's (core(5)).

    The kernel starts it as root and outside of every sandbox, whatever RLIMIT_CORE
    says: that binds files only.
    """
    try:
        with open(os.path.join(proc, "sys/kernel/core_pattern"), encoding="utf-8") as f:
            pattern = f.read().strip()
    except FileNotFoundError:
        return None  # a kernel that writes no core dumps
    if not pattern.startswith("|"):
        return None
    return f"they go to {pattern[1:].split()[0]}, which runs as root outside"


def _chroot() -> str | None:
    """In a chroot our root is another directory than PID 1's (as ischroot(1) looks)."""
    try:
        first, ours = os.stat("/proc/1/root"), os.stat("/")
    except OSError:
        # Without the right to look there is no telling; the trials tell in any case.
        return None
    if (first.st_dev, first.st_ino) == (ours.st_dev, ours.st_ino):
        return None
    return "the root directory is not that of PID 1"


def _uids_taken(uids: range) -> tuple[int, ...]:
    """Ids of the range with an owner already, as far as the databases can be listed.

    A directory service need not list anything: whoever takes a uid asks for that one.
    """
    owners = {entry.pw_uid for entry in pwd.getpwall()}
    owners |= {entry.gr_gid for entry in grp.getgrall()}
    return tuple(sorted(owner for owner in owners if owner in uids))


def _cgroups(trial: _Trials, proc: str) -> dict[str, CgroupPlace]:
    """For each controller the first place that works, version 2 before version 1."""
    found: dict[str, CgroupPlace] = {}
    candidates = _cgroup_candidates(proc)
    for controller in CONTROLLERS:
        why = "no mounted cgroup hierarchy has it"
        for version, path, names in candidates:
            if controller not in names:
                continue
            place, refused = _try_cgroup(version, path, controller)
            if place is not None:
                found[controller] = place
                break
            why = f"{path}: {refused}"
        if controller not in found:
            trial.why[f"cgroup.{controller}"] = why
    return found


def _cgroup_candidates(
    proc: str,
) -> list[tuple[Literal[1, 2], str, frozenset[str]]]:
    """Directories where groups may be made, each with the controllers it has.

    Our own group comes first, so that limits set on us hold for what we make. In
    version 2 a group with processes in it cannot hand controllers down, unless it is
    the hierarchy's top: so its parent, where a service's own leaf was made, and at
    last the top are the other choices there.
    """
    own: dict[str, str] = {}
    with open(os.path.join(proc, "self/cgroup"), encoding="utf-8") as lines:
        for line in lines:
            _, names, path = line.rstrip("\n").split(":", 2)
            for name in names.split(","):
                own[name] = path
    places: list[tuple[Literal[1, 2], str, frozenset[str]]] = []
    with open(os.path.join(proc, "self/mountinfo"), encoding="utf-8") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(maxsplit=2)
            root, top = (_unescape(word) for word in before.split()[3:5])
            if kind == "cgroup2":
                # What the kernel numbers 0 has no controller names: "0::/path".
                try:
                    has = _words(os.path.join(top, "cgroup.controllers"))
                except OSError:
                    continue  # something is mounted over it
                inside = _inside(top, root, own.get("", "/"))
                choices = [inside, os.path.dirname(inside), top]
                if inside == top:
                    choices = [top]
                places += [(2, choice, has) for choice in dict.fromkeys(choices)]
            elif kind == "cgroup":
                has = frozenset(options.strip().split(","))
                mine = next((own[name] for name in has if name in own), "/")
                places.append((1, _inside(top, root, mine), has))
    places.sort(key=lambda place: -place[0])
    return places


def _inside(top: str, root: str, own: str) -> str:
    """Where our own group lies below a mount that shows ``root`` at ``top``."""
    relative = os.path.relpath(own, root)
    path = os.path.normpath(os.path.join(top, relative))
    # The kernel writes `..` for a group above our cgroup namespace's root: what is
    # mounted does not reach there.
    outside = os.pardir in own.split("/") or os.pardir in relative.split("/")
    return top if outside or not os.path.isdir(path) else path


def _try_cgroup(
    version: Literal[1, 2], path: str, controller: str
) -> tuple[CgroupPlace | None, str]:
    group = os.path.join(path, f"{TRIAL}{os.getpid()}")
    switch = os.path.join(path, "cgroup.subtree_control")
    try:
        enabled = version == 1 or controller in _words(switch)
        if not enabled:
            _write(switch, f"+{controller}")
        try:
            os.mkdir(group)
            os.rmdir(group)
        finally:
            # EBUSY: somebody has begun to use it meanwhile, and it stays on for them.
            if not enabled:
                with contextlib.suppress(OSError):
                    _write(switch, f"-{controller}")
    except OSError as refused:
        return None, refused.strerror or str(refused)
    return CgroupPlace(version=version, path=path, enabled=enabled), ""


def _words(path: str) -> frozenset[str]:
    with open(path, encoding="ascii") as f:
        return frozenset(f.read().split())


def _write(path: str, text: str) -> None:
    # Unbuffered, so that the kernel's no is raised here and not at some later close.
    with open(path, "wb", buffering=0) as f:
        f.write(text.encode())


def _unescape(word: str) -> str:
    r"""mountinfo writes blank, tab, newline and backslash as \040 and so on."""
    for number in (0o40, 0o11, 0o12, 0o134):
        word = word.replace(f"\\{number:03o}", chr(number))
    return word


def as_json(host: Host) -> dict[str, object]:
    """The same answers as plain values."""
    plain = dataclasses.asdict(host)
    plain["namespaces"] = sorted(host.namespaces)
    plain["uids_taken"] = list(host.uids_taken)
    return plain
