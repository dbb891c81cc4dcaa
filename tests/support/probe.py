# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that prints as one JSON object what it sees of the machine it runs on.

Knows nothing of isolauncher and imports only the standard library: the same file runs
in every tier and outside. What cannot be looked at is the name of the errno instead.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable


def attempt(look: Callable[[], object]) -> object:
    try:
        return look()
    except OSError as refused:
        return errno.errorcode.get(refused.errno or 0, str(refused))


def text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def processes() -> dict[str, str]:
    return {
        name: text(f"/proc/{name}/stat").split()[1]
        for name in os.listdir("/proc")
        if name.isdigit()
    }


def tree(top: str) -> list[str]:
    found = []
    for directory, names, files in os.walk(top):
        found += [os.path.join(directory, name) for name in (*names, *files)]
    return sorted(found)


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))  # the one that lists is closed by now
        except OSError:
            continue
        found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def status(process: str = "/proc/self") -> dict[str, str]:
    pairs = (line.partition(":") for line in text(f"{process}/status").splitlines())
    return {key: " ".join(value.split()) for key, _, value in pairs}


def look() -> dict[str, object]:
    spaces = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
    return {
        "fds": descriptors(),
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "uid_map": text("/proc/self/uid_map").split(),
        "gid_map": text("/proc/self/gid_map").split(),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "processes": processes(),
        "root": sorted(os.listdir("/")),
        "tmp": tree("/tmp"),
        "home": attempt(lambda: os.listdir("/home")),
        "root_home": attempt(lambda: os.listdir("/root")),
        "shadow": attempt(lambda: text("/etc/shadow")),
        "passwd": text("/etc/passwd"),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "hostname": socket.gethostname(),
        "status": status(),
        "limits": text("/proc/self/limits"),
        "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in spaces},
        "mounts": text("/proc/self/mountinfo").splitlines(),
        "environ": dict(os.environ),
        "proc_environ": text("/proc/self/environ"),
        "cmdline": text("/proc/self/cmdline"),
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "path0": sys.path[0],
        "umask": os.umask(0o077),
        "executable": sys.executable,
    }


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
    print()
