# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Goes for another process, named by its pid on the host and by one passed to it."""

from __future__ import annotations

inside()

import socket  # noqa: E402 - only where it may run

answers = {}
buffer = ctypes.create_string_buffer(64)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 64)
for pid in map(int, sys.argv[1:]):
    answers |= {
        f"{pid} kill 0": call("kill", pid, 0),
        f"{pid} kill": call("kill", pid, 9),
        f"{pid} kill group": call("kill", -pid, 9),
        f"{pid} tkill": call("tkill", pid, 9),
        f"{pid} tgkill": call("tgkill", pid, pid, 9),
        f"{pid} sigqueue": call("rt_sigqueueinfo", pid, 9, buffer),
        f"{pid} ptrace attach": call("ptrace", 16, pid, 0, 0),
        f"{pid} ptrace seize": call("ptrace", 0x4206, pid, 0, 0),
        f"{pid} vm_readv": call("process_vm_readv", pid, vector, 1, vector, 1, 0),
        f"{pid} vm_writev": call("process_vm_writev", pid, vector, 1, vector, 1, 0),
        f"{pid} pidfd_open": call("pidfd_open", pid, 0),
        f"{pid} prlimit": call("prlimit64", pid, 7, 0, buffer),
        f"{pid} affinity": call("sched_setaffinity", pid, 8, buffer),
        f"{pid} kcmp": call("kcmp", os.getpid(), pid, 2, 0, 0),
        f"{pid} mem": opened(f"/proc/{pid}/mem", os.O_RDWR),
        f"{pid} environ": opened(f"/proc/{pid}/environ"),
        f"{pid} root": opened(f"/proc/{pid}/root"),
    }

# Somebody hands us a pidfd of it: even so.
passed = {}
own = socket.socket(fileno=os.dup(0))
_, fds, _, _ = socket.recv_fds(own, 16, 1)
pidfd = fds[0]
passed["pidfd_send_signal 0"] = call("pidfd_send_signal", pidfd, 0, 0, 0)
passed["pidfd_send_signal"] = call("pidfd_send_signal", pidfd, 9, 0, 0)
passed["pidfd_send_signal group"] = call("pidfd_send_signal", pidfd, 9, 0, 4)
passed["pidfd_getfd"] = call("pidfd_getfd", pidfd, 0, 0)
passed["setns"] = call("setns", pidfd, 0x7E020000)
passed["process_madvise"] = call("process_madvise", pidfd, vector, 1, 21, 0)
passed["process_mrelease"] = call("process_mrelease", pidfd, 0)
passed["waitid"] = tried(os.waitid, os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
for kind in range(1, 11):
    # PIDFD_GET_CGROUP_NAMESPACE and its like (linux/pidfd.h).
    passed[f"namespace {kind}"] = call("ioctl", pidfd, 0xFF00 | kind, 0)
say({"named": answers, "passed": passed})
