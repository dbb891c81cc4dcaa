# SPDX-License-Identifier: GPL-3.0-or-later
"""How the session's service is called on the bus; the service's and its callers'."""

from __future__ import annotations

NAME = "org.sugarlabs.IsoLauncher1"
PATH = "/org/sugarlabs/IsoLauncher1"
MANAGER = f"{NAME}.Manager"
ACTIVITY = f"{NAME}.Activity"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
