# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers wait before they are asked for, and whoever asks always gets one."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.peers import until

from isolauncher import reopen, spares, wire

TITLE = "spares of a test"
rehearsed: list[bool] = []


def rehearse() -> None:
    rehearsed.append(True)


def work(message: wire.Message) -> None:
    with socket.socket(fileno=message.fds[0]) as channel:
        wire.send(channel, {"pid": os.getpid(), "rehearsed": bool(rehearsed)})
        channel.recv(1)


@pytest.fixture
def service() -> Iterator[socket.socket]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            spares.serve(its, TITLE, work, rehearse=rehearse, keep=2)
        finally:
            os._exit(0)
    its.close()
    yield ours
    ours.close()
    os.waitpid(pid, 0)
    assert until(lambda: not titled(""))


def titled(end: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.rstrip(b"\0").startswith(f"{TITLE}{end}".encode()):
                found.append(int(entry.name))
    return found


def asked(service: socket.socket) -> tuple[dict[str, object], socket.socket]:
    """What a helper says of itself; it ends when the socket is closed."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    with its:
        wire.send(service, {}, [its.fileno()])
    return wire.recv(ours).fields, ours


def test_as_many_wait_as_are_kept_and_have_rehearsed(service: socket.socket) -> None:
    assert until(lambda: len(titled(", spare")) == 2)
    waiting = titled(", spare")
    said = [asked(service) for _ in range(3)]
    assert {fields["pid"] for fields, _ in said[:2]} == set(waiting)
    # The third was forked for who asked, who has no time for that.
    assert [fields["rehearsed"] for fields, _ in said] == [True, True, False]
    # Others come, after a while.
    assert until(lambda: len(titled(", spare")) >= 4)
    for _, channel in said:
        channel.close()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_that_was_killed_is_passed_over(service: socket.socket) -> None:
    assert until(lambda: len(titled(", spare")) == 2)
    spares = titled(", spare")
    for pid in spares:
        os.kill(pid, signal.SIGKILL)
    # Its title is gone before its end of the socket is.
    assert until(lambda: all(has_ended(pid) for pid in spares))
    fields, channel = asked(service)
    assert fields["rehearsed"] is False
    channel.close()


def test_who_asks_often_is_served_without_a_pause(service: socket.socket) -> None:
    pids = set()
    for _ in range(20):
        fields, channel = asked(service)
        pids.add(fields["pid"])
        channel.close()
    assert len(pids) == 20


def test_openers_are_forked_from_a_process_that_has_done_their_work() -> None:
    """What is frozen no child's collection walks, and no child copies for that."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            reopen._settle()
            os.write(writer, b"%d" % gc.get_freeze_count())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        assert int(file.read()) > 10_000
    os.waitpid(pid, 0)
