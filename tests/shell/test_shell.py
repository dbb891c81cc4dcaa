# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own Sugar shell, unmodified, with a mouse and a keyboard.

One session for all of them, each of which leaves the home view as it found it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import shell as shells
from support.daemons import ROOMS_AHEAD, Service, service
from support.desktop import desktop
from support.desktop import missing as no_desktop
from support.powers import need, sandboxes
from support.shell import Box, Shell, middle, until
from support.sugar import NAME, Session, session

from isolauncher.windows import Window

CALCULATE = "org.laptop.Calculate"
MEMORIZE = "org.laptop.Memorize"
SCREEN: Box = (0, 0, 1200, 896)
HOME: Box = (0, 64, 1200, 896)
TOP_OF_FRAME: Box = (260, 0, 1200, 48)
"""Right of the four views."""
BELOW_THE_ICON: Box = (0, 560, 1200, 896)
"""Of a launch, which goes on pulsing."""
ENTRIES: Box = (104, 64, 160, 896)
"""Where the Journal has their icons."""


@dataclass
class Shown:
    """The shell, and what it launches through."""

    shell: Shell
    session: Session

    @property
    def daemon(self) -> Service:
        return self.session.service

    def home(self) -> None:
        """To the home view, with nothing over it."""
        self.shell.xdotool("mousemove", 300, 800)
        self.shell.xdotool("key", "F3")
        until(lambda: len(self.icons()) == 2, "the home view")
        self.shell.settled()

    def icons(self) -> list[Box]:
        """At home: the one favourite, and the person with the Journal below."""
        return self.shell.pixels().things(HOME)

    def calculate(self) -> tuple[int, int]:
        return middle(min(self.icons(), key=lambda box: box[1]))

    def open(self, x: int, y: int) -> Window:
        """Click there, and wait for the window that this opens."""
        with self.shell.watch() as watch:
            self.shell.click(x, y)
            return watch.wait(lambda window: bool(window.sugar_bundle))

    def children(self) -> set[str]:
        pid = self.shell.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}

    def service(self) -> int:
        """The process of the session's service; 0: there is none."""
        words = ("org.freedesktop.DBus", "/org/freedesktop/DBus")
        try:
            said = self.shell.run(
                *("gdbus", "call", "--session", "--dest", words[0]),
                *("--object-path", words[1], "--method"),
                *(f"{words[0]}.GetConnectionUnixProcessID", NAME),
            )
        except subprocess.CalledProcessError:
            return 0
        return int(said.strip("(), \n").split()[-1])

    def logs(self) -> int:
        """How many there are of Calculate: one for each time it was opened."""
        return len(list(self.shell.logs.glob(f"{CALCULATE}-*.log")))

    def last_line(self, number: int) -> str:
        """Of a log, once the shell has written how it ended."""
        until(lambda: "activity_id" in self.shell.log(CALCULATE, number), "a log's end")
        return self.shell.log(CALCULATE, number).splitlines()[-1]

    def dismiss(self, picture: Path) -> None:
        """The button below what the shell says of a launch that failed."""

        def words() -> list[Box]:
            return self.shell.pixels().things(BELOW_THE_ICON)

        until(words, "words and a button")
        self.shell.screenshot(picture)
        (left, _, right, bottom), *_ = words()
        self.shell.click((left + right) // 2, bottom - 24)
        self.home()

    def journal(self) -> list[Box]:
        """The icons of the Journal's entries, the latest first."""
        found = self.shell.pixels().things(ENTRIES)
        return sorted(found, key=lambda box: box[1])

    def frame(self) -> list[Box]:
        """The icons of what is open in the frame that is shown: first the Journal's."""
        return self.shell.pixels().things(TOP_OF_FRAME)

    def stop_from_the_frame(self, id: str, picture: Path) -> None:
        """The palette of the active activity's icon, and Stop in it."""
        shell = self.shell
        shell.xdotool("mousemove", 300, 800)
        shell.xdotool("key", "F6")
        until(lambda: len(self.frame()) == 2, "the frame with two icons")
        shell.settled()
        without = shell.pixels()
        x, y = middle(self.frame()[-1])
        shell.click(x, y, button=3)
        shell.settled()
        bottom = max(box[3] for box in shell.pixels().things(SCREEN, without))
        shell.screenshot(picture)
        # The last line of the palette.
        shell.choose(x, bottom - 28)
        self.ended(id)

    def ended(self, id: str) -> None:
        until(lambda: self.state(id) in ("exited", "gone"), f"the end of {id}")

    def state(self, id: str) -> str:
        rows = [row for row in self.session.running() if row["id"] == id]
        return rows[0]["state"] if rows else "gone"

    def row(self, id: str) -> dict[str, Any]:
        (row,) = [row for row in self.session.running() if row["id"] == id]
        return row

    def entries(self) -> list[dict[str, Any]]:
        return [o for o in self.session.objects() if o["activity"] == CALCULATE]


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    with desktop() as made, service(config=ROOMS_AHEAD) as daemon:
        config = daemon.top / "shell.toml"
        config.write_text("version = 1\n")
        one = session(made, daemon)
        with shells.shell(
            made, daemon.socket, config=config, favourites=(CALCULATE,)
        ) as shell:
            yield Shown(shell=shell, session=one)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: where you say, to look at them or to keep them."""
    named = os.environ.get("ISOLAUNCHER_SCREENSHOTS")
    return Path(named) if named else tmp_path


@pytest.fixture(autouse=True)
def witness(shown: Shown, pictures: Path) -> Iterator[None]:
    """What a person saw last, and the shell's log from there on, if it fails."""
    log = shown.shell.logs / "shell.log"
    before = log.stat().st_size
    yield
    shown.shell.screenshot(pictures / "shell-last.png")
    with open(log, "rb") as file:
        file.seek(before)
        print(file.read().decode(errors="replace"))


def test_a_click_opens_calculate_confined_and_the_journal_has_what_was_typed(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    shell.screenshot(pictures / "shell-home.png")
    window = shown.open(*shown.calculate())
    assert window.sugar_bundle == CALCULATE
    id = window.sugar_activity

    row = shown.row(id)
    assert (row["bundle_id"], row["state"], row["tier"]) == (
        *(CALCULATE, "running", "fork"),
    )
    assert 70001 <= row["uid"] <= 89999
    status = Path(f"/proc/{row['pid']}/status").read_text()
    assert f"Uid:\t{row['uid']}\t{row['uid']}" in status
    assert "NoNewPrivs:\t1" in status
    printed = shell.run("isolauncher", "ps")
    assert id in printed
    assert f" {row['uid']} " in printed
    # No process of the shell's for it, as there was one.
    assert shown.children() == {"metacity"}

    shell.type(window, "12*12")
    shell.screenshot(pictures / "shell-calculate.png")
    shown.stop_from_the_frame(id, pictures / "shell-frame.png")
    assert shown.last_line(1) == (
        f"Normal successful completion, pid {row['pid']} activity_id {id}"
    )
    (entry,) = shown.entries()
    assert entry["activity_id"] == id

    # The Journal's icon is right below the person.
    shown.home()
    left, _, right, bottom = max(shown.icons(), key=lambda box: box[3])
    shell.click((left + right) // 2, bottom - 16)
    until(lambda: len(shown.journal()) == 1, "the Journal with one entry")
    shell.settled()
    shell.screenshot(pictures / "shell-journal.png")
    again = shown.open(*middle(shown.journal()[0]))
    assert (again.sugar_bundle, again.sugar_activity) == (CALCULATE, id)
    assert shown.row(id)["pid"] != row["pid"]
    shell.type(again, "7*7")
    shell.settled()
    shell.screenshot(pictures / "shell-resumed.png")
    shell.press(again, "ctrl+q")
    shown.ended(id)
    (entry,) = shown.entries()
    kept = shown.session.journal("get_filename", f'"{entry["uid"]}"')
    text = Path(kept).read_text()
    assert "12*12;144" in text
    assert "7*7;49" in text


def test_without_the_daemon_what_runs_goes_on_and_the_shell_says_why_nothing_starts(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    window = shown.open(*shown.calculate())
    id = window.sugar_activity
    shown.daemon.stop(signal.SIGKILL)
    shell.type(window, "100-58")
    shown.home()

    shell.launch_bundle(MEMORIZE)
    log = shell.logs / f"{MEMORIZE}-1.log"
    until(lambda: log.exists() and "daemon-not-running" in log.read_text(), "the log")
    assert log.read_text().startswith("isolauncher: daemon: the daemon cannot be ")
    shown.dismiss(pictures / "shell-no-daemon.png")

    shown.daemon.start()
    until(lambda: shown.state(id) == "running", "that the daemon knows it again")
    with shell.watch() as watch:
        shell.launch_bundle(MEMORIZE)
        other = watch.wait(lambda window: window.sugar_bundle == MEMORIZE)
    shell.press(other, "ctrl+q")
    shown.ended(other.sugar_activity)
    shell.press(window, "ctrl+q")
    shown.ended(id)
    assert shown.last_line(shown.logs()).startswith("Normal successful completion")
    (entry,) = shown.entries()
    kept = shown.session.journal("get_filename", f'"{entry["uid"]}"')
    assert "100-58;42" in Path(kept).read_text()


def test_the_session_s_service_is_killed_and_the_next_one_takes_up_what_runs(
    shown: Shown,
) -> None:
    shell = shown.shell
    shown.home()
    window = shown.open(*shown.calculate())
    id = window.sugar_activity
    os.kill(shown.service(), signal.SIGKILL)
    shell.type(window, "1+1")
    # The shell has it started again, and is told of the end by it.
    until(lambda: shown.service() != 0, "another service")
    shell.press(window, "ctrl+q")
    shown.ended(id)
    until(
        lambda: shown.last_line(shown.logs()).startswith("Normal successful"),
        "the end in the log",
    )
