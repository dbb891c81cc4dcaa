# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher restrict` takes what was meant, and tells what has not followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from isolauncher.cli import main
from isolauncher.errors import PolicyError
from isolauncher.policy import audit, choose, load, restrict
from isolauncher.policy.model import values

from .conftest import CALCULATE, LOG, RECORD, SHIPPED, Place, refused


@pytest.mark.parametrize(
    ("bundle_id", "name", "powers"),
    [
        (LOG, "log", ("documents", "files")),
        (LOG, "log", ("files",)),
        (CALCULATE, "calculate", ("documents",)),
        # Which only a prefix governs, and which nothing does.
        (RECORD, f"{RECORD}.restricted", ("documents", "programs")),
    ],
)
def test_what_is_written_passes_test_policy_and_is_lower_there_alone(
    place: Place, bundle_id: str, name: str, powers: tuple[str, ...]
) -> None:
    base = place.standing(bundle_id).base
    path = place.take(*powers, bundle_id=bundle_id)
    assert path == str(place.etc / f"{name}.toml")
    arguments = [f"--policy-dir={place.etc}", "--threshold=dangerous"]
    assert main.main(["test-policy", *arguments]) == 0
    assert main.main(["test-policy", *arguments, name]) == 0
    now = choose.for_bundle(place.store, bundle_id, system=True).policy
    lowered = restrict.lowered(base, restrict.powers(powers, place.standing(bundle_id)))
    assert lowered
    assert values(now) == {**values(base), **lowered}
    assert audit.exposure(audit.remarks(now)) <= audit.exposure(audit.remarks(base))
    assert restrict.held(now) == tuple(
        p for p in restrict.held(base) if p not in powers
    )
    assert place.standing(bundle_id).taken == restrict.powers(
        powers, place.standing(bundle_id)
    )


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in SHIPPED.glob("*.toml") if "\nbundle-id =" in p.read_text()),
)
def test_every_power_of_every_shipped_policy_can_be_taken(
    place: Place, name: str
) -> None:
    base = place.store.get(name)
    for bundle_id in base.match.bundle_ids:
        bundle_id = bundle_id.replace("*", "Something")
        held = place.standing(bundle_id).held
        place.take(*held, bundle_id=bundle_id)
        now = choose.for_bundle(place.store, bundle_id, system=True).policy
        assert restrict.held(now) == ()
        assert now.match.callers == base.match.callers
    assert main.main(["test-policy", f"--policy-dir={place.etc}"]) == 0


def test_what_is_taken_is_replaced_as_a_whole_and_given_back(place: Place) -> None:
    place.take("documents")
    place.take("files")
    assert place.standing().taken == ("files",)
    assert place.standing().now.view.documents == "opened"
    assert [*place.files()] == ["log.toml"]
    assert place.take() == ""
    assert place.files() == {}
    assert place.standing().taken == ()
    assert place.take() == ""


def test_an_activity_stays_lower_when_its_shipped_policy_changes(own: Place) -> None:
    own.take("documents", "files")
    shipped = Path(own.store.vendor_dir) / "log.toml"
    text = shipped.read_text().replace('"/var/log"]', '"/var/log", "/srv/atlas"]')
    shipped.write_text(text)
    standing = own.standing()
    assert standing.now is not None
    assert "/srv/atlas" in standing.base.view.read
    assert "/srv/atlas" not in standing.now.view.read


@pytest.mark.parametrize(
    ("power", "then", "now", "key"),
    [
        ("documents", 'tmp = "16M"', 'documents = "none"', "files.documents"),
        ("files", 'read = ["...", ', 'read = ["/usr", ', "files.read"),
        # Whom it admits, and what else the one governs in whose place it stands.
        ("files", "[match]\n", '[match]\ncallers = ["root"]\n', "match.callers"),
        ("files", f'["{LOG}"]', f'["{LOG}", "org.laptop.Other"]', "match.bundle-id"),
    ],
)
def test_what_gives_back_what_its_policy_lost_is_told_and_made_anew(
    own: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    power: str,
    then: str,
    now: str,
    key: str,
) -> None:
    monkeypatch.setattr(load, "vendor_directory", lambda: own.store.vendor_dir)
    own.take(power)
    assert own.standing().stale == ()
    shipped = Path(own.store.vendor_dir) / "log.toml"
    assert then in shipped.read_text()
    shipped.write_text(shipped.read_text().replace(then, now))
    standing = own.standing()
    assert standing.stale == (key,)

    arguments = ["log", f"--policy-dir={own.etc}", "--json"]
    assert main.main(["test-policy", *arguments, "--threshold=dangerous"]) == 0
    (tested,) = json.loads(capsys.readouterr().out)["policies"]
    told = [f for f in tested["findings"] if f["id"] == "restriction-stale"]
    assert [(f["key"], f["file"]) for f in told] == [(key, str(own.etc / "log.toml"))]
    assert main.main(["explain", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] == [key]
    assert main.main(["explain", *arguments[:2]]) == 0
    assert standing.outdated() in capsys.readouterr().err

    # The command that is told does it.
    words = standing.again().split()
    assert words[:3] == ["isolauncher", "restrict", LOG]
    own.take(*(word for word in words[3:] if word != "--as-shipped"))
    assert own.standing().stale == ()


def test_what_a_later_shipped_policy_makes_ambiguous_is_given_back(own: Place) -> None:
    own.take("documents", bundle_id=RECORD)
    (made,) = own.files()
    record = Path(own.store.vendor_dir) / "record.toml"
    record.write_text(
        f'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["{RECORD}"]\n'
    )
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(own.store, RECORD, system=True)
    assert (
        f"isolauncher restrict {RECORD} --as-shipped" in caught.value.mistakes[0].hint
    )
    standing = own.standing(RECORD)
    assert (standing.now, standing.taken) == (None, ("documents",))
    assert standing.base.name == "record"
    refused(own, "restrict-outdated", "documents", bundle_id=RECORD)
    assert [*own.files()] == [made]
    assert own.take(bundle_id=RECORD) == ""
    assert own.files() == {}
    assert own.standing(RECORD).name == "record"


def test_what_was_made_counts_from_the_policy_that_would_govern_now(own: Place) -> None:
    own.take("documents", bundle_id=RECORD)
    games = Path(own.store.vendor_dir) / "games.toml"
    games.write_text(
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.Rec.*"]\n'
    )
    assert own.standing(RECORD).stale == ()
    games.write_text(
        'version = 1\nextends = "calculate"\n' '[match]\nbundle-id = ["org.laptop.*"]\n'
    )
    sugar = Path(own.store.vendor_dir) / "sugar.toml"
    sugar.write_text(sugar.read_text().replace("org.laptop.*", "org.other.*"))
    standing = own.standing(RECORD)
    assert standing.base.name == "games"
    assert {"bus.session-call", "limits.memory"} <= {*standing.stale}
    own.take("documents", bundle_id=RECORD)
    assert own.standing(RECORD).stale == ()


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    place = Place(tmp_path / "isolauncher" / "policies")
    place.take("documents")
    for path in (place.etc, place.etc.parent):
        assert path.stat().st_mode & 0o7777 == 0o755
    assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
    place.store.close()


def test_a_umask_of_the_caller_s_changes_nothing(place: Place) -> None:
    before = os.umask(0)
    try:
        place.take("documents")
        assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
        os.umask(0o777)
        place.take("files")
        assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
    finally:
        os.umask(before)
