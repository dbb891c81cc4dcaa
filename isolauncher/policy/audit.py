# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy opens, in an administrator's words, and how much that is as a figure.

Everything a policy grants is a `Remark`: what it means, at which line it was said, and
how many points it adds to the *exposure*, by which two policies can be compared. A
remark that somebody should think about is also a *finding* with a severity:

    note        worth knowing; most policies have some
    open        a way to something that is not the activity's own
    dangerous   the sandbox does not hold what its name promises

Points follow one scale: 1 is a setting that can be used to learn or to annoy, 5 a way
to some of the person's data or programs, 10 a shared display, 20 and more whatever
makes the rest of the policy worth little. Amounts count by their logarithm: each
doubling weighs the same. Whatever weakens a policy adds points, by a remark that names
its key: tests/policy/test_audit.py weakens every setting of every shipped policy.

An administrator answers for a finding in ``[[accept]]``, through a day: it is told like
every other, but reaches no threshold. An exception that has expired, or that nothing is
left of, is a finding itself; so is a dangerous one for which nobody gives a reason.

Reads nothing but the policy, and neither machine nor person: what a path or a service
gives on one machine is for ``--live``, whose one finding is `not_engaged`.
"""

from __future__ import annotations

import datetime
import math
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from isolauncher.policy import bitfrost, environment
from isolauncher.policy.model import IN_HOME, Accept, Policy

Severity = Literal["note", "open", "dangerous"]
SEVERITIES: tuple[Severity, ...] = ("note", "open", "dangerous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of finding. ``{item}`` in ``says`` stands for what it is about.

    ``see`` is where the matter is explained.
    """

    id: str
    severity: Severity
    points: float
    says: str
    fix: str
    see: str


KINDS: tuple[Kind, ...] = (
    Kind(
        id="not-engaged",
        severity="dangerous",
        points=0,
        says="Asked for and not in force when it was tried (--live): {item}.",
        fix="nothing under this policy until it holds: a fault of isolauncher's or of "
        "this machine's kernel, please report it",
        see="docs/policy.md, What --live tries",
    ),
    Kind(
        id="restriction-stale",
        severity="open",
        points=0,
        says="{item} is as it was when `isolauncher restrict` made this file; what it "
        "extends has changed since.",
        fix="make the file anew: `isolauncher restrict BUNDLE-ID` says how",
        see="isolauncher(1), restrict",
    ),
    Kind(
        id="governs-anybodys",
        severity="note",
        points=1,
        says="It governs bundles that a person brought along: an id is only what a "
        "bundle says of itself.",
        fix='leave installed-by out, or write "system"',
        see="docs/policy.md, match.installed-by",
    ),
    Kind(
        id="uid-kept",
        severity="note",
        points=0.5,
        says="All runs of a bundle share one uid: one that is running can be reached "
        "by what the next one does.",
        fix='uid = "instance"',
        see="docs/policy.md, identity.uid",
    ),
    Kind(
        id="network-host",
        severity="dangerous",
        points=25,
        says="The activity reaches whatever this machine reaches, and every service "
        "that listens on it; where Landlock cannot scope them (before Linux 6.12), "
        "every abstract socket of the person's programs too.",
        fix='access = "none", or "loopback" if it only talks to itself',
        see="docs/threat-model.md; landlock(7)",
    ),
    Kind(
        id="can-send-away",
        severity="dangerous",
        points=10,
        says="With the network it can send away what it reads: {item}.",
        fix='access = "none", or documents = "own"',
        see="docs/threat-model.md",
    ),
    Kind(
        id="can-send-screen",
        severity="dangerous",
        points=10,
        says="With the network it can send away what it sees of other windows.",
        fix='access = "none", or x11 = "none"',
        see="docs/threat-model.md",
    ),
    Kind(
        id="can-send-heard",
        severity="dangerous",
        points=10,
        says="With the network it can send away what it hears or sees of who is there.",
        fix='access = "none", or neither "microphone" nor "camera" in allow',
        see="docs/threat-model.md",
    ),
    Kind(
        id="reads-everything",
        severity="dangerous",
        points=25,
        says="{item}: the activity can read everything the person can.",
        fix="name the one directory that it needs",
        see="docs/policy.md, files.read",
    ),
    Kind(
        id="reads-sockets",
        severity="dangerous",
        points=20,
        says="{item}: the sockets of the system's and the person's services lie there, "
        "and to connect to one only takes that it is shown.",
        fix="leave it out; the bus and the display have keys of their own",
        see="unix(7)",
    ),
    Kind(
        id="reads-home",
        severity="open",
        points=4,
        says="{item}: something of the person's own.",
        fix="leave it out if it works without",
        see="docs/policy.md, files.read",
    ),
    Kind(
        id="reads-others",
        severity="open",
        points=3,
        says="{item}: what other programs and people have stored, as far as the person "
        "may read it.",
        fix="name the one file or directory that it needs",
        see="docs/policy.md, files.read",
    ),
    Kind(
        id="reads-system",
        severity="open",
        points=3,
        says="{item}: how this machine is set up, as far as the person may read it.",
        fix="name the files that it needs",
        see="docs/policy.md, files.read",
    ),
    Kind(
        id="reads-machine-id",
        severity="note",
        points=1,
        says="{item}: by it the machine is known again, by whoever is told it.",
        fix="leave it out if it works without",
        see="machine-id(5)",
    ),
    Kind(
        id="writes-everything",
        severity="dangerous",
        points=40,
        says="{item}: the activity can change and delete everything the person can, "
        "and so what the person's other programs do.",
        fix="name the one directory that it needs; files.data gives it one",
        see="docs/policy.md, files.write",
    ),
    Kind(
        id="writes-system",
        severity="dangerous",
        points=30,
        says="{item}: what it changes there, others run or believe.",
        fix="leave it out; files.data gives it a directory of its own",
        see="docs/policy.md, files.write",
    ),
    Kind(
        id="writes-outside",
        severity="open",
        points=8,
        says="{item}: what it leaves there stays, and others may open it.",
        fix="files.data gives it a directory of its own",
        see="docs/policy.md, files.write",
    ),
    Kind(
        id="documents-all",
        severity="dangerous",
        points=20,
        says="The activity can read, change and delete every entry of the person's "
        "Journal.",
        fix='documents = "opened": a person opens what it shall have',
        see="docs/policy.md, files.documents",
    ),
    Kind(
        id="hears",
        severity="open",
        points=8,
        says="The activity can listen to whoever is in the room, at any time; nothing "
        "shows that it does.",
        fix='take "microphone" out of allow',
        see="docs/policy.md, devices.allow",
    ),
    Kind(
        id="sees",
        severity="open",
        points=8,
        says="The activity can look at whoever is before the camera, at any time; its "
        "light is all that shows it.",
        fix='take "camera" out of allow',
        see="docs/policy.md, devices.allow",
    ),
    Kind(
        id="serial-ports",
        severity="open",
        points=4,
        says="What is plugged into a serial port does what the activity tells it.",
        fix='take "serial" out of allow',
        see="docs/policy.md, devices.allow",
    ),
    Kind(
        id="graphics-driver",
        severity="note",
        points=2,
        says="The activity speaks to the graphics card's driver, a large part of the "
        "kernel that few programs need to reach.",
        fix='take "gpu" out of allow; it then draws without',
        see="docs/policy.md, devices.allow",
    ),
    Kind(
        id="mixer",
        severity="note",
        points=1,
        says="With sound comes the card's mixer: the activity can set the volume of "
        "everything, and whether a microphone is switched on.",
        fix='take "sound" out of allow, if nobody needs to hear it',
        see="docs/policy.md, devices.allow",
    ),
    Kind(
        id="display-shared",
        severity="open",
        points=10,
        says="The activity can watch the windows of other programs and type into them.",
        fix='x11 = "none"; nothing with a window opens then',
        see="docs/threat-model.md",
    ),
    Kind(
        id="bus-powerful",
        severity="dangerous",
        points=20,
        says="{item}: who answers there does what it is told in the person's name, "
        "outside the sandbox.",
        fix="leave it out",
        see="docs/policy.md, bus.session-call",
    ),
    Kind(
        id="bus-wide",
        severity="open",
        points=5,
        says="{item}: every method of it can be called, the ones that are added some "
        "day too.",
        fix="name the methods that it needs, INTERFACE.METHOD@/PATH",
        see="xdg-dbus-proxy(1)",
    ),
    Kind(
        id="environment-kept",
        severity="open",
        points=3,
        says="{item}: steers a loader or an interpreter, or leads to something of the "
        "person's.",
        fix="leave it out, or set it to one value in environment.set",
        see="docs/policy.md, environment.keep",
    ),
    Kind(
        id="environment-set",
        severity="open",
        points=3,
        says="{item}: steers a loader or an interpreter, or leads to something of the "
        "person's.",
        fix="leave it out",
        see="docs/policy.md, environment.set",
    ),
    Kind(
        id="path-open",
        severity="open",
        points=3,
        says="{item}: programs are looked for where others than root may put them.",
        fix="name the system's directories only",
        see="docs/policy.md, environment.set",
    ),
    Kind(
        id="landlock-off",
        severity="open",
        points=5,
        says="The second wall around files, sockets and signals is taken down.",
        fix='landlock = "if-possible"',
        see="landlock(7)",
    ),
    Kind(
        id="grant-empty",
        severity="note",
        points=0,
        says="The grant neither gives nor takes anything. {item}",
        fix="leave it out",
        see="docs/policy.md, grants",
    ),
    Kind(
        id="no-reason",
        severity="note",
        points=0,
        says="{item}: that is dangerous, and nobody says why it must be.",
        fix="add [[accept]] with finding, because and until",
        see="docs/policy.md, accept",
    ),
    Kind(
        id="accept-expired",
        severity="open",
        points=0,
        says="{item}: what was accepted for a time counts again.",
        fix="take away what it was for, or decide once more, until another day",
        see="docs/policy.md, accept",
    ),
    Kind(
        id="accept-unused",
        severity="note",
        points=0,
        says="{item}: there is nothing of the kind to accept.",
        fix="take the exception out",
        see="docs/policy.md, accept",
    ),
)
"""Every finding that there is."""

_NOT_ACCEPTABLE = (
    *("not-engaged", "restriction-stale"),
    *("no-reason", "accept-expired", "accept-unused"),
)
ACCEPTABLE: tuple[str, ...] = tuple(
    kind.id for kind in KINDS if kind.id not in _NOT_ACCEPTABLE
)
"""Those that an administrator can answer for: what a policy opens."""

_KINDS = {kind.id: kind for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing that a policy opens; ``severity`` None: it only counts.

    ``item`` is the one of a list that it is about. ``line`` is 0, and ``file`` the
    policy's own, where no file says it. ``because`` is the reason of the grant that
    gives it, empty where none does. ``accepted``: by what it reaches no threshold.
    """

    id: str
    severity: Severity | None
    key: str
    points: float
    message: str
    fix: str = ""
    see: str = ""
    item: str = ""
    file: str = ""
    line: int = 0
    because: str = ""
    accepted: Accept | None = None

    def finding(self) -> dict[str, object]:
        """As `test-policy --json` has it."""
        names = ("id", "severity", "key", "file", "line", "message", "fix")
        told: dict[str, object] = {name: getattr(self, name) for name in names}
        if self.because:
            told["because"] = self.because
        if self.accepted is not None:
            told["accepted"] = {
                "because": self.accepted.because,
                "until": self.accepted.until.isoformat(),
                "file": self.accepted.origin.file,
                "line": self.accepted.origin.line,
            }
        return told

    def exposed(self) -> dict[str, object]:
        names = ("key", "points", "message", "file", "line")
        return {name: getattr(self, name) for name in names}


def remarks(
    policy: Policy, *, today: datetime.date | None = None
) -> tuple[Remark, ...]:
    """All of them, in the order of the language's tables, as of ``today``."""
    found = tuple(_placed(policy, remark) for remark in _remarks(policy))
    return tuple(_judged(policy, found, today or datetime.date.today()))


def not_engaged(policy: Policy, key: str, what: str) -> Remark:
    """The worst there is: a sandbox that only says that it has something."""
    return _placed(policy, _finds("not-engaged", key, what))


def restriction_stale(policy: Policy, keys: Iterable[str]) -> tuple[Remark, ...]:
    """Of a policy that `isolauncher restrict` made, which does not know by itself."""
    return tuple(_placed(policy, _finds("restriction-stale", key, key)) for key in keys)


def findings(found: tuple[Remark, ...]) -> tuple[Remark, ...]:
    """Those with a severity, the worst first, what is accepted at the end."""

    def place(remark: Remark) -> tuple[bool, int]:
        severity = SEVERITIES.index(remark.severity or "note")
        return remark.accepted is not None, -severity

    told = [remark for remark in found if remark.severity is not None]
    return tuple(sorted(told, key=place))


def exposure(found: tuple[Remark, ...]) -> float:
    return round(sum(remark.points for remark in found), 6)


def worst(found: tuple[Remark, ...]) -> Severity | None:
    """Of the findings that nobody answers for."""
    told = [remark for remark in findings(found) if remark.accepted is None]
    return told[0].severity if told else None


def reaches(severity: Severity | None, threshold: Severity) -> bool:
    return severity is not None and (
        SEVERITIES.index(severity) >= SEVERITIES.index(threshold)
    )


def _judged(
    policy: Policy, found: tuple[Remark, ...], today: datetime.date
) -> Iterator[Remark]:
    """With what is accepted of it, and what there is to say of the exceptions."""
    for remark in found:
        answered = [one for one in policy.accepts if _covers(one, remark)]
        last = max(answered, key=lambda one: one.until, default=None)
        if last is not None and last.until >= today:
            yield replace(remark, accepted=last)
            continue
        yield remark
        if remark.severity == "dangerous" and not remark.because and last is None:
            what = f"{remark.id} {remark.item}".strip()
            told = _finds("no-reason", remark.key, what)
            yield replace(told, file=remark.file, line=remark.line)
    for one in policy.accepts:
        what = f"{one.finding} {one.item or one.key}".strip()
        if not any(_covers(one, remark) for remark in found):
            told = _finds("accept-unused", "accept", what)
        elif one.until < today:
            told = _finds("accept-expired", "accept", f"{what}, {one.until}")
        else:
            continue
        place = one.origin
        yield replace(told, file=place.file, line=place.line, because=one.because)


def _covers(accept: Accept, remark: Remark) -> bool:
    return (
        remark.severity is not None
        and remark.id == accept.finding
        and accept.key in ("", remark.key)
        and accept.item in ("", remark.item)
    )


def _placed(policy: Policy, remark: Remark) -> Remark:
    """With the place where it was said: of a list's item, by the file that added it."""
    origin = policy.origin.get(remark.key)
    for said in policy.history.get(remark.key, ()):
        if isinstance(said.value, tuple) and remark.item in said.value:
            origin = said.origin
    because = _reason(policy, remark)
    if origin is None:
        return replace(remark, file=policy.files[-1], because=because)
    return replace(remark, file=origin.file, line=origin.line, because=because)


def _reason(policy: Policy, remark: Remark) -> str:
    """Why, if it is what a grant stands for."""
    for grant in policy.grants:
        name = bitfrost.find(grant.name)
        for given in name.gives if name else ():
            items = given.value if isinstance(given.value, tuple) else (remark.item,)
            if given.key == remark.key and remark.item in items:
                return grant.because
    return ""


def _remarks(policy: Policy) -> Iterator[Remark]:
    yield from _match(policy)
    yield from _identity(policy)
    yield from _network(policy)
    yield from _files(policy)
    yield from _devices(policy)
    yield from _screen(policy)
    yield from _bus(policy)
    yield from _limits(policy)
    yield from _environment(policy)
    yield from _kernel(policy)
    yield from _preload(policy)
    yield from _grants(policy)
    yield from _together(policy)


def _finds(id: str, key: str, item: str = "") -> Remark:
    kind = _KINDS[id]
    return Remark(
        id=id,
        severity=kind.severity,
        key=key,
        points=kind.points,
        message=kind.says.replace("{item}", item),
        fix=kind.fix,
        see=kind.see,
        item=item,
    )


def _counts(key: str, points: float, message: str, item: str = "") -> Remark:
    """It only counts: nobody needs to be told."""
    return Remark(
        id=key,
        severity=None,
        key=key,
        points=round(points, 6),
        message=message,
        item=item,
    )


def _doublings(value: int, of: int) -> float:
    """How often ``of`` must be doubled to come to ``value``; 0 below it."""
    return max(0.0, math.log2(max(value, 1) / of))


# ------------------------------------------------------------------------ who and whom


def _match(policy: Policy) -> Iterator[Remark]:
    for name in policy.match.callers:
        many = name == "*" or name.startswith("@")
        yield _counts(
            "match.callers", 0.5 if many else 0.1, f"{name} may run programs under it"
        )
    for bundle in policy.match.bundle_ids:
        yield _counts(
            "match.bundle-id",
            0.5 if bundle.endswith("*") else 0.1,
            f"it governs {bundle}",
        )
    if policy.match.installed_by == "user":
        yield _finds("governs-anybodys", "match.installed-by")


def _identity(policy: Policy) -> Iterator[Remark]:
    if policy.identity.uid == "bundle":
        yield _finds("uid-kept", "identity.uid")
    if policy.identity.inner_uid == "same":
        yield _counts("identity.inner-uid", 0.1, "it knows the uid that it has outside")


def _network(policy: Policy) -> Iterator[Remark]:
    if policy.network == "loopback":
        yield _counts("network.access", 0.5, "its own processes can use a network")
    if policy.network == "host":
        yield _finds("network-host", "network.access")


# ------------------------------------------------------------------------------ files

_OPEN_TO_ALL = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_HOMES = ("/home", "/root", "/var/home", "/export/home")
_LOGS = ("/var/log", "/var/mail", "/var/spool", "/var/backups", "/var/lib")
_BROUGHT = ("/media", "/mnt", "/srv", "/run/media", "/opt")


def _below(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)


def _above(path: str, tops: tuple[str, ...]) -> bool:
    """Whether something of ``tops`` lies in it."""
    return any(top == path or top.startswith(path.rstrip("/") + "/") for top in tops)


def _files(policy: Policy) -> Iterator[Remark]:
    for path in policy.view.read:
        yield replace(_read(path), item=path)
    for path in policy.view.write:
        yield replace(_written(path), item=path)
    yield _counts(
        "files.tmp",
        0.05 * (1 + _doublings(policy.view.tmp, 64 * 1024)),
        "what it can put into memory as files",
    )
    if policy.view.data:
        yield _counts(
            "files.data",
            0.5 + 0.05 * _doublings(policy.view.data, 4096),
            "what it keeps for its next run",
        )
    yield from _documents(policy)


def _read(path: str) -> Remark:
    key = "files.read"
    home = path.startswith(IN_HOME) or _below(path, _HOMES)
    if _above(path, _HOMES) or (home and posixpath.dirname(path) in _HOMES):
        return _finds("reads-everything", key, path)
    brought = _below(path, ("/run/media",))
    if _above(path, ("/run",)) or (_below(path, ("/run", "/var/run")) and not brought):
        return _finds("reads-sockets", key, path)
    if posixpath.basename(path) == "machine-id":
        return _finds("reads-machine-id", key, path)
    if home:
        return _finds("reads-home", key, path)
    if _below(path, (*_LOGS, *_BROUGHT)) or _above(path, _LOGS):
        return _finds("reads-others", key, path)
    if path in ("/etc", "/boot"):
        return _finds("reads-system", key, path)
    points = 0.1 if _below(path, (*_OPEN_TO_ALL, "/etc", "/var/cache")) else 1
    return _counts(key, points, f"it can read {path}")


def _written(path: str) -> Remark:
    home = path.startswith(IN_HOME) or _below(path, _HOMES)
    if _above(path, _HOMES) or (home and posixpath.dirname(path) in _HOMES):
        return _finds("writes-everything", "files.write", path)
    if not home and _below(path, (*_OPEN_TO_ALL, "/boot", "/opt", "/run", "/var")):
        return _finds("writes-system", "files.write", path)
    return _finds("writes-outside", "files.write", path)


def _documents(policy: Policy) -> Iterator[Remark]:
    key = "files.documents"
    match policy.view.documents:
        case "own":
            yield _counts(key, 0.5, "it finds in the Journal what it made itself")
        case "opened":
            yield _counts(
                key, 1, "it also has what it is opened with, or what is chosen for it"
            )
        case "all":
            yield _finds("documents-all", key)
        case _:
            pass


# ------------------------------------------------------------ devices, screen and buses

_KINDS_OF_DEVICES = {
    "gpu": "graphics-driver",
    "sound": "mixer",
    "microphone": "hears",
    "camera": "sees",
    "serial": "serial-ports",
}


def _devices(policy: Policy) -> Iterator[Remark]:
    key = "devices.allow"
    for kind in policy.devices:
        if kind in _KINDS_OF_DEVICES:
            yield _finds(_KINDS_OF_DEVICES[kind], key, kind)
        else:
            yield _counts(key, 0.5, "it can be steered by a joystick", kind)


def _screen(policy: Policy) -> Iterator[Remark]:
    if policy.x11 == "shared":
        yield _finds("display-shared", "display.x11")


# What their callers can have done in the person's name.
_POWERFUL = (
    *("org.freedesktop.systemd1", "org.freedesktop.Flatpak", "org.gnome.Shell"),
    *("org.freedesktop.secrets", "org.gnome.keyring", "org.kde.kwalletd5"),
    *("org.freedesktop.impl.portal", "org.gtk.vfs", "org.gnome.Terminal"),
    *("org.freedesktop.FileManager1", "org.gnome.SessionManager", "ca.desrt.dconf"),
    *("org.freedesktop.DBus", "org.laptop.sugar.DataStore", "org.laptop.Journal"),
)


def _bus(policy: Policy) -> Iterator[Remark]:
    key = "bus.session-call"
    for call in policy.bus.session_call:
        name, _, rule = call.partition("=")
        method, _, place = rule.partition("@")
        if any(name == one or name.startswith(f"{one}.") for one in _POWERFUL):
            yield _finds("bus-powerful", key, call)
        elif name.endswith("*") or not rule or method.endswith("*"):
            yield _finds("bus-wide", key, call)
        else:
            points = 1.5 if place.endswith("*") or not place else 1
            yield _counts(key, points, f"it can call {call}", call)
    for name in policy.bus.session_own:
        wide = name.endswith("*")
        yield _counts(
            "bus.session-own", 2 if wide else 0.5, f"it can be {name} to others", name
        )
    if policy.bus.accessibility:
        yield _counts("bus.accessibility", 1, "it speaks to the screen reader")
    if policy.bus.input_method:
        yield _counts("bus.input-method", 1, "it speaks to the input method")


# ----------------------------------------------------------------------------- amounts


def _limits(policy: Policy) -> Iterator[Remark]:
    limits = policy.limits
    if limits.cgroup != "required":
        yield _counts(
            "limits.cgroup", 1, "without control groups its memory has no limit"
        )
    sizes = (
        ("processes", limits.processes, 1, 0.1),
        ("memory", limits.memory, 2**20, 0.1),
        ("open-files", limits.open_files, 1, 0.05),
        ("file-size", limits.file_size, 2**10, 0.05),
        ("cpu-weight", limits.cpu_weight, 1, 0.05),
    )
    for name, value, of, weight in sizes:
        yield _counts(
            f"limits.{name}", weight * (1 + _doublings(value, of)), "it may use so much"
        )
    seconds = limits.cpu_seconds
    yield _counts(
        "limits.cpu-seconds",
        1 + 0.05 * _doublings(seconds, 1) / 2 if seconds else 2,
        "it may use so much" if seconds else "it may use a processor for ever",
    )
    if limits.core:
        yield _counts(
            "limits.core",
            0.5 + 0.05 * _doublings(limits.core, 1),
            "its memory is written to a file when it crashes",
        )
    yield _counts("limits.nice", 0.05 * (20 - limits.nice), "it gives way so much")


def _environment(policy: Policy) -> Iterator[Remark]:
    for name in policy.environment.keep:
        if environment.is_dangerous(name.removesuffix("*")) and not name.endswith("*"):
            yield _finds("environment-kept", "environment.keep", name)
        else:
            points = 0.5 if name.endswith("*") else 0.1
            said = f"it has the caller's {name}"
            yield _counts("environment.keep", points, said, name)
    for name, value in policy.environment.set.items():
        key = f"environment.set.{name}"
        if environment.is_dangerous(name):
            yield _finds("environment-set", key, f"{name}={value}")
        elif name == "PATH" and _looks_elsewhere(value):
            yield _finds("path-open", key, f"PATH={value}")
        else:
            yield _counts(key, 0.1, f"{name} is {value}")


def _looks_elsewhere(path: str) -> bool:
    return any(
        not _below(posixpath.normpath(entry), (*_OPEN_TO_ALL, "/opt"))
        for entry in path.split(":")
    )


def _kernel(policy: Policy) -> Iterator[Remark]:
    if policy.kernel.syscalls == "debug":
        yield _counts(
            "kernel.syscalls", 0.5, "its programs can look into and change each other"
        )
    if policy.kernel.landlock == "if-possible":
        yield _counts(
            "kernel.landlock", 0.5, "on a kernel without Landlock one wall is missing"
        )
    if policy.kernel.landlock == "off":
        yield _finds("landlock-off", "kernel.landlock")


_SETS = {"python": 0.1, "gtk3": 0.2, "sugar3": 0.3}


def _preload(policy: Policy) -> Iterator[Remark]:
    yield _counts(
        "preload.set",
        _SETS[policy.preload.set],
        "so much code lies in memory before it begins",
    )
    if policy.preload.tier == "fork":
        yield _counts(
            "preload.tier",
            0.5,
            "it shares its address layout and hash seed with others of its zygote",
        )


def _grants(policy: Policy) -> Iterator[Remark]:
    for grant in policy.grants:
        name = bitfrost.find(grant.name)
        if name is not None and name.is_note:
            told = _finds("grant-empty", f"grants.{grant.name}", name.says)
            yield replace(told, item="")


# ------------------------------------------------------------------------ combinations


def _together(policy: Policy) -> Iterator[Remark]:
    """What two settings come to that each alone would not."""
    if policy.network != "host":
        return
    personal = [p for p in policy.view.read if p.startswith(IN_HOME)]
    if policy.view.documents in ("opened", "all") or personal:
        what = personal[0] if personal else "the Journal's entries"
        yield _finds("can-send-away", "network.access", what)
    if policy.x11 == "shared":
        yield _finds("can-send-screen", "network.access")
    if {"microphone", "camera"} & set(policy.devices):
        yield _finds("can-send-heard", "network.access")


__all__ = [
    "ACCEPTABLE",
    "KINDS",
    "SEVERITIES",
    "Remark",
    "Severity",
    "exposure",
    "findings",
    "reaches",
    "remarks",
    "worst",
]
