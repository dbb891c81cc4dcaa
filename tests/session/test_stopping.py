# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop, the shell's end, and what has no icon: whose a window is, whatever it says.

With a shell that is played; tests/shell has a real one, and programs that lie.
"""

from __future__ import annotations

import pytest
from support.adapting import (
    NO_REPLY,
    NOT_YET,
    PERSON,
    UNKNOWN,
    Made,
    Open,
    Process,
    Screen,
    objects,
)

from isolauncher.session import icons, shellbus

RUNNING = objects(a1=(71, 70001), a2=(72, 70002), b1=(73, 70003), b2=(74, 70003))
"""b1 and b2 share a uid."""

LOST = 99
"""A process that has ended."""


@pytest.fixture
def seen(made: Made) -> Screen:
    """Each runs below an init of its own, 70 less; so do those that are 100 more."""
    for values in (one for path in RUNNING.values() for one in path.values()):
        pid, uid = values["Pid"], values["Uid"]
        for number in (pid, pid + 100, pid + 200):
            made.screen.processes[number] = Process(uid, sandbox=pid - 70)
    made.screen.processes[50] = Process(PERSON, sandbox=1)
    made.screen.processes[60] = Process(70009, sandbox=9)  # of nothing that runs
    made.running.update(RUNNING)
    return made.screen


def ended(made: Made) -> set[str]:
    """What is ended of what runs, whatever time that takes; it does not run then."""
    found = set()
    for _ in range(6):
        made.answer(made.running)
        for call in made.bus.take("Stop"):
            id = call.path.rpartition("/")[2]
            del made.running[f"/x/{id}"]
            found.add(id)
        made.later()
    return found


def stop(made: Made, icon: Open | None) -> list[int]:
    """By a child; whether Sugar does it."""
    assert icon is not None
    others: list[int] = []
    made.adapter.stopping.stop(icon, lambda: others.append(1))
    assert icon.stopped + len(others) == 1
    return others


# -------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("pid", "says", "wanted"),
    [
        (71, "a1", {"a1"}),
        (171, "a1", {"a1"}),  # a child of its
        (71, "a2", {"a1"}),  # another's id
        (71, "nobody", {"a1"}),
        (71, None, {"a1"}),
        (60, "a1", set()),  # of a uid that nothing runs as
        (73, "b1", {"b1"}),  # of those that share a uid
        (74, "b1", {"b2"}),
        (73, "b2", {"b1"}),
    ],
)
def test_stop_ends_what_a_window_belongs_to_and_not_what_it_says(
    made: Made, seen: Screen, pid: int, says: str | None, wanted: set[str]
) -> None:
    icon = seen.open(1, pid, says, says_pid=50)
    assert stop(made, icon) == []
    assert ended(made) == wanted


@pytest.mark.parametrize("says", ["a1", None])
def test_stop_is_sugar_s_own_for_what_the_person_runs(
    made: Made, seen: Screen, says: str | None
) -> None:
    seen.open(2, 71, "a1")
    icon = seen.open(1, 50, says, says_pid=50)
    if says == "a1":
        assert icon is not None
        icon.windows.reverse()
        icon.pid = 50
    assert stop(made, icon) == [1]
    assert made.bus.all("GetManagedObjects") == []


@pytest.mark.parametrize("why", ["another pid", "ended", "reused", "the shell"])
def test_sugar_s_own_signals_nobody_but_the_window_s_process(
    made: Made, seen: Screen, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    icon = seen.open(1, 50, "a1", says_pid=51 if why == "another pid" else 50)
    if why == "ended":
        seen.processes[50].began = 0
    elif why == "reused":
        seen.processes[50].began = 2
    elif why == "the shell":
        monkeypatch.setattr(icons.os, "getpid", lambda: 50)
    assert stop(made, icon) == []
    assert made.bus.methods() == []
    assert ended(made) == set()


def test_a_pid_that_was_given_again_does_not_have_another_ended(
    made: Made, seen: Screen
) -> None:
    """The window is held by a child of 171, which has ended."""
    icon = seen.open(1, 171, "a1")
    seen.processes[171] = Process(70002, sandbox=2, began=2)
    stop(made, icon)
    assert ended(made) == {"a1"}


def test_who_ends_while_it_is_looked_at_is_not_known(
    made: Made, seen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((1, 2))
    monkeypatch.setattr(icons.records, "start_time", lambda pid: next(times))
    seen.open(1, 71, "a2")
    assert made.adapter.icons.owners == {1: None}


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        ("a1", set()),  # which has an icon
        ("a2", set()),  # which pulses
        ("b1", {"b1"}),
        ("nobody", set()),
        (None, set()),
    ],
)
def test_what_nobody_knows_is_believed_only_if_that_has_no_icon(
    made: Made, seen: Screen, says: str | None, wanted: set[str]
) -> None:
    made.shell.launch("a2")
    seen.open(1, 71, "a1")
    pulsing = dict(made.shell.launchers)
    icon = seen.open(2, LOST, says)
    made.shell.launchers = pulsing
    if says == "a2":
        assert icon is not None
        icon.status = Open.LAUNCHING
    if says == "a1":
        icon = Open("a1", [2])
    stop(made, icon)
    assert ended(made) == wanted


def test_a_liar_under_another_s_icon_goes_with_it_and_keeps_it_from_nothing(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 72, "a1")
    icon = seen.open(2, 71, "a1")
    stop(made, icon)
    assert ended(made) == {"a1", "a2"}


def test_a_window_that_is_closed_before_it_is_looked_at_harms_nobody(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 71, "a1")
    seen.open(2, 0, "nobody")
    seen.close(2)
    assert set(made.adapter.icons.owners) == {1}
    assert ended(made) == set()


@pytest.mark.parametrize(("lost", "wanted"), [(1, {"a1"}), (2, set())])
def test_a_connection_that_was_cut_is_made_again(
    made: Made, seen: Screen, lost: int, wanted: set[str]
) -> None:
    seen.lost = lost
    stop(made, seen.open(1, 71, "nobody"))
    assert ended(made) == wanted
    stop(made, seen.open(2, 72, "nobody at all"))
    assert ended(made) == {"a2"}


def test_what_is_open_already_is_looked_at(made: Made, seen: Screen) -> None:
    seen.there, seen.clients = [1], {1: 71}
    made.adapter.icons.watch(seen)
    stop(made, Open("nobody", [1]))
    assert ended(made) == {"a1"}


# ------------------------------------------------------------------------ until its end


@pytest.mark.parametrize("error", [NOT_YET, NO_REPLY, UNKNOWN])
def test_a_service_that_is_not_there_at_stop_is_asked_again(
    made: Made, seen: Screen, error: Exception
) -> None:
    stop(made, seen.open(1, 71, "a1"))
    for _ in range(3):
        (asked,) = made.bus.take("GetManagedObjects")
        asked.fail(error)
        made.later()
    assert ended(made) == {"a1"}


def test_stop_is_said_until_it_has_ended(made: Made) -> None:
    """To a service that ends meanwhile, and to the next, which knows nothing yet."""
    running = objects(a1=(71, 70001))
    made.adapter.bus.end("a1", 71)
    made.adapter.bus.end("a1", 71)
    for error in (None, NO_REPLY, UNKNOWN, None):
        (asked,) = made.bus.take("GetManagedObjects")
        if error is None:
            asked.reply(running)
            (said,) = made.bus.take("Stop")
            assert said.words == (shellbus.GRACE_MS,)
            said.fail(NO_REPLY)
        else:
            asked.fail(error)
        made.later()
    made.answer(objects(a2=(72, 70002)))
    made.later()
    assert made.bus.methods() == []
    made.adapter.bus.end("a1", 71)
    made.answer(running)
    assert made.bus.methods() == ["Stop"]


def test_who_resumes_an_entry_is_not_ended_by_the_stop_before(made: Made) -> None:
    made.adapter.bus.end("a1", 77)
    made.answer(objects(a1=(78, 70001)))
    made.later()
    assert made.bus.methods() == []


# ---------------------------------------------------------------------- without an icon


def test_what_closes_its_last_window_is_ended_some_time_after(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 71, "a1")
    seen.open(2, 72, "a2")
    seen.close(1)
    assert {after_ms for after_ms, _ in made.timers} == {icons.AFTER_MS}
    assert ended(made) == {"a1"}


@pytest.mark.parametrize("says", ["a1", "nobody", None])
def test_what_has_another_window_runs_until_that_is_closed(
    made: Made, seen: Screen, says: str | None
) -> None:
    seen.open(1, 71, "a1")
    seen.open(2, 171, says)
    seen.close(1)
    assert ended(made) == set()
    seen.close(2)
    assert ended(made) == {"a1"}


def test_of_two_that_share_a_uid_the_window_of_the_one_is_none_of_the_other_s(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 73, "b1")
    seen.open(2, 74, "b2")
    seen.close(1)
    assert ended(made) == {"b1"}


def test_a_dialog_is_no_icon_and_its_end_begins_nothing(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 71, "a1")
    seen.open(2, 71, None, dialog=True)
    seen.open(3, 71, None, dialog=True)
    seen.close(3)
    assert made.timers == []
    seen.close(1)
    assert ended(made) == {"a1"}


def test_what_says_that_its_window_is_a_dialog_when_it_closes_is_ended(
    made: Made, seen: Screen
) -> None:
    """Sugar keeps the icon then."""
    seen.open(1, 71, "a1")
    seen.open(2, LOST, "a2")
    seen.close(1, as_dialog=True)
    assert made.shell.get_activity_by_id("a1") is not None
    assert ended(made) == {"a1"}
    # Of what nobody knew: Stop is there, and ends it.
    seen.close(2, as_dialog=True)
    icon = made.shell.get_activity_by_id("a2")
    assert ended(made) == set()
    stop(made, icon)
    assert ended(made) == {"a2"}


def test_who_says_the_id_of_another_and_closes_does_not_have_it_ended(
    made: Made, seen: Screen
) -> None:
    """Of what has an icon, of what pulses, and of what nobody knows."""
    seen.open(1, 71, "nobody")
    made.shell.append(Open("a1", [9]))
    seen.open(3, LOST, "b1")
    made.shell.launch("b2")
    for id in ("a1", "b1", "b2"):
        made.shell.say("activity-removed", Open(id))
    assert ended(made) == set()


def test_what_nobody_knows_is_ended_when_its_window_is_closed(
    made: Made, seen: Screen
) -> None:
    seen.open(1, LOST, "a1")
    seen.close(1)
    assert ended(made) == {"a1"}


def test_what_opens_no_window_is_ended_when_the_shell_has_given_it_up(
    made: Made, seen: Screen
) -> None:
    one = made.shell.launch("a1")
    made.shell.fail(one)
    seen.open(1, 72, "a2")
    assert ended(made) == {"a1"}


def test_what_opens_its_window_late_runs_on(made: Made, seen: Screen) -> None:
    made.shell.fail(made.shell.launch("a1"))
    seen.open(1, 71, "a1")
    assert ended(made) == set()


def test_what_had_failed_and_pulses_again_is_left_alone(
    made: Made, seen: Screen
) -> None:
    """The shell shows the failure of the first until somebody has read it."""
    made.shell.fail(made.shell.launch("a1"))
    made.shell.launch("a1")
    assert ended(made) == set()


# ---------------------------------------------------------------------- the shell's end


def test_who_leaves_asks_what_was_launched_past_this_shell_too(
    made: Made, seen: Screen
) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.adapter.stopping.closing.add("of a time before")
    icons = (
        seen.open(1, 71, "a1"),
        seen.open(2, 73, "a lie"),
        seen.open(3, 72, None),
        seen.open(4, LOST, "b2"),
        seen.open(5, 60, "x"),
        seen.open(6, 50, None),
    )
    left: list[int] = []
    made.adapter.leave(lambda: left.append(1))
    asked = made.bus.calls.pop()
    asked.fail(NOT_YET)
    made.later()
    made.answer(RUNNING)
    assert [one and one.stopped for one in icons] == [1, 1, 1, 1, 0, 0]
    for id in ("a1", "a2", "b1", "b2"):
        made.later()
        assert left == []
        made.adapter.exited(0, 0, "", id)
    made.later()
    assert left == [1]


def test_who_leaves_waits_for_nobody_where_all_is_the_person_s(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 50, None)
    left: list[int] = []
    made.adapter.leave(lambda: left.append(1))
    assert made.bus.methods() == []
    made.later()
    assert left == [1]


def test_who_leaves_without_a_service_does_not_wait_for_it(
    made: Made, seen: Screen
) -> None:
    seen.open(1, 71, "a1")
    left: list[int] = []
    made.adapter.leave(lambda: left.append(1))
    made.bus.the("GetManagedObjects").fail(UNKNOWN)
    made.later()
    assert left == [1]
