# SPDX-License-Identifier: GPL-3.0-or-later
"""What `doctor` says of Sugar's parts: those of `make install-sugar`, spoilt in turn.

tests/shell/test_together.py has a shell that runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemons import TOP
from support.desktop import SUGAR_ACTIVITIES
from support.powers import need

from isolauncher import installation
from isolauncher.cli import doctor
from isolauncher.installation import (
    ACTION,
    EXTENSION,
    JOURNAL,
    LAUNCH,
    SECTION,
    SERVICE,
    SHELL,
)
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


@pytest.mark.parametrize(
    ("what", "fault", "spoil"),
    [
        ("extension", "No such file", lambda root: (root / EXTENSION).unlink()),
        ("extension", "where it is not", replaced(EXTENSION, str(TOP), "/nowhere")),
        ("extension", "older or changed", replaced(EXTENSION, "_refuse", "_let")),
        ("extension", "not isolauncher's", replaced(EXTENSION, "CHECKOUT =", "C =")),
        ("extension", "others than", lambda root: (root / EXTENSION).chmod(0o666)),
        ("extension", "others than", lambda root: os.chown(root / EXTENSION, 1000, 0)),
        ("service", "No such file", lambda root: (root / SERVICE).unlink()),
        ("service", "which is not there", replaced(SERVICE, str(TOP), "/nowhere")),
        ("service", "starts nothing", replaced(SERVICE, "Exec=", "Run=")),
        ("launch", "No such file", lambda root: (root / LAUNCH).unlink()),
        ("launch", "which is not there", replaced(LAUNCH, str(TOP), "/nowhere")),
        ("panel", "No such file", lambda root: shutil.rmtree(root / SECTION)),
        ("panel", "older or changed", replaced(f"{SECTION}/view.py", "import", "im")),
        ("panel", "not there", replaced(f"{SECTION}/installed.py", str(TOP), "/no")),
        ("polkit", "No such file", lambda root: (root / ACTION).unlink()),
        ("polkit", "which is not there", replaced(ACTION, str(TOP), "/nowhere")),
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
    assert line.fix == "make install-sugar"


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


def test_what_is_open_past_isolauncher_is_named_and_the_shell_s_own_is_not(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.getpid()
    journal = shown(1, JOURNAL, me, "unconfined")
    source = shown(2, "org.laptop.Log", me, "unconfined")
    confined = shown(3, "org.laptop.Log", me + 1, "confined")
    loose = shown(4, "org.laptop.Log", me + 2, "unconfined")

    def windows(*there: Open) -> str:
        monkeypatch.setattr(openwindows, "look", lambda environment: there)
        found = installation.parts({"DISPLAY": ":1"}, str(installed))
        (shell,) = (part for part in found if part.what == "sugar shell")
        assert f"process {me}" in (shell.fault or shell.detail)
        (line,) = (part for part in found if part.what == "sugar windows")
        return line.fault

    assert windows(journal, source, confined) == ""
    assert "1 open that no sandbox has: window 4" in windows(journal, confined, loose)


def test_a_shell_that_is_older_than_its_extension_is_known(tmp_path: Path) -> None:
    extension = tmp_path / "isolauncher.py"
    extension.touch()
    assert installation._installed_since(1, str(extension))
    with subprocess.Popen(("sleep", "60")) as later:
        assert not installation._installed_since(later.pid, str(extension))
        later.kill()


def test_a_title_does_not_write_on_the_terminal() -> None:
    part = installation.Part(what="sugar windows", detail="", fault="\x1b[2Jgone")
    (line,) = doctor.of_sugar([part])
    assert "\x1b" not in line.text()
