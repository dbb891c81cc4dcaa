# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: what has no window any more does not run on.

The shell has an icon for each window, and Stop in the palette of the icon. An activity
that closes its window, or never opens one, has neither, and no child could end it. So
some seconds after an icon is gone, or the shell has said that the activity failed to
start, its sandbox is ended, unless it has another window by then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gi.repository import GLib

from .. import windows
from ..errors import HostError
from . import openwindows
from .running import Running

if TYPE_CHECKING:
    from .adapter import Adapter

AFTER_MS = 10_000
"""From the end of its icon. What is to be saved is saved before the window closes."""


def watch(adapter: Adapter) -> None:
    """From now on, of all that the shell of ``adapter`` has an icon for."""

    def gone(model: Any, activity: Any) -> None:
        id = str(activity.get_activity_id())
        GLib.timeout_add(AFTER_MS, end, adapter, id)

    for what in ("activity-removed", "launch-failed"):
        adapter.shell.connect(what, gone)


def end(adapter: Adapter, id: str) -> bool:
    activity = adapter.shell.get_activity_by_id(id)
    if activity is not None and activity.get_xid():
        return False  # it has a window: it was resumed, or its first one came late

    def found(running: Sequence[Running]) -> None:
        for one in running:
            if one.id == id and not has_window(one):
                adapter.end(one.id, one.pid)

    adapter.ask_running(found)
    return False


def has_window(running: Running) -> bool:
    """Whether a process of its sandbox has one, whatever the window says that it is."""
    try:
        found = windows.present(os.environ)
    except HostError:
        return False  # that cannot be seen: the shell has none for it
    above = openwindows.sandbox(running.pid)
    own = (w.pid for w in found if w.pid and openwindows.owner(w.pid) == running.uid)
    return any(openwindows.sandbox(pid) == above for pid in own)


__all__ = ["end", "has_window", "watch"]
