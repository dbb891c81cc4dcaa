# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher daemon``: reads the configuration and becomes the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import config, paths

if TYPE_CHECKING:
    from .main import Parser


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "daemon",
        description="Be the daemon, in the foreground, until SIGTERM. For root.",
        epilog="What runs goes on when the daemon ends; the next one takes it over. "
        "Its log goes to the journal where there is one, else, or with "
        "ISOLAUNCHER_LOG=stderr, to standard error. See isolauncherd(8).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration (default: {paths.CONFIG_FILE}, if it is there)",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help=f"where to listen (default: ${paths.SOCKET_VARIABLE} or {paths.SOCKET}); "
        "records of what runs are kept beside it",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help=f"where the ledger and kept data are (default: {paths.STATE_DIR})",
    )
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        help=f"the administrator's policies (default: {paths.ADMIN_POLICIES})",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    # Imported only now: --help must not need what root's work needs.
    from .. import serving

    status: int = serving.main(
        config.load(
            args.config,
            socket=args.socket,
            state_dir=args.state_dir,
            policy_dir=args.policy_dir,
        )
    )
    return status
