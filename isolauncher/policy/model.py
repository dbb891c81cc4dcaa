# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy can say, as frozen values; reads no file and knows no machine.

A `Policy` is complete: every key has a value, and `origin` says which file and
line set it. Keys are the dashed names of the language, ``table.key``.

`KEYS` is the language itself, as a table: the loader checks files against it and
``docs/policy.md`` is printed from it, so neither can say what the other does not.
A key whose enforcement is still to come is in it too. It parses, and only its
harmless value is accepted: a file must never promise what nobody enforces.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# A value as the loader has it after checking, before it is put into a `Policy`.
Value = str | int | bool | tuple[str, ...]

Access = Literal["none", "loopback", "host"]
UidMode = Literal["instance", "bundle"]
InnerUid = Literal["caller", "same"]
Need = Literal["required", "if-possible", "off"]
Documents = Literal["none", "own", "opened", "all"]
Tier = Literal["fork", "exec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value was set; ``line`` counts from 1."""

    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which bundles a policy governs, and who may name it. Never inherited."""

    bundle_ids: tuple[str, ...] = ()
    installed_by: Literal["system", "user"] = "system"
    callers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """One of an administrator's own tests; ``try`` is ``verb`` and ``argument``."""

    that: str
    verb: str
    argument: tuple[str, ...]
    result: Literal["allowed", "refused", "absent"]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A right under one of Bitfrost's names (bitfrost.py), and why it is given."""

    name: str
    because: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Findings that an administrator answers for, through the day ``until``.

    ``key`` and ``item`` empty: whatever the finding is about.
    """

    finding: str
    key: str
    item: str
    because: str
    until: datetime.date
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    uid: UidMode
    inner_uid: InnerUid


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Absolute, normalised host paths; ``tmp`` and ``data`` in bytes."""

    read: tuple[str, ...]
    write: tuple[str, ...]
    tmp: int
    data: int
    documents: Documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    """Rules and names as the bus's filter takes them (xdg-dbus-proxy(1))."""

    session_call: tuple[str, ...]
    session_own: tuple[str, ...]
    accessibility: bool
    input_method: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds, 0 for ``cpu_seconds``: no limit."""

    cgroup: Literal["required", "if-possible"]
    processes: int
    memory: int
    open_files: int
    file_size: int
    cpu_seconds: int
    core: int
    cpu_weight: int
    nice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """``keep`` holds names or ``PREFIX*``; ``set`` wins over what was kept."""

    keep: tuple[str, ...]
    set: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    syscalls: str
    landlock: Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    set: str
    tier: Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy, every key resolved. ``files`` lists what was read, base first.

    ``digest`` names the bytes of all those files: two policies with the same digest
    and name were made from the same text. ``history`` has what each file of it says of
    a key, base first; the last counts. ``expects`` is never inherited: an
    expectation speaks about the file it stands in.
    """

    name: str
    files: tuple[str, ...]
    description: str
    match: Match
    identity: Identity
    hostname: str
    network: Access
    view: Files
    devices: tuple[str, ...]
    x11: Literal["none", "shared"]
    bus: Bus
    limits: Limits
    environment: Environment
    kernel: Kernel
    preload: Preload
    origin: Mapping[str, Origin] = field(default_factory=dict)
    history: Mapping[str, tuple[Said, ...]] = field(default_factory=dict, compare=False)
    grants: tuple[Grant, ...] = ()
    expects: tuple[Expect, ...] = ()
    accepts: tuple[Accept, ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one file says of a key. ``value`` None: it takes a variable away again.

    ``more``: a list that stands after what was inherited.
    """

    value: Value | None
    origin: Origin
    more: bool = False


Kind = Literal[
    "version",
    "policy-name",
    "text",
    "choice",
    "flag",
    "count",
    "size",
    "seconds",
    "hostname",
    "read-paths",
    "write-paths",
    "bundle-ids",
    "callers",
    "addresses",
    "devices",
    "bus-calls",
    "bus-names",
    "variables",
    "settings",
    "grants",
]

INT64_MAX = 2**63 - 1

IN_HOME = "{home}/"
"""How a path begins that lies in the person's home, wherever that is."""

DEVICES = ("gpu", "sound", "microphone", "camera", "serial", "joystick")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the language.

    ``default`` is what default.toml sets, as TOML; empty: default.toml does not set
    it, because the key is never inherited. ``only`` is the one value accepted as long
    as nothing enforces another; ``later`` are the choices for which the same holds.
    """

    name: str
    kind: Kind
    default: str
    says: str
    choices: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    only: Value | None = None
    minimum: int = 0
    maximum: int = INT64_MAX

    @property
    def table(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def inherited(self) -> bool:
        return bool(self.default)


TABLES: Mapping[str, str] = {
    "": "At the top of the file, before any table.",
    "match": "Which bundles the policy governs and who may name it. Never inherited.",
    "identity": "Who the activity is, outside and inside.",
    "namespaces": "Mount, pid, ipc, uts, cgroup and user namespaces are always new; "
    "no key turns that off.",
    "network": "What the activity can reach.",
    "files": "What of the host's files exists for the activity. Everything else does "
    "not exist (ENOENT), except the path down to the named program.",
    "devices": "Device nodes beyond null, zero, full, random, urandom, tty and a "
    "private pts.",
    "display": "The person's screen.",
    "bus": "The person's session bus, through a filtering proxy.",
    "limits": "How much the activity may use.",
    "environment": "The activity's environment holds what these two keys say and "
    "nothing else.",
    "kernel": "What the activity may ask of the kernel.",
    "preload": "How its process is started. Changes the speed, never the rights.",
    "grants": "Rights under the names of Bitfrost, OLPC's security model, each with "
    'its reason: `P_NET = { because = "Browse reads the web." }`. A name stands for '
    "the values below, and is the reason for them; where the file says nothing of such "
    "a key, the grant sets it. Merged by name. A file that sets the key otherwise "
    "takes an inherited grant away.",
}

KEYS: tuple[Key, ...] = (
    Key(
        name="version",
        kind="version",
        default="",
        says="The version of the language: 1. Required in every file.",
    ),
    Key(
        name="description",
        kind="text",
        default="",
        says="One sentence for whoever reads a list of policies.",
    ),
    Key(
        name="extends",
        kind="policy-name",
        default="",
        says="The policy whose values hold where this file is silent. Left out: "
        '`"default"`; default.toml itself extends nothing. In /etc a file that '
        "extends its own name means the shipped file of that name.",
    ),
    Key(
        name="match.bundle-id",
        kind="bundle-ids",
        default="",
        says="Exact bundle ids, or prefixes ending in `.*`. Exact beats a longer "
        "prefix beats a shorter one; two files equally specific for one id are "
        "refused.",
    ),
    Key(
        name="match.installed-by",
        kind="choice",
        default="",
        choices=("system", "user"),
        says="Left out or `system`: matches only bundles in which every part of the "
        "path is root's, writable by nobody else and not mounted nosuid, as what a "
        "person brought along is. `user`: matches only the others. A bundle id is what "
        "a bundle says of itself. Where nothing matches, a system bundle gets "
        "`sugar` (`default` where there is none), another `untrusted`.",
    ),
    Key(
        name="match.callers",
        kind="callers",
        default="",
        says="Who may name this policy in `run --policy`: user names, `@group`, or "
        '`"*"` for everybody. Empty or left out: root alone.',
    ),
    Key(
        name="identity.uid",
        kind="choice",
        default='"instance"',
        choices=("instance", "bundle"),
        says="`instance`: every launch gets a uid of its own. `bundle`: one uid for "
        "all launches of a bundle by the same caller.",
    ),
    Key(
        name="identity.inner-uid",
        kind="choice",
        default='"caller"',
        choices=("caller", "same"),
        says="The uid that the activity believes it has: its caller's, or the same as "
        "outside. For a caller who is root, `caller` means `same`.",
    ),
    Key(
        name="namespaces.hostname",
        kind="hostname",
        default='"isolauncher"',
        says="The host name inside.",
    ),
    Key(
        name="network.access",
        kind="choice",
        default='"none"',
        choices=("none", "loopback", "host", "filtered"),
        later=("filtered",),
        says="`none`: no interface is up. `loopback`: 127.0.0.1 and ::1 of its own. "
        "`host`: the host's network, with everything that listens on it. `filtered`: "
        "only what `allow` names.",
    ),
    Key(
        name="network.allow",
        kind="addresses",
        default="[]",
        only=(),
        says='With `access = "filtered"`: `"tcp://wiki.laptop.org:443"` and the like.',
    ),
    Key(
        name="files.read",
        kind="read-paths",
        default="[…]",
        says="Host files and directories visible read-only, as far as the caller may "
        "read them. `{home}/…` lies in the person's home, for bundles, which have one. "
        "A path that is a symbolic link is made as that link. One that is missing is "
        "skipped and reported. Not /proc, /sys, /dev and /tmp, which are made new for "
        "each activity.",
    ),
    Key(
        name="files.write",
        kind="write-paths",
        default="[]",
        says="Host files and directories that may be written, with the caller's own "
        "rights as owner and by primary group: what belongs to the caller there is as "
        "good as the activity's, and what the activity makes is the caller's. On a "
        "file system without id-mapped mounts (overlayfs, NFS) the launch is refused. "
        "Never /, /etc, the directories of policies, or "
        "isolauncher's own.",
    ),
    Key(
        name="files.tmp",
        kind="size",
        default='"64M"',
        minimum=64 * 1024,
        says="How much fits into the activity's own /tmp, which is in memory.",
    ),
    Key(
        name="files.data",
        kind="size",
        default="0",
        says="How much fits into SUGAR_ACTIVITY_ROOT, whose `data` is kept between "
        "launches. An activity that takes more is stopped. 0: there is none.",
    ),
    Key(
        name="files.documents",
        kind="choice",
        default='"none"',
        choices=("none", "own", "opened", "all"),
        says="Which objects of the Journal exist for the activity: those it made, also "
        "the one it was opened with and, to be read, those that the person chooses for "
        "it in the Journal's window, all. `none`: there is no Journal.",
    ),
    Key(
        name="devices.allow",
        kind="devices",
        default="[]",
        choices=DEVICES,
        says="Kinds of devices. The activity gets nodes of its own for those that the "
        "caller may open, and the report names what it does not get. `gpu`: what draws "
        "(`/dev/dri/renderD*`), not what sets the screen. `sound`: ALSA's playback "
        "(`/dev/snd/pcmC*D*p`) with the card's mixer (`controlC*`), by which the "
        "volume of everything is set, and its clock (`timer`). `microphone`: ALSA's "
        "capture (`pcmC*D*c`), with mixer and clock. Neither has the sequencer or the "
        "socket of a sound server, by which others are heard. `camera`: "
        "`/dev/video*`. `serial`: `/dev/ttyS*`, `/dev/ttyUSB*`, `/dev/ttyACM*`. "
        "`joystick`: `/dev/input/js*`, to read. What counts is what is there at the "
        "launch: what is plugged in later is the next one's.",
    ),
    Key(
        name="display.x11",
        kind="choice",
        default='"none"',
        choices=("none", "shared"),
        says="`shared` gives the person's X display: with it an activity can watch "
        "other windows and type into them.",
    ),
    Key(
        name="bus.session-call",
        kind="bus-calls",
        default="[]",
        says="`NAME=RULE` as xdg-dbus-proxy's --call takes it. Never "
        "org.sugarlabs.IsoLauncher1.",
    ),
    Key(
        name="bus.session-own",
        kind="bus-names",
        default="[]",
        says="Names that the activity may own; `{activity-id}` stands for its id.",
    ),
    Key(
        name="bus.accessibility",
        kind="flag",
        default="false",
        says="The screen reader's bus, filtered: what is in the activity's windows can "
        "be read aloud, and it sees nobody else's. Without it GTK is told not to look.",
    ),
    Key(
        name="bus.input-method",
        kind="flag",
        default="false",
        says="What IBus and Fcitx offer to programs in sandboxes, on the session bus.",
    ),
    Key(
        name="limits.cgroup",
        kind="choice",
        default='"if-possible"',
        choices=("required", "if-possible"),
        says="Whether the limits kept by control groups must be had: memory, "
        "cpu-weight, and processes beside RLIMIT_NPROC. `required`: no launch without "
        "them. `if-possible`: the report says what was skipped.",
    ),
    Key(
        name="limits.processes",
        kind="count",
        default="128",
        minimum=1,
        maximum=2**22,
        says="Processes and threads together.",
    ),
    Key(
        name="limits.memory",
        kind="size",
        default='"1G"',
        minimum=16 * 1024**2,
        says="Memory of all its processes together, its /tmp included.",
    ),
    Key(
        name="limits.open-files",
        kind="count",
        default="1024",
        minimum=16,
        maximum=2**20,
        says="Open descriptors of one process.",
    ),
    Key(
        name="limits.file-size",
        kind="size",
        default='"1G"',
        minimum=4096,
        says="The largest file it may write.",
    ),
    Key(
        name="limits.cpu-seconds",
        kind="seconds",
        default="0",
        maximum=2**31 - 1,
        says="Processor time of one process, in seconds. 0: no limit.",
    ),
    Key(
        name="limits.core",
        kind="size",
        default="0",
        says="The largest core dump. 0: none is written. It binds files only: where "
        "kernel.core_pattern is a pipe, the host's program behind it gets all.",
    ),
    Key(
        name="limits.cpu-weight",
        kind="count",
        default="100",
        minimum=1,
        maximum=10000,
        says="Its share of a busy processor; 100 is everybody's share.",
    ),
    Key(
        name="limits.nice",
        kind="count",
        default="0",
        minimum=0,
        maximum=19,
        says="0 to 19; higher gives way to others.",
    ),
    Key(
        name="environment.keep",
        kind="variables",
        default="[…]",
        says="Names taken over from the caller; `LC_*` takes every name that begins "
        "so. A pattern never takes a variable that steers a loader or an interpreter "
        "or leads to a socket of the person (LD_PRELOAD, PYTHONPATH, "
        "DBUS_SESSION_BUS_ADDRESS, …): such a name must be written in full.",
    ),
    Key(
        name="environment.set",
        kind="settings",
        default="{…}",
        says="Variables with their values; wins over `keep`. Merged by name with what "
        "is inherited; `NAME = false` takes an inherited one away. If no LC_ALL, "
        "LC_CTYPE or LANG is left with a value, LANG=C.UTF-8 is added.",
    ),
    Key(
        name="kernel.syscalls",
        kind="choice",
        default='"desktop"',
        choices=("desktop", "debug"),
        says="A named list of system calls; all others are refused. `debug` has also "
        "those by which strace and gdb look into programs of the same sandbox.",
    ),
    Key(
        name="kernel.landlock",
        kind="choice",
        default='"if-possible"',
        choices=("required", "if-possible", "off"),
        says="A second wall around files, sockets and signals, where the kernel has "
        "it.",
    ),
    Key(
        name="preload.set",
        kind="choice",
        default='"python"',
        choices=("python", "gtk3", "sugar3"),
        says="Which preloaded modules the process is forked from.",
    ),
    Key(
        name="preload.tier",
        kind="choice",
        default='"fork"',
        choices=("fork", "exec"),
        says="`fork`: from the preloaded interpreter; fast, and all activities of a "
        "zygote share its address layout and hash seed. `exec`: a fresh interpreter. "
        "What is not Python is always `exec`.",
    ),
    Key(
        name="grants",
        kind="grants",
        default="",
        says="Every grant needs `because`.",
    ),
)


def values(policy: Policy) -> dict[str, Value]:
    """Every inherited key's value in force, by its name in the language.

    Variables of environment.set each have a name of their own.
    """
    view, bus, limits = policy.view, policy.bus, policy.limits
    found: dict[str, Value] = {
        "identity.uid": policy.identity.uid,
        "identity.inner-uid": policy.identity.inner_uid,
        "namespaces.hostname": policy.hostname,
        "network.access": policy.network,
        "network.allow": (),
        "files.read": view.read,
        "files.write": view.write,
        "files.tmp": view.tmp,
        "files.data": view.data,
        "files.documents": view.documents,
        "devices.allow": policy.devices,
        "display.x11": policy.x11,
        "bus.session-call": bus.session_call,
        "bus.session-own": bus.session_own,
        "bus.accessibility": bus.accessibility,
        "bus.input-method": bus.input_method,
        "limits.cgroup": limits.cgroup,
        "limits.processes": limits.processes,
        "limits.memory": limits.memory,
        "limits.open-files": limits.open_files,
        "limits.file-size": limits.file_size,
        "limits.cpu-seconds": limits.cpu_seconds,
        "limits.core": limits.core,
        "limits.cpu-weight": limits.cpu_weight,
        "limits.nice": limits.nice,
        "environment.keep": policy.environment.keep,
        "kernel.syscalls": policy.kernel.syscalls,
        "kernel.landlock": policy.kernel.landlock,
        "preload.set": policy.preload.set,
        "preload.tier": policy.preload.tier,
    }
    for name, value in sorted(policy.environment.set.items()):
        found[f"environment.set.{name}"] = value
    return found


def reasons(policy: Policy) -> dict[str, str]:
    """Why each grant in force is given, by ``grants.NAME``."""
    return {f"grants.{grant.name}": grant.because for grant in policy.grants}
