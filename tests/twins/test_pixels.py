# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's four activities look and write the same, forked as from a cold start.

Each is opened twice in the tier exec and once forked, in one session. What changes
while one of them is looked at, as a cursor does, and what two cold starts have not in
common, is left out: nobody would see it as a difference.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.daemons import TOP, service
from support.desktop import desktop, missing
from support.powers import need, sandboxes
from support.sugar import Launched, Session, profile, schemas, session

POLICIES = {
    "org.laptop.Calculate": "calculate",
    "org.laptop.Log": "log",
    "org.laptop.Terminal": "terminal",
    "org.laptop.Memorize": "memorize",
}
"""The policy that each bundle has."""

LOOKS = 4
APART_S = 0.4
A_CURSOR = 1000
BYTES = 4
PATIENCE_S = 20


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes(), missing())
    with schemas(), desktop() as made, service() as daemon:
        profile(made)
        # Who has chosen no colours gets others at each start.
        colours = ("org.sugarlabs.user", "color", "#AC32FF,#9A5200")
        made.run("gsettings", "set", *colours)
        yield session(made, daemon)


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(name, marks=() if number == 0 else pytest.mark.long)
        for number, name in enumerate(POLICIES)
    ],
)
def test_a_forked_activity_looks_and_writes_as_a_cold_one(
    sugar: Session, bundle: str
) -> None:
    cold, again, forked = (opened(sugar, bundle, t) for t in ("exec", "exec", "fork"))
    noise = {n for n in {**cold[1], **again[1]} if cold[1].get(n) != again[1].get(n)}
    for found in (cold, forked):
        for name in noise:
            found[1].pop(name, None)
    assert forked[1] == cold[1]
    one, two, other = cold[0], again[0], forked[0]
    assert len(one.data) == len(other.data), "the windows are of two sizes"
    blank = one.unsteady | two.unsteady | other.unsteady | unlike(one, two)
    assert len(blank) < len(one.data) / BYTES / 200, "nothing is left to compare"
    assert len({one.data[n : n + BYTES] for n in range(0, len(one.data), 400)}) > 3
    assert unlike(one, other) <= blank


@dataclass(frozen=True)
class Looks:
    """A window's pixels, ``line`` bytes a row; ``unsteady``: which did not stay."""

    data: bytes
    line: int
    unsteady: frozenset[int]


def opened(sugar: Session, bundle: str, tier: str) -> tuple[Looks, dict[str, str]]:
    name = POLICIES[bundle]
    text = (TOP / f"policies/{name}.toml").read_text()
    policy = sugar.service.policy(name, f'{text}\n[preload]\ntier = "{tier}"\n')
    try:
        with sugar.launch(bundle, "looks") as launched:
            assert launched.row["tier"] == tier
            seen = looked_at(sugar, launched)
        sugar.gone("looks")
        return seen, written(sugar.profile / bundle)
    finally:
        (sugar.service.policies / f"{policy}.toml").unlink()


def looked_at(sugar: Session, launched: Launched) -> Looks:
    from Xlib import X

    assert launched.window is not None
    sugar.xdotool("mousemove", "0", "0")
    with sugar.desktop.watch() as watch:
        display: Any = watch._display
        window = display.create_resource_object("window", launched.window.number)
        shape = window.get_geometry()

        def look(first: bytes | None) -> Looks:
            area = (0, 0, shape.width, shape.height, X.ZPixmap, 0xFFFFFFFF)
            data = bytes(window.get_image(*area).data)
            seen = Looks(data, shape.width * BYTES, frozenset())
            moved = unlike(Looks(first or data, seen.line, frozenset()), seen)
            return replace(seen, unsteady=frozenset(moved))

        until = time.monotonic() + PATIENCE_S
        looks = [look(None)]
        while len(looks) < LOOKS:
            time.sleep(APART_S)
            looks.append(look(looks[0].data))
            if len(looks[-1].unsteady) > A_CURSOR:
                # It was not drawn to the end.
                looks = [look(None)]
            assert time.monotonic() < until, "it draws on and on"
    moved = frozenset(number for seen in looks for number in seen.unsteady)
    return replace(looks[0], unsteady=moved)


def unlike(one: Looks, other: Looks) -> frozenset[int]:
    """Numbers of the pixels that differ, in rows from the top."""
    found = set()
    for row in range(0, len(one.data), one.line):
        a, b = (seen.data[row : row + one.line] for seen in (one, other))
        if a != b:
            for at in range(0, one.line, BYTES):
                if a[at : at + BYTES] != b[at : at + BYTES]:
                    found.add((row + at) // BYTES)
    return frozenset(found)


def written(place: Path) -> dict[str, str]:
    """What it has kept: names, and what is in them."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((place / "data").rglob("*"))
        if path.is_file()
    }
