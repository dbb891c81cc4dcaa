# SPDX-License-Identifier: GPL-3.0-or-later
"""integration/sugar/try-shell: a command in a session with a shell, then nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import shell as shells
from support.daemons import TOP
from support.desktop import missing as no_desktop
from support.powers import need, sandboxes

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

TRY = TOP / "integration/sugar/try-shell"
COMMAND = """
id -u; echo "$HOME"; echo "$ISOLAUNCHER_SOCKET"; command -v isolauncher
gdbus call --session -d org.laptop.Shell -o /org/laptop/Shell \
    -m org.laptop.Shell.GetBundlePath org.laptop.Calculate
gdbus call --session -d org.laptop.Journal -o /org/laptop/Journal \
    -m org.laptop.Journal.LaunchBundle org.laptop.Calculate ''
until isolauncher ps | grep -q ' running .*org.laptop.Calculate'; do sleep 0.1; done
exit 7
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


def test_a_command_runs_in_a_session_of_which_nothing_is_left() -> None:
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    done = subprocess.run(
        [TRY, "--headless", "--", "sh", "-c", COMMAND],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    uid, home, socket, command, path, launched = done.stdout.splitlines()
    assert int(uid) != 0
    assert socket.endswith("/run/socket")
    assert command == str(TOP / ".venv/bin/isolauncher")
    assert "/Calculate.activity" in path
    assert launched == "(true,)"
    own = [os.path.dirname(home), os.path.dirname(os.path.dirname(socket))]
    assert mentioning(*own) == set()
    assert [place for place in own if os.path.exists(place)] == []


def test_without_a_display_it_says_what_to_do() -> None:
    need(sandboxes())
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(
        [TRY], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--headless" in done.stderr
