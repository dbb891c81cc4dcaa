#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside: says as JSON what it sees, and what each thing it tries comes to.

An ordinary program with the standard library only, launched like any other. It knows
no policy and judges nothing. Each line on standard input is an object that asks; one
object in a line answers:

    {"look": {"paths": […], "hidden": […]}}   what is there, changing nothing
    {"attack": {"set_id": PATH, "filter": …}} calls that a sandbox must refuse
    {"try": [[VERB, ARGUMENT…], …]}           [[expect]]'s verbs: [result, why] of each
    {"bus": {…}}                              the session's bus, as a program meets it
    {"fill": [DIRECTORY, BYTES]}              take more room than there is

What was tried and refused is the name of its errno, "ok" what was let through.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

ABSENT = ("ENOENT", "ENOTDIR", "ENXIO", "ENODEV")
"""Errnos by which a thing does not exist, for whoever asks."""

ETC = ("passwd", "group", "nsswitch.conf", "hosts", "hostname", "machine-id")
"""What is written for each activity."""

NO_ANSWER = "no answer"
PATIENCE_S = 5
ALLOCATION_S = 30
_FAILED = 255
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def name_of(number: int | None) -> str:
    return errno.errorcode.get(number or errno.ETIMEDOUT, str(number))


def attempt(do: Callable[[], object]) -> str:
    """ "ok", or the name of the errno that it was refused with."""
    try:
        do()
    except OSError as refused:
        return name_of(refused.errno)
    except ValueError:  # setrlimit's, for EPERM
        return "EPERM"
    return "ok"


def seen(look: Callable[[], object]) -> object:
    """What a look gives; None where it is refused."""
    try:
        return look()
    except OSError:
        return None


def text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


# ------------------------------------------------------------------------------- look


def look(asked: dict[str, Any]) -> dict[str, Any]:
    fds = descriptors()  # before anything else is opened
    return {
        "fds": fds,
        "umask": umask(),
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "session": os.getsid(0),
        "processes": sorted(int(n) for n in os.listdir("/proc") if n.isdigit()),
        "status": seen(lambda: status("self")),
        "uid_map": seen(lambda: text("/proc/self/uid_map").split()),
        "gid_map": seen(lambda: text("/proc/self/gid_map").split()),
        "user_namespaces": seen(lambda: text("/proc/sys/user/max_user_namespaces")),
        "namespaces": seen(namespaces),
        "mounts": seen(lambda: text("/proc/self/mountinfo").splitlines()),
        "securebits": LIBC.prctl(27, 0, 0, 0, 0),
        "limits": {
            name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")))
            for name in asked["limits"]
        },
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduling": os.sched_getscheduler(0),
        "own_proc": seen(lambda: os.stat("/proc/self/environ").st_uid == os.getuid()),
        "environ": dict(os.environ),
        "proc_environ": seen(lambda: text("/proc/self/environ")),
        "cmdline": seen(lambda: text("/proc/self/cmdline").split("\0")),
        "argv": sys.argv,
        "hostname": socket.gethostname(),
        "interfaces": {name: is_up(name) for _, name in socket.if_nameindex()},
        "root": sorted(os.listdir("/")),
        "devices": {name: device(f"/dev/{name}") for name in in_dev()},
        "granted": {path: granted(path) for path in asked["devices"]},
        "terminal": attempt(terminal),
        "etc": {name: seen(partial(text, f"/etc/{name}")) or "" for name in ETC},
        "memory": {path: memory(path) for path in asked["memory"]},
        "paths": {path: entry(path) for path in asked["paths"]},
        "hidden": {path: attempt(partial(os.lstat, path)) for path in asked["hidden"]},
        "uncovered": attempt(reopen),
        "tcp": attempt(bind_tcp),
    }


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            os.fstat(int(name))  # the one that lists is closed by now
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def status(process: object) -> dict[str, str]:
    lines = text(f"/proc/{process}/status").split("\n")
    pairs = (line.partition(":") for line in lines)
    return {key: " ".join(value.split()) for key, _, value in pairs}


def namespaces() -> dict[str, str]:
    return {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")}


def is_up(interface: str) -> bool | str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("16sH22x", interface.encode(), 0)
        try:
            flags = struct.unpack("16sH22x", fcntl.ioctl(sock, 0x8913, asked))[1]
        except OSError as refused:
            return name_of(refused.errno)
    return bool(flags & 1)  # SIOCGIFFLAGS, IFF_UP (netdevice(7))


def in_dev() -> list[str]:
    """Everything there, save what the terminals and the shared memory are."""
    found: list[str] = []
    for top, directories, files in os.walk("/dev"):
        found += (os.path.relpath(f"{top}/{n}", "/dev") for n in files + directories)
        if top == "/dev":
            directories[:] = [n for n in directories if n not in ("pts", "shm")]
    return sorted(found)


def device(path: str) -> list[int] | None:
    """Its numbers; None for what is no device."""
    status_ = os.stat(path) if os.path.exists(path) else None
    kinds = stat.S_IFCHR, stat.S_IFBLK
    if status_ is None or stat.S_IFMT(status_.st_mode) not in kinds:
        return None
    return [os.major(status_.st_rdev), os.minor(status_.st_rdev)]


def granted(path: str) -> dict[str, object]:
    """Whether it is our own, and what comes of opening it."""
    own = seen(lambda: os.stat(path).st_uid == os.getuid())
    return {"own": own, "open": attempt(partial(open_node, path))}


def terminal() -> None:
    for fd in os.openpty():
        os.close(fd)


def memory(path: str) -> dict[str, object]:
    """A place in memory: how much fits, whether it can be written and executed in."""
    try:
        space = os.statvfs(path)
    except OSError as refused:
        return {"write": name_of(refused.errno), "size": 0, "exec": ""}
    program = f"{path}/.isolauncher-live"
    made = attempt(lambda: write_program(program))
    # It has no format that the kernel knows: where it may run at all, ENOEXEC.
    ran = attempt(lambda: os.execv(program, [program])) if made == "ok" else made
    with contextlib.suppress(OSError):
        os.unlink(program)
    return {"write": made, "size": space.f_blocks * space.f_frsize, "exec": ran}


def write_program(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o755)
    try:
        os.write(fd, b"\0")
    finally:
        os.close(fd)


def entry(path: str) -> dict[str, object]:
    """What is at ``path``: which file, and what may be done with it."""
    try:
        found = os.stat(path)
    except OSError as refused:
        why = name_of(refused.errno)
        return {"there": why, "read": why, "write": why}
    if stat.S_ISDIR(found.st_mode):
        return {
            "there": "ok",
            "link": os.readlink(path) if os.path.islink(path) else "",
            "file": [found.st_dev, found.st_ino],
            "read": attempt(lambda: os.listdir(path)),
            "write": attempt(lambda: touch(path)),
        }
    flags = os.O_NONBLOCK | os.O_NOCTTY
    return {
        "there": "ok",
        "link": os.readlink(path) if os.path.islink(path) else "",
        "file": [found.st_dev, found.st_ino],
        "read": attempt(lambda: os.close(os.open(path, os.O_RDONLY | flags))),
        "write": attempt(lambda: os.close(os.open(path, os.O_WRONLY | flags))),
    }


def touch(directory: str) -> None:
    path = f"{directory}/.isolauncher-live-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.unlink(path)


def reopen() -> None:
    """Standard error once more: a file of the host's that lies in no place of ours.

    By its descriptor no path is walked, and its mode lets everybody in. Only Landlock
    refuses, which has no rule for where it is.
    """
    os.close(os.open("/proc/self/fd/2", os.O_RDONLY))


def bind_tcp() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


# ----------------------------------------------------------------------------- attack

# Name: number on x86-64, on arm64; None: there is no such call.
CALLS = {
    "open": (2, None),
    "chmod": (90, None),
    "getpid": (39, 172),
    "ptrace": (101, 117),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "sethostname": (170, 161),
    "init_module": (175, 105),
    "setgroups": (116, 159),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "mbind": (237, 235),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "fchmodat": (268, 53),
    "mknodat": (259, 33),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "clone": (56, 220),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "fchmodat2": (452, 452),
    "beyond_all": (0x3FFF0000, 0x3FFF0000),
}
_kept: list[object] = []


def word(value: Any) -> ctypes.c_ulong:
    """An argument as a register holds it; what it points to is kept alive."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        value = ctypes.create_string_buffer(value)
    if isinstance(value, ctypes.Array):
        _kept.append(value)
        value = ctypes.addressof(value)
    return ctypes.c_ulong(value & 0xFFFF_FFFF_FFFF_FFFF)


def call(name: str, *arguments: object, number: int | None = None) -> str:
    """Make it in a child, for what it might change or end: "ok" or its errno's name."""
    if number is None:
        x86, arm = CALLS[name]
        number = x86 if platform.machine() == "x86_64" else arm
    if number is None:
        return "ENOSYS"
    return apart(lambda: system_call(number, arguments))


def system_call(number: int, arguments: tuple[object, ...]) -> None:
    ctypes.set_errno(0)
    if LIBC.syscall(ctypes.c_long(number), *(word(a) for a in arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")


def apart(do: Callable[[], object], seconds: int = PATIENCE_S) -> str:
    """As `attempt`, in a child of its own; "signal N" if it ends by one.

    `NO_ANSWER` if it does not come to its end.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        number = _FAILED
        try:
            signal.alarm(seconds)
            answer = attempt(do)
            number = 0 if answer == "ok" else getattr(errno, answer, _FAILED) & 255
        finally:
            os._exit(number)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended in (_FAILED, -signal.SIGALRM):
        return NO_ANSWER
    if ended < 0:
        return f"signal {-ended}"
    return "ok" if ended == 0 else name_of(ended)


def attack(asked: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Calls by the class they belong to; every one of them has to be refused.

    Root of the machine could really do them; in a sandbox nobody has its uid.
    """
    if os.geteuid() == 0:
        raise SystemExit("the probe attacks in a sandbox only, and nothing as root")
    page = ctypes.create_string_buffer(4096)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(page), 64)
    me, path = os.getpid(), f"/tmp/.isolauncher-live-{os.getpid()}"  # noqa: S108
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    answers = {
        "become root": {
            "setresuid": call("setresuid", 0, 0, 0),
            "setresgid": call("setresgid", 0, 0, 0),
            "setgroups": call("setgroups", 1, (ctypes.c_uint32 * 1)(0)),
            "setuid program": set_id(asked.get("set_id")),
        },
        "touch init": {
            "kill": attempt(lambda: os.kill(1, 0)),
            "ptrace": call("ptrace", 16, 1, 0, 0),
            "environ": attempt(lambda: read("/proc/1/environ")),
            "root": attempt(lambda: os.listdir("/proc/1/root/")),
            "memory": call("process_vm_readv", 1, vector, 1, vector, 1, 0),
            "descriptors": call("pidfd_getfd", 0, 1, 0),
        },
        "make another root": {
            "mount": call("mount", "none", "/tmp", "tmpfs", 0, 0),  # noqa: S108
            "umount2": call("umount2", "/tmp", 2),  # noqa: S108
            "pivot_root": call("pivot_root", "/tmp", "/tmp"),  # noqa: S108
            "chroot": call("chroot", "/tmp"),  # noqa: S108
            "open_tree": call("open_tree", -100, "/tmp", 1),  # noqa: S108
            "move_mount": call("move_mount", -100, "/usr", -100, "/tmp", 0),  # noqa: S108
            "fsopen": call("fsopen", "tmpfs", 0),
            "mount_setattr": call("mount_setattr", -100, "/", 0, page, 32),
            "setns": call("setns", 0, 0),
            "open_by_handle_at": call("open_by_handle_at", -100, page, 0),
        },
        "nest user namespaces": {
            "unshare": call("unshare", 0x10000000),
            "clone": call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
            "clone3": call("clone3", (ctypes.c_uint64 * 11)(0x10000000), 88),
        },
        "set-id files": {
            "chmod": attempt(lambda: os.chmod(path, 0o4755)),  # noqa: S103
            "fchmodat": call("fchmodat", -100, path, 0o6755),
            "fchmodat2": call("fchmodat2", -100, path, 0o4755, 0),
            "creat": attempt(lambda: os.close(os.open(path + "s", 0o102, 0o4755))),
            "openat2": call(
                "openat2", -100, path + "t", (ctypes.c_uint64 * 3)(0o102, 0o4755), 24
            ),
            "mknod": call("mknodat", -100, path + "n", 0o020600, 0x0103),
        },
        "kernel surface": {
            "io_uring": call("io_uring_setup", 1, page),
            "bpf": call("bpf", 0, page, 128),
            "perf_event_open": call("perf_event_open", page, 0, -1, -1, 0),
            "userfaultfd": call("userfaultfd", 1),
            "keyctl": call("keyctl", 0, -3, 0),
            "add_key": call("add_key", "user", "k", page, 1, -3),
            "request_key": call("request_key", "user", "k", 0, -3),
            "ptrace": call("ptrace", 0, 0, 0, 0),
            "kexec_load": call("kexec_load", 0, 0, 0, 0),
            "init_module": call("init_module", page, 64, ""),
            "process_vm_writev": call("process_vm_writev", me, vector, 1, vector, 1, 0),
            "mbind": call("mbind", 0, 4096, 0, 0, 0, 0),
            "no randomization": call("personality", 0x0040000),
            "set_ptracer": call("prctl", 0x59616D61, -1, 0, 0, 0),
            "a call that is none": call("beyond_all"),
            "packet sockets": attempt(lambda: socket.socket(17, 3, 0).close()),
            "netlink uevent": attempt(lambda: socket.socket(16, 3, 15).close()),
            "alg sockets": attempt(lambda: socket.socket(38, 5, 0).close()),
            "push into a terminal": push(0x5412),
            "the same, high bits set": push(0xABCD_0000_5412),
            "the filter": attempt(partial(system_call, *asked["filter"])),
            **other_ways_in(),
        },
        "machine's settings": {
            "hostname": call("sethostname", "x", 1),
            "hostname by /proc": rewrite("/proc/sys/kernel/hostname"),
            "core_pattern": rewrite("/proc/sys/kernel/core_pattern"),
            "sysrq": rewrite("/proc/sysrq-trigger", b""),
            "user namespaces": rewrite("/proc/sys/user/max_user_namespaces", b"9\n"),
            "oom score": rewrite("/proc/self/oom_score_adj", b"-1000"),
            "kmsg": attempt(lambda: read("/proc/kmsg")),
            "kcore": attempt(lambda: read("/proc/kcore")),
        },
        "more than was given": {
            f"RLIMIT_{name.upper()}": raise_limit(name)
            for name in ("nofile", "nproc", "fsize", "core", "memlock")
        }
        | {
            "nice": attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20)),
            "real time": attempt(
                lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            ),
        },
    }
    for end in ("", "s", "t", "n"):
        with contextlib.suppress(OSError):
            os.unlink(path + end)
    return answers


def set_id(program: str | None) -> str:
    """Start one that root owns and that has the bit: as whom it then runs."""
    if program is None:
        return "untried"
    try:
        child = start(program)
    except OSError as refused:
        return name_of(refused.errno)
    try:
        # Of one that has ended meanwhile too: it is not reaped yet.
        uids = status(child)["Uid"].split()
        return "ok" if set(uids) != {str(os.getuid())} else "its own uid"
    finally:
        end(child)


def start(program: str) -> int:
    """The pid of a child that has become ``program``, with nothing to read or say."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execv(program, [program])
        except OSError as why:
            os.write(writer, b"%d" % (why.errno or errno.EIO))
        finally:
            os._exit(255)
    os.close(writer)
    refused = os.read(reader, 16)
    os.close(reader)
    if refused:
        end(child)
        raise OSError(int(refused), program)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def push(request: int) -> str:
    def do() -> None:
        master, slave = os.openpty()
        try:
            number = CALLS["ioctl"][platform.machine() != "x86_64"] or -1
            system_call(number, (slave, request, b"x"))
        finally:
            os.close(master)
            os.close(slave)

    return apart(do)


def other_ways_in() -> dict[str, str]:
    """The other numbers by which x86-64's kernel can be called."""
    if platform.machine() != "x86_64":
        return {}
    return {
        "x32": call("getpid", number=0x4000_0000 | 39),
        "int 0x80": apart(int_80),
    }


def int_80() -> None:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53b814000000cd805bc3"))  # getpid of i386's table
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if ctypes.CFUNCTYPE(ctypes.c_long)(at)() < 0:
        raise OSError(errno.ENOSYS, "")


def rewrite(path: str, data: bytes | None = None) -> str:
    """Write into it what is in it already, or ``data``."""

    def do() -> None:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text(path).encode() if data is None else data)
        finally:
            os.close(fd)

    return attempt(do)


def raise_limit(name: str) -> str:
    kind = getattr(resource, f"RLIMIT_{name.upper()}")
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY:
        return "ok"
    return attempt(lambda: resource.setrlimit(kind, (hard, hard + 1)))


# -------------------------------------------------------------------------------- try


def try_all(asked: list[list[str]]) -> list[list[str]]:
    return [tried(verb, arguments) for verb, *arguments in asked]


def tried(verb: str, arguments: list[str]) -> list[str]:
    """[allowed | refused | absent, why]; "untried" for what cannot be told here."""
    try:
        said = VERBS[verb](*arguments)
    except OSError as refused:
        why = name_of(refused.errno)
        return ["absent" if why in ABSENT else "refused", why]
    except Exception as error:
        return ["untried", f"{type(error).__name__}: {error}"]
    return said if isinstance(said, list) else ["allowed", said or ""]


def read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 1)
    finally:
        os.close(fd)


def write(path: str) -> None:
    if os.path.isdir(path):
        touch(path)
        return
    try:
        # What is there stays as it is.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOCTTY, 0o600)
    except FileExistsError:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        return
    os.close(fd)
    os.unlink(path)


def list_(path: str) -> None:
    os.listdir(path)


def execute(path: str) -> None:
    """Start it and end it at once: nothing it would do is wanted."""
    end(start(path))


def address(kind: str, where: str) -> tuple[socket.socket, Any]:
    """(socket, what to connect or bind it to); hosts come as numbers."""
    if kind == "unix":
        path = "\0" + where[1:] if where.startswith("@") else where
        return socket.socket(socket.AF_UNIX), path
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    how = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    return socket.socket(family, how), (host, int(port))


def connect(kind: str, where: str) -> list[str] | None:
    sock, to = address(kind, where)
    with sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(to)
        if kind != "udp":
            return None
        # Nobody is asked when such a socket is connected: whether it gets there is
        # known when something comes back.
        sock.settimeout(1)
        sock.send(b"isolauncher-live\n")
        try:
            sock.recv(1)
        except TimeoutError:
            return ["refused", "nothing came back"]
    return None


def bind(kind: str, where: str) -> None:
    sock, to = address(kind, where)
    with sock:
        if kind == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(to)
        if kind == "tcp":
            sock.listen(1)
    if kind == "unix" and not where.startswith("@"):
        os.unlink(where)


def resolve(name: str) -> str | list[str]:
    try:
        found = socket.getaddrinfo(name, None)
    except socket.gaierror as refused:
        unknown = (socket.EAI_NONAME, socket.EAI_NODATA)
        return ["absent" if refused.errno in unknown else "refused", str(refused)]
    return found[0][4][0]


def open_device(*nodes: str) -> str | list[str]:
    said = []
    for node in nodes:
        answer = attempt(partial(open_node, node))
        if answer == "ok":
            return node
        said.append(answer)
    known = [why for why in said if why not in ABSENT]
    return ["refused" if known else "absent", ", ".join(sorted(set(known or said)))]


def open_node(node: str) -> None:
    flags = os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(node, os.O_RDWR | flags)
    except PermissionError:
        fd = os.open(node, os.O_RDONLY | flags)  # as joysticks are
    os.close(fd)


def fork(number: str) -> list[str] | None:
    """That many at once; all of them end before this returns."""
    reader, writer = os.pipe()
    children = []
    try:
        for _ in range(int(number)):
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            children.append(child)
    except OSError as refused:
        why = name_of(refused.errno)
        return ["refused", f"{why} after {len(children)}"]
    finally:
        os.close(writer)
        os.close(reader)
        for child in children:
            os.waitpid(child, 0)
    return None


def allocate(size: str) -> list[str] | None:
    """In a child, which is what the kernel ends where it ends something."""

    def do() -> None:
        rewrite("/proc/self/oom_score_adj", b"1000")
        try:
            area = mmap.mmap(-1, int(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except MemoryError:
            raise OSError(errno.ENOMEM, "") from None
        for at in range(0, int(size), mmap.PAGESIZE):
            area[at] = 1

    answer = apart(do, ALLOCATION_S)
    if answer == NO_ANSWER:
        return ["untried", f"it took more than {ALLOCATION_S} s"]
    return None if answer == "ok" else ["refused", answer]


def getenv(name: str) -> str | list[str]:
    return f"{name} is set" if name in os.environ else ["absent", f"{name} is not set"]


# -------------------------------------------------------------------------------- bus

DRIVER = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
JOURNAL = "org.laptop.sugar.DataStore"
NOBODY_THERE = ("ServiceUnknown", "NameHasNoOwner", "Spawn.")


class Bus:
    """A connection to the session's bus: as much of D-Bus as is asked here."""

    def __init__(self) -> None:
        where = os.environ["DBUS_SESSION_BUS_ADDRESS"].partition(";")[0]
        options = dict(o.split("=", 1) for o in where.partition(":")[2].split(","))
        path = options.get("path") or "\0" + options["abstract"]
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(path)
        self.serial = 0
        uid = str(os.getuid()).encode().hex().encode()
        self.sock.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._read(1)
        if not line.startswith(b"OK "):
            raise OSError(errno.EACCES, line.decode("ascii", "replace"))
        self.sock.sendall(b"BEGIN\r\n")
        self.unique = strings(self.ask("Hello")[1])[0]

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def ask(
        self, member: str, signature: str = "", body: bytes = b""
    ) -> tuple[str, bytes]:
        """A call of the bus itself."""
        return self.call(DRIVER, DRIVER_PATH, DRIVER, member, signature, body)

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: bytes = b"",
    ) -> tuple[str, bytes]:
        """(the error's name or "", the body of the answer)."""
        self.serial += 1
        fields = b""
        for number, kind, value in (
            (1, "o", path),
            (2, "s", interface),
            (3, "s", member),
            (6, "s", name),
            (8, "g", signature),
        ):
            if not value:
                continue
            fields += b"\0" * (-len(fields) % 8) + bytes((number, 1)) + kind.encode()
            fields += b"\0" + (signed(value) if kind == "g" else string(value))
        fixed = struct.pack(
            "<cBBBIII", b"l", 1, 0, 1, len(body), self.serial, len(fields)
        )
        self.sock.sendall(fixed + fields + b"\0" * (-len(fields) % 8) + body)
        while True:
            kind_, answered, error, content = self._message()
            if kind_ in (2, 3) and answered == self.serial:
                return error, content

    def _message(self) -> tuple[int, int, str, bytes]:
        fixed = self._read(16)
        _, kind, _, _, size, _, length = struct.unpack("<cBBBIII", fixed)
        fields = self._read(length + -length % 8)[:length]
        body = self._read(size)
        answered, error, at = 0, "", 0
        while at < length:
            at += -at % 8
            number, code = fields[at], fields[at + 2 : at + 3]
            at += 4
            if code == b"g":
                at += fields[at] + 2
                continue
            (value,) = struct.unpack_from("<I", fields, at)
            at += 4
            if code in (b"s", b"o"):
                if number == 4:
                    error = fields[at : at + value].decode()
                at += value + 1
            elif number == 5:
                answered = value
        return kind, answered, error, body

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise OSError(errno.ECONNRESET, "the bus has hung up")
            data += more
        return data


def string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def signed(value: str) -> bytes:
    return bytes((len(value),)) + value.encode() + b"\0"


def strings(body: bytes, at: int = 0) -> list[str]:
    """Of a body that is made of strings from ``at`` on."""
    found = []
    while at < len(body):
        at += -at % 4
        (size,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size + 1
    return found


def call_name(name: str, method: str, path: str) -> list[str] | None:
    """Whether a call gets to whoever owns a name.

    Of ``method`` it is one with arguments that nobody takes: what it does is not
    wanted, and that it was heard is told by any answer.
    """
    if "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        return ["absent", "there is no session bus"]
    interface, _, member = method.rpartition(".")
    odd = ("(tt)", bytes(16)) if interface != f"{DRIVER}.Peer" else ("", b"")
    with Bus() as bus:
        error, _ = bus.call(name, path, interface, member, *odd)
    last = error.removeprefix(f"{DRIVER}.Error.")
    if last.startswith(NOBODY_THERE):
        return ["absent", last]
    if last in ("AccessDenied", "NoReply", "Disconnected"):
        return ["refused", last]
    return ["allowed", f"it answered {last}" if last else "it answered"]


def bus(asked: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "accessibility": attempt(accessibility),
        "address": os.environ.get("DBUS_SESSION_BUS_ADDRESS"),
    }
    if said["address"] is None:
        return said
    try:
        with Bus() as connection:
            said["connected"] = "ok"
            said["own"] = {name: own(connection, name) for name in asked["own"]}
            if asked["foreign"]:
                said["foreign"] = own(connection, asked["foreign"])
            said["names"] = [
                name
                for name in strings(connection.ask("ListNames")[1], 4)
                if name != connection.unique
            ]
            rule = string("eavesdrop='true'")
            said["eavesdrop"] = connection.ask("AddMatch", "s", rule)[0] or "ok"
            if asked["journal"]:
                said["journal"] = journal(connection)
    except OSError as refused:
        said.setdefault("connected", name_of(refused.errno or errno.ETIMEDOUT))
        said["why"] = str(refused)
    return said


def own(connection: Bus, name: str) -> str:
    error, body = connection.ask("RequestName", "su", pad(string(name)) + bytes(4))
    if error:
        return error
    return "ok" if struct.unpack_from("<I", body)[0] in (1, 4) else "another has it"


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def journal(connection: Bus) -> list[Any]:
    """[error or "", how many objects of the person's Journal there are here]."""
    words = ("a{sv}as", bytes(12))
    path = "/org/laptop/sugar/DataStore"
    error, body = connection.call(JOURNAL, path, JOURNAL, "find", *words)
    return [error, 0 if error else struct.unpack("<I", body[-4:])[0]]


def accessibility() -> None:
    where = os.environ.get("AT_SPI_BUS_ADDRESS", "")
    if not where.startswith("unix:path="):
        raise OSError(errno.ENOENT, "")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(where.removeprefix("unix:path=").partition(",")[0])


# ---------------------------------------------------------------------------- display


def display(asked: dict[str, Any]) -> dict[str, Any]:
    name = os.environ.get("DISPLAY")
    number = (name or ":0").rpartition(":")[2].partition(".")[0]
    path = f"/tmp/.X11-unix/X{number}"  # noqa: S108 (where Xlib looks)
    return {
        "name": name,
        "socket": attempt(lambda: os.close(setup(path).detach())),
        "abstract": attempt(lambda: os.close(setup(f"\0{path}").detach())),
    }


def setup(path: str) -> socket.socket:
    """A connection that the server has accepted (X11 protocol, "Connection Setup")."""
    cookie = b""
    with contextlib.suppress(OSError, KeyError):
        with open(os.environ["XAUTHORITY"], "rb") as file:
            data = file.read()
        # The last entry's last field: there is one of one display.
        cookie = data[-16:] if b"MIT-MAGIC-COOKIE-1" in data else b""
    name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(PATIENCE_S)
        sock.connect(path)
        sock.sendall(
            struct.pack("<cxHHHHxx", b"l", 11, 0, len(name), len(cookie))
            + pad(name)
            + cookie
        )
        if sock.recv(1) != b"\1":
            raise OSError(errno.EACCES, "the display refuses")
    except BaseException:
        sock.close()
        raise
    return sock


# ------------------------------------------------------------------------------- fill


def fill(asked: dict[str, Any]) -> dict[str, str]:
    """Fill a directory beyond what it may hold; what was made is removed again.

    Whoever ends this program for it ends it while it waits.
    """
    directory, most, patience = asked["directory"], asked["bytes"], asked["seconds"]
    paths: list[str] = []
    why, left = "ok", most
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    try:
        while left > 0 and why == "ok":
            paths.append(f"{directory}/.isolauncher-live-{len(paths)}")
            size = left if largest < 0 else min(left, largest)
            why = attempt(partial(fill_one, paths[-1], size))
            left -= size
        if why == "ok":
            select.select([], [], [], patience)
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return {"said": why}


def fill_one(path: str, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------- main

VERBS: dict[str, Callable[..., Any]] = {
    "read": read,
    "write": write,
    "list": list_,
    "exec": execute,
    "connect": connect,
    "bind": bind,
    "resolve": resolve,
    "call": call_name,
    "open": open_device,
    "fork": fork,
    "allocate": allocate,
    "getenv": getenv,
}

ANSWERS: dict[str, Callable[[Any], object]] = {
    "look": look,
    "attack": attack,
    "try": try_all,
    "bus": bus,
    "display": display,
    "fill": fill,
}


def main() -> None:
    for line in sys.stdin:
        ((name, asked),) = json.loads(line).items()
        json.dump({name: ANSWERS[name](asked)}, sys.stdout)
        print(flush=True)


if __name__ == "__main__":
    main()
