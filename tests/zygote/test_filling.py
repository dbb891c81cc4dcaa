# SPDX-License-Identifier: GPL-3.0-or-later
"""New objects do not come between old ones, whose pages a child would copy."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable

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
