# SPDX-License-Identifier: GPL-3.0-or-later
"""What the interpreter itself keeps: arguments, search path, hooks, limits.

Hazards: H15 (user site), H17 (path caches), H20 (argv and ``sys.path[0]``; a fresh
``__main__`` is made by `program.load`, which clears it last).
"""

from __future__ import annotations

import _warnings
import dataclasses
import gc
import importlib
import os
import sys
import threading
from importlib.machinery import FileFinder, PathFinder

from isolauncher.zygote.handover import Start, World


def settle(world: World) -> World:
    import site

    _hooks(world)
    _limits()
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    # It counts how often that was asked for.
    sys.modules["_frozen_importlib_external"]._NamespacePath._epoch = 0
    _codecs()
    for entry in world.pristine.importers:
        PathFinder._path_importer_cache(entry)  # type: ignore[attr-defined]
    # Standard library directories stand in the path whether they exist or not; those
    # that `site` adds, only if they do, and a program may see fewer than the zygote.
    base, added = world.pristine.path, site.getsitepackages()
    index = next((i for i, p in enumerate(base) if p in added), len(base))
    return dataclasses.replace(world, site_index=index)


def _codecs() -> None:
    """Those that a start looks up: of UTF-8, which every child has."""
    import encodings

    for name in tuple(encodings._cache):
        if name not in ("utf_8", "utf-8"):
            del encodings._cache[name]


def apply(start: Start, world: World) -> None:
    script = start.kind == "script"
    sys.argv = [start.program if script else "-m", *start.arguments]
    head = [start.program] if script else ["-m", start.program]
    sys.orig_argv = [start.interpreter, *head, *start.arguments]
    _search_path(start, world)
    # fork leaves the kernel's id of the forking thread on the main thread object.
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]


def again(start: Start, world: World) -> None:
    _set_path(start, world)
    _look_where_changed()


def _look_where_changed() -> None:
    # Each looks by itself whether its directory has changed.
    if any(
        os.path.isdir(entry) != isinstance(finder, FileFinder)
        for entry, finder in sys.path_importer_cache.items()
    ):
        _look_anew()


_is_own_view = False


def _search_path(start: Start, world: World) -> None:
    import site

    global _is_own_view
    site.USER_BASE = site.USER_SITE = None
    site.getusersitepackages()
    _set_path(start, world)
    if _is_own_view:
        _look_where_changed()
        return
    # Made by the zygote, whose view of the directories was another one.
    _look_anew()
    _is_own_view = True


def _set_path(start: Start, world: World) -> None:
    base, index = world.pristine.path, world.site_index
    sys.path = [*base[:index], *(p for p in base[index:] if os.path.exists(p))]
    if start.kind == "script":
        sys.path.insert(0, os.path.dirname(os.path.realpath(start.program)))
    else:
        sys.path.insert(0, os.getcwd())


def _look_anew() -> None:
    importers = sys.path_importer_cache
    for entry in tuple(importers):
        finder = importers[entry]
        if finder is not None and os.path.isdir(entry):
            finder.invalidate_caches()  # type: ignore[attr-defined]
        else:
            del importers[entry]
            PathFinder._path_importer_cache(entry)  # type: ignore[attr-defined]


def add_user_site(world: World) -> bool:
    """What `site` does for a user's own directory, if there is one; whether there was.

    Not part of `apply`, because .pth files and ``usercustomize`` are the user's code,
    which may run only when the program may.
    """
    import site

    if not site.ENABLE_USER_SITE or not os.path.isdir(site.getusersitepackages()):
        return False
    # They run before the script's directory is in the path, and put theirs between
    # the standard library and the system's packages.
    first, rest = sys.path[:1], sys.path[1:]
    sys.path[:] = rest[: world.site_index]
    site.addusersitepackages({os.path.normcase(p) for p in sys.path})
    sys.path += rest[world.site_index :]
    site.execusercustomize()
    sys.path[:0] = first
    return True


def _hooks(world: World) -> None:
    pristine = world.pristine
    sys.meta_path[:] = world.meta_path  # type: ignore[assignment]
    sys.path_hooks[:] = world.path_hooks  # type: ignore[assignment]
    sys.displayhook = pristine.displayhook  # type: ignore[assignment]
    sys.excepthook = pristine.excepthook  # type: ignore[assignment]
    sys.unraisablehook = sys.__unraisablehook__
    sys.breakpointhook = sys.__breakpointhook__
    sys.dont_write_bytecode = pristine.dont_write_bytecode
    sys.settrace(None)
    sys.setprofile(None)
    sys.set_asyncgen_hooks(None, None)
    sys.set_coroutine_origin_tracking_depth(0)
    for name in ("last_type", "last_value", "last_traceback", "ps1", "ps2"):
        if hasattr(sys, name):
            delattr(sys, name)
    filters = _warnings.filters
    if tuple(filters) != world.warning_filters:
        filters[:] = world.warning_filters
        _warnings._filters_mutated()  # type: ignore[attr-defined]
    _warnings._onceregistry.clear()


def _limits() -> None:
    sys.setrecursionlimit(1000)
    sys.setswitchinterval(0.005)
    gc.enable()
    gc.set_threshold(700, 10, 10)
    gc.set_debug(0)
