# SPDX-License-Identifier: GPL-3.0-or-later
"""multiprocessing's own fork server with a list preloaded, in a process of its own.

What a Python program has without us: preloaded once, forked for each, not confined.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError
from . import daemons, scripts, talk

MODULE = "bench_forkserver"
SOURCE = Path(__file__).with_name("forkserver_program.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    program: talk.Program

    def once(self) -> float:
        """One child: milliseconds."""
        line = self.program.ask("one")
        if not line.isdigit():
            raise HostError(
                f"multiprocessing's fork server failed: {line or 'it ended'}",
                code="bench-forkserver-failed",
            )
        return int(line) / 1e6


@contextmanager
def running(top: Path, imports: scripts.Imports) -> Iterator[Server]:
    """A module that has the list's imports is what it preloads."""
    name = f"bench_preloads_{imports.name}"
    (top / f"{name}.py").write_text(imports.statements())
    shutil.copyfile(SOURCE, top / f"{MODULE}.py")
    # The server looks for both where any program of this environment would.
    environment = {**daemons.ENVIRONMENT, "PYTHONPATH": str(top), "TMPDIR": str(top)}
    # A module and no program: a program's file is run again by every child
    # (multiprocessing.spawn), for which a child would be timed that needs none of it.
    words = ("-c", f"import {MODULE}; {MODULE}.serve()", name, *imports.modules)
    with talk.running(
        (daemons.PYTHON, "-P", *words),
        what="multiprocessing's fork server",
        environment=environment,
    ) as program:
        yield Server(program=program)
