# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the daemon when a file that a zygote was made from is no longer the same.

Directories are watched, since an upgrade replaces files; the events are then weighed
by name, so that what happens to files nobody preloaded does not cost a zygote. Runs
in the daemon: makes no system call of its own but stat and read, and is given the two
inotify calls.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import all_suffixes

from isolauncher.zygote.fingerprint import File, Fingerprint

IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_ISDIR = 0x40000000

_MASK = (
    IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_DELETE_SELF
    | IN_MOVE_SELF
    | IN_ONLYDIR
)
_ENDED = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED
_EVENT = struct.Struct("iIII")
# Read by `site` from any directory of the path when an interpreter starts.
_START_MODULES = frozenset({"sitecustomize", "usercustomize"})


@dataclass(slots=True)
class _Directory:
    """What matters in one directory: files by name, modules by stem."""

    path: str
    files: dict[str, File] = field(default_factory=dict)
    stems: set[str] = field(default_factory=set)
    on_path: bool = False


class Watch:
    """One zygote's files. ``fd`` becomes readable when something may have changed."""

    def __init__(
        self,
        fingerprint: Fingerprint,
        *,
        inotify_init: Callable[[], int],
        inotify_add_watch: Callable[[int, str, int], int],
    ) -> None:
        directories = _directories(fingerprint)
        self._by_watch: dict[int, list[_Directory]] = {}
        self._changed: dict[str, None] = {}
        # Non-blocking, as `changed` reads until nothing is left.
        self.fd = inotify_init()
        try:
            os.set_blocking(self.fd, False)
            for directory in directories:
                try:
                    watch = inotify_add_watch(self.fd, directory.path, _MASK)
                except (FileNotFoundError, NotADirectoryError):
                    # An entry of the path that does not exist. Its parent is watched
                    # for it (`_directories`); but where files were, they are gone.
                    if directory.files:
                        self._note(directory.path)
                    continue
                # Two names of one directory have one watch.
                self._by_watch.setdefault(watch, []).append(directory)
            # Only now, so that no change falls between the look and the watch.
            for file in fingerprint.files:
                if not _same(file):
                    self._note(file.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)

    def changed(self) -> list[str]:
        """What has changed since the zygote loaded it, as paths; empty: nothing.

        Does not block, and does not forget: once changed, a zygote is stale.
        """
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return list(self._changed)
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size
                name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length
                self._weigh(watch, mask, name)

    def _note(self, path: str) -> None:
        self._changed[path] = None

    def _weigh(self, watch: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            self._note("(more changes than the kernel would keep)")
            return
        for directory in self._by_watch.get(watch, ()):
            path = os.path.join(directory.path, name) if name else directory.path
            if mask & _ENDED:
                self._note(directory.path)
            elif name in directory.files:
                # Permissions and links may change without the content doing so.
                if not mask & IN_ATTRIB or not _same(directory.files[name]):
                    self._note(path)
            elif not mask & IN_ATTRIB and _would_matter(directory, mask, name):
                self._note(path)


def _same(file: File) -> bool:
    try:
        return File.of(file.path) == file
    except OSError:
        return False


def _would_matter(directory: _Directory, mask: int, name: str) -> bool:
    """Whether a file that nobody preloaded would be found in place of one that was."""
    stem, dot, _ = name.partition(".")
    if directory.on_path and (name.endswith(".pth") or name.endswith(".egg-link")):
        return True
    if mask & IN_ISDIR or not dot:
        return name in directory.stems
    return stem in directory.stems and name.endswith(tuple(all_suffixes()))


def _directories(fingerprint: Fingerprint) -> list[_Directory]:
    directories: dict[str, _Directory] = {}

    def at(path: str) -> _Directory:
        return directories.setdefault(path, _Directory(path))

    for file in fingerprint.files:
        parent, name = os.path.split(file.path)
        at(parent).files[name] = file
    for name, directory in fingerprint.names:
        # A submodule is sought in its package's directory alone.
        at(directory).stems.add(name.rpartition(".")[2])
    path = fingerprint.path
    for index, entry in enumerate(path):
        place = at(entry)
        place.on_path = True
        place.stems |= _START_MODULES
        # What was found later in the path could from now on be found here.
        later = set(path[index:])
        place.stems.update(
            name
            for name, directory in fingerprint.names
            if "." not in name and directory in later
        )
    for entry in path:
        if not os.path.exists(entry):
            parent, name = os.path.split(entry)
            at(parent).files.setdefault(name, _ABSENT)
    return list(directories.values())


# No file is the same as this one: any event about its name is a change.
_ABSENT = File(path="", dev=-1, ino=-1, mtime_ns=-1, size=-1)
