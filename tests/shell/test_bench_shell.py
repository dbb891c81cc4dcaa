# SPDX-License-Identifier: GPL-3.0-or-later
"""integration/sugar/bench-shell: it clicks, in turns, and says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import shell as shells
from support.daemons import TOP
from support.desktop import missing as no_desktop
from support.powers import need, sandboxes

BENCH = TOP / "integration/sugar/bench-shell"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_same_click_is_measured_isolated_and_not(tmp_path: Path) -> None:
    """How long each took is nobody's promise here; that both were seen is."""
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    found = tmp_path / "found.json"
    done = subprocess.run(
        (BENCH, "--pairs", "1", "--json", found, "Log"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "org.laptop.Log 1/1" in done.stderr
    assert "org.laptop.Log" in done.stdout
    (row,) = json.loads(found.read_text())["bundles"]
    for contender in ("cold", "isolated"):
        (taken,) = row[contender]["samples"]
        assert 0 < taken < 90_000


def test_it_says_what_it_lacks(tmp_path: Path) -> None:
    code = (
        "import os, runpy, sys; sys.argv[1:] = []; os.geteuid = lambda: 1000\n"
        f"runpy.run_path({str(BENCH)!r}, run_name='__main__')"
    )
    environment = {"PATH": os.environ["PATH"]}
    words = ("/usr/bin/python3", "-c", code)
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (*(1, "bench-shell: run this as root\n"),)
