# SPDX-License-Identifier: GPL-3.0-or-later
"""What came before is not read again, and is judged as if it had been."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest
from support.daemons import Service
from support.powers import need, sandboxes

from isolauncher import client, wire
from isolauncher.activity import Activity, Counts
from isolauncher.before import MAX_BYTES, MOST, Before, Known
from isolauncher.request import Caller

CAROL = 12347
ADMITS = 'version = 1\n[match]\ncallers = ["{who}"]\n[environment]\nkeep = ["{keep}"]\n'


def caller(uid: int) -> Caller:
    return Caller(uid=uid, gid=uid, groups=(), pid=1)


def known(name: str) -> Known:
    return Known(name, name)  # type: ignore[arg-type]


def test_one_callers_words_are_not_anothers() -> None:
    before = Before()
    before.keep(caller(1), b"a", known("a"))
    assert before.find(caller(1), b"a") == known("a")
    assert before.find(caller(1), b"b") is None
    assert before.find(caller(2), b"a") is None


def test_only_so_much_is_remembered() -> None:
    before = Before()
    large = b"x" * (MAX_BYTES + 1)
    before.keep(caller(1), large, known("large"))
    assert before.find(caller(1), large) is None
    for number in range(MOST + 1):
        before.keep(caller(1), b"%d" % number, known(str(number)))
        before.keep(caller(1), b"0", known("0"))
    kept = [n for n in range(MOST + 1) if before.find(caller(1), b"%d" % n)]
    assert kept == [0, *range(2, MOST + 1)]


def test_bytes_that_are_known_are_not_read() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for data in (b'{"a":1}', b'{"a":2}'):
            ours.send(data)
            message = wire.try_recv(theirs, known=lambda data: b"1" in data)
            assert message is not None
            assert message.data == data
            assert message.fields == ({} if b"1" in data else {"a": 2})


@pytest.fixture(scope="module")
def daemon(services: Callable[[str], Service]) -> Iterator[Service]:
    need(sandboxes())
    where = services("version = 1\n")
    where.policy("before", ADMITS.format(who="*", keep="TOLD"))
    return where


def launch(where: Service, script: str, **more: object) -> str:
    done = where.run(
        *("--policy", "before", "--", script), environment={"TOLD": "yes"}, **more
    )
    return done.text.strip() or done.errors


@pytest.fixture
def script(daemon: Service) -> str:
    return daemon.script("told.py", "import os\nprint(os.environ.get('TOLD'))\n")


def test_a_policy_that_was_edited_holds(daemon: Service, script: str) -> None:
    assert [launch(daemon, script) for _ in range(2)] == ["yes"] * 2
    daemon.policy("before", ADMITS.format(who="*", keep="OTHER"))
    assert [launch(daemon, script) for _ in range(2)] == ["None"] * 2
    daemon.policy("before", ADMITS.format(who="*", keep="TOLD"))
    assert launch(daemon, script) == "yes"


def test_who_is_not_admitted_any_more_is_refused(daemon: Service, script: str) -> None:
    assert launch(daemon, script, uid=CAROL) == "yes"
    daemon.policy("before", ADMITS.format(who="root", keep="TOLD"))
    assert "policy-not-for-caller" in launch(daemon, script, uid=CAROL)
    daemon.policy("before", ADMITS.format(who="*", keep="TOLD"))


def test_it_may_come_with_other_descriptors_and_with_no_fewer(
    daemon: Service, script: str
) -> None:
    with closing(client.prepare([script], policy="before")) as prepared:
        for fds in (prepared.fds, prepared.fds[:-1], prepared.fds):
            reader, writer = os.pipe()
            with daemon.client() as sock:
                wire.send(sock, prepared.message, (fds[0], writer, *fds[2:]))
                os.close(writer)
                first = wire.recv(sock).fields
                if len(fds) < len(prepared.fds):
                    assert first["code"] == "request-descriptors"
                else:
                    assert first["event"] == "started"
                    assert wire.recv(sock).fields["status"] == 0
                    assert os.read(reader, 10) == b"None\n"
            os.close(reader)


def test_activities_are_counted_by_their_callers() -> None:
    def one(uid: int, state: str = "starting") -> Activity:
        return SimpleNamespace(caller_uid=uid, state=state)  # type: ignore[return-value]

    counts = Counts()
    first, second, adopted = one(1), one(2), one(1, "running")
    for activity in (first, second, adopted):
        counts.enter(activity)
    assert counts.alive == {1: 2, 2: 1}
    assert counts.starting == {1: 1, 2: 1}
    counts.runs(first)
    assert (first.state, counts.starting) == ("running", {2: 1})
    for activity in (second, second, adopted, first):
        counts.ended(activity)
    assert (counts.alive, counts.starting) == ({}, {})
    assert adopted.state == "exited"
