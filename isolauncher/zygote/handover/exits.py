# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit handlers: the zygote's are dropped, those of preloaded modules are kept.

Hazards: H22. A handler that a module registers while it is imported (logging's, for
one) is there in a cold start too, once the program has imported that module.
"""

from __future__ import annotations

import atexit
import sys

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    atexit._clear()
    for function, arguments, keywords in world.exits:
        # Not those of a module that gave way to the program's own (`modules`).
        if getattr(function, "__module__", None) in sys.modules:
            atexit.register(function, *arguments, **keywords)
