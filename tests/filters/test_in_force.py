# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel, with the filter installed, answers as the program does on paper."""

from __future__ import annotations

import errno
import json
import signal

import pytest
from support import powers

from isolauncher import filters

from . import confine

ALLOWED = 0
EPERM, ENOSYS = errno.EPERM, errno.ENOSYS

BEHIND_DESKTOP = {
    "unshare-user": EPERM,
    "unshare-all": EPERM,
    "unshare-fs": ALLOWED,
    "clone-user": EPERM,
    "clone3": ENOSYS,
    "setns": EPERM,
    "mount": EPERM,
    "umount": EPERM,
    "pivot-root": EPERM,
    "chroot": EPERM,
    "open-tree": EPERM,
    "fsopen": EPERM,
    "ptrace-traceme": EPERM,
    "process-vm-readv": EPERM,
    "process-vm-writev": EPERM,
    "pidfd-getfd": EPERM,
    "bpf": EPERM,
    "perf-event-open": EPERM,
    "userfaultfd": EPERM,
    "add-key": EPERM,
    "keyctl": EPERM,
    "request-key": EPERM,
    "io-uring": ENOSYS,
    "name-to-handle": EPERM,
    "fanotify": EPERM,
    "no-randomize": EPERM,
    "personality-query": ALLOWED,
    "set-ptracer": EPERM,
    "mbind": EPERM,
    "get-mempolicy": EPERM,
    "tiocsti": EPERM,
    "tiocsti-high": EPERM,
    "tiocsetd": EPERM,
    "tcgets": ALLOWED,
    "af-packet": errno.EAFNOSUPPORT,
    "af-alg": errno.EAFNOSUPPORT,
    "af-vsock": errno.EAFNOSUPPORT,
    "netlink-route": ALLOWED,
    "netlink-uevent": errno.EPROTONOSUPPORT,
    # The kernel's own answers, since the filter leaves ids to it.
    "setuid-0": EPERM,
    "setresuid-0": EPERM,
    "setgroups": EPERM,
    "kill-self-0": ALLOWED,
    "sethostname": EPERM,
    "newer-than-all": ENOSYS,
    "chmod": EPERM,
    "chmod-gid": EPERM,
    "fchmod": EPERM,
    "fchmodat": EPERM,
    "fchmodat2": ENOSYS,
    "open": EPERM,
    "open-tmpfile": EPERM,
    "openat2": ENOSYS,
    "mknod": EPERM,
    "mkdir": EPERM,
    "any-set-id-left": 0,
}

# What any kernel this project runs on grants to nobody: the filter's own doing.
GRANTED_WITHOUT = {
    "ptrace-traceme",
    "no-randomize",
    "netlink-uevent",
    "chmod",
    "fchmod",
    "open",
}


@pytest.fixture(autouse=True)
def _can_filter() -> None:
    powers.need(powers.seccomp())


def attacks(filter_: filters.Filter | None) -> dict[str, int]:
    done = confine.python((confine.HERE / "attacks.py").read_text(), filter_=filter_)
    assert done.returncode == 0, done.stderr
    answers: dict[str, int] = json.loads(done.stdout)
    return answers


def test_desktop_refuses_what_the_kernel_would_grant() -> None:
    without = attacks(None)
    assert {name for name, answer in without.items() if answer == 0} >= GRANTED_WITHOUT
    assert without["any-set-id-left"] == 1
    assert attacks(filters.compile("desktop")) == BEHIND_DESKTOP


def test_debug_lets_through_what_a_debugger_needs_and_nothing_else() -> None:
    tracing = ("ptrace-traceme", "process-vm-readv", "process-vm-writev")
    behind = attacks(filters.compile("debug"))
    assert behind["ptrace-traceme"] == ALLOWED
    assert {k: v for k, v in behind.items() if k not in tracing} == {
        k: v for k, v in BEHIND_DESKTOP.items() if k not in tracing
    }


def test_a_program_that_looks_sees_a_filter_and_no_new_privs() -> None:
    text = "print(open('/proc/self/status').read())"
    done = confine.python(text, filter_=filters.compile("desktop"))
    assert "Seccomp:\t2" in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout


def test_the_probe_finds_another_filter_out() -> None:
    desktop = filters.compile("desktop")
    number, args, answer = desktop.probe
    wrong = filters.Filter(
        name=desktop.name,
        arch=desktop.arch,
        bpf=desktop.bpf,
        digest=desktop.digest,
        probe=(number, (args[0], args[1] ^ 1, 0, 0, 0), answer),
    )
    done = confine.run(["true"], filter_=wrong)
    assert done.returncode != 0
    assert f"errno {ENOSYS}, not {answer}" in done.stderr


def test_garbage_in_the_mode_of_a_plain_open_does_not_matter() -> None:
    text = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.open.argtypes = ctypes.c_char_p, ctypes.c_int, ctypes.c_uint
assert libc.open(b"/etc/passwd", 0, 0xFFFFFFFF) > 2, ctypes.get_errno()
"""
    done = confine.python(text, filter_=filters.compile("desktop"))
    assert done.returncode == 0, done.stderr


if filters.NATIVE == "x86_64":
    I386_GETPID = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53" "b814000000" "cd80" "5b" "c3"))  # getpid by int 0x80
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
"""

    def test_an_i386_call_ends_the_process() -> None:
        done = confine.python(I386_GETPID, filter_=filters.compile("desktop"))
        # SIGSEGV where the kernel has no 32-bit calls at all.
        assert done.returncode in (-signal.SIGSYS, -signal.SIGSEGV)
        assert not done.stdout

    def test_an_x32_call_ends_the_process() -> None:
        text = """
import ctypes
print(ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39)), flush=True)
"""
        done = confine.python(text, filter_=filters.compile("desktop"))
        assert done.returncode == -signal.SIGSYS
        assert not done.stdout
