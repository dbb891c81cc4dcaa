# SPDX-License-Identifier: GPL-3.0-or-later
"""What it can use up is its own, and when it is told to end, it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.attacks import TIERS, attack, finish, listed, running, unrefused
from support.daemons import Service
from support.powers import cgroup, need


def _policy(daemon: Service, name: str, limits: str) -> str:
    return daemon.policy(
        name, f'version = 1\n[match]\ncallers = ["*"]\n[limits]\n{limits}\n'
    )


def _of(uid: object) -> list[str]:
    """Processes of this uid on the whole machine."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = Path(f"/proc/{name}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
                found.append(name)
    return found


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("what", ["processes", "threads"])
def test_a_bomb_of_processes_or_threads_is_held_and_others_are_served(
    daemon: Service, tier: str, what: str
) -> None:
    policy = _policy(daemon, "twenty", "processes = 20")
    with running(daemon, "use_up", what, tier=tier, policy=policy, id="bomb") as bomb:
        said = bomb.line()
        assert said["refused"] == "EAGAIN"
        assert said["at once"] == 20
        uid = listed(daemon, "bomb")["uid"]
        # The others, of the same caller too, have processes of their own to use.
        assert attack(daemon, "use_up", "orphans", "5", tier=tier) == {"whole": True}
        bomb.tell()
        status, _ = bomb.ended()
        assert status == 0
    assert _of(uid) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_bomb_is_all_gone_when_it_is_stopped(daemon: Service, tier: str) -> None:
    policy = _policy(daemon, "twenty", "processes = 20")
    with running(
        daemon, "use_up", "processes", tier=tier, policy=policy, id="bomb"
    ) as bomb:
        bomb.line()
        uid = listed(daemon, "bomb")["uid"]
        assert len(_of(uid)) == 20
        assert daemon.isolauncher("stop", "bomb").status == 0
        assert bomb.ended()[0] == 128 + signal.SIGTERM
    assert _of(uid) == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("what", ["memory", "shared", "files"])
def test_a_bomb_of_memory_ends_alone(daemon: Service, tier: str, what: str) -> None:
    """Also of memory that no process seems to have: files in memory, its /tmp."""
    need(cgroup("memory"))
    policy = daemon.policy(
        "poor",
        'version = 1\n[match]\ncallers = ["*"]\n[limits]\ncgroup = "required"\n'
        'memory = "48M"\n[files]\ntmp = "256M"\n',
    )
    with running(daemon, "wait", id="bystander") as bystander:
        bystander.line()
        done = finish(daemon, "use_up", what, tier=tier, policy=policy)
        assert done.status == 128 + signal.SIGKILL, done.errors
        assert done.report is not None
        assert done.report["exit"] == {"status": 137, "signal": 9}
        bystander.tell()
        assert bystander.line() == {"whole": True}
        assert bystander.ended()[0] == 0


@pytest.mark.parametrize("tier", TIERS)
def test_descriptors_end_at_the_limit_also_those_in_flight(
    daemon: Service, tier: str
) -> None:
    policy = _policy(daemon, "few", "open-files = 100")
    said = attack(daemon, "use_up", "descriptors", tier=tier, policy=policy)
    assert said["refused"] == "EMFILE"
    assert 90 <= int(str(said["count"])) < 100
    assert said["lost"] in ("ETOOMANYREFS", "EAGAIN")
    assert int(str(said["flying"])) <= 200


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", [12345, 0])
def test_no_limit_can_be_raised(daemon: Service, tier: str, uid: int) -> None:
    said = attack(daemon, "use_up", "limits", tier=tier, uid=uid)
    hard = {k.split()[0]: v for k, v in said.items() if k.endswith(" hard")}
    tries = {k: v for k, v in said.items() if not k.endswith(" hard")}
    assert unrefused(tries, frozenset(("EPERM",))) == {}
    assert hard["RLIMIT_CORE"] == 0
    assert hard["RLIMIT_NPROC"] == 128
    assert hard["RLIMIT_NOFILE"] == 1024
    assert hard["RLIMIT_FSIZE"] == 1 << 30
    assert hard["RLIMIT_MEMLOCK"] == 65536
    # Whoever started the daemon may have had these; an activity never has.
    assert hard["RLIMIT_RTPRIO"] == 0
    assert hard["RLIMIT_NICE"] == 0


def test_locked_memory_and_timers_end_at_a_limit(daemon: Service) -> None:
    said = attack(daemon, "use_up", "locked")
    assert {said["mlock"], said["mlockall"]} <= {"ENOMEM", "EPERM", "EAGAIN"}
    assert int(str(said["timers"])) <= 4096


@pytest.mark.parametrize("tier", TIERS)
def test_a_crash_leaves_no_core_and_says_its_signal(daemon: Service, tier: str) -> None:
    done = finish(daemon, "use_up", "crash", tier=tier)
    assert done.status == 128 + signal.SIGSEGV
    said = json.loads(done.text.splitlines()[0])
    assert said == {"signal": 11, "dumped": False, "cores": [], "raise": "EPERM"}
    assert done.report is not None
    assert done.report["exit"] == {"status": 139, "signal": 11}


def test_spinning_activities_do_not_keep_others_from_starting(daemon: Service) -> None:
    with (
        running(daemon, "use_up", "spin", "8", tier="exec", policy="untrusted"),
        running(daemon, "use_up", "spin", "8", tier="fork") as other,
    ):
        other.line()
        for tier in TIERS:
            begin = time.monotonic()
            said = attack(daemon, "use_up", "orphans", "1", tier=tier)
            assert said == {"whole": True}
            assert time.monotonic() - begin < 20


def test_processor_seconds_are_counted(daemon: Service) -> None:
    policy = _policy(daemon, "second", "cpu-seconds = 1")
    done = finish(daemon, "use_up", "burn", policy=policy)
    assert done.status in (128 + signal.SIGKILL, 128 + signal.SIGXCPU)


@pytest.mark.parametrize("tier", TIERS)
def test_orphans_are_reaped(daemon: Service, tier: str) -> None:
    policy = _policy(daemon, "twenty", "processes = 20")
    said = attack(daemon, "use_up", "orphans", "100", tier=tier, policy=policy)
    assert said == {"whole": True}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("how", ["running", "stopped"])
def test_what_ignores_every_signal_is_killed_after_the_grace(
    daemon: Service, tier: str, how: str
) -> None:
    with running(
        daemon, "use_up", "stubborn", how, tier=tier, id="stubborn"
    ) as stubborn:
        stubborn.line()
        uid = listed(daemon, "stubborn")["uid"]
        assert len(_of(uid)) > 3
        done = daemon.isolauncher("stop", "--grace", "0.2", "stubborn")
        assert done.status == 0, done.errors
        assert stubborn.ended()[0] == 128 + signal.SIGKILL
    assert _of(uid) == []
    assert daemon.isolauncher("stop", "stubborn").status == 1


@pytest.mark.parametrize("tier", TIERS)
def test_sigterm_reaches_a_program_that_does_nothing_about_it(
    daemon: Service, tier: str
) -> None:
    """It would not, were it the first process of its namespace."""
    with running(daemon, "use_up", "plain", tier=tier, id="plain") as plain:
        plain.line()
        assert daemon.isolauncher("stop", "--grace", "60", "plain").status == 0
        assert plain.ended()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("tier", TIERS)
def test_what_it_leaves_behind_goes_with_it(daemon: Service, tier: str) -> None:
    done = finish(daemon, "use_up", "left_behind", tier=tier)
    assert done.status == 5
    assert done.report is not None
    assert done.report["exit"] == {"status": 5, "signal": None}
    identity = done.report["identity"]
    assert isinstance(identity, dict)
    assert _of(identity["uid"]) == []
