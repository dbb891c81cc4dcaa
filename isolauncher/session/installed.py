# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a bundle is that somebody names by its id: among the installed ones.

The same directories as the Sugar shell's, and like it the newest of several with one
id (jarabe.model.bundleregistry). Only the person's own words go into the choice: what
governs the bundle is found out by the daemon, from the directory that was chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from ..bundle import INFO, MAX_BYTES, Found, parse, user_activities, valid_bundle_id
from ..errors import BundleError, IsolauncherError
from ..zygote.sets import BUNDLES

SYSTEM = BUNDLES


def find(name: str, environment: Mapping[str, str]) -> str:
    """The directory of the bundle ``name``, an id; BundleError if there is none."""
    if not valid_bundle_id(name):
        raise BundleError(
            f"{name[:64]!a} is neither the id of a bundle nor a path with a '/'",
            code="bundle-not-found",
        )
    own = user_activities(environment, environment.get("HOME", "/"))
    return _newest(name, (own, *SYSTEM))


def find_for_all(name: str) -> str:
    """The same, where only what is installed for everybody counts."""
    return _newest(name, SYSTEM)


def _newest(name: str, directories: tuple[str, ...]) -> str:
    found = [
        (_comparable(version), path)
        for path, bundle_id, version in _all(directories)
        if bundle_id == name
    ]
    if not found:
        raise BundleError(
            f"no bundle with the id {name} is installed",
            code="bundle-not-found",
            hint=f"looked in {', '.join(directories)}",
        )
    return max(found)[1]


def _all(directories: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(path, bundle id, version) of every bundle that can be read."""
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                bundle_id, version = _told(path)
            except (OSError, IsolauncherError):
                continue  # said when it is launched by its path
            yield path, bundle_id, version


_Stamp = tuple[int, ...]
_read: dict[str, tuple[_Stamp, tuple[str, str]]] = {}
"""What was told by files that were these."""


def _told(path: str) -> tuple[str, str]:
    """(bundle id, version) of the bundle in ``path``, once for each state of its file.

    A shell that is up for weeks asks at every click.
    """
    name = os.path.join(path, INFO)
    stamp = _stamp(os.stat(name))
    known = _read.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    with open(name, "rb") as file:
        stamp = _stamp(os.fstat(file.fileno()))
        info = file.read(MAX_BYTES + 1)
    bundle = parse(
        Found(path=path, installed_by="user", why="", info=info, permissions=None)
    )
    told = bundle.bundle_id, bundle.version
    if len(_read) >= _MOST:
        _read.clear()
    _read[path] = stamp, told
    return told


_MOST = 1024


def _stamp(status: os.stat_result) -> _Stamp:
    at = (status.st_mtime_ns, status.st_ctime_ns)
    return status.st_dev, status.st_ino, status.st_size, *at


def _comparable(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
