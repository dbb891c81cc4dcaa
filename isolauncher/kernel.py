# SPDX-License-Identifier: GPL-3.0-or-later
"""Each system call as one thin typed function, and a twin that records.

What is here: the calls a launch makes, each raising `OSError` with the kernel's own
answer, and nothing decided. What is not: any order, any policy. Outside ``zygote/``
this is the only importer of ctypes and of python-prctl.

`Linux` is the real one. `Recorder` wraps a kernel (or none), writes down every call
by name and can refuse the Nth: the tests use it to make each step fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import resource
import signal
import socket
import stat
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import prctl

# Numbers of calls that glibc 2.36 has no function for, or one that does more. Above
# 423 every architecture has the same number (arch/*/entry/syscalls/syscall_64.tbl,
# asm-generic/unistd.h).
_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        **{"pivot_root": 155, "keyctl": 250, "seccomp": 317, "rt_sigaction": 13},
        **{"setresuid": 117, "setresgid": 119, "renameat2": 316, "statx": 332},
    },
    "aarch64": {
        **{"pivot_root": 41, "keyctl": 219, "seccomp": 277, "rt_sigaction": 134},
        **{"setresuid": 147, "setresgid": 149, "renameat2": 276, "statx": 291},
    },
}
_COMMON = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
AT_STATX_DONT_SYNC = 0x4000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_IDMAP = 0x00100000
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1
PR_SET_MM = 35
PR_SET_MM_MAP = 14
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28

# linux/landlock.h. A right that the running kernel does not know is left out by
# `landlock_rights`, which is what the header's own compatibility table asks for.
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
FS_EXECUTE = 1 << 0
FS_WRITE_FILE = 1 << 1
FS_READ_FILE = 1 << 2
FS_READ_DIR = 1 << 3
FS_REMOVE_DIR = 1 << 4
FS_REMOVE_FILE = 1 << 5
FS_MAKE_CHAR = 1 << 6
FS_MAKE_DIR = 1 << 7
FS_MAKE_REG = 1 << 8
FS_MAKE_SOCK = 1 << 9
FS_MAKE_FIFO = 1 << 10
FS_MAKE_BLOCK = 1 << 11
FS_MAKE_SYM = 1 << 12
FS_REFER = 1 << 13
FS_TRUNCATE = 1 << 14
FS_IOCTL_DEV = 1 << 15
NET_BIND_TCP = 1 << 0
NET_CONNECT_TCP = 1 << 1
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

FS_READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
FS_FILE_ONLY = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV


def landlock_rights(abi: int) -> tuple[int, int, int]:
    """What a kernel of this Landlock ABI can handle: (files, network, scopes)."""
    files = (1 << 13) - 1
    if abi >= 2:
        files |= FS_REFER
    if abi >= 3:
        files |= FS_TRUNCATE
    if abi >= 5:
        files |= FS_IOCTL_DEV
    net = NET_BIND_TCP | NET_CONNECT_TCP if abi >= 4 else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= 6 else 0
    return files, net, scopes


# Locked NOROOT and NO_SETUID_FIXUP: neither an exec nor a change of uid gives a
# capability back; KEEP_CAPS off and locked; no ambient ones (capabilities(7)).
SECUREBITS = 0b11101111

RLIMITS: Mapping[str, int] = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "data": resource.RLIMIT_DATA,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """What a call that is meant to be refused came back with; errno 0: it worked."""

    errno: int


class Kernel(Protocol):
    """The calls of a launch. Every one raises OSError when the kernel says no."""

    def setsid(self) -> None: ...
    def join_session_keyring(self) -> None: ...
    def mkdir(self, path: str, mode: int) -> None: ...
    def symlink(self, target: str, path: str) -> None: ...
    def chown(self, path: str, owner: int) -> None: ...
    def mknod(self, path: str, mode: int, major: int, minor: int) -> None: ...
    def write_file(self, path: str, data: bytes) -> None: ...
    def create_file(self, path: str, data: bytes, mode: int) -> None: ...
    def unshare(self, flags: int) -> None: ...
    def namespace(self, name: str) -> str: ...
    def setns(self, fd: int, kind: int) -> None: ...
    def join_namespaces(self, pid: int, flags: int) -> None: ...
    def make_private(self) -> None: ...
    def shares_mounts(self) -> bool: ...
    def mount(
        self, source: str, target: str, kind: str, flags: int, data: str
    ) -> None: ...
    def detached_mount(
        self, kind: str, options: Mapping[str, str], attributes: int
    ) -> int: ...
    def open_tree(self, fd: int, *, recursive: bool) -> int: ...
    def mount_setattr(
        self, fd: int, *, set_: int, recursive: bool, userns: int = -1
    ) -> None: ...
    def move_mount(self, fd: int, target: int) -> None: ...
    def unmount(self, path: str) -> None: ...
    def openat2(self, dirfd: int, path: str, flags: int, resolve: int) -> int: ...
    def pivot_root(self, new: int) -> None: ...
    def sethostname(self, name: str) -> None: ...
    def schedule_normally(self) -> None: ...
    def setpriority(self, nice: int) -> None: ...
    def dup2(self, fd: int, target: int) -> None: ...
    def reset_signals(self) -> None: ...
    def umask(self, mask: int) -> None: ...
    def setrlimit(self, name: str, soft: int, hard: int) -> None: ...
    def setgroups(self, groups: tuple[int, ...]) -> None: ...
    def setresgid(self, gid: int) -> None: ...
    def setresuid(self, uid: int) -> None: ...
    def drop_bounding_set(self) -> None: ...
    def lock_securebits(self) -> None: ...
    def securebits(self) -> int: ...
    def clear_capabilities(self) -> None: ...
    def no_new_privs(self) -> None: ...
    def set_dumpable(self, *, dumpable: bool) -> None: ...
    def set_name(self, name: str) -> None: ...
    def set_argument_area(
        self, argv: tuple[bytes, ...], environ: tuple[bytes, ...]
    ) -> None: ...
    def landlock_abi(self) -> int: ...
    def landlock_ruleset(self, files: int, net: int, scopes: int) -> int: ...
    def landlock_allow(self, ruleset: int, fd: int, rights: int) -> None: ...
    def landlock_restrict(self, ruleset: int) -> None: ...
    def close_except(self, keep: frozenset[int]) -> None: ...
    def seccomp(self, program: bytes) -> None: ...
    def probe(self, number: int, arguments: tuple[int, ...]) -> ProbeAnswer: ...
    def loopback_up(self) -> None: ...


# What the kernel reads is bytes of these forms, and not a ctypes.Structure, which has a
# dozen objects, each on a page that a forked child would have to copy.
_LANDLOCK_ATTR = struct.Struct("=QQQ")
"""struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped"""
_PATH_BENEATH = struct.Struct("=Qi")
"""struct landlock_path_beneath_attr: allowed_access, parent_fd (packed)"""
_MOUNT_ATTR = struct.Struct("=QQQQ")
"""struct mount_attr: attr_set, attr_clr, propagation, userns_fd"""
_OPEN_HOW = struct.Struct("=QQQ")
"""struct open_how: flags, mode, resolve"""
_SOCK_FPROG = struct.Struct("@HP")
"""struct sock_fprog: len, filter"""
_MM_MAP = struct.Struct("=12QII")
"""struct prctl_mm_map (linux/prctl.h): start_code, end_code, start_data, end_data,
start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end, auxv, auxv_size,
exe_fd"""


class OpenPath:
    """openat2(2) of a path, O_PATH, as often as wanted; all is made beforehand."""

    def __init__(self, path: str, resolve: int) -> None:
        how = _OPEN_HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, resolve)
        place = os.fsencode(path)
        self._arguments = (_number("openat2"), AT_FDCWD, place, how, len(how), 0, 0)

    def open(self) -> int:
        return _check(_libc_syscall(*self._arguments), "openat2")


def _number(name: str) -> int:
    if name in _COMMON:
        return _COMMON[name]
    machine = platform.machine() if _MACHINE is None else _MACHINE
    try:
        return _NUMBERS[machine][name]
    except KeyError:
        raise OSError(
            errno.ENOSYS, f"{name} has no number here for {machine!r}"
        ) from None


# platform.machine() reads uname once per process; kept so that a forked child does
# not carry a filled platform cache into the activity.
_MACHINE: str | None = os.uname().machine

_libc = ctypes.CDLL(None, use_errno=True)
_int, _pointer = ctypes.c_int, ctypes.c_void_p


def _function(name: str, *arguments: type, result: type = _int) -> Callable[..., int]:
    """One of the C library's, which takes Python's own numbers and bytes.

    Looked up here and not at the first call: in a forked child each step of that would
    copy a page, and so would each number wrapped by hand.
    """
    found = _libc[name]
    found.argtypes = arguments
    found.restype = result
    return found


# A number is an address to a c_void_p, so that each argument may be either; the kernel
# takes of it what it wants, 32 bits or all (sign extended, as AT_FDCWD is).
_libc_syscall = _function(
    "syscall", ctypes.c_long, *(_pointer,) * 6, result=ctypes.c_long
)
_unshare = _function("unshare", _int)
_setns = _function("setns", _int, _int)
_mount = _function("mount", *(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = _function("umount2", ctypes.c_char_p, _int)
_prctl = _function("prctl", _int, *(_pointer,) * 4)
_capset = _function("capset", _pointer, _pointer)
_sigprocmask = _function("sigprocmask", _int, _pointer, _pointer)
_sbrk = _function("sbrk", ctypes.c_long, result=_pointer)
_fstatfs = _function("fstatfs", _int, _pointer)
_inotify_init1 = _function("inotify_init1", _int)
_inotify_add_watch = _function(
    "inotify_add_watch", _int, ctypes.c_char_p, ctypes.c_uint32
)
_inotify_rm_watch = _function("inotify_rm_watch", _int, _int)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(
    name: str,
    first: int | bytes | None = 0,
    second: int | bytes | None = 0,
    third: int | bytes | None = 0,
    fourth: int | bytes | None = 0,
    fifth: int | bytes | None = 0,
) -> int:
    number = _number(name)
    return _check(_libc_syscall(number, first, second, third, fourth, fifth, 0), name)


# struct __user_cap_header_struct of version 3, and two of __user_cap_data_struct
# (linux/capability.h); the kernel may write to the first.
_OF_CALLER = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = bytes(24)
_DEFAULT_ACTION = bytes(32)
"""The kernel's struct sigaction: SIG_DFL, no flags, empty mask."""
_NO_SIGNALS = bytes(128)
_SIG_SETMASK = 2
_UNTOUCHABLE = (int(signal.SIGKILL), int(signal.SIGSTOP))


class Linux:
    """The kernel itself."""

    def setsid(self) -> None:
        os.setsid()

    def join_session_keyring(self) -> None:
        # A new anonymous keyring: the session's keys of whoever started us stay there
        # (keyctl(2)). ENOSYS: a kernel without keys has none to leak.
        try:
            _syscall("keyctl", KEYCTL_JOIN_SESSION_KEYRING)
        except OSError as e:
            if e.errno != errno.ENOSYS:
                raise

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def chown(self, path: str, owner: int) -> None:
        os.chown(path, owner, owner, follow_symlinks=False)

    def mknod(self, path: str, mode: int, major: int, minor: int) -> None:
        """A character device; ``mode`` is what it lets its owner do."""
        os.mknod(path, mode | stat.S_IFCHR, os.makedev(major, minor))

    def write_file(self, path: str, data: bytes) -> None:
        # One write(2), unbuffered: the id maps and cgroup files take their value in a
        # single call, and a buffered close would lose the error.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError(errno.EIO, f"{path}: only {written} bytes written")

    def create_file(self, path: str, data: bytes, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def unshare(self, flags: int) -> None:
        _check(_unshare(flags), "unshare")

    def namespace(self, name: str) -> str:
        """Which one of a kind this process is in (namespaces(7))."""
        return os.readlink(f"/proc/self/ns/{name}")

    def setns(self, fd: int, kind: int) -> None:
        _check(_setns(fd, kind), "setns")

    def join_namespaces(self, pid: int, flags: int) -> None:
        """Those of a process, its root becoming ours with its mounts (setns(2))."""
        fd = os.pidfd_open(pid)
        try:
            self.setns(fd, flags)
        finally:
            os.close(fd)

    def make_private(self) -> None:
        self.mount("", "/", "", MS_REC | MS_PRIVATE, "")

    def shares_mounts(self) -> bool:
        """Whether any mount here still propagates to another namespace."""
        text = read_all("/proc/self/mountinfo")
        # A path may have the word in it; without the word none is shared.
        return b" shared:" in text and any(
            b" shared:" in line.partition(b" - ")[0] for line in text.splitlines()
        )

    def mount(self, source: str, target: str, kind: str, flags: int, data: str) -> None:
        result = _mount(
            source.encode() or None,
            os.fsencode(target),
            kind.encode() or None,
            flags,
            data.encode() or None,
        )
        _check(result, f"mount {target}")

    def detached_mount(
        self, kind: str, options: Mapping[str, str], attributes: int
    ) -> int:
        context = _syscall("fsopen", kind.encode(), FSOPEN_CLOEXEC)
        try:
            for key, value in options.items():
                word, text = key.encode(), value.encode()
                _syscall("fsconfig", context, FSCONFIG_SET_STRING, word, text)
            _syscall("fsconfig", context, FSCONFIG_CMD_CREATE)
            return _syscall("fsmount", context, FSMOUNT_CLOEXEC, attributes)
        finally:
            os.close(context)

    def open_tree(self, fd: int, *, recursive: bool) -> int:
        flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
        if recursive:
            flags |= AT_RECURSIVE
        return _syscall("open_tree", fd, b"", flags)

    def mount_setattr(
        self, fd: int, *, set_: int, recursive: bool, userns: int = -1
    ) -> None:
        # A clone is a peer of what it was cloned from, where that is shared (as systemd
        # makes "/"): what is mounted there later would show in the sandbox.
        mapped = userns >= 0
        attr = _MOUNT_ATTR.pack(
            set_ | MOUNT_ATTR_IDMAP if mapped else set_,
            0,
            MS_PRIVATE,
            userns if mapped else 0,
        )
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
        _syscall("mount_setattr", fd, b"", flags, attr, len(attr))

    def move_mount(self, fd: int, target: int) -> None:
        flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        _syscall("move_mount", fd, b"", target, b"", flags)

    def unmount(self, path: str) -> None:
        flags = MNT_DETACH | UMOUNT_NOFOLLOW
        _check(_umount2(os.fsencode(path), flags), "umount2")

    def openat2(self, dirfd: int, path: str, flags: int, resolve: int) -> int:
        how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
        return _syscall("openat2", dirfd, os.fsencode(path), how, len(how))

    def pivot_root(self, new: int) -> None:
        # pivot_root(".", ".") stacks the old root on the new one, so that no directory
        # for it is needed; to detach "." then takes the old one away (pivot_root(2)).
        os.fchdir(new)
        _syscall("pivot_root", b".", b".")
        os.chdir("/")

    def sethostname(self, name: str) -> None:
        socket.sethostname(name)

    def schedule_normally(self) -> None:
        # No right is needed to come down (sched(7), "Privileges and resource limits").
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def setpriority(self, nice: int) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)

    def dup2(self, fd: int, target: int) -> None:
        os.dup2(fd, target, inheritable=True)

    def reset_signals(self) -> None:
        # Below the C library, which keeps 32 and 33 for itself and refuses to touch
        # them, though whoever started us may have had them ignored.
        for number in range(1, 65):
            if number not in _UNTOUCHABLE:
                _syscall("rt_sigaction", number, _DEFAULT_ACTION, None, 8)
        _check(_sigprocmask(_SIG_SETMASK, _NO_SIGNALS, None), "sigprocmask")

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def setrlimit(self, name: str, soft: int, hard: int) -> None:
        try:
            resource.setrlimit(RLIMITS[name], (soft, hard))
        except ValueError as e:
            # What the module makes of EINVAL and EPERM.
            raise OSError(errno.EPERM, f"limit {name}: {e}") from None

    def setgroups(self, groups: tuple[int, ...]) -> None:
        os.setgroups(list(groups))

    def setresgid(self, gid: int) -> None:
        os.setresgid(gid, gid, gid)
        if os.getresgid() != (gid, gid, gid):
            raise OSError(errno.EPERM, f"the gid is {os.getresgid()}, not {gid}")

    def setresuid(self, uid: int) -> None:
        os.setresuid(uid, uid, uid)
        if os.getresuid() != (uid, uid, uid):
            raise OSError(errno.EPERM, f"the uid is {os.getresuid()}, not {uid}")

    def drop_bounding_set(self) -> None:
        # One by one until the kernel says EINVAL. python-prctl knows the names of its
        # own headers only; what a newer kernel has beyond them is dropped by number.
        for capability in range(64):
            try:
                if capability <= prctl.CAP_LAST_CAP:
                    prctl.capbset_drop(capability)
                else:
                    result = _prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
                    _check(result, "prctl PR_CAPBSET_DROP")
            except OSError as e:
                if e.errno == errno.EINVAL and capability > 0:
                    return
                raise

    def lock_securebits(self) -> None:
        # python-prctl refuses the two bits about ambient capabilities (Linux 4.3):
        # its own first, then all by number. Locked ones may be set again as they are.
        prctl.set_securebits(SECUREBITS & 0b111111)
        result = _prctl(PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0)
        _check(result, "prctl PR_SET_SECUREBITS")

    def securebits(self) -> int:
        return int(prctl.get_securebits())

    def clear_capabilities(self) -> None:
        # All three sets at once, and the ambient one with them (capset(2)); by
        # python-prctl it would be a call for each capability.
        _check(_capset(_OF_CALLER, _NO_CAPABILITIES), "capset")

    def no_new_privs(self) -> None:
        prctl.set_no_new_privs(1)
        if prctl.get_no_new_privs() != 1:
            raise OSError(errno.EPERM, "no_new_privs did not stay set")

    def set_dumpable(self, *, dumpable: bool) -> None:
        prctl.set_dumpable(1 if dumpable else 0)

    def set_name(self, name: str) -> None:
        prctl.set_name(name)

    def set_argument_area(
        self, argv: tuple[bytes, ...], environ: tuple[bytes, ...]
    ) -> None:
        """Let /proc/self/{cmdline,environ} show these, from memory of our own.

        PR_SET_MM_MAP asks for no capability, unlike the other forms of PR_SET_MM
        (kernel/sys.c), but for every address at once: those we do not change are read
        from /proc/self/stat.
        """
        arguments = b"".join(a + b"\0" for a in argv)
        variables = b"".join(e + b"\0" for e in environ)
        area = array("B", arguments + variables + b"\0")
        _AREAS.append(area)  # lives as long as the process: the kernel reads it
        start, _ = area.buffer_info()
        middle = start + len(arguments)
        values = _MM_MAP.pack(
            *_layout()[:5],
            _sbrk(0),
            _layout()[5],
            *(start, middle, middle, middle + len(variables)),
            *(0, 0, 0xFFFFFFFF),
        )
        result = _prctl(PR_SET_MM, PR_SET_MM_MAP, values, len(values), 0)
        _check(result, "prctl PR_SET_MM_MAP")

    def landlock_abi(self) -> int:
        """0 where the kernel has no Landlock or was booted without it."""
        try:
            return _syscall(
                "landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION
            )
        except OSError as e:
            if e.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                return 0
            raise

    def landlock_ruleset(self, files: int, net: int, scopes: int) -> int:
        attr = _LANDLOCK_ATTR.pack(files, net, scopes)
        # An older kernel takes a shorter structure; a longer one only if the rest is 0.
        size = 24 if scopes else 16 if net else 8
        return _syscall("landlock_create_ruleset", attr, size, 0)

    def landlock_allow(self, ruleset: int, fd: int, rights: int) -> None:
        rule = _PATH_BENEATH.pack(rights, fd)
        _syscall("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)

    def landlock_restrict(self, ruleset: int) -> None:
        _syscall("landlock_restrict_self", ruleset, 0)

    def close_except(self, keep: frozenset[int]) -> None:
        first = 0
        for fd in [*sorted(keep), 1 << 32]:
            if fd > first:
                _syscall("close_range", first, min(fd - 1, 0xFFFFFFFF), 0)
            first = fd + 1

    def seccomp(self, program: bytes) -> None:
        instructions = array("B", program)
        start, length = instructions.buffer_info()
        fprog = _SOCK_FPROG.pack(length // 8, start)
        _syscall("seccomp", SECCOMP_SET_MODE_FILTER, 0, fprog)

    def probe(self, number: int, arguments: tuple[int, ...]) -> ProbeAnswer:
        given = (*arguments, *(0,) * (6 - len(arguments)))
        result = _libc_syscall(number, *given)
        return ProbeAnswer(errno=ctypes.get_errno() if result < 0 else 0)

    def loopback_up(self) -> None:
        loopback()()


@functools.cache
def loopback() -> Callable[[], None]:
    """What brings it up; the import is large, and made by the first who asks.

    A zygote asks: init is to import nothing.
    """
    from .netlink import loopback_up

    return loopback_up


_AREAS: list[object] = []


@functools.cache
def _layout() -> tuple[int, int, int, int, int, int]:
    """Where the program lies in memory: of all children, too, until they exec.

    As `_MM_MAP` has it, from start_code to start_brk, and start_stack.
    """
    with open("/proc/self/stat", "rb") as f:
        stat = f.read().rpartition(b")")[2].split()
    # proc(5) counts from 1 and we cut off two fields: startcode 26 is index 23.
    code, end_code, stack, data, end_data, brk = (
        int(stat[n]) for n in (23, 24, 25, 42, 43, 44)
    )
    return code, end_code, data, end_data, brk, stack


# Inotify, for the daemon's watches (inotify(7)).
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK


def rename(directory: int, one: str, other: str, *, exchange: bool = False) -> None:
    """Rename within a directory, never over another file; or exchange the two."""
    flags = RENAME_EXCHANGE if exchange else RENAME_NOREPLACE
    names = os.fsencode(one), os.fsencode(other)
    _syscall("renameat2", directory, names[0], directory, names[1], flags)


def inotify_init() -> int:
    """A non-blocking, close-on-exec inotify descriptor."""
    return _check(_inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    result = _inotify_add_watch(fd, os.fsencode(path), mask)
    return _check(result, f"inotify_add_watch {path}")


def inotify_rm_watch(fd: int, number: int) -> None:
    _check(_inotify_rm_watch(fd, number), "inotify_rm_watch")


@contextlib.contextmanager
def nobody(number: int) -> Iterator[None]:
    """For a while: no groups, this uid and gid, no effective capability.

    All three ids of each kind, since a library that finds two of them to differ takes
    itself to be in a setuid program, and remembers (libdbus does). PR_SET_KEEPCAPS
    leaves the permitted set when the uid goes, so that root can come back; the kernel
    clears the effective set with the uid and refills it (capabilities(7)).
    """
    os.setgroups([])
    os.setresgid(number, number, number)
    prctl.set_keepcaps(1)
    os.setresuid(number, number, number)
    try:
        yield
    finally:
        prctl.cap_effective.setuid = True
        # glibc's own would change every thread, and abort the process where one has
        # no capability: what was imported may have started one, and is to be told of.
        _syscall("setresuid", 0, 0, 0)
        prctl.set_keepcaps(0)
        _syscall("setresgid", 0, 0, 0)


def is_tty(fd: int) -> bool:
    return os.isatty(fd)


def access_mode(fd: int) -> int:
    """F_GETFL of a descriptor: O_PATH and the access mode are what we ask about."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


# statfs(2), f_type: ext2 to ext4, tmpfs, btrfs, xfs, f2fs, ramfs, squashfs, overlayfs
# and hugetlbfs.
_LOCAL = frozenset(
    {
        *(0xEF53, 0x01021994, 0x9123683E, 0x58465342, 0xF2F52010, 0x858458F6),
        *(0x73717368, 0x794C7630, 0x958458F6),
    }
)


FUSE_SUPER_MAGIC = 0x65735546
OVERLAYFS_SUPER_MAGIC = 0x794C7630
PROC_SUPER_MAGIC = 0x9FA0
TMPFS_MAGIC = 0x01021994


def read_all(path: str) -> bytes:
    """All of a file of the kernel's, which tells no size beforehand."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while block := os.read(fd, 1 << 16):
            data += block
    finally:
        os.close(fd)
    return data


def device(fd: int) -> tuple[int, int]:
    """Major and minor number of its file system, for which no server is asked.

    By statx(2), of nothing else and as the kernel knows it (AT_STATX_DONT_SYNC).
    """
    found = bytearray(256)
    place = (ctypes.c_char * 256).from_buffer(found)
    flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
    number = _number("statx")
    where = ctypes.addressof(place)
    _check(_libc_syscall(number, fd, b"", flags, 0, where, 0), "statx")
    major, minor = struct.unpack_from("=II", found, 136)
    return int(major), int(minor)


def file_system(fd: int) -> int:
    """The magic number of its kind (statfs(2)).

    A person's file system that is open to others (FUSE, allow_other) has its server
    asked, and may never answer: see `foreign.served`.
    """
    room = (ctypes.c_long * 32)()  # struct statfs: 120 bytes, f_type first
    _check(_fstatfs(fd, room), "fstatfs")
    return int(room[0]) & 0xFFFFFFFF


def is_local(fd: int) -> bool:
    """Whether the file system is one that only this kernel's own disks answer for."""
    return file_system(fd) in _LOCAL


def proc_is_the_kernels() -> bool:
    """Whether /proc is a procfs, which nobody but the kernel answers for."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return file_system(fd) == PROC_SUPER_MAGIC
    finally:
        os.close(fd)


def monotonic_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


_GIVE_DESCRIPTORS = frozenset(
    ("detached_mount", "open_tree", "openat2", "landlock_ruleset")
)


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Writes down every call; `refuse` may raise to stand in for the kernel's no.

    Without ``real`` every call succeeds and returns a plausible nothing; where a
    descriptor is expected, a new one of the root directory that only names it.
    """

    real: Kernel | None = None
    calls: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    refuse: Callable[[int, str], None] | None = None

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("_") or not hasattr(Kernel, name):
            raise AttributeError(name)

        def call(*args: object, **kwargs: object) -> object:
            number = len(self.calls)
            self.calls.append((name, (*args, *kwargs.values())))
            if self.refuse is not None:
                self.refuse(number, name)
            if self.real is not None:
                return getattr(self.real, name)(*args, **kwargs)
            if name == "probe":
                return ProbeAnswer(errno=errno.EPERM)
            if name == "namespace":
                return f"another every time: {number}"
            if name in _GIVE_DESCRIPTORS:
                return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return 0

        return call

    def as_kernel(self) -> Kernel:
        return cast("Kernel", self)


def end_with(parent: int, number: int) -> None:
    """In a child: get signal ``number`` when ``parent`` has ended, or has already.

    Not for a child that changes its uid, which would clear it (prctl(2)).
    """
    prctl.set_pdeathsig(number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def title(text: str) -> None:
    """What ps shows of this process; cosmetic, so a kernel that refuses is let be."""
    linux = Linux()
    linux.set_name("isolauncher")
    try:  # noqa: SIM105 - a context manager is five pages more
        linux.set_argument_area((os.fsencode(text),), ())
    except OSError:
        pass


_python = ctypes.PyDLL(None, use_errno=True)
_fork = _python.fork
_before_fork = _python.PyOS_BeforeFork
_after_fork = _python.PyOS_AfterFork_Child


def fork() -> int:
    """fork(2) in a process of one thread, without what is registered for a fork.

    What the interpreter and its modules do in each child of theirs (os.fork,
    os.register_at_fork) writes to a hundred pages, which are then copied: locks are
    made anew that only another thread could hold, generators are seeded. A child that
    may need any of it calls `forked`.
    """
    return _check(_fork(), "fork")


def forked() -> None:
    """In a child of `fork`: what os.fork would have done before and after, now."""
    _before_fork()
    _after_fork()


def become(program: int, words: tuple[str, ...]) -> None:
    """Exec what a descriptor is of, with no environment; OSError where it is refused.

    By fexecve(3), which is execveat(2) with AT_EMPTY_PATH: no path is looked up.
    """
    os.execve(program, words, {})


_give_back = getattr(_libc, "malloc_trim", None)


def trim() -> None:
    """Give back the pages that malloc(3) has free, where the C library can do that."""
    if _give_back is not None:
        _give_back(0)
