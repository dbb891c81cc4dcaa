# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs goes on, nothing else is left: whoever is killed, after whichever call.

The table is a recording of one launch times who is there to be killed at each call.
The launch stops after the call, the victim gets SIGKILL, the rest goes on: that
launch is gone without a trace, one that ran before is not touched, and the next works.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from support.powers import landlock, loopback, need, sandboxes
from support.spoiling import (
    ALICE,
    Call,
    Run,
    Spoilt,
    Trace,
    find,
    kill,
    launch,
    nothing_left,
    spoilt_service,
    zygote,
)

from isolauncher import plan, steps
from isolauncher.channel import Channel
from isolauncher.errors import StepError
from isolauncher.pool import Zygote
from isolauncher.reopen import Opened
from isolauncher.rooms import Room
from isolauncher.rooms import _both as both
from isolauncher.sandbox import Sandbox, tell
from isolauncher.spoilt import board as boards
from spoilt.conftest import Full, every, full_for
from spoilt.test_refused import record

WAITS = "import sys\nprint('runs', flush=True)\nsys.exit(int(input()))\n"


FIRST = {(p.actor, steps.name_of(p.step)) for p in plan.first(own_net=True)}


@pytest.fixture(scope="module")
def doomed() -> Iterator[Full]:
    """A daemon of this module's own: it will be killed."""
    need(sandboxes(), landlock(), loopback())
    with spoilt_service() as made:
        yield from full_for(made)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Full]:
    """A daemon that waits for a launch for no longer than a second."""
    need(sandboxes(), landlock(), loopback())
    with spoilt_service(config="version = 1\n[limits]\nlaunch-ms = 1000\n") as made:
        yield from full_for(made)


def steady(of: Spoilt) -> tuple[Run, str]:
    """A running activity that ends with the status it is told."""
    of.record()
    script = of.service.script("waits.py", WAITS)
    run = launch(of.service, script, stdin=True)
    name = run.started()
    assert run.first_line() == b"runs\n"
    return run, name


def ends_with(run: Run, status: int) -> None:
    run.tell(b"%d\n" % status)
    said = run.end()
    run.close()
    assert said is not None
    assert (said["event"], said["status"]) == ("exited", status), said


def restart(of: Spoilt, *clients: tuple[Run, str]) -> None:
    """A new daemon in the place of a dead one; its clients come back, and at once.

    It waits ten seconds for them: on a busy machine a zygote may take longer.
    """

    def come_back() -> None:
        for run, name in clients:
            run.attach(of.service, name)

    of.service.start(serving=come_back)
    for run, name in clients:
        said = run.hear()
        assert said is not None, of.service.log[-3000:]
        assert said["event"] == "started", (said, of.service.log[-3000:])
        assert said["id"] == name


def part_of_the_way(full: Full, actor: str, share: float) -> int:
    """The number of a call of a launch: how many there are is the machine's affair.

    Of those before it was told anything none: then it was nobody's yet.
    """
    numbers = [
        call.number
        for call in record(full)
        if call.actor == actor and (call.actor, call.step) not in FIRST
    ]
    return numbers[round(share * (len(numbers) - 1))]


# ------------------------------------------------------------- while a launch goes on


def table(calls: list[Call]) -> list[tuple[Call, str]]:
    """Every call with everyone who is there when it has been made."""
    mapped = next(
        c.number for c in calls if (c.actor, c.step) == ("init", "map-identity")
    )
    pairs = []
    for call in calls:
        victims = ["daemon", "zygote"]
        if call.actor in ("init", "stem", "mapper"):
            victims.append("init")
        if call.actor == "stem" or (call.actor == "init" and call.number >= mapped):
            victims.append("stem")
        pairs += [(call, victim) for victim in victims]
    return pairs


def interrupt(
    full: Full, call: Call, victim: str, bystander: tuple[Run, str]
) -> Iterator[str]:
    """One row of the table; yields what is not as promised."""
    of = full.of
    what = f"{victim} killed after {call}"
    before = Trace.now(of)
    if victim in ("daemon", "zygote"):
        before = replace(before, descriptors=None)
    of.board.set(boards.PAUSE, call.actor, call.number)
    run = full.launch()
    if not of.board.wait_paused(30):
        of.board.go_on()
        yield f"{what}: it was not made"
        return
    if victim == "daemon":
        of.service.stop(signal.SIGKILL)
    elif victim == "zygote":
        kill(zygote(of, "python"))
    else:
        kill(find(of, victim, not_in=before.processes))
    of.board.go_on()
    said = run.end()
    printed, ran = run.printed(), full.ran()
    run.close()
    if victim == "daemon":
        if said is not None:
            yield f"{what}: the client heard {said}"
        restart(of, bystander)
    elif (victim, call.actor) == ("zygote", "zygote") and ran:
        # Killed while it forked: its successor was asked for another sandbox.
        printed, ran = b"", False
    elif said is None or (said["event"], said.get("exit_status")) != ("refused", 125):
        yield f"{what}: the client heard {said}"
    if printed or ran:
        yield f"{what}: the program ran"
    try:
        nothing_left(of, before, what)
    except AssertionError as e:
        yield str(e)
    of.record()
    run = full.launch()
    said = run.end()
    run.close()
    if said is None or said.get("status") != 0 or not full.ran():
        yield f"{what}: the next launch: {said}"
    try:
        # The next row starts from here.
        nothing_left(of, before, f"{what}: the next launch")
    except AssertionError as e:
        yield str(e)


def interrupt_all(full: Full, pairs: Iterator[tuple[Call, str]]) -> int:
    faults: list[str] = []
    tried = 0
    bystander = steady(full.of)
    for call, victim in pairs:
        tried += 1
        faults += interrupt(full, call, victim, bystander)
    try:
        ends_with(bystander[0], 42)
    except AssertionError as e:
        faults.append(f"the activity that ran: {e}")
    assert not faults, "\n".join(faults)
    return tried


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["daemon", "zygote", "init", "stem"])
def test_a_launch_whose_helper_is_killed_leaves_nothing(
    doomed: Full, victim: str
) -> None:
    pairs = [p for p in table(record(doomed)) if p[1] == victim]
    # A new daemon, or a new zygote, costs a second or two on a busy machine.
    least = 3 if victim in ("daemon", "zygote") else 6
    assert interrupt_all(doomed, every(pairs, len(pairs) // least)) >= least


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("victim", ["daemon", "zygote", "init", "stem"])
def test_a_launch_whose_helper_is_killed_after_any_call_leaves_nothing(
    doomed: Full, victim: str
) -> None:
    pairs = [p for p in table(record(doomed)) if p[1] == victim]
    assert interrupt_all(doomed, iter(pairs)) == len(pairs)


@pytest.mark.parametrize(
    ("actor", "share"),
    [("init", 0.0), ("init", 0.5), ("stem", 0.0), ("stem", 0.8)],
)
def test_a_launch_that_stands_still_when_its_daemon_is_killed_is_ended_by_the_next(
    doomed: Full, actor: str, share: float
) -> None:
    of = doomed.of
    number = part_of_the_way(doomed, actor, share)
    before = replace(Trace.now(of), descriptors=None)
    of.board.set(boards.PAUSE, actor, number)
    run = doomed.launch()
    assert of.board.wait_paused(30)
    of.service.stop(signal.SIGKILL)
    assert run.end() is None
    of.service.start()
    try:
        # It is not told to go on: nobody but the daemon can have ended it.
        nothing_left(of, before)
    finally:
        of.board.go_on()
    assert run.printed() == b""
    run.close()
    assert not doomed.ran()


def test_a_launch_ends_with_a_zygote_that_was_killed_for_not_answering(
    doomed: Full,
) -> None:
    of = doomed.of
    before = replace(Trace.now(of), descriptors=None)
    of.board.set(boards.PAUSE, "init", 100)
    first = doomed.launch()
    assert of.board.wait_paused(30)
    stopped = zygote(of, "python")
    kill(stopped, signal.SIGSTOP)
    # What was paused stays so: it is told to go on by a word of its own.
    of.record()
    second = doomed.launch()
    said = first.end()
    assert first.printed() == b""
    first.close()
    assert said is not None
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    said = second.end()
    assert second.printed() == b"ran\n"
    second.close()
    assert said is not None
    assert said.get("status") == 0, said
    assert doomed.ran()
    assert zygote(of, "python") != stopped
    nothing_left(of, before)


@pytest.fixture
def zygotes() -> Iterator[tuple[Channel, socket.socket]]:
    """The channel of one, and its own end of it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        yield Channel(ours), its


@pytest.mark.parametrize("how", ["lives", "retired", "ended unheard", "killed"])
def test_a_launch_ends_with_a_zygote_that_is_killed_while_its_paths_are_opened(
    how: str, zygotes: tuple[Channel, socket.socket]
) -> None:
    channel, its = zygotes
    made = Zygote(set_name="python", process=None, channel=channel)  # type: ignore[arg-type]
    if how != "lives":
        its.close()
    made.dead, made.killed = how in ("retired", "killed"), how == "killed"
    forked = Sandbox(channel=None, init=-1, pid=0, zygote=made)  # type: ignore[arg-type]
    reader, writer = os.pipe()
    os.close(writer)
    opened = Opened(path="/", kind="directory", fd=reader)
    of = Room(id="a")

    async def forking() -> Sandbox:
        return forked

    async def opening() -> tuple[tuple[Opened, ...], None]:
        return (opened,), None

    if how in ("lives", "retired"):
        assert asyncio.run(both(of, forking(), opening())) == (
            forked,
            ((opened,), None),
        )
        os.close(reader)
        return
    with pytest.raises(StepError) as caught:
        asyncio.run(both(of, forking(), opening()))
    assert caught.value.code == "zygote-died"
    # Whoever gives up has it, to end it; nobody has what was opened for it.
    assert of.sandbox is forked
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_a_client_that_goes_away_during_the_fork_disturbs_no_other(
    doomed: Full,
) -> None:
    of = doomed.of
    before = replace(Trace.now(of), descriptors=None)
    of.board.set(boards.PAUSE, "zygote", 0)
    run = doomed.launch()
    assert of.board.wait_paused(30)
    run.close()
    for _ in range(3):
        # An answer to another shows that the daemon has heard of the end.
        assert of.service.ask({"version": 1, "verb": "ps"})["event"] == "list"
    waiting = doomed.launch()
    of.board.go_on()
    said = waiting.end()
    waiting.close()
    assert said is not None
    assert said.get("status") == 0, said
    assert doomed.ran()
    nothing_left(of, before)
    # What the zygote answers is still taken for the launch that asked.
    of.board.set(boards.REFUSE, "zygote", 0, errno.ENOSPC)
    run = doomed.launch()
    said = run.end()
    run.close()
    assert said is not None
    assert said["step"] == "zygote", said
    assert os.strerror(errno.ENOSPC) in str(said["message"]), said
    nothing_left(of, before)


def test_a_daemon_that_is_told_to_end_ends_what_does_not_run_yet_and_nothing_else(
    doomed: Full,
) -> None:
    of = doomed.of
    before = replace(Trace.now(of), descriptors=None)
    bystander = steady(of)
    with_it = replace(Trace.now(of), descriptors=None)
    of.board.set(boards.PAUSE, "init", 100)
    run = doomed.launch()
    assert of.board.wait_paused(30)
    of.service.stop(signal.SIGTERM)
    of.board.go_on()
    said = run.end()
    assert said is None or said["event"] == "refused", said
    assert run.printed() == b""
    run.close()
    assert not doomed.ran()
    assert bystander[0].end() is None
    restart(of, bystander)
    nothing_left(of, with_it)
    ends_with(bystander[0], 5)
    nothing_left(of, before)


def test_a_sandbox_that_has_gone_is_not_taken_for_a_client_that_has() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(StepError) as caught:
        tell(Channel(ours), "go", {"verb": "go"})
    assert (caught.value.step, caught.value.code) == ("go", "sandbox-died")


@pytest.mark.parametrize(
    ("actor", "share"),
    [("init", 0.0), ("init", 0.5), ("stem", 0.0), ("stem", 0.8)],
)
def test_a_launch_that_stands_still_ends_in_time(
    hasty: Full, actor: str, share: float
) -> None:
    of = hasty.of
    number = part_of_the_way(hasty, actor, share)
    before = replace(Trace.now(of), descriptors=None)
    of.board.set(boards.PAUSE, actor, number)
    run = hasty.launch()
    said = run.end()
    run.close()
    assert of.board.hit
    # It never goes on by itself: whoever stood still was killed.
    assert not hasty.ran()
    assert said is not None
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    assert said["code"] == "launch-timeout", said
    nothing_left(of, before)
    of.record()
    run = hasty.launch()
    said = run.end()
    run.close()
    assert said is not None
    assert said.get("status") == 0, said
    assert hasty.ran()


# ---------------------------------------------------------------------- while it runs


@dataclass(frozen=True)
class Survivors:
    """Programs of a daemon that was killed; another one has taken its place.

    ``stopped`` was stopped before, ``ended`` ended and the init of ``killed`` was
    killed while there was none, and ``lost`` has lost its client.
    """

    of: Spoilt
    before: Trace
    command: subprocess.Popen[bytes]
    lost: subprocess.Popen[bytes]
    kept: tuple[Run, str]
    stopped: tuple[Run, str]
    ended: tuple[Run, str]
    killed: tuple[Run, str]


@pytest.fixture(scope="module")
def survivors(doomed: Full) -> Survivors:
    of, where = doomed.of, doomed.of.service
    before = replace(Trace.now(of), descriptors=None)
    script = where.script("waits.py", WAITS)
    of.record()
    clients = {}
    for name in ("commands", "lost"):
        clients[name] = where.start_client(
            *("run", "--id", name, "--", script), uid=ALICE, stdin=subprocess.PIPE
        )
        out = clients[name].stdout
        assert out is not None
        assert out.readline() == b"runs\n"
        where.wait_until_told(name)

    def another(actor: str) -> tuple[tuple[Run, str], int]:
        there = Trace.now(of).processes
        run = steady(of)
        return run, find(of, actor, not_in=there)

    (kept, _), (stopped, stem) = another("init"), another("stem")
    (ended, end), (killed, init) = another("init"), another("init")
    kill(stem, signal.SIGSTOP)
    where.stop(signal.SIGKILL)
    for run in (kept, stopped, ended, killed):
        assert run[0].end() is None
    clients["lost"].kill()
    clients["lost"].wait()
    ended[0].tell(b"55\n")
    assert ended[0].printed() == b""
    _gone(end)
    kill(init)
    where.start()
    return Survivors(
        *(of, before, clients["commands"], clients["lost"]),
        *(kept, stopped, ended, killed),
    )


def attached_end(of: Spoilt, client: tuple[Run, str]) -> dict[str, object]:
    """What the next daemon says of an activity that has ended."""
    run, name = client
    run.attach(of.service, name)
    said = run.end()
    run.close()
    assert said is not None
    return said


def test_the_command_waits_for_the_next_daemon_and_ends_as_its_program(
    survivors: Survivors,
) -> None:
    out, err = survivors.command.communicate(b"78\n", timeout=30)
    assert (survivors.command.returncode, out) == (78, b""), err
    told = err.decode().splitlines()
    assert len(told) == 2, told
    assert "the daemon went away" in told[0]
    assert "the daemon is back" in told[1]


def test_an_activity_outlives_its_daemon_and_its_status_arrives(
    survivors: Survivors,
) -> None:
    run, name = survivors.kept
    run.attach(survivors.of.service, name)
    assert run.started() == name
    ends_with(run, 77)


def test_the_next_daemon_tells_how_it_ended_while_there_was_none(
    survivors: Survivors,
) -> None:
    said = attached_end(survivors.of, survivors.ended)
    assert (said["event"], said["status"]) == ("exited", 55), said


def test_an_activity_whose_init_is_killed_while_no_daemon_runs_was_killed(
    survivors: Survivors,
) -> None:
    said = attached_end(survivors.of, survivors.killed)
    assert (said["event"], said["status"], said["signal"]) == ("exited", 137, 9), said


def test_an_activity_that_is_stopped_is_adopted_and_can_be_ended(
    survivors: Survivors,
) -> None:
    run, name = survivors.stopped
    run.attach(survivors.of.service, name)
    assert run.started() == name
    done = survivors.of.service.isolauncher("stop", "--grace", "1", name)
    assert done.status == 0, done.errors
    said = run.end()
    run.close()
    assert said is not None
    assert said["signal"] == signal.SIGTERM, said


def test_the_next_daemon_ends_what_has_lost_its_client_and_nothing_is_left(
    survivors: Survivors,
) -> None:
    # Its standard input is still open: it would wait for ever.
    survivors.of.service.wait_for_log('ended id="lost" status=143')
    survivors.lost.communicate()
    nothing_left(survivors.of, survivors.before)


def test_what_runs_does_not_notice_that_its_zygote_is_killed(doomed: Full) -> None:
    before = replace(Trace.now(doomed.of), descriptors=None)
    run, _ = steady(doomed.of)
    kill(zygote(doomed.of, "python"))
    other, _ = steady(doomed.of)
    ends_with(run, 7)
    ends_with(other, 8)
    nothing_left(doomed.of, before)


def test_what_runs_does_not_notice_that_its_zygote_is_stopped(doomed: Full) -> None:
    before = replace(Trace.now(doomed.of), descriptors=None)
    run, _ = steady(doomed.of)
    stopped = zygote(doomed.of, "python")
    kill(stopped, signal.SIGSTOP)
    ends_with(run, 9)
    # Whoever asked now would wait a while, until it were replaced.
    kill(stopped, signal.SIGCONT)
    other, _ = steady(doomed.of)
    ends_with(other, 10)
    nothing_left(doomed.of, before)


def test_an_activity_whose_init_is_killed_was_killed(doomed: Full) -> None:
    before = Trace.now(doomed.of)
    run, _ = steady(doomed.of)
    kill(find(doomed.of, "init"))
    said = run.end()
    run.close()
    assert said is not None
    assert (said["event"], said["status"], said["signal"]) == ("exited", 137, 9), said
    nothing_left(doomed.of, before)


def _gone(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 10)[0], f"{pid} does not end"
    finally:
        os.close(fd)
