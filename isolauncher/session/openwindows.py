# SPDX-License-Identifier: GPL-3.0-or-later
"""What is open on a display, and whether it is really confined.

A window may say of itself what it likes, its activity id as well. Believed are the X
server, which knows what process it is connected with, the kernel, which knows whose
that process is, and the daemon, which knows the uids of what it launched. A window is
confined if its process has the uid of something that runs in a sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import IsolauncherError
from ..windows import Present, present
from .running import Running, listed

Verdict = Literal["confined", "unconfined", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A window and the verdict; ``running`` is what the daemon has for it."""

    window: Present
    verdict: Verdict
    running: Running | None = None

    @property
    def bundle_id(self) -> str:
        """Of the activity that it is: the daemon's word, else what it says itself."""
        return self.running.bundle_id if self.running else self.window.sugar_bundle


def judge(
    windows: Iterable[Present],
    running: Sequence[Running] | None,
    owner: Callable[[int], int | None],
    person: int,
) -> tuple[Open, ...]:
    """``running`` None: the daemon could not be asked. ``owner``: whose a process is.

    What belongs to ``person`` is unconfined whoever cannot be asked: nothing that was
    launched ever has a uid of a person's.
    """
    return tuple(_judged(window, running, owner, person) for window in windows)


def _judged(
    window: Present,
    running: Sequence[Running] | None,
    owner: Callable[[int], int | None],
    person: int,
) -> Open:
    uid = owner(window.pid) if window.pid else None
    if uid is None:
        return Open(window=window, verdict="unknown")
    if uid == person or uid == 0:
        return Open(window=window, verdict="unconfined")
    if running is None:
        return Open(window=window, verdict="unknown")
    of_it = [one for one in running if one.uid == uid]
    if not of_it:
        return Open(window=window, verdict="unconfined")
    # Several where a bundle keeps its uid; then it may say which it is.
    said = (one for one in of_it if one.id == window.sugar_activity)
    return Open(window=window, verdict="confined", running=next(said, of_it[0]))


def owner(pid: int) -> int | None:
    """The real uid of a process, as the kernel says it; None: it is not to be seen."""
    status = _status(pid)
    return status and status[0]


def sandbox(pid: int) -> int | None:
    """The init that a process has been started below; None: it is not to be seen.

    All in a sandbox have one uid, which is not that of its init, and whoever has lost
    a parent there has init for one.
    """
    for _ in range(_TRIES):
        status = own = _status(pid)
        above = pid
        while status is not None and own is not None and status[0] == own[0]:
            above = status[1]
            status = _status(above)
        if status is not None:
            return above
        if own is None or above == 0:
            break
        # A parent that ended meanwhile: by now it has another.
    return None


_TRIES = 10


def _status(pid: int) -> tuple[int, int] | None:
    """Real uid, and the pid of its parent, at one moment."""
    found: dict[str, int] = {}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("PPid", "Uid"):
                    found[name] = int(rest.split()[0])
        return found["Uid"], found["PPid"]
    except (OSError, ValueError, KeyError):
        return None


def look(
    environment: Mapping[str, str], *, without: Iterable[int] = ()
) -> tuple[Open, ...]:
    """The windows of a display but those of the processes ``without``.

    HostError if the display cannot be had; a daemon that cannot be asked is none.
    """
    # The windows first: what is launched meanwhile is known then, not the reverse.
    windows = [one for one in present(environment) if one.pid not in set(without)]
    try:
        known: tuple[Running, ...] | None = listed()
    except IsolauncherError:
        known = None
    return judge(windows, known, owner, os.getuid())


__all__ = ["Open", "Verdict", "judge", "look", "owner", "sandbox"]
