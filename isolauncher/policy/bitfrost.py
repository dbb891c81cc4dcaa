# SPDX-License-Identifier: GPL-3.0-or-later
"""Bitfrost's names for rights, and what each comes to here.

Bitfrost is OLPC's security model of 2007. It says for every program what it may do, by
names such as P_NET; a policy's ``[grants]`` keeps them, each with its reason. A name is
one of three things:

    gives     the values of other keys
    missing   a right that nothing here can give: refused
    note      nothing that a sandbox here could have or lack: accepted, and said

Says only what names mean: check.py holds files against it, load.py what they come to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from isolauncher.policy.model import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Gives:
    """One key's value; of a list, items. ``less``: values that the name covers too."""

    key: str
    value: Value
    less: tuple[Value, ...] = ()

    def covers(self, value: Value | None) -> bool:
        """Whether what a policy says of the key is what the name stands for."""
        if isinstance(self.value, tuple):
            return isinstance(value, tuple) and set(self.value) <= set(value)
        return value == self.value or value in self.less


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """``says`` is a sentence for the document; for a note also for the report."""

    name: str
    says: str
    gives: tuple[Gives, ...] = ()
    missing: str = ""

    @property
    def is_note(self) -> bool:
        return not self.gives and not self.missing


_BIOS_NAMES = "P_BIOS_*"

NAMES: tuple[Name, ...] = (
    Name(
        name="P_NET",
        says="The network.",
        gives=(Gives(key="network.access", value="host", less=("filtered",)),),
    ),
    Name(
        name="P_MIC_CAM",
        says="Microphone and camera.",
        gives=(Gives(key="devices.allow", value=("microphone", "camera")),),
    ),
    Name(
        name="P_DSP_BG",
        says="Sound, in the background too: nothing tells one from the other here.",
        gives=(Gives(key="devices.allow", value=("sound",)),),
    ),
    Name(
        name="P_X",
        says="The person's display, with every window on it.",
        gives=(Gives(key="display.x11", value="shared"),),
    ),
    Name(
        name="P_DOCUMENT",
        says="The Journal: what it made, is opened with, or is chosen for it.",
        gives=(Gives(key="files.documents", value="opened", less=("own",)),),
    ),
    Name(
        name="P_DOCUMENT_RO",
        says="Every document, to read only.",
        missing='nothing shows documents without letting them be changed; "all" of '
        "files.documents does both",
    ),
    Name(
        name="P_CPU_RL",
        says="The processor as others have it, for as long as it wants.",
        gives=(
            Gives(key="limits.cpu-seconds", value=0),
            Gives(key="limits.cpu-weight", value=100),
            Gives(key="limits.nice", value=0),
        ),
    ),
    Name(
        name="P_DOCUMENT_RL",
        says="How much may be stored in the Journal in one run is the same for "
        "everybody.",
    ),
    Name(name="P_DOCUMENT_BACKUP", says="Nothing here makes backups."),
    Name(
        name="P_NAND_RL",
        says="Nothing here slows down writing; files.data says how much is kept.",
    ),
    Name(name="P_RTC", says="No activity sets the clock."),
    Name(name="P_IDENT", says="There is no service that signs in a person's name."),
    Name(name="P_SERVER_AUTH", says="There is no service that proves who a person is."),
    Name(name="P_PASSWORD", says="No activity is asked for a password, or given one."),
    Name(
        name="P_SANDBOX",
        says="The sandbox is isolauncher itself; no policy takes it away.",
    ),
    Name(
        name="P_SF_CORE",
        says="The system's files are root's; files.write names what may be written.",
    ),
    Name(
        name="P_SF_RUN",
        says="The system's files are root's; files.write names what may be written.",
    ),
    Name(name="P_THEFT", says="Nothing here looks after a machine that is stolen."),
    Name(name=_BIOS_NAMES, says="No activity reaches the firmware."),
)

_NAMES: Mapping[str, Name] = {name.name: name for name in NAMES}
_BIOS = re.compile(r"P_BIOS_[A-Z0-9]+(_[A-Z0-9]+)*")
MAX_NAME = 64


def find(name: str) -> Name | None:
    """What a grant of that name is; None: it is none of Bitfrost's."""
    if len(name) <= MAX_NAME and _BIOS.fullmatch(name):
        return _NAMES[_BIOS_NAMES]
    return _NAMES.get(name) if name != _BIOS_NAMES else None


def nearest(name: str) -> str:
    known = [one for one in _NAMES if one != _BIOS_NAMES]
    near = difflib.get_close_matches(name[:MAX_NAME].upper(), known, 1)
    return near[0] if near else ""


def holds(name: str, values: Mapping[str, Value]) -> bool:
    """Whether all that the grant stands for is what ``values`` say; a note always."""
    found = find(name)
    return found is not None and all(
        given.covers(values.get(given.key)) for given in found.gives
    )


def without_reason(values: Mapping[str, Value], granted: frozenset[str]) -> str:
    """Which grant a microphone or camera lacks beside a network; empty: none.

    Bitfrost refuses the two together: what is heard and seen can be sent away. An
    administrator who wants both says why, of each.
    """
    devices = values.get("devices.allow", ())
    hears = isinstance(devices, tuple) and {"microphone", "camera"} & {*devices}
    if not hears or values.get("network.access") not in ("host", "filtered"):
        return ""
    return next((name for name in ("P_MIC_CAM", "P_NET") if name not in granted), "")


__all__ = ["NAMES", "Gives", "Name", "find", "holds", "nearest", "without_reason"]
