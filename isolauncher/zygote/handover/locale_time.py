# SPDX-License-Identifier: GPL-3.0-or-later
"""Locale, message catalogues and time zone, from the environment as it is now.

Hazards: H13 (time zone), H14 (C locale, gettext). Which encoding the file system and
the standard streams have was decided when the interpreter started: requests for a
locale that would have decided otherwise never come here (`program.needs_exec`).
"""

from __future__ import annotations

import _locale
import sys
import time

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    # A starting interpreter sets LC_CTYPE from the environment and leaves the other
    # categories "C" until the program asks.
    _locale.setlocale(_locale.LC_ALL, "C")
    _locale.setlocale(_locale.LC_CTYPE, "")
    time.tzset()
    gettext = sys.modules.get("gettext")
    if gettext is not None:
        gettext._translations.clear()
        gettext._localedirs.clear()
        gettext._current_domain = "messages"  # type: ignore[attr-defined]
    strptime = sys.modules.get("_strptime")
    if strptime is not None:
        # It compares language and zone by itself, but not the names of the months.
        strptime._TimeRE_cache = strptime.TimeRE()  # type: ignore[attr-defined]
        strptime._regex_cache.clear()
