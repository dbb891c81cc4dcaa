# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing the loopback interface up, by netlink. The only importer of pyroute2."""

from __future__ import annotations

from pyroute2 import IPRoute


def loopback_up() -> None:
    """Set ``lo`` up in the current network namespace (rtnetlink(7)); OSError if not.

    The socket is opened here and not kept: one opened before the namespace was made
    would go on talking to the old one.
    """
    with IPRoute() as route:
        # Interface 1 is lo in every network namespace.
        route.link("set", index=1, state="up")
