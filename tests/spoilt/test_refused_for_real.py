# SPDX-License-Identifier: GPL-3.0-or-later
"""What the real kernel refuses: plans that cannot be done, and a machine in the way.

The daemon's plan is bent until the kernel says no at one step; the rest is the
product's own. As with a kernel that is made to refuse: nothing runs, the line names
the step and why, nothing is left.

And calls that no plan can spoil, since they ask nothing of it: a filter that the daemon
is started with has the kernel refuse those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import daemons
from support.daemons import COMMAND, Leftovers, service
from support.powers import loopback, need, sandboxes
from support.spoiling import ALICE, Trace, nothing_left

from isolauncher.spoilt.plans import BENDS
from isolauncher.steps import NAMESPACES, Step, name_of
from spoilt.conftest import Full, every


@pytest.mark.parametrize("name", BENDS)
def test_what_cannot_be_done_ends_the_launch(full: Full, name: str) -> None:
    bend = BENDS[name]
    before = Trace.now(full.of)
    full.of.record()
    full.of.board.bent = name
    try:
        run = full.launch()
        said = run.end()
    finally:
        full.of.board.bent = ""
    assert run.printed() == b""
    run.close()
    assert not full.ran()
    assert said is not None
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    assert said["step"] == bend.named(), said["message"]
    words = [bend.words] if bend.words else [os.strerror(n) for n in bend.errnos]
    assert any(w in str(said["message"]) for w in words), said["message"]
    nothing_left(full.of, before, name)


def refused(full: Full, policy: str = "every", **keywords: object) -> dict[str, object]:
    """Launch, see that nothing runs, and return the daemon's words."""
    full.of.record()
    run = full.launch(policy, **keywords)
    said = run.end()
    assert run.printed() == b""
    run.close()
    assert not full.ran()
    assert said is not None, full.of.service.log[-2000:]
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    return said


def test_a_cgroup_that_is_there_already_is_not_taken_over(full: Full) -> None:
    before = Trace.now(full.of)
    need(None if full.of.places else "the daemon has no cgroup")
    first = full.of.places[0] / "taken"
    first.mkdir()
    try:
        said = refused(full, activity_id="taken")
        assert said["step"] == "join-cgroup", said
        assert "File exists" in str(said["message"])
    finally:
        if first.exists():
            first.rmdir()
    nothing_left(full.of, before)


def test_without_a_place_for_its_cgroup_nothing_is_launched(full: Full) -> None:
    before = Trace.now(full.of)
    need(None if full.of.places else "the daemon has no cgroup")
    place = full.of.places[0]
    place.rmdir()
    try:
        said = refused(full)
        assert said["step"] == "join-cgroup", said
    finally:
        place.mkdir()
    nothing_left(full.of, before)


@contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_without_a_place_for_records_nothing_is_launched(full: Full) -> None:
    before = Trace.now(full.of)
    with away(full.of.service.run_dir / "activities"):
        said = refused(full)
    assert "activities" in str(said["message"]), said
    nothing_left(full.of, before)


def test_one_process_is_enough_whoever_owns_the_program(full: Full) -> None:
    """The helper that lends a mount its user namespace is not one of the program's."""
    for name in ("every", "same"):
        full.of.service.policy(
            f"one-{name}",
            f'version = 1\nextends = "{name}"\n[match]\ncallers = ["*"]\n'
            "[limits]\nprocesses = 1\n",
        )
        full.of.record()
        run = full.launch(f"one-{name}")
        said = run.end()
        run.close()
        assert said is not None
        assert said.get("status") == 0, said
        assert full.ran()


# -------------------------------------------------------- what no plan can ask wrongly

FILTERED = """
import errno, os, sys
import seccomp
call, *wanted = sys.argv[1].split()
wanted = [map(int, one.split("=")) for one in wanted]
filter_ = seccomp.SyscallFilter(seccomp.ALLOW)
filter_.set_attr(seccomp.Attr.CTL_NNP, 0)
arguments = [seccomp.Arg(number, seccomp.EQ, value) for number, value in wanted]
filter_.add_rule(seccomp.ERRNO(errno.EPERM), call, *arguments)
filter_.load()
os.execv(sys.argv[2], sys.argv[2:])
"""
FIRST = sum(NAMESPACES[name] for name in ("net", "ipc", "uts"))
NEW = sum(NAMESPACES[name] for name in ("mnt", "cgroup"))

CALLS = (
    ("new-session", "setsid"),
    ("join-keyring", "keyctl"),
    ("schedule-normally", "sched_setscheduler"),
    ("unshare", f"unshare 0={FIRST}"),
    ("unshare", f"unshare 0={NEW}"),
    ("make-private", f"mount 3={0x44000}"),
    ("new-root", "move_mount"),
    ("attach", "mount_setattr"),
    ("pivot", "pivot_root"),
    ("leave-old-root", "umount2"),
    ("mount-proc", f"mount 3={0xE}"),
    ("mount-terminals", f"mount 3={0xA}"),
    ("set-hostname", "sethostname"),
    ("loopback-up", "socket 0=16"),
    ("priority", "setpriority"),
    ("stdio", "dup2 1=2"),
    ("new-user-namespace", f"unshare 0={0x10000000}"),
    # Which of the two comes first is nobody's to say.
    ("drop-capabilities lower-init", "prctl 0=24"),
    ("drop-capabilities lower-init", "prctl 0=28"),
    ("no-new-privs lower-init", "prctl 0=38"),
    ("dumpable", "prctl 0=4 1=1"),
)
"""A step, or one of several, and the call that it cannot do without: name, and
arguments by number."""

CANNOT = {
    "seal-root": "the call is attach's, which comes first",
    "seal-devices": "the call is attach's, which comes first",
    "reset-signals": "every process needs the call before that",
    "set-umask": "the kernel never refuses it",
    "clear-groups": "the caller's opener needs the call before that",
    "close-descriptors": "the caller's opener needs the call before that",
    "map-owner": "the call is new-user-namespace's, which comes first",
    "landlock": "the daemon tries at its start whether there is Landlock",
    "no-nested-user-namespaces": "best effort: the launch goes on",
    "show-as": "best effort: the launch goes on",
}
"""Steps that only the recording kernel can refuse, each with why."""

POLICY = """version = 1
[match]
callers = ["*"]
[network]
access = "loopback"
[limits]
nice = 3
"""


def test_every_step_is_refused_for_real_or_cannot_be() -> None:
    steps = {name_of(object.__new__(kind)) for kind in Step.__args__}
    bent = {name_of(object.__new__(bend.kind)) for bend in BENDS.values()}
    # What is bent in the filter fails where it binds.
    bent |= {bend.named() for bend in BENDS.values()} & steps
    called = {step for steps, _ in CALLS for step in steps.split()}
    assert steps == bent | called | set(CANNOT)
    assert not (bent | called) & set(CANNOT)


def refuse_for_real(steps: str, call: str) -> list[str]:
    """A daemon whose kernel refuses the call; what is not as promised."""
    faults = []
    words = ("/usr/bin/python3", "-c", FILTERED, call, *COMMAND, "daemon")
    with service(command=words) as where:
        where.policy("mine", POLICY)
        script = where.script("ran.py", "print('ran')")
        before = Leftovers.now(where)
        for tier in ("fork", "exec"):
            done = where.run(
                "--policy", "mine", "--tier", tier, "--", script, uid=ALICE
            )
            wanted = (
                *(done.status == 125, done.text == "", done.errors.count("\n") == 1),
                any(
                    done.errors.startswith(f"isolauncher: {s}: ") for s in steps.split()
                ),
                "Operation not permitted" in done.errors,
                any(f'step="{s}"' in where.log for s in steps.split()),
            )
            if not all(wanted):
                faults.append(f"{call} refused, {tier}: {wanted} {done}")
        daemons.nothing_left(where, before)
    return faults


def refuse_all(table: Iterator[tuple[str, str]]) -> None:
    need(sandboxes(), loopback())
    faults = [fault for row in table for fault in refuse_for_real(*row)]
    assert not faults, "\n".join(faults)


@pytest.mark.timeout(240)
def test_a_call_that_the_kernel_refuses_ends_the_launch() -> None:
    refuse_all(every(CALLS, 5))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_call_that_the_kernel_can_refuse_ends_the_launch() -> None:
    refuse_all(iter(CALLS))
