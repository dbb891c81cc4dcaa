# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher restrict` takes from nobody else, and touches nobody's files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from isolauncher.errors import NotAllowed, PolicyError, RequestError
from isolauncher.policy import restrict

from .conftest import BY_HAND, CALCULATE, LOG, RECORD, SHIPPED, Place, refused


def test_a_file_that_an_administrator_wrote_is_left_alone(place: Place) -> None:
    place.write("log.toml", BY_HAND)
    error = refused(place, "restrict-by-hand", "documents")
    assert str(place.etc / "log.toml") in error.message
    # As root's, under another name, or where the name would be ours.
    os.rename(place.etc / "log.toml", place.etc / "mine.toml")
    with pytest.raises(PolicyError) as caught:
        place.standing()
    assert caught.value.code == "policy-match-ambiguous"


def test_one_of_ours_that_was_edited_is_an_administrator_s(place: Place) -> None:
    place.take("documents")
    path = place.etc / "log.toml"
    text = path.read_text()
    for edited in (
        text + "\n[limits]\nprocesses = 16\n",
        text.replace('documents = "own"', 'documents = "none"'),
        text.replace("# sha256", "# I looked at this.\n# sha256"),
        text.replace("without documents", "without files"),
    ):
        path.write_text(edited)
        refused(place, "restrict-by-hand", "files")
        refused(place, "restrict-by-hand")


def test_one_of_ours_under_another_s_name_is_left_alone(place: Place) -> None:
    place.take("documents", bundle_id=CALCULATE)
    made = place.etc / "calculate.toml"
    name = f"{RECORD}.restricted"
    made.rename(place.etc / f"{name}.toml")
    before = place.files()
    with pytest.raises(PolicyError):
        place.take("documents", bundle_id=CALCULATE)
    refused(place, "restrict-by-hand", "documents", bundle_id=RECORD)
    assert place.files() == before


def _link(path: Path, elsewhere: Path) -> None:
    elsewhere.write_text("secret = true\n")
    path.symlink_to(elsewhere)


def _socket(path: Path, elsewhere: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


LIES_THERE: dict[str, Callable[[Path, Path], object]] = {
    "a link": _link,
    "a link to nothing": lambda path, elsewhere: path.symlink_to(elsewhere),
    "a directory": lambda path, elsewhere: path.mkdir(),
    "a fifo": lambda path, elsewhere: os.mkfifo(path),
    "a socket": _socket,
}


@pytest.mark.parametrize("what", LIES_THERE)
def test_what_is_no_file_is_neither_followed_nor_replaced(
    place: Place, tmp_path: Path, what: str
) -> None:
    place.etc.mkdir()
    path, elsewhere = place.etc / "log.toml", tmp_path / "elsewhere"
    LIES_THERE[what](path, elsewhere)
    before = path.lstat()
    with pytest.raises((NotAllowed, PolicyError)) as caught:
        place.take("documents")
    assert caught.value.code in ("policy-not-trusted", "policy-unreadable")
    assert path.lstat().st_ino == before.st_ino
    assert not elsewhere.exists() or elsewhere.read_text() == "secret = true\n"
    assert os.listdir(place.etc) == ["log.toml"]


def test_one_of_ours_is_replaced_through_no_hard_link(
    place: Place, tmp_path: Path
) -> None:
    place.take("documents")
    kept = tmp_path / "kept.toml"
    os.link(place.etc / "log.toml", kept)
    before = kept.read_bytes()
    place.take("files")
    assert kept.read_bytes() == before


@pytest.mark.parametrize("which", ["policies", "above"])
def test_a_directory_that_others_may_write_is_refused(
    tmp_path: Path, which: str
) -> None:
    place = Place(tmp_path / "isolauncher" / "policies")
    place.etc.mkdir(parents=True)
    (place.etc if which == "policies" else place.etc.parent).chmod(0o777)
    with pytest.raises((NotAllowed, PolicyError)) as caught:
        place.take("documents")
    assert caught.value.code == "policy-not-trusted"
    assert place.files() == {}
    place.store.close()


def test_a_dangerous_policy_is_not_written_however_it_came_to_be(place: Place) -> None:
    place.write(
        "sugar.toml",
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.*"]\n'
        '[network]\naccess = "host"\n',
    )
    error = refused(place, "restrict-dangerous", "documents", bundle_id=RECORD)
    assert error.hint == "see line 6 of sugar.toml"
    # Without the network it is no danger.
    place.take("network", "documents", bundle_id=RECORD)
    assert place.standing(RECORD).now.network == "none"


def test_a_mistake_anywhere_stops_it_and_is_named(place: Place) -> None:
    path = place.write("else.toml", "version = 1\n[match]\nbundle-id = 3\n")
    with pytest.raises(PolicyError) as caught:
        place.take("documents")
    assert str(path) in caught.value.message
    assert [*place.files()] == ["else.toml"]


def test_two_policies_that_claim_one_bundle_stop_it_for_others_too(
    place: Place,
) -> None:
    mine = BY_HAND.replace(LOG, "org.laptop.Chat").replace('"log"', '"chat"')
    place.write("mine.toml", mine)
    with pytest.raises(PolicyError) as caught:
        place.take("documents")
    assert caught.value.code == "policy-match-ambiguous"
    files = {mistake.file for mistake in caught.value.mistakes}
    assert files == {str(place.etc / "mine.toml"), str(SHIPPED / "chat.toml")}
    assert [*place.files()] == ["mine.toml"]


@pytest.mark.parametrize(
    "more",
    [
        "[limits]\nprocesses = 4096\n",
        '[network]\naccess = "loopback"\n',
        "[limits]\nprocesses = 1\n",
    ],
)
def test_a_file_that_says_anything_else_is_not_written(
    place: Place, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    text = restrict.text
    monkeypatch.setattr(restrict, "text", lambda *words: f"{text(*words)}\n{more}")
    refused(place, "restrict-not-lower", "documents")


def test_two_bundles_of_one_policy_are_not_taken_for_one(own: Place) -> None:
    both = '["org.laptop.Log", "org.laptop.Other"]'
    shipped = Path(own.store.vendor_dir) / "log.toml"
    shipped.write_text(shipped.read_text().replace('["org.laptop.Log"]', both))
    error = refused(own, "restrict-shared", "documents")
    assert "org.laptop.Other" in error.message


@pytest.mark.parametrize("where", ["etc", "vendor"])
def test_what_others_extend_is_not_taken_from_them_too(own: Place, where: str) -> None:
    place = own.etc if where == "etc" else Path(own.store.vendor_dir)
    own.write("first.toml", 'version = 1\nextends = "log"\n')
    if where == "vendor":
        (own.etc / "first.toml").rename(place / "first.toml")
    (place / "second.toml").write_text('version = 1\nextends = "first"\n')
    error = refused(own, "restrict-shared", "documents")
    assert "first, second" in error.message
    assert own.standing().held == ("documents", "files")
    for name in ("first.toml", "second.toml"):
        (place / name).unlink()
    own.take("documents")


def test_what_others_cannot_do_without_is_not_taken_away(place: Place) -> None:
    place.take("documents", bundle_id=RECORD)
    name = f"{RECORD}.restricted"
    path = place.write("mine.toml", f'version = 1\nextends = "{name}"\n')
    for powers in ((), ("documents", "programs")):
        error = refused(place, "restrict-shared", *powers, bundle_id=RECORD)
        assert "mine" in error.message
    path.unlink()
    assert place.take(bundle_id=RECORD) == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("network",), "restrict-not-held"),
        (("documents", "everything"), "restrict-no-power"),
        (("../files",), "restrict-no-power"),
        (('documents"\n[network]\naccess = "host',), "restrict-no-power"),
        (("-x",), "restrict-no-power"),
    ],
)
def test_only_what_it_has_can_be_taken(
    place: Place, words: tuple[str, ...], code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        place.take(*words)
    assert caught.value.code == code
    assert place.files() == {}


def test_an_id_of_any_form_is_quoted_or_refused(place: Place) -> None:
    long = "org.laptop." + "x" * 60
    refused(place, "restrict-name-too-long", "documents", bundle_id=long)
