# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of an activity's kept data to work in, and what becomes of it at the end.

For file systems that have no id-mapped mounts (overlayfs, NFS; see scratch.py). What
comes back was written by the activity: links stay links, and what is neither a file,
a directory nor a link is left out.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from . import files

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = ".isolauncher-"


class WorkingCopy:
    """``fds`` are the directories in ``scratch`` that stand in for ``own``."""

    def __init__(self, own: files.Directories, scratch: int) -> None:
        self._kept = os.dup(own.fds["data"])
        self.fds: dict[str, int] = {}
        for name in files.DIRECTORIES:
            os.mkdir(name, 0o700, dir_fd=scratch)
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fds[name] = os.open(name, flags, dir_fd=scratch)
        with _listed(self._kept) as source, _listed(self.fds["data"]) as target:
            for error in _copy(source, target, files.MAX_DEPTH):
                raise error

    def copy_back(self) -> None:
        """What is not there any more is removed, what has changed is replaced.

        What cannot be copied keeps nothing else from being.
        """
        try:
            with _listed(self.fds["data"]) as source, _listed(self._kept) as target:
                for error in _copy(source, target, files.MAX_DEPTH):
                    _tell(error)
                _remove_others(source, target)
        except OSError as error:
            _tell(error)


def _tell(error: Exception) -> None:
    sys.stderr.write(f"kept data could not be copied back whole: {error}\n")


@contextmanager
def _listed(fd: int) -> Iterator[int]:
    """For listing what an O_PATH descriptor stands for, whatever its mode is."""
    files.open_up(fd)
    own = os.open(f"/proc/self/fd/{fd}", _LIST)
    try:
        yield own
    finally:
        os.close(own)


@contextmanager
def _inner(name: str, directory: int) -> Iterator[int]:
    fd = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=directory)
    try:
        with _listed(fd) as own:
            yield own
    finally:
        os.close(fd)


def _copy(source: int, target: int, depth: int) -> Iterator[Exception]:
    """What could not be copied, one after the other."""
    if depth == 0:
        yield files.Unfit(f"directories deeper than {files.MAX_DEPTH}")
        return
    for name in os.listdir(source):
        # Of a copy that was broken off.
        if name.startswith(_TEMPORARY):
            continue
        try:
            yield from _entry(name, source, target, depth)
        except (OSError, files.Unfit) as error:
            yield error


def _entry(name: str, source: int, target: int, depth: int) -> Iterator[Exception]:
    here = os.stat(name, dir_fd=source, follow_symlinks=False)
    there = _status(name, target)
    if stat.S_ISDIR(here.st_mode):
        if there is None or not stat.S_ISDIR(there.st_mode):
            if there is not None:
                os.unlink(name, dir_fd=target)
            os.mkdir(name, 0o700, dir_fd=target)
        with _inner(name, source) as below, _inner(name, target) as into:
            yield from _copy(below, into, depth - 1)
            os.utime(into, ns=(here.st_atime_ns, here.st_mtime_ns))
    elif stat.S_ISREG(here.st_mode) and not _same(here, there):
        _replace(name, target, partial(_file, source, name, target))
    elif stat.S_ISLNK(here.st_mode):
        text = os.readlink(name, dir_fd=source)
        _replace(name, target, partial(os.symlink, text, dir_fd=target))


def _file(source: int, name: str, target: int, temporary: str) -> None:
    seen = os.open(name, _LOOK, dir_fd=source)
    try:
        status = os.fstat(seen)
        if not stat.S_ISREG(status.st_mode):
            raise files.Unfit(f"{name!a} is no file any more")
        # It is what was looked at: neither a FIFO nor a device.
        files.open_up(seen, 0o400)
        fd = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(seen)
    try:
        size = status.st_blocks * 512
        files.see_room(target, size, size)
        # No more of its mode: setid bits would be the person's.
        mode = status.st_mode & 0o777
        into = os.open(temporary, _WRITE, 0o600, dir_fd=target)
        try:
            files.copy(fd, into, status.st_size)
            os.fchmod(into, mode | 0o600)
            os.utime(into, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(into)
    finally:
        os.close(fd)


def _replace(name: str, target: int, make: Callable[[str], None]) -> None:
    """``make`` makes it under a temporary name, which then takes the other's place."""
    temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        make(temporary)
        there = _status(name, target)
        if there is not None and stat.S_ISDIR(there.st_mode):
            _remove(name, target)
        os.rename(temporary, name, src_dir_fd=target, dst_dir_fd=target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=target)
        raise


def _remove_others(source: int, target: int) -> None:
    for name in os.listdir(target):
        here, there = _status(name, source), _status(name, target)
        if here is None:
            _remove(name, target)
        elif stat.S_ISDIR(here.st_mode) and there and stat.S_ISDIR(there.st_mode):
            with _inner(name, source) as below, _inner(name, target) as into:
                _remove_others(below, into)


def _remove(name: str, directory: int) -> None:
    status = _status(name, directory)
    if status is not None and stat.S_ISDIR(status.st_mode):
        with _inner(name, directory) as inner:
            for below in os.listdir(inner):
                _remove(below, inner)
        os.rmdir(name, dir_fd=directory)
    elif status is not None:
        os.unlink(name, dir_fd=directory)


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return (
        other is not None
        and stat.S_ISREG(other.st_mode)
        and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    )


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
