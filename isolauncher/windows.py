# SPDX-License-Identifier: GPL-3.0-or-later
"""Which windows are mapped on an X display, told by the server's own events.

For the benchmark and the tests. The only importer of python3-xlib, which nothing else
needs.
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
        try:
            from Xlib import X, display, error
        except ImportError:
            raise HostError(
                "python3-xlib, which tells of windows, is not installed",
                code="xlib-missing",
                hint="apt-get install python3-xlib",
            ) from None
        self._x, self._gone = X, (error.BadWindow, error.BadDrawable)
        try:
            with _variable("XAUTHORITY", environment.get("XAUTHORITY")):
                self._display = display.Display(environment.get("DISPLAY", ""))
        except (error.DisplayError, OSError) as failed:
            raise HostError(f"no display: {failed}", code="display-not-there") from None
        root = self._display.screen().root
        root.change_attributes(event_mask=X.SubstructureNotifyMask)
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
            atom = self._display.intern_atom(name)
            found = window.get_full_property(atom, self._x.AnyPropertyType)
            return found.value.decode("utf-8", "replace") if found else ""

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


__all__ = ["Watch", "Window"]
