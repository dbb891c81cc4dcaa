# SPDX-License-Identifier: GPL-3.0-or-later
"""What is begun for a launch before the daemon has said what it grants."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.glib import GLib  # noqa: F401 (before anybody else imports it)

from isolauncher import client, wire
from isolauncher.errors import DaemonError
from isolauncher.session import installed, launching
from isolauncher.session.mediators import Mediated, Mediators


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """GSettings would start threads here, which stay for all tests that come after."""
    monkeypatch.setattr(launching.settings, "of_person", lambda *_: {})


GRANTED: Mapping[str, Any] = {
    "event": "granted",
    "id": "a1",
    "bundle_id": "org.example.One",
    "installed_by": "system",
    "policy": "sugar",
    "why": "it says so",
    "furniture": ["data", "hold", "instance", "tmp"],
    "root": "/home/x/.sugar/default/org.example.One",
    "documents": "none",
    "data": 1 << 20,
    "file_size": 1 << 20,
    "session_call": [],
    "session_own": [],
    "accessibility": False,
    "input_method": False,
}


@pytest.fixture
def mediators() -> Iterator[Mediators]:
    with Mediators.start() as started:
        yield started


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / ".sugar/default"


def launched(
    told: Mapping[str, Any],
    tmp_path: Path,
    mediators: Mediators,
    grants: launching.Grants | None,
    monkeypatch: pytest.MonkeyPatch,
    looking: Any = lambda: None,
) -> list[str]:
    """Launch by a daemon that grants ``told``; the names of what it gets.

    ``looking`` is called while the daemon looks.
    """
    bundle = tmp_path / "One.activity"
    bundle.mkdir(exist_ok=True)
    got: list[str] = []

    def accompany(sock: object, launch: client.Launch, **calls: Any) -> client.End:
        launch.close()
        calls["meanwhile"]()
        looking()
        sent: client.Furniture = calls["furnish"](told)
        got.extend(sent.message["descriptors"])  # type: ignore[call-overload]
        wire.close_all(sent.fds)
        return client.End(0, None, None)

    monkeypatch.setattr(client, "accompany", accompany)
    monkeypatch.setattr(client, "connect", lambda **more: None)
    asked = launching.Asked(
        bundle=str(bundle), activity_id="a1", environment={"HOME": str(tmp_path)}
    )
    launching.launch(
        asked,
        mediators,
        granted=lambda fields: None,
        started=lambda fields: None,
        tell=lambda line: None,
        grants=grants,
    )
    return got


def wait_until_gone(path: Path) -> None:
    """A mediator clears away in its own time, after the sandbox has ended."""
    until = time.monotonic() + 10
    while path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_mediator_is_begun_while_the_daemon_looks(
    tmp_path: Path,
    profile: Path,
    mediators: Mediators,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grants = launching.Grants()
    own = profile / "org.example.One/instance/a1"
    begun: list[bool] = []

    def looking() -> None:
        until = time.monotonic() + 10
        while grants.likely(str(tmp_path / "One.activity"), "a1") and not own.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        begun.append(own.exists())

    for _ in range(2):
        names = launched(GRANTED, tmp_path, mediators, grants, monkeypatch, looking)
        assert sorted(names) == ["data", "hold", "instance", "tmp"]
        wait_until_gone(profile / "isolauncher/running/a1")
    assert begun == [False, True]


def test_what_is_granted_is_what_is_made_whatever_it_was_before(
    tmp_path: Path,
    profile: Path,
    mediators: Mediators,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grants = launching.Grants()
    launched(GRANTED, tmp_path, mediators, grants, monkeypatch)
    wait_until_gone(profile / "isolauncher/running/a1")
    less = {**GRANTED, "furniture": ["hold"], "installed_by": "user"}
    assert launched(less, tmp_path, mediators, grants, monkeypatch) == ["hold"]
    wait_until_gone(profile / "isolauncher/running/a1")
    # Of the one that was begun for more nothing is left, and it was there.
    assert (profile / "org.example.One/data").exists()
    assert not (profile / "org.example.One/instance/a1").exists()
    assert not (profile / "isolauncher/user").exists()


def test_one_that_was_refused_meanwhile_leaves_nothing(
    tmp_path: Path,
    profile: Path,
    mediators: Mediators,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grants = launching.Grants()
    launched(GRANTED, tmp_path, mediators, grants, monkeypatch)
    wait_until_gone(profile / "isolauncher/running/a1")

    def refuse() -> None:
        raise DaemonError("no", code="quota")

    with pytest.raises(DaemonError):
        launched(GRANTED, tmp_path, mediators, grants, monkeypatch, refuse)
    wait_until_gone(profile / "isolauncher/running/a1")
    wait_until_gone(profile / "org.example.One/instance/a1")


def test_nothing_is_likely_of_an_id_that_nobody_gave() -> None:
    grants = launching.Grants()
    assert grants.likely("/there", "a1") is None
    grants.keep("/there", GRANTED)
    assert grants.likely("/there", None) is None
    assert grants.likely("/there", "a2") == {**GRANTED, "id": "a2"}
    for number in range(launching.Grants.MOST):
        grants.keep(f"/other/{number}", GRANTED)
    assert grants.likely("/there", "a1") is None


def test_a_mediator_that_has_gone_is_no_hindrance_to_undo_it() -> None:
    channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.close()
    Mediated(channel).undo()
    assert channel.fileno() < 0


def test_a_bundle_is_found_anew_when_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "One.activity/activity/activity.info"
    info.parent.mkdir(parents=True)
    read: list[object] = []
    parse = installed.parse
    monkeypatch.setattr(installed, "SYSTEM", (str(tmp_path),))
    monkeypatch.setattr(installed, "parse", lambda f: read.append(f) or parse(f))

    def found(bundle_id: str) -> bool:
        try:
            installed.find(bundle_id, {"HOME": str(tmp_path / "nobody")})
        except Exception:
            return False
        return True

    def write(bundle_id: str) -> None:
        info.write_text(
            f"[Activity]\nname = One\nbundle_id = {bundle_id}\nicon = i\n"
            "exec = sugar-activity3 one.One\nactivity_version = 1\n"
        )

    write("org.example.One")
    assert found("org.example.One")
    assert found("org.example.One")
    assert len(read) == 1
    write("org.example.Two")
    # The kernel's clock for files goes by ticks.
    os.utime(info, ns=(1, 1))
    assert not found("org.example.One")
    assert found("org.example.Two")
    assert len(read) == 2
