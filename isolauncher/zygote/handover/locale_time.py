# SPDX-License-Identifier: GPL-3.0-or-later
"""Locale, message catalogues and time zone, from the environment as it is now.

Hazards: H13 (time zone), H14 (C locale, gettext). Which encoding the file system and
the standard streams have was decided when the interpreter started: requests for a
locale that would have decided otherwise never come here (`program.needs_exec`).
"""

from __future__ import annotations

import _locale
import contextlib
import os
import sys
import time
from operator import is_ as _is
from typing import Any

from isolauncher.zygote.handover import Start, World


def settle(world: World) -> World:
    """Load the locale that is a dozen files; what the C library has it keeps.

    Others are in its archive, one file. Which is in force stays as it was.
    """
    now = _locale.setlocale(_locale.LC_ALL)
    with contextlib.suppress(_locale.Error):  # type: ignore[attr-defined]
        _locale.setlocale(_locale.LC_ALL, "C.UTF-8")
    _locale.setlocale(_locale.LC_ALL, now)
    _searches[:] = _searching()
    if _searches:
        # Practised, see `shelf`.
        for _ in range(_OFTEN):
            sys.modules["gettext"].find("", "/nonexistent", ("xx_XX.UTF-8",), all=True)
    return world


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
    # The words that its body translates. Each would be sought in all catalogues that
    # there may be: once is enough to know that there is none, but for who asks
    # somebody else.
    translate = module._
    if _searches and all(map(_is, _searches, _searching())) and not _catalogues():
        translate = str
    for kind, word in _OPTPARSE.items():
        convert, _ = module._builtin_cvt[kind]
        module._builtin_cvt[kind] = convert, translate(word)


def _catalogues() -> list[str]:
    module: Any = sys.modules["gettext"]
    domain = module._current_domain
    found: list[str] = module.find(domain, module._localedirs.get(domain), all=True)
    return found


_OFTEN = 20
_searches: list[object] = []
_SEARCH = ("gettext", "dgettext", "translation", "find", "_expand_lang")


def _searching() -> list[object]:
    """Who finds the translation of a word, as a program may replace them."""
    module = sys.modules.get("gettext")
    own = [getattr(module, name, None) for name in _SEARCH]
    return [*own, os.path.exists] if module is not None else []


_OPTPARSE = {
    "int": "integer",
    "long": "integer",
    "float": "floating-point",
    "complex": "complex",
}

RENEW = {"gettext": _gettext, "_strptime": _strptime, "optparse": _optparse}
