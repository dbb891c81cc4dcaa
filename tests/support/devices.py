# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices for a machine that has none: nodes of memory devices that stand for others.

`stand_ins` makes a directory in /dev and says which kinds its nodes are of; a daemon
that is to know them is started by devices_daemon.py. The road is the product's own:
only the table of names and numbers is another.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isolauncher import devices

ZERO, FULL, URANDOM = 5, 7, 9
"""Minor numbers of 1, the memory devices (devices.txt)."""
NULL = 3


@dataclass(frozen=True)
class StandIns:
    """``top`` is the directory, such as /dev/isolauncher-7; named so inside as well."""

    top: Path

    @property
    def kinds(self) -> Mapping[str, tuple[devices.Nodes, ...]]:
        """As `devices.KINDS` is, for nodes of this directory."""

        def nodes(name: str, minor: int, **more: bool) -> devices.Nodes:
            pattern = f"{self.top}/{name}"
            minors = range(minor, minor + 1)
            return devices.Nodes(pattern=pattern, major=1, minors=minors, **more)

        control = nodes("snd/controlC*", FULL, aside=True)
        return {
            "sound": (nodes("snd/pcmC*D*p", ZERO), control),
            "microphone": (nodes("snd/pcmC*D*c", URANDOM), control),
            "camera": (nodes("video*", URANDOM),),
            "joystick": (nodes("input/js*", ZERO, writable=False),),
            "gpu": (nodes("dri/renderD*", ZERO),),
            "serial": (nodes("ttyS*", ZERO),),
        }

    def path(self, name: str) -> str:
        return f"{self.top}/{name}"

    def make(self, name: str, minor: int, mode: int = 0o666, major: int = 1) -> str:
        """A node; its directory too."""
        path = self.top / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
        os.chmod(path, mode)
        return str(path)

    def make_card(self, mode: int = 0o666) -> None:
        """What a machine with one sound card has, and the nodes beside it."""
        self.make("snd/controlC0", FULL, mode)
        self.make("snd/pcmC0D0p", ZERO, mode)
        self.make("snd/pcmC0D0c", URANDOM, mode)
        self.make("snd/seq", ZERO, mode)
        self.make("snd/hwC0D0", ZERO, mode)

    def clear(self) -> None:
        """Nothing is left in it."""
        for path in self.top.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def stand_ins() -> Iterator[StandIns]:
    """In the machine's own /dev: an activity has nothing of it but what it is given."""
    top = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/dev"))
    top.chmod(0o755)
    try:
        yield StandIns(top)
    finally:
        shutil.rmtree(top)


def refuse_nodes() -> str | None:
    """Why no nodes can be made on this machine, or opened; None: they can."""
    try:
        with stand_ins() as made:
            os.close(os.open(made.make("zero", ZERO), os.O_RDWR))
    except OSError as why:
        return f"no device node can be made and opened in /dev: {why}"
    return None
