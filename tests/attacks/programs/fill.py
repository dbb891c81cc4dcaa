# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Fills a directory: with bytes, with names, with a hole; says where it ended."""

from __future__ import annotations

inside()

import signal  # noqa: E402 - only where it may run

os.chdir(sys.argv[1])
block = b"x" * 65536


def bytes_until():
    total = 0
    for number in range(1 << 20):
        with open(f"b{number}", "wb", buffering=0) as file:
            try:
                for _ in range(16):
                    total += file.write(block)
            except OSError as why:
                return name_of(why.errno), total


def names_until():
    for number in range(1 << 20):
        try:
            os.close(os.open(f"n{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as why:
            return name_of(why.errno), number


def hole(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open("hole", os.O_CREAT | os.O_RDWR, 0o600)
    answers = {
        "truncate": tried(os.ftruncate, fd, size),
        "pwrite": tried(os.pwrite, fd, b"x", size),
        "allocate": tried(os.posix_fallocate, fd, 0, size),
    }
    os.unlink("hole")
    return answers


def clear():
    for name in os.listdir("."):
        if name[0] in "bn":
            os.unlink(name)


answers = {"hole": hole(1 << 40)}
answers["bytes"], answers["total"] = bytes_until()
clear()
answers["names"], answers["count"] = names_until()
clear()
answers["size"] = os.statvfs(".").f_blocks * os.statvfs(".").f_frsize
say(answers)
