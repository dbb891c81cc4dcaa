# SPDX-License-Identifier: GPL-3.0-or-later
"""GDK and GTK are initialised again, with the child's display and environment.

Hazards: H4. PyGObject's overrides initialise both libraries when they are imported.
The zygote had a stand-in for that (`quiet`), so that for the C libraries it has not
happened yet: display, settings, theme, locale, program class and ``argv`` are as in a
cold start. It is for the import alone, however long a child waits before: it makes
directories and looks for displays, which a program may have changed by then.

In a stem that was warmed (`warm`) the libraries have been initialised before there was
a request, by `initialise`. Nothing of that can be undone or done again, so it counts
only for a start that would have done the very same: `apply` compares, and sends any
other to a fresh interpreter. What the import does then, besides what is done already,
is in ``RENEW``: the locale, which each hand-over puts back, and the accessibility
bridge, which would have asked for a bus that was not there yet.
"""

from __future__ import annotations

import _locale
import contextlib
import ctypes
import os
import select
import site
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isolauncher.zygote.handover import Fresh, Start, World
from isolauncher.zygote.handover.glib import look_up

LATER = frozenset(
    {
        *("SUGAR_BUNDLE_PATH", "SUGAR_BUNDLE_ID", "SUGAR_ACTIVITY_ROOT"),
        *("SUGAR_LOCALEDIR", "PATH", "PWD", "TMPDIR"),
        *("GST_REGISTRY", "MPLCONFIGDIR"),
    }
)
"""Variables that only a request brings, and that GDK and GTK do not read when they are
initialised; a test compares what a warmed program sees of each."""

WORDS = frozenset({"-b", "-a", "-o", "-u", "-s", "-i"}) | frozenset(
    f"--{word}"
    for word in "bundle-id activity-id object-id uri single-process invited".split()
)
"""Options of sugar-activity3: any other may be one of GTK's, which it would have read
at its first initialisation, and taken out of ``argv``."""

_MOST_EVENTS = 1000


def _call(library: str, function: str, *arguments: object) -> int | None:
    """Of a library that is there; its functions take and return pointers or ints."""
    known = getattr(ctypes.CDLL(library), function)
    known.restype = ctypes.c_void_p
    found: int | None = known(*arguments)
    return found


_GLIB, _GTK = "libglib-2.0.so.0", "libgtk-3.so.0"
_BRIDGE = "libatk-bridge-2.0.so.0"


_FOUND_ONCE = (
    *("/etc/fonts", "/etc/fonts/conf.d", "/etc/fonts/local.conf"),
    *("/usr/share/fonts", "/usr/local/share/fonts", "/var/cache/fontconfig"),
    *("/etc/gtk-3.0/settings.ini", "/usr/share/gtk-3.0/settings.ini"),
    *("/usr/share/themes", "/usr/share/icons"),
    f"/usr/lib/{sys.implementation._multiarch}/gio/modules/giomodule.cache",
    f"/usr/lib/{sys.implementation._multiarch}/gdk-pixbuf-2.0/2.10.0/loaders.cache",
    f"/usr/lib/{sys.implementation._multiarch}/gtk-3.0/3.0.0/immodules.cache",
)
"""What GTK, Pango and fontconfig look at once in a process, besides the home's files. A
package that brings another font or loader changes one of these. Icons and types of
files they look for again by themselves."""


@dataclass(frozen=True, slots=True)
class _Early:
    """What it was initialised for: the program, its environment; and the display.

    ``stamps``: of what was read for it.
    """

    program: str
    environment: Mapping[str, str]
    display: int
    stamps: Mapping[str, object]


_early: list[_Early] = []


def initialise(start: Start, world: World) -> bool:
    """Do now what the imports of GDK and GTK will, for a program like ``start``.

    Whether there is a display; without one nothing counts as done. Call it with what is
    shelved at hand (`shelf.lent`).
    """
    was = os.environ.get("NO_AT_BRIDGE")
    before, stamps = set(_sockets()), _stamps((*_FOUND_ONCE, *_themes()))
    # Else it would ask for a bus that is not there yet, and never again.
    os.putenv("NO_AT_BRIDGE", "1")
    try:
        for name in ("gi.overrides.Gdk", "gi.overrides.Gtk"):
            overrides: Any = world.shelf[name]
            library = getattr(overrides, name.rpartition(".")[2])
            there, _ = library.init_check([start.program])
    finally:
        if was is None:
            os.unsetenv("NO_AT_BRIDGE")
        else:
            os.putenv("NO_AT_BRIDGE", was)
        # GLib knows the program's name from there, and else would not yet.
        _call(_GLIB, "g_set_prgname", None)
    opened = [fd for fd in _sockets() if fd not in before]
    if not there or len(opened) != 1:
        return False
    _early[:] = [_Early(start.program, dict(start.environment), opened[0], stamps)]
    return True


def _themes() -> Iterator[str]:
    for top in ("/usr/share/themes", "/usr/local/share/themes"):
        with contextlib.suppress(OSError):
            for name in os.listdir(top):
                yield f"{top}/{name}/gtk-3.0"


def _stamps(paths: Iterable[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in paths:
        found[path] = None
        with contextlib.suppress(OSError):
            seen = os.stat(path)
            found[path] = seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns
    return found


def _sockets() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(int(name))
    return found


def settle(world: World) -> World:
    for name, namespace in (("gi.overrides.Gdk", "Gdk"), ("gi.overrides.Gtk", "Gtk")):
        overrides = sys.modules.get(name)
        if overrides is not None:
            look_up(getattr(overrides, namespace).init_check)
    return world


def apply(start: Start, world: World) -> None:
    """If it was initialised early: whether for this program, and what is new since.

    Else nothing: it depends on the moment of the import, see ``RENEW``.
    """
    for early in _early:
        why = differs(early.program, early.environment, start)
        if not why and _is_closed(early.display):
            why = "the display it was prepared with has gone"
        changed = [p for p, s in _stamps(early.stamps).items() if s != early.stamps[p]]
        if not why and changed:
            why = f"since it was prepared {changed[0]} has changed"
        if not why and site.ENABLE_USER_SITE and os.path.isdir(str(site.USER_SITE)):
            why = f"it was prepared for nobody who has {site.USER_SITE}"
        if why:
            raise Fresh(why)
        _take_events()


again = apply


def differs(program: str, environment: Mapping[str, str], start: Start) -> str:
    """Why what was initialised for these is no use for ``start``; empty: it is."""
    if (start.kind, start.program) != ("script", program):
        return f"it was prepared for {program}"
    strange = [w for w in start.arguments if w.startswith("-") and w not in WORDS]
    if strange:
        return f"it was prepared for a program without the option {strange[0]}"
    now = start.environment
    names = {n for n in {**environment, **now} if environment.get(n) != now.get(n)}
    if names - LATER:
        return f"it was prepared with another {', '.join(sorted(names - LATER))}"
    return ""


def _is_closed(display: int) -> bool:
    poll = select.poll()
    poll.register(display, select.POLLRDHUP)
    return bool(poll.poll(0))


def _take_events() -> None:
    """What the display has told meanwhile, such as another size of the screen.

    By C, since no module of GTK's is there. No source is the program's yet.
    """
    for _ in range(_MOST_EVENTS):
        if not _call(_GTK, "gtk_events_pending"):
            break
        _call(_GTK, "gtk_main_iteration_do", 0)


# As the last lines of gi/overrides/Gdk.py and Gtk.py.


def _gdk(overrides: Any) -> None:
    if _early and not _call(_GLIB, "g_get_prgname"):
        name = os.path.basename(sys.argv[0])
        _call(_GLIB, "g_set_prgname", os.fsencode(name))
    overrides.initialized, overrides.argv = overrides.Gdk.init_check(sys.argv)


def _gtk(overrides: Any) -> None:
    if _early:
        _locale.setlocale(_locale.LC_ALL, "")
        # By itself it looks whether the environment forbids it.
        _call(_BRIDGE, "atk_bridge_adaptor_init", None, None)
    overrides.initialized, overrides.argv = overrides.Gtk.init_check(sys.argv)
    sys.argv = list(overrides.argv)


RENEW: dict[str, Callable[[Any], None]] = {
    "gi.overrides.Gdk": _gdk,
    "gi.overrides.Gtk": _gtk,
}
