# SPDX-License-Identifier: GPL-3.0-or-later
"""``sys.stdin``, ``sys.stdout`` and ``sys.stderr``, made anew on descriptors 0 to 2.

Hazards: H23 (what the zygote had buffered would be written twice; and whether a
stream is a terminal was asked of another descriptor), and ``None`` for a closed one.
"""

from __future__ import annotations

import _locale
import io
import os
import sys
from typing import TextIO

from isolauncher.zygote.handover import Start, World

# PEP 538: locales in which undecodable bytes pass through stdin and stdout.
_LENIENT = ("C", "POSIX", "C.UTF-8", "C.utf8", "UTF-8")


def before_fork() -> None:
    """Leave nothing in a buffer that a child could write again."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _open(fd: int, name: str, errors: str) -> TextIO | None:
    writes = fd != 0
    try:
        os.fstat(fd)
    except OSError:
        # Closed: a starting interpreter puts None there too.
        return None
    mode = "w" if writes else "r"
    raw = io.FileIO(fd, mode, closefd=False)
    buffered: io.BufferedWriter | io.BufferedReader
    buffered = io.BufferedWriter(raw) if writes else io.BufferedReader(raw)
    raw.name = name
    # As CPython's create_stdio: stderr always by lines, stdout only to a terminal.
    text = io.TextIOWrapper(
        buffered,
        encoding="utf-8",
        errors=errors,
        newline="\n",
        line_buffering=fd == 2 or raw.isatty(),
    )
    text.mode = mode  # type: ignore[misc]
    return text


def apply(start: Start, world: World) -> None:
    current = _locale.setlocale(_locale.LC_CTYPE)
    errors = "surrogateescape" if current in _LENIENT else "strict"
    sys.stdin = sys.__stdin__ = _open(0, "<stdin>", errors)  # type: ignore[assignment,misc]
    sys.stdout = sys.__stdout__ = _open(1, "<stdout>", errors)  # type: ignore[assignment,misc]
    sys.stderr = sys.__stderr__ = _open(  # type: ignore[assignment,misc]
        2, "<stderr>", "backslashreplace"
    )


again = apply
