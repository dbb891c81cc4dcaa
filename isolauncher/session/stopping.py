# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: Stop in the frame, and what is open when the shell is to end.

Sugar's own Stop signals the process that a window says is behind it, which it may not
where that has another uid, and its session manager cannot ask a sandbox to save. What
is ended here is what a window belongs to (icons.py), whatever it says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from gi.repository import GLib

from .icons import Icons, Owner
from .running import Running
from .shellbus import ShellBus

HANGING_MS = 3000
"""From Stop to SIGTERM; the shell's own figure."""

LEAVE_S, LOOK_MS = 5, 50
"""How long what is open may take to save itself when the shell is to end."""


class Stopping:
    """By what ``icons`` knows of windows, over ``bus``; ``shell`` is the model."""

    def __init__(self, shell: Any, icons: Icons, bus: ShellBus) -> None:
        self.shell = shell
        self.icons = icons
        self.bus = bus
        self.closing: set[str] = set()
        """What nobody but the service can tell the end of, while the shell waits."""

    def stop(self, activity: Any, otherwise: Callable[[], None]) -> None:
        """Ask it to close its window, and end what hangs.

        ``otherwise``, Sugar's own, if that signals the very process of the window, and
        the person may.
        """
        owner = self.icons.owner(activity)
        if (
            owner is not None
            and owner.is_the_persons()
            and activity.get_pid() == owner.pid
        ):
            otherwise()
            return
        under, said = self.icons.under(activity), _said(activity)
        activity.stop()
        if not _others(under):
            return

        def found(running: Sequence[Running]) -> None:
            for one in self._those(under, said, running):
                GLib.timeout_add(HANGING_MS, self.bus.end, one.id, one.pid)

        self.bus.ask_running(found)

    def leave(
        self, launched: Callable[[], Collection[str]], then: Callable[[], None]
    ) -> None:
        """Before the shell ends: have what is open saved, then.

        ``launched`` are the ids of what was launched from this shell and has not ended.
        What was launched past it is asked when the service has named it.
        """
        until = time.monotonic() + LEAVE_S
        own = set(launched())
        # Those of a time before, when somebody else kept the shell from ending.
        self.closing.clear()
        others = []
        for activity in list(self.shell):
            under, said = self.icons.under(activity), _said(activity)
            if said in own:
                activity.stop()
            elif _others(under):
                others.append((activity, under, said))
        heard = not others

        def found(running: Sequence[Running]) -> None:
            nonlocal heard
            heard = True
            for activity, under, said in others:
                those = self._those(under, said, running)
                if those:
                    self.closing.update(one.id for one in those)
                    activity.stop()

        def look() -> bool:
            waits = launched() or self.closing or not heard
            if waits and time.monotonic() < until:
                return True
            then()
            return False

        if others:
            self.bus.ask_running(found, LEAVE_S, lambda: found(()))
        GLib.timeout_add(LOOK_MS, look)

    def _those(
        self, under: Iterable[Owner | None], said: str, running: Sequence[Running]
    ) -> list[Running]:
        found = (self.icons.of(owner, said, running) for owner in under)
        return [one for one in found if one is not None]


def _said(activity: Any) -> str:
    return str(activity.get_activity_id() or "")


def _others(under: Iterable[Owner | None]) -> bool:
    """Whether any of them may be another's than the person's."""
    return any(owner is None or owner.uid != os.getuid() for owner in under)


__all__ = ["Stopping"]
