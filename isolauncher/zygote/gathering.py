# SPDX-License-Identifier: GPL-3.0-or-later
"""Has what each import writes to lie together, and not on a page for each.

An import of what is there already counts who refers to the module, to its globals, its
names, and its spec, which it asks whether the module is complete. Each of these counts
is written into the object, and these objects are made in the midst of all that their
import makes. So modules and names are made before the first import, one after the
other, and specs once more after the last; a child that imports a hundred modules then
copies some pages for it, not some hundred. A program sees nothing of it.

Imports nothing, as `noting`.
"""

from __future__ import annotations

import sys

from isolauncher.zygote.noting import bootstrap, globals_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

_Module = type(sys)
_Spec: Any = bootstrap.ModuleSpec
_MANY = 1000
"""Modules; a set brings some 700, of which a half is Python code."""

_ready: list[ModuleType] = []
_real: list[Any] = []


def begin() -> None:
    """From now on Python code's modules are made of those that are ready.

    C code makes its own.
    """
    _ready.extend(_Module.__new__(_Module) for _ in range(_MANY))
    _real.append(bootstrap._new_module)
    bootstrap._new_module = _new_module


def end() -> None:
    """Not any more; those that are left are given back."""
    if _real:
        bootstrap._new_module = _real.pop()
        _ready.clear()


def _new_module(name: str) -> ModuleType:
    if not _ready:
        return _Module(name)
    module = _ready.pop()
    _Module.__init__(module, name)
    return module


def names(of: Iterable[str]) -> list[str]:
    """These modules' names and those of their parts: whoever asks gets the same ones.

    As long as what is returned is kept.
    """
    return [sys.intern(part) for name in of for part in _parts(name)]


def _parts(name: str) -> Iterable[str]:
    parts = name.split(".")
    for count, part in enumerate(parts, 1):
        yield ".".join(parts[:count])
        yield part


def specs(of: Iterable[object]) -> None:
    """Give each module an equal spec; nobody else has a hold of the one it had."""
    # All before the first takes another's place, where the next one would be made.
    made = [
        (own, _equal(own["__spec__"]))
        for own in map(globals_of, of)
        if type(own.get("__spec__")) is _Spec
    ]
    for own, spec in made:
        own["__spec__"] = spec


def _equal(spec: Any) -> Any:
    made = _Spec.__new__(_Spec)
    for name, value in vars(spec).items():
        setattr(made, name, value)
    return made


__all__ = ["begin", "end", "names", "specs"]
