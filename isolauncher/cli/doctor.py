# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher doctor``: what this machine can enforce, what is missing, what to do.

Puts what `host.probe` found into words and changes nothing. Exit status 0 says that a
launch under the default policy would be enforced in full, 1 that it would not.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from .. import installation
from ..host import CONTROLLERS, UID_RANGE, Host, as_json, probe
from . import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

State = Literal["ok", "limited", "missing"]

_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line. ``limited``: launches go on, with less; ``missing``: none is possible.

    ``full`` is False where the default policy would not be enforced in full.
    """

    what: str
    state: State
    full: bool
    detail: str
    follows: str = ""
    fix: str = ""

    def text(self) -> str:
        follows = f": {self.follows}" if self.follows else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"{self.state:<8} {self.what:<18} {self.detail}{follows}{fix}"


# What a launch cannot do without: (field of Host, what it is called, what it gives,
# what to do). A field's reason stands in Host.why.
_NEEDED = (
    (
        "ids",
        "root",
        "uids can be given out",
        "run this and the daemon as root of the machine",
    ),
    (
        "mapped_ids",
        "id maps",
        "a user namespace can be mapped and entered",
        "leave the chroot; look at /proc/sys/user/max_user_namespaces",
    ),
    (
        "mount_api",
        "mounts by handle",
        "open_tree, mount_setattr and move_mount work",
        "Linux 5.12 or later",
    ),
    (
        "pivot_root",
        "private root",
        "pivot_root works",
        "leave the chroot or the initramfs: enter machines with systemd-nspawn",
    ),
    ("proc", "own /proc", "a new /proc can be mounted", "leave the container"),
    (
        "seccomp",
        "seccomp",
        "filters can be installed",
        "a kernel with CONFIG_SECCOMP_FILTER",
    ),
    ("keyring", "keyring", "session keyrings are new or there are none", ""),
    ("openat2", "openat2", "paths can be resolved beneath a handle", "Linux 5.6"),
    ("close_range", "close_range", "descriptors can be closed by range", "Linux 5.9"),
    ("pidfd", "pidfd", "processes can be named without a race", "Linux 5.3"),
    ("prctl", "python-prctl", "installed", "apt install python3-prctl"),
    ("pyroute2", "pyroute2", "installed", "apt install python3-pyroute2"),
    (
        "libseccomp",
        "python3-seccomp",
        "installed",
        "apt install python3-seccomp; PyPI has none",
    ),
)

_ROOT_ONLY = frozenset({"mapped_ids", "mount_api", "pivot_root", "proc"})

# What a launch under the default policy can do without.
_WELCOME = (
    (
        "dbus",
        "dbus-python",
        "installed",
        "Sugar's activities cannot be launched",
        "apt install python3-dbus",
    ),
    (
        "gi",
        "python3-gi",
        "installed",
        "Sugar's activities cannot be launched",
        "apt install python3-gi",
    ),
    (
        "bus_filter",
        "xdg-dbus-proxy",
        "installed",
        "activities that their policy gives a bus cannot be launched",
        "apt install xdg-dbus-proxy",
    ),
    (
        "gtk3",
        "preload set gtk3",
        "installed",
        "policies that name it start their programs from the set python",
        "apt install python3-gi gir1.2-gtk-3.0",
    ),
    (
        "sugar3",
        "preload set sugar3",
        "installed",
        "policies that name it start their programs from a smaller set",
        "apt install python3-sugar3",
    ),
    (
        "mm_map",
        "process titles",
        "/proc/self/cmdline can be set freely",
        "titles and environments are cut to the room that the zygote keeps",
        "",
    ),
    (
        "waiter",
        "init's memory",
        "some kB: init becomes a program of 500 bytes when it has only to wait",
        "the init of each activity stays an interpreter, with 2 MB of its own",
        "look at /proc/sys/vm/memfd_noexec",
    ),
    (
        "idmapped_mounts",
        "idmapped mounts",
        "work on /var/lib",
        "where homes lack them too, activities work in a copy of their kept data",
        "ext4, xfs or btrfs",
    ),
    (
        "device_nodes",
        "device nodes",
        "can be made and opened",
        "no activity has a device, whatever its policy grants",
        "a container has to be allowed to make them (CAP_MKNOD)",
    ),
    (
        "sys_resource",
        "CAP_SYS_RESOURCE",
        "held",
        "limits can be lowered only, which is all that a policy does",
        "",
    ),
)


def examine(host: Host) -> tuple[Finding, ...]:
    """Every finding, in the order in which they are read."""
    return (
        *_needed(host),
        *_namespaces(host),
        _landlock(host),
        *_cgroups(host),
        _core(host),
        _uids(host),
        *_welcome(host),
    )


def _needed(host: Host) -> Iterator[Finding]:
    for name, what, gives, fix in _NEEDED:
        if getattr(host, name):
            yield Finding(what=what, state="ok", full=True, detail=gives)
            continue
        # Told once: what root alone may try says nothing about the machine.
        hidden = name in _ROOT_ONLY and not host.ids
        yield Finding(
            what=what,
            state="missing",
            full=False,
            detail=host.why.get(name, "does not work"),
            follows="only root can tell" if hidden else "nothing can be launched",
            fix="" if hidden else fix,
        )
    if host.chrooted:
        yield Finding(
            what="chroot",
            state="limited",
            full=True,
            detail=host.why.get("chrooted", "this is a chroot"),
            follows="user namespaces and pivot_root are refused in one",
            fix="enter the machine with systemd-nspawn instead",
        )


def _namespaces(host: Host) -> Iterator[Finding]:
    lacking = [name for name in _NAMESPACES if name not in host.namespaces]
    if not lacking:
        yield Finding(
            what="namespaces", state="ok", full=True, detail=" ".join(_NAMESPACES)
        )
    for name in lacking:
        reason = host.why.get(name, host.why.get("namespaces", "cannot be made"))
        yield Finding(
            what=f"namespace {name}",
            state="missing",
            full=False,
            detail=reason,
            follows="nothing can be launched",
            fix=f"look at /proc/sys/user/max_{name}_namespaces",
        )


def _landlock(host: Host) -> Finding:
    if host.landlock:
        detail = f"ABI {host.landlock}"
        return Finding(what="landlock", state="ok", full=True, detail=detail)
    return Finding(
        what="landlock",
        state="limited",
        full=False,
        detail=host.why.get("landlock", "not there"),
        follows="policies that require it are refused, others go without a second "
        "wall around files",
        fix="boot with lsm=landlock,… added",
    )


def _cgroups(host: Host) -> Iterator[Finding]:
    bounds = {
        "memory": "limits.memory",
        "pids": "limits.processes",
        "cpu": "cpu-weight",
    }
    for controller in CONTROLLERS:
        place = host.cgroups.get(controller)
        what = f"cgroup {controller}"
        if place is not None:
            detail = f"version {place.version}, {place.path}"
            yield Finding(what=what, state="ok", full=True, detail=detail)
            continue
        yield Finding(
            what=what,
            state="limited",
            full=False,
            detail=host.why.get(f"cgroup.{controller}", "not there"),
            follows=f"{bounds[controller]} holds for each process, not for all "
            "together, and policies that require cgroups are refused",
            fix="run the daemon as a service with Delegate=yes",
        )


def _core(host: Host) -> Finding:
    if host.core:
        detail = "written as files, which limits.core bounds"
        return Finding(what="core dumps", state="ok", full=True, detail=detail)
    return Finding(
        what="core dumps",
        state="limited",
        full=False,
        detail=host.why.get("core", "they go to a program"),
        follows="it gets the memory of what crashes, and reads what a hostile program "
        "put there, whatever limits.core says",
        fix="sysctl kernel.core_pattern=core",
    )


def _uids(host: Host) -> Finding:
    first, last = UID_RANGE.start, UID_RANGE.stop - 1
    if not host.uids_taken:
        detail = f"{first}-{last} belong to nobody"
        return Finding(what="uid range", state="ok", full=True, detail=detail)
    free = len(host.uids_taken) < len(UID_RANGE)
    return Finding(
        what="uid range",
        state="limited" if free else "missing",
        full=free,
        detail=host.why.get("uids_taken", "some have owners"),
        follows="those are never given to an activity",
        fix="name another range in /etc/isolauncher/isolauncher.toml",
    )


def _welcome(host: Host) -> Iterator[Finding]:
    for name, what, gives, follows, fix in _WELCOME:
        if getattr(host, name):
            yield Finding(what=what, state="ok", full=True, detail=gives)
            continue
        yield Finding(
            what=what,
            state="limited",
            full=True,
            detail=host.why.get(name, "not there"),
            follows=follows,
            fix=fix,
        )


def of_sugar(parts: Iterable[installation.Part]) -> Iterator[Finding]:
    """What Sugar's shell has of isolauncher; no launch is enforced less without it."""
    for part in parts:
        yield Finding(
            what=part.what,
            state="limited" if part.fault else "ok",
            full=True,
            # A window's title is whatever a program wants it to be.
            detail=printable(part.fault or part.detail),
            follows=part.follows if part.fault else "",
            fix=part.fix if part.fault else "",
        )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="say what this machine can enforce, what is missing, what to install",
        description="Tries what a launch needs. Exit status 0: a launch under the "
        "default policy would be enforced in full; 1: it would not.",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout instead of lines"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    host = probe()
    parts = installation.parts(os.environ)
    findings = (*examine(host), *of_sugar(parts))
    full = all(finding.full for finding in findings)
    if args.json:
        answer = {
            "version": 1,
            "full": full,
            "findings": [asdict(finding) for finding in findings],
            "host": as_json(host),
        }
        print(json.dumps(answer, indent=1))
    else:
        for finding in findings:
            print(finding.text())
        print(
            "A launch under the default policy would be enforced in full."
            if full
            else "A launch under the default policy would not be enforced in full."
        )
    return 0 if full else 1
