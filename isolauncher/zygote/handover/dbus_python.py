# SPDX-License-Identifier: GPL-3.0-or-later
"""dbus-python's default main loop, which sugar3 sets when it is imported.

Hazards: H3. It cannot be unset, so the zygote must not set it (`quiet`); a connection
that was opened before the fork is found by its descriptor (`preload`).
"""

from __future__ import annotations

import sys
from typing import Any

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    """Only once it is imported, see ``RENEW``."""


def _main_loop(module: Any) -> None:
    sys.modules["dbus.mainloop.glib"].DBusGMainLoop(set_as_default=True)


RENEW = {"sugar3.activity.activityinstance": _main_loop}
