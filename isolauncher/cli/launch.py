# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher launch BUNDLE``: a Sugar bundle, under the policy that governs it.

The session's service launches it, as for the shell, and this waits for the end. Where
there is no session bus it asks the daemon itself, and the activity has no bus.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from .. import client
from ..errors import DaemonError, IsolauncherError
from . import tell
from .run import refuse_unwritable, tell_end

if TYPE_CHECKING:
    from ..session.launching import Asked


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "launch",
        help="launch a Sugar bundle under the policy that governs it",
        description="Launches a Sugar bundle under the policy that governs it, and "
        "waits until it has ended. The activity does not end with this command.",
        epilog="Which policy governs a bundle: `isolauncher explain BUNDLE`.",
    )
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="a directory, with a slash, or the id of an installed bundle",
    )
    parser.add_argument(
        "-a", dest="activity_id", metavar="ACTIVITY_ID", help="default: a new one"
    )
    parser.add_argument(
        "-o", dest="object_id", metavar="OBJECT_ID", help="a Journal object to resume"
    )
    parser.add_argument("-u", dest="uri", metavar="URI", help="what to open")
    parser.add_argument(
        "-i", dest="invited", action="store_true", help="somebody else shares it"
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write what was enforced and how it ended as JSON; -: the last line of "
        "standard output",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.report is not None:
        refuse_unwritable(args.report)
    try:
        end = _launch(args)
    except IsolauncherError as error:
        end = client.End(error.exit_status, None, error)
    return tell_end(end, args.report, program=[args.bundle], id=args.activity_id)


def _launch(args: argparse.Namespace) -> client.End:
    try:
        from ..session.launching import Asked, launch
    except ImportError as error:
        raise DaemonError(
            f"this interpreter lacks {error.name}, which bundles need",
            code="import-failed",
            hint="see `isolauncher doctor`",
        ) from None
    environment, _ = client.own_environment()
    bundle = args.bundle
    if "/" in bundle:
        # The service has another working directory.
        bundle = os.path.abspath(bundle)
    asked = Asked(
        bundle=bundle,
        activity_id=args.activity_id,
        object_id=args.object_id,
        uri=args.uri,
        invited=args.invited,
        environment=environment,
        streams={"stdin": 0, "stdout": 1, "stderr": 2},
    )
    if "DBUS_SESSION_BUS_ADDRESS" in os.environ and os.geteuid() != 0:
        return _by_service(asked)
    from ..session.mediators import Mediators

    with Mediators.start() as mediators:
        return launch(asked, mediators, granted=_nothing, started=_nothing, tell=tell)


def _by_service(asked: Asked) -> client.End:
    from ..session.service import call_launch

    activity_id = call_launch(asked)
    return client.attend(
        client.connect(),
        activity_id,
        started=_nothing,
        reconnect=lambda: client.connect(wait=False),
        tell=tell,
    )


def _nothing(fields: object) -> None:
    """Of no interest here."""
