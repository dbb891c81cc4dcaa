# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one program twice: by a cold start, and forked from a zygote (bootstrap.py)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = "/usr/bin/python3"
BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap.py"
ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
ZYGOTE_ENVIRONMENT = {"LC_CTYPE": "C.UTF-8", "HOME": "/nonexistent", "PAD": "x" * 4096}


@dataclass(frozen=True)
class Ended:
    status: int
    out: bytes
    err: bytes

    def json(self) -> Any:
        assert self.status == 0, self.err.decode()
        return json.loads(self.out)


def run(
    command: list[str], environment: dict[str, str], cwd: str, stdin: bytes | None
) -> Ended:
    done = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        capture_output=True,
        timeout=50,
        **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}),
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def cold(
    *argv: str,
    environment: dict[str, str] = ENVIRONMENT,
    cwd: str = "/",
    stdin: bytes | None = None,
) -> Ended:
    return run([PYTHON, *argv], environment, cwd, stdin)


def forked(
    *argv: str,
    environment: dict[str, str] = ENVIRONMENT,
    cwd: str = "/",
    stdin: bytes | None = None,
    umask: int | None = None,
    **told: Any,
) -> Ended:
    kind = "script"
    if argv[0] == "-m":
        kind, argv = "module", argv[1:]
    told["start"] = {
        "kind": kind,
        "program": argv[0],
        "arguments": argv[1:],
        "environment": environment,
        "cwd": cwd,
        "umask": umask,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(told, file)
        file.flush()
        command = [PYTHON, str(BOOTSTRAP), file.name]
        return run(command, ZYGOTE_ENVIRONMENT, "/", stdin)


def both(*argv: str, **how: Any) -> tuple[Ended, Ended]:
    return cold(*argv, **how), forked(*argv, **how)
