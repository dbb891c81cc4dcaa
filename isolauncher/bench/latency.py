# SPDX-License-Identifier: GPL-3.0-or-later
"""How soon a script's first line is there, by all contenders in turns, list by list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import HostError
from . import contenders, machine, quick, scripts
from .figures import Spread
from .turns import in_turns

RATIOS = (
    ("pool", contenders.REFERENCE),
    ("demand", contenders.REFERENCE),
    ("bwrap", "pool"),
    ("bwrap", "demand"),
    ("cold", "pool"),
    (contenders.FORKSERVER, "pool"),
)
"""Of medians; of those that were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one list. ``phases_us`` are of what came from a room and on demand."""

    imports: scripts.Imports
    spreads: Mapping[str, Spread]
    missing: Mapping[str, str]
    ways: Mapping[str, Mapping[str, int]]
    phases_us: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, object]
    load: tuple[list[float], list[float]]

    def ratios(self) -> dict[str, float]:
        medians = {name: s.median for name, s in self.spreads.items()}
        return {
            f"{above}/{below}": medians[above] / medians[below]
            for above, below in RATIOS
            if above in medians and below in medians
        }

    def as_data(self) -> dict[str, object]:
        return {
            "modules": list(self.imports.modules),
            "load": list(self.load),
            "contenders": {n: s.as_data() for n, s in self.spreads.items()},
            "left_out": dict(self.missing),
            "ratios": {n: round(r, 3) for n, r in self.ratios().items()},
            "ways": {n: dict(w) for n, w in self.ways.items()},
            "phases_us": {n: dict(p) for n, p in self.phases_us.items()},
            "facts": dict(self.facts),
        }


def measure(
    kit: contenders.Kit,
    imports: scripts.Imports,
    pairs: int,
    progress: Callable[[str], None],
) -> Latency:
    """HostError where nothing at all can be measured."""
    with contenders.contenders(kit, imports) as found:
        if not found.once:
            why = "; ".join(f"{n}: {w}" for n, w in found.missing.items())
            raise HostError(f"nothing can be measured: {why}", code="bench-nothing")
        before = machine.load()

        def begun() -> None:
            for reports in found.reports.values():
                reports.clear()

        spreads = in_turns(
            found.once,
            pairs,
            rest=kit.rest,
            begun=begun,
            progress=lambda done: progress(f"{imports.name} {done}/{pairs}"),
        )
        reports = {n: found.reports[n] for n in spreads if n in found.reports}
        return Latency(
            imports=imports,
            spreads=spreads,
            missing=found.missing,
            ways={n: quick.ways(of) for n, of in reports.items()},
            phases_us={n: quick.phases(of) for n, of in reports.items()},
            facts=found.facts,
            load=(before, machine.load()),
        )
