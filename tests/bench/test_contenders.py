# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is compared: started, waited for in time, in turns, and told of when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from isolauncher.bench import (
    contenders,
    daemons,
    forks,
    forkserver,
    lacks,
    patience,
    scripts,
    talk,
    throughput,
    turns,
    windows,
)
from isolauncher.errors import DaemonError, HostError

TOP = Path(__file__).resolve().parents[2]


def test_a_command_that_does_not_run_the_script_says_its_last_words() -> None:
    with pytest.raises(HostError, match="sh ended with 3 .*: no such luck"):
        contenders.cold(("sh", "-c", "echo no such luck >&2; exit 3"))


def test_one_that_has_never_run_here_is_left_out_and_one_that_has_is_a_failure(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script"
    script.write_text("test -e runs && printf 'x1 99999999999999999'")
    found: dict[str, lacks.Lack] = {}
    once = contenders._command(
        ("sh", "-c", f"cd {tmp_path}; . ./script"), is_ours=False
    )
    with lacks.noted(found, "never"):
        once()
    (tmp_path / "runs").touch()
    assert once() > 0
    (tmp_path / "runs").unlink()
    with lacks.noted(found, "not any more"):
        once()
    assert {name: lack.failed for name, lack in found.items()} == {
        **{"never": False, "not any more": True}
    }


def test_a_command_that_says_nothing_is_not_waited_for_without_an_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    words = ("sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(HostError) as refused:
        contenders.cold(words)
    assert refused.value.code == "bench-timeout"
    # Nor is what it has started left.
    until = time.monotonic() + 20
    while is_alive(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < until
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """And no zombie, whom whoever inherits it reaps when it likes."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_who_is_spoken_to_is_heard_in_time_or_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with talk.running(("cat",), what="cat") as program:
        assert os.getsid(program.pid) == program.pid != os.getsid(0)
        assert [program.ask(word) for word in ("one", "two")] == ["one", "two"]
    with talk.running(("true",), what="true") as program:
        assert program.ask("one") == ""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    monkeypatch.setattr(patience, "END_S", 0.2)
    deaf = "trap '' TERM; echo ready; exec sleep 600"
    with talk.running(("sh", "-c", deaf), what="it") as program:
        assert program.hear(30) == "ready"
        with pytest.raises(HostError, match="it said nothing for too long"):
            program.ask("one")
    assert not is_alive(program.pid)


def test_the_script_is_where_every_contender_can_see_it() -> None:
    for words in contenders.COMMANDS.values():
        # The script lies below the machine's /tmp.
        assert not any(w.startswith(("PrivateTmp", "--private-tmp")) for w in words)


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


def test_a_fork_servers_child_does_not_run_the_program_again(tmp_path: Path) -> None:
    with forkserver.running(tmp_path, scripts.LISTS["python"]) as server:
        assert server.once() > 0
    # As a program's own file it would, in each child.
    program = tmp_path / "program.py"
    program.write_text(
        "import bench_forkserver\n"
        "if __name__ == '__main__':\n    bench_forkserver.serve()\n"
    )
    words = (daemons.PYTHON, str(program), "bench_preloads_python")
    environment = {**daemons.ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    with talk.running(words, what="it", environment=environment) as spoken_to:
        assert spoken_to.ask("one") == "without sparing it the program"


# --------------------------------------------------------------------------- in turns


def test_who_comes_first_is_drawn_anew_for_each_round_and_the_seed_repeats_it() -> None:
    def run(seed: int) -> list[str]:
        order: list[str] = []
        measured = turns.in_turns(
            {n: lambda n=n: order.append(n) or 1.0 for n in "abc"},  # type: ignore[misc]
            40,
            seed=seed,
            warm_up=0,
            rest=lambda: order.append("rest"),
        )
        assert {name: len(s.samples) for name, s in measured.items()} == {
            **{"a": 40, "b": 40, "c": 40}
        }
        return order

    order = run(1)
    assert order == run(1) != run(2)
    # The same rest before each.
    assert order[0::2] == ["rest"] * 120
    rounds = [tuple(order[n : n + 6 : 2]) for n in range(1, 240, 6)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) == 6
    # In no cycle: each comes after each, itself too, from one round to the next.
    assert len({(one[-1], two[0]) for one, two in pairwise(rounds)}) > 6


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (b"x12 34", (12, 34)),
        (b"x12", None),
        (b"x", None),
        (b"", None),
        (b"xa b", None),
        (b"Traceback (most recent", None),
    ],
)
def test_only_the_script_s_own_words_are_times(
    words: bytes, found: tuple[int, int] | None
) -> None:
    said = scripts.Said.read(words)
    assert (said and (said.begun, said.written)) == found


def failing_at(number: int, error: Exception) -> Callable[[], float]:
    done = iter(range(1000))

    def once() -> float:
        if next(done) == number:
            raise error
        return 1.0

    return once


@pytest.mark.parametrize(
    "error", [OSError(5, "no such luck"), ValueError("no such luck")]
)
def test_what_fails_in_its_turn_takes_the_others_not_along(error: Exception) -> None:
    failed: dict[str, lacks.Lack] = {}
    two = {"good": lambda: 1.0, "bad": failing_at(turns.WARM_UP + 4, error)}
    measured = turns.in_turns(two, 9, seed=1, failed=failed)
    assert set(measured) == {"good"}
    assert len(measured["good"].samples) == 9
    assert failed["bad"].failed
    assert failed["bad"].why.startswith("turn 5 of 9: ")
    assert "no such luck" in failed["bad"].why


def test_an_unexpected_error_of_all_is_told_as_one_of_ours() -> None:
    with (
        pytest.raises(HostError, match="the benchmark: OSError: .*no such luck"),
        lacks.named("the benchmark"),
    ):
        turns.in_turns({"a": failing_at(0, OSError(5, "no such luck"))}, 2, seed=1)


def test_windows_are_measured_in_the_same_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids: list[str] = []

    def contender(bundle_id: str, activity_id: str) -> float:
        assert bundle_id == "org.example"
        ids.append(activity_id)
        return 2.0

    rested: list[bool] = []
    monkeypatch.setattr(windows, "_rest", lambda: rested.append(True))
    found = windows.of("org.example", contender, contender, 3, seed=5)
    assert (found.cold.samples, found.isolated.samples) == ((2.0,) * 3, (2.0,) * 3)
    assert found.as_data()["seed"] == 5
    # No two activities are called the same.
    assert len(set(ids)) == len(ids) == len(rested) == 2 * (3 + windows.WARM_UP)


PREPARES_NOTHING = {"rooms": {"wanted": 0, "ending": 0}, "spares": {"wanted": 0}}


def test_a_daemon_that_ends_many_is_waited_for_while_there_are_ever_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    begun = time.monotonic()
    runs = {"for": 0.6}

    def stats(where: str | None) -> dict[str, object]:
        left = max(0.0, begun + runs["for"] - time.monotonic())
        return {"activities": {"stopping": round(left * 1000)}, **PREPARES_NOTHING}

    monkeypatch.setattr(daemons, "ask_stats", stats)
    daemons.wait_for_rest("/w")
    assert time.monotonic() - begun >= 0.5
    # One that gets no further is not.
    monkeypatch.setattr(
        daemons,
        "ask_stats",
        lambda where: {"activities": {"running": 1}, **PREPARES_NOTHING},
    )
    with pytest.raises(DaemonError, match="does not come to rest"):
        daemons.wait_for_rest("/w")


# ------------------------------------------------------------------- ways of launches


def launch(way: str, taken: float) -> contenders.Launch:
    report = {"activity": {"path": way}, "timings_us": {"queue": 200, "total": 700}}
    return contenders.Launch(taken=taken, first_line=1.0, report=report)


def of_pool(
    monkeypatch: pytest.MonkeyPatch, came: Iterator[contenders.Launch]
) -> tuple[Callable[[], float], contenders.Contenders]:
    monkeypatch.setattr(contenders, "from_daemon", lambda *of, **more: next(came))
    monkeypatch.setattr(daemons, "REST_S", 0)
    found = contenders.Contenders(
        once={}, missing={}, launches={}, strays=Counter(), facts={}
    )
    kit = contenders.Kit(top=Path("/"), wanted=frozenset(), stack=None)  # type: ignore[arg-type]
    imports = scripts.LISTS["nothing"]
    return contenders._ours(kit, imports, Path("/s"), "pool", "/w", found), found


def test_a_launch_on_demand_is_no_figure_of_the_pools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came = [launch("pool", 1.5), launch("demand", 50.0), launch("pool", 2.5)]
    once, found = of_pool(monkeypatch, iter(came))
    assert [once(), once()] == [1.5, 2.5]
    assert found.launches == {"pool": [came[0], came[2]]}
    assert found.strays == {"pool": 1}
    found.begin()
    assert (found.launches, found.strays) == ({"pool": []}, {})


def test_where_no_room_is_ever_ready_nothing_is_called_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once, _ = of_pool(monkeypatch, iter([launch("demand", 50.0)] * 9))
    with pytest.raises(DaemonError, match="came not by pool but by demand"):
        once()


# ---------------------------------------------------------------------------- children

RUNS_ON = """
import os
from isolauncher.bench import planned

def write(fd, data):
    raise OSError(28, "nothing more can be told")

write, os.write = os.write, write
try:
    with planned.planned(None, None, None):
        pass
except BaseException:
    pass
write(1, b"here %d\\n" % os.getpid())
"""


def test_a_planner_that_cannot_tell_what_failed_does_not_run_on_as_its_caller() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNS_ON],
        **{"cwd": TOP, "capture_output": True, "text": True, "check": False},
    )
    assert done.stdout.count("here") == 1, done.stdout


def test_a_forked_child_leaves_with_its_status_and_says_why() -> None:
    reader, writer = os.pipe()
    try:
        child = forks.fork(lambda: 7, lambda line: None)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

        def act() -> int:
            raise HostError("no such luck", code="test", hint="")

        child = forks.fork(act, lambda line: os.write(writer, line.encode()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 125
        assert os.read(reader, 100) == b"host: no such luck  [test]"
    finally:
        os.close(reader)
        os.close(writer)


def test_of_clients_that_cannot_all_be_forked_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forked: list[int] = []
    fork = forks.fork

    def two_at_most(act: Callable[[], int], tell: Callable[[str], object]) -> int:
        if len(forked) == 2:
            raise OSError(11, "no more processes")
        forked.append(fork(act, tell))
        return forked[-1]

    monkeypatch.setattr(forks, "fork", two_at_most)
    with pytest.raises(OSError, match="no more processes"):
        throughput._by_clients("/no/socket", Path("/no/script"), 9)(3)
    assert len(forked) == 2
    for pid in forked:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
