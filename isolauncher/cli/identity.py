# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher identity list|gc``: the ledger of uids, shown and cleaned; for root.

Works on the ledger's files, without the daemon, and at the same time as it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import paths
from ..errors import NotAllowed, RequestError
from ..identity.leases import Lease
from ..identity.ledger import FIRST, LAST, Ledger, stored_range
from ..identity.userdb import USERDB
from . import printable, tell
from .ps import table

if TYPE_CHECKING:
    from .main import Parser

_HEADINGS = ("UID", "MODE", "CALLER", "BY", "ACTIVITY", "SINCE", "KEY")


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "identity",
        description="Show which uid belongs to which activity, and clean up.",
        epilog="exit status: 0; 125 when the ledger cannot be used; root only.",
        allow_abbrev=False,
    )
    parser.set_defaults(func=run)
    inner = parser.add_subparsers(dest="what", required=True, metavar="list|gc")
    listing = inner.add_parser(
        "list", description="List the uids that are taken.", allow_abbrev=False
    )
    cleaning = inner.add_parser(
        "gc",
        description="Take back the uids of activities that are gone. The constant "
        "uid of a bundle is taken back only if it is named.",
        allow_abbrev=False,
    )
    for one in (listing, cleaning):
        one.add_argument(
            "--json", action="store_true", help="a list of objects instead of text"
        )
        one.add_argument(
            "--state-dir",
            type=Path,
            default=Path(paths.STATE_DIR),
            metavar="DIR",
            help="where the ledger is (%(default)s)",
        )
    cleaning.add_argument(
        "--run-dir",
        type=Path,
        default=Path(paths.RUN_DIR),
        metavar="DIR",
        help="where the records of running activities are (%(default)s)",
    )
    cleaning.add_argument(
        "--userdb-dir",
        type=Path,
        default=USERDB,
        metavar="DIR",
        help="where the uids' names are (%(default)s)",
    )
    cleaning.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="KEY",
        help="also take back this bundle's constant uids (with --caller: that one's)",
    )
    cleaning.add_argument(
        "--caller", type=int, metavar="UID", help="whose constant uid"
    )
    cleaning.add_argument(
        "--all-bundles", action="store_true", help="every bundle's constant uid"
    )
    cleaning.add_argument(
        "--corrupt",
        action="store_true",
        help="also remove leases that cannot be read, if no process or file is theirs",
    )


def run(args: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise NotAllowed(
            "the ledger of uids is root's, and this is uid "
            f"{os.geteuid()}: 'identity {args.what}' is refused",
            step="identity",
            code="identity-root-only",
            hint="run it with sudo; 'isolauncher ps' shows your own activities",
        )
    return _gc(args) if args.what == "gc" else _list(args)


def _open(state_dir: Path, run_dir: Path, userdb_dir: Path | None) -> Ledger | None:
    """None: nothing was ever taken here. Looking must not begin a ledger."""
    if not (state_dir / "identity").exists():
        return None
    # The range is the state directory's: with another one every number would have
    # to be judged anew, and a running daemon would be in the way.
    first, last = stored_range(state_dir) or (FIRST, LAST)
    return Ledger(state_dir, run_dir, first=first, last=last, userdb_dir=userdb_dir)


def _list(args: argparse.Namespace) -> int:
    ledger = _open(args.state_dir, Path(paths.RUN_DIR), None)
    leases: tuple[Lease, ...] = ()
    if ledger is not None:
        leases = ledger.leases()
        for problem in ledger.problems():
            tell(f"identity: {problem}  [identity-corrupt]")
        ledger.close()
    if args.json:
        _print_json([asdict(lease) for lease in leases])
        return 0
    print(table([_HEADINGS, *(_row(lease) for lease in leases)]))
    return 0


def _row(lease: Lease) -> tuple[str, ...]:
    # The clock of the wall, as it was: a person compares it with a log.
    from datetime import datetime

    since = datetime.fromtimestamp(lease.created).isoformat(" ", "seconds")
    return (
        str(lease.uid),
        lease.mode,
        str(lease.caller_uid),
        printable(lease.caller_name) or "-",
        lease.activity_id or "-",
        since,
        f"{printable(lease.key)} ({lease.installed_by})" if lease.key else "-",
    )


def _gc(args: argparse.Namespace) -> int:
    if args.caller is not None and not (args.bundle or args.all_bundles):
        raise RequestError(
            "--caller says whose constant uids, and no bundle is named",
            step="identity",
            code="identity-no-bundle",
            hint="add --bundle KEY or --all-bundles",
        )
    ledger = _open(args.state_dir, args.run_dir, args.userdb_dir)
    done: tuple[dict[str, object], ...] = ()
    if ledger is not None:
        collected = ledger.gc(
            lambda activity: os.path.lexists(
                paths.activity_record(activity, str(args.run_dir))
            ),
            bundles=_chosen(args),
            discard_corrupt=args.corrupt,
        )
        done = tuple(asdict(one) for one in collected)
        for problem in ledger.problems():
            tell(f"identity: {problem}  [identity-corrupt]")
        ledger.close()
    if args.json:
        _print_json(list(done))
        return 0
    for one in done:
        activity = f" (activity {one['activity_id']})" if one["activity_id"] else ""
        uid = f"uid {one['uid']}{activity}: " if one["uid"] else ""
        print(f"{uid}{one['what']}: {printable(str(one['why']))}")
    if not done:
        print("nothing to take back")
    return 0


def _chosen(args: argparse.Namespace) -> Callable[[Lease], bool] | None:
    if args.all_bundles:
        return lambda lease: args.caller in (None, lease.caller_uid)
    if args.bundle:
        return lambda lease: (
            lease.key in args.bundle and args.caller in (None, lease.caller_uid)
        )
    return None


def _print_json(found: list[dict[str, object]]) -> None:
    json.dump(found, sys.stdout, indent=1)
    print()
