# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made of: steps, each a frozen noun that can describe itself.

Who does a step, what has been enforced when it is done, before which of them a process
waits for the other; and what is said of something that is not done. Which steps a
launch needs and in what order is decided in `plan`, how one is done is in `apply`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from . import kernel

Actor = Literal["init", "stem"]

NAMESPACES: Mapping[str, int] = {
    "mnt": kernel.CLONE_NEWNS,
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
}


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


SWAP_FILES = ("/memory.swap.max", "/memory.memsw.limit_in_bytes")
"""How the settings end that are not there where the kernel counts no swap."""


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

WAITS: frozenset[type[Step]] = frozenset((FollowInit, Pivot, NoNestedUserNamespaces))
"""Before these a process waits for the other's turns that come before them.

For init's cgroup and namespaces; for the stem to be in them, with a user namespace of
its own; for the maps, the mounts and /proc.
"""


def name_of(step: Step) -> str:
    """The step's name in errors, logs and tests: NewUserNamespace → new-user-…"""
    name = type(step).__name__
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    actor: Actor
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    what: str
    why: str
