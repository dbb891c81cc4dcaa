# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a sandbox outside of it: its /proc, cgroups and keyrings.

Whoever is not root is refused the better part; then a field is None, and what rests on
it cannot be judged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")

GONE_S = 5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process. ``session``, ``terminal``, ``nice`` and ``scheduling`` as in
    proc_pid_stat(5); ``root`` and ``cwd`` are (device, inode)."""

    pid: int
    status: dict[str, str]
    parent: int
    session: int
    terminal: int
    nice: int
    scheduling: int
    namespaces: dict[str, str] | None
    descriptors: dict[int, str] | None
    root: tuple[int, int] | None
    oom_score_adj: int | None
    shared_mounts: list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """``cgroup`` has the text of files by name; ``groups`` who is in each by its path.

    ``others`` are the namespaces of whoever looks, and of the daemon.
    """

    main: Process
    init: Process
    others: tuple[dict[str, str] | None, ...]
    root: tuple[int, int]
    cgroup: dict[str, str]
    groups: dict[str, list[int]]
    mounts: list[str]


def look(pid: int, daemon: int) -> Outside:
    """All of it; OSError when it has ended meanwhile."""
    main = process(pid)
    here = os.stat("/")
    files, groups = cgroups(pid)
    return Outside(
        main=main,
        init=process(main.parent),
        others=(namespaces("self"), namespaces(daemon)),
        root=(here.st_dev, here.st_ino),
        cgroup=files,
        groups=groups,
        mounts=_may(partial(_mountinfo, pid)) or [],
    )


def process(pid: int) -> Process:
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    lines = (line.partition(":") for line in _text(f"/proc/{pid}/status").split("\n"))
    # proc_pid_stat(5) counts from 1 and two are cut off.
    return Process(
        pid=pid,
        status={key: " ".join(value.split()) for key, _, value in lines},
        parent=int(fields[1]),
        session=int(fields[3]),
        terminal=int(fields[4]),
        nice=int(fields[16]),
        scheduling=int(fields[38]),
        namespaces=namespaces(pid),
        descriptors=_may(lambda: _descriptors(pid)),
        root=_may(lambda: _file(f"/proc/{pid}/root")),
        oom_score_adj=_may(lambda: int(_text(f"/proc/{pid}/oom_score_adj"))),
        shared_mounts=_may(lambda: _shared(pid)),
    )


def namespaces(pid: int | str) -> dict[str, str] | None:
    return _may(lambda: {n: os.readlink(f"/proc/{pid}/ns/{n}") for n in NAMESPACES})


def keyrings() -> set[str] | None:
    """The serials of session keyrings without a name that we may see (keyrings(7))."""

    def find() -> set[str]:
        lines = (line.split() for line in _text("/proc/keys").splitlines())
        return {words[0] for words in lines if words[7:9] == ["keyring", "_ses:"]}

    return _may(find) if os.geteuid() == 0 else None


def that_end(known: set[str]) -> set[str]:
    """Those of ``known`` that are gone, now that a sandbox has ended.

    Which keyring a process has, the kernel tells nobody else. One that another launch
    made in the same moment looks the same.
    """
    until = time.monotonic() + GONE_S
    while known and not known - (keyrings() or set()):
        # The kernel collects them in its own time, and nothing tells.
        if time.monotonic() > until:
            return set()
        time.sleep(0.01)
    return known - (keyrings() or set())


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _may(look: Callable[[], _T]) -> _T | None:
    try:
        return look()
    except (PermissionError, FileNotFoundError):
        return None


def _file(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _descriptors(pid: int) -> dict[int, str]:
    place = f"/proc/{pid}/fd"
    return {int(name): os.readlink(f"{place}/{name}") for name in os.listdir(place)}


def _shared(pid: int) -> list[str]:
    """Mounts that pass on to others, or take from them, what is mounted below."""
    lines = (line.split(" - ")[0].split() for line in _mountinfo(pid))
    return [words[4] for words in lines if len(words) > 6]


def _mountinfo(pid: int | str) -> list[str]:
    return _text(f"/proc/{pid}/mountinfo").splitlines()


CGROUP_FILES = (
    *("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.weight", "cpu.shares"),
)


def cgroups(pid: int) -> tuple[dict[str, str], dict[str, list[int]]]:
    """(files of its groups by name, members of each group by path)."""
    files: dict[str, str] = {}
    members: dict[str, list[int]] = {}
    for path in _groups(pid):
        listed = _may(partial(_text, f"{path}/cgroup.procs"))
        if listed is None:
            continue
        members[path] = [int(word) for word in listed.split()]
        for name in CGROUP_FILES:
            text = _may(partial(_text, f"{path}/{name}"))
            if text is not None:
                files[name] = text.strip()
    return files, members


def _groups(pid: int) -> list[str]:
    """The directory of each of its groups, as far as they are mounted here."""
    own: dict[str, str] = {}
    for line in _text(f"/proc/{pid}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found: dict[str, None] = {}
    for line in _mountinfo("self"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        root, top = before.split()[3:5]
        if kind not in ("cgroup", "cgroup2"):
            continue
        # What the kernel numbers 0 has no controller names: "0::/path".
        listed = options.strip().split(",") if kind == "cgroup" else [""]
        for path in {own[name] for name in listed if name in own}:
            above = root.rstrip("/")
            if path == root or path.startswith(f"{above}/"):
                found[os.path.normpath(f"{top}/{path[len(above) :]}")] = None
    return list(found)
