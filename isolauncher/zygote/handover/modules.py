# SPDX-License-Identifier: GPL-3.0-or-later
"""``sys.modules``: ours leave it, and a program's own modules win by name.

Hazards: H18 (a program's module with a preloaded name), the visible part of H35.

The rule for a program that brings a ``json.py``: where the search path of this program
finds a top-level name at another place than the preloaded module came from, that name
is taken out with its submodules, and so is every preloaded module whose body imports
one of them, directly or through others. They are imported again, from where a cold
start would import them, when the program asks. Modules the interpreter itself had
loaded before it looked at the program (``site``, ``os``, ``codecs``, …) are never
replaced, as in a cold start; nor are compiled-in and frozen ones, which are found
before any path.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.machinery import (
    BuiltinImporter,
    ExtensionFileLoader,
    FrozenImporter,
    PathFinder,
)
from types import ModuleType

from isolauncher.zygote.handover import Fresh, Start, World


def settle(world: World) -> World:
    tops = {}
    for name in sys.modules:
        found = _place(sys.modules[name]) if _may_give_way(name, world) else None
        if found is not None:
            tops[name] = found
    return dataclasses.replace(
        world,
        tops=tops,
        hidden=tuple(name for name in sys.modules if name not in world.visible),
        module_count=len(sys.modules),
    )


def _may_give_way(name: str, world: World) -> bool:
    top = "." not in name and name in world.visible
    return top and name not in world.pristine.modules


def apply(start: Start, world: World) -> None:
    clashing = _clashing(world)
    _refuse_shelved(clashing, world)
    if len(sys.modules) == world.module_count:
        gone = set(world.hidden)
    else:
        # We have imported something since.
        gone = {n for n in sys.modules if _is_ours(n) or n in world.hidden}
    for name in gone:
        _take_out(name, world)
    for name in clashing & sys.modules.keys():
        _take_out(name, world)


def _refuse_shelved(clashing: set[str], world: World) -> None:
    """Fresh if a shelved module would not be what a cold start has.

    It cannot be imported again as others can: GObject knows its types by name.
    """
    if not world.shelf:
        return
    own = {
        name for name in world.shelf if "." not in name and _comes_first(name, world)
    }
    if not own and clashing:
        needs = (world.needs.get(name, frozenset()) for name in world.shelf)
        if any(not clashing.isdisjoint(names) for names in needs):
            own = clashing & world.tops.keys()
    if own:
        raise Fresh(
            f"its own {', '.join(sorted(own))} comes before the one that preloaded "
            "modules were imported with"
        )


def _comes_first(top: str, world: World) -> bool:
    known = world.pristine.path
    new = [entry for entry in sys.path if entry not in known]
    spec = PathFinder.find_spec(top, new)
    return spec is not None and spec.loader is not None


def give_way(world: World) -> None:
    """Take out what the path, as it is now, has elsewhere; again if it changes."""
    for name in _clashing(world):
        _take_out(name, world)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "isolauncher"


def _take_out(name: str, world: World) -> None:
    module = sys.modules.pop(name)
    world.kept.append(module)
    parent, _, child = name.rpartition(".")
    package = sys.modules.get(parent) if parent else None
    # Else ``from package import child`` would find the old one.
    if package is not None and package.__dict__.get(child) is module:
        delattr(package, child)


def _place(module: ModuleType) -> tuple[str, str] | None:
    """The entry of the search path a top-level module came from, and its file."""
    spec = module.__spec__
    if spec is None or spec.origin is None:
        return None
    if spec.loader is BuiltinImporter or spec.loader is FrozenImporter:  # type: ignore[comparison-overlap]
        return None
    directory = os.path.dirname(spec.origin)
    if spec.submodule_search_locations is not None:
        directory = os.path.dirname(directory)
    return directory, spec.origin


def _clashing(world: World) -> set[str]:
    """Every preloaded module that a cold start would not have, or not so."""
    # Only entries the zygote did not have can hold something new; the order among
    # those it had is the same.
    known = set(world.pristine.path)
    new = [(i, entry) for i, entry in enumerate(sys.path) if entry not in known]
    lost = known.difference(sys.path)
    clashing = set()
    if lost:
        clashing |= {n for n, (root, _) in world.tops.items() if root in lost}
    for index, entry in new:
        for name in _names_in(entry, world):
            if name not in clashing and _found_first(name, index, world):
                clashing.add(name)
    return _with_dependents(clashing, world) if clashing else set()


def _found_first(name: str, index: int, world: World) -> bool:
    """Whether the path's entry at ``index`` has ``name`` before its own directory."""
    root, origin = world.tops[name]
    if root in sys.path and sys.path.index(root) <= index:
        return False
    spec = PathFinder.find_spec(name, [sys.path[index]])
    # A directory without __init__.py gives way to a module further down.
    return spec is not None and spec.loader is not None and spec.origin != origin


def _names_in(directory: str, world: World) -> set[str]:
    """Names of preloaded modules that ``directory`` may have too."""
    try:
        entries = os.listdir(directory)
    except OSError:
        # A zip file tells its names only one by one; what cannot be listed may still
        # be searched, so every name is tried there too.
        return set(world.tops) if os.path.exists(directory) else set()
    return {entry.partition(".")[0] for entry in entries} & world.tops.keys()


def _with_dependents(tops: set[str], world: World) -> set[str]:
    fixed = set(world.pristine.modules)
    gone = {n for n in world.visible if n.partition(".")[0] in tops} - fixed
    grew = True
    while grew:
        more = {
            name
            for name, needs in world.needs.items()
            if name not in gone and name not in fixed and not gone.isdisjoint(needs)
        }
        # Importing a.b runs a first: a package taken out takes its modules along.
        more |= {n for n in world.visible if n.rpartition(".")[0] in gone | more}
        more -= gone | fixed
        grew = bool(more)
        gone |= more
    # An extension module is initialised once per process, so that one which is only
    # part of a package stays for the package's next import.
    return {name for name in gone if name in sys.modules and not _stays(name)}


def _stays(name: str) -> bool:
    loader = getattr(sys.modules[name], "__loader__", None)
    return "." in name and isinstance(loader, ExtensionFileLoader)
