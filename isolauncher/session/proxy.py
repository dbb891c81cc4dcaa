# SPDX-License-Identifier: GPL-3.0-or-later
"""xdg-dbus-proxy, the filter that stands between an activity and a bus of the person's.

Here are its rules, made of what a policy grants, and its start. It checks every message
that the activity sends; who connects to it is the relay alone (relay.py).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..errors import HostError
from ..host import BUS_FILTER as PROGRAM

_REGISTRY = "org.a11y.atspi.Registry"
_ACCESSIBILITY = (
    f"{_REGISTRY}=org.a11y.atspi.Socket.Embed@/org/a11y/atspi/accessible/root",
    f"{_REGISTRY}=org.a11y.atspi.Socket.Unembed@/org/a11y/atspi/accessible/root",
    f"{_REGISTRY}=org.a11y.atspi.Registry.GetRegisteredEvents@/org/a11y/atspi/registry",
    *(
        f"{_REGISTRY}=org.a11y.atspi.DeviceEventController.{method}"
        "@/org/a11y/atspi/registry/deviceeventcontroller"
        for method in (
            "GetKeystrokeListeners",
            "GetDeviceEventListeners",
            "NotifyListenersSync",
            "NotifyListenersAsync",
        )
    ),
)
"""What a toolkit asks of the registry to be read aloud; nothing that reads others."""

_IBUS, _FCITX = "org.freedesktop.portal.IBus", "org.freedesktop.portal.Fcitx"
_INPUT_METHODS = (
    f"{_IBUS}=org.freedesktop.IBus.Portal.*@/org/freedesktop/IBus",
    f"{_IBUS}=org.freedesktop.IBus.InputContext.*@/org/freedesktop/IBus/*",
    f"{_IBUS}=org.freedesktop.IBus.Service.Destroy@/org/freedesktop/IBus/*",
    f"{_FCITX}=org.fcitx.Fcitx.InputMethod1.*@/org/freedesktop/portal/inputmethod",
    f"{_FCITX}=org.fcitx.Fcitx.InputContext1.*@/org/freedesktop/portal/inputcontext/*",
)
"""What the two input methods offer to programs in sandboxes. By interface and object:
the same connections have names by which they are configured."""


def session_rules(
    *,
    call: Sequence[str],
    own: Sequence[str],
    activity_id: str,
    input_method: bool = False,
) -> tuple[str, ...]:
    """Options for the session bus: ``call`` and ``own`` as a policy has them."""
    return (
        *(f"--call={rule}" for rule in call),
        *(f"--own={name.replace('{activity-id}', activity_id)}" for name in own),
        *(f"--call={rule}" for rule in _INPUT_METHODS if input_method),
    )


def accessibility_rules() -> tuple[str, ...]:
    """Options for the accessibility bus.

    It has names for no program but the registry: what is told of windows goes by
    unique names, hence ``--sloppy-names``.
    """
    return (
        "--sloppy-names",
        *(f"--call={rule}" for rule in _ACCESSIBILITY),
        f"--broadcast={_REGISTRY}=org.a11y.atspi.Registry.*@/org/a11y/atspi/registry",
    )


def refuse_missing() -> None:
    if not os.access(PROGRAM, os.X_OK):
        raise HostError(
            f"there is no {PROGRAM}, the filter of the session bus",
            code="bus-proxy-missing",
            hint="apt-get install xdg-dbus-proxy",
        )


class Proxy:
    """One process that filters one or more buses for as long as this object is kept.

    It is there before it is told which: most of its start is its libraries'. It ends
    when ``fd``, whose other end it has, is closed, by whatever ends us.
    """

    def __init__(self) -> None:
        self.is_ready = False
        self._stamp = _stamp()
        self.fd, end = os.pipe2(os.O_CLOEXEC)
        told, self._words = os.pipe2(os.O_CLOEXEC)
        try:
            self.process = subprocess.Popen(
                [PROGRAM, f"--fd={end}", f"--args={told}"],
                pass_fds=(end, told),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
            )
        except OSError as error:
            os.close(self.fd)
            os.close(self._words)
            raise HostError(
                f"the filter of the session bus cannot be started: {error.strerror}",
                code="bus-proxy-failed",
            ) from None
        finally:
            os.close(end)
            os.close(told)

    def is_fit(self) -> bool:
        """Whether it waits to be told, and is still what is installed."""
        return self.process.poll() is None and self._stamp == _stamp()

    def filter(self, buses: Sequence[tuple[str, str, Sequence[str]]]) -> None:
        """``buses``: address, path of the socket to be made, and rules, of each."""
        words = "".join(f"{word}\0" for word in _words(buses))
        with suppress(BrokenPipeError):  # it has ended, which `wait` tells
            with open(self._words, "wb", buffering=0) as pipe:
                pipe.write(os.fsencode(words))
        self._words = -1

    def wait(self) -> None:
        """Until its sockets are there; HostError if it has ended instead."""
        if not os.read(self.fd, 1):
            raise HostError(
                "the filter of the session bus did not start",
                code="bus-proxy-failed",
                hint="is DBUS_SESSION_BUS_ADDRESS the address of a bus?",
            )
        self.is_ready = True

    def close(self) -> None:
        if self._words >= 0:
            self.process.kill()  # else it says that it was told nothing
            os.close(self._words)
        os.close(self.fd)
        self.process.wait()


def prepare() -> None:
    """Have one wait, for `taken`."""
    global _ahead
    _ahead = Proxy()


def taken() -> Proxy:
    """The one that waits, if it is fit, or another."""
    global _ahead
    one, _ahead = _ahead, None
    if one is not None and not one.is_fit():
        one.close()
        one = None
    return one or Proxy()


_ahead: Proxy | None = None


def _stamp() -> tuple[int, ...]:
    try:
        status = os.stat(PROGRAM)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def _words(buses: Sequence[tuple[str, str, Sequence[str]]]) -> Iterator[str]:
    for address, path, rules in buses:
        yield from (address, path, "--filter", *rules)
