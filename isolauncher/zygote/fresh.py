# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a script in an interpreter of its own, which imports what it is told to.

What is imported may write to its streams, hang, or end the process: none of that is
taken for an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from isolauncher import paths
from isolauncher.errors import ZygoteError

PYTHON = "/usr/bin/python3"
DEADLINE_S = 120


def answer(
    script: str, *words: str, environment: Mapping[str, str], cwd: str = "/"
) -> Any:
    """The JSON that ``script`` writes to the file its second word names.

    Its first is the directory that has our package, ``words`` are the others. Its
    standard output and error are files, so that it can see what was written there.
    ZygoteError if it does not come to its end, or has nothing to say.
    """
    with (
        open(os.memfd_create("isolauncher-answer"), "rb") as said,
        open(os.memfd_create("isolauncher-out"), "rb") as out,
        open(os.memfd_create("isolauncher-err"), "rb") as error,
    ):
        # Reopened by name: the child is to inherit no descriptor.
        place = f"/proc/{os.getpid()}/fd/{said.fileno()}"
        try:
            result = subprocess.run(
                [PYTHON, "-c", script, os.path.dirname(paths.PACKAGE), place, *words],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                timeout=DEADLINE_S,
            )
        except subprocess.TimeoutExpired:
            raise ZygoteError(
                f"importing took more than {DEADLINE_S} s and could not be stopped",
                code="preload-hangs",
                hint="name the modules one by one to find which",
            ) from None
        data = said.read()
        error.seek(0)
        last = error.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    if result.returncode or not data:
        raise ZygoteError(
            f"the interpreter that imports ended with status {result.returncode}"
            f"{': ' + last if last else ''}",
            code="preload-ended",
            hint="name the modules one by one to find which ended it",
        )
    return json.loads(data)


__all__ = ["answer"]
