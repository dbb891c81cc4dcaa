# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Brings code of its own into memory, by file and without one."""

from __future__ import annotations

inside()

import glob  # noqa: E402 - only where it may run
import mmap  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402

TRUE = "/usr/bin/true"
LOADER = glob.glob("/lib*/ld-linux-*.so.*")[0]


def run(*words, **keywords):
    try:
        done = subprocess.run(words, check=False, capture_output=True, **keywords)
    except OSError as why:
        return name_of(why.errno)
    return "ok" if done.returncode == 0 else f"status {done.returncode}"


def tries(place):
    program = f"{place}/true"
    shutil.copyfile(TRUE, program)
    os.chmod(program, 0o755)
    with open(f"{place}/script", "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(f"{place}/script", 0o755)
    with open(program, "rb") as file:
        try:
            mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
            mapped = "ok"
        except OSError as why:
            mapped = name_of(why.errno)
    fd = os.open(program, os.O_PATH)
    # Replaces the child's image when it works, hence in a child.
    child = os.fork()
    if child == 0:
        words = (ctypes.c_uint64 * 2)(word("true").value, 0)
        got = call("execveat", fd, "", words, 0, 0x1000)
        os._exit(getattr(errno, got, 255))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "exec": run(program),
        "script": run(f"{place}/script"),
        "loader": run(LOADER, program),
        "execveat": name_of(code) if code else "ok",
        "map": mapped,
    }


fd = os.memfd_create("code")
with open(TRUE, "rb") as file:
    os.write(fd, file.read())
os.fchmod(fd, 0o755)
# Not writable any more, or it would be busy.
reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
os.close(fd)
os.set_inheritable(reader, True)
memory = run(f"/proc/self/fd/{reader}", pass_fds=(reader,))
say({"/dev/shm": tries("/dev/shm"), "/tmp": tries("/tmp"), "memfd": memory})
