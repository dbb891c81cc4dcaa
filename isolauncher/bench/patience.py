# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that is measured is waited for without an end."""

from __future__ import annotations

import os
import select

from ..errors import HostError

PATIENCE_S = 60.0
END_S = 10.0
"""For what is told to end; it is killed then."""


def readable(fd: int, seconds: float | None = None) -> bool:
    """Whether there is something to read, or an end, in time; None: `PATIENCE_S`."""
    # select(2) knows no descriptor above 1023, and a thousand may be alive.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * (PATIENCE_S if seconds is None else seconds)))


def read(fd: int, what: str, seconds: float | None = None) -> bytes:
    """What can be read of at most 4096 bytes; HostError where nothing comes in time."""
    if not readable(fd, seconds):
        raise HostError(f"{what} said nothing for too long", code="bench-timeout")
    return os.read(fd, 4096)
