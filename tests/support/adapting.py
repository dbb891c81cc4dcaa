# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter in Sugar's shell meets, played: the bus, the shell, its windows.

The bus only remembers, to be answered by the test. `Screen` is X server, kernel and
window manager in one, and does to the shell's model what Sugar does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import dbus
import pytest

from support.glib import GLib

# isort: split
# Nobody else may be the first to import GLib.
from isolauncher import records, windows
from isolauncher.errors import HostError
from isolauncher.session import adapter, openwindows
from isolauncher.session.names import ACTIVITY, NAME

PERSON = os.getuid()
UNKNOWN = dbus.DBusException("nobody", name="org.freedesktop.DBus.Error.ServiceUnknown")
NOT_YET = dbus.DBusException("not yet", name=f"{NAME}.Error.NotKnownYet")
NO_REPLY = dbus.DBusException("gone", name="org.freedesktop.DBus.Error.NoReply")


@dataclass
class Call:
    path: str
    method: str
    words: tuple[Any, ...]
    reply: Callable[..., None]
    fail: Callable[..., None]


@dataclass
class Bus:
    """Every call, to be answered by the test."""

    calls: list[Call] = field(default_factory=list)

    def call_async(
        self,
        name: str,
        path: str,
        interface: str,
        method: str,
        signature: str,
        words: tuple[Any, ...],
        reply: Callable[..., None],
        fail: Callable[..., None],
        timeout: float = 0,
    ) -> None:
        self.calls.append(Call(path, method, words, reply, fail))

    def the(self, method: str) -> Call:
        (call,) = self.all(method)
        return call

    def all(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def take(self, method: str) -> list[Call]:
        """The same, and they are answered by whoever takes them."""
        taken = self.all(method)
        self.calls = [call for call in self.calls if call.method != method]
        return taken

    def methods(self) -> list[str]:
        return [call.method for call in self.calls]


@dataclass
class Factory:
    """The toolkit's functions that the adapter uses."""

    top: Path
    environment: dict[str, str] = field(default_factory=dict)

    def get_environment(self, bundle: Any) -> dict[str, str]:
        return self.environment

    def open_log_file(self, bundle: Any) -> tuple[str, TextIO]:
        path = self.top / f"a-{len(list(self.top.glob('a-*.log'))) + 1}.log"
        # As the toolkit opens it: without a name of its own.
        return str(path), os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY), "w")

    def get_command(self, bundle: Any, *words: Any) -> list[str]:
        return ["/bin/true", *(str(word) for word in words if word)]

    def _child_watch_cb(self, pid: int, status: int, told: Any) -> None:
        """As the toolkit's."""


@dataclass(eq=False)
class Open:
    """What the shell has an icon for: an id, and its windows, by number."""

    id: str | None
    windows: list[int] = field(default_factory=list)
    pid: int = 0
    """What its first window says."""
    status: int = 2
    stopped: int = 0

    LAUNCHING, FAILED, LAUNCHED = 0, 1, 2

    def get_activity_id(self) -> str | None:
        return self.id

    def get_xid(self) -> int | None:
        return self.windows[0] if self.windows else None

    def has_xid(self, number: int) -> bool:
        return number in self.windows

    def get_pid(self) -> int:
        return self.pid

    def get_launch_status(self) -> int:
        return self.status

    def stop(self) -> None:
        self.stopped += 1


class Shell(list[Open]):
    """The shell's model."""

    def __init__(self) -> None:
        super().__init__()
        self.connected: list[tuple[str, Callable[..., None]]] = []
        self.launchers: dict[str, Any] = {}

    def connect(self, what: str, call: Callable[..., None]) -> None:
        self.connected.append((what, call))

    def say(self, what: str, activity: Open) -> None:
        for wanted, call in self.connected:
            if wanted == what:
                call(self, activity)

    def get_launcher(self, id: str) -> Any:
        return self.launchers.get(id)

    def get_activity_by_id(self, id: str | None) -> Open | None:
        return next((one for one in self if one.id == id), None)

    def _get_activity_by_xid(self, number: int) -> Open | None:
        return next((one for one in self if one.has_xid(number)), None)

    # What happens to it.

    def launch(self, id: str) -> Open:
        """It pulses."""
        self.append(Open(id, status=Open.LAUNCHING))
        self.launchers.setdefault(id, object())
        return self[-1]

    def fail(self, activity: Open) -> None:
        activity.status = Open.FAILED
        self.say("launch-failed", activity)


@dataclass
class Process:
    """``uid`` and ``sandbox`` as `openwindows` has them; ``began``: 0 has ended."""

    uid: int
    sandbox: int | None = None
    began: int = 1


@dataclass
class Screen:
    """Also what the kernel says of processes, by pid."""

    shell: Shell
    processes: dict[int, Process] = field(default_factory=dict)
    clients: dict[int, int] = field(default_factory=dict)
    """By the number of a window the process that the server knows."""
    lost: int = 0
    """How often the connection turns out to be."""
    there: list[int] = field(default_factory=list)
    connected: list[tuple[str, Callable[..., None]]] = field(default_factory=list)

    def process(self, number: int) -> int:
        if self.lost:
            self.lost -= 1
            raise HostError("the display was lost", code="display-not-there")
        return self.clients.get(number, 0)

    def get_windows(self) -> list[Any]:
        return [_window(number) for number in self.there]

    def connect(self, what: str, call: Callable[..., None]) -> None:
        self.connected.append((what, call))

    def say(self, what: str, number: int) -> None:
        for wanted, call in self.connected:
            if wanted == what:
                call(self, _window(number))

    def open(
        self,
        number: int,
        pid: int,
        says: str | None,
        *,
        says_pid: int = 0,
        dialog: bool = False,
    ) -> Open | None:
        """The icon that it is under; ``pid`` 0: the server does not know."""
        self.clients[number] = pid
        icon = None
        if not dialog:
            icon = self.shell.get_activity_by_id(says) if says else None
            if icon is None:
                icon = Open(says, pid=says_pid)
                self.shell.append(icon)
            icon.windows.append(number)
            icon.status = Open.LAUNCHED
            self.shell.launchers.pop(str(says), None)
        self.say("window-opened", number)
        return icon

    def close(self, number: int, *, as_dialog: bool = False) -> None:
        """``as_dialog``: by now it says that it is one, and Sugar looks away."""
        icon = self.shell._get_activity_by_xid(number)
        if icon is not None and not as_dialog:
            icon.windows.remove(number)
            if not icon.windows:
                # In this order.
                self.shell.say("activity-removed", icon)
                self.shell.remove(icon)
        self.say("window-closed", number)


def _window(number: int) -> Any:
    return SimpleNamespace(get_xid=lambda: number)


def objects(**running: tuple[int, int]) -> dict[str, Any]:
    """As GetManagedObjects has them: by id the pid and the uid."""
    return {
        f"/x/{id}": {
            ACTIVITY: {
                **{"Id": id, "BundleId": "b", "Policy": "p", "State": "running"},
                **{"Pid": pid, "Uid": uid},
            }
        }
        for id, (pid, uid) in running.items()
    }


@dataclass
class Made:
    adapter: adapter.Adapter
    bus: Bus
    factory: Factory
    config: Path
    shell: Shell
    screen: Screen
    timers: list[tuple[int, Callable[[], object]]]
    running: dict[str, Any] = field(default_factory=dict)

    def later(self) -> None:
        """Its timers go off, those that they set do not yet."""
        due, self.timers[:] = self.timers[:], []
        self.timers += [(after_ms, call) for after_ms, call in due if call()]

    @property
    def ids(self) -> list[str]:
        return [launch.id for launch in self.adapter.launches]

    def click(self, command: str = "sugar-activity3 a.A", **handle: Any) -> None:
        bundle = SimpleNamespace(
            get_command=lambda: command,
            get_path=lambda: "/",
            get_name=lambda: "A",
            get_bundle_id=lambda: "org.example.A",
        )
        about = {"object_id": None, "uri": None, "invited": False, **handle}
        self.adapter.create(
            SimpleNamespace(
                _handle=SimpleNamespace(activity_id="a1", **about),
                _bundle=bundle,
                _service_name="org.example.A",
            )
        )

    @property
    def log(self) -> str:
        return (self.factory.top / "a-1.log").read_text()

    def answer(self, running: Mapping[str, Any]) -> None:
        """Whoever has asked what runs."""
        for call in self.bus.take("GetManagedObjects"):
            call.reply(running)


@contextmanager
def adapting(top: Path, patch: pytest.MonkeyPatch) -> Iterator[Made]:
    """An adapter with all of that around it; what it writes is in ``top``."""
    bus, factory, shell = Bus(), Factory(top), Shell()
    screen = Screen(shell)
    timers: list[tuple[int, Callable[[], object]]] = []

    def timeout_add(after_ms: int, call: Callable[..., object], *words: Any) -> None:
        timers.append((after_ms, lambda: call(*words)))

    def about(pid: int) -> Process:
        return screen.processes.get(pid, Process(-1, began=0))

    def owner(pid: int) -> int | None:
        return about(pid).uid if pid in screen.processes else None

    patch.setattr(dbus, "SessionBus", lambda: bus)
    patch.setattr(GLib, "timeout_add", timeout_add)
    patch.setattr(windows, "Clients", lambda environment: screen)
    patch.setattr(openwindows, "owner", owner)
    patch.setattr(openwindows, "sandbox", lambda pid: about(pid).sandbox)
    patch.setattr(records, "start_time", lambda pid: about(pid).began)
    config = top / "isolauncher.toml"
    config.write_text("version = 1\n")
    made = adapter.Adapter(factory, shell, str(config))
    made.icons.watch(screen)
    yield Made(made, bus, factory, config, shell, screen, timers)
    for launch in made.launches:
        launch.log.close()
