# SPDX-License-Identifier: GPL-3.0-or-later
"""Describes what every loaded module consists of, to compare two processes.

Its text is run inside a program (see `isolauncher.twin` and tests/twins): it imports
nothing of ours. Addresses, times and the process id are made canonical; no other value
is left out, to a depth of three.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

NOW, UP, PID = time.time(), time.monotonic(), os.getpid()
UNSAID = {"__builtins__", "__loader__", "__spec__", "__doc__"}
PLAIN = (type(None), bool, complex, str, bytes)
BASES = (dict, list, tuple, int, str, float)
CODE = (
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
MOST = 500


def short(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    if len(text) < 200:
        return text
    return text[:60] + "…" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def number(value: Any) -> str:
    if value == PID > 100:
        return "the process id"
    if isinstance(value, float) and min(abs(value - NOW), abs(value - UP)) < 3600:
        return "a time" if value > 10 else repr(value)
    return repr(value)


def shape(value: Any, depth: int = 3, above: tuple[int, ...] = ()) -> Any:
    """Lists, objects and texts that are equal where two values are alike."""
    kind = type(value)
    if id(value) in above:
        return "itself"
    if kind in (int, float):
        return number(value)
    if kind in PLAIN:
        return short(repr(value))
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, types.FunctionType):
        code = value.__code__
        place = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
        name = f"{value.__module__}.{value.__qualname__}"
        return ["function", name, place, sorted(vars(value))]
    if isinstance(value, CODE):
        return short(repr(value))
    above = (*above, id(value))
    if isinstance(value, type):
        return of_class(value, depth, above)
    named = f"{kind.__module__}.{kind.__qualname__}"
    if depth <= 0:
        return named
    if kind in (list, tuple):
        items = [shape(item, depth - 1, above) for item in value[:MOST]]
        return [named, len(value), items]
    if kind in (set, frozenset):
        return [named, sorted(str(shape(item, depth - 1, above)) for item in value)]
    if kind is dict:
        return [named, len(value), *pairs(value, depth - 1, above)]
    return of_object(value, named, depth, above)


def pairs(value: Any, depth: int, above: tuple[int, ...]) -> Iterator[Any]:
    for key, item in list(value.items())[:MOST]:
        yield [shape(key, depth, above), shape(item, depth, above)]


def of_class(value: Any, depth: int, above: tuple[int, ...]) -> Any:
    own = {}
    if depth > 1:
        for name, item in list(vars(value).items()):
            if name not in ("__doc__", "__dict__", "__weakref__", "_abc_impl"):
                own[name] = shape(item, depth - 2, above)
    bases = [base.__qualname__ for base in value.__mro__[1:]]
    return ["class", f"{value.__module__}.{value.__qualname__}", bases, own]


def of_object(value: Any, named: str, depth: int, above: tuple[int, ...]) -> Any:
    found: list[Any] = [named]
    base = next((b for b in BASES if isinstance(value, b)), None)
    if base is dict:
        found += pairs(dict(value), depth - 1, above)
    elif base is not None:
        found.append(short(base.__repr__(value)))
    inner = getattr(value, "__dict__", None)
    if isinstance(inner, dict):
        found.append({str(k): shape(v, depth - 1, above) for k, v in [*inner.items()]})
    elif base is None:
        try:
            found.append(short(repr(value)))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def _told(value: Any) -> Any:
    """Its `shape`; a proxy may refuse to be asked for as much as its class."""
    try:
        return shape(value)
    except Exception as error:
        return ["cannot be looked at", type(error).__name__]


def describe(names: list[str]) -> dict[str, Any]:
    """By module, in the order of ``names``, each global's `shape`."""
    state: dict[str, Any] = {"modules": names}
    for name in names:
        module = sys.modules.get(name)
        if name in ("__main__", "__mp_main__"):
            continue
        if isinstance(module, types.ModuleType):
            found = list(vars(module).items())
            state[name] = {k: _told(v) for k, v in found if k not in UNSAID}
        else:
            state[name] = shape(module)
    return state
