# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether root alone can change what root, or every person's session, will run.

Like policy/trust.py, which opens policies so; here nothing is opened, and what root
does not own is told, not refused. Imports nothing of ours: install-section has it too.
"""

from __future__ import annotations

import os
import stat

MAX_LINKS = 16


def not_roots(path: str) -> str:
    """What lets others change a file, or put another in its place; "" if nothing.

    Looked at are the file, or all below a directory, and every directory and link on
    the way to it. OSError if it is not there.
    """
    for _ in range(MAX_LINKS):
        above, name = os.path.split(os.path.abspath(path))
        found = os.lstat(path)
        if why := _on_the_way(above) or _others(path, found):
            return why
        if not stat.S_ISLNK(found.st_mode):
            return _below(path) if stat.S_ISDIR(found.st_mode) else ""
        path = os.path.join(os.path.realpath(above), os.readlink(path))
    return f"{path} leads through more than {MAX_LINKS} links"


def _on_the_way(path: str) -> str:
    """Of a directory and those above it. A link among them is looked at as such."""
    while True:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            if why := _others(path, found) or _on_the_way(os.path.realpath(path)):
                return why
        # In a sticky directory nobody else can put another file in the place of one.
        elif why := _others(path, found, sticky=bool(found.st_mode & stat.S_ISVTX)):
            return why
        if path == "/":
            return ""
        path = os.path.dirname(path)


def _below(path: str) -> str:
    for place, directories, files in os.walk(path, onerror=_raise):
        for name in (*directories, *files):
            one = os.path.join(place, name)
            if why := _others(one, os.lstat(one)):
                return why
    return ""


def _raise(error: OSError) -> None:
    raise error


def _others(path: str, found: os.stat_result, *, sticky: bool = False) -> str:
    if found.st_uid != 0:
        return f"{path} belongs to uid {found.st_uid}"
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable and not sticky and not stat.S_ISLNK(found.st_mode):
        return f"{path} has mode {stat.S_IMODE(found.st_mode):04o}"
    return ""


__all__ = ["not_roots"]
