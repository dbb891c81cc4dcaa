# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever of a set is imported, ``sys.modules`` is then a cold start's, in its order.

Without sandbox or daemon, as a desktop's modules need no more to be imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.powers import installed, need
from zygote import twins

from isolauncher.zygote.sets import LASTING, SUGAR3, VERSIONS, library

NAMES = tuple(name for name in SUGAR3 if library(name) is None)

PROGRAM = """\
import sys

name, *versions = sys.argv[1:]
if versions:
    import gi

    for wanted in versions:
        try:
            gi.require_version(*wanted.split("="))
        except ValueError:
            pass  # not installed
try:
    __import__(name)
except ImportError as error:
    print(error)
print(*sys.modules, sep="\\n")
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(installed("sugar3.activity.activity"))
    path = tmp_path_factory.mktemp("imports") / "program.py"
    path.write_text(PROGRAM)
    return path


def differing(program: Path, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        versions = [f"{k}={v}" for k, v in VERSIONS.items()] if name in LASTING else []
        words = (str(program), name, *versions)
        cold = twins.cold(*words)
        forked = twins.forked(*words, preload=list(SUGAR3))
        assert cold.status == 0, cold.err
        # Of typelibs that are not installed both say the same.
        found += [] if b"\nsys\n" in b"\n" + cold.out else [f"{name}: nothing said"]
        if (forked.status, forked.out) != (cold.status, cold.out):
            one, other = (t.out.decode().split("\n") for t in (cold, forked))
            more, less = set(other) - set(one), set(one) - set(other)
            found.append(f"{name}: more {sorted(more)}, less {sorted(less)}")
    return found


def test_a_tenth_of_the_imports_loads_what_a_cold_start_s_loads(program: Path) -> None:
    turn = int(os.environ.get("ISOLAUNCHER_OFFSET") or time.time_ns() // 1000) % 10
    print(f"ISOLAUNCHER_OFFSET={turn}")
    assert differing(program, NAMES[turn::10]) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_import_loads_what_a_cold_start_s_loads(program: Path) -> None:
    assert differing(program, NAMES) == []
