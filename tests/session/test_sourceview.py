# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files the shell takes for an activity's document: none but its own.

tests/shell/test_together.py has the shell and its window.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolauncher.session import sourceview

ID, BUNDLE = "a1", "org.example.A"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sourceview.tempfile, "tempdir", str(tmp_path))
    made = tmp_path / "profile"
    (made / BUNDLE / "instance" / ID / "more").mkdir(parents=True)
    return made


def copied(profile: Path, name: str) -> str:
    said = f"{profile}/{BUNDLE}/instance/{name}"
    return Path(sourceview.copy_of(said, BUNDLE, ID, str(profile))).read_text()


def test_each_has_its_own_and_without_a_sandbox_what_is_there_for_all(
    profile: Path,
) -> None:
    place = profile / BUNDLE / "instance"
    (place / "page.html").write_text("unconfined")
    assert copied(profile, "page.html") == "unconfined"
    (place / ID / "page.html").write_text("confined")
    assert copied(profile, "page.html") == "confined"
    own = profile / "isolauncher/user" / BUNDLE / "instance" / ID
    own.mkdir(parents=True)
    (own / "mine.html").write_text("a person's own bundle")
    assert copied(profile, "mine.html") == "a person's own bundle"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "more", "more/inside", "../../secret", "link", "pipe", "no"]
)
def test_what_is_no_file_of_its_own_is_no_document(profile: Path, name: str) -> None:
    place = profile / BUNDLE / "instance" / ID
    (profile / "secret").write_text("secret")
    (place / "more/inside").write_text("a link could stand in the directory's place")
    (place / "link").symlink_to(profile / "secret")
    os.mkfifo(place / "pipe")
    with pytest.raises((OSError, ValueError)):
        copied(profile, name)
    assert not list(profile.parent.glob("document-*"))


@pytest.mark.parametrize("said", ["/etc/passwd", "", "secret", "\0"])
def test_a_path_elsewhere_is_no_document(profile: Path, said: str) -> None:
    with pytest.raises((OSError, ValueError)):
        sourceview.copy_of(said, BUNDLE, ID, str(profile))


@pytest.mark.parametrize("ids", [(BUNDLE, "../../.."), ("../..", ID), (BUNDLE, "")])
def test_a_window_with_a_path_for_its_id_has_no_document(
    profile: Path, ids: tuple[str, str]
) -> None:
    (profile / "secret").write_text("secret")
    said = os.path.join(profile, ids[0], "instance/secret")
    with pytest.raises(ValueError, match="ids"):
        sourceview.copy_of(said, *ids, str(profile))


def test_a_link_in_the_place_of_its_directory_is_not_followed(profile: Path) -> None:
    place = profile / BUNDLE / "instance"
    (place / "b2").symlink_to("/etc")
    said = f"{place}/passwd"
    with pytest.raises(OSError, match="directory"):
        sourceview.copy_of(said, BUNDLE, "b2", str(profile))


def test_what_the_shell_would_stand_still_for_is_not_copied(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sourceview, "MAX_BYTES", 3)
    (profile / BUNDLE / "instance" / ID / "large").write_text("four")
    with pytest.raises(ValueError, match="large"):
        copied(profile, "large")
