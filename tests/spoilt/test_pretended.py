# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that says yes and does nothing is caught before "go".

Each call of a recorded launch is left out in a launch of its own, as if the kernel
lied. What the verifier sees from outside ends that launch with the step "verify";
what a later step stumbles over ends it there. The rest is listed here, each with why
it may go unseen.
"""

from __future__ import annotations

import pytest

from isolauncher.spoilt import board as boards
from spoilt.conftest import Full
from spoilt.test_refused import record
from support.spoiling import Call, Trace, nothing_left

GIVE_DESCRIPTORS = {"open_tree", "detached_mount", "openat2", "landlock_ruleset"}
"""What they return is used at once: there is no yes without the thing itself."""

UNSEEN: dict[tuple[str, str, str], str] = {}


def outcome(full: Full, call: Call, policy: str = "every") -> tuple[str, str]:
    """("verify" | step | "ran", message) of a launch without that call."""
    full.of.board.set(boards.PRETEND, call.actor, call.number)
    run = full.launch(policy)
    said = run.end() or {}
    printed, ran = run.printed(), full.ran()
    run.close()
    assert full.of.board.hit, f"{call} was not made"
    if said.get("event") == "exited":
        return "ran", f"{said['status']}"
    assert not printed, f"{call} left out: the program ran"
    assert not ran
    assert said.get("exit_status") == 125, f"{call} left out: {said}"
    return str(said["step"]), str(said["message"])


@pytest.mark.timeout(240)
def test_what_is_not_done_is_seen(full: Full) -> None:
    table = record(full)
    before = Trace.now(full.of)
    for call in table:
        if call.name in GIVE_DESCRIPTORS or call.actor == "zygote":
            continue
        step, message = outcome(full, call)
        if step == "ran":
            print("RAN   ", call, message)
        elif step == "verify":
            print("VERIFY", call, message[:100])
        else:
            print("OTHER ", call, step, message[:100])
    nothing_left(full.of, before)
