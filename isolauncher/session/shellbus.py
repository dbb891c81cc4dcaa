# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter in Sugar's shell says on the session bus, and hears there.

Everything is asked for and answered later: nothing here makes the shell wait. The
session's service may end at any time, and another one takes up what runs; whoever asks
in between asks again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dbus
from gi.repository import GLib

from ..errors import DaemonError, IsolauncherError, from_line
from .names import ACTIVITY, MANAGER, NAME, OBJECT_MANAGER, PATH, PROPERTIES
from .running import Running, managed

LAUNCH_S = 60
WAKE_AGAIN_S = 10

GRACE_MS = 1500
"""From SIGTERM to the end; the shell's own figure."""

ENDING_MS = 5000
"""How often what is to end is looked at again, until it has ended."""

LOOK_S, AGAIN_MS = 30, 1000
"""How long the service is asked again what runs, and how often."""

_NOBODY = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.DBus.Error.TimedOut",  # it was started, and took no name
)


class ShellBus:
    """The connection that the shell has anyway."""

    def __init__(self) -> None:
        self._bus = dbus.SessionBus()
        self._woken = 0.0
        self._ending: set[tuple[str, int]] = set()

    def listen(
        self,
        exited: Callable[[int, int, str, str], None],
        owner_changed: Callable[[str], None],
    ) -> None:
        """``exited``: status, signal, reason, id; ``owner_changed``: "" is nobody."""

        def heard(status: int, signal: int, reason: str, path: str) -> None:
            exited(status, signal, reason, str(path).rpartition("/")[2])

        self._bus.add_signal_receiver(
            heard, "Exited", ACTIVITY, NAME, path_keyword="path"
        )
        self._bus.watch_name_owner(NAME, owner_changed)

    # ---------------------------------------------------------------------- the service

    def wake(self) -> None:
        """Have the bus start the service, so that the first click need not wait."""
        now = time.monotonic()
        if self._woken and now - self._woken < WAKE_AGAIN_S:
            return
        self._woken = now
        self._bus.call_async(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "StartServiceByName",
            "su",
            (NAME, dbus.UInt32(0)),
            of_no_interest,
            logged,
        )

    def launch(
        self,
        place: str,
        *,
        options: Mapping[str, str],
        invited: bool,
        environment: Mapping[str, str],
        log: int,
        runs: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> None:
        """``log`` is the descriptor that its output goes to, and stays the caller's."""
        asked: dict[str, Any] = {
            "invited": dbus.Boolean(invited),
            "environment": dbus.Dictionary(environment, signature="ss"),
            **{name: dbus.String(value) for name, value in options.items()},
        }
        streams = {name: dbus.types.UnixFd(log) for name in ("stdout", "stderr")}
        self._bus.call_async(
            NAME,
            PATH,
            MANAGER,
            "Launch",
            "sa{sv}a{sh}",
            (
                place,
                dbus.Dictionary(asked, signature="sv"),
                dbus.Dictionary(streams, signature="sh"),
            ),
            lambda path: runs(),
            refused,
            timeout=LAUNCH_S,
        )

    def ask_pid(self, id: str, found: Callable[[int], None]) -> None:
        """If it runs."""
        self._bus.call_async(
            *(NAME, _path(id), PROPERTIES, "Get", "ss", (ACTIVITY, "Pid")),
            *(lambda pid: found(int(pid)), of_no_interest),
        )

    def ask_running(
        self,
        found: Callable[[Sequence[Running]], None],
        patience_s: float = LOOK_S,
        nobody: Callable[[], None] | None = None,
    ) -> None:
        """What runs; for so long again, while the service does not answer that.

        ``nobody``: hears if there is no service and none can be started; then it is not
        asked again.
        """
        until = time.monotonic() + patience_s

        def failed(error: Any) -> None:
            if nobody is not None and str(error.get_dbus_name()).startswith(_NOBODY):
                logged(error)
                nobody()
            elif time.monotonic() < until:
                GLib.timeout_add(AGAIN_MS, ask)
            else:
                logged(error)

        def ask() -> bool:
            self._bus.call_async(
                *(NAME, PATH, OBJECT_MANAGER, "GetManagedObjects", "", ()),
                *(lambda objects: found(managed(objects)), failed),
            )
            return False

        ask()

    def end(self, id: str, pid: int) -> bool:
        """Stop it until it has ended; who resumes an entry has its id again."""
        if (id, pid) not in self._ending:
            self._ending.add((id, pid))
            self._go_on_ending(id, pid)
        return False

    def _go_on_ending(self, id: str, pid: int) -> bool:
        def again() -> None:
            GLib.timeout_add(ENDING_MS, self._go_on_ending, id, pid)

        def found(running: Sequence[Running]) -> None:
            if not any((one.id, one.pid) == (id, pid) for one in running):
                self._ending.discard((id, pid))
                return
            self._bus.call_async(
                *(NAME, _path(id), ACTIVITY, "Stop", "u", (dbus.UInt32(GRACE_MS),)),
                *(of_no_interest, logged),
            )
            again()

        self.ask_running(found, math.inf, again)
        return False

    # ------------------------------------------------------------------------ the shell

    def tell_shell(
        self, method: str, *words: str, then: Callable[..., None] | None = None
    ) -> None:
        """Over the bus, as the toolkit does it; ``then``, whatever is answered."""
        name = "org.laptop.Shell"

        def failed(error: object) -> None:
            logged(error)
            if then is not None:
                then()

        self._bus.call_async(
            *(name, "/org/laptop/Shell", name, method, "s" * len(words), words),
            *(then or of_no_interest, failed),
        )

    def warn(self, id: str, title: str, text: str) -> None:
        """A sign in the corner; its words are in the palette of the activity's icon."""
        self._bus.call_async(
            "org.freedesktop.Notifications",
            "/org/freedesktop/Notifications",
            "org.freedesktop.Notifications",
            "Notify",
            "susssava{sv}i",
            (
                *(id, 0, "", title, text, []),
                dbus.Dictionary({"x-sugar-icon-name": "emblem-warning"}, "sv"),
                -1,
            ),
            of_no_interest,
            logged,
        )


def understood(error: Exception) -> IsolauncherError:
    """What the bus answered, as an error of ours."""
    if not isinstance(error, dbus.DBusException):
        return DaemonError(f"{type(error).__name__}: {error}", code="internal")
    name, text = str(error.get_dbus_name()), str(error.get_dbus_message())
    if name.startswith(f"{NAME}.Error."):
        return from_line(text)
    if name.startswith(_NOBODY):
        return DaemonError(
            f"isolauncher-session cannot be started: {text}", code="session-not-running"
        )
    return DaemonError(
        f"isolauncher-session did not answer: {text}", code="session-no-answer"
    )


def of_no_interest(*answer: object) -> None:
    """There is nothing to do then."""


def logged(error: object) -> None:
    logging.error("isolauncher: %s", error)


def _path(id: str) -> str:
    return f"{PATH}/Activity/{id}"


__all__ = ["ShellBus", "logged", "understood"]
