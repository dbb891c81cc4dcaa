# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a window is confined: by the kernel's word, never by its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.powers import need, root

from isolauncher.session import openwindows
from isolauncher.session.openwindows import judge
from isolauncher.session.running import Running
from isolauncher.windows import Present

PERSON, ACTIVITY, OTHER = 1000, 70005, 70006
RUNNING = (
    Running(id="one", bundle_id="org.laptop.Log", uid=ACTIVITY, policy="log"),
    Running(id="two", bundle_id="org.laptop.Log", uid=ACTIVITY, policy="log"),
)
OWNERS = {10: ACTIVITY, 11: PERSON, 12: OTHER, 13: 0}


def window(pid: int, activity: str = "") -> Present:
    return Present(
        number=1,
        pid=pid,
        title="Log",
        sugar_bundle="org.laptop.Log",
        sugar_activity=activity,
    )


@pytest.mark.parametrize(
    ("pid", "running", "verdict"),
    [
        (10, RUNNING, "confined"),
        (11, RUNNING, "unconfined"),
        (12, RUNNING, "unconfined"),  # of a uid that nothing runs as
        (13, RUNNING, "unconfined"),
        (10, (), "unconfined"),
        (10, None, "unknown"),  # the daemon cannot be asked
        (11, None, "unconfined"),
        (13, None, "unconfined"),
        (0, RUNNING, "unknown"),  # the X server does not know
        (99, RUNNING, "unknown"),  # gone, or not to be seen
    ],
)
def test_the_process_behind_a_window_decides(
    pid: int, running: tuple[Running, ...] | None, verdict: str
) -> None:
    (one,) = judge([window(pid, "one")], running, OWNERS.get, PERSON)
    assert one.verdict == verdict


def test_a_window_that_says_the_id_of_another_is_not_that_one() -> None:
    (one,) = judge([window(11, "one")], RUNNING, OWNERS.get, PERSON)
    assert (one.verdict, one.running) == ("unconfined", None)


def test_of_several_with_one_uid_it_may_say_which_it_is() -> None:
    first, second, neither = judge(
        [window(10, "one"), window(10, "two"), window(10, "three")],
        RUNNING,
        OWNERS.get,
        PERSON,
    )
    assert [one.running and one.running.id for one in (first, second, neither)] == [
        "one",
        "two",
        "one",
    ]


def test_the_owner_of_a_process_is_the_kernel_s_word() -> None:
    assert openwindows.owner(os.getpid()) == os.getuid()
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert openwindows.owner(gone.pid) is None


@contextmanager
def another_uid_s_family() -> Iterator[tuple[int, int]]:
    program = "import os, time; os.write(1, b'%d\\n' % os.fork()); time.sleep(60)"
    need(root())
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        user=12345,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        found = {int(process.stdout.readline()) for _ in range(2)}
        yield process.pid, max(found)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_sandbox_is_the_first_above_that_has_another_uid() -> None:
    """Two below us as another uid, as a program and its child below their init."""
    with another_uid_s_family() as (parent, child):
        assert openwindows.sandbox(parent) == os.getpid()
        assert openwindows.sandbox(child) == os.getpid()
    assert openwindows.sandbox(0) is None


def test_a_parent_that_ends_meanwhile_is_not_taken_for_a_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """12 began as a child of 11, which is gone when it is looked at."""
    parents = iter((11, 10))

    def status(pid: int) -> tuple[int, int] | None:
        known = {10: (0, 1), 12: (ACTIVITY, next(parents) if pid == 12 else 0)}
        return known.get(pid)

    monkeypatch.setattr(openwindows, "_status", status)
    assert openwindows.sandbox(12) == 10
