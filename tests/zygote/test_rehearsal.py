# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pages a child writes to is found out, and they can be had ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolauncher.zygote import rehearsal

PAGE = mmap.PAGESIZE
COUNT = 64
NOBODY = 65534
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def memory() -> Iterator[tuple[mmap.mmap, int]]:
    """Pages of our own, all written to, and where they begin."""
    made = mmap.mmap(-1, COUNT * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Whole pages: a huge one would be copied as one.
    made.madvise(mmap.MADV_NOHUGEPAGE)
    made[:] = b"x" * len(made)
    view = ctypes.c_char.from_buffer(made)
    yield made, ctypes.addressof(view)
    del view
    made.close()


def within(pages: rehearsal.Pages, start: int) -> set[int]:
    """Indices of the fixture's pages."""
    found = set()
    for address, length in pages:
        for place in range(address, address + length, PAGE):
            if start <= place < start + COUNT * PAGE:
                found.add((place - start) // PAGE)
    return found


def test_the_pages_that_are_written_to_are_found_and_no_others(
    memory: tuple[mmap.mmap, int],
) -> None:
    made, start = memory

    def write() -> None:
        for number in (3, 4, 5, 40):
            made[number * PAGE] = 1
        _ = made[50 * PAGE]

    assert within(rehearsal.pages(write, NOBODY), start) == {3, 4, 5, 40}
    assert made[3 * PAGE] == ord("x")


def test_a_rehearsal_that_fails_or_ends_itself_tells_nothing() -> None:
    def fail() -> None:
        raise ValueError

    assert rehearsal.pages(fail, NOBODY) == ()
    assert rehearsal.pages(lambda: os._exit(3), NOBODY) == ()


def test_what_a_rehearsal_prints_is_in_nobody_s_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def warn() -> None:
        os.write(1, b"printed")
        os.write(2, b"dconf-CRITICAL: unable to create directory '/.cache/dconf'")

    rehearsal.pages(warn, NOBODY)
    os.write(2, b"ours")
    assert capfd.readouterr() == ("", "ours")


def test_a_rehearsal_has_nobodys_rights() -> None:
    if os.geteuid() != 0:
        pytest.skip("has no rights to lose")
    reader, writer = os.pipe()

    def tell() -> None:
        os.write(writer, repr((os.getresuid(), os.getresgid())).encode())

    rehearsal.pages(tell, NOBODY)
    os.close(writer)
    assert os.read(reader, 200) == repr(((NOBODY,) * 3, (NOBODY,) * 3)).encode()
    os.close(reader)


def test_pages_that_were_touched_are_not_copied_again(
    memory: tuple[mmap.mmap, int],
) -> None:
    made, start = memory
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            rehearsal.touch(((start, 8 * PAGE),))
            pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
            look = rehearsal._look(pagemap, start, start + COUNT * PAGE)
            own = [n for n, entry in enumerate(look) if rehearsal._own(entry)]
            os.write(writer, repr(own).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1000) == repr(list(range(8))).encode()
    os.close(reader)
    os.waitpid(child, 0)
    assert made[0] == ord("x")


def test_to_touch_what_is_not_there_does_no_harm() -> None:
    script = (
        "from isolauncher.zygote import rehearsal\n"
        "rehearsal.touch(((4096, 4096), (1 << 46, 1 << 20), (12345, 1)))\n"
        "print('lives')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"lives\n")
