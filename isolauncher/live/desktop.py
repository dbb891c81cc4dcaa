# SPDX-License-Identifier: GPL-3.0-or-later
"""What only a bundle gets, tried: its directories, the display, the bus, the Journal.

Each is tried outside first, as who launches: what does not answer there cannot be
judged inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import furniture
from ..report import Proof
from . import expects, probe
from .caller import Case, Place, as_caller
from .claims import differs, proof, untried
from .talk import Silent, Talk

FOREIGN = "org.sugarlabs.IsolauncherLive.Foreign"
FILL_S = 20
_SPARE = 1 << 20
_FOR_BUNDLES = "it is for bundles, and this policy governs none that could be launched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desktop:
    """What answers outside, as who launches, and what was seen inside."""

    variables: Mapping[str, str]
    outside_bus: Mapping[str, Any]
    outside_display: Mapping[str, Any]
    bus: Mapping[str, Any]
    display: Mapping[str, Any]
    called: Mapping[str, list[str]]


def reachable(case: Case, variables: Mapping[str, str]) -> dict[str, str]:
    """``variables`` without what leads to a display or a bus that does not answer."""
    found = dict(variables)
    bus, display = _outside(case, variables)
    if bus.get("connected") != "ok":
        found.pop("DBUS_SESSION_BUS_ADDRESS", None)
    if display.get("socket") != "ok":
        found.pop("DISPLAY", None)
    return found


def _outside(
    case: Case, variables: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = {"own": [], "foreign": "", "journal": True}
    bus = as_caller(case.caller, variables, partial(probe.bus, asked))
    display = as_caller(case.caller, variables, partial(probe.display, {}))
    return bus or {}, display or {}


def look(talk: Talk, case: Case, variables: Mapping[str, str]) -> Desktop:
    """Ask the probe; `Silent` if it does not answer."""
    policy = case.policy
    bus, display = _outside(case, variables)
    own = [_own_name(name, talk.id) for name in policy.bus.session_own]
    asked = {"own": own, "foreign": FOREIGN, "journal": True}
    inside = talk.ask("bus", asked)
    calls = [
        ["call", *_call(rule)]
        for rule in policy.bus.session_call
        if _owned(rule.partition("=")[0], bus)
    ]
    said = talk.ask("try", calls)
    return Desktop(
        variables=variables,
        outside_bus=bus,
        outside_display=display,
        bus=inside,
        display=talk.ask("display", {}),
        called={" ".join(c[1:]): s for c, s in zip(calls, said, strict=True)},
    )


def _own_name(name: str, activity_id: str) -> str:
    name = name.replace("{activity-id}", activity_id)
    return f"{name[:-1]}IsolauncherLive" if name.endswith(".*") else name


def _call(rule: str) -> list[str]:
    name, _, allowed = rule.partition("=")
    return [name, *expects.method_of(allowed)]


def _owned(name: str, bus: Mapping[str, Any]) -> bool:
    return name in bus.get("names", ())


def judge(case: Case, place: Place, talk: Talk, found: Desktop) -> Iterator[Proof]:
    """One proof for each claim of the tables files.data to bus."""
    yield _display(case, found)
    granted = "bus" in furniture.granted(case.policy)
    if not granted:
        address = found.bus.get("address")
        problems = [f"there is one at {address}" if address else ""]
        yield proof("bus", "bus.session-call", problems, "none")
        yield proof("files.documents", "files.documents", problems, "no Journal")
    elif not case.bundle_id:
        yield untried("bus", "bus.session-call", _FOR_BUNDLES)
        if case.policy.view.documents != "none":
            yield untried("files.documents", "files.documents", _FOR_BUNDLES)
    elif found.outside_bus.get("connected") != "ok":
        why = "there is no session bus here that answers who launches"
        yield untried("bus", "bus.session-call", why)
        yield untried("files.documents", "files.documents", why)
    else:
        yield from _bus(case, found)
        yield _documents(case, found)
    yield _accessibility(case, found)


def _display(case: Case, found: Desktop) -> Proof:
    key, said = "display.x11", found.display
    if case.policy.x11 == "none":
        problems = [
            f"DISPLAY is {said['name']}" if said["name"] else "",
            "its socket answers" if said["socket"] == "ok" else "",
            "its abstract socket answers" if said["abstract"] == "ok" else "",
        ]
        return proof(key, key, problems, "no display")
    if not case.bundle_id:
        return untried(key, key, _FOR_BUNDLES)
    if found.outside_display.get("socket") != "ok":
        why = "there is no display here that answers who launches"
        return untried(key, key, why)
    problems = [differs("connecting to it", said["socket"], "ok")]
    if case.policy.network != "host":
        reached = said["abstract"] == "ok"
        problems.append("its abstract socket answers too" if reached else "")
    return proof(key, key, problems, f"{said['name']} answers")


def _bus(case: Case, found: Desktop) -> Iterator[Proof]:
    key, bus, policy = "bus.session-call", found.bus, case.policy.bus
    connected = bus.get("connected", "there is no address")
    if connected != "ok":
        yield proof("bus", key, [f"it does not answer: {connected}"])
        return
    named = {rule.partition("=")[0] for rule in policy.session_call}
    known = {probe.DRIVER, probe.JOURNAL, *named, *bus["own"], *PORTALS}
    more = [n for n in bus["names"] if n not in known and not n.startswith(":")]
    problems = [
        f"it sees {', '.join(sorted(more)[:5])}" if more else "",
        f"it can own {FOREIGN}" if bus["foreign"] == "ok" else "",
        "it may listen to others" if bus["eavesdrop"] == "ok" else "",
    ]
    yield proof("bus", key, problems, f"filtered; it sees {len(bus['names'])} names")
    for name, said in bus["own"].items():
        key = "bus.session-own"
        yield proof(f"{key} {name}", key, [differs("owning it", said, "ok")], "its own")
    for rule in policy.session_call:
        key = "bus.session-call"
        claim, call = f"{key} {rule}", " ".join(_call(rule))
        if call not in found.called:
            yield untried(claim, key, "nobody has this name here")
        else:
            result, why = found.called[call]
            problem = "" if result == "allowed" else f"it is {result}: {why}"
            yield proof(claim, key, [problem], why)


PORTALS = frozenset(
    (
        *("org.freedesktop.portal.IBus", "org.freedesktop.portal.Fcitx"),
        *("org.fcitx.Fcitx5", "org.freedesktop.IBus", "org.a11y.Bus"),
    )
)
"""Seen where bus.input-method and bus.accessibility say so."""


def _documents(case: Case, found: Desktop) -> Proof:
    key, mode = "files.documents", case.policy.view.documents
    error, inside = found.bus.get("journal", ["it was not asked", 0])
    outside_error, outside = found.outside_bus.get("journal", ["", 0])
    if mode == "none":
        return proof(key, key, ["" if error else "there is a Journal"], "no Journal")
    if outside_error:
        return untried(key, key, f"there is no Journal outside: {outside_error}")
    if error:
        return proof(key, key, [f"its Journal does not answer: {error}"])
    if not outside:
        return untried(key, key, f"{mode}: the Journal outside is empty")
    wanted = outside if mode == "all" else 0
    problem = differs("what exists for it", inside, wanted)
    return proof(key, key, [problem], f"{mode}: {inside} of {outside} objects")


def _accessibility(case: Case, found: Desktop) -> Proof:
    key, said = "bus.accessibility", found.bus["accessibility"]
    if not case.policy.bus.accessibility:
        return proof(key, key, ["it can be reached" if said == "ok" else ""], "none")
    if not case.bundle_id:
        return untried(key, key, _FOR_BUNDLES)
    if said == "ENOENT" and not _owned("org.a11y.Bus", found.outside_bus):
        return untried(key, key, "there is no accessibility bus here")
    return proof(key, key, [differs("connecting to it", said, "ok")], "it answers")


# --------------------------------------------------------------------------------- data


def activity_root(case: Case, place: Place) -> str:
    """SUGAR_ACTIVITY_ROOT, as `furniture.place` has it."""
    return f"{place.home}/.sugar/default/{case.bundle_id}"


def data_paths(case: Case, place: Place) -> list[str]:
    if not (case.bundle_id and case.policy.view.data):
        return []
    return [f"{activity_root(case, place)}/{n}" for n in furniture.DIRECTORIES]


def data(case: Case, place: Place, look: Mapping[str, Any]) -> Iterator[Proof]:
    """The directories that are the activity's own."""
    key = "files.data"
    if not case.policy.view.data:
        there = look["environ"].get("SUGAR_ACTIVITY_ROOT", "") if case.bundle_id else ""
        found = bool(there) and os.path.exists(there)
        yield proof(key, key, ["there is one" if found else ""], "none")
        return
    if not case.bundle_id:
        yield untried(key, key, _FOR_BUNDLES)
        return
    root = activity_root(case, place)
    problems = [
        differs("SUGAR_ACTIVITY_ROOT", look["environ"].get("SUGAR_ACTIVITY_ROOT"), root)
    ]
    for path in data_paths(case, place):
        name = os.path.basename(path)
        said = look["paths"][path]["write"]
        problems.append(differs(f"writing to {name}", said, "ok"))
    yield proof(f"{key} directories", key, problems, "data, instance and tmp")


def fill(case: Case, place: Place, talk: Talk) -> str | None:
    """Have it take more than files.data: the last that is asked of it.

    What it says of that; "ended" if it says nothing more; None: there is no such limit.
    """
    most = case.policy.view.data
    if not most or not case.bundle_id:
        return None
    space = os.statvfs(place.home)
    if space.f_bavail * space.f_frsize < 2 * most + _SPARE:
        return "no room"
    directory = f"{activity_root(case, place)}/data"
    asked = {"directory": directory, "bytes": most + _SPARE, "seconds": FILL_S}
    try:
        said: str = talk.ask("fill", asked, seconds=FILL_S + 10)["said"]
    except Silent:
        return "ended"
    return said


def filled(case: Case, said: str, status: int | None) -> Proof:
    """``status`` is that of its end: who takes more is ended, by a signal."""
    key, most = "files.data", case.policy.view.data
    match said:
        case "no room":
            return untried(key, key, "the disk has not that much to spare")
        case "ended" if status is not None and status > 128:
            return proof(key, key, (), f"who takes more than {most} bytes is stopped")
        case "ENOSPC" | "EDQUOT":
            return proof(key, key, (), f"no more than {most} bytes fit")
        case _:
            problem = f"it can take {most + _SPARE} bytes ({said}, {status})"
            return proof(key, key, [problem])
