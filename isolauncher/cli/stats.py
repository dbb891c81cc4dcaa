# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher stats``: what the daemon has measured, as it says it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import client, wire
from . import printable

if TYPE_CHECKING:
    from .main import Parser


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "stats",
        description="Show what the daemon has measured: how many launches it made, "
        "which way (from a room prepared ahead, on demand, in the exec tier), how long "
        "each part of the latest took, what is prepared, and how much memory each "
        "activity has. Root is told of everyone's, anybody else of their own.",
        epilog="exit status: 0; 125 when the daemon refuses or cannot be asked.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one object, as measured")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    stats: dict[str, object] = {}
    used: dict[str, object] = {}
    asked = {"version": wire.VERSION, "verb": "stats", "memory": True}
    for reply in client.ask(asked):
        said, rows = reply.get("stats"), reply.get("memory")
        if isinstance(said, dict):
            stats.update(said)
        for row in rows if isinstance(rows, list) else ():
            used[str(row.pop("id"))] = row
    stats["memory"] = used
    if args.json:
        json.dump(stats, sys.stdout, indent=1)
        print()
        return 0
    rows = list(_flat("", stats))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield printable(prefix), printable("-" if value is None else str(value))
