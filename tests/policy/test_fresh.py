# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy edit takes effect at the next launch, and an unedited one costs nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from isolauncher.errors import PolicyError
from isolauncher.policy import check, trust

from .conftest import Shelf

TEXT = "version = 1\n[limits]\nnice = %d\n"


def old(path: Path) -> None:
    """As if last changed long ago: its times can be relied on."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_an_unchanged_policy_is_the_same_object(shelf: Shelf) -> None:
    shelf.put("mine", TEXT % 3)
    assert shelf.store.get("mine") is shelf.store.get("mine")
    assert shelf.store.get("untrusted") is shelf.store.get("untrusted")


def test_an_unchanged_policy_is_not_parsed_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("mine", TEXT % 3)
    policy = shelf.store.get("mine")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(check, "check", refuse)
    assert shelf.store.get("mine") is policy


def test_an_edit_takes_effect_at_once(shelf: Shelf) -> None:
    for nice in range(20):
        path = shelf.put("mine", TEXT % nice)
        assert shelf.store.get("mine").limits.nice == nice
        old(path)
        assert shelf.store.get("mine").limits.nice == nice


def test_an_edit_in_place_of_the_same_size_and_time_takes_effect(shelf: Shelf) -> None:
    path = shelf.put("mine", TEXT % 3)
    old(path)
    for nice in (4, 5, 6, 7):
        assert shelf.store.get("mine").limits.nice == nice - 1
        with open(path, "r+") as opened:
            opened.write(TEXT % nice)
        old(path)  # the time of change is set back; the inode's own time is not
        assert shelf.store.get("mine").limits.nice == nice


def test_an_edit_within_the_same_tick_takes_effect(shelf: Shelf) -> None:
    path = shelf.put("mine", TEXT % 0)
    for nice in range(1, 10):
        shelf.store.get("mine")
        with open(path, "r+") as opened:
            opened.write(TEXT % nice)
        assert shelf.store.get("mine").limits.nice == nice


def test_times_seen_right_after_a_change_prove_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coarse clock can give two changes the same times: read again until it ticks."""
    path = shelf.put("mine", TEXT % 3)
    owners = shelf.store.owners
    directory = trust.open_directory(str(shelf.etc), owners)
    try:
        _, stamp = trust.read_file(directory, path.name, owners)
        assert stamp.racy
        assert not stamp.still_holds()
        monkeypatch.setattr(trust, "TICK_NS", -(10**18))
        _, stamp = trust.read_file(directory, path.name, owners)
        assert stamp.still_holds()
    finally:
        directory.close()


def test_an_edit_of_what_it_stands_on_takes_effect(shelf: Shelf) -> None:
    shelf.put("base", TEXT % 3)
    shelf.put("mine", 'version = 1\nextends = "base"\n')
    assert shelf.store.get("mine").limits.nice == 3
    shelf.put("base", TEXT % 4)
    assert shelf.store.get("mine").limits.nice == 4


def test_a_new_file_in_etc_takes_effect_and_its_end_too(shelf: Shelf) -> None:
    assert shelf.store.get("untrusted").limits.nice == 5
    path = shelf.put("untrusted", TEXT % 9)
    assert shelf.store.get("untrusted").limits.nice == 9
    path.unlink()
    assert shelf.store.get("untrusted").limits.nice == 5


def test_a_new_etc_directory_takes_effect(shelf: Shelf) -> None:
    shelf.etc.rmdir()
    assert shelf.store.get("untrusted").limits.nice == 5
    shelf.etc.mkdir()
    shelf.put("untrusted", TEXT % 9)
    assert shelf.store.get("untrusted").limits.nice == 9


def test_a_missing_directory_is_not_sought_again_and_the_way_to_it_is_looked_at(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.etc.rmdir()
    shelf.store.get("untrusted")
    walk = trust.open_directory
    walked: list[str] = []

    def counted(path: str, owners: frozenset[int]) -> trust.Directory:
        walked.append(path)
        return walk(path, owners)

    monkeypatch.setattr(trust, "open_directory", counted)
    shelf.store.get("untrusted")
    assert walked == []
    shelf.etc.parent.chmod(0o777)
    assert shelf.codes("untrusted") == ["policy-not-trusted"]
    shelf.etc.parent.chmod(0o755)
    assert shelf.store.get("untrusted").limits.nice == 5
    # Nothing but a link that leads nowhere, and then somewhere.
    there = shelf.etc.with_name("there")
    shelf.etc.symlink_to(there)
    assert shelf.store.get("untrusted").limits.nice == 5
    there.mkdir()
    shelf.put("untrusted", TEXT % 9)
    assert shelf.store.get("untrusted").limits.nice == 9


def test_a_replaced_directory_takes_effect(shelf: Shelf) -> None:
    shelf.put("mine", TEXT % 3)
    assert shelf.store.get("mine").limits.nice == 3
    shelf.etc.rename(shelf.etc.with_name("away"))
    shelf.etc.mkdir()
    shelf.put("mine", TEXT % 4)
    assert shelf.store.get("mine").limits.nice == 4


def test_a_removed_policy_is_gone(shelf: Shelf) -> None:
    path = shelf.put("mine", TEXT % 3)
    shelf.store.get("mine")
    path.unlink()
    assert shelf.codes("mine") == ["policy-unknown"]


def test_a_broken_edit_is_an_error_and_a_repaired_one_a_policy(shelf: Shelf) -> None:
    shelf.put("mine", TEXT % 3)
    shelf.store.get("mine")
    shelf.put("mine", TEXT % 99)
    for _ in range(2):
        with pytest.raises(PolicyError):
            shelf.store.get("mine")
    shelf.put("mine", TEXT % 4)
    assert shelf.store.get("mine").limits.nice == 4


def test_asking_again_is_cheap(shelf: Shelf) -> None:
    """A launch asks each time; a second each for a thousand would be too slow."""
    for path in shelf.vendor.iterdir():
        old(path)
    shelf.store.get("untrusted")
    started = time.monotonic()
    for _ in range(1000):
        shelf.store.get("untrusted")
    assert time.monotonic() - started < 2
