# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures for a person: small tables in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from . import contenders, lacks
from .figures import FOR_P99, Spread
from .latency import Latency
from .memory import Idle, Memory
from .quick import Result
from .sharing import Sharing
from .throughput import Throughput
from .whole import Whole
from .windows import Windows


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
    told += _missing(result.missing)
    told += _machine(result.machine)
    told.append(f"order drawn from       seed {result.wanted.seed}")
    return told


def _others(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"not measured here      {', '.join(names)}"


def _missing(missing: lacks.Lacks) -> Iterator[str]:
    for name, lack in missing.items():
        said = "failed" if lack.failed else "left out"
        yield f"{said}: {contenders.WORDS.get(name, name)}: {lack.why}"


def _machine(machine: Mapping[str, object]) -> Iterator[str]:
    command = machine["command"]
    assert isinstance(command, list)  # noqa: S101 (for the type checker)
    yield f"run                    {machine['date']}: {' '.join(command)}"
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
        numbers = _numbers(spread)
        if base is not None:
            numbers.append(f"{spread.median / base.median:.2f}")
        rows.append([contenders.WORDS[name], *numbers])
    count = len(one.imports.modules)
    head = [f"first line, {one.imports.name}, {count} imports (ms)", *_HEADS]
    told = _columns([[*head, *(["/reference"] if base is not None else [])], *rows])
    told += _about_p99(one.spreads.values())
    told += _missing(one.missing)
    ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in one.ratios().items())
    told.append(f"ratios of the medians  {ratios or '-'}")
    pool = one.spreads.get("pool")
    if pool is not None and pool.p99 is not None:
        told.append(f"p99/p50 of pool        {pool.p99 / pool.median:.2f}")
    told += _steps(one)
    for name, strays in one.strays.items():
        if strays:
            told.append(f"not counted            {strays} of {name} came another way")
    facts = one.facts.get(contenders.REFERENCE)
    if isinstance(facts, dict):
        told.append(
            f"the reference          {facts['steps']} steps, "
            f"{facts['anonymous_mb']} MB of its own, the zygote {facts['zygote_mb']}; "
            "the verifier finds no difference"
        )
    told.append(f"load before, after     {one.load[0]}, {one.load[1]}")
    return told


def _steps(one: Latency) -> list[str]:
    """What each launch took step by step, as medians and 90th percentiles."""
    found = {name: of for name, of in one.steps().items() if of}
    if not found:
        return []
    names = dict.fromkeys(step for of in found.values() for each in of for step in each)
    head = ["step by step (ms)"]
    for name in found:
        head += [f"{name} p50", "p90"]
    rows = []
    for step in names:
        row = [step]
        for of in found.values():
            spread = Spread(samples=tuple(each.get(step, 0.0) for each in of))
            row += [f"{spread.median:.2f}", f"{spread.at(0.9):.2f}"]
        rows.append(row)
    return ["", *_columns([head, *rows]), ""]


def _spans(phases: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {us / 1000:.1f}" for name, us in phases.items())


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
    told += _missing(found.missing)
    for clients, of in found.ways.items():
        came = "; ".join(f"{n}: {_ways(w)}" for n, w in of.items() if w)
        if came:
            told.append(f"came, {clients} at once        {came}")
    told += _others(found.others)
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
            _or_dash(level.launch.p99),
            str(level.load[0]),
        ]
        for level in found.levels
    ]
    told = _columns([[*head, "launch p50 ms", "p99", "load"], *rows])
    told += _about_p99(level.launch for level in found.levels)
    for level in found.levels:
        title = f"beside {level.alive} (ms)"
        strays = f"  ({level.strays} more came on demand)" if level.strays else ""
        told.append(f"{title:22} {_spans(level.phases_us())}{strays}")
    first, last = found.levels[0], found.levels[-1]
    if last is not first:
        ratio = last.launch.median / first.launch.median
        told.append(f"p50 at {last.alive} / p50 at {first.alive}  {ratio:.2f}")
    told += _idle("python", found.idle)
    told += _missing(found.missing)
    told += _others(found.others)
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


def _idle(name: str, idle: Idle | None) -> Iterator[str]:
    if idle is None:
        yield f"a waiting room of {name}: none waits here"
        return
    for who, of in idle.items():
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
    last = result.launches[-1].report
    skipped, enforced = last["skipped"], last["enforced"]
    told += [
        "",
        f"ratio of the medians   {result.ratio:.2f} "
        f"(on demand {result.bubblewrap.median / result.on_demand.median:.2f})",
        f"ratio pair by pair     {ratios.median:.2f} (median), {ratios.at(0.1):.2f} "
        f"to {ratios.at(0.9):.2f} (p10 to p90), {min(ratios.samples):.2f} to "
        f"{max(ratios.samples):.2f} (all)",
        f"ours in phases (ms)    {phases}",
        f"ours came              {_ways(result.ways())}; not counted: "
        f"{result.strays} more on demand",
        f"order drawn from       seed {result.seed}",
        *_machine(result.machine),
        f"in force               {_words(enforced)}",
        f"skipped                {_words(skipped)}",
    ]
    return told


def windows(
    found: Sequence[Windows],
    machine: Mapping[str, object],
    missing: lacks.Lacks,
) -> tuple[list[str], dict[str, object]]:
    """Also as data; ``machine`` as it was before."""
    told = [*_windows(found), *_missing(missing), *_machine(machine)]
    told += [f"order drawn from       seed {found[0].seed}"]
    return told, {
        "version": 2,
        "benchmark": "windows",
        "unit": "ms",
        "machine": dict(machine),
        "bundles": [one.as_data() for one in found],
        **lacks.as_data(missing),
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


def _numbers(spread: Spread) -> list[str]:
    samples = spread.samples
    first = spread.median, min(samples), max(samples), spread.at(0.9)
    return [*(f"{number:.1f}" for number in first), _or_dash(spread.p99)]


def _or_dash(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _about_p99(spreads: Iterable[Spread]) -> list[str]:
    if all(spread.p99 is not None for spread in spreads):
        return []
    return [f"p99: only of {FOR_P99} launches or more (--pairs)"]


def _table(title: str, rows: Sequence[tuple[str, Spread]]) -> list[str]:
    cells = [[title, *_HEADS]]
    cells += [[name, *_numbers(spread)] for name, spread in rows]
    return [*_columns(cells), *_about_p99(spread for _, spread in rows)]


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
