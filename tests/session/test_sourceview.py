# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files the shell takes for an activity's document: none but its own.

tests/shell/test_together.py has the shell and its window.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from isolauncher.session import bounded, sourceview

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
    said = f"{place}/page.html"
    shown = sourceview.copy_of(said, BUNDLE, "a2", str(profile))
    assert Path(shown).read_text() == "unconfined"
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


@pytest.mark.parametrize("own", ["", "isolauncher/user/"])
def test_who_has_a_sandbox_is_shown_nothing_of_what_is_there_for_all(
    profile: Path, own: str
) -> None:
    (profile / BUNDLE / "instance" / ID / "more").rmdir()
    (profile / BUNDLE / "instance" / ID).rmdir()
    (profile / own / BUNDLE / "instance" / ID).mkdir(parents=True)
    (profile / BUNDLE / "instance/page.html").write_text("another's")
    with pytest.raises(FileNotFoundError):
        copied(profile, "page.html")


@pytest.mark.parametrize("bound", ["MAX_BYTES", "SPARE"])
def test_what_the_shell_would_stand_still_for_or_has_no_room_for_is_not_copied(
    profile: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(sourceview, "MAX_BYTES", 3 if bound == "MAX_BYTES" else 4)
    if bound == "SPARE":
        monkeypatch.setattr(bounded, "SPARE", 1 << 62)
    (profile / BUNDLE / "instance" / ID / "large").write_text("four")
    with pytest.raises(bounded.Unfit, match="more than 3 bytes|not enough room"):
        copied(profile, "large")
    assert not list(profile.parent.glob("document-*"))


def test_a_document_that_grows_is_copied_as_far_as_it_was_looked_at(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = profile / BUNDLE / "instance" / ID / "page.html"
    document.write_text("looked at")
    see_room = sourceview.see_room

    def and_it_grows(directory: str, size: int, most: int) -> None:
        see_room(directory, size, most)
        document.write_text("looked at, and then this")

    monkeypatch.setattr(sourceview, "see_room", and_it_grows)
    assert copied(profile, "page.html") == "looked at"


def test_of_a_copy_that_fails_nothing_is_left(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: int, target: int, size: int) -> None:
        os.write(target, b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sourceview, "copy", fails)
    (profile / BUNDLE / "instance" / ID / "page.html").write_text("whole")
    with pytest.raises(OSError, match="No space"):
        copied(profile, "page.html")
    assert not list(profile.parent.glob("document-*"))


def test_a_long_name_in_any_script_is_a_name(profile: Path) -> None:
    name = "\U0001f422" * 60 + ".txt"
    (profile / BUNDLE / "instance" / ID / name).write_text("a turtle")
    assert copied(profile, name) == "a turtle"


# ---------------------------------------------------------------- the shell's window


class Window:
    """As the shell makes one; ``fails`` as one does that cannot read a bundle."""

    fails = False

    def __init__(
        self, window: object, bundle: object, said: str | None, *_: object
    ) -> None:
        self.shown = said
        if self.fails:
            raise RuntimeError("no such bundle")


def windows(profile: Path) -> type[Window]:
    activity = SimpleNamespace(get_bundle_id=lambda: BUNDLE, get_activity_id=lambda: ID)
    model = SimpleNamespace(_get_activity_by_xid={7: activity}.get)
    shell = SimpleNamespace(ViewSource=Window)
    sourceview.install(shell, model, str(profile))
    made: type[Window] = shell.ViewSource
    return made


def test_a_window_that_is_not_made_leaves_no_copy(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = windows(profile)
    (profile / BUNDLE / "instance" / ID / "page.html").write_text("a page")
    said = f"{profile}/{BUNDLE}/instance/page.html"
    shown = made(7, "", said, "", "").shown
    assert shown is not None
    assert Path(shown).read_text() == "a page"
    os.unlink(shown)
    monkeypatch.setattr(Window, "fails", True)
    with pytest.raises(RuntimeError):
        made(7, "", said, "", "")
    assert not list(profile.parent.glob("document-*"))


def test_what_is_no_document_of_its_own_keeps_no_window_from_opening(
    profile: Path,
) -> None:
    made = windows(profile)
    place = profile / BUNDLE / "instance" / ID
    (place / "large").write_bytes(b"")
    os.truncate(place / "large", sourceview.MAX_BYTES + 1)
    for said in ("/etc/passwd", f"{profile}/{BUNDLE}/instance/large"):
        assert made(7, "", said, "", "").shown is None
    assert made(8, "", f"{profile}/{BUNDLE}/instance/no", "", "").shown is None
    assert made(7, "", None, "", "").shown is None
