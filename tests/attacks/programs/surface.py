# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Knocks at the doors of the kernel that an ordinary program has no business with."""

from __future__ import annotations

inside()

page = ctypes.create_string_buffer(4096)
at = ctypes.addressof(page)
iovec = (ctypes.c_uint64 * 2)(at, 64)
me = os.getpid()
answers = {
    "io_uring_setup": call("io_uring_setup", 1, page),
    "io_uring_enter": call("io_uring_enter", 0, 0, 0, 0, 0, 0),
    "io_uring_register": call("io_uring_register", -1, 0, 0, 0),
    "perf_event_open": call("perf_event_open", page, 0, -1, -1, 0),
    "userfaultfd": call("userfaultfd", 0),
    "userfaultfd user": call("userfaultfd", 1),
    "memfd_secret": call("memfd_secret", 0),
    "ptrace traceme": apart("ptrace", 0, 0, 0, 0),
    "ptrace init": call("ptrace", 16, 1, 0, 0),
    "process_vm_readv": call("process_vm_readv", me, iovec, 1, iovec, 1, 0),
    "process_vm_writev": call("process_vm_writev", me, iovec, 1, iovec, 1, 0),
    "add_key": call("add_key", "user", "k", page, 1, -3),
    "add_key user keyring": call("add_key", "user", "k", page, 1, -4),
    "add_key big": call("add_key", "big_key", "k", page, 1, -2),
    "request_key": call("request_key", "user", "k", 0, -3),
    "kexec_load": call("kexec_load", 0, 0, 0, 0),
    "kexec_file_load": call("kexec_file_load", -1, -1, 0, 0, 0),
    "init_module": call("init_module", page, 64, ""),
    "finit_module": call("finit_module", 0, "", 0),
    "delete_module": call("delete_module", "dummy", 0),
    "reboot": call("reboot", 0xFEE1DEAD, 672274793, 0, 0),
    "syslog": call("syslog", 3, page, 64),
    "sethostname": call("sethostname", "x", 1),
    "setdomainname": call("setdomainname", "x", 1),
    "settimeofday": call("settimeofday", page, 0),
    "clock_settime": call("clock_settime", 0, page),
    "clock_adjtime": call("clock_adjtime", 0, page),
    "adjtimex": call("adjtimex", page),
    "vhangup": call("vhangup"),
    "iopl": call("iopl", 3),
    "ioperm": call("ioperm", 0x60, 1, 1),
    "modify_ldt": call("modify_ldt", 1, page, 16),
    "lookup_dcookie": call("lookup_dcookie", 0, page, 64),
    "mbind": call("mbind", at & ~4095, 4096, 0, 0, 0, 0),
    "set_mempolicy": call("set_mempolicy", 0, 0, 0),
    "migrate_pages": call("migrate_pages", 0, 0, 0, 0),
    "move_pages": call("move_pages", 0, 0, 0, 0, 0, 0),
    "lsm_set_self_attr": call("lsm_set_self_attr", 100, page, 64, 0),
    "file_setattr": call("file_setattr", AT_FDCWD, "/tmp", page, 24, 0),
}
for command in range(10):
    answers[f"bpf {command}"] = call("bpf", command, page, 128)
for command in (*range(12), 29, 32):
    answers[f"keyctl {command}"] = call("keyctl", command, 0, page, 64, 0)
for flag in (0x20000, 0x40000, 0x200000, 0x400000, 0x4000000, 0x8, 1, 0x5):
    answers[f"personality {flag:#x}"] = call("personality", flag)
for number_ in (470, 511, 0x3FFF0000):
    ctypes.set_errno(0)
    got = LIBC.syscall(ctypes.c_long(number_), 0, 0, 0, 0, 0, 0)
    answers[f"call {number_}"] = "ok" if got != -1 else name_of(ctypes.get_errno())

# What belongs to a device or to a whole file system, not to a file.
random = os.open("/dev/urandom", os.O_RDWR)
for name, request in (
    ("RNDADDTOENTCNT", 0x40045201),
    ("RNDADDENTROPY", 0x40085203),
    ("RNDZAPENTCNT", 0x5204),
    ("RNDCLEARPOOL", 0x5206),
    ("RNDRESEEDCRNG", 0x5207),
):
    answers[name] = call("ioctl", random, request, page)
whole = {}
for path in ("/usr", "/tmp", "/etc/hosts", *sys.argv[1:]):
    fd = os.open(path, os.O_RDONLY)
    for name, request in (
        ("FIFREEZE", 0xC0045877),
        ("FITHAW", 0xC0045878),
        ("FITRIM", 0xC0185879),
        ("SHUTDOWN", 0x8004587D),
        ("SETFSLABEL", 0x41009432),
        ("EXT4_RESIZE", 0x40086610),
        ("EXT4_SWAP_BOOT", 0x6611),
        ("EXT4_SHUTDOWN", 0x8004587D),
        ("BTRFS_SNAP", 0x50009401),
        ("BLKROSET", 0x125D),
    ):
        whole[f"{name} {path}"] = call("ioctl", fd, request, page)

# What prctl has beside the names and questions that programs need.
for name, option in (
    ("SET_UNALIGN", 6),
    ("SET_MM", 35),
    ("SET_FP_MODE", 45),
    ("CAP_AMBIENT", 47),
    ("PAC_RESET_KEYS", 54),
    ("SCHED_CORE", 62),
    ("SET_VMA", 0x53564D41 + 1),
    ("SET_PTRACER", 0x59616D61),
    ("TASK_PERF_EVENTS_DISABLE", 31),
    ("SET_MEMORY_MERGE", 67),
    ("SET_IO_FLUSHER", 57),
    ("MCE_KILL", 33),
):
    got = call("prctl", option, 1 if option != 47 else 2, 0, 0, 0)
    answers[f"prctl {name}"] = "EPERM" if got == "EINVAL" else got

sockets = {}
for family in range(48):
    for kind in (1, 2, 3, 5):
        got = call("socket", family, kind, 0)
        if family not in (1, 2, 10, 16):
            sockets[f"family {family} type {kind}"] = got
for protocol in range(1, 64):
    sockets[f"netlink {protocol}"] = call("socket", 16, 3, protocol)
for name, arguments in (
    ("packet", (17, 3, 0x300)),
    ("packet high", (1 << 32 | 17, 3, 0x300)),
    ("raw", (2, 3, 255)),
    ("raw icmp", (2, 3, 1)),
    ("raw 6", (10, 3, 58)),
    ("ping", (2, 2, 1)),
    ("sctp", (2, 1, 132)),
    ("sctp 6", (10, 5, 132)),
    ("dccp", (2, 6, 33)),
    ("udplite", (2, 2, 136)),
    ("l2tp", (2, 2, 115)),
    ("smc", (2, 1, 256)),
    ("vsock", (40, 1, 0)),
    ("alg", (38, 5, 0)),
    ("xdp", (44, 3, 0)),
    ("bluetooth", (31, 3, 1)),
    ("can", (29, 3, 1)),
    ("tipc", (30, 5, 0)),
    ("rds", (21, 5, 0)),
    ("netlink high", (1 << 32 | 16, 3, 1 << 32 | 15)),
):
    sockets[name] = call("socket", *arguments)
for family in (2, 10, 16, 17, 30, 38, 40):
    sockets[f"pair {family}"] = call("socketpair", family, 1, 0, page)

other = {}
for number_ in (1, 2, 9, 15, 17, 19, 34):
    other[f"kill init {number_}"] = call("kill", 1, number_)
other |= {
    "tgkill init": call("tgkill", 1, 1, 9),
    "setpriority init": call("setpriority", 0, 1, 19),
    "setpriority up": call("setpriority", 0, 0, -20),
    "sched_setaffinity init": call("sched_setaffinity", 1, 8, page),
    "sched_setscheduler init": call("sched_setscheduler", 1, 3, page),
    "sched_setscheduler fifo": call("sched_setscheduler", 0, 1, (ctypes.c_int * 1)(50)),
    "sched_setattr deadline": call(
        "sched_setattr",
        0,
        (ctypes.c_uint32 * 14)(56, 6, 0, 0, 0, 0, 10**7, 0, 10**8, 0, 10**8, 0),
        0,
    ),
    "ioprio init": call("ioprio_set", 1, 1, 2 << 13 | 7),
    "ioprio realtime": call("ioprio_set", 1, 0, 1 << 13),
    "prlimit init read": call("prlimit64", 1, 7, 0, page),
    "prlimit init": call("prlimit64", 1, 7, (ctypes.c_uint64 * 2)(16, 16), 0),
    "setpgid init": call("setpgid", 1, 0),
    "write init oom": written("/proc/1/oom_score_adj", b"1000"),
    "write init comm": written("/proc/1/comm", b"x"),
    "write init timens": written("/proc/1/timens_offsets", b"monotonic 1 0"),
    "write own timens": written("/proc/self/timens_offsets", b"monotonic 1 0"),
    "own oom": written("/proc/self/oom_score_adj", b"-1"),
    "sysrq": written("/proc/sysrq-trigger", b"h"),
    "core_pattern": written("/proc/sys/kernel/core_pattern", b"|/tmp/x"),
    "modprobe": written("/proc/sys/kernel/modprobe", b"/tmp/x"),
    "userns": written("/proc/sys/user/max_user_namespaces", b"100"),
    "last pid": written("/proc/sys/kernel/ns_last_pid", b"1000"),
    "hostname": written("/proc/sys/kernel/hostname", b"x"),
    "forward": written("/proc/sys/net/ipv4/ip_forward", b"1"),
    "ping range": written("/proc/sys/net/ipv4/ping_group_range", b"0 65535"),
    "ports": written("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"),
    "shmmax": written("/proc/sys/kernel/shmmax", b"1"),
    "mqueue": written("/proc/sys/fs/mqueue/queues_max", b"1000"),
    "binfmt": opened("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY),
    "kmsg": opened("/proc/kmsg"),
    "kcore": opened("/proc/kcore"),
    "mtrr": written("/proc/mtrr", b"disable=0"),
    "slabinfo": opened("/proc/slabinfo"),
    "timer_list": opened("/proc/timer_list"),
    "vmallocinfo": opened("/proc/vmallocinfo"),
    "kpagemap": opened("/proc/kpagecount"),
}
with open("/proc/kallsyms") as file:
    addresses = {
        line.split()[0].strip("0") for line, _ in zip(file, range(1000), strict=False)
    }
other["kernel addresses"] = "EPERM" if addresses == {""} else "ok"

say(
    {
        "refused": answers,
        "sockets": sockets,
        "other": other,
        "whole": whole,
    }
)
