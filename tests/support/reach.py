# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout that only root can enter, as one below /root is, and others who need it.

The demo and the tests start programs of other users from the checkout itself. Where a
directory above it is closed to them, it is covered in a mount namespace of our own by
an empty one that is open, with nothing in it but the way to the checkout. So every path
stays what it was, and the machine's own directory as closed as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def closed(top: Path) -> Path | None:
    """The first directory above ``top`` that others may not pass through."""
    above = reversed(top.resolve().parents)
    return next((path for path in above if not path.stat().st_mode & 0o001), None)


def own_mounts(more: int = 0) -> bool:
    """Mounts of this process and its children alone; False: we may not.

    ``more``: other namespaces. OSError if they are still the machine's after all.
    """
    if _libc.unshare(CLONE_NEWNS | more) != 0:
        return False
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    return True


def open_to_all(top: Path) -> None:
    """Let everybody reach ``top`` by its name. The mounts must be our own."""
    top = top.resolve()
    cover = closed(top)
    if cover is None:
        return
    here = Path.cwd()
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        _mount("tmpfs", str(cover), "tmpfs", 0, "mode=0755,size=64k")
        top.mkdir(parents=True)
        _mount(f"/proc/self/fd/{fd}", str(top), None, MS_BIND | MS_REC)
    finally:
        os.close(fd)
    if here.is_relative_to(top):
        os.chdir(here)


@contextlib.contextmanager
def empty_over(place: str, options: str) -> Iterator[None]:
    """An empty directory in memory in the place's, for this process and its own.

    Where mounts are the machine's it is refused: conftest.py takes the tests out.
    """
    ours, theirs = (f"/proc/{pid}/ns/mnt" for pid in ("self", os.getppid()))
    if os.readlink(ours) == os.readlink(theirs):
        raise OSError(f"a mount over {place} would be the machine's")
    _mount("tmpfs", place, "tmpfs", 0, options)
    try:
        yield
    finally:
        if _libc.umount2(place.encode(), MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), f"unmount {place}")


@contextlib.contextmanager
def mounted_over(place: str) -> Iterator[Path]:
    """A copy of the directory in memory in its place, as `empty_over`."""
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(place, kept, dirs_exist_ok=True, symlinks=True)
        with empty_over(place, "mode=0755"):
            shutil.copytree(kept, place, dirs_exist_ok=True, symlinks=True)
            yield Path(place)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str = ""
) -> None:
    words = [None if w is None else w.encode() for w in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: mount {source} at {target}")


__all__ = ["closed", "empty_over", "mounted_over", "open_to_all", "own_mounts"]
