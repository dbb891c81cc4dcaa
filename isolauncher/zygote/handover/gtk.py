# SPDX-License-Identifier: GPL-3.0-or-later
"""GDK and GTK are initialised again, with the child's display and environment.

Hazards: H4. PyGObject's overrides initialise both libraries when they are imported.
The zygote had a stand-in for that (`quiet`), so that for the C libraries it has not
happened yet: display, settings, theme, locale, program class and ``argv`` are as in a
cold start.
"""

from __future__ import annotations

import sys
from typing import Any

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    """Only once they are imported, see ``RENEW``."""


# As the last lines of gi/overrides/Gdk.py and Gtk.py.


def _gdk(overrides: Any) -> None:
    overrides.initialized, overrides.argv = overrides.Gdk.init_check(sys.argv)


def _gtk(overrides: Any) -> None:
    overrides.initialized, overrides.argv = overrides.Gtk.init_check(sys.argv)
    sys.argv = list(overrides.argv)


RENEW = {"gi.overrides.Gdk": _gdk, "gi.overrides.Gtk": _gtk}
