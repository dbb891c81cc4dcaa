# SPDX-License-Identifier: GPL-3.0-or-later
"""How names, sizes and values of a policy are written in a line for a reader."""

from __future__ import annotations

import re

from isolauncher.policy.model import Value

SIZE = re.compile(r"([0-9]{1,20})([KMG]?)")
UNIT = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def shown(text: str, limit: int = 60) -> str:
    """In quotes, cut, and with everything escaped that could play tricks on a reader.

    Control characters would reach the terminal, direction marks reorder the line.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return (
        "'"
        + "".join(
            char if char.isprintable() and char not in "'\\" else ascii(char)[1:-1]
            for char in cut
        )
        + "'"
    )


def safe(name: str) -> str:
    """A key as it may be printed without quotes."""
    plain = re.fullmatch(r"[A-Za-z0-9._*-]{1,64}", name)
    return name if plain else shown(name)


def with_unit(number: int) -> str:
    """A number of bytes, as short as it can be written exactly."""
    for unit in "GMK":
        if number and number % UNIT[unit] == 0:
            return f"{number // UNIT[unit]}{unit}"
    return str(number)


def written(value: Value) -> str:
    """As it would stand in a file; a text of the model's or checked already."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
