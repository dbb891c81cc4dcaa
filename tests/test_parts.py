# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan's parts on their way to who walks them: the same at the other end."""

from __future__ import annotations

import os
import socket

import pytest

from isolauncher import init, parts, plan, sandbox, steps
from isolauncher.channel import Channel
from isolauncher.errors import StepError
from isolauncher.paths import vendor_policies
from isolauncher.policy.load import PolicyStore

STORE = PolicyStore(vendor_policies(), "/nowhere")


@pytest.mark.parametrize("name", sorted(STORE.names()))
def test_what_is_read_is_what_was_written(name: str) -> None:
    whole = plan.for_nobody(STORE.get(name))
    for actor in ("init", "stem"):
        room, rest = whole.room.part_of(actor, ()), whole.rest.part_of(actor)  # type: ignore[arg-type]
        for part in (room, rest):
            names, read = parts.read(parts.write(["a", "b"], part))
            assert names == ["a", "b"]
            assert read == part


@pytest.mark.parametrize("size", [1, 3 * 64 * 1024])
def test_a_part_of_any_size_arrives_with_its_descriptors(size: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    step = steps.Filter(program=os.urandom(size))
    part = plan.RoomPart(id="0", steps=(steps.Planned(actor="stem", step=step),))
    with theirs, open("/dev/null", "rb") as null:
        channel = Channel(ours)
        try:
            sandbox._hand(channel, part, {"null": null.fileno()})
            read, descriptors = init.receive(theirs, plan.RoomPart)
        finally:
            channel.close()
        assert read == part
        assert list(descriptors) == ["null"]
        try:
            assert os.path.samestat(
                os.fstat(descriptors["null"]), os.fstat(null.fileno())
            )
        finally:
            os.close(descriptors["null"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[[]]",
        b"[[], [999]]",
        b"[[], [-3, 1]]",
        b"[[], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]",
        b"[[], [-2, 1]]",
        b'[[], [-2, "?"]]',
        b'[[], ["x", 1]]',
        b"[[], []]",
    ],
)
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(StepError, match="not a plan"):
        parts.read(data)
