# SPDX-License-Identifier: GPL-3.0-or-later
"""What the figures depend on, as far as the machine tells."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from .patience import END_S


def describe() -> dict[str, object]:
    model = ""
    virtual = False
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        virtual |= name.strip() == "flags" and " hypervisor" in value
    memory = next((line for line in _lines("/proc/meminfo")), "").split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "cpu": model or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "memory_mb": int(memory[1]) // 1024 if len(memory) > 1 else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": load(),
    }


def load() -> list[float]:
    return [round(number, 2) for number in os.getloadavg()]


def version_of(command: str) -> str:
    """What it says of itself; "" where it says nothing."""
    try:
        said = subprocess.run(
            [command, "--version"], capture_output=True, check=False, timeout=END_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = said.stdout.decode("ascii", "replace").strip().splitlines()
    return words[0] if words else ""


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as f:
        yield from f
