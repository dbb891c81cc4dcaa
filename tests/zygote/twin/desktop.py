#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints what GLib, GTK, dbus-python and Sugar's toolkit know, one JSON object.

With ``gtk3`` as its argument it leaves Sugar out. ``random`` has what must differ.
"""

import sys

BEFORE = [name for name in sys.modules if name.partition(".")[0] in ("gi", "sugar3")]
PATH_BEFORE = [type(finder).__name__ for finder in sys.meta_path]

import ctypes  # noqa: E402
import gettext  # noqa: E402
import json  # noqa: E402
import locale  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402

import gi  # noqa: E402

for name, version in (
    ("Gdk", "3.0"),
    ("GdkX11", "3.0"),
    ("Gtk", "3.0"),
    ("PangoCairo", "1.0"),
    ("Rsvg", "2.0"),
    ("TelepathyGLib", "0.12"),
):
    gi.require_version(name, version)

state = {
    "locale before": locale.setlocale(locale.LC_ALL, None),
    "modules before": BEFORE,
    "finders before": PATH_BEFORE,
}

from gi.repository import GLib  # noqa: E402

state["prgname before"] = GLib.get_prgname()

from gi.repository import GdkX11, Gio, Gdk, Gtk, Pango, PangoCairo  # noqa: E402, I001

libc = ctypes.CDLL(None)
libc.getenv.restype = libc.setlocale.restype = ctypes.c_char_p


def plain(value):
    if value is None or isinstance(value, str | int | float):
        return value
    return type(value).__name__


def properties(thing):
    found = {}
    for spec in thing.list_properties():
        try:
            found[spec.name] = plain(thing.get_property(spec.name))
        except TypeError:
            continue
    return found


def settings_of(schema):
    if schema not in Gio.Settings.list_schemas():
        return None
    return {
        key: Gio.Settings(schema).get_value(key).print_(True)
        for key in Gio.SettingsSchemaSource.get_default()
        .lookup(schema, True)
        .list_keys()
    }


def size_of(text):
    layout = Gtk.Label(label=text).get_layout()
    return [
        layout.get_pixel_size(),
        layout.get_context().get_font_description().to_string(),
    ]


def window():
    """What the display's other clients are told of a window of ours."""
    shown = Gtk.Window(title="twin")
    shown.realize()
    Gdk.Display.get_default().sync()
    number = shown.get_window().get_xid()
    import subprocess

    words = ["xprop", "-id", str(number), "WM_CLASS", "WM_NAME", "WM_LOCALE_NAME"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        said = subprocess.run(words, capture_output=True, env=environment, timeout=20)
    except FileNotFoundError:
        return None
    return said.stdout.decode()


def colours(widget):
    context = widget.get_style_context()
    kinds = (Gtk.StateFlags.NORMAL, Gtk.StateFlags.PRELIGHT, Gtk.StateFlags.SELECTED)
    return [
        [
            context.get_color(kind).to_string(),
            context.get_background_color(kind).to_string(),
        ]
        for kind in kinds
    ]


display = Gdk.Display.get_default()
screen = Gdk.Screen.get_default()
theme = Gtk.IconTheme.get_default()
state |= {
    "argv": sys.argv,
    "environ": sorted(os.environ.items()),
    "GLib environ": sorted(GLib.get_environ()),
    "C environ": [[n, repr(libc.getenv(n.encode()))] for n in sorted(os.environ)],
    "C locale": [repr(libc.setlocale(n, None)) for n in range(13)],
    "Python locale": [locale.getlocale(), locale.localeconv()],
    "time": [time.tzname, time.strftime("%A %B %x", time.gmtime(1e9))],
    "GLib time": GLib.DateTime.new_from_unix_local(10**9).format("%A %d %B %c %Z"),
    "languages": GLib.get_language_names(),
    "directories": {
        name: getattr(GLib, f"get_{name}")()
        for name in (
            "home_dir tmp_dir user_data_dir user_config_dir user_cache_dir "
            "user_runtime_dir system_data_dirs system_config_dirs user_name real_name "
            "host_name current_dir prgname application_name"
        ).split()
    },
    "special directories": [
        GLib.get_user_special_dir(GLib.UserDirectory(n)) for n in range(8)
    ],
    "gettext": [gettext.textdomain(), gettext.gettext("Cancel")],
    "C gettext": [
        GLib.dgettext(domain, text)
        for domain, text in (
            ("gtk30", "_Cancel"),
            ("gtk30", "Select a File"),
            ("glib20", "Usage:"),
            (None, "Cancel"),
        )
    ],
    "initialised": [
        sys.modules["gi.overrides.Gtk"].initialized,
        sys.modules["gi.overrides.Gdk"].initialized,
        sys.modules["gi.overrides.Gtk"].argv,
    ],
    "display": [
        type(display).__name__,
        display.get_name(),
        display.get_n_screens(),
        Gdk.get_display_arg_name(),
        Gdk.DisplayManager.get().get_default_display() is display,
        len(Gdk.DisplayManager.get().list_displays()),
    ],
    "screen": [
        screen.get_width(),
        screen.get_height(),
        screen.get_resolution(),
        plain(screen.get_font_options()),
        screen.is_composited(),
    ],
    "program class": Gdk.get_program_class(),
    "window": window(),
    "settings": properties(Gtk.Settings.get_default()),
    "icon theme": [
        theme.get_search_path(),
        theme.get_example_icon_name(),
        theme.has_icon("dialog-ok"),
        theme.has_icon("activity-stop"),
    ],
    "direction": [
        Gtk.Widget.get_default_direction().value_nick,
        Gtk.Label().get_direction().value_nick,
        Gtk.get_locale_direction().value_nick,
    ],
    "language": [
        Gtk.get_default_language().to_string(),
        Pango.Language.get_default().to_string(),
    ],
    "fonts": {
        "families": sorted(
            f.get_name() for f in PangoCairo.FontMap.get_default().list_families()
        ),
        "size": size_of("Hamburgefons 1234"),
    },
    "colours": [colours(w) for w in (Gtk.Button(label="x"), Gtk.Entry(), Gtk.Label())],
    "style": Gtk.Button(label="x")
    .get_style_context()
    .to_string(Gtk.StyleContextPrintFlags.SHOW_STYLE),
    "interface settings": settings_of("org.gnome.desktop.interface"),
    "backend": type(
        Gio.Settings.new("org.gnome.desktop.interface").props.backend
    ).__name__
    if settings_of("org.gnome.desktop.interface")
    else None,
    "content type": Gio.content_type_guess("a.svg", None),
    "version": [GLib.MAJOR_VERSION, Gtk.get_major_version(), Gtk.get_minor_version()],
    "X11": plain(GdkX11.x11_get_default_screen()),
}

import dbus  # noqa: E402
import dbus.mainloop.glib  # noqa: E402

state["main loop before"] = plain(dbus.get_default_main_loop())

if "gtk3" not in sys.argv:
    from sugar3 import env, profile, util
    from sugar3.activity import activity, activityinstance
    from sugar3.datastore import datastore
    from sugar3.graphics import alert, icon, style, toolbarbox

    state |= {
        "main loop": plain(dbus.get_default_main_loop()),
        "sugar singletons": [
            activity._session,
            datastore._data_store,
            profile._profile,
            activityinstance.DBusGMainLoop is dbus.mainloop.glib.DBusGMainLoop,
        ],
        "style": {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in vars(style).items()
            if name.isupper() and not name.startswith("COLOR")
        },
        "sugar sizes": [
            activity.PREVIEW_SIZE,
            toolbarbox.ToolbarBox.__init__.__defaults__,
            size_of(str(style.FONT_BOLD)),
            icon.Icon(icon_name="activity-stop", pixel_size=33)
            .get_preferred_size()[1]
            .width,
        ],
        "sugar texts": [
            util.NOW,
            util.ELAPSED,
            alert._TimeoutAlert.__init__.__defaults__,
            util.timestamp_to_elapsed_string(time.time() - 100000),
        ],
        "sugar person": [profile.get_nick_name(), profile.get_color().to_string()],
        "sugar places": [env.get_profile_path(), env.get_logs_path()],
        "sugar settings": {
            schema: settings_of(schema)
            for schema in ("org.sugarlabs.font", "org.sugarlabs.user")
        },
    }

bus = dbus.SessionBus(mainloop=dbus.mainloop.glib.DBusGMainLoop())
state["bus"] = [bus.get_is_connected(), bus.name_has_owner("org.freedesktop.DBus")]
state["finders"] = [type(finder).__name__ for finder in sys.meta_path]
state["modules"] = sorted(
    name
    for name in sys.modules
    if name.partition(".")[0] in ("gi", "sugar3", "dbus", "six", "cairo", "dateutil")
)
state["random"] = [GLib.random_int(), GLib.uuid_string_random()]
json.dump(state, sys.stdout, default=str)
print()
