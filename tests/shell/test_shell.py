# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own Sugar shell, unmodified, with a mouse and a keyboard.

One session for all of them, each of which leaves the home view as it found it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import bundles
from support.clicks import Clicks
from support.daemons import TOP, Service
from support.desktop import Desktop
from support.shell import Box, Shell, middle, until, wait
from support.sugar import NAME, Session

from isolauncher.windows import Window, present

# With a daemon and zygotes started anew in one of them.
pytestmark = pytest.mark.timeout(180)

CALCULATE = "org.laptop.Calculate"
MEMORIZE = "org.laptop.Memorize"
SHOW = "org.example.Show"
STAYS = "org.example.Stays"
PASTE = """
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
print(Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD).wait_for_text())
"""
ELSEWHERE = {"LANGUAGE": "es:en", "TZ": "America/Lima"}
STAY = """#!/usr/bin/python3
import os, signal, sys
from Xlib import X, Xatom, display
from Xlib.protocol import display as protocol

# It knows no cookie that fits any name.
cookie = open(os.environ["XAUTHORITY"], "rb").read()[-16:]
protocol.connect.get_auth = lambda *names: (b"MIT-MAGIC-COOKIE-1", cookie)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
d = display.Display()
root, atom = d.screen().root, d.intern_atom

def find(window):
    pid = window.get_full_property(atom("_NET_WM_PID"), Xatom.CARDINAL)
    if pid is not None and "main.py" in (window.get_wm_class() or ()):
        return pid.value[0]
    return next(filter(None, map(find, window.query_tree().children)), 0)

shell = find(root)
assert shell > 1
def show(id):
    mine = root.create_window(0, 0, 400, 300, 0, d.screen().root_depth)
    mine.change_attributes(event_mask=X.KeyPressMask)
    mine.set_wm_name(f"I stay, with {len(id)} letters")
    mine.set_wm_protocols([atom("WM_DELETE_WINDOW")])
    hints = atom("_MOTIF_WM_HINTS")
    mine.change_property(hints, hints, 32, [2, 0, 0, 0, 0])  # no frame
    bundle = os.environ["SUGAR_BUNDLE_ID"]
    for name, value in (("ACTIVITY", id), ("BUNDLE", bundle)):
        if value:
            name = atom(f"_SUGAR_{name}_ID")
            mine.change_property(name, Xatom.STRING, 8, value.encode())
    mine.change_property(atom("_NET_WM_PID"), Xatom.CARDINAL, 32, [shell])
    mine.map()
    return mine

mine = show(sys.argv[sys.argv.index("-a") + 1])
print(f"I say that I am {shell}", flush=True)
while True:
    if d.next_event().type == X.KeyPress:
        show("")
        mine.destroy()
"""
"""Asked to close its window it stays, as at SIGTERM; it says its pid is the shell's.

At a key it has another window, which does not say whose it is.
"""
HOME: Box = (0, 64, 1200, 896)
BELOW_THE_ICON: Box = (0, 560, 1200, 896)
"""Of a launch, which goes on pulsing."""


@dataclass
class Shown(Clicks):
    """With one favourite at home."""

    failures: int | None = None
    """Of all tests, before the first of these."""

    @property
    def daemon(self) -> Service:
        return self.session.service

    def home(self) -> None:
        """To the home view, with nothing over it."""

        def there() -> bool:
            return len(self.icons()) == 2

        def pressed() -> bool:
            # A window that comes up at that moment would be in front again.
            self.shell.xdotool("mousemove", 300, 800, "key", "F3")
            return wait(there, 3)

        until(pressed, "the home view")
        self.shell.settled()

    def icons(self) -> list[Box]:
        """At home: the one favourite, and the person with the Journal below."""
        return self.shell.pixels().things(HOME)

    def calculate(self) -> tuple[int, int]:
        return middle(min(self.icons(), key=lambda box: box[1]))

    def open_calculate(self) -> Window:
        return self.click_for_window(*self.calculate())

    def children(self) -> set[str]:
        pid = self.shell.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}

    def service(self) -> int:
        """The process of the session's service; 0: there is none."""
        ask = "GetConnectionUnixProcessID"
        try:
            said = self.shell.ask("org.freedesktop.DBus", ask, NAME)
        except subprocess.CalledProcessError:
            return 0
        return int(said.strip("(), \n").split()[-1])

    def signal_service(self, number: int) -> None:
        self.shell.ask("org.freedesktop.DBus", "StartServiceByName", NAME, "0")
        pid = self.service()
        assert pid > 1
        os.kill(pid, number)

    def end_of(self, bundle_id: str) -> str:
        """How the last one of that bundle ended, by its log."""
        return self.last_line(self.newest_log(bundle_id))

    def dismiss(self, picture: Path) -> None:
        """The button below what the shell says of a launch that failed."""

        def words() -> list[Box]:
            return self.shell.pixels().things(BELOW_THE_ICON)

        def pressed() -> bool:
            found = words()
            if found:
                left, _, right, bottom = found[0]
                self.shell.click((left + right) // 2, bottom - 24)
            return wait(lambda: not words(), 3)

        until(words, "words and a button")
        wait(lambda: False, 0.5)  # until all of them are drawn
        self.shell.screenshot(picture)
        until(pressed, "that it goes away")
        self.home()


def said_by_windows(shell: Shell) -> set[tuple[str, str]]:
    """Whose they say they are."""
    found = present(shell.environment)
    return {(one.sugar_activity, one.sugar_bundle) for one in found}


def install(made: Desktop, name: str, id: str, program: str) -> None:
    """A bundle of the person's own, for the shell to find."""
    place = made.home / "Activities"
    place.mkdir(exist_ok=True)
    os.chown(place, made.uid, made.uid)
    path = bundles.make(place, id=id, programs={"show": program}, owner=made.uid)
    path.rename(place / f"{name}.activity")


@pytest.fixture(scope="module")
def shown(shell_session: Callable[..., Clicks]) -> Shown:
    def before(made: Session) -> None:
        install(made.desktop, "Show", SHOW, bundles.SHOW + "sys.exit(3)\n")
        install(made.desktop, "Stays", STAYS, STAY)

    begun = shell_session(
        before=before,
        favourites=(CALCULATE,),
        # The developer's for a key that logs out.
        environment={**ELSEWHERE, "SUGAR_DEVELOPER": "1"},
    )
    return Shown(shell=begun.shell, session=begun.session)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: where you say, to look at them or to keep them."""
    named = os.environ.get("ISOLAUNCHER_SCREENSHOTS")
    return Path(named) if named else tmp_path


@pytest.fixture(autouse=True)
def witness(
    shown: Shown, pictures: Path, request: pytest.FixtureRequest
) -> Iterator[None]:
    """What a person saw last, and the shell's log from there on, if it fails."""
    if shown.failures is None:
        shown.failures = request.session.testsfailed
    elif shown.failures != request.session.testsfailed:
        pytest.fail("the session is not as it was: see what failed first")
    log = shown.shell.logs / "shell.log"
    before = log.stat().st_size
    yield
    if shown.shell.process.poll() is not None:
        return
    shown.shell.screenshot(pictures / "shell-last.png")
    with open(log, "rb") as file:
        file.seek(before)
        print(file.read().decode(errors="replace"))
    for path in sorted(shown.shell.logs.glob("org.example.*")):
        print(f"{path.name}: {path.read_text(errors='replace')}")


def test_a_click_opens_calculate_confined_and_the_journal_has_what_was_typed(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    shell.screenshot(pictures / "shell-home.png")
    window = shown.open_calculate()
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
    shown.stop(id, pictures / "shell-frame.png")
    assert shown.end_of(CALCULATE) == (
        f"Normal successful completion, pid {row['pid']} activity_id {id}"
    )
    assert b"12*12;144" in shown.kept(id)

    # The Journal's icon is right below the person.
    shown.home()
    left, _, right, bottom = max(shown.icons(), key=lambda box: box[3])
    shell.click((left + right) // 2, bottom - 16)
    until(lambda: len(shown.entries()) == 1, "the Journal with one entry")
    shell.settled()
    shell.screenshot(pictures / "shell-journal.png")
    again = shown.click_for_window(*middle(shown.entries()[0]))
    assert (again.sugar_bundle, again.sugar_activity) == (CALCULATE, id)
    assert shown.row(id)["pid"] != row["pid"]
    shell.type(again, "7*7")
    shell.settled()
    shell.screenshot(pictures / "shell-resumed.png")
    shell.press(again, "ctrl+q")
    shown.ended(id)
    assert b"12*12;144" in shown.kept(id)
    assert b"7*7;49" in shown.kept(id)


def test_without_the_daemon_what_runs_goes_on_and_the_shell_says_why_nothing_starts(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    window = shown.open_calculate()
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
    assert shown.end_of(CALCULATE).startswith("Normal successful completion")
    assert b"100-58;42" in shown.kept(id)


def test_the_session_s_service_is_killed_and_the_next_one_takes_up_what_runs(
    shown: Shown,
) -> None:
    shell = shown.shell
    shown.home()
    window = shown.open_calculate()
    id = window.sugar_activity
    shown.signal_service(signal.SIGKILL)
    shell.type(window, "1+1")
    # The shell has it started again, and is told of the end by it.
    until(lambda: shown.service() != 0, "another service")
    shell.press(window, "ctrl+q")
    shown.ended(id)
    until(
        lambda: shown.end_of(CALCULATE).startswith("Normal successful"),
        "the end in the log",
    )


def test_a_program_gets_what_the_toolkit_gives_it_and_its_failure_is_told(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    shell.launch_bundle(SHOW)
    shown.dismiss(pictures / "shell-failed.png")
    first, *others = shell.log(SHOW).splitlines()
    seen = json.loads(first)
    path = shown.session.desktop.home / "Activities/Show.activity"
    activity_id = seen["argv"][-1]
    assert seen["argv"] == [str(path / "bin/show"), "-b", SHOW, "-a", activity_id]
    assert seen["cwd"] == str(path)
    environment = seen["environment"]
    assert environment["SUGAR_BUNDLE_ID"] == SHOW
    assert environment["SUGAR_BUNDLE_PATH"] == str(path)
    assert environment.items() >= ELSEWHERE.items()
    assert not [name for name in environment if "APISOCKET" in name]
    (last,) = others
    pattern = rf"Exited with status 3, pid \d+ activity_id {activity_id}"
    assert re.fullmatch(pattern, last)


def test_stop_ends_the_sandbox_whatever_its_window_says(
    shown: Shown, tmp_path: Path
) -> None:
    """Sugar's own would signal its process, and may not signal another's."""
    shell = shown.shell
    shown.home()
    with shell.watch() as watch:
        shell.launch_bundle(STAYS)
        window = watch.wait(lambda window: window.sugar_bundle == STAYS)
    shell.press(window, "space")
    until(lambda: ("", STAYS) in said_by_windows(shell), "a window without an id")
    id = window.sugar_activity
    until(lambda: (id, STAYS) not in said_by_windows(shell), "no other")
    assert shell.log(STAYS) == f"I say that I am {shell.process.pid}\n"
    shown.choose_stop(tmp_path / "stop.png")
    begun = time.monotonic()
    shown.ended(id)
    assert time.monotonic() - begun < 20  # by Stop, and not for want of an icon
    ended = rf"Terminated by signal 9, pid \d+ activity_id {id}"
    assert re.fullmatch(ended, shown.end_of(STAYS))
    assert shell.process.poll() is None


def test_its_source_is_shown_and_what_was_copied_is_there_for_others(
    shown: Shown, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    window = shown.open_calculate()
    shell.press(window)
    shell.xdotool("type", "--delay", "30", "4321")
    shell.xdotool("key", "ctrl+a", "key", "ctrl+c")
    until(lambda: shell.run("/usr/bin/python3", "-c", PASTE) == "4321\n", "a copy")
    with shell.watch() as watch:
        shell.press(window, "alt+shift+v")
        watch.wait()
    shell.settled()
    shell.screenshot(pictures / "shell-source.png")
    shell.xdotool("key", "Escape")
    shell.press(window, "ctrl+q")
    shown.ended(window.sugar_activity)


def test_sugar_launch_goes_the_same_way(shown: Shown) -> None:
    shell = shown.shell
    shown.home()
    text = (TOP / "integration/sugar/sugar-launch").read_text()
    own = text.replace("=/usr/bin/isolauncher\n", f"={TOP}/.venv/bin/isolauncher\n")
    assert own != text
    for words, status in ((("-h",), 0), (("-d", CALCULATE), 2), ((), 2)):
        assert shell.start("sh", "-c", own, "sh", *words).wait(30) == status
    with shell.watch() as watch:
        launched = shell.start("sh", "-c", own, "sh", CALCULATE)
        window = watch.wait(lambda window: window.sugar_bundle == CALCULATE)
    assert shown.row(window.sugar_activity)["uid"] >= 70001
    shell.press(window, "ctrl+q")
    assert launched.wait(30) == 0


def test_the_shell_goes_on_while_the_service_does_not_answer(shown: Shown) -> None:
    shell = shown.shell
    shown.home()
    shown.signal_service(signal.SIGSTOP)
    try:
        with shell.watch() as watch:
            shell.click(*shown.calculate())
            watch.wait(lambda window: bool(window.sugar_activity))
            # Its launch has begun; the shell answers, and its icon pulses.
            assert shell.bundle_path(CALCULATE).endswith("/Calculate.activity")
            before = shell.pixels()
            until(lambda: shell.pixels() != before, "a pulse")
            rows = shown.session.running()
            assert {row["state"] for row in rows} <= {"exited"}
            shown.signal_service(signal.SIGCONT)
            window = watch.wait(lambda window: window.sugar_bundle == CALCULATE)
    finally:
        shown.signal_service(signal.SIGCONT)
    shell.press(window, "ctrl+q")
    shown.ended(window.sugar_activity)


@pytest.mark.parametrize("wanted", ["refuse", "unisolated"])
def test_without_a_service_the_administrator_decides(
    shown: Shown, wanted: str, pictures: Path
) -> None:
    shell = shown.shell
    shown.home()
    file = shown.daemon.top / "shell.toml"
    file.write_text(f'version = 1\n[shell]\nwithout-service = "{wanted}"\n')
    place = shown.session.desktop.home / ".local/share/dbus-1/services"
    kept = (place / f"{NAME}.service").read_text()
    shown.signal_service(signal.SIGKILL)
    (place / f"{NAME}.service").unlink()
    try:
        shell.reload_bus()
        until(lambda: shown.service() == 0, "no service")
        number = len(list(shell.logs.glob(f"{SHOW}-*.log"))) + 1
        shell.launch_bundle(SHOW)
        shown.dismiss(pictures / f"shell-{wanted}.png")
        said = shell.log(SHOW, number).splitlines()
        if wanted == "refuse":
            (line,) = said
            assert line.startswith("isolauncher: daemon: isolauncher-session cannot be")
            assert line.endswith("[session-not-running]")
        else:
            warning, first, last = said
            assert warning.startswith("isolauncher: LAUNCHED WITHOUT ISOLATION: ")
            seen = json.loads(first)
            assert ".Xauthority" in seen["home"]  # the person's own
            assert not [name for name in seen["environment"] if "APISOCKET" in name]
            assert last.startswith("Exited with status 3, pid ")
    finally:
        (place / f"{NAME}.service").write_text(kept)
        shell.reload_bus()


def test_who_logs_out_has_what_was_open_in_the_journal(shown: Shown) -> None:
    """The last of all: then there is no shell any more.

    The shell has launched only the first of them.
    """
    shell = shown.shell
    shown.home()
    clicked = shown.open_calculate()
    shell.type(clicked, "9*9")
    with shell.watch() as watch:
        shell.start("isolauncher", "launch", CALCULATE)
        other = watch.wait(lambda window: window.sugar_bundle == CALCULATE)
    shell.type(other, "8*8")
    shell.xdotool("key", "alt+shift+q")
    shell.process.wait(30)
    for window, said in ((clicked, b"9*9;81"), (other, b"8*8;64")):
        assert said in shown.kept(window.sugar_activity)
        assert shown.state(window.sugar_activity) in ("exited", "gone")
