# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sandbox's init becomes when nothing is left for it but to wait.

A forked interpreter has 1.8 MB of its own; to reap, to write a line and to exit takes
some hundred instructions. So init becomes another program by execveat(2): a file of
500 bytes in memory, which the daemon makes once, seals and sends along with the rest of
each plan. It holds the children, the descriptors and all that confines init, since an
exec changes none of these (execve(2)), and does what `init.wait_for` does.

Here are the file's bytes, for the processors that filters are compiled for. They come
of x86_64.S and aarch64.S beside this, by

    python3 tests/support/assembled.py

and tests/test_waiter.py assembles these again and compares byte by byte. Anywhere else,
and where the kernel refuses it, init stays what it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping

NAME = "isolauncher-init"
"""Of the memory file: /proc/PID/exe says "/memfd:isolauncher-init (deleted)"."""

PROGRAMS: Mapping[str, str] = {
    "x86_64": """
        7f454c4602010100000000000000000003003e0001000000b000000000000000
        4000000000000000000000000000000000000000400038000200000000000000
        0100000005000000000000000000000000000000000000000000000000000000
        f001000000000000f001000000000000001000000000000051e5746406000000
        0000000000000000000000000000000000000000000000000000000000000000
        00000000000000001000000000000000bf0400000031f6b89d0000000f05833c
        24047562bf0f000000488b7424084883c60db89d0000000f05488b742410e8c3
        00000089c3488b742418e8b700000089c5488b742420e8ab0000004189c44881
        ec80000000bfffffffff4889e631d24531d2b83d0000000f0539d8741085c07f
        e483f8fc74dfbf7d000000eb728b0424488d7c247e66c7077d0ab90a00000031
        d2f7f183c23048ffcf881785c075f0b91e0000004829cf4989fd488d35710000
        00f3a44c8db424800000004d29ee85ed780f89ef4c89ee4c89f2b8010000000f
        054489e74c89ee4c89f241ba004000004531c04531c9b82c0000000f0531ffb8
        e70000000f0531c031ff0fb60ec6060048ffc683f92d740c83e930720e6bc00a
        01c8ebe6bf01000000ebdf85ff7402f7d8c37b226576656e74223a2022657869
        746564222c2022737461747573223a20
    """,
    "aarch64": """
        7f454c460201010000000000000000000300b70001000000b000000000000000
        4000000000000000000000000000000000000000400038000200000000000000
        0100000005000000000000000000000000000000000000000000000000000000
        2e020000000000002e02000000000000000001000000000051e5746406000000
        0000000000000000000000000000000000000000000000000000000000000000
        00000000000000001000000000000000800080d2010080d2e81480d2010000d4
        e90340f93f1100f181030054e00180d2e10740f921340091e81480d2010000d4
        e10b40f93b000094f303002ae10f40f938000094f403002ae11340f935000094
        f503002aff0302d100008092e1030091020080d2030080d2882080d2010000d4
        1f00136be00000541f000071ecfeff541f100031a0feff54a00f80d223000014
        e00340b9f6fb0191a14f8152c1020079420180520108c21a2380021b63c00011
        c3fe1f38e003012a60ffff3501060050c203805223fc5f38c3fe1f3842040071
        a1ffff54f7030291f70216cbd400f837e003142ae10316aae20317aa080880d2
        010000d4e003152ae10316aae20317aa030088d2040080d2050080d2c81980d2
        010000d4000080d2c80b80d2010000d400008052030080524401805222004039
        3f1400385fb40071a000005442c00071a30000540008041bf9ffff1723008052
        f7ffff1743000034e003004bc0035fd67b226576656e74223a20226578697465
        64222c2022737461747573223a20
    """,
}
"""By uname's name, in hexadecimal."""

# linux/memfd.h and linux/fcntl.h; Linux 6.3.
_MFD_EXEC = 0x10
_F_SEAL_EXEC = 0x20

_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)

EXECUTE_ONLY = 0o111
"""Its mode. Who becomes a file that it may not read is not dumpable (would_dump() and
begin_new_exec() in the kernel's fs/exec.c), as init was not: its entries in /proc stay
root's. Init is no longer root by then, and has no capability to read it with."""


def program(machine: str) -> bytes:
    """The file for a processor; OSError where there is none."""
    try:
        return bytes.fromhex(PROGRAMS[machine])
    except KeyError:
        what = f"nothing has been assembled for {machine!r}"
        raise OSError(errno.ENOEXEC, what) from None


def make() -> int:
    """A sealed memory file that may be executed and that only root may read.

    OSError: there is none for this machine, or its administrator lets none be executed
    (vm.memfd_noexec).
    """
    data = program(os.uname().machine)
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(NAME, flags | _MFD_EXEC)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        # Before Linux 6.3 every one may be executed.
        fd = os.memfd_create(NAME, flags)
    try:
        os.write(fd, data)
        os.fchmod(fd, EXECUTE_ONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | _F_SEAL_EXEC)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
