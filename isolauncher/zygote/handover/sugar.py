# SPDX-License-Identifier: GPL-3.0-or-later
"""What Sugar's toolkit computes at import: sizes, fonts, translated texts.

Hazards: H14, H19 and H39 of ``sugar3``. A module that depends on the person's settings
or language at some of its lines has just these lines done again, in place, when the
program imports it: the module itself cannot be imported a second time, since the types
it defines are known to GObject already.

`sugar3.speech` is not here because it is on no list: it starts GStreamer.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

from isolauncher.zygote.handover import Start, World

# Made at first use, each for one person.
_SINGLETONS = (
    ("sugar3.activity.activity", "_session"),
    ("sugar3.datastore.datastore", "_data_store"),
    ("sugar3.graphics.palettewindow", "_pointer"),
    ("sugar3.power", "_power_manager"),
    ("sugar3.presence.connectionmanager", "_connection_manager"),
    ("sugar3.presence.presenceservice", "_ps"),
    ("sugar3.profile", "_profile"),
    ("sugar3.profile", "_journal_settings"),
)

STYLE = "sugar3.graphics.style"
PARTS = (
    "sugar3.util",
    "sugar3.mime",
    "sugar3.graphics.alert",
    "sugar3.graphics.menuitem",
    "sugar3.graphics.palette",
    "sugar3.graphics.toolbarbox",
    "sugar3.activity.activity",
)
"""Modules that translate, or use ``style``, in lines that run when they are imported;
a test finds any other."""

_ASKED = frozenset({"_", "style"})

Defaults = tuple[str, CodeType]
"""A function's dotted name and its defaults, as an expression."""

_bodies: dict[str, CodeType] = {}
_functions: dict[str, tuple[Defaults, ...]] = {}


def settle(world: World) -> World:
    for name, attribute in _SINGLETONS:
        if name in sys.modules:
            setattr(sys.modules[name], attribute, None)
    _bodies.clear()
    _functions.clear()
    for name in (STYLE, *PARTS):
        module = sys.modules.get(name)
        source = _source(module) if module is not None else None
        if module is None or source is None:
            continue
        path = str(module.__file__)
        tree = ast.parse(source)
        if name != STYLE:
            _functions[name] = tuple(_defaults(tree.body, "", path))
            tree.body = [s for s in tree.body if _asks(s)]
        _bodies[name] = compile(tree, path, "exec", dont_inherit=True)
    return world


def apply(start: Start, world: World) -> None:
    """Only once they are imported, see ``RENEW``."""


def _source(module: ModuleType) -> bytes | None:
    get_data = getattr(module.__loader__, "get_data", None)
    return get_data(module.__file__) if get_data is not None else None


def _asks(statement: ast.stmt) -> bool:
    """Whether this line of a module's body asks for a translation or a size."""
    plain = not isinstance(statement, ast.FunctionDef | ast.ClassDef)
    return plain and any(
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and node.id in _ASKED
        for node in ast.walk(statement)
    )


def _defaults(body: list[ast.stmt], where: str, path: str) -> Iterator[Defaults]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _defaults(statement.body, f"{where}{statement.name}.", path)
        elif isinstance(statement, ast.FunctionDef):
            defaults = ast.Tuple(statement.args.defaults, ast.Load())
            if _asks(ast.Expr(defaults)):
                expression = ast.fix_missing_locations(ast.Expression(defaults))
                code = compile(expression, path, "eval", dont_inherit=True)
                yield f"{where}{statement.name}", code


def _again(name: str) -> Callable[[Any], None]:
    def renew(module: Any) -> None:
        body = _bodies.get(name)
        if body is not None:
            exec(body, module.__dict__)  # noqa: S102 (the module's own lines)
        for dotted, code in _functions.get(name, ()):
            function: Any = module
            for part in dotted.split("."):
                function = function.__dict__[part]
            function.__defaults__ = eval(code, module.__dict__)  # noqa: S307

    return renew


RENEW = {name: _again(name) for name in (STYLE, *PARTS)}
