#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes tests/golden/NAME.plan anew: what each shipped policy comes to.

    .venv/bin/python3 tests/support/golden.py

Run after a change to a policy, or to what plans are made of. The commit's diff of these
files is then what the change does, in effects: read it as you would the policy's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
GOLDEN = TOP / "tests/golden"
POLICIES = TOP / "policies"

DEBIAN = {
    "org.laptop.AbiWordActivity": "write",
    "org.laptop.Calculate": "calculate",
    "org.laptop.Chat": "chat",
    "org.laptop.ImageViewerActivity": "imageviewer",
    "org.laptop.Log": "log",
    "org.laptop.Memorize": "memorize",
    "org.laptop.Pippy": "pippy",
    "org.laptop.Terminal": "terminal",
    "org.laptop.WebActivity": "browse",
    "org.laptop.sugar.Jukebox": "jukebox",
    "org.laptop.sugar.ReadActivity": "read",
}
"""Every bundle of Debian 12's sugar-*-activity packages, and what governs it."""


def names() -> list[str]:
    return sorted(path.stem for path in POLICIES.glob("*.toml"))


def plans() -> dict[str, str]:
    """The text of every shipped policy, as `isolauncher test-policy` tells of it.

    No policy of this machine's has a say, and no path of it is in the text.
    """
    with tempfile.TemporaryDirectory() as nothing:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "isolauncher", "test-policy", "--json"),
                *("--policy-dir", nothing, *names()),
            ],
            cwd=TOP,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
    if not done.stdout:
        raise SystemExit(done.stderr)
    told = json.loads(done.stdout)["policies"]
    return {policy["name"]: _text(policy) for policy in told}


def _text(policy: Mapping[str, Any]) -> str:
    if policy["errors"]:
        raise SystemExit(f"{policy['name']} is unusable: {policy['errors']}")
    files = " < ".join(Path(path).name for path in reversed(policy["files"]))
    findings = [
        f"  {found['severity']} {found['key']}: {found['message']}"
        for found in policy["findings"]
    ]
    lines = [
        f"{policy['name']}: {files}",
        f"exposure {policy['exposure']:.2f}",
        "findings:",
        *(findings or ["  none"]),
        *policy["plan"],
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.glob("*.plan"):
        path.unlink()
    for name, text in plans().items():
        (GOLDEN / f"{name}.plan").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
