# SPDX-License-Identifier: GPL-3.0-or-later
"""What an activity costs in memory, and a launch in time, with how many alive.

Memory is the kernel's word of each process (smaps_rollup), read while
all of them wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..memory import rollup
from . import alive, contenders, daemons, machine, quick, scripts
from .figures import Spread, medians_of
from .turns import WARM_UP

LEVELS = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Medians in kilobytes, of the programs and of their inits; launches beside.

    ``ways`` and ``phases_us`` are from the reports of those launches.
    """

    alive: int
    activity_kb: Mapping[str, int]
    init_kb: Mapping[str, int]
    launch: Spread
    ways: Mapping[str, int]
    phases_us: Mapping[str, int]
    load: list[float]

    def as_data(self) -> dict[str, object]:
        return {
            "alive": self.alive,
            "activity_kb": dict(self.activity_kb),
            "init_kb": dict(self.init_kb),
            "launch_ms": self.launch.as_data(),
            "ways": dict(self.ways),
            "phases_us": dict(self.phases_us),
            "load": self.load,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """``idle`` is of rooms that wait: of the stem and of init."""

    levels: tuple[Level, ...]
    idle: Mapping[str, Mapping[str, int]]
    missing: Mapping[str, str]

    def as_data(self) -> dict[str, object]:
        return {
            "unit": "kB",
            "levels": [level.as_data() for level in self.levels],
            "idle_kb": {who: dict(of) for who, of in self.idle.items()},
            "left_out": dict(self.missing),
        }


def measure(
    top: Path, most: int, pairs: int, progress: Callable[[str], None]
) -> Memory:
    """Up to ``most`` alive; ``pairs`` launches at each level."""
    daemons.need_root()
    missing: dict[str, str] = {}
    with daemons.environment(), daemons.own(top, "memory") as daemon:
        levels = tuple(_levels(daemon.socket, top, most, pairs, missing, progress))
        idle = waiting(daemon.socket, "python")
    return Memory(levels=levels, idle=idle, missing=missing)


def _levels(
    where: str,
    top: Path,
    most: int,
    pairs: int,
    missing: dict[str, str],
    progress: Callable[[str], None],
) -> Iterable[Level]:
    imports = scripts.LISTS["python"]
    waits = scripts.write(top, imports, waits=True)
    passes = scripts.write(top, imports)
    each_kb = 0
    with alive.crowd(where, waits) as crowd:
        for level in [n for n in LEVELS if n < most] + [most]:
            wanted = (level - len(crowd.pids)) * each_kb * 5 // 4
            if wanted > machine.available_kb():
                missing[f"{level} alive"] = (
                    f"they would take {wanted // 1024} MB, and there are "
                    f"{machine.available_kb() // 1024}"
                )
                return
            progress(f"{level} alive")
            crowd.grow(level)
            launch: list[float] = []
            reports: list[contenders.Report] = []
            for number in range(-WARM_UP, pairs):
                daemons.wait_until_filled(where)
                taken, report = contenders.from_daemon(where, passes)
                if number < 0:
                    continue
                launch.append(taken)
                reports.append(report)
            daemons.wait_until_filled(where)
            activity = medians_of([rollup(pid) for pid in crowd.pids])
            init = medians_of([rollup(pid) for pid in crowd.inits()])
            each_kb = activity["Uss"] + init["Uss"]
            yield Level(
                alive=level,
                activity_kb=activity,
                init_kb=init,
                launch=Spread(samples=tuple(launch)),
                ways=quick.ways(reports),
                phases_us=quick.phases(reports),
                load=machine.load(),
            )


def waiting(where: str, set_name: str) -> dict[str, dict[str, int]]:
    """Of the rooms that wait; none where none is kept."""
    zygote = daemons.zygote(where, set_name)
    pairs = alive.waiting(zygote) if zygote is not None else []
    return {
        "stem": medians_of([rollup(stem) for _, stem in pairs]),
        "init": medians_of([rollup(init) for init, _ in pairs]),
    }
