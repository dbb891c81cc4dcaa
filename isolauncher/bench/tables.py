# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures for a person: small tables in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from . import contenders
from .figures import Spread
from .latency import Latency
from .memory import Memory
from .quick import Result
from .sharing import Sharing
from .throughput import Throughput
from .whole import Whole
from .windows import Windows

_PHASES = ("queue", "plan", "fork", "apply", "verify", "handover", "total")


def whole(result: Whole) -> list[str]:
    told: list[str] = []
    for one in result.latency:
        told += [*_latency(one), ""]
    if result.throughput is not None:
        told += [*_throughput(result.throughput), ""]
    if result.memory is not None:
        told += [*_memory(result.memory), ""]
    if result.sharing is not None:
        told += [*_sharing(result.sharing), ""]
    if result.windows:
        told += [*_windows(result.windows), ""]
    told += [f"left out: {part}: {why}" for part, why in result.left_out.items()]
    told += _machine(result.machine)
    return told


def _machine(machine: Mapping[str, object]) -> Iterator[str]:
    yield (
        f"machine                {machine['cpus']} cpus, {machine['cpu']}"
        f"{', virtual' if machine['virtual'] else ''}, {machine['memory_mb']} MB, "
        f"Linux {machine['kernel']}, Python {machine['python']}"
    )
    yield f"load before            {machine['load']}"


def _latency(one: Latency) -> list[str]:
    base = one.spreads.get(contenders.REFERENCE)
    rows = []
    for name, spread in one.spreads.items():
        numbers = [f"{n:.1f}" for n in _numbers(spread)]
        if base is not None:
            numbers.append(f"{spread.median / base.median:.2f}")
        rows.append([contenders.WORDS[name], *numbers])
    count = len(one.imports.modules)
    head = [f"first line, {one.imports.name}, {count} imports (ms)", *_HEADS]
    told = _columns([[*head, *(["/reference"] if base is not None else [])], *rows])
    for name, why in one.missing.items():
        told.append(f"left out: {contenders.WORDS[name]}: {why}")
    ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in one.ratios().items())
    told.append(f"ratios of the medians  {ratios or '-'}")
    pool = one.spreads.get("pool")
    if pool is not None:
        told.append(f"p99/p50 of pool        {pool.at(0.99) / pool.median:.2f}")
    for name, phases in one.phases_us.items():
        told.append(f"{name + ' in phases (ms)':22} {_spans(phases)}")
    ways = ", ".join(
        f"{name} {', '.join(f'{n} {way}' for way, n in ways.items())}"
        for name, ways in one.ways.items()
    )
    if ways:
        told.append(f"ours came              {ways}")
    facts = one.facts.get(contenders.REFERENCE)
    if isinstance(facts, dict):
        told.append(
            f"the reference          {facts['steps']} steps, "
            f"{facts['anonymous_mb']} MB; the verifier finds no difference"
        )
    told.append(f"load before, after     {one.load[0]}, {one.load[1]}")
    return told


def _spans(phases: Mapping[str, int]) -> str:
    return "  ".join(f"{n} {phases[n] / 1000:.1f}" for n in _PHASES if n in phases)


def _throughput(found: Throughput) -> list[str]:
    names = list(next(iter(found.rates.values())))
    head = ["launches a second", *(f"{clients} at once" for clients in found.rates)]
    rows = [
        [
            contenders.WORDS[name],
            *(f"{found.median(clients, name):.1f}" for clients in found.rates),
        ]
        for name in names
    ]
    told = _columns([head, *rows])
    told += [f"left out: {contenders.WORDS[n]}: {w}" for n, w in found.missing.items()]
    if contenders.REFERENCE in names and "pool" in names:
        shares = (
            f"{found.median(n, 'pool') / found.median(n, contenders.REFERENCE):.2f}"
            for n in found.rates
        )
        told.append(f"pool/reference         {', '.join(shares)}")
    told.append(f"load before, after     {found.load[0]}, {found.load[1]}")
    return told


def _memory(found: Memory) -> list[str]:
    head = ["each of N alive", "PSS kB", "USS kB", "dirty kB", "init USS kB"]
    rows = [
        [
            f"{level.alive}",
            *(str(level.activity_kb[n]) for n in ("Pss", "Uss", "Private_Dirty")),
            str(level.init_kb["Uss"]),
            f"{level.launch.median:.1f}",
            f"{level.launch.at(0.99):.1f}",
            str(level.load[0]),
        ]
        for level in found.levels
    ]
    told = _columns([[*head, "launch p50 ms", "p99", "load"], *rows])
    for level in found.levels:
        title = f"beside {level.alive} (ms)"
        came = f"  {_ways(level.ways)}"
        told.append(f"{title:22} {_spans(level.phases_us)}{came}")
    first, last = found.levels[0], found.levels[-1]
    if last is not first:
        ratio = last.launch.median / first.launch.median
        told.append(f"p50 at {last.alive} / p50 at {first.alive}  {ratio:.2f}")
    told += _idle("python", found.idle)
    told += [f"left out: {what}: {why}" for what, why in found.missing.items()]
    return told


def _sharing(found: Sharing) -> list[str]:
    names = ("Pss", "Uss", "Private_Dirty", "Anonymous")
    head = ["a program that imports all of sugar3", "PSS kB", "USS kB", "dirty kB"]
    rows = [
        [who, *(str(of[n]) for n in names)]
        for who, of in (("forked", found.forked_kb), ("cold", found.cold_kb))
    ]
    told = _columns([[*head, "anonymous kB"], *rows])
    told.append(
        f"private dirty of the cold one's {found.share:.0%}; anonymous memory shared "
        f"with the zygote {found.shared_kb / 1024:.1f} MB"
    )
    return [*told, *_idle("sugar3", found.idle), f"load after  {found.load}"]


def _idle(name: str, idle: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for who, of in idle.items():
        if of:
            yield f"a waiting {who} of {name}: PSS {of['Pss']} kB, USS {of['Uss']} kB"


def quick(result: Result) -> list[str]:
    told = _table(
        "launch (ms)",
        (
            ("isolauncher", result.isolauncher),
            ("isolauncher, on demand", result.on_demand),
            ("bubblewrap, cold start", result.bubblewrap),
        ),
    )
    ratios = result.ratios
    phases = "  ".join(f"{k} {v / 1000:.1f}" for k, v in result.phases().items())
    skipped = result.reports[-1]["skipped"]
    enforced = result.reports[-1]["enforced"]
    told += [
        "",
        f"ratio of the medians   {result.ratio:.2f} "
        f"(on demand {result.bubblewrap.median / result.on_demand.median:.2f})",
        f"ratio pair by pair     {ratios.median:.2f} (median), {ratios.at(0.1):.2f} "
        f"to {ratios.at(0.9):.2f} (p10 to p90), {min(ratios.samples):.2f} to "
        f"{max(ratios.samples):.2f} (all)",
        f"ours in phases (ms)    {phases}",
        f"ours came              {_ways(result.ways())}",
        *_machine(result.machine),
        f"in force               {_words(enforced)}",
        f"skipped                {_words(skipped)}",
    ]
    return told


def windows(
    found: Sequence[Windows], machine: Mapping[str, object]
) -> tuple[list[str], dict[str, object]]:
    """Also as data; ``machine`` as it was before."""
    told = _windows(found)
    told.append(f"machine: {_words([f'{k} {v}' for k, v in machine.items()])}")
    return told, {
        "version": 1,
        "benchmark": "windows",
        "unit": "ms",
        "machine": dict(machine),
        "bundles": [one.as_data() for one in found],
    }


def _windows(found: Sequence[Windows]) -> list[str]:
    rows = []
    for one in found:
        for name, spread in (("cold", one.cold), ("isolated", one.isolated)):
            rows.append((f"{one.bundle_id}, {name}", spread))
    told = _table("window mapped (ms)", rows)
    told.append("")
    for one in found:
        ratios = one.ratios
        told.append(
            f"{one.bundle_id}: ratio of the medians {one.ratio:.2f}, pair by pair "
            f"{ratios.at(0.1):.2f} to {ratios.at(0.9):.2f} (p10 to p90)"
        )
    return told


_HEADS = ("p50", "min", "max", "p90", "p99")


def _numbers(spread: Spread) -> tuple[float, ...]:
    samples = spread.samples
    ends = min(samples), max(samples)
    return spread.median, *ends, spread.at(0.9), spread.at(0.99)


def _table(title: str, rows: Sequence[tuple[str, Spread]]) -> list[str]:
    cells = [[title, *_HEADS]]
    for name, spread in rows:
        cells.append([name, *(f"{number:.1f}" for number in _numbers(spread))])
    return _columns(cells)


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    told = []
    for first, *others in cells:
        right = [
            f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)
        ]
        told.append("  ".join([f"{first:<{widths[0]}}", *right]).rstrip())
    return told


def _ways(ways: Mapping[str, int]) -> str:
    words = {"pool": "from a room prepared ahead", "demand": "from one made on demand"}
    return ", ".join(f"{n} {words.get(way, way)}" for way, n in ways.items())


def _words(values: object) -> str:
    if not isinstance(values, list):
        return "-"
    words = [
        f"{v.get('what')} ({v.get('why')})" if isinstance(v, dict) else str(v)
        for v in values
    ]
    if len(words) > 30:
        return f"{len(words)} things, see --json"
    return ", ".join(words) or "nothing"
