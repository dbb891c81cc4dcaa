# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions of a namespace there are is not looked up where one is loaded.

Hazards: none; it answers none and must add none. `gi.require_version` reads all
directories of typelibs at each call, 0.2 ms. Of a namespace that is loaded in the
version asked for the answer is known: the repository counts that one among those that
there are (girepository's g_irepository_enumerate_versions). Each module of an activity
calls it anew, and in a forked child the toolkit's are loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from isolauncher.zygote import unseen
from isolauncher.zygote.handover import Start, World


def settle(world: World) -> World:
    gi = sys.modules.get("gi")
    function = getattr(gi, "require_version", None)
    if type(function) is FunctionType:
        unseen.exchange(function, _require_version, LOADED=_loaded(gi))
    return world


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it requires one."""


def _require_version(namespace, version):  # type: ignore[no-untyped-def]
    # A model for `unseen.exchange`, which says what the names in capitals are.
    loaded = "LOADED"
    plain = "PLAIN"
    if not loaded(namespace, version):  # type: ignore[operator]
        plain(namespace, version)  # type: ignore[operator]


def _loaded(gi: Any) -> Callable[[Any, Any], bool]:
    """What notes the version and says True if it is loaded and none else required."""
    names, repository = gi.__dict__, gi.Repository

    def loaded(namespace: Any, version: Any) -> bool:
        required = names.get("_versions")
        if (
            type(namespace) is not str
            or type(version) is not str
            or type(required) is not dict
            or names.get("Repository") is not repository
            or required.get(namespace, version) != version
        ):
            return False
        known = repository.get_default()
        if namespace not in known.get_loaded_namespaces():
            return False
        if known.get_version(namespace) != version:
            return False
        required[namespace] = version
        return True

    unseen.hide(loaded)
    return loaded
