# SPDX-License-Identifier: GPL-3.0-or-later
"""What every contender runs: a fixed list of imports, and then one byte on stdout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..zygote import sets

MODULES = (
    "argparse",
    "asyncio",
    "collections",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "email",
    "hashlib",
    "http.client",
    "json",
    "logging",
    "pathlib",
    "random",
    "re",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib.request",
)

_GTK3 = (
    "json",
    "logging",
    "cairo",
    "gi",
    "gi.repository.GLib",
    "gi.repository.GObject",
    "gi.repository.Gio",
    "gi.repository.GdkPixbuf",
    "gi.repository.Pango",
    "gi.repository.PangoCairo",
    "gi.repository.Gdk",
    "gi.repository.Gtk",
    "gi.repository.Rsvg",
    "dbus",
    "dbus.mainloop.glib",
)


_SAID = re.compile(rb"x(\d+) (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the script wrote, all of it at once: nanoseconds of CLOCK_MONOTONIC.

    When its first line ran and when it wrote, as it read the clock itself. When whoever
    is told of the byte gets a processor is nothing that a launch could do about: the
    kernel may leave him behind the script, which goes on to its end.
    """

    begun: int
    written: int

    @classmethod
    def read(cls, data: bytes) -> Said | None:
        """None if it is not the script's."""
        words = _SAID.fullmatch(data)
        return cls(begun=int(words[1]), written=int(words[2])) if words else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """A list and the preload set that has it; ``policy`` is `default` but for the set.

    ``policy`` None: `default` itself, whose set it is.
    """

    name: str
    modules: tuple[str, ...]
    preload: str
    policy: str | None

    def script(self, *, waits: bool = False) -> str:
        """``waits``: until nobody holds the other end of its stdin.

        One that does not wait adds to its byte when its own first line ran, and when it
        wrote this: nanoseconds of CLOCK_MONOTONIC (see `Said`). `time` is in every
        interpreter from the start.
        """
        if waits:
            return f'import os\n{self.statements()}os.write(1, b"x")\nos.read(0, 1)\n'
        first = "import os, time\nbegun = time.monotonic_ns()\n"
        last = 'os.write(1, b"x%d %d" % (begun, time.monotonic_ns()))'
        return f"{first}{self.statements()}{last}\n"

    def statements(self) -> str:
        """The imports alone."""
        lines = _versions(self.modules)
        if self.modules:
            lines.append(f"import {', '.join(self.modules)}")
        return "".join(f"{line}\n" for line in lines)

    def policy_text(self) -> str:
        return (
            'version = 1\nextends = "default"\n'
            'description = "As default, with another set."\n\n'
            f'[preload]\nset = "{self.preload}"\n'
        )


def _versions(modules: tuple[str, ...]) -> list[str]:
    names = [m.rpartition(".")[2] for m in modules if m.startswith("gi.repository.")]
    wanted = {name: sets.VERSIONS[name] for name in names if name in sets.VERSIONS}
    if not wanted:
        return []
    return ["import gi", f"gi.require_versions({wanted!r})"]


SUGAR3 = Imports(
    name="sugar3",
    modules=tuple(m for m in sets.SETS["sugar3"] if sets.library(m) is None),
    preload="sugar3",
    policy="bench-sugar3",
)
"""The whole set, whose memory is compared."""

LISTS: Mapping[str, Imports] = {
    i.name: i
    for i in (
        Imports(name="python", modules=MODULES, preload="python", policy=None),
        Imports(name="gtk3", modules=_GTK3, preload="gtk3", policy="bench-gtk3"),
        Imports(name="nothing", modules=(), preload="python", policy=None),
    )
}
USUAL = ("python", "gtk3")


def write(directory: Path, imports: Imports, *, waits: bool = False) -> Path:
    """The script as a file that everybody may read."""
    path = directory / f"{imports.name}{'-waits' if waits else ''}.py"
    path.write_text(imports.script(waits=waits))
    path.chmod(0o644)
    return path


def write_policies(directory: Path) -> None:
    for imports in (*LISTS.values(), SUGAR3):
        if imports.policy is not None:
            (directory / f"{imports.policy}.toml").write_text(imports.policy_text())
