# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses up the free places between the zygote's objects, so that no child does.

The interpreter puts a small object into whatever pool of its size has a place left
(Objects/obmalloc.c), and the C library, which has the larger ones and the libraries',
into whatever hole is large enough (malloc/malloc.c). What an import frees leaves such
places on every page; a child that takes one copies the page. So before the first fork
all are filled, with values that stay: memory that was lying idle anyway. A child's own
objects then come together, on pages of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from isolauncher.zygote import forever

_LARGEST = 512
"""Bytes; what is larger is the C library's to place."""
_STEP = 16
_POOL = 16384
_HEADER = 48
"""Bytes of a pool that are not for objects."""
_MOST = 4 << 20
"""Bytes of one size; more would mean that pools are not what they were."""
_BYTES = bytes.__basicsize__
_IN_A_ROW = 8
"""Pools one behind the other, and not left over in several arenas."""


def fill() -> None:
    kept: list[object] = []
    for size in range(_STEP, _LARGEST + 1, _STEP):
        _fill(size, _maker(size), kept)
    fill_holes()
    _fill_pools(kept)
    forever.keep(kept)


def _maker(size: int) -> Callable[[], object]:
    if size == 16:
        return object
    if size == 32:
        return lambda: float(len("float"))
    return lambda: bytes(size - _BYTES)


def _fill(size: int, make: Callable[[], object], kept: list[object]) -> None:
    """Until a pool has nothing but ours: a fresh one, so none else had a place left.

    One after the other, lest what is needed for more at once takes places of its own.
    """
    # Of the size of the numbers that tell which pool it is: one or two are in it.
    places = (_POOL - _HEADER) // size - (2 if size == 32 else 0)
    pool, run = 0, 0
    for _ in range(_MOST // size):
        kept.append(make())
        at = id(kept[-1]) // _POOL
        run = run + 1 if at == pool else 1
        if run == places:
            return
        pool = at


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


# ------------------------------------------------------------------- the C library's


class _Info(ctypes.Structure):
    """struct mallinfo2, mallinfo(3); ``keepcost`` is what is free at the top."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks "
        "fordblks keepcost".split()
    )


_HOLES = (*(1 << n for n in range(22, 9, -1)), *range(1016, 0, -_STEP))
"""Bytes: of a hole the largest of these that it has room for, then of what is left.

The small ones are those that the C library has lists of, a list for each.
"""
_MOST_HOLES = 100_000


def fill_holes() -> None:
    """Those of malloc(3); none where it is another than glibc's of 2.33 or later."""
    libc = ctypes.CDLL(None)
    info = getattr(libc, "mallinfo2", None)
    if info is None:
        return
    info.restype = _Info
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.sbrk.argtypes = (ctypes.c_ssize_t,)
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.free.restype = None
    # From here on all is free, and given out only where no hole will do.
    top = libc.sbrk(0) - info().keepcost
    left = _MOST_HOLES
    for size in _HOLES:
        while left:
            place = libc.malloc(size)
            if not place or place >= top:
                libc.free(place)
                break
            left -= 1
