# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference in C makes what the launcher makes, or it is not measured.

Its sandbox is held and read back from /proc: by the launcher's own verifier, and beside
an activity's that the daemon launched under the same policy.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.powers import landlock, need, program, sandboxes

from isolauncher import plan, steps
from isolauncher.bench import alive, daemons, lines, planned, reference, scripts
from isolauncher.errors import HostError, VerifyError


@dataclasses.dataclass(frozen=True)
class Made:
    top: Path
    program: Path
    plan: planned.Planned
    script: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    need(sandboxes(), program("cc"))
    top = tmp_path_factory.mktemp("reference")
    for directory in (top, *list(top.parents)[:2]):
        directory.chmod(0o755)
    script = scripts.write(top, scripts.LISTS["nothing"], waits=True)
    with daemons.environment():
        built = reference.build(top)
        with planned.planned(daemons.config(top, "plan"), None, script) as found:
            yield Made(top=top, program=built, plan=found, script=script)


_SAME = (
    *("Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Threads", "SigBlk"),
)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: found[name].strip() for name in _SAME if name in found}


def mounts(pid: int) -> list[tuple[str, str, str]]:
    """Of each: where, what kind, how. By name: the kernel's order is of creation."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        found.append((before.split()[4], after.split()[0], before.split()[5]))
    return sorted(found)


def limits(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/limits").read_text().splitlines()


def one_uid(pid: int) -> str:
    """The one that it has in all eight places: an activity's, of the range."""
    of_it = status(pid)
    (uid,) = {*of_it["Uid"].split(), *of_it["Gid"].split()}
    assert 70000 < int(uid) < 90000
    return uid


def maps(pid: int) -> list[list[str]]:
    return [
        Path(f"/proc/{pid}/{n}").read_text().split() for n in ("uid_map", "gid_map")
    ]


def test_its_sandbox_is_what_an_activity_of_the_daemon_has(made: Made) -> None:
    need(landlock())
    with ExitStack() as stack:
        stack.enter_context(daemons.environment())
        daemon = stack.enter_context(daemons.own(made.top, "daemon", ahead=0))
        crowd = stack.enter_context(alive.crowd(daemon.socket, made.script))
        crowd.grow(1)
        one = stack.enter_context(reference.running(made.program, made.top, made.plan))
        init, probes = stack.enter_context(one.held())
        (stem,) = reference.children(init)
        activity, its_init = crowd.pids[0], crowd.inits()[0]
        # What each of both is supposed to be, and then that both are the same.
        assert status(stem) | {"Uid": "", "Gid": ""} == {
            **{"Uid": "", "Gid": "", "Groups": "", "Umask": "0022", "Threads": "1"},
            **{"NoNewPrivs": "1", "Seccomp": "2", "SigBlk": "0" * 16},
            **{n: "0" * 16 for n in _SAME if n.startswith("Cap")},
            "Seccomp_filters": status(activity)["Seccomp_filters"],
        }
        # Which uid is free is another's matter where others' sandboxes run.
        own, other = one_uid(stem), one_uid(activity)
        assert status(stem) | {"Uid": "", "Gid": ""} == (
            status(activity) | {"Uid": "", "Gid": ""}
        )
        assert status(init) == status(its_init)
        assert maps(stem) == [
            [own if word == other else word for word in line] for line in maps(activity)
        ]
        assert limits(stem) == limits(activity)
        both = {"/" + str(made.script).lstrip("/"), "/usr", "/proc", "/tmp", "/dev/pts"}
        assert both <= {where for where, _, _ in mounts(stem)}
        assert mounts(stem) == mounts(activity)
        for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
            own = os.readlink(f"/proc/self/ns/{kind}")
            assert os.readlink(f"/proc/{stem}/ns/{kind}") != own
        # What /proc does not show: the stem has tried it.
        wanted = next(
            p.step.probe_errno
            for p in made.plan.whole.steps
            if isinstance(p.step, steps.Seccomp)
        )
        assert probes == {
            **{"seccomp": wanted, "securebits": 0b11101111, "landlock": errno.EACCES}
        }
        # And all that the launcher looks at before it says "go".
        reference.verify_held(made.plan, init, stem, probes, str(one.made))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("s seccomp ", "the filter desktop did not answer"),
        ("s landlock", "Landlock let a file be opened"),
        ("s no-new-privs", "could not make the sandbox"),
        ("i cgroup-join ", "not in the cgroup"),
        ("s set-limit 7 ", "limit nofile is"),
        ("i attach /usr ", "nothing is mounted at /usr"),
        ("i lower-init", "init's"),
    ],
)
def test_what_leaves_a_step_out_is_not_timed(
    made: Made, monkeypatch: pytest.MonkeyPatch, step: str, told: str
) -> None:
    whole = lines.write(made.plan.whole, made.plan.sources())
    left = "".join(
        line for line in whole.splitlines(keepends=True) if not line.startswith(step)
    )
    assert left != whole
    monkeypatch.setattr(lines, "write", lambda *of: left)
    with (
        reference.running(made.program, made.top, made.plan) as one,
        pytest.raises((VerifyError, HostError), match=re.escape(told)),
    ):
        reference.prove_same(one, made.plan)


def test_it_has_the_zygotes_memory_and_leaves_nothing(made: Made) -> None:
    assert 1 << 10 < made.plan.anonymous_kb <= planned.MOST_KB
    with reference.running(made.program, made.top, made.plan) as one:
        has = one.as_data()["anonymous_mb"]
        # And not much more: what it has besides is the C library's.
        assert has == pytest.approx(made.plan.anonymous_kb / 1024, rel=0.1)
        assert one.once() > 0
        assert one.many(4, 9) > 0
        assert left(made) == []
        # Who plans keeps the directories above for as long as it is there.
        pipe = os.stat(f"/proc/{one.program.pid}/fd/{made.plan.hold}").st_ino
        assert pipe == os.fstat(made.plan.hold).st_ino


def left(made: Made) -> list[str]:
    """What there is of the reference's cgroups."""
    found = [e for place in made.plan.cgroups() for e in os.scandir(place)]
    return [entry.path for entry in found if entry.is_dir()]


def test_it_is_shown_what_the_daemon_opened_and_nothing_else(made: Made) -> None:
    assert set(made.plan.sources()) <= set(made.plan.sent)
    wrong = dict.fromkeys(made.plan.sent, (0, 0))
    with (
        reference.running(made.program, made.top, made.plan) as one,
        pytest.raises(VerifyError, match="/usr is not what was sent"),
    ):
        reference.prove_same(one, dataclasses.replace(made.plan, sent=wrong))


def test_one_of_many_that_fails_is_told_of_once_and_the_next_works(made: Made) -> None:
    (pids,) = (p for p in made.plan.cgroups() if os.path.exists(f"{p}/pids.max"))
    with reference.running(made.program, made.top, made.plan) as one:
        # One of the sixty finds its place taken.
        Path(pids, "30").mkdir()
        with pytest.raises(HostError, match="could not make the sandbox: cgroup-make"):
            one.many(6, 60)
        assert left(made) == []
        assert one.once() > 0
        assert one.many(2, 4) > 0


def test_a_sandbox_that_does_not_end_well_is_no_figure(made: Made) -> None:
    with reference.running(made.program, made.top, made.plan) as one:
        with ExitStack() as held:
            init, _ = held.enter_context(one.held())
            (stem,) = reference.children(init)
            os.kill(stem, signal.SIGKILL)
            with pytest.raises(HostError, match="init ended with wait status"):
                held.close()
        assert one.once() > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_none_of_its_cgroups_is_left(
    made: Made, number: signal.Signals
) -> None:
    with reference.running(made.program, made.top, made.plan) as one:
        pid = one.program.pid
        # What ^C is for is for others.
        assert os.getsid(pid) == pid
        os.write(one.program.to, b"many 4 100000\n")
        while not left(made):
            time.sleep(0.001)
        os.kill(pid, number)
        said = one.program.hear()
        assert said == ("!it was ended" if number == signal.SIGTERM else "")
        if number == signal.SIGTERM:
            assert left(made) == []
    assert left(made) == []


def test_a_step_that_it_does_not_know_is_refused(made: Made) -> None:
    lent = steps.Planned(actor="init", step=steps.MapOwner(uid=1000, gid=1000))
    room = dataclasses.replace(
        made.plan.whole.room, steps=(*made.plan.whole.room.steps, lent)
    )
    with pytest.raises(HostError, match="id-mapped mounts of a person's"):
        lines.write(
            plan.Plan(room=room, rest=made.plan.whole.rest), made.plan.sources()
        )


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(sandboxes())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no C compiler") as refused:
        reference.build(tmp_path)
    assert refused.value.hint == "apt install gcc libc6-dev"
