# SPDX-License-Identifier: GPL-3.0-or-later
"""Activities that stay are looked at, kept count of, and all gone in the end."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

import pytest
from support.powers import need, sandboxes

from isolauncher import cgroups, host
from isolauncher.bench import alive, daemons, memory, patience, scripts
from isolauncher.errors import HostError
from isolauncher.waiter import NAME


@pytest.fixture
def top(tmp_path: Path) -> Path:
    need(sandboxes())
    for directory in (tmp_path, *tmp_path.parents):
        if directory.name.startswith("pytest"):
            directory.chmod(0o755)
    return tmp_path


class Interrupted(Exception):
    pass


def test_what_runs_has_ended_before_its_daemon_is(top: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = (512, usual[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    script = scripts.write(top, scripts.LISTS["nothing"], waits=True)
    # It goes on for a while when its client has gone.
    script.write_text("import signal\n" + script.read_text() + "signal.pause()\n")
    with suppress(Interrupted), daemons.environment():
        with daemons.own(top, "own", ahead=0) as daemon:
            name = cgroups.name_for(top / "own" / "run")
            groups = [f"{p.path}/{name}" for p in host.this_host().cgroups.values()]
            with alive.crowd(daemon.socket, script) as crowd:
                crowd.grow(3)
                assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
                inits = crowd.inits()
                pids = [*crowd.pids, *inits]
                # Looked at when they have become what they stay.
                assert all(NAME in os.readlink(f"/proc/{pid}/exe") for pid in inits)
                assert all(os.path.exists(path) for path in groups)
                raise Interrupted
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert [path for path in groups if os.path.exists(path)] == []
    # And what was changed for so many is as it was.
    after = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert after == before


def test_levels_that_were_measured_stay_when_a_later_one_fails(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow = alive.Crowd.grow

    def to_one(crowd: alive.Crowd, to: int) -> None:
        if to > 1:
            raise OSError(11, "no such luck")
        grow(crowd, to)

    monkeypatch.setattr(alive.Crowd, "grow", to_one)
    found = memory.measure(top, 2, 2, lambda done: None)
    assert [level.alive for level in found.levels] == [1]
    assert len(found.levels[0].launches) == 2
    assert {launch.way for launch in found.levels[0].launches} == {"pool"}
    assert set(found.missing) == {"2 alive"}
    assert found.missing["2 alive"].failed
    assert "no such luck" in found.missing["2 alive"].why
    assert found.idle is not None


def test_levels_there_is_no_memory_for_are_left_out_and_that_is_no_failure(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_kb", lambda: 1)
    found = memory.measure(top, 2, 2, lambda done: None)
    assert [level.alive for level in found.levels] == [1]
    assert not found.missing["2 alive"].failed
    assert "they would take" in found.missing["2 alive"].why


def test_where_no_room_waits_that_is_said(top: Path) -> None:
    with daemons.environment(), daemons.own(top, "none", ahead=0) as daemon:
        assert memory.waiting(daemon.socket, "python") is None
    assert memory.idle_data(None) is None


def test_a_cold_one_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text("import os\nos.read(0, 1)\n")
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    with (
        pytest.raises(HostError, match="a cold start said nothing"),
        alive.cold(silent, 1),
    ):
        pass
