# SPDX-License-Identifier: GPL-3.0-or-later
"""How soon a script's first line is there, by all contenders in turns, list by list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import contenders, lacks, machine, quick, scripts
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
    """Of one list. ``launches`` are those by the daemon, which tell what they did.

    ``strays`` came another way than their contender's, and are in nobody's figures.
    """

    imports: scripts.Imports
    seed: int
    spreads: Mapping[str, Spread]
    missing: lacks.Lacks
    launches: Mapping[str, Sequence[contenders.Launch]]
    strays: Mapping[str, int]
    facts: Mapping[str, object]
    load: tuple[list[float], list[float]]

    def phases_us(self) -> dict[str, dict[str, int]]:
        """Medians of the reports' ``timings_us``, of each that has them."""
        return {n: quick.phases(of) for n, of in self.launches.items()}

    def steps(self) -> dict[str, list[dict[str, float]]]:
        """What each launch took step by step, in milliseconds, of each contender."""
        return {n: [steps_of(one) for one in of] for n, of in self.launches.items()}

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
            "seed": self.seed,
            "load": list(self.load),
            "contenders": {n: s.as_data() for n, s in self.spreads.items()},
            **lacks.as_data(self.missing),
            "ratios": {n: round(r, 3) for n, r in self.ratios().items()},
            "ways": {n: quick.ways(of) for n, of in self.launches.items()},
            "strays": dict(self.strays),
            "phases_us": self.phases_us(),
            "steps_ms": {
                name: [{k: round(ms, 3) for k, ms in one.items()} for one in of]
                for name, of in self.steps().items()
            },
            "facts": dict(self.facts),
        }


def steps_of(launch: contenders.Launch) -> dict[str, float]:
    """Milliseconds from the request to the byte, in the order of what happened.

    First the report's own spans; ``go``: what of its total is left, until the program's
    process has heard that it may run; ``outside``: the request's way to the daemon, and
    from there to the script's first line; ``script``: its imports, until it writes its
    byte. They add up to the launch's time.
    """
    timings = launch.report["timings_us"]
    assert isinstance(timings, dict)  # noqa: S101 (for the type checker)
    spans = {name: us / 1000 for name, us in timings.items() if name != "total"}
    total = timings["total"] / 1000
    return {
        **spans,
        "go": total - sum(spans.values()),
        "outside": launch.first_line - total,
        "script": launch.taken - launch.first_line,
    }


def measure(
    kit: contenders.Kit,
    imports: scripts.Imports,
    pairs: int,
    seed: int,
    progress: Callable[[str], None],
) -> Latency:
    """HostError where nothing at all can be measured."""
    with contenders.contenders(kit, imports) as found:
        before = machine.load()
        spreads = in_turns(
            found.once,
            pairs,
            seed=seed,
            rest=kit.rest,
            begun=found.begin,
            progress=lambda done: progress(f"{imports.name} {done}/{pairs}"),
            failed=found.missing,
        )
        if not spreads:
            raise lacks.nothing(found.missing)
        return Latency(
            imports=imports,
            seed=seed,
            spreads=spreads,
            missing=found.missing,
            launches={n: of for n, of in found.launches.items() if n in spreads},
            strays={n: count for n, count in found.strays.items() if n in spreads},
            facts=found.facts,
            load=(before, machine.load()),
        )
