# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports libraries without letting them settle on the zygote's own surroundings.

Some modules do more at import than define things: ``gi.repository.Gtk`` opens the
display, ``sugar3.graphics.style`` reads the person's settings. In a zygote there is
neither, and what the C library below has looked up once it keeps for good. So while the
list is imported these calls have stand-ins; the hand-over makes the real ones in each
child, at the moment at which a cold start makes them (`handover.shelf`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from isolauncher.zygote import sets, unseen
from isolauncher.zygote.noting import bootstrap, is_away

_Undo = list[Callable[[], None]]


@contextmanager
def quiet() -> Iterator[None]:
    """While it lasts, imports are quiet."""
    real = bootstrap._find_and_load
    undo: _Undo = []

    def find_and_load(name: str, import_: object) -> object:
        if name in _BEFORE and not (name in sys.modules or is_away(name)):
            _BEFORE[name](undo)
        return real(name, import_)

    unseen.hide(find_and_load)
    bootstrap._find_and_load = find_and_load
    try:
        yield
    finally:
        bootstrap._find_and_load = real
        for step in reversed(undo):
            step()


def _versions(undo: _Undo) -> None:
    """As programs ask for them; else the newest would be taken, with a warning."""
    gi = importlib.import_module("gi")
    for namespace, version in sets.VERSIONS.items():
        # Not installed, or not in this version: its entry will say so.
        with suppress(ValueError):
            gi.require_version(namespace, version)
    # What a program may ask which versions it has required itself.
    undo.append(gi._versions.clear)


def _no_display(namespace: str) -> Callable[[_Undo], None]:
    def before(undo: _Undo) -> None:
        modules = importlib.import_module("gi.module")
        attributes = modules.get_introspection_module(namespace).__dict__

        def forget() -> None:
            attributes.pop("init_check", None)

        attributes["init_check"] = lambda argv: (False, argv)
        undo.append(forget)

    return before


def _no_settings(undo: _Undo) -> None:
    settings = importlib.import_module("gi.repository.Gio").Settings
    # The class is an override; what it has is its base's.
    settings.list_schemas = staticmethod(lambda: [])
    undo.append(lambda: delattr(settings, "list_schemas"))


def _no_main_loop(undo: _Undo) -> None:
    glib = importlib.import_module("dbus.mainloop.glib")
    real = glib.DBusGMainLoop

    def nothing(**settings: object) -> None:
        return None

    def put_back() -> None:
        for module in tuple(sys.modules.values()):
            if getattr(module, "__dict__", {}).get("DBusGMainLoop") is nothing:
                module.__dict__["DBusGMainLoop"] = real

    glib.__dict__["DBusGMainLoop"] = nothing
    undo.append(put_back)


_BEFORE: Mapping[str, Callable[[_Undo], None]] = {
    "gi.repository": _versions,
    # The overrides initialise their library as soon as they are imported.
    "gi.overrides.Gdk": _no_display("Gdk"),
    "gi.overrides.Gtk": _no_display("Gtk"),
    "sugar3.graphics.style": _no_settings,
    "sugar3.activity.activityinstance": _no_main_loop,
}
