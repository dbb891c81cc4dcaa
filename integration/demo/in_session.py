#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command in a session without hardware, with isolauncher in it.

    sudo integration/demo/in_session.py -- isolauncher bench --windows

A person, a display, a session bus and a daemon with directories of its own exist for as
long as it takes. COMMAND runs as that person; ``isolauncher`` is this checkout's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sessions import environment, here, session


def main() -> int:
    if os.geteuid() != 0:
        print("sandboxes are root's to make: run this as root", file=sys.stderr)
        return 1
    words = [word for word in sys.argv[1:] if word != "--"]
    if not words:
        print(f"usage: {sys.argv[0]} -- COMMAND [ARG ...]", file=sys.stderr)
        return 2
    with session() as (made, socket):
        return made.start(
            *here(words),
            environment=environment(made, socket),
            stdout=None,
            stderr=None,
        ).wait()


if __name__ == "__main__":
    sys.exit(main())
