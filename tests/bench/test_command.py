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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.peers import until
from support.powers import installed, need, program, sandboxes

from isolauncher import cgroups, host
from isolauncher.bench import (
    contenders,
    figures,
    lacks,
    machine,
    plot,
    reference,
    scripts,
    tables,
    windows,
)
from isolauncher.errors import HostError
from isolauncher.zygote import sets

TOP = Path(__file__).resolve().parents[2]
SCHEMA = TOP / "docs/schema/bench.json"


def keeps_to_its_schema(said: dict[str, Any]) -> bool:
    need(installed("jsonschema"))
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    # One of its three shapes, and that one by itself, which says what differs.
    kind = {**schema, "$ref": f"#/definitions/{said['benchmark']}"}
    differs = jsonschema.Draft7Validator(kind).iter_errors(said)
    assert [f"{list(d.path)}: {d.message}" for d in differs] == []
    return bool(jsonschema.Draft7Validator(schema).is_valid(said))


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
    assert spread["max"] == max(samples)
    # Of so few there is none.
    assert "p99" not in spread
    return True


def test_quick_measures_both_and_its_json_adds_up(tmp_path: Path) -> None:
    need(sandboxes(), program("bwrap"))
    before = set(os.listdir("/tmp"))
    done = run("--quick", "--pairs", "2", "--json", str(tmp_path / "figures.json"))
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads((tmp_path / "figures.json").read_text())
    assert keeps_to_its_schema(said)
    assert (said["version"], said["benchmark"], said["pairs"]) == (2, "quick", 2)
    assert said["ways"] == {"pool": 2}
    assert f"seed {said['seed']}" in done.stdout
    assert "p99: only of 100 launches or more" in done.stdout
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
        *("--only", "latency", "throughput", "pool", "demand", "cold"),
        *("forkserver", "reference", "--imports", "python"),
        *("--pairs", "2", "--clients", "2", "--seed", "7"),
        *("--json", str(tmp_path / "figures.json")),
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads((tmp_path / "figures.json").read_text())
    assert keeps_to_its_schema(said)
    assert (said["version"], said["benchmark"], said["pairs"]) == (2, "whole", 2)
    assert (said["left_out"], said["failed"], said["seed"]) == ({}, {}, 7)
    assert len(said["machine"]["load"]) == 3
    assert set(said["latency"]) == {"python"}
    for name, one in said["latency"].items():
        wanted = {"pool", "demand", "cold", "forkserver", "reference"}
        assert set(one["contenders"]) == wanted
        assert (one["left_out"], one["failed"]) == ({}, {})
        assert all(adds_up(spread, 2) for spread in one["contenders"].values())
        assert one["modules"] == list(scripts.LISTS[name].modules)
        medians = {n: s["median"] for n, s in one["contenders"].items()}
        ratio = medians["demand"] / medians["reference"]
        assert one["ratios"]["demand/reference"] == pytest.approx(ratio, abs=0.01)
        assert one["ways"] == {"pool": {"pool": 2}, "demand": {"demand": 2}}
        assert one["facts"]["reference"]["steps"] > 100
        # As the zygote's: measured, and not what it was told to have.
        ours = one["facts"]["reference"]["anonymous_mb"]
        assert ours == pytest.approx(one["facts"]["reference"]["zygote_mb"], rel=0.1)
        assert set(one["steps_ms"]) == {"pool", "demand"}
        for who, steps in one["steps_ms"].items():
            taken = one["contenders"][who]["samples"]
            assert [sum(each.values()) for each in steps] == pytest.approx(
                taken, abs=0.02
            )
            # What was awaited is somewhere in the middle, and nothing is negative.
            assert all(0 <= ms < 60_000 for each in steps for ms in each.values())
            assert all(each["script"] > 0.01 for each in steps)
    rates = said["throughput"]["clients"]
    assert set(rates) == {"1", "2"}
    for of in rates.values():
        assert set(of) == {"pool", "demand", "reference"}
        assert all(rate > 0 for one in of.values() for rate in one["rounds"])
        assert of["demand"]["ways"] == {"demand": 3 * said["throughput"]["launches"]}
        assert sum(of["pool"]["ways"].values()) == 3 * said["throughput"]["launches"]
    assert said["throughput"]["not_measured"] == ["cold", "forkserver"]
    for words in (
        *("first line, python", "launches a second", "step by step (ms)", "seed 7"),
        "not measured here      cold, forkserver",
    ):
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
    assert keeps_to_its_schema(said)
    memory = said["memory"]
    assert [level["alive"] for level in memory["levels"]] == [1, 2]
    for level in memory["levels"]:
        kb = level["activity_kb"]
        # What is shared counts in part for Pss, and not at all for Uss.
        assert kb["Private_Dirty"] <= kb["Uss"] <= kb["Pss"] <= kb["Rss"]
        assert 0 < level["init_kb"]["Uss"] < 64
        assert adds_up(level["launch_ms"], 2)
    assert {"stem", "init"} == set(memory["idle_kb"])
    assert (memory["left_out"], memory["failed"]) == ({}, {})
    assert "each of N alive" in done.stdout
    assert "not measured here      demand, exec, cold, " in done.stdout


@pytest.mark.long
def test_what_a_forked_program_shares_of_sugar3(tmp_path: Path) -> None:
    need(sandboxes())
    place = str(tmp_path / "figures.json")
    done = run("--only", "sharing", "--pairs", "2", "--json", place)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(Path(place).read_text())
    assert keeps_to_its_schema(said)
    sugar = said["sharing"]
    share = sugar["forked_kb"]["Private_Dirty"] / sugar["cold_kb"]["Private_Dirty"]
    assert sugar["private_dirty_share"] == pytest.approx(share, abs=0.001)
    assert 0 < share < 1
    assert sugar["shared_anonymous_mb"] > 1


def test_who_is_not_root_is_told_what_is_left_out() -> None:
    done = run(
        *("--only", "latency", "memory", "pool", "cold", "reference"),
        *("--imports", "nothing", "--pairs", "2", "--json", "-"),
        user=65534,
        group=65534,
        extra_groups=[],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    # They were asked for by name.
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    one = said["latency"]["nothing"]
    assert (one["failed"], said["failed"]) == ({}, {})
    assert set(one["contenders"]) == {"cold"}
    assert "which is for root" in one["left_out"]["pool"]
    assert "which is for root" in one["left_out"]["reference"]
    assert "which is for root" in said["left_out"]["memory"]
    assert "left out: memory: " in done.stderr


@pytest.mark.parametrize("named", [False, True])
def test_what_is_not_installed_fails_only_who_asked_for_it_by_name(
    tmp_path: Path, *, named: bool
) -> None:
    # All but nsjail, whose place is taken, so that nothing depends on the machine.
    (tmp_path / "nsjail").touch()
    others = ("nsjail",) if named else ()
    done = run(
        *("--only", "latency", "cold", *others, "--imports", "nothing"),
        *("--pairs", "2", "--json", "-"),
        env={**os.environ, "PATH": str(tmp_path)},
    )
    said = json.loads(done.stdout)["latency"]["nothing"]
    assert set(said["contenders"]) == {"cold"}
    assert done.returncode == int(named), done.stderr
    assert set(said["left_out"]) == set(others)


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    done = run("--only", "windows", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (125, "")
    assert "nothing can be measured: windows: " in done.stderr
    assert done.stderr.endswith("[bench-nothing]\n")


def test_the_scripts_import_what_the_json_names() -> None:
    python, gtk3 = scripts.LISTS["python"], scripts.LISTS["gtk3"]
    assert python.script().splitlines()[2] == f"import {', '.join(scripts.MODULES)}"
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
        ("--seed", "-1"),
        ("--plot", "figures.doc"),
        ("--quick", "--only", "pool"),
    ],
)
def test_mistakes_of_usage(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[usage]" in done.stderr


@pytest.mark.parametrize(
    "words", [("--quick",), ("--windows",), ("--only", "throughput", "sharing")]
)
def test_a_picture_of_what_has_none_is_refused_before_measuring(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = run(*words, "--plot", str(tmp_path / "x.png"))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.endswith("[bench-no-picture]\n")


def test_windows_are_shown_with_what_was_not_measured_of_them() -> None:
    spread = figures.Spread(samples=(2.0, 3.0))
    of = windows.Windows(bundle_id="org.example", cold=spread, isolated=spread, seed=3)
    missing = {"org.none": lacks.Lack(why="it is not installed", failed=False)}
    lines, data = tables.windows((of,), machine.describe(), missing)
    assert keeps_to_its_schema(data)
    assert "left out: org.none: it is not installed" in lines
    assert "order drawn from       seed 3" in lines


def test_percentiles_are_nearest_ranks() -> None:
    spread = figures.Spread(samples=tuple(float(n) for n in range(10, 0, -1)))
    assert spread.at(0.1) == 1
    assert spread.at(0.9) == 9
    assert spread.at(0.99) == 10
    assert spread.median == 5.5
    assert spread.p99 is None
    hundred = figures.Spread(samples=tuple(float(n) for n in range(100)))
    assert hundred.p99 == hundred.as_data()["p99"] == 98
    assert figures.Spread(samples=(3.0, 1.0)).at(0.9) == 3


def test_without_matplotlib_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HostError, match="drawn by matplotlib") as refused:
        plot.need()
    assert "isolauncher[plot]" in refused.value.hint


# Long: matplotlib is among what only the long tests have installed.
@pytest.mark.long
def test_a_picture_is_drawn_of_every_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(installed("matplotlib"))
    # What it writes when it is first imported is nobody's.
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_who_is_ended_leaves_no_daemon_and_no_cgroup(
    tmp_path: Path, number: signal.Signals
) -> None:
    need(sandboxes(), program("cc"))
    bench = subprocess.Popen(
        [
            *(sys.executable, "-m", "isolauncher", "bench", "--pairs", "10000"),
            *("--only", "latency", "demand", "reference", "--imports", "nothing"),
        ],
        cwd=TOP,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    ended: list[int] = []
    # What a daemon that is ended has under way ends by itself; so nobody ends it here.
    which = "plan-*" if number == signal.SIGKILL else "*"
    try:
        # A daemon, who plans, and the reference, whose sandboxes are under way.
        while not any(of_reference(groups := cgroups_of(tmp_path, which))):
            assert bench.poll() is None
            time.sleep(0.02)
        # The kernel's list lacks one where another ends meanwhile (proc(5), children).
        assert until(lambda: len(reference.children(bench.pid)) == 3)
        ended = [os.pidfd_open(child) for child in reference.children(bench.pid)]
        (top,) = tmp_path.iterdir()
        bench.send_signal(number)
        status = -number if number == signal.SIGKILL else 128 + number
        assert bench.wait() == status
        for child in ended:
            assert select.select([child], [], [], 30)[0]
    finally:
        bench.kill()
        bench.wait()
        for child in ended:
            os.close(child)
    assert groups
    assert [place for place in groups if os.path.exists(place)] == []
    # Only who is not killed can tidy up.
    assert top.exists() == (number == signal.SIGKILL)


def cgroups_of(top: Path, which: str) -> list[str]:
    """The daemons' own, below which they and the reference make one for each launch."""
    names = tuple(cgroups.name_for(run) for run in top.glob(f"*/{which}/run"))
    places = {place.path for place in host.this_host().cgroups.values()}
    found = [entry for place in places for entry in os.scandir(place)]
    return [entry.path for entry in found if names and entry.name.startswith(names)]


def of_reference(groups: list[str]) -> Iterator[str]:
    for place in groups:
        with suppress(FileNotFoundError):
            yield from filter(str.isdigit, os.listdir(place))
