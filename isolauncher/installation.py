# SPDX-License-Identifier: GPL-3.0-or-later
"""What of isolauncher Sugar's shell has on this machine: each part, and its fault.

The parts are what `make install-sugar`, or a package, has put where Sugar, the session
bus and polkit look. Reads files, and on a display the windows; changes nothing.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

EXTENSION = "usr/share/sugar/extensions/deviceicon/isolauncher.py"
SERVICE = "usr/share/dbus-1/services/org.sugarlabs.IsoLauncher1.service"
LAUNCH = "usr/local/bin/sugar-launch"
SECTION = "usr/share/sugar/extensions/cpsection/isolauncher"
ACTION = "usr/share/polkit-1/actions/org.sugarlabs.isolauncher.policy"
SHELL = "usr/bin/sugar"
PYTHON = "/usr/bin/python3"
JOURNAL = "org.laptop.JournalActivity"
"""A window that is the shell's own."""

AGAIN = "make install-sugar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``fault`` "": it is as it should be, which ``detail`` says."""

    what: str
    detail: str
    fault: str = ""
    follows: str = ""
    fix: str = AGAIN


class _Fault(Exception):
    """What is wrong with a part, in words."""


def parts(environment: Mapping[str, str], root: str = "/") -> tuple[Part, ...]:
    """Every part. Where there is nothing of ours, that is said once."""
    places = (EXTENSION, SERVICE, LAUNCH, SECTION, ACTION)
    has_sugar = os.path.exists(os.path.join(root, SHELL))
    if not any(os.path.lexists(os.path.join(root, place)) for place in places):
        if not has_sugar:
            return (Part(what="sugar", detail="its shell is not installed here"),)
        unused = Part(
            what="sugar",
            detail="",
            fault="its shell does not launch through isolauncher",
            follows="what is clicked on has all of the person's rights",
        )
        return unused, *_shell(environment, root)
    return (
        _part(
            "sugar extension",
            "the shell launches through isolauncher",
            "what is clicked on has all of the person's rights, or is not launched",
            _extension,
            root,
        ),
        _part(
            "sugar service",
            "the session bus can start it",
            "nothing is launched by the shell",
            _service,
            root,
        ),
        _part(
            "sugar-launch",
            "goes through isolauncher",
            "that command launches with all of the person's rights, or not at all",
            _launch,
            root,
        ),
        _part(
            "sugar panel",
            "the control panel shows what activities may do",
            "the control panel does not show it",
            _section,
            root,
        ),
        _part(
            "sugar polkit",
            "an administrator can be asked for",
            "the control panel's switches do nothing",
            _action,
            root,
        ),
        *_shell(environment, root),
    )


def _part(
    what: str, detail: str, follows: str, look: Callable[[str], None], root: str
) -> Part:
    try:
        look(root)
    except _Fault as fault:
        return Part(what=what, detail="", fault=str(fault), follows=follows)
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        return Part(what=what, detail="", fault=said, follows=follows)
    return Part(what=what, detail=detail)


# ----------------------------------------------------------------- what each one is


def _extension(root: str) -> None:
    text = _read(root, EXTENSION)
    checkout = _constant(text, "CHECKOUT", EXTENSION)
    if checkout:
        _code(checkout, EXTENSION)
        _same(
            text, f"{checkout}/integration/sugar/deviceicon/isolauncher.py", EXTENSION
        )
    elif not _found_by_itself():
        raise _Fault(f"{PYTHON} does not find isolauncher, which /{EXTENSION} imports")


def _service(root: str) -> None:
    text = _read(root, SERVICE)
    if (found := re.search(r"^Exec=(\S+)", text, re.M)) is None:
        raise _Fault(f"/{SERVICE} starts nothing")
    _command(found[1], SERVICE)


def _launch(root: str) -> None:
    text = _read(root, LAUNCH)
    if (found := re.search(r"^isolauncher=(\S+)$", text, re.M)) is None:
        raise _Fault(f"/{LAUNCH} is not isolauncher's")
    _command(found[1], LAUNCH)


def _section(root: str) -> None:
    noted = _read(root, f"{SECTION}/installed.py")
    checkout = _constant(noted, "CODE", f"{SECTION}/installed.py")
    _command(_constant(noted, "COMMAND", f"{SECTION}/installed.py"), SECTION)
    names = ("__init__", "model", "text", "view")
    for name in names:
        text = _read(root, f"{SECTION}/{name}.py")
        if checkout:
            _code(checkout, SECTION)
            theirs = f"{checkout}/integration/sugar/cpsection/isolauncher/{name}.py"
            _same(text, theirs, f"{SECTION}/{name}.py")


def _action(root: str) -> None:
    text = _read(root, ACTION)
    if (found := re.search(r"policykit\.exec\.path\">([^<]+)<", text)) is None:
        raise _Fault(f"/{ACTION} names no program")
    _command(found[1], ACTION)


def _read(root: str, place: str) -> str:
    """A file that root alone can write: it has a say in every person's session."""
    path = os.path.join(root, place)
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _Fault(f"/{place}: {error.strerror}") from None
    with file:
        status = os.fstat(file.fileno())
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise _Fault(f"/{place}: others than root may write it")
        return file.read()


def _constant(text: str, name: str, place: str) -> str:
    """What a file of ours says that it was installed with."""
    found = re.search(rf"^{name} = (.*)$", text, re.M)
    try:
        value = ast.literal_eval(found[1]) if found else None
    except (SyntaxError, ValueError):
        value = None
    if not isinstance(value, str):
        raise _Fault(f"/{place} is not isolauncher's")
    return value


def _code(checkout: str, place: str) -> None:
    if not os.path.exists(os.path.join(checkout, "isolauncher/session/adapter.py")):
        raise _Fault(f"/{place} wants isolauncher from {checkout}, where it is not")


def _command(path: str, place: str) -> None:
    if not os.access(path, os.X_OK):
        raise _Fault(f"/{place} wants {path}, which is not there")


def _same(text: str, path: str, place: str) -> None:
    """But for the constants: of another version it may ask what is no longer there."""
    with open(path, encoding="utf-8") as file:
        theirs = file.read()
    set_by_installing = re.compile(r"^(CHECKOUT|CONFIG) = .*$", re.M)
    if set_by_installing.sub("", text) != set_by_installing.sub("", theirs):
        raise _Fault(f"/{place} is not the one of its checkout: it is older or changed")


def _found_by_itself() -> bool:
    source = "import importlib.util as u, sys; sys.exit(not u.find_spec('isolauncher'))"
    done = subprocess.run(
        (PYTHON, "-I", "-c", source), cwd="/", capture_output=True, check=False
    )
    return done.returncode == 0


# ------------------------------------------------------------------ a shell that runs


def _shell(environment: Mapping[str, str], root: str) -> Iterator[Part]:
    """Of a display that can be looked at: since when it runs, and what it launched."""
    from .errors import HostError
    from .session import openwindows

    if not environment.get("DISPLAY"):
        return
    try:
        windows = openwindows.look(environment)
    except HostError:
        return  # somebody else's, or python3-xlib is not installed
    shells = {one.window.pid for one in windows if one.window.sugar_bundle == JOURNAL}
    for pid in shells:
        since = _installed_since(pid, os.path.join(root, EXTENSION))
        yield Part(
            what="sugar shell",
            detail=f"runs as process {pid}",
            fault=f"runs as process {pid}, since before this was installed"
            if since
            else "",
            follows="it launches as it did before",
            fix="log out, and in again",
        )
    loose = [
        one.window.title or one.bundle_id
        for one in windows
        if one.window.sugar_activity
        and one.window.pid not in shells
        and one.verdict == "unconfined"
    ]
    if loose:
        yield Part(
            what="sugar windows",
            detail="",
            fault=f"{len(loose)} open that no sandbox has: {', '.join(loose)}",
            follows="they have all of the person's rights",
            fix="isolauncher ps --windows",
        )
    elif shells:
        yield Part(what="sugar windows", detail="every activity's is confined")


def _installed_since(pid: int, path: str) -> bool:
    """Whether a file was put there after the process had begun."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        changed = os.stat(path).st_ctime
    except (OSError, ValueError):
        return False
    begun = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return changed > begun + 1


__all__ = ["Part", "parts"]
