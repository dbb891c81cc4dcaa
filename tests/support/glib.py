# SPDX-License-Identifier: GPL-3.0-or-later
"""GLib and Gio, past a warning of PyGObject's loader that pytest would raise."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from gi.repository import Gio, GLib

__all__ = ["GLib", "Gio"]
