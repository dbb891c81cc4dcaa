# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses up the free places between the zygote's objects, so that no child does.

The interpreter puts a small object into whatever pool of its size has a place left
(Objects/obmalloc.c). What an import frees leaves such places on every page; a child
that takes one copies the page. So before the first fork each pool that has one is
filled, with values that stay: memory that was lying idle anyway. A child's own objects
then come together, on pages of their own.
"""

from __future__ import annotations

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


def fill() -> None:
    kept: list[object] = []
    for size in range(_STEP, _LARGEST + 1, _STEP):
        _fill(size, _maker(size), kept)
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
