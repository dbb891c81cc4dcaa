# SPDX-License-Identifier: GPL-3.0-or-later
"""Live things that a module keeps and that two processes cannot both have.

Told by type alone: nothing is called and nothing of the module's is compared. What is
a plain value (a path, a number, a text) is `describe`'s affair.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

DEPTH = 3
WORTH = 20_000
"""How much is looked at for one global."""
ITEMS = 400
PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), range, slice)
SEQUENCES = (tuple, list, deque)
SETS = (set, frozenset)
MAPPINGS = (dict, MappingProxyType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """``what`` is kept, of which hazard that is, and by which globals: module, name."""

    what: str
    hazard: str
    places: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    what: str
    hazard: str
    when: Callable[[Any], bool] = lambda thing: True


_KINDS: dict[str, _Kind] = {
    "_random.Random": _Kind(what="a random generator", hazard="H7"),
    "numpy.random.bit_generator.BitGenerator": _Kind(
        what="a random generator", hazard="H7"
    ),
    "numpy.random._generator.Generator": _Kind(what="a random generator", hazard="H7"),
    "numpy.random.mtrand.RandomState": _Kind(what="a random generator", hazard="H7"),
    "asyncio.events.AbstractEventLoop": _Kind(what="an event loop", hazard="H28"),
    "sqlite3.Connection": _Kind(what="a database connection", hazard="H27"),
    "_socket.socket": _Kind(
        what="an open socket", hazard="H27", when=lambda s: s.fileno() >= 0
    ),
    "_io.FileIO": _Kind(what="an open file", hazard="H27", when=lambda f: not f.closed),
    "select.epoll": _Kind(what="an epoll", hazard="H27", when=lambda e: not e.closed),
    "selectors.BaseSelector": _Kind(
        what="an open selector", hazard="H27", when=lambda s: s.get_map() is not None
    ),
    "mmap.mmap": _Kind(what="a memory map", hazard="H36", when=lambda m: not m.closed),
    "_thread.lock": _Kind(
        what="a lock that is held", hazard="H1", when=lambda lock: lock.locked()
    ),
    "_thread.RLock": _Kind(
        what="a lock that is held", hazard="H1", when=lambda lock: lock._is_owned()
    ),
    "threading.Thread": _Kind(
        what="a thread that runs",
        hazard="H1",
        when=lambda t: t.is_alive() and t is not _main_thread(),
    ),
    "subprocess.Popen": _Kind(what="a child process", hazard="H33"),
    "concurrent.futures._base.Executor": _Kind(what="a pool of workers", hazard="H1"),
    "multiprocessing.pool.Pool": _Kind(what="a pool of workers", hazard="H1"),
    "_multiprocessing.SemLock": _Kind(what="a shared semaphore", hazard="H27"),
    "multiprocessing.managers.BaseManager": _Kind(what="a manager", hazard="H33"),
    "tempfile.TemporaryDirectory": _Kind(what="a temporary directory", hazard="H12"),
}

_TRUSTED = frozenset(
    {
        *("random", "numpy.random", "numpy.random.mtrand"),
        *("threading", "_weakrefset", "importlib._bootstrap"),
    }
)
"""Modules whose own such things are no hazard: generators that are seeded again in each
child (`handover.randomness`), and the interpreter's bookkeeping of threads."""

_known: dict[type, _Kind | None] = {
    kind: None for kind in (str, bytes, int, float, bool, type(None), type, ModuleType)
}


def _main_thread() -> object:
    return sys.modules["threading"].main_thread()


def _kind(of: type) -> _Kind | None:
    if of not in _known:
        names = [f"{base.__module__}.{base.__qualname__}" for base in of.__mro__]
        # It keeps no state: the kernel draws.
        system = "random.SystemRandom" in names
        found = next((_KINDS[name] for name in names if name in _KINDS), None)
        _known[of] = None if system else found
    return _known[of]


def scan(names: Iterable[str], *, depth: int = 0) -> Iterator[Kept]:
    """What the globals of these modules keep, to ``depth`` containers or objects."""
    holders: dict[int, list[tuple[str, str]]] = {}
    kinds: dict[int, _Kind] = {}
    for module_name in names:
        module = sys.modules.get(module_name)
        if type(module) is not ModuleType or module_name in _TRUSTED:
            continue
        for name, value in tuple(vars(module).items()):
            if name != "__builtins__":
                for thing, kind in _live(value, depth):
                    kinds[id(thing)] = kind
                    holders.setdefault(id(thing), []).append((module_name, name))
    for number, kind in kinds.items():
        places = tuple(dict.fromkeys(holders[number]))
        yield Kept(what=kind.what, hazard=kind.hazard, places=places)


def inner(thing: object) -> Iterator[object]:
    """What is directly within: items, or attributes of an instance or a class."""
    kind = type(thing)
    if issubclass(kind, (*SEQUENCES, *SETS)):
        yield from items(thing)
    elif issubclass(kind, MAPPINGS):
        for key, value in pairs(thing):
            yield key
            yield value
    elif kind is FunctionType:
        yield from getattr(thing, "__defaults__", None) or ()
    elif not issubclass(kind, (*PLAIN, ModuleType, weakref.ref)):
        yield from attributes(thing).values()


def items(thing: Any) -> list[object]:
    """By the built-in type's own way, whatever a class of the module's makes of it."""
    base = next(b for b in (*SEQUENCES, *SETS) if issubclass(type(thing), b))
    return list(islice(base.__iter__(thing), ITEMS))


def pairs(thing: Any) -> list[tuple[object, object]]:
    """As `items`, of a mapping."""
    base = next(b for b in MAPPINGS if issubclass(type(thing), b))
    return list(islice(base.items(thing), ITEMS))


def attributes(thing: object) -> Mapping[str, object]:
    # Past a __getattribute__ or a property called __dict__.
    try:
        found = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return {}
    return dict(pairs(found)) if issubclass(type(found), MAPPINGS) else {}  # type: ignore[arg-type]


def _live(value: object, depth: int) -> Iterator[tuple[object, _Kind]]:
    todo = [(value, 0)]
    seen: set[int] = set()
    while todo and len(seen) < WORTH:
        thing, level = todo.pop()
        kind = _kind(type(thing))
        if kind is not None:
            try:
                if kind.when(thing):
                    yield thing, kind
            except Exception as error:
                # Half made, or of a class that overrides what is asked: it counts.
                del error
                yield thing, kind
            continue
        if level < depth and id(thing) not in seen:
            seen.add(id(thing))
            todo += [(one, level + 1) for one in inner(thing)]
