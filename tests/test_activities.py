# SPDX-License-Identifier: GPL-3.0-or-later
"""Each of Debian's activities does what it is for, under the policy that is shipped.

test_sugar.py has Calculate, Log, Terminal and Memorize; here are the other seven, and
that docs/sugar.md tells of all of them.
"""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.daemons import TOP, service
from support.desktop import SUGAR_ACTIVITIES, desktop, missing
from support.documents import EPUB, GREEN, GREEN_CSS, book, picture, tone
from support.golden import DEBIAN
from support.powers import need, sandboxes
from support.sugar import Launched, Session, profile, schemas, session

PATIENCE_S = 30
LOST = "." * 20
"""Keys that come before the place to type in has the focus."""
PAGE = f"<title>A page</title><body bgcolor='{GREEN_CSS}'>Once upon a time</body>"


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes(), missing())
    with schemas(), desktop() as made, service() as daemon:
        profile(made)
        yield session(made, daemon)


@contextmanager
def opened(
    sugar: Session, name: str, *words: str, stops: bool = True
) -> Iterator[Launched]:
    """The activity with its window, under its own policy; at the end it is stopped."""
    installed = (SUGAR_ACTIVITIES / f"{name}.activity").exists()
    need(None if installed else f"{name} is not installed")
    info = (SUGAR_ACTIVITIES / f"{name}.activity/activity/activity.info").read_text()
    found = re.search(r"^bundle_id *= *(\S+)", info, re.MULTILINE)
    assert found is not None
    bundle = found[1]
    with sugar.launch(bundle, name.lower(), *words) as launched:
        assert launched.row["policy"] == DEBIAN[bundle]
        assert launched.row["tier"] == "fork"
        launched.focus()
        yield launched
        if stops:
            assert launched.press_stop() == 0


def made(sugar: Session, name: str) -> list[dict[str, Any]]:
    return [o for o in sugar.objects() if o["activity_id"] == name.lower()]


def kept(sugar: Session, name: str, data: bytes | str, mime_type: str) -> str:
    path = sugar.desktop.home / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(0o644)
    return sugar.keep(path, mime_type)


def see_green(sugar: Session, launched: Launched) -> None:
    """Wait until the middle of the window is."""
    from Xlib import X

    assert launched.window is not None
    with sugar.desktop.watch() as watch:
        display: Any = watch._display
        window = display.create_resource_object("window", launched.window.number)
        shape = window.get_geometry()
        at = (shape.width // 2, shape.height // 2)
        until = time.monotonic() + PATIENCE_S
        while True:
            # Nothing tells that somebody has drawn.
            blue, green, red, _ = window.get_image(
                *at, 1, 1, X.ZPixmap, 0xFFFFFFFF
            ).data
            if (red, green, blue) == GREEN:
                return
            assert time.monotonic() < until, (red, green, blue)
            time.sleep(0.1)


def test_image_viewer_shows_the_picture_that_it_was_opened_with(sugar: Session) -> None:
    uid = kept(sugar, "picture", picture(), "image/x-portable-pixmap")
    with opened(sugar, "ImageViewer", "-o", uid) as launched:
        see_green(sugar, launched)


@pytest.mark.long
def test_write_saves_what_was_typed_and_opens_it_again(sugar: Session) -> None:
    with opened(sugar, "Write"):
        sugar.xdotool("type", "--delay", "30", f"{LOST}Once upon a time")
    (entry,) = made(sugar, "Write")
    path = Path(sugar.journal("get_filename", f'"{entry["uid"]}"'))
    assert "Once upon a time" in path.read_text()
    with opened(sugar, "Write", "-o", entry["uid"]):
        sugar.xdotool("type", "--delay", "30", f"{LOST}There was ")
    path = Path(sugar.journal("get_filename", f'"{entry["uid"]}"'))
    text = path.read_text()
    assert text.index("There was ") < text.index("Once upon a time")


@pytest.mark.long
def test_pippy_runs_a_program_which_can_keep_something(sugar: Session) -> None:
    # In one line, since the editor indents what follows by itself.
    program = (
        "import os, socket; at = os.environ['SUGAR_ACTIVITY_ROOT'] + '/data/'; "
        "said = socket.socket().connect_ex(('127.0.0.1', 22)) != 0; "
        "open(at + 'new', 'w').write(str([6 * 7, said])); "
        "os.rename(at + 'new', at + 'said')"
    )
    said = sugar.profile / "org.laptop.Pippy/data/said"
    with opened(sugar, "Pippy") as launched:
        inside = Path(f"/proc/{launched.row['pid']}/root{said}")
        until = time.monotonic() + PATIENCE_S
        while not inside.exists():
            # Its editor has the focus once it is there and was clicked at.
            sugar.xdotool("mousemove", "600", "250", "click", "1")
            sugar.xdotool("key", "ctrl+a")
            sugar.xdotool("type", "--delay", "5", program)
            sugar.xdotool("key", "alt+r")
            wait_for(inside, patience_s=3)
            assert time.monotonic() < until, "it was not run"
    sugar.gone("pippy")
    assert said.read_text() == "[42, True]"


@pytest.mark.long
def test_read_shows_a_book_by_webkit(sugar: Session) -> None:
    with opened(sugar, "Read", "-o", kept(sugar, "book", book(), EPUB)) as launched:
        see_green(sugar, launched)


@pytest.mark.long
def test_browse_shows_a_page_of_the_journal_and_nothing_of_the_network(
    sugar: Session,
) -> None:
    with website() as (address, asked):
        # Green once the site cannot be had, red if it can.
        page = (
            f"<title>A page</title><body><img src='{address}' "
            f"onerror=\"document.body.bgColor='{GREEN_CSS}'\" "
            "onload=\"document.body.bgColor='#ff0000'\">"
        )
        uid = kept(sugar, "page", page, "text/html")
        with opened(sugar, "Browse", "-o", uid) as launched:
            see_green(sugar, launched)
    assert asked == []


@pytest.mark.long
def test_browse_has_the_web_where_its_file_s_example_stands_in_etc(
    sugar: Session,
) -> None:
    lines = (TOP / "policies/browse.toml").read_text().splitlines()
    example = [line[6:] for line in lines if line.startswith("#     ")]
    sugar.service.policy("browse", "\n".join(example) + "\n")
    try:
        with website() as (address, asked):
            with opened(sugar, "Browse", "-u", address) as launched:
                see_green(sugar, launched)
            assert "/" in asked
    finally:
        (sugar.service.policies / "browse.toml").unlink()


@pytest.mark.long
def test_jukebox_plays_what_it_was_opened_with(sugar: Session) -> None:
    uid = kept(sugar, "tone", tone(), "audio/ogg")
    with opened(sugar, "Jukebox", "-o", uid) as launched:
        sugar.xdotool("key", "space")
        tasks = Path(f"/proc/{launched.row['pid']}/task")
        until = time.monotonic() + PATIENCE_S
        while not any("queue" in name for name in names_of(tasks)):
            assert time.monotonic() < until, names_of(tasks)
            time.sleep(0.1)


@pytest.mark.long
def test_chat_opens_and_keeps_an_entry_though_nobody_is_there(sugar: Session) -> None:
    with opened(sugar, "Chat"):
        pass
    (entry,) = made(sugar, "Chat")
    assert entry["mime_type"] == "text/plain"


@contextmanager
def website() -> Iterator[tuple[str, list[str]]]:
    """A site on this machine: its address, and what it was asked for."""
    asked: list[str] = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


def wait_for(path: Path, patience_s: float) -> None:
    """At most so long."""
    until = time.monotonic() + patience_s
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)


def names_of(tasks: Path) -> list[str]:
    found = []
    for path in tasks.iterdir():
        try:
            found.append((path / "comm").read_text())
        except OSError:
            continue
    return found


def test_the_page_on_sugar_tells_of_every_activity_and_of_its_policy() -> None:
    page = (TOP / "docs/sugar.md").read_text()
    rows = dict(re.findall(r"^\| (\S.*?) \| `(\S+)` \|", page, re.MULTILINE))
    assert sorted(rows.values()) == sorted(DEBIAN.values())
    for place in SUGAR_ACTIVITIES.glob("*.activity"):
        info = (place / "activity/activity.info").read_text()
        name = re.search(r"^name *= *(.+)$", info, re.MULTILINE)
        bundle = re.search(r"^bundle_id *= *(\S+)", info, re.MULTILINE)
        assert name is not None
        assert bundle is not None
        assert rows[name[1]] == DEBIAN[bundle[1]]
