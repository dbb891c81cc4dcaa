# SPDX-License-Identifier: GPL-3.0-or-later
"""Which modules each zygote imports; a set contains those it extends, first.

Only names: nothing is imported here. A name belongs here if programs import it
often, if it is fit (no thread, descriptor, handler or draw of random numbers at
import) and if every state it keeps is renewed by a module of `handover`. A name with
".so" in it is a shared library that others load later, by themselves (dlopen(3)).

What comes after the standard library need not be installed: `NEEDS` says without which
a set is no use, the rest is left out by name.
"""

from __future__ import annotations

import sys

PYTHON: tuple[str, ...] = (
    # What most programs import themselves.
    "argparse",
    "asyncio",
    "base64",
    "binascii",
    "bisect",
    "bz2",
    "calendar",
    "codecs",
    "collections",
    "collections.abc",
    "concurrent.futures",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "configparser",
    "contextlib",
    "contextvars",
    "copy",
    "copyreg",
    "csv",
    "ctypes",
    "ctypes.util",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "email",
    "email.message",
    "email.mime.multipart",
    "email.mime.text",
    "email.parser",
    "email.utils",
    "enum",
    "errno",
    "fcntl",
    "fnmatch",
    "fractions",
    "functools",
    "getopt",
    "getpass",
    "gettext",
    "glob",
    "grp",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "html.parser",
    "http.client",
    "http.cookiejar",
    "http.server",
    "importlib.metadata",
    "importlib.resources",
    "importlib.util",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "keyword",
    "linecache",
    "locale",
    "logging",
    "logging.config",
    "logging.handlers",
    "lzma",
    "math",
    "mimetypes",
    "mmap",
    "multiprocessing",
    "multiprocessing.pool",
    "multiprocessing.queues",
    "multiprocessing.spawn",
    "multiprocessing.synchronize",
    "numbers",
    "operator",
    "optparse",
    "pathlib",
    "pickle",
    "pkgutil",
    "platform",
    "pprint",
    "pwd",
    "queue",
    "quopri",
    "random",
    "re",
    "reprlib",
    "resource",
    "runpy",
    "secrets",
    "select",
    "selectors",
    "shlex",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "stat",
    "statistics",
    "string",
    "stringprep",
    "struct",
    "subprocess",
    "sysconfig",
    "tarfile",
    "tempfile",
    "termios",
    "textwrap",
    "threading",
    "time",
    "timeit",
    "tokenize",
    "tomllib",
    "traceback",
    "tty",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "urllib.error",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "warnings",
    "weakref",
    "xml.dom.minidom",
    "xml.etree.ElementTree",
    "xml.sax",
    "zipfile",
    "zlib",
    "zoneinfo",
    # Codecs are found by name when first used; a program's file view need not hold
    # the library any more by then.
    "encodings.ascii",
    "encodings.cp1252",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_16",
    "encodings.utf_8_sig",
    "encodings.unicode_escape",
)

_GTK3: tuple[str, ...] = (
    "gi",
    # Before cairo, which it imports itself: so it is seen to need it.
    "gi._gi_cairo",
    "cairo",
    "gi.repository.GLib",
    "gi.repository.GObject",
    "gi.repository.Gio",
    "gi.repository.GdkPixbuf",
    "gi.repository.Pango",
    "gi.repository.PangoCairo",
    "gi.repository.Gdk",
    "gi.repository.Gtk",
    "gi.repository.GdkX11",
    "gi.repository.Rsvg",
    # GDK asks for OpenGL as soon as it opens a display. To load Mesa's drivers, which
    # are one file under many names, with LLVM behind it, takes 25 ms, and what the
    # linker writes into them is 9 MB of each process.
    "libGL.so.1",
    "libGLX_mesa.so.0",
    "dri/swrast_dri.so",
    "dbus",
    "dbus.service",
    "dbus.mainloop.glib",
)

_SUGAR3: tuple[str, ...] = (
    "six",
    "decorator",
    "dateutil.parser",
    "gi.repository.TelepathyGLib",
    "gi.repository.SugarExt",
    "gi.repository.SugarGestures",
    # Typelibs that activities import; no library of theirs is initialised by it.
    "gi.repository.Gst",
    "gi.repository.GtkSource",
    "gi.repository.Vte",
    # Write's, where Write is installed: 14 MB, which it takes 40 ms to load.
    "gi.repository.Abi",
    "libabiword-3.0.so",
    "sugar3.config",
    "sugar3.env",
    "sugar3.logger",
    "sugar3.util",
    "sugar3.mime",
    "sugar3.dispatch",
    "sugar3.profile",
    "sugar3.power",
    "sugar3.bundle.activitybundle",
    "sugar3.bundle.contentbundle",
    "sugar3.bundle.helpers",
    "sugar3.datastore.datastore",
    "sugar3.graphics.style",
    "sugar3.graphics.xocolor",
    "sugar3.graphics.icon",
    "sugar3.graphics.iconentry",
    "sugar3.graphics.alert",
    "sugar3.graphics.animator",
    "sugar3.graphics.colorbutton",
    "sugar3.graphics.combobox",
    "sugar3.graphics.menuitem",
    "sugar3.graphics.notebook",
    "sugar3.graphics.objectchooser",
    "sugar3.graphics.palette",
    "sugar3.graphics.palettegroup",
    "sugar3.graphics.palettemenu",
    "sugar3.graphics.palettewindow",
    "sugar3.graphics.panel",
    "sugar3.graphics.progressicon",
    "sugar3.graphics.radiopalette",
    "sugar3.graphics.radiotoolbutton",
    "sugar3.graphics.scrollingdetector",
    "sugar3.graphics.toggletoolbutton",
    "sugar3.graphics.toolbarbox",
    "sugar3.graphics.toolbox",
    "sugar3.graphics.toolbutton",
    "sugar3.graphics.toolcombobox",
    "sugar3.graphics.tray",
    "sugar3.graphics.window",
    "sugar3.presence.presenceservice",
    "sugar3.presence.sugartubeconn",
    "sugar3.activity.activityhandle",
    "sugar3.activity.activityservice",
    "sugar3.activity.activityfactory",
    "sugar3.activity.widgets",
    "sugar3.activity.activity",
    "sugar3.activity.activityinstance",
)

GTK3 = PYTHON + _GTK3
SUGAR3 = GTK3 + _SUGAR3

SETS: dict[str, tuple[str, ...]] = {"python": PYTHON, "gtk3": GTK3, "sugar3": SUGAR3}
"""From the smallest to the largest: each begins with the one before."""

LASTING = frozenset(_GTK3 + _SUGAR3)
"""What cannot be imported twice in a process, with all that it brings along."""

TYPICAL: dict[str, str] = {
    "python": """\
import argparse, asyncio, csv, datetime, decimal, email, hashlib, http.client, json
import logging, pathlib, random, re, ssl, subprocess, tempfile, urllib.request
""",
    "gtk3": """\
import json, logging, gi
gi.require_versions({"Gtk": "3.0", "Gdk": "3.0", "Pango": "1.0", "Rsvg": "2.0"})
from gi.repository import GLib, GObject, Gio, GdkPixbuf, Pango, PangoCairo, Gdk, Gtk
import cairo, dbus, dbus.mainloop.glib, gi.repository.Rsvg
""",
    "sugar3": """\
import json, logging
import sugar3.activity.activity, sugar3.activity.widgets
""",
}
"""How programs of each set begin at least; a waiting one has its memory ready."""

NEEDS: dict[str, tuple[str, str]] = {
    "gtk3": ("gi.repository.Gtk", "python3-gi and gir1.2-gtk-3.0"),
    "sugar3": ("sugar3.activity.activity", "python3-sugar3 and gir1.2-telepathyglib"),
}
"""Without this name a set is no use; what to install for it."""


def library(name: str) -> str | None:
    """What to tell dlopen(3); None if ``name`` is a module's."""
    if ".so" not in name:
        return None
    if "/" not in name:
        return name
    return f"/usr/lib/{sys.implementation._multiarch}/{name}"


def nested(name: str) -> tuple[str, ...]:
    """``name`` and the sets within it, from the largest."""
    names = tuple(SETS)
    return names[names.index(name) :: -1]


_WINDOWS = """
    AccelFlags AccelGroup AccelLabel Align Border CellRendererText CheckButton Clipboard
    DestDefaults Grid HBox HSeparator IconInfo IconLookupFlags IconTheme Justification
    Orientation PackType PolicyType PositionType RadioButton ReliefStyle Requisition
    ResizeMode Separator SeparatorToolItem Settings SortType StateFlags StateType
    StyleContext StyleProvider TargetEntry TextMark TextTag TextTagTable TextView
    TextWindowType ToggleButton TreeIter WindowPosition WrapMode accelerator_parse
    get_current_event icon_size_lookup
"""

WRAPPED: dict[str, str] = {
    "GLib": "io_add_watch markup_escape_text",
    "GObject": "signal_lookup",
    "Gio": "Cancellable File FileMonitor FileMonitorFlags",
    "Gdk": "CursorType Device DeviceManager Display DragAction EventMask Geometry "
    "ModifierType Point Screen WindowHints WindowTypeHint",
    "GdkX11": "X11Cursor X11DeviceManagerCore X11DeviceManagerXI2 X11DeviceXI2 "
    "X11Display X11Screen X11Window",
    "Gtk": _WINDOWS,
    "Pango": "Context FontFamily font_description_from_string",
    "Rsvg": "Handle",
    "SugarExt": "Client ClientXSMP wm_set_activity_id wm_set_bundle_id",
    "SugarGestures": "EventController EventControllerFlags LongPressController",
    "Vte": "CursorBlinkMode PtyFlags Terminal",
}
"""What programs use of a namespace, for which PyGObject makes a class when it is first
asked for: 15 ms of an activity's start."""

BUNDLES = ("/usr/share/sugar/activities", "/usr/local/share/sugar/activities")
"""Where the system's Sugar bundles are."""

VERSIONS: dict[str, str] = {
    "Gdk": "3.0",
    "GdkPixbuf": "2.0",
    "GdkX11": "3.0",
    "Gst": "1.0",
    "Gtk": "3.0",
    "GtkSource": "3.0",
    "Pango": "1.0",
    "PangoCairo": "1.0",
    "Rsvg": "2.0",
    "SugarExt": "1.0",
    "SugarGestures": "1.0",
    "TelepathyGLib": "0.12",
    "Vte": "2.91",
    "Abi": "3.0",
}
"""Which version of a namespace ``gi.repository`` has; a process can have only one."""
