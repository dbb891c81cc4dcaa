# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher bench``: launches measured; tables, the figures as JSON, pictures."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING

from ..bench import (
    contenders,
    figures,
    machine,
    plot,
    quick,
    scripts,
    tables,
    throughput,
    turns,
    whole,
)
from ..bench import windows as bench_windows
from ..errors import HostError, RequestError
from . import printable, tell

if TYPE_CHECKING:
    from .main import Parser


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        description="Measure launches: how soon the first line of a program is there, "
        "from a room prepared ahead and on demand, against cold starts, other "
        "sandboxes and a C program that makes the same isolation; how many a second; "
        "memory; how soon windows open. All of it, unless told otherwise.",
        epilog="Daemons of its own are started, in directories of their own, which is "
        "for root; what others can measure is measured for them, and of the rest it is "
        "said why not. "
        "exit status: 0 when it has measured, whatever came of it; 1 when something "
        "failed, or what --only or --windows names could not be measured; 125 when "
        "nothing could.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--quick",
        action="store_true",
        help="only the latency of a script that imports twenty modules, ours and "
        "bubblewrap's",
    )
    what.add_argument(
        "--windows",
        nargs="*",
        metavar="BUNDLE_ID",
        help="only how long activities take to open their window, isolated and "
        "started cold by sugar-activity3; for a person, in a session (default: "
        f"{' '.join(bench_windows.BUNDLES)})",
    )
    what.add_argument(
        "--only",
        nargs="+",
        metavar="WHAT",
        type=_what,
        help="only these parts or contenders. Parts: "
        f"{' '.join(whole.PARTS)}. Contenders: {' '.join(contenders.NAMES)}",
    )
    parser.add_argument(
        "--imports",
        nargs="+",
        choices=tuple(scripts.LISTS),
        metavar="LIST",
        default=scripts.USUAL,
        help="which lists the scripts import: "
        f"{', '.join(scripts.LISTS)} (default: {' '.join(scripts.USUAL)})",
    )
    parser.add_argument(
        "--pairs",
        metavar="N",
        type=_pairs,
        help=f"launches of each contender, in turns (default: {whole.PAIRS}, of "
        f"windows {bench_windows.PAIRS}; there is a p99 of {figures.FOR_P99} or more)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_seed,
        help="draw the same order in each round as the run that told this seed",
    )
    parser.add_argument(
        "--alive",
        metavar="N",
        type=_alive,
        default=whole.ALIVE,
        help=f"most activities at a time for memory (default: {whole.ALIVE})",
    )
    parser.add_argument(
        "--clients",
        metavar="N",
        type=_clients,
        default=throughput.CLIENTS,
        help=f"most clients at once for throughput (default: {throughput.CLIENTS})",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write every sample too; -: to standard output"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=_picture,
        help="draw the figures; a name in "
        + ", ".join(f".{kind}" for kind in plot.KINDS),
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    # What has been started is ended in order.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Not under nohup.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(128 + number))
    wanted = _wanted(args)
    # Said before the minutes of measuring, not after them.
    if args.plot is not None:
        if args.quick or args.windows is not None:
            raise RequestError(
                "--plot draws what is measured without --quick and --windows",
                code="bench-no-picture",
            )
        if not set(whole.DRAWN) & set(wanted.parts):
            raise RequestError(
                f"--plot draws {' and '.join(whole.DRAWN)}, and --only leaves them out",
                code="bench-no-picture",
            )
        _refuse_unwritable(args.plot, "the pictures")
        plot.need()
    place = args.json
    if place and place != "-":
        _refuse_unwritable(place, "the figures")
    failed = False
    if args.quick:
        pairs = args.pairs or quick.PAIRS
        _progress(f"measuring {pairs} pairs of launches")
        result = quick.quick(pairs, wanted.seed)
        lines, data = tables.quick(result), result.as_data()
    elif args.windows is not None:
        before = machine.describe()
        found, missing = bench_windows.measure(
            args.windows or bench_windows.BUNDLES,
            args.pairs or bench_windows.PAIRS,
            wanted.seed,
            _progress,
        )
        failed = any(lack.failed or args.windows for lack in missing.values())
        lines, data = tables.windows(found, before, missing)
    else:
        measured = whole.measure(wanted, _progress)
        failed = measured.has_failed()
        lines, data = tables.whole(measured), measured.as_data()
    table = "\n".join(printable(line) for line in lines)
    if place == "-":
        print(table, file=sys.stderr)
        json.dump(data, sys.stdout, indent=1)
        print()
    else:
        print(table)
    try:
        if place and place != "-":
            with open(place, "w", encoding="ascii") as file:
                json.dump(data, file, indent=1)
                file.write("\n")
        if args.plot is not None:
            plot.draw(data, args.plot)
    except OSError as error:
        raise HostError(
            f"{error.filename}: {error.strerror}", code="bench-not-writable"
        ) from None
    return int(failed)


def _progress(done: str) -> None:
    if sys.stderr.isatty():
        tell(done)


def _wanted(args: argparse.Namespace) -> whole.Wanted:
    only = args.only or ()
    parts = tuple(p for p in whole.PARTS if p in only) or whole.PARTS
    who = tuple(c for c in contenders.NAMES if c in only) or contenders.NAMES
    return whole.Wanted(
        seed=turns.new_seed() if args.seed is None else args.seed,
        named=frozenset(only),
        parts=parts,
        contenders=who,
        imports=tuple(args.imports),
        pairs=args.pairs or whole.PAIRS,
        alive=args.alive,
        clients=args.clients,
    )


def _refuse_unwritable(place: str, what: str) -> None:
    try:
        with open(place, "ab"):
            pass
    except OSError as error:
        raise RequestError(
            f"{what} cannot be written to {place}: {error.strerror}",
            code="bench-not-writable",
        ) from None


def _number(text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError
    return number


def _pairs(text: str) -> int:
    return _number(text, 2, 10_000)


def _alive(text: str) -> int:
    return _number(text, 1, 3000)


def _clients(text: str) -> int:
    return _number(text, 1, 32)


def _seed(text: str) -> int:
    return _number(text, 0, 2**32)


def _what(text: str) -> str:
    if text not in (*whole.PARTS, *contenders.NAMES):
        raise ValueError
    return text


def _picture(text: str) -> str:
    if not text.endswith(tuple(f".{kind}" for kind in plot.KINDS)):
        raise ValueError
    return text


# argparse names them in its complaint
_pairs.__name__ = "number of pairs, 2 or more,"
_alive.__name__ = "number of activities, 1 to 3000,"
_seed.__name__ = "seed, a number of 0 or more,"
_clients.__name__ = "number of clients, 1 to 32,"
_what.__name__ = "part or contender"
_picture.__name__ = "name of a picture"
