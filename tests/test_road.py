# SPDX-License-Identifier: GPL-3.0-or-later
"""The road walked: one program, each tier, its status, and nothing left."""

from __future__ import annotations

import pytest
from support.daemons import Leftovers, Service, nothing_left


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize("uid", [0, 12345])
@pytest.mark.parametrize("status", [0, 3, 77])
def test_a_script_ends_with_its_own_status(
    daemon: Service, tier: str, uid: int, status: int
) -> None:
    before = Leftovers.now(daemon)
    script = daemon.script("status.py", "import sys; sys.exit(int(sys.argv[1]))")
    done = daemon.run("--tier", tier, "--", script, str(status), uid=uid)
    assert (done.status, done.err) == (status, b"")
    assert done.report is not None
    assert done.report["activity"]["tier"] == tier
    assert done.report["exit"] == {"status": status, "signal": None}
    nothing_left(daemon, before)


ALONE = """
import gc
found = {type(one).__module__ for one in gc.get_objects()}
print(sorted(name for name in found if name.startswith("isolauncher")))
import os
def never(*words):
    raise AssertionError(words)
os.stat = os.getcwd = never
import csv, colorsys
"""


@pytest.mark.parametrize("tier", ["fork", "exec"])
def test_a_program_finds_nothing_of_ours_and_lends_us_nothing(
    daemon: Service, tier: str
) -> None:
    """A cold start's import calls none of what a program may have replaced in os."""
    done = daemon.run("--tier", tier, "--", daemon.script("alone.py", ALONE))
    assert (done.status, done.out, done.err) == (0, b"[]\n", b"")
