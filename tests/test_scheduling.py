# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that runs in real time: what it launches does not."""

from __future__ import annotations

import os

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


def policies() -> list[str]:
    """In real time, where this process may be; batch, which a fork inherits as well."""
    refused = tried(
        "a real-time process",
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    )
    return ["--batch"] if refused else ["--batch", "--fifo"]


def test_under_a_daemon_of_another_scheduling_a_program_runs_as_any_other() -> None:
    need(sandboxes())
    # The sternest that this machine lets us have.
    policy = policies()[-1]
    priority = "0" if policy == "--batch" else "1"
    # From util-linux, which is everywhere (Debian policy: Essential).
    with service(command=("chrt", policy, priority, *COMMAND, "daemon")) as daemon:
        assert daemon.process is not None
        assert os.sched_getscheduler(daemon.process.pid) != os.SCHED_OTHER
        before = Leftovers.now(daemon)
        script = daemon.script("look.py", LOOK)
        for tier in ("fork", "exec"):
            done = daemon.run("--tier", tier, "--", script, uid=12345)
            assert (done.status, done.err) == (0, b""), done
            assert done.out == b"0 0\nrefused\n"
        nothing_left(daemon, before)
