# SPDX-License-Identifier: GPL-3.0-or-later
"""How long an activity takes from being asked for to its window, with and without us.

Two contenders take turns in one session, as the person: ``sugar-activity3`` started as
Sugar's shell starts it, and isolauncher's service asked for the same bundle over the
session bus, as the shell would ask. Both clocks stop when the X server says that the
activity's window is mapped. How it is shown is in cli/bench.py.

With the shell itself, from the click on an icon, integration/sugar/bench-shell has it
done in turns in the same way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from .. import bundle, client, wire
from ..errors import DaemonError, HostError, IsolauncherError
from ..windows import Watch
from . import daemons, lacks
from .figures import Spread, ratio_of_pairs
from .patience import PATIENCE_S
from .turns import in_turns

BUNDLES = (
    "org.laptop.Calculate",
    "org.laptop.Terminal",
    "org.laptop.Log",
    "org.laptop.Memorize",
)
PAIRS = 20
WARM_UP = 2
REST_S = 0.3
"""After each: what ends, and what is made for the next one, is in nobody's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """One bundle's times in milliseconds."""

    bundle_id: str
    cold: Spread
    isolated: Spread

    seed: int

    @property
    def ratio(self) -> float:
        return self.cold.median / self.isolated.median

    @property
    def ratios(self) -> Spread:
        """Pair by pair."""
        return ratio_of_pairs(self.cold, self.isolated)

    def as_data(self) -> dict[str, object]:
        return {
            "bundle_id": self.bundle_id,
            "seed": self.seed,
            "cold": self.cold.as_data(),
            "isolated": self.isolated.as_data(),
            "ratio_of_medians": round(self.ratio, 3),
            "ratio_of_pairs": self.ratios.as_data(),
        }


def measure(
    bundles: Sequence[str],
    pairs: int,
    seed: int,
    progress: Callable[[str], None] = lambda done: None,
) -> tuple[tuple[Windows, ...], dict[str, lacks.Lack]]:
    """``pairs`` of each bundle, and which could not be measured.

    HostError where there is no session to do it in, or not one could be.
    """
    if os.geteuid() == 0:
        raise HostError(
            "activities are opened in a person's session, and root has none",
            code="bench-of-root",
            hint="run it as the person, with DISPLAY and DBUS_SESSION_BUS_ADDRESS set",
        )
    for name in ("DISPLAY", "DBUS_SESSION_BUS_ADDRESS"):
        if not os.environ.get(name):
            raise HostError(f"{name} is not set", code="bench-no-session")
    missing: dict[str, lacks.Lack] = {}
    found: list[Windows] = []
    for bundle_id in bundles:
        with lacks.noted(missing, bundle_id):
            found.append(of(bundle_id, _cold, _isolated, pairs, seed, progress))
    if not found:
        raise lacks.nothing(missing)
    return tuple(found), missing


def of(
    bundle_id: str,
    cold: Callable[[str, str], float],
    isolated: Callable[[str, str], float],
    pairs: int,
    seed: int,
    progress: Callable[[str], None] = lambda done: None,
) -> Windows:
    """Each is given the bundle's id and one for the activity; returns milliseconds."""
    number = count()

    def once(name: str, contender: Callable[[str, str], float]) -> float:
        return contender(bundle_id, f"bench{os.getpid()}{name}{next(number)}")

    spreads = in_turns(
        {
            "cold": partial(once, "cold", cold),
            "isolated": partial(once, "iso", isolated),
        },
        pairs,
        seed=seed,
        warm_up=WARM_UP,
        rest=_rest,
        progress=lambda done: progress(f"{bundle_id} {done}/{pairs}"),
    )
    return Windows(bundle_id=bundle_id, seed=seed, **spreads)


def _isolated(bundle_id: str, activity_id: str) -> float:
    from ..session.launching import Asked
    from ..session.service import call_launch

    environment, _ = client.own_environment()
    asked = Asked(bundle=bundle_id, activity_id=activity_id, environment=environment)
    watch = Watch(os.environ)
    try:
        begun = time.monotonic_ns()
        call_launch(asked)
        window = watch.wait(lambda window: window.sugar_activity == activity_id)
        return (window.at_ns - begun) / 1e6
    finally:
        watch.close()
        _stop(activity_id)


def _rest() -> None:
    """Until the daemon ends and prepares nothing, as between a child's clicks."""
    daemons.wait_until_filled(None)
    time.sleep(REST_S)


def _stop(activity_id: str) -> None:
    """Ended, with everything of it; the daemon remembers it a while longer."""
    stop = {"version": wire.VERSION, "verb": "stop", "ids": [activity_id]}
    with suppress(IsolauncherError):
        list(client.ask({**stop, "grace_ms": 0}))
    until = time.monotonic() + PATIENCE_S
    asked = {"version": wire.VERSION, "verb": "ps"}
    while any(activity_id in _rows(part) for part in client.ask(asked)):
        if time.monotonic() > until:
            raise DaemonError(f"{activity_id} does not end", code="bench-timeout")
        time.sleep(0.02)


def _rows(part: object) -> list[str]:
    rows = part.get("activities") if isinstance(part, dict) else None
    listed = rows if isinstance(rows, list) else []
    return [str(row["id"]) for row in listed if row["state"] != "exited"]


def _cold(bundle_id: str, activity_id: str) -> float:
    words, environment, place = _as_the_shell(bundle_id, activity_id)
    watch = Watch(os.environ)
    try:
        begun = time.monotonic_ns()
        process = subprocess.Popen(
            words,
            env=environment,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            window = watch.wait(
                lambda window: window.sugar_activity == activity_id, alive=process
            )
            return (window.at_ns - begun) / 1e6
        finally:
            process.kill()
            process.wait()
    finally:
        watch.close()


def _as_the_shell(
    bundle_id: str, activity_id: str
) -> tuple[list[str], dict[str, str], str]:
    """Words, environment and directory, as sugar3's activityfactory makes them."""
    from ..session import installed

    place = installed.find(bundle_id, os.environ)
    info = Path(place, bundle.INFO).read_bytes()
    found = bundle.Found(
        path=place, installed_by="system", why="", info=info, permissions=None
    )
    parsed = bundle.parse(found)
    home = os.environ.get("HOME", "/")
    profile = os.environ.get("SUGAR_PROFILE") or "default"
    # Not the directories of isolated runs, which are each run's own.
    root = f"{home}/.sugar/{profile}/{bundle_id}"
    for name in ("data", "instance", "tmp"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    environment = bundle.environment(
        parsed,
        os.environ,
        activity_root=root,
        user_activities=bundle.user_activities(os.environ, home),
    )
    split = bundle.words(parsed, environment)
    command = bundle.command(
        parsed,
        split,
        in_bundle=os.path.exists(os.path.join(place, "bin", split[0])),
        activity_id=activity_id,
    )
    program = shutil.which(command.argv[0], path=environment["PATH"])
    if program is None:
        raise HostError(f"{command.argv[0]} is not there", code="bench-no-program")
    return [program, *command.argv[1:]], environment, place
