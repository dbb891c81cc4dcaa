#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens Calculate in its sandbox, on a display of its own, and shows the report.

`make demo` runs this as root. A person, a display and a session bus exist for as long
as it takes; the daemon runs on what it has built in, with directories of its own. What
a person would see is saved as a picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sessions import COMMANDS, PATIENCE_S, TOP, Desktop, session

BUNDLE = "org.laptop.Calculate"
PICTURE = TOP / "demo-calculate.png"


def show(made: Desktop, socket: Path, report: Path) -> int:
    """Launch, take the picture, have it end, print the report."""
    environment = {"ISOLAUNCHER_SOCKET": str(socket)}
    with made.watch() as watch:
        launching = made.start(
            *(str(COMMANDS / "isolauncher"), "launch", "-a", "demo"),
            *("--report", str(report), BUNDLE),
            environment=environment,
            stderr=None,
        )
        watch.wait(lambda window: window.sugar_bundle == BUNDLE, alive=launching)
    print("Calculate has opened its window.", flush=True)
    subprocess.run(
        [COMMANDS / "isolauncher", "ps"], env={**os.environ, **environment}, check=True
    )
    PICTURE.write_bytes(made.screenshot())
    print(f"What it looks like is in {PICTURE}.", flush=True)
    subprocess.run(
        [COMMANDS / "isolauncher", "stop", "demo"],
        env={**os.environ, **environment},
        check=True,
    )
    launching.wait(PATIENCE_S)
    print("\nthe launch report")
    print(json.dumps(json.loads(report.read_text()), indent=2))
    return 0


def main() -> int:
    if os.geteuid() != 0:
        print("sandboxes are root's to make: sudo make demo", file=sys.stderr)
        return 1
    with session() as (made, socket):
        return show(made, socket, made.home / "report.json")


if __name__ == "__main__":
    sys.exit(main())
