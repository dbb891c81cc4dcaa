# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are: names only; opens nothing and trusts nothing.

Every place is a plain string, so that a client pays for no path library. What may be
read from a place, and whose file it may be, is for the reader to ask.
"""

from __future__ import annotations

import os
import sys

RUN_DIR = "/run/isolauncher"
STATE_DIR = "/var/lib/isolauncher"
CONFIG_DIR = "/etc/isolauncher"

SOCKET = RUN_DIR + "/socket"
SOCKET_VARIABLE = "ISOLAUNCHER_SOCKET"
CONFIG_FILE = CONFIG_DIR + "/isolauncher.toml"
ADMIN_POLICIES = CONFIG_DIR + "/policies"
VENDOR_POLICIES = "/usr/share/isolauncher/policies"

# The directory of the package `isolauncher` itself.
PACKAGE = os.path.dirname(os.path.realpath(__file__))


def socket() -> str:
    """The daemon's socket for every command: ``ISOLAUNCHER_SOCKET`` names another."""
    return os.environ.get(SOCKET_VARIABLE) or SOCKET


def checkout() -> str | None:
    """The top of the source checkout this code runs from, if it runs from one."""
    top = os.path.dirname(PACKAGE)
    if os.path.isfile(os.path.join(top, "pyproject.toml")) and os.path.isdir(
        os.path.join(top, "policies")
    ):
        return top
    return None


def code_owner() -> int:
    """The uid that owns isolauncher's own code, whose policies are trusted too."""
    return os.stat(PACKAGE).st_uid


def vendor_policies() -> str:
    """The directory of the policies that came with this code."""
    top = checkout()
    if top is not None:
        return os.path.join(top, "policies")
    # Installed in a virtual environment, the data files went under its prefix.
    inside = os.path.join(sys.prefix, "share/isolauncher/policies")
    return inside if os.path.isdir(inside) else VENDOR_POLICIES


def policy_dirs(admin: str | None = None) -> tuple[str, str]:
    """Vendor first, then the administrator's, whose file of the same name wins.

    ``admin`` stands in for the latter (``--policy-dir``).
    """
    return vendor_policies(), admin or ADMIN_POLICIES


def activities(run_dir: str = RUN_DIR) -> str:
    """Where init leaves a record of each running activity."""
    return os.path.join(run_dir, "activities")


def activity_record(id: str, run_dir: str = RUN_DIR) -> str:
    """The record of one activity; ``id`` has passed the grammar of ids."""
    return os.path.join(activities(run_dir), id)
