# SPDX-License-Identifier: GPL-3.0-or-later
"""Tries calls a sandboxed program has no business with; prints what each answered.

Run as text, by nobody and never by root: without a filter some of these work.
Prints one JSON object: name → 0 or the errno.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import tempfile

if os.geteuid() == 0:
    raise SystemExit("refuses to run as root")

X86 = platform.machine() == "x86_64"
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def call(x86: int, arm64: int | None, *args: int) -> int:
    """Makes the call by number in a child of its own; 0 or its errno."""
    number = x86 if X86 else arm64
    child = os.fork()
    if child == 0:
        ctypes.set_errno(0)
        words = [ctypes.c_ulong(arg & 0xFFFF_FFFF_FFFF_FFFF) for arg in args]
        failed = LIBC.syscall(ctypes.c_long(number or -1), *words) == -1
        os._exit(min(ctypes.get_errno(), 255) if failed else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        raise SystemExit(f"call {number} ended by signal {-status}")
    return status


def tried(attempt: object) -> int:
    try:
        attempt()  # type: ignore[operator]
    except OSError as why:
        return why.errno or 255
    return 0


def set_id_bits(place: str) -> dict[str, int]:
    path = f"{place}/program"
    with open(path, "w") as file:
        descriptor = file.fileno()
        answers = {
            "chmod": tried(lambda: os.chmod(path, 0o4755)),  # noqa: S103 - the attack
            "chmod-gid": tried(lambda: os.chmod(path, 0o2755)),  # noqa: S103 - the attack
            "fchmod": tried(lambda: os.fchmod(descriptor, 0o6755)),
            "fchmodat": call(268, 53, -100, address(path), 0o4755),
            "fchmodat2": call(452, 452, -100, address(path), 0o4755, 0),
        }
    flags = os.O_CREAT | os.O_WRONLY
    return answers | {
        "open": tried(lambda: os.open(f"{place}/made", flags, 0o4755)),
        "open-tmpfile": tried(lambda: os.open(place, os.O_TMPFILE | 1, 0o4755)),
        "openat2": call(437, 437, -100, address(f"{place}/two"), address_of_how(), 24),
        "mknod": tried(lambda: os.mknod(f"{place}/node", 0o104755)),
        "mkdir": tried(lambda: os.mkdir(f"{place}/directory", 0o2755)),
        "any-set-id-left": int(
            any(
                os.lstat(os.path.join(place, name)).st_mode & 0o6000
                for name in os.listdir(place)
            )
        ),
    }


_kept: list[object] = []


def address(text: str) -> int:
    buffer = ctypes.create_string_buffer(text.encode())
    _kept.append(buffer)
    return ctypes.addressof(buffer)


def address_of_how() -> int:
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    _kept.append(how)
    return ctypes.addressof(how)


def main() -> None:
    size = 64
    page = ctypes.create_string_buffer(4096)
    _kept.append(page)
    at = ctypes.addressof(page)
    iovec = (ctypes.c_uint64 * 2)(at, size)
    _kept.append(iovec)
    vector = ctypes.addressof(iovec)
    me = os.getpid()
    handle = os.pidfd_open(me)
    master, slave = os.openpty()
    answers = {
        "unshare-user": call(272, 97, 0x10000000),
        "unshare-all": call(272, 97, 0x7E020080),
        "unshare-fs": call(272, 97, 0x200),
        "clone-user": call(56, 220, 0x10000000 | 17, 0, 0, 0, 0),
        "clone3": call(435, 435, 0, 0),
        "setns": call(308, 268, handle, 0x10000000),
        "mount": call(165, 40, 0, 0, 0, 0, 0),
        "umount": call(166, 39, address("/proc"), 2),
        "pivot-root": call(155, 41, address("/"), address("/")),
        "chroot": call(161, 51, address("/")),
        "open-tree": call(428, 428, -100, address("/"), 0),
        "fsopen": call(430, 430, address("tmpfs"), 0),
        "ptrace-traceme": call(101, 117, 0, 0, 0, 0),
        "process-vm-readv": call(310, 270, me, vector, 1, vector, 1, 0),
        "process-vm-writev": call(311, 271, me, vector, 1, vector, 1, 0),
        "pidfd-getfd": call(438, 438, handle, 0, 0),
        "bpf": call(321, 280, 0, at, 72),
        "perf-event-open": call(298, 241, at, 0, -1, -1, 0),
        "userfaultfd": call(323, 282, 1),
        "add-key": call(248, 217, address("user"), address("k"), at, 1, -3),
        "keyctl": call(250, 219, 0, -3, 0),
        "request-key": call(249, 218, address("user"), address("k"), 0, 0),
        "io-uring": call(425, 425, 1, at),
        "name-to-handle": call(303, 264, -100, address("/"), at, vector, 0),
        "fanotify": call(300, 262, 0x200, 0),
        "no-randomize": call(135, 92, 0x0040000),
        "personality-query": call(135, 92, 0xFFFFFFFF),
        "set-ptracer": call(157, 167, 0x59616D61, -1, 0, 0, 0),
        "mbind": call(237, 235, at & ~4095, 4096, 0, 0, 0, 0),
        "get-mempolicy": call(239, 236, 0, 0, 0, 0, 0),
        "tiocsti": call(16, 29, slave, 0x5412, at),
        "tiocsti-high": call(16, 29, slave, 0xABCD_0000_5412, at),
        "tiocsetd": call(16, 29, slave, 0x5423, at),
        "tcgets": call(16, 29, slave, 0x5401, at),
        "af-packet": call(41, 198, 17, 3, 0),
        "af-alg": call(41, 198, 38, 5, 0),
        "af-vsock": call(41, 198, 40, 1, 0),
        "netlink-route": call(41, 198, 16, 3, 0),
        "netlink-uevent": call(41, 198, 16, 3, 15),
        "setuid-0": tried(lambda: os.setuid(0)),
        "setresuid-0": tried(lambda: os.setresuid(-1, 0, -1)),
        "setgroups": tried(lambda: os.setgroups([0])),
        "kill-self-0": tried(lambda: os.kill(me, 0)),
        "sethostname": call(170, 161, at, 1),
        "newer-than-all": call(0x3FFF0000, 0x3FFF0000),
    }
    os.close(master)
    with tempfile.TemporaryDirectory() as place:
        answers |= set_id_bits(place)
    json.dump(answers, sys.stdout)


main()
