# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out which pages a start touches, so that a waiting stem has them.

A forked child shares the zygote's memory until it writes: then the kernel interrupts
it and copies the page. A page of a file, of a library's code for one, is in nobody's
page table after a fork, and the kernel interrupts at the first look, too. A hand-over
and the start of a program touch hundreds, always the same ones. So the zygote has a
child that nobody waits for hand over to a small program, compares what the child had
before and after (/proc/PID/pagemap: admin-guide/mm/pagemap.rst), and a stem in a room
has that done while it waits (MADV_POPULATE_WRITE and _READ, madvise(2), Linux 5.14). No
content changes, none is copied that would not have been, and whatever fails only costs
time later.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
from array import array
from collections.abc import Callable, Iterator, Sequence

Pages = Sequence[int]
"""Address, length in bytes, and what madvise(2) is told, of each run of pages.

An array: it has no objects in it, which a child would write to by looking at them.
"""

_PAGE = os.sysconf("SC_PAGE_SIZE")
READ, WRITE = 22, 23
"""MADV_POPULATE_READ, MADV_POPULATE_WRITE"""
_PRESENT, _SHARED_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
_PATIENCE_S = 10
_AT_ONCE = 16

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def pages(rehearse: Callable[[], object], nobody: int) -> Pages:
    """What ``rehearse`` writes to, when a child without rights does it; or nothing.

    ``rehearse`` may do to its process whatever it likes.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _watch(rehearse, nobody, writer)
        finally:
            os._exit(0)
    os.close(writer)
    data = bytearray()
    try:
        while block := os.read(reader, 1 << 16):
            data += block
    finally:
        os.close(reader)
    return array("Q", bytes(data[: len(data) // 24 * 24]))


def touch(known: Pages, until: int = -1) -> None:
    """Have the kernel copy these pages now; a refusal means that it will later.

    Only until the descriptor ``until`` is readable: what has come there is not to wait.
    """
    poll = select.poll()
    if until >= 0:
        poll.register(until, select.POLLIN)
    for at in range(0, len(known), 3):
        if not at % (3 * _AT_ONCE) and until >= 0 and poll.poll(0):
            return
        _madvise(known[at], known[at + 1], known[at + 2])


def _watch(rehearse: Callable[[], object], nobody: int, writer: int) -> None:
    """In the child: rehearse between two looks at our pages, and tell what changed."""
    # Opened while the process is its user's: after a change of uid it is root's.
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    # What libraries have to say of a nobody without a home is no administrator's worry.
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    for stream in (1, 2):
        os.dup2(null, stream)
    os.setresgid(nobody, nobody, nobody)
    os.setresuid(nobody, nobody, nobody)
    signal.alarm(_PATIENCE_S)
    # Not where a program would have what it makes: that is to come to lie where it
    # will in a child that does not look, and what the looks write to is no program's.
    ranges = _private()
    count = sum(_pages(ranges))
    entries = memoryview(mmap.mmap(-1, 2 * 8 * count)).cast("Q")
    before, after = entries[:count], entries[count:]
    _look(pagemap, ranges, before)
    rehearse()
    _look(pagemap, ranges, after)
    os.write(writer, array("Q", _runs(ranges, before, after)).tobytes())


def _private() -> array[int]:
    """Readable private mappings: start and end of each, in turns."""
    found = array("Q")
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as f:
        for line in f:
            place, mode, *_ = line.split(" ", 2)
            if mode in ("rw-p", "r--p", "r-xp"):
                start, _, end = place.partition("-")
                found.extend((int(start, 16), int(end, 16)))
    return found


def _pages(ranges: Sequence[int]) -> Iterator[int]:
    """How many each has."""
    return ((ranges[at + 1] - ranges[at]) // _PAGE for at in range(0, len(ranges), 2))


def _look(pagemap: int, ranges: Sequence[int], entries: memoryview[int]) -> None:
    """Write what pagemap has of each page."""
    at = 0
    for number, count in enumerate(_pages(ranges)):
        place = ranges[2 * number] // _PAGE * 8
        os.preadv(pagemap, (entries[at : at + count],), place)
        at += count


def _runs(
    ranges: Sequence[int], before: memoryview[int], after: memoryview[int]
) -> list[int]:
    """Address, length and advice of what has become the child's, in turns."""
    found: list[int] = []
    end, last, at = -1, 0, 0
    for place, count in enumerate(_pages(ranges)):
        start, begin, at = ranges[2 * place], at, at + count
        both = zip(before[begin:at], after[begin:at], strict=True)
        for number, (was, now) in enumerate(both):
            if was == now or not now & _PRESENT:
                continue
            if _own(now) and not _own(was):
                advice = WRITE
            elif not was & _PRESENT:
                advice = READ
            else:
                continue
            address = start + number * _PAGE
            if address == end and advice == last:
                found[-2] += _PAGE
            else:
                found += (address, _PAGE, advice)
            end, last = address + _PAGE, advice
    return found


def _own(entry: int) -> bool:
    wanted = _PRESENT | _EXCLUSIVE
    return entry & wanted == wanted and not entry & _SHARED_FILE
