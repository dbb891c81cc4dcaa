# SPDX-License-Identifier: GPL-3.0-or-later
"""Whichever call of a launch the kernel refuses: nothing runs and nothing is left.

The table is a recording of one launch that uses every step; each call is then refused
in a launch of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace

import pytest
from support.devices import refuse_nodes
from support.powers import need
from support.spoiling import ALICE, Call, Trace, nothing_left

from isolauncher import kernel, steps
from isolauncher.spoilt import board as boards
from spoilt.conftest import Full, every, some

BEST_EFFORT = {
    ("no-nested-user-namespaces", "write_file"): "user.max_user_namespaces",
    ("show-as", "set_argument_area"): "/proc/self/cmdline and environ",
    ("make-devices", "mknod"): "device /dev/",
}
"""Refusals that the design lets pass: the launch succeeds, and its report says so, by
what begins with this."""

OUTSIDE = {
    "daemon": "open-tree",
    "zygote": "zygote",
    "init": "init",
    "stem": "stem",
}
"""What a line names for a call that belongs to no step of the plan."""

NOT_OF_A_LAUNCH = {"landlock_abi", "unmount"}
"""Calls that `host` makes when the daemon starts, and `scratch` when a bundle ends."""

OF_A_BUNDLE = {"map-owner"}
"""A step that only a bundle's launch has: see test_bundle_refused.py."""


def lets_pass(call: Call, number: int) -> str | None:
    """What the report then names; None: the launch is refused."""
    if call.name == "mknod" and number not in (errno.EPERM, errno.EACCES):
        return None
    return BEST_EFFORT.get((call.step, call.name))


def is_told(said: dict[str, object], what: str, number: int) -> bool:
    found: list[dict[str, str]] = said["report"]["skipped"]  # type: ignore[index]
    why = os.strerror(number)
    return any(s["what"].startswith(what) and s["why"].endswith(why) for s in found)


def record(full: Full, policy: str = "every", tier: str | None = None) -> list[Call]:
    """Every call of one launch that succeeds, in each actor's order."""
    for _ in range(2):
        # The second time: the first may have had to start a zygote, which stays.
        before = Trace.now(full.of)
        full.of.record()
        run = full.launch(policy, tier=tier)
        said = run.end()
        assert said is not None
        assert (said["event"], said.get("status")) == ("exited", 0), said
        assert run.printed() == b"ran\n"
        assert full.ran()
        run.close()
    nothing_left(full.of, before, "the recording")
    return full.of.calls()


def test_the_recorded_launch_makes_every_call_and_takes_every_step(full: Full) -> None:
    need(refuse_nodes())
    calls = record(full) + record(full, "same")
    # The filter calls nobody: it is kept for the step seccomp.
    kinds = {_name(s) for s in steps.Step.__args__ if s is not steps.Filter}
    assert kinds - {c.step for c in calls} <= OF_A_BUNDLE
    names = {n for n in vars(kernel.Kernel) if not n.startswith("_")}
    assert names - {c.name for c in calls} <= NOT_OF_A_LAUNCH
    assert {c.actor for c in calls} == set(boards.ACTORS)


def _name(step: type) -> str:
    # `name_of` asks for a step and looks at its class alone.
    return steps.name_of(object.__new__(step))  # type: ignore[arg-type]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("policy", ["every", "same"])
def test_whichever_call_is_refused_nothing_runs_and_nothing_is_left(
    full: Full, policy: str
) -> None:
    table = some(record(full, policy), 12)
    if policy == "same":
        # Where inside and outside are one uid, only how files are mapped differs.
        table = [
            c
            for c in record(full, policy)
            if c.actor == "mapper" or (c.step, c.name) == ("attach", "write_file")
        ]
        # One namespace serves for all files of one owner: made, and three lines of it.
        assert len(table) >= 4
    faults, tried = refuse(full, policy, table, [errno.EPERM])
    assert not faults, "\n".join(faults)
    assert tried == len(table)


def test_the_command_says_in_one_line_which_step_and_why(full: Full) -> None:
    table = record(full)
    call = next(c for c in table if c.step == "drop-capabilities")
    before = Trace.now(full.of)
    full.of.board.set(boards.REFUSE, call.actor, call.number, errno.EPERM)
    words = ("--policy", "every", "--", full.program, str(full.directory))
    done = full.of.service.run(*words, uid=ALICE)
    assert (done.status, done.out) == (125, b"")
    assert done.errors.count("\n") == 1, done.errors
    assert "drop-capabilities: " in done.errors
    assert os.strerror(errno.EPERM) in done.errors
    assert done.report is not None
    assert done.report["error"]["step"] == "drop-capabilities"
    assert done.report["exit"] == {"status": None, "signal": None}
    assert not full.ran()
    nothing_left(full.of, before)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_it_matters_not_with_which_errno(full: Full) -> None:
    table = list(every(record(full), 12))
    faults, tried = refuse(full, "every", table, [errno.ENOMEM, errno.ENOSYS])
    assert not faults, "\n".join(faults)
    assert tried == len(table) * 2


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize("policy", ["every", "same"])
def test_it_matters_not_with_any_errno_in_any_tier(
    full: Full, policy: str, tier: str
) -> None:
    numbers = [
        *(errno.EPERM, errno.ENOMEM, errno.ENOSYS, errno.EACCES, errno.EIO),
        *(errno.EAGAIN, errno.ENOSPC, errno.EBUSY, errno.EMFILE, errno.EINTR),
    ]
    table = record(full, policy, tier)
    faults, tried = refuse(full, policy, table, numbers, tier)
    assert not faults, "\n".join(faults)
    assert tried == len(table) * len(numbers)


def refuse(
    full: Full,
    policy: str,
    table: Iterable[Call],
    numbers: Iterable[int],
    tier: str | None = None,
) -> tuple[list[str], int]:
    """Refuse each call in turn; what was not as promised, and how many were tried."""
    faults: list[str] = []
    tried = 0
    before = Trace.now(full.of)
    for number in numbers:
        for call in table:
            tried += 1
            name = f"{tried:08x}"
            full.of.board.set(boards.REFUSE, call.actor, call.number, number)
            what = f"{call} refused with {errno.errorcode[number]}"
            since = len(full.of.service.log)
            run = full.launch(policy, tier=tier, activity_id=name)
            said = run.end() or {}
            printed, ran = run.printed(), full.ran()
            run.close()
            if not full.of.board.hit:
                faults.append(f"{what}: was not made")
            if (
                call.actor == "zygote"
                or "zygote-retired" in full.of.service.log[since:]
            ):
                # It has gone, and its successor is reached by another socket.
                before = _with_another_zygote(full, before)
            try:
                nothing_left(full.of, before, what)
            except AssertionError as e:
                faults.append(str(e))
                before = Trace.now(full.of)
            skipped = lets_pass(call, number)
            if call.name == "setns":
                # The zygote ends; its successor, asked again, launches as it should.
                if (said.get("status"), printed, ran) != (0, b"ran\n", True):
                    faults.append(f"{what}: {said}")
            elif skipped is not None:
                if said.get("status") != 0 or not ran:
                    faults.append(f"{what}: {said}")
                elif not is_told(said, skipped, number):
                    faults.append(f"{what}: the report does not say so")
            else:
                faults += _refusal(call, number, said, printed, ran, what)
                log = full.of.service.log[since:]
                lines = [x for x in log.splitlines() if name in x]
                if len(lines) != 1 or "isolauncher: refused " not in lines[0]:
                    faults.append(f"{what}: the log says {lines}")
    return faults, tried


def _refusal(
    call: Call,
    number: int,
    said: dict[str, object],
    printed: bytes,
    ran: bool,
    what: str,
) -> Iterable[str]:
    if printed or ran:
        yield f"{what}: the program ran"
    if (said.get("event"), said.get("exit_status")) != ("refused", 125):
        yield f"{what}: {said}"
    elif said["step"] != (call.step or OUTSIDE[call.actor]):
        yield f"{what}: the line names the step {said['step']}: {said['message']}"
    elif os.strerror(number) not in str(said["message"]):
        yield f"{what}: the line does not say why: {said['message']}"


def _with_another_zygote(full: Full, before: Trace) -> Trace:
    full.of.record()
    run = full.launch()
    run.end()
    run.close()
    assert full.ran()
    nothing_left(full.of, replace(before, descriptors=None), "another zygote")
    return Trace.now(full.of)
