# SPDX-License-Identifier: GPL-3.0-or-later
"""A version is required as in a cold start, whichever is loaded."""

from __future__ import annotations

from pathlib import Path

from support.powers import installed, need

from . import twins

LOADED = ["gi.repository.GLib", "gi.repository.Gio", "gi.repository.GdkPixbuf"]

ASKS = """
import inspect, traceback
import gi

def ask(*words):
    try:
        print(words, gi.require_version(*words))
    except Exception:
        print(traceback.format_exc())
    print(sorted(gi._versions.items()))

class Word(str):
    pass

NAMES = "GLib", "Gio", "GdkPixbuf", "Gdk", "Nowhere", "", Word("Gio"), None, 1, b"Gio"
VERSIONS = "2.0", "3.0", "1.0", "", Word("2.0"), None, 2.0

def all_of(what):
    print(what)
    for name in NAMES:
        for version in VERSIONS:
            # In a child one is loaded before it is imported, and any other version
            # refused in other words.
            if name not in NAMES[:3] or version not in ("3.0", "1.0", ""):
                ask(name, version)

all_of("at first")
ask()
ask("Gio")
gi._versions["Gio"] = "1.0"
all_of("another is required")
gi._versions.clear()
from gi.repository import Gio
all_of("imported")
gi._versions = {}
all_of("forgotten")
repository, gi.Repository = gi.Repository, None
ask("Gio", "2.0")
gi.Repository = repository
print(gi.get_required_version("Gio"), inspect.signature(gi.require_version))
print(inspect.getsource(gi.require_version))
try:
    gi.require_versions({"Gio": "2.0", "Nowhere": "1"})
except ValueError as error:
    print(error)
"""

ACTIVE = """
import gi
print([any(map(callable, gi.require_version.__code__.co_consts))])
"""


def test_required_as_in_a_cold_start(tmp_path: Path) -> None:
    need(installed("gi"))
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    cold = twins.cold(str(script))
    forked = twins.forked(str(script), preload=LOADED)
    assert forked.out.splitlines() == cold.out.splitlines()
    assert (forked.status, forked.err) == (cold.status, cold.err) == (0, b"")


def test_it_is_in_force(tmp_path: Path) -> None:
    """Else the one above would compare a thing with itself."""
    need(installed("gi"))
    script = tmp_path / "active.py"
    script.write_text(ACTIVE)
    assert twins.cold(str(script)).out == b"[False]\n"
    assert twins.forked(str(script), preload=LOADED).out == b"[True]\n"
