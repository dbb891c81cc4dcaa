# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit handlers: the zygote's are dropped.

Hazards: H22. A handler that a module registers while it is imported (logging's, for
one) is there in a cold start too, once the program has imported that module: it comes
back with it (`shelf`).
"""

from __future__ import annotations

import atexit

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    atexit._clear()
