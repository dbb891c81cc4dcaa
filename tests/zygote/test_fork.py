# SPDX-License-Identifier: GPL-3.0-or-later
"""Init is forked without what is registered for a fork; a stem makes up for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.daemons import Service
from support.powers import need, sandboxes

TOP = Path(__file__).resolve().parents[2]

FORKS = """
import _imp, logging, os, random, sys, threading
from isolauncher import kernel

said = []
os.register_at_fork(
    before=lambda: said.append("before"),
    after_in_parent=lambda: said.append("parent"),
    after_in_child=lambda: said.append("child"),
)
state = random.getstate()
child = kernel.fork()
if child == 0:
    try:
        assert said == [], said
        assert random.getstate() == state
        grandchild = kernel.fork()
        if grandchild == 0:
            kernel.forked()
            assert said == ["before", "child"], said
            assert random.getstate() != state
            assert not _imp.lock_held()
            logging.getLogger().setLevel(logging.INFO)
            # A thread of its own, and one process more, are as anywhere.
            began = threading.Thread(target=said.append, args=("thread",))
            began.start()
            began.join()
            assert said[-1] == "thread"
            assert threading.main_thread() is threading.current_thread()
            pid = os.fork()
            if pid == 0:
                os._exit(0 if said[-1] == "child" else 1)
            assert os.waitpid(pid, 0)[1] == 0
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert said == [], said
"""


def test_what_is_registered_for_a_fork_is_done_where_it_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=TOP, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


SAYS = """
import random
print(random.random())
"""


def test_programs_of_one_zygote_have_random_numbers_of_their_own(
    daemon: Service,
) -> None:
    need(sandboxes())
    program = daemon.script("says.py", SAYS)
    said = {daemon.run("--", program).out for _ in range(3)}
    assert len(said) == 3
