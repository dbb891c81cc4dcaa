# SPDX-License-Identifier: GPL-3.0-or-later
"""What an activity costs in memory, and a launch in time, with how many alive.

Memory is the kernel's word of each process (smaps_rollup), read while
all of them wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DaemonError
from ..memory import available_kb, rollup
from . import alive, contenders, daemons, lacks, machine, quick, scripts
from .figures import Spread, medians_of
from .turns import WARM_UP

LEVELS = (1, 10, 100, 1000)

Idle = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Medians in kilobytes, of the programs and of their inits; launches beside.

    ``launches`` are those that came from a room, and ``strays`` how many more did not.
    """

    alive: int
    activity_kb: Mapping[str, int]
    init_kb: Mapping[str, int]
    launches: Sequence[contenders.Launch]
    strays: int
    load: list[float]

    @property
    def launch(self) -> Spread:
        return Spread(samples=tuple(one.taken for one in self.launches))

    def phases_us(self) -> dict[str, int]:
        return quick.phases(self.launches)

    def as_data(self) -> dict[str, object]:
        return {
            "alive": self.alive,
            "activity_kb": dict(self.activity_kb),
            "init_kb": dict(self.init_kb),
            "launch_ms": self.launch.as_data(),
            "strays": self.strays,
            "phases_us": self.phases_us(),
            "load": self.load,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """``idle``: of rooms that wait beside them, stem and init; None where none does."""

    levels: Sequence[Level]
    idle: Idle | None
    missing: lacks.Lacks
    others: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        return {
            "unit": "kB",
            "levels": [level.as_data() for level in self.levels],
            "idle_kb": idle_data(self.idle),
            "not_measured": list(self.others),
            **lacks.as_data(self.missing),
        }


def idle_data(idle: Idle | None) -> dict[str, object] | None:
    return None if idle is None else {who: dict(of) for who, of in idle.items()}


def measure(
    top: Path,
    most: int,
    pairs: int,
    progress: Callable[[str], None],
    *,
    of: Sequence[str] = (),
) -> Memory:
    """Up to ``most`` alive; ``pairs`` launches at each level.

    All are isolauncher's, from rooms, whoever else is compared in this run: ``of``.
    What was measured before something fails is kept.
    """
    daemons.need_root()
    missing: dict[str, lacks.Lack] = {}
    levels: list[Level] = []
    idle: dict[str, Mapping[str, int]] = {}
    with lacks.noted(missing, "the end of it"), daemons.environment():
        with daemons.own(top, "memory") as daemon:
            with lacks.noted(missing, "the end of those alive"):
                _levels(
                    daemon.socket, top, most, pairs, levels, idle, missing, progress
                )
    if not levels:
        raise lacks.nothing(missing)
    others = tuple(name for name in of if name != "pool")
    return Memory(levels=levels, idle=idle or None, missing=missing, others=others)


def _levels(
    where: str,
    top: Path,
    most: int,
    pairs: int,
    levels: list[Level],
    idle: dict[str, Mapping[str, int]],
    missing: dict[str, lacks.Lack],
    progress: Callable[[str], None],
) -> None:
    imports = scripts.LISTS["python"]
    waits = scripts.write(top, imports, waits=True)
    passes = scripts.write(top, imports)
    each_kb = 0
    with alive.crowd(where, waits) as crowd:
        for level in [n for n in LEVELS if n < most] + [most]:
            wanted, left = (level - len(crowd.pids)) * each_kb * 5 // 4, available_kb()
            if left is not None and wanted > left:
                why = f"they would take {wanted >> 10} MB, and there are {left >> 10}"
                missing[f"{level} alive"] = lacks.Lack(why=why, failed=False)
                return
            progress(f"{level} alive")
            with lacks.noted(missing, f"{level} alive"):
                crowd.grow(level)
                launches, strays = _beside(where, passes, pairs)
                daemons.wait_until_filled(where)
                activity = medians_of([rollup(pid) for pid in crowd.pids])
                init = medians_of([rollup(pid) for pid in crowd.inits()])
                each_kb = activity["Uss"] + init["Uss"]
                levels.append(
                    Level(
                        alive=level,
                        activity_kb=activity,
                        init_kb=init,
                        launches=launches,
                        strays=strays,
                        load=machine.load(),
                    )
                )
                # Where a thousand have just ended, none would wait at once.
                idle |= waiting(where, "python") or {}
            if f"{level} alive" in missing:
                return


def _beside(
    where: str, script: Path, pairs: int
) -> tuple[list[contenders.Launch], int]:
    """So many launches from a room, warm; and how many came another way meanwhile."""
    launches: list[contenders.Launch] = []
    strays = 0
    for number in range(-WARM_UP, contenders.TRIES * pairs):
        daemons.wait_until_filled(where)
        launch = contenders.from_daemon(where, script)
        if number < 0:
            continue
        if launch.way == "pool":
            launches.append(launch)
        else:
            strays += 1
        if len(launches) == pairs:
            return launches, strays
    raise DaemonError(
        f"only {len(launches)} launches of {strays + len(launches)} came from a room",
        code="bench-other-way",
    )


def waiting(where: str, set_name: str) -> Idle | None:
    """Of the rooms that wait; None where none does."""
    zygote = daemons.zygote(where, set_name)
    pairs = alive.waiting(zygote) if zygote is not None else []
    if not pairs:
        return None
    return {
        "stem": medians_of([rollup(stem) for _, stem in pairs]),
        "init": medians_of([rollup(init) for init, _ in pairs]),
    }
