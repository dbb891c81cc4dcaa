# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person's session brings for a bundle, and where it stands inside.

The bundle itself, three directories of the person's, the sockets of a filtered bus
and of the display, a cookie and settings. All are descriptors or bytes that the
caller had already; here each is held against the policy and against what the caller
may do with it, becomes a detached mount, and gets its place. Who enforces what goes
over the bus is the person's own process at the other end of it (see session/).
"""

from __future__ import annotations

import os
import posixpath
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import plan, reopen, view
from .bundle import Bundle
from .errors import RequestError
from .policy.model import IN_HOME, Policy
from .request import Caller, Furnish

DIRECTORIES = ("data", "instance", "tmp")

SETTINGS = ".config/glib-2.0/settings/keyfile"
"""Below the home: where GLib's key file backend reads (GKeyfileSettingsBackend)."""

_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a bundle's own things are inside: known as soon as its policy is.

    ``root`` is SUGAR_ACTIVITY_ROOT, ``runtime`` XDG_RUNTIME_DIR.
    """

    home: str
    root: str
    runtime: str

    def directory(self, name: str) -> str:
        return f"{self.root}/{name}"


def place(
    bundle: Bundle, policy: Policy, environment: Mapping[str, str], inner_uid: int
) -> Place:
    """As Sugar has it: `sugar3.env` puts an activity's root into the profile."""
    home = _home(environment, policy)
    profile = environment.get("SUGAR_PROFILE") or "default"
    if "/" in profile or profile in (".", "..") or not profile.isprintable():
        raise RequestError(
            f"SUGAR_PROFILE {profile[:64]!a} is not the name of a directory",
            code="request-bad-profile",
        )
    root = f"{home}/.sugar/{profile}/{bundle.bundle_id}"
    if hides := _shows(policy, root, home):
        raise RequestError(
            f"its own directories are to lie in {hides}, which the policy "
            f"{policy.name} shows: they cannot be made inside",
            code="own-directories-shown",
            hint="let the policy name only what is needed of it",
        )
    return Place(home=home, root=root, runtime=plan.runtime_directory(inner_uid))


def _shows(policy: Policy, path: str, home: str) -> str:
    """The path of the policy's that ``path`` is or lies below; "" if there is none."""
    for shown in (*policy.view.read, *policy.view.write):
        there = f"{home}/{shown.removeprefix(IN_HOME)}"
        there = there if shown.startswith(IN_HOME) else shown
        if f"{path}/".startswith(there.rstrip("/") + "/"):
            return shown
    return ""


def _home(environment: Mapping[str, str], policy: Policy) -> str:
    """The caller's HOME: made anew inside, empty, so only its name is taken over."""
    home = environment.get("HOME", "")
    why, hint = "", "set HOME to the person's own directory"
    if not home.startswith("/") or posixpath.normpath(home) != home or home == "/":
        why = "is not the path of a directory"
    elif len(os.fsencode(home)) > 1024 or not home.isprintable():
        why = "is too long or cannot be printed"
    elif home.startswith(tuple(f"{top}/" for top in _SYSTEM)) or home in (
        *_SYSTEM,
        *plan.BUILT,
    ):
        why = "is a place of the system's"
    elif hides := _shows(policy, home, home):
        why = f"lies in {hides}, which the policy {policy.name} shows"
        hint = "let the policy name only what is needed of it"
    if why:
        raise RequestError(
            f"HOME {home[:64]!a} {why}: it cannot be made inside",
            code="request-bad-home",
            hint=hint,
        )
    return home


def furnish(
    mounts: view.Mounts,
    *,
    bundle: Bundle,
    asked: Furnish,
    fds: Mapping[str, int],
    at: Place,
    caller: Caller,
    visible: plan.View,
    root: int,
    variables: Mapping[str, str],
    lodged: bool = False,
) -> plan.Furniture:
    """Make mounts of what came; ``root`` is a descriptor of the room's root.

    ``variables`` has what `variables` says. ``lodged``: the room has what is of the
    session already (`of_session`). Every descriptor has been looked at by an opener of
    the caller's (`wanted`).
    """
    trees: list[plan.Tree] = []
    shown = _bundle(mounts, bundle.path, fds["bundle"], visible, root, caller)
    if shown is not None:
        trees.append(shown)
    for name in DIRECTORIES:
        if name in fds:
            trees.append(_own_directory(mounts, name, fds[name], at, caller))
    for name, variable in _BUSES.items():
        if name in fds:
            path = variables[variable].removeprefix("unix:path=")
            trees.append(_socket(mounts, name, fds[name], path))
    furniture = plan.Furniture(
        trees=tuple(sorted(trees, key=lambda tree: tree.path)),
        own=(at.home, at.runtime),
    )
    if not lodged:
        session = of_session(
            mounts, asked=asked, fds=fds, at=at, visible=visible, variables=variables
        )
        together = (*furniture.trees, *session.trees)
        furniture = replace(
            furniture,
            trees=tuple(sorted(together, key=lambda tree: tree.path)),
            files=tuple(f for f in session.files if not plan.below(f.path, together)),
        )
    return furniture


_BUSES = {"bus": "DBUS_SESSION_BUS_ADDRESS", "accessibility": "AT_SPI_BUS_ADDRESS"}


def of_session(
    mounts: view.Mounts,
    *,
    asked: Furnish,
    fds: Mapping[str, int],
    at: Place,
    visible: plan.View,
    variables: Mapping[str, str],
) -> plan.Furniture:
    """What is the same for each activity of a session: the display, and settings."""
    trees: tuple[plan.Tree, ...] = ()
    files: list[plan.Made] = []
    if asked.display is not None:
        number = variables["DISPLAY"][1:].partition(".")[0]
        path = f"/tmp/.X11-unix/X{number}"  # noqa: S108 (where Xlib looks)
        trees = (_socket(mounts, "display", fds["display"], path),)
        if asked.cookie is not None:
            files.append(plan.Made(path=variables["XAUTHORITY"], data=asked.cookie))
    for name, data in asked.files.items():
        path = f"{at.home}/{name}"
        # Else shown already, and perhaps the person's own.
        if not plan.below(path, visible.trees):
            files.append(plan.Made(path=path, data=data))
    return plan.Furniture(trees=trees, files=tuple(files), own=(at.home, at.runtime))


def variables(
    asked: Furnish, fds: Mapping[str, int], at: Place, policy: Policy
) -> dict[str, str]:
    """What the environment says of all this."""
    found = {"HOME": at.home, "XDG_RUNTIME_DIR": at.runtime}
    if "tmp" in fds:
        found["TMPDIR"] = at.directory("tmp")
    if "bus" in fds:
        found["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={at.runtime}/bus"
        if policy.bus.input_method:
            # IBus's own bus is not here; its module asks the portal's name then.
            found["IBUS_USE_PORTAL"] = "1"
    if "accessibility" in fds:
        found["AT_SPI_BUS_ADDRESS"] = f"unix:path={at.runtime}/at-spi-bus"
    else:
        # Nothing is there that GTK could look for.
        found["NO_AT_BRIDGE"] = "1"
    if asked.display is not None:
        number, dot, screen = asked.display[1:].partition(".")
        if policy.network == "host":
            number = _nobodys_number()
        found["DISPLAY"] = f":{number}{dot}{screen}"
        if asked.cookie is not None:
            found["XAUTHORITY"] = f"{at.runtime}/Xauthority"
    if SETTINGS in asked.files:
        found["GSETTINGS_BACKEND"] = "keyfile"
    return found


def _nobodys_number() -> str:
    """A display's number that no server has, and that nobody can guess.

    libxcb tries the abstract socket of that name first, and the one in the file system
    only if there is nobody at the other. In the host's network the server is, and
    Landlock refuses it, which ends the search.
    """
    return str(10**8 + secrets.randbelow(10**8))


def wanted(fds: Mapping[str, int]) -> tuple[tuple[str, reopen.Kind], ...]:
    """What the caller must be able to do with each, for `opener.Opener.check`."""
    kinds: dict[str, reopen.Kind] = {
        "bundle": "readable-directory",
        **dict.fromkeys(DIRECTORIES, "own-directory"),
        "bus": "socket",
        "accessibility": "socket",
        "display": "socket",
        "hold": "pipe",
    }
    return tuple((name, kinds[name]) for name in fds if name in kinds)


def granted(policy: Policy) -> frozenset[str]:
    """Which of `request.FURNITURE` a policy has a place for."""
    names = {"hold"}
    if policy.view.data:
        names |= set(DIRECTORIES)
    if policy.x11 != "none":
        names.add("display")
    bus = policy.bus
    called = bus.session_call or bus.session_own or bus.input_method
    if called or policy.view.documents != "none":
        names.add("bus")
    if bus.accessibility:
        names.add("accessibility")
    return frozenset(names)


def refuse_ungranted(asked: Furnish, policy: Policy) -> None:
    """Nobody brings what the policy has no place for: it would not be seen missing."""
    for name in asked.descriptors:
        if name not in granted(policy):
            raise RequestError(
                f"the policy {policy.name} has no place for {name!r}",
                code="furniture-not-granted",
                hint=f"see `isolauncher explain {policy.name}`",
            )


def _bundle(
    mounts: view.Mounts,
    path: str,
    fd: int,
    visible: plan.View,
    root: int,
    caller: Caller,
) -> plan.Tree | None:
    """Read-only; None where the view shows it already."""
    if plan.below(path, visible.trees):
        view.refuse_other(mounts, path, fd, root)
        return None
    status = os.fstat(fd)
    mounts.clone("bundle", fd, recursive=False, shown=path)
    return plan.Tree(
        path=path,
        descriptor="bundle",
        kind="directory",
        writable=False,
        owned_by=caller.uid if status.st_uid == caller.uid != 0 else None,
        group=caller.gid,
    )


def _own_directory(
    mounts: view.Mounts, name: str, fd: int, at: Place, caller: Caller
) -> plan.Tree:
    # Not what is mounted below: that would be a way to show another file system.
    mounts.clone(name, fd, recursive=False, shown=at.directory(name))
    return plan.Tree(
        path=at.directory(name),
        descriptor=name,
        kind="directory",
        writable=True,
        owned_by=caller.uid,
        group=caller.gid,
    )


def _socket(mounts: view.Mounts, name: str, fd: int, path: str) -> plan.Tree:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise RequestError(f"{name} is not a socket", code="request-bad-descriptor")
    mounts.clone(name, fd, recursive=False, shown=path)
    return plan.Tree(path=path, descriptor=name, kind="file", writable=False)


__all__ = [
    "DIRECTORIES",
    "SETTINGS",
    "Place",
    "furnish",
    "granted",
    "of_session",
    "place",
    "refuse_ungranted",
    "variables",
    "wanted",
]
