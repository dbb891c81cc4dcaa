# SPDX-License-Identifier: GPL-3.0-or-later
"""New objects do not come between old ones, whose pages a child would copy."""

from __future__ import annotations

import ctypes
import gc
import mmap
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from support.powers import need

from isolauncher.zygote import filling

TOP = Path(__file__).resolve().parents[2]


def pages(objects: Iterable[object]) -> set[int]:
    return {id(one) // mmap.PAGESIZE for one in objects}


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """One that came in between would make new places."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("size", [16, 64, 256, 512])
def test_filled_pools_take_no_new_objects(size: int) -> None:
    make: Callable[[], object] = filling._maker(size)
    old = [make() for _ in range(4_000)]
    del old[::2]
    assert pages(old) & pages([make() for _ in range(100)])
    filling.fill()
    new = [make() for _ in range(100)]
    assert not pages(old) & pages(new)


POOLS = """
from itertools import pairwise
from isolauncher.zygote import filling

def gaps(objects):
    pools = sorted({id(one) // filling._POOL for one in objects})
    return sum(b - a != 1 for a, b in pairwise(pools))

make = filling._maker(512)
old = [make() for _ in range(31 * 400)]
# Every fourth pool is free.
old = [one for one in old if id(one) // filling._POOL % 4]
assert gaps([make() for _ in range(600)]) > 10
filling.fill()
# But for the ends of arenas and what somebody has just given back.
assert gaps([make() for _ in range(600)]) < 8
"""


def test_no_pool_is_left_in_an_arena_that_is_in_use() -> None:
    in_a_process_of_its_own(POOLS)


HOLES = """
import ctypes
from isolauncher.zygote import filling

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
sizes = [*range(24, 2_000, 40), 5_000, 20_000, 90_000]
old = [libc.malloc(size) for size in sizes for _ in range(20)]
for place in old[::2]:
    libc.free(place)
assert {libc.malloc(size) for size in sizes} & set(old)
filling.fill_holes()
assert min(libc.malloc(size) for size in sizes) > max(old)
"""


def test_filled_holes_take_nothing_of_the_c_library_s() -> None:
    need(None if hasattr(ctypes.CDLL(None), "mallinfo2") else "not this C library")
    in_a_process_of_its_own(HOLES)


def in_a_process_of_its_own(script: str) -> None:
    """Whose memory is in one piece."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_pool_that_is_all_but_empty_is_not_taken_for_a_fresh_one() -> None:
    make: Callable[[], object] = filling._maker(464)
    old = defaultdict(list)
    for made in [make() for _ in range(2_000)]:
        old[id(made) // filling._POOL].append(made)
    *others, last = [held for held in old.values() if len(held) == 35]
    for held in others:
        del held[:2]
    # It is the next to be given out of, before the others.
    del last[1:], made
    filling.fill()
    new = [make() for _ in range(100)]
    assert not pages(new) & pages(one for held in others for one in held)
