# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of the system's Sugar bundles are compiled once, in the zygote.

A bundle ships no compiled files, and nobody but root could write them beside it: so
each cold start compiles it again, in 5 to 40 ms. What importlib would compile to is
kept here by the file's path, and given to it where it has read just the bytes that this
was compiled from. So there is nothing to go stale; a bundle of a person's own, whose
path is not here, is compiled as ever, and so is what the compiler warns of where the
program would see the warning.

Hazards: none; it answers none and must add none, see ``compile`` below.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from isolauncher.zygote import sets, unseen
from isolauncher.zygote.handover import Start, World

MOST = 8 * 1024 * 1024
"""Bytes of source, of all bundles together."""
_LARGEST = 512 * 1024
_HEADER = 16
"""Bytes of a .pyc before the code (PEP 552)."""

_external: Any = sys.modules["_frozen_importlib_external"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """``warned`` is what the compiler said of it: category, text and line of each."""

    path: str
    source: bytes
    code: CodeType
    warned: tuple[tuple[type[Warning], str, int], ...]

    def is_silent(self) -> bool:
        """Whether the program's filters let none of it be seen or raised."""
        module = self.path.removesuffix(".py")
        return all(
            _action(category, text, line, module) == "ignore"
            for category, text, line in self.warned
        )


def settle(world: World) -> World:
    if sets.NEEDS["sugar3"][0] not in world.shelved:
        return world
    known = {compiled.path: compiled for compiled in _compiled(sets.BUNDLES)}
    real = builtins.compile

    # importlib calls it by this name, with these words and no others.
    def compile(
        source: Any, filename: Any, mode: str, *, dont_inherit: bool, optimize: int
    ) -> Any:
        found = known.get(filename)
        same = found is not None and found.source == source and optimize == -1
        if found is not None and same and found.is_silent():
            sys.audit("compile", source, filename)
            return found.code
        return real(
            source, filename, mode, dont_inherit=dont_inherit, optimize=optimize
        )

    unseen.hide(compile)
    _external.compile = compile
    # What an import would write beside the source, where only root can write.
    writes = {
        id(code): (code, bytes(_external._code_to_timestamp_pyc(code)[_HEADER:]))
        for code in (one.code for one in known.values())
    }
    unseen.exchange(_external._code_to_timestamp_pyc, _as_written, WRITES=writes)
    return world


def _as_written(code, mtime=0, source_size=0):  # type: ignore[no-untyped-def]
    # A model for `unseen.exchange`, which says what the names in capitals are.
    writes = "WRITES"
    plain = "PLAIN"
    known = writes.get(id(code))  # type: ignore[attr-defined]
    if known is None:
        return plain(code, mtime, source_size)  # type: ignore[operator]
    data = plain(None, mtime, source_size)  # type: ignore[operator]
    data[16:] = known[1]
    return data


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it imports."""


def _action(category: type[Warning], text: str, line: int, module: str) -> str:
    """What is done about a warning, as CPython's _warnings.c decides it."""
    for action, message, of, where, at in warnings.filters:
        if (
            issubclass(category, of)
            and at in (0, line)
            and _matches(message, text)
            and _matches(where, module)
        ):
            return action
    return str(warnings.defaultaction)  # type: ignore[attr-defined]


def _matches(wanted: Any, text: str) -> bool:
    if wanted is None or isinstance(wanted, str):
        return wanted is None or wanted == text
    return wanted.match(text) is not None


def _compiled(tops: tuple[str, ...]) -> Iterator[_Compiled]:
    left = MOST
    for path in files_of_root(tops, ".py"):
        try:
            with open(path, "rb") as file:
                source = file.read(_LARGEST + 1)
            left -= len(source)
            if len(source) > _LARGEST or left < 0:
                continue
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                code = builtins.compile(
                    source, path, "exec", dont_inherit=True, optimize=-1
                )
        except (OSError, SyntaxError, ValueError, RecursionError):
            # Whoever imports it will be told.
            continue
        yield _Compiled(
            path=path,
            source=source,
            code=code,
            warned=tuple((one.category, str(one.message), one.lineno) for one in said),
        )


def files_of_root(tops: tuple[str, ...], suffix: str) -> Iterator[str]:
    """Files below ``tops`` that only root can have put there."""
    for top in filter(_is_roots, tops):
        for place, directories, files in os.walk(top):
            directories[:] = sorted(d for d in directories if _is_roots(f"{place}/{d}"))
            for name in sorted(files):
                path = f"{place}/{name}"
                if name.endswith(suffix) and _is_roots(path):
                    yield path


def _is_roots(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    mode = status.st_mode
    plain = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
    return plain and status.st_uid == 0 and not mode & 0o022
