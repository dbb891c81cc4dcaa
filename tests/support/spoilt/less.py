# SPDX-License-Identifier: GPL-3.0-or-later
"""An applier that leaves one step out, and a verifier that looks away.

The plan is whole, so everything that judges by it expects the step. `Board.left_out`
names what is left out: a step's class, with one word more where only some of its kind
or a part of it is meant (``Attach device``, ``Unshare net``), or where it is done
otherwise (``MakeDevices owner``).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from isolauncher import init, plan, steps, verify
from isolauncher.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isolauncher.apply import Context
    from isolauncher.spoilt.board import Board

UNVERIFIED = "unverified "
TOO_EARLY, NEVER_RIGHT = "too early", "never right"
"""The verifier finds a difference in what hands over: at its first look, or at each."""


def leave_out_as_told(board: Board) -> None:
    """In the zygote, before it forks: init and the stem inherit it."""
    apply = init.apply

    def less(step: steps.Step, c: Context) -> None:
        kind, _, part = board.left_out.removeprefix(UNVERIFIED).partition(" ")
        left = _without(step, part) if type(step).__name__ == kind else step
        if left is not None:
            apply(left, c)

    init.apply = less  # type: ignore[attr-defined]


def _without(step: steps.Step, part: str) -> steps.Step | None:
    """What is still done of it; None: nothing."""
    match step:
        case steps.Unshare():
            spaces = tuple(n for n in step.namespaces if n != part)
            return replace(step, namespaces=spaces)
        case steps.FollowInit() if part == "members":
            return replace(step, members=())
        case steps.FollowInit() if part:
            spaces = tuple(n for n in step.namespaces if n != part)
            return replace(step, namespaces=spaces)
        case steps.MountDevices(inodes=inodes) if part == "nodev":
            return steps.MemoryFiles(
                path="/dev", size=65536, inodes=inodes, mode=0o755, executable=False
            )
        case steps.MakeDevices() if part:
            return _other_devices(step, part)
        case steps.Attach():
            return None if part in (step.kind, step.path) else step
        case steps.MemoryFiles() | steps.WriteFile() | steps.Symlink():
            return None if part in ("", step.path) else step
        case _:
            return None


def _other_devices(step: steps.MakeDevices, part: str) -> steps.Step:
    """What must not be: the first node another's, or one more than was planned."""
    first, *rest = step.nodes
    match part:
        case "number":
            return replace(step, nodes=(replace(first, minor=3), *rest))
        case "mode":
            return replace(step, nodes=(replace(first, mode=0o666), *rest))
        case "owner":
            # For everybody to open, or that alone would be seen.
            nodes = tuple(replace(node, mode=0o666) for node in step.nodes)
            return replace(step, owner=0, nodes=nodes)
        case _:
            more = replace(first, path=f"{first.path}-more")
            return replace(step, nodes=(*step.nodes, more))


def look_away_as_told(board: Board) -> None:
    """In the daemon."""
    verified, left = verify.verify, verify.verify_left

    def looked_at_init(whole: plan.Plan, sealed: verify.Sealed) -> dict[str, str]:
        if not board.left_out.startswith(UNVERIFIED):
            return left(whole, sealed)
        place = f"/proc/{sealed.stem}/ns"
        return {n: os.readlink(f"{place}/{n}") for n in verify.NAMESPACES}

    def looked(
        whole: plan.Plan, sealed: verify.Sealed, names: Mapping[str, str]
    ) -> None:
        if not board.left_out.startswith(UNVERIFIED):
            verified(whole, sealed, names)

    ready, room = verify.verify_ready, verify.verify_room
    begun = verify.verify_begun

    looked_at: set[int] = set()

    def looked_again(whole: plan.Plan, sealed: verify.Sealed) -> None:
        first = sealed.stem not in looked_at
        looked_at.add(sealed.stem)
        if board.left_out == NEVER_RIGHT or (first and board.left_out == TOO_EARLY):
            raise VerifyError("not yet", code="verify-difference")
        if not board.left_out.startswith(UNVERIFIED):
            ready(whole, sealed)

    def looked_first(planned: plan.Room, sealed: verify.Sealed) -> None:
        if not board.left_out.startswith(UNVERIFIED):
            begun(planned, sealed)

    def looked_ahead(planned: plan.Room, sealed: verify.Sealed) -> verify.Looked:
        if not board.left_out.startswith(UNVERIFIED):
            return room(planned, sealed)
        return verify.Looked(namespaces={}, mounts={})

    verify.verify = looked
    verify.verify_left = looked_at_init
    verify.verify_room = looked_ahead
    verify.verify_begun = looked_first
    verify.verify_ready = looked_again
