# SPDX-License-Identifier: GPL-3.0-or-later
"""Each of Debian's eleven activities, the way a child goes with it in Sugar's shell.

Its icon is clicked in the list of all; it does something of its own; Stop in the frame
ends it; the Journal's entry is clicked, and what was done is there. docs/sugar.md has
the table that this makes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.clicks import Clicks, in_pictures
from support.daemons import TOP
from support.desktop import SUGAR_ACTIVITIES
from support.documents import EPUB, GREEN, GREEN_CSS, PDF, book, picture, tone
from support.golden import DEBIAN
from support.powers import need
from support.shell import until

from isolauncher.windows import Window

MIDDLE = (600, 480)
FAULT = "'gi.repository.EvinceDocument' object has no attribute 'MICRO_VERSION'"
LOST = "." * 20
"""Keys that come before the place to type in has the focus."""


@dataclass
class Road:
    """One activity on its way. ``id`` is that of the run, and of its entry."""

    clicks: Clicks
    name: str
    bundle_id: str
    pictures: Path
    id: str = ""
    window: Window | None = None
    uids: set[int] = field(default_factory=set)

    @contextmanager
    def clicked(self) -> Iterator[Window]:
        """Opened by its icon; stopped by the shell at the end."""
        window = self.clicks.open(self.name)
        self.id = window.sugar_activity
        with self._until_stopped(window, "clicked"):
            yield window

    @contextmanager
    def resumed(self, title: str = "") -> Iterator[Window]:
        """Opened by the Journal's entry of its last run, or the one of that title."""
        window = self.clicks.resume(title or f"activity_id:{self.id}")
        assert bool(title) == (window.sugar_activity != self.id)
        self.id = window.sugar_activity
        with self._until_stopped(window, "resumed"):
            yield window

    @contextmanager
    def _until_stopped(self, window: Window, how: str) -> Iterator[None]:
        self.window = window
        assert window.sugar_bundle == self.bundle_id
        row = self.clicks.confined(window, DEBIAN[self.bundle_id])
        self.uids.add(row["uid"])
        self.clicks.shell.settled()
        with in_pictures(self.clicks.shell, self.pictures / f"{self.name}-{how}.png"):
            yield
        self.clicks.stop(self.id)
        line = self.clicks.last_line(self.clicks.newest_log(self.bundle_id))
        assert line == (
            f"Normal successful completion, pid {row['pid']} activity_id {self.id}"
        )
        place = self.profile / self.bundle_id
        for passing in ("instance", "tmp"):
            assert not (place / passing / self.id).exists()

    @property
    def profile(self) -> Path:
        return self.clicks.session.profile

    def focus(self) -> None:
        assert self.window is not None
        self.clicks.shell.press(self.window)

    def type(self, text: str) -> None:
        self.focus()
        self.clicks.shell.xdotool("type", "--delay", "30", text)

    def enter(self, text: str) -> None:
        assert self.window is not None
        self.clicks.shell.type(self.window, text)
        self.clicks.shell.settled()

    def kept(self) -> bytes:
        return self.clicks.kept(self.id)

    def see_green(self) -> None:
        until(lambda: self.clicks.color(*MIDDLE) == GREEN, "green in the middle", 60)

    def document(self, data: bytes, mime_type: str) -> None:
        """One of the person's, which opens and is green; and opens once more."""
        title = f"{self.name[:5]}document"
        self.clicks.keep(data, mime_type, self.bundle_id, title)
        with self.resumed(title):
            self.see_green()
        with self.resumed():
            self.see_green()


# ------------------------------------------------------------------- what each one does


def calculate(road: Road) -> None:
    with road.clicked():
        road.enter("6*7")
    assert b"6*7;42" in road.kept()
    with road.resumed():
        road.enter("100-1")
    assert b"6*7;42" in road.kept()
    assert b"100-1;99" in road.kept()


def terminal(road: Road) -> None:
    said = road.profile / "org.laptop.Terminal/data/said"
    with road.clicked():
        # Terminal hides SUGAR_ACTIVITY_ROOT from what is run in it.
        road.enter(f"echo $((6*7)) | tee {said}")
        until(said.exists, "what a command has written")
        road.clicks.shell.settled()
    assert said.read_text() == "42\n"
    assert b"| tee " in road.kept()
    with road.resumed():
        road.enter("id -u")
        road.clicks.shell.settled()
    # Terminal keeps what is on the screen; the rest it scrolls away.
    assert b"id -u" in road.kept()


def log(road: Road) -> None:
    with road.clicked():
        road.focus()
        # Its own is shown first.
        road.clicks.shell.click(900, 700)
        road.clicks.shell.xdotool("key", "ctrl+a")
        until(lambda: "SESSION_MANAGER" in road.clicks.selected(), "a log's text")
    road.clicks.entry(road.id)
    with road.resumed():
        pass


def memorize(road: Road) -> None:
    with road.clicked():
        turn_a_card(road)
    road.clicks.entry(road.id)
    with road.resumed():
        turn_a_card(road)


def turn_a_card(road: Road) -> None:
    shell = road.clicks.shell
    before = shell.pixels()
    shell.click(305, 155)
    card = (208, 64, 400, 248)
    until(lambda: shell.pixels().things(card, before), "the card's other side")


def pippy(road: Road) -> None:
    # In one line, since the editor indents what follows by itself.
    program = (
        "import os, socket; at = os.environ['SUGAR_ACTIVITY_ROOT'] + '/data/'; "
        "said = socket.socket().connect_ex(('127.0.0.1', 22)) != 0; "
        "open(at + 'new', 'w').write(str([6 * 7, said])); "
        "os.rename(at + 'new', at + 'said')"
    )
    said = road.profile / "org.laptop.Pippy/data/said"
    with road.clicked():
        road.focus()
        road.clicks.shell.click(600, 250)
        road.clicks.shell.xdotool("key", "ctrl+a")
        road.type(program)
        road.clicks.shell.xdotool("key", "alt+r")
        until(said.exists, "what the program has written")
    assert said.read_text() == "[42, True]"
    said.unlink()
    with road.resumed():
        road.focus()
        road.clicks.shell.xdotool("key", "alt+r")
        until(said.exists, "what the program has written once more")
    assert said.read_text() == "[42, True]"


def write(road: Road) -> None:
    with road.clicked():
        road.type(f"{LOST}Once upon a time")
    assert b"Once upon a time" in road.kept()
    with road.resumed():
        road.type(f"{LOST}There was ")
    text = road.kept()
    assert 0 < text.index(b"There was ") < text.index(b"Once upon a time")


def read(road: Road) -> None:
    with road.clicked():
        pass
    road.document(book(), EPUB)


def image_viewer(road: Road) -> None:
    with road.clicked():
        pass
    road.document(picture(), "image/x-portable-pixmap")


def chat(road: Road) -> None:
    with road.clicked():
        road.type("Is anybody there?")
    road.clicks.entry(road.id)
    with road.resumed():
        pass


def jukebox(road: Road) -> None:
    with road.clicked():
        pass
    road.clicks.keep(tone(), "audio/ogg", road.bundle_id, "Jukebdocument")
    for title in ("Jukebdocument", ""):
        with road.resumed(title):
            road.focus()
            road.clicks.shell.xdotool("key", "space")
            pid = road.clicks.row(road.id)["pid"]
            until(lambda pid=pid: "queue" in tasks(pid), "GStreamer at work")


def tasks(pid: int) -> str:
    """The names of a process's threads."""
    found = []
    for path in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.append((path / "comm").read_text())
        except OSError:
            continue
    return "".join(found)


def browse(road: Road) -> None:
    page_of_its_own = (0, 104, 1200, 896)
    with road.clicked():
        pixels = road.clicks.shell.pixels
        until(lambda: pixels().things(page_of_its_own), "something on its page", 60)
    page = f"<title>A page</title><body bgcolor='{GREEN_CSS}'>Once upon a time</body>"
    road.document(page.encode(), "text/html")


@dataclass(frozen=True)
class Told:
    """A row of the table: what is done on the road, and what is there afterwards."""

    bundle_id: str
    walk: Callable[[Road], None]
    does: str
    resumed: str


ROADS = {
    "Browse": Told(
        "org.laptop.WebActivity",
        browse,
        "its first page",
        "a page that the Journal had, and once more",
    ),
    "Calculate": Told(
        "org.laptop.Calculate",
        calculate,
        "6*7",
        "100-1; its history has both",
    ),
    "Chat": Told(
        "org.laptop.Chat",
        chat,
        "its window, in which nobody is there",
        "the same",
    ),
    "Image Viewer": Told(
        "org.laptop.ImageViewerActivity",
        image_viewer,
        "its window",
        "a picture that the Journal had, and once more",
    ),
    "Jukebox": Told(
        "org.laptop.sugar.Jukebox",
        jukebox,
        "its window",
        "a tone that the Journal had is played, and once more",
    ),
    "Log": Told("org.laptop.Log", log, "a log's text, marked", "its window"),
    "Memorize": Told("org.laptop.Memorize", memorize, "a card turned", "another game"),
    "Pippy": Told(
        "org.laptop.Pippy",
        pippy,
        "a program typed and run",
        "the program is there, and runs",
    ),
    "Read": Told(
        "org.laptop.sugar.ReadActivity",
        read,
        "its window",
        "a book that the Journal had, and once more",
    ),
    "Terminal": Told(
        "org.laptop.Terminal",
        terminal,
        "a command, whose text is kept",
        "another command",
    ),
    "Write": Told(
        "org.laptop.AbiWordActivity",
        write,
        "a text typed",
        "the text is there; more of it typed",
    ),
}


# ----------------------------------------------------------------------------- the road


@pytest.fixture(scope="module")
def clicks(shell_session: Callable[..., Clicks]) -> Clicks:
    return shell_session(settings="[shell]\nwithout-service = 'unisolated'\n")


@pytest.fixture
def nothing_open(clicks: Clicks) -> Iterator[None]:
    """Afterwards, whatever has failed."""
    yield
    clicks.stop_all()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    named = os.environ.get("ISOLAUNCHER_SCREENSHOTS")
    return Path(named) if named else tmp_path


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_open")
@pytest.mark.parametrize("name", ROADS)
def test_an_activity_is_clicked_works_is_stopped_and_resumed(
    clicks: Clicks, name: str, pictures: Path
) -> None:
    installed = list(SUGAR_ACTIVITIES.glob(f"{name.replace(' ', '')}.activity"))
    need(None if installed else f"{name} is not installed")
    road = Road(clicks, name, ROADS[name].bundle_id, pictures)
    with in_pictures(clicks.shell, pictures / f"{name}-last.png"):
        ROADS[name].walk(road)
    assert road.uids.isdisjoint({0, clicks.session.uid})


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_open")
def test_what_does_not_work_does_not_without_isolauncher_either(
    clicks: Clicks, pictures: Path
) -> None:
    """The same PDF for Read, and how many can be chatted with."""
    bundle_id = ROADS["Read"].bundle_id
    shell, daemon = clicks.shell, clicks.session.service
    clicks.keep(PDF, "application/pdf", bundle_id, "leaflet")
    log = next_log(clicks, bundle_id)
    shell.click(*clicks.find_entry("leaflet"))
    until(lambda: log.exists() and FAULT in log.read_text(), "what it says of a PDF")
    assert "WITHOUT ISOLATION" not in log.read_text()
    shell.screenshot(pictures / "PDF.png")
    clicks.stop_all()

    daemon.stop(signal.SIGKILL)
    try:
        log = next_log(clicks, bundle_id)
        shell.click(*clicks.find_entry("leaflet"))
        until(lambda: log.exists() and FAULT in log.read_text(), "the same, unconfined")
        assert log.read_text().startswith("isolauncher: LAUNCHED WITHOUT ISOLATION: ")
        shell.screenshot(pictures / "PDF-unconfined.png")
    finally:
        for pid in unconfined(clicks, bundle_id):
            os.kill(pid, signal.SIGKILL)
        daemon.start()

    driver = ("org.freedesktop.DBus", "/org/freedesktop/DBus")
    names = clicks.shell.run(
        *("gdbus", "call", "--session", "--dest", driver[0]),
        *("--object-path", driver[1], "--method", f"{driver[0]}.ListActivatableNames"),
    )
    assert "org.freedesktop.Telepathy.AccountManager" in names
    assert "org.freedesktop.Telepathy.ConnectionManager." not in names


def next_log(clicks: Clicks, bundle_id: str) -> Path:
    """Which is written when this is opened once more."""
    logs = clicks.shell.logs
    return logs / f"{bundle_id}-{len(list(logs.glob(f'{bundle_id}-*.log'))) + 1}.log"


def unconfined(clicks: Clicks, bundle_id: str) -> list[int]:
    """The person's own processes of that bundle."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            theirs = path.stat().st_uid == clicks.session.uid
            if theirs and bundle_id.encode() in words:
                found.append(int(path.name))
    return found


def table() -> str:
    lines = [
        "| Activity | Policy | clicked on | opened again from the Journal |",
        "|---|---|---|---|",
    ]
    for name, told in ROADS.items():
        policy = DEBIAN[told.bundle_id]
        lines.append(f"| {name} | `{policy}` | {told.does} | {told.resumed} |")
    return "\n".join(lines) + "\n"


def test_the_page_on_sugar_has_the_table_of_what_is_done_here() -> None:
    assert table() in (TOP / "docs/sugar.md").read_text()


def test_the_display_which_is_shared_is_named_by_the_report_and_the_readme() -> None:
    words = (sys.executable, "-m", "isolauncher", "test-policy", "--json", "sugar")
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=True)
    (policy,) = json.loads(done.stdout)["policies"]
    assert "display-shared" in {one["id"] for one in policy["findings"]}
    assert "Your screen: on X11 an activity" in (TOP / "README.md").read_text()
