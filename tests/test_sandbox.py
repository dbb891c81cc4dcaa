# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon hears of a stem that may say "ready", and of one that need not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from isolauncher import kernel, plan, steps, verify, wire
from isolauncher.channel import Channel
from isolauncher.errors import IsolauncherError, ProgramNotFound, VerifyError
from isolauncher.init import failure
from isolauncher.sandbox import Running, Sandbox

READY = {"event": "ready"}
RUNNING = {"event": "running", "tier": "fork", "why": "", "at_us": 7}
NOT_FOUND = failure(ProgramNotFound("x: no such program", code="program-not-found"), "")


def heard(
    asks: Callable[[Sandbox], object],
    *said: dict[str, object],
    how: int = socket.SHUT_WR,
) -> object:
    """What the daemon makes of a stem that says all this and ends.

    ``how`` SHUT_RDWR: it has ended before the daemon says a word.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def ask() -> object:
        sandbox = Sandbox(channel=Channel(ours), init=-1, pid=0, zygote=None)
        sandbox.stem_channel = sandbox.channel
        try:
            return await asks(sandbox)  # type: ignore[misc]
        finally:
            sandbox.close()

    with its:
        for message in said:
            wire.send(its, message)
        its.shutdown(how)
        return asyncio.run(ask())


@pytest.mark.parametrize("said", [(RUNNING,), (READY, RUNNING)])
def test_who_has_go_runs_whether_it_was_ready_before_or_not(
    said: tuple[dict[str, object], ...],
) -> None:
    assert heard(Sandbox.go, *said) == Running(tier="fork", why="", at_us=7)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ((), "sandbox-died"),
        ((READY,), "sandbox-died"),
        ((NOT_FOUND,), "program-not-found"),
        ((READY, NOT_FOUND), "program-not-found"),
        ((RUNNING, NOT_FOUND), "program-not-found"),
        ((READY, READY), "unexpected-message"),
        (({"event": "sealed"},), "unexpected-message"),
    ],
)
def test_what_does_not_run_is_told_in_its_own_words(
    said: tuple[dict[str, object], ...], code: str
) -> None:
    with pytest.raises(IsolauncherError) as raised:
        heard(Sandbox.go, *said)
    assert raised.value.code == code


@pytest.mark.parametrize("said", [(NOT_FOUND,), (READY, NOT_FOUND)])
def test_a_stem_that_has_ended_before_go_has_said_why(
    said: tuple[dict[str, object], ...],
) -> None:
    with pytest.raises(ProgramNotFound):
        heard(Sandbox.go, *said, how=socket.SHUT_RDWR)
    with pytest.raises(IsolauncherError) as raised:
        heard(Sandbox.go, how=socket.SHUT_RDWR)
    assert raised.value.code == "sandbox-died"


def test_a_stem_that_ends_before_it_is_ready_says_why() -> None:
    assert heard(Sandbox.ready, READY) is None
    with pytest.raises(ProgramNotFound):
        heard(Sandbox.ready, NOT_FOUND)


def test_a_rest_begins_as_the_stem_was_told() -> None:
    start = plan.Start(
        program_kind="file",
        path="/p.py",
        argv=("p.py",),
        environment=(("A", "b"),),
        cwd="/",
        tier="fork",
        hostname="h",
        preload="python",
    )
    filter_ = plan.CompiledFilter(
        name="f", program=b"", probe_number=0, probe_arguments=(), probe_errno=1
    )
    frame = plan.Frame(uid=7, trees=(), known=frozenset(), ruled=None)
    rest = plan.rest(
        activity_id="a",
        frame=frame,
        furniture=plan.Furniture(),
        filter_=filter_,
        start=start,
        umask=0o22,
        init_uid=6,
    )
    begun = plan.begin(start, 0o22, filter_)
    left = rest.part_of("stem", begun)
    assert (*begun, *left.steps) == rest.part_of("stem").steps
    assert left.start == start
    assert [type(p.step) for p in left.steps] == [steps.CloseDescriptors]
    with pytest.raises(ValueError, match="begun"):
        rest.part_of("stem", plan.begin(start, 0o77, filter_))


def test_a_process_that_is_reaped_while_it_is_looked_at_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """readlink(2) of its namespace: EACCES, though nothing is refused to root."""

    def reaped(path: str) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "readlink", reaped)
    looks = verify.Sealed(init=1, stem=1, sent={}, probes={}, notes=())
    whole = plan.Plan(
        room=plan.Room(id="x", steps=(), skipped=()),
        rest=plan.Rest(id="x", steps=(), start=None),
    )
    with pytest.raises(VerifyError) as caught:
        verify.verify_left(whole, looks)
    assert caught.value.code == "verify-gone"


def test_what_is_missing_of_a_process_that_ends_is_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its memory goes first, and its variables with it; of the living they are told."""
    show = steps.ShowAs(argv=("p",), environ=(), name="p")
    seal = steps.Seccomp(
        name="f", probe_number=0, probe_arguments=(), probe_errno=errno.ENOSYS
    )
    planned = tuple(steps.Planned(actor="stem", step=step) for step in (show, seal))
    whole = plan.Plan(
        room=plan.Room(id="x", steps=planned, skipped=()),
        rest=plan.Rest(id="x", steps=(), start=None),
    )
    probes = {"seccomp": errno.ENOSYS, "securebits": kernel.SECUREBITS}
    monkeypatch.setattr(verify, "_namespaces_of", lambda pid: {})

    def code(stem: int) -> str:
        looks = verify.Sealed(
            init=os.getpid(), stem=stem, sent={}, probes=probes, notes=()
        )
        with pytest.raises(VerifyError) as caught:
            verify.verify(whole, looks, {})
        return caught.value.code

    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as other:
        assert code(other.pid) == "verify-difference"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert code(other.pid) == "verify-gone"
