# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a request, a policy, an identity and a host into an ordered tuple of steps.

Decides everything and does nothing: opens no file and makes no system call, so the
same plan can be applied by root, read back by the verifier, or shown to anyone.

A plan is one sequence walked by two processes: *init* (PID 1 of the sandbox, root
until its last step) and *stem* (its child, which becomes the activity). Where the
actor changes, the one waits for the other. It has two parts. The *room* depends on the
policy, the caller and the machine, and may be walked before anybody asks; the *rest*
is what only a request can say. The order is written once, in `room` and `rest`, and
each place where two lines may not be swapped says why.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from . import devices, kernel
from .errors import HostError, StepError
from .policy.model import Policy

Actor = Literal["init", "stem"]

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

NAMESPACES: Mapping[str, int] = {
    "mnt": kernel.CLONE_NEWNS,
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
}


# ---------------------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """Leave the daemon's session: no controlling terminal to push input into."""

    def describe(self) -> str:
        return "start a session of its own, without a terminal"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinKeyring:
    """A session keyring is inherited over fork; a child could read our keys."""

    def describe(self) -> str:
        return "join a new, empty session keyring"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleNormally:
    """A daemon may run under a real-time policy, which a fork inherits (sched(7)).

    Before the cgroup: version 1's cpu controller takes no real-time process into a
    group without a real-time budget, and a new one has none.
    """

    def describe(self) -> str:
        return "be scheduled as other programs are"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupDirectory:
    """One directory to make, what to write into its files, and then to join.

    ``members`` is the file to join by. Version 1 has ``tasks``, where a thread that
    moves itself waits for nobody; by ``cgroup.procs`` the kernel stops every fork and
    exec of the machine first, and waits milliseconds for that
    (kernel/cgroup/cgroup.c, cgroup_procs_write_start). Init has one thread.
    """

    path: str
    settings: tuple[tuple[str, str], ...]
    members: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCgroup:
    """Before the cgroup namespace, which shows as "/" the cgroup it is made in."""

    directories: tuple[CgroupDirectory, ...]

    def describe(self) -> str:
        limits = [f"{k}={v}" for d in self.directories for k, v in d.settings]
        return "join a cgroup of its own: " + (", ".join(limits) or "no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshare:
    """Namespaces but pid (the zygote's fork) and user (the stem's, later)."""

    namespaces: tuple[str, ...]

    def describe(self) -> str:
        return "make new namespaces: " + " ".join(self.namespaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowInit:
    """The stem was forked before these of init's were made: into cgroup and namespaces.

    ``members`` are the files to join the cgroup by (see `CgroupDirectory`); they are
    outside, so before the namespaces.
    """

    members: tuple[str, ...]
    namespaces: tuple[str, ...]

    def describe(self) -> str:
        where = "cgroup and namespaces" if self.members else "namespaces"
        return f"join init's {where}: " + " ".join(self.namespaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePrivate:
    """First thing in a mount namespace: else mounts propagate back to the host."""

    def describe(self) -> str:
        return "cut mount propagation"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRoot:
    """An empty root in memory, mounted over a directory of ours."""

    over: str
    size: int

    def describe(self) -> str:
        return "mount an empty root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """``owner`` is the uid and gid outside that it belongs to."""

    path: str
    mode: int
    owner: int = 0

    def describe(self) -> str:
        return f"make the directory {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Symlink:
    path: str
    target: str

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFile:
    """A file that we make, such as /etc/passwd, or an empty place to attach to."""

    path: str
    data: bytes
    mode: int
    owner: int = 0

    def describe(self) -> str:
        return f"write {self.path}" if self.data else f"make the place {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFiles:
    """A tmpfs; ``size`` in bytes, ``inodes`` a count."""

    path: str
    size: int
    inodes: int
    mode: int
    executable: bool
    owner: int = 0

    def describe(self) -> str:
        return f"mount {self.size} bytes of memory on {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """``mode`` is what it lets its owner do."""

    path: str
    major: int
    minor: int
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDevices:
    """A /dev in which device nodes open: elsewhere in memory none does (nodev).

    Made by init, which is in no user namespace: a file system made in one opens none,
    however it is mounted (SB_I_NODEV), and mknod(2) is refused there.
    """

    inodes: int

    def describe(self) -> str:
        return "mount a /dev in which devices open"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDevices:
    """Nodes of the activity's own: those of the host cannot be opened by its uid.

    ``owner`` is the uid and gid outside that they belong to.
    """

    nodes: tuple[DeviceNode, ...]
    owner: int

    def describe(self) -> str:
        return "make the devices " + ", ".join(node.path for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealDevices:
    """No node is made, renamed or removed after this, by whoever may be there."""

    def describe(self) -> str:
        return "make /dev read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """Attach a detached mount that the daemon made from a descriptor.

    ``mapped`` says whose files become the activity's own through an id-mapped mount
    (mount_setattr(2)), ``mapped_gid`` of which group; None: as they are. ``copy``
    allows a copy of a file where the file system refuses the mapping.
    """

    path: str
    descriptor: str
    kind: Literal["directory", "file", "device"]
    attributes: int
    mapped: int | None = None
    mapped_gid: int = -1
    copy_mode: int | None = None

    def describe(self) -> str:
        how = "read" if self.attributes & kernel.MOUNT_ATTR_RDONLY else "write"
        if self.kind == "device":
            return f"attach the device {self.path}"
        owner = "" if self.mapped is None else f", owned by uid {self.mapped} outside"
        return f"attach {self.path} to {how}{owner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """The new root becomes that of all who had the old one, which the stem has, too.

    So it must be in by then: who came a moment later would be in the old one for good.
    """

    def describe(self) -> str:
        return "pivot into the new root"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOldRoot:
    """The new root becomes the only one: the old is detached, not merely hidden.

    The kernel then waits until every processor has noticed (RCU), so it is done when
    nobody waits for init; before a user namespace is made there, though: to the kernel
    init is in a chroot until then (kernel/user_namespace.c, create_user_ns).
    """

    def describe(self) -> str:
        return "let the old root go"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc:
    """A procfs of the sandbox's own PID namespace."""

    def describe(self) -> str:
        return "mount /proc of the new PID namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountTerminals:
    """A devpts instance of its own, so that programs can make pseudo-terminals."""

    def describe(self) -> str:
        return "mount /dev/pts of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealRoot:
    """Nothing is attached after this: the root itself becomes read-only."""

    def describe(self) -> str:
        return "make the root read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    name: str

    def describe(self) -> str:
        return f"be called {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp:
    def describe(self) -> str:
        return "bring the loopback interface up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    nice: int
    oom_score_adj: int

    def describe(self) -> str:
        return f"run at nice {self.nice}, oom_score_adj {self.oom_score_adj}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors 0, 1 and 2 become the caller's."""

    def describe(self) -> str:
        return "take the caller's stdin, stdout and stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetSignals:
    """Dispositions and the blocked mask survive fork, the mask even exec."""

    def describe(self) -> str:
        return "default signal dispositions, nothing blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUmask:
    umask: int

    def describe(self) -> str:
        return f"umask {self.umask:04o}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimits:
    """``limits``: name to value, soft and hard alike; getrlimit(2)'s units."""

    limits: tuple[tuple[str, int], ...]

    def describe(self) -> str:
        return "limits: " + ", ".join(f"{k}={v}" for k, v in self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearGroups:
    """Before the user namespace: in it setgroups is denied for ever."""

    def describe(self) -> str:
        return "no supplementary groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUserNamespace:
    """Made while euid is 0, so that root owns it and an outside prlimit still works.

    Made after the mount and network namespaces, so that the capabilities it gives
    have no power over those (user_namespaces(7)).
    """

    def describe(self) -> str:
        return "make a user namespace that root owns"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapIdentity:
    """One line each; ``deny`` first, or the gid map is not accepted."""

    inner_uid: int
    uid: int
    inner_gid: int
    gid: int

    def describe(self) -> str:
        return (
            f"inside uid {self.inner_uid} gid {self.inner_gid}, "
            f"outside uid {self.uid} gid {self.gid}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOwner:
    """Ahead, for the directories that a launch brings: to make it takes a fork."""

    uid: int
    gid: int

    def describe(self) -> str:
        return (
            f"make the id map by which files of uid {self.uid} gid {self.gid} "
            "will be the activity's"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNestedUserNamespaces:
    """Needs CAP_SYS_RESOURCE in the new namespace, so before the capabilities go."""

    def describe(self) -> str:
        return "no user namespace may be made inside"


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeUser:
    """Gid before uid: without the uid there is no right to change the gid."""

    uid: int
    gid: int

    def describe(self) -> str:
        return f"become uid={self.uid} gid={self.gid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCapabilities:
    """After the user namespace: making one refills the bounding set and all others."""

    def describe(self) -> str:
        return "empty the bounding set, lock securebits, give up every capability"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowAs:
    """Let ps and /proc/self show the activity. Before seccomp, which refuses it."""

    argv: tuple[str, ...]
    environ: tuple[str, ...]
    name: str

    def describe(self) -> str:
        return f"show as {self.name!r} with {len(self.environ)} variables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumpable:
    """The change of uid made /proc/self root's; the uid is its own, so give it back."""

    def describe(self) -> str:
        return "own its entries in /proc"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNewPrivs:
    def describe(self) -> str:
        return "no_new_privs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LandlockRule:
    """``descriptor`` names one that the stem has of what lies at ``path``, if any."""

    path: str
    rights: int
    descriptor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandlockRules:
    """What the view allows, as a ruleset that binds nobody yet."""

    abi: int
    files: int
    net: int
    scopes: int
    rules: tuple[LandlockRule, ...]

    def describe(self) -> str:
        tcp = ", no TCP" if self.net else ""
        return f"landlock (ABI {self.abi}): {len(self.rules)} rules{tcp}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Landlock:
    """Binds the calling thread only, so while there is but one (landlock(7))."""

    rules: tuple[LandlockRule, ...]

    @property
    def rules_are_sent(self) -> bool:
        """Whether it asks for nothing that init would have to attach before."""
        return all(rule.descriptor for rule in self.rules)

    def describe(self) -> str:
        more = "".join(f", and {r.path}" for r in self.rules)
        return f"be bound by the landlock rules{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDescriptors:
    def describe(self) -> str:
        return "close every descriptor but 0, 1, 2 and the way to the daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The compiled filter, to have at hand; it binds nobody yet."""

    program: bytes

    def describe(self) -> str:
        return f"a seccomp filter of {len(self.program) // 8} instructions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seccomp:
    """The filter need not allow the calls that gave up privileges.

    Of what comes after it, a program may do each to itself, too: Landlock, and closing.
    """

    name: str
    probe_number: int
    probe_arguments: tuple[int, ...]
    probe_errno: int

    def describe(self) -> str:
        return f"be bound by the seccomp filter {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerInit:
    """What init can give up while it waits: the rest only mounts a file."""

    def describe(self) -> str:
        return "init gives up its bounding set and groups, and locks securebits"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavePrivileges:
    """Init keeps nothing but its child and the descriptors it already has.

    A uid of its own: the activity's would let it set init's limits (prlimit(2)).
    """

    uid: int

    def describe(self) -> str:
        return f"init gives up everything and becomes uid={self.uid}"


Step = (
    NewSession
    | JoinKeyring
    | ScheduleNormally
    | JoinCgroup
    | Unshare
    | FollowInit
    | MakePrivate
    | NewRoot
    | Directory
    | Symlink
    | WriteFile
    | MemoryFiles
    | MountDevices
    | MakeDevices
    | SealDevices
    | Attach
    | Pivot
    | LeaveOldRoot
    | MountProc
    | MountTerminals
    | SealRoot
    | SetHostname
    | LoopbackUp
    | Priority
    | Stdio
    | ResetSignals
    | SetUmask
    | SetLimits
    | ClearGroups
    | NewUserNamespace
    | MapIdentity
    | MapOwner
    | NoNestedUserNamespaces
    | BecomeUser
    | DropCapabilities
    | ShowAs
    | Dumpable
    | NoNewPrivs
    | LandlockRules
    | Landlock
    | CloseDescriptors
    | Filter
    | Seccomp
    | LowerInit
    | LeavePrivileges
)


ENFORCES: Mapping[type[Step], tuple[str, ...]] = {
    JoinKeyring: ("keyring",),
    JoinCgroup: ("cgroup",),
    Unshare: (
        "mount",
        "pid",
        "net",
        "ipc",
        "uts",
        "cgroupns",
    ),
    SetLimits: ("rlimits",),
    ClearGroups: ("groups",),
    NewUserNamespace: ("user",),
    BecomeUser: ("uid",),
    DropCapabilities: (
        "capabilities",
        "securebits",
    ),
    ShowAs: ("environment",),
    NoNewPrivs: ("no_new_privs",),
    Landlock: ("landlock",),
    CloseDescriptors: ("descriptors",),
    Seccomp: ("seccomp",),
}
"""What the report's ``enforced`` calls a step that has been done."""


def name_of(step: Step) -> str:
    """The step's name in errors, logs and tests: NewUserNamespace → new-user-…"""
    name = type(step).__name__
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    actor: Actor
    step: Step


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
class Skipped:
    what: str
    why: str


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


WAITS: frozenset[type[Step]] = frozenset((FollowInit, Pivot, NoNestedUserNamespaces))
"""Before these a process waits for the other's turns that come before them.

For init's cgroup and namespaces; for the stem to be in them, with a user namespace of
its own; for the maps, the mounts and /proc.
"""


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
SWAP_FILES = ("/memory.swap.max", "/memory.memsw.limit_in_bytes")


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
    """Nothing of the policy's comes to lie below /dev after it (check.MADE_BY_US)."""
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


# ---------------------------------------------------------------- over the wire


_CLASSES: Mapping[str, type] = {
    c.__name__: c
    for c in (
        *Step.__args__,
        CgroupDirectory,
        DeviceNode,
        LandlockRule,
        Planned,
        Room,
        RoomPart,
        Rest,
        Start,
        Skipped,
    )
}


_FIELDS: Mapping[type, tuple[str, ...]] = {
    c: tuple(f.name for f in dataclasses.fields(c)) for c in _CLASSES.values()
}
_KINDS = tuple(_CLASSES.values())
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_TUPLE, _BYTES = -1, -2
# By the fields themselves: the constructor of a frozen class asks for each.
_PUT = tuple(tuple(getattr(c, name).__set__ for name in _FIELDS[c]) for c in _KINDS)
_new = object.__new__
# Most values of a plan are these, and a launch waits for every one of them.
_PLAIN = frozenset((str, int, bool, type(None)))


def pack(value: object) -> object:
    """A plan or a part of it as JSON values: what is not plain is a list.

    First the number of its class and then the fields, for a process of the same code
    (or one that says that it is a tuple, or bytes, in base64).
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, bytes):
        return [_BYTES, base64.b64encode(value).decode("ascii")]
    if isinstance(value, tuple):
        packed: list[object] = [_TUPLE]
        packed += [v if type(v) in _PLAIN else pack(v) for v in value]
        return packed
    packed = [_NUMBERS[kind]]
    for name in _FIELDS[kind]:
        field = getattr(value, name)
        packed.append(field if type(field) in _PLAIN else pack(field))
    return packed


def unpack(value: object) -> object:
    """The reverse of `pack`; StepError for what `pack` cannot have written."""
    if not isinstance(value, list):
        return value
    try:
        number, *fields = value
        if number == _TUPLE:
            return tuple([v if type(v) in _PLAIN else unpack(v) for v in fields])
        if number == _BYTES:
            (text,) = fields
            return base64.b64decode(text, validate=True)
        if number < 0:
            raise ValueError("no class has that number")
        made: object = _new(_KINDS[number])
        for put, field in zip(_PUT[number], fields, strict=True):
            put(made, field if type(field) in _PLAIN else unpack(field))
        return made
    except (IndexError, TypeError, ValueError, binascii.Error) as e:
        raise _not_a_plan(f"not a plan: {e}") from e


LONG = b"[]"
"""In the place of a part that is too long for a packet, and comes as a memory file."""

_ENCODER = json.JSONEncoder(check_circular=False, separators=(",", ":"))
_not_a_plan = partial(StepError, step="plan", code="not-a-plan")


def write(names: Iterable[str], part: object) -> bytes:
    """One of two processes' part, and what the descriptors are called that go with it.

    Not a message that anybody could send: the daemon's word, to who is to obey it.
    """
    if not isinstance(part, RoomPart):
        return _ENCODER.encode([list(names), pack(part)]).encode()
    # As `pack`; but most of its steps have been written for another room already.
    steps = ",".join((str(_TUPLE), *map(_text, part.steps)))
    fields = [_ENCODER.encode(getattr(part, n)) for n in _FIELDS[RoomPart] if n != _S]
    fields.insert(_FIELDS[RoomPart].index(_S), f"[{steps}]")
    told = ",".join((str(_NUMBERS[RoomPart]), *fields))
    return f"[{_ENCODER.encode(list(names))},[{told}]]".encode()


_S = "steps"
_ALIKE = frozenset((Attach, Directory, Symlink, LandlockRules, Filter, SetLimits))
"""Of such there are many in a room, and the same in the next; nobody's secrets."""


def _text(planned: Planned) -> str:
    kept = type(planned.step) in _ALIKE
    return _known_text(planned) if kept else _ENCODER.encode(pack(planned))


@lru_cache(maxsize=4096)
def _known_text(planned: Planned) -> str:
    return _ENCODER.encode(pack(planned))


def read(data: bytes) -> tuple[list[str], object]:
    """The reverse of `write`."""
    try:
        names, part = json.loads(data)
    except (TypeError, ValueError) as e:
        raise _not_a_plan(f"not a plan: {e}") from e
    return names, unpack(part)


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
