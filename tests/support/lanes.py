#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs all tests in a few processes side by side, each with its part of the files.

Most tests wait: for a program to end, a window, the kernel. So two processors have time
for three of them at once. What the others print is shown when the first is through;
whoever fails, the status says so. On one processor all are in one process. Arguments
are pytest's: options for each of them, and with anything else there is only one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parents[1]
OTHERS = (
    (
        *("cli", "filters", "spoilt", "wire", "zygote"),
        *("test_init.py", "test_memory.py", "test_seen.py"),
    ),
    ("attacks", "identity", "policy", "test_forked_ahead.py", "test_rooms.py"),
)
"""What is not in the first, which has whatever is not named; about as long each."""


def lanes() -> Iterator[list[str]]:
    """Every test file is in one of them."""
    entries = sorted(
        entry
        for entry in TESTS.iterdir()
        if entry.match("test_*.py")
        or (entry.is_dir() and any(entry.rglob("test_*.py")))
    )
    named = [name for names in OTHERS for name in names]
    yield [str(entry) for entry in entries if entry.name not in named]
    for names in OTHERS:
        yield [str(entry) for entry in entries if entry.name in names]


def pytest(words: list[str], lane: int) -> list[str]:
    cache = f"cache_dir=.pytest_cache/{lane}"
    return [sys.executable, "-m", "pytest", "-o", cache, *words]


@contextmanager
def beside(words: list[str], lane: int) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs meanwhile; what it has said is shown at the end."""
    said: IO[bytes]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            pytest(words, lane),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ISOLAUNCHER_LANE": str(lane)},
            # What the terminal says to all is said to it below, once.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
            said.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    words = sys.argv[1:]
    chosen = not all(word.startswith("-") for word in words)
    if chosen or (os.cpu_count() or 1) < 2:
        return subprocess.run(pytest(words, 0), check=False).returncode
    first, *others = lanes()
    with ExitStack() as stack:
        running = [
            stack.enter_context(beside([*words, *paths], lane))
            for lane, paths in enumerate(others, 1)
        ]
        command = pytest([*words, *first], 0)
        statuses = [subprocess.run(command, check=False).returncode]
        statuses += [process.wait() for process in running]
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main())
