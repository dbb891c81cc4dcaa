# SPDX-License-Identifier: GPL-3.0-or-later
"""What the zygote has done once, and no child does again; and nobody sees it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.powers import installed, need

from isolauncher.zygote.sets import SETS

from . import twins

TOP = Path(__file__).resolve().parents[2]


def test_the_files_of_the_c_locale_are_loaded_and_it_is_not_in_force(
    tmp_path: Path,
) -> None:
    script = tmp_path / "p.py"
    script.write_text(
        "import locale; print(locale.setlocale(locale.LC_ALL), locale.localeconv())\n"
        "import sys; sys.stdout.flush()\n"
        "print('/LC_MONETARY' in open('/proc/self/maps').read(), file=sys.stderr)\n"
    )
    cold, forked = twins.both(str(script))
    assert forked.out == cold.out
    assert (cold.err, forked.err) == (b"False\n", b"True\n")


LOOKED_UP = """
from isolauncher.zygote.handover import glib
import gi; gi.require_version("Gdk", "3.0")
from gi.repository import GLib
from gi.module import get_introspection_module
GLib.random_set_seed(5); first = GLib.random_int()
GLib.random_set_seed(5); glib.look_up(GLib.random_set_seed)
print(first == GLib.random_int())
glib.look_up(get_introspection_module("Gdk").init_check)
print(GLib.get_prgname())
"""


def test_a_function_that_is_looked_up_is_not_called() -> None:
    need(installed("gi.repository.Gtk"))
    done = subprocess.run(
        ["/usr/bin/python3", "-c", LOOKED_UP],
        cwd=TOP,
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"True\nNone\n", b"")


def test_glib_s_numbers_are_each_child_s_own_though_nobody_has_imported_it(
    tmp_path: Path,
) -> None:
    need(installed("gi.repository.Gtk"))
    script = tmp_path / "p.py"
    script.write_text(
        "import ctypes; print(ctypes.CDLL('libglib-2.0.so.0').g_random_int())"
    )
    ended = twins.forked(str(script), children=2, preload=list(SETS["gtk3"]))
    one, other = ended.out.splitlines()
    assert one != other
