# SPDX-License-Identifier: GPL-3.0-or-later
"""Times, and what is said of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

FOR_P99 = 100
"""Samples: of fewer the 99th percentile is the longest, whatever that was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A contender's times in milliseconds, in the order they were measured."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def at(self, share: float) -> float:
        """The value that ``share`` of the samples do not exceed (nearest rank)."""
        ordered = sorted(self.samples)
        return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]

    @property
    def p99(self) -> float | None:
        """None below `FOR_P99` samples."""
        return self.at(0.99) if len(self.samples) >= FOR_P99 else None

    def as_data(self) -> dict[str, object]:
        p99 = self.p99
        return {
            "median": round(self.median, 3),
            "min": round(min(self.samples), 3),
            "max": round(max(self.samples), 3),
            "p90": round(self.at(0.9), 3),
            **({} if p99 is None else {"p99": round(p99, 3)}),
            "samples": [round(s, 3) for s in self.samples],
        }


def ratio_of_pairs(above: Spread, below: Spread) -> Spread:
    """Pair by pair: of what was measured in the same round."""
    pairs = zip(above.samples, below.samples, strict=True)
    return Spread(samples=tuple(a / b for a, b in pairs))


def medians_of(rows: list[Mapping[str, int]]) -> dict[str, int]:
    """Of each name that all rows have."""
    names = [n for n in rows[0] if all(n in row for row in rows)] if rows else []
    return {n: round(statistics.median(row[n] for row in rows)) for n in names}
