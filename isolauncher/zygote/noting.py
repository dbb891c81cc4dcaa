# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes which other modules each module's import asks for, by whatever means.

A cold start of one module loads what its body asks for and no more; which that is, a
process that has loaded many can only know if it has watched. The statements of a body,
what functions import that it calls, what C code imports (PyImport_Import): all of it
calls ``builtins.__import__``, once that is not the interpreter's own, or importlib's
``_find_and_load``. Both are watched from before a zygote's first import (bootstrap.py)
until it has its list.

C code that imports what is there already asks nobody, and some Python code goes by what
is in ``sys.modules``. So each name of the list is imported with nothing there but what
a cold start has (`alone`), and an extension module is initialised with nothing there
but the modules that are being imported. What is asked for comes back then, and what its
own import had brought.

What an import has changed elsewhere, in modules that were there before, is noted too.

Imports nothing, for the same reason.
"""

from __future__ import annotations

import builtins
import sys

from isolauncher.zygote.elsewhere import Change, Elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

bootstrap: Any = sys.modules["_frozen_importlib"]
"""importlib's own module: every import of what is not there yet calls its
``_find_and_load``, by that name."""

_imp: Any = sys.modules["_imp"]

Brought = dict[str, dict[str, None]]
"""What each module asked for, in the order of its asking, there already or not."""

Filters = dict[str, list[tuple[object, bool]]]
"""What each module added to the interpreter's warning filters, and whether at the end
of the list, in the order of its adding. Not what it added only for a while: that is in
a list of its own (`warnings.catch_warnings`)."""

_brought: Brought = {}
_importing: list[str] = []
_elsewhere: list[Elsewhere] = []
_known: set[str] = set()
_first: set[str] = set()
_holding: set[str] = set()
_away: dict[str, object] = {}
_hidden: dict[str, Any] = {}
_own_children: set[str] = set()
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
        _first.update(sys.modules)
        _elsewhere.append(Elsewhere())
        _hold()
        _real.extend((bootstrap._find_and_load, builtins.__import__))
        _real.extend((_imp.create_dynamic, _imp.exec_dynamic))
        bootstrap._find_and_load = find_and_load
        builtins.__import__ = import_  # type: ignore[assignment]
        _imp.create_dynamic, _imp.exec_dynamic = create_dynamic, exec_dynamic


def end() -> Brought:
    """Not any more; what was asked for. Ask for the changes before."""
    if _real:
        _elsewhere.clear()
        bootstrap._find_and_load, builtins.__import__ = _real[:2]
        _imp.create_dynamic, _imp.exec_dynamic = _real[2:]
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
    if name in _away:
        _come_back(name)
        return _real[0](name, import_)
    _known.add(name)
    _elsewhere[0].look(_importing[-1] if _importing else "")
    _importing.append(name)
    try:
        return _real[0](name, import_)
    finally:
        _look()
        _elsewhere[0].look(name)
        _importing.pop()
        _hold()
        _look_for_children(name)


def _hold() -> None:
    for name in sys.modules.keys() - _holding:
        if name not in _importing:
            _holding.add(name)
            if not name.startswith("isolauncher"):
                _elsewhere[0].hold(name, globals_of(sys.modules[name]))


def _look_for_children(name: str) -> None:
    """Modules that it has given itself, as `six` does: not what it has imported."""
    for key, value in globals_of(sys.modules.get(name)).items():
        if issubclass(type(value), type(sys)):
            child = f"{name}.{key}"
            if child not in _known and globals_of(value).get("__name__") == child:
                _own_children.add(child)


def own_children() -> frozenset[str]:
    """What a package has as an attribute, and nobody needs to import."""
    return frozenset(_own_children)


def changes() -> list[Change]:
    """What was changed elsewhere, in the order of its doing."""
    return _elsewhere[0].changes if _elsewhere else []


def sharpen(cell: Any) -> None:
    """See `Elsewhere.sharpen`; what was changed until now is nobody's doing."""
    _elsewhere[0].look("")
    _elsewhere[0].sharpen(cell)


def create_dynamic(*arguments: object) -> object:
    """What most extension modules do at import they do here, others in the next."""
    with alone():
        return _real[2](*arguments)


def exec_dynamic(*arguments: object) -> object:
    with alone():
        return _real[3](*arguments)


class alone:
    """While it lasts, what nobody has asked for yet is not in ``sys.modules``."""

    def __enter__(self) -> None:
        self._was = dict(sys.modules)
        for name in self._was.keys() - _hidden.keys() - _first:
            if _is_hidden(name):
                _hidden[name] = _tie(name)
        staying = {up for one in _importing for up in upwards(one)}
        gone = [n for n in self._was if n in _hidden and n not in staying]
        for name in gone:
            _away[name] = sys.modules.pop(name)
        for name in gone:
            own = _hidden[name]
            # Else ``from parent import child`` would find it without asking.
            if own is not None and own.get(_child(name)) is _away[name]:
                del own[_child(name)]

    def __exit__(self, *error: object) -> None:
        _return([name for name in self._was if name in _away])
        if not _importing:
            # In their order; what was given back, and then taken out, stays out.
            now = dict(sys.modules)
            was = {name: now.pop(name) for name in self._was if name in now}
            sys.modules.clear()
            sys.modules.update({**was, **now})


def everything() -> dict[str, object]:
    """``sys.modules`` with what is not there at the moment."""
    return {**_away, **sys.modules}


def is_away(name: str) -> bool:
    return name in _away


def _is_hidden(name: str) -> bool:
    """Not what nobody imports: what our own is, or C code has put there for all."""
    found = globals_of(sys.modules[name]).get("__spec__") is not None
    return found and not name.startswith("isolauncher")


def _tie(name: str) -> dict[str, Any] | None:
    """The globals of its package, if it is in them because somebody imported it.

    A package that imports its child itself is never without it.
    """
    parent = name.rpartition(".")[0]
    own = name in _own_children or name in reach((parent,), _brought)
    if not parent or own:
        return None
    return globals_of(sys.modules.get(parent) or _away.get(parent))


def _child(name: str) -> str:
    return name.rpartition(".")[2]


def _come_back(name: str) -> None:
    """It, the packages it is in, and what all of them had brought."""
    _return([one for one in reach((name,), _brought) if one in _away])


def _return(names: list[str]) -> None:
    for name in names:
        module: Any = _away.pop(name)
        own = _hidden[name]
        if sys.modules.setdefault(name, module) is module and own is not None:
            own.setdefault(_child(name), module)


def upwards(name: str) -> list[str]:
    """``a.b.c``, ``a.b`` and ``a``."""
    found = [name]
    while "." in name:
        name = name.rpartition(".")[0]
        found.append(name)
    return found


def reach(names: Any, needs: Any) -> set[str]:
    """``names``, the packages they are in, and all that these need.

    ``names``: an iterable; ``needs``: for a module an iterable of modules.
    """
    seen: set[str] = set()
    todo = [up for name in names for up in upwards(name)]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += needs.get(name, ())
            todo += upwards(name)
    return seen


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
    platform = globals_of(sys.modules.get("platform") or _away.get("platform"))
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
    if len(sys.modules) + len(_away) != len(_known):
        for name in list(sys.modules):
            if name not in _known:
                _known.add(name)
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


__all__ = [
    "Brought",
    "alone",
    "begin",
    "bootstrap",
    "changes",
    "create_dynamic",
    "end",
    "everything",
    "exec_dynamic",
    "find_and_load",
    "import_",
    "is_away",
    "own_children",
    "reach",
    "sharpen",
]
