# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes which other modules each module's import asks for, by whatever means.

A cold start of one module loads what its body asks for and no more; which that is, a
process that has loaded many can only know if it has watched. The statements of a body,
what functions import that it calls, what C code imports (PyImport_Import): all of it
calls ``builtins.__import__``, once that is not the interpreter's own, or importlib's
``_find_and_load``. Both are watched from before a zygote's first import (bootstrap.py)
until it has its list.

Imports nothing, for the same reason.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

bootstrap: Any = sys.modules["_frozen_importlib"]
"""importlib's own module: every import of what is not there yet calls its
``_find_and_load``, by that name."""

Brought = dict[str, dict[str, None]]
"""What each module asked for, in the order of its asking, there already or not."""

Filters = dict[str, list[tuple[object, bool]]]
"""What each module added to the interpreter's warning filters, and whether at the end
of the list, in the order of its adding. Not what it added only for a while: that is in
a list of its own (`warnings.catch_warnings`)."""

_brought: Brought = {}
_importing: list[str] = []
_known: set[str] = set()
_filters: Filters = {}
_filtered: list[Any] = []
_asking: set[str] = set()
looked_at = False
"""Whether an auditor looks at what is left, who finds that the host is remembered."""
_real: list[Any] = []


def globals_of(module: object) -> dict[str, Any]:
    """A module's own; of what stands for one in ``sys.modules``, perhaps nothing.

    Such a thing may have no globals, or do whatever it likes when it is asked.
    """
    try:
        own = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return own if isinstance(own, dict) else {}


def begin() -> None:
    """From now on, if it has not begun."""
    if not _real:
        _known.update(sys.modules)
        _real.extend((bootstrap._find_and_load, builtins.__import__))
        bootstrap._find_and_load = find_and_load
        builtins.__import__ = import_  # type: ignore[assignment]


def end() -> Brought:
    """Not any more; all that was noted."""
    if _real:
        bootstrap._find_and_load, builtins.__import__ = _real
        _give_back(_real[1])
        _real.clear()
    return _brought


def filters() -> Filters:
    """What was added, as far as it is still there."""
    now = sys.modules["_warnings"].filters
    return {
        name: [one for one in added if one[0] in now]
        for name, added in _filters.items()
    }


def asking() -> frozenset[str]:
    """The modules whose bodies have asked `platform` on what machine they are."""
    return frozenset(_asking)


def _give_back(real: Any) -> None:
    """Some keep the function for themselves, as logging.config does in a class."""
    import gc

    for holder in gc.get_referrers(import_):
        if type(holder) is staticmethod:
            for above in gc.get_referrers(holder):
                _replace(above, holder, staticmethod(real))
        else:
            _replace(holder, import_, real)
    # Classes look their attributes up once.
    sys._clear_type_cache()


def _replace(holder: object, old: object, new: object) -> None:
    if type(holder) is dict and holder is not globals():
        for key in [key for key, value in holder.items() if value is old]:
            holder[key] = new


def find_and_load(name: str, import_: object) -> object:
    _look()
    _note(name)
    _known.add(name)
    _importing.append(name)
    try:
        return _real[0](name, import_)
    finally:
        _look()
        _look_into(sys.modules.get(name))
        _importing.pop()


def import_(
    name: str,
    globals: Any = None,
    locals: object = None,
    fromlist: Any = (),
    level: int = 0,
) -> object:
    base = _absolute(name, globals, level) if _importing else ""
    if base:
        _look()
        _note(base)
    module = _real[1](name, globals, locals, fromlist, level)
    if base:
        package = sys.modules.get(base)
        for child in fromlist or ():
            there = sys.modules.get(f"{base}.{child}")
            # Not a function that is called as a module of its package.
            if there is not None and globals_of(package).get(child) is there:
                _note(f"{base}.{child}")
    return module


def _look() -> None:
    """Some bodies put others there by hand, as that of `gi` and importlib's own do.

    And some add warning filters, or have `platform` remember the host.
    """
    platform = globals_of(sys.modules.get("platform"))
    if platform.get("_uname_cache") is not None:
        if _importing:
            _asking.add(_importing[-1])
        if not looked_at:
            platform["_uname_cache"] = None
    now = sys.modules["_warnings"].filters
    if now != _filtered:
        if _importing:
            added = [one for one in now if one not in _filtered]
            last = now[-len(added) :] == added
            own = _filters.setdefault(_importing[-1], [])
            # The one at the front was added last.
            own += [(one, last) for one in (added if last else reversed(added))]
        _filtered[:] = now
    if len(sys.modules) != len(_known):
        for name in list(sys.modules):
            if name not in _known:
                _known.add(name)
                _note(name)


def _look_into(module: object) -> None:
    """C code finds what is there already without asking anybody, and keeps it."""
    loader = getattr(globals_of(module).get("__spec__"), "loader", None)
    if type(loader).__name__ == "ExtensionFileLoader":
        for value in list(globals_of(module).values()):
            if type(value) is type(sys):
                name = str(globals_of(value).get("__name__"))
                if sys.modules.get(name) is value:
                    _note(name)


def _note(name: str) -> None:
    if _importing and _importing[-1] != name:
        _brought.setdefault(_importing[-1], {})[name] = None


def _absolute(name: str, globals: Any, level: int) -> str:
    if not level:
        return name
    package = globals.get("__package__")
    if package is None:
        package = str(globals.get("__name__", ""))
        if "__path__" not in globals:
            package = package.rpartition(".")[0]
    above = package.rsplit(".", level - 1)[0] if level > 1 else package
    return f"{above}.{name}" if name else above


__all__ = ["Brought", "begin", "bootstrap", "end", "find_and_load", "import_"]
