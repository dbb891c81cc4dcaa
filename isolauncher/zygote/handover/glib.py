# SPDX-License-Identifier: GPL-3.0-or-later
"""GLib's random numbers.

Hazards: H3, H6, H7. Directories, user name and program name are kept by GLib from
the first time somebody asks; main contexts and connections cannot be shared. None of
them has a remedy here but that nobody asks before the fork (`quiet`, and the checks of
`preload`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from isolauncher.zygote.handover import Start, World

RENEWED = ("gi.repository.GLib",)

_glib: Any = None


def settle(world: World) -> World:
    global _glib
    _glib = sys.modules.get("gi.repository.GLib")
    if _glib is not None:
        # The generator is made, of which each child has its own stream.
        _glib.random_set_seed(0)
    return world


def apply(start: Start, world: World) -> None:
    # Whether the program imports it or not: libraries draw from it, too. If nobody has
    # drawn yet in a cold start it is seeded at the first draw, which is not to be seen.
    # Not in `begin`, which the zygote does as well.
    if _glib is not None:
        _glib.random_set_seed(int.from_bytes(os.urandom(4)))


def look_up(function: Callable[..., object]) -> None:
    """Have PyGObject find a C function and learn how it is called, and not call it.

    That comes before it sees that it was given more than the one argument it takes.
    """
    with contextlib.suppress(TypeError):
        function(None, None)
