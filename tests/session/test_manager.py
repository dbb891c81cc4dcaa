# SPDX-License-Identifier: GPL-3.0-or-later
"""Two activities of one id, one after the other: the service tells them apart."""

from __future__ import annotations

from typing import Any

import pytest
from support.glib import GLib  # noqa: F401 (before anybody else imports it)

from isolauncher.client import End
from isolauncher.session import launching, service


class Activity(service.Activity):
    """On no bus: what it would say is kept."""

    def __init__(self, manager: Any, said: list[Any]) -> None:
        super().__init__(manager, "a1", "org.example.A", "sugar")
        self.said = said

    def appear(self, fields: Any) -> None:
        self.values["Pid"] = fields["pid"]
        self.said.append(("runs", fields["pid"]))

    def change(self, state: str) -> None:
        self.values["State"] = state

    def Exited(self, status: int, signal: int, reason: str) -> None:
        self.said.append((self.values["Pid"], status, reason.partition("[")[2]))

    def remove_from_connection(self, *about: Any) -> None:
        self.said.append(("gone", self.values["Pid"]))


class Manager(service.Manager):
    def __init__(self) -> None:
        self.activities = {}
        self.grants = launching.Grants()
        self.heard = True

    def InterfacesAdded(self, *about: Any) -> None:
        """Nobody listens."""

    def InterfacesRemoved(self, *about: Any) -> None:
        """Nobody listens."""


@pytest.mark.parametrize("late", [False, True])
def test_the_end_of_the_first_is_not_told_for_the_second(late: bool) -> None:
    """``late``: the first's end is heard of when the second runs."""
    manager, said = Manager(), list[Any]()
    first, second = Activity(manager, said), Activity(manager, said)
    manager._add(first, {"pid": 1})
    if not late:
        manager._remove(first, End(0))
    manager._add(second, {"pid": 2})
    if late:
        manager._remove(first, End(0))
    assert manager.activities == {"a1": second}
    manager._remove(second, End(3))
    assert manager.activities == {}
    how = (125, "exit-unknown]") if late else (0, "")
    assert said == [
        *(("runs", 1), (1, *how), ("gone", 1)),
        *(("runs", 2), (2, 3, ""), ("gone", 2)),
    ]


def test_one_that_is_heard_of_twice_is_one() -> None:
    """From who launched it, and from the daemon's list."""
    manager, said = Manager(), list[Any]()
    one, again = Activity(manager, said), Activity(manager, said)
    manager._add(one, {"pid": 1})
    manager._add(again, {"pid": 1})
    manager._remove(again, End(0))
    assert manager.activities == {"a1": one}


def test_nothing_is_begun_for_an_id_that_may_be_anothers() -> None:
    manager = Manager()
    assert manager._grants_for("a1") is manager.grants
    manager._add(Activity(manager, []), {"pid": 1})
    assert manager._grants_for("a1") is None
    assert manager._grants_for("a2") is manager.grants
    manager.heard = False
    assert manager._grants_for("a2") is None
