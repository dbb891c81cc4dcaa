# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that runs in real time: what it launches does not."""

from __future__ import annotations

import os

import pytest
from support.daemons import COMMAND, Leftovers, nothing_left, service
from support.powers import need, sandboxes, tried

LOOK = """\
import os
print(os.sched_getscheduler(0), os.sched_getscheduler(1))
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    print("refused")
"""


@pytest.mark.parametrize("policy", ["-f", "-r"])
def test_under_a_daemon_in_real_time_a_program_runs_as_any_other(policy: str) -> None:
    need(
        sandboxes(),
        tried(
            "a real-time process",
            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        ),
    )
    # From util-linux, which is everywhere (Debian policy: Essential).
    with service(command=("chrt", policy, "1", *COMMAND, "daemon")) as daemon:
        assert daemon.process is not None
        assert os.sched_getscheduler(daemon.process.pid) != os.SCHED_OTHER
        before = Leftovers.now(daemon)
        script = daemon.script("look.py", LOOK)
        for tier in ("fork", "exec"):
            done = daemon.run("--tier", tier, "--", script, uid=12345)
            assert (done.status, done.err) == (0, b""), done
            assert done.out == b"0 0\nrefused\n"
        nothing_left(daemon, before)
