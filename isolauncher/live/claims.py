# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy and its plan claim, against what was seen inside and outside.

`judge` yields one `Proof` for each claim. A claim that the plan makes and the probe
does not find in force is *broken*, whatever the launch's own report says: of that only
the reasons are taken for which something was left out, and those count only where the
policy leaves it open.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .. import devices, filters, plan
from ..consult import FOUND_BEFORE, UNHEARD
from ..policy import reserved
from ..policy.model import IN_HOME
from ..report import Proof
from ..steps import SetLimits, Step
from ..waiter import NAME
from .caller import SECRETS, UMASK, Case, Place
from .outside import NAMESPACES, Outside
from .probe import NO_ANSWER

_T = TypeVar("_T")

SECUREBITS = 0xEF
"""NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE with their locks, and KEEP_CAPS
locked as it is (capabilities(7))."""

_NO_CAPABILITY = "0" * 16
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_CLAIMED = {"mnt": "mount", "cgroup": "cgroupns"}
_DEVICES = {**plan.DEVICES, "ptmx": (5, 2)}
_ONLY_ROOT = "only root sees it from outside"
_LIMIT_KEYS = {
    "core": "limits.core",
    "cpu": "limits.cpu-seconds",
    "data": "limits.memory",
    "fsize": "limits.file-size",
    "nofile": "limits.open-files",
    "nproc": "limits.processes",
}
_OWN = ("dev", "etc", "proc", "run", "tmp", "var")
HIDDEN = (
    *("/home", "/root", "/etc/shadow", "/etc/ssh", "/etc/sudoers", "/boot", "/sys"),
    *("/media", "/mnt", "/opt", "/srv", "/var/log", "/var/lib", "/var/spool"),
    *("/var/mail", "/var/backups", "/run/dbus", "/run/systemd", "/run/docker.sock"),
    *("/run/user/0", "/etc/isolauncher", "/run/isolauncher", "/var/lib/isolauncher"),
    *("/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/tty", "/dev/console"),
)
"""What exists on most machines and is no activity's business unless it is shown."""

# A bundle has these as well (consult.py, bundle.py, furniture.py).
_OF_BUNDLES = frozenset(
    (
        *("HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR", "DISPLAY", "XAUTHORITY"),
        *("DBUS_SESSION_BUS_ADDRESS", "GSETTINGS_BACKEND", "AT_SPI_BUS_ADDRESS"),
        *(
            "NO_AT_BRIDGE",
            "IBUS_USE_PORTAL",
            "SUGAR_LOCALEDIR",
            *FOUND_BEFORE,
            *UNHEARD,
        ),
        *("SUGAR_BUNDLE_PATH", "SUGAR_BUNDLE_ID", "SUGAR_ACTIVITY_ROOT"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything about one launch. ``there`` is what the caller itself finds outside,
    by path, ``devices`` what it may open of each kind; ``keyrings`` are session
    keyrings that came with it, ``ended`` those of them that went with it. ``attacks``
    None: it ended before they were all tried."""

    case: Case
    place: Place
    asked: Mapping[str, str]
    look: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, str]] | None
    outside: Outside | None
    report: Mapping[str, Any]
    there: Mapping[str, Mapping[str, Any]]
    devices: tuple[devices.Given, ...]
    keyrings: set[str] | None
    ended: set[str]

    @property
    def skipped(self) -> dict[str, str]:
        return {s["what"]: s["why"] for s in self.report.get("skipped", ())}

    @property
    def steps(self) -> list[Step]:
        return [p.step for p in plan.for_nobody(self.case.policy).steps]

    def planned(self, kind: type[_T]) -> _T:
        return next(s for s in self.steps if isinstance(s, kind))


def judge(seen: Seen) -> Iterator[Proof]:
    """One proof for each claim."""
    for claim in (
        *(_identity, _capabilities, _landlock, _namespaces, _processes, _init),
        *(_root, _hidden, _shown, _memory, _devices, _network, _hostname, _rlimits),
        *(_cgroup, _priority, _session, _descriptors, _process_state, _environment),
        *(_keyring, _tier),
    ):
        yield from claim(seen)
    if seen.attacks is not None:
        yield _seccomp(seen, seen.attacks["kernel surface"])
        yield _no_more_users(seen, seen.attacks["nest user namespaces"])
        yield from _attacks(seen.attacks)


def proof(claim: str, key: str, problems: Iterable[str], good: str = "") -> Proof:
    """Proved, unless there is a problem."""
    found = [problem for problem in problems if problem]
    if found:
        return Proof(claim=claim, result="broken", detail="; ".join(found), key=key)
    return Proof(claim=claim, result="proved", detail=good, key=key)


def untried(claim: str, key: str, why: str) -> Proof:
    return Proof(claim=claim, result="untried", detail=why, key=key)


def left_out(claim: str, key: str, why: str, *, required: bool) -> Proof:
    """Of what the launch says it did not do."""
    if required:
        problem = f"the policy requires it, and it was left out: {why}"
        return proof(claim, key, [problem])
    return untried(claim, key, f"not on this machine: {why}")


def differs(what: str, found: object, wanted: object) -> str:
    return "" if found == wanted else f"{what} is {_short(found)}, not {_short(wanted)}"


def _short(value: object) -> str:
    text = str(value) if isinstance(value, str | int) else repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


# ----------------------------------------------------------------------------- identity


def _identity(seen: Seen) -> Iterator[Proof]:
    look, caller = seen.look, seen.case.caller
    outer = seen.report["identity"]["uid"]
    same = seen.case.policy.identity.inner_uid == "same" or caller.uid == 0
    inner = outer if same else caller.uid
    inner_gid = outer if same else caller.gid
    problems = [
        differs("its ids inside", look["ids"], [inner] * 3 + [inner_gid] * 3),
        differs("uid_map", look["uid_map"], [str(inner), str(outer), "1"]),
        differs("gid_map", look["gid_map"], [str(inner_gid), str(outer), "1"]),
        f"outside it has uid {outer}" if outer in (0, caller.uid) else "",
    ]
    groups = [f"it has the groups {look['groups']}" if look["groups"] else ""]
    if seen.outside is not None:
        status = seen.outside.main.status
        own = " ".join([str(outer)] * 4)
        problems.append(differs("its uid outside", status.get("Uid"), own))
        problems.append(differs("its gid outside", status.get("Gid"), own))
        groups.append(differs("its groups outside", status.get("Groups"), ""))
    good = f"uid {inner} inside, {outer} outside"
    yield proof("uid", "identity.inner-uid", problems, good)
    yield proof("groups", "identity.inner-uid", groups, "none")


def _capabilities(seen: Seen) -> Iterator[Proof]:
    statuses = _statuses(seen)
    yield proof(
        "capabilities",
        "identity.inner-uid",
        (
            f"{name} is {status.get(name)} ({whose})"
            for whose, status in statuses
            for name in _SETS
            if status.get(name) != _NO_CAPABILITY
        ),
        "all five sets are empty",
    )
    yield proof(
        "no_new_privs",
        "kernel.syscalls",
        (differs(f"NoNewPrivs ({w})", s.get("NoNewPrivs"), "1") for w, s in statuses),
    )
    bits = differs("securebits", seen.look["securebits"], SECUREBITS)
    yield proof("securebits", "identity.inner-uid", [bits], f"{SECUREBITS:#x}")


def _statuses(seen: Seen) -> list[tuple[str, Mapping[str, str]]]:
    found: list[tuple[str, Mapping[str, str]]] = [("inside", seen.look["status"] or {})]
    if seen.outside is not None:
        found.append(("outside", seen.outside.main.status))
    return found


def _seccomp(seen: Seen, surface: Mapping[str, str]) -> Proof:
    key, name = "kernel.syscalls", seen.case.policy.kernel.syscalls
    problems = [
        differs(f"Seccomp ({w})", s.get("Seccomp"), "2") for w, s in _statuses(seen)
    ]
    traces = ("ptrace", "process_vm_writev") if name == "debug" else ()
    refused = {call: said for call, said in surface.items() if call not in traces}
    problems += _let_through(refused)
    for way in ("x32", "int 0x80"):
        if way in surface and surface[way] not in ("signal 31", "signal 11"):
            problems.append(f"a call by {way} is answered {surface[way]}")
    answer = filters.compile(name).probe[2]
    problems.append(
        differs(f"what tells the filter {name}", surface["the filter"], str(answer))
    )
    good = f"{len(refused)} calls are refused by {name}"
    return proof("seccomp", key, problems, good)


def _let_through(answers: Mapping[str, str]) -> list[str]:
    through = [f"{call} is let through" for call, s in answers.items() if s == "ok"]
    silent = [call for call, s in answers.items() if s == NO_ANSWER]
    return through + [f"{call} came to no end" for call in silent]


def _landlock(seen: Seen) -> Iterator[Proof]:
    policy, key, skipped = seen.case.policy, "kernel.landlock", seen.skipped
    if policy.kernel.landlock == "off":
        return  # nothing is claimed
    if "landlock" in skipped:
        required = policy.kernel.landlock == "required"
        yield left_out("landlock", key, skipped["landlock"], required=required)
        return
    reopened = seen.look["uncovered"]
    problems = [differs("opening a file that no rule covers", reopened, "EACCES")]
    if policy.network == "none" and "landlock TCP" not in skipped:
        said = differs("binding a TCP socket", seen.look["tcp"], "EACCES")
        problems.append(said)
    yield proof("landlock", key, problems, "a file that no rule covers stays closed")


# --------------------------------------------------------------------------- namespaces


def _namespaces(seen: Seen) -> Iterator[Proof]:
    inside: Mapping[str, str] = seen.look["namespaces"] or {}
    outside = seen.outside
    shared = {"net"} if seen.case.policy.network == "host" else set[str]()
    if not inside and outside is not None:
        # It may not read its own; which the claim about /proc says.
        inside = outside.main.namespaces or {}
    for kind in NAMESPACES:
        claim = _CLAIMED.get(kind, kind)
        key = "network.access" if kind == "net" else "namespaces.hostname"
        own = inside.get(kind, "")
        problems = [differs("inside it", own, seen.report["namespaces"].get(kind))]
        others = [os.readlink(f"/proc/self/ns/{kind}")]
        if outside is not None:
            others += [o[kind] for o in outside.others if o is not None]
            # Init is in the host's user namespace: the stem alone is in a new one.
            both = (outside.main,) if kind == "user" else (outside.main, outside.init)
            problems += [
                differs("outside it", process.namespaces[kind], own)
                for process in both
                if process.namespaces is not None
            ]
        if kind in shared:
            known = [o[kind] for o in outside.others if o] if outside else others
            problems.append("" if own in known else "it is not the host's")
            yield proof(claim, key, problems, "the host's, as the policy says")
            continue
        problems.append("it is the host's" if own in others else "")
        yield proof(claim, key, problems, f"of its own, {own}")


def _no_more_users(seen: Seen, nested: Mapping[str, str]) -> Proof:
    claim, key = "no more user namespaces", "kernel.syscalls"
    problems = _let_through(nested)
    if "user.max_user_namespaces" not in seen.skipped:
        most = (seen.look["user_namespaces"] or "").strip()
        problems.append(differs("user.max_user_namespaces", most, "0"))
    return proof(claim, key, problems)


def _processes(seen: Seen) -> Iterator[Proof]:
    look, key = seen.look, "namespaces.hostname"
    yield proof(
        "processes",
        key,
        [
            "it is process 1" if look["pid"] == 1 else "",
            differs("its parent", look["ppid"], 1),
            differs("all that it sees", look["processes"], sorted({1, look["pid"]})),
        ],
        "it sees init and itself",
    )


def _init(seen: Seen) -> Iterator[Proof]:
    claim, key = "init", "identity.inner-uid"
    if seen.outside is None:
        yield untried(claim, key, _ONLY_ROOT)
        return
    init = seen.outside.init
    uids = set(init.status.get("Uid", "").split())
    taken = {"0", str(seen.case.caller.uid), str(seen.report["identity"]["uid"])}
    problems = [
        f"init has uid {' '.join(sorted(uids))}" if uids & taken or not uids else "",
        differs("init's groups", init.status.get("Groups"), ""),
        differs("init's NoNewPrivs", init.status.get("NoNewPrivs"), "1"),
        *(differs(f"init's {n}", init.status.get(n), _NO_CAPABILITY) for n in _SETS),
        differs("init's scheduling", init.scheduling, os.SCHED_OTHER),
    ]
    waiter = f"/memfd:{NAME} "
    for number, what in (init.descriptors or {}).items():
        kept = what.startswith(("socket:", "pipe:", waiter)) or "/activities/" in what
        problems.append("" if kept else f"init holds {number}, {what}")
    yield proof(claim, key, problems, f"uid {' '.join(sorted(uids))}, no capability")


# -------------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class _Mount:
    path: str
    options: frozenset[str]
    kind: str


def _mounts(seen: Seen) -> list[_Mount]:
    found = []
    outside = seen.outside.mounts if seen.outside is not None else []
    for line in seen.look["mounts"] or outside:
        before, _, after = line.partition(" - ")
        path, options = before.split()[4:6]
        path = path.replace("\\040", " ").replace("\\134", "\\")
        found.append(_Mount(path, frozenset(options.split(",")), after.split()[0]))
    return found


def _mount_of(seen: Seen, path: str) -> _Mount | None:
    above = [
        m for m in _mounts(seen) if f"{path}/".startswith(m.path.rstrip("/") + "/")
    ]
    return max(above, key=lambda m: len(m.path)) if above else None


def _root(seen: Seen) -> Iterator[Proof]:
    policy = seen.case.policy
    program = seen.place.bundle if seen.case.bundle_id else seen.place.probe
    named = [*policy.view.read, *policy.view.write, program]
    if seen.case.bundle_id:
        named.append(seen.place.home)
    allowed = {*_OWN, *(p.split("/")[1] for p in named if p.startswith("/"))}
    root = _mount_of(seen, "/")
    more = sorted(set(seen.look["root"]) - allowed)
    problems = [
        f"there is more in it: {', '.join(more)}" if more else "",
        "" if root and {"ro", "nosuid", "nodev"} <= root.options else "it is writable",
    ]
    if seen.outside is not None:
        for whose, process in (
            ("its", seen.outside.main),
            ("init's", seen.outside.init),
        ):
            if process.root == seen.outside.root:
                problems.append(f"{whose} root is the host's")
        shared = seen.outside.main.shared_mounts
        if shared:
            problems.append(f"mounts propagate: {', '.join(shared[:3])}")
    yield proof("root", "files.read", problems, " ".join(sorted(seen.look["root"])))
    own = "" if seen.look["own_proc"] else "its own entries are another's"
    yield proof("/proc", "files.read", [own], "its own entries are its own")
    said = differs("opening a pseudo-terminal", seen.look["terminal"], "ok")
    yield proof("/dev/pts", "files.read", [said], "pseudo-terminals of its own")
    yield _own_etc(seen)


def _own_etc(seen: Seen) -> Proof:
    """The files that are written for each activity: they name it, and few others."""
    found: Mapping[str, str] = seen.look["etc"]
    same = seen.case.policy.identity.inner_uid == "same" or seen.case.caller.uid == 0
    uid = seen.report["identity"]["uid"] if same else seen.case.caller.uid
    lines = [line.split(":") for line in found["passwd"].splitlines()]
    uids = sorted(int(line[2]) for line in lines if len(line) > 2)
    problems = [
        differs("who is in passwd", uids, sorted({0, uid, 65534})),
        differs("hostname", found["hostname"].strip(), seen.case.policy.hostname),
        differs("machine-id", found["machine-id"], plan.MACHINE_ID.decode()),
        *(f"there is no {name}" for name, text in found.items() if not text),
    ]
    return proof("/etc", "files.read", problems, " ".join(found))


def hidden_paths(case: Case, place: Place) -> list[str]:
    """Those that exist here and that nothing of the policy leads to or shows."""
    policy = case.policy
    shown = [
        *policy.view.read,
        *policy.view.write,
        place.probe,
        place.home,
        place.bundle,
    ]
    return [
        path
        for path in (*HIDDEN, os.path.expanduser("~"))
        if os.path.lexists(path)
        and path != "/"
        and not any(
            f"{s}/".startswith(f"{path}/") or f"{path}/".startswith(f"{s}/")
            for s in shown
        )
    ]


def _hidden(seen: Seen) -> Iterator[Proof]:
    found = seen.look["hidden"]
    there = [f"{p} is there ({said})" for p, said in found.items() if said != "ENOENT"]
    yield proof(
        "the rest of the host", "files.read", there, f"{len(found)} paths absent"
    )


def shown_paths(case: Case, place: Place) -> dict[str, tuple[str, str]]:
    """Path inside to the key that shows it, and to how the policy writes it."""

    def whole(path: str) -> str:
        if path.startswith(IN_HOME):
            return f"{place.home}/{path.removeprefix(IN_HOME)}"
        return path

    view = case.policy.view
    names = {"files.read": view.read, "files.write": view.write}
    return {
        whole(path): (key, path)
        for key, paths in names.items()
        for path in paths
        # Only a bundle has a home.
        if case.bundle_id or not path.startswith(IN_HOME)
    }


def _shown(seen: Seen) -> Iterator[Proof]:
    for path, (key, written) in shown_paths(seen.case, seen.place).items():
        yield _shown_one(seen, path, key, f"{key} {written}")
    if not seen.case.bundle_id:
        for path in (*seen.case.policy.view.read, *seen.case.policy.view.write):
            if path.startswith(IN_HOME):
                why = "only a bundle has a home"
                yield untried(f"files.read {path}", "files.read", why)


def _shown_one(seen: Seen, path: str, key: str, claim: str) -> Proof:
    found = seen.look["paths"][path]
    there = seen.there.get(path, {"there": "ENOENT"})
    writable = key == "files.write"
    if there["there"] != "ok" or there["read"] != "ok":
        if found["there"] == "ok" and found["read"] == "ok":
            return proof(claim, key, ["its caller cannot open it, and it can"])
        if there["there"] == "ENOENT":
            return untried(claim, key, "there is none on this machine")
        who = f"uid {seen.case.caller.uid}, who launches,"
        return untried(claim, key, f"{who} may not read it ({there['read']})")
    if why := _shown_to_nobody(path):
        if found["there"] == "ok" and found.get("file") == there["file"]:
            return proof(claim, key, [f"{why}, and it is there"])
        return untried(claim, key, why)
    problems = [
        "" if found["there"] == "ok" else f"it is not there ({found['there']})",
        differs("reading it", found["read"], "ok"),
        differs("the file", found.get("file"), there["file"]),
        differs("the link", found.get("link"), there["link"]),
    ]
    if writable:
        if there["write"] != "ok":
            return untried(
                claim, key, f"its caller may not write it ({there['write']})"
            )
        problems.append(differs("writing it", found["write"], "ok"))
    elif found["write"] == "ok":
        problems.append("it can be written")
    if not there["link"]:
        mount = _mount_of(seen, path)
        wanted = {"nosuid", "nodev", "rw" if writable else "ro"}
        lacks = wanted - (mount.options if mount else set())
        if lacks:
            problems.append(f"its mount lacks {', '.join(sorted(lacks))}")
    return proof(claim, key, problems, "written" if writable else "read only")


def _shown_to_nobody(path: str) -> str:
    """Why what a policy names is not shown to anybody on this machine, or ""."""
    real = os.path.realpath(path)
    if why := reserved.refuse_read(real, ()) or reserved.made_anew(real):
        return f"it leads to {real}: {why}"
    mode = os.stat(real).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "it is neither a directory nor a file"
    return ""


def memory_paths(case: Case, place: Place) -> list[str]:
    return ["/tmp", "/dev/shm", *([place.home] if case.bundle_id else [])]  # noqa: S108


def _memory(seen: Seen) -> Iterator[Proof]:
    page = os.sysconf("SC_PAGE_SIZE")
    most = -(-seen.case.policy.view.tmp // page) * page
    for path, found in seen.look["memory"].items():
        # A file of no format that may be executed is ENOEXEC, else EACCES.
        runs = "EACCES" if path == "/dev/shm" else "ENOEXEC"  # noqa: S108
        mount = _mount_of(seen, path)
        problems = [
            differs("what fits into it", found["size"], most),
            differs("writing to it", found["write"], "ok"),
            differs("executing in it", found["exec"], runs),
            "" if mount and mount.kind == "tmpfs" else "it is not in memory",
            ""
            if mount and {"nosuid", "nodev"} <= mount.options
            else "not nosuid, nodev",
        ]
        where = "home" if path == seen.place.home else path
        yield proof(f"files.tmp {where}", "files.tmp", problems, f"{most} bytes")


def _devices(seen: Seen) -> Iterator[Proof]:
    found = {n: tuple(d) for n, d in seen.look["devices"].items() if d is not None}
    # Standard streams may be a terminal or /dev/null, which their names lead to.
    for name in ("stdin", "stdout", "stderr"):
        found.pop(name, None)
    granted = {
        path.removeprefix("/dev/"): (os.major(number), os.minor(number))
        for given in seen.devices
        for path, (_, number) in given.nodes.items()
        if f"device {path}" not in seen.skipped
    }
    wanted = _DEVICES | granted
    problems = [
        differs(f"/dev/{name}", found.get(name), number)
        for name, number in wanted.items()
    ]
    more = sorted(set(found) - set(wanted))
    problems.append(f"there are others: {', '.join(more)}" if more else "")
    if granted:
        # Elsewhere the root's own mount, of which another claim speaks.
        mount = _mount_of(seen, "/dev")
        lacks = {"ro", "nosuid", "noexec"} - (mount.options if mount else set())
        if lacks:
            problems.append(f"/dev lacks {', '.join(sorted(lacks))}")
    yield proof("devices", "devices.allow", problems, " ".join(sorted(found)))
    for given in seen.devices:
        yield _granted(seen, given)


def _granted(seen: Seen, given: devices.Given) -> Proof:
    """Of one kind: those that its caller may open are the activity's own, and open."""
    key = "devices.allow"
    claim = f"{key} {given.kind}"
    if not given.nodes:
        return untried(claim, key, f"cannot be tried here: {given.why}")
    notes = [n for n in given.nodes if f"device {n}" in seen.skipped]
    if notes:
        why = seen.skipped[f"device {notes[0]}"]
        return untried(claim, key, f"cannot be tried here: {why}")
    found = {path: seen.look["granted"][path] for path in sorted(given.nodes)}
    # That it is busy, or has gone, is the device's own answer.
    closed = ("EACCES", "EPERM", "ENOENT")
    problems = [
        *(f"{p} is {f['open']}" for p, f in found.items() if f["open"] in closed),
        *(f"{path} is not its own" for path, f in found.items() if not f["own"]),
    ]
    told = (f"{path} ({f['open']})" for path, f in found.items())
    return proof(claim, key, problems, ", ".join(told))


def _network(seen: Seen) -> Iterator[Proof]:
    key, found = "network.access", seen.look["interfaces"]
    up = sorted(name for name, is_up in found.items() if is_up is True)
    match seen.case.policy.network:
        case "none":
            problems = [f"{', '.join(up)} is up" if up else ""]
        case "loopback":
            problems = [differs("what is up", up, ["lo"])]
        case _:
            problems = [
                differs("what there is", sorted(found), sorted(_interfaces())),
            ]
    if seen.case.policy.network != "host":
        more = sorted(set(found) - {"lo"})
        problems.append(f"there is {', '.join(more)}" if more else "")
    yield proof(key, key, problems, seen.case.policy.network)


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _hostname(seen: Seen) -> Iterator[Proof]:
    key, name = "namespaces.hostname", seen.case.policy.hostname
    found = seen.look["hostname"]
    yield proof(key, key, [differs("the host name", found, name)], name)


# ------------------------------------------------------------------------------- limits


def limits(case: Case) -> dict[str, int]:
    """What the plan limits, by getrlimit(2)'s names in small letters.

    Of memory there is one only where no cgroup has it.
    """
    steps = (p.step for p in plan.for_nobody(case.policy).steps)
    step = next(s for s in steps if isinstance(s, SetLimits))
    return {**dict(step.limits), "data": case.policy.limits.memory}


def _rlimits(seen: Seen) -> Iterator[Proof]:
    lowered = {
        what.removeprefix("rlimit ").partition("=")[0]
        for what in seen.skipped
        if what.startswith("rlimit ")
    }
    for name, value in sorted(limits(seen.case).items()):
        if name == "data" and not _no_group_for(seen, "memory"):
            continue
        soft, hard = seen.look["limits"][name]
        if name in lowered and 0 <= soft < value:
            problems = [differs("the hard limit", hard, soft)]
        else:
            problems = [
                differs("the soft limit", soft, value),
                differs("the hard limit", hard, value),
            ]
        key = _LIMIT_KEYS.get(name, "limits.processes")
        yield proof(f"rlimit {name}", key, problems, str(soft))


def _no_group_for(seen: Seen, controller: str) -> str:
    """Why there is no cgroup for it; empty if there has to be one."""
    for what, why in seen.skipped.items():
        words = what.split()
        if words[:1] == ["cgroup"] and (len(words) == 1 or controller in words):
            return why
    return ""


def _cgroup(seen: Seen) -> Iterator[Proof]:
    policy = seen.case.policy.limits
    shares = max(2, policy.cpu_weight * 1024 // 100)
    wanted = {
        "memory": (
            "limits.memory",
            {"memory.max": policy.memory, "memory.limit_in_bytes": policy.memory},
        ),
        "pids": ("limits.processes", {"pids.max": policy.processes + 2}),
        "cpu": (
            "limits.cpu-weight",
            {"cpu.weight": policy.cpu_weight, "cpu.shares": shares},
        ),
    }
    for controller, (key, files) in wanted.items():
        claim = f"cgroup {controller}"
        why = _no_group_for(seen, controller)
        if why:
            yield left_out(claim, key, why, required=policy.cgroup == "required")
        elif seen.outside is None:
            yield untried(claim, key, _ONLY_ROOT)
        else:
            yield _cgroup_one(seen.outside, claim, key, files)


def _cgroup_one(
    outside: Outside, claim: str, key: str, files: Mapping[str, int]
) -> Proof:
    # The kernel rounds sizes down to pages.
    slack = os.sysconf("SC_PAGE_SIZE") - 1 if "memory" in claim else 0
    found = {n: outside.cgroup[n] for n in files if n in outside.cgroup}
    problems = ["" if found else "it is in no such group"]
    for name, text in found.items():
        near = text.isdigit() and 0 <= files[name] - int(text) <= slack
        problems.append("" if near else differs(name, text, files[name]))
    both = {outside.main.pid, outside.init.pid}
    own = [m for m in outside.groups.values() if both <= set(m)]
    problems.append("" if own else "init and it are not in one group")
    good = ", ".join(f"{name} {text}" for name, text in found.items())
    return proof(claim, key, problems, good)


def _priority(seen: Seen) -> Iterator[Proof]:
    nice = seen.case.policy.limits.nice
    problems = [differs("nice", seen.look["nice"], nice)]
    sched = [differs("its scheduling", seen.look["scheduling"], os.SCHED_OTHER)]
    if seen.outside is not None:
        main = seen.outside.main
        problems.append(differs("nice outside", main.nice, nice))
        score = main.oom_score_adj
        problems.append(differs("oom_score_adj", score, plan.OOM_SCORE_ADJ))
        sched.append(differs("its scheduling", main.scheduling, os.SCHED_OTHER))
    yield proof("limits.nice", "limits.nice", problems, str(nice))
    yield proof("scheduling", "limits.nice", sched, "as other programs")


# ----------------------------------------------------------------------- process's own


def _session(seen: Seen) -> Iterator[Proof]:
    inside = seen.look["session"]
    problems = [
        f"its session is {inside}" if inside not in (1, seen.look["pid"]) else ""
    ]
    if seen.outside is not None:
        main = seen.outside.main
        problems.append(differs("its session", main.session, main.parent))
        problems.append(differs("its terminal", main.terminal, 0))
    yield proof(
        "session", "namespaces.hostname", problems, "init's, without a terminal"
    )


def _descriptors(seen: Seen) -> Iterator[Proof]:
    inside = {int(n) for n in seen.look["fds"]}
    problems = [differs("its descriptors inside", sorted(inside), [0, 1, 2])]
    if seen.outside is not None and seen.outside.main.descriptors is not None:
        outside = sorted(seen.outside.main.descriptors)
        problems.append(differs("its descriptors outside", outside, [0, 1, 2]))
    yield proof("descriptors", "files.read", problems, "0, 1 and 2")


def _process_state(seen: Seen) -> Iterator[Proof]:
    mask = differs("the umask", f"{seen.look['umask']:04o}", f"{UMASK:04o}")
    yield proof("umask", "files.write", [mask], f"{UMASK:04o}, its caller's")
    status = seen.look["status"] or {}
    # What CPython itself ignores, SIGPIPE and SIGXFSZ, and catches, SIGINT.
    wanted = {"SigBlk": 0, "SigIgn": 1 << 12 | 1 << 24, "SigCgt": 1 << 1}
    problems = [
        differs(name, int(status.get(name, "-1"), 16), value)
        for name, value in wanted.items()
    ]
    yield proof("signals", "preload.tier", problems, "a fresh program's")


def _environment(seen: Seen) -> Iterator[Proof]:
    environ, policy = seen.look["environ"], seen.case.policy
    shown = [v for v in (seen.look["proc_environ"] or "").split("\0") if "=" in v]
    of_bundle = _OF_BUNDLES if seen.case.bundle_id else frozenset[str]()
    problems = []
    for name, value in policy.environment.set.items():
        if name not in of_bundle:
            problems.append(differs(name, environ.get(name), value))
    yield proof(
        "environment.set",
        "environment.set",
        problems,
        " ".join(sorted(policy.environment.set)),
    )
    kept = {n for n in seen.asked if _keeps(policy.environment.keep, n)}
    kept -= {*policy.environment.set, *of_bundle}
    known = kept | set(policy.environment.set) | of_bundle
    # Python's locale must be one that a forked interpreter can have.
    added = {"LANG"} if not {"LANG", "LC_ALL", "LC_CTYPE"} & kept else set[str]()
    problems = [differs(n, environ.get(n), seen.asked[n]) for n in sorted(kept)]
    more = sorted(set(environ) - known - added)
    problems.append(f"there is {', '.join(more)}" if more else "")
    for name in sorted(set(SECRETS) - kept - set(policy.environment.set)):
        problems.append(f"{name} came through" if name in environ else "")
    if "/proc/self/cmdline and environ" not in seen.skipped:
        same = dict(v.split("=", 1) for v in shown) == environ
        problems.append("" if same else "/proc/self/environ says something else")
        words = seen.look["cmdline"] or []
        problems.append("" if _names_probe(seen, words) else f"it is shown as {words}")
    yield proof("environment", "environment.keep", problems, " ".join(sorted(kept)))


def _keeps(keep: tuple[str, ...], name: str) -> bool:
    from ..policy.environment import is_dangerous

    if name in keep:
        return True
    patterns = [p[:-1] for p in keep if p.endswith("*")]
    return name.startswith(tuple(patterns)) and not is_dangerous(name)


def _names_probe(seen: Seen, words: list[str]) -> bool:
    place = seen.place
    program = f"{place.bundle}/bin/probe" if seen.case.bundle_id else place.probe
    return program in words


def _keyring(seen: Seen) -> Iterator[Proof]:
    claim, key = "keyring", "kernel.syscalls"
    if seen.keyrings is None:
        yield untried(claim, key, "only root sees session keyrings from outside")
    elif seen.keyrings and not seen.ended:
        why = "one came with it, which the kernel has not yet taken away"
        yield untried(claim, key, why)
    elif seen.keyrings:
        good = "a session keyring came and went with it, and it cannot use any"
        yield proof(claim, key, (), good)
    elif seen.report["activity"]["path"] == "pool":
        yield untried(claim, key, "its room was made before we looked")
    else:
        yield proof(claim, key, ["it has its launcher's session keyring"])


def _tier(seen: Seen) -> Iterator[Proof]:
    key, wanted = "preload.tier", seen.case.policy.preload.tier
    found = seen.report["activity"]["tier"]
    if found != wanted and wanted == "fork":
        why = seen.skipped.get("tier fork", "the launch does not say why")
        yield untried(key, key, f"a fresh interpreter: {why}")
        return
    yield proof(key, key, [differs("the tier", found, wanted)], wanted)


_CLASSES = {
    "become root": "identity.inner-uid",
    "touch init": "namespaces.hostname",
    "make another root": "kernel.syscalls",
    "set-id files": "kernel.syscalls",
    "machine's settings": "files.write",
    "more than was given": "limits.processes",
}
"""Classes of attacks, and the key that stands against them. Those that belong to
seccomp and to user namespaces are judged with these."""


def _attacks(attacks: Mapping[str, Mapping[str, str]]) -> Iterator[Proof]:
    for name, key in _CLASSES.items():
        said = attacks[name]
        refused = ", ".join(call for call, s in said.items() if s != "untried")
        yield proof(f"attack: {name}", key, _let_through(said), f"refused: {refused}")
