# SPDX-License-Identifier: GPL-3.0-or-later
"""A section of Sugar's control panel: what each activity may do, and what is open.

Sugar imports this when the panel opens, before it draws the sections' icons, and
view.py and model.py when the section itself is opened.
"""

from __future__ import annotations

import os

from gi.repository import Gtk

from .text import _

CLASS = "ActivityPermissions"
ICON = "module-isolauncher"
TITLE = _("Activity Permissions")
KEYWORDS = [_("network"), _("camera"), _("microphone"), _("sandbox"), "isolauncher"]

Gtk.IconTheme.get_default().append_search_path(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "icons")
)
