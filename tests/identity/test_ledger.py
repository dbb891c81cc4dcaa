# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger promises about uids, one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import powers

from isolauncher.errors import IdentityError, NotAllowed
from isolauncher.identity import ledger as ledgers
from isolauncher.identity.leases import Lease
from isolauncher.identity.ledger import Ledger

from .conftest import Place

TOP = Path(__file__).resolve().parents[2]
Take = Callable[..., Lease]
THREE = {"first": 170000, "last": 170003}


def refused(code: str) -> contextlib.AbstractContextManager[pytest.ExceptionInfo]:
    return pytest.raises(IdentityError, match=rf"\[{code}\]$")


@contextlib.contextmanager
def process_as(real: int, effective: int, saved: int) -> Iterator[int]:
    """A process with these uids, alive until the block ends."""
    program = (
        "import os, sys\n"
        f"os.setresuid({real}, {effective}, {saved})\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def new_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_boot_id", lambda: "ab" * 16)


# Which uids.


def test_the_first_uid_of_the_range_is_never_given(place: Place, take: Take) -> None:
    ledger = place.open(**THREE)
    assert [take(ledger, f"a{n}").uid for n in range(3)] == [170001, 170002, 170003]


def test_a_lease_says_whose_it_is(place: Place, take: Take) -> None:
    ledger = place.open()
    lease = take(ledger, "a")
    assert (lease.gid, lease.mode, lease.key, lease.caller_uid, lease.activity_id) == (
        lease.uid,
        "instance",
        "",
        1000,
        "a",
    )
    assert ledger.find("a") == lease
    assert ledger.leases() == (lease,)


def test_when_all_are_taken_the_refusal_says_what_would_help(
    place: Place, take: Take
) -> None:
    ledger = place.open(**THREE)
    for n in range(3):
        take(ledger, f"a{n}")
    with refused("identity-exhausted") as caught:
        take(ledger, "a3")
    assert "3 taken" in caught.value.message
    assert "identity gc" in caught.value.hint
    ledger.release(170002, "a1")
    assert take(ledger, "a3").uid == 170002


def test_a_freed_uid_is_given_again_as_late_as_possible(
    place: Place, take: Take
) -> None:
    ledger = place.open(**THREE)
    given = []
    for n in range(7):
        lease = take(ledger, f"a{n}")
        given.append(lease.uid)
        ledger.release(lease.uid, lease.activity_id)
    assert given == [170001, 170002, 170003, 170001, 170002, 170003, 170001]


def test_the_round_goes_on_after_a_restart_and_after_a_boot(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.open()
    first.release(take(first, "a").uid, "a")
    second = place.open()
    second.release(take(second, "a").uid, "a")
    new_boot(monkeypatch)
    assert take(place.open(), "a").uid == 170003


def test_prepare_changes_nothing_but_the_time_a_take_needs(
    place: Place, take: Take
) -> None:
    ledger = place.open(**THREE)
    for n in range(3):
        ledger.prepare()
        assert ledger.leases() == ()
        assert take(ledger, "a").uid == 170001 + n
        ledger.release(170001 + n, "a")
    ledger.prepare()
    ledger.prepare()
    assert take(ledger, "a").uid == 170001


def test_one_look_ahead_is_enough_even_where_a_survey_is_due(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = place.open(**THREE)
    for _ in range(3):
        ledger.release(take(ledger, "a").uid, "a")
    # What it was told of their names is too old by then.
    ledger._nss_since = float("-inf")
    ledger.prepare()

    def late(*words: object) -> None:
        raise AssertionError("in a launch's time")

    monkeypatch.setattr(ledger, "_survey", late)
    monkeypatch.setattr(ledger, "_ask_nss", late)
    assert take(ledger, "a").uid == 170001


def test_release_is_idempotent_and_only_the_holders(place: Place, take: Take) -> None:
    ledger = place.open(**THREE)
    uid = take(ledger, "a").uid
    assert not ledger.release(uid, "b")
    assert not ledger.release(uid + 1, "a")
    assert ledger.release(uid, "a")
    assert not ledger.release(uid, "a")
    assert ledger.find("a") is None


def test_one_activity_has_one_uid(place: Place, take: Take) -> None:
    ledger = place.open()
    take(ledger, "a")
    with refused("identity-activity-known"):
        take(ledger, "a")
    with refused("identity-activity-known"):
        take(ledger, "a", bundle_key="k")


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "-rf", "a" * 65, "é", "a\n", "\0"])
def test_an_activity_id_is_never_a_path(place: Place, take: Take, bad: str) -> None:
    with refused("identity-bad-id"):
        take(place.open(), bad)


def test_another_machine_users_uid_is_never_given(place: Place, take: Take) -> None:
    # Not 65533: `preload check` looks at modules as that one, in tests beside this.
    ledger = place.open(first=65533, last=65536)
    assert [take(ledger, "a").uid, take(ledger, "b").uid] == [65535, 65536]
    with refused("identity-exhausted") as caught:
        take(ledger, "c")
    # Processes of nobody's come and go, a starting zygote for one.
    message = caught.value.message
    assert "1 other people's" in message or "65534: process" in message


def test_another_ledgers_live_uid_is_never_given(
    place: Place, take: Take, tmp_path: Path
) -> None:
    take(place.open(), "a")
    other = Ledger(
        tmp_path / "other",
        place.run,
        first=170000,
        last=189999,
        userdb_dir=place.userdb,
    )
    try:
        assert take(other, "a").uid == 170002
    finally:
        other.close()


def test_names_are_asked_for_once_per_uid(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = ledgers.pwd.getpwuid

    def getpwuid(uid: int) -> object:
        asked.append(uid)
        return real(uid)

    monkeypatch.setattr(ledgers.pwd, "getpwuid", getpwuid)
    ledger = place.open(**THREE)
    for _ in range(6):
        ledger.release(take(ledger, "a").uid, "a")
    assert asked == [170001, 170002, 170003]


@pytest.mark.parametrize(("first", "last"), [(0, 10), (5, 5), (9, 3), (1, 2**31)])
def test_a_range_without_room_is_refused(place: Place, first: int, last: int) -> None:
    with refused("identity-range"):
        place.open(first=first, last=last)


def test_a_wider_range_keeps_the_leases(place: Place, take: Take) -> None:
    old = place.open(**THREE)
    lease = take(old, "a")
    new = place.open(first=170000, last=170010)
    assert new.find("a") == lease
    assert take(new, "b").uid == 170002
    with refused("identity-range-changed"):
        take(old, "c")
    assert ledgers.stored_range(place.state) == (170000, 170010)


# Row 28 of the attacks: a new activity gets a recycled uid.


@pytest.mark.parametrize("which", ["real", "effective", "saved"])
def test_attack_28_a_uid_with_a_process_is_not_given_again(
    place: Place, take: Take, which: str
) -> None:
    powers.need(powers.root())
    ledger = place.open(first=170000, last=170001)
    take(ledger, "a")
    ledger.release(170001, "a")
    uids = {"real": 0, "effective": 0, "saved": 0, which: 170001}
    with process_as(**uids) as pid:
        with refused("identity-exhausted") as caught:
            take(ledger, "b")
        assert f"170001: process {pid} has it" in caught.value.message
    assert take(ledger, "b").uid == 170001


@pytest.mark.parametrize("kind", ["file", "directory", "link", "deep", "group"])
def test_attack_28_a_uid_with_a_file_is_not_given_again(
    place: Place, take: Take, kind: str
) -> None:
    powers.need(powers.root())
    ledger = place.open(first=170000, last=170001)
    take(ledger, "a")
    ledger.release(170001, "a")
    where = place.data / "x" / "y"
    where.mkdir(parents=True)
    left = where / "left"
    if kind == "directory":
        left.mkdir()
    elif kind == "link":
        left.symlink_to("/etc")
    elif kind == "deep":
        (where / "1/2/3/4").mkdir(parents=True)
        left = where / "1/2/3/4/left"
        left.touch()
    else:
        left.touch()
    os.chown(
        left,
        -1 if kind == "group" else 170001,
        170001 if kind == "group" else -1,
        follow_symlinks=False,
    )
    with refused("identity-exhausted") as caught:
        take(ledger, "b")
    assert str(left) in caught.value.message
    os.lchown(left, 0, 0)
    assert take(ledger, "b").uid == 170001


def test_attack_28_a_link_in_the_data_leads_nowhere(place: Place, take: Take) -> None:
    powers.need(powers.root())
    outside = place.state.parent / "outside"
    outside.mkdir()
    (outside / "file").touch()
    os.chown(outside / "file", 170001, 170001)
    place.data.mkdir(parents=True)
    (place.data / "link").symlink_to(outside)
    assert take(place.open(), "a").uid == 170001


def test_attack_28_a_directory_too_deep_ends_no_survey(
    place: Place, take: Take
) -> None:
    deep = place.data
    deep.mkdir(parents=True)
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    ledger = place.open(first=170000, last=170001)
    for _ in range(2):
        ledger.release(take(ledger, "a").uid, "a")
    ledger.close()
    assert len(os.listdir("/proc/self/fd")) == before
    subprocess.run(["rm", "-r", deep], check=True)


@pytest.mark.parametrize("record", [{"uid": 170001}, {"identity": {"uid": 170001}}])
def test_attack_28_a_recorded_uid_is_not_given_again(
    place: Place, take: Take, record: object
) -> None:
    ledger = place.open(first=170000, last=170001)
    take(ledger, "a")
    ledger.release(170001, "a")
    path = place.run / "activities" / "a"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    with refused("identity-exhausted") as caught:
        take(ledger, "b")
    assert str(path) in caught.value.message
    path.unlink()
    assert take(ledger, "b").uid == 170001


@pytest.mark.parametrize("record", ["", "{", "[]", '{"uid": "x"}', "[" * 10**5])
def test_attack_28_a_record_of_nobody_stops_reuse_and_names_itself(
    place: Place, take: Take, record: str
) -> None:
    ledger = place.open(first=170000, last=170002)
    ledger.release(take(ledger, "a").uid, "a")
    path = place.run / "activities" / "a"
    path.parent.mkdir(parents=True)
    path.write_text(record)
    take(ledger, "b")  # never used: nothing to look for
    with refused("identity-record") as caught:
        take(ledger, "c")
    assert str(path) in caught.value.message


def test_attack_28_what_an_earlier_boot_left_keeps_its_uid_away(
    place: Place, take: Take
) -> None:
    powers.need(powers.root())
    place.data.mkdir(parents=True)
    (place.data / "left").touch()
    os.chown(place.data / "left", 170001, 170001)
    assert take(place.open(), "a").uid == 170002


def test_attack_28_a_uid_used_since_a_survey_needs_another(
    place: Place, take: Take
) -> None:
    powers.need(powers.root())
    ledger, other = place.open(**THREE), place.open(**THREE)
    for n in range(4):  # the fourth follows a survey that cleared all three
        ledger.release(take(ledger, f"a{n}").uid, f"a{n}")
    lease = take(other, "b")
    assert lease.uid == 170002
    with process_as(170002, 170002, 170002):
        other.release(170002, "b")
        given = [take(ledger, f"c{n}").uid for n in range(2)]
        assert given == [170003, 170001]
        with refused("identity-exhausted"):
            take(ledger, "c2")


def test_attack_28_a_uid_used_while_a_survey_looks_stays_unsurveyed(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, other = place.open(**THREE), place.open(**THREE)
    for n in range(3):
        ledger.release(take(ledger, f"a{n}").uid, f"a{n}")
    look = ledger._leftovers
    looked = []

    def look_and_be_late() -> dict[int, str]:
        found = look()
        looked.append(found)
        if len(looked) == 1:
            other.release(take(other, "b").uid, "b")
        return found

    monkeypatch.setattr(ledger, "_leftovers", look_and_be_late)
    # The other's take surveyed too: all but the uid it used are clean.
    given = [take(ledger, f"c{n}").uid for n in range(2)]
    assert given == [170002, 170003]
    assert len(looked) == 1
    assert take(ledger, "c2").uid == 170001
    assert len(looked) == 2


# Row 68 of the attacks: one caller takes all uids.


def test_attack_68_a_caller_has_a_quota_and_others_are_served(
    place: Place, take: Take
) -> None:
    ledger = place.open(quota=3, root_quota=5)
    for n in range(3):
        take(ledger, f"a{n}")
    with refused("identity-quota") as caught:
        take(ledger, "a3")
    assert "limit is 3" in caught.value.message
    assert "isolauncher stop" in caught.value.hint
    with refused("identity-quota"):
        take(ledger, "a3", bundle_key="k")
    take(ledger, "b0", caller_uid=1001)
    for n in range(5):
        take(ledger, f"r{n}", caller_uid=0)
    with refused("identity-quota"):
        take(ledger, "r5", caller_uid=0)
    ledger.release(170001, "a0")
    take(ledger, "a3")


def test_attack_68_the_quota_counts_what_other_processes_took(
    place: Place, take: Take
) -> None:
    ledgers = [place.open(quota=3) for _ in range(2)]
    for n in range(3):
        take(ledgers[n % 2], f"a{n}")
    for ledger in ledgers:
        with refused("identity-quota"):
            take(ledger, "a3")
    ledgers[0].release(170002, "a1")
    take(ledgers[1], "a3")


def test_attack_68_constant_uids_have_a_quota_of_their_own(
    place: Place, take: Take
) -> None:
    ledger = place.open(bundle_quota=2)
    for key in "ab":
        take(ledger, key, bundle_key=key)
        ledger.release(170001 + "ab".index(key), key)
    with refused("identity-quota"):
        take(ledger, "c", bundle_key="c")
    assert take(ledger, "a", bundle_key="a").uid == 170001
    assert take(ledger, "c", bundle_key="c", caller_uid=1001).uid == 170003


def test_attack_67_a_uid_of_the_range_takes_nothing(place: Place, take: Take) -> None:
    ledger = place.open()
    for uid in (170000, 170001, 189999):
        with pytest.raises(NotAllowed, match="caller-is-activity"):
            take(ledger, "a", caller_uid=uid)
    assert ledger.leases() == ()


# Constant uids.


def test_a_bundle_keeps_its_uid_for_ever(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = place.open()
    first = take(ledger, "a", bundle_key="org.example.A")
    assert (first.mode, first.activity_id) == ("bundle", "a")
    assert take(ledger, "b", bundle_key="org.example.A").uid == first.uid
    ledger.release(first.uid, "a")
    assert [lease.activity_id for lease in ledger.leases()] == ["b"]
    ledger.release(first.uid, "b")
    assert [lease.activity_id for lease in ledger.leases()] == [""]
    assert ledger.gc(lambda _: False) == ()
    assert take(place.open(), "c", bundle_key="org.example.A").uid == first.uid
    new_boot(monkeypatch)
    after = place.open()
    assert [lease.activity_id for lease in after.leases()] == [""]
    assert take(after, "c", bundle_key="org.example.A").uid == first.uid


def test_caller_key_and_origin_each_make_another_bundle(
    place: Place, take: Take
) -> None:
    ledger = place.open()
    ways = [
        {"bundle_key": "k"},
        {"bundle_key": "l"},
        {"bundle_key": "k", "caller_uid": 1001},
        {"bundle_key": "k", "installed_by": "system"},
    ]
    uids = {take(ledger, f"a{n}", **way).uid for n, way in enumerate(ways)}
    assert len(uids) == len(ways)


def test_an_instance_has_no_key_and_a_bundle_needs_one(
    place: Place, take: Take
) -> None:
    ledger = place.open()
    with refused("identity-bad-key"):
        take(ledger, "a", mode="instance", bundle_key="k")
    with refused("identity-bad-key"):
        take(ledger, "a", mode="bundle")
    with refused("identity-bad-key"):
        take(ledger, "a", bundle_key="k" * 2000)


def test_gc_takes_a_constant_uid_back_only_if_named_and_idle(
    place: Place, take: Take
) -> None:
    ledger = place.open(**THREE)
    take(ledger, "a", bundle_key="k")
    take(ledger, "b", bundle_key="l")
    named = lambda lease: lease.key == "k"  # noqa: E731
    kept = ledger.gc(lambda _: True, bundles=named)
    assert [(one.uid, one.what) for one in kept] == [(170001, "kept")]
    ledger.release(170001, "a")
    gone = ledger.gc(lambda _: True, bundles=named)
    assert [(one.uid, one.what) for one in gone] == [(170001, "released")]
    assert sorted(os.listdir(place.identity / "uids")) == ["170002"]
    assert len(os.listdir(place.identity / "bundles")) == 1
    assert take(ledger, "a", bundle_key="k").uid == 170003


# gc.


def test_gc_leaves_what_runs_and_what_is_being_launched(
    place: Place, take: Take
) -> None:
    powers.need(powers.root())
    ours = place.open()
    take(ours, "runs")
    take(ours, "gone")
    take(ours, "haunted")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            take(place.open(), "orphan")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from isolauncher.identity.ledger import Ledger\n"
            f"ledger = Ledger(Path({str(place.state)!r}), Path({str(place.run)!r}),\n"
            " first=170000, last=189999)\n"
            "ledger.take(mode='instance', caller_uid=1, caller_name='b',"
            " activity_id='launching')\n"
            "print(flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with process_as(170003, 170003, 170003) as pid:
            done = ours.gc(lambda activity: activity == "runs")
        assert {one.activity_id: (one.what, one.why) for one in done} == {
            "gone": ("released", "its activity is gone"),
            "orphan": ("released", "its activity is gone"),
            "haunted": ("kept", f"process {pid} runs as it"),
            "launching": ("kept", f"process {other.pid} took it and lives"),
        }
        other.kill()
    done = ours.gc(lambda activity: activity == "runs")
    assert {one.activity_id for one in done} == {"haunted", "launching"}
    assert [lease.activity_id for lease in ours.leases()] == ["runs"]


def test_a_new_boot_drops_leases_of_single_activities(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.open()
    take(old, "a")
    take(old, "b", bundle_key="k")
    new_boot(monkeypatch)
    new = place.open()
    assert [(lease.uid, lease.activity_id) for lease in new.leases()] == [(170002, "")]
    assert new.find("a") is None
    assert new.find("b") is None
    assert "isolauncher-170001.user" not in os.listdir(place.userdb)


# Damage.


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        path.symlink_to("/etc/passwd")
    elif how == "directory":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "zeros": b"\0" * 300,
                "garbage": b"\xff\x00{",
                "nested": b"[" * 10**4,
                "huge": b" " * 10**6,
                "other": text.replace("170002", "170003").encode(),
                "version": text.replace('"version": 1', '"version": 2').encode(),
                "unknown": text.replace('"gid"', '"GID"').encode(),
                "type": text.replace('"gid": 170002', '"gid": "170002"').encode(),
                "bool": text.replace(
                    '"taker_pid": ', '"taker_pid": true, "x": '
                ).encode(),
                "twice": text.replace('"b"', '"a"').encode(),
                "mode": text.replace('"instance"', '"root"').encode(),
                "path": text.replace('"b"', '"../b"').encode(),
            }[how]
        )


@pytest.mark.parametrize(
    "how",
    "fifo link directory empty zeros garbage nested huge other version unknown type "
    "bool twice mode path".split(),
)
def test_an_unusable_lease_is_named_and_its_uid_never_given(
    place: Place, take: Take, how: str
) -> None:
    first = place.open(**THREE)
    take(first, "a")
    take(first, "b")
    path = place.identity / "uids" / "170002"
    damage(path, how)
    ledger = place.open(**THREE)
    (problem,) = ledger.problems()
    assert str(path) in problem
    assert "identity gc --corrupt" in problem
    assert [lease.activity_id for lease in ledger.leases()] == ["a"]
    assert take(ledger, "c").uid == 170003
    with refused("identity-exhausted"):
        take(ledger, "d")
    assert ledger.gc(lambda _: True) == ()
    (gone,) = ledger.gc(lambda _: True, discard_corrupt=True)
    assert (gone.uid, gone.what) == (170002, "released")
    assert ledger.problems() == ()
    assert take(ledger, "d").uid == 170002


def test_a_damaged_constant_uid_is_not_replaced_by_another(
    place: Place, take: Take
) -> None:
    first = place.open()
    take(first, "a", bundle_key="k")
    first.release(170001, "a")
    (place.identity / "uids" / "170001").write_bytes(b"")
    ledger = place.open()
    with refused("identity-corrupt"):
        take(ledger, "a", bundle_key="k")
    assert take(ledger, "b", bundle_key="l").uid == 170002
    ledger.gc(lambda _: True, discard_corrupt=True)
    assert take(ledger, "a", bundle_key="k").uid == 170003


def test_corrupt_leases_with_a_process_or_file_are_kept(
    place: Place, take: Take
) -> None:
    powers.need(powers.root())
    first = place.open()
    take(first, "a", bundle_key="k")
    (place.identity / "uids" / "170001").write_bytes(b"")
    ledger = place.open()
    with process_as(170001, 170001, 170001):
        (kept,) = ledger.gc(lambda _: False, discard_corrupt=True)
        assert kept.what == "kept"
    with refused("identity-corrupt"):
        take(ledger, "b", bundle_key="k")


def test_what_a_power_loss_tore_is_dropped_at_the_next_boot(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = place.open(**THREE)
    take(ledger, "a")
    take(ledger, "b")
    (place.identity / "uids" / "170001").write_bytes(b"")
    (place.identity / "uids" / "170002").write_bytes(b"\0" * 100)
    new_boot(monkeypatch)
    after = place.open(**THREE)
    assert after.problems() == ()
    assert after.leases() == ()


@pytest.mark.parametrize("how", ["gone", "empty", "short", "garbage", "longer"])
def test_without_a_map_no_lease_is_lost_or_doubled(
    place: Place, take: Take, how: str
) -> None:
    old = place.open(**THREE)
    take(old, "a")
    take(old, "b", bundle_key="k")
    path = place.identity / "map"
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(
            {
                "empty": b"",
                "short": content[:-1],
                "garbage": b"x" * len(content),
                "longer": content + b"x",
            }[how]
        )
    ledger = place.open(**THREE)
    assert [lease.activity_id for lease in ledger.leases()] == ["a", "b"]
    assert take(ledger, "c").uid == 170003
    with refused("identity-exhausted"):
        take(old, "d")


def test_a_stray_file_is_named(place: Place) -> None:
    place.open()
    (place.identity / "uids" / "README").touch()
    (problem,) = place.open().problems()
    assert "README" in problem


# Who may touch it.


def test_others_can_neither_read_nor_write_it(place: Place, take: Take) -> None:
    take(place.open(), "a", bundle_key="k")
    for top, directories, files in os.walk(place.identity):
        for name in (*directories, *files):
            assert not os.lstat(Path(top, name)).st_mode & 0o077
    assert stat.S_IMODE(place.identity.stat().st_mode) == 0o700


def test_a_directory_that_others_may_change_is_refused(place: Place) -> None:
    place.identity.mkdir(parents=True)
    place.identity.chmod(0o770)
    with refused("identity-unsafe-directory"):
        place.open()


def test_a_link_in_place_of_the_directory_is_refused(place: Place) -> None:
    place.state.mkdir()
    (place.state / "elsewhere").mkdir(mode=0o700)
    place.identity.symlink_to("elsewhere")
    with refused("identity-state"):
        place.open()


def test_a_stopped_holder_of_the_lock_is_named(
    place: Place, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_LOCK_PATIENCE_S", 0.05)
    ledger = place.open()
    with open(place.identity / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refused("identity-busy") as caught:
            take(ledger, "a")
        assert f"by process {os.getpid()}" in caught.value.message
    take(ledger, "a")


# Cost.

COUNT = """
import os, sys
from pathlib import Path
from isolauncher.identity.ledger import Ledger

state, alive = Path(sys.argv[1]), int(sys.argv[2])
ledger = Ledger(state, state / "run", quota=10**6, userdb_dir=state / "userdb",
                first=170000, last=189999)

def once(activity):
    lease = ledger.take(mode="instance", caller_uid=1000, caller_name="alice",
                        activity_id=activity)
    return lease

for n in range(alive):
    once(f"a{n}")
calls = 0
def hook(event, arguments):
    global calls
    calls += event.startswith(("os.", "open", "fcntl."))
def counters():
    with open("/proc/self/io") as file:
        return sum(int(l.split()[1]) for l in file if l.startswith("sysc"))
sys.addaudithook(hook)
before, calls = counters(), 0
for n in range(20):
    ledger.release(once(f"b{n}").uid, f"b{n}")
print(calls, counters() - before)
"""


def test_the_system_calls_of_a_take_do_not_depend_on_how_many_are_taken(
    tmp_path: Path,
) -> None:
    counted = {
        subprocess.run(
            [sys.executable, "-c", COUNT, tmp_path / str(alive), str(alive)],
            check=True,
            capture_output=True,
            text=True,
            cwd=TOP,
        ).stdout
        for alive in (100, 2000)
    }
    assert len(counted) == 1


# Names outside.


def test_names_outside_come_and_go_with_the_lease(place: Place, take: Take) -> None:
    ledger = place.open()
    take(ledger, "a")
    assert sorted(os.listdir(place.userdb)) == [
        "170001.group",
        "170001.user",
        "isolauncher-170001.group",
        "isolauncher-170001.user",
    ]
    user = json.loads((place.userdb / "170001.user").read_text())
    assert (user["userName"], user["uid"]) == ("isolauncher-170001", 170001)
    assert user["locked"] is True
    group = json.loads((place.userdb / "170001.group").read_text())
    assert (group["groupName"], group["gid"]) == ("isolauncher-170001", 170001)
    for path in place.userdb.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    ledger.release(170001, "a")
    assert os.listdir(place.userdb) == []


def test_without_a_name_there_is_no_lease(place: Place, take: Take) -> None:
    ledger = place.open(userdb_dir=place.state / "missing" / "userdb")
    with refused("identity-userdb"):
        take(ledger, "a")
    assert ledger.leases() == ()
    assert os.listdir(place.identity / "uids") == []


def test_gc_leaves_names_that_are_not_the_ledgers(place: Place, take: Take) -> None:
    ledger = place.open()
    take(ledger, "a")
    (place.userdb / "bob.user").write_text("{}")
    (place.userdb / "170005.user").symlink_to("bob.user")
    (place.userdb / "isolauncher-170006.user").write_text('{"userName": "x"}')
    (place.userdb / ".isolauncher-170007.user.new").touch()
    before = set(os.listdir(place.userdb))
    done = ledger.gc(lambda _: True)
    assert [one.uid for one in done] == [170007]
    assert before - set(os.listdir(place.userdb)) == {".isolauncher-170007.user.new"}


def test_ps_and_ls_can_name_a_uid_through_nss_systemd(
    place: Place, tmp_path: Path
) -> None:
    powers.need(powers.mounting(), nss_systemd())
    (tmp_path / "nsswitch").write_text("passwd: files systemd\ngroup: files systemd\n")
    program = (
        "import sys, pwd, grp; from pathlib import Path\n"
        "from isolauncher.identity.ledger import Ledger\n"
        f"top = Path({str(tmp_path)!r})\n"
        "for name in ('state', 'again'):\n"
        "    ledger = Ledger(top / 'state', top / 'run',\n"
        "                    userdb_dir=Path('/run/userdb'),\n"
        "                    first=170000, last=170001)\n"
        "    lease = ledger.take(mode='instance', caller_uid=0, caller_name='root',\n"
        "                        activity_id=name)\n"
        "    print(pwd.getpwuid(lease.uid).pw_name, grp.getgrgid(lease.gid).gr_name)\n"
        "    print(pwd.getpwnam('isolauncher-170001').pw_uid)\n"
        "    ledger.release(lease.uid, name)\n"
        "try:\n"
        "    pwd.getpwuid(lease.uid)\n"
        "except KeyError:\n"
        "    print('gone')\n"
    )
    seen = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            "mount -t tmpfs tmpfs /run; mount --bind $0 /etc/nsswitch.conf; "
            'exec "$1" -c "$2"',
            tmp_path / "nsswitch",
            sys.executable,
            program,
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=TOP,
    ).stdout
    line = "isolauncher-170001 isolauncher-170001\n170001\n"
    assert seen == f"{line}{line}gone\n"


def nss_systemd() -> powers.Reason:
    import ctypes

    try:
        ctypes.CDLL("libnss_systemd.so.2")
    except OSError as why:
        return f"libnss-systemd is not installed: {why}"
    return None
