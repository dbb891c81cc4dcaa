# SPDX-License-Identifier: GPL-3.0-or-later
"""Becomes nobody, installs a filter, proves it with the probe, executes a program.

Run as text (``python3 -I -c``) with: descriptor of the filter's bytes or ``-``,
number of the call "seccomp", the probe as ``number:answer:arg,arg…``, PROGRAM ARG…
It leaves root first: what it executes tries calls that no root should try.
"""

import ctypes
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1


class SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]  # noqa: RUF012


def main(descriptor: str, seccomp: str, probe: str, *argv: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if descriptor != "-":
        code = os.pread(int(descriptor), 1 << 16, 0)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = SockFprog(len(code) // 8, ctypes.addressof(buffer))
        if libc.syscall(
            ctypes.c_long(int(seccomp)),
            ctypes.c_long(SECCOMP_SET_MODE_FILTER),
            ctypes.c_long(0),
            ctypes.byref(program),
        ):
            raise OSError(ctypes.get_errno(), "seccomp")
        number, answer, args = probe.split(":")
        words = [ctypes.c_long(int(word)) for word in args.split(",")]
        if libc.syscall(ctypes.c_long(int(number)), *words) != -1:
            raise SystemExit("the probe was let through")
        if ctypes.get_errno() != int(answer):
            raise SystemExit(f"the probe: errno {ctypes.get_errno()}, not {answer}")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(*sys.argv[1:])
