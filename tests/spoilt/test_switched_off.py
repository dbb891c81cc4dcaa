# SPDX-License-Identifier: GPL-3.0-or-later
"""Each step of a plan switched off in the applier: what is not done does not go unseen.

With the verifier at work a launch is refused, or `test-policy --live` names the claim;
with the verifier looking away the probe alone has to, unless another step cannot be
done without the one that is missing. What can be seen by neither is listed with why.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.powers import landlock, loopback, need, sandboxes
from support.spoiling import Spoilt, cgroups, spoilt_service, zygote
from support.spoilt.less import NEVER_RIGHT, TOO_EARLY, UNVERIFIED

from isolauncher import steps
from isolauncher.live import prove
from isolauncher.live.caller import _unowned
from isolauncher.policy.load import PolicyStore
from isolauncher.report import Proof
from spoilt.conftest import every

REFUSED = "launch"
"""Another step cannot be done without it: there is nothing that the probe could see."""

TABLE = {
    "NewSession": "session",
    "JoinKeyring": "keyring",
    "ScheduleNormally": "scheduling",
    "JoinCgroup": REFUSED,
    "Unshare net": "net",
    "Unshare ipc": "ipc",
    "Unshare uts": "uts",
    # That it was not made is noticed by the stem, which cannot follow.
    "Unshare cgroup": REFUSED,
    "FollowInit": "root",
    "FollowInit members": "cgroup pids",
    "FollowInit cgroup": "cgroupns",
    "NewRoot": REFUSED,
    "Directory": REFUSED,
    "Symlink": "files.read /bin",
    "Symlink /dev/ptmx": "/dev/pts",
    "WriteFile": REFUSED,
    "WriteFile /etc/passwd": "/etc",
    "WriteFile /etc/nsswitch.conf": "/etc",
    "MemoryFiles": "files.tmp /tmp",
    "MemoryFiles /dev/shm": "files.tmp /dev/shm",
    "Attach device": "devices",
    "Attach directory": "files.read /usr",
    "Attach /etc/debian_version": "files.read /etc/debian_version",
    "Attach {write}": "files.write {write}",
    # The root that is let go is the new one then.
    "Pivot": REFUSED,
    "LeaveOldRoot": "root",
    "MountProc": REFUSED,
    "MountTerminals": "/dev/pts",
    "SealRoot": "root",
    "SetHostname": "namespaces.hostname",
    "LoopbackUp": "network.access",
    "Priority": "limits.nice",
    # What it says goes nowhere: it runs, and is not heard.
    "Stdio": "launch",
    "SetUmask": "umask",
    "SetLimits": "rlimit nofile",
    "NewUserNamespace": REFUSED,
    "MapIdentity": REFUSED,
    "NoNestedUserNamespaces": "no more user namespaces",
    "BecomeUser": "uid",
    "DropCapabilities": "capabilities",
    "ShowAs": "environment",
    "Dumpable": "/proc",
    "NoNewPrivs": REFUSED,
    "LandlockRules": REFUSED,
    "Landlock": "landlock",
    "CloseDescriptors": "descriptors",
    "Filter": REFUSED,
    "Seccomp": "seccomp",
    "LowerInit": "init",
    "LeavePrivileges": "init",
}
"""What is left out, and the claim that the probe finds broken."""

UNSEEN = {
    "ResetSignals": "the verifier refuses it; without, the hand-over makes every "
    "signal a fresh program's once more",
    "ClearGroups": "the zygote has had no groups from its start",
    "MapOwner": "it makes ahead what the first mount that needs it makes else",
}
"""Steps that the probe cannot miss, and why."""

OWN_TEST = {"MakePrivate", "Unshare"}
"""Of these the daemon does not survive the lack: each has a daemon of its own."""

DEVICES = {"MountDevices", "MakeDevices", "SealDevices"}
"""These are for a policy that grants some: test_devices_spoilt.py."""

POLICY = """version = 1
extends = "default"

[match]
callers = ["*"]

[namespaces]
hostname = "switched-off"

[network]
access = "{access}"

[files]
write = ["{write}"]

[limits]
nice = 5
cpu-weight = 50
cpu-seconds = 1000
"""


@dataclass(frozen=True)
class Bench:
    """A spoilt daemon, and how its policies are tried."""

    of: Spoilt
    store: PolicyStore
    write: Path

    def tried(self, left_out: str, *, access: str = "none") -> dict[str, Proof]:
        """The proofs by claim of a launch without that."""
        self.of.record()
        self.of.board.left_out = left_out.format(write=self.write)
        process = self.of.service.process
        assert process is not None
        proved = prove.one(
            self.store.get(access),
            "",
            self.store,
            str(self.of.service.socket),
            process.pid,
        )
        assert proved.by.startswith("a program, by uid ")
        return {proof.claim: proof for proof in proved.proofs}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    need(sandboxes(), landlock(), loopback())
    with spoilt_service() as of:
        yield from bench_for(of)


def bench_for(of: Spoilt) -> Iterator[Bench]:
    # Not below /tmp: every activity has that anew.
    write = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/srv"))
    try:
        os.chown(write, _unowned(), _unowned())
        for access in ("none", "loopback"):
            of.service.policy(access, POLICY.format(access=access, write=write))
        # In which nothing else needs that the old root is gone.
        plain = POLICY.replace('write = ["{write}"]', "")
        of.service.policy("plain", plain.format(access="none"))
        with closing(PolicyStore(etc_dir=str(of.service.policies))) as store:
            yield Bench(of, store, write)
    finally:
        shutil.rmtree(write)


def broken(proofs: dict[str, Proof]) -> dict[str, str]:
    return {
        claim: proof.detail
        for claim, proof in proofs.items()
        if proof.result in ("broken", "failed")
    }


def test_with_every_step_done_every_claim_holds(bench: Bench) -> None:
    for access in ("none", "loopback"):
        for verified in ("", UNVERIFIED):
            proofs = bench.tried(f"{verified}nothing", access=access)
            assert not broken(proofs)
            untried = {p.detail for p in proofs.values() if p.result == "untried"}
            assert untried <= {"there is none on this machine"}
            assert len(proofs) > 80


def test_what_was_looked_at_too_early_is_looked_at_again(bench: Bench) -> None:
    """The hand-over opens files: descriptors that are there for a moment."""
    assert not broken(bench.tried(TOO_EARLY))
    assert list(broken(bench.tried(NEVER_RIGHT))) == ["launch"]


def test_every_kind_of_step_is_in_the_table() -> None:
    kinds = {step.__name__ for step in steps.Step.__args__}
    named = {name.partition(" ")[0] for name in TABLE}
    assert named | set(UNSEEN) | OWN_TEST | DEVICES == kinds
    assert not named & set(UNSEEN)


@pytest.mark.timeout(240)
def test_steps_that_are_switched_off_are_caught_and_their_claims_named(
    bench: Bench,
) -> None:
    for left_out in every(list(TABLE), 5):
        caught(bench, left_out)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_step_that_is_switched_off_is_caught_and_its_claim_named(
    bench: Bench,
) -> None:
    for left_out in TABLE:
        caught(bench, left_out)


def caught(bench: Bench, left_out: str) -> None:
    """With the verifier at work and without."""
    access = {"LoopbackUp": "loopback", "LeaveOldRoot": "plain"}.get(left_out, "none")
    claim = TABLE[left_out].format(write=bench.write)
    called, pid = socket.gethostname(), zygote(bench.of, "python")
    if left_out == "ScheduleNormally":
        # As under a daemon that runs so: a fork inherits it (sched(7)).
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
    try:
        verified = missing(bench, left_out, access)
        assert verified, f"without {left_out}: nobody noticed"
        if REFUSED not in verified:
            assert claim in verified, f"without {left_out}: {verified}"
        alone = missing(bench, UNVERIFIED + left_out, access)
        assert claim in alone, f"without {left_out}, unverified: {alone}"
    finally:
        # In the daemon's own name space it is ours (tests/conftest.py).
        socket.sethostname(called)
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def missing(bench: Bench, left_out: str, access: str) -> dict[str, str]:
    """What is broken; once more where another launch on this machine may hide it."""
    tries = 20 if left_out.endswith("JoinKeyring") else 1
    for _ in range(tries):
        found = broken(bench.tried(left_out, access=access))
        if found:
            break
    return found


@pytest.mark.parametrize("left_out", UNSEEN)
def test_what_nobody_can_miss_does_no_harm(bench: Bench, left_out: str) -> None:
    found = broken(bench.tried(UNVERIFIED + left_out))
    if left_out == "ResetSignals" and ignored():
        # What the hand-over leaves is what a cold start inherits.
        assert set(found) <= {"signals"}
    else:
        assert not found


def ignored() -> int:
    """Signals that this process ignores and Python does not: they are inherited."""
    status = Path("/proc/self/status").read_text()
    (line,) = (one for one in status.splitlines() if one.startswith("SigIgn:"))
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    return int(line.split()[1], 16) & ~python


@pytest.mark.parametrize(
    ("left_out", "propagation"),
    [("MakePrivate", "shared"), ("Unshare mnt", "private")],
)
def test_without_mounts_of_its_own_no_launch_comes_to_its_end(
    left_out: str, propagation: str
) -> None:
    """A daemon in mounts that are its own: it loses its root where they are shared."""
    need(sandboxes())
    within = ("unshare", "--mount", "--propagation", propagation)
    with spoilt_service(within=within) as of:
        groups = [str(place) for place in of.places]
        for made in bench_for(of):
            caught = broken(made.tried(UNVERIFIED + left_out))
            assert list(caught) == [REFUSED], caught
            # What is left of it goes with its mounts; its cgroups it cannot reach.
            of.service.stop(signal.SIGKILL)
        for path in (*cgroups(of), *groups):
            Path(path).rmdir()
