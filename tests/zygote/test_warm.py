# SPDX-License-Identifier: GPL-3.0-or-later
"""A stem that handed over twice, and was warmed in between, is a cold start's twin."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.desktop import Desktop, desktop, missing
from support.powers import installed, need
from support.sugar import schemas

from isolauncher import twin

from . import twins
from .test_twin import ENVIRONMENTS, WITNESS, differences, flat

DESKTOP = str(Path(__file__).resolve().parent / "twin" / "desktop.py")
FIRST = {"LANG": "C.UTF-8", "HOME": "/nowhere", "GONE": "1", "PATH": "/bin"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_two_handovers_are_as_one(name: str) -> None:
    environment = {**twins.ENVIRONMENT, **ENVIRONMENTS[name]}
    first = twins.start("/usr/bin/another", "x", environment=FIRST, cwd="/tmp")
    how: dict[str, Any] = {"environment": environment, "cwd": "/usr", "stdin": b"x\r\n"}
    cold = twins.cold(WITNESS, "a", "ü", **how)
    forked = twins.forked(WITNESS, "a", "ü", first=first, **how)
    assert differences(cold.json(), forked.json()) == {}


# With a display --------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> Iterator[Desktop]:
    need(missing(), installed("sugar3.activity.activity"))
    with schemas(), desktop() as made:
        colours = ("org.sugarlabs.user", "color", "#AC32FF,#9A5200")
        made.run("gsettings", "set", *colours)
        yield made


@pytest.fixture(scope="module")
def zygote(made: Desktop) -> Iterator[twins.Zygote]:
    with twins.sugared(**made.person()) as started:
        yield started


def environment_of(made: Desktop, **more: str) -> dict[str, str]:
    return {**made.environment, "NO_AT_BRIDGE": "1", **more}


def cold(made: Desktop, *words: str, environment: dict[str, str]) -> twins.Ended:
    done = subprocess.run(
        [twins.PYTHON, *words],
        env=environment,
        cwd="/",
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=twins.PATIENCE_S,
        **made.person(),
    )
    return twins.Ended(done.returncode, done.stdout, done.stderr)


def warmed(
    zygote: twins.Zygote,
    *words: str,
    environment: dict[str, str],
    known: dict[str, str] | None = None,
    **told: Any,
) -> twins.Ended:
    """``known``: of the environment, when there was no request yet."""
    first = twins.start(words[0], environment=environment if known is None else known)
    start = twins.start(*words, environment=environment)
    asked = {"start": start, "first": first, "warm": True, **told}
    return zygote.run(asked, None)


def written(made: Desktop, name: str, source: str) -> str:
    """A program that the person can read."""
    script = made.top / name
    script.write_text(source)
    return str(script)


IMPORTS = """\
import sugar3.activity.activityinstance
from sugar3.activity import activity, widgets
from sugar3.graphics import alert, colorbutton, icon, objectchooser, palette, tray
print(sorted(k for k in vars(icon._IconBuffer)))
"""


def test_every_value_is_what_it_is_without_having_been_warmed(
    made: Desktop, zygote: twins.Zygote
) -> None:
    script = written(made, "values.py", "")
    Path(script).write_text(twin.script(IMPORTS, script))
    environment = environment_of(made)
    start = twins.start(script, environment=environment)
    plain, again = (zygote.run({"start": start}, None) for _ in range(2))
    others = [warmed(zygote, script, environment=environment) for _ in range(2)]
    states = []
    for ended in (plain, again, *others):
        assert ended.err == b""
        out, state = twin.heard(ended.out.decode())
        states.append({"out": out, **(state or {})})
    assert len(states[0]) > 100
    # Of two, for some constant may happen to be the process id of one.
    one, two = (twin.unlike(*states[:2], other) for other in states[2:])
    found = [f for f in one if f in two and not twin.is_allowed(f[0])]
    assert not found, "\n".join(map(str, found))


PLACES: dict[str, dict[str, str]] = {
    "plain": {},
    "large": {"SUGAR_SCALING": "150", "GDK_SCALE": "2"},
    "language": {"LANGUAGE": "es:de", "LC_ALL": "C.utf8"},
    "zone": {"TZ": "Asia/Kathmandu"},
    "theme": {"GTK_THEME": "HighContrast"},
    "directories": {"XDG_DATA_HOME": "/x", "XDG_CACHE_HOME": "/y"},
}
# What only the request brings, and a program could ask for.
LATER = {
    "SUGAR_BUNDLE_PATH": "/usr/share/sugar/activities/Calculate.activity",
    "SUGAR_BUNDLE_ID": "org.laptop.Calculate",
    "SUGAR_ACTIVITY_ROOT": "/tmp",
    "TMPDIR": "/var/tmp",
    "PATH": "/usr/share/sugar/activities/Calculate.activity/bin:/usr/bin:/bin",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_warmed_programs_desktop_is_a_cold_ones(
    made: Desktop, zygote: twins.Zygote, name: str
) -> None:
    known = environment_of(made, **PLACES[name])
    environment = {**known, **LATER}
    alone = cold(made, DESKTOP, environment=environment)
    other = warmed(
        zygote, DESKTOP, environment=environment, known=known, before="assert not lacks"
    )
    one, two = (flat(ended.json()) for ended in (alone, other))
    one.pop("random"), two.pop("random")
    differing = {
        n: (one.get(n), two.get(n)) for n in {**one, **two} if one.get(n) != two.get(n)
    }
    assert differing == {}
    assert other.err == alone.err


EARLY = """\
import os
from pathlib import Path

def there():
    maps = Path("/proc/self/maps").read_text()
    links = [os.readlink(f"/proc/self/fd/{n}") for n in "3456789" if
        os.path.exists(f"/proc/self/fd/{n}")]
    return [
        "/var/cache/fontconfig/" in maps,
        "/icon-theme.cache" in maps,
        sum(link.startswith("socket:") for link in links),
    ]

before = there()
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gtk
print(before, there()[2] - before[2], len(os.listdir("/proc/self/task")))
"""


def test_fonts_icons_and_the_display_are_there_before_the_program(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """By what is mapped and connected, not by the time that it takes."""
    script = written(made, "early.py", EARLY)
    environment = environment_of(made)
    plain = zygote.run({"start": twins.start(script, environment=environment)}, None)
    assert plain.out.decode() == "[False, False, 0] 1 1\n"
    other = warmed(zygote, script, environment=environment)
    assert other.out.decode() == "[True, True, 1] 0 1\n"


ASKED = """\
import ctypes, os, threading, gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gtk
from sugar3.graphics.window import Window

x = ctypes.CDLL("libX11.so.6")
x.XNextRequest.restype = ctypes.c_ulong
gdk = ctypes.CDLL("libgdk-3.so.0")
gdk.gdk_display_get_default.restype = gdk.gdk_x11_display_get_xdisplay.restype = \
    ctypes.c_void_p
gdk.gdk_x11_display_get_xdisplay.argtypes = x.XNextRequest.argtypes = (ctypes.c_void_p,)
display = gdk.gdk_x11_display_get_xdisplay(gdk.gdk_display_get_default())
before = x.XNextRequest(display)
window = Window()
window.realize()
print(x.XNextRequest(display) - before)
"""


def test_windows_and_fonts_are_known_before_the_program(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """By what it asks the display, which has numbers for names: fewer than cold."""
    script = written(made, "asked.py", ASKED)
    environment = environment_of(made)
    alone = cold(made, script, environment=environment)
    other = warmed(zygote, script, environment=environment, before=THERE)
    asked, again = (int(ended.out.split()[-1]) for ended in (alone, other))
    assert again <= asked - 8
    # The one of a label's, the other of an icon of Memorize's.
    assert other.out.startswith(b"True True\n")


THERE = """
assert not lacks
maps = open("/proc/self/maps").read()
print("DejaVuSansMono" in maps, "DejaVuSerif" in maps, flush=True)
"""


FAULTS = """\
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = (ctypes.c_size_t,)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(1000):
    ctypes.memset(libc.malloc(1 << 10), 1, 1 << 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_first_megabyte_is_copied_ahead(
    made: Desktop, zygote: twins.Zygote
) -> None:
    script = written(made, "faults.py", FAULTS)
    environment = environment_of(made)
    plain = zygote.run({"start": twins.start(script, environment=environment)}, None)
    other = warmed(zygote, script, environment=environment)
    assert int(plain.out) > 200
    assert int(other.out) < 100


def files_below(top: Path) -> list[str]:
    return sorted(str(path) for path in top.rglob("*"))


def test_nothing_is_written_and_nobody_is_asked(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """While it waits: no file, no bus, no window that is shown, no word."""
    from Xlib import X

    script = written(made, "nothing.py", "")
    before = files_below(made.top)
    known = {
        **environment_of(made),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={made.top}/not-yet",
        "GSETTINGS_BACKEND": "keyfile",
    }
    with made.watch() as watch:
        waits = "import os; assert not lacks; os._exit(7)"
        ended = warmed(zygote, script, environment=known, before=waits)
        told = [
            watch._display.next_event() for _ in range(watch._display.pending_events())
        ]
    assert told, "it was not warmed"
    assert X.MapNotify not in [event.type for event in told]
    assert ended == twins.Ended(7, b"", b"")
    assert files_below(made.top) == before


STATE = """\
import os
kinds = sorted(
    os.readlink(f"/proc/self/fd/{n}").partition(":")[0]
    for n in os.listdir("/proc/self/fd")
    if int(n) > 5 and os.path.exists(f"/proc/self/fd/{n}"))
print(kinds, len(os.listdir("/proc/self/task")), flush=True)
os._exit(7)
"""


def test_it_waits_with_one_thread_a_display_and_an_event_descriptor(
    made: Desktop, zygote: twins.Zygote
) -> None:
    script = written(made, "state.py", "")
    ended = warmed(zygote, script, environment=environment_of(made), before=STATE)
    assert ended.out.decode() == "['anon_inode', 'socket'] 1\n"


def test_without_a_display_it_is_a_plain_stem(
    made: Desktop, zygote: twins.Zygote
) -> None:
    script = written(
        made, "plain.py", "print(len(__import__('os').listdir('/proc/self/fd')))"
    )
    for display in ("", "elsewhere:0", ":4711"):
        environment = environment_of(made, DISPLAY=display)
        plain = zygote.run(
            {"start": twins.start(script, environment=environment)}, None
        )
        other = warmed(
            zygote,
            script,
            environment=environment,
            before="assert lacks == 'no display', lacks",
        )
        assert other == plain


OTHERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "an option of GTK's": (("-b", "org.x", "--class=x"), {}),
    "another variable": ((), {"GTK_THEME": "HighContrast"}),
    "a variable less": ((), {"LANG": ""}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_it_was_not_warmed_for_gets_a_fresh_interpreter(
    made: Desktop, zygote: twins.Zygote, name: str
) -> None:
    words, more = OTHERS[name]
    script = written(made, "other.py", "print('ran')")
    known = environment_of(made)
    ended = warmed(zygote, script, *words, environment={**known, **more}, known=known)
    assert ended.out == b""
    assert b"handover.Fresh: it was prepared " in ended.err


CHANGES = {
    "/usr/share/fonts has changed": (
        "gtk._early[0].stamps['/usr/share/fonts'] = 'older'"
    ),
    "the display it was prepared with has gone": (
        "import socket; socket.socket(fileno=gtk._early[0].display).shutdown(2)"
    ),
}


@pytest.mark.parametrize("why", CHANGES)
def test_what_has_changed_while_it_waited_is_seen(
    made: Desktop, zygote: twins.Zygote, why: str
) -> None:
    script = written(made, "changes.py", "print('ran')")
    ended = warmed(
        zygote, script, environment=environment_of(made), before=CHANGES[why]
    )
    assert ended.out == b""
    assert why.encode() in ended.err
    assert b"handover.Fresh: " in ended.err


def test_a_module_that_came_while_it_waited_is_the_programs(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """The path was listed before; a preloaded name is there now, and comes first."""
    place = made.home / "programs"
    script = place / "p.py"
    made.run("mkdir", str(place))
    made.run("/usr/bin/python3", "-c", f"open({str(script)!r}, 'w').write({OWN!r})")
    ended = warmed(
        zygote,
        str(script),
        environment=environment_of(made),
        before=f"open({str(place)!r} + '/queue.py', 'w').write('MINE = 1')",
    )
    assert (ended.out, ended.err) == (b"1\n", b"")


OWN = "import queue; print(queue.MINE)"


def test_a_stem_to_which_gtk_said_something_is_not_used(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """A program would have said it, and later."""
    script = written(made, "said.py", "print('ran')")
    environment = environment_of(made, GTK_MODULES="no-such-module")
    ended = warmed(zygote, script, environment=environment)
    assert ended.out == b""
    assert b"no-such-module" in ended.err
    assert b"[warm-spoilt]" in ended.err


BRIDGED = """\
import os, sys, time
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gtk
import dbus
from dbus.bus import BusConnection

window = Gtk.Window(title="bridged")
window.show()
bus = BusConnection(dbus.SessionBus().call_blocking(
    "org.a11y.Bus", "/org/a11y/bus", "org.a11y.Bus", "GetAddress", None, ()))
DAEMON = "org.freedesktop.DBus"
def pids():
    for name, _ in bus.call_blocking("org.a11y.atspi.Registry",
            "/org/a11y/atspi/accessible/root", "org.a11y.atspi.Accessible",
            "GetChildren", None, ()):
        yield bus.call_blocking(DAEMON, "/", DAEMON, "GetConnectionUnixProcessID",
            "s", (name,))
until = time.monotonic() + 15
while os.getpid() not in list(pids()) and time.monotonic() < until:
    Gtk.main_iteration_do(False)
print(os.getpid() in list(pids()))
"""


def test_the_accessibility_bridge_comes_up_with_the_program(
    made: Desktop, zygote: twins.Zygote
) -> None:
    """By what the registry says, which has heard of nobody while it waited."""
    script = written(made, "bridged.py", BRIDGED)
    environment = {**made.environment, "LC_ALL": "C.UTF-8"}
    alone = cold(made, script, environment=environment)
    other = warmed(zygote, script, environment=environment, before="assert not lacks")
    assert (other.out, other.err) == (alone.out, alone.err)
    assert other.out == b"True\n"


SIZE = """\
import gi
gi.require_version("Gdk", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
screen = Gdk.Screen.get_default()
print(screen.get_width(), screen.get_height(), screen.get_n_monitors())
"""


@contextmanager
def smaller(made: Desktop, width: int, height: int) -> Iterator[None]:
    """The screen has another size for that time, and no monitor."""
    from Xlib.ext import randr

    with made.watch() as watch:
        display: Any = watch._display
        root = display.screen().root
        known = randr.get_screen_resources(root)
        (crtc,) = known.crtcs
        was = display.xrandr_get_crtc_info(crtc, known.config_timestamp)

        def set_to(width: int, height: int, mode: int, outputs: list[int]) -> None:
            how = (0, 0, 0, 1, [])
            display.xrandr_set_crtc_config(crtc, known.config_timestamp, *how)
            randr.set_screen_size(root, width, height, 300, 200)
            if mode:
                how = (0, 0, mode, was.rotation, outputs)
                display.xrandr_set_crtc_config(crtc, known.config_timestamp, *how)
            display.sync()

        set_to(width, height, 0, [])
        try:
            yield
        finally:
            set_to(was.width, was.height, was.mode, list(was.outputs))


def test_a_screen_that_has_changed_while_it_waited_is_seen(
    made: Desktop, zygote: twins.Zygote
) -> None:
    script = written(made, "size.py", SIZE)
    environment = environment_of(made)
    waits, changed = made.home / "waits", made.home / "changed"
    made.run("mkfifo", str(waits), str(changed))
    before = f"open({str(waits)!r}, 'w').close(); open({str(changed)!r}).close()"
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(
            warmed, zygote, script, environment=environment, before=before
        )
        waits.open().close()
        with smaller(made, 700, 500):
            changed.open("w").close()
            other = ended.result(twins.PATIENCE_S)
            alone = cold(made, script, environment=environment)
    assert other == alone
    assert other.out.startswith(b"700 500 ")
