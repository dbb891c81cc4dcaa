# SPDX-License-Identifier: GPL-3.0-or-later
"""multiprocessing's own fork server with a list preloaded, in a process of its own.

What a Python program has without us: preloaded once, forked for each, not confined.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import HostError
from . import daemons, scripts

PYTHON = "/usr/bin/python3"
PROGRAM = Path(__file__).with_name("forkserver_program.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    to: IO[str]
    said: IO[str]

    def once(self) -> float:
        """One child: milliseconds."""
        self.to.write("one\n")
        self.to.flush()
        line = self.said.readline()
        if not line.strip().isdigit():
            raise HostError(
                f"multiprocessing's fork server failed: {line.strip() or 'it ended'}",
                code="bench-forkserver-failed",
            )
        return int(line) / 1e6


@contextmanager
def running(top: Path, imports: scripts.Imports) -> Iterator[Server]:
    """A module that has the list's imports is what it preloads."""
    name = f"bench_preloads_{imports.name}"
    (top / f"{name}.py").write_text(imports.statements())
    # The server looks for it where any program of this environment would.
    environment = {**daemons.ENVIRONMENT, "PYTHONPATH": str(top), "TMPDIR": str(top)}
    with subprocess.Popen(
        (PYTHON, str(PROGRAM), name, *imports.modules),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 (for the type checker)
        assert process.stdout is not None  # noqa: S101
        try:
            yield Server(to=process.stdin, said=process.stdout)
        finally:
            process.stdin.close()
