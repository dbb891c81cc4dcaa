# SPDX-License-Identifier: GPL-3.0-or-later
"""`bench --quick` measures, says what it measured, and asserts no time.

How fast a launch is depends on the machine and on who else uses it; what is tested is
that the figures are of real launches under the whole policy, and that they add up.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from support.powers import need, program, sandboxes

from isolauncher import bench

TOP = Path(__file__).resolve().parents[2]


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "isolauncher", "bench", *words],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def test_quick_measures_both_and_its_json_adds_up(tmp_path: Path) -> None:
    need(sandboxes(), program("bwrap"))
    before = set(os.listdir("/tmp"))
    done = run("--quick", "--pairs", "2", "--json", str(tmp_path / "figures.json"))
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads((tmp_path / "figures.json").read_text())
    assert set(said) == {
        *("version", "benchmark", "pairs", "modules", "machine", "commands"),
        *("in_force", "unit", "isolauncher", "on_demand", "bubblewrap"),
        *("ways", "ratio", "phases_us"),
    }
    assert (said["version"], said["benchmark"], said["pairs"]) == (1, "quick", 2)
    assert said["ways"] == {"pool": 2}
    for name in ("isolauncher", "on_demand", "bubblewrap"):
        figures = said[name]
        samples = figures["samples"]
        assert len(samples) == 2
        assert figures["median"] == pytest.approx(statistics.median(samples), abs=0.01)
        assert figures["min"] == min(samples) > 0
        assert figures["max"] == figures["p90"] == max(samples)
    ratio = said["bubblewrap"]["median"] / said["isolauncher"]["median"]
    assert said["ratio"]["of_medians"] == pytest.approx(ratio, abs=0.01)
    assert set(said["ratio"]["of_pairs"]) == {"median", "min", "p10", "p90", "max"}
    # The launches were of the fork tier, under the whole default policy.
    assert said["in_force"]["activity"]["tier"] == "fork"
    assert said["in_force"]["policy"]["name"] == "default"
    assert {"seccomp", "user", "mount", "net"} <= set(said["in_force"]["enforced"])
    assert said["commands"]["bubblewrap"][0] == "bwrap"
    assert len(said["modules"]) == 20
    # The part before the program's own first line is smaller than the whole.
    assert said["phases_us"]["total"] / 1000 < said["isolauncher"]["max"]
    assert "ratio of the medians" in done.stdout
    left = {n for n in set(os.listdir("/tmp")) - before if "bench" in n}
    assert left == set()


def test_the_script_imports_what_the_json_names() -> None:
    assert bench.SCRIPT.splitlines()[1] == f"import {', '.join(bench.MODULES)}"
    compile(bench.SCRIPT, "script", "exec")


def test_without_bubblewrap_the_error_says_what_to_install(tmp_path: Path) -> None:
    need(sandboxes())
    done = run("--quick", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (125, "")
    assert "apt install bubblewrap" in done.stderr
    assert done.stderr.endswith("[bench-no-bubblewrap]\n")


def test_a_file_that_cannot_be_written_is_said_before_measuring() -> None:
    done = run("--quick", "--json", "/no/such/place")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.endswith("[bench-not-writable]\n")


@pytest.mark.parametrize("pairs", ["0", "1", "x", "-3"])
def test_fewer_than_two_pairs_are_a_mistake_of_usage(pairs: str) -> None:
    done = run("--quick", "--pairs", pairs)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[usage]" in done.stderr


def test_percentiles_are_nearest_ranks() -> None:
    spread = bench.Spread(samples=tuple(float(n) for n in range(10, 0, -1)))
    assert spread.at(0.1) == 1
    assert spread.at(0.9) == 9
    assert spread.median == 5.5
    assert bench.Spread(samples=(3.0, 1.0)).at(0.9) == 3
