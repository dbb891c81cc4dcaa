# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher ps``: what runs, of the caller's own or, for root, of everyone's.

``--windows`` looks from the other side: at what is open on the display, and whether it
is among what runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import client, wire
from . import printable

if TYPE_CHECKING:
    from .main import Parser

FIELDS = (
    "id",
    "bundle_id",
    "pid",
    "uid",
    "caller_uid",
    "policy",
    "tier",
    "path",
    "state",
    "age_s",
)

_COLUMNS = {
    "ID": "id",
    "PID": "pid",
    "UID": "uid",
    "CALLER": "caller_uid",
    "POLICY": "policy",
    "TIER": "tier",
    "STATE": "state",
    "AGE": "age_s",
    "BUNDLE": "bundle_id",
}
_TO_THE_RIGHT = ("PID", "UID", "CALLER", "AGE")


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "ps",
        description="List what runs: your own, or for root everyone's.",
        epilog="exit status: 0; 125 when the daemon, or the display, cannot be asked.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--json", action="store_true", help="a list of objects instead of a table"
    )
    parser.add_argument(
        "--windows",
        action="store_true",
        help="list the windows on this display instead, and which are confined",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.windows:
        return _windows(as_json=args.json)
    found: list[dict[str, object]] = []
    for reply in client.ask({"version": wire.VERSION, "verb": "ps"}):
        listed = reply.get("activities")
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict):
                found.append({name: one.get(name) for name in FIELDS})
    if args.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        print(
            table([[*_COLUMNS], *([_cell(one, c) for c in _COLUMNS] for one in found)])
        )
    return 0


_OF_WINDOWS = {
    "CONFINED": "confined",
    "PID": "pid",
    "ID": "id",
    "POLICY": "policy",
    "BUNDLE": "bundle_id",
    "TITLE": "title",
}


def _windows(*, as_json: bool) -> int:
    # Not at the top: on no other way does anybody need a display.
    from ..session import openwindows

    words = {"confined": "yes", "unconfined": "no", "unknown": "unknown"}
    found: list[dict[str, object]] = [
        {
            "title": one.window.title,
            "bundle_id": one.bundle_id or None,
            "pid": one.window.pid or None,
            "confined": words[one.verdict],
            "id": one.running.id if one.running else None,
            "policy": one.running.policy if one.running else None,
        }
        for one in openwindows.look(os.environ)
    ]
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return 0
    rows = [
        [
            "-" if one[key] is None else printable(str(one[key]))
            for key in _OF_WINDOWS.values()
        ]
        for one in found
    ]
    print(table([[*_OF_WINDOWS], *rows]))
    return 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows below their heading, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{width}}" if heading in _TO_THE_RIGHT else f"{cell:<{width}}"
            for heading, cell, width in zip(rows[0], row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(one: dict[str, object], column: str) -> str:
    value = one[_COLUMNS[column]]
    if value is None:
        return "-"
    if column == "AGE" and isinstance(value, int | float):
        return _age(int(value))
    return printable(str(value))


def _age(seconds: int) -> str:
    minutes, seconds = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d{hours % 24:02}h"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
