# SPDX-License-Identifier: GPL-3.0-or-later
"""``sys.modules`` is a cold start's: ours leave it, as preloaded ones have (`shelf`).

Hazards: H18 where it cannot be answered in this process. Modules that cannot be
imported a second time (``World.lasting``) are what they are; a program whose search
path has another module of the name of one of them, or of one that they were imported
with, gets a fresh interpreter. This is known before it runs.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator

from isolauncher.zygote.handover import Fresh, Start, World
from isolauncher.zygote.handover.shelf import comes_first, names_in, place
from isolauncher.zygote.noting import globals_of


def settle(world: World) -> World:
    hidden = frozenset(sys.modules) - world.visible
    return dataclasses.replace(
        world,
        tops=_tops(world),
        hidden=hidden,
        orphans=tuple(_orphans(hidden, world)),
        module_count=len(sys.modules) - len(hidden),
    )


def begin(world: World) -> None:
    _take_out(world)


def apply(start: Start, world: World) -> None:
    _refuse_others(world)
    _take_out(world)


def again(start: Start, world: World) -> None:
    _refuse_others(world)


def _take_out(world: World) -> None:
    if len(sys.modules) == world.module_count:
        # All done in the zygote, and nothing of ours has been imported since.
        return
    for name in [n for n in sys.modules if _is_ours(n) or n in world.hidden]:
        world.kept.append(sys.modules.pop(name))
    for package, child in world.orphans:
        globals_of(_of(package, world)).pop(child, None)


def _of(name: str, world: World) -> object:
    return world.shelf[name] if name in world.shelf else sys.modules[name]


def _orphans(hidden: frozenset[str], world: World) -> Iterator[tuple[str, str]]:
    """Of packages that a program may see, children that only we have imported."""
    for name in hidden:
        package, _, child = name.rpartition(".")
        if package in world.visible:
            known = globals_of(_of(package, world))
            if known.get(child) is sys.modules[name]:
                yield package, child


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "isolauncher"


def _tops(world: World) -> dict[str, tuple[str, str]]:
    """Top-level names of what lasts and of all that was imported with it."""
    seen: set[str] = set()
    todo = list(world.lasting)
    while todo:
        name = todo.pop()
        if name in world.shelf and name not in seen:
            seen.add(name)
            todo += (name.partition(".")[0], *world.needs.get(name, ()))
    found = {name: place(name, world.shelf[name]) for name in seen if "." not in name}
    return {name: where for name, where in found.items() if where is not None}


def _refuse_others(world: World) -> None:
    """Fresh if this program's path has one of those names elsewhere, and first."""
    if not world.tops:
        return
    known = frozenset(world.pristine.path)
    new = [entry for entry in sys.path if entry not in known]
    possible = {name for entry in new for name in _names_in(entry, world)}
    own = {n for n in possible if comes_first(n, world.tops[n], known)}
    if own:
        raise Fresh(
            f"its own {', '.join(sorted(own))} comes before the one that preloaded "
            "modules were imported with"
        )


def _names_in(directory: str, world: World) -> set[str]:
    """Names of ours that ``directory`` may have too."""
    entries: Iterable[str]
    try:
        # Of a stem that was warmed it has been listed, see `shelf.look_ahead`.
        entries = names_in(directory) or os.listdir(directory)
    except OSError:
        # A zip file tells its names only one by one; what cannot be listed may still
        # be searched, so every name is tried there too.
        return set(world.tops) if os.path.exists(directory) else set()
    return {entry.partition(".")[0] for entry in entries} & world.tops.keys()
