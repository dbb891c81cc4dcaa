# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of the system's Sugar bundles are compiled once, in the zygote.

A bundle ships no compiled files, and nobody but root could write them beside it: so
each cold start compiles it again, in 5 to 40 ms. What importlib would compile to is
kept here by the file's path, and given to it where it has read just the bytes that this
was compiled from. So there is nothing to go stale; a bundle of a person's own, whose
path is not here, is compiled as ever, and so is what the compiler warns of.

Hazards: none; it answers none and must add none, see ``compile`` below.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any

from isolauncher.zygote import sets, unseen
from isolauncher.zygote.handover import Start, World

MOST = 8 * 1024 * 1024
"""Bytes of source, of all bundles together."""
_LARGEST = 512 * 1024

_external: Any = sys.modules["_frozen_importlib_external"]


def settle(world: World) -> World:
    if sets.NEEDS["sugar3"][0] not in world.shelved:
        return world
    known = {path: (source, code) for path, source, code in _compiled(sets.BUNDLES)}
    real = builtins.compile

    # importlib calls it by this name, with these words and no others.
    def compile(
        source: Any, filename: Any, mode: str, *, dont_inherit: bool, optimize: int
    ) -> Any:
        found = known.get(filename)
        if found is not None and found[0] == source and optimize == -1:
            sys.audit("compile", source, filename)
            return found[1]
        return real(
            source, filename, mode, dont_inherit=dont_inherit, optimize=optimize
        )

    unseen.hide(compile)
    _external.compile = compile
    return world


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it imports."""


def _compiled(tops: tuple[str, ...]) -> Iterator[tuple[str, bytes, CodeType]]:
    left = MOST
    for path in (path for top in tops for path in _sources(top)):
        try:
            with open(path, "rb") as file:
                source = file.read(_LARGEST + 1)
            left -= len(source)
            if len(source) > _LARGEST or left < 0:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                code = builtins.compile(
                    source, path, "exec", dont_inherit=True, optimize=-1
                )
        except (OSError, SyntaxError, ValueError, RecursionError, Warning):
            # Whoever imports it will be told.
            continue
        yield path, source, code


def _sources(top: str) -> Iterator[str]:
    """Python files below ``top`` that only root can have put there."""
    if not _is_roots(top):
        return
    for place, directories, files in os.walk(top):
        directories[:] = sorted(d for d in directories if _is_roots(f"{place}/{d}"))
        for name in sorted(files):
            path = f"{place}/{name}"
            if name.endswith(".py") and _is_roots(path):
                yield path


def _is_roots(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    mode = status.st_mode
    plain = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
    return plain and status.st_uid == 0 and not mode & 0o022
