# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses up the free places between the zygote's objects, so that no child does.

The interpreter puts a small object into whatever pool of its size has a place left, and
else takes a free pool (Objects/obmalloc.c); the C library cuts what is larger from
whatever piece of its heap is free (malloc(3)). What an import frees leaves such places
on every page; a child that takes one copies the page. So before the first fork each is
filled, with values that stay: memory that was lying idle anyway. A child's own objects
then come together, on pages of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from isolauncher.zygote import forever

_LARGEST = 512
"""Bytes; what is larger is the C library's to place."""
_STEP = 16
_PAGE = 4096
_POOL = 16384
_MOST = 4 << 20
"""Bytes of one size; more would mean that pools are not what they were."""
_BYTES = bytes.__basicsize__
_IN_A_ROW = 8
"""Pools one behind the other, and not left over in several arenas."""

_PIECES = (*(1 << n for n in range(20, 11, -1)), *range(2048, 16, -_STEP))
"""Bytes, from the largest: what is left of a piece is for a smaller one."""


def fill() -> None:
    fill_heap()
    kept: list[object] = []
    for size in range(_STEP, _LARGEST + 1, _STEP):
        _fill(size, _maker(size), kept)
    _fill_pools(kept)
    forever.keep(kept)


def _maker(size: int) -> Callable[[], object]:
    if size == 16:
        return object
    if size == 32:
        return lambda: float(len("float"))
    return lambda: bytes(size - _BYTES)


def _fill(size: int, make: Callable[[], object], kept: list[object]) -> None:
    """Until as many as a pool has places for come together: it was a fresh one."""
    count = _POOL // size
    for _ in range(_MOST // _POOL):
        made = [make() for _ in range(count)]
        kept += made
        if len({id(one) // _PAGE for one in made}) <= _POOL // _PAGE + 2:
            return


def _fill_pools(kept: list[object]) -> None:
    """Until they come in a row, from an arena that nobody has used yet."""
    make, count = _maker(_LARGEST), _POOL // _LARGEST
    last, row = 0, 0
    for _ in range(4 * _MOST // _POOL):
        made = [make() for _ in range(count)]
        kept += made
        pool = id(made[-1]) // _POOL
        row = row + 1 if pool == last + 1 else 0
        last = pool
        if row == _IN_A_ROW:
            return


class _MallInfo(ctypes.Structure):
    """struct mallinfo2, of mallinfo(3); the last is the size of what is on top."""

    _fields_ = (("_others", ctypes.c_size_t * 9), ("keepcost", ctypes.c_size_t))


def fill_heap() -> None:
    """All pieces of the C library's heap that are free, but for the one on top."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return  # before glibc 2.33, which has it
    libc.mallinfo2.restype = _MallInfo
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.sbrk.argtypes = (ctypes.c_ssize_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    top = libc.sbrk(0) - libc.mallinfo2().keepcost
    malloc, free = libc.malloc, libc.free
    for size in _PIECES:
        for _ in range(_MOST // _STEP):
            piece = malloc(size)
            if piece is None or piece >= top:
                # From the top, or the kernel.
                free(piece)
                break
