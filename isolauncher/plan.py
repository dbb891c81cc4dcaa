# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a request, a policy, an identity and a host into an ordered tuple of steps.

Decides everything and does nothing: opens no file and makes no system call, so the
same plan can be applied by root, read back by the verifier, or shown to anyone. What a
step is, is in `steps`; how a plan's parts get to who walks them, in `parts`.

A plan is one sequence walked by two processes: *init* (PID 1 of the sandbox, root
until its last step) and *stem* (its child, which becomes the activity). Where the
actor changes, the one waits for the other. It has two parts. The *room* depends on the
policy, the caller and the machine, and may be walked before anybody asks; the *rest*
is what only a request can say. The order is written once, in `room` and `rest`, and
each place where two lines may not be swapped says why.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from . import devices, kernel
from .errors import HostError
from .policy.model import Policy
from .steps import (
    ENFORCES,
    Actor,
    Attach,
    BecomeUser,
    CgroupDirectory,
    ClearGroups,
    CloseDescriptors,
    DeviceNode,
    Directory,
    DropCapabilities,
    Dumpable,
    Filter,
    FollowInit,
    JoinCgroup,
    JoinKeyring,
    Landlock,
    LandlockRule,
    LandlockRules,
    LeaveOldRoot,
    LeavePrivileges,
    LoopbackUp,
    LowerInit,
    MakeDevices,
    MakePrivate,
    MapIdentity,
    MapOwner,
    MemoryFiles,
    MountDevices,
    MountProc,
    MountTerminals,
    NewRoot,
    NewSession,
    NewUserNamespace,
    NoNestedUserNamespaces,
    NoNewPrivs,
    Pivot,
    Planned,
    Priority,
    ResetSignals,
    ScheduleNormally,
    SealDevices,
    SealRoot,
    Seccomp,
    SetHostname,
    SetLimits,
    SetUmask,
    ShowAs,
    Skipped,
    Stdio,
    Step,
    Symlink,
    Unshare,
    WriteFile,
)

INIT_UID = 70000
"""Every sandbox's PID 1 ends as this uid; no activity ever gets it."""

PYTHON = "/usr/bin/python3"
"""The interpreter of zygotes, and of scripts in the exec tier."""

OOM_SCORE_ADJ = 200
"""Activities go before the desktop that shows them (proc(5), oom_score_adj)."""

READ_ONLY = (
    kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
)
READ_WRITE = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV

DEVICES: Mapping[str, tuple[int, int]] = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
}
"""Character devices every sandbox has: name to (major, minor) (devices.txt)."""


# --------------------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Something of the host to show at ``path``, opened with the caller's rights.

    ``owned_by`` is the uid whose files shall be the activity's, None: leave them;
    ``group`` the gid of what it makes.
    ``copy_mode`` is set for a program's file: how a copy of it would be made.
    """

    path: str
    descriptor: str
    kind: Literal["directory", "file"]
    writable: bool
    owned_by: int | None = None
    group: int = -1
    copy_mode: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of the host becomes visible, already opened; shallow before deep.

    ``devices`` are those beyond the ones that every sandbox has.
    """

    trees: tuple[Tree, ...]
    links: tuple[Link, ...]
    devices: tuple[DeviceNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who the activity is, outside and inside, and the files that say so.

    ``home`` is a directory to make for it, in memory; empty: it gets none. ``lends``
    is the uid and gid of who will bring directories of its own, if anybody.
    """

    uid: int
    gid: int
    inner_uid: int
    inner_gid: int
    home: str
    passwd: bytes
    group: bytes
    nsswitch: bytes
    hosts: bytes
    lends: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file to write for one activity, into a directory of its own."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Furniture:
    """What one launch brings into the room: trees, files, directories to be its own.

    ``own`` are paths: directories that have to be made at or below one of them belong
    to the activity, as they would have been made by it.
    """

    trees: tuple[Tree, ...] = ()
    files: tuple[Made, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlace:
    """A directory to make for an activity, and the controllers that rule there."""

    version: Literal[1, 2]
    controllers: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The part of the host that changes a plan."""

    landlock_abi: int
    cgroups: tuple[CgroupPlace, ...]
    why_no_cgroup: str
    hard_limits: tuple[tuple[str, int], ...]
    root_over: str
    init_uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledFilter:
    name: str
    program: bytes
    probe_number: int
    probe_arguments: tuple[int, ...]
    probe_errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What runs once everything is in force; see `isolauncher.zygote.program`."""

    program_kind: Literal["file", "name", "module"]
    path: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    tier: Literal["fork", "exec"]
    hostname: str
    preload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The part of a plan that needs no request; ``id`` names its cgroup, say.

    ``ahead``: nobody waits for it yet, so there is time to get ready for the rest.
    """

    id: str
    steps: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]
    ahead: bool = False

    def part_of(self, actor: Actor, begun: tuple[Planned, ...]) -> RoomPart:
        """What one of them is told; of the other's, the first step of each turn.

        ``begun``: how the room begins, if they have been told that already, or do it
        without (see `first` and `foundation`).
        """
        if self.steps[: len(begun)] != begun:
            raise ValueError("what has begun is not how the room begins")
        steps = _turns(self.steps[len(begun) :], actor)
        if steps[-1].actor != actor:
            steps = steps[:-1]  # a turn that nothing of the room comes after
        return RoomPart(steps=steps, id=self.id, ahead=self.ahead)


def _turns(planned: tuple[Planned, ...], actor: Actor) -> tuple[Planned, ...]:
    """The steps of one of them, and the first of each turn of the other's."""
    steps: list[Planned] = []
    for one in planned:
        turns = not steps or steps[-1].actor != one.actor
        if turns or one.actor == actor:
            steps.append(one)
    return tuple(steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPart:
    """What one of them is told of a room. ``more``: there is another part to come."""

    id: str
    steps: tuple[Planned, ...]
    ahead: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The part of a plan that one request makes, for the room it is walked in.

    ``start`` is what the stem begins in the end; None where the part is init's.
    ``last`` is False where more is to come; ``start`` is then what the stem shall live
    in the session for until it does, if anything.
    """

    id: str
    steps: tuple[Planned, ...]
    start: Start | None
    last: bool = True

    def part_of(self, actor: Actor, begun: tuple[Planned, ...] = ()) -> Rest:
        """What one of them is told; init needs not know what the activity is told.

        ``begun``: its first steps, if it has been told them already (see `begin`).
        """
        steps = tuple(p for p in self.steps if p.actor == actor)
        if steps[: len(begun)] != begun:
            raise ValueError("what has begun is not how the rest begins")
        return Rest(
            id=self.id,
            steps=steps[len(begun) :],
            start=self.start if actor == "stem" else None,
        )

    def named_by_stem(self) -> tuple[str, ...]:
        """The descriptors of what is attached that the stem must have, too."""
        bound = (p.step for p in self.steps if isinstance(p.step, Landlock))
        return tuple(r.descriptor for s in bound for r in s.rules if r.descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    room: Room
    rest: Rest

    @property
    def steps(self) -> tuple[Planned, ...]:
        return self.room.steps + self.rest.steps

    def enforced(self) -> tuple[str, ...]:
        """The names of the report's ``enforced``, in the order they take effect."""
        seen: dict[str, None] = {}
        shared_net = not any(
            isinstance(p.step, Unshare) and "net" in p.step.namespaces
            for p in self.room.steps
        )
        for planned in self.steps:
            for name in ENFORCES.get(type(planned.step), ()):
                if not (name == "net" and shared_net):
                    seen[name] = None
        return tuple(seen)

    def describe(self) -> tuple[str, ...]:
        lines = ["the room, which may be prepared before it is asked for:"]
        lines += [f"  {p.actor}: {p.step.describe()}" for p in self.room.steps]
        lines.append("the rest, at the launch:")
        lines += [f"  {p.actor}: {p.step.describe()}" for p in self.rest.steps]
        lines += [f"skipped: {s.what}: {s.why}" for s in self.room.skipped]
        return tuple(lines)


# ------------------------------------------------------------------------- building


def first(*, own_net: bool) -> tuple[Planned, ...]:
    """How every room begins, whoever it is for, by what there is of a network.

    They do it before they are told anything: init before it forks the stem. A mount
    namespace is not among it: one that waits would keep what is mounted here.
    """
    spaces = ("net", "ipc", "uts") if own_net else ("ipc", "uts")
    init: tuple[Step, ...] = (
        NewSession(),
        ScheduleNormally(),
        Unshare(namespaces=spaces),
    )
    # Forked from what has no keyring of its own, nor groups.
    stem: tuple[Step, ...] = (
        JoinKeyring(),
        CloseDescriptors(),
        ResetSignals(),
        ClearGroups(),
    )
    return (
        *(Planned(actor="init", step=s) for s in init),
        *(Planned(actor="stem", step=s) for s in stem),
    )


def own_net(policy: Policy) -> bool:
    return policy.network != "host"


def foundation(*, policy: Policy, machine: Machine) -> tuple[Planned, ...]:
    """What they do next: all that is the same whoever it is for and what he is shown.

    So that they can begin while a uid is found and a policy's paths are being opened.
    Raises `HostError` as `room` does.
    """
    return _founded(policy, machine, [])


def begins(
    room_id: str, steps: tuple[Planned, ...], actor: Actor, *, ahead: bool
) -> RoomPart:
    """What one of them is told of a `foundation`."""
    return RoomPart(id=room_id, steps=_turns(steps, actor), ahead=ahead, more=True)


def _founded(
    policy: Policy, machine: Machine, skipped: list[Skipped]
) -> tuple[Planned, ...]:
    spaces = ("mnt", "cgroup")
    cgroup = tuple(_cgroup(policy, machine, skipped))
    init: tuple[Step, ...] = (
        JoinKeyring(),
        *cgroup,
        Unshare(namespaces=spaces),
        MakePrivate(),
    )
    stem: tuple[Step, ...] = (
        FollowInit(
            members=tuple(
                f"{directory.path}/{directory.members}"
                for step in cgroup
                for directory in step.directories
            ),
            namespaces=spaces,
        ),
        _priority(policy),
        _limits(policy, machine, skipped),
        # While euid is 0, and after the others.
        NewUserNamespace(),
    )
    return (
        *(Planned(actor="init", step=s) for s in init),
        *(Planned(actor="stem", step=s) for s in stem),
        # Meanwhile.
        *(Planned(actor="init", step=s) for s in _skeleton(policy, machine)),
    )


def _priority(policy: Policy) -> Priority:
    return Priority(nice=policy.limits.nice, oom_score_adj=OOM_SCORE_ADJ)


def room(
    *,
    room_id: str,
    policy: Policy,
    person: Person,
    view: View,
    machine: Machine,
    filter_: CompiledFilter,
    ahead: bool = False,
) -> Room:
    """The order of one launch, up to where the request has a say.

    Raises `HostError` when the policy requires what the machine has not.
    """
    skipped: list[Skipped] = []
    begun = first(own_net=own_net(policy)) + _founded(policy, machine, skipped)
    late = _late(view.trees)
    early = tuple(t for t in view.trees if t not in late)
    own = _own(person)
    # What has an owner lies in one of these; else it is the same for everybody.
    shown = _shown(view, early, own, person.uid if own or view.devices else 0)
    # /proc after the pivot: mounted before it would show beside the host's.
    init: list[Step] = [
        Pivot(),
        MountProc(),
        MountTerminals(),
        SetHostname(name=policy.hostname),
    ]
    if policy.network == "loopback":
        init.append(LoopbackUp())
    init += [
        _priority(policy),
        MapIdentity(
            inner_uid=person.inner_uid,
            uid=person.uid,
            inner_gid=person.inner_gid,
            gid=person.gid,
        ),
    ]
    # After the map: an id-mapped mount needs the user namespace to be finished.
    known = _known(early, view.links) | _leading_to(own)
    leaving = [LeaveOldRoot()]
    if late:
        # For whom a map may have to be made.
        init += leaving
        leaving = []
    init += _places(late, above=early, known=known, own=own, uid=person.uid)
    init += (_attach(tree) for tree in late)

    stem: list[Step] = [
        NoNestedUserNamespaces(),
        BecomeUser(uid=person.inner_uid, gid=person.inner_gid),
        DropCapabilities(),
        Dumpable(),
        NoNewPrivs(),
    ]
    stem += _landlock(policy, person, view, machine, skipped)
    stem.append(Filter(program=filter_.program))

    meanwhile: list[Step] = [*leaving]
    if person.lends is not None:
        meanwhile.append(MapOwner(uid=person.lends[0], gid=person.lends[1]))
    meanwhile.append(LowerInit())
    steps = (
        *begun,
        *(Planned(actor="init", step=s) for s in _before(person, view, policy)),
        *shown,
        *(Planned(actor="init", step=s) for s in init),
        *(Planned(actor="stem", step=s) for s in stem),
        *(Planned(actor="init", step=s) for s in meanwhile),
    )
    return Room(id=room_id, steps=steps, skipped=tuple(skipped), ahead=ahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every rest must know of the room that it is for.

    ``uid`` is the activity's, ``trees`` are shown already, ``known`` directories that
    are there, ``ruled`` the Landlock rules, if there are any; ``lodged`` are those of
    the trees for which no rule has been made.
    """

    uid: int
    trees: tuple[Tree, ...]
    known: frozenset[str]
    ruled: LandlockRules | None
    lodged: tuple[Tree, ...] = ()


def frame(within: Room, view: View) -> Frame:
    """``view`` is the room's."""
    steps = [p.step for p in within.steps]
    made = tuple(s.path for s in steps if isinstance(s, MemoryFiles))
    return Frame(
        uid=next(s.uid for s in steps if isinstance(s, MapIdentity)),
        trees=view.trees,
        known=_known(view.trees, view.links) | _leading_to(made),
        ruled=next((s for s in steps if isinstance(s, LandlockRules)), None),
    )


def begin(start: Start, umask: int, filter_: CompiledFilter) -> tuple[Planned, ...]:
    """How every rest begins for the stem: what depends on nothing but the request.

    So that a stem that waits can be told before it is known what is to be shown.
    """
    steps: tuple[Step, ...] = (
        Stdio(),
        SetUmask(umask=umask),
        ShowAs(
            # What `python3 PROGRAM` would show; any other program shows itself when
            # it is exec'ed.
            argv=(
                PYTHON,
                *(("-m",) if start.program_kind == "module" else ()),
                *start.argv,
            ),
            environ=tuple(f"{k}={v}" for k, v in start.environment),
            name=posixpath.basename(PYTHON),
        ),
        # Its name and arguments no program is to choose again.
        Seccomp(
            name=filter_.name,
            probe_number=filter_.probe_number,
            probe_arguments=filter_.probe_arguments,
            probe_errno=filter_.probe_errno,
        ),
    )
    return tuple(Planned(actor="stem", step=s) for s in steps)


def rest(
    *,
    activity_id: str,
    frame: Frame,
    furniture: Furniture,
    filter_: CompiledFilter,
    start: Start,
    umask: int,
    init_uid: int,
) -> Rest:
    """What is left to do in a room of that frame.

    Init and the stem do theirs at the same time.
    """
    init, _ = _bring(frame, furniture)
    trees = furniture.trees
    # Nothing is attached after this, and nothing else needs init's powers.
    init += [SealRoot(), LeavePrivileges(uid=init_uid)]
    stem: list[Step] = []
    if frame.ruled is not None:
        files = frame.ruled.files
        # A program's file; a bundle brings more than the stem may have open. And what
        # cannot be id-mapped may be copied: then it is another file.
        at_once = not frame.lodged and len(trees) == 1 and trees[0].owned_by is None
        rules = tuple(
            LandlockRule(
                path=t.path,
                rights=_rights(t) & files,
                descriptor=t.descriptor if at_once else "",
            )
            for t in (*frame.lodged, *trees)
        )
        stem.append(Landlock(rules=rules))
    stem.append(CloseDescriptors())
    steps = (
        *(Planned(actor="init", step=s) for s in init),
        *begin(start, umask, filter_),
        *(Planned(actor="stem", step=s) for s in stem),
    )
    return Rest(id=activity_id, steps=steps, start=start)


def lodge(frame: Frame, furniture: Furniture) -> tuple[tuple[Planned, ...], Frame]:
    """Init's steps for what a session brings to a room that waits in it.

    And the frame for whatever comes after them.
    """
    steps, known = _bring(frame, furniture)
    lodged = furniture.trees
    after = dataclasses.replace(
        frame, trees=(*frame.trees, *lodged), known=known, lodged=lodged
    )
    return tuple(Planned(actor="init", step=s) for s in steps), after


def _bring(frame: Frame, furniture: Furniture) -> tuple[list[Step], frozenset[str]]:
    """Its places, files and mounts, for init to make; which directories are there."""
    steps: list[Step] = []
    trees, uid, known = furniture.trees, frame.uid, frame.known
    places = list(
        _places(trees, above=frame.trees, known=known, own=furniture.own, uid=uid)
    )
    steps += places
    known |= {p.path for p in places if isinstance(p, Directory)}
    for file in furniture.files:
        for parent in _parents(file.path):
            if parent not in known and not below(parent, frame.trees):
                known |= {parent}
                owner = uid if _is_below(parent, furniture.own) else 0
                steps.append(Directory(path=parent, mode=0o755, owner=owner))
        steps.append(WriteFile(path=file.path, data=file.data, mode=0o600, owner=uid))
    steps += (_attach(tree) for tree in trees)
    return steps, known


def _cgroup(
    policy: Policy, machine: Machine, skipped: list[Skipped]
) -> Iterator[JoinCgroup]:
    ruled = {c for place in machine.cgroups for c in place.controllers}
    missing = [c for c in CONTROLLERS if c not in ruled]
    if missing:
        why = f"no controller {', '.join(missing)}: {machine.why_no_cgroup}"
        if policy.limits.cgroup == "required":
            raise HostError(
                f"the policy {policy.name} requires a cgroup: {why}",
                code="cgroup-missing",
                hint="run `isolauncher doctor`, or write limits.cgroup = "
                '"if-possible"',
            )
        what = f"cgroup {' '.join(missing)}" if ruled else "cgroup"
        skipped.append(Skipped(what=what, why=why))
    if machine.cgroups:
        yield JoinCgroup(
            directories=tuple(
                CgroupDirectory(
                    path=place.path,
                    settings=tuple(
                        setting
                        for controller in place.controllers
                        for setting in _settings(place.version, controller, policy)
                    ),
                    members="tasks" if place.version == 1 else "cgroup.procs",
                )
                for place in machine.cgroups
            )
        )


CONTROLLERS = ("memory", "pids", "cpu")


def _settings(
    version: int, controller: str, policy: Policy
) -> tuple[tuple[str, str], ...]:
    """Files and values of one controller (cgroup-v2.rst, cgroup-v1/*.rst)."""
    limits = policy.limits
    match controller, version:
        case "memory", 2:
            return (
                ("memory.max", str(limits.memory)),
                ("memory.swap.max", "0"),
            )
        case "memory", _:
            # The second counts memory and swap together, and may not be the lower.
            return (
                ("memory.limit_in_bytes", str(limits.memory)),
                ("memory.memsw.limit_in_bytes", str(limits.memory)),
            )
        case "pids", _:
            # Two more than the policy's count, which RLIMIT_NPROC keeps exactly: init
            # is in the cgroup, and what lends an id-mapped mount its user namespace.
            return (("pids.max", str(limits.processes + 2)),)
        case "cpu", 2:
            return (("cpu.weight", str(limits.cpu_weight)),)
        case _:
            # cpu.weight 100 is cpu.shares 1024.
            return (("cpu.shares", str(max(2, limits.cpu_weight * 1024 // 100))),)


def _limits(policy: Policy, machine: Machine, skipped: list[Skipped]) -> SetLimits:
    limits = policy.limits
    wanted = {
        "core": limits.core,
        "fsize": limits.file_size,
        "nofile": limits.open_files,
        "nproc": limits.processes,
        "memlock": 64 * 1024,
        "msgqueue": 819200,
        "sigpending": 4096,
        # Not whatever the daemon was started with: audio set-ups raise both.
        "nice": 0,
        "rtprio": 0,
    }
    if limits.cpu_seconds:
        wanted["cpu"] = limits.cpu_seconds
    if not any("memory" in place.controllers for place in machine.cgroups):
        # Per process, where no cgroup can hold them all to it together.
        wanted["data"] = limits.memory
    hard = dict(machine.hard_limits)
    lowered = {
        name: min(value, hard.get(name, value)) for name, value in wanted.items()
    }
    for name, value in lowered.items():
        if value < wanted[name]:
            skipped.append(
                Skipped(
                    what=f"rlimit {name}={wanted[name]}",
                    why=f"the daemon's own hard limit is {value}; set that instead",
                )
            )
    return SetLimits(limits=tuple(sorted(lowered.items())))


ETC = ("passwd", "group", "nsswitch.conf", "hosts", "hostname", "machine-id")
MACHINE_ID = b"isolauncher/none".hex().encode() + b"\n"
"""machine-id(5), the same everywhere. Without one libdbus aborts who asks, as SDL."""
MADE_FILES = frozenset(f"/etc/{n}" for n in ETC) | {f"/dev/{n}" for n in DEVICES}


@lru_cache(maxsize=32)
def _late(trees: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """Trees that are id-mapped, and those below them, which they would hide."""
    mapped = tuple(t for t in trees if t.owned_by is not None)
    return tuple(t for t in trees if t in mapped or below(t.path, mapped))


def _skeleton(policy: Policy, machine: Machine) -> Iterator[Step]:
    # Room for the skeleton only; what fills up is /tmp and /dev/shm, with own sizes.
    yield NewRoot(over=machine.root_over, size=1 << 20)
    for path in ("/dev", "/etc", "/proc", "/run", "/tmp", "/var"):  # noqa: S108
        yield Directory(path=path, mode=0o755)
    yield MemoryFiles(
        path="/tmp",  # noqa: S108
        size=policy.view.tmp,
        inodes=max(1024, policy.view.tmp // 4096),
        mode=0o1777,
        executable=True,
    )
    if not policy.devices:
        yield from _dev(policy)


def _dev(policy: Policy) -> Iterator[Step]:
    """What is in every /dev."""
    for name in DEVICES:
        yield WriteFile(path=f"/dev/{name}", data=b"", mode=0o666)
        yield Attach(
            path=f"/dev/{name}",
            descriptor=f"device:{name}",
            kind="device",
            attributes=kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC,
        )
    yield Directory(path="/dev/pts", mode=0o755)
    yield Directory(path="/dev/shm", mode=0o1777)  # noqa: S108
    yield MemoryFiles(
        path="/dev/shm",  # noqa: S108
        size=policy.view.tmp,
        inodes=max(1024, policy.view.tmp // 4096),
        mode=0o1777,
        executable=False,
    )
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        yield Symlink(path=f"/dev/{name}", target=target)


def _before(person: Person, view: View, policy: Policy) -> Iterator[Step]:
    """What comes into the root before all that is shown there."""
    for path in _own(person):
        yield from _own_directory(path, policy, person.uid)
    contents = (
        person.passwd,
        person.group,
        person.nsswitch,
        person.hosts,
        policy.hostname.encode() + b"\n",
        MACHINE_ID,
    )
    for name, data in zip(ETC, contents, strict=True):
        yield WriteFile(path=f"/etc/{name}", data=data, mode=0o444)
    if view.devices:
        # Before all that is in it.
        yield MountDevices(inodes=_IN_DEV + 2 * len(view.devices))
    if policy.devices:
        yield from _dev(policy)


@lru_cache(maxsize=32)
def _shown(
    view: View, trees: tuple[Tree, ...], own: tuple[str, ...], owner: int
) -> tuple[Planned, ...]:
    """As `_show`; most launches are shown what another was."""
    steps = _show(view, trees, own, owner)
    return tuple(Planned(actor="init", step=s) for s in steps)


def _show(
    view: View, trees: tuple[Tree, ...], own: tuple[str, ...], owner: int
) -> Iterator[Step]:
    """Devices, trees and links, each where it belongs."""
    yield from _devices(view.devices, owner)
    known = BUILT | _leading_to(own)
    yield from _places(trees, above=(), known=known, own=own, uid=owner)
    for tree in trees:
        yield _attach(tree)
    directories = set(_directories(trees)) | known
    for link in view.links:
        for parent in _parents(link.path):
            if parent not in directories and not below(parent, trees):
                directories.add(parent)
                yield Directory(path=parent, mode=0o755)
        if not below(posixpath.dirname(link.path), trees):
            yield Symlink(path=link.path, target=link.target)


_IN_DEV = 16
"""What every /dev has: the five, their links, two directories, and itself."""


def device_node(path: str, nodes: devices.Nodes, number: int) -> DeviceNode:
    """``number`` is the host's node's (st_rdev)."""
    major, minor = os.major(number), os.minor(number)
    return DeviceNode(path=path, major=major, minor=minor, mode=nodes.mode)


def _devices(nodes: tuple[DeviceNode, ...], owner: int) -> Iterator[Step]:
    """Nothing of the policy's lies below /dev after it (reserved.MADE_BY_US)."""
    if not nodes:
        return
    above = dict.fromkeys(p for node in nodes for p in _parents(node.path))
    for path in above:
        if path not in BUILT:
            yield Directory(path=path, mode=0o755)
    yield MakeDevices(nodes=nodes, owner=owner)
    yield SealDevices()


def runtime_directory(inner_uid: int) -> str:
    """XDG_RUNTIME_DIR, where systemd has it (pam_systemd(8))."""
    return f"/run/user/{inner_uid}"


def _own(person: Person) -> tuple[str, ...]:
    return (person.home, runtime_directory(person.inner_uid)) if person.home else ()


def _leading_to(paths: tuple[str, ...]) -> frozenset[str]:
    return frozenset((*paths, *(p for path in paths for p in _parents(path))))


def _own_directory(path: str, policy: Policy, uid: int) -> Iterator[Step]:
    """The activity's own, in memory."""
    for parent in (*_parents(path), path):
        if parent not in BUILT:
            yield Directory(path=parent, mode=0o755)
    yield MemoryFiles(
        path=path,
        size=policy.view.tmp,
        inodes=max(1024, policy.view.tmp // 4096),
        mode=0o700,
        executable=True,
        owner=uid,
    )


BUILT = frozenset(
    (
        "/",
        "/dev",
        "/dev/pts",
        "/dev/shm",  # noqa: S108
        "/etc",
        "/proc",
        "/run",
        "/tmp",  # noqa: S108
        "/var",
    )
)


@lru_cache(maxsize=4096)
def _parents(path: str) -> tuple[str, ...]:
    """Every directory above a path, from the top: /a/b/c → /a, /a/b."""
    parts = path.strip("/").split("/")[:-1]
    return tuple("/" + "/".join(parts[: i + 1]) for i in range(len(parts)))


def below(path: str, trees: tuple[Tree, ...]) -> bool:
    """Whether a path already lies in something attached."""
    return any(
        path == t.path or path.startswith(t.path.rstrip("/") + "/")
        for t in trees
        if t.kind == "directory"
    )


def _directories(trees: tuple[Tree, ...]) -> Iterator[str]:
    for tree in trees:
        yield from _parents(tree.path)
        if tree.kind == "directory":
            yield tree.path


@lru_cache(maxsize=32)
def _known(trees: tuple[Tree, ...], links: tuple[Link, ...]) -> frozenset[str]:
    of_links = {p for link in links for p in _parents(link.path)}
    return BUILT | set(_directories(trees)) | of_links


def _is_below(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in tops)


def _places(
    trees: tuple[Tree, ...],
    *,
    above: tuple[Tree, ...],
    known: frozenset[str],
    own: tuple[str, ...] = (),
    uid: int = 0,
) -> Iterator[Step]:
    """Mount points for what is attached, where nothing attached provides them.

    Shallow before deep, as the trees themselves are: /usr, then /usr/local/games.
    """

    def directory(path: str) -> Directory:
        owner = uid if _is_below(path, own) else 0
        return Directory(path=path, mode=0o755, owner=owner)

    made = set(known)
    for number, tree in enumerate(trees):
        before = (*above, *trees[:number])
        for parent in _parents(tree.path):
            if parent not in made and not below(parent, before):
                made.add(parent)
                yield directory(parent)
        if tree.path in made or below(posixpath.dirname(tree.path), before):
            continue
        made.add(tree.path)
        if tree.kind == "directory":
            yield directory(tree.path)
        else:
            yield WriteFile(path=tree.path, data=b"", mode=0o444)


def _attach(tree: Tree) -> Attach:
    return Attach(
        path=tree.path,
        descriptor=tree.descriptor,
        kind=tree.kind,
        attributes=READ_WRITE if tree.writable else READ_ONLY,
        mapped=tree.owned_by,
        mapped_gid=tree.group,
        copy_mode=tree.copy_mode,
    )


def _landlock(
    policy: Policy,
    person: Person,
    view: View,
    machine: Machine,
    skipped: list[Skipped],
) -> Iterator[LandlockRules]:
    wanted = policy.kernel.landlock
    if wanted == "off":
        skipped.append(Skipped(what="landlock", why='the policy says "off"'))
        return
    if machine.landlock_abi == 0:
        why = "this kernel has no Landlock, or was booted without it"
        if wanted == "required":
            raise HostError(
                f"the policy {policy.name} requires Landlock: {why}",
                code="landlock-missing",
                hint="boot with lsm=landlock,…, or write kernel.landlock = "
                '"if-possible"',
            )
        skipped.append(Skipped(what="landlock", why=why))
        return
    files, net, scopes = kernel.landlock_rights(machine.landlock_abi)
    if policy.network != "none":
        net = 0
    elif not net:
        skipped.append(
            Skipped(
                what="landlock TCP",
                why=f"ABI {machine.landlock_abi} knows no TCP rules; "
                "the network namespace alone closes it",
            )
        )
    if policy.network == "host" and not scopes:
        skipped.append(
            Skipped(
                what="landlock scopes",
                why=f"ABI {machine.landlock_abi} knows none, and abstract sockets are "
                "the network namespace's: the host's can be reached",
            )
        )
    read = kernel.FS_READ_FILE | kernel.FS_READ_DIR
    devices = read | kernel.FS_WRITE_FILE | kernel.FS_TRUNCATE | kernel.FS_IOCTL_DEV
    everything = files & _EVERYTHING
    # Whatever is in the view may be read; executing and writing are named.
    rights = {
        "/": read,
        "/dev": devices,
        "/proc": read | kernel.FS_WRITE_FILE | kernel.FS_TRUNCATE,
        "/tmp": everything,  # noqa: S108
        "/dev/shm": everything & ~kernel.FS_EXECUTE,  # noqa: S108
    }
    rights |= dict.fromkeys(_own(person), everything)
    for tree in view.trees:
        rights[tree.path] = rights.get(tree.path, 0) | _rights(tree)
    rules = tuple(
        LandlockRule(path=path, rights=value & files)
        for path, value in sorted(rights.items())
    )
    yield LandlockRules(
        abi=machine.landlock_abi, files=files, net=net, scopes=scopes, rules=rules
    )


_EVERYTHING = ~(kernel.FS_MAKE_CHAR | kernel.FS_MAKE_BLOCK)


def _rights(tree: Tree) -> int:
    allowed = _EVERYTHING if tree.writable else kernel.FS_READ
    return allowed & kernel.FS_FILE_ONLY if tree.kind == "file" else allowed


# -------------------------------------------------------------------------- showing


def describe_policy(policy: Policy) -> tuple[str, ...]:
    """What `for_nobody` comes to, step by step."""
    return for_nobody(policy).describe()


def for_nobody(policy: Policy) -> Plan:
    """The plan a policy leads to, on a machine that has everything, for nobody.

    For `test-policy`, which runs as anyone: no path is opened, so every path of the
    policy is shown as if it were there, save those in the home of a bundle's caller.
    """
    writable = tuple(
        Tree(path=p, descriptor="", kind="directory", writable=True)
        for p in policy.view.write
        if not p.startswith("{")
    )
    readable = tuple(
        Tree(path=p, descriptor="", kind="directory", writable=False)
        for p in policy.view.read
        if not p.startswith("{")
    )
    view = View(
        trees=tuple(sorted((*readable, *writable), key=lambda t: t.path)),
        links=(),
        # By their names' patterns: which there are is the machine's.
        devices=tuple(
            DeviceNode(path=n.pattern, major=n.major, minor=n.minors[0], mode=n.mode)
            for n in devices.wanted(policy.devices)
        ),
    )
    person = Person(
        uid=INIT_UID + 1,
        gid=INIT_UID + 1,
        inner_uid=1000 if policy.identity.inner_uid == "caller" else INIT_UID + 1,
        inner_gid=1000 if policy.identity.inner_uid == "caller" else INIT_UID + 1,
        home="",
        passwd=b"",
        group=b"",
        nsswitch=b"",
        hosts=b"",
    )
    machine = Machine(
        landlock_abi=6,
        cgroups=(
            CgroupPlace(
                version=2, controllers=CONTROLLERS, path="/sys/fs/cgroup/isolauncher/ID"
            ),
        ),
        why_no_cgroup="",
        hard_limits=(),
        root_over="/run/isolauncher",
        init_uid=INIT_UID,
    )
    filter_ = CompiledFilter(
        name=policy.kernel.syscalls,
        program=b"",
        probe_number=0,
        probe_arguments=(),
        probe_errno=0,
    )
    prepared = room(
        room_id="ID",
        policy=policy,
        person=person,
        view=view,
        machine=machine,
        filter_=filter_,
    )
    launch = rest(
        activity_id="ID",
        frame=frame(prepared, view),
        furniture=Furniture(),
        filter_=filter_,
        start=Start(
            program_kind="name",
            path="",
            argv=("PROGRAM",),
            environment=tuple(sorted(policy.environment.set.items())),
            cwd="/",
            tier=policy.preload.tier,
            hostname=policy.hostname,
            preload=policy.preload.set,
        ),
        umask=0o022,
        init_uid=machine.init_uid,
    )
    return Plan(room=prepared, rest=launch)
