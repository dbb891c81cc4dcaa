# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher restrict` loses nothing that others write at the same moment."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from isolauncher import kernel
from isolauncher.errors import HostError, NotAllowed, PolicyError
from isolauncher.policy import keep

from .conftest import BY_HAND, CALCULATE, RECORD, Place, refused


def meanwhile(do: Callable[[], object]) -> Callable[..., None]:
    """The kernel's rename, behind somebody who was quicker once."""
    once = [do]

    def rename(*arguments: object, **how: object) -> None:
        while once:
            once.pop()()
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    return rename


def test_a_file_that_an_administrator_writes_meanwhile_is_not_lost(
    place: Place,
) -> None:
    def write() -> None:
        place.write("log.toml", BY_HAND)

    for powers in (("documents",), ("documents", "files"), ()):
        shutil.rmtree(place.etc, ignore_errors=True)
        if powers != ("documents",):
            place.take("files")
        with pytest.raises(NotAllowed) as caught:
            place.take(*powers, rename=meanwhile(write))
        assert caught.value.code == "restrict-changed"
        assert place.files() == {"log.toml": BY_HAND.encode()}


def test_what_came_there_since_it_was_looked_at_is_not_touched(place: Place) -> None:
    log, record = place.standing(), place.standing(RECORD)
    place.write("log.toml", BY_HAND)
    place.take("documents", bundle_id=CALCULATE)
    # One of ours, but another bundle's.
    name = f"{RECORD}.restricted.toml"
    (place.etc / "calculate.toml").rename(place.etc / name)
    before = place.files()
    for standing in (log, record):
        with pytest.raises((NotAllowed, PolicyError)):
            keep.put(place.store, standing, ("documents",))
        assert place.files() == before
    (place.etc / "log.toml").unlink()
    place.write("calculate.toml", "version = 1\n")
    before = place.files()
    with pytest.raises(NotAllowed) as caught:
        keep.put(place.store, record, ("documents",))
    assert caught.value.code == "restrict-by-hand"
    assert place.files() == before


def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    place: Place, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")

    def link() -> None:
        (place.etc / "log.toml").unlink()
        (place.etc / "log.toml").symlink_to(elsewhere)

    place.take("files")
    with pytest.raises(NotAllowed) as caught:
        place.take("documents", rename=meanwhile(link))
    assert caught.value.code == "restrict-changed"
    assert (place.etc / "log.toml").is_symlink()
    assert elsewhere.read_text() == "mine\n"
    assert os.listdir(place.etc) == ["log.toml"]


def test_two_at_once_leave_one_of_the_two(place: Place) -> None:
    place.take("files")

    def other() -> None:
        place.take("documents", "files")

    with pytest.raises(NotAllowed) as caught:
        place.take("documents", rename=meanwhile(other))
    assert caught.value.code == "restrict-changed"
    assert place.standing().taken == ("documents", "files")
    assert [*place.files()] == ["log.toml"]


def test_two_that_are_written_meanwhile_are_both_there_afterwards(place: Place) -> None:
    later = BY_HAND + "[limits]\nprocesses = 16\n"
    place.take("files")
    texts = [BY_HAND, later]

    def rename(*arguments: object, **how: object) -> None:
        if texts:
            place.write("new", texts.pop(0)).rename(place.etc / "log.toml")
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    with pytest.raises(HostError) as caught:
        place.take("documents", rename=rename)
    files = place.files()
    assert files.pop("log.toml") == later.encode()
    ((kept, text),) = files.items()
    assert text == BY_HAND.encode()
    assert kept in caught.value.message


@pytest.mark.parametrize("powers", [("documents",), ()])
def test_an_interruption_loses_nothing(place: Place, powers: tuple[str, ...]) -> None:
    def rename(*arguments: object, **how: object) -> None:
        if not done:
            place.write("new", BY_HAND).rename(place.etc / "log.toml")
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]
        done.append(arguments)
        signal.raise_signal(signal.SIGINT)

    done: list[object] = []
    place.take("files")
    with pytest.raises(KeyboardInterrupt):
        place.take(*powers, rename=rename)
    assert place.files() == {"log.toml": BY_HAND.encode()}


def test_where_files_cannot_be_exchanged_nothing_is_written(place: Place) -> None:
    def rename(*arguments: object, **how: object) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    refused(place, "restrict-no-exchange", "documents", rename=rename)
    place.take("files")
    refused(place, "restrict-no-exchange", "documents", rename=rename)
    refused(place, "restrict-no-exchange", rename=rename)


def test_what_cannot_be_put_back_is_kept_and_named(place: Place) -> None:
    place.take("files")
    calls: list[object] = []

    def rename(*arguments: object, **how: object) -> None:
        if calls:
            raise OSError(errno.EIO, "the disk is gone")
        calls.append(arguments)
        place.write("log.toml", BY_HAND)
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    with pytest.raises(HostError) as caught:
        place.take("documents", rename=rename)
    files = place.files()
    (kept,) = (name for name in files if name.startswith(".restrict-"))
    assert files[kept] == BY_HAND.encode()
    assert kept in caught.value.message


def test_nothing_is_left_where_the_file_system_is_full(place: Place) -> None:
    import resource
    import signal

    place.take("files")
    before = place.files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The rehearsal writes too: it is the first that a limit of the caller's stops.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(HostError) as caught:
            place.take("documents")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "restrict-not-tried"
    assert place.files() == before
