# SPDX-License-Identifier: GPL-3.0-or-later
"""What the mediator does when what it hears, or who it asks, comes at a bad time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.glib import Gio, GLib  # noqa: F401 (before anybody else imports it)

from isolauncher import client
from isolauncher.errors import DaemonError
from isolauncher.session import files, mediator, proxy, relay


@dataclass
class Daemon:
    """Away the first time, then of another mind, then there; ``over`` ends it all."""

    over: threading.Event
    asked: list[tuple[Any, Any]] = field(default_factory=list)

    def ask(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked.append((message["ids"], message["reason"].partition("[")[2]))
        if len(self.asked) == 1:
            raise DaemonError("nobody listens", code="daemon-not-running")
        message_of_it = "not you" if len(self.asked) == 2 else ""
        if len(self.asked) == 3:
            self.over.set()
        yield {"results": [{"id": "a1", "result": "?", "message": message_of_it}]}


class Overfull:
    def used(self, most: int) -> tuple[int, int]:
        raise files.Unfit("too much")


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mediator of which only what ends the activity is there."""
    made = mediator.Mediator.__new__(mediator.Mediator)
    made.wanted = SimpleNamespace(id="a1", address="unix:path=/there", data=1)  # type: ignore[assignment]
    made.over = threading.Event()
    made.lock = threading.Lock()
    made.stopping = set()
    made.directories = Overfull()  # type: ignore[assignment]
    made.most = made.most_entries = 1
    monkeypatch.setattr(mediator, "AGAIN_S", 0)
    return made


@pytest.mark.parametrize("code", ["session-ended", "data-full"])
def test_who_is_to_be_stopped_is_until_it_has_been(
    one: Any, code: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    daemon = Daemon(one.over)
    monkeypatch.setattr(client, "ask", daemon.ask)
    if code == "data-full":
        one._scan()
    else:
        one._session_over()
        assert one.over.wait(10)
    assert daemon.asked == [(["a1"], f"{code}]")] * 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(f"[{code}]")
    assert said[1:] == [
        "a1 could not be stopped, and will be: "
        "daemon: nobody listens  [daemon-not-running]",
        "a1 could not be stopped, and will be: not you",
    ]


def test_a_bus_that_went_before_it_could_be_listened_to_is_noticed(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = SimpleNamespace(connect=lambda *words: None, is_closed=lambda: True)
    connections = SimpleNamespace(
        new_for_address=lambda *words: words[-1](None, None),
        new_for_address_finish=lambda result: gone,
    )
    monkeypatch.setattr(mediator, "Gio", SimpleNamespace(DBusConnection=connections))
    told = threading.Event()
    monkeypatch.setattr(one, "_session_over", told.set)
    one._attend_session()
    assert told.is_set()


def test_one_that_waits_has_had_a_conversation(tmp_path: Path, capfd: Any) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        own = files.Directories("/root", {"data": fd})
        told = mediator._rehearse_bus(str(tmp_path), own)
    finally:
        os.close(fd)
    first, _, rest = told.partition(b"\r\n")
    assert first == b"OK 0"
    answers = []
    while rest:
        size = relay.message_size(rest)
        answers.append(Gio.DBusMessage.new_from_blob(rest[:size], relay._FDS))
        rest = rest[size:]
    # Hello, AddMatch, GetNameOwner, RequestName, and create, for which nobody is there.
    assert [a.get_reply_serial() for a in answers] == [1, 2, 3, 4, 5]
    kinds = [a.get_message_type() for a in answers]
    assert kinds == [Gio.DBusMessageType.METHOD_RETURN] * 4 + [
        Gio.DBusMessageType.ERROR
    ]
    assert answers[-1].get_body().unpack() == ("the DataStore could not do it",)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr().err == ""


def test_what_was_rehearsed_leaves_a_filter_and_nothing_else(capfd: Any) -> None:
    mediator.rehearse()
    proxy.taken().close()
    before = sorted(os.listdir("/proc/self/fd"))
    mediator.rehearse()
    assert proxy._ahead is not None
    proxy.taken().close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert capfd.readouterr().err == ""
