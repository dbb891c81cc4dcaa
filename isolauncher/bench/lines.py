# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as the text that reference.c does: one step on a line, in the plan's order.

Nothing is decided or left out here: what `apply` does of a plan, step by step, is what
the lines say. A step that the reference cannot do is refused, since it would be another
isolation then that is timed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import assert_never

from .. import kernel, plan, steps
from ..errors import HostError

MAX_TREES = 256
_PLAIN = frozenset(range(0x21, 0x7F)) - {ord("%")}


def write(whole: plan.Plan, sources: Mapping[str, str]) -> str:
    """The lines; ``sources`` says of which path outside each descriptor is."""
    trees = {name: number for number, name in enumerate(sources)}
    if len(trees) > MAX_TREES:
        raise _cannot(f"{len(trees)} trees, more than {MAX_TREES}")
    kinds = {
        p.step.descriptor: p.step.kind
        for p in whole.steps
        if isinstance(p.step, steps.Attach)
    }
    lines = [
        _line("i", "tree", path, trees[name], kinds.get(name) == "directory")
        for name, path in sources.items()
    ]
    lines += _part(whole.room.steps, trees)
    lines.append(_line("-", "the-rest"))
    lines += _part(whole.rest.steps, trees)
    return "\n".join(lines) + "\n"


def _part(part: tuple[steps.Planned, ...], trees: Mapping[str, int]) -> Iterator[str]:
    for planned in part:
        # A large letter: before it one waits for the other's turns.
        who = planned.actor[0]
        who = who.upper() if type(planned.step) in steps.WAITS else who
        for name, *words in _words(planned.step, trees):
            yield _line(who, str(name), *words)
            who = planned.actor[0]


_Word = str | bytes | int


def _words(step: steps.Step, trees: Mapping[str, int]) -> Iterator[tuple[_Word, ...]]:
    """What reference.c is to do for one step; its name first."""
    name = steps.name_of(step)
    match step:
        case (
            steps.NewSession()
            | steps.JoinKeyring()
            | steps.ScheduleNormally()
            | steps.MakePrivate()
            | steps.Pivot()
            | steps.LeaveOldRoot()
            | steps.MountProc()
            | steps.MountTerminals()
            | steps.SealRoot()
            | steps.LoopbackUp()
            | steps.Stdio()
            | steps.ResetSignals()
            | steps.ClearGroups()
            | steps.NewUserNamespace()
            | steps.NoNestedUserNamespaces()
            | steps.DropCapabilities()
            | steps.Dumpable()
            | steps.NoNewPrivs()
            | steps.CloseDescriptors()
            | steps.LowerInit()
        ):
            yield (name,)
        case steps.FollowInit():
            for member in step.members:
                above, file = os.path.split(member)
                yield "cgroup-join", os.path.dirname(above), file
            yield name, _flags(step.namespaces)
        case steps.JoinCgroup():
            yield from _cgroup(step)
        case steps.Unshare():
            yield name, _flags(step.namespaces)
        case steps.NewRoot():
            attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
            yield name, step.over, str(step.size), attributes
        case steps.Directory():
            yield name, step.path, step.mode, step.owner
        case steps.Symlink():
            yield name, step.path, step.target
        case steps.WriteFile():
            yield name, step.path, step.data, step.mode, step.owner
        case steps.MemoryFiles():
            attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
            if not step.executable:
                attributes |= kernel.MOUNT_ATTR_NOEXEC
            yield (
                *(name, step.path, step.size, step.inodes),
                *(step.mode, step.owner, attributes),
            )
        case steps.Attach():
            if step.mapped is not None:
                raise _cannot(f"an id-mapped mount of {step.path}")
            recursive = step.kind == "directory"
            yield name, step.path, trees[step.descriptor], step.attributes, recursive
        case steps.SetHostname():
            yield name, step.name
        case steps.Priority():
            yield name, str(step.oom_score_adj), step.nice
        case steps.SetUmask():
            yield name, step.umask
        case steps.SetLimits():
            for limit, value in step.limits:
                yield "set-limit", kernel.RLIMITS[limit], value
        case steps.MapIdentity():
            yield name, step.inner_uid, step.uid, step.inner_gid, step.gid
        case steps.MountDevices() | steps.MakeDevices() | steps.SealDevices():
            raise _cannot("devices of the activity's own")
        case steps.MapOwner():
            raise _cannot("id-mapped mounts of a person's directories")
        case steps.BecomeUser():
            yield name, step.uid, step.gid
        case steps.ShowAs():
            shown = (
                b"".join(os.fsencode(word) + b"\0" for word in words)
                for words in (step.argv, step.environ)
            )
            yield (name, step.name, *shown)
        case steps.LandlockRules():
            yield name, step.files, step.net, step.scopes
            yield from _rules(step.rules, trees)
        case steps.Landlock():
            yield from _rules(step.rules, trees)
            yield (name,)
        case steps.Filter():
            yield name, step.program
        case steps.Seccomp():
            arguments = (*step.probe_arguments, 0, 0, 0, 0, 0, 0)[:6]
            yield (name, step.probe_number, *arguments)
        case steps.LeavePrivileges():
            yield name, step.uid
        case _:
            assert_never(step)


def _flags(namespaces: tuple[str, ...]) -> int:
    return sum(steps.NAMESPACES[name] for name in namespaces)


def _cgroup(step: steps.JoinCgroup) -> Iterator[tuple[_Word, ...]]:
    for directory in step.directories:
        # Named by the activity: of the reference's, each by its number.
        above = os.path.dirname(directory.path)
        yield "cgroup-make", above
        for file, value in directory.settings:
            may_lack = f"/{file}".endswith(steps.SWAP_FILES)
            yield "cgroup-set", above, file, value, may_lack
        yield "cgroup-join", above, directory.members


def _rules(
    rules: tuple[steps.LandlockRule, ...], trees: Mapping[str, int]
) -> Iterator[tuple[_Word, ...]]:
    for rule in rules:
        if rule.descriptor:
            yield "landlock-rule-of-tree", trees[rule.descriptor], rule.rights
        else:
            yield "landlock-rule", rule.path, rule.rights


def _line(who: str, name: str, *words: _Word) -> str:
    return " ".join((who, name, *map(_encode, words)))


def _encode(word: _Word) -> str:
    """A word without a blank in it; "%" alone is nothing."""
    if isinstance(word, int):
        return str(int(word))
    data = os.fsencode(word)
    return "".join(chr(b) if b in _PLAIN else f"%{b:02x}" for b in data) or "%"


def _cannot(what: str) -> HostError:
    return HostError(
        f"the reference cannot make {what}, which is in this machine's plan",
        code="bench-reference-step",
    )
