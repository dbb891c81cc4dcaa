# SPDX-License-Identifier: GPL-3.0-or-later
"""New objects do not come between old ones, whose pages a child would copy."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from isolauncher.zygote import filling


def pages(objects: Iterable[object]) -> set[int]:
    return {id(one) // mmap.PAGESIZE for one in objects}


@pytest.mark.parametrize("size", [16, 64, 256, 512])
def test_filled_pools_take_no_new_objects(size: int) -> None:
    make: Callable[[], object] = filling._maker(size)
    old = [make() for _ in range(4_000)]
    del old[::2]
    assert pages(old) & pages([make() for _ in range(100)])
    filling.fill()
    new = [make() for _ in range(100)]
    assert not pages(old) & pages(new)


def test_no_pool_is_left_in_an_arena_that_is_in_use() -> None:
    filling.fill()
    make: Callable[[], object] = filling._maker(512)
    new = [make() for _ in range(200)]
    # Seven pools of 31, one behind the other.
    assert max(map(id, new)) - min(map(id, new)) < 8 * filling._POOL


def test_the_c_library_cuts_from_the_top_of_its_heap() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAP],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"True\nFalse\n", b"")


HEAP = """
import ctypes
from isolauncher.zygote import filling
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
sizes = [*range(600, 20000, 200)] * 4
old = [libc.malloc(size) for size in sizes]
for piece in old[::2]:
    libc.free(piece)

def between():
    new = [libc.malloc(size) for size in (600, 1000, 5000, 10000)]
    return any(min(old) < piece < max(old) for piece in new)

print(between())
filling.fill_heap()
print(between())
"""
