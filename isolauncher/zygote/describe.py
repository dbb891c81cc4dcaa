# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what modules' globals hold, in words that two processes can compare.

No object ids and no order of sets; of what is not a plain value the type, and one level
of its attributes. Runs none of the modules' own code: only the ``repr`` of types that
are listed here.
"""

from __future__ import annotations

import ast
import bisect
import sys
import zlib
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from isolauncher.zygote.kept import (
    MAPPINGS,
    PLAIN,
    SEQUENCES,
    SETS,
    WORTH,
    attributes,
    items,
    pairs,
)

_DEPTH = 3
_LONG = 10_000
_WIDTH = 120
# Whose repr is made in C or by the standard library, of their value alone.
_REPRESENTED = frozenset(
    {
        *("datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta"),
        *("datetime.timezone", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
        *("pathlib.PosixPath", "pathlib.PurePosixPath", "time.struct_time"),
        *("ipaddress.IPv4Address", "ipaddress.IPv6Address", "zoneinfo.ZoneInfo"),
        *("pwd.struct_passwd", "posix.uname_result", "os.stat_result"),
    }
)
_NOT_THEIRS = frozenset(
    {
        *("__builtins__", "__cached__", "__file__", "__loader__", "__path__"),
        *("__spec__", "__warningregistry__", "__doc__"),
    }
)

# Of this process, as `globals_of` found it; and how much one global has taken.
_addresses: list[tuple[int, int]] = []
_spent = [0]


def globals_of(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each of these modules: its globals, described."""
    _addresses[:] = _mapped()
    said = {}
    for name in names:
        module = sys.modules.get(name)
        # What stands there for a module, lazily, may do anything when it is asked.
        if type(module) is ModuleType:
            said[name] = {
                key: _described(value)
                for key, value in tuple(vars(module).items())
                if key not in _NOT_THEIRS
            }
    return said


def _mapped() -> list[tuple[int, int]]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        areas = [line.split(" ", 1)[0].split("-") for line in maps]
    return [(int(start, 16), int(end, 16)) for start, end in areas]


def _is_address(value: int) -> bool:
    # An id, a handle, a function of C: it holds in a child as it does here.
    if value < 1 << 32:
        return False
    at = bisect.bisect(_addresses, (value, sys.maxsize)) - 1
    return at >= 0 and value < _addresses[at][1]


def _described(value: object) -> str:
    _spent[0] = 0
    return describe(value)


def describe(value: Any, level: int = 0) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in PLAIN or name in _REPRESENTED:
        return _plain(value, kind)
    _spent[0] += 1
    if level > _DEPTH or _spent[0] > WORTH:
        return f"<{name}>"
    if issubclass(kind, SETS):
        return "{" + ", ".join(sorted(_each(items(value), level))) + "}"
    if issubclass(kind, SEQUENCES):
        return f"{kind.__name__}[" + ", ".join(_each(items(value), level)) + "]"
    if issubclass(kind, MAPPINGS):
        return _pairs(pairs(value), level)
    if issubclass(kind, ModuleType):
        return f"<module {vars(value).get('__name__')}>"
    if kind is FunctionType:
        defaults = _each(value.__defaults__ or (), level + 1)
        return f"<function {value.__qualname__}({', '.join(defaults)})>"
    for base in (int, str, bytes, float):
        if issubclass(kind, base):
            # An enumeration's member, a text that was marked.
            return f"{name}({base.__repr__(value)})"
    if level > 1 or kind in (BuiltinFunctionType, MethodType):
        return f"<{name}>"
    if issubclass(kind, type):
        within = _pairs(_class(value), _DEPTH)
        return f"<class {type.__repr__(value)}> {within}"
    within = _pairs(attributes(value).items(), max(level, _DEPTH - 1))
    return f"<{name}> {within}"


def _plain(value: Any, kind: type) -> str:
    if kind is int and _is_address(value):
        return "<address>"
    if kind in (str, bytes, bytearray) and len(value) > _LONG:
        data = value.encode("utf-8", "replace") if kind is str else value
        return f"<{kind.__name__} of {len(value)}, {zlib.crc32(data):x}>"
    return repr(value)


def _class(of: type) -> list[tuple[object, object]]:
    skip = (FunctionType, BuiltinFunctionType, staticmethod, classmethod, property)
    return [
        (key, value)
        for key, value in attributes(of).items()
        if not str(key).startswith("__") and type(value) not in skip
    ]


def _each(values: Iterable[object], level: int) -> Iterator[str]:
    for value in values:
        yield describe(value, level + 1)


def _pairs(values: Iterable[tuple[object, object]], level: int) -> str:
    said = [
        f"{describe(key, level + 1)}: {describe(value, level + 1)}"
        for key, value in values
    ]
    return "{" + ", ".join(said) + "}"


def difference(one: str, other: str) -> str:
    """Both, shortened to where they differ."""
    start = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        start += 1
    start = max(0, start - _WIDTH // 3)

    def cut(text: str) -> str:
        end = start + _WIDTH
        return ("…" if start else "") + text[start:end] + ("…" if text[end:] else "")

    return f"{cut(one)} or {cut(other)}"


# Where a global was made -----------------------------------------------------------


def lines(file: str) -> dict[str, int]:
    """The last line of a module's body that gives each of its globals a value.

    Without those that it imports: they were made elsewhere. Nothing of a file that is
    not Python's source.
    """
    if not file.endswith(".py"):
        return {}
    try:
        with open(file, "rb") as source:
            return dict(_given(ast.parse(source.read()).body))
    except (OSError, SyntaxError, ValueError):
        return {}


def _given(body: Iterable[ast.stmt]) -> Iterator[tuple[str, int]]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield statement.name, _within(statement)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, node.lineno
            elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(
                node.ctx, ast.Store
            ):
                base: ast.expr = node
                while isinstance(base, ast.Subscript | ast.Attribute):
                    base = base.value
                if isinstance(base, ast.Name):
                    yield base.id, node.lineno


def _within(statement: ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) -> int:
    """Its line; a class's only attribute that a call makes, if there is one."""
    if isinstance(statement, ast.ClassDef):
        values = [s for s in statement.body if isinstance(s, ast.Assign)]
        calls = [s for s in values if isinstance(s.value, ast.Call)]
        if len(calls) == 1:
            return calls[0].lineno
    return statement.lineno
