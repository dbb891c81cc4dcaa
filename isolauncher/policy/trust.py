# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens policy files, and only those that nobody but their keepers can change.

A policy is as strong as the weakest hand that can write it. A file counts only if it
is regular, belongs to root or to the owner of isolauncher's own code, and is writable
by nobody else; the same holds for its directory and every directory above, because
whoever can rename a directory can replace what is in it. Above the policy directory
a sticky directory such as /tmp passes: in it only the owner of an entry can rename it
(rename(2), EPERM), and the entry itself is looked at next.

Everything is reached by descriptor, one path component at a time, and each file is
opened once: what was looked at is what is read. Access control lists are not looked
at; where one grants writing, the kernel shows its mask as the group's bits, so such a
file is refused like one that its group may write.

A `Stamp` remembers what was found, cheap enough to be checked at every launch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections import deque
from dataclasses import dataclass

MAX_BYTES = 64 * 1024
MAX_LINKS = 16
# A change within one tick of the file system's clock need not show in its times. FAT
# ticks every two seconds, older ext4 inodes every second, the rest every few ms.
TICK_NS = 2_000_000_000


class Untrusted(Exception):
    """``code`` is policy-not-trusted, policy-unreadable or policy-too-large."""

    def __init__(self, path: str, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.message = message
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Stamp:
    """One path as it was when it was read; ``sha256`` only of files."""

    path: str
    device: int
    inode: int
    mode: int
    owner: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    sha256: str = ""
    racy: bool = False

    def still_holds(self) -> bool:
        """Whether the path is what it was. Directories may change in content."""
        try:
            now = os.lstat(self.path)
        except OSError:
            return False
        if (now.st_dev, now.st_ino, now.st_mode, now.st_uid) != (
            self.device,
            self.inode,
            self.mode,
            self.owner,
        ):
            return False
        if stat.S_ISDIR(self.mode):
            # The number of the last one cannot have been given to another directory:
            # it is held open. Those above it are still above it if that one is there.
            return True
        if self.racy:
            # Read so soon after a change that a second one could hide in the same
            # tick: these times prove nothing, now or later. Read again.
            return False
        return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (
            self.size,
            self.mtime_ns,
            self.ctime_ns,
        )


class Missing(FileNotFoundError):
    """``way`` leads to where the next part of the path is not."""

    def __init__(self, path: str, way: tuple[Stamp, ...]) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.way = way

    def still_holds(self) -> bool:
        """Whether it is missing as before, the way to it what it was."""
        return not os.path.lexists(self.filename) and all(
            stamp.still_holds() for stamp in self.way
        )


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory found trustworthy, with the stamps of the whole way to it."""

    path: str
    descriptor: int
    way: tuple[Stamp, ...]

    def close(self) -> None:
        os.close(self.descriptor)


def open_directory(path: str, owners: frozenset[int]) -> Directory:
    """Walk from / to ``path``; Missing if there is no such directory.

    Symbolic links on the way are followed by hand, so that the directories which
    hold them are looked at like all others.
    """
    way: list[Stamp] = []
    here = "/"
    parts = deque(os.path.abspath(path).split("/"))
    links = 0
    current = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(current)
        _check_directory(here, found, owners, last=False)
        way.append(_stamp(here, found))
        while parts:
            part = parts.popleft()
            if part in ("", "."):
                continue
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                entered = os.open(part, flags, dir_fd=current)
            except FileNotFoundError:
                raise Missing(path, tuple(way)) from None
            except OSError as error:
                raise _unreadable(path, error) from error
            there = os.path.dirname(here) if part == ".." else os.path.join(here, part)
            found = os.fstat(entered)
            if stat.S_ISLNK(found.st_mode):
                try:
                    target = os.readlink("", dir_fd=entered)
                finally:
                    os.close(entered)
                links += 1
                if links > MAX_LINKS:
                    raise _untrusted(path, f"leads through more than {MAX_LINKS} links")
                _check_owner(there, found, owners)
                way.append(_stamp(there, found, racy=_is_racy(found, time.time_ns())))
                parts.extendleft(reversed(target.split("/")))
                if target.startswith("/"):
                    os.close(current)
                    current = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    here = "/"
                continue
            os.close(current)
            current, here = entered, there
            _check_directory(here, found, owners, last=False)
            way.append(_stamp(here, found))
        _check_directory(here, os.fstat(current), owners, last=True)
        # An O_PATH descriptor cannot be listed: open what it stands for.
        try:
            opened = os.open(
                ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current
            )
        except OSError as error:
            raise _unreadable(path, error) from error
        return Directory(path, opened, tuple(way))
    finally:
        os.close(current)


def read_file(
    directory: Directory, name: str, owners: frozenset[int]
) -> tuple[bytes, Stamp]:
    """The bytes of one file; FileNotFoundError if there is none of that name."""
    path = os.path.join(directory.path, name)
    # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it. What is
    # no regular file is only looked at (O_PATH), since opening a device does things.
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        found = os.open(name, os.O_PATH | flags, dir_fd=directory.descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return read_descriptor(found, path, owners)
    finally:
        os.close(found)


def read_descriptor(
    descriptor: int, path: str, owners: frozenset[int]
) -> tuple[bytes, Stamp]:
    """The bytes of the file that ``descriptor`` stands for; O_PATH will do.

    ``path`` is only what messages and the stamp call it.
    """
    _check_file(path, os.fstat(descriptor), owners)
    try:
        # Reopened by its number, which the name can no longer change.
        opened = os.open(
            f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        started = time.time_ns()
        before = os.fstat(opened)
        _check_file(path, before, owners)
        data = b""
        try:
            while len(data) <= MAX_BYTES:
                more = os.read(opened, MAX_BYTES + 1 - len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise _unreadable(path, error) from error
        after = os.fstat(opened)
    finally:
        os.close(opened)
    if len(data) > MAX_BYTES:
        raise Untrusted(
            path,
            f"is larger than {MAX_BYTES // 1024}K",
            code="policy-too-large",
            hint="a policy is a few screens of text",
        )
    if _times(before) != _times(after):
        raise Untrusted(
            path,
            "changed while it was read",
            code="policy-unreadable",
            hint="write a new file and rename it over the old one",
        )
    racy = _is_racy(after, started)
    return data, _stamp(path, after, hashlib.sha256(data).hexdigest(), racy=racy)


def _is_racy(found: os.stat_result, looked: int) -> bool:
    """Whether a change after the look could bear the times that were seen."""
    return max(found.st_mtime_ns, found.st_ctime_ns) + TICK_NS > looked


def _times(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _stamp(
    path: str, found: os.stat_result, sha256: str = "", *, racy: bool = False
) -> Stamp:
    return Stamp(
        path,
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_uid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        sha256,
        racy,
    )


def _check_directory(
    path: str, found: os.stat_result, owners: frozenset[int], *, last: bool
) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise _untrusted(path, "is not a directory")
    _check_owner(path, found, owners)
    sticky = found.st_mode & stat.S_ISVTX and not last
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise _untrusted(
            path,
            f"is a directory that others may write (mode {found.st_mode & 0o7777:04o})",
            f"chmod go-w {path}",
        )


def _check_file(path: str, found: os.stat_result, owners: frozenset[int]) -> None:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a directory",
    }
    if not stat.S_ISREG(found.st_mode):
        kind = kinds.get(stat.S_IFMT(found.st_mode), "something else")
        raise _untrusted(path, f"is {kind}, not a regular file", "put the text there")
    _check_owner(path, found, owners)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _untrusted(
            path,
            f"may be written by others (mode {found.st_mode & 0o7777:04o})",
            f"chmod go-w {path}",
        )


def _check_owner(path: str, found: os.stat_result, owners: frozenset[int]) -> None:
    if found.st_uid not in owners:
        allowed = " or ".join(f"uid {uid}" for uid in sorted(owners))
        raise _untrusted(
            path,
            f"belongs to uid {found.st_uid}",
            f"it must belong to {allowed}: chown it, once you have read it",
        )


def _untrusted(path: str, message: str, hint: str = "") -> Untrusted:
    return Untrusted(path, message, code="policy-not-trusted", hint=hint)


def _unreadable(path: str, error: OSError) -> Untrusted:
    return Untrusted(
        path,
        f"cannot be read: {os.strerror(error.errno or 0)}",
        code="policy-unreadable",
    )
