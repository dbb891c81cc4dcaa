# SPDX-License-Identifier: GPL-3.0-or-later
"""All parts in one run, one after the other; what cannot be measured here says why."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import HostError, IsolauncherError
from . import (
    contenders,
    latency,
    machine,
    memory,
    scripts,
    sharing,
    throughput,
    windows,
)

PARTS = ("latency", "throughput", "memory", "sharing", "windows")
PAIRS = 50
ALIVE = 1000
LEVEL_PAIRS = 20
WINDOW_PAIRS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``alive`` and ``clients`` are the most that there are at a time."""

    parts: tuple[str, ...] = PARTS
    contenders: tuple[str, ...] = contenders.NAMES
    imports: tuple[str, ...] = scripts.USUAL
    pairs: int = PAIRS
    alive: int = ALIVE
    clients: int = throughput.CLIENTS


@dataclass(slots=True, kw_only=True)
class Whole:
    """What came of it; ``left_out`` says of whole parts, why."""

    machine: dict[str, object]
    wanted: Wanted
    latency: list[latency.Latency] = field(default_factory=list)
    throughput: throughput.Throughput | None = None
    memory: memory.Memory | None = None
    sharing: sharing.Sharing | None = None
    windows: tuple[windows.Windows, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def as_data(self) -> dict[str, object]:
        through, mem, share = self.throughput, self.memory, self.sharing
        return {
            "version": 1,
            "benchmark": "whole",
            "unit": "ms",
            "pairs": self.wanted.pairs,
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
            "left_out": self.left_out,
        }


def measure(wanted: Wanted, progress: Callable[[str], None]) -> Whole:
    """HostError when there is not one part that could be measured."""
    whole = Whole(machine=machine.describe() | {"versions": _versions()}, wanted=wanted)
    with tempfile.TemporaryDirectory(prefix="isolauncher-bench-") as name:
        top = Path(name)
        top.chmod(0o755)
        with contenders.kit(top, frozenset(wanted.contenders)) as kit:
            if "latency" in wanted.parts:
                for of in wanted.imports:
                    with _left_out(whole, f"latency {of}"):
                        found = latency.measure(
                            kit, scripts.LISTS[of], wanted.pairs, progress
                        )
                        whole.latency.append(found)
            if "throughput" in wanted.parts:
                with _left_out(whole, "throughput"):
                    launches = max(wanted.pairs, 2 * wanted.clients)
                    whole.throughput = throughput.measure(
                        kit, wanted.clients, launches, progress
                    )
        if "memory" in wanted.parts:
            with _left_out(whole, "memory"):
                pairs = min(wanted.pairs, LEVEL_PAIRS)
                whole.memory = memory.measure(top, wanted.alive, pairs, progress)
        if "sharing" in wanted.parts:
            with _left_out(whole, "sharing"):
                whole.sharing = sharing.measure(top, wanted.pairs, progress)
    if "windows" in wanted.parts:
        with _left_out(whole, "windows"):
            pairs = min(wanted.pairs, WINDOW_PAIRS)
            whole.windows = windows.measure(windows.BUNDLES, pairs, progress)
    parts = whole.latency, whole.throughput, whole.memory, whole.sharing, whole.windows
    if not any(parts):
        why = "; ".join(f"{part}: {line}" for part, line in whole.left_out.items())
        raise HostError(f"nothing can be measured: {why}", code="bench-nothing")
    return whole


@contextmanager
def _left_out(whole: Whole, part: str) -> Iterator[None]:
    """What fails in it is a part that is left out, with the line that says why."""
    try:
        yield
    except IsolauncherError as error:
        whole.left_out[part] = contenders.why(error)


def _versions() -> dict[str, str]:
    """Of the others' commands that are installed."""
    names = {command[0] for command in contenders.COMMANDS.values()}
    names -= {contenders.PYTHON}
    return {n: machine.version_of(n) for n in sorted(names) if shutil.which(n)}
