# SPDX-License-Identifier: GPL-3.0-or-later
"""isolauncher on the session bus: one process per login, as the person.

Owns org.sugarlabs.IsoLauncher1 and holds no right that the person lacks: it launches
as the command line does (launching.py), with a thread for each activity that waits
for the daemon's words. Everything of D-Bus happens in the main thread. Whatever ends
this service ends no activity; the next one takes up what runs.

The interface is written down in integration/dbus/org.sugarlabs.IsoLauncher1.xml.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dbus
import dbus.mainloop.glib
import dbus.service
from dbus.lowlevel import ErrorMessage
from gi.repository import GLib

from .. import client, wire
from ..errors import DaemonError, IsolauncherError, RequestError, from_line
from . import launching
from .mediators import Mediators
from .names import ACTIVITY, MANAGER, NAME, OBJECT_MANAGER, PATH, PROPERTIES
from .running import Running

STREAMS = ("stdin", "stdout", "stderr")
MAX_GRACE_MS = 600_000
TAKE_UP_S = 2
PROPERTY_TYPES: Mapping[str, str] = {
    "Id": "s",
    "BundleId": "s",
    "Pid": "u",
    "Uid": "u",
    "Policy": "s",
    "State": "s",
}


_UNKNOWN_END = DaemonError(
    "another has its id by now, and how it ended is not known", code="exit-unknown"
)


class Refused(dbus.DBusException):
    """The one line of an error, under a name made from its code."""

    include_traceback = False

    def __init__(self, error: IsolauncherError) -> None:
        words = error.code.split("-")
        name = "".join(word[:1].upper() + word[1:] for word in words)
        super().__init__(error.line(), name=f"{NAME}.Error.{name}")


class Exported(dbus.service.Object):
    """What is called as it is written down, or is refused in a sentence.

    dbus-python calls a method with whatever comes, and answers with a traceback.
    """

    def _message_cb(self, connection: Any, message: Any) -> None:
        if (refused := self._refused(message)) is None:
            super()._message_cb(connection, message)
        elif not message.get_no_reply():
            kind, text = refused
            name = f"org.freedesktop.DBus.Error.{kind}"
            connection.send_message(ErrorMessage(message, name, text))

    def _refused(self, message: Any) -> tuple[str, str] | None:
        interface, member = message.get_interface(), str(message.get_member())
        method: Any = getattr(type(self), member, None)
        if not getattr(method, "_dbus_is_method", False) or (
            interface not in (None, method._dbus_interface)
        ):
            return "UnknownMethod", f"{interface or 'it'} has no method {member}"
        wanted, given = method._dbus_in_signature or "", message.get_signature()
        if wanted != given:
            return "InvalidArgs", f"{member} takes ({wanted}), and was given ({given})"
        if "h" in given:
            try:
                message.get_args_list()
            except ValueError:
                return "InvalidArgs", "a descriptor that it names did not come with it"
        return None


class Activity(Exported):
    """A running activity; gone from the bus when it has ended."""

    def __init__(self, manager: Manager, id: str, bundle_id: str, policy: str) -> None:
        self.manager = manager
        self.id = id
        self.values: dict[str, Any] = {
            "Id": id,
            "BundleId": bundle_id,
            "Pid": dbus.UInt32(0),
            "Uid": dbus.UInt32(0),
            "Policy": policy,
            "State": "starting",
        }
        self.path = f"{PATH}/Activity/{id}"

    def appear(self, fields: Mapping[str, object]) -> None:
        """It runs: what the daemon told of it becomes visible."""
        for key, name in (("Pid", "pid"), ("Uid", "uid")):
            number = fields.get(name)
            self.values[key] = dbus.UInt32(number if isinstance(number, int) else 0)
        self.values["State"] = fields.get("state", "running")
        dbus.service.Object.__init__(self, self.manager.connection, self.path)

    def change(self, state: str) -> None:
        if self.values["State"] != state:
            self.values["State"] = state
            self.PropertiesChanged(ACTIVITY, {"State": state}, [])

    @dbus.service.method(
        ACTIVITY, in_signature="u", async_callbacks=("reply", "failed")
    )
    def Stop(
        self,
        grace_ms: int,
        reply: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """SIGTERM, then the end of everything; returns when it is gone."""
        grace = min(int(grace_ms), MAX_GRACE_MS)
        self.change("stopping")

        def stop() -> None:
            list(
                client.ask(
                    {
                        "version": wire.VERSION,
                        "verb": "stop",
                        "ids": [self.id],
                        "grace_ms": grace,
                    }
                )
            )

        _aside(stop, lambda _: reply(), failed)

    @dbus.service.signal(ACTIVITY, signature="iis")
    def Exited(self, status: int, signal: int, reason: str) -> None:
        """``status`` as isolauncher returns it; ``signal`` 0: none ended it."""

    @dbus.service.method(PROPERTIES, in_signature="ss", out_signature="v")
    def Get(self, interface: str, name: str) -> Any:
        return self._properties(interface, name)[name]

    @dbus.service.method(PROPERTIES, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface: str) -> dict[str, Any]:
        return self._properties(interface, None)

    @dbus.service.method(PROPERTIES, in_signature="ssv")
    def Set(self, interface: str, name: str, value: Any) -> None:
        self._properties(interface, name)
        raise dbus.DBusException(
            f"{name} cannot be set",
            name="org.freedesktop.DBus.Error.PropertyReadOnly",
        )

    @dbus.service.signal(PROPERTIES, signature="sa{sv}as")
    def PropertiesChanged(
        self, interface: str, changed: Mapping[str, Any], invalidated: list[str]
    ) -> None:
        """As org.freedesktop.DBus.Properties says."""

    def _properties(self, interface: str, name: str | None) -> dict[str, Any]:
        if interface not in (ACTIVITY, "") or name not in (None, *self.values):
            raise dbus.DBusException(
                f"{interface} has no property {name}",
                name="org.freedesktop.DBus.Error.UnknownProperty",
            )
        return self.values

    @dbus.service.method(
        dbus.INTROSPECTABLE_IFACE,
        out_signature="s",
        path_keyword="path",
        connection_keyword="connection",
    )
    def Introspect(self, path: str, connection: Any) -> str:
        xml = str(dbus.service.Object.Introspect(self, path, connection))
        opening = f'<interface name="{ACTIVITY}">'
        properties = "".join(
            f'\n    <property name="{name}" type="{kind}" access="read"/>'
            for name, kind in PROPERTY_TYPES.items()
        )
        return xml.replace(opening, opening + properties)


class Manager(Exported):
    """Launches, lists, audits; tells of activities as they come and go."""

    def __init__(self, connection: Any, mediators: Mediators) -> None:
        super().__init__(connection, PATH)
        self.mediators = mediators
        self.activities: dict[str, Activity] = {}
        self.grants = launching.Grants()
        self.heard = False
        """What ran before this process, from the daemon."""

    @dbus.service.method(
        MANAGER,
        in_signature="sa{sv}a{sh}",
        out_signature="o",
        async_callbacks=("reply", "failed"),
    )
    def Launch(
        self,
        bundle: str,
        options: Mapping[str, Any],
        descriptors: Mapping[str, Any],
        reply: Callable[[str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Answers with the activity's object when it runs."""
        fds = {str(name): fd.take() for name, fd in descriptors.items()}
        try:
            asked = _asked(str(bundle), options, fds)
        except IsolauncherError as error:
            wire.close_all(fds.values())
            failed(Refused(error))
            return
        likely = self._grants_for(asked.activity_id)
        answered = False

        def started(activity: Activity, fields: Mapping[str, object]) -> None:
            nonlocal answered
            answered = True
            self._add(activity, fields)
            reply(dbus.ObjectPath(activity.path))

        def ended(activity: Activity | None, end: client.End) -> None:
            if activity is not None:
                self._remove(activity, end)
            if not answered and end.error is not None:
                failed(Refused(end.error))

        def work() -> None:
            made: Activity | None = None

            def granted(fields: Mapping[str, object]) -> None:
                nonlocal made
                made = Activity(
                    self,
                    str(fields["id"]),
                    str(fields["bundle_id"]),
                    str(fields["policy"]),
                )

            def begun(fields: Mapping[str, object]) -> None:
                assert made is not None  # noqa: S101 (granted comes first)
                _later(started, made, fields)

            try:
                end = launching.launch(
                    asked,
                    self.mediators,
                    granted=granted,
                    started=begun,
                    tell=_tell,
                    grants=likely,
                )
            except IsolauncherError as error:
                end = client.End(error.exit_status, None, error)
            except Exception as error:
                # Whoever asked waits for an answer, whatever we did wrong.
                text = f"{type(error).__name__}: {error}"
                broken = DaemonError(text, code="internal")
                end = client.End(broken.exit_status, None, broken)
            finally:
                wire.close_all(fds.values())
            _forget_frames(end.error)
            _later(ended, made, end)

        threading.Thread(target=work, daemon=True).start()

    def _grants_for(self, activity_id: str | None) -> launching.Grants | None:
        """None where something may run under that id: what is its own stays."""
        known = self.heard and activity_id not in self.activities
        return self.grants if known else None

    @dbus.service.method(MANAGER, out_signature="ao")
    def List(self) -> list[Any]:
        known = self._known().values()
        alive = (a for a in known if a.values["State"] != "exited")
        return [dbus.ObjectPath(a.path) for a in alive]

    @dbus.service.method(
        MANAGER,
        in_signature="s",
        out_signature="s",
        async_callbacks=("reply", "failed"),
    )
    def TestPolicy(
        self,
        name: str,
        reply: Callable[[str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """What `isolauncher test-policy --json NAME` prints."""

        def audit() -> str:
            if str(name).startswith("-"):
                raise RequestError("that is no policy's name", code="request-bad-value")
            command = [sys.executable, "-m", "isolauncher", "test-policy", "--json"]
            done = subprocess.run(
                [*command, *([str(name)] if name else [])],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if not done.stdout:
                raise DaemonError(
                    done.stderr.strip()[:500] or "test-policy said nothing",
                    code="test-policy-failed",
                )
            return done.stdout

        _aside(audit, reply, failed)

    @dbus.service.method(OBJECT_MANAGER, out_signature="a{oa{sa{sv}}}")
    def GetManagedObjects(self) -> dict[Any, Any]:
        return {
            dbus.ObjectPath(a.path): {ACTIVITY: a.values}
            for a in self._known().values()
        }

    @dbus.service.signal(OBJECT_MANAGER, signature="oa{sa{sv}}")
    def InterfacesAdded(self, path: str, interfaces: Any) -> None:
        """As org.freedesktop.DBus.ObjectManager says."""

    @dbus.service.signal(OBJECT_MANAGER, signature="oas")
    def InterfacesRemoved(self, path: str, interfaces: list[str]) -> None:
        """As org.freedesktop.DBus.ObjectManager says."""

    def _known(self) -> Mapping[str, Activity]:
        """All that runs; never less for want of the daemon's word."""
        if not self.heard:
            raise Refused(
                DaemonError(
                    "what runs is not known yet: the daemon has not said it",
                    code="not-known-yet",
                    hint="ask again",
                )
            )
        return self.activities

    def take_up(self) -> None:
        """Accompany what a service before this one has launched and what runs on."""
        try:
            rows = launching.running()
        except IsolauncherError as error:
            _tell(f"what runs is not known yet: {error.line()}")
            self._take_up_later()
        else:
            self._accompany(rows)

    def _take_up_later(self, *ignored: object) -> None:
        """The daemon may be back by then."""

        def again() -> bool:
            _aside(launching.running, self._accompany, self._take_up_later)
            return False

        GLib.timeout_add_seconds(TAKE_UP_S, again)

    def _accompany(self, rows: list[Running]) -> None:
        # In one go, before anybody is answered: who asks what runs is told all of it.
        self.heard = True
        self.mediators.clear([row.id for row in rows])
        for row in rows:
            if row.id in self.activities:
                continue
            activity = Activity(self, row.id, row.bundle_id, row.policy)
            if row.state != "starting":
                about = {"pid": row.pid, "uid": row.uid, "state": row.state}
                self._add(activity, about)
            threading.Thread(
                target=partial(self._attend, activity), daemon=True
            ).start()

    def _attend(self, activity: Activity) -> None:
        try:
            end = client.attend(
                client.connect(),
                activity.id,
                started=lambda fields: _later(self._add, activity, fields),
                reconnect=lambda: client.connect(wait=False),
                tell=_tell,
            )
        except IsolauncherError as error:
            end = client.End(error.exit_status, None, error)

        _later(self._remove, activity, end)

    def _add(self, activity: Activity, fields: Mapping[str, object]) -> None:
        before = self.activities.get(activity.id)
        if before is not None:
            if before is activity or before.values["Pid"] == fields.get("pid"):
                return
            # The daemon gives an id again only when nothing runs under it.
            self._remove(
                before, client.End(_UNKNOWN_END.exit_status, None, _UNKNOWN_END)
            )
        activity.appear(fields)
        self.activities[activity.id] = activity
        self.InterfacesAdded(activity.path, {ACTIVITY: activity.values})

    def _remove(self, activity: Activity, end: client.End) -> None:
        if self.activities.get(activity.id) is not activity:
            return  # it never ran, or another has its id by now
        del self.activities[activity.id]
        activity.change("exited")
        exited = (end.report or {}).get("exit")
        number = exited.get("signal") if isinstance(exited, dict) else None
        activity.Exited(end.status, number or 0, end.reason())
        self.InterfacesRemoved(activity.path, [ACTIVITY])
        activity.remove_from_connection()


def _asked(
    bundle: str, options: Mapping[str, Any], fds: Mapping[str, int]
) -> launching.Asked:
    """RequestError for an option or a descriptor that has no meaning here."""
    known: dict[str, type] = {
        "activity-id": dbus.String,
        "object-id": dbus.String,
        "uri": dbus.String,
        "invited": dbus.Boolean,
        "environment": dbus.Dictionary,
    }
    for name, value in options.items():
        if str(name) not in known:
            raise RequestError(
                f"option {str(name)[:64]!r} is not one of {' '.join(known)}",
                code="request-unknown-option",
            )
        if not isinstance(value, known[str(name)]):
            raise RequestError(
                f"option {name} is of another type", code="request-wrong-type"
            )
    for name in fds:
        if name not in STREAMS:
            raise RequestError(
                f"descriptor {name[:64]!r} is not one of {' '.join(STREAMS)}",
                code="request-unknown-descriptor",
            )

    def text(name: str) -> str | None:
        return str(options[name]) if name in options else None

    environment = options.get("environment")
    if environment is not None and environment.signature != "ss":
        raise RequestError("option environment is not a{ss}", code="request-wrong-type")
    return launching.Asked(
        bundle=bundle,
        activity_id=text("activity-id") or None,
        object_id=text("object-id"),
        uri=text("uri"),
        invited=bool(options.get("invited", False)),
        environment=(
            None
            if environment is None
            else {str(k): str(v) for k, v in environment.items()}
        ),
        streams=fds,
    )


def _aside(
    work: Callable[[], Any],
    done: Callable[[Any], None],
    failed: Callable[[Exception], None],
) -> None:
    """Do what takes time in a thread; say in the main one what came of it."""

    def run() -> None:
        try:
            result = work()
        except IsolauncherError as error:
            _later(failed, Refused(error))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            _later(failed, Refused(DaemonError(text, code="internal")))
        else:
            _later(done, result)

    threading.Thread(target=run, daemon=True).start()


def _forget_frames(error: BaseException | None) -> None:
    """An error's frames hold the error, and the caller's message with its descriptors.

    They would stay open until a collection, which may be never.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _later(call: Callable[..., None], *arguments: object) -> None:
    def once() -> bool:
        call(*arguments)
        return False

    GLib.idle_add(once)


def _tell(line: str) -> None:
    sys.stderr.write(f"isolauncher-session: {line}\n")


def main() -> int:
    """Serve until the session bus goes away or SIGTERM; 125 if that cannot be."""
    if os.geteuid() == 0:
        _tell("this runs as a person, and root is none  [session-of-root]")
        return 125
    # Forked first: a process with threads and connections cannot be.
    mediators = Mediators.start()
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    try:
        connection = dbus.SessionBus()
        name = dbus.service.BusName(NAME, connection, do_not_queue=True)
    except dbus.exceptions.NameExistsException:
        _tell(f"{NAME} has an owner already  [session-exists]")
        return 125
    except dbus.DBusException as error:
        _tell(f"there is no session bus: {error.get_dbus_message()}  [session-no-bus]")
        return 125
    manager = Manager(connection, mediators)
    manager.take_up()
    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGTERM, loop.quit)
    loop.run()
    del name
    return 0


def call_launch(asked: launching.Asked) -> str:
    """Have the session's service launch; the activity's id. For the command line.

    DaemonError if there is no service, and whatever error it answers with.
    """
    options: dict[str, Any] = {"invited": dbus.Boolean(asked.invited)}
    for name, value in (
        ("activity-id", asked.activity_id),
        ("object-id", asked.object_id),
        ("uri", asked.uri),
    ):
        if value is not None:
            options[name] = dbus.String(value)
    if asked.environment is not None:
        options["environment"] = dbus.Dictionary(asked.environment, signature="ss")
    fds = {name: dbus.types.UnixFd(fd) for name, fd in asked.streams.items()}
    try:
        connection = dbus.SessionBus()
        service = connection.get_object(NAME, PATH, introspect=False)
        path = service.Launch(
            asked.bundle,
            dbus.Dictionary(options, signature="sv"),
            dbus.Dictionary(fds, signature="sh"),
            dbus_interface=MANAGER,
            timeout=120,
        )
    except dbus.DBusException as error:
        raise _understood(error) from None
    return str(path).rpartition("/")[2]


def _understood(error: dbus.DBusException) -> IsolauncherError:
    """The error of ours that a D-Bus error was; or that there is nobody."""
    name, text = str(error.get_dbus_name()), str(error.get_dbus_message())
    if name.startswith(f"{NAME}.Error."):
        return from_line(text)
    return DaemonError(
        f"isolauncher-session does not answer: {text}",
        code="session-not-running",
        hint="start `isolauncher-session` in this session, or install its D-Bus file",
    )


__all__ = ["call_launch", "main"]


if __name__ == "__main__":
    sys.exit(main())
