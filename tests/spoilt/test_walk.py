# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan walked with a kernel that only writes down: no power is needed for this.

Whichever call is refused, the walk ends there with the step's name, and no call is
made after it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from isolauncher import plan, steps
from isolauncher.apply import Context, apply
from isolauncher.errors import HostError, StepError
from isolauncher.kernel import Kernel, Recorder
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy

TOP = Path(__file__).resolve().parents[2]

BEST_EFFORT = {
    ("no-nested-user-namespaces", "write_file"),
    ("show-as", "set_argument_area"),
    ("make-devices", "mknod"),
}


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    shipped = PolicyStore(TOP / "policies", tmp_path / "none").get("default")
    return replace(shipped, network="loopback")


@pytest.fixture
def whole(policy: Policy) -> plan.Plan:
    """A plan with every step; its paths are read, if at all, from this machine."""
    return build(policy)


def build(policy: Policy, **differently: object) -> plan.Plan:
    machine = plan.Machine(
        landlock_abi=7,
        cgroups=(
            plan.CgroupPlace(
                version=2, controllers=("memory", "pids", "cpu"), path="/nowhere/a0"
            ),
        ),
        why_no_cgroup="none is mounted",
        hard_limits=(),
        root_over="/",
        init_uid=70000,
    )
    view = plan.View(
        trees=(
            plan.Tree(path="/usr", descriptor="usr", kind="directory", writable=False),
        ),
        links=(plan.Link(path="/bin", target="usr/bin"),),
        devices=(steps.DeviceNode(path="/dev/video0", major=81, minor=0, mode=0o600),),
    )
    filter_ = plan.CompiledFilter(
        name="none", program=b"", probe_number=0, probe_arguments=(), probe_errno=0
    )
    room = plan.room(
        room_id="a0",
        policy=policy,
        person=plan.Person(
            uid=70001,
            gid=70001,
            inner_uid=1000,
            home="",
            inner_gid=1000,
            passwd=b"",
            group=b"",
            nsswitch=b"",
            hosts=b"",
        ),
        view=view,
        machine=replace(machine, **differently),  # type: ignore[arg-type]
        filter_=filter_,
    )
    rest = plan.rest(
        activity_id="a0",
        frame=plan.frame(room, view),
        furniture=plan.Furniture(
            trees=(
                plan.Tree(
                    path="/",
                    descriptor="program",
                    kind="file",
                    writable=False,
                    owned_by=1000,
                ),
            )
        ),
        filter_=filter_,
        start=plan.Start(
            program_kind="file",
            path="/program",
            argv=("program",),
            environment=(),
            cwd="/",
            tier="fork",
            hostname="walk",
            preload="python",
        ),
        umask=0o022,
        init_uid=machine.init_uid,
    )
    return plan.Plan(room=room, rest=rest)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Context:
    # A walk changes its directory: pytest goes back to its own afterwards.
    monkeypatch.chdir(tmp_path)
    return Context(kernel=Recorder().as_kernel(), descriptors={}, keep=frozenset())


def walk(whole: plan.Plan, c: Context) -> list[str]:
    """Both actors' steps in order; the step of every call that was made."""
    recorder = c.kernel
    assert isinstance(recorder, Recorder)
    taken: list[str] = []
    for planned in whole.steps:
        names = ["stdin", "stdout", "stderr", "usr", "program"]
        names += [f"device:{d}" for d in plan.DEVICES]
        c.descriptors = {n: 1000 + i for i, n in enumerate(names)}
        # Its user namespace is opened, by whoever the stem is: this process.
        c.stem = os.getpid()
        try:
            apply(planned.step, c)
        finally:
            taken += [steps.name_of(planned.step)] * (len(recorder.calls) - len(taken))
    return taken


def test_a_refused_call_is_the_last_one(whole: plan.Plan, context: Context) -> None:
    recorded = walk(whole, context)
    kernel = context.kernel
    assert isinstance(kernel, Recorder)
    calls = [name for name, _ in kernel.calls]
    assert len(calls) == len(recorded)
    assert set(recorded) == {
        steps.name_of(object.__new__(kind))
        for kind in steps.Step.__args__
        # The one calls nobody: it is kept for Seccomp. The other forks who calls.
        if kind not in (steps.Filter, steps.MapOwner)
    }
    for number, (name, step) in enumerate(zip(calls, recorded, strict=True)):

        def refuse(at: int, called: str, number: int = number) -> None:
            if at == number:
                raise PermissionError(errno.EPERM, f"no {called}")

        kernel = Recorder(refuse=refuse)
        again = replace(context, kernel=kernel.as_kernel(), root=-1, notes=[])
        if (step, name) in BEST_EFFORT:
            walked = walk(whole, again)
            # A node that could not be made is given to nobody.
            at = number + 1 if name == "mknod" else len(recorded)
            assert walked == recorded[:at] + recorded[at + 1 :]
            assert [n.why.split(": ")[-1] for n in again.notes] == [f"no {name}"]
            continue
        with pytest.raises(StepError) as caught:
            walk(whole, again)
        assert caught.value.step == step
        assert caught.value.errno == errno.EPERM
        assert f"no {name}" in caught.value.message
        assert [n for n, _ in kernel.calls] == calls[: number + 1]


def test_what_a_policy_requires_and_the_machine_has_not_is_refused(
    policy: Policy,
) -> None:
    required = replace(policy, kernel=replace(policy.kernel, landlock="required"))
    with pytest.raises(HostError) as caught:
        build(required, landlock_abi=0)
    assert caught.value.code == "landlock-missing"
    required = replace(policy, limits=replace(policy.limits, cgroup="required"))
    with pytest.raises(HostError) as caught:
        build(required, cgroups=())
    assert caught.value.code == "cgroup-missing"
    assert "none is mounted" in caught.value.message


def test_what_the_machine_has_not_is_reported_if_it_is_not_required(
    policy: Policy,
) -> None:
    whole = build(policy, landlock_abi=0, cgroups=())
    assert {"landlock", "cgroup"} <= {s.what for s in whole.room.skipped}
    kinds = {type(p.step) for p in whole.steps}
    assert not kinds & {steps.LandlockRules, steps.Landlock, steps.JoinCgroup}


def test_a_recorder_has_every_call_that_there_is() -> None:
    recorder = Recorder()
    for name in (n for n in vars(Kernel) if not n.startswith("_")):
        assert callable(getattr(recorder, name))
    with pytest.raises(AttributeError):
        recorder.reboot  # noqa: B018
