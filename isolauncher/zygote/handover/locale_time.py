# SPDX-License-Identifier: GPL-3.0-or-later
"""Locale, message catalogues and time zone, from the environment as it is now.

Hazards: H13 (time zone), H14 (C locale, gettext). Which encoding the file system and
the standard streams have was decided when the interpreter started: requests for a
locale that would have decided otherwise never come here (`program.needs_exec`).
"""

from __future__ import annotations

import _locale
import time
from typing import Any

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    # A starting interpreter sets LC_CTYPE from the environment and leaves the other
    # categories "C" until the program asks.
    _locale.setlocale(_locale.LC_ALL, "C")
    _locale.setlocale(_locale.LC_CTYPE, "")
    time.tzset()


def again(start: Start, world: World) -> None:
    time.tzset()  # what the name of a zone leads to


def _gettext(module: Any) -> None:
    module._translations.clear()
    module._localedirs.clear()
    module._current_domain = "messages"


def _strptime(module: Any) -> None:
    # It compares language and zone by itself, but not the names of the months.
    module._TimeRE_cache = module.TimeRE()
    module._regex_cache.clear()


def _optparse(module: Any) -> None:
    # The words that its body translates.
    for kind, word in _OPTPARSE.items():
        convert, _ = module._builtin_cvt[kind]
        module._builtin_cvt[kind] = convert, module._(word)


_OPTPARSE = {
    "int": "integer",
    "long": "integer",
    "float": "floating-point",
    "complex": "complex",
}

RENEW = {"gettext": _gettext, "_strptime": _strptime, "optparse": _optparse}
