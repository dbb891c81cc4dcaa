# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: whose windows there are, and that nothing hides from Stop.

A window may say that it is of whatever process or activity it likes. So the X server is
asked when it opens which process it is connected with, and the kernel whose that is and
which sandbox it is in: when the window closes, the process may be gone.

The shell has an icon for the windows of an activity, and Stop in the palette of the
icon. An activity that closes its windows, or never opens one, has neither, and no child
could end it. So some time after it has lost its icon, or the shell has said that it
failed to start, its sandbox is ended, unless it has an icon again by then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gi.repository import GLib

from .. import records
from ..errors import HostError
from . import openwindows
from .running import Running

AFTER_MS = 30_000
"""From the end of its icon. What is to be saved is saved before the window closes."""


class Windows(Protocol):
    """What is asked of `windows.Clients`."""

    def process(self, number: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process of a window, as it was when the window opened.

    ``began`` tells it from a later one of its number; 0: it only waits to be reaped.
    ``sandbox`` is the process above that has another uid; 0: none is to be seen.
    """

    pid: int
    began: int
    uid: int
    sandbox: int

    def is_the_persons(self) -> bool:
        """Whether it runs, and is another program of this shell's person."""
        alive = self.began != 0 and _began(self.pid) == self.began
        return alive and self.uid == os.getuid() and self.pid != os.getpid()

    @property
    def place(self) -> tuple[int, int | None]:
        """Two that have the same are in one sandbox."""
        return self.uid, self.sandbox or None


def _place(one: Running) -> tuple[int, int]:
    """Never that of an owner if it is not to be seen."""
    return one.uid, openwindows.sandbox(one.pid) or 0


def owner_of(pid: int) -> Owner | None:
    """None: it is not to be seen, or not the same any more while it is looked at."""
    began = _began(pid)
    uid, sandbox = openwindows.owner(pid), openwindows.sandbox(pid)
    if uid is None or _began(pid) != began:
        return None
    return Owner(pid=pid, began=began, uid=uid, sandbox=sandbox or 0)


class Icons:
    """What the shell, whose model is ``shell``, has an icon for.

    ``ask_running`` hands what runs to who asks, some time; ``end`` ends it by id and
    pid.
    """

    def __init__(
        self,
        shell: Any,
        clients: Windows,
        ask_running: Callable[[Callable[[Sequence[Running]], None]], None],
        end: Callable[[str, int], object],
    ) -> None:
        self.shell = shell
        self.clients = clients
        self.ask_running = ask_running
        self.end = end
        self.owners: dict[int, Owner | None] = {}
        """Of each window that is open, by its number; None: nobody knows."""

    def watch(self, screen: Any) -> None:
        """From now on; ``screen`` is libwnck's."""
        for window in screen.get_windows():
            self.opened(screen, window)
        # After the shell's own, which has its model know them, or no more.
        screen.connect("window-opened", self.opened)
        screen.connect("window-closed", self.closed)
        self.shell.connect("activity-removed", self.gone)
        self.shell.connect("launch-failed", self.gone)

    # ---------------------------------------------------------------------- whose it is

    def opened(self, screen: Any, window: Any) -> None:
        number = window.get_xid()
        pid = self._process(number)
        self.owners[number] = owner_of(pid) if pid else None

    def _process(self, number: int) -> int:
        try:
            return self.clients.process(number)
        except HostError:  # whoever has the display may have cut the connection
            try:
                return self.clients.process(number)
            except HostError as error:
                logging.error("isolauncher: whose a window is is not known: %s", error)
                return 0

    def owner(self, activity: Any) -> Owner | None:
        """Of the window that Sugar closes and signals; None: not known."""
        return self.owners.get(activity.get_xid() or 0)

    def under(self, activity: Any) -> tuple[Owner | None, ...]:
        """All that have windows under an icon, as far as they are known, or (None,).

        Sugar puts under one what says the same activity.
        """
        known = (
            owner
            for number, owner in self.owners.items()
            if owner is not None and activity.has_xid(number)
        )
        return tuple(dict.fromkeys(known)) or (None,)

    def of(
        self, owner: Owner | None, said: str, running: Iterable[Running]
    ) -> Running | None:
        """What a window belongs to; ``said``: the id that it says itself.

        It is believed only if nobody knows whose the window is, and what it says to be
        has no other icon.
        """
        if owner is not None:
            place = owner.place
            return next((one for one in running if _place(one) == place), None)
        for one in running:
            if one.id == said and not (self.has_icon(one) or self.pulses(one.id)):
                return one
        return None

    # -------------------------------------------------------------- whether it has one

    def has_icon(self, one: Running) -> bool:
        """Whether the shell has one with a window that is known to be of it.

        Not every window has: a dialog has none.
        """
        return self._is_shown(_place(one))

    def _is_shown(self, place: tuple[int, int | None]) -> bool:
        return any(
            owner is not None
            and owner.place == place
            and self.shell._get_activity_by_xid(number) is not None
            for number, owner in self.owners.items()
        )

    def pulses(self, id: str) -> bool:
        """Whether the shell still waits for its first window."""
        return self.shell.get_launcher(id) is not None and any(
            activity.get_launch_status() == activity.LAUNCHING
            for activity in self._icons_of(id)
        )

    def has_unknown(self, id: str) -> bool:
        """Whether an unknown window says to be of it, by which Stop goes then."""
        numbers = [activity.get_xid() for activity in self._icons_of(id)]
        return any(n in self.owners and self.owners[n] is None for n in numbers)

    def _icons_of(self, id: str) -> list[Any]:
        return [one for one in self.shell if one.get_activity_id() == id]

    def closed(self, screen: Any, window: Any) -> None:
        owner = self.owners.pop(window.get_xid(), None)
        if owner is None or owner.uid == os.getuid() or self._is_shown(owner.place):
            return
        GLib.timeout_add(AFTER_MS, self.check, "", owner)

    def gone(self, model: Any, activity: Any) -> None:
        """An icon is removed, or shown as failed."""
        id = activity.get_activity_id()
        if id:
            GLib.timeout_add(AFTER_MS, self.check, str(id), None)

    def check(self, id: str, owner: Owner | None) -> bool:
        """End what is of that id, or has had that window, and has no icon."""

        def found(running: Sequence[Running]) -> None:
            for one in running:
                had = owner is not None and owner.place == _place(one)
                if (had or one.id == id) and not (
                    self.has_icon(one)
                    or self.pulses(one.id)
                    or self.has_unknown(one.id)
                ):
                    self.end(one.id, one.pid)

        self.ask_running(found)
        return False


def _began(pid: int) -> int:
    try:
        return records.start_time(pid)
    except OSError:  # it is not to be seen
        return 0


__all__ = ["Icons", "Owner", "owner_of"]
