# SPDX-License-Identifier: GPL-3.0-or-later
"""One contender after the other, round by round.

The order changes with each round, so that whatever else the machine does falls on all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .figures import Spread

WARM_UP = 3


def in_turns(
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    rest: Callable[[], None] = lambda: None,
    begun: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Spread]:
    """``rest`` is called before each; ``begun`` when all are warm."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(-WARM_UP, rounds):
        if number == 0:
            begun()
        for name in order:
            rest()
            taken = contenders[name]()
            if number >= 0:
                samples[name].append(taken)
        order.append(order.pop(0))
        progress(number + 1)
    return {name: Spread(samples=tuple(found)) for name, found in samples.items()}
