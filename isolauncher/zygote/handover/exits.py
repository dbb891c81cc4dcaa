# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit handlers: the zygote's are dropped, those of preloaded modules are kept.

Hazards: H22. A handler that a module registers while it is imported (logging's, for
one) is there in a cold start too, once the program has imported that module.
"""

from __future__ import annotations

import atexit

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    # Those of preloaded modules come back with them (`shelf`).
    atexit._clear()
