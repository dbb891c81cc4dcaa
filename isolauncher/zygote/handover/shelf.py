# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that wait, out of ``sys.modules``, until the program imports them.

Hazards: H18 (a program's module with a preloaded name), H22 in part, and H4, H14 and
H19 where a module does at import what only the child can do: open the display,
translate, read settings.

The program begins with the ``sys.modules`` of a cold start. What was preloaded comes
back when it is imported, with everything that its import had brought, in the order in
which a cold start loads it; what the other modules of the hand-over have to renew for
it (their ``RENEW``; ``AHEAD``: just before it is there) is renewed then: at the moment,
and with the environment, at which a cold start would do it.

A module comes back only if the program's import would have made the same one. Not if
the path, as it is then, has its name, or that of a module its body imports, further
ahead; nor if the program has put something else into ``sys.modules`` under one of those
names, or taken it away. Then the program's import runs as it would without us. What
cannot be imported twice in a process (``World.lasting``: GObject knows its types by
name) comes back all the same; at the hand-over itself there is a better way out for a
program with such a name, see `modules`.

The interpreter asks importlib for whatever is not in ``sys.modules``, by the name
``_find_and_load``; this is put before it. Nothing is added to ``sys.meta_path``, so
that who searches for a module (`importlib.util.find_spec`) finds its file as ever.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
import threading
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from importlib.machinery import (
    BuiltinImporter,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    ModuleSpec,
)
from importlib.machinery import PathFinder as Finder
from itertools import repeat
from operator import is_
from posix import getcwd, stat  # importlib's own: a program may replace those of os
from types import ModuleType
from typing import Any

from isolauncher.zygote import filling, forever, unseen
from isolauncher.zygote.handover import Start, World
from isolauncher.zygote.noting import bootstrap, globals_of

_PACKAGE = "__init__.py"
_MISSING = object()
_Names = tuple[str, ...]
Renewal = Callable[[Any], None]


_shelf: _Shelf | None = None


def settle(world: World) -> World:
    global _shelf
    if not world.shelved:
        return world
    # Which list of filters it last had the interpreter keeps, and goes by it when
    # `warnings` is not there to be asked. Not one that only lasted for a while.
    warnings.warn("ignored", ImportWarning, stacklevel=2)
    _practise(world)
    # What a program writes to of the shelf's own is to lie together.
    filling.fill()
    _shelf = shelf = _Shelf(world, _gathered("RENEW"), _gathered("AHEAD"))
    real = bootstrap._find_and_load
    modules, there = shelf.modules, sys.modules

    def _find_and_load(name: str, import_: object) -> object:
        if name in modules and name not in there and shelf.bring(name):
            return there[name]
        return real(name, import_)

    unseen.hide(_find_and_load)
    bootstrap._find_and_load = _find_and_load
    # A child that ends would take apart what it has never used.
    forever.keep(tuple(modules.values()))
    return dataclasses.replace(world, shelf=modules)


def _practise(world: World) -> None:
    """Bring back modules that are nobody's.

    The interpreter notes in code that runs how best to run it (PEP 659). What it has
    noted here no child has to note, and to copy the page for, again.
    """
    top = "isolauncher nobody's"
    names = [top, *(f"{top}.{n}" for n in range(_OFTEN))]
    for name in names:
        sys.modules[name] = module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        if name != top:
            setattr(sys.modules[top], name.rpartition(".")[2], module)
    needs = {name: tuple(names[1:n]) for n, name in enumerate(names)}
    of_nobody = dataclasses.replace(
        world, shelved=frozenset(names), needs=needs, exits=(), own_children=frozenset()
    )
    shelf = _Shelf(of_nobody, {name: [lambda module: None] for name in names[::2]}, {})
    sys.path.insert(0, "/")
    try:
        for name in names:
            shelf.bring(name)
    finally:
        sys.path.remove("/")
        sys.path_importer_cache.pop("/", None)
        for name in names:
            sys.modules.pop(name, None)


_OFTEN = 40


def begin(world: World) -> None:
    if _shelf is not None:
        _shelf.leave_nothing()


def apply(start: Start, world: World) -> None:
    begin(world)


@contextmanager
def lent() -> Iterator[None]:
    """While it lasts all that is shelved is in ``sys.modules``, and nothing is renewed.

    For code of the system's that a waiting stem runs (`warm`). Afterwards there is what
    was there before, in its order.
    """
    if _shelf is None:
        yield
        return
    was = dict(sys.modules)
    _shelf.lend()
    try:
        yield
    finally:
        _shelf.leave_nothing()
        if list(sys.modules) != list(was):
            sys.modules.clear()
            sys.modules.update(was)


def look_ahead() -> None:
    """Have listed what the path has ahead of what is shelved, as it is now.

    Whoever asks again looks whether the directory is the same.
    """
    if _shelf is not None:
        _shelf._suspects()


def names_in(directory: str) -> Set[str]:
    """What is in it, if the path's own finder there has listed it, as of now."""
    finder = sys.path_importer_cache.get(directory)
    if type(finder) is not FileFinder or not finder._path_cache:  # type: ignore[attr-defined]
        return frozenset()
    return _names_in(finder)


def place(name: str, module: object) -> tuple[str, str] | None:
    """The entry of the path that ``name`` came from, and its file.

    None: from no file, or it is another name of a module that was found by its own, as
    cffi gives to what lies in a package.
    """
    spec = getattr(module, "__spec__", None)
    if not _was_found(name, module):
        return None
    origin = getattr(spec, "origin", None)
    if getattr(spec, "loader", None) in (BuiltinImporter, FrozenImporter):
        # Found before any path.
        return None
    if not isinstance(origin, str) or not os.path.isabs(origin):
        return None
    directory, name = os.path.split(origin)
    # By the file, since `six` calls itself a package.
    return (os.path.dirname(directory) if name == _PACKAGE else directory), origin


def _was_found(name: str, module: object) -> bool:
    """Not if somebody has put it into ``sys.modules`` by hand, under that name."""
    spec = getattr(module, "__spec__", None)
    return getattr(spec, "name", None) == name


def comes_first(top: str, found: tuple[str, str], known: frozenset[str]) -> bool:
    """Whether the path has ``top`` ahead of where the preloaded one was ``found``.

    ``known``: entries the zygote had, among which the order is the same.
    """
    return Ahead(known).has(top, found)


class Ahead:
    """What the path has now besides ``known``, asked for one name after another.

    For no longer than a moment: whether a directory has changed is looked at once.
    """

    def __init__(self, known: frozenset[str]) -> None:
        self._path: list[object] = list(sys.path)
        self._new = [
            (number, entry)
            for number, entry in enumerate(self._path)
            # What is no string the interpreter passes over, too.
            if isinstance(entry, str) and entry not in known
        ]
        self._held: dict[str, Callable[[str], bool]] = {}
        self._at: dict[str, int] = {}

    def has(self, top: str, found: tuple[str, str]) -> bool:
        """Whether ``top`` comes before where the preloaded one was ``found``."""
        root, origin = found
        end = self._at.get(root)
        if end is None:
            path = self._path
            end = self._at[root] = path.index(root) if root in path else len(path)
        for number, entry in self._new:
            if number >= end:
                break
            holds = self._held.get(entry)
            if holds is None:
                holds = self._held[entry] = _holds(entry)
            spec = Finder.find_spec(top, [entry]) if holds(top) else None
            # A directory without __init__.py gives way to a module further down.
            if spec is not None and spec.loader is not None:
                return spec.origin != origin
        return end == len(self._path)


def _holds(entry: str) -> Callable[[str], bool]:
    """Whether it is worth to ask the finder of ``entry`` for a name.

    It would call stat(2) for each; asked once, it has the names in its directory.
    """
    finder = Finder._path_importer_cache(entry)  # type: ignore[attr-defined]
    if type(finder) is not FileFinder:
        return lambda top: finder is not None
    names = _names_in(finder)
    suffixes = [suffix for suffix, _ in finder._loaders]  # type: ignore[attr-defined]

    def holds(top: str) -> bool:
        if top in names:
            return True
        for suffix in suffixes:  # noqa: SIM110 - a generator is slower by half
            if top + suffix in names:
                return True
        return False

    return holds


def _names_in(finder: Any) -> Set[str]:
    """What its directory holds, as the finder itself sees to it (`find_spec`)."""
    try:
        changed = stat(finder.path or getcwd()).st_mtime
    except OSError:
        changed = -1
    if changed != finder._path_mtime:
        finder._fill_cache()
        finder._path_mtime = changed
    names: Set[str] = finder._path_cache
    return names


def _gathered(attribute: str) -> dict[str, list[Renewal]]:
    """What the modules of the hand-over do about a name that comes back."""
    # Not at the top: the package imports this module.
    from isolauncher.zygote.handover import ORDER

    found: dict[str, list[Renewal]] = {}
    for module in ORDER:
        for name, renew in getattr(module, attribute, {}).items():
            found.setdefault(name, []).append(renew)
    return found


def _another(name: str) -> str:
    """An equal one."""
    return "".join([*name])


class _Lists:
    """A list of these names for each of them, as numbers in one piece of memory.

    A tuple for each would count who refers to it, and whoever asks copy its page.
    """

    def __init__(self, of: Mapping[str, _Names]) -> None:
        self._names = tuple(of)
        self._number = {name: number for number, name in enumerate(of)}
        self._numbers = array("H")
        self._begins = array("L", [0])
        for names in of.values():
            self._numbers.extend(map(self._number.__getitem__, names))
            self._begins.append(len(self._numbers))

    def __getitem__(self, name: str) -> list[str]:
        number, begins = self._number[name], self._begins
        numbers = self._numbers[begins[number] : begins[number + 1]]
        return list(map(self._names.__getitem__, numbers))


class _Shelf:
    def __init__(
        self,
        world: World,
        renewals: Mapping[str, list[Renewal]],
        ahead: Mapping[str, list[Renewal]],
    ) -> None:
        # Names of their own, made one after the other: they come to lie together. A
        # module that comes back has its name written to, by counting who refers to it.
        self._all: dict[str, object] = {
            _another(name): module
            for name, module in sys.modules.items()
            if name in world.shelved
        }
        self.modules = dict(self._all)
        self._lasting = world.lasting
        self._renewals = renewals
        self._ahead = ahead
        self._known = frozenset(world.pristine.path)
        self._tops = {
            name: found
            for name, module in self._all.items()
            if "." not in name and (found := place(name, module)) is not None
        }
        # By the entry of the path, so that nobody has to look through all of them.
        self._at: dict[str, set[str]] = {}
        for name, (root, _) in self._tops.items():
            self._at.setdefault(root, set()).add(name)
        # The path, what each new entry holds, and whom they make suspected. No object
        # of ours: it is made in a program, which may look at all that there are.
        self._suspected: (
            tuple[list[object], list[tuple[str, object, Set[str]]], Set[str]] | None
        ) = None
        self._brings = _Lists(
            {name: self._closure(name, world.needs) for name in self._all}
        )
        self._bound = self._take_out() - world.own_children
        # Those of them that their packages have just now.
        self._there = set(self._bound)
        self._exits: dict[str, list[Any]] = {}
        for one in world.exits:
            module = str(getattr(one[0], "__module__", None))
            self._exits.setdefault(module, []).append(one)
        self._finders = world.finders
        self._filters = world.filters
        # Others have only to be put back.
        self._more = {
            name: (*self._bound_to(name), self._renewals.get(name, ()))
            for name in (
                *{*self._bound, *ahead, *renewals},
                *{*self._exits, *self._finders, *self._filters},
            )
            if name in self._all
        }
        # Two threads may import: the second must not go on before all is renewed.
        self._lock = threading.RLock()

    def _closure(self, name: str, needs: Mapping[str, tuple[str, ...]]) -> _Names:
        """What a cold start's import of ``name`` loads.

        In the order in which it is complete: importlib puts a module to the end of
        ``sys.modules`` again when its body has run.
        """
        begun: set[str] = set()
        done: list[str] = []
        # Not by recursion: chains of imports are longer than the stack is deep.
        todo = [(name, False)]
        while todo:
            one, complete = todo.pop()
            if complete:
                done.append(one)
            elif one in self._all and one not in begun:
                parent = one.rpartition(".")[0]
                found = _was_found(one, self._all[one])
                if found and parent in self._all and parent not in begun:
                    todo += ((one, False), (parent, False))
                    continue
                begun.add(one)
                todo.append((one, True))
                todo += ((n, False) for n in reversed(needs.get(one, ())))
        return tuple(done)

    def _take_out(self) -> frozenset[str]:
        """Out of ``sys.modules``; returns what is still an attribute of its package.

        It is until the hand-over, for the sake of our own code. A package that imports
        its child itself is never without it.
        """
        bound = set()
        for name, module in self._all.items():
            del sys.modules[name]
            package, child = self._package(name)
            if package is None or globals_of(package).get(child) is not module:
                continue
            parent = name.rpartition(".")[0]
            brings = self._brings[parent] if parent in self._all else ()
            if name not in brings and _was_found(name, module):
                bound.add(name)
        return frozenset(bound)

    def _package(self, name: str) -> tuple[object | None, str]:
        parent, _, child = name.rpartition(".")
        there = self._all if parent in self._all else sys.modules
        return there.get(parent), child

    def _bound_to(self, name: str) -> tuple[object, str]:
        """Its package and its name there, if that is all there is to do with it."""
        package, child = self._all.get(name.rpartition(".")[0]), name.rpartition(".")[2]
        others = (self._ahead, self._exits, self._finders, self._filters)
        if package is None or name not in self._bound or any(name in o for o in others):
            return None, ""
        return package, child

    def bring(self, name: str) -> bool:
        """Back into ``sys.modules``, if it is what an import would make now.

        False if it is not, or was there already.
        """
        with self._lock:
            brings = self._brings[name]
            modules, there = self.modules, sys.modules
            back = [n for n in brings if n in modules]
            if not self._is_as_left(brings, back):
                others = self._others(brings)
                if others:
                    self._look_closer(others)
                back = [n for n in brings if n in modules]
            if name not in modules:
                return False
            more, busy = self._more, []
            for n in back:
                if n not in more:
                    there[n] = modules.pop(n)  # type: ignore[assignment]
                    continue
                package, child, renewals = more[n]
                if child:
                    there[n] = module = modules.pop(n)  # type: ignore[assignment]
                    setattr(package, child, module)
                    self._there.add(n)
                else:
                    self._put_back(n)
                if renewals:
                    busy.append((n, renewals))
            for n, renewals in busy:
                for renew in renewals:
                    renew(self._all[n])
            return True

    def _is_as_left(self, brings: list[str], back: list[str]) -> bool:
        """Whether nothing speaks against it, as with most; in few steps.

        Of the names ``back`` is on the shelf, and the program has none of that; the
        rest was brought back, and is still what it was.
        """
        there = sys.modules
        if not (self._suspects().isdisjoint(back) and there.keys().isdisjoint(back)):
            return False
        if len(back) == len(brings):
            return True
        gone = [n for n in brings if n not in self.modules]
        now = map(there.get, gone, repeat(_MISSING))
        return all(map(is_, now, map(self._all.get, gone)))

    def _others(self, brings: list[str]) -> list[str]:
        """Those of which something else may be there, or come first."""
        suspects, modules = self._suspects(), self.modules
        return [
            n
            for n in brings
            if (
                n in sys.modules or n in suspects
                if n in modules
                # It was brought back once, or has given way.
                else sys.modules.get(n, _MISSING) is not self._all[n]
            )
        ]

    def lend(self) -> None:
        """Before there is a program; `leave_nothing` takes it back."""
        for name in self._bound:
            package, child = self._package(name)
            globals_of(package)[child] = self._all[name]
        self._there |= self._bound
        sys.modules.update(self.modules)  # type: ignore[arg-type]

    def leave_nothing(self) -> None:
        """Of what is on the shelf, or was taken from it before there was a program."""
        for name in [n for n in sys.modules if n in self._all]:
            self.modules[name] = sys.modules.pop(name)
        for name in self._there:
            # Else ``from package import child`` would find it without asking.
            package, child = self._package(name)
            globals_of(package).pop(child, None)
        self._there.clear()

    def _suspects(self) -> Set[str]:
        """Names among which are all that the path may have elsewhere, as it is now.

        Which of them it has is for `Ahead` to say; of most programs there are none.
        """
        path, seen = list[object](sys.path), self._suspected
        if (
            seen is not None
            and len(path) == len(seen[0])
            and all(map(is_, path, seen[0]))
        ):
            finders = sys.path_importer_cache
            for entry, finder, held in seen[1]:
                # The same names are in the same set: who reads anew makes another.
                if finders.get(entry) is not finder or _names_in(finder) is not held:
                    break
            else:
                return seen[2]
        # What is no string the interpreter passes over, too. A search, which goes no
        # further than to where it finds, asks none behind the last.
        known = self._known
        strings = [e for e in path if isinstance(e, str)]
        last = max((n for n, e in enumerate(strings) if e in self._at), default=0)
        holds: list[tuple[str, object, Set[str]]] = []
        for entry in strings[:last]:
            if entry not in known:
                finder = Finder._path_importer_cache(entry)  # type: ignore[attr-defined]
                if type(finder) is not FileFinder:
                    return self._tops.keys()
                holds.append((entry, finder, _names_in(finder)))
        heads = {n.partition(".")[0] for _, _, held in holds for n in held}
        suspects = heads & self._tops.keys()
        for root in self._at.keys() - strings:
            suspects |= self._at[root]
        self._suspected = path, holds, suspects
        return suspects

    def _look_closer(self, names: list[str]) -> None:
        """Those that an import would not find as they are here give way."""
        ahead = Ahead(self._known)
        others = [n for n in names if n not in self.modules or self._another(n, ahead)]
        if others:
            self._give_way(others)

    def _another(self, name: str, ahead: Ahead) -> bool:
        if name in sys.modules:
            return True
        found = self._tops.get(name)
        return found is not None and ahead.has(name, found)

    def _give_way(self, names: Iterable[str]) -> None:
        """They, and who was made with them, are the program's own to import."""
        gone = set(names)
        for name in self._all:
            brings = self._brings[name]
            if name in self._lasting and name not in gone:
                continue
            if name not in self.modules or gone.isdisjoint(brings):
                continue
            if name in gone or not self._is_made_once(name):
                # It stays alive in `_all`: its functions may be on the stack.
                del self.modules[name]

    def _is_made_once(self, name: str) -> bool:
        # An extension module is initialised once per process, so that one which is only
        # part of a package stays for the package's next import.
        loader = getattr(self.modules[name], "__loader__", None)
        return "." in name and isinstance(loader, ExtensionFileLoader)

    def _put_back(self, name: str) -> None:
        for first in self._ahead.get(name, ()):
            first(self._all[name])
        module = self.modules.pop(name)
        sys.modules[name] = module  # type: ignore[assignment]
        if name in self._bound:
            self._there.add(name)
            package, child = self._package(name)
            setattr(package, child, module)
        sys.meta_path.extend(self._finders.get(name, ()))  # type: ignore[arg-type]
        for one, last in self._filters.get(name, ()):
            warnings._add_filter(*one, append=last)  # type: ignore[attr-defined]
        for function, arguments, keywords in self._exits.get(name, ()):
            atexit.register(function, *arguments, **keywords)
