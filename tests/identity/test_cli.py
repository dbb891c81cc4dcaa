# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher identity list|gc``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from isolauncher.cli.main import main
from isolauncher.identity.leases import Lease

from .conftest import Place

Take = Callable[..., Lease]


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the verb asks is who calls it; the files here are the test's own."""
    monkeypatch.setattr(os, "geteuid", os.getuid)
    if os.getuid() != 0:
        monkeypatch.setattr("isolauncher.cli.identity.os.geteuid", lambda: 0)


def identity(place: Place, *words: str) -> int:
    gc = ["--run-dir", str(place.run), "--userdb-dir", str(place.userdb)]
    return main(
        [
            "identity",
            *words[:1],
            "--state-dir",
            str(place.state),
            *(gc if words[0] == "gc" else []),
            *words[1:],
        ]
    )


def test_list_shows_who_holds_what(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = place.open()
    take(ledger, "a", caller_name="ali\x1b[31mce")
    take(ledger, "b", bundle_key="org.example.B")
    assert identity(place, "list") == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == "UID MODE CALLER BY ACTIVITY SINCE KEY".split()
    assert first.split()[:5] == ["170001", "instance", "1000", "ali\\x1b[31mce", "a"]
    assert second.endswith("org.example.B (user)")


def test_list_json_is_a_list_of_leases(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    take(place.open(), "a")
    assert identity(place, "list", "--json") == 0
    (lease,) = json.loads(capsys.readouterr().out)
    assert (lease["uid"], lease["activity_id"], lease["caller_uid"]) == (
        170001,
        "a",
        1000,
    )


def test_a_caller_is_one_of_a_bundle_s(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is named by halves does nothing, and was said to have found nothing."""
    take(place.open(), "a", mode="bundle", bundle_key="org.example.B")
    assert identity(place, "gc", "--caller", "1000") == 125
    assert capsys.readouterr().err.endswith("[identity-no-bundle]\n")


@pytest.mark.parametrize("verb", ["list", "gc"])
def test_looking_begins_no_ledger(
    place: Place, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert identity(place, verb, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert not place.state.exists()


def test_the_range_is_the_ledgers_own(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = place.open(first=180000, last=180005)
    assert identity(place, "list") == 0
    assert identity(place, "gc") == 0
    assert take(ledger, "a").uid == 180001


def test_gc_takes_back_what_has_no_record(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = place.open()
    take(ledger, "runs")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            take(place.open(), "gone")
            take(place.open(), "bundle", bundle_key="k")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    records = place.run / "activities"
    records.mkdir(parents=True)
    (records / "runs").write_text('{"uid": 170001}')
    assert identity(place, "gc", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert {one["activity_id"]: one["what"] for one in done} == {
        "gone": "released",
        "bundle": "released",
    }
    assert [lease.uid for lease in ledger.leases()] == [170001, 170003]
    assert identity(place, "gc") == 0
    assert capsys.readouterr().out == "nothing to take back\n"
    assert identity(place, "gc", "--bundle", "k", "--caller", "1001") == 0
    assert capsys.readouterr().out == "nothing to take back\n"
    assert identity(place, "gc", "--bundle", "k", "--caller", "1000") == 0
    assert capsys.readouterr().out == "uid 170003: released: 'k' has no uid any more\n"


def test_an_unusable_lease_is_told_on_stderr_and_gc_corrupt_removes_it(
    place: Place, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    take(place.open(), "a")
    path = place.identity / "uids" / "170001"
    path.write_bytes(b"")
    for verb in ("list", "gc"):
        assert identity(place, verb) == 0
        told = capsys.readouterr().err
        assert str(path) in told
        assert told.endswith("[identity-corrupt]\n")
    assert identity(place, "gc", "--corrupt") == 0
    assert not path.exists()


@pytest.mark.parametrize("verb", ["list", "gc"])
def test_it_is_refused_to_all_but_root(
    place: Place,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("isolauncher.cli.identity.os.geteuid", lambda: 1000)
    assert identity(place, verb) == 125
    assert capsys.readouterr().err.endswith("[identity-root-only]\n")
