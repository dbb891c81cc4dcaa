# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger of one's own, in a directory that goes away.

Its uids are not those of real sandboxes: a survey looks at the whole machine, where
others may be running some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolauncher.identity.leases import Lease
from isolauncher.identity.ledger import Ledger


class Place:
    """Where ledgers of one test live; `open` opens one more on the same files."""

    def __init__(self, top: Path) -> None:
        self.state = top / "state"
        self.run = top / "run"
        self.userdb = top / "userdb"
        self.identity = self.state / "identity"
        self.data = self.state / "data"
        self._opened: list[Ledger] = []

    def open(self, **options: Any) -> Ledger:
        plain = {"userdb_dir": self.userdb, "first": 170000, "last": 189999}
        options = {**plain, **options}
        ledger = Ledger(self.state, self.run, **options)
        self._opened.append(ledger)
        return ledger

    def close(self) -> None:
        for ledger in self._opened:
            ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def take() -> Callable[..., Lease]:
    def taken(ledger: Ledger, activity: str, **options: Any) -> Lease:
        if "bundle_key" in options:
            options.setdefault("mode", "bundle")
        return ledger.take(
            **{
                "mode": "instance",
                "caller_uid": 1000,
                "caller_name": "alice",
                "activity_id": activity,
                **options,
            }
        )

    return taken
