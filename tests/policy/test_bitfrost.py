# SPDX-License-Identifier: GPL-3.0-or-later
"""Bitfrost's names are grants: they give what other keys give, and say why."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from isolauncher.policy import audit, bitfrost, check
from isolauncher.policy.model import KEYS, Policy, Value, values

from .conftest import Shelf

PEERS = (
    *("P_SF_CORE", "P_SF_RUN", "P_NET", "P_NAND_RL", "P_MIC_CAM", "P_CPU_RL", "P_RTC"),
    *("P_DSP_BG", "P_X", "P_IDENT", "P_SANDBOX", "P_DOCUMENT", "P_DOCUMENT_RO"),
    *("P_DOCUMENT_RL", "P_DOCUMENT_BACKUP", "P_THEFT", "P_SERVER_AUTH", "P_PASSWORD"),
    *("P_BIOS_CORE", "P_BIOS_COPY"),
)
WHY = '{ because = "A reason." }'


def made(shelf: Shelf, text: str, name: str = "mine") -> Policy:
    shelf.put(name, f"version = 1\n{text}")
    return shelf.store.get(name)


@pytest.mark.parametrize("name", PEERS)
def test_each_of_the_names_gives_is_refused_or_means_nothing(
    shelf: Shelf, name: str
) -> None:
    """Whatever is accepted is either in force, by its keys, or a finding says it."""
    found = bitfrost.find(name)
    assert found is not None
    if found.missing:
        shelf.put("mine", f"version = 1\n[grants]\n{name} = {WHY}\n")
        (mistake,) = shelf.mistakes("mine")
        assert mistake.code == "policy-not-enforced-yet"
        assert (mistake.line, mistake.key) == (3, f"grants.{name}")
        return
    before = values(made(shelf, ""))
    policy = made(shelf, f"[grants]\n{name} = {WHY}\n")
    (grant,) = policy.grants
    assert (grant.name, grant.because, grant.origin.line) == (name, "A reason.", 3)
    after = values(policy)
    given = {one.key: one.value for one in found.gives}
    assert {**before, **given} == after
    told = [r for r in audit.findings(audit.remarks(policy)) if r.id == "grant-empty"]
    assert [(r.key, r.line) for r in told] == ([] if given else [(f"grants.{name}", 3)])


def test_the_reason_goes_where_what_it_gives_is_found(shelf: Shelf) -> None:
    policy = made(shelf, f"[grants]\nP_NET = {WHY}\n")
    found = {r.id: r for r in audit.findings(audit.remarks(policy))}
    assert found["network-host"].because == "A reason."
    assert found["network-host"].line == 3
    assert found["network-host"].finding()["because"] == "A reason."
    bare = made(shelf, '[network]\naccess = "host"\n', "bare")
    (finding,) = [r for r in audit.remarks(bare) if r.id == "network-host"]
    assert finding.because == ""
    assert "because" not in finding.finding()
    # The reason makes it no less: a policy is as open as its keys are.
    assert finding.severity == found["network-host"].severity == "dangerous"


def test_a_grant_is_the_reason_of_a_key_that_says_the_same(shelf: Shelf) -> None:
    text = f'[network]\naccess = "host"\n[grants]\nP_NET = {WHY}\n'
    policy = made(shelf, text)
    assert policy.origin["network.access"].line == 3
    (finding,) = [r for r in audit.remarks(policy) if r.id == "network-host"]
    assert finding.because == "A reason."


def test_a_grant_beside_a_key_that_says_less_is_a_mistake(shelf: Shelf) -> None:
    for where in ("{}{}", "{1}{0}"):
        said = '[display]\nx11 = "none"\n'
        text = "version = 1\n" + where.format(f"[grants]\nP_X = {WHY}\n", said)
        path = shelf.put("mine", text)
        (mistake,) = shelf.mistakes("mine")
        line = text.splitlines().index('x11 = "none"') + 1
        at = text.splitlines().index(f"P_X = {WHY}") + 1
        assert mistake.text() == (
            f'{path}:{at}:1: grants.P_X: it stands for display.x11 = "shared", and '
            f'line {line} says "none"\n'
            "  (take one of the two away)  [policy-grant-contradicts]"
        )


def test_who_stands_on_a_grant_inherits_it_until_he_says_otherwise(
    shelf: Shelf,
) -> None:
    made(shelf, f"[grants]\nP_NET = {WHY}\nP_RTC = {WHY}\n", "base")
    same = made(shelf, 'extends = "base"\n')
    assert [grant.name for grant in same.grants] == ["P_NET", "P_RTC"]
    assert same.network == "host"
    closed = made(shelf, 'extends = "base"\n[network]\naccess = "none"\n')
    assert [grant.name for grant in closed.grants] == ["P_RTC"]
    assert closed.network == "none"
    # What was taken away does not come back as the reason of who opens it again.
    made(shelf, 'extends = "base"\n[network]\naccess = "none"\n', "closed")
    again = made(shelf, 'extends = "closed"\n[network]\naccess = "host"\n')
    assert [grant.name for grant in again.grants] == ["P_RTC"]
    other = 'extends = "base"\n[grants]\nP_NET = { because = "Another." }\n'
    assert [g.because for g in made(shelf, other).grants] == ["Another.", "A reason."]


def test_devices_are_granted_beside_those_that_the_file_names() -> None:
    text = f"version = 1\n[grants]\nP_MIC_CAM = {WHY}\nP_DSP_BG = {WHY}\n"
    for said, own, inherits in (
        ("", ("microphone", "camera", "sound"), True),
        ('["gpu"]', ("gpu", "microphone", "camera", "sound"), False),
        ('["...", "camera"]', ("camera", "microphone", "sound"), True),
    ):
        devices = f"[devices]\nallow = {said}\n" if said else ""
        layer = check.check((text + devices).encode(), "x.toml")
        assert not layer.mistakes
        assert layer.values["devices.allow"] == check.Listed(own, inherits)


def test_microphone_or_camera_with_a_network_needs_a_reason_for_both(
    shelf: Shelf,
) -> None:
    net, mic = f"P_NET = {WHY}\n", f"P_MIC_CAM = {WHY}\n"
    bare = '[network]\naccess = "host"\n[devices]\nallow = ["camera"]\n'
    for text, lacking in (
        (bare, "P_MIC_CAM"),
        (f'[network]\naccess = "host"\n[grants]\n{mic}', "P_NET"),
        (f'[devices]\nallow = ["microphone"]\n[grants]\n{net}', "P_MIC_CAM"),
    ):
        path = shelf.put("mine", f"version = 1\n{text}")
        (mistake,) = shelf.mistakes("mine")
        assert mistake.text() == (
            f"{path}:1: grants.{lacking}: a microphone or camera beside a network, and "
            f'nobody says why\n  (add {lacking} = {{ because = "one sentence" }} to '
            "[grants])  [policy-needs-reason]"
        )
    # A file that stands on one with a microphone, and opens the network.
    made(shelf, f"[grants]\n{mic}", "base")
    shelf.put("mine", 'version = 1\nextends = "base"\n[network]\naccess = "host"\n')
    assert shelf.codes("mine") == ["policy-needs-reason"]
    assert made(shelf, f"[grants]\n{net}{mic}").network == "host"
    assert made(shelf, '[network]\naccess = "loopback"\n[grants]\n' + mic).files


@pytest.mark.parametrize(
    ("found", "granted", "lacks"),
    [
        ({}, [], ""),
        ({"devices.allow": ("camera",)}, [], ""),
        ({"devices.allow": ("sound",), "network.access": "host"}, [], ""),
        ({"devices.allow": ("camera",), "network.access": "host"}, [], "P_MIC_CAM"),
        ({"devices.allow": ("camera",), "network.access": "loopback"}, [], ""),
        (
            {"devices.allow": ("microphone",), "network.access": "filtered"},
            ["P_MIC_CAM"],
            "P_NET",
        ),
    ],
)
def test_what_lacks_its_reason_is_named(
    found: Mapping[str, Value], granted: list[str], lacks: str
) -> None:
    assert bitfrost.without_reason(found, frozenset(granted)) == lacks


def test_a_name_of_anothers_is_refused_and_the_nearest_named(shelf: Shelf) -> None:
    for name, near in (("P_NETT", "P_NET"), ("p_mic_cam", "P_MIC_CAM")):
        shelf.put("mine", f"version = 1\n[grants]\n{name} = {WHY}\n")
        (mistake,) = shelf.mistakes("mine")
        assert mistake.code == "policy-bad-grant"
        assert mistake.hint == f"did you mean {near}?"
    for name in ("P_BIOS_*", "P_BIOS_", "P_BIOS_a", "P_BIOS_" + "A" * 64, "P_BIOS", ""):
        assert bitfrost.find(name) is None, name


def test_each_name_is_one_of_three_things_and_says_what() -> None:
    known = {key.name for key in KEYS}
    for name in bitfrost.NAMES:
        assert not (name.gives and name.missing)
        assert re.fullmatch(r"[A-Z].*\.", name.says)
        assert {given.key for given in name.gives} <= known
