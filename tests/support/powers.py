# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks for what a test needs by trying it, never by looking at uid 0 or a version.

Each asker returns None when the machine can, or the reason why not in words:

    need(namespaces("mnt", "pid"), landlock())

skips the test with that reason; with ISOLAUNCHER_MUST_WORK=1, as CI sets it, the
same reason fails it instead, so that a machine which has silently lost a power
cannot turn the tests green.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from isolauncher import kernel, netlink

Reason = str | None

CLONE = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


def must_work() -> bool:
    return os.environ.get("ISOLAUNCHER_MUST_WORK", "") not in ("", "0")


def need(*reasons: Reason) -> None:
    """Skip, or under ISOLAUNCHER_MUST_WORK fail, for the first reason there is."""
    for reason in reasons:
        if reason is None:
            continue
        if must_work():
            pytest.fail(f"must work here, but {reason}", pytrace=False)
        pytest.skip(reason)


def tried(what: str, attempt: Callable[[], object]) -> Reason:
    """Run ``attempt`` in a forked child that is thrown away; say why it failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _try_and_leave(writer, attempt)
    os.close(writer)
    with open(reader, "rb") as answer:
        words = answer.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    return f"{what}: {words or f'the child ended with wait status {status}'}"


def _try_and_leave(writer: int, attempt: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        attempt()
        status = 0
    except BaseException as why:  # whatever it was goes up the pipe
        os.write(writer, f"{type(why).__name__}: {why}".encode())
    finally:
        os._exit(status)


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def namespaces(*kinds: str) -> Reason:
    """The named kinds can be made; all of them when none is named."""
    names = kinds or tuple(CLONE)
    flags = 0
    for name in names:
        flags |= CLONE[name]
    return tried(f"cannot unshare {' '.join(names)}", lambda: _unshare(flags))


@functools.cache
def root() -> Reason:
    """The powers of root over ids: a foreign uid can be taken and a file given away."""

    def attempt() -> None:
        os.setgroups([])
        os.setresgid(70000, 70000, 70000)
        os.setresuid(70000, 70000, 70000)

    return tried("cannot become another user", attempt)


@functools.cache
def mounting() -> Reason:
    """A tmpfs can be mounted in a mount namespace of one's own."""

    def attempt() -> None:
        _unshare(CLONE["mnt"])
        libc = ctypes.CDLL(None, use_errno=True)
        private = 0x40000 | 0x4000  # MS_PRIVATE | MS_REC
        for arguments in (
            (None, b"/", None, private, None),
            (b"tmpfs", b"/tmp", b"tmpfs", 0, None),
        ):
            if libc.mount(*arguments) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    return tried("cannot mount", attempt)


@functools.cache
def sandboxes() -> Reason:
    """All that a fully confined launch needs; most tests with a daemon ask this."""
    return root() or namespaces() or mounting() or seccomp()


@functools.cache
def loopback() -> Reason:
    """A new network namespace's own interface can be brought up (CAP_NET_ADMIN)."""

    def attempt() -> None:
        kernel.Linux().unshare(kernel.CLONE_NEWNET)
        netlink.loopback_up()

    return tried("cannot bring a loopback interface up", attempt)


@functools.cache
def seccomp() -> Reason:
    """Filters can be installed and python3-seccomp can make them."""

    def attempt() -> None:
        import seccomp as libseccomp

        filter_ = libseccomp.SyscallFilter(libseccomp.ALLOW)
        filter_.add_rule(libseccomp.ERRNO(errno.ENOSYS), "acct")
        filter_.load()

    return tried("cannot install a seccomp filter", attempt)


@functools.cache
def landlock(*, abi: int = 1) -> Reason:
    """Landlock is switched on, in this version or a later one."""
    libc = ctypes.CDLL(None, use_errno=True)
    has = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if has >= abi:
        return None
    return f"Landlock ABI {abi} is wanted, the kernel has {max(has, 0)}"


@functools.cache
def cgroup(controller: str) -> Reason:
    """A group of ``controller`` can be made and removed, in version 2 or 1."""
    name = f"isolauncher-test-{uuid.uuid4().hex}"
    top = Path("/sys/fs/cgroup")
    why = f"no cgroup hierarchy has the controller {controller}"
    for place in (top, top / "unified", top / controller):
        listed = place / "cgroup.controllers"
        if place.name == controller:
            if not (place / "cgroup.procs").exists():
                continue
        elif not listed.exists() or controller not in listed.read_text().split():
            continue
        try:
            (place / name).mkdir()
            (place / name).rmdir()
        except OSError as refused:
            why = f"cannot make a cgroup: {refused}"
        else:
            return None
    return why


@functools.cache
def program(name: str) -> Reason:
    """A program that the test drives is installed."""
    return None if shutil.which(name) else f"{name} is not installed"


@functools.cache
def module(name: str) -> Reason:
    """A Python module that Debian packages is there."""

    def attempt() -> None:
        __import__(name)

    return tried(f"cannot import {name}", attempt)


def installed(*names: str) -> Reason:
    """Modules of Debian's own interpreter; a name in ``gi.repository`` is a typelib."""
    tests = [f"import {name}" for name in names]
    done = subprocess.run(
        ["/usr/bin/python3", "-W", "ignore", "-c", "\n".join(tests)],
        env={"PATH": "/usr/bin:/bin", "HOME": "/dev/null/home"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    if done.returncode == 0:
        return None
    return done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]


@functools.cache
def library(name: str) -> Reason:
    """A library that a program under test loads is installed."""
    return tried(f"cannot load {name}", lambda: ctypes.CDLL(name))


def open_descriptors() -> frozenset[int]:
    """This process's descriptors, without the one that the listing itself needs."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return frozenset(found)
