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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .records import start_time
from .rootsown import not_roots

if TYPE_CHECKING:
    from .session.openwindows import Open

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
ELSEWHERE = "make install-sugar, from where root alone can write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``fault`` "": it is as it should be, which ``detail`` says."""

    what: str
    detail: str
    fault: str = ""
    follows: str = ""
    fix: str = AGAIN


class _Fault(Exception):
    """What is wrong with a part, in words, and what to do."""

    def __init__(self, message: str, fix: str = AGAIN) -> None:
        super().__init__(message)
        self.fix = fix


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
        return Part(
            what=what, detail="", fault=str(fault), follows=follows, fix=fault.fix
        )
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
    elif not (found := _found_by_itself()):
        raise _Fault(f"{PYTHON} does not find isolauncher, which /{EXTENSION} imports")
    else:
        _roots(found, EXTENSION)


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
    _roots(os.path.join(checkout, "isolauncher"), place)


def _command(path: str, place: str) -> None:
    if not os.access(path, os.X_OK):
        raise _Fault(f"/{place} wants {path}, which is not there")
    _roots(path, place)


def _roots(path: str, place: str) -> None:
    """Who can change it can have every person run it, or root."""
    if why := not_roots(path):
        raise _Fault(
            f"others than root can change {path}, which /{place} wants: {why}",
            ELSEWHERE,
        )


def _same(text: str, path: str, place: str) -> None:
    """But for the constants: of another version it may ask what is no longer there."""
    with open(path, encoding="utf-8") as file:
        theirs = file.read()
    set_by_installing = re.compile(r"^(CHECKOUT|CONFIG) = .*$", re.M)
    if set_by_installing.sub("", text) != set_by_installing.sub("", theirs):
        raise _Fault(f"/{place} is not the one of its checkout: it is older or changed")


def _found_by_itself() -> str:
    """The directory that Sugar's Python imports isolauncher from; "" if it does not."""
    source = (
        "import importlib.util as u, sys; found = u.find_spec('isolauncher');"
        "print(found.submodule_search_locations[0] if found else '', end='')"
    )
    done = subprocess.run(
        (PYTHON, "-I", "-c", source),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


# ------------------------------------------------------------------ a shell that runs


def _shell(environment: Mapping[str, str], root: str) -> Iterator[Part]:
    """Of a display: since when its shell runs, and what is open that it launched."""
    from .errors import HostError
    from .session import openwindows

    if not environment.get("DISPLAY"):
        return
    try:
        windows = openwindows.look(environment)
    except HostError as error:
        yield Part(
            what="sugar windows",
            detail="",
            fault=f"cannot be looked at: {error.message}",
            follows="whether they are confined is not known",
            fix=error.hint or "run this in the session whose display it is",
        )
        return
    shells = {one.window.pid for one in windows if _is_the_shell(one)}
    for pid in sorted(shells):
        late = _installed_since(pid, os.path.join(root, EXTENSION))
        said = f"runs as process {pid}"
        yield Part(
            what="sugar shell",
            detail=said,
            fault=f"{said}, since before this was installed" if late else "",
            follows="it launches as it did before",
            fix="log out, and in again",
        )
    activities = [
        one
        for one in windows
        if one.window.pid not in shells
        and (one.window.sugar_activity or one.window.sugar_bundle)
    ]
    faults = list(_not_confined(activities))
    yield from faults
    if shells and not faults:
        yield Part(what="sugar windows", detail="every activity's is confined")


def _is_the_shell(one: Open) -> bool:
    """Whoever has a window may call it the Journal's; the shell is in no sandbox."""
    if one.verdict != "unconfined" or one.window.sugar_bundle != JOURNAL:
        return False
    try:
        with open(f"/proc/{one.window.pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
    except OSError:
        return False
    return (b"-m", b"jarabe.main") in pairwise(words)  # as /usr/bin/sugar starts it


_NOT_CONFINED = {
    "unconfined": ("open that no sandbox has", "they have all of the person's rights"),
    "unknown": ("open, and nobody can say whose", "they may be past isolauncher"),
}


def _not_confined(activities: Sequence[Open]) -> Iterator[Part]:
    for verdict, (says, follows) in _NOT_CONFINED.items():
        names = [
            one.window.title[:60] or one.bundle_id
            for one in activities
            if one.verdict == verdict
        ]
        if names:
            yield Part(
                what="sugar windows",
                detail="",
                fault=f"{len(names)} {says}: {', '.join(names)}",
                follows=follows,
                fix="isolauncher ps --windows",
            )


def _installed_since(pid: int, path: str) -> bool:
    """Whether a file was put there after the process had begun."""
    try:
        changed = os.stat(path).st_ctime
    except OSError:
        return False
    ticks = start_time(pid)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    begun = booted + ticks / os.sysconf("SC_CLK_TCK")
    return ticks > 0 and changed > begun + 1


__all__ = ["Part", "parts"]
