# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether anything has changed on the way to the paths that a room shows.

An opener says what it looks up, and where, on the way to each path (`looked_up`); the
daemon has the kernel tell of every change there (`Watch`, inotify(7)). What a look-up
comes to is decided by names in directories, by links, and by owner, mode and access
list of each file on the way. Names and links change by an event in their directory,
whoever changes them by whatever path; the rest by an event of the file itself, which
is watched for that. An event is there when the call that made the change returns. So
who has looked after the watch was set, and hears of no event, need not look again.

That holds for file systems that nobody can change but through this kernel, and in
which one name has one spelling. Where it is not sure, the answer is None, and later
"changed": whoever asked looks again.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from . import kernel, wire

MAX_LINKS = 40

_IN_ATTRIB = 0x4
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
# An inode that goes loses its name first, which is told of; the end of its file system,
# and of the watch, and of what the queue holds, is told unasked.
_MASK = _IN_ATTRIB | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")

_MOST = 16 * 1024
"""Bytes of events that a launch may have to weigh: some hundred."""

# ext2 to ext4, tmpfs, btrfs, XFS, F2FS, ramfs, squashfs. No overlay: what lies below it
# can be changed past it.
_TOLD = frozenset(
    (
        *(0xEF53, kernel.TMPFS_MAGIC, 0x9123683E, 0x58465342),
        *(0xF2F52010, 0x858458F6, 0x73717368),
    )
)
_FS_IOC_GETFLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
# linux/fs.h. A key that is added or removed changes every name in such a directory, and
# nobody is told; names that differ in case are the same in one of the other kind.
_FS_ENCRYPT_FL = 0x800
_FS_CASEFOLD_FL = 0x40000000


@dataclass(frozen=True, slots=True)
class Place:
    """A file on the way, and which names were looked up in it; none in the last one.

    ``fd`` is O_PATH, and whoever has the place closes it.
    """

    device: int
    inode: int
    names: tuple[str, ...]
    fd: int


def looked_up(paths: Iterable[str]) -> list[Place] | None:
    """Every place on the way to ``paths``, links' own ways included; None: not sure.

    By whoever is to open them, with the same rights.
    """
    names: dict[tuple[int, int], set[str]] = {}
    fds: dict[tuple[int, int], int] = {}
    try:
        for path in paths:
            for fd, name in _way(path):
                status = os.fstat(fd)
                key = status.st_dev, status.st_ino
                if fds.setdefault(key, fd) != fd:
                    os.close(fd)
                elif kernel.file_system(fd) not in _TOLD:
                    wire.close_all(fds.values())
                    return None
                names.setdefault(key, set()).update(name)
    except BaseException:
        wire.close_all(fds.values())
        raise
    return [Place(*key, tuple(sorted(names[key])), fds[key]) for key in fds]


def _way(path: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each look-up: the directory, the taker's to close, and the name.

    What is there in the end without one.
    """
    for _ in range(MAX_LINKS):
        target = None
        directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = [p for p in path.split("/") if p]
        for number, part in enumerate(parts):
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(part, flags, dir_fd=directory)
            except OSError:
                # It may appear, or the way to it become free.
                yield directory, (part,)
                return
            yield directory, (part,)
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                target = os.readlink("", dir_fd=fd)
                os.close(fd)
                above, rest = "/".join(parts[:number]), "/".join(parts[number + 1 :])
                path = posixpath.normpath(posixpath.join(f"/{above}", target, rest))
                break
            directory = fd
        if target is None:
            yield directory, ()
            return


@dataclass(slots=True, eq=False)
class Watched:
    """The places of one room: the names that matter in each, by inotify's number."""

    watch: Watch
    names: Mapping[int, frozenset[bytes]]
    changed: bool = False

    def is_quiet(self) -> bool:
        """Whether nothing has changed since it is watched; if not, for good."""
        self.watch.hear()
        return not self.changed

    def close(self) -> None:
        self.watch.forget(self)


@dataclass(slots=True)
class Watch:
    """All that rooms have watched, by one inotify descriptor; none while there is none.

    Its queue is read when a room is asked about, and no further than `_MOST`: who makes
    names in a directory on the way, as fast as he can, costs no launch more than that
    and the opener's look.
    """

    _fd: int = -1
    _of: dict[int, set[Watched]] = field(default_factory=dict)

    def add(self, places: Sequence[Place]) -> Watched | None:
        """Watch these, whose descriptors stay the caller's; None where it is not sure.

        They lie on file systems of this machine's own: nobody is waited for.
        """
        self.hear()
        names: dict[int, frozenset[bytes]] = {}
        watched = Watched(self, names)
        try:
            if self._fd < 0:
                self._fd = kernel.inotify_init()
            for place in places:
                if _is_odd(place.fd):
                    raise OSError
                path = f"/proc/self/fd/{place.fd}"
                number = kernel.inotify_add_watch(self._fd, path, _MASK)
                # XFS can be made to take no notice of case, in ASCII.
                named = (os.fsencode(name).lower() for name in place.names)
                names[number] = frozenset(named)
                self._of.setdefault(number, set()).add(watched)
        except OSError:
            self.forget(watched)
            return None
        return watched

    def forget(self, watched: Watched) -> None:
        for number in watched.names:
            rooms = self._of.get(number, set())
            rooms.discard(watched)
            if not rooms and self._of.pop(number, None) is not None:
                # Gone already where its file system has been unmounted.
                with suppress(OSError):
                    kernel.inotify_rm_watch(self._fd, number)

    def hear(self) -> None:
        """Weigh what the kernel has told since the last time."""
        if self._fd < 0:
            return
        try:
            data = os.read(self._fd, _MOST)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if mask & _IN_Q_OVERFLOW:
                self._give_up()
                return
            for watched in self._of.get(number, ()):
                if not name or name.lower() in watched.names[number]:
                    watched.changed = True
        if _MOST - len(data) < _EVENT.size + 256:
            self._give_up()  # there may be more

    def _give_up(self) -> None:
        """Nothing more is known of any; what is watched from now on is."""
        for watched in set().union(*self._of.values()):
            watched.changed = True
        self.close()

    def close(self) -> None:
        self._of.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_odd(fd: int) -> bool:
    """Whether names in that directory mean something else than what they are."""
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        return False
    here = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(here, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return False  # a file system that has no such flags
    finally:
        os.close(here)
    (flags,) = struct.unpack_from("I", answer)
    return bool(flags & (_FS_ENCRYPT_FL | _FS_CASEFOLD_FL))
