# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module's import changed in other modules comes with that module.

Hazards: H41. In the zygote every change that was noted (`zygote.elsewhere`) is taken
back, the last first; in a child it is made again when the module comes back from the
shelf that made it. What only our own code has brought about does not come again.

Not of modules that cannot be imported twice (``World.lasting``), whose names are made
as they are asked for. Not what only makes a thing found sooner. And not what
`stdlib_caches` renews: of a module of which it renews some global, only functions and
classes count that took another's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any

from isolauncher.zygote import elsewhere
from isolauncher.zygote.elsewhere import Change
from isolauncher.zygote.handover import Start, World
from isolauncher.zygote.handover.stdlib_caches import CONTAINERS, RENEWED

Renewal = Callable[[Any], None]

_CODE = (FunctionType, BuiltinFunctionType, type)

RENEW: dict[str, Renewal] = {}
_made: dict[str, list[Change]] = {}


def settle(world: World) -> World:
    _made.clear()
    RENEW.clear()
    for change in reversed(tuple(taken_back(world))):
        elsewhere.undo(change)
        if change.by in world.shelved:
            _made.setdefault(change.by, []).insert(0, change)
            RENEW[change.by] = _again(change.by)
    return world


def apply(start: Start, world: World) -> None:
    """Nothing: it depends on the moment of the import, see ``RENEW``."""


def taken_back(world: World) -> Iterator[Change]:
    """Those that wait for the import of the module that made them."""
    for change in world.changes:
        if change.by in world.pristine.modules or change.owner in world.lasting:
            continue
        if elsewhere.is_of_a_child(change, sys.modules):
            continue
        if not (_is_renewed(change) or _is_a_cache(change)):
            yield change


def _is_a_cache(change: Change) -> bool:
    known = (change.owner, change.place) in (("re", "_cache"), ("encodings", "_cache"))
    return known or change.place.endswith("._value2member_map_")


def _is_renewed(change: Change) -> bool:
    if change.place:
        return f"{change.owner}.{change.place}" in CONTAINERS
    values = (change.before, change.after)
    return change.owner in RENEWED and not any(isinstance(v, _CODE) for v in values)


def _again(name: str) -> Renewal:
    # By the name that it was imported by, which it may have changed.
    def again(module: object) -> None:
        for change in _made[name]:
            elsewhere.again(change)

    return again
