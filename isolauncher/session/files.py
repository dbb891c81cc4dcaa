# SPDX-License-Identifier: GPL-3.0-or-later
"""An activity's own directories, seen from outside: as the person who owns them.

What is in them was put there by the activity and means nothing good: every name is
opened beneath its directory and through no link (openat2(2)), and what is opened is
looked at before it is read. Nothing here is asked to follow a path of the activity's.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from .. import kernel
from ..furniture import DIRECTORIES
from .bounded import Unfit, copy, see_room

MAX_DEPTH = 64
MAX_ENTRIES = 65536
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = (
    0x08 | 0x04 | 0x02 | 0x01  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV
)


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

    def check_out(self, path: str, most: int) -> str:
        """Copy the person's file ``path`` into ``instance``; its name inside.

        Unfit if it is larger than ``most`` bytes, or the disk would be full.
        """
        extension = posixpath.splitext(path)[1]
        if not extension[1:].isalnum() or len(extension) > 16:
            extension = ""
        name = secrets.token_hex(12) + extension
        instance = self.fds["instance"]
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(source).st_size
            see_room(instance, size, most)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=instance)
            try:
                copy(source, target, size)
            except BaseException:
                os.unlink(name, dir_fd=instance)
                raise
            finally:
                os.close(target)
        finally:
            os.close(source)
        return f"{self.root}/instance/{name}"

    def used(self, most: int | None = None) -> tuple[int, int]:
        """(bytes, entries) in all of them; Unfit where they cannot be counted.

        Counts no further than to ``most`` entries.
        """
        size = entries = 0
        try:
            for status in self._walk():
                entries += 1
                size += status.st_blocks * 512
                if most is not None and entries > most:
                    raise Unfit(f"more than {most} files")
        except PermissionError:
            raise Unfit("a directory that is closed again and again") from None
        return size, entries

    def _walk(self) -> Iterator[os.stat_result]:
        for fd in self.fds.values():
            yield from _below(fd, MAX_DEPTH)


def _below(fd: int, depth: int) -> Iterator[os.stat_result]:
    if depth == 0:
        raise Unfit(f"directories deeper than {MAX_DEPTH}")
    # The activity can close a directory to its owner, and write where nobody counts.
    open_up(fd)
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
                    inner = os.open(entry.name, _DIRECTORY, dir_fd=top)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # it is changed meanwhile
                try:
                    yield from _below(inner, depth - 1)
                finally:
                    os.close(inner)
    finally:
        os.close(top)


def stage(given: Given, directory: str, most: int) -> str:
    """Copy a file of the activity's to a new one in ``directory``; its path.

    Unfit if it is larger than ``most`` bytes, or the disk would be full.
    """
    size = os.fstat(given.fd).st_size
    see_room(directory, size, most)
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


def make(path: str) -> int:
    """The directory ``path`` of the person's, made if need be, as an O_PATH descriptor.

    What is above it is the person's alone; the last name is no link. An activity that
    has closed its own to itself finds it open again.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(path, _DIRECTORY)
    open_up(fd)
    return fd


def remove(path: str) -> None:
    """A directory and all in it, however deep and whatever its modes; or nothing.

    No link is followed, whoever still changes something there: each directory is
    opened without, and what it holds is brought up to the top, so that there is no
    depth to run out of descriptors or of path in. OSError if something stays.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        open_up(top)
        while names := _names(top):
            for name in names:
                _take_apart(top, name)
    finally:
        os.close(top)
    os.rmdir(path)


def _take_apart(top: int, name: bytes) -> None:
    """A file goes; of a directory what is in it comes up to ``top``, and it goes."""
    try:
        inner = os.open(name, _DIRECTORY, dir_fd=top)
    except NotADirectoryError:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=top)
        return
    except FileNotFoundError:
        return
    try:
        open_up(inner)
        for below in _names(inner):
            try:
                os.unlink(below, dir_fd=inner)
            except IsADirectoryError:
                _bring_up(inner, below, top)
    finally:
        os.close(inner)
    try:
        os.rmdir(name, dir_fd=top)
    except FileNotFoundError:
        return
    except OSError as error:
        # Somebody is still at work there, and it is met again.
        if error.errno != errno.ENOTEMPTY:
            raise


def _bring_up(inner: int, name: bytes, top: int) -> None:
    # rename(2) writes a directory that gets another parent.
    fd = os.open(name, _DIRECTORY, dir_fd=inner)
    try:
        open_up(fd)
    finally:
        os.close(fd)
    os.rename(name, secrets.token_hex(16), src_dir_fd=inner, dst_dir_fd=top)


def open_up(fd: int, mode: int = 0o700) -> None:
    """Let the owner read and change a directory (chmod(2) by an O_PATH descriptor)."""
    if os.fstat(fd).st_mode & mode != mode:
        os.chmod(f"/proc/self/fd/{fd}", mode)


def _names(fd: int) -> list[bytes]:
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [os.fsencode(name) for name in os.listdir(own)]
    finally:
        os.close(own)


__all__ = [
    "DIRECTORIES",
    "Directories",
    "Given",
    "Unfit",
    "copy",
    "make",
    "open_up",
    "remove",
    "see_room",
    "stage",
]
