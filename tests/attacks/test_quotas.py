# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks by number and by time: quotas, races, and processes of ours that end.

Rows 10, 58 and 59 (as a client sees them), 60 and 68 of the list of attacks.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.daemons import Service, service
from support.peers import (
    ALICE,
    BOB,
    LIST,
    Watch,
    ask,
    left_out,
    normal_launch,
    peer,
    pids,
    run_message,
    until,
    verdict,
    zygotes,
)
from support.powers import need, sandboxes

from isolauncher import wire

CAROL = 12347
LINES = 60
CONFIG = """version = 1
[quotas]
activities = 4
launches = 3
connections = 8
uids = 6
[limits]
activities = 10
launches = 6
connections = 40
message-ms = 700
grace-ms = 1000
log-lines = 60
"""


def _running(
    where: Service, stack: ExitStack, null: int, uid: int, **changes: object
) -> tuple[socket.socket, dict[str, object]]:
    """(connection, the first answer) of a program that runs on."""
    sock = stack.enter_context(peer(where, uid))
    wire.send(sock, run_message(argv=["sleep", "60"], **changes), [null] * 3)
    return sock, wire.recv(sock).fields


def test_one_caller_has_his_share_of_activities_and_others_theirs(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 68."""
    with ExitStack() as stack:
        answers = [_running(daemon, stack, null, BOB)[1] for _ in range(7)]
        assert [a["event"] for a in answers] == ["started"] * 4 + ["refused"] * 3
        assert {a["code"] for a in answers[4:]} == {"quota"}
        assert _running(daemon, stack, null, ALICE)[1]["event"] == "started"
        normal_launch(daemon, CAROL)
        assert _running(daemon, stack, null, 0)[1]["event"] == "started"
    watch.settled("quota", lines=3)


def test_the_machines_share_is_kept_whoever_asks(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 68: many callers, or root, who has no quota of his own."""
    with ExitStack() as stack:
        events = Counter(
            _running(daemon, stack, null, uid)[1]["event"]
            for uid in (BOB, ALICE, CAROL, 0)
            for _ in range(4)
        )
        assert events == {"started": 10, "refused": 6}
    watch.settled("quota", lines=6)


def test_as_many_at_once_as_fit_and_no_more_start_together(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 68: nothing comes between the look at a quota and the entry: a hundred
    launches of one caller in the same moment."""
    assert daemon.process is not None
    with ExitStack() as stack:
        socks = [stack.enter_context(peer(daemon, 0)) for _ in range(30)]
        daemon.process.send_signal(signal.SIGSTOP)
        for sock in socks:
            wire.send(sock, run_message(argv=["sleep", "60"]), [null] * 3)
        daemon.process.send_signal(signal.SIGCONT)
        events = Counter(wire.recv(sock).fields["event"] for sock in socks)
    assert 6 <= events["started"] <= 10
    assert events["refused"] == 30 - events["started"]
    watch.settled("quota", lines=events["refused"])


def test_an_id_asked_for_twice_at_once_is_given_once(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 68: and is free again when its program has ended, or was never launched."""
    assert daemon.process is not None
    for _ in range(5):
        with ExitStack() as stack:
            socks = [stack.enter_context(peer(daemon, 0)) for _ in range(6)]
            daemon.process.send_signal(signal.SIGSTOP)
            for sock in socks:
                message = run_message(id="one", argv=["sleep", "60"])
                wire.send(sock, message, [null] * 3)
            daemon.process.send_signal(signal.SIGCONT)
            events = Counter(wire.recv(sock).fields["event"] for sock in socks)
            assert events == {"started": 1, "refused": 5}
            with peer(daemon, 0) as stopper:
                stop = {"version": 1, "verb": "stop", "ids": ["one"], "grace_ms": 0}
                wire.send(stopper, stop)
                assert verdict(stopper)["event"] == "stopped"
        for argv in (["no-such-program"], ["true"]):
            said = ask(daemon, run_message(id="one", argv=argv))
            assert said.get("code") != "id-taken", said
    watch.settled("id-taken", lines=25)


def test_stopping_what_is_still_starting_ends_it(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 68: "gone" is said when it is gone, at whatever stage of its launch."""
    for number in range(30):
        with peer(daemon, BOB) as sock, peer(daemon, BOB) as stopper:
            message = run_message(id="early", argv=["sleep", "60"])
            wire.send(sock, message, [null] * 3)
            time.sleep(0.001 * (number % 30))
            stop = {"version": 1, "verb": "stop", "ids": ["early"], "grace_ms": 500}
            wire.send(stopper, stop)
            results = verdict(stopper)["results"]
            assert isinstance(results, list)
            if results[0]["result"] == "gone":
                said = verdict(sock)
                assert said["event"] in ("exited", "refused"), said
            else:
                assert results[0]["result"] == "unknown"  # asked before it was read
    watch.settled()


def test_connections_of_one_caller_leave_room_for_others(
    daemon: Service, watch: Watch
) -> None:
    """Rows 10 and 68."""
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(peer(daemon, BOB))
        with peer(daemon, BOB) as ninth:
            assert verdict(ninth)["code"] == "quota-connections"
        normal_launch(daemon, ALICE)
    watch.settled("quota-connections")


def test_who_has_ended_his_connections_may_come_again_at_once(
    daemon: Service, watch: Watch
) -> None:
    assert daemon.process is not None
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(peer(daemon, BOB))
        # It has all of them by then.
        normal_launch(daemon, ALICE)
        # The daemon hears of their ends and of the next one in one turn of its loop.
        daemon.process.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        try:
            sock = stack.enter_context(peer(daemon, BOB))
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        wire.send(sock, LIST)
        assert verdict(sock)["event"] == "list"
    watch.settled()


def test_connections_that_do_not_close_cost_their_caller_and_no_thread(
    daemon: Service, watch: Watch
) -> None:
    """Rows 10 and 68: beyond a quota nothing is read, but what lies in a connection
    unread is closed with it, and to close a socket may wait for its other end."""
    assert daemon.process is not None
    pid = daemon.process.pid
    before = len(os.listdir(f"/proc/{pid}/task"))
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(peer(daemon, BOB))
        ends = stack.enter_context(_lingering_ends())
        turned_away = []
        # What is in flight is Bob's alone when the daemon comes to it.
        daemon.process.send_signal(signal.SIGSTOP)
        for _ in range(30):
            sock = stack.enter_context(peer(daemon, BOB))
            with ends() as lingering:
                socket.send_fds(sock, [b"{}"], [lingering.fileno()])
            turned_away.append(sock)
        daemon.process.send_signal(signal.SIGCONT)
        for sock in turned_away:
            # He hears it, and the end of it, however long it takes.
            assert wire.recv(sock).fields["code"] == "quota-connections"
            assert _ended(sock)
        assert len(os.listdir(f"/proc/{pid}/task")) <= before + 1
        normal_launch(daemon, ALICE)
        with peer(daemon, CAROL) as sock:
            wire.send(sock, LIST)
            assert verdict(sock)["event"] == "list"
    watch.settled("quota-connections", lines=30)


def _ended(sock: socket.socket) -> bool:
    """True once nothing more can come: said first, but only once, is that the other
    end closed with something of ours unread (unix(7), ECONNRESET)."""
    with suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return sock.recv(1) == b""


@contextmanager
def _lingering_ends() -> Iterator[Callable[[], socket.socket]]:
    """Makes connections whose close waits for as long as this lasts (SO_LINGER)."""
    others = []
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()

        def make() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.connect(server.getsockname())
            others.append(server.accept()[0])
            sock.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    sock.send(bytes(4096))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            return sock

        try:
            yield make
        finally:
            for other in others:
                # With what was not read it is reset, and nobody waits any more.
                other.close()


_LINGER = struct.pack("ii", 1, 600)


def test_the_log_of_one_callers_refusals_is_cut_and_says_so(
    daemon: Service, watch: Watch
) -> None:
    """Row 68: nobody's lines are drowned by another's, and none is lost untold."""
    ask(daemon, run_message(policy="none-such"), uid=ALICE)
    for _ in range(LINES * 3):
        code = str(ask(daemon, b"{}", [], uid=BOB)["code"])
    ask(daemon, run_message(policy="none-such"), uid=ALICE)
    # For another reason, and from another caller.
    ask(daemon, b"[", [], uid=BOB)
    ask(daemon, b"{}", [], uid=ALICE)
    assert len(watch.lines(": refused ", f"caller={ALICE}")) == 3
    assert len(watch.lines(": refused ", f"caller={BOB}")) == LINES + 1
    assert until(lambda: left_out(watch, code) == LINES * 2)
    assert len(watch.lines(" left-out ")) == 1
    watch.settled()


def test_a_caller_with_all_his_activities_can_still_list_and_stop_them(
    services: Callable[[str], Service], null: int
) -> None:
    """Row 68: each holds a connection; what stops them needs one more."""
    where = services("")
    normal_launch(where)
    watch = Watch(where)
    with ExitStack() as stack:
        started = 0
        for number in range(64):
            answer = _running(where, stack, null, BOB, id=f"n{number}")[1]
            started += answer["event"] == "started"
        assert started == 64
        said = ask(where, LIST, [], uid=BOB)
        assert said["event"] == "list", said
        ids = [f"n{number}" for number in range(64)]
        stop = {"version": 1, "verb": "stop", "ids": ids, "grace_ms": 5000}
        said = ask(where, stop, [], uid=BOB)
        assert said["event"] == "stopped", said
    watch.settled()


def test_uids_of_one_caller_are_counted(daemon: Service, watch: Watch) -> None:
    """Row 68: those that stay with a program from run to run, under any name."""
    daemon.policy(
        "keeps", 'version = 1\n[match]\ncallers = ["*"]\n[identity]\nuid = "bundle"\n'
    )
    before = set(os.listdir(daemon.state_dir / "identity" / "uids"))
    codes = []
    for number in range(9):
        message = run_message(
            policy="keeps", program_kind="module", argv=["this", str(number)]
        )
        message["argv"] = [f"m{number}.x", "y"]
        codes.append(ask(daemon, message, uid=CAROL).get("code"))
    assert codes[-1] is not None
    assert codes.count(codes[-1]) >= 3, codes
    normal_launch(daemon, ALICE)
    left = set(os.listdir(daemon.state_dir / "identity" / "uids")) - before
    assert len(left) <= 6
    del watch  # the kept ones stay, as they are meant to


# ----------------------------------------------------------------- rows 58, 59: deaths


def test_a_zygote_that_is_killed_is_replaced_for_the_next_launch(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 59: what runs goes on."""
    with ExitStack() as stack:
        runs = {}
        for tier in ("fork", "exec"):
            message = {"program_kind": "module", "tier": tier}
            sock = stack.enter_context(peer(daemon, BOB))
            script = daemon.script("wait.py", "import signal\nsignal.pause()\n")
            program = os.open(script, os.O_PATH)
            wire.send(
                sock,
                run_message(
                    program_kind="file",
                    argv=[script],
                    tier=message["tier"],
                    descriptors=["stdin", "stdout", "stderr", "program"],
                ),
                [null, null, null, program],
            )
            os.close(program)
            assert wire.recv(sock).fields["event"] == "started"
            runs[tier] = sock
        for pid in zygotes(daemon).values():
            os.kill(pid, signal.SIGKILL)
        normal_launch(daemon, ALICE)
        for sock in runs.values():
            wire.send(sock, {"verb": "signal", "signal": "TERM"})
            assert verdict(sock)["signal"] == signal.SIGTERM
    assert watch.lines("zygote-")
    watch.settled()


def test_a_zygote_that_is_stopped_is_replaced_in_seconds(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 59: alive and silent, as one that swaps or is being traced."""
    before = zygotes(daemon)
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with peer(daemon, ALICE) as one, peer(daemon, ALICE) as other:
        for sock, tier in ((one, "fork"), (other, "exec")):
            wire.send(sock, run_message(tier=tier), [null] * 3)
        for said in (verdict(one), verdict(other)):
            assert said["event"] in ("exited", "refused"), said
            if said["event"] == "refused":
                assert said["step"] == "zygote"
    assert time.monotonic() - started < 15
    stopped = before["bare"]
    assert until(lambda: not os.path.exists(f"/proc/{stopped}"))
    normal_launch(daemon, ALICE)
    for pid in before.values():
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGCONT)
    watch.settled()


def test_launches_in_flight_when_a_zygote_is_killed_end_in_a_clear_line(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 59: each client hears how it went, none waits for ever, nothing is left."""
    ends: Counter[object] = Counter()
    for number in range(8):
        uid, tier, name = ((BOB, "fork", "python"), (ALICE, "exec", "bare"))[number % 2]
        normal_launch(daemon, uid, tiers=(tier,))  # there is one to be killed
        with ExitStack() as stack:
            socks = []
            for _ in range(3):
                sock = stack.enter_context(peer(daemon, uid))
                wire.send(sock, run_message(tier=tier), [null] * 3)
                socks.append(sock)
            time.sleep(0.003 * number)
            os.kill(zygotes(daemon)[name], signal.SIGKILL)
            for sock in socks:
                said = verdict(sock)
                assert said["event"] in ("exited", "refused"), said
                ends[said.get("code", said["event"])] += 1
    assert "internal" not in ends, (ends, watch.lines("internal"))
    watch.settled()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Service]:
    """A daemon to be killed."""
    need(sandboxes())
    with service() as made:
        yield made


def test_a_daemon_killed_while_a_program_runs_is_found_again_by_its_client(
    mortal: Service,
) -> None:
    """Row 58, as the client sees it: it waits, attaches and gets the exit status."""
    where = mortal
    script = where.script(
        "until.py",
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *a: sys.exit(42))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n",
    )
    client = where.start_client("run", "--id", "kept", "--", script, uid=BOB)
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    where.wait_until_told("kept")
    where.stop(signal.SIGKILL)
    where.start()
    where.wait_for_log('adopted id="kept"')
    rows = ask(where, LIST, [], uid=BOB)["activities"]
    assert isinstance(rows, list)
    assert [row["id"] for row in rows] == ["kept"]
    assert ask(where, LIST, [], uid=ALICE)["activities"] == []
    assert client.stderr is not None
    assert b"went away" in client.stderr.readline()
    assert b"is back" in client.stderr.readline()
    client.send_signal(signal.SIGUSR1)
    _, errors = client.communicate(timeout=20)
    assert client.returncode == 42, errors
    normal_launch(where)
    Watch(where).settled()


def test_a_daemon_killed_during_launches_tells_their_clients(mortal: Service) -> None:
    """Row 58, as the client sees it: nothing of them runs, and none hangs."""
    where = mortal
    normal_launch(where)
    for _ in range(2):
        clients = []
        for _ in range(6):
            # Each at another stage: a client takes some 200 ms to start.
            clients.append(where.start_client("run", "--", "sleep", "60", uid=BOB))
            time.sleep(0.06)
        where.stop(signal.SIGKILL)
        where.start()
        for client in clients:
            client.terminate()
            client.communicate(timeout=30)
            assert client.returncode in (125, 143), client.returncode
    assert until(lambda: not os.listdir(where.run_dir / "activities"), seconds=20)
    normal_launch(where)
    Watch(where).settled()


# ----------------------------------------------------- row 60: launch after launch


def _numbers(where: Service) -> dict[str, int]:
    """What must not grow: descriptors, memory (KiB), mounts, cgroups, zombies."""
    found = {}
    ours = set(pids(where).values())
    for name, pid in pids(where).items():
        found[f"{name} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        (rss,) = [x for x in status.splitlines() if x.startswith("RssAnon:")]
        found[f"{name} memory"] = int(rss.split()[1])
        found[f"{name} tasks"] = len(os.listdir(f"/proc/{pid}/task"))
    found["mounts"] = len(Path("/proc/self/mountinfo").read_text().splitlines())
    found["zombies"] = sum(_is_zombie(name, ours) for name in os.listdir("/proc"))
    found["leases"] = len(os.listdir(where.state_dir / "identity" / "uids"))
    found["records"] = len(os.listdir(where.run_dir / "activities"))
    return found


def _is_zombie(name: str, parents: set[int]) -> bool:
    try:
        fields = (
            Path(f"/proc/{name}/stat")
            .read_text(errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[1]) in parents


def _launch_many(where: Service, count: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    dice = random.Random(60)  # noqa: S311
    failed: list[object] = []

    def work(numbers: range) -> None:
        for _ in numbers:
            kind = dice.randrange(8)
            argv = ["no-such-program"] if kind == 0 else ["true"]
            tier = "fork" if kind % 2 else "exec"
            message = run_message(argv=argv, tier=tier)
            if kind % 2 and kind > 2:
                message = run_message(program_kind="module", argv=["this"], tier=tier)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(where.socket))
                sock.settimeout(60)
                wire.send(sock, message, [null] * 3)
                if kind == 7 and dice.random() < 0.3:
                    continue  # gone before an answer
                said = verdict(sock)
                if said["event"] not in ("exited", "refused"):
                    failed.append(said)

    threads = [threading.Thread(target=work, args=(range(count // 2),)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(null)
    assert not failed, failed[:3]


def _assert_level(
    before: dict[str, int], where: Service, per_launch_kib: float
) -> None:
    def grown() -> dict[str, tuple[int, int]]:
        now = _numbers(where)
        return {
            name: (before[name], now[name])
            for name in before
            if now[name] > before[name] + (per_launch_kib if "memory" in name else 0)
        }

    until(lambda: not grown())
    assert not grown(), grown()


def test_a_hundred_and_fifty_launches_in_a_row_leave_nothing_behind(
    daemon: Service, watch: Watch
) -> None:
    """Row 60: descriptors, memory, mounts, cgroups, zombies of daemon and zygotes."""
    _launch_many(daemon, 150)  # what is made once is made by now
    before = _numbers(daemon)
    _launch_many(daemon, 150)
    _assert_level(before, daemon, 512)
    watch.settled()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_launches_in_a_row_leave_nothing_behind(
    daemon: Service, watch: Watch
) -> None:
    """Row 60."""
    _launch_many(daemon, 500)
    before = _numbers(daemon)
    _launch_many(daemon, 10_000)
    _assert_level(before, daemon, 2048)
    watch.settled()
