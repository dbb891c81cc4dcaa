# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: one file a verb, and main, which gathers them.

A verb's module has ``add_parser(subparsers)``, which sets ``func=run``, and
``run(args) -> int``, whose result is the exit status; ``parse(parser, argv)`` too
where argparse's own reading will not do. It raises the errors of errors.py and main
says them. Machine output goes to stdout, everything else to stderr, and whatever
came from outside goes through `printable` on its way to a person.
"""

from __future__ import annotations

import os
import sys


def printable(text: str) -> str:
    """``text`` with every character escaped that a terminal might act on."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def tell(line: str) -> None:
    """One line to stderr for the person at the terminal."""
    complain(f"isolauncher: {printable(line)}")


def complain(line: str) -> None:
    """To stderr, if it can be written: what the exit status says must not be lost."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # What is still in the buffer is written once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
