# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon finds when it starts again, and when it gives it back."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemons import TOP, Service, service
from support.powers import need, sandboxes

TAKE = """
import sys
from pathlib import Path
from isolauncher.identity.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), Path(sys.argv[2]))
lease = ledger.take(
    mode="instance", caller_uid=0, caller_name="", activity_id="lost"
)
print(lease.uid)
"""


@pytest.fixture
def daemon() -> Iterator[Service]:
    need(sandboxes())
    with service() as made:
        yield made


@contextmanager
def somebody_with(uid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of nobody's daemon that has a uid, until its input ends."""
    program = (
        "import os, sys\n"
        f"os.setresuid({uid}, {uid}, {uid})\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def lost_lease(where: Service) -> Path:
    """The lease of a launch whose daemon was killed before it had a record."""
    taken = subprocess.run(
        [sys.executable, "-c", TAKE, where.state_dir, where.run_dir],
        cwd=TOP,
        stdout=subprocess.PIPE,
        check=True,
    )
    return where.state_dir / "identity" / "uids" / taken.stdout.decode().strip()


def wait_until_gone(path: Path) -> bool:
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        # A file's end is not an event that can be waited for without inotify.
        select.select([], [], [], 0.02)
    return not path.exists()


def test_a_lost_uid_is_taken_back_at_the_next_start(daemon: Service) -> None:
    daemon.stop()
    lease = lost_lease(daemon)
    assert lease.exists()
    daemon.start()
    assert not lease.exists()


def test_a_lost_uid_that_a_process_has_is_taken_back_when_that_has_ended(
    daemon: Service,
) -> None:
    daemon.stop()
    lease = lost_lease(daemon)
    with somebody_with(int(lease.name)) as process:
        daemon.start()
        assert lease.exists()
        assert f'why="process {process.pid} runs as it"' in daemon.log
        # And one that takes its place: it may have forked meanwhile.
        with somebody_with(int(lease.name)) as second:
            process.kill()
            process.wait()
            daemon.wait_for_log(f'why="process {second.pid} runs as it"')
            assert lease.exists()
    assert wait_until_gone(lease)
    assert os.listdir(lease.parent) == []
