# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes docs/screenshots/test-policy.png: steps of docs/first-policy.md in an xterm.

    sudo unshare --mount python3 tests/support/terminal_picture.py

With git, xterm, Xvfb and ImageMagick. The commands are run on a terminal, in a clean
checkout of the last commit; only who types them is made up.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SHOWN = Path("/home/ana/isolauncher")
BOOKS = Path("/srv/books")
PROMPT = r"\033[1;32mana@school\033[0m:\033[1;34m~/isolauncher\033[0m$ "
COLUMNS, ROWS, KEPT = 130, 230, 35
"""The plan fills the rest of so many rows; of it little is kept."""
WIDTH, HEIGHT, BORDER = 8, 17, 6
"""Of a character, in pixels."""
CHECK = ".venv/bin/isolauncher test-policy --policy-dir my-policies"
LIVE = "sudo .venv/bin/isolauncher test-policy --live --policy-dir my-policies"


def main() -> None:
    bad, good = re.findall(
        r"^```toml\n(.*?)^```$",
        (TOP / "docs/first-policy.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for place in ("/home", "/srv"):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=755", "t", place], check=True
        )
    subprocess.run(["git", "clone", "-q", str(TOP), str(SHOWN)], check=True)
    subprocess.run(["make", "-s", "setup"], cwd=SHOWN, check=True)
    BOOKS.mkdir()
    (BOOKS / "tales.txt").write_text("Once upon a time\n")
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        (SHOWN / "my-policies").mkdir()
        (SHOWN / "my-policies/reader.toml").write_text(bad)
        (place / "good").write_text(good)
        words = (
            *typed(CHECK),
            f"cp {place}/good my-policies/reader.toml",
            *typed(LIVE),
            *(f"touch {place}/done", "sleep 60"),
        )
        (place / "typed").write_text("\n".join(words))
        take(place, place / "typed")


def typed(command: str) -> tuple[str, str]:
    shown = f"printf {shlex.quote(PROMPT)}; echo {shlex.quote(command)}"
    return shown, command.removeprefix("sudo ")


def take(place: Path, script: Path) -> None:
    number = f":{os.getpid()}"
    width = COLUMNS * WIDTH + 2 * BORDER
    size = f"{width}x{ROWS * HEIGHT + 2 * BORDER}x24"
    xvfb = subprocess.Popen(["Xvfb", number, "-screen", "0", size, "-nolisten", "tcp"])
    environment = {
        **{"PATH": "/usr/bin:/bin", "HOME": "/home/ana", "LANG": "C.UTF-8"},
        **{"DISPLAY": number, "TERM": "xterm-256color", "ISOLAUNCHER_SOCKET": "/none"},
    }
    try:
        until(Path(f"/tmp/.X11-unix/X{number[1:]}").exists)
        xterm = subprocess.Popen(
            [
                *(
                    "xterm",
                    "-b",
                    str(BORDER),
                    "+sb",
                    "-fa",
                    "DejaVu Sans Mono",
                    "-fs",
                    "10",
                ),
                *("-geometry", f"{COLUMNS}x{ROWS}+0+0", "-bg", "#101418"),
                *("-fg", "#d8dee9", "-e", "sh", str(script)),
            ],
            cwd=SHOWN,
            env=environment,
        )
        try:
            until((place / "done").exists)
            picture = f"{place}/all.png"
            subprocess.run(
                ["import", "-window", "root", picture], env=environment, check=True
            )
        finally:
            xterm.kill()
            xterm.wait()
    finally:
        xvfb.kill()
        xvfb.wait()
    target = TOP / "docs/screenshots/test-policy.png"
    crop = f"{width}x{KEPT * HEIGHT + 2 * BORDER}+0+0"
    options = ("-crop", crop, "+repage", "+dither", "-colors", "64", "-strip")
    subprocess.run(["convert", picture, *options, str(target)], check=True)


def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            time.sleep(0.5)
            return
        time.sleep(0.02)
    sys.exit("it did not come about")


if __name__ == "__main__":
    main()
