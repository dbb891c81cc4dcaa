# SPDX-License-Identifier: GPL-3.0-or-later
"""Who launches the probe, from where, and as what.

A sandbox is told most about by somebody without rights: as root a person is chosen who
is admitted by the policy, or for a bundle anybody; root itself only where the policy is
for root alone. What a policy gives to bundles only (a directory, the display, the bus)
is tried with a throw-away bundle that the policy governs.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import furniture
from ..errors import IsolauncherError, NotAllowed
from ..policy import choose, environment
from ..policy.load import ROOT_POLICY, PolicyStore
from ..policy.model import IN_HOME, Policy
from ..request import Caller
from . import places, probe

UMASK = 0o027
"""Nobody's default, so that it can be seen to be passed on."""

SECRETS = {
    "ISOLAUNCHER_LIVE_SECRET": "secret",
    "LD_LIBRARY_PATH": "/nonexistent",
    "PYTHONPATH": "/nonexistent",
    "GTK_MODULES": "isolauncher-live",
    "SSH_AUTH_SOCK": "/nonexistent",
}
"""What no policy keeps unless it names it."""

_VALUES = {
    "LANG": "C.UTF-8",
    "LANGUAGE": "en",
    "TZ": "Asia/Kathmandu",
    "TERM": "dumb",
    "COLUMNS": "80",
    "LINES": "24",
    "SUGAR_PROFILE": "default",
}
OF_THE_SESSION = (
    *("DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"),
)
INFO = """[Activity]
name = A live test of isolauncher
bundle_id = {id}
exec = probe
activity_version = 1
license = GPLv3+
icon = activity-live
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One launch. ``named``: as the daemon is told the policy, a name or a file.

    ``bundle_id`` empty: a program. ``installed_by`` is whose the bundle is. ``untried``
    says why nothing can be launched at all.
    """

    policy: Policy
    caller: Caller
    why: str
    named: str = ""
    bundle_id: str = ""
    installed_by: str = ""
    untried: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Directories of one launch. ``errors`` is a file that anybody may open."""

    top: str
    probe: str
    bundle: str
    home: str
    errors: str


def choose_case(policy: Policy, store: PolicyStore, file: str = "") -> Case:
    """Who can show most of a policy. ``file``: it is in no directory of policies."""
    root = os.geteuid() == 0
    caller, who = _person() if root else (_self(), "by you")
    if file:
        if root:
            why = "a program of root's: a file is for root alone"
            named = os.path.abspath(file)
            return Case(policy=policy, caller=_self(), why=why, named=named)
        return _none(policy, "a policy file is for root: put it into a directory")
    bundle = _bundle(policy, store) if furniture.granted(policy) > {"hold"} else None
    if bundle is not None and (root or bundle[1] == "user"):
        return Case(
            policy=policy,
            caller=caller,
            why=f"a bundle of the {bundle[1]}'s, {who}",
            bundle_id=bundle[0],
            installed_by=bundle[1],
        )
    for asking, words in _askers(policy, caller, who):
        try:
            choose.for_run(store, caller=asking, name=policy.name)
        except NotAllowed:
            continue
        why = f"a program, {words}"
        return Case(policy=policy, caller=asking, why=why, named=policy.name)
    return _none(policy, "it is not for you: only root may launch what it governs")


def _none(policy: Policy, why: str) -> Case:
    return Case(policy=policy, caller=_self(), why="", untried=why)


def _self() -> Caller:
    return Caller(
        uid=os.getuid(), gid=os.getgid(), groups=tuple(os.getgroups()), pid=os.getpid()
    )


def _person() -> tuple[Caller, str]:
    """Who called sudo, else a uid that nobody has."""
    try:
        entry = pwd.getpwuid(int(os.environ.get("SUDO_UID", "0")))
    except (KeyError, ValueError):
        entry = None
    if entry is not None and entry.pw_uid != 0:
        return _of(entry), f"by {entry.pw_name}"
    uid = _unowned()
    return Caller(uid=uid, gid=uid, groups=(), pid=0), f"by uid {uid}, who is nobody"


def _of(entry: pwd.struct_passwd) -> Caller:
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Caller(uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, pid=0)


def _unowned() -> int:
    """Of Debian's range for persons, which is given out from the other end."""
    for uid in range(59999, 59000, -1):
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return 59999


def _askers(policy: Policy, caller: Caller, who: str) -> Iterator[tuple[Caller, str]]:
    yield caller, who
    if os.geteuid() != 0:
        return
    for word in policy.match.callers:
        try:
            if word.startswith("@"):
                gid = grp.getgrnam(word[1:]).gr_gid
                uid = _unowned()
                yield (
                    Caller(uid=uid, gid=gid, groups=(gid,), pid=0),
                    f"by uid {uid} in the group {word[1:]}",
                )
            elif word != choose.EVERYBODY:
                yield _of(pwd.getpwnam(word)), f"by {word}"
        except KeyError:
            continue  # a name that nobody has admits nobody
    yield _self(), "by root"


def _bundle(policy: Policy, store: PolicyStore) -> tuple[str, str] | None:
    """(id, system or user) of a bundle that this policy would govern."""
    match = policy.match
    ids = [
        (f"{p[:-1]}IsolauncherLive" if p.endswith(".*") else p, match.installed_by)
        for p in match.bundle_ids
    ]
    if policy.name == choose.UNTRUSTED_POLICY:
        ids.append(("org.sugarlabs.IsolauncherLive", "user"))
    if policy.name == ROOT_POLICY:
        ids.append(("org.isolauncher.Live", "system"))
    for bundle_id, installed_by in ids:
        try:
            choice = choose.for_bundle(
                store, bundle_id, system=installed_by == "system"
            )
        except IsolauncherError:
            continue
        if choice.policy.name == policy.name:
            return bundle_id, installed_by
    return None


# ------------------------------------------------------------------------------ places


@contextmanager
def place(case: Case) -> Iterator[Place]:
    """Directories for one launch, gone again at the end."""
    with places.directory(_base(case.policy)) as top:
        made = Place(
            top=top,
            probe=f"{top}/probe.py",
            bundle=f"{top}/Live.activity",
            home=f"{top}/home",
            errors=f"{top}/errors",
        )
        shutil.copyfile(probe.__file__, made.probe)
        os.chmod(made.probe, 0o444)
        with open(made.errors, "w"):
            os.chmod(made.errors, 0o666)  # noqa: S103 (see probe.reopen)
        for path in _homes(case, made.home):
            os.makedirs(path, mode=0o700, exist_ok=True)
            _give(path, case.caller)
        if case.bundle_id:
            _make_bundle(case, made.bundle)
        yield made


def _base(policy: Policy) -> str | None:
    """The first that the policy does not show; in /tmp no bundle is the system's."""
    if os.geteuid() != 0:
        return None
    shown = (*policy.view.read, *policy.view.write)
    for base in places.BASES:
        if not any(f"{base}/".startswith(f"{p}/") for p in shown):
            return base
    return None


def _homes(case: Case, home: str) -> Iterator[str]:
    """The home, the profile, and what of the home the policy shows."""
    yield home
    for path in (".sugar", ".sugar/default", *in_home(case.policy)):
        parts = path.split("/")
        for number in range(len(parts)):
            yield "/".join((home, *parts[: number + 1]))


def in_home(policy: Policy) -> Iterator[str]:
    for path in (*policy.view.read, *policy.view.write):
        if path.startswith(IN_HOME):
            yield path.removeprefix(IN_HOME)


def _give(path: str, caller: Caller) -> None:
    if os.geteuid() == 0:
        os.chown(path, caller.uid, caller.gid)


def _make_bundle(case: Case, path: str) -> None:
    made = [path, f"{path}/activity", f"{path}/bin"]
    for directory in made:
        os.mkdir(directory, 0o755)
    made += [f"{path}/activity/activity.info", f"{path}/bin/probe"]
    with open(made[-2], "w", encoding="utf-8") as file:
        file.write(INFO.format(id=case.bundle_id))
    shutil.copyfile(probe.__file__, made[-1])
    for name in made:
        os.chmod(name, 0o755)  # noqa: S103 (others read it, and its owner alone writes)
        if case.installed_by == "user":
            _give(name, case.caller)


# ------------------------------------------------------------------------- environment


def asked_environment(
    case: Case, home: str, wanted: Mapping[str, str]
) -> dict[str, str]:
    """What the caller has in its environment: all that the policy keeps, and more.

    ``wanted`` comes from the policy's own expectations.
    """
    asked = {"HOME": home, "PATH": "/usr/bin:/bin", **SECRETS, **wanted}
    for name in case.policy.environment.keep:
        name = f"{name[:-1]}ISOLAUNCHER_LIVE" if name.endswith("*") else name
        # A loader or an interpreter would take it for what it is not.
        if not environment.is_dangerous(name):
            asked[name] = _VALUES.get(name, "1")
    if case.bundle_id:
        asked |= {n: os.environ[n] for n in OF_THE_SESSION if n in os.environ}
    return asked


# --------------------------------------------------------------------------- as others


def become(caller: Caller) -> None:
    """For good, in a child."""
    if os.geteuid() == 0:
        os.setgroups(caller.groups)
        os.setresgid(caller.gid, caller.gid, caller.gid)
        os.setresuid(caller.uid, caller.uid, caller.uid)


def as_caller(
    caller: Caller, variables: Mapping[str, str], do: Callable[[], object]
) -> Any:
    """What ``do`` gives, as JSON, in a child that is ``caller``; None if it fails."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            become(caller)
            os.environ.clear()
            os.environ.update(variables)
            os.chdir("/")
            os.write(writer, json.dumps(do()).encode())
        except Exception:  # noqa: S110 (nothing is said then, which is the answer)
            pass
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None
