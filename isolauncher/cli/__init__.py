# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: one file a verb, and main, which gathers them.

A verb's module has ``add_parser(subparsers)``, which sets ``func=run``, and
``run(args) -> int``, whose result is the exit status; ``parse(parser, argv)`` too
where argparse's own reading will not do. It raises the errors of errors.py and main
says them. Machine output goes to stdout, everything else to stderr, and whatever
came from outside goes through `printable` on its way to a person.
"""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """``text`` with every character escaped that a terminal might act on."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def tell(line: str) -> None:
    """One line to stderr for the person at the terminal."""
    print(f"isolauncher: {printable(line)}", file=sys.stderr, flush=True)
