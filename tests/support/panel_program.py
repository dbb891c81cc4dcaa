# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens Sugar's own control panel at our section, and prints what is drawn there.

Run as a person of a session: ``panel_program.py EXTENSIONS POLICIES BUNDLE-ID
SWITCH…``. The bundle's row is opened; each SWITCH is a power whose switch is pressed,
and its request goes to POLICIES without anybody being asked; ``mend`` is the button
that sets right what was taken. One JSON object on standard output.
"""

from __future__ import annotations

import gettext
import json
import sys

extensions, policies, bundle_id, *switches = sys.argv[1:]

import gi  # noqa: E402

gi.require_version("Gtk", "3.0")
gi.require_version("Wnck", "3.0")

from gi.repository import GLib, Gtk  # noqa: E402
from jarabe import config  # noqa: E402

config.ext_path = extensions
sys.path.append(extensions)
gettext.bindtextdomain("sugar", config.locale_path)
gettext.textdomain("sugar")

# As the shell's own start does.
settings = Gtk.Settings.get_default()
settings.set_property("gtk-theme-name", "sugar-72")
settings.set_property("gtk-icon-theme-name", "sugar")
Gtk.IconTheme.get_default().append_search_path(f"{config.data_path}/icons")

from jarabe.controlpanel.gui import ControlPanel  # noqa: E402


def until(true, what):
    """Let GTK work until it is so; 30 s, for a machine that is busy."""
    ended = []
    timer = GLib.timeout_add_seconds(30, ended.append, True)
    ticker = GLib.timeout_add(20, lambda: True)
    while not true():
        Gtk.main_iteration()
        if ended:
            sys.exit(f"not in 30 s: {what}")
    GLib.source_remove(timer)
    GLib.source_remove(ticker)


def below(widget):
    yield widget
    if isinstance(widget, Gtk.Container):
        for child in widget.get_children():
            yield from below(child)


def texts(widget):
    return [
        one.get_text()
        for one in below(widget)
        if isinstance(one, Gtk.Label) and one.get_mapped() and one.get_text()
    ]


def left(widget, top):
    found = widget.translate_coordinates(top, 0, 0)
    return found[0] if found else -1


panel = ControlPanel()
option = panel._options["isolauncher"]
panel.show()
panel.show_section_view("isolauncher")

from cpsection.isolauncher import model  # noqa: E402

model.POLICY_DIR, model.ASK = policies, ()

section = panel._section_view
until(lambda: texts(section._open), "the windows that are open")
row = section._rows[bundle_id]
# As the policies of this test's own directory are.
row.show_activity(model.activity(section._bundles[bundle_id]))
row._button.clicked()
until(lambda: texts(row._more), "the sentences of a row")
until(lambda: left(row._arrow, section) >= 0, "a place for everything")

told = {
    "title": option["title"],
    "icon": Gtk.IconTheme.get_default()
    .lookup_icon(option["icon"], 55, 0)
    .get_filename(),
    "open": texts(section._open),
    "names": [one.activity.name for one in section._rows.values()],
    "row": texts(row._more),
    "rtl": section.get_direction() == Gtk.TextDirection.RTL,
    # Where the icon of the row is, and where its arrow: mirrored, or not.
    "icon_left": left(row._button.get_child().get_children()[0], section),
    "arrow_left": left(row._arrow, section),
    "missing_icons": [
        one.props.icon_name
        for one in below(section)
        if getattr(one.props, "icon_name", None)
        and Gtk.IconTheme.get_default().lookup_icon(one.props.icon_name, 33, 0) is None
    ],
    "after": [],
}
for power in switches:
    buttons = [one for one in below(row._more) if isinstance(one, Gtk.Button)]
    checks = [one for one in buttons if isinstance(one, Gtk.CheckButton)]
    if power == "mend":
        (button,) = (one for one in buttons if one not in checks)
        button.clicked()
    else:
        powers = [one.power for one in row.activity.sentences if one.power]
        check = dict(zip(powers, checks, strict=True))[power]
        check.set_active(not check.get_active())
    until(row._more.get_sensitive, "the answer to a switch")
    until(lambda: texts(row._more), "the sentences after a switch")
    told["after"].append(
        {
            "taken": list(row.activity.taken),
            "row": texts(row._more),
            "alert": texts(section._alert),
        }
    )
print(json.dumps(told))
