# SPDX-License-Identifier: GPL-3.0-or-later
"""``--standalone``: refused, or killed after whichever call, it leaves nothing.

No daemon comes after it that would look after what it left. So its client gives it
back when its daemon was killed, the daemon when its client was, and when both were,
whoever is started next.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemons import PATIENCE_S, TOP, service
from support.powers import landlock, loopback, need, sandboxes
from support.spoiling import HERE, SEPARATOR, Call, boarded, kill

from isolauncher import cgroups, host, records
from isolauncher.spoilt import board as boards
from spoilt.conftest import EVERY, PROGRAM, every
from spoilt.test_killed import WAITS
from spoilt.test_refused import OUTSIDE, lets_pass

MAY_FAIL = {
    ("stem", "", "unshare"),
    ("mapper", "", "unshare"),
    ("daemon", "", "write_file"),
}
"""Where a daemon that starts tries, in children, whether ids can be mapped, and makes
what tells it which file systems do so."""


@dataclass(frozen=True)
class Remains:
    """What a standalone launch can leave, whoever its parent is by now."""

    processes: frozenset[int]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]


@dataclass
class Alone:
    """Where standalone launches of a test happen, and the board they look at."""

    top: Path
    board: boards.Board

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> Process:
        script = HERE / "spoilt" / "standalone.py"
        return subprocess.Popen(
            [sys.executable, str(script), self.board.path, str(self.top), *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=TOP,
        )

    def launch(self) -> Process:
        program = str(self.top / "program.py")
        return self.start("--policy", "every", "--", program, str(self.top / "hers"))

    def ran(self) -> bool:
        """Whether the program ran since this was last asked."""
        try:
            (self.top / "hers" / "ran").unlink()
        except FileNotFoundError:
            return False
        return True

    def record(self) -> list[Call]:
        """Every call of one launch that succeeds, in each actor's order."""
        self.board.set(boards.RECORD)
        done = end(self.launch())
        assert done == (0, b"ran\n", b"")
        assert self.ran()
        return [
            Call(actor, number, *line.split(SEPARATOR, 2))
            for actor in boards.ACTORS
            for number, line in enumerate(self.board.calls(actor))
        ]

    def remains(self) -> Remains:
        name = cgroups.name_for(self.top / "run")
        return Remains(
            processes=frozenset(boarded(self.board)),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            cgroups=frozenset(
                os.path.join(directory, inside)
                for directory, names, _ in os.walk("/sys/fs/cgroup")
                for inside in names
                if name in f"{directory}/{inside}"
            ),
            files=frozenset(
                str(path)
                for place in ("run", "state", "hers")
                for path in (self.top / place).rglob("*")
            ),
        )

    def nothing_left(self, before: Remains) -> list[str]:
        """What is not as before; waits for what is on its way out."""
        deadline = time.monotonic() + 15
        while (now := self.remains()) != before and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
        odd = []
        for field in Remains.__dataclass_fields__:
            was, is_ = getattr(before, field), getattr(now, field)
            if was != is_:
                odd.append(f"{field}: left {is_ - was}, gone {was - is_}")
        return odd


Process = subprocess.Popen[bytes]


def end(process: Process) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def daemon_of(client: Process) -> int:
    """The pid of the daemon that a client has for itself: its only child."""
    children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text()
    (found,) = children.split()
    return int(found)


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    need(sandboxes(), landlock(), loopback())
    # Not below /tmp: every activity has that anew.
    top = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/srv"))
    place = Path(f"/dev/shm/isolauncher-board-{os.getpid()}-{time.monotonic_ns()}")
    try:
        top.chmod(0o755)
        for name in ("run", "state", "policies", "hers"):
            (top / name).mkdir(mode=0o755)
        (top / "program.py").write_text(PROGRAM)
        (top / "waits.py").write_text(WAITS)
        policy = EVERY.format(inner="caller", write=top / "hers")
        (top / "policies" / "every.toml").write_text(policy)
        made = Alone(top, boards.Board(str(place)))
        # The first one makes the directories.
        made.record()
        yield made
    finally:
        place.unlink(missing_ok=True)
        shutil.rmtree(top)


# ---------------------------------------------------------------------------- refused


def refuse(alone: Alone, table: Sequence[Call], number: int) -> list[str]:
    faults = []
    before = alone.remains()
    for call in table:
        what = f"{call} refused with {errno.errorcode[number]}"
        alone.board.set(boards.REFUSE, call.actor, call.number, number)
        status, out, err = end(alone.launch())
        told, ran = err.decode(), alone.ran()
        if not alone.board.hit:
            faults.append(f"{what}: was not made")
        tried = (call.actor, call.step, call.name) in MAY_FAIL
        if tried or call.name == "setns" or lets_pass(call, number) is not None:
            if (status, out, ran) != (0, b"ran\n", True):
                faults.append(f"{what}: {status} {told}")
        elif (status, out, ran) != (125, b"", False):
            faults.append(f"{what}: {status} {told}")
        elif told.count("\n") != 1 or os.strerror(number) not in told:
            faults.append(f"{what}: the line is {told}")
        elif (call.step or OUTSIDE[call.actor]) not in told:
            faults.append(f"{what}: the line names no step: {told}")
        faults += [f"{what}: {odd}" for odd in alone.nothing_left(before)]
    return faults


@pytest.mark.timeout(240)
def test_whichever_call_is_refused_nothing_runs_and_nothing_is_left(
    alone: Alone,
) -> None:
    table = alone.record()
    few = list(every(table, len(table) // 3))
    faults = refuse(alone, few, errno.EPERM)
    assert not faults, "\n".join(faults)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_call_may_be_refused(alone: Alone) -> None:
    faults = refuse(alone, alone.record(), errno.ENOSPC)
    assert not faults, "\n".join(faults)


# ----------------------------------------------------------------------------- killed


VICTIMS = ("daemon", "client", "both")


def interrupt(alone: Alone, call: Call, victim: str) -> Iterator[str]:
    """One row: kill after a call; yields what is not as promised."""
    what = f"{victim} killed after {call}"
    before = alone.remains()
    alone.board.set(boards.PAUSE, call.actor, call.number)
    client = alone.launch()
    if not alone.board.wait_paused(30):
        alone.board.go_on()
        yield f"{what}: it was not made: {end(client)}"
        return
    try:
        daemon = daemon_of(client)
    except BaseException:
        # Or it stands still for ever.
        alone.board.go_on()
        end(client)
        raise
    if victim in ("client", "both"):
        client.kill()
    if victim in ("daemon", "both"):
        kill(daemon)
    alone.board.go_on()
    status, out, err = end(client)
    if victim == "daemon" and (status, b"went away" in err) != (125, True):
        yield f"{what}: the client ended with {status}: {err!r}"
    if out or alone.ran():
        yield f"{what}: the program ran"
    if victim == "both":
        yield from _next_one(alone, what)
    for odd in alone.nothing_left(before):
        yield f"{what}: {odd}"


def _next_one(alone: Alone, what: str) -> Iterator[str]:
    alone.board.set(boards.RECORD)
    status, _, err = end(alone.launch())
    if status != 0 or not alone.ran():
        yield f"{what}: the next launch: {status} {err!r}"


def interrupt_all(alone: Alone, pairs: Sequence[tuple[Call, str]]) -> None:
    faults = [fault for pair in pairs for fault in interrupt(alone, *pair)]
    assert not faults, "\n".join(faults)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", VICTIMS)
def test_whoever_is_killed_nothing_is_left(alone: Alone, victim: str) -> None:
    table = alone.record()
    interrupt_all(alone, [(c, victim) for c in every(table, len(table) // 2)])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
def test_whoever_is_killed_after_any_call_nothing_is_left(
    alone: Alone, victim: str
) -> None:
    interrupt_all(alone, [(c, victim) for c in alone.record()])


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_runs_ends_with_its_daemon_or_its_client(
    alone: Alone, victim: str
) -> None:
    before = alone.remains()
    with running(alone) as (client, _):
        daemon = daemon_of(client)
        if victim == "both":
            # Or it ends what its client has left before its own turn comes.
            os.kill(daemon, signal.SIGSTOP)
        if victim in ("client", "both"):
            client.kill()
        if victim in ("daemon", "both"):
            kill(daemon)
        if victim == "both":
            assert alone.remains().processes != before.processes
            assert list(_next_one(alone, victim)) == []
        # Its input has not ended: it does not end by itself.
        assert alone.nothing_left(before) == []
        _, err = client.communicate(timeout=PATIENCE_S)
    if victim == "daemon":
        assert client.returncode == 125
        assert err.count(b"\n") == 1
        assert b"the standalone daemon went away" in err


@contextmanager
def running(alone: Alone) -> Iterator[tuple[Process, int]]:
    """A client whose program runs and waits for its input, and where that is from."""
    alone.board.set(boards.RECORD)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        client = alone.start("--", str(alone.top / "waits.py"), stdin=reader)
        assert client.stdout is not None
        assert client.stdout.readline() == b"runs\n"
        yield client, writer
    finally:
        os.close(reader)
        os.close(writer)


def test_one_that_runs_is_left_alone_by_the_next(alone: Alone) -> None:
    before = alone.remains()
    with running(alone) as (client, writer):
        assert list(_next_one(alone, "")) == []
        os.write(writer, b"31\n")
        assert end(client) == (31, b"", b"")
    assert alone.nothing_left(before) == []


# -------------------------------------------------------------- what a daemon finds


def test_a_daemon_gives_back_what_a_standalone_one_left() -> None:
    """Its processes too, where a record was never written."""
    need(sandboxes())
    places = sorted({place.path for place in host.probe().cgroups.values()})
    need(None if places else "there is no cgroup to leave")
    with service() as made:
        made.stop()
        name = cgroups.name_for(made.run_dir)
        ours = f"{os.getpid()}-{records.start_time(os.getpid())}"
        dead = [Path(f"{place}/{name}.alone-{os.getpid()}-1") for place in places]
        alive = [Path(f"{place}/{name}.alone-{ours}") for place in places]
        # No process ever has the largest of all numbers.
        tried = [Path(f"{place}/{host.TRIAL}{2**31 - 1}") for place in places]
        try:
            for directory in (*dead, *alive, *tried):
                (directory / "a").mkdir(parents=True)
            for directory in tried:
                (directory / "a").rmdir()
            with subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"],
                stdin=subprocess.PIPE,
            ) as member:
                for directory in dead:
                    (directory / "a" / "cgroup.procs").write_text(str(member.pid))
                made.start()
                assert member.wait(PATIENCE_S) == -signal.SIGKILL
            made.stop()
            assert [d for d in (*dead, *tried) if d.exists()] == []
            assert [d for d in alive if not (d / "a").exists()] == []
        finally:
            for directory in (*dead, *alive, *tried):
                for path in (directory / "a", directory):
                    if path.exists():
                        path.rmdir()
