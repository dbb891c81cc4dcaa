# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shipped policies come to, held against files that a person has read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import golden
from support.golden import DEBIAN

from isolauncher import plan
from isolauncher.cli.test_policy import besides
from isolauncher.errors import PolicyError
from isolauncher.policy import audit, choose
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy

from .test_audit import names, points, shipped, weaker, written

BEYOND = {
    "browse": {"devices.allow", "limits.memory", "limits.processes"},
    "jukebox": {"devices.allow"},
    "memorize": {"devices.allow"},
    "log": {"files.read"},
    "read": {"limits.memory"},
    "terminal": {"files.tmp", "limits.memory", "limits.processes"},
}
"""In what a policy gives more than `sugar`; the others give more in nothing."""


@pytest.fixture(scope="module")
def store() -> Iterator[PolicyStore]:
    with closing(PolicyStore(etc_dir=None)) as made:
        yield made


@pytest.fixture(scope="module")
def plans() -> dict[str, str]:
    return golden.plans()


@pytest.mark.parametrize("name", names())
def test_a_shipped_policy_comes_to_what_its_golden_plan_says(
    name: str, plans: dict[str, str]
) -> None:
    path = golden.GOLDEN / f"{name}.plan"
    known = path.read_text(encoding="utf-8") if path.exists() else "(no such file)\n"
    assert plans[name] == known, "tests/support/golden.py writes it anew: read the diff"


def test_there_is_no_golden_plan_of_a_policy_that_is_not_shipped() -> None:
    assert sorted(path.stem for path in golden.GOLDEN.iterdir()) == golden.names()


def said(policy: Policy) -> tuple[str, ...]:
    return (*plan.describe_policy(policy), *besides(policy))


@pytest.mark.parametrize("name", ["default", "untrusted", "sugar", "browse"])
def test_whatever_weakens_a_policy_changes_its_plan(name: str, tmp_path: Path) -> None:
    head = f'version = 1\nextends = "{name}"\n'
    before = said(written(tmp_path, "mutant", mutant=head))
    unseen = []
    for number, (key, line) in enumerate(weaker(shipped(name))):
        one = f"m{number}"
        text = f"{head}[{key.partition('.')[0]}]\n{line}\n"
        try:
            mutant = written(tmp_path, one, **{one: text})
        except PolicyError:
            continue  # no policy may say that at all
        finally:
            (tmp_path / f"{one}.toml").unlink()
        if said(mutant) == before:
            unseen.append(f"{key}: {line}")
    assert not unseen


def test_every_activity_of_debian_s_has_a_policy_of_its_own(store: PolicyStore) -> None:
    for bundle_id, name in DEBIAN.items():
        choice = choose.for_bundle(store, bundle_id, system=True)
        assert choice.policy.name == name
        assert choice.policy.match.bundle_ids == (bundle_id,)
        # An id is only a claim.
        choice = choose.for_bundle(store, bundle_id, system=False)
        assert choice.policy.name == "untrusted"


@pytest.mark.parametrize("name", DEBIAN.values())
def test_an_activity_s_policy_gives_less_than_sugar_but_where_it_says_so(
    name: str, store: PolicyStore
) -> None:
    policy, sugar = store.get(name), store.get("sugar")
    mine, theirs = audit.remarks(policy), audit.remarks(sugar)
    keys = {remark.key for remark in mine if not remark.key.startswith("match.")}
    more = {key for key in keys if points(mine, key) > points(theirs, key)}
    assert more == BEYOND.get(name, set())
    assert policy.network == "none"
    assert policy.view.write == ()
    assert policy.bus.session_call == ()


def test_an_exam_is_cut_off_and_a_developer_has_nothing_of_the_person_s(
    store: PolicyStore,
) -> None:
    exam, developer = store.get("exam"), store.get("developer")
    assert (exam.network, developer.network) == ("none", "loopback")
    for policy in (exam, developer):
        assert policy.view.documents == "own"
        assert policy.bus.session_call == ()
        assert policy.view.write == ()
        assert not [path for path in policy.view.read if path.startswith("{home}")]
    sugar = store.get("sugar")
    assert set(exam.view.read) == set(sugar.view.read)
    assert exam.limits.processes < sugar.limits.processes < developer.limits.processes


@pytest.mark.parametrize("name", names())
def test_a_shipped_policy_says_what_it_expects_of_itself(
    name: str, store: PolicyStore
) -> None:
    policy = store.get(name)
    assert policy.description.endswith(".")
    # Something that works, or at least something that does not.
    assert {expect.result for expect in policy.expects} & {"refused", "absent"}
    assert len({(e.verb, e.argument) for e in policy.expects}) == len(policy.expects)
    verbs = {expect.verb for expect in policy.expects}
    assert "connect" in verbs
