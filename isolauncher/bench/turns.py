# SPDX-License-Identifier: GPL-3.0-or-later
"""One contender after the other, round by round.

Who comes after whom is drawn anew for each round, so that whatever else the machine
does, and whatever one leaves to the next, falls on all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from ..errors import IsolauncherError
from . import lacks
from .figures import Spread

WARM_UP = 3


def new_seed() -> int:
    """For who names none; told with the figures, so that the order can be had again."""
    return random.SystemRandom().randrange(1_000_000)


def in_turns(
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    seed: int,
    warm_up: int = WARM_UP,
    rest: Callable[[], None] = lambda: None,
    begun: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda done: None,
    failed: dict[str, lacks.Lack] | None = None,
) -> dict[str, Spread]:
    """``rest`` is called before each; ``begun`` when all are warm.

    One that fails is noted in ``failed`` and has no figures; without that it ends all.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    # Nothing secret is drawn.
    drawn = random.Random(seed)  # noqa: S311
    for number in range(-warm_up, rounds):
        if number == 0:
            begun()
        order = list(samples)
        drawn.shuffle(order)
        for name in order:
            rest()
            try:
                taken = contenders[name]()
            except (IsolauncherError, *lacks.UNEXPECTED) as error:
                if failed is None:
                    raise
                lack = lacks.of(error)
                place = f"turn {number + 1} of {rounds}" if number >= 0 else "warm-up"
                failed[name] = lacks.Lack(why=f"{place}: {lack.why}", failed=True)
                del samples[name]
                continue
            if number >= 0:
                samples[name].append(taken)
        progress(number + 1)
    return {name: Spread(samples=tuple(found)) for name, found in samples.items()}
