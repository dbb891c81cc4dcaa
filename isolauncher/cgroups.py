# SPDX-License-Identifier: GPL-3.0-or-later
"""Where activities' cgroups are made, and how they go away again.

The daemon makes one directory of its own in each hierarchy that `host` found usable;
init makes the activity's below it and joins it while it builds the room. Version 2
where its controllers are there, version 1 else.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import host, paths, records
from .plan import CgroupPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """The daemon's own directories; an activity's are made below them."""

    places: tuple[CgroupPlace, ...]

    def for_activity(self, activity_id: str) -> tuple[CgroupPlace, ...]:
        return tuple(replace(p, path=f"{p.path}/{activity_id}") for p in self.places)


def name_for(run_dir: Path) -> str:
    """One directory per daemon, so that two do not clean up after each other.

    The same after a restart, to find what is left.
    """
    if str(run_dir) == paths.RUN_DIR:
        return "isolauncher"
    status = os.stat(run_dir)
    # The path too: an inode's number is soon another directory's.
    what = f"{status.st_dev} {status.st_ino} {run_dir.absolute()}"
    return f"isolauncher-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def prepare(found: Mapping[str, host.CgroupPlace], name: str) -> Parents:
    """Make the daemon's directory in each place; OSError when the kernel refuses.

    Version 2 hands controllers down by ``subtree_control`` in every directory above
    the leaves (cgroup-v2.rst, "Enabling and Disabling").
    """
    together: dict[tuple[int, str], list[str]] = {}
    for controller, place in found.items():
        together.setdefault((place.version, place.path), []).append(controller)
    places = []
    for (version, path), controllers in sorted(together.items(), reverse=True):
        directory = f"{path}/{name}"
        if version == 2:
            wanted = " ".join(f"+{c}" for c in controllers)
            _write(f"{path}/cgroup.subtree_control", wanted)
            _make(directory)
            _write(f"{directory}/cgroup.subtree_control", wanted)
        else:
            _make(directory)
        places.append(
            CgroupPlace(
                version=2 if version == 2 else 1,
                controllers=tuple(sorted(controllers)),
                path=directory,
            )
        )
    return Parents(places=tuple(places))


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
    for directory in (place.path for place in parents.places):
        with suppress(OSError):  # an activity that goes on keeps it
            os.rmdir(directory)


def left_behind(parents: Parents) -> dict[str, tuple[str, ...]]:
    """Activity id to directories, of whatever is there."""
    found: dict[str, tuple[str, ...]] = {}
    for directory in (place.path for place in parents.places):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                found[entry.name] = (*found.get(entry.name, ()), entry.path)
    return found


def of_ended(parents: Parents, name: str) -> tuple[str, ...]:
    """What standalone daemons of ``name`` left when they were killed; leaves first.

    Found beside our own directories, by the names that `alone` gives.
    """
    found: list[str] = []
    for place in parents.places:
        above = os.path.dirname(place.path)
        for entry in os.listdir(above):
            pid, _, start = entry.removeprefix(f"{name}.alone-").partition("-")
            if not (pid.isdigit() and start.isdigit()):
                continue
            if records.start_time(int(pid)) == int(start):
                continue
            directory = f"{above}/{entry}"
            # Another may be removing it, too.
            with suppress(FileNotFoundError):
                found += (e.path for e in os.scandir(directory) if e.is_dir())
                found.append(directory)
    return tuple(found)


def of_trials(parents: Parents) -> tuple[str, ...]:
    """Groups that `host` made to see whether it can, and was killed before the end."""
    found: list[str] = []
    for place in parents.places:
        above = os.path.dirname(place.path)
        for entry in os.listdir(above):
            pid = entry.removeprefix(host.TRIAL)
            if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                found.append(f"{above}/{entry}")
    return tuple(found)


def alone(name: str) -> str:
    """The name of this process's directory if it is a standalone daemon.

    Not the daemon's of the same run directory: each removes its own when it ends, and
    would take it from under the other. With the start time the pid is this process's
    for ever.
    """
    return f"{name}.alone-{os.getpid()}-{records.start_time(os.getpid())}"


def above_alone(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The directories that `alone` named, of activities' directories below them."""
    parents = (os.path.dirname(path) for path in paths)
    return tuple(p for p in parents if ".alone-" in os.path.basename(p))


def _make(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
