# SPDX-License-Identifier: GPL-3.0-or-later
"""What a child does in Sugar's shell, on a screen of 1200 by 900 with every activity.

`Clicks.open` finds an activity in the list of all and clicks its icon, `Clicks.resume`
the latest entry of the Journal, `Clicks.stop` is Stop in the frame. In between there
are mouse and keyboard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolauncher.windows import Watch, Window

from .desktop import PYTHON
from .shell import Box, Shell, middle, until
from .sugar import JOURNAL, Session

TOP_OF_FRAME: Box = (260, 0, 1200, 48)
"""Right of the four views."""
FOUND: Box = (56, 64, 112, 896)
"""The icons in the list of all activities, and below them what is empty."""
ENTRIES: Box = (104, 64, 160, 896)
"""The same in the Journal."""
LIST_CHOSEN = (1119, 10)
"""In the button of the list, beside what is drawn on it."""
CHOSEN = (128, 128, 128)
SEARCH = (300, 30)
"""In the Journal."""
ASIDE = (640, 840)
"""A place of the screen with nothing to light up."""

FIRST_UID, LAST_UID = 70001, 89999


@dataclass
class Clicks:
    """The shell, driven; ``session`` is where it launches."""

    shell: Shell
    session: Session

    # ------------------------------------------------------------------------ opening

    def list(self) -> None:
        """The home view as a list, whatever is in front.

        A key that comes before the shell has the focus is lost: asked for again.
        """
        self.shell.xdotool("mousemove", *ASIDE)

        def listed() -> bool:
            for key in ("F3", "ctrl+2"):
                self.shell.xdotool("key", key)
                self.shell.settled()
            return self.color(*LIST_CHOSEN) == CHOSEN

        until(listed, "the list")

    def find(self, name: str) -> tuple[int, int]:
        """In the list; where its icon is, once it is the only one."""
        self.list()
        # What was looked for before is still shown.
        self.shell.xdotool("key", "ctrl+a", "BackSpace")
        until(lambda: len(self.shell.pixels().things(FOUND)) > 1, "all of them")
        self.shell.xdotool("type", "--delay", "30", name)
        until(lambda: len(self.shell.pixels().things(FOUND)) == 1, f"{name} alone")
        self.shell.settled()
        return middle(self.shell.pixels().things(FOUND)[0])

    def open(self, name: str) -> Window:
        """By a click on its icon; with its window there."""
        return self.click_for_window(*self.find(name))

    def click_for_window(self, x: int, y: int) -> Window:
        with self.shell.watch() as watch:
            self.shell.click(x, y)
            return next_window(watch)

    def resume(self, word: str) -> Window:
        """The one entry that the Journal finds for that word, by its icon."""
        return self.click_for_window(*self.find_entry(word))

    def find_entry(self, word: str) -> tuple[int, int]:
        """In the Journal; where its icon is."""
        self.shell.xdotool("mousemove", *ASIDE)
        self.shell.xdotool("key", "F5")
        self.shell.settled()
        # What was looked for before is still shown.
        for asked, count in (("nothinglikeit", 0), (word, 1)):
            self.shell.click(*SEARCH)
            self.shell.xdotool("key", "ctrl+a")
            self.shell.xdotool("type", "--delay", "30", asked)
            self.shell.xdotool("key", "Return")
            until(
                lambda count=count: len(self.entries()) == count, f"{count} of {asked}"
            )
        self.shell.settled()
        return middle(self.entries()[0])

    def entries(self) -> list[Box]:
        """The icons of the Journal's, the latest first."""
        found = self.shell.pixels().things(ENTRIES)
        return sorted(found, key=lambda box: box[1])

    # ------------------------------------------------------------------------ at work

    def selected(self) -> str:
        """The text that is marked, whoever's window it is in."""
        return self.shell.run(
            *(PYTHON, "-W", "ignore", "-c"),
            "import gi; gi.require_version('Gtk', '3.0')\n"
            "from gi.repository import Gtk, Gdk\n"
            "marked = Gtk.Clipboard.get(Gdk.SELECTION_PRIMARY)\n"
            "print(marked.wait_for_text() or '')\n",
        )

    def color(self, x: int, y: int) -> tuple[int, int, int]:
        """Red, green and blue of a pixel."""
        blue, green, red, _ = self.shell.pixels().row(x, y, 1)
        return red, green, blue

    # ------------------------------------------------------------------------- ending

    def stop(self, id: str, picture: Path | None = None) -> None:
        """Stop in the frame, in the palette of what was opened last."""
        self.choose_stop(picture)
        self.ended(id)

    def choose_stop(self, picture: Path | None = None) -> None:
        shell = self.shell

        def icons() -> list[Box]:
            return shell.pixels().things(TOP_OF_FRAME)

        shell.xdotool("mousemove", *ASIDE)
        shell.settled()
        shell.xdotool("key", "F6")
        until(lambda: len(icons()) >= 2, "the frame with its icon")
        shell.settled()
        without = shell.pixels()
        x, y = middle(icons()[-1])
        shell.click(x, y, button=3)
        below = (x // 8 * 8 - 24, 56, 1200, 896)

        def palette() -> list[Box]:
            seen = shell.pixels().things(below, without)
            return [box for box in seen if box[1] < 80]

        until(palette, "the icon's palette")
        shell.settled()
        if picture is not None:
            shell.screenshot(picture)
        # The last line of the palette.
        shell.choose(x, palette()[0][3] - 28)

    def stop_all(self) -> None:
        """Whatever still runs, whatever has failed."""
        for row in self.session.running():
            if row["state"] != "exited":
                self.session.stop(row["id"])

    def ended(self, id: str) -> None:
        """Wait until it has ended, and until nothing is left beside it."""
        until(lambda: self.state(id) in ("exited", "gone"), f"the end of {id}")
        self.session.gone(id)

    # -------------------------------------------------------------------- looked up

    def state(self, id: str) -> str:
        rows = [row for row in self.session.running() if row["id"] == id]
        return rows[0]["state"] if rows else "gone"

    def row(self, id: str) -> dict[str, Any]:
        (row,) = [row for row in self.session.running() if row["id"] == id]
        return row

    def confined(self, window: Window, policy: str) -> dict[str, Any]:
        """Assert that the window's activity is, and under what; its row of `ps`."""
        row = self.row(window.sugar_activity)
        assert (row["bundle_id"], row["state"]) == (window.sugar_bundle, "running")
        assert row["policy"] == policy
        assert FIRST_UID <= row["uid"] <= LAST_UID
        status = Path(f"/proc/{row['pid']}/status").read_text()
        assert f"Uid:\t{row['uid']}\t{row['uid']}\t{row['uid']}" in status
        assert "NoNewPrivs:\t1" in status
        return row

    def newest_log(self, bundle_id: str) -> Path:
        """Of the times that it was opened, the last."""
        logs = list(self.shell.logs.glob(f"{bundle_id}-*.log"))
        return max(logs, key=lambda path: int(path.stem.rpartition("-")[2]))

    def last_line(self, log: Path) -> str:
        """Once the shell has written how it ended."""
        until(lambda: "activity_id" in log.read_text(errors="replace"), f"{log}'s end")
        return log.read_text(errors="replace").splitlines()[-1]

    def entry(self, id: str) -> dict[str, Any]:
        """The Journal's of that activity."""
        (one,) = [o for o in self.session.objects() if o.get("activity_id") == id]
        return one

    def kept(self, id: str) -> bytes:
        """What is in it."""
        path = self.session.journal("get_filename", f'"{self.entry(id)["uid"]}"')
        return Path(path).read_bytes()

    def keep(self, data: bytes, mime_type: str, bundle_id: str, title: str) -> str:
        """Have the person keep a document that opens with ``bundle_id``; its uid."""
        path = self.session.desktop.home / title
        path.write_bytes(data)
        path.chmod(0o644)
        source = (
            "import sys, dbus\n"
            f"store = dbus.SessionBus().get_object('{JOURNAL}', '/org/laptop/sugar/"
            "DataStore')\n"
            "names = ('title', 'mime_type', 'activity')\n"
            "about = dbus.Dictionary(zip(names, sys.argv[2:]), signature='sv')\n"
            f"print(store.create(about, sys.argv[1], False, dbus_interface='{JOURNAL}'"
            "))\n"
        )
        words = (PYTHON, "-c", source, str(path), title, mime_type, bundle_id)
        uid = self.session.desktop.run(*words).strip()
        os.unlink(path)
        return uid


def next_window(
    watch: Watch, wanted: Callable[[Window], bool] = lambda window: True
) -> Window:
    """Of an activity, from now on."""
    return watch.wait(
        lambda window: bool(window.sugar_bundle) and wanted(window), patience_s=90
    )


@contextmanager
def in_pictures(shell: Shell, path: Path) -> Iterator[None]:
    """What a person saw last, whatever happens."""
    try:
        yield
    finally:
        shell.screenshot(path)


__all__ = ["ASIDE", "Clicks", "in_pictures", "next_window"]
