# SPDX-License-Identifier: GPL-3.0-or-later
"""All parts in one run, one after the other; what cannot be measured here says why."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import (
    contenders,
    daemons,
    lacks,
    latency,
    machine,
    memory,
    scripts,
    sharing,
    throughput,
    windows,
)

PARTS = ("latency", "throughput", "memory", "sharing", "windows")
PAIRS = 100
ALIVE = 1000
LEVEL_PAIRS = 100
WINDOW_PAIRS = 30
DRAWN = ("latency", "memory")
"""Of which parts there is a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``alive`` and ``clients`` are the most that there are at a time.

    ``named`` are the parts and contenders that were asked for by their names.
    """

    seed: int
    named: frozenset[str] = frozenset()
    parts: tuple[str, ...] = PARTS
    contenders: tuple[str, ...] = contenders.NAMES
    imports: tuple[str, ...] = scripts.USUAL
    pairs: int = PAIRS
    alive: int = ALIVE
    clients: int = throughput.CLIENTS


@dataclass(slots=True, kw_only=True)
class Whole:
    """What came of it; ``missing`` says of whole parts, why."""

    machine: dict[str, object]
    wanted: Wanted
    latency: list[latency.Latency] = field(default_factory=list)
    throughput: throughput.Throughput | None = None
    memory: memory.Memory | None = None
    sharing: sharing.Sharing | None = None
    windows: tuple[windows.Windows, ...] = ()
    missing: dict[str, lacks.Lack] = field(default_factory=dict)

    def has_failed(self) -> bool:
        """Whether something went wrong, or what was named could not be measured."""
        named = self.wanted.named
        return any(
            lack.failed or name in named or part in named
            for part, name, lack in self._lacking()
        )

    def _lacking(self) -> Iterator[tuple[str, str, lacks.Lack]]:
        """(whole part or "", contender or what else, why)."""
        for part, lack in self.missing.items():
            yield part.partition(" ")[0], "", lack
        of_parts = [one.missing for one in self.latency]
        of_parts += [self.throughput.missing] if self.throughput else []
        of_parts += [self.memory.missing] if self.memory else []
        for missing in of_parts:
            for name, lack in missing.items():
                yield "", name, lack

    def as_data(self) -> dict[str, object]:
        through, mem, share = self.throughput, self.memory, self.sharing
        return {
            "version": 2,
            "benchmark": "whole",
            "unit": "ms",
            "pairs": self.wanted.pairs,
            "seed": self.wanted.seed,
            "machine": self.machine,
            "commands": {
                name: [*command, "SCRIPT"]
                for name, command in contenders.COMMANDS.items()
            },
            "latency": {one.imports.name: one.as_data() for one in self.latency},
            "throughput": None if through is None else through.as_data(),
            "memory": None if mem is None else mem.as_data(),
            "sharing": None if share is None else share.as_data(),
            "windows": [one.as_data() for one in self.windows],
            **lacks.as_data(self.missing),
        }


def measure(wanted: Wanted, progress: Callable[[str], None]) -> Whole:
    """HostError when there is not one part that could be measured."""
    whole = Whole(machine=machine.describe() | {"versions": _versions()}, wanted=wanted)
    missing = whole.missing
    with tempfile.TemporaryDirectory(prefix="isolauncher-bench-") as name:
        top = Path(name)
        top.chmod(0o755)
        if {"latency", "throughput"} & set(wanted.parts):
            with lacks.noted(missing, "latency and throughput"):
                _launches(whole, top, progress)
        if "memory" in wanted.parts:
            with lacks.noted(missing, "memory"):
                pairs = min(wanted.pairs, LEVEL_PAIRS)
                whole.memory = memory.measure(
                    top, wanted.alive, pairs, progress, of=wanted.contenders
                )
        if "sharing" in wanted.parts:
            with lacks.noted(missing, "sharing"):
                whole.sharing = sharing.measure(top, wanted.pairs, progress)
    if "windows" in wanted.parts:
        with lacks.noted(missing, "windows"):
            pairs = min(wanted.pairs, WINDOW_PAIRS)
            whole.windows, without = windows.measure(
                windows.BUNDLES, pairs, wanted.seed, progress
            )
            missing |= {f"windows {name}": lack for name, lack in without.items()}
    parts = whole.latency, whole.throughput, whole.memory, whole.sharing, whole.windows
    if not any(parts):
        raise lacks.nothing(missing)
    return whole


def _launches(whole: Whole, top: Path, progress: Callable[[str], None]) -> None:
    """What is measured with the same daemons and the same reference."""
    wanted = whole.wanted
    with contenders.kit(top, frozenset(wanted.contenders)) as kit:
        if "latency" in wanted.parts:
            for of in wanted.imports:
                with lacks.noted(whole.missing, f"latency {of}"):
                    found = latency.measure(
                        kit, scripts.LISTS[of], wanted.pairs, wanted.seed, progress
                    )
                    whole.latency.append(found)
        if "throughput" in wanted.parts:
            with lacks.noted(whole.missing, "throughput"):
                launches = max(wanted.pairs, 2 * wanted.clients)
                whole.throughput = throughput.measure(
                    kit, wanted.clients, launches, wanted.seed, progress
                )


def _versions() -> dict[str, str]:
    """Of the others' commands that are installed."""
    names = {command[0] for command in contenders.COMMANDS.values()}
    names -= {daemons.PYTHON}
    return {n: machine.version_of(n) for n in sorted(names) if shutil.which(n)}
