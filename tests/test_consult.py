# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle that was looked at before: what is done while it is looked at again."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from isolauncher import consult, foreign
from isolauncher.bundle import Found
from isolauncher.errors import BundleError, ProgramNotFound
from isolauncher.paths import vendor_policies
from isolauncher.policy.load import PolicyStore
from isolauncher.request import BUNDLE_DESCRIPTORS, Caller, Launch

CALLER = Caller(pid=0, uid=1000, gid=1000, groups=())


class Looking:
    """An opener that finds what it is told to find, and notes what it was asked."""

    def __init__(self, found: Found | BundleError) -> None:
        self.found = found
        self.said: list[str] = []

    async def ask_bundle(self, directory: int) -> None:
        self.said.append("look")

    async def found_bundle(self) -> Found:
        self.said.append("found")
        if isinstance(self.found, BundleError):
            raise self.found
        return self.found

    def ask_program(self, directory: int, word: str, search: str) -> None:
        self.said.append(word)

    async def found_program(self) -> tuple[bool, Literal["python", "executable"]]:
        self.said.append("answer")
        raise ProgramNotFound("it is not asked for any more", code="program-not-found")


def found(path: Path, bundle_id: str, command: str) -> Found:
    info = (
        f"[Activity]\nname = One\nbundle_id = {bundle_id}\nicon = i\n"
        f"exec = {command} one.One\nactivity_version = 1\n"
    )
    return Found(
        path=str(path),
        installed_by="user",
        why="",
        info=info.encode(),
        permissions=None,
    )


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    return SimpleNamespace(
        bundles=consult.Bundles(),
        store=PolicyStore(vendor_policies(), str(tmp_path / "none"), protected=()),
        config=SimpleNamespace(uids=SimpleNamespace(first=70000)),
    )


def looked(daemon: Any, directory: Path, one: Looking) -> consult.Consulted:
    asked = Launch(
        id="a1",
        object_id=None,
        uri=None,
        invited=False,
        environment={"HOME": "/home/alice"},
        umask=0o22,
        descriptors=BUNDLE_DESCRIPTORS,
    )
    fd = os.open(directory, os.O_PATH)
    try:
        looking = consult.look(daemon, asked, {"bundle": fd}, CALLER, one)  # type: ignore[arg-type]
        return asyncio.run(looking)
    finally:
        os.close(fd)


def test_what_was_found_before_is_gone_on_with_while_the_opener_looks(
    daemon: Any, tmp_path: Path
) -> None:
    same = found(tmp_path, "org.example.One", "sugar-activity3")
    first, second = Looking(same), Looking(replace(same))
    one, again = (looked(daemon, tmp_path, looking) for looking in (first, second))
    assert first.said == ["look", "found", "sugar-activity3"]
    assert second.said == ["look", "sugar-activity3", "found"]
    assert one == again


def test_what_is_found_now_counts(daemon: Any, tmp_path: Path) -> None:
    looked(daemon, tmp_path, Looking(found(tmp_path, "org.example.One", "one")))
    other = Looking(found(tmp_path, "org.example.Two", "two"))
    consulted = looked(daemon, tmp_path, other)
    assert (consulted.bundle.bundle_id, consulted.words[0]) == (
        "org.example.Two",
        "two",
    )
    # Its answer to the first question is nobody's.
    assert other.said == ["look", "one", "found", "answer", "two"]
    third = Looking(other.found)
    looked(daemon, tmp_path, third)
    assert third.said == ["look", "two", "found"]


def test_one_that_cannot_be_looked_at_any_more_is_refused(
    daemon: Any, tmp_path: Path
) -> None:
    looked(daemon, tmp_path, Looking(found(tmp_path, "org.example.One", "one")))
    with pytest.raises(BundleError):
        looked(daemon, tmp_path, Looking(BundleError("gone", code="bundle-deleted")))


def test_a_bundle_that_was_spoilt_is_refused_and_may_be_mended(
    daemon: Any, tmp_path: Path
) -> None:
    good = found(tmp_path, "org.example.One", "one")
    for bad in (good, replace(good, info=b"nothing"), good):
        one = Looking(bad)
        if bad is good:
            assert looked(daemon, tmp_path, one).words[0] == "one"
        else:
            with pytest.raises(BundleError):
                looked(daemon, tmp_path, one)


def test_nothing_is_known_of_where_it_cannot_be_asked(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "answers_at_once", lambda fd: False)
    for _ in range(2):
        one = Looking(found(tmp_path, "org.example.One", "one"))
        looked(daemon, tmp_path, one)
        assert one.said == ["look", "found", "one"]


def test_only_so_many_are_known() -> None:
    known = consult.Bundles()
    one = found(Path("/"), "org.example.One", "one")
    for number in range(consult.Bundles.MOST + 1):
        known.keep((1000, 1, number), one)
    assert known.find((1000, 1, 0)) is None
    assert known.find((1000, 1, 1)) == one
    assert known.find((1001, 1, 1)) is None
