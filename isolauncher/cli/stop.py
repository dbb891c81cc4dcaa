# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher stop``: SIGTERM, a grace, then the sandbox's init is killed."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from .. import client, wire
from ..errors import COULD_NOT_LAUNCH
from . import tell

if TYPE_CHECKING:
    from .main import Parser

UNKNOWN = 1
_AT_ONCE = 256
_ID = re.compile(r"[0-9a-zA-Z_]{1,64}")


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "stop",
        description="End activities: SIGTERM, then after a grace SIGKILL to all of it.",
        epilog="exit status: 0 when all of them are gone; 1 when an id is unknown; "
        "125 when one is not yours to end or the daemon cannot be asked.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--grace",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="seconds between SIGTERM and SIGKILL (default: 5; at most 600; with 0 "
        "there is no SIGTERM)",
    )
    parser.add_argument("ids", metavar="ID", nargs="+", help="as ps lists them")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    status = 0
    # What is no id at all names nothing that runs, and is not for the daemon to read.
    ids = [one for one in args.ids if _ID.fullmatch(one)]
    for one in args.ids:
        if one not in ids:
            tell(f"stop: {one[:80]!r} is not an id  [unknown-id]")
            status = UNKNOWN
    while ids:
        now, ids = ids[:_AT_ONCE], ids[_AT_ONCE:]
        missing = set(now)
        message = {
            "version": wire.VERSION,
            "verb": "stop",
            "ids": now,
            "grace_ms": round(args.grace * 1000),
        }
        for reply in client.ask(message):
            results = reply.get("results")
            for result in results if isinstance(results, list) else []:
                if isinstance(result, dict):
                    missing.discard(str(result.get("id")))
                    status = max(status, _judge(result))
        for one in sorted(missing):
            tell(f"stop: the daemon did not say what became of {one}")
            status = COULD_NOT_LAUNCH
    return status


def _judge(result: dict[str, object]) -> int:
    """Say what went wrong with one; 125 outweighs 1, which outweighs 0."""
    outcome = result.get("result")
    if outcome == "gone":
        return 0
    why = result.get("message") or outcome
    tell(f"stop: {result.get('id')}: {why}  [{outcome}]")
    return UNKNOWN if outcome == "unknown" else COULD_NOT_LAUNCH


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 600:  # also refuses nan
        raise ValueError
    return seconds


_seconds.__name__ = "number of seconds"  # argparse names it in its complaint
