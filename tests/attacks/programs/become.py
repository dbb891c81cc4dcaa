# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Tries to become somebody else, or to get a power back, by every call there is."""

from __future__ import annotations

inside()

IDS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters")
CAPS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
MINUS = -1


def own():
    seen = status()
    return {name: seen.get(name, "").split() for name in (*IDS, *CAPS)}


before = own()
uids = [0, 1, 1000, 65534, 70000, 70001, 70002, 4294967294]
uids = [uid for uid in uids if uid != os.getuid()]
answers = {}
for uid in uids:
    answers |= {
        f"setuid {uid}": call("setuid", uid),
        f"setgid {uid}": call("setgid", uid),
        f"setreuid {uid}": call("setreuid", MINUS, uid),
        f"setregid {uid}": call("setregid", MINUS, uid),
        f"setresuid {uid}": call("setresuid", MINUS, uid, MINUS),
        f"setresuid saved {uid}": call("setresuid", MINUS, MINUS, uid),
        f"setresuid all {uid}": call("setresuid", uid, uid, uid),
        f"setresgid {uid}": call("setresgid", MINUS, uid, MINUS),
        f"setresgid all {uid}": call("setresgid", uid, uid, uid),
        f"setgroups {uid}": call("setgroups", 1, (ctypes.c_uint32 * 1)(uid)),
    }
    # These two answer with the id that was; what counts is the id that is.
    call("setfsuid", uid)
    call("setfsgid", uid)
answers["setgroups none"] = call("setgroups", 0, 0)

header = (ctypes.c_uint32 * 2)(0x20080522, 0)
every = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
answers["capset all"] = call("capset", header, every)
one = (ctypes.c_uint32 * 6)(0, 0, 1 << 21, 0, 0, 0)
answers["capset inheritable"] = call("capset", header, one)
answers["ambient raise"] = call("prctl", 47, 2, 21, 0, 0)
answers["securebits off"] = call("prctl", 28, 0, 0, 0, 0)
answers["no_new_privs off"] = call("prctl", 38, 0, 0, 0, 0)
answers["seccomp off"] = call("prctl", 22, 0, 0, 0, 0)
answers["PR_SET_MM"] = call("prctl", 35, 8, 0, 0, 0)
answers["PR_SET_PTRACER any"] = call("prctl", 0x59616D61, -1, 0, 0, 0)

line = f"0 {os.getuid()} 1\n".encode()
for who in ("self", "1"):
    for name in ("uid_map", "gid_map", "projid_map"):
        answers[f"write {who} {name}"] = written(f"/proc/{who}/{name}", line)
    answers[f"write {who} setgroups"] = written(f"/proc/{who}/setgroups", b"allow")

here = os.open("/proc/self/ns/user", os.O_RDONLY)
answers["setns own user"] = call("setns", here, 0x10000000)
answers["setns own any"] = call("setns", here, 0)
# Who owns my namespaces, and what lies above them (ioctl_nsfs(2)).
for kind in ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup"):
    fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    answers[f"owner of {kind}"] = call("ioctl", fd, 0xB701)
    if kind in ("user", "pid"):
        answers[f"parent of {kind}"] = call("ioctl", fd, 0xB702)
for name in ("unshare",):
    for kind, flag in (
        ("user", 0x10000000),
        ("mount", 0x20000),
        ("net", 0x40000000),
        ("pid", 0x20000000),
        ("uts", 0x4000000),
        ("ipc", 0x8000000),
        ("cgroup", 0x2000000),
        ("time", 0x80),
        ("all", 0x7E020080),
    ):
        answers[f"{name} {kind}"] = apart(name, flag)
        if kind not in ("time", "all"):
            answers[f"clone {kind}"] = apart("clone", flag | 17, 0, 0, 0, 0)
            # The high half of the register is not the kernel's business.
            high = 1 << 40 | flag | 17
            answers[f"clone high {kind}"] = apart("clone", high, 0, 0, 0, 0)
arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
answers["clone3 user"] = apart("clone3", arguments, 88)

after = own()
say({"refused": answers, "before": before, "after": after})
