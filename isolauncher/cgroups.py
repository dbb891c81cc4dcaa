# SPDX-License-Identifier: GPL-3.0-or-later
"""Where activities' cgroups are made, and how they go away again.

The daemon makes one directory of its own in each hierarchy that `host` found usable;
init makes the activity's below it and joins it while it builds the room. Version 2
where its controllers are there, version 1 else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from .host import CgroupPlace
from .plan import Cgroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """Controller ("" for all of version 2) to the directory activities go into."""

    directories: Mapping[str, str]

    def for_activity(self, activity_id: str) -> Cgroup | None:
        if not self.directories:
            return None
        return Cgroup(
            paths=tuple(
                (controller, f"{directory}/{activity_id}")
                for controller, directory in self.directories.items()
            )
        )


def prepare(places: Mapping[str, CgroupPlace], name: str) -> Parents:
    """Make the daemon's directory in each place; OSError when the kernel refuses.

    Version 2 delegates by writing ``subtree_control`` in every directory above the
    leaves (cgroup-v2.rst, "Enabling and Disabling").
    """
    v2 = {c: p for c, p in places.items() if p.version == 2}
    if {"memory", "pids", "cpu"} <= set(v2):
        place = v2["memory"]
        controllers = " ".join(f"+{c}" for c in ("memory", "pids", "cpu"))
        _write(f"{place.path}/cgroup.subtree_control", controllers)
        directory = f"{place.path}/{name}"
        _make(directory)
        _write(f"{directory}/cgroup.subtree_control", controllers)
        return Parents(directories={"": directory})
    directories: dict[str, str] = {}
    for controller, place in places.items():
        if place.version == 1:
            directory = f"{place.path}/{name}"
            _make(directory)
            directories[controller] = directory
    return Parents(directories=directories)


def remove(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Remove an ended activity's directories; returns those still busy (EBUSY)."""
    busy = []
    for path in paths:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            busy.append(path)
    return tuple(busy)


def close(parents: Parents) -> None:
    """Remove the daemon's own directories if nothing is left in them."""
    for directory in parents.directories.values():
        with suppress(OSError):  # an activity that goes on keeps it
            os.rmdir(directory)


def left_behind(parents: Parents) -> dict[str, tuple[str, ...]]:
    """Activity id to directories, of whatever is there."""
    found: dict[str, tuple[str, ...]] = {}
    for directory in parents.directories.values():
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                found[entry.name] = (*found.get(entry.name, ()), entry.path)
    return found


def _make(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
