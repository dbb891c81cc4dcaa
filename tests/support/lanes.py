#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs all tests in two processes side by side, one for each half of the files.

Most tests wait: for a program to end, a window, the kernel. So on two processors two at
a time take little more than half as long. What the second prints is shown when the
first is through; whoever fails, the status says so. On one processor it is one process.
With arguments it is plain pytest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SECOND = ("attacks", "cli", "filters", "identity", "policy", "spoilt", "wire")
"""Directories of the second half, about as long as the first: what has no session."""


def halves() -> tuple[list[str], list[str]]:
    """Every test file is in one of them: what is new and not named, in the first."""
    entries = sorted(
        entry
        for entry in TESTS.iterdir()
        if (entry.is_dir() and any(entry.rglob("test_*.py")))
        or entry.match("test_*.py")
    )
    second = [entry for entry in entries if entry.name in SECOND]
    first = [entry for entry in entries if entry not in second]
    return [str(entry) for entry in first], [str(entry) for entry in second]


def pytest(words: list[str], lane: int) -> list[str]:
    return [
        sys.executable,
        *("-m", "pytest", "-o", f"cache_dir=.pytest_cache/{lane}"),
        *words,
    ]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    words = sys.argv[1:]
    if words or (os.cpu_count() or 1) < 2:
        return subprocess.run(pytest(words, 0), check=False).returncode
    with tempfile.TemporaryFile() as said:
        first, second = halves()
        environment = {**os.environ, "ISOLAUNCHER_LANE": "1"}
        beside = subprocess.Popen(
            pytest(second, 1),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            # What the terminal says to all is said to it below, once.
            start_new_session=True,
        )
        try:
            statuses = [subprocess.run(pytest(first, 0), check=False).returncode]
            statuses.append(beside.wait())
        finally:
            if beside.poll() is None:
                beside.send_signal(signal.SIGINT)
                beside.wait()
            said.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main())
