# SPDX-License-Identifier: GPL-3.0-or-later
"""The person's settings as files for the home inside: what a cold start would read.

GSettings are kept in a database that only its owner may open and that holds all of
the person's programs' settings. Of these, the ones an activity's look and language
depend on are written as a key file, which GLib reads in its place
(g_keyfile_settings_backend_new, GSETTINGS_BACKEND=keyfile). Changes made inside end
with the activity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..furniture import SETTINGS

PREFIXES = ("org.sugarlabs.", "org.gnome.desktop.interface", "org.gnome.desktop.a11y.")
"""Schemas whose values an activity may know: Sugar's own, and how things look."""

FILES = (
    ".config/gtk-3.0/settings.ini",
    ".config/gtk-3.0/gtk.css",
    ".config/fontconfig/fonts.conf",
    ".config/user-dirs.dirs",
    ".config/user-dirs.locale",
)
"""Read at the start of a GTK program, and no secret of anybody's (below the home)."""

PUBLIC_KEY = "owner.key.pub"
"""In Sugar's profile; what others know a person by (sugar3.profile)."""

MAX_BYTES = 16 * 1024


def of_person(home: str, profile: str) -> dict[str, bytes]:
    """Paths below the home inside, and contents; what is not there is left out."""
    files = {SETTINGS: keyfile()}
    for name in (*FILES, f".sugar/{profile}/{PUBLIC_KEY}"):
        try:
            with open(os.path.join(home, name), "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            continue
        if len(data) <= MAX_BYTES:
            files[name] = data
    return files


def keyfile() -> bytes:
    """Every value that differs from its schema's default, whoever set it.

    Kept for as long as the person's database is the same file.
    """
    global _kept
    stamp = _stamp()
    if stamp is None or _kept is None or _kept[0] != stamp:
        _kept = (stamp, _read())
    return _kept[1]


_kept: tuple[object, bytes] | None = None


def _stamp() -> object:
    """dconf replaces its database when it changes it; None: it cannot be told."""
    if os.environ.get("GSETTINGS_BACKEND", "dconf") != "dconf":
        return None
    above = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    try:
        status = os.stat(os.path.join(above, "dconf/user"))
    except FileNotFoundError:
        # Nothing was ever set.
        return ()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _read() -> bytes:
    from gi.repository import Gio

    source = Gio.SettingsSchemaSource.get_default()
    if source is None:
        return b""
    named, _ = source.list_schemas(True)
    lines: list[str] = []
    for name in sorted(named):
        if name.startswith(PREFIXES):
            lines += _group(Gio.Settings.new(name), source.lookup(name, True))
    return "".join(f"{line}\n" for line in lines).encode()


def _group(settings: object, schema: object) -> Iterator[str]:
    changed = []
    for key in sorted(schema.list_keys()):  # type: ignore[attr-defined]
        value = settings.get_value(key)  # type: ignore[attr-defined]
        if not value.equal(settings.get_default_value(key)):  # type: ignore[attr-defined]
            changed.append(f"{key}={value.print_(False)}")
    if changed:
        yield f"[{schema.get_path().strip('/')}]"  # type: ignore[attr-defined]
        yield from changed
