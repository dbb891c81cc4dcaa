# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy can say of the session bus: names, rules, and what it never grants."""

from __future__ import annotations

import re
from collections.abc import Mapping

OUR_NAME = "org.sugarlabs.IsoLauncher1"
NEVER: Mapping[str, tuple[str, str]] = {
    OUR_NAME: ("policy-grants-isolauncher", "which no policy may grant"),
    "org.laptop.sugar.DataStore": (
        "policy-grants-datastore",
        "behind which files.documents would mean nothing",
    ),
    "org.freedesktop.DBus": ("policy-grants-bus", "the bus itself, always there"),
}

_ELEMENT = r"[A-Za-z_-][A-Za-z0-9_-]*"
_NAME = re.compile(rf"{_ELEMENT}(\.{_ELEMENT})+(\.\*)?")
_MEMBER = r"[A-Za-z_][A-Za-z0-9_]*"
_RULE = re.compile(
    rf"(\*|{_MEMBER}(\.{_MEMBER})+|{_MEMBER}(\.{_MEMBER})+\.\*)"
    r"@(/|(/[A-Za-z0-9_]+)+(/\*)?|/\*)"
)
_JOURNAL = "/org/laptop/Journal"


def is_name(name: str) -> bool:
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def is_rule(rule: str) -> bool:
    return _RULE.fullmatch(rule) is not None


def launches(rule: str) -> bool:
    """Whether a rule takes in LaunchBundle at the Journal's object."""
    method, _, path = rule.partition("@")
    above = path.removesuffix("*").rstrip("/")
    there = path == _JOURNAL or (
        path.endswith("*") and f"{_JOURNAL}/".startswith(above + "/")
    )
    interface = "org.laptop.Journal"
    return there and method in ("*", f"{interface}.*", f"{interface}.LaunchBundle")
