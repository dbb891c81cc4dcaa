# SPDX-License-Identifier: GPL-3.0-or-later
"""What `doctor` says of Sugar's parts: those of `make install-sugar`, spoilt in turn.

tests/shell/test_together.py has a shell that runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemons import TOP
from support.desktop import SUGAR_ACTIVITIES
from support.peers import until
from support.powers import need

from isolauncher import installation
from isolauncher.cli import doctor
from isolauncher.errors import HostError
from isolauncher.installation import (
    ACTION,
    EXTENSION,
    JOURNAL,
    LAUNCH,
    SECTION,
    SERVICE,
    SHELL,
)
from isolauncher.rootsown import not_roots
from isolauncher.session import openwindows
from isolauncher.session.openwindows import Open, Verdict
from isolauncher.windows import Present


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a directory as `make` puts it."""
    need(None if SUGAR_ACTIVITIES.exists() else "Sugar is not installed")
    root = tmp_path_factory.mktemp("installed")
    done = subprocess.run(
        ("make", "-s", "install-sugar", f"DESTDIR={root}"),
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (root / SHELL).parent.mkdir(parents=True, exist_ok=True)
    (root / SHELL).touch()
    return root


@pytest.fixture
def root(installed: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    shutil.copytree(installed, tmp_path / "root")
    return tmp_path / "root"


def test_what_was_installed_is_found_whole(installed: Path) -> None:
    found = installation.parts({}, str(installed))
    assert [part.fault for part in found] == [""] * 5
    lines = [one.text() for one in doctor.of_sugar(found)]
    assert "ok       sugar extension    the shell launches through isolauncher" in lines


def replaced(place: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        text = (root / place).read_text()
        assert old in text
        (root / place).write_text(text.replace(old, new))

    return spoil


ADAPTER = "isolauncher/session/adapter.py"


def code(place: str, what: str, mode: int) -> Callable[[Path], None]:
    """A checkout that is as it should be, but for the mode of ``what``."""

    def spoil(root: Path) -> None:
        checkout = root / "checkout"
        for part in ("integration/sugar", "isolauncher/session"):
            shutil.copytree(TOP / part, checkout / part)
        (checkout / what).chmod(mode)
        replaced(place, str(TOP), str(checkout))(root)
        if place.startswith(SECTION):
            command(place, "COMMAND = '", 0o755)(root)

    return spoil


def command(place: str, before: str, mode: int) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        made = root / "command"
        made.touch()
        made.chmod(mode)
        text = (root / place).read_text()
        found = re.search(f"{re.escape(before)}[^'< \n]+", text)
        assert found is not None
        (root / place).write_text(text.replace(found[0], f"{before}{made}"))

    return spoil


@pytest.mark.parametrize(
    ("what", "fault", "spoil"),
    [
        ("extension", "No such file", lambda root: (root / EXTENSION).unlink()),
        ("extension", "where it is not", replaced(EXTENSION, str(TOP), "/nowhere")),
        ("extension", "older or changed", replaced(EXTENSION, "_refuse", "_let")),
        ("extension", "not isolauncher's", replaced(EXTENSION, "CHECKOUT =", "C =")),
        ("extension", "others than", lambda root: (root / EXTENSION).chmod(0o666)),
        ("extension", "others than", lambda root: os.chown(root / EXTENSION, 1000, 0)),
        ("extension", "has mode 0777", code(EXTENSION, "isolauncher", 0o777)),
        ("extension", "has mode 0666", code(EXTENSION, f"{ADAPTER}", 0o666)),
        ("service", "No such file", lambda root: (root / SERVICE).unlink()),
        ("service", "which is not there", replaced(SERVICE, str(TOP), "/nowhere")),
        ("service", "starts nothing", replaced(SERVICE, "Exec=", "Run=")),
        ("service", "has mode 0757", command(SERVICE, "Exec=", 0o757)),
        ("launch", "No such file", lambda root: (root / LAUNCH).unlink()),
        ("launch", "which is not there", replaced(LAUNCH, str(TOP), "/nowhere")),
        ("launch", "has mode 0775", command(LAUNCH, "isolauncher=", 0o775)),
        ("panel", "No such file", lambda root: shutil.rmtree(root / SECTION)),
        ("panel", "older or changed", replaced(f"{SECTION}/view.py", "import", "im")),
        ("panel", "not there", replaced(f"{SECTION}/installed.py", str(TOP), "/no")),
        ("panel", "has mode 0777", code(f"{SECTION}/installed.py", ADAPTER, 0o777)),
        ("polkit", "No such file", lambda root: (root / ACTION).unlink()),
        ("polkit", "which is not there", replaced(ACTION, str(TOP), "/nowhere")),
        ("polkit", "has mode 0722", command(ACTION, '.path">', 0o722)),
    ],
)
def test_a_part_that_is_missing_or_another_s_is_named_with_what_follows(
    root: Path, what: str, fault: str, spoil: Callable[[Path], None]
) -> None:
    spoil(root)
    (bad,) = (part for part in installation.parts({}, str(root)) if part.fault)
    assert bad.what in (f"sugar {what}", f"sugar-{what}")
    assert fault in bad.fault
    (line,) = (one for one in doctor.of_sugar([bad]))
    assert (line.state, line.full) == ("limited", True)
    assert line.follows
    elsewhere = ", from where root alone can write" if "has mode" in fault else ""
    assert line.fix == f"make install-sugar{elsewhere}"


def test_nothing_installed_is_said_once(tmp_path: Path) -> None:
    (one,) = installation.parts({}, str(tmp_path))
    assert (one.fault, one.detail) == ("", "its shell is not installed here")
    (tmp_path / SHELL).parent.mkdir(parents=True)
    (tmp_path / SHELL).touch()
    (one,) = installation.parts({}, str(tmp_path))
    assert "does not launch through isolauncher" in one.fault


def test_doctor_has_lines_for_sugar(capsys: pytest.CaptureFixture[str]) -> None:
    words = (TOP / ".venv/bin/isolauncher", "doctor", "--json")
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False
    )
    found = [one["what"] for one in json.loads(done.stdout)["findings"]]
    assert [what for what in found if what.startswith("sugar")]


def shown(number: int, bundle: str, pid: int, verdict: Verdict) -> Open:
    window = Present(
        number=number,
        pid=pid,
        title=f"window {number}",
        sugar_bundle=bundle,
        sugar_activity="" if bundle == JOURNAL else f"a{number}",
    )
    return Open(window=window, verdict=verdict)


@pytest.fixture
def shell() -> Iterator[int]:
    """A process that was started as the shell is."""
    words = ("sh", "-c", "read line", "-m", "jarabe.main")
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        # Its words are there once it is the program (execve(2)).
        until(lambda: b"jarabe" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        yield process.pid


@pytest.fixture
def found(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """What is said of each part, with these windows there."""

    def look(*there: Open) -> dict[str, str]:
        monkeypatch.setattr(openwindows, "look", lambda environment: there)
        parts = installation.parts({"DISPLAY": ":1"}, str(installed))
        said: dict[str, str] = {}
        for part in parts:
            words = part.fault or part.detail
            said[part.what] = f"{said.get(part.what, '')}{words};"
        return said

    return look


def test_what_is_open_past_isolauncher_is_named_and_the_shell_s_own_is_not(
    found: Callable[..., dict[str, str]], shell: int
) -> None:
    me = os.getpid()
    journal = shown(1, JOURNAL, shell, "unconfined")
    source = shown(2, "org.laptop.Log", shell, "unconfined")
    confined = shown(3, "org.laptop.Log", me + 1, "confined")
    loose = shown(4, "org.laptop.Log", me + 2, "unconfined")
    hidden = shown(5, "org.laptop.Log", 0, "unknown")

    said = found(journal, source, confined)
    assert f"process {shell}" in said["sugar shell"]
    assert said["sugar windows"] == "every activity's is confined;"
    said = found(journal, confined, loose)
    assert said["sugar windows"] == "1 open that no sandbox has: window 4;"
    said = found(journal, confined, hidden)
    assert said["sugar windows"] == "1 open, and nobody can say whose: window 5;"
    said = found(journal, loose, hidden)
    assert "window 4" in said["sugar windows"]
    assert "window 5" in said["sugar windows"]


def test_who_says_that_it_is_the_journal_is_not_the_shell_for_that(
    found: Callable[..., dict[str, str]], shell: int
) -> None:
    journal = shown(1, JOURNAL, shell, "unconfined")
    pretends = shown(2, JOURNAL, os.getpid(), "unconfined")
    said = found(journal, pretends)
    assert f"process {os.getpid()}" not in said["sugar shell"]
    assert said["sugar windows"] == "1 open that no sandbox has: window 2;"
    # Words of the shell's own in a sandbox, or of whom nobody knows.
    for verdict in ("confined", "unknown"):
        assert "sugar shell" not in found(shown(1, JOURNAL, shell, verdict))


def test_windows_that_cannot_be_looked_at_are_told_of_with_what_helps(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(environment: object) -> object:
        raise HostError("no python3-xlib", code="xlib-missing", hint="install it")

    monkeypatch.setattr(openwindows, "look", look)
    (part,) = (p for p in installation.parts({"DISPLAY": ":1"}, str(root)) if p.fault)
    (line,) = doctor.of_sugar([part])
    assert (line.what, line.state, line.fix) == (
        "sugar windows",
        "limited",
        "install it",
    )
    assert line.detail == "cannot be looked at: no python3-xlib"


def test_who_can_change_it_is_found_wherever_on_the_way(tmp_path: Path) -> None:
    place = tmp_path / "a/b"
    place.mkdir(parents=True)
    file = place / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to("a/b")
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "mine").touch()
    for fine in (file, place, link / "file", link, sticky / "mine"):
        assert not_roots(str(fine)) == "", fine
    assert not_roots(str(sticky)) == f"{sticky} has mode 1777"
    os.chown(link, 1000, -1, follow_symlinks=False)
    assert not_roots(str(link / "file")) == f"{link} belongs to uid 1000"
    assert not_roots(str(link)) == f"{link} belongs to uid 1000"
    place.parent.chmod(0o770)
    assert not_roots(str(file)) == f"{place.parent} has mode 0770"
    place.parent.chmod(0o755)
    os.chown(file, -1, 1000)
    file.chmod(0o660)
    assert not_roots(str(place)) == f"{file} has mode 0660"
    (tmp_path / "loop").symlink_to("loop")
    assert "links" in not_roots(str(tmp_path / "loop"))
    with pytest.raises(FileNotFoundError):
        not_roots(str(place / "gone"))


def test_a_shell_that_is_older_than_its_extension_is_known(tmp_path: Path) -> None:
    extension = tmp_path / "isolauncher.py"
    extension.touch()
    assert installation._installed_since(1, str(extension))
    with subprocess.Popen(("sleep", "60")) as later:
        assert not installation._installed_since(later.pid, str(extension))
        later.kill()
    assert not installation._installed_since(later.pid, str(extension))


def test_a_title_does_not_write_on_the_terminal() -> None:
    part = installation.Part(what="sugar windows", detail="", fault="\x1b[2Jgone")
    (line,) = doctor.of_sugar([part])
    assert "\x1b" not in line.text()
