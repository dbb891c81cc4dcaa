# SPDX-License-Identifier: GPL-3.0-or-later
"""The section's words, translated: those that Sugar has by Sugar, the rest by its own.

The section's own catalogue lies beside it; po/ has what it is made from.
"""

from __future__ import annotations

import gettext
import os

DOMAIN = "isolauncher"
_OWN = gettext.translation(
    DOMAIN,
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "locale"),
    fallback=True,
)


def _(message: str) -> str:
    own = _OWN.gettext(message)
    return own if own != message else gettext.dgettext("sugar", message)
