# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pages a child touches is found out, and they can be had ahead."""

from __future__ import annotations

import ast
import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolauncher.zygote import rehearsal, sets

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


@pytest.fixture
def file_pages(tmp_path: Path) -> Iterator[tuple[mmap.mmap, int]]:
    """Pages of a file in the page cache that nobody has looked at through the map."""
    path = tmp_path / "library"
    path.write_bytes(b"x" * (COUNT * PAGE))
    with path.open("r+b") as file:
        made = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
    view = ctypes.c_char.from_buffer(made)
    yield made, ctypes.addressof(view)
    del view
    made.close()


def within(pages: rehearsal.Pages, start: int, advice: int) -> set[int]:
    """Indices of the fixture's pages."""
    found = set()
    for address, length, what in zip(pages[::3], pages[1::3], pages[2::3], strict=True):
        for place in range(address, address + length, PAGE):
            if start <= place < start + COUNT * PAGE and what == advice:
                found.add((place - start) // PAGE)
    return found


def looked(pagemap: int, start: int) -> memoryview[int]:
    """What pagemap has of the fixture's pages."""
    entries = memoryview(bytearray(8 * COUNT)).cast("Q")
    rehearsal._look(pagemap, (start, start + COUNT * PAGE), entries)
    return entries


def test_the_pages_that_are_written_to_are_found_and_no_others(
    memory: tuple[mmap.mmap, int],
) -> None:
    made, start = memory

    def write() -> None:
        for number in (3, 4, 5, 40):
            made[number * PAGE] = 1
        _ = made[50 * PAGE]

    found = rehearsal.pages(write, NOBODY)
    assert within(found, start, rehearsal.WRITE) == {3, 4, 5, 40}
    assert within(found, start, rehearsal.READ) == set()
    assert made[3 * PAGE] == ord("x")


def test_the_pages_of_a_file_that_are_read_are_found_too(
    file_pages: tuple[mmap.mmap, int],
) -> None:
    made, start = file_pages

    def look() -> None:
        _ = made[7 * PAGE]
        made[40 * PAGE] = 1

    found = rehearsal.pages(look, NOBODY)
    # What lies around a page comes with it (fault_around_bytes).
    assert 7 in within(found, start, rehearsal.READ)
    assert within(found, start, rehearsal.WRITE) == {40}


def test_to_look_is_no_part_of_what_is_rehearsed() -> None:
    found = rehearsal.pages(lambda: None, NOBODY)
    lengths, advice = found[1::3], found[2::3]
    written = [
        n for n, what in zip(lengths, advice, strict=True) if what == rehearsal.WRITE
    ]
    assert sum(written) < 20 * PAGE


def test_a_rehearsal_that_fails_or_ends_itself_tells_nothing() -> None:
    def fail() -> None:
        raise ValueError

    assert not rehearsal.pages(fail, NOBODY)
    assert not rehearsal.pages(lambda: os._exit(3), NOBODY)


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
            rehearsal.touch((start, 8 * PAGE, rehearsal.WRITE))
            pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
            look = looked(pagemap, start)
            own = [n for n, entry in enumerate(look) if rehearsal._own(entry)]
            os.write(writer, repr(own).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1000) == repr(list(range(8))).encode()
    os.close(reader)
    os.waitpid(child, 0)
    assert made[0] == ord("x")


def test_a_file_s_pages_that_were_touched_are_there(
    file_pages: tuple[mmap.mmap, int],
) -> None:
    _, start = file_pages
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)

    def present() -> int:
        look = looked(pagemap, start)
        return sum(bool(entry & rehearsal._PRESENT) for entry in look)

    assert present() == 0
    rehearsal.touch((start, COUNT * PAGE, rehearsal.READ))
    assert present() == COUNT
    os.close(pagemap)


@pytest.mark.parametrize("name", sets.TYPICAL)
def test_how_programs_begin_is_of_the_set(name: str) -> None:
    asked = set()
    for node in ast.walk(ast.parse(sets.TYPICAL[name])):
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            asked |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert asked
    assert asked <= set(sets.SETS[name])


def test_to_touch_what_is_not_there_does_no_harm() -> None:
    script = (
        "from isolauncher.zygote import rehearsal\n"
        "for advice in (rehearsal.READ, rehearsal.WRITE, 99):\n"
        "    places = (4096, 4096), (1 << 46, 1 << 20), (12345, 1)\n"
        "    rehearsal.touch([n for p in places for n in (*p, advice)])\n"
        "print('lives')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"lives\n")
