# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/first-policy.md, followed: each command prints what it says there."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import Service
from support.powers import need, root, sandboxes

SHOWN = "/home/ana/isolauncher"
BOOKS = Path("/srv/books")
BLOCK = re.compile(r"^```(toml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def books() -> Iterator[None]:
    need(root(), sandboxes())
    there = BOOKS.exists()
    BOOKS.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "b", BOOKS], check=True)
    try:
        (BOOKS / "tales.txt").write_text("Once upon a time\n")
        (BOOKS / "tales.txt").chmod(0o644)
        yield
    finally:
        subprocess.run(["umount", "--lazy", BOOKS], check=True)
        if not there:
            BOOKS.rmdir()


def test_each_step_prints_what_the_tutorial_says(
    checkout: Path, books: None, daemon: Service
) -> None:
    before = sorted(daemon.policies.iterdir())
    text = (checkout / "docs/first-policy.md").read_text(encoding="utf-8")
    place = checkout / "my-policies"
    place.mkdir()
    try:
        commands = 0
        for kind, block in BLOCK.findall(text):
            if kind == "toml":
                (place / "reader.toml").write_text(block)
                continue
            for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, expected = step.partition("\n")
                assert printed(command, checkout, daemon) == expected, command
                commands += 1
        assert commands == 11
        (installed,) = set(daemon.policies.iterdir()).difference(before)
        assert installed.read_bytes() == (place / "reader.toml").read_bytes()
        assert stat.S_IMODE(installed.stat().st_mode) == 0o644
    finally:
        (daemon.policies / "reader.toml").unlink(missing_ok=True)
        shutil.rmtree(place)


def printed(command: str, checkout: Path, daemon: Service) -> str:
    command = command.removeprefix("sudo ")
    command = command.replace("/etc/isolauncher/policies", str(daemon.policies))
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=checkout,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            **{"LC_ALL": "C.UTF-8", "NO_COLOR": "1"},
            "ISOLAUNCHER_SOCKET": str(daemon.socket),
        },
    )
    return done.stdout.replace(str(checkout), SHOWN)
