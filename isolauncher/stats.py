# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon has measured of its own launches, for ``isolauncher stats``.

The latest launches only, and of each no more than its caller, its way and its times: a
caller is told of its own, root of all.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """``way`` is the report's ``path``; ``timings_us`` the report's."""

    caller_uid: int
    way: str
    timings_us: Mapping[str, int]


class Launches:
    """How many there were, and the times of the last `KEPT`."""

    def __init__(self) -> None:
        self._last: deque[Launch] = deque(maxlen=KEPT)
        self._counts: Counter[tuple[int, str]] = Counter()

    def add(self, launch: Launch) -> None:
        self._last.append(launch)
        self._counts[launch.caller_uid, launch.way] += 1

    def as_data(self, of: Callable[[int], bool]) -> dict[str, object]:
        """By way: count since the start, and of the last ones each span's quantiles."""
        ways = sorted({way for uid, way in self._counts if of(uid)})
        told: dict[str, object] = {}
        for way in ways:
            counts = (n for (u, w), n in self._counts.items() if w == way and of(u))
            last = [x for x in self._last if x.way == way and of(x.caller_uid)]
            spans = dict.fromkeys(name for x in last for name in x.timings_us)
            told[way] = {
                "count": sum(counts),
                "timings_us": {
                    name: _quantiles(x.timings_us.get(name, 0) for x in last)
                    for name in spans
                },
            }
        return told


def _quantiles(values: Iterable[int]) -> dict[str, int]:
    ordered = sorted(values)

    def at(share: float) -> int:
        # Nearest rank.
        return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]

    return {
        "p50": round(statistics.median(ordered)),
        "p90": at(0.9),
        "p99": at(0.99),
    }
