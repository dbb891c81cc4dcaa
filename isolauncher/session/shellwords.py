# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter shows in Sugar's shell, and what of its environment leaves it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from gettext import dgettext
from gettext import gettext as _

from ..errors import IsolauncherError

WEB = ("sugar-activity-web", "sugar3.activity.webactivity.WebActivity")
API_SOCKET = ("SUGAR_APISOCKET_KEY", "SUGAR_APISOCKET_PORT")
"""With the key whoever can connect to the shell's socket has the whole Journal."""

ABSENT = frozenset({"daemon-not-running", "daemon-unreachable", "session-not-running"})


def for_activity(environment: Mapping[str, str], command: str) -> dict[str, str]:
    """What may be sent, and the key of the shell's socket for web activities alone."""
    web = any(os.path.basename(word) in WEB for word in command.split())
    return {
        name: value
        for name, value in environment.items()
        if _is_text(name + value) and (web or name not in API_SOCKET)
    }


def without_host(title: str) -> str:
    """A window's title as it was before the window manager saw whose host it is."""
    words = "%s (on %s)"
    for form in (words, dgettext("metacity", words)):
        pattern = re.escape(form).replace("%s", "(.*)", 1).replace("%s", "[^()]*", 1)
        if found := re.fullmatch(pattern, title, re.DOTALL):
            return found[1]
    return title


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def sentence(error: IsolauncherError) -> str:
    """For who looks at the screen: in Sugar's own words where it has them."""
    if error.code in ABSENT:
        return (
            "isolauncher, which keeps activities apart, is not running. "
            "Whoever looks after this computer can start it."
        )
    if error.code == "quota":
        return str(
            _(
                "The maximum number of open activities has been reached. "
                "Please close an activity before launching a new one."
            )
        )
    hint = f" ({error.hint})" if error.hint else ""
    return f"{error.message[:1].upper()}{error.message[1:]}{hint}."


__all__ = ["ABSENT", "for_activity", "sentence", "without_host"]
