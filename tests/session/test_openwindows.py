# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a window is confined: by the kernel's word, never by its own."""

from __future__ import annotations

import os
import subprocess

import pytest

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
