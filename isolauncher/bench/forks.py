# SPDX-License-Identifier: GPL-3.0-or-later
"""Children that are forked without a program of their own, each with one door."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterable
from typing import NoReturn

from .. import kernel
from ..errors import COULD_NOT_LAUNCH, IsolauncherError
from .patience import END_S, readable

ENDS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def fork(act: Callable[[], int], tell: Callable[[str], object]) -> int:
    """The pid of a child that does ``act`` and leaves with what that returns.

    What ``act`` raises is told in one line. Whatever happens, the telling included, it
    leaves: else the caller's own code would go on in two processes.
    """
    # The benchmark's own ways to end raise: in the child not before there is a door.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        child = os.fork()
        if child == 0:
            _leave(act, tell, before)
        return child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(
    act: Callable[[], int],
    tell: Callable[[str], object],
    before: Iterable[int],
) -> NoReturn:
    status = COULD_NOT_LAUNCH
    try:
        for number in ENDS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status = act()
    except IsolauncherError as error:
        tell(error.line())
    except BaseException as error:
        tell(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def complain(line: str) -> None:
    """On the standard error that the child has by then."""
    os.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))


def keep_only(*fds: int) -> None:
    """In a forked child: of the parent's descriptors no others stay open.

    Whoever waits for the end of a pipe must not wait for the child to end.
    """
    # The parent's files are no garbage here: closed as such, each would close whatever
    # has its number by then.
    gc.freeze()
    kernel.Linux().close_except(frozenset(fds))


def end(child: int, patience_s: float = END_S) -> None:
    """Told to, and killed where it has not ended in time; reaped in any case."""
    os.kill(child, signal.SIGTERM)
    reap(child, patience_s)


def reap(child: int, patience_s: float) -> None:
    """When it has ended by itself, or is killed."""
    ended = False
    pidfd = os.pidfd_open(child)
    try:
        ended = readable(pidfd, patience_s)
    finally:
        os.close(pidfd)
        if not ended:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
