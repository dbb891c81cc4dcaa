# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stem that lives in a person's session does of a start before it is asked for.

Half of the time from a request to an activity's window is what GTK and Sugar's toolkit
do in every process that has a display for the first time: connect, read the settings,
parse a theme, find fonts, set up the class of each kind of widget. None of it depends
on which activity it will be. So a stem that is sealed, has handed over for a program
that is not there yet, and has the display of its session, does it while it waits: it
draws what most activities have, where nobody sees it, and takes it all away again.

Only code of the system's runs here, that the zygote has preloaded. What a program could
see of it is put back, or was not touched: modules are lent by the shelf and nothing is
renewed for them, Sugar's caches are others meanwhile, no setting is changed, nothing
asks a bus, no text is entered (an input method would be asked for). `handover.gtk` has
what cannot be put back, and for which programs it is what a cold start would have done.
What was prepared is proved before it counts (`_prove`).

Left differing: docs/preload.md, "A stem that waits in a session".
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from isolauncher.errors import StepError
from isolauncher.zygote.elsewhere import Elsewhere, undo
from isolauncher.zygote.handover import Start, World, gtk, pictures, shelf
from isolauncher.zygote.noting import globals_of

PROGRAM = "/usr/bin/sugar-activity3"
"""What runs in a warmed stem; nothing else would import GTK before any other code."""

PATIENCE_S = 5
"""After which a stem that is being warmed ends: a display need not answer."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:()"
_ICON = "/usr/share/icons/sugar/scalable/actions/edit-copy.svg"
_TURNS = 500
_THREADS_S = 1.0
_LETTERS_S = 1.0
"""How long icons are drawn: a slow machine has some of them."""
_PIECES, _PIECE, _STOPPER = 16, 120 << 10, 64
"""Bytes; Log has 1.9 MB more by its window, and others more."""
_WATCHED = ("sugar3", "gettext", "locale", "logging", "optparse")
_KINDS = ("socket:", "anon_inode:[eventfd]")


def warm(start: Start, world: World, until: int = -1) -> str:
    """Why nothing was prepared, or not all; empty if it was.

    After a `handover.run` with this ``start``, in a child that has one thread. No part
    begins once the descriptor ``until`` is readable. StepError: it cannot become
    a cold start's twin any more, and has to end. Where a display does not answer it
    ends by SIGALRM after `PATIENCE_S`.
    """
    shelf.look_ahead()
    if not _has_display(start):
        return "no display"
    before = set(os.listdir("/proc/self/fd"))
    signal.alarm(PATIENCE_S)
    with _unheard() as said:
        with shelf.lent():
            lacks = _all(start, world, until)
            imported = sys.modules.keys() - _names(world)
        ctypes.CDLL("libglib-2.0.so.0").g_thread_pool_stop_unused_threads()
        gc.collect()
        _reserve()
        gc.freeze()
    signal.alarm(0)
    _prove(before, said, imported)
    return lacks


def _reserve() -> None:
    """A hole of malloc(3)'s that the program will fill by its window, copied ahead.

    Not at the heap's end, where free(3) would give it back; of pieces that are not
    mapped for themselves.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    pieces = [libc.malloc(_PIECE) for _ in range(_PIECES)]
    libc.malloc(_STOPPER)
    for piece in pieces:
        if piece:
            ctypes.memset(piece, 0, _PIECE)
        libc.free(piece)


def _has_display(start: Start) -> bool:
    number = start.environment.get("DISPLAY", "").partition(".")[0]
    # One of this machine's, which is where a session's display is attached.
    return number.startswith(":") and os.path.exists(f"/tmp/.X11-unix/X{number[1:]}")  # noqa: S108


def _names(world: World) -> set[str]:
    return {*world.shelf, *_modules_before}


_modules_before: set[str] = set()


def _all(start: Start, world: World, until: int) -> str:
    """Each part, in turn; what it lacks."""
    _modules_before.clear()
    _modules_before.update(sys.modules)
    if not gtk.initialise(start, world):
        return "no display"

    def letters(world: World) -> None:
        """The first text in a font takes 1 to 10 ms, any other 0.3."""
        end = time.monotonic() + _LETTERS_S
        pictures.draw_lettered(
            world, lambda: _is_asked_for(until) or time.monotonic() > end
        )

    for part in (_settings, _widgets, _toplevel, letters):
        if _is_asked_for(until):
            return "it was asked for"
        try:
            with _put_back(world):
                try:
                    part(world)
                finally:
                    _clear_away(world)
        except Exception as error:
            return f"{part.__name__.strip('_')}: {type(error).__name__}: {error}"
    return ""


def _is_asked_for(until: int) -> bool:
    poll = select.poll()
    if until >= 0:
        poll.register(until, select.POLLIN)
    return bool(poll.poll(0))


def _of(name: str, world: World) -> Any:
    return world.shelf[name]


def _settings(world: World) -> None:
    """The theme that GTK has before anybody chooses another, and the icons' index."""
    repository = _of("gi.repository.Gtk", world)
    repository.Settings.get_default()
    repository.IconTheme.get_default().has_icon("edit-copy")


def _widgets(world: World) -> None:
    """A tool bar as activities have it, drawn once."""
    gtk3 = _of("gi.repository.Gtk", world)
    bars = _of("sugar3.graphics.toolbarbox", world)
    window = gtk3.OffscreenWindow()
    window.set_default_size(1200, 900)
    box = gtk3.VBox()
    window.add(box)
    bar = bars.ToolbarBox()
    for item in _items(gtk3, bars, world):
        bar.toolbar.insert(item, -1)
    box.pack_start(bar, False, True, 0)
    text = gtk3.Label()
    style = _of("sugar3.graphics.style", world)
    text.set_markup(
        "".join(
            f'<span font="{face} {style.FONT_SIZE:g}">{_LETTERS} <b>{_LETTERS}</b> '
            f"<i>{_LETTERS} <b>{_LETTERS}</b></i></span>"
            for face in (style.FONT_FACE, "Monospace")
        )
    )
    for widget in (gtk3.Button(label="7"), text):
        box.pack_start(widget, False, True, 0)
    book = gtk3.Notebook()
    for child in (gtk3.EventBox(), _rows(gtk3)):
        scrolled = gtk3.ScrolledWindow()
        scrolled.add(child)
        book.append_page(scrolled, gtk3.Label(label="x"))
    box.pack_start(book, True, True, 0)
    window.show_all()
    _run(gtk3)
    measured = gtk3.VBox()
    for made in _unseen(gtk3, world):
        measured.pack_start(made, False, True, 0)
    measured.show_all()
    gtk3.Window().add(measured)
    measured.get_preferred_width()
    measured.get_preferred_height()


def _rows(gtk3: Any) -> Any:
    rows = gtk3.TreeView(model=gtk3.ListStore(str))
    rows.get_model().append(["x"])
    rows.append_column(gtk3.TreeViewColumn("x", gtk3.CellRendererText(), text=0))
    return rows


def _unseen(gtk3: Any, world: World) -> Iterator[Any]:
    """Where text is entered: drawn, they would look for an input method."""
    yield gtk3.TextView()
    yield _of("sugar3.graphics.alert", world).Alert()
    yield gtk3.ComboBox()


def _toplevel(world: World) -> None:
    """A window of an activity's that the display knows, and never shows.

    What it is told about one is asked of it by names, for which it has numbers.
    """
    windows = _of("sugar3.graphics.window", world)
    window = windows.Window()
    window.set_title("x")
    window.set_canvas(_of("gi.repository.Gtk", world).VBox())
    window.realize()
    hints, xid = _of("gi.repository.SugarExt", world), window.get_window().get_xid()
    hints.wm_set_bundle_id(xid, "x")
    hints.wm_set_activity_id(xid, "x")
    keys = _of("gi.repository.Gdk", world).Keymap
    keys.get_for_display(window.get_display()).get_modifier_state()


def _items(gtk3: Any, bars: Any, world: World) -> Iterator[Any]:
    icon = _of("sugar3.graphics.icon", world)
    style = _of("sugar3.graphics.style", world)
    colour = _of("sugar3.graphics.xocolor", world).XoColor("#000000,#FFFFFF")
    buttons = (
        _of("sugar3.graphics.toolbutton", world).ToolButton,
        _of("sugar3.graphics.toggletoolbutton", world).ToggleToolButton,
        _of("sugar3.graphics.radiotoolbutton", world).RadioToolButton,
    )

    def picture() -> Any:
        return icon.Icon(
            file=_ICON, xo_color=colour, pixel_size=style.STANDARD_ICON_SIZE
        )

    for kind in buttons:
        button = kind()
        button.set_icon_widget(picture())
        button.set_tooltip("x")
        button.props.accelerator = "<Ctrl>Q"
        yield button
    menu = _of("sugar3.graphics.menuitem", world).MenuItem("x")
    button.get_palette().menu.append(menu)
    page = gtk3.Toolbar()
    page.insert(buttons[0](), -1)
    expands = bars.ToolbarButton(page=page)
    expands.set_icon_widget(picture())
    yield expands
    yield gtk3.SeparatorToolItem()


def _run(gtk3: Any) -> None:
    for _ in range(_TURNS):
        if not gtk3.events_pending():
            break
        gtk3.main_iteration_do(False)


def _clear_away(world: World) -> None:
    gtk3 = _of("gi.repository.Gtk", world)
    for window in gtk3.Window.list_toplevels():
        window.destroy()
    _run(gtk3)
    gc.collect()
    _run(gtk3)


@contextmanager
def _put_back(world: World) -> Iterator[None]:
    """What the toolkit keeps in its modules and classes is as it was, afterwards."""
    overrides = _of("gi.overrides.Gtk", world)
    icon = _of("sugar3.graphics.icon", world)
    lru, loader = _of("sugar3.util", world).LRU, icon._SVGLoader
    watch = Elsewhere()
    watch.sharpen(ctypes.c_uint64.from_address)
    for name in (n for n in world.shelf if n.partition(".")[0] in _WATCHED):
        watch.hold(name, globals_of(_of(name, world)))
    icon._IconBuffer._surface_cache, icon._IconBuffer._loader = lru(100), loader()
    # Else PyGObject refuses to make a window.
    was, overrides.initialized = overrides.initialized, True
    known = [(names, set(names)) for names in _namespaces(world)]
    try:
        with _logged_nowhere(world):
            yield
    finally:
        overrides.initialized = was
        # It counts what others have done.
        watch.look("isolauncher")
        for change in reversed(watch.changes):
            undo(change)
        for names, before in known:
            for name in names.keys() - before:
                # What it stands for is known to GObject, and made only once.
                del names[name]


def _namespaces(world: World) -> Iterator[dict[str, Any]]:
    """Of typelibs, where PyGObject puts a name that is asked for the first time."""
    modules: dict[str, Any] = _of("gi.module", world)._introspection_modules
    for module in modules.values():
        yield module.__dict__


@contextmanager
def _logged_nowhere(world: World) -> Iterator[None]:
    """Else the first message would give the root logger a handler."""
    logging = _of("logging", world)
    logging.root.handlers.append(logging.NullHandler())
    try:
        yield
    finally:
        logging.root.handlers.clear()
        logging.root._cache.clear()


@contextmanager
def _unheard() -> Iterator[Callable[[], bytes]]:
    """Descriptors 1 and 2 lead to a file in memory, whose content can be asked for."""
    file = os.memfd_create("isolauncher-warm", os.MFD_CLOEXEC)
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(file, number)
    heard = [b""]
    try:
        yield lambda: heard[0]
    finally:
        for number, own in zip((1, 2), kept, strict=True):
            os.dup2(own, number)
            os.close(own)
        heard[0] = os.pread(file, 4096, 0)
        os.close(file)


def _threads() -> Iterator[str]:
    for number in os.listdir("/proc/self/task"):
        with suppress(OSError), open(f"/proc/self/task/{number}/comm") as file:
            yield file.read().strip()


def _prove(before: set[str], said: Callable[[], bytes], imported: set[str]) -> None:
    faults = []
    if said():
        faults.append(f"it said {said().decode(errors='replace').strip()!a:.300}")
    if imported:
        faults.append(f"it imported {', '.join(sorted(imported))}")
    until = time.monotonic() + _THREADS_S
    while (tasks := len(os.listdir("/proc/self/task"))) > 1:
        if time.monotonic() > until:
            names = sorted(_threads())
            faults.append(f"it has {tasks} threads: {', '.join(names)}")
            break
        time.sleep(0.001)
    for name in set(os.listdir("/proc/self/fd")) - before:
        try:
            kind = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # of the listing itself
        if not kind.startswith(_KINDS):
            faults.append(f"it has {kind} open")
    if faults:
        raise StepError(
            f"the stem that was warmed is no cold start's twin: {'; '.join(faults)}",
            step="warm",
            code="warm-spoilt",
        )
