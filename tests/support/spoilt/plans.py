# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that the real kernel refuses: each bends one step until it cannot be done.

`BENDS` names them, with the step that fails, and the errnos or words it fails with. The
daemon builds its plan as ever and `bend_as_told` alters it, so that everything after,
from `apply` to what is given back, is the product's own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from isolauncher import plan, steps

if TYPE_CHECKING:
    from isolauncher.spoilt.board import Board

Change = Callable[[steps.Step], steps.Step]
_Part = TypeVar("_Part", plan.Room, plan.Rest)


@dataclass(frozen=True)
class Bend:
    """The first step of ``kind`` becomes what ``change`` makes of it."""

    kind: type
    change: Change
    errnos: tuple[int, ...]
    step: str = ""
    words: str = ""

    def apply(self, part: _Part) -> _Part:
        """A part of a plan, bent if it has such a step."""
        return replace(part, steps=self.bent(part.steps))

    def bent(self, planned: tuple[steps.Planned, ...]) -> tuple[steps.Planned, ...]:
        steps = list(planned)
        kinds = (i for i, p in enumerate(steps) if isinstance(p.step, self.kind))
        at = next(kinds, None)
        if at is not None:
            steps[at] = replace(steps[at], step=self.change(steps[at].step))
        return tuple(steps)

    def named(self) -> str:
        return self.step or steps.name_of(object.__new__(self.kind))


def _with(**fields: object) -> Change:
    return lambda step: replace(step, **fields)  # type: ignore[arg-type]


def _cgroup(name: str, value: str) -> Change:
    """Every directory's settings end with this one, where it has such a file."""

    def change(step: steps.Step) -> steps.Step:
        assert isinstance(step, steps.JoinCgroup)
        prefix = name.partition(".")[0]
        return steps.JoinCgroup(
            directories=tuple(
                replace(d, settings=(*d.settings, (name, value)))
                if any(k.startswith(prefix) for k, _ in d.settings)
                else d
                for d in step.directories
            )
        )

    return change


def _rules(step: steps.Step) -> steps.Step:
    assert isinstance(step, steps.LandlockRules)
    gone = steps.LandlockRule(path="/nowhere", rights=4)
    return replace(step, rules=(*step.rules, gone))


BENDS = {
    "an unknown setting of a cgroup": Bend(
        steps.JoinCgroup, _cgroup("pids.nothing", "1"), (errno.ENOENT, errno.EACCES)
    ),
    "a value that a cgroup does not take": Bend(
        steps.JoinCgroup, _cgroup("pids.max", "many"), (errno.EINVAL,)
    ),
    "a cgroup that is not there": Bend(
        steps.FollowInit, _with(members=("/nowhere",)), (errno.ENOENT,)
    ),
    "a root over nothing": Bend(steps.NewRoot, _with(over="/nowhere"), (errno.ENOENT,)),
    "a root with no size": Bend(steps.NewRoot, _with(size=-1), (errno.EINVAL,)),
    "a directory that is there": Bend(
        steps.Directory, _with(path="/."), (errno.EEXIST,)
    ),
    "a link that is there": Bend(
        steps.Symlink, _with(path="/dev/null"), (errno.EEXIST,)
    ),
    "a file larger than the root": Bend(
        steps.WriteFile, _with(data=bytes(2 << 20)), (errno.ENOSPC,)
    ),
    "memory files of no size": Bend(steps.MemoryFiles, _with(size=-1), (errno.EINVAL,)),
    "memory files nowhere": Bend(
        steps.MemoryFiles, _with(path="/nowhere"), (errno.ENOENT,)
    ),
    "a /dev of no size": Bend(steps.MountDevices, _with(inodes=-1), (errno.EINVAL,)),
    "a /dev that is full": Bend(
        steps.MountDevices, _with(inodes=1), (errno.ENOSPC,), step="write-file"
    ),
    "a device nowhere": Bend(
        steps.MakeDevices,
        _with(nodes=(steps.DeviceNode(path="/no/x", major=1, minor=5, mode=0o600),)),
        (errno.ENOENT,),
    ),
    "a device that is there": Bend(
        steps.MakeDevices,
        _with(nodes=(steps.DeviceNode(path="/dev/zero", major=1, minor=5, mode=0),)),
        (errno.EEXIST,),
    ),
    "a tree nowhere": Bend(steps.Attach, _with(path="/nowhere"), (errno.ENOENT,)),
    "a tree that leads out": Bend(
        steps.Attach,
        _with(path="/../proc"),
        (errno.ENOTDIR, errno.EINVAL, errno.ENOENT),
    ),
    "an attribute there is not": Bend(
        steps.Attach, _with(attributes=1 << 60), (errno.EINVAL,)
    ),
    "a name too long": Bend(steps.SetHostname, _with(name="x" * 65), (errno.EINVAL,)),
    "an oom score too high": Bend(
        steps.Priority, _with(oom_score_adj=5000), (errno.EINVAL,)
    ),
    "a limit above the hard one": Bend(
        steps.SetLimits,
        _with(limits=(("nofile", 1 << 40),)),
        (),
        words="nofile: not allowed",
    ),
    "a uid that cannot be": Bend(
        steps.MapIdentity, _with(uid=(1 << 32) - 1), (errno.EINVAL,)
    ),
    "a gid that is not mapped": Bend(
        steps.BecomeUser, _with(gid=4242), (errno.EINVAL,)
    ),
    "a uid that is not mapped": Bend(
        steps.BecomeUser, _with(uid=4242), (errno.EINVAL,)
    ),
    "a uid that is nobody's to become": Bend(
        steps.BecomeUser, _with(uid=-1), (), words="not -1"
    ),
    "a rule for nothing": Bend(steps.LandlockRules, _rules, (errno.ENOENT,)),
    "rights that Landlock does not know": Bend(
        steps.LandlockRules, _with(files=1 << 60), (errno.EINVAL,)
    ),
    "a filter that is none": Bend(
        steps.Filter, _with(program=b"\xff" * 64), (errno.EINVAL,), step="seccomp"
    ),
    "a filter of nothing": Bend(
        steps.Filter, _with(program=b""), (errno.EINVAL,), step="seccomp"
    ),
    "an init that keeps its uid": Bend(
        steps.LeavePrivileges, _with(uid=-1), (), words="not -1"
    ),
}


def bend_as_told(board: Board) -> None:
    """From now on plans are built as the board says."""
    foundation, room, rest = plan.foundation, plan.room, plan.rest

    def bent_foundation(**keywords: object) -> tuple[steps.Planned, ...]:
        begun = foundation(**keywords)  # type: ignore[arg-type]
        return BENDS[board.bent].bent(begun) if board.bent else begun

    def bent_room(**keywords: object) -> plan.Room:
        part = room(**keywords)  # type: ignore[arg-type]
        return BENDS[board.bent].apply(part) if board.bent else part

    def bent_rest(**keywords: object) -> plan.Rest:
        part = rest(**keywords)  # type: ignore[arg-type]
        return BENDS[board.bent].apply(part) if board.bent else part

    plan.foundation = bent_foundation  # type: ignore[assignment]
    plan.room = bent_room  # type: ignore[assignment]
    plan.rest = bent_rest  # type: ignore[assignment]
