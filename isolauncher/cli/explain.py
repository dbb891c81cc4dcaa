# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher explain``: which file and line set each value of a policy.

Reads policies as the daemon does and asks no daemon; runs as anyone.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from typing import TYPE_CHECKING

from .. import report
from ..errors import RequestError
from ..policy import restrict, words
from ..policy.load import ETC_DIRECTORY
from ..policy.model import reasons, values
from . import governing, printable, tell

if TYPE_CHECKING:
    from .main import Parser


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "explain",
        description="Show the policy in force for a bundle, or a policy, and for each "
        "value the file and line that set it and what it overrides.",
        epilog="exit status: 0; 125 when there is no such policy, bundle or key.",
        allow_abbrev=False,
    )
    parser.add_argument("what", metavar="BUNDLE|POLICY")
    parser.add_argument(
        "key", metavar="KEY", nargs="?", help="one key or table, as limits.memory"
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="what it comes to, in plain sentences instead of keys and values",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output"
    )
    governing.add_policy_dir(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.policy_dir != ETC_DIRECTORY and not os.path.isdir(args.policy_dir):
        raise RequestError(
            f"there is no directory {args.policy_dir}",
            code="policy-no-directory",
            hint="name one that holds policies",
        )
    store = governing.store(args.policy_dir)
    found = governing.find(store, args.what)
    policy = found.policy
    made = restrict.made_here(store, policy)
    wanted: str | None = args.key
    if args.words and wanted is not None:
        raise RequestError(
            "--words tells of all of a policy, not of one key", code="explain-words-key"
        )
    known = {**values(policy), **reasons(policy)}
    tables = {key.rpartition(".")[0] for key in known} | {"environment", "grants"}
    if wanted is not None and wanted not in known and wanted not in tables:
        close = difflib.get_close_matches(wanted[:64], [*known, *tables], 1)
        near = close[0] if close else ""
        raise RequestError(
            f"no policy has a value {wanted[:64]!a}",
            code="explain-no-key",
            hint=f"did you mean {near}?" if near else "see docs/policy.md",
        )
    if args.json:
        said = {
            "version": 1,
            "policy": policy.name,
            "why": found.why,
            "files": list(policy.files),
            "values": report.explained_data(policy, wanted),
            "stale": list(made.stale) if made else [],
            "words": [told.as_data() for told in words.tell(policy)],
            "asked": [told.as_data() for told in found.answers],
        }
        json.dump(said, sys.stdout, indent=1)
        print()
        return 0
    says = f": {report.safe(policy.description)}" if policy.description else ""
    print(f"{policy.name}{says}")
    if found.why:
        print(f"  {printable(found.why)}")
    if made and made.stale:
        tell(made.outdated())
    lines = (
        (f"  {told.topic:11}{report.safe(told.says)}" for told in words.tell(policy))
        if args.words
        else report.explained(policy, wanted)
    )
    for line in lines:
        print(line)
    if wanted is None:
        for line in report.answered(found.answers):
            print(line)
    return 0
