# SPDX-License-Identifier: GPL-3.0-or-later
"""The short benchmark: a launch from a room and on demand, and under bubblewrap.

There are three contenders: a daemon as it is set up without being told anything, which
prepares rooms ahead; one that makes every sandbox on demand; and bubblewrap. Each runs
one script that imports twenty modules and then writes a byte to a pipe. They take
turns, and nobody is timed before both daemons are at rest: what one prepares for its
next launch would slow the others down, and is in no launch's time.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError
from . import contenders, daemons, lacks, machine, scripts
from .figures import Spread, ratio_of_pairs
from .turns import in_turns

PAIRS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `quick` measured, on what, and what was in force meanwhile.

    ``launches`` are ``isolauncher``'s. ``strays`` came on demand where a room should
    have waited, and are in no figure.
    """

    machine: Mapping[str, object]
    seed: int
    isolauncher: Spread
    on_demand: Spread
    bubblewrap: Spread
    launches: Sequence[contenders.Launch]
    strays: int

    @property
    def ratio(self) -> float:
        return self.bubblewrap.median / self.isolauncher.median

    @property
    def ratios(self) -> Spread:
        """Pair by pair: bubblewrap's time over ours."""
        return ratio_of_pairs(self.bubblewrap, self.isolauncher)

    def ways(self) -> Mapping[str, int]:
        """How many of ``isolauncher``'s launches came which way."""
        return ways(self.launches)

    def phases(self) -> dict[str, int]:
        """The median of each of the report's ``timings_us``."""
        return phases(self.launches)

    def as_data(self) -> dict[str, object]:
        last = self.launches[-1].report
        ratios = self.ratios
        return {
            "version": 2,
            "benchmark": "quick",
            "pairs": len(self.isolauncher.samples),
            "seed": self.seed,
            "modules": list(scripts.MODULES),
            "machine": dict(self.machine),
            "commands": {
                "isolauncher": ["isolauncher", "run", "--", "SCRIPT"],
                "bubblewrap": [*contenders.BWRAP, "SCRIPT"],
            },
            "in_force": {
                name: last[name]
                for name in ("activity", "policy", "enforced", "skipped")
            },
            "unit": "ms",
            "isolauncher": self.isolauncher.as_data(),
            "ways": self.ways(),
            "strays": self.strays,
            "on_demand": self.on_demand.as_data(),
            "bubblewrap": self.bubblewrap.as_data(),
            "ratio": {
                "of_medians": round(self.ratio, 3),
                "of_medians_on_demand": round(
                    self.bubblewrap.median / self.on_demand.median, 3
                ),
                "of_pairs": {
                    "median": round(ratios.median, 3),
                    "min": round(min(ratios.samples), 3),
                    "p10": round(ratios.at(0.1), 3),
                    "p90": round(ratios.at(0.9), 3),
                    "max": round(max(ratios.samples), 3),
                },
            },
            "phases_us": self.phases(),
        }


def ways(launches: Sequence[contenders.Launch]) -> dict[str, int]:
    """How many came which way, by their reports."""
    return dict(Counter(launch.way for launch in launches))


def phases(launches: Sequence[contenders.Launch]) -> dict[str, int]:
    """The median of each of the reports' ``timings_us``."""
    timings = [launch.report["timings_us"] for launch in launches]
    first = timings[0] if timings else {}
    return {
        name: round(statistics.median(t[name] for t in timings))  # type: ignore[index]
        for name in (first if isinstance(first, dict) else ())
    }


def quick(
    pairs: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> Result:
    """Measure ``pairs`` launches of each contender, in turns; for root."""
    daemons.need_root()
    bwrap = _bwrap()
    described = machine.describe() | {"bubblewrap": machine.version_of(bwrap)}
    wanted = frozenset(("pool", "demand", "bwrap"))
    with tempfile.TemporaryDirectory(prefix="isolauncher-bench-") as name:
        top = Path(name)
        top.chmod(0o755)
        with (
            lacks.named("the benchmark"),
            contenders.kit(top, wanted) as kit,
            contenders.contenders(kit, scripts.LISTS["python"]) as found,
        ):
            for missing, lack in found.missing.items():
                raise HostError(f"{missing}: {lack.why}", code="bench-failed")
            samples = in_turns(
                found.once,
                pairs,
                seed=seed,
                rest=kit.rest,
                begun=found.begin,
                progress=progress,
            )
    return Result(
        machine=described,
        seed=seed,
        launches=tuple(found.launches["pool"]),
        strays=found.strays["pool"],
        isolauncher=samples["pool"],
        on_demand=samples["demand"],
        bubblewrap=samples["bwrap"],
    )


def _bwrap() -> str:
    """The path of bwrap, or what to install."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise HostError(
            "bwrap, which launches are compared with, is not installed",
            code="bench-no-bubblewrap",
            hint="apt install bubblewrap",
        )
    return bwrap
