# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory: what is told of it, and who goes without when it is short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemons import TOP, Leftovers, Service, nothing_left, service
from support.peers import until
from support.powers import installed, need, root, sandboxes
from support.spoiling import ALICE, launch

from isolauncher import host, memory

HELD_MB = 24
INIT_KB = 64
"""Of its own, when it has become what only waits: see test_init.py."""
HOLDS = f"""
import os
held = bytearray({HELD_MB} << 20)
child = os.fork()
if child == 0:
    held[::4096] = b"x" * len(held[::4096])
    print("child", flush=True)
    input()
    os._exit(0)
os.wait()
"""
MORE_THAN_THERE_IS_MB = 1_000_000
PASSES = "pass\n"
MEMINFO = "MemTotal: 1024000 kB\nMemAvailable: {available}000 kB\n"


@pytest.fixture(autouse=True)
def able() -> None:
    need(sandboxes())


def told(where: Service, uid: int = 0) -> dict[str, dict[str, int]]:
    done = where.isolauncher("stats", "--json", uid=uid)
    assert done.status == 0, done
    found = json.loads(done.out)["memory"]
    assert isinstance(found, dict)
    return found


def test_stats_tell_what_an_activity_has_with_all_its_processes(
    daemon: Service,
) -> None:
    program = daemon.script("holds.py", HOLDS)
    run = launch(daemon, program, uid=ALICE, stdin=True)
    try:
        name = run.started()
        assert run.first_line() == b"child\n"
        row = told(daemon, ALICE)[name]
        assert row["processes"] == 3  # init, the program, its child
        # Parent and child share what neither has written since; the child wrote all.
        assert row["private_dirty_kb"] >= HELD_MB * 1024
        assert row["private_dirty_kb"] <= row["uss_kb"] <= row["pss_kb"] + 4
        assert name in told(daemon)
        assert name not in told(daemon, ALICE + 1)
    finally:
        run.close()


def test_an_init_has_little_of_its_own(daemon: Service) -> None:
    program = daemon.script("waits.py", "print('up', flush=True)\ninput()\n")
    run = launch(daemon, program, uid=ALICE, stdin=True)
    try:
        run.started()
        assert run.first_line() == b"up\n"
        init = parent(int(str(run.words[-1]["pid"])))
        assert until(
            lambda: memory.rollup(init)["Private_Dirty"] < INIT_KB
        ), memory.rollup(init)
    finally:
        run.close()


def test_a_launch_that_the_machine_has_no_memory_for_is_refused_in_words() -> None:
    keep = f"version = 1\n[memory]\nkeep-free-mb = {MORE_THAN_THERE_IS_MB}\n"
    with service(config=keep) as made:
        before = Leftovers.now(made)
        for uid in (0, ALICE):
            done = made.run("--", made.script("passes.py", PASSES), uid=uid)
            assert done.status == 125
            assert "has not enough free memory for another activity" in done.errors
            assert f"{MORE_THAN_THERE_IS_MB} MB are to stay free" in done.errors
            assert "close an activity" in done.errors
            assert done.report is not None
            assert done.report["error"]["code"] == "memory"  # type: ignore[index]
        nothing_left(made, before)


def test_nothing_is_refused_for_memory_where_none_is_to_be_kept() -> None:
    with service(config="version = 1\n[memory]\nkeep-free-mb = 0\n") as made:
        made_script = made.script("passes.py", PASSES)
        assert made.run("--", made_script).status == 0


def test_what_is_left_is_what_the_kernel_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", str(meminfo))
    assert memory.available_kb() is None
    assert memory.is_left(1)  # no word of it is no reason to refuse
    assert not memory.is_scarce()
    meminfo.write_text("MemTotal: 8192 kB\nMemAvailable:   2048 kB\nSwapFree: 4 kB\n")
    assert memory.available_kb() == 2048
    assert memory.is_left(2)
    assert not memory.is_left(3)
    assert not memory.is_scarce()
    meminfo.write_text("MemTotal: 8192 kB\nMemAvailable:   2047 kB\n")
    assert memory.is_scarce()


@contextmanager
def memory_wanted() -> Iterator[None]:
    """A few processes in a cgroup that is too small for what they write."""
    place = host.probe().cgroups.get("memory")
    need(None if place else "no cgroup limits memory here")
    assert place is not None
    top = Path(place.path) / f"isolauncher-wanted-{os.getpid()}"
    limit = "memory.limit_in_bytes" if place.version == 1 else "memory.high"
    writing = (
        "import mmap, sys, tempfile\n"
        "sys.stdin.read(1)\n"
        "with tempfile.TemporaryFile(dir='/var/tmp') as file:\n"
        "    file.truncate(64 << 20)\n"
        "    pages = mmap.mmap(file.fileno(), 64 << 20)\n"
        "    while True:\n"
        "        pages[::4096] = b'x' * len(pages[::4096])\n"
    )
    top.mkdir()
    started = []
    try:
        (top / limit).write_text(str(40 << 20))
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-c", writing], stdin=subprocess.PIPE
            )
            started.append(process)
            (top / "cgroup.procs").write_text(str(process.pid))
            assert process.stdin is not None
            process.stdin.close()
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
        assert until(lambda: _removed(top))


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def test_what_waits_goes_where_memory_is_scarce_and_programs_wait_for_it(
    tmp_path: Path,
) -> None:
    told = os.path.exists(memory.PRESSURE)
    need(root(), None if told else "the kernel does not tell who waits for memory")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO.format(available=900))
    rooms = "[rooms]\nahead = 1\nspares = 1\n"
    config = f"version = 1\n{rooms}[memory]\nstall-ms = 20\n"
    program = str(TOP / "tests/support/short_of_memory.py")
    command = (sys.executable, program, str(meminfo))
    with service(config=config, command=command) as made:
        script = made.script("passes.py", PASSES)
        for _ in range(3):
            assert made.run("--", script).status == 0
            made.at_rest()
        assert ready(made) == 1
        assert ready(made, "spares") >= 2
        with memory_wanted():
            # Within limits of their own: what the machine has is not short.
            time.sleep(2.5)
            assert ready(made) == 1
            meminfo.write_text(MEMINFO.format(available=100))
            assert until(lambda: ready(made) == 0)
            assert ready(made, "spares") == 0
            assert "programs wait for memory" in made.log
            # And no other comes at once in its place.
            assert made.run("--", script).status == 0
            made.at_rest()
            assert ready(made) == ready(made, "spares") == 0


def ready(where: Service, what: str = "rooms") -> int:
    stats = where.ask({"version": 1, "verb": "stats"})["stats"]
    return int(stats[what]["ready"])  # type: ignore[index,call-overload]


SHARE = 0.26
"""Private_Dirty of a program that imports all of `sugar3`, forked, to that of a cold
one; wanted is 0.25, and measured."""
ROOM_KB = {"stem": 6800, "init": 3000}
"""What only the process has, of a room of `sugar3` that waits."""
RUNS_KB = {"program": 4600, "init": 2750}
"""And of a program that imports nothing, from a room of `python`."""


@pytest.mark.timeout(180)
def test_a_program_shares_with_its_zygote_what_it_imports(tmp_path: Path) -> None:
    imported = installed("sugar3.activity.activity", "gi.repository.TelepathyGLib")
    need(imported)
    place = tmp_path / "figures.json"
    command = ("-m", "isolauncher", "bench", "--only", "sharing", "--pairs", "3")
    done = subprocess.run(
        [sys.executable, *command, "--json", str(place)],
        cwd=TOP,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(place.read_text())["sharing"]
    assert found["private_dirty_share"] <= SHARE, found
    for who, most in ROOM_KB.items():
        assert found["idle_kb"][who]["Uss"] <= most, (who, found)


def test_a_program_that_imports_nothing_has_little_of_its_own(daemon: Service) -> None:
    passes = daemon.script("passes.py", PASSES)
    for _ in range(3):
        assert daemon.run("--", passes, uid=ALICE).status == 0
        daemon.at_rest()
    waits = daemon.script("waits.py", "print('runs', flush=True)\ninput()\n")
    run = launch(daemon, waits, uid=ALICE, stdin=True)
    try:
        run.started()
        assert run.first_line() == b"runs\n"
        pid = int(str(run.words[-1]["pid"]))
        own = {"program": memory.rollup(pid)["Uss"]}
        own["init"] = memory.rollup(parent(pid))["Uss"]
        assert all(own[who] <= most for who, most in RUNS_KB.items()), own
    finally:
        run.close()


def parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])
