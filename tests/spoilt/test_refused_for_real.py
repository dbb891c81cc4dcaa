# SPDX-License-Identifier: GPL-3.0-or-later
"""What the real kernel refuses: plans that cannot be done, and a machine in the way.

The daemon's plan is bent until the kernel says no at one step; the rest is the
product's own. As with a kernel that is made to refuse: nothing runs, the line names
the step and why, nothing is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.powers import need
from support.spoiling import Trace, nothing_left

from isolauncher.spoilt.plans import BENDS
from spoilt.conftest import Full


@pytest.mark.parametrize("name", BENDS)
def test_what_cannot_be_done_ends_the_launch(full: Full, name: str) -> None:
    bend = BENDS[name]
    before = Trace.now(full.of)
    full.of.record()
    full.of.board.bent = name
    try:
        run = full.launch()
        said = run.end()
    finally:
        full.of.board.bent = ""
    assert run.printed() == b""
    run.close()
    assert not full.ran()
    assert said is not None
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    assert said["step"] == bend.named(), said["message"]
    words = [bend.words] if bend.words else [os.strerror(n) for n in bend.errnos]
    assert any(w in str(said["message"]) for w in words), said["message"]
    nothing_left(full.of, before, name)


def refused(full: Full, policy: str = "every", **keywords: object) -> dict[str, object]:
    """Launch, see that nothing runs, and return the daemon's words."""
    full.of.record()
    run = full.launch(policy, **keywords)
    said = run.end()
    assert run.printed() == b""
    run.close()
    assert not full.ran()
    assert said is not None, full.of.service.log[-2000:]
    assert (said["event"], said["exit_status"]) == ("refused", 125), said
    return said


def test_a_cgroup_that_is_there_already_is_not_taken_over(full: Full) -> None:
    before = Trace.now(full.of)
    need(None if full.of.places else "the daemon has no cgroup")
    first = full.of.places[0] / "taken"
    first.mkdir()
    try:
        said = refused(full, activity_id="taken")
        assert said["step"] == "join-cgroup", said
        assert "File exists" in str(said["message"])
    finally:
        if first.exists():
            first.rmdir()
    nothing_left(full.of, before)


def test_without_a_place_for_its_cgroup_nothing_is_launched(full: Full) -> None:
    before = Trace.now(full.of)
    need(None if full.of.places else "the daemon has no cgroup")
    place = full.of.places[0]
    place.rmdir()
    try:
        said = refused(full)
        assert said["step"] == "join-cgroup", said
    finally:
        place.mkdir()
    nothing_left(full.of, before)


@contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_without_a_place_for_records_nothing_is_launched(full: Full) -> None:
    before = Trace.now(full.of)
    with away(full.of.service.run_dir / "activities"):
        said = refused(full)
    assert "activities" in str(said["message"]), said
    nothing_left(full.of, before)


def test_one_process_is_enough_whoever_owns_the_program(full: Full) -> None:
    """The helper that lends a mount its user namespace is not one of the program's."""
    for name in ("every", "same"):
        full.of.service.policy(
            f"one-{name}",
            f'version = 1\nextends = "{name}"\n[match]\ncallers = ["*"]\n'
            "[limits]\nprocesses = 1\n",
        )
        full.of.record()
        run = full.launch(f"one-{name}")
        said = run.end()
        run.close()
        assert said is not None
        assert said.get("status") == 0, said
        assert full.ran()
