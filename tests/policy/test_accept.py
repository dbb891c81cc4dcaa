# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings that somebody answers for, with a reason, until a day, and no longer."""

from __future__ import annotations

import datetime
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from isolauncher.policy import audit
from isolauncher.policy.audit import Remark
from isolauncher.policy.model import Policy

from .conftest import Shelf
from .test_command import call

DAY = datetime.date(2026, 11, 29)
NETWORK = '[network]\naccess = "host"\n'


def accept(finding: str, until: str, more: str = "") -> str:
    return (
        f'[[accept]]\nfinding = "{finding}"\nbecause = "It must."\n{more}'
        f"until = {until}\n"
    )


def made(shelf: Shelf, text: str, name: str = "mine") -> Policy:
    shelf.put(name, f"version = 1\n{text}")
    return shelf.store.get(name)


def found(policy: Policy, today: datetime.date = DAY) -> dict[str, Remark]:
    return {r.id: r for r in audit.findings(audit.remarks(policy, today=today))}


@pytest.mark.parametrize(
    ("today", "holds"),
    [
        (datetime.date(2026, 1, 1), True),
        (datetime.date(2027, 6, 30), True),
        (datetime.date(2027, 7, 1), False),
    ],
)
def test_an_exception_holds_through_its_day(
    shelf: Shelf, today: datetime.date, holds: bool
) -> None:
    policy = made(shelf, NETWORK + accept("network-host", "2027-06-30"))
    told = audit.remarks(policy, today=today)
    finding = found(policy, today)["network-host"]
    assert (finding.accepted is not None) is holds
    assert finding.severity == "dangerous"
    assert audit.worst(told) == (None if holds else "dangerous")
    # It opens as much as it did.
    plain = audit.remarks(made(shelf, NETWORK, "plain"), today=today)
    assert audit.exposure(told) == audit.exposure(plain)
    expired = found(policy, today).get("accept-expired")
    if holds:
        assert expired is None
    else:
        assert expired is not None
        assert (expired.severity, expired.line) == ("open", 4)
        assert expired.message.startswith("network-host, 2027-06-30: ")
        assert expired.because == "It must."
    # There is a reason, if an old one.
    assert "no-reason" not in found(policy, today)


def test_it_is_for_what_it_names_and_nothing_else(shelf: Shelf) -> None:
    text = '[files]\nread = ["...", "/srv/a", "/srv/b"]\n'
    policy = made(
        shelf, text + accept("reads-others", "2027-06-30", 'item = "/srv/a"\n')
    )
    told = audit.findings(audit.remarks(policy, today=DAY))
    assert [(r.item, r.accepted is not None) for r in told] == [
        ("/srv/b", False),
        ("/srv/a", True),
    ]
    other = 'key = "files.write"\n'
    policy = made(shelf, text + accept("reads-others", "2027-06-30", other))
    told = audit.findings(audit.remarks(policy, today=DAY))
    assert not [r for r in told if r.accepted]
    unused = found(policy)["accept-unused"]
    assert (unused.severity, unused.line) == ("note", 4)
    assert unused.message.startswith("reads-others files.write: ")
    policy = made(shelf, text + accept("reads-others", "2027-06-30"))
    told = audit.findings(audit.remarks(policy, today=DAY))
    assert [r.accepted is not None for r in told] == [True, True]


def test_what_expired_and_has_nothing_left_is_unused_only(shelf: Shelf) -> None:
    policy = made(shelf, accept("network-host", "2020-01-01"))
    assert list(found(policy)) == ["accept-unused"]


def test_an_expired_one_beside_one_that_holds_is_found_and_harmless(
    shelf: Shelf,
) -> None:
    old, new = (accept("network-host", day) for day in ("2020-01-01", "2030-01-01"))
    policy = made(shelf, NETWORK + old + new)
    told = found(policy)
    assert told["accept-expired"].line == 4
    accepted = told["network-host"].accepted
    assert accepted is not None
    assert accepted.until.year == 2030


def test_who_stands_on_an_exception_does_not_inherit_it(shelf: Shelf) -> None:
    made(shelf, NETWORK + accept("network-host", "2027-06-30"), "base")
    policy = made(shelf, 'extends = "base"\n')
    assert policy.accepts == ()
    assert audit.worst(audit.remarks(policy, today=DAY)) == "dangerous"


def test_a_dangerous_finding_without_a_reason_is_a_finding_of_its_own(
    shelf: Shelf,
) -> None:
    bare = found(made(shelf, NETWORK))
    assert bare["no-reason"].key == "network.access"
    assert bare["no-reason"].line == 3
    assert bare["no-reason"].message.startswith("network-host: ")
    assert "[[accept]]" in bare["no-reason"].fix
    granted = made(shelf, '[grants]\nP_NET = { because = "It must." }\n')
    assert set(found(granted)) == {"network-host"}
    assert audit.worst(audit.remarks(granted, today=DAY)) == "dangerous"
    # What is not dangerous needs none.
    assert "no-reason" not in found(made(shelf, '[display]\nx11 = "shared"\n'))


def test_every_finding_but_those_about_exceptions_can_be_accepted(
    shelf: Shelf,
) -> None:
    for kind in audit.KINDS:
        text = "version = 1\n" + accept(kind.id, "2027-06-30")
        path = shelf.put("mine", text)
        if kind.id in audit.ACCEPTABLE:
            assert shelf.store.get("mine").accepts[0].finding == kind.id
            continue
        (mistake,) = shelf.mistakes("mine")
        assert mistake.text().startswith(
            f"{path}:3:11: accept.finding: '{kind.id}' is no finding that can be "
            "accepted\n"
        )
    assert len(audit.KINDS) - len(audit.ACCEPTABLE) == 5


# ------------------------------------------------------------------ as a person sees it


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, day in (("held", "9999-12-31"), ("late", "2020-01-01")):
        text = NETWORK + accept("network-host", day)
        (tmp_path / f"{name}.toml").write_text(f"version = 1\n{text}")
    return tmp_path


def test_the_status_and_the_text_tell_it(checkout: Path, directory: Path) -> None:
    place = ("--policy-dir", str(directory))
    held = call(*place, "held", checkout=checkout)
    assert held.returncode == 0, held.stdout
    assert (
        f"  accepted  network.access ({directory}/held.toml:3) [network-host]\n"
    ) in held.stdout
    assert (
        f"            accepted until 9999-12-31 ({directory}/held.toml:4): It must.\n"
    ) in held.stdout
    late = call(*place, "late", checkout=checkout)
    assert late.returncode == 1
    assert "  dangerous network.access" in late.stdout
    assert "[accept-expired]" in late.stdout
    # --threshold: what is accepted does not reach the lowest either.
    assert (
        call(*place, "--threshold", "open", "held", checkout=checkout).returncode == 0
    )


def test_json_and_junit_and_the_difference_tell_it(
    checkout: Path, directory: Path
) -> None:
    place = ("--policy-dir", str(directory))
    done = call(*place, "--json", "held", checkout=checkout)
    (policy,) = json.loads(done.stdout)["policies"]
    (finding,) = policy["findings"]
    assert finding["severity"] == "dangerous"
    assert finding["accepted"] == {
        "because": "It must.",
        "until": "9999-12-31",
        "file": f"{directory}/held.toml",
        "line": 4,
    }
    done = call(*place, "--format", "junit", checkout=checkout)
    suites = {s.get("name"): s for s in ET.fromstring(done.stdout)}  # noqa: S314 (our own)
    assert suites["held"].get("failures") == "0"
    assert suites["late"].get("failures") == "1"
    names = [case.get("name") for case in suites["held"].findall("testcase")]
    assert "network-host network.access (accepted until 9999-12-31)" in names
    done = call(*place, "--diff", "held", "late", checkout=checkout)
    assert "  - accepted network.access: The activity reaches" in done.stdout
    assert "  + dangerous network.access: The activity reaches" in done.stdout
    assert "  exposure +0.0\n" in done.stdout
