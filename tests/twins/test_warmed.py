# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's activities look as from a cold start, from a stem that was warmed.

Without sandbox and daemon: a cold start as the shell makes it, twice, and one forked
for the same words, which was warmed when only the session was known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.desktop import Desktop, desktop, missing
from support.powers import installed, need
from support.sugar import profile, schemas
from zygote import twins

from isolauncher import bundle as bundles
from isolauncher.session import installed as places

from .test_pixels import BYTES, POLICIES, Looks, looked_at, unlike


@pytest.fixture(scope="module")
def made() -> Iterator[Desktop]:
    need(missing(), installed("sugar3.activity.activity"))
    with schemas(), desktop() as made:
        profile(made)
        # Who has chosen no colours gets others at each start.
        colours = ("org.sugarlabs.user", "color", "#AC32FF,#9A5200")
        made.run("gsettings", "set", *colours)
        made.environment["NO_AT_BRIDGE"] = "1"
        yield made


@pytest.fixture(scope="module")
def zygote(made: Desktop) -> Iterator[twins.Zygote]:
    with twins.sugared(**made.person()) as started:
        yield started


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(name, marks=() if number == 0 else pytest.mark.long)
        for number, name in enumerate(POLICIES)
    ],
)
def test_a_warmed_activity_looks_as_a_cold_one(
    made: Desktop, zygote: twins.Zygote, bundle: str
) -> None:
    one, two = (seen(made, bundle, lambda w, e, p: cold(made, w, e, p)) for _ in "12")
    other = seen(made, bundle, lambda w, e, p: warmed(made, zygote, w, e, p))
    assert len(one.data) == len(other.data), "the windows are of two sizes"
    blank = one.unsteady | two.unsteady | other.unsteady | unlike(one, two)
    assert len(blank) < len(one.data) / BYTES / 200, "nothing is left to compare"
    assert unlike(one, other) <= blank


Starts = Callable[[list[str], dict[str, str], str], Callable[[], object]]
"""Returns what waits for its end."""


def seen(made: Desktop, bundle: str, start: Starts) -> Looks:
    words, environment, place = as_the_shell(made, bundle)
    with made.watch() as watch:
        ended = start(words, environment, place)
        window = watch.wait(lambda window: window.sugar_activity == "looks")
        session: Any = SimpleNamespace(
            desktop=made, xdotool=lambda *words: made.run("xdotool", *words)
        )
        launched: Any = SimpleNamespace(window=window)
        try:
            return looked_at(session, launched)
        finally:
            display: Any = watch._display
            display.create_resource_object("window", window.number).kill_client()
            display.sync()
            ended()


def cold(
    made: Desktop, words: list[str], environment: dict[str, str], place: str
) -> Callable[[], object]:
    return made.start(*words, environment=environment, cwd=place).wait


def warmed(
    made: Desktop,
    zygote: twins.Zygote,
    words: list[str],
    environment: dict[str, str],
    place: str,
) -> Callable[[], object]:
    told = {
        "start": twins.start(*words, environment=environment, cwd=place),
        "first": twins.start(words[0], environment=made.environment),
        "warm": True,
        "before": "assert not lacks",
    }
    thread = threading.Thread(target=zygote.run, args=(told, None))
    thread.start()
    return thread.join


def as_the_shell(made: Desktop, bundle: str) -> tuple[list[str], dict[str, str], str]:
    """Words, environment and directory, as sugar3's activityfactory makes them."""
    place = places.find(bundle, made.environment)
    found = bundles.Found(
        path=place,
        installed_by="system",
        why="",
        info=Path(place, bundles.INFO).read_bytes(),
        permissions=None,
    )
    parsed = bundles.parse(found)
    root = made.home / ".sugar/default" / bundle
    for name in ("data", "instance", "tmp"):
        made.run("mkdir", "-p", str(root / name))
    environment = bundles.environment(
        parsed,
        made.environment,
        activity_root=str(root),
        user_activities=str(made.home / "Activities"),
    )
    split = bundles.words(parsed, environment)
    command = bundles.command(parsed, split, in_bundle=False, activity_id="looks")
    assert command.argv[0] == "sugar-activity3"
    return ["/usr/bin/sugar-activity3", *command.argv[1:]], environment, place
