# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher restrict` as it is called, and by whom."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.powers import need

from isolauncher.cli import main
from isolauncher.session import installed

from .conftest import LOG, SHIPPED, Place

ACTION = SHIPPED.parent / "integration/polkit/org.sugarlabs.isolauncher.policy"


@pytest.fixture
def log_is_installed() -> None:
    need(None if _is_installed(LOG) else "sugar-log-activity is not installed")


def _is_installed(bundle_id: str) -> bool:
    return any(bundle_id == one for _, one, _ in installed._all(installed.SYSTEM))


@pytest.mark.usefixtures("log_is_installed")
def test_the_command_takes_shows_and_gives_back(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> dict[str, object]:
        here = f"--policy-dir={place.etc}"
        assert main.main(["restrict", LOG, *words, "--json", here]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    shown = said()
    assert (shown["policy"], shown["file"], shown["taken"]) == ("log", None, [])
    assert shown["held"] == ["documents", "files"]
    path = str(place.etc / "log.toml")
    assert said("files")["file"] == path
    assert said()["taken"] == ["files"]
    assert said("--as-shipped")["taken"] == []
    assert place.files() == {}


def test_only_the_id_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="125"):
        main.main(["restrict"])
    assert "are required: BUNDLE-ID (see" in capsys.readouterr().err


@pytest.mark.usefixtures("log_is_installed")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("org.laptop.NoSuch", "documents"), "bundle-not-found"),
        (("../../etc/passwd", "documents"), "restrict-bad-id"),
        (("org.laptop.Log\nx", "documents"), "restrict-bad-id"),
        (("/usr/share/sugar/activities/Log.activity",), "restrict-bad-id"),
        ((LOG, "documents", "--as-shipped"), "restrict-both"),
        ((LOG, "--print"), "restrict-no-power"),
    ],
)
def test_the_command_refuses(
    place: Place,
    words: tuple[str, ...],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = f"--policy-dir={place.etc}"
    assert main.main(["restrict", *words, here]) == 125
    assert capsys.readouterr().err.endswith(f"[{code}]\n")
    assert place.files() == {}


@pytest.mark.usefixtures("log_is_installed")
def test_who_comes_by_pkexec_chooses_no_directory(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKEXEC_UID", "1000")
    words = ["restrict", LOG, "documents", f"--policy-dir={place.etc}"]
    assert main.main(words) == 125
    assert capsys.readouterr().err.endswith("[restrict-directory]\n")
    assert place.files() == {}


@pytest.mark.usefixtures("log_is_installed")
def test_a_person_s_own_bundle_of_the_same_id_does_not_count(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle(tmp_path / "Activities/Mine.activity")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert installed.find("org.example.Mine", os.environ)
    here = f"--policy-dir={place.etc}"
    assert main.main(["restrict", "org.example.Mine", "documents", here]) == 125
    assert capsys.readouterr().err.endswith("[bundle-not-found]\n")


def test_a_bundle_that_others_can_change_is_not_everybody_s(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle(tmp_path / "all/Mine.activity")
    (tmp_path / "all/Mine.activity").chmod(0o777)
    monkeypatch.setattr(installed, "SYSTEM", (str(tmp_path / "all"),))
    here = f"--policy-dir={place.etc}"
    for words in (("documents",), ()):
        assert main.main(["restrict", "org.example.Mine", *words, here]) == 125
        said = capsys.readouterr().err
        assert said.endswith("[restrict-not-for-all]\n")
        assert str(tmp_path / "all/Mine.activity") in said
    assert place.files() == {}


def bundle(path: Path) -> None:
    (path / "activity").mkdir(parents=True)
    (path / "activity/activity.info").write_text(
        "[Activity]\nname = Mine\nbundle_id = org.example.Mine\nicon = mine\n"
        "exec = sugar-activity3 mine.Mine\nactivity_version = 1\nlicense = GPLv3\n"
    )


def test_polkit_asks_an_administrator_for_this_verb_and_no_other() -> None:
    (action,) = ElementTree.parse(ACTION).getroot().findall("action")  # noqa: S314
    notes = {one.get("key"): one.text for one in action.findall("annotate")}
    assert notes == {
        "org.freedesktop.policykit.exec.path": "/usr/bin/isolauncher",
        "org.freedesktop.policykit.exec.argv1": "restrict",
    }
    defaults = action.find("defaults")
    assert defaults is not None
    assert {one.tag: one.text for one in defaults} == {
        "allow_any": "no",
        "allow_inactive": "no",
        "allow_active": "auth_admin",
    }
