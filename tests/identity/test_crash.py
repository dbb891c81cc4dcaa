# SPDX-License-Identifier: GPL-3.0-or-later
"""Many processes on one ledger, and SIGKILL at every instant there is."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from isolauncher.errors import IdentityError
from isolauncher.identity import files, leftovers, userdb
from isolauncher.identity import ledger as ledgers
from isolauncher.identity.leases import Lease
from isolauncher.identity.ledger import Ledger

from .conftest import Place

TOP = Path(__file__).resolve().parents[2]
Take = Callable[..., Lease]

# Takes and releases without end. Between a take and its release the uid's name is a
# file made with O_EXCL: a uid given twice cannot make it.
WORKER = """
import os, random, sys
from pathlib import Path
from isolauncher.errors import IdentityError
from isolauncher.identity.ledger import Ledger

top, who, rounds, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
chance = random.Random(who)
ledger = Ledger(top / "state", top / "run", userdb_dir=top / "userdb",
                first=170000, last=int(last))
held = []

def claim(lease):
    name = top / "claims" / str(lease.uid)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    fd = os.open(name, flags)  # fails: this uid is somebody's already
    os.write(fd, lease.activity_id.encode())
    os.close(fd)

for n in range(rounds):
    bundle = n % 10 == 0
    try:
        lease = ledger.take(
            mode="bundle" if bundle else "instance", caller_uid=1000 + n % 7,
            caller_name="", activity_id=f"{who}_{n}",
            bundle_key=chance.choice("abc") if bundle else None)
    except IdentityError as error:
        if error.code not in ("identity-exhausted", "identity-quota"):
            raise
    else:
        if not bundle:
            claim(lease)
        held.append(lease)
    while len(held) > 15 or held and chance.random() < 0.5:
        lease = held.pop(chance.randrange(len(held)))
        if lease.mode == "instance":
            os.unlink(top / "claims" / str(lease.uid))
        if not ledger.release(lease.uid, lease.activity_id):
            sys.exit(f"lost: {lease}")
    print(n, flush=True)
for lease in held:
    if lease.mode == "instance":
        os.unlink(top / "claims" / str(lease.uid))
    ledger.release(lease.uid, lease.activity_id)
"""


def worker(top: Path, who: str, rounds: int, last: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, top, who, str(rounds), str(last)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=TOP,
    )


def audit(place: Place, take: Take, **options: Any) -> None:
    """After everybody is gone: all is readable, gc returns all, each uid once."""
    ledger = place.open(**options)
    assert ledger.problems() == ()
    leases = [lease for lease in ledger.leases() if lease.mode == "instance"]
    assert len({lease.uid for lease in leases}) == len(leases)
    ledger.gc(lambda _: False, bundles=lambda _: True)
    assert ledger.leases() == ()
    for name in ("uids", "bundles", "uses"):
        assert os.listdir(place.identity / name) == []
    assert sorted(os.listdir(place.identity)) == [
        "bundles",
        "lock",
        "map",
        "uids",
        "uses",
    ]
    if place.userdb.exists():
        assert os.listdir(place.userdb) == []
    again = [take(ledger, f"audit{n}").uid for n in range(3)]
    assert len(set(again)) == 3


def test_attack_68_thousands_of_leases_in_several_processes_and_none_twice(
    place: Place, take: Take, tmp_path: Path
) -> None:
    """Forty uids for three processes: each is reused some fifty times."""
    (tmp_path / "claims").mkdir()
    workers = [worker(tmp_path, f"w{n}", 700, 170040) for n in range(3)]
    for one in workers:
        _, complaint = one.communicate()
        assert one.returncode == 0, complaint.decode()
    audit(place, take, last=170040)


def test_sigkill_at_any_instant_gives_no_uid_twice(
    place: Place, take: Take, tmp_path: Path
) -> None:
    (tmp_path / "claims").mkdir()
    chance = random.Random(28)  # noqa: S311 - chooses instants, no secrets
    last = 170400
    for wave in range(8):
        workers = [worker(tmp_path, f"k{wave}_{n}", 10**6, last) for n in range(3)]
        for one in workers:
            with one:
                assert one.stdout is not None
                for _ in range(chance.randrange(1, 60)):
                    assert one.stdout.readline() != b""
                one.kill()
                assert one.stderr is not None
                assert one.stderr.read() == b""
            assert one.returncode == -signal.SIGKILL
        ledger = place.open(last=last)
        assert ledger.problems() == ()
        held = {lease.activity_id: lease.uid for lease in ledger.leases()}
        for claim in (tmp_path / "claims").iterdir():
            # Killed while it made the claim: nothing in it yet.
            if activity := claim.read_text():
                assert held[activity] == int(claim.name)
        if wave % 3 == 2:
            for one in ledger.gc(lambda _: False):
                assert one.what == "released"
            for claim in (tmp_path / "claims").iterdir():
                claim.unlink()
    audit(place, take, last=last)


CHANGES = {
    "fchmod",
    "fsync",
    "link",
    "mkdir",
    "open",
    "pwrite",
    "rename",
    "rmdir",
    "symlink",
    "unlink",
    "write",
}


class KillingOs:
    """The module os, which ends the process before its n-th call that changes a file.

    To be killed before a call that only looks is to be killed before the next change.
    """

    def __init__(self, real: ModuleType, calls: int) -> None:
        self._real = real
        self._left = calls

    def __getattr__(self, name: str) -> object:
        value = getattr(self._real, name)
        if name not in CHANGES:
            return value

        def call(*arguments: object, **options: object) -> object:
            if name != "open" or int(arguments[1]) & os.O_CREAT:  # type: ignore[call-overload]
                self._left -= 1
            if self._left < 0:
                self._real.kill(self._real.getpid(), signal.SIGKILL)
            return value(*arguments, **options)

        return call


def killed_before_call(number: int, act: Callable[[], object]) -> bool:
    """Runs ``act`` in a child that is killed there; False: it ended before."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            killing = KillingOs(os, number)
            for module in (files, ledgers, leftovers, userdb):
                module.os = killing  # type: ignore[attr-defined]
            act()
            status = 0
        os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        assert os.WTERMSIG(ended) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(ended) == 0
    return False


def take_instance(ledger: Ledger, take: Take) -> None:
    take(ledger, "x")


def take_bundle(ledger: Ledger, take: Take) -> None:
    take(ledger, "x", bundle_key="new")


def take_used_bundle(ledger: Ledger, take: Take) -> None:
    take(ledger, "x", bundle_key="old")


def release_instance(ledger: Ledger, take: Take) -> None:
    ledger.release(170001, "one")


def release_use(ledger: Ledger, take: Take) -> None:
    ledger.release(170002, "two")


def collect_all(ledger: Ledger, take: Take) -> None:
    ledger.release(170001, "one")
    ledger.release(170002, "two")
    ledger.gc(lambda _: False, bundles=lambda _: True)


def survey_and_take(ledger: Ledger, take: Take) -> None:
    ledger.release(170001, "one")
    take(ledger, "x")
    take(ledger, "y")


@pytest.mark.parametrize(
    "act",
    [
        take_instance,
        take_bundle,
        take_used_bundle,
        release_instance,
        release_use,
        collect_all,
        survey_and_take,
    ],
)
@pytest.mark.timeout(300)
def test_sigkill_before_each_system_call_leaves_a_whole_ledger(
    place: Place, take: Take, tmp_path: Path, act: Callable[[Ledger, Take], None]
) -> None:
    number = 0
    while True:
        here = Place(tmp_path / str(number))
        # A witness that was open all the time trusts its memory and the ring.
        witness = here.open(last=170003)
        take(witness, "one")
        take(witness, "two", bundle_key="old")
        witness.release(170002, "two")
        take(witness, "two", bundle_key="old")

        def run(here: Place = here) -> None:
            act(here.open(last=170003), take)

        killed = killed_before_call(number, run)
        # First without anybody opening the ledger anew, which would tidy up.
        held = {lease.uid for lease in witness.leases()}
        with contextlib.suppress(IdentityError):
            assert take(witness, "early").uid not in held
        witness.release(170003, "early")
        fresh = here.open(last=170003)
        assert fresh.problems() == witness.problems() == ()
        assert fresh.leases() == witness.leases()
        for lease in witness.leases():
            if lease.key == "old":
                assert lease.uid == 170002
        # Whatever was cut off, what is left goes on working.
        held = {lease.uid for lease in witness.leases()}
        with contextlib.suppress(IdentityError):
            assert take(witness, "next").uid not in held
        assert fresh.leases() == witness.leases()
        audit(here, take, last=170003)
        here.close()
        if not killed:
            break
        number += 1
    assert number > 5


def test_sigkill_while_the_ledger_is_first_opened_leaves_one_that_opens(
    take: Take, tmp_path: Path
) -> None:
    number = 0
    killed = True
    while killed:
        here = Place(tmp_path / str(number))
        killed = killed_before_call(number, lambda here=here: here.open(last=170003))
        audit(here, take, last=170003)
        here.close()
        number += 1
    assert number > 5


def test_sigkill_while_a_new_boot_is_met_leaves_constant_uids_alone(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ledgers._boot_id
    number = 0
    killed = True
    while killed:
        here = Place(tmp_path / str(number))
        ledger = here.open(last=170003)
        take(ledger, "one")
        take(ledger, "two", bundle_key="old")
        monkeypatch.setattr(ledgers, "_boot_id", lambda: "ab" * 16)
        killed = killed_before_call(number, lambda here=here: here.open(last=170003))
        left = here.open(last=170003).leases()
        assert [(one.uid, one.activity_id) for one in left] == [(170002, "")]
        audit(here, take, last=170003)
        here.close()
        monkeypatch.setattr(ledgers, "_boot_id", real)
        number += 1
    assert number > 5


def test_a_reader_never_sees_half_a_name_outside(place: Place, take: Take) -> None:
    """Whatever instant the writer is killed at, a record is whole or not there."""
    number = 0
    killed = True
    while killed:
        ledger = place.open(last=170003)
        killed = killed_before_call(number, lambda: take(place.open(last=170003), "x"))
        for path in place.userdb.iterdir() if place.userdb.exists() else ():
            if not path.name.startswith("."):
                assert json.loads(path.read_text())["disposition"] == "dynamic"
        ledger.gc(lambda _: False)
        ledger.close()
        number += 1
