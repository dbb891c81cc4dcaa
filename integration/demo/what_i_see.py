#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints what a program can see of the machine it runs on. `make demo` confines it.

Nothing here knows isolauncher: run it plainly as well, and compare.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import sys
from collections.abc import Callable

WIDTH = 18


def say(what: str, seen: str) -> None:
    head, *rest = seen.splitlines() or [""]
    print(f"  {what:<{WIDTH}} {head}")
    for line in rest:
        print(f"  {'':<{WIDTH}} {line}")


def attempt(look: Callable[[], str]) -> str:
    try:
        return look()
    except OSError as refused:
        return f"no: {refused.strerror}"


def name_of(look: Callable[[int], pwd.struct_passwd | grp.struct_group], i: int) -> str:
    try:
        return f"{i} ({look(i)[0]})"
    except KeyError:
        return f"{i} (no name)"


def listed(path: str, most: int = 8) -> str:
    names = sorted(os.listdir(path))
    more = f" … {len(names)} in all" if len(names) > most else ""
    return "empty" if not names else " ".join(names[:most]) + more


def status(*keys: str) -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        pairs = (line.split(":", 1) for line in lines)
        return {key: value.strip() for key, value in pairs if key in keys}


def who() -> None:
    say("uid", name_of(pwd.getpwuid, os.getuid()))
    say("gid", name_of(grp.getgrgid, os.getgid()))
    say("other groups", " ".join(map(str, os.getgroups())) or "none")
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        first, outside, count = lines.readline().split()
    say("uid map", f"{first} here is {outside} outside, {count} mapped")


def powers() -> None:
    caps = status("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    held = [f"{k}={int(v, 16):x}" for k, v in caps.items() if int(v, 16)]
    say("capabilities", " ".join(held) or "none, and none can be gained")
    flags = status("NoNewPrivs", "Seccomp")
    say("NoNewPrivs", flags.get("NoNewPrivs", "?"))
    modes = {"0": "0 (every system call)", "2": "2 (a filter is in force)"}
    say("Seccomp", modes.get(flags.get("Seccomp", ""), flags.get("Seccomp", "?")))


def processes() -> None:
    say("my pid", f"{os.getpid()}, parent {os.getppid()}")
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    shown = " ".join(map(str, pids[:12])) + (" …" if len(pids) > 12 else "")
    say("processes", f"{len(pids)}: {shown}")


def surroundings() -> None:
    spaces = {
        kind: os.readlink(f"/proc/self/ns/{kind}").split("[")[1].rstrip("]")
        for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
    }
    say("namespaces", " ".join(f"{kind}:{number}" for kind, number in spaces.items()))
    say("host name", socket.gethostname())
    links = " ".join(name for _, name in socket.if_nameindex())
    say("network", links or "no interface")


def files() -> None:
    say("working directory", attempt(os.getcwd))
    for path in ("/", "/tmp", "/home", "/root"):
        say(path, attempt(lambda path=path: listed(path, 12 if path == "/" else 4)))

    def shadow() -> str:
        with open("/etc/shadow", "rb") as secrets:
            return f"readable, {len(secrets.read())} bytes"

    def write(path: str) -> str:
        with open(path, "x"):
            pass
        os.unlink(path)
        return "writable"

    say("/etc/shadow", attempt(shadow))
    say("write to /tmp", attempt(lambda: write("/tmp/what_i_see")))
    say("write to /usr", attempt(lambda: write("/usr/what_i_see")))


def inherited() -> None:
    names = "\n".join(f"{k}={v}" for k, v in sorted(os.environ.items()))
    say("environment", names or "empty")
    kinds = {stat.S_IFCHR: "device", stat.S_IFREG: "file", stat.S_IFIFO: "pipe"}
    open_ones = []
    for number in range(256):
        try:
            kind = stat.S_IFMT(os.fstat(number).st_mode)
        except OSError:
            continue
        open_ones.append(f"{number} ({kinds.get(kind, 'other')})")
    say("descriptors", " ".join(open_ones))


def main() -> int:
    for title, part in (
        ("who I am", who),
        ("what I may do", powers),
        ("who else is here", processes),
        ("where I am", surroundings),
        ("which files there are", files),
        ("what I was given", inherited),
    ):
        print(f"\n{title}")
        try:
            part()
        except (OSError, ValueError) as refused:
            say("cannot tell", str(refused))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
