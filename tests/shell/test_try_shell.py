# SPDX-License-Identifier: GPL-3.0-or-later
"""integration: a command in a session with or without a shell, then nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import shell as shells
from support.clicks import FIRST_UID, LAST_UID
from support.daemons import TOP
from support.desktop import missing as no_desktop
from support.powers import need, sandboxes
from support.shell import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

TRY = TOP / "integration/sugar/try-shell"
IN_SESSION = TOP / "integration/demo/in_session.py"
BENCH = TOP / "integration/sugar/bench-shell"
COMMAND = """
id -u; echo "$HOME"; echo "$ISOLAUNCHER_SOCKET"; command -v isolauncher
gdbus call --session -d org.laptop.Shell -o /org/laptop/Shell \
    -m org.laptop.Shell.GetBundlePath org.laptop.Calculate
gdbus call --session -d org.laptop.Journal -o /org/laptop/Journal \
    -m org.laptop.Journal.LaunchBundle org.laptop.Calculate ''
until isolauncher ps | grep -q ' running .*org.laptop.Calculate'; do sleep 0.1; done
exit 7
"""
STAY = """
echo "$HOME"; echo "$ISOLAUNCHER_SOCKET"
setsid sh -c 'trap "" TERM INT HUP; while :; do sleep 1000; done' &
isolauncher run -- sh -c 'trap "" TERM INT HUP; while :; do sleep 1000; done' &
until isolauncher ps | grep -q ' running '; do sleep 0.1; done
echo ready
wait
"""


def mentioning(*names: str) -> set[str]:
    """Command lines with one of these in them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(name in words for name in names):
            found.add(f"{path.parent.name} {words!r}")
    return found


def confined() -> set[str]:
    """Processes that run in a sandbox, anybody's."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if FIRST_UID - 1 <= path.stat().st_uid <= LAST_UID:
                found.add(path.name)
    return found


@contextmanager
def nothing_left() -> Iterator[list[str]]:
    """Of a session, of which the body says the home and the daemon's socket."""
    before, said = confined(), list[str]()
    yield said
    home, socket = said
    own = [os.path.dirname(home), os.path.dirname(os.path.dirname(socket))]
    assert mentioning(*own) == set()
    assert [place for place in own if os.path.exists(place)] == []
    # On a machine with other work these may be another's, which end as well.
    new = confined() - before
    until(lambda: not confined() & new, f"that {new} end")


def test_a_command_runs_in_a_session_of_which_nothing_is_left() -> None:
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    with nothing_left() as said:
        done = subprocess.run(
            [TRY, "--headless", "--", "sh", "-c", COMMAND],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 7, done.stderr
        uid, home, socket, command, path, launched = done.stdout.splitlines()
        said += [home, socket]
    assert int(uid) != 0
    assert socket.endswith("/run/socket")
    assert command == str(TOP / ".venv/bin/isolauncher")
    assert "/Calculate.activity" in path
    assert launched == "(true,)"


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ((TRY, "--headless", "--"), signal.SIGINT),
        ((TRY, "--headless", "--"), signal.SIGTERM),
        ((IN_SESSION, "--"), signal.SIGTERM),
        ((IN_SESSION, "--"), signal.SIGHUP),
    ],
    ids=lambda one: one.name if isinstance(one, signal.Signals) else one[0].name,
)
def test_who_is_told_to_end_leaves_nothing_either(
    program: tuple[str | Path, ...], number: int
) -> None:
    """Neither a program in a sandbox nor one beside it that heeds no signal."""
    need(sandboxes())
    need(no_desktop())
    need(shells.missing() if TRY in program else None)
    with nothing_left() as said:
        with subprocess.Popen(
            [*program, "sh", "-c", STAY], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            *told, ready = (process.stdout.readline().strip() for _ in range(3))
            assert ready == "ready"
            said += told
            process.send_signal(number)
            # Told twice it does not leave earlier.
            process.send_signal(number)
            assert process.wait(120) == 128 + number


def test_a_benchmark_that_is_told_to_end_leaves_nothing() -> None:
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    with nothing_left() as said:
        with subprocess.Popen(
            [BENCH, "--pairs", "1000", "Calculate"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert "Calculate" in process.stderr.readline()
            said += places(process.pid)
            process.send_signal(signal.SIGHUP)
            assert process.wait(120) == 128 + signal.SIGHUP


def places(pid: int) -> list[str]:
    """The home and the socket of the session that this process has begun."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PPid:\t{pid}\n" in (path / "status").read_text():
                words = (path / "environ").read_text()
                for name in ("HOME", "ISOLAUNCHER_SOCKET"):
                    found += re.findall(rf"\b{name}=(/tmp/[^\0]+)", words)
    home, socket = sorted(set(found))
    return [home, socket]


def test_without_a_display_it_says_what_to_do() -> None:
    need(sandboxes())
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(
        [TRY], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--headless" in done.stderr
