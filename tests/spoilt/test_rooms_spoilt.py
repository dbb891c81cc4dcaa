# SPDX-License-Identifier: GPL-3.0-or-later
"""A room prepared ahead, refused a call or killed: while it is made, while it is given.

Two tables, each a recording: of a launch that gets a prepared room, and of the next
room that is made 50 ms later, when nobody waits. Each call is refused, and each
process there is killed after it. Rooms come and go, so that what is left is counted,
with one ready; and a daemon that is told to end leaves nothing at all.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.powers import landlock, need, sandboxes
from support.spoiling import (
    ALICE,
    Call,
    Run,
    Spoilt,
    Trace,
    boarded,
    connect,
    find,
    kill,
    launch,
    spoilt_service,
    zygote,
)

from isolauncher import wire
from isolauncher.spoilt import board as boards
from spoilt.conftest import Full, every, full_for
from spoilt.test_killed import WAITS, ends_with, restart, steady
from spoilt.test_refused import _refusal, is_told, lets_pass

AHEAD = "version = 1\n[rooms]\nahead = 1\n"
VICTIMS = ("daemon", "zygote", "init", "stem", "opener")


@pytest.fixture(scope="module")
def ahead() -> Iterator[Full]:
    """A daemon of this module's own, which keeps one room; it will be killed."""
    need(sandboxes(), landlock())
    with spoilt_service(config=AHEAD) as made:
        yield from full_for(made)


# ------------------------------------------------------------------- what there is


@dataclass(frozen=True)
class Amount:
    """How much of each there is: a room comes and goes, another is its like."""

    processes: int
    openers: int
    mounts: frozenset[str]
    cgroups: int
    records: int
    leases: int
    namespaces: int
    descriptors: int

    @classmethod
    def now(cls, of: Spoilt) -> Amount:
        trace = Trace.now(of)
        assert of.service.process is not None
        return cls(
            processes=len(trace.processes),
            openers=len(openers(of)),
            mounts=trace.mounts,
            cgroups=len(trace.cgroups),
            records=len(trace.records),
            leases=len(trace.leases),
            namespaces=len(trace.namespaces),
            descriptors=len(os.listdir(f"/proc/{of.service.process.pid}/fd")),
        )

    def unlike(self, other: Amount) -> list[str]:
        names = self.__dataclass_fields__
        return [
            f"{n}: {getattr(self, n)}, not {getattr(other, n)}"
            for n in names
            # A descriptor of what came before may have been on its way out just then.
            if getattr(self, n) > getattr(other, n)
            or (n != "descriptors" and getattr(self, n) != getattr(other, n))
        ]


def openers(of: Spoilt) -> list[int]:
    """Alice's openers that live."""
    found = []
    for pid in boarded(of.board):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"opener({ALICE})".encode() in title:
            found.append(pid)
    return found


def settled(of: Spoilt) -> int:
    """Once no room is made or ends and none of hers runs: how many Alice has ready."""
    # Less than a launch may take: who waits for the dead would be cut short by that.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with connect(of.service, ALICE) as sock:
            wire.send(sock, {"version": 1, "verb": "stats"})
            stats = wire.recv(sock).fields["stats"]
        assert isinstance(stats, dict)
        told = stats["rooms"]
        if not (told["wanted"] or told["ending"] or stats["activities"]):
            return int(told["ready"])
        # Nothing tells: what we wait for is that nothing more happens.
        select.select([], [], [], 0.005)
    raise AssertionError(f"the daemon does not come to rest: {stats}")


def succeeds(full: Full) -> object:
    """A launch that runs as it should; the way it went."""
    run = full.launch()
    said = run.end()
    run.close()
    assert said is not None
    assert said.get("status") == 0, said
    assert full.ran()
    return said["report"]["activity"]["path"]  # type: ignore[index]


def one_ready(full: Full) -> None:
    """Launches until a room waits for the next; the third at the latest finds one."""
    full.of.record()
    for _ in range(2):
        if settled(full.of):
            return
        succeeds(full)
    assert settled(full.of), full.of.service.log[-2000:]


def as_before(full: Full, before: Amount, what: object) -> Iterator[str]:
    """What is not as it was, once a room is ready again and the next launch works."""
    try:
        one_ready(full)
        full.of.record()
        way = succeeds(full)
        if way != "pool":
            yield f"{what}: the next launch's room was made on {way}"
        one_ready(full)
    except AssertionError as e:
        yield f"{what}: afterwards: {e}"
        return
    deadline = time.monotonic() + 10
    while (odd := Amount.now(full.of).unlike(before)) and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    yield from (f"{what}: {text}" for text in odd)


def nothing_at_all(full: Full, bystander: tuple[Run, str]) -> Iterator[str]:
    """What runs ends as its program says; then the daemon ends, and all is gone."""
    of = full.of
    try:
        ends_with(bystander[0], 42)
    except AssertionError as e:
        yield f"the activity that ran: {e}"
    of.service.stop(signal.SIGTERM)
    try:
        deadline = time.monotonic() + 10
        while (left := _left(of)) and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        if left:
            yield f"after SIGTERM: {left}"
    finally:
        of.record()
        of.service.start()


def _left(of: Spoilt) -> list[str]:
    return [
        *(f"process {pid}" for pid in boarded(of.board)),
        *(f"cgroup {p}" for p in of.places if p.exists()),
        *(f"record {n}" for n in os.listdir(of.service.run_dir / "activities")),
        *(f"lease {n}" for n in os.listdir(of.service.state_dir / "identity/uids")),
    ]


# ----------------------------------------------------------------------- recordings


def record(full: Full) -> tuple[list[Call], list[Call]]:
    """The calls of a launch from a room, and of making the next room."""
    for _ in range(20):
        one_ready(full)
        full.of.record()
        run = full.launch()
        run.started()
        first = full.of.calls()
        said = run.end()
        run.close()
        assert said is not None
        assert said.get("status") == 0, said
        assert said["report"]["activity"]["path"] == "pool", said  # type: ignore[index]
        assert full.ran()
        assert settled(full.of) == 1
        # A room begins with a call of the zygote's: then we looked too late.
        if not any(c.actor == "zygote" for c in first):
            known = set(first)
            return first, [c for c in full.of.calls() if c not in known]
    raise AssertionError("no launch was over before the next room was begun")


def thinned(table: Iterable[Call], most: int) -> Iterator[Call]:
    """Of each actor's calls about as many, from an offset that differs."""
    of_actor: dict[str, list[Call]] = {}
    for call in table:
        of_actor.setdefault(call.actor, []).append(call)
    for calls in of_actor.values():
        yield from every(calls, max(1, len(calls) // most))


def some(table: list[Call], victim: str) -> Iterator[Call]:
    """One: a new daemon, zygote or room costs a second. The long tests take all."""
    yield from every(table, len(table))


def test_a_launch_from_a_room_makes_few_calls_and_the_next_room_the_rest(
    ahead: Full,
) -> None:
    given, making = record(ahead)
    assert {c.actor for c in given} >= {"daemon", "init", "stem"}
    assert {c.actor for c in making} >= {"daemon", "zygote", "init", "stem"}
    assert len(given) < len(making)
    steps = {c.step for c in given}
    assert "seccomp" in steps
    assert not steps & {c.step for c in making} & {"new-root", "become-user"}


# ---------------------------------------------------------- a launch that gets a room


def refuse_in_launch(
    full: Full, call: Call, number: int, before: Amount
) -> Iterator[str]:
    of = full.of
    what = f"{call} refused with {errno.errorcode[number]}"
    of.board.set(boards.REFUSE, call.actor, call.number, number)
    run = full.launch()
    said = run.end() or {}
    printed, ran = run.printed(), full.ran()
    run.close()
    if not of.board.hit:
        yield f"{what}: was not made"
    if _way(said) != "pool":
        yield f"{what}: not from a room: {said}"
    skipped = lets_pass(call, number)
    if skipped is not None:
        if said.get("status") != 0 or not ran:
            yield f"{what}: {said}"
        elif not is_told(said, skipped, number):
            yield f"{what}: the report does not say so"
    else:
        yield from _refusal(call, number, said, printed, ran, what)
    yield from as_before(full, before, what)


def _way(said: dict[str, object]) -> object:
    report = said.get("report")
    return report["activity"]["path"] if isinstance(report, dict) else None


def kill_in_launch(
    full: Full, call: Call, victim: str, before: Amount, bystander: tuple[Run, str]
) -> Iterator[str]:
    of = full.of
    what = f"{victim} killed after {call}"
    others = set(find_all(of)) - room_of(of, bystander)
    of.board.set(boards.PAUSE, call.actor, call.number)
    run = full.launch()
    if not of.board.wait_paused(30):
        of.board.go_on()
        run.close()
        yield f"{what}: it was not made"
        return
    _kill(of, victim, others)
    of.board.go_on()
    said = run.end()
    printed, ran = run.printed(), full.ran()
    run.close()
    if victim == "daemon":
        if said is not None:
            yield f"{what}: the client heard {said}"
        restart(of, bystander)
    elif victim == "opener":
        # It had answered before the first call that is recorded: nobody needs it now.
        if said is None or said.get("status") != 0 or not ran or printed != b"ran\n":
            yield f"{what}: {said}"
        printed, ran = b"", False
    elif said is None or (said["event"], said.get("exit_status")) != ("refused", 125):
        yield f"{what}: the client heard {said}"
    if printed or ran:
        yield f"{what}: the program ran; {of.service.log[-1500:]}"
    yield from as_before(full, before, what)


def find_all(of: Spoilt) -> dict[int, list[int]]:
    """The processes in sandboxes."""
    return {pid: inner for pid, inner in boarded(of.board).items() if len(inner) > 1}


def room_of(of: Spoilt, bystander: tuple[Run, str]) -> set[int]:
    """The processes of the one room that is ready: not the bystander's."""
    place = next(p for p in of.places if (p / bystander[1]).exists())
    known = set(map(int, (place / bystander[1] / "cgroup.procs").read_text().split()))
    return set(find_all(of)) - known


def _kill(of: Spoilt, victim: str, others: set[int]) -> None:
    if victim == "daemon":
        of.service.stop(signal.SIGKILL)
    elif victim == "zygote":
        kill(zygote(of, "python"))
    elif victim == "opener":
        for pid in openers(of):
            kill(pid)
    else:
        kill(find(of, victim, not_in=others))


def through_launch(full: Full, rows: Iterable[tuple[Call, str | int]]) -> int:
    """Each row is a call and who is killed after it, or how it is refused."""
    bystander = steady(full.of)
    one_ready(full)
    before = Amount.now(full.of)
    faults: list[str] = []
    tried = 0
    for call, what in rows:
        tried += 1
        if isinstance(what, int):
            faults += refuse_in_launch(full, call, what, before)
        else:
            faults += kill_in_launch(full, call, what, before, bystander)
    faults += nothing_at_all(full, bystander)
    assert not faults, "\n".join(faults)
    return tried


@pytest.mark.timeout(240)
def test_whichever_call_of_a_launch_from_a_room_is_refused_nothing_runs(
    ahead: Full,
) -> None:
    given, _ = record(ahead)
    table = list(thinned(given, 1))
    assert through_launch(ahead, ((c, errno.EPERM) for c in table)) == len(table)


@pytest.mark.timeout(240)
def test_whoever_is_killed_while_a_room_is_given_nothing_is_left(ahead: Full) -> None:
    given, _ = record(ahead)
    rows = [(c, victim) for victim in VICTIMS for c in some(given, victim)]
    assert through_launch(ahead, rows) == len(rows)


@pytest.mark.timeout(240)
def test_a_room_whose_opener_was_killed_while_it_waited_is_not_used(
    ahead: Full,
) -> None:
    """Nobody could look at its paths once more with the caller's rights."""
    one_ready(ahead)
    assert openers(ahead.of)
    for pid in openers(ahead.of):
        kill(pid)
    assert succeeds(ahead) == "demand"
    one_ready(ahead)
    assert succeeds(ahead) == "pool"


@pytest.mark.timeout(240)
def test_a_difference_ends_the_launch_though_its_room_is_stale_too(ahead: Full) -> None:
    """Whoever asks decides whether a path has changed, and not what is reported."""
    given, _ = record(ahead)
    (call,) = (c for c in given if (c.actor, c.name) == ("init", "setresuid"))
    one_ready(ahead)
    ahead.directory.chmod(0o755)
    try:
        ahead.of.board.set(boards.PRETEND, call.actor, call.number)
        run = ahead.launch()
        said = run.end() or {}
        printed = run.printed()
        run.close()
        assert ahead.of.board.hit
        assert (said.get("event"), said.get("code")) == ("refused", "verify-difference")
        assert (printed, ahead.ran()) == (b"", False)
    finally:
        ahead.directory.chmod(0o700)
    assert settled(ahead.of) in (0, 1)
    succeeds(ahead)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_call_of_a_launch_from_a_room_may_be_refused_with_any_errno(
    ahead: Full,
) -> None:
    given, _ = record(ahead)
    numbers = (errno.EPERM, errno.ENOMEM, errno.ENOSYS, errno.EIO, errno.EMFILE)
    rows = [(c, number) for number in numbers for c in given]
    assert through_launch(ahead, rows) == len(rows)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("victim", VICTIMS)
def test_whoever_is_killed_at_any_call_while_a_room_is_given_nothing_is_left(
    ahead: Full, victim: str
) -> None:
    given, _ = record(ahead)
    assert through_launch(ahead, ((c, victim) for c in given)) == len(given)


# ----------------------------------------------------------- while nobody waits for it


def during_making(
    full: Full,
    call: Call,
    what: str | int,
    before: Amount,
    bystander: tuple[Run, str],
) -> Iterator[str]:
    of = full.of
    others = set(find_all(of)) - room_of(of, bystander)
    since = len(of.service.log)
    if isinstance(what, int):
        said = f"{call} refused with {errno.errorcode[what]}"
        of.board.set(boards.REFUSE, call.actor, call.number, what)
    else:
        said = f"{what} killed after {call}"
        of.board.set(boards.PAUSE, call.actor, call.number)
    # The numbers go on from the launch's own calls.
    way = succeeds(full)
    if way != "pool":
        yield f"{said}: the launch before: {way}"
    if isinstance(what, int):
        ready = settled(of)
        if not of.board.hit:
            yield f"{said}: was not made"
        goes_on = lets_pass(call, what) is not None or call.name == "setns"
        if bool(ready) != goes_on:
            yield f"{said}: {ready} rooms are ready"
        if not ready and "room-not-made" not in of.service.log[since:]:
            yield f"{said}: the log has {of.service.log[since:]}"
    else:
        if not of.board.wait_paused(30):
            of.board.go_on()
            yield f"{said}: it was not made"
            return
        _kill(of, what, others)
        of.board.go_on()
        if what == "daemon":
            restart(of, bystander)
        ready = settled(of)
        if ready and (what, call.actor) != ("zygote", "zygote"):
            yield f"{said}: a room is ready"
        log = of.service.log[since:]
        if not ready and what != "daemon" and "room-not-made" not in log:
            yield f"{said}: the log has {log}"
    yield from as_before(full, before, said)


def through_making(full: Full, rows: Iterable[tuple[Call, str | int]]) -> int:
    bystander = steady(full.of)
    one_ready(full)
    before = Amount.now(full.of)
    faults: list[str] = []
    tried = 0
    for call, what in rows:
        tried += 1
        faults += during_making(full, call, what, before, bystander)
    faults += nothing_at_all(full, bystander)
    assert not faults, "\n".join(faults)
    return tried


def there(making: list[Call], victim: str) -> list[Call]:
    """The calls at which the victim is there to be killed."""
    fork = max(c.number for c in making if c.actor == "zygote" and c.name == "unshare")
    mapped = next(
        c.number for c in making if (c.actor, c.step) == ("init", "map-identity")
    )
    if victim in ("daemon", "zygote"):
        return making
    if victim == "opener":
        return [c for c in making if c.actor != "zygote" or c.number > fork]
    if victim == "init":
        return [c for c in making if c.actor in ("init", "stem", "mapper")]
    return [
        c
        for c in making
        if c.actor == "stem" or (c.actor == "init" and c.number >= mapped)
    ]


@pytest.mark.timeout(240)
def test_whichever_call_is_refused_while_a_room_is_made_no_launch_suffers(
    ahead: Full,
) -> None:
    _, making = record(ahead)
    table = list(thinned(making, 1))
    assert through_making(ahead, ((c, errno.EPERM) for c in table)) == len(table)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_whoever_is_killed_while_a_room_is_made_no_launch_suffers(ahead: Full) -> None:
    _, making = record(ahead)
    victims = VICTIMS[:-1]
    rows = [
        (c, victim) for victim in victims for c in some(there(making, victim), victim)
    ]
    assert through_making(ahead, rows) == len(rows)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_launch_suffers_whichever_errno_the_making_of_a_room_meets(
    ahead: Full,
) -> None:
    _, making = record(ahead)
    numbers = (errno.EPERM, errno.ENOMEM, errno.ENOSYS)
    rows = [(c, number) for number in numbers for c in making]
    assert through_making(ahead, rows) == len(rows)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("victim", VICTIMS[:-1])
def test_no_launch_suffers_whoever_is_killed_at_any_call_while_a_room_is_made(
    ahead: Full, victim: str
) -> None:
    _, making = record(ahead)
    calls = there(making, victim)
    assert through_making(ahead, ((c, victim) for c in calls)) == len(calls)


def test_a_stem_that_ends_while_its_room_is_made_ends_the_making(ahead: Full) -> None:
    """Though its init, that has done its part, waits for a request by then."""
    _, making = record(ahead)
    last = [c for c in making if c.actor == "stem"][-1]
    through_making(ahead, [(last, "stem")])


# -------------------------------------------------------------- who comes meanwhile


SCARCE = "version = 1\n[quotas]\nuids = 2\n[rooms]\nahead = 1\n"


@pytest.fixture(scope="module")
def scarce() -> Iterator[Full]:
    """A daemon that gives each caller two uids at a time."""
    need(sandboxes(), landlock())
    with spoilt_service(config=SCARCE) as made:
        yield from full_for(made)


def test_what_was_mounted_before_a_room_is_begun_does_not_end_it(
    scarce: Full, tmp_path: Path
) -> None:
    of = scarce.of
    one_ready(scarce)
    of.board.set(boards.PAUSE, "init", 0)
    # Another's: while a launch is under way no room is begun.
    waiting = launch(of.service, "/usr/bin/true", uid=ALICE + 1)
    assert of.board.wait_paused(30)
    since = len(of.service.log)
    try:
        assert succeeds(scarce) == "pool"
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        subprocess.run(["umount", tmp_path], check=True)
    finally:
        of.board.go_on()
    assert waiting.end() is not None
    waiting.close()
    assert settled(of) == 1, of.service.log[since:]
    assert "room-not-made" not in of.service.log[since:]


def test_a_room_in_the_making_gives_its_uid_to_a_launch(scarce: Full) -> None:
    of = scarce.of
    _, making = record(scarce)
    call = next(c for c in making if c.actor == "stem")
    of.board.set(boards.PAUSE, call.actor, call.number)
    since = len(of.service.log)
    assert succeeds(scarce) == "pool"
    assert of.board.wait_paused(30)
    try:
        script = of.service.script("waits.py", WAITS)
        other = launch(of.service, script, uid=ALICE, stdin=True)
        other.started()
        run = scarce.launch("same")
        said = run.end()
        run.close()
    finally:
        of.board.go_on()
    ends_with(other, 7)
    assert said is not None
    assert said.get("status") == 0, said
    assert scarce.ran()
    settled(of)
    assert "room-not-made" in of.service.log[since:]
