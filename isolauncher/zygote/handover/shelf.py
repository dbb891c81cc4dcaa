# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that wait, out of ``sys.modules``, until the program imports them.

Hazards: H4, H14 and H19 where a module does at import what only the child can do: open
the display, translate, read settings. Such modules are preloaded all the same, but come
back when they are imported, with everything that their import had brought, and what the
other modules of the hand-over have to renew for them (their ``RENEW``) is renewed then:
at the moment, and with the environment, at which a cold start would do it.

The interpreter asks importlib for whatever is not in ``sys.modules``, by the name
``_find_and_load``; this is put before it. Nothing is added to ``sys.meta_path``, so
that who searches for a module (`importlib.util.find_spec`) finds its file as ever.

Where the path, as it is when the program asks, has a module of that name further ahead,
that one wins, as in a cold start. What was imported with it keeps what it has: types
that GObject knows already cannot be made a second time in a process. At the hand-over
itself there is a better way out, see `modules`.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from typing import Any

from isolauncher.zygote import unseen
from isolauncher.zygote.handover import Start, World
from isolauncher.zygote.quiet import bootstrap

_PACKAGE = "__init__.py"
Renewal = Callable[[Any], None]


def settle(world: World) -> World:
    if not world.shelved:
        return world
    shelf = _Shelf(world, _renewals())
    real = bootstrap._find_and_load

    def _find_and_load(name: str, import_: object) -> object:
        if name in shelf.modules:
            shelf.bring(name)
        return real(name, import_)

    unseen.hide(_find_and_load)
    bootstrap._find_and_load = _find_and_load
    return dataclasses.replace(world, shelf=shelf.modules)


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it imports."""


def _renewals() -> dict[str, list[Renewal]]:
    # Not at the top: the package imports this module.
    from isolauncher.zygote.handover import ORDER

    found: dict[str, list[Renewal]] = {}
    for module in ORDER:
        for name, renew in getattr(module, "RENEW", {}).items():
            found.setdefault(name, []).append(renew)
    return found


class _Shelf:
    def __init__(self, world: World, renewals: Mapping[str, list[Renewal]]) -> None:
        self.modules: dict[str, object] = {
            name: module
            for name, module in sys.modules.items()
            if name in world.shelved
        }
        self._renewals = renewals
        self._known = frozenset(world.pristine.path)
        self._tops = {
            name: place
            for name, module in self.modules.items()
            if "." not in name and (place := _place(module)) is not None
        }
        self._brings = {name: self._closure(name, world) for name in self.modules}
        self._bound = self._take_out()
        self._exits = world.exits
        self._finders = world.finders
        # Two threads may import: the second must not go on before all is renewed.
        self._lock = threading.RLock()

    def _closure(self, name: str, world: World) -> tuple[str, ...]:
        """What a cold start's import of ``name`` loads, in the order of its loading."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            one = todo.pop()
            while one and one not in seen:
                if one in self.modules:
                    seen.add(one)
                    todo += world.needs.get(one, ())
                one = one.rpartition(".")[0]
        return tuple(n for n in self.modules if n in seen)

    def _take_out(self) -> frozenset[str]:
        """Out of ``sys.modules`` and their packages, where they are called as they are.

        Else ``from package import child`` would find one without asking.
        """
        bound = set()
        for name, module in self.modules.items():
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            package = self.modules.get(parent) or sys.modules.get(parent)
            if package is not None and package.__dict__.get(child) is module:
                delattr(package, child)
                bound.add(name)
        return frozenset(bound)

    def bring(self, name: str) -> None:
        with self._lock:
            wanted = [n for n in self._brings.get(name, ()) if n in self.modules]
            for top in {n.partition(".")[0] for n in wanted}:
                if self._has_another(top):
                    self._give_way(top)
            if name not in self.modules:
                return
            back = [n for n in wanted if n in self.modules]
            for n in back:
                self._put_back(n)
            for key, renewals in self._renewals.items():
                if key in back:
                    for renew in renewals:
                        renew(sys.modules[key])

    def _put_back(self, name: str) -> None:
        module = self.modules.pop(name)
        sys.modules[name] = module  # type: ignore[assignment]
        if name in self._bound:
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)
        sys.meta_path.extend(self._finders.get(name, ()))  # type: ignore[arg-type]
        for function, arguments, keywords in self._exits:
            if getattr(function, "__module__", None) == name:
                atexit.register(function, *arguments, **keywords)

    def _has_another(self, top: str) -> bool:
        """Whether the path has ``top`` ahead of where the preloaded one came from."""
        if top in sys.modules or top not in self._tops:
            return False
        root, origin = self._tops[top]
        for entry in sys.path:
            if entry == root:
                return False
            if entry not in self._known:
                spec = PathFinder.find_spec(top, [entry])
                if spec is not None and spec.loader is not None:
                    return spec.origin != origin
        return True

    def _give_way(self, top: str) -> None:
        for name in [n for n in self.modules if n.partition(".")[0] == top]:
            del self.modules[name]


def _place(module: object) -> tuple[str, str] | None:
    """The entry of the path that it came from, and its file; None: from no file."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    if not isinstance(origin, str) or not os.path.isabs(origin):
        return None
    directory, name = os.path.split(origin)
    # By the file, since `six` calls itself a package.
    return (os.path.dirname(directory) if name == _PACKAGE else directory), origin
