# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device nodes each kind of ``devices.allow`` stands for, by name and number.

Data and what follows from it alone: nothing is opened here. A node is given only where
name and number agree: a driver's numbers are the kernel's for good (devices.txt), names
are what whoever may write in /dev has made of them.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Character devices of one driver.

    ``pattern`` is a path with a glob in its last part; ``minors`` are those that the
    name may have. ``writable``: opened for reading and writing, else to read.
    ``aside``: of no use, and not given, without one that is not.
    """

    pattern: str
    major: int
    minors: range
    writable: bool = True
    aside: bool = False

    @property
    def mode(self) -> int:
        """The node's permissions; it belongs to the activity."""
        return 0o600 if self.writable else 0o400


_ALL = range(1 << 20)

# Who opens a stream asks the card first, and those that mix need its clock (alsa-lib,
# pcm_hw.c and pcm_direct.c). Not the sequencer, by which others' keyboards are heard.
_CARD = (
    Nodes(pattern="/dev/snd/controlC*", major=116, minors=_ALL, aside=True),
    Nodes(pattern="/dev/snd/timer", major=116, minors=_ALL, aside=True),
)

KINDS: Mapping[str, tuple[Nodes, ...]] = {
    # What draws, not what shows: by cardN the screen itself is set (drm-uapi.rst).
    "gpu": (Nodes(pattern="/dev/dri/renderD*", major=226, minors=range(128, 1 << 20)),),
    "sound": (
        Nodes(pattern="/dev/snd/pcmC*D*p", major=116, minors=_ALL),
        *_CARD,
    ),
    "microphone": (
        Nodes(pattern="/dev/snd/pcmC*D*c", major=116, minors=_ALL),
        *_CARD,
    ),
    "camera": (Nodes(pattern="/dev/video*", major=81, minors=_ALL),),
    # Below 64 are the consoles.
    "serial": (
        Nodes(pattern="/dev/ttyS*", major=4, minors=range(64, 256)),
        Nodes(pattern="/dev/ttyUSB*", major=188, minors=_ALL),
        Nodes(pattern="/dev/ttyACM*", major=166, minors=_ALL),
    ),
    # Not event*, among which the keyboard is.
    "joystick": (
        Nodes(pattern="/dev/input/js*", major=13, minors=range(32), writable=False),
    ),
}
"""By the names of the language; held against the policy model's by a test."""


def wanted(kinds: Iterable[str]) -> tuple[Nodes, ...]:
    """What to look for, each once."""
    return tuple(dict.fromkeys(nodes for kind in kinds for nodes in KINDS[kind]))


def of_kind(kind: str, path: str) -> Nodes | None:
    """What a node's path, or a pattern itself, is among those of one kind."""
    for nodes in KINDS[kind]:
        if path == nodes.pattern or fnmatch.fnmatchcase(path, nodes.pattern):
            return nodes
    return None


def refuse_number(nodes: Nodes, device: int) -> str:
    """Why a node of that name and number (st_rdev) is not given; empty: it may be."""
    major, minor = os.major(device), os.minor(device)
    if major == nodes.major and minor in nodes.minors:
        return ""
    return f"it is the device {major}:{minor}, which is of no such kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is at a path, or that nothing is: then ``why`` is not empty.

    ``path`` is a node's, or the pattern that none was found by; ``device`` st_rdev.
    """

    path: str
    device: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Of one kind: ``nodes`` by path with their numbers (st_rdev), and why not more."""

    kind: str
    nodes: Mapping[str, tuple[Nodes, int]]
    why: str


def given(kinds: Iterable[str], found: Iterable[Found]) -> Iterator[Given]:
    """What each kind comes to, of what was found with the caller's rights."""
    everything = tuple(found)
    for kind in kinds:
        nodes: dict[str, tuple[Nodes, int]] = {}
        lacks: dict[str, list[str]] = {}
        missing = ""
        for one in everything:
            what = of_kind(kind, one.path)
            if what is None:
                continue
            why = one.why or refuse_number(what, one.device)
            if not why:
                nodes[one.path] = (what, one.device)
            elif one.path != what.pattern:
                lacks.setdefault(why, []).append(one.path)
            elif not what.aside:
                missing = why
        said = "; ".join(f"{', '.join(paths)}: {why}" for why, paths in lacks.items())
        if all(what.aside for what, _ in nodes.values()):
            nodes, said = {}, said or missing
        yield Given(kind=kind, nodes=nodes, why=said)


__all__ = ["KINDS", "Found", "Given", "Nodes", "given", "of_kind", "wanted"]
