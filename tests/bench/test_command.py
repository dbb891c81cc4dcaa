# SPDX-License-Identifier: GPL-3.0-or-later
"""`bench` measures, says what it measured and what it could not, and asserts no time.

How fast a launch is depends on the machine and on who else uses it; what is tested is
that the figures are of real launches under the whole policy, and that they add up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.powers import need, program, sandboxes

from isolauncher.bench import contenders, figures, forkserver, plot, reference, scripts
from isolauncher.errors import HostError
from isolauncher.zygote import sets

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


def adds_up(spread: dict[str, Any], count: int) -> bool:
    samples = spread["samples"]
    assert len(samples) == count
    assert spread["median"] == pytest.approx(statistics.median(samples), abs=0.01)
    assert spread["min"] == min(samples) > 0
    assert spread["max"] == spread["p99"] == max(samples)
    return True


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
        assert adds_up(said[name], 2)
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


def test_launches_are_measured_beside_the_reference_and_others(tmp_path: Path) -> None:
    need(sandboxes(), program("cc"))
    before = set(os.listdir("/tmp"))
    done = run(
        *("--only", "latency", "throughput", "demand", "cold", "nsjail"),
        *("forkserver", "reference", "--imports", "python"),
        *("--pairs", "2", "--clients", "2"),
        *("--json", str(tmp_path / "figures.json")),
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads((tmp_path / "figures.json").read_text())
    assert (said["version"], said["benchmark"], said["pairs"]) == (1, "whole", 2)
    assert said["left_out"] == {}
    assert len(said["machine"]["load"]) == 3
    assert set(said["latency"]) == {"python"}
    for name, one in said["latency"].items():
        wanted = {"demand", "cold", "forkserver", "reference"}
        lacking = {} if "nsjail" in one["contenders"] else one["left_out"]
        assert set(one["contenders"]) - {"nsjail"} == wanted
        assert lacking in ({}, {"nsjail": "nsjail is not installed"})
        assert all(adds_up(spread, 2) for spread in one["contenders"].values())
        assert one["modules"] == list(scripts.LISTS[name].modules)
        medians = {n: s["median"] for n, s in one["contenders"].items()}
        ratio = medians["demand"] / medians["reference"]
        assert one["ratios"] == {"demand/reference": pytest.approx(ratio, abs=0.01)}
        assert one["ways"] == {"demand": {"demand": 2}}
        assert one["facts"]["reference"]["steps"] > 100
        assert one["facts"]["reference"]["anonymous_mb"] > 1
    rates = said["throughput"]["clients"]
    assert set(rates) == {"1", "2"}
    for of in rates.values():
        assert set(of) == {"demand", "reference"}
        assert all(rate > 0 for one in of.values() for rate in one["rounds"])
    for words in ("first line, python", "launches a second"):
        assert words in done.stdout
    assert "the verifier finds no difference" in done.stdout
    left = {n for n in set(os.listdir("/tmp")) - before if "bench" in n}
    assert left == set()


@pytest.mark.long
def test_memory_is_measured_with_so_many_alive(tmp_path: Path) -> None:
    need(sandboxes())
    place = str(tmp_path / "figures.json")
    done = run("--only", "memory", "--pairs", "2", "--alive", "2", "--json", place)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(Path(place).read_text())
    memory = said["memory"]
    assert [level["alive"] for level in memory["levels"]] == [1, 2]
    for level in memory["levels"]:
        kb = level["activity_kb"]
        # What is shared counts in part for Pss, and not at all for Uss.
        assert kb["Private_Dirty"] <= kb["Uss"] <= kb["Pss"] <= kb["Rss"]
        assert 0 < level["init_kb"]["Uss"] < kb["Rss"]
        assert adds_up(level["launch_ms"], 2)
    assert {"stem", "init"} == set(memory["idle_kb"])
    assert "each of N alive" in done.stdout


@pytest.mark.long
def test_what_a_forked_program_shares_of_sugar3(tmp_path: Path) -> None:
    need(sandboxes())
    place = str(tmp_path / "figures.json")
    done = run("--only", "sharing", "--pairs", "2", "--json", place)
    assert (done.returncode, done.stderr) == (0, "")
    sugar = json.loads(Path(place).read_text())["sharing"]
    share = sugar["forked_kb"]["Private_Dirty"] / sugar["cold_kb"]["Private_Dirty"]
    assert sugar["private_dirty_share"] == pytest.approx(share, abs=0.001)
    assert 0 < share < 1
    assert sugar["shared_anonymous_mb"] > 1


def test_who_is_not_root_is_told_what_is_left_out(tmp_path: Path) -> None:
    need(sandboxes())
    done = run(
        *("--only", "latency", "memory", "pool", "cold", "reference"),
        *("--imports", "nothing", "--pairs", "2", "--json", "-"),
        user=65534,
        group=65534,
        extra_groups=[],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    one = said["latency"]["nothing"]
    assert set(one["contenders"]) == {"cold"}
    assert "which is for root" in one["left_out"]["pool"]
    assert "which is for root" in one["left_out"]["reference"]
    assert "which is for root" in said["left_out"]["memory"]
    assert "left out: memory: " in done.stderr


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    done = run("--only", "windows", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (125, "")
    assert "nothing can be measured: windows: " in done.stderr
    assert done.stderr.endswith("[bench-nothing]\n")


def test_the_scripts_import_what_the_json_names() -> None:
    python, gtk3 = scripts.LISTS["python"], scripts.LISTS["gtk3"]
    assert python.script().splitlines()[1] == f"import {', '.join(scripts.MODULES)}"
    assert len(python.modules) == 20
    assert "gi.repository.Gtk" in gtk3.modules
    for imports in (*scripts.LISTS.values(), scripts.SUGAR3):
        compile(imports.script(waits=True), "script", "exec")
        # What a zygote has must be what it is said to spare its programs.
        known = {m.split(".")[0] for m in sets.SETS[imports.preload]}
        assert {m.split(".")[0] for m in imports.modules} <= known


def test_without_bubblewrap_the_error_says_what_to_install(tmp_path: Path) -> None:
    need(sandboxes())
    done = run("--quick", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (125, "")
    assert "apt install bubblewrap" in done.stderr
    assert done.stderr.endswith("[bench-no-bubblewrap]\n")


@pytest.mark.parametrize(
    "words",
    [("--quick", "--json", "/no/such/place"), ("--plot", "/no/such/place.png")],
)
def test_a_file_that_cannot_be_written_is_said_before_measuring(
    words: tuple[str, ...],
) -> None:
    if "--plot" in words:
        pytest.importorskip("matplotlib")
    done = run(*words)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.endswith("[bench-not-writable]\n")


@pytest.mark.parametrize(
    "words",
    [
        *(("--quick", "--pairs", n) for n in ("0", "1", "x", "-3")),
        ("--only", "latencies"),
        ("--alive", "0"),
        ("--clients", "33"),
        ("--imports", "sugar3"),
        ("--plot", "figures.doc"),
        ("--quick", "--only", "pool"),
    ],
)
def test_mistakes_of_usage(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[usage]" in done.stderr


def test_a_picture_of_the_quick_one_is_refused() -> None:
    done = run("--quick", "--plot", "x.png")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.endswith("[bench-no-picture]\n")


def test_percentiles_are_nearest_ranks() -> None:
    spread = figures.Spread(samples=tuple(float(n) for n in range(10, 0, -1)))
    assert spread.at(0.1) == 1
    assert spread.at(0.9) == 9
    assert spread.at(0.99) == 10
    assert spread.median == 5.5
    assert figures.Spread(samples=(3.0, 1.0)).at(0.9) == 3


def test_without_matplotlib_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HostError, match="drawn by matplotlib") as refused:
        plot.need()
    assert "isolauncher[plot]" in refused.value.hint


def test_a_picture_is_drawn_of_every_panel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    spread = figures.Spread(samples=(2.0, 3.0, 9.0)).as_data()
    kb = {"Pss": 9000, "Uss": 7000, "Private_Dirty": 6900}
    data = {
        "machine": {"cpus": 2, "cpu": "any", "kernel": "6", "load": [0.0]},
        "latency": {
            "python": {
                "contenders": dict.fromkeys(contenders.NAMES, spread),
                "phases_us": {"pool": {"queue": 500, "fork": 700}},
            }
        },
        "memory": {
            "levels": [
                {"alive": n, "activity_kb": kb, "launch_ms": spread} for n in (1, 10)
            ]
        },
    }
    for kind in plot.KINDS:
        plot.draw(data, str(tmp_path / f"p.{kind}"))
        assert (tmp_path / f"p.{kind}").stat().st_size > 5000
    begins = (tmp_path / "p.png").read_bytes()[:8]
    assert begins == b"\x89PNG\r\n\x1a\n"


def test_a_command_that_does_not_run_the_script_says_its_last_words() -> None:
    with pytest.raises(HostError, match="sh ended with 3 .*: no such luck"):
        contenders.cold(("sh", "-c", "echo no such luck >&2; exit 3"))


def test_a_fork_server_without_its_preload_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = scripts.LISTS["python"]
    with forkserver.running(tmp_path, python) as server:
        assert server.once() > 0
    monkeypatch.setattr(scripts.Imports, "statements", lambda self: "")
    with (
        forkserver.running(tmp_path, python) as server,
        pytest.raises(HostError, match="without argparse, asyncio"),
    ):
        server.once()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_is_ended_leaves_no_daemon(tmp_path: Path, number: int) -> None:
    need(sandboxes())
    bench = subprocess.Popen(
        [
            *(sys.executable, "-m", "isolauncher", "bench", "--pairs", "10000"),
            *("--only", "latency", "demand", "--imports", "nothing"),
        ],
        cwd=TOP,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    while not list(tmp_path.glob("*/demand/run/socket")):
        assert bench.poll() is None
        time.sleep(0.02)
    (daemon,) = reference.children(bench.pid)
    ended = os.pidfd_open(daemon)
    try:
        bench.send_signal(number)
        assert bench.wait() == {15: 143, 9: -9}[number]
        assert select.select([ended], [], [], 30)[0]
    finally:
        os.close(ended)
    # Only who is not killed can tidy up.
    assert bool(os.listdir(tmp_path)) == (number == signal.SIGKILL)
