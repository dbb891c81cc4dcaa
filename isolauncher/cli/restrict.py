# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher restrict``: takes powers from one activity, or gives them back.

What the switches of Sugar's control panel call, by pkexec. As root it is told by a
person who may have no right to anything but to this: a bundle's id and the names of
powers are all that is taken from them. No variable of theirs is read, no file of theirs
is opened, and no more can be had by it than by taking isolauncher's own policy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..bundle import valid_bundle_id
from ..errors import NotAllowed, RequestError
from ..policy import restrict
from ..policy.load import ETC_DIRECTORY, PolicyStore
from ..policy.restrict import Power, Standing
from . import governing, printable, tell

if TYPE_CHECKING:
    from .main import Parser

_BY_PKEXEC = "PKEXEC_UID"


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    names = ", ".join(restrict.POWERS)
    parser = subparsers.add_parser(
        "restrict",
        description="Take powers from an activity that is installed for everybody, all "
        "that are named and no others, by a policy file of isolauncher's own; or, "
        "without any, show which it has. Nothing can be given that way, and a file "
        "that an administrator wrote is left alone.",
        epilog=f"powers: {names}. exit status: 0; 125 when it is refused.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE-ID")
    # With a default argparse does not call it required where the id is missing.
    parser.add_argument(
        "powers", metavar="POWER", nargs="*", default=[], help="what to take away"
    )
    parser.add_argument(
        "--as-shipped",
        action="store_true",
        help="give everything back: remove the file",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        dest="only_print",
        help="print the policy file and change nothing",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output"
    )
    governing.add_policy_dir(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    os.umask(0o022)
    if _BY_PKEXEC in os.environ and args.policy_dir != ETC_DIRECTORY:
        raise NotAllowed(
            "the directory of the policies is not the caller's to choose",
            code="restrict-directory",
            hint="leave --policy-dir out",
        )
    if bool(args.powers) and args.as_shipped:
        raise RequestError(
            "powers are taken, or everything is given back: not both",
            code="restrict-both",
        )
    bundle_id: str = args.bundle
    _check_installed(bundle_id)
    store = governing.store(args.policy_dir)
    standing = restrict.standing(store, bundle_id)
    if args.only_print:
        taken = restrict.powers(args.powers, standing)
        if not taken:
            raise RequestError("no power is named", code="restrict-no-power")
        if refusal := restrict.refusal(store, standing):
            raise refusal
        print(restrict.text(bundle_id, standing.base, taken), end="")
        return 0
    if args.powers or args.as_shipped:
        # Not at the top: who only looks needs none of what writes.
        from ..policy import keep

        taken = restrict.powers(args.powers, standing)
        keep.put(store, standing, taken)
        _note(bundle_id, taken)
        standing = restrict.standing(store, bundle_id)
    if args.json:
        json.dump(_data(store, standing), sys.stdout, indent=1)
        print()
    else:
        _print(store, standing)
    return 0


def _check_installed(bundle_id: str) -> None:
    """BundleError unless it is, NotAllowed unless for everybody.

    A file that is made here governs the system's bundles alone; of others an id says
    nothing. Which they are, a launch finds out in the same way.
    """
    if not valid_bundle_id(bundle_id):
        raise RequestError(
            f"{bundle_id[:64]!a} is no id of a bundle", code="restrict-bad-id"
        )
    from ..session import installed

    found = governing.read(installed.find_for_all(bundle_id))
    if found.installed_by != "system":
        raise NotAllowed(
            f"{found.path} is not the system's ({found.why}): what is taken from "
            f"{bundle_id} would not be taken from it",
            code="restrict-not-for-all",
            hint="a bundle that others than root can change gets policy untrusted",
        )


def _note(bundle_id: str, taken: Sequence[Power]) -> None:
    """One line for the machine's log, where another than root asked for it."""
    from ..log import Log

    uid = os.environ.get(_BY_PKEXEC, "")
    Log(quiet=not uid).event(
        "restricted",
        bundle=bundle_id,
        taken=list(taken),
        by_uid=int(uid) if uid.isdecimal() else None,
    )


def _data(store: PolicyStore, standing: Standing) -> dict[str, object]:
    refusal = restrict.refusal(store, standing)
    return {
        "version": 1,
        "bundle_id": standing.bundle_id,
        "policy": standing.base.name,
        "file": _file(store, standing),
        "held": list(standing.held),
        "taken": list(standing.taken),
        "stale": list(standing.stale),
        "ambiguous": standing.now is None,
        "by_hand": bool(standing.by_hand),
        "refused": refusal.code if refusal else None,
    }


def _file(store: PolicyStore, standing: Standing) -> str | None:
    made = f"{store.etc_dir}/{standing.name}.toml" if standing.taken else None
    return standing.by_hand or made


def _print(store: PolicyStore, standing: Standing) -> None:
    print(f"{standing.bundle_id}: policy {standing.base.name}")
    width = max(map(len, restrict.POWERS))
    for power in standing.held:
        word = "taken" if power in standing.taken else "has"
        print(f"  {word:5}  {power:{width}}  {restrict.POWERS[power]}")
    if not standing.held:
        print("  nothing that could be taken from it")
    if standing.by_hand:
        tell(f"{standing.by_hand} is an administrator's own file: nothing is taken")
    elif path := _file(store, standing):
        print(f"  by {printable(path)}")
    if standing.now is None:
        tell(
            f"{_file(store, standing)} stands in the way of a choice: another policy "
            f"governs {standing.bundle_id} since, and it cannot be launched (give "
            f"everything back: isolauncher restrict {standing.bundle_id} --as-shipped)"
        )
    elif standing.stale:
        tell(standing.outdated())
    elif not standing.by_hand and (refusal := restrict.refusal(store, standing)):
        tell(refusal.line())
