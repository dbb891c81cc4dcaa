# SPDX-License-Identifier: GPL-3.0-or-later
"""What Sugar's shell starts that means no good, fails, or is left behind.

Each is a bundle of one program, support/hostile_window.py. What is refused to it in
its sandbox is first done without one, by the shell's own launch.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import bundles
from support import shell as shells
from support.clicks import Clicks, in_pictures, next_window
from support.shell import until, wait

from isolauncher.windows import Window

PROGRAM = Path(__file__).parents[1] / "support/hostile_window.py"
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="55" height="55">'
    '<circle cx="27" cy="27" r="20" fill="#ff0000"/></svg>'
)
WHATS = ("attack", "called", "twin", "early", "crash", "hidden", "handed")
SECRET = b"what is nobody's business"
ANOTHER = "org.laptop.Activity" + "0" * 40
"""The bus name of an activity that somebody is going to resume."""


@dataclass
class Wicked(Clicks):
    """The shell, with bundles of ours among the system's."""

    extra: dict[str, str]

    def launch(self, what: str) -> Window:
        """Has the shell launch it; with its window there."""
        with self.shell.watch() as watch:
            self.shell.launch_bundle(bundle_id(what))
            return next_window(watch, lambda w: w.sugar_bundle == bundle_id(what))

    def directory(self, what: str) -> Path:
        return self.session.profile / bundle_id(what)

    def processes(self, uid: int) -> list[str]:
        """Of that uid: their titles."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if path.stat().st_uid == uid:
                    found.append((path / "cmdline").read_text())
        return found

    def close(self, window: Window) -> None:
        self.shell.press(window, "alt+Escape")


def bundle_id(what: str) -> str:
    return f"org.laptop.{what.title()}"


@contextmanager
def installed() -> Iterator[Path]:
    """Our bundles where root alone can write; for XDG_DATA_DIRS."""
    with bundles.system_directory() as place:
        for what in WHATS:
            made = bundles.make(
                place / "made" / what,
                id=bundle_id(what),
                exec=what,
                programs={what: PROGRAM.read_text()},
            )
            (made / "activity/activity-test.svg").write_text(ICON)
            activities = place / "sugar/activities"
            activities.mkdir(parents=True, exist_ok=True)
            made.rename(activities / f"{what}.activity")
        yield place


TELLS = """\
import json, os
from gi.repository import GLib

def tell():
    names = ("SUGAR_APISOCKET_KEY", "SUGAR_APISOCKET_PORT")
    if not all(name in os.environ for name in names):
        return True
    with open(os.path.expanduser("~/told"), "w") as file:
        json.dump([os.environ[name] for name in names], file)
    return False

def setup(tray):
    GLib.timeout_add(100, tell)
"""
"""An extension of the shell's that says what the shell offers to web activities."""

SOON_S = 5
SOON = f"""\
from gi.repository import GLib

def soon():
    from isolauncher.session import icons
    icons.AFTER_MS = {SOON_S * 1000}

def setup(tray):
    GLib.idle_add(soon)
"""
"""And one that has what has no icon ended sooner."""


@pytest.fixture(scope="module")
def wicked(shell_session: Callable[..., Clicks]) -> Iterator[Wicked]:
    with installed() as place:
        extra = {"XDG_DATA_DIRS": f"{place}:/usr/local/share:/usr/share"}
        begun = shell_session(
            settings="[shell]\nwithout-service = 'unisolated'\n",
            environment=extra,
            extensions={"tells.py": TELLS, "soon.py": SOON},
        )
        yield Wicked(shell=begun.shell, session=begun.session, extra=extra)


@pytest.fixture(autouse=True)
def picture(wicked: Wicked, tmp_path: Path) -> Iterator[None]:
    """What was seen last; and nothing is open afterwards, whatever has failed."""
    with in_pictures(wicked.shell, tmp_path / "last.png"):
        yield
    wicked.stop_all()


# -------------------------------------------------------------------------- an attack


def said(wicked: Wicked) -> dict[str, Any]:
    """What came of the last one's attempts."""
    log = wicked.newest_log(bundle_id("attack"))
    until(lambda: "\nSAID " in f"\n{log.read_text()}", "what came of it")
    line = re.search("^SAID (.*)$", log.read_text(), re.M)
    assert line is not None
    found: dict[str, Any] = json.loads(line[1])
    return found


def ask(wicked: Wicked, uid: str, **more: str) -> None:
    """Say what to try for, where it looks."""
    data = wicked.directory("attack") / "data"
    data.mkdir(parents=True, exist_ok=True)
    asked = {
        "uid": uid,
        "name": ANOTHER,
        "bundle": bundle_id("called"),
        "shell": wicked.shell.process.pid,
        **more,
    }
    (data / "asked").write_text(json.dumps(asked))
    for path in (data / "asked", data, data.parent):
        os.chown(path, wicked.session.uid, wicked.session.uid)


def called(wicked: Wicked) -> int:
    """How often the one was launched that it wants launched."""
    return len(list(wicked.shell.logs.glob(f"{bundle_id('called')}-*.log")))


def counted(wicked: Wicked) -> tuple[int, int]:
    """By what was left behind: its own idea of its process id, and how far it is."""
    path = wicked.directory("attack") / "data/alive"
    until(path.exists, "a process that counts")
    pid, count = path.read_text().split()
    return int(pid), int(count)


@pytest.mark.timeout(240)
def test_what_the_shell_starts_reaches_nothing_and_nobody_and_does_not_outlive_its_end(
    wicked: Wicked,
) -> None:
    uid = wicked.keep(SECRET, "text/plain", "org.laptop.Calculate", "secret")
    key, port = json.loads((wicked.session.desktop.home / "told").read_text())
    ask(wicked, uid, key=key, port=port)

    # As Sugar starts it, but that it is not given the key.
    wicked.session.service.stop(signal.SIGKILL)
    try:
        with wicked.shell.watch() as watch:
            wicked.launch("attack")
            free = said(wicked)
            next_window(watch, lambda w: w.sugar_bundle == bundle_id("called"))
        assert free["uid"] == wicked.session.uid
        assert free["key"] is None
        assert '"secret"' in free["socket"]
        assert free["signal"] is None
        assert uid in free["find"][0]
        assert Path(free["read"][0]).read_bytes() == SECRET
        assert free["own"] == [1]
        assert free["launch"] == [True]
        assert called(wicked) == 1
        assert free["failure"] == []
        assert "org.laptop.Journal" in free["names"][0]
        pid, _ = counted(wicked)
        end_unconfined(wicked, but=pid)
        _, before = counted(wicked)
        until(lambda: counted(wicked)[1] > before, "that it still counts")
        os.kill(pid, signal.SIGKILL)
    finally:
        wicked.session.service.start()
    (wicked.directory("attack") / "data/alive").unlink()

    # As the shell starts it now.
    window = wicked.launch("attack")
    row = wicked.confined(window, "sugar")
    found = said(wicked)
    assert found["uid"] == wicked.session.uid  # as it believes
    assert (found["key"], found["port"]) == (None, None)
    assert re.match("PermissionError|ConnectionRefusedError", found["socket"])
    assert found["signal"].startswith("ProcessLookupError")
    assert found["find"][0] == []
    for what in ("read", "properties", "own", "launch", "failure"):
        assert "Error" in str(found[what]), (what, found[what])
    assert "org.laptop.Journal" not in str(found["names"])
    assert called(wicked) == 1
    counted(wicked)
    assert len(wicked.processes(row["uid"])) >= 2
    # It heeds neither its window's closing nor SIGTERM.
    wicked.choose_stop()
    wicked.ended(window.sugar_activity)
    until(lambda: not wicked.processes(row["uid"]), "that nothing of it is left")
    log = wicked.newest_log(bundle_id("attack"))
    assert "Terminated by signal 9" in wicked.last_line(log)
    path = wicked.session.journal("get_filename", f'"{uid}"')
    assert Path(path).read_bytes() == SECRET


def end_unconfined(wicked: Wicked, *, but: int) -> None:
    """What the shell has started itself, with SIGKILL, as Stop does in the end."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            ours = any(bundle_id(w).encode() in words for w in ("attack", "called"))
            if (
                ours
                and int(path.name) != but
                and path.stat().st_uid == wicked.session.uid
            ):
                os.kill(int(path.name), signal.SIGKILL)


def test_stop_ends_what_has_handed_its_connection_on(wicked: Wicked) -> None:
    """Nobody knows then whose the window is; it says its own id, and has no other."""
    window = wicked.launch("handed")
    uid = int(wicked.row(window.sugar_activity)["uid"])
    wicked.choose_stop()
    wicked.ended(window.sugar_activity)
    assert wicked.processes(uid) == []
    log = wicked.newest_log(bundle_id("handed"))
    assert "Terminated by signal 9" in wicked.last_line(log)


# ------------------------------------------------------------------------ how it ends


@pytest.mark.parametrize(
    ("what", "status", "line"),
    [
        ("early", "ends", "Exited with status 3"),
        ("crash", "crashes", "Terminated by signal 11"),
    ],
)
def test_what_ends_before_its_window_is_in_the_log_where_log_looks_for_it(
    wicked: Wicked, what: str, status: str, line: str
) -> None:
    wicked.shell.launch_bundle(bundle_id(what))
    until(lambda: list(wicked.shell.logs.glob(f"{bundle_id(what)}-*.log")), "a log")
    log = wicked.newest_log(bundle_id(what))
    last = wicked.last_line(log)
    assert re.fullmatch(rf"{line}, pid \d+ activity_id [0-9a-f]{{40}}", last), last
    assert log.read_text().startswith(f"what it says before it {status}\n")
    assert log.parent == wicked.session.profile / "logs"
    id = last.split()[-1]
    wicked.session.gone(id)
    for passing in ("instance", "tmp"):
        assert list((wicked.directory(what) / passing).iterdir()) == []


def test_of_two_of_one_bundle_each_has_its_own_and_only_that_goes_with_it(
    wicked: Wicked,
) -> None:
    one, two = wicked.launch("twin"), wicked.launch("twin")
    ids = [one.sugar_activity, two.sugar_activity]
    assert len({wicked.row(id)["uid"] for id in ids}) == 2
    place = wicked.directory("twin")
    passing = [place / "instance", place / "tmp"]

    def notes() -> list[dict[str, str]]:
        return [
            {path.parent.name: path.read_text() for path in where.glob("*/note")}
            for where in passing
        ]

    both = dict(zip(ids, ids, strict=True))
    until(lambda: notes() == [both, both], "what both have written")
    wicked.close(one)
    wicked.ended(ids[0])
    assert notes() == [{ids[1]: ids[1]}] * 2
    wicked.close(two)
    wicked.ended(ids[1])
    for where in passing:
        assert list(where.iterdir()) == []


def test_what_closes_its_window_does_not_run_on(wicked: Wicked) -> None:
    window = wicked.launch("hidden")
    id = window.sugar_activity
    uid = int(wicked.row(id)["uid"])
    alive = wicked.directory("hidden") / "data/alive"
    with wicked.shell.watch() as watch:
        wicked.close(window)
        other = next_window(watch, lambda w: w.sugar_activity == "nobody")
    # It has an icon by this one, whoever's it says it is.
    assert not wait(lambda: wicked.state(id) != "running", SOON_S + 3)
    wicked.close(other)
    until(alive.exists, "what it has left behind")
    counted = alive.read_text()
    until(lambda: alive.read_text() != counted, "that it runs on without a window")
    wicked.ended(id)
    assert wicked.processes(uid) == []


# ------------------------------------------------------------------ without the shell


@pytest.mark.timeout(240)
def test_what_runs_goes_on_without_the_shell_and_the_next_shell_knows_it(
    wicked: Wicked, tmp_path: Path
) -> None:
    window = wicked.launch("twin")
    id = window.sugar_activity
    pid = wicked.row(id)["pid"]
    process = wicked.shell.process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Nothing but the shell has ended.
    assert wicked.state(id) == "running"
    assert (wicked.directory("twin") / "instance" / id / "note").exists()

    with ExitStack() as stack:
        stack.callback(subprocess.Popen.wait, process)
        config = wicked.session.service.top / "shell.toml"
        again = stack.enter_context(
            shells.shell(
                *(wicked.session.desktop, wicked.session.service.socket),
                config=config,
                environment=wicked.extra,
            )
        )
        next_one = Wicked(shell=again, session=wicked.session, extra=wicked.extra)
        assert next_one.row(id)["pid"] == pid
        with in_pictures(again, tmp_path / "again.png"):
            next_one.close(window)
            next_one.ended(id)
    for passing in ("instance", "tmp"):
        assert list((wicked.directory("twin") / passing).iterdir()) == []
