# SPDX-License-Identifier: GPL-3.0-or-later
"""Sugar's shell imports this at its start: what it launches, isolauncher launches.

Belongs into /usr/share/sugar/extensions/deviceicon, where it is imported earlier than
anywhere else; it shows no icon. `make install-sugar` puts it there.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from sugar3.activity import activityfactory

# Written by who installs this from a checkout, or for a shell that is only tried.
CHECKOUT = ""
CONFIG = ""


def _refuse(handler: Any) -> None:
    """Nothing is launched without isolauncher because isolauncher is broken."""
    handle = handler._handle
    if handle.activity_id is None:
        handle.activity_id = activityfactory.create_activity_id()
    done = handler._no_reply_handler
    for call in (
        lambda **how: handler._shell.NotifyLaunch(
            handler._service_name, handle.activity_id, **how
        ),
        lambda **how: handler._shell.NotifyLaunchFailure(handle.activity_id, **how),
    ):
        call(reply_handler=done, error_handler=logging.error)
    logging.error("isolauncher is broken: %s is not launched", handler._service_name)


try:
    if CHECKOUT:
        sys.path.append(CHECKOUT)
    from isolauncher.session import adapter

    adapter.install(CONFIG or None)
except BaseException:
    # The shell would log this and go on, with the toolkit's own way to launch.
    activityfactory.ActivityCreationHandler._create_activity = _refuse
    logging.exception("isolauncher: nothing will be launched, since")


def setup(tray: Any) -> None:
    """The shell calls this for every file in the directory."""
