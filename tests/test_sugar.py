# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own activities, unmodified, in their sandboxes on a real display and bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemons import service
from support.desktop import desktop, missing
from support.powers import need, sandboxes
from support.sugar import Session, session

FOUR = (
    "org.laptop.Calculate",
    "org.laptop.Log",
    "org.laptop.Terminal",
    "org.laptop.Memorize",
)


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes())
    need(missing())
    with desktop() as made, service() as daemon:
        (made.home / ".sugar/default/logs").mkdir(parents=True)
        made.run("true")
        for path in (".sugar", ".sugar/default", ".sugar/default/logs"):
            import os

            os.chown(made.home / path, made.uid, made.uid)
        yield session(made, daemon)


def test_all_four_open_their_window_as_four_uids_of_nobody(sugar: Session) -> None:
    with ExitStack() as stack:
        rows = []
        for number, bundle in enumerate(FOUR):
            launched = stack.enter_context(sugar.launch(bundle, f"four{number}"))
            assert launched.window is not None
            assert launched.window.sugar_bundle == bundle
            rows.append(launched.row)
        uids = {row["uid"] for row in rows}
        assert len(uids) == 4
        assert uids.isdisjoint({0, sugar.uid})
        for row in rows:
            status = Path(f"/proc/{row['pid']}/status").read_text()
            assert f"Uid:\t{row['uid']}" in status
            assert "NoNewPrivs:\t1" in status
            assert row["tier"] == "fork"


def test_a_calculation_is_in_the_journal_and_there_when_it_is_resumed(
    sugar: Session,
) -> None:
    with sugar.launch("org.laptop.Calculate", "calc1") as launched:
        launched.focus()
        sugar.xdotool("type", "--delay", "30", "6*7")
        sugar.xdotool("key", "Return")
        assert launched.press_stop() == 0
    (entry,) = [o for o in sugar.objects() if o["activity_id"] == "calc1"]
    data = Path(sugar.journal("get_filename", f'"{entry["uid"]}"')).read_text()
    assert "6*7;42" in data
    with sugar.launch("org.laptop.Calculate", "calc2", "-o", entry["uid"]) as launched:
        assert launched.press_stop() == 0
    again = Path(sugar.journal("get_filename", f'"{entry["uid"]}"')).read_text()
    assert "6*7;42" in again
