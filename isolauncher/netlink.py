# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing the loopback interface up, by netlink. The only importer of pyroute2."""

from __future__ import annotations

import os

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError


def loopback_up() -> None:
    """Set ``lo`` up in the current network namespace (rtnetlink(7)); OSError if not.

    The socket is opened here and not kept: one opened before the namespace was made
    would go on talking to the old one.
    """
    try:
        with IPRoute() as route:
            # Interface 1 is lo in every network namespace.
            route.link("set", index=1, state="up")
    except NetlinkError as e:
        raise OSError(e.code, os.strerror(e.code)) from e
