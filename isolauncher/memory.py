# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory: what the machine has left, who waits for it, and what sandboxes have of it.

The daemon refuses a launch that the machine has no memory for, before anything is made:
a machine without swap that runs out kills whatever it likes, the shell included. And it
keeps no sandbox waiting where programs that run wait for memory.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

MEMINFO = "/proc/meminfo"
PRESSURE = "/proc/pressure/memory"

NEEDS_MB = {"bare": 12, "python": 12, "gtk3": 28, "sugar3": 40}
"""What a launch from each zygote comes to have of its own, about, with its window open:

init, the program, and where they are the opener and the mediator: Private_Dirty on
Debian 12, rounded up (docs/design.md, docs/preload.md); of gtk3 what lies between.
"""

ROOM_MB = 10
"""What of that a room has already that waits for it, rounded down."""

WINDOW_US = 2_000_000
"""The shortest but for who has CAP_SYS_RESOURCE (Documentation/accounting/psi)."""

SCARCE = 0.25
"""Who waits where more of the machine's memory is available waits by its own limit.

The kernel's figure has both: a program that thrashes in its control group is in it.
"""

RELIEF_S = 10.0
"""After memory was waited for, so long no room is prepared."""


_SIZES = re.compile(r"^(\w+): +(\d+) kB$", re.MULTILINE)
_AVAILABLE = re.compile(rb"^MemAvailable: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Of so many processes, in KiB, each size added up.

    ``uss``: what would be free without them, Private_Clean and Private_Dirty.
    """

    processes: int = 0

    pss: int = 0
    uss: int = 0
    private_dirty: int = 0


def available_kb() -> int | None:
    """What programs could have without swapping (MemAvailable); None: not told."""
    try:
        fd = os.open(MEMINFO, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = _AVAILABLE.search(os.read(fd, 4096))
    finally:
        os.close(fd)
    return int(found[1]) if found else None


def is_scarce() -> bool:
    """Whether `SCARCE` of the machine's memory is available, or less."""
    known = _meminfo()
    total = known.get("MemTotal", 0)
    return known.get("MemAvailable", total) < total * SCARCE


def _meminfo() -> dict[str, int]:
    """Empty where it cannot be read."""
    try:
        return _kib(MEMINFO)
    except OSError:
        return {}


def _kib(path: str) -> dict[str, int]:
    """The lines of a file of the kernel's that are sizes, by name."""
    with open(path, encoding="ascii") as file:
        return {n: int(size) for n, size in _SIZES.findall(file.read())}


def is_left(megabytes: int) -> bool:
    """Whether programs could have as much; yes where the kernel does not tell."""
    available = available_kb()
    return available is None or available >= megabytes * 1024


def rollup(pid: int) -> dict[str, int]:
    """KiB of one process by the kernel's names (proc_pid_smaps(5)), and ``Uss``.

    OSError where it has ended, or may not be looked at.
    """
    path = f"/proc/{pid}/smaps_rollup"
    try:
        found = _kib(path)
    except ProcessLookupError:
        # Or it became another program between open(2) and read(2), as an init does.
        found = _kib(path)
    return found | {"Uss": found["Private_Clean"] + found["Private_Dirty"]}


def below(pid: int) -> Iterator[int]:
    """``pid`` and every process that descends from it; what ends meanwhile is not told.

    Below a sandbox's init that is all that runs in it: it inherits who has lost a
    parent. Empty but for ``pid`` without CONFIG_PROC_CHILDREN (proc_pid_task(5)).
    """
    todo = [pid]
    while todo:
        one = todo.pop()
        yield one
        try:
            tasks = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for task in tasks:
            try:
                with open(f"/proc/{one}/task/{task}/children", "rb") as file:
                    todo += map(int, file.read().split())
            except OSError:
                continue


async def used_below(pid: int) -> Used:
    """Of ``pid`` and all that descends from it.

    The kernel goes through each page of each process: whoever else has something for
    the event loop to do has it done in between.
    """
    found = []
    for one in below(pid):
        with suppress(OSError):
            found.append(rollup(one))
        await asyncio.sleep(0)
    return Used(
        processes=len(found),
        pss=sum(one["Pss"] for one in found),
        uss=sum(one["Uss"] for one in found),
        private_dirty=sum(one["Private_Dirty"] for one in found),
    )


class Pressure:
    """Calls when tasks have waited for memory longer than ``stall_ms`` in two seconds.

    Only where the machine's is scarce. Never if ``stall_ms`` is 0, or where the kernel
    does not tell; ``why`` says then why not.
    """

    def __init__(self, stall_ms: int, told: Callable[[], None]) -> None:
        self.why = ""
        self._fd = -1
        self._poll: select.epoll | None = None
        if not stall_ms:
            return
        try:
            self._fd = os.open(PRESSURE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fd, b"some %d %d\0" % (stall_ms * 1000, WINDOW_US))
        except OSError as error:
            self.why = f"{PRESSURE}: {error.strerror}"
            self.close()
            return
        # It says so by POLLPRI, which the event loop does not look for; and to whoever
        # asks first, which is the loop's own look at this.
        self._poll = select.epoll()
        self._poll.register(self._fd, select.EPOLLPRI)
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._hear, told)

    def _hear(self, told: Callable[[], None]) -> None:
        if is_scarce():
            told()

    def close(self) -> None:
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
