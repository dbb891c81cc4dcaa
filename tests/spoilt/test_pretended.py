# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that says yes and does nothing is caught before "go".

Each call of a recorded launch is left out in a launch of its own, as if the kernel
lied. What the verifier sees from outside ends that launch with the step "verify";
what a later step stumbles over ends it there. The rest is listed here, each with why
it may go unseen.

Tests run in mounts and a host name of their own (see tests/conftest.py): a launch
whose `unshare` did nothing goes on in its surroundings if nobody notices.
"""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest
from support.spoiling import Call, Trace, launch, nothing_left

from isolauncher import kernel
from isolauncher.spoilt import board as boards
from spoilt.conftest import Full, some
from spoilt.test_refused import record

GIVE_DESCRIPTORS = {"open_tree", "detached_mount", "openat2", "landlock_ruleset"}
"""What they return is used at once: there is no yes without the thing itself."""

ONLY_LOOK = {"namespace", "shares_mounts"}
"""They change nothing: an answer made up hides no other call's lie by itself."""

UNSEEN = {
    ("close-descriptors", "close_except"): "done twice, before the limit on "
    "descriptors and last of all: without the one the other closes them",
    ("", "set_name"): "a name for ps",
    ("show-as", "set_name"): "a name for ps",
    ("join-keyring", "join_session_keyring"): "another process's keyrings cannot be "
    "looked at; the filter refuses every call that could read a key",
    ("schedule-normally", "schedule_normally"): "seen where the daemon runs in real "
    "time; elsewhere nothing was left out",
    ("make-private", "make_private"): "seen where the machine's mounts are shared; "
    "where they are private already nothing was left out",
    ("directory", "mkdir"): "a place that nothing is attached to: less, not more",
    ("symlink", "symlink"): "a name less in the view, not one more",
    ("write-file", "create_file"): "a file less in the view, not one more",
    ("set-hostname", "sethostname"): "what it is called; the namespace is verified",
    ("loopback-up", "loopback_up"): "less network than the policy allows, not more",
    ("lower-init", "lock_securebits"): "init has no capability, no_new_privs and "
    "no program to start: the bits would guard what is not there",
    ("lower-init", "setgroups"): "the zygote has had no groups from its start",
    ("reset-signals", "reset_signals"): "the hand-over sets them all once more, and "
    "what is there then is verified",
    ("clear-groups", "setgroups"): "the zygote has had no groups from its start",
    ("leave-privileges", "set_dumpable"): "the change of uid has cleared it already",
    ("dumpable", "set_dumpable"): "its entries in /proc stay root's: less, not more",
    ("no-nested-user-namespaces", "write_file"): "the second lock; the first is the "
    "filter, whose probe is verified",
    ("attach", "write_file"): "whose a mount is: what is not in the map belongs to "
    "nobody and can be made by nobody: less, not more",
    ("landlock-rules", "landlock_allow"): "a rule missing allows less, not more",
    ("landlock", "landlock_allow"): "a rule missing allows less, not more",
}


def outcome(full: Full, call: Call) -> tuple[str, str]:
    """("verify" | another step | "ran", message) of a launch without that call."""
    full.of.board.set(boards.PRETEND, call.actor, call.number)
    run = full.launch()
    said = run.end() or {}
    printed, ran = run.printed(), full.ran()
    run.close()
    assert full.of.board.hit, f"{call} was not made"
    if said.get("event") == "exited":
        return "ran", f"status {said['status']}"
    assert not printed, f"{call} left out: the program ran"
    assert not ran, f"{call} left out: the program ran"
    # Or the hand-over comes first, to a program that another user may not read.
    status = 126 if said.get("code") == "program-not-executable" else 125
    assert said.get("exit_status") == status, f"{call} left out: {said}"
    return str(said["step"]), str(said["message"])


def test_what_is_not_done_is_seen_from_outside_or_listed_here(full: Full) -> None:
    pretend(full, some(pretendable(full), 4))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_whatever_is_not_done_is_seen_from_outside_or_listed_here(full: Full) -> None:
    pretend(full, pretendable(full))


def pretendable(full: Full) -> list[Call]:
    return [
        call
        for call in record(full)
        if call.actor in ("init", "stem")
        and call.name not in GIVE_DESCRIPTORS | ONLY_LOOK
    ]


def pretend(full: Full, table: list[Call]) -> None:
    """Leave out each call in turn."""
    before = Trace.now(full.of)
    faults = []
    by_step: dict[str, int] = {}
    for call in table:
        step, message = outcome(full, call)
        by_step[step] = by_step.get(step, 0) + 1
        if step == "ran" and not _may_go_unseen(call):
            faults.append(f"{call} left out: {message}")
    print(", ".join(f"{n} at {step}" for step, n in sorted(by_step.items())))
    nothing_left(full.of, before)
    assert not faults, "\n".join(faults)
    assert by_step["verify"] > by_step["ran"]


def _may_go_unseen(call: Call) -> bool:
    if call.name == "setrlimit":
        # Each is verified; where the daemon's own is just that, nothing was left out.
        name, soft, hard = call.about.split()
        own = resource.getrlimit(kernel.RLIMITS[name.strip("'")])
        return own == (int(soft), int(hard))
    return (call.step, call.name) in UNSEEN


def test_without_a_new_pid_namespace_init_does_not_begin(full: Full) -> None:
    before = Trace.now(full.of)
    step, message = outcome(full, _zygote("unshare", 0))
    assert step == "init", message
    assert "not its first" in message
    nothing_left(full.of, before)


def test_no_sandbox_is_begun_in_the_pid_namespace_of_another(full: Full) -> None:
    before = Trace.now(full.of)
    full.of.board.set(boards.PRETEND, "zygote", 1)
    script = full.of.service.script("wait.py", "print(flush=True)\ninput()")
    first = launch(full.of.service, script, stdin=True)
    first.started()
    first.first_line()
    assert full.of.board.hit
    # The zygote has not come back from the first one's namespace: the kernel itself
    # refuses to make another one from there (EINVAL, unshare(2)).
    full.of.record()
    second = full.launch()
    said = second.end()
    second.close()
    assert said is not None
    assert (said["event"], said["step"]) == ("refused", "zygote"), said
    assert not full.ran()
    first.tell(b"\n")
    ended = first.end()
    first.close()
    assert ended is not None
    assert ended["status"] == 0, ended
    # The zygote is another.
    nothing_left(full.of, replace(before, descriptors=None))


def _zygote(name: str, number: int) -> Call:
    return Call("zygote", number, name, "", "")
