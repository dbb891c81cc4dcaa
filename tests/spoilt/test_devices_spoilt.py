# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices that are not given as planned: the verifier refuses, the probe names it.

Memory devices stand for a sound card (support/devices.py), in the spoilt daemon's table
and in the one that the probe's answers are judged by.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from support.daemons import Service
from support.devices import StandIns, refuse_nodes
from support.powers import landlock, need, sandboxes
from support.spoiling import Spoilt, spoilt_service
from support.spoilt.less import UNVERIFIED

from isolauncher import devices
from isolauncher.live import prove
from isolauncher.policy.load import PolicyStore
from isolauncher.report import Proof
from isolauncher.spoilt import board as boards

POLICY = """version = 1
[match]
callers = ["*"]
[devices]
allow = ["sound"]
[[expect]]
that = "it is heard"
try = "open sound"
result = "allowed"
[[expect]]
that = "it does not hear"
try = "open microphone"
result = "absent"
"""


@dataclass(frozen=True)
class Bench:
    of: Spoilt
    card: StandIns
    store: PolicyStore

    def tried(self, left_out: str) -> dict[str, Proof]:
        """The proofs by claim of a launch in which that is done otherwise."""
        self.of.record()
        self.of.board.left_out = left_out
        return self.proved()

    def proved(self) -> dict[str, Proof]:
        service: Service = self.of.service
        assert service.process is not None
        policy = self.store.get("loud")
        socket, pid = str(service.socket), service.process.pid
        proved = prove.one(policy, "", self.store, socket, pid)
        return {proof.claim: proof for proof in proved.proofs}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    need(sandboxes(), landlock(), refuse_nodes())
    with spoilt_service() as of, pytest.MonkeyPatch.context() as patch:
        assert of.card is not None
        patch.setattr(devices, "KINDS", of.card.kinds)
        of.service.policy("loud", POLICY)
        with closing(PolicyStore(etc_dir=str(of.service.policies))) as store:
            yield Bench(of, of.card, store)


def of_devices(proofs: dict[str, Proof], result: str) -> dict[str, str]:
    """The details of the claims that came out so."""
    return {c: p.detail for c, p in proofs.items() if p.result == result}


@pytest.mark.parametrize("verified", ["", UNVERIFIED])
def test_with_every_step_done_every_claim_holds(bench: Bench, verified: str) -> None:
    proofs = bench.tried(f"{verified}nothing")
    assert not of_devices(proofs, "broken") | of_devices(proofs, "failed")
    control, stream = (bench.card.path(f"snd/{n}") for n in ("controlC0", "pcmC0D0p"))
    proved = of_devices(proofs, "proved")
    assert proved["devices.allow sound"] == f"{control} (ok), {stream} (ok)"
    assert "expect: it is heard" in proved
    assert "expect: it does not hear" in proved


def test_what_this_machine_has_not_is_untried_and_says_so(bench: Bench) -> None:
    bench.card.clear()
    try:
        proofs = bench.tried("nothing")
    finally:
        bench.card.make_card()
    assert not of_devices(proofs, "broken") | of_devices(proofs, "failed")
    untried = of_devices(proofs, "untried")
    why = "cannot be tried here: there is none on this machine"
    assert untried["devices.allow sound"] == why
    assert "this machine has none" in untried["expect: it is heard"]


def test_what_its_caller_may_not_open_is_untried_and_says_so(bench: Bench) -> None:
    bench.card.clear()
    bench.card.make_card(0o600)
    try:
        proofs = bench.tried("nothing")
    finally:
        bench.card.clear()
        bench.card.make_card()
    assert not of_devices(proofs, "broken") | of_devices(proofs, "failed")
    untried = of_devices(proofs, "untried")
    assert "who launches may not open it" in untried["devices.allow sound"]
    assert "outside it is refused" in untried["expect: it is heard"]


def test_where_no_node_may_be_made_it_has_none_and_that_is_said(bench: Bench) -> None:
    """As in a container: the kernel refuses mknod(2) to who is root there."""
    bench.tried("nothing")
    (call, *_) = (c for c in bench.of.calls(("init",)) if c.name == "mknod")
    bench.of.board.left_out = ""
    bench.of.board.set(boards.REFUSE, call.actor, call.number, errno.EPERM)
    proofs = bench.proved()
    assert bench.of.board.hit
    assert not of_devices(proofs, "broken")
    assert of_devices(proofs, "untried")["devices.allow sound"] == (
        "cannot be tried here: no node can be made here: Operation not permitted"
    )


def test_devices_are_not_made_where_none_would_open(bench: Bench) -> None:
    """Without a /dev of their own there is nothing to seal: it comes to no end."""
    for verified in ("", UNVERIFIED):
        failed = of_devices(bench.tried(f"{verified}MountDevices"), "failed")
        assert "could not make /dev read-only" in failed["launch"]


@pytest.mark.parametrize(
    ("otherwise", "said", "claim"),
    [
        ("MountDevices nodev", "no device opens in /dev", "devices.allow sound"),
        ("MakeDevices", "snd/pcmC0D0p is not there", "devices"),
        ("SealDevices", "/dev lacks ro", "devices"),
        ("MakeDevices number", "snd/controlC0 is not 1:7 of uid", "devices"),
        ("MakeDevices owner", "snd/controlC0 is not 1:7 of uid", "devices.allow sound"),
        ("MakeDevices more", "snd/controlC0-more is there, too", "devices"),
        # Its own, whatever its mode: nobody else is there.
        ("MakeDevices mode", "snd/controlC0 is not 1:7 of uid", ""),
    ],
)
def test_what_is_done_otherwise_is_refused_and_seen_inside(
    bench: Bench, otherwise: str, said: str, claim: str
) -> None:
    refused = of_devices(bench.tried(otherwise), "broken")
    assert list(refused) == ["launch"]
    assert said in refused["launch"]
    seen = bench.tried(UNVERIFIED + otherwise)
    broken = of_devices(seen, "broken")
    assert claim in broken if claim else not broken
