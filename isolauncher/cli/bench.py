# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher bench``: a small table of launch times, and the figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import bench, bench_windows
from ..errors import HostError, RequestError
from . import printable, tell

if TYPE_CHECKING:
    from .main import Parser


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        description="Measure launches from the zygote, under the whole default "
        "policy, from a room prepared ahead and on demand, against cold starts under "
        "bubblewrap, for root; or how soon activities open their window, in a session.",
        epilog="With --quick it starts a daemon of its own, in directories of its own. "
        "exit status: 0 when it has measured, whatever came of it; 125 when it cannot.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--quick",
        action="store_true",
        help="latency of a script that imports twenty modules",
    )
    what.add_argument(
        "--windows",
        nargs="*",
        metavar="BUNDLE_ID",
        help="how long activities take to open their window, isolated and started "
        "cold by sugar-activity3; for a person, in a session (default: "
        f"{' '.join(bench_windows.BUNDLES)})",
    )
    parser.add_argument(
        "--pairs",
        metavar="N",
        type=_pairs,
        help=f"launches of each contender, in turns (default: {bench.PAIRS}, of "
        f"windows {bench_windows.PAIRS})",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write every sample too; -: to standard output"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    place = args.json
    if place and place != "-":
        # Said before the minute of measuring, not after it.
        try:
            with open(place, "a", encoding="ascii"):
                pass
        except OSError as error:
            raise RequestError(
                f"the figures cannot be written to {place}: {error.strerror}",
                code="bench-not-writable",
            ) from None
    if args.quick:
        pairs = args.pairs or bench.PAIRS
        if sys.stderr.isatty():
            tell(f"measuring {pairs} pairs of launches")
        result = bench.quick(pairs)
        table, data = "\n".join(lines(result)), result.as_data()
    else:
        table, data = _windows(args)
    if place == "-":
        print(table, file=sys.stderr)
        json.dump(data, sys.stdout, indent=1)
        print()
        return 0
    print(table)
    if place:
        try:
            with open(place, "w", encoding="ascii") as file:
                json.dump(data, file, indent=1)
                file.write("\n")
        except OSError as error:
            raise HostError(
                f"{place}: {error.strerror}", code="bench-not-writable"
            ) from None
    return 0


def _windows(args: argparse.Namespace) -> tuple[str, dict[str, object]]:
    def progress(done: str) -> None:
        if sys.stderr.isatty():
            tell(done)

    before = bench_windows.machine()
    found = bench_windows.measure(
        args.windows or bench_windows.BUNDLES,
        args.pairs or bench_windows.PAIRS,
        progress,
    )
    return windows(found, before)


def windows(
    found: Sequence[bench_windows.Windows], machine: Mapping[str, object]
) -> tuple[str, dict[str, object]]:
    """The figures for a person, and as data; ``machine`` as it was before."""
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
    told.append(f"machine: {_words([f'{k} {v}' for k, v in machine.items()])}")
    data: dict[str, object] = {
        "version": 1,
        "benchmark": "windows",
        "unit": "ms",
        "machine": dict(machine),
        "bundles": [one.as_data() for one in found],
    }
    return "\n".join(printable(line) for line in told), data


def _table(title: str, rows: Sequence[tuple[str, bench.Spread]]) -> list[str]:
    cells = [[title, "median", "min", "max", "p90"]]
    for name, spread in rows:
        numbers = (
            spread.median,
            min(spread.samples),
            max(spread.samples),
            spread.at(0.9),
        )
        cells.append([name, *(f"{number:.1f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    told = []
    for first, *others in cells:
        right = [
            f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)
        ]
        told.append("  ".join([f"{first:<{widths[0]}}", *right]))
    return told


def lines(result: bench.Result) -> list[str]:
    """The figures for a person."""
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
    machine = result.machine
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
        f"machine                {machine['cpus']} cpus, {machine['cpu']}"
        f"{', virtual' if machine['virtual'] else ''}, Linux {machine['kernel']}, "
        f"Python {machine['python']}",
        f"load before            {machine['load']}",
        f"in force               {_words(enforced)}",
        f"skipped                {_words(skipped)}",
    ]
    return [printable(line) for line in told]


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


def _pairs(text: str) -> int:
    number = int(text)
    if not 2 <= number <= 10_000:
        raise ValueError
    return number


_pairs.__name__ = "number of pairs, 2 or more,"  # argparse names it in its complaint
