# SPDX-License-Identifier: GPL-3.0-or-later
"""Thousands of launches in a row, every seventh of them killed: nothing grows.

ISOLAUNCHER_LAUNCHES says how many. What may be left by the way (a cache that fills) is
there after the first fifth; whatever grows after that grows for ever.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest
from support.daemons import Leftovers, Service, service
from support.peers import until, zygotes
from support.powers import need, sandboxes
from support.spoiling import ALICE, Run, kill, launch

LAUNCHES = int(os.environ.get("ISOLAUNCHER_LAUNCHES", "10000"))

ENDS = "print('ran')\n"
WAITS = "print('runs', flush=True)\ninput()\n"

SLACK = {
    # What the allocators give and take: an arena of the interpreter's is 1 MiB.
    "anonymous_kb": 2048,
    "zygotes_kb": 2048,
    # A room's opener ends in its own time.
    "descriptors": 4,
    # One that closes what a caller sent.
    "threads": 1,
    "children": 2,
    # Some digits more of a pid or of the time of day.
    "state_bytes": 64,
}


@dataclass(frozen=True)
class Size:
    """Everything about a daemon that a launch could make larger."""

    rooms: int
    descriptors: int
    threads: int
    anonymous_kb: int
    zygotes_kb: int
    zygotes_descriptors: int
    children: int
    state_bytes: int
    state_files: int
    run_files: int
    mounts: int

    @classmethod
    def now(cls, where: Service) -> Size:
        assert where.process is not None
        pid = where.process.pid
        children = list(zygotes(where).values())
        state = [path for path in where.state_dir.rglob("*") if path.is_file()]
        return cls(
            rooms=_ready(where),
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
            anonymous_kb=_anonymous(pid),
            zygotes_kb=sum(map(_anonymous, children)),
            zygotes_descriptors=sum(len(os.listdir(f"/proc/{c}/fd")) for c in children),
            children=len(_children(pid)),
            state_bytes=sum(path.stat().st_size for path in state),
            state_files=len(state),
            run_files=len(list(where.run_dir.rglob("*"))),
            mounts=len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        )


def _children(pid: int) -> list[int]:
    """Its zygotes, openers, and whatever it has not reaped."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        # One that closes what a caller sent may end in between; it has no children.
        with suppress(FileNotFoundError):
            words = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            found += map(int, words)
    return found


def _anonymous(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def _ready(where: Service) -> int:
    rooms = where.at_rest()["rooms"]
    assert isinstance(rooms, dict)
    return int(rooms["ready"])


def nothing_but_rooms(where: Service, before: Leftovers) -> list[str]:
    """What there is that no room accounts for; each has an init and a stem."""
    ready = _ready(where)
    now = Leftovers.now(where)
    assert where.groups is not None
    counts = {
        "processes": ready * 2,
        "cgroups": ready * len(where.groups),
        "records": ready,
        "leases": ready,
    }
    odd = [
        f"{name}: {found}, not {count}"
        for name, count in counts.items()
        if len(found := getattr(now, name)) != count
    ]
    return odd + [f"mounts: {now.mounts ^ before.mounts}"] * (
        now.mounts != before.mounts
    )


def ended(run: Run) -> dict[str, object]:
    said = run.end()
    run.close()
    assert said is not None
    return said


def plain(where: Service, tier: str) -> None:
    run = launch(where, f"{where.top}/programs/ends.py", uid=ALICE, tier=tier)
    said = run.end()
    assert run.printed() == b"ran\n"
    run.close()
    assert said is not None
    assert said.get("status") == 0, said


def waiting(where: Service) -> tuple[Run, int, str]:
    """A program that runs until it is told; its pid and id."""
    program = f"{where.top}/programs/waits.py"
    run = launch(where, program, uid=ALICE, stdin=True)
    name = run.started()
    assert run.first_line() == b"runs\n"
    return run, int(str(run.words[-1]["pid"])), name


def kill_the_program(where: Service) -> None:
    run, pid, _ = waiting(where)
    kill(pid)
    assert ended(run)["signal"] == signal.SIGKILL


def kill_its_init(where: Service) -> None:
    run, pid, _ = waiting(where)
    kill(_parent(pid))
    assert ended(run)["signal"] == signal.SIGKILL


def stop_it(where: Service) -> None:
    run, _, name = waiting(where)
    asked = {"version": 1, "verb": "stop", "ids": [name], "grace_ms": 5000}
    assert where.ask(asked)["event"] == "stopped"
    assert ended(run)["signal"] == signal.SIGTERM


def go_away(where: Service) -> None:
    run, _, _ = waiting(where)
    run.close()


def go_away_at_once(where: Service) -> None:
    launch(where, f"{where.top}/programs/waits.py", uid=ALICE, stdin=True).close()


def kill_the_zygote(where: Service) -> None:
    kill(zygotes(where)["python"])
    plain(where, "fork")


def be_refused(where: Service) -> None:
    said = ended(launch(where, "no-such-program", uid=ALICE))
    assert said["exit_status"] == 127, said["message"]


KILLS = (
    kill_the_program,
    kill_its_init,
    stop_it,
    go_away,
    go_away_at_once,
    be_refused,
)


def some(where: Service, count: int, kills: Iterator[object]) -> None:
    for number in range(count):
        if number % 250 == 249:
            kill_the_zygote(where)
        elif number % 7 == 6:
            next(kills)(where)  # type: ignore[operator]
        else:
            plain(where, "exec" if number % 10 == 9 else "fork")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ahead", [0, 4])
def test_attack_60_thousands_of_launches_in_a_row_leave_nothing_that_grows(
    ahead: int,
) -> None:
    need(sandboxes())
    with service(config=f"version = 1\n[rooms]\nahead = {ahead}\n") as made:
        made.script("ends.py", ENDS)
        made.script("waits.py", WAITS)
        kills = itertools.cycle(KILLS)
        plain(made, "fork")
        before = Leftovers.now(made)
        sizes = []
        for part in range(10):
            some(made, LAUNCHES // 10, kills)
            for tier in ("fork", "exec") * 3:
                # So that the same rooms are there at each look.
                plain(made, tier)
                made.at_rest()
            assert until(
                lambda: not nothing_but_rooms(made, before)
            ), nothing_but_rooms(made, before)
            sizes.append(Size.now(made))
            print(f"{(part + 1) * (LAUNCHES // 10)} launches: {asdict(sizes[-1])}")
        first, last = sizes[1], sizes[-1]
        for field in fields(Size):
            was, is_ = getattr(first, field.name), getattr(last, field.name)
            most = was + SLACK.get(field.name, 0)
            assert is_ <= most, f"{field.name}: {was} became {is_}"
