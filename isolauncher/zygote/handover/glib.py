# SPDX-License-Identifier: GPL-3.0-or-later
"""GLib's random numbers.

Hazards: H3, H6, H7. Directories, user name and program name are kept by GLib from
the first time somebody asks; main contexts and connections cannot be shared. None of
them has a remedy here but that nobody asks before the fork (`quiet`, and the checks of
`preload`).
"""

from __future__ import annotations

import os
from typing import Any

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    """Only once it is imported, see ``RENEW``."""


def _random(glib: Any) -> None:
    # If nobody has drawn yet it would be seeded at the first draw; whether somebody
    # has is not to be seen.
    glib.random_set_seed(int.from_bytes(os.urandom(4)))


RENEW = {"gi.repository.GLib": _random}
