# SPDX-License-Identifier: GPL-3.0-or-later
"""Goes in front of every attacking program: what it may use, and where it may run.

A sandbox shows a program nothing but its own file, so the two are one script there
(see support/attacks.py). A program's first statement is ``inside()``; started alone
it stops there with a NameError, started outside a sandbox with a refusal.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import sys

NUMBERS = {
    "x86_64": """
        open 2 fork 57 clone 56 kill 62 chmod 90 fchmod 91 mkdir 83 creat 85 syslog 103
        setuid 105 setgid 106 setreuid 113 setregid 114 setgroups 116 setresuid 117
        setresgid 119 setfsuid 122 setfsgid 123 capset 126 mknod 133 uselib 134
        personality 135 ptrace 101 ioctl 16 socket 41 socketpair 53 setpgid 109
        setpriority 141 sched_setparam 142 sched_setscheduler 144 vhangup 153
        modify_ldt 154 pivot_root 155 prctl 157 adjtimex 159 chroot 161 acct 163
        settimeofday 164 mount 165 umount2 166 swapon 167 swapoff 168 reboot 169
        sethostname 170 setdomainname 171 iopl 172 ioperm 173 init_module 175
        delete_module 176 quotactl 179 nfsservctl 180 tkill 200 sched_setaffinity 203
        lookup_dcookie 212 timer_create 222 clock_settime 227 tgkill 234 mbind 237
        set_mempolicy 238 kexec_load 246 add_key 248 request_key 249 keyctl 250
        ioprio_set 251 migrate_pages 256 openat 257 mkdirat 258 mknodat 259
        fchmodat 268 unshare 272 move_pages 279 perf_event_open 298
        fanotify_init 300 prlimit64 302 name_to_handle_at 303 open_by_handle_at 304
        clock_adjtime 305 setns 308 process_vm_readv 310 process_vm_writev 311 kcmp 312
        finit_module 313 sched_setattr 314 memfd_create 319 kexec_file_load 320 bpf 321
        execveat 322 userfaultfd 323 rt_sigqueueinfo 129 rt_tgsigqueueinfo 297
    """,
    "aarch64": """
        clone 220 kill 129 fchmod 52 syslog 116
        setuid 146 setgid 144 setreuid 145 setregid 143 setgroups 159 setresuid 147
        setresgid 149 setfsuid 151 setfsgid 152 capset 91
        personality 92 ptrace 117 ioctl 29 socket 198 socketpair 199 setpgid 154
        setpriority 140 sched_setparam 118 sched_setscheduler 119 vhangup 58
        pivot_root 41 prctl 167 adjtimex 171 chroot 51 acct 89
        settimeofday 170 mount 40 umount2 39 swapon 224 swapoff 225 reboot 142
        sethostname 161 setdomainname 162 init_module 105
        delete_module 106 quotactl 60 nfsservctl 42 tkill 130 sched_setaffinity 122
        lookup_dcookie 18 timer_create 107 clock_settime 112 tgkill 131 mbind 235
        set_mempolicy 237 kexec_load 104 add_key 217 request_key 218 keyctl 219
        ioprio_set 30 migrate_pages 238 openat 56 mkdirat 34 mknodat 33
        fchmodat 53 unshare 97 move_pages 239 perf_event_open 241
        fanotify_init 262 prlimit64 261 name_to_handle_at 264 open_by_handle_at 265
        clock_adjtime 266 setns 268 process_vm_readv 270 process_vm_writev 271 kcmp 272
        finit_module 273 sched_setattr 274 memfd_create 279 kexec_file_load 294 bpf 280
        execveat 281 userfaultfd 282 rt_sigqueueinfo 138 rt_tgsigqueueinfo 240
    """,
    # Alike everywhere.
    "": """
        pidfd_send_signal 424 io_uring_setup 425 io_uring_enter 426
        io_uring_register 427 open_tree 428 move_mount 429 fsopen 430 fsconfig 431
        fsmount 432 fspick 433 pidfd_open 434 clone3 435 openat2 437 pidfd_getfd 438
        process_madvise 440 mount_setattr 442 quotactl_fd 443 memfd_secret 447
        process_mrelease 448 fchmodat2 452 statmount 457 listmount 458
        lsm_set_self_attr 460 setxattrat 463 open_tree_attr 467 file_setattr 469
    """,
}
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
AT_FDCWD = -100
_kept = []


def inside():
    """Refuse to go on anywhere but in a sandbox of isolauncher's."""
    with open("/proc/self/status") as file:
        status = dict(
            line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line
        )
    with open("/proc/1/cmdline", "rb") as file:
        first = file.read()
    if not (
        status["NoNewPrivs"] == "1"
        and status["Seccomp"] == "2"
        and int(status["CapEff"], 16) == 0
        and os.getpid() != 1
        and first.startswith(b"isolauncher: init(")
    ):
        raise SystemExit("refuses to run outside a sandbox")


def number(name):
    """The call's number here, or None where this processor has no such call."""
    words = (NUMBERS.get(platform.machine(), "") + NUMBERS[""]).split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True)).get(name)


def word(value):
    """An argument as a register holds it; what it points to is kept alive."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        value = ctypes.create_string_buffer(value)
    if isinstance(value, ctypes.Array | ctypes.Structure):
        _kept.append(value)
        value = ctypes.addressof(value)
    return ctypes.c_ulong(value & 0xFFFF_FFFF_FFFF_FFFF)


def call(name, *arguments):
    """Make the call: "ok" or the name of its errno; "absent" where it has no number.

    In this process, so that what it changes can be seen afterwards.
    """
    nr = number(name)
    if nr is None:
        return "absent"
    ctypes.set_errno(0)
    if LIBC.syscall(ctypes.c_long(nr), *(word(a) for a in arguments)) != -1:
        return "ok"
    return name_of(ctypes.get_errno())


def apart(name, *arguments):
    """As `call`, in a child of its own: for what would end or change this process."""
    child = os.fork()
    if child == 0:
        answer = call(name, *arguments)
        os._exit(0 if answer == "ok" else getattr(errno, answer, 255) & 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        return f"signal {-status}"
    return "ok" if status == 0 else name_of(status)


def name_of(value):
    return errno.errorcode.get(value, str(value))


def tried(attempt, *arguments, **keywords):
    """ "ok", or the name of the errno that a function of Python's raised."""
    try:
        attempt(*arguments, **keywords)
    except OSError as why:
        return name_of(why.errno)
    return "ok"


def opened(path, flags=os.O_RDONLY):
    """What opening says; read a byte, since some of /proc refuses only then."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as why:
        return name_of(why.errno)
    try:
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_PATH | os.O_DIRECTORY):
            os.read(fd, 1)
    except OSError as why:
        return f"read {name_of(why.errno)}"
    finally:
        os.close(fd)
    return "ok"


def written(path, data):
    """What opening for writing, then writing, says."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as why:
        return name_of(why.errno)
    try:
        os.write(fd, data)
    except OSError as why:
        return f"write {name_of(why.errno)}"
    finally:
        os.close(fd)
    return "ok"


def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def say(answers):
    """One line for the test."""
    sys.stdout.write(json.dumps(answers) + "\n")
    sys.stdout.flush()
