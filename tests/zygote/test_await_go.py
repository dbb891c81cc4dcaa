# SPDX-License-Identifier: GPL-3.0-or-later
"""Who waits for "go" leaves the processor to whoever is to say it."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

import pytest

from isolauncher import wire
from isolauncher.zygote import stem


@pytest.mark.parametrize("let", [True, False])
def test_nothing_is_done_meanwhile_before_others_had_the_processor(
    let: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``let``: whether the filter lets it leave it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done: list[str] = []

    def leave() -> None:
        done.append("yield")
        if not let:
            raise OSError(38, "Function not implemented")

    def warm(until: int) -> None:
        done.append("warm")
        wire.send(ours, {"verb": "go"})

    def nothing() -> None:
        """Neither comes."""

    monkeypatch.setattr(os, "sched_yield", leave)
    with ours, its:
        stem.await_go(its, nothing, program=["x"], tier="fork", warm=warm)
        assert wire.recv(ours).fields == {"event": "ready"}
        assert wire.recv(ours).fields["event"] == "running"
    assert done == ["yield", "warm"]


def test_who_has_had_its_go_leaves_it_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def leave() -> NoReturn:
        raise AssertionError

    def nothing(*words: object) -> None:
        """Neither comes."""

    monkeypatch.setattr(os, "sched_yield", leave)
    with ours, its:
        wire.send(ours, {"verb": "go"})
        stem.await_go(its, nothing, program=["x"], tier="fork", warm=nothing)
        assert wire.recv(ours).fields["event"] == "running"
