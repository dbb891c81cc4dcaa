# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program that imports all of `sugar3` has for itself, forked and cold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError
from ..memory import rollup
from . import alive, daemons, machine, memory, scripts
from .figures import medians_of

PROGRAMS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """A program that imports the whole set `sugar3`, forked and cold; kilobytes.

    ``idle`` is of rooms that wait, None where none does. ``shared_kb`` is the anonymous
    memory of the forked one that is also others': its zygote's, as far as neither has
    written to it.
    """

    forked_kb: Mapping[str, int]
    cold_kb: Mapping[str, int]
    shared_kb: int
    idle: memory.Idle | None
    load: list[float]

    @property
    def share(self) -> float:
        return self.forked_kb["Private_Dirty"] / self.cold_kb["Private_Dirty"]

    def as_data(self) -> dict[str, object]:
        return {
            "forked_kb": dict(self.forked_kb),
            "cold_kb": dict(self.cold_kb),
            "private_dirty_share": round(self.share, 4),
            "idle_kb": memory.idle_data(self.idle),
            "load": self.load,
            "shared_anonymous_mb": round(self.shared_kb / 1024, 2),
        }


def measure(top: Path, pairs: int, progress: Callable[[str], None]) -> Sharing:
    """Of `PROGRAMS` that wait, or of ``pairs``."""
    daemons.need_root()
    programs = min(pairs, PROGRAMS)
    script = scripts.write(top, scripts.SUGAR3, waits=True)
    progress("sugar3, forked")
    with daemons.environment(), daemons.own(top, "sharing") as daemon:
        where = daemon.socket
        with alive.crowd(where, script, scripts.SUGAR3.policy) as crowd:
            crowd.grow(programs)
            daemons.wait_until_filled(where)
            if daemons.zygote(where, "sugar3") is None:
                raise HostError(
                    "the set sugar3 is not installed here", code="bench-no-sugar3"
                )
            forked = medians_of([rollup(pid) for pid in crowd.pids])
            idle = memory.waiting(where, "sugar3")
    progress("sugar3, cold")
    with alive.cold(script, programs) as pids:
        cold = medians_of([rollup(pid) for pid in pids])
    return Sharing(
        forked_kb=forked,
        cold_kb=cold,
        shared_kb=forked["Anonymous"] - forked["Private_Dirty"],
        idle=idle,
        load=machine.load(),
    )
