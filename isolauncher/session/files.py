# SPDX-License-Identifier: GPL-3.0-or-later
"""An activity's own directories, seen from outside: as the person who owns them.

What is in them was put there by the activity and means nothing good: every name is
opened beneath its directory and through no link (openat2(2)), and what is opened is
looked at before it is read. Nothing here is asked to follow a path of the activity's.
"""

from __future__ import annotations

import os
import posixpath
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from .. import kernel
from ..furniture import DIRECTORIES

SPARE = 50 * 1024 * 1024
"""Bytes that are left on the person's disk whatever an activity stores."""
MAX_DEPTH = 64
MAX_ENTRIES = 65536
_CHUNK = 1 << 20
_BENEATH = (
    0x08 | 0x04 | 0x02 | 0x01  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV
)


class Unfit(Exception):
    """A file that is not to be stored or read; says why."""


@dataclass(slots=True)
class Given:
    """A regular file of the activity's: open for reading, and where it stands."""

    fd: int
    directory: int
    name: str

    def unlink(self) -> None:
        """If that name is still the file: what was put in its place stays."""
        with suppress(OSError):
            there = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self.fd)):
                os.unlink(self.name, dir_fd=self.directory)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.directory)


@dataclass(frozen=True, slots=True)
class Directories:
    """``fds``: data, instance and tmp; ``root``: SUGAR_ACTIVITY_ROOT inside."""

    root: str
    fds: dict[str, int]

    def find(self, path: str) -> Given | None:
        """The regular file that the activity calls ``path``; None if it is none."""
        prefix = self.root + "/"
        if not path.startswith(prefix) or "\0" in path:
            return None
        name, _, rest = path[len(prefix) :].partition("/")
        rest = posixpath.normpath(rest) if rest else ""
        if name not in self.fds or not rest or rest.split("/")[0] in ("..", ".", ""):
            return None
        above, _, last = rest.rpartition("/")
        linux = kernel.Linux()
        try:
            directory = linux.openat2(
                self.fds[name], above or ".", os.O_PATH | os.O_DIRECTORY, _BENEATH
            )
        except (OSError, ValueError):
            return None
        try:
            # A FIFO does not wait for its other end, and a device is not started:
            # it is looked at before it is opened.
            seen = linux.openat2(directory, last, os.O_PATH | os.O_NOFOLLOW, _BENEATH)
            try:
                if not stat.S_ISREG(os.fstat(seen).st_mode):
                    raise OSError
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
                fd = linux.openat2(directory, last, flags, _BENEATH)
                if not os.path.samestat(os.fstat(fd), os.fstat(seen)):
                    os.close(fd)
                    raise OSError
            finally:
                os.close(seen)
        except (OSError, ValueError):
            os.close(directory)
            return None
        return Given(fd, directory, last)

    def check_out(self, path: str) -> str:
        """Copy the person's file ``path`` into ``instance``; its name inside.

        OSError if there is no room.
        """
        extension = posixpath.splitext(path)[1]
        if not extension[1:].isalnum() or len(extension) > 16:
            extension = ""
        name = secrets.token_hex(12) + extension
        instance = self.fds["instance"]
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=instance)
            try:
                copy(source, target, os.fstat(source).st_size)
            except BaseException:
                os.unlink(name, dir_fd=instance)
                raise
            finally:
                os.close(target)
        finally:
            os.close(source)
        return f"{self.root}/instance/{name}"

    def used(self) -> tuple[int, int]:
        """(bytes, entries) in all of them; Unfit where they cannot be counted."""
        size = entries = 0
        for status in self._walk():
            entries += 1
            size += status.st_blocks * 512
            if entries > MAX_ENTRIES:
                raise Unfit(f"more than {MAX_ENTRIES} files")
        return size, entries

    def _walk(self) -> Iterator[os.stat_result]:
        for fd in self.fds.values():
            yield from _below(fd, MAX_DEPTH)


def _below(fd: int, depth: int) -> Iterator[os.stat_result]:
    if depth == 0:
        raise Unfit(f"directories deeper than {MAX_DEPTH}")
    # O_PATH descriptors cannot be listed; this one is ours to read.
    top = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    yield status
                    if not stat.S_ISDIR(status.st_mode):
                        continue
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    inner = os.open(entry.name, flags, dir_fd=top)
                except FileNotFoundError:
                    continue
                try:
                    yield from _below(inner, depth - 1)
                except PermissionError:
                    # The activity can close a directory to its owner, too.
                    raise Unfit("a directory that cannot be read") from None
                finally:
                    os.close(inner)
    finally:
        os.close(top)


def stage(given: Given, directory: str, most: int) -> str:
    """Copy a file of the activity's to a new one in ``directory``; its path.

    Unfit if it is larger than ``most`` bytes, or the disk would be full.
    """
    size = os.fstat(given.fd).st_size
    if size > most:
        raise Unfit(f"the file has more than {most} bytes")
    space = os.statvfs(directory)
    if space.f_bavail * space.f_frsize < size + SPARE:
        raise Unfit("there is not enough room on the disk")
    path = os.path.join(directory, secrets.token_hex(12))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(path, flags, 0o600)
    try:
        copy(given.fd, target, size)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(target)
    return path


def copy(source: int, target: int, size: int) -> None:
    """The first ``size`` bytes: what grows meanwhile is not waited for."""
    done = 0
    with suppress(OSError):  # not between these file systems: EXDEV, EINVAL, ENOSYS
        while done < size:
            count = os.copy_file_range(source, target, min(size - done, 1 << 30))
            if count == 0:
                return
            done += count
    while done < size:
        data = os.pread(source, min(size - done, _CHUNK), done)
        if not data:
            return
        # A short write is made up for by the next read.
        done += os.pwrite(target, data, done)


def make(path: str) -> int:
    """The directory ``path`` of the person's, made if need be, as an O_PATH descriptor.

    What is above it is the person's alone; the last name is no link.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags)


def remove(path: str) -> None:
    """A directory and all in it, however deep and whatever its modes; or nothing."""
    if not os.path.lexists(path):
        return
    # Neither follows a link, and both know trees that are deeper than a path is long.
    for words in (("chmod", "-R", "u+rwX"), ("rm", "-rf", "--one-file-system")):
        subprocess.run(
            [*words, "--", path],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


__all__ = [
    "DIRECTORIES",
    "Directories",
    "Given",
    "Unfit",
    "copy",
    "make",
    "remove",
    "stage",
]
