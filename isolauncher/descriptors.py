# SPDX-License-Identifier: GPL-3.0-or-later
"""How many descriptors are left, so that what is begun can be brought to its end.

A launch that runs out of them halfway is undone with a few more, and what comes with a
message is lost where it does not fit (recvmsg(2)). So it is who would make them scarce
that waits: the daemon accepts and launches while there is enough for that, and only so
long. Here is the count and the measure; who asks and what follows is the daemon's.
"""

from __future__ import annotations

import errno
import os
import resource

LAUNCH = 96
"""What a launch under the shipped policies has open at a time, at most, or nearly.

Each path that it shows is opened once by the caller's rights and cloned once.
"""
CONNECTION = 14
"""Its socket and what may come with its messages, an opener's two, one to spare."""
LEAST = 256
"""Below this a daemon could not serve two at a time."""


def most() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def opened() -> int:
    # From Linux 6.2 on the directory tells it as its size; before, that is 0.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def need(count: int) -> None:
    """OSError (EMFILE), as from whoever opens one too many, unless ``count`` are left.

    It is asked ahead of what cannot fail halfway without harm to others.
    """
    if most() - opened() < count:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
