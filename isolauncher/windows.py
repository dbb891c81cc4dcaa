# SPDX-License-Identifier: GPL-3.0-or-later
"""Which windows there are on an X display, and when one is mapped.

`Watch` is told of each by the server's own events, for the benchmark and the tests.
`present` lists those that are there, with the process behind each, which a window
cannot say wrongly; `Clients` tells that of one, to who asks again and again. The only
importer of python3-xlib.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import HostError

PATIENCE_S = 30

MAX_TEXT = 1024
"""Bytes of a property that are read."""

MAX_WINDOWS = 4096
"""Of a window manager's list."""


@dataclass(frozen=True, slots=True)
class Window:
    """A top-level window that has been mapped; ``at_ns`` is CLOCK_MONOTONIC."""

    number: int
    at_ns: int
    wm_class: tuple[str, str]
    title: str
    sugar_bundle: str
    sugar_activity: str


class Watch:
    """Which windows are mapped from now on; the server tells, nobody asks again."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` names display and cookie; HostError if it cannot be had."""
        self._display, self._x, error = _connected(environment)
        self._gone = (error.BadWindow, error.BadDrawable)
        root = self._display.screen().root
        root.change_attributes(event_mask=self._x.SubstructureNotifyMask)
        # Past this nothing is missed.
        self._display.sync()

    def close(self) -> None:
        self._display.close()

    def pixels(self) -> tuple[int, int, bytes]:
        """Width, height and what is on the screen, four bytes a pixel."""
        root = self._display.screen().root
        size = root.get_geometry()
        found = root.get_image(
            *(0, 0, size.width, size.height), self._x.ZPixmap, 0xFFFFFFFF
        )
        return size.width, size.height, bytes(found.data)

    def wait(
        self,
        wanted: Callable[[Window], bool] = lambda window: True,
        *,
        alive: subprocess.Popen[bytes] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Window:
        """The next window that is mapped and ``wanted``; never a menu or a tooltip.

        HostError after ``patience_s``, or as soon as ``alive`` has ended.
        """
        until = time.monotonic() + patience_s
        with ExitStack() as stack:
            fds = [self._display.fileno()]
            if alive is not None:
                pidfd = os.pidfd_open(alive.pid)
                stack.callback(os.close, pidfd)
                fds.append(pidfd)
            seen: list[Window] = []
            while True:
                while self._display.pending_events():
                    window = self._mapped(self._display.next_event())
                    if window is not None and wanted(window):
                        return window
                    seen += [window] if window is not None else []
                left = max(0.0, until - time.monotonic())
                ready, _, _ = select.select(fds, [], [], left)
                if not ready or ready == fds[1:]:
                    why = "its program has ended" if ready else f"in {patience_s} s"
                    raise HostError(
                        f"no such window, {why}; there were {seen}", code="no-window"
                    )

    def _mapped(self, event: Any) -> Window | None:
        at_ns = time.monotonic_ns()
        if event.type != self._x.MapNotify or event.override:
            return None
        window = event.window

        def text(name: str) -> str:
            return _text(self._display, self._x, window, name)

        try:
            return Window(
                number=window.id,
                at_ns=at_ns,
                wm_class=window.get_wm_class() or ("", ""),
                title=text("_NET_WM_NAME") or text("WM_NAME"),
                sugar_bundle=text("_SUGAR_BUNDLE_ID"),
                sugar_activity=text("_SUGAR_ACTIVITY_ID"),
            )
        except self._gone:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A window that is there, and what it says of itself.

    ``pid`` is of the process that the server is connected with; 0: it does not know.
    """

    number: int
    pid: int
    title: str
    sugar_bundle: str
    sugar_activity: str


def present(environment: Mapping[str, str]) -> tuple[Present, ...]:
    """The windows of programs as the window manager lists them, or all at the top.

    HostError if the display cannot be had.
    """
    display, x, error = _connected(environment)
    try:
        root = display.screen().root
        listed = _property(display, x, root, "_NET_CLIENT_LIST", 32, MAX_WINDOWS)
        if listed is not None:
            windows = [display.create_resource_object("window", int(n)) for n in listed]
        else:
            windows = root.query_tree().children
        found = []
        for window in windows:
            try:
                if listed is None and not _is_shown(x, window):
                    continue
                found.append(_described(display, x, window))
            except (error.BadWindow, error.BadDrawable):
                continue  # closed meanwhile
        return tuple(found)
    finally:
        display.close()


class Clients:
    """Which process the server is connected with for a window; one connection, kept.

    Whoever asks often, and may not wait, is not to connect each time.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` names display and cookie; connects when it is asked first."""
        self._environment = environment
        self._connection: tuple[Any, Any] | None = None

    def process(self, number: int) -> int:
        """By the window's number; 0: the server does not know, or it is closed.

        HostError if the display cannot be had, or the connection has been lost; whoever
        asks once more has another.
        """
        if self._connection is None:
            display, _, error = _connected(self._environment)
            self._connection = display, error
        display, error = self._connection
        try:
            # What everybody is told (of the keyboard) would be kept for ever.
            for _ in range(display.pending_events()):
                display.next_event()
            return _process(display, number)
        except error.XError:
            return 0
        except (error.ConnectionClosedError, OSError) as failed:
            self._connection = None
            raise HostError(
                f"the display was lost: {failed}", code="display-not-there"
            ) from None


def _is_shown(x: Any, window: Any) -> bool:
    attributes = window.get_attributes()
    shown: bool = attributes.map_state == x.IsViewable
    return shown and not attributes.override_redirect


def _described(display: Any, x: Any, window: Any) -> Present:
    return Present(
        number=window.id,
        pid=_process(display, window.id),
        title=_text(display, x, window, "_NET_WM_NAME")
        or _text(display, x, window, "WM_NAME"),
        sugar_bundle=_text(display, x, window, "_SUGAR_BUNDLE_ID"),
        sugar_activity=_text(display, x, window, "_SUGAR_ACTIVITY_ID"),
    )


def _text(display: Any, x: Any, window: Any, name: str) -> str:
    """The beginning of a property; "" if it is none, or no text."""
    found = _property(display, x, window, name, 8, MAX_TEXT)
    return "" if found is None else bytes(found).decode("utf-8", "replace")


def _property(
    display: Any, x: Any, window: Any, name: str, bits: int, most: int
) -> Any | None:
    """Up to ``most`` items of so many ``bits``; None if there are none of that size.

    In one request: whoever has the display can write any format and any length, and
    something else between two of them.
    """
    found = window.get_property(
        *(display.intern_atom(name), x.AnyPropertyType, 0, most * bits // 32)
    )
    return None if found is None or found.format != bits else found.value


def _process(display: Any, number: int) -> int:
    """By the server's own end of the connection (X-Resource 1.2); 0: not known."""
    from Xlib.ext import res

    mask = res.LocalClientPIDMask
    if not display.has_extension("X-Resource"):
        return 0
    reply = display.res_query_client_ids([{"client": number, "mask": mask}])
    for one in reply.ids:
        if one.spec.mask == mask and one.value:
            return int(one.value[0])
    return 0


def _connected(environment: Mapping[str, str]) -> tuple[Any, Any, Any]:
    """A connection, and Xlib's modules X and error; HostError if it cannot be had."""
    try:
        from Xlib import X, display, error
    except ImportError:
        raise HostError(
            "python3-xlib, which tells of windows, is not installed",
            code="xlib-missing",
            hint="apt-get install python3-xlib",
        ) from None
    try:
        with _variable("XAUTHORITY", environment.get("XAUTHORITY")):
            return display.Display(environment.get("DISPLAY", "")), X, error
    except (error.DisplayError, error.ConnectionClosedError, OSError) as failed:
        raise HostError(f"no display: {failed}", code="display-not-there") from None


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Xlib looks for the cookie where this process's own environment says."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        elif value is not None:
            del os.environ[name]


__all__ = ["Clients", "Present", "Watch", "Window", "present"]
