# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes what a module's import changes in modules that were there before it.

A function that is put in another's place, an entry in somebody's registry, an attribute
of a class: in a cold start it is so once the module is imported that did it, and not
before. Here are the globals of modules, their classes' attributes, and the dicts, lists
and sets that are a global or an attribute; each is looked at whenever an import begins
or ends (`noting`). What is to be done about a change is `handover.elsewhere`'s.

Not seen: what lies deeper, or in closures and C; an entry of a list that took another's
place; and where CPython keeps no version of its dicts (after 3.12), one of theirs.

Imports nothing that is not built in, as `noting`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MISSING: Any = type("Missing", (), {})()
"""Stands for no value."""

_HEAP_TYPE = 1 << 9
_IMMUTABLE_TYPE = 1 << 8
_DICT_VERSION = 24
"""``PyDictObject.ma_version_tag``: after the reference count, type and size."""
_DICT_SIZE = 16
_TYPE_DICT = 264
"""``PyTypeObject.tp_dict``."""
_OWN_OF_CLASSES = frozenset(
    {
        *("__abstractmethods__", "__dict__", "__doc__", "__weakref__", "__slots__"),
        *("__annotations__", "__parameters__", "__match_args__"),
    }
)
_INTERPRETER = frozenset(
    {
        *("builtins", "__main__", "_frozen_importlib", "_frozen_importlib_external"),
        *("importlib._bootstrap", "importlib._bootstrap_external"),
    }
)
_OF_GOBJECT = "gi."
"""Names of a typelib are made when they are asked for, and cannot be made twice."""
_LOOKED_AT = {
    "sys": frozenset(
        {
            *("argv", "path", "stdin", "stdout", "stderr", "excepthook"),
            *("displayhook", "unraisablehook", "breakpointhook"),
        }
    ),
    "warnings": frozenset({"filters", "_filters_version"}),
    "_warnings": frozenset({"filters"}),
}
"""`preload` has its own look at these, and at the interpreter's own modules."""


class Change:
    """One that ``by`` has made, a module, in what is ``owner``'s.

    ``thing``: a dict, list, set or class; ``place``: its name, empty for a module's
    globals. Of a dict or class ``key`` is what has changed, from ``before`` to
    ``after``, which may be `MISSING`; of the others both are their whole content.
    """

    __slots__ = ("after", "before", "by", "key", "owner", "place", "thing")

    def __init__(
        self,
        *,
        by: str,
        owner: str,
        place: str,
        thing: Any,
        key: object = None,
        before: Any,
        after: Any,
    ) -> None:
        self.by, self.owner, self.place = by, owner, place
        self.thing, self.key = thing, key
        self.before, self.after = before, after

    @property
    def name(self) -> str:
        """In words, as a program would write it."""
        whole = ".".join(part for part in (self.owner, self.place) if part)
        if type(self.thing) is dict and self.place:
            return f"{whole}[{self.key!r:.40}]"
        return f"{whole}.{self.key}" if self.key is not None else whole


class Elsewhere:
    """All that is looked at, and what has changed."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._held: dict[int, _Thing] = {}
        # Two ways to see that one has changed: by its size, or by its version.
        self._by_size: list[_Thing] = []
        self._contents: list[Any] = []
        self._sizes: list[int] = []
        self._by_version: list[_Thing] = []
        self._cells: list[Any] = []
        self._versions: list[int] = []
        self._cell: Callable[[int], Any] | None = None

    def sharpen(self, cell: Callable[[int], Any]) -> None:
        """From now on by versions, too. ``cell``: ``c_uint64.from_address``."""
        one: dict[str, int] = {}
        version = cell(id(one) + _DICT_VERSION)
        seen = [version.value]
        for value in (1, 2):
            one["key"] = value
            seen.append(version.value)
        size = cell(cell(id(_Thing) + _TYPE_DICT).value + _DICT_SIZE).value
        if seen[0] < seen[1] < seen[2] and size == len(_class_dict(_Thing)):
            self._cell = cell
            held, self._by_size = self._by_size, []
            self._contents, self._sizes = [], []
            for thing in held:
                self._watch(thing)

    def hold(self, name: str, own: dict[str, Any]) -> None:
        """A module whose import has ended, and what it has, count from now on."""
        if name in _INTERPRETER or name.startswith(_OF_GOBJECT):
            return
        self._add(name, "", own)
        if name == "sys":
            return
        interpreters = _of_the_interpreter()
        for key, value in tuple(own.items()):
            if id(value) in interpreters:
                continue
            if type(value) in (dict, list, set):
                self._add(name, key, value)
            elif _is_class(value) and _class_dict(value).get("__module__") == name:
                self._hold_class(name, key, value)

    def _hold_class(self, name: str, key: str, kind: Any) -> None:
        self._add(name, key, kind)
        for inner, value in tuple(_class_dict(kind).items()):
            if type(value) in (dict, list, set) and inner not in _OWN_OF_CLASSES:
                self._add(name, f"{key}.{inner}", value)

    def _add(self, owner: str, place: str, it: Any) -> None:
        if id(it) not in self._held:
            thing = self._held[id(it)] = _Thing(owner, place, it)
            self._watch(thing)

    def _watch(self, thing: _Thing) -> None:
        kind, address = type(thing.it), id(thing.it)
        if self._cell is None or kind in (list, set):
            self._by_size.append(thing)
            self._contents.append(thing.content)
            self._sizes.append(len(thing.content))
            return
        if kind is not dict:
            address = self._cell(address + _TYPE_DICT).value
        made = self._cell(address + _DICT_VERSION)
        self._by_version.append(thing)
        self._cells.append(made)
        self._versions.append(made.value)

    def look(self, by: str) -> None:
        """Whatever is another than at the last look ``by`` has done; "": nobody."""
        sizes = list(map(len, self._contents))
        if sizes != self._sizes:
            before, self._sizes = self._sizes, sizes
            self._note(by, self._by_size, before, sizes)
        versions = [cell.value for cell in self._cells]
        if versions != self._versions:
            before, self._versions = self._versions, versions
            self._note(by, self._by_version, before, versions)

    def _note(
        self, by: str, things: list[_Thing], before: list[int], now: list[int]
    ) -> None:
        pairs = enumerate(zip(before, now))  # noqa: B905 (of one length, and often)
        for thing in [things[at] for at, (one, other) in pairs if one != other]:
            made = thing.changes(by)
            if by and by != thing.owner:
                self.changes += made


class _Thing:
    """Something that is looked at, and a copy of what it was."""

    __slots__ = ("content", "it", "owner", "place", "was")

    def __init__(self, owner: str, place: str, it: Any) -> None:
        self.owner, self.place, self.it = owner, place, it
        self.content = it if type(it) in (dict, list, set) else _class_dict(it)
        self.was = self.content.copy()

    def changes(self, by: str) -> list[Change]:
        """Since it was last asked."""
        was, now = self.was, self.content.copy()
        self.was = now
        if not isinstance(was, dict):
            return [self._change(by, None, was, now)]
        return [
            self._change(by, key, was.get(key, MISSING), now.get(key, MISSING))
            for key in {**was, **now}
            if was.get(key, MISSING) is not now.get(key, MISSING) and self._is_seen(key)
        ]

    def _is_seen(self, key: Any) -> bool:
        if not self.place and key in _LOOKED_AT.get(self.owner, ()):
            return False
        return type(self.it) is dict or key not in _OWN_OF_CLASSES

    def _change(self, by: str, key: object, before: Any, after: Any) -> Change:
        return Change(
            by=by,
            owner=self.owner,
            place=self.place,
            thing=self.it,
            key=key,
            before=before,
            after=after,
        )


# Not as attributes: a metaclass may have others of these names.
_of_type: Any = type.__dict__
_class_dict: Any = _of_type["__dict__"].__get__
_flags: Any = _of_type["__flags__"].__get__


def _of_the_interpreter() -> set[int]:
    """What is not looked at here, whoever has it among his globals.

    ``from sys import modules``: what is imported later is nobody's change elsewhere.
    """
    found = {id(vars(sys.modules[n])) for n in _INTERPRETER if n in sys.modules}
    found.update(map(id, vars(sys).values()))
    for name, keys in _LOOKED_AT.items():
        own = vars(sys.modules[name]) if name in sys.modules else {}
        found.update(id(own[key]) for key in keys if key in own)
    return found


def _is_class(value: object) -> bool:
    """Whether it is one whose attributes can be set, and so set back."""
    if not issubclass(type(value), type):
        return False
    flags: int = _flags(value) & (_HEAP_TYPE | _IMMUTABLE_TYPE)
    return flags == _HEAP_TYPE


# What a change was can be taken back, and done again --------------------------------


def undo(change: Change) -> None:
    """If it still is as ``change`` has left it."""
    thing = change.thing
    if type(thing) in (list, set):
        if _same(thing, change.after):
            thing.clear()
            _fill(thing, change.before)
        return
    own = thing if type(thing) is dict else _class_dict(thing)
    if own.get(change.key, MISSING) is change.after:
        _put(thing, change.key, change.before)


def again(change: Change) -> None:
    """As the import would do now, whatever others have done since."""
    thing = change.thing
    if type(thing) is list:
        _again_list(thing, change.before, change.after)
    elif type(thing) is set:
        thing -= change.before - change.after
        thing |= change.after - change.before
    else:
        _put(thing, change.key, change.after)


def _again_list(thing: list[Any], before: list[Any], after: list[Any]) -> None:
    size = len(before)
    for at in range(len(after) - size + 1):
        if _same(after[at : at + size], before):
            # What was there is still there: the rest was put before it and behind.
            thing[:] = (*after[:at], *thing, *after[at + size :])
            return
    kept, left = set(map(id, before)), set(map(id, after))
    thing[:] = [one for one in thing if id(one) in left or id(one) not in kept]
    thing += [one for one in after if id(one) not in kept]


def _same(one: Any, other: Any) -> bool:
    """The very same things, not only equal ones; of lists in the same order."""
    ids, others = list(map(id, one)), list(map(id, other))
    return ids == others if type(one) is list else sorted(ids) == sorted(others)


def _fill(thing: Any, content: Any) -> None:
    if type(thing) is list:
        thing.extend(content)
    else:
        thing.update(content)


def _put(thing: Any, key: Any, value: object) -> None:
    if type(thing) is not dict:
        if value is MISSING:
            type.__delattr__(thing, key)
        else:
            type.__setattr__(thing, key, value)
    elif value is MISSING:
        thing.pop(key, None)
    else:
        thing[key] = value


def is_of_a_child(change: Change, modules: Mapping[str, object]) -> bool:
    """Whether it is that a package has its child, since somebody has imported it."""
    if change.place:
        return False
    child = modules.get(f"{change.owner}.{change.key}", MISSING)
    return child is not MISSING and (child is change.after or child is change.before)


__all__ = ["MISSING", "Change", "Elsewhere", "again", "is_of_a_child", "undo"]
