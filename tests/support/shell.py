# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own Sugar shell in a session without hardware, launching through us.

Nothing of Sugar is changed on disk: our file lies in its extension directory in these
processes' mount namespace alone, and the person has been asked all that Sugar asks
whom it does not know. A shell that runs is driven by what a person would do, with the
mouse and the keyboard, and looked at by its pixels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from isolauncher.windows import Watch, Window

from .desktop import SUGAR_ACTIVITIES, Desktop
from .reach import empty_over, mounted_over

TOP = Path(__file__).resolve().parents[2]
OURS = TOP / "integration/sugar/deviceicon/isolauncher.py"
EXTENSIONS = Path("/usr/share/sugar/extensions/deviceicon")
SECTIONS = Path("/usr/share/sugar/extensions/cpsection")
PATIENCE_S = 30

PERSON = """
mkdir -p ~/.sugar/default/logs
key=~/.sugar/default/owner.key
test -e $key || ssh-keygen -q -t dsa -f $key -C '' -N ''
gsettings set org.sugarlabs.user nick 'A child'
gsettings set org.sugarlabs.user color '#AC32FF,#9A5200'
gsettings set org.sugarlabs.user group-label 'Adult'
"""


def missing() -> str | None:
    """What this machine lacks for a shell, in words; for `powers.need`."""
    for path, package in (
        ("/usr/bin/sugar", "sugar-session"),
        ("/usr/bin/metacity", "metacity"),
        ("/usr/bin/ssh-keygen", "openssh-client"),
        ("/usr/bin/gsettings", "libglib2.0-bin"),
        ("/usr/bin/xdotool", "xdotool"),
    ):
        if not os.path.exists(path):
            return f"{path} is not there: is {package} installed?"
    return None


def written(config: str = "") -> str:
    """Our extension as it is installed from this checkout."""
    text = OURS.read_text()
    for name, value in (("CHECKOUT", str(TOP)), ("CONFIG", config)):
        text, found = re.subn(
            rf'^{name} = ""$', f"{name} = {value!r}", text, flags=re.M
        )
        assert found == 1, name
    return text


@dataclass
class Shell:
    """A shell that runs. ``environment`` is what programs of its session get."""

    desktop: Desktop
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def logs(self) -> Path:
        return self.desktop.home / ".sugar/default/logs"

    def run(self, *words: str) -> str:
        """What a command prints in this session, as the person."""
        return self.desktop.run(*words, env=self.environment)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return self.desktop.start(*words, environment=self.environment)

    def xdotool(self, *words: object) -> None:
        self.run("xdotool", *map(str, words))

    def click(self, x: int, y: int, button: int = 1) -> None:
        self.xdotool("mousemove", x - 2, y, "mousemove", x, y, "click", button)

    def choose(self, x: int, y: int) -> None:
        """Of a menu, which takes a click only on what it has lit up."""
        self.xdotool("mousemove", x - 2, y, "mousemove", x, y)
        self.settled()
        self.xdotool("click", 1)

    def press(self, window: Window, *keys: str) -> None:
        """Keys to a window, which is brought in front as the shell does it."""
        self.ask("org.laptop.Shell", "ActivateActivity", window.sugar_activity)
        self.xdotool("windowfocus", "--sync", window.number)
        if keys:
            self.xdotool("key", *keys)

    def type(self, window: Window, text: str) -> None:
        """And Return."""
        self.press(window)
        self.xdotool("type", "--delay", "30", text)
        self.xdotool("key", "Return")

    def launch_bundle(self, bundle_id: str, object_id: str = "") -> None:
        """As an activity that shows a document asks the shell to."""
        self.ask("org.laptop.Journal", "LaunchBundle", bundle_id, object_id)

    def bundle_path(self, bundle_id: str) -> str:
        said = self.ask("org.laptop.Shell", "GetBundlePath", bundle_id)
        return said.strip("(), \n'")

    def reload_bus(self) -> None:
        """Have it read again which services it can start."""
        self.ask("org.freedesktop.DBus", "ReloadConfig")

    def ask(self, name: str, method: str, *words: str) -> str:
        """What a service of the session's answers that is named as its object is."""
        return self.run(
            *("gdbus", "call", "--session", "--timeout", "10", "--dest", name),
            *("--object-path", f"/{name.replace('.', '/')}"),
            *("--method", f"{name}.{method}", *words),
        )

    def log(self, bundle_id: str, number: int = 1) -> str:
        return (self.logs / f"{bundle_id}-{number}.log").read_text(errors="replace")

    def pixels(self) -> Pixels:
        with self.desktop.watch() as watch:
            width, height, data = watch.pixels()
        return Pixels(width, height, data)

    def settled(self) -> None:
        """Wait until nothing has moved for a moment: nothing tells the end of it."""
        last, since = self.pixels(), time.monotonic()
        end = since + PATIENCE_S
        while time.monotonic() - since < 0.5:
            assert time.monotonic() < end, "the screen does not come to rest"
            time.sleep(0.05)
            now = self.pixels()
            if now != last:
                last, since = now, time.monotonic()

    def screenshot(self, path: Path) -> None:
        path.write_bytes(self.desktop.screenshot())

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        with self.desktop.watch() as watch:
            yield watch


def wait(true: Callable[[], object], patience_s: float) -> bool:
    """Whether it comes true: of what is seen, or is in a file, nothing tells."""
    end = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    assert wait(true, seconds), f"not in {seconds} s: {what}"


Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Pixels:
    """What is on the screen, four bytes a pixel."""

    width: int
    height: int
    data: bytes

    CELL = 8

    def row(self, x: int, y: int, count: int) -> bytes:
        at = (y * self.width + x) * 4
        return self.data[at : at + count * 4]

    def differing(self, other: Pixels | None, area: Box) -> set[tuple[int, int]]:
        left, top, right, bottom = (value // self.CELL for value in area)
        plain = self.row(area[2] - 1, area[3] - 1, 1) * self.CELL
        found = set()
        for row in range(top, bottom):
            for column in range(left, right):
                x = column * self.CELL
                for y in range(row * self.CELL, (row + 1) * self.CELL):
                    wanted = other.row(x, y, self.CELL) if other else plain
                    if self.row(x, y, self.CELL) != wanted:
                        found.add((column, row))
                        break
        return found

    def things(self, area: Box, other: Pixels | None = None) -> list[Box]:
        """What stands out, as boxes: cells that touch or nearly do are one thing.

        From ``other``, or from what is in the last corner of the area.
        """
        left = self.differing(other, area)
        boxes = []
        while left:
            todo = [left.pop()]
            one = list(todo)
            while todo:
                x, y = todo.pop()
                near = {
                    (x + dx, y + dy) for dx in range(-2, 3) for dy in range(-2, 3)
                } & left
                left -= near
                todo += near
                one += near
            columns, rows = [x for x, _ in one], [y for _, y in one]
            boxes.append(
                (
                    min(columns) * self.CELL,
                    min(rows) * self.CELL,
                    (max(columns) + 1) * self.CELL,
                    (max(rows) + 1) * self.CELL,
                )
            )
        return sorted(boxes)


def middle(box: Box) -> tuple[int, int]:
    return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2


@contextmanager
def shell(
    made: Desktop,
    socket: Path,
    *,
    config: Path | None = None,
    favourites: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    extensions: Mapping[str, str] | None = None,
) -> Iterator[Shell]:
    """The shell of ``made``'s person, with ``favourites`` at home or Debian's own.

    ``extensions`` are files beside ours, by name.

    The session bus must know how to start isolauncher-session by now.
    """
    path = f"{TOP}/.venv/bin:{made.environment['PATH']}"
    variables = {
        **made.environment,
        "PATH": path,
        "ISOLAUNCHER_SOCKET": str(socket),
        **(environment or {}),
    }
    if favourites:
        hidden = made.top / "hidden"
        others = _others(made.home, favourites)
        hidden.write_text("".join(f"{name}\n" for name in others))
        hidden.chmod(0o644)
        variables["SUGAR_ACTIVITIES_HIDDEN"] = str(hidden)
    with (
        mounted_over(str(EXTENSIONS)) as place,
        mounted_over(str(SECTIONS)) as sections,
        _session_managers(),
    ):
        _put_section(sections)
        (place / "isolauncher.py").write_text(written(str(config) if config else ""))
        for name, text in (extensions or {}).items():
            (place / name).write_text(text)
        made.run("sh", "-ec", PERSON, env=variables)
        process = made.start("sugar", environment=variables, start_new_session=True)
        one = Shell(desktop=made, environment=variables, process=process)
        try:
            # The last thing of the shell's start, and after the home view.
            wait = ("gdbus", "wait", "--session", "--timeout", str(PATIENCE_S))
            one.run(*wait, "org.laptop.Journal")
            yield one
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _put_section(sections: Path) -> None:
    """The control panel's section, as it is installed from this checkout."""
    with tempfile.TemporaryDirectory() as place:
        command = (TOP / "integration/sugar/install-section", "--destdir", place)
        subprocess.run(command, check=True)
        made = Path(place, *SECTIONS.parts[1:]) / "isolauncher"
        # There already, where another shell of the same tests has been.
        shutil.copytree(made, sections / "isolauncher", dirs_exist_ok=True)


@contextmanager
def _session_managers() -> Iterator[None]:
    """The directory of their sockets, which root makes when a machine starts."""
    place = Path("/tmp/.ICE-unix")
    made = not place.exists()
    if made:
        place.mkdir(mode=0o1777)
    try:
        with empty_over(str(place), "mode=1777"):
            yield
    finally:
        if made:
            with suppress(OSError):  # another's by now
                place.rmdir()


def _others(home: Path, favourites: tuple[str, ...]) -> Iterator[str]:
    for place in (SUGAR_ACTIVITIES, home / "Activities"):
        for info in place.glob("*/activity/activity.info"):
            match = re.search(r"^bundle_id\s*=\s*(\S+)", info.read_text(), re.M)
            if match and match[1] not in favourites:
                yield match[1]


__all__ = ["Box", "Pixels", "Shell", "middle", "missing", "shell", "until", "wait"]
