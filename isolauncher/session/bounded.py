# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying an activity's file, which it may still write to: to an end, and no further.

Needs neither the kernel's calls nor anything of a launch, since Sugar's shell has it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

SPARE = 50 * 1024 * 1024
"""Bytes that are left on the person's disk whatever an activity stores."""
_CHUNK = 1 << 20


class Unfit(Exception):
    """A file that is not to be stored or read; says why."""


def see_room(directory: str | int, size: int, most: int) -> None:
    """Unfit, if ``size`` bytes are more than ``most`` or would fill the disk."""
    if size > most:
        raise Unfit(f"the file has more than {most} bytes")
    space = os.statvfs(directory)
    if space.f_bavail * space.f_frsize < size + SPARE:
        raise Unfit("there is not enough room on the disk")


def copy(source: int, target: int, size: int) -> None:
    """The first ``size`` bytes: what grows meanwhile is not waited for.

    Holes stay holes: a copy takes no more room on the disk than the activity's file.
    """
    at = 0
    while at < size:
        start, end = _data(source, at, size)
        _copy_part(source, target, start, end)
        at = end
    os.ftruncate(target, size)


def _data(source: int, at: int, size: int) -> tuple[int, int]:
    """From where to where there is something, after ``at`` (lseek(2), SEEK_DATA)."""
    try:
        start = min(os.lseek(source, at, os.SEEK_DATA), size)
        # Whoever writes to it meanwhile does not keep us from coming to an end.
        return start, min(max(os.lseek(source, start, os.SEEK_HOLE), at + 1), size)
    except OSError as error:
        # Nothing but a hole, or it ends before; or not on this file system.
        return (size if error.errno == errno.ENXIO else at), size


def _copy_part(source: int, target: int, at: int, end: int) -> None:
    with suppress(OSError):  # not between these file systems: EXDEV, EINVAL, ENOSYS
        while at < end:
            size = min(end - at, 1 << 30)
            count = os.copy_file_range(source, target, size, at, at)
            if count == 0:
                return
            at += count
    while at < end:
        data = os.pread(source, min(end - at, _CHUNK), at)
        if not data:
            return
        # A short write is made up for by the next read.
        at += os.pwrite(target, data, at)


__all__ = ["SPARE", "Unfit", "copy", "see_room"]
