# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair of processes is forked before anybody asks, and is given to one launch.

What a launch is like in one is what it is like in any other: test_road.py has both.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.daemons import Leftovers, Service, nothing_left, service
from support.peers import until, zygotes
from support.powers import need, sandboxes
from support.spoiling import Run, launch

from isolauncher import pool
from isolauncher.daemon import Daemon
from isolauncher.log import Log

CONFIG = "version = 1\n[rooms]\nahead = 0\nspares = 1\n"
SLEEPS = "print('runs', flush=True)\ninput()\n"
SPARE = "isolauncher: init, spare"
HELD = ["null", "null", "log", "socket:", "socket:"]


@pytest.fixture
def where() -> Iterator[Service]:
    need(sandboxes())
    with service(config=CONFIG) as made:
        yield made


def children(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().strip("\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def spares(where: Service) -> list[int]:
    """The inits that have been forked ahead for scripts."""
    return [p for p in children(zygotes(where)["python"]) if title(p) == SPARE]


def ready(where: Service) -> int:
    """The one that there is in the end."""
    assert until(lambda: len(spares(where)) == 1)
    where.at_rest()
    (pid,) = spares(where)
    return pid


@contextmanager
def running(where: Service, count: int = 1) -> Iterator[list[int]]:
    """Programs that were launched at once, and run; the pids of their inits."""
    program = where.script("sleeps.py", SLEEPS)
    with ExitStack() as stack:
        runs: list[Run] = []
        for _ in range(count):
            runs.append(launch(where, program, uid=12345, stdin=True))
            stack.callback(runs[-1].close)
        for run in runs:
            run.started()
            assert run.first_line() == b"runs\n"
        yield [parent(int(str(run.words[-1]["pid"]))) for run in runs]
        for run in runs:
            os.write(run.input, b"\n")
            said = run.end()
            assert said is not None
            assert said["status"] == 0


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_launch_is_given_the_pair_and_the_next_one_another(where: Service) -> None:
    first = ready(where)
    with running(where) as inits:
        assert inits == [first]
    second = ready(where)
    assert second != first
    with running(where) as inits:
        assert inits == [second]


def test_of_launches_at_once_one_has_the_pair(where: Service) -> None:
    spare = ready(where)
    with running(where, count=6) as inits:
        assert len(set(inits)) == 6
        assert inits.count(spare) == 1


def test_a_pair_holds_nothing_but_its_channels(where: Service) -> None:
    init = ready(where)
    (stem,) = children(init)
    for pid in (init, stem):
        # The daemon's log, and two sockets: to the daemon and to one another; once it
        # has rehearsed.
        assert until(lambda pid=pid: held(pid) == HELD), held(pid)
        # And in namespaces in which there is nothing; what is mounted can go.
        for name, own in (("net", True), ("ipc", True), ("uts", True), ("mnt", False)):
            link = os.readlink(f"/proc/{pid}/ns/{name}")
            assert (link != os.readlink(f"/proc/self/ns/{name}")) == own, name
            assert link == os.readlink(f"/proc/{init}/ns/{name}")


def test_a_pair_in_another_network_than_the_policys_is_not_given(
    where: Service,
) -> None:
    """And the next one is for who launched last."""
    where.policy(
        "host",
        'version = 1\nextends = "default"\n[match]\ncallers = ["*"]\n'
        '[network]\naccess = "host"\n',
    )
    script = where.script(
        "net.py", "import os; print(os.readlink('/proc/self/ns/net'))"
    )
    host = os.readlink("/proc/self/ns/net")
    ready(where)
    for policy, shares in (("host", True), ("host", True), ("default", False)):
        first = ready(where)
        done = where.run("--policy", policy, "--", script)
        assert done.status == 0, done
        assert (done.text.strip() == host) == shares
        assert title(first) == ""
        now = os.readlink(f"/proc/{ready(where)}/ns/net")
        assert (now == host) == shares


def held(pid: int) -> list[str]:
    found = []
    for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        with suppress(FileNotFoundError):  # closed just now
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            found.append(os.path.basename(link).partition("[")[0])
    return found


@pytest.mark.parametrize("who", ["init", "stem"])
def test_a_pair_that_has_ended_is_passed_over(where: Service, who: str) -> None:
    init = ready(where)
    os.kill(init if who == "init" else children(init)[0], signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{init}").exists() or who == "stem")
    with running(where) as inits:
        assert inits != [init]
    assert until(lambda: title(init) == "")


def test_a_pair_goes_with_its_zygote(where: Service) -> None:
    spare, zygote = ready(where), zygotes(where)["python"]
    os.kill(zygote, signal.SIGKILL)
    assert until(lambda: title(spare) == "")
    with running(where) as inits:
        assert inits != [spare]
    assert ready(where) != spare


@pytest.mark.parametrize("who", ["init", "stem"])
@pytest.mark.parametrize("victim", ["daemon", "pair"])
def test_a_launch_that_stands_still_in_a_pair_leaves_nothing(
    where: Service, who: str, victim: str
) -> None:
    init = ready(where)
    (stem,) = children(init)
    before = Leftovers.now(where)
    os.kill(init if who == "init" else stem, signal.SIGSTOP)
    run = launch(where, where.script("sleeps.py", SLEEPS), uid=12345)
    assert until(lambda: os.listdir(where.run_dir / "activities") != [])
    if victim == "daemon":
        where.stop(signal.SIGKILL)
        assert run.end() is None
        where.start()
    else:
        os.kill(init if who == "init" else stem, signal.SIGKILL)
        said = run.end()
        assert said is not None
        assert (said["event"], said["code"]) == ("refused", "sandbox-died"), said
    run.close()
    nothing_left(where, before)
    with running(where) as inits:
        assert inits != [init]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pair_goes_with_the_daemon(where: Service, number: int) -> None:
    spare = ready(where)
    (stem,) = children(spare)
    where.stop(number)
    assert until(lambda: title(spare) == title(stem) == "")
    where.start()


@pytest.mark.parametrize("more", ["[memory]\nkeep-free-mb = 1000000\n", "spares = 0\n"])
def test_there_is_none_where_memory_is_short_or_none_is_wanted(more: str) -> None:
    need(sandboxes())
    config = CONFIG.replace("spares = 1\n", "") if "spares" in more else CONFIG
    with service(config=config + more) as where:
        stats = where.at_rest()
        assert stats["spares"] == {"ready": 0, "wanted": 0}
        assert spares(where) == []


def test_where_launches_follow_each_other_the_next_pair_is_forked_at_once() -> None:
    async def check() -> None:
        one = pool.Pool(Log(quiet=True), died=lambda zygote: None, spares=True)
        zygote = SimpleNamespace(
            asked=-1.0, pause=0.0, spare_due=None, dead=False, set_name="python"
        )
        for pause in (pool.SPARE_AFTER_S, pool.SOON_S, pool.SOON_S):
            one._asked(zygote)  # type: ignore[arg-type]
            assert zygote.pause == pause
        zygote.asked -= pool.OFTEN_S
        one._asked(zygote)  # type: ignore[arg-type]
        assert zygote.pause == pool.SPARE_AFTER_S
        zygote.spare_due.cancel()

    asyncio.run(check())


@pytest.mark.parametrize("busy", [True, False])
def test_the_next_uid_is_looked_at_when_no_launch_is_under_way(busy: bool) -> None:
    """To ask for its names is most of what a lease costs, and may take its time."""
    done: list[str] = []
    one = SimpleNamespace(
        _uid_due=None,
        alone=False,
        closing=asyncio.Event(),
        starting=lambda: busy,
        ledger=SimpleNamespace(prepare=lambda: done.append("looked")),
        prepare_uid_later=lambda: done.append("later"),
    )
    Daemon._prepare_uid(one)  # type: ignore[arg-type]
    assert done == (["later"] if busy else ["looked"])


def test_a_launch_finds_that_its_uid_has_been_looked_at(where: Service) -> None:
    ready(where)
    assert where.process is not None
    with tempfile.TemporaryDirectory() as place:
        calls = f"{place}/calls"
        tracer = subprocess.Popen(
            ["strace", "-qq", "-e", "openat", "-o", calls, "-p", str(where.process.pid)]
        )
        try:
            assert until(lambda: tracer_of(where.process.pid) == tracer.pid)
            with running(where):
                during = Path(calls).read_text()
            # By then it has one; the next one's may be looked at as long as it runs.
            before, mapped, _ = during.partition("/uid_map")
            assert "activities" in before
            assert mapped
            assert "/etc/group" not in before
            assert until(lambda: "/etc/group" in Path(calls).read_text())
        finally:
            tracer.terminate()
            tracer.wait()


def tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])
