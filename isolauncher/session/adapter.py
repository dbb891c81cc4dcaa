# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: what a child opens there, isolauncher opens.

    click → activityfactory → Launch, on the session bus → the daemon
      │                            └─ Exited ─▶ log, NotifyLaunchFailure
      └─ NotifyLaunch, environment, log file: the toolkit's own, as before

Debian's shell is not changed on disk. When it starts it imports the files of its
extension directories; the one of ours (integration/sugar/deviceicon) calls `install`,
which puts another method into the class through which every launch goes, one into the
palette whose Stop would signal a process id that the activity itself has named, and
one into the session manager, which cannot ask a sandbox to save before it ends; and
sourceview.py looks after what an activity calls its document. The
window manager takes a window from a sandbox, which has a host name of its own, for one
from another machine; its title shall not say so.

Everything on the bus is asked for and answered later: nothing here makes the shell
wait. If neither the service nor the daemon is to be had, an administrator's setting
decides (`[shell]` in isolauncher.toml).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from gettext import dgettext
from gettext import gettext as _
from typing import Any, TextIO

import dbus
from gi.repository import GLib

from .. import config
from ..errors import DaemonError, IsolauncherError, from_line
from .names import ACTIVITY, MANAGER, NAME, OBJECT_MANAGER, PATH, PROPERTIES

LAUNCH_S = 60
WAKE_AGAIN_S = 10
HANGING_MS, GRACE_MS = 3000, 1500
"""From Stop to SIGTERM, and from there to the end; the shell's own figures."""

LEAVE_S, LOOK_MS = 5, 50
"""How long what is open may take to save itself when the shell is to end."""

WEB = ("sugar-activity-web", "sugar3.activity.webactivity.WebActivity")
API_SOCKET = ("SUGAR_APISOCKET_KEY", "SUGAR_APISOCKET_PORT")
"""With the key whoever can connect to the shell's socket has the whole Journal."""

_ABSENT = frozenset({"daemon-not-running", "daemon-unreachable", "session-not-running"})
_NOBODY = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.DBus.Error.TimedOut",  # it was started, and took no name
)
_UNKNOWN = (
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.UnknownObject",
)


@dataclass(slots=True)
class Launch:
    """One activity, from the click to its end."""

    handler: Any
    id: str
    environment: dict[str, str]
    log: TextIO
    log_path: str
    pid: int = 0
    running: bool = False

    @property
    def bundle(self) -> Any:
        return self.handler._bundle


class Adapter:
    """All that was launched from this shell; calls, and is called by, its modules."""

    def __init__(self, factory: Any, shell: Any, config_file: str | None) -> None:
        self.factory = factory
        self.shell = shell
        self.config_file = config_file
        self.launches: dict[str, Launch] = {}
        self.reasons: dict[str, str] = {}
        self.bus = dbus.SessionBus()
        self.woken = 0.0
        self.was_lost = False

    def begin(self) -> None:
        self.bus.add_signal_receiver(
            self.exited, "Exited", ACTIVITY, NAME, path_keyword="path"
        )
        self.bus.watch_name_owner(NAME, self.owner_changed)
        # After the shell's own, which writes the sentence that ours follows.
        self.shell.connect_after("launch-failed", self.explain)
        self.wake()

    # ---------------------------------------------------------------------- a launch

    def create(self, handler: Any) -> None:
        """In the place of ActivityCreationHandler._create_activity."""
        handle, bundle = handler._handle, handler._bundle
        if handle.activity_id is None:
            handle.activity_id = self.factory.create_activity_id()
        id = str(handle.activity_id)
        # Not by the toolkit's proxy: it waits until it knows the shell's methods, and
        # a failure would be told of before the launch.
        self.tell_shell("NotifyLaunch", str(handler._service_name), id)
        try:
            environment = dict(self.factory.get_environment(bundle))
            path, log = self.factory.open_log_file(bundle)
        except OSError as error:
            self.fail(id, f"{error.strerror}: {error.filename}", str(error))
            return
        launch = Launch(
            handler=handler, id=id, environment=environment, log=log, log_path=str(path)
        )
        self.launches[id] = launch
        try:
            self.ask(launch)
        except Exception as error:
            # Whoever clicked waits for an answer, whatever we did wrong.
            self.refused(launch, error)

    def ask(self, launch: Launch) -> None:
        handle, bundle = launch.handler._handle, launch.bundle
        options: dict[str, Any] = {
            "activity-id": dbus.String(launch.id),
            "invited": dbus.Boolean(bool(handle.invited)),
            "environment": dbus.Dictionary(
                for_activity(launch.environment, bundle.get_command()), signature="ss"
            ),
        }
        for name, value in (("object-id", handle.object_id), ("uri", handle.uri)):
            if value is not None:
                options[name] = dbus.String(value)
        log = launch.log.fileno()
        self.bus.call_async(
            NAME,
            PATH,
            MANAGER,
            "Launch",
            "sa{sv}a{sh}",
            (
                # With a slash it is a directory; without one an id.
                os.path.join(str(bundle.get_path()), ""),
                dbus.Dictionary(options, signature="sv"),
                dbus.Dictionary(
                    {name: dbus.types.UnixFd(log) for name in ("stdout", "stderr")},
                    signature="sh",
                ),
            ),
            lambda path: self.runs(launch),
            lambda error: self.refused(launch, error),
            timeout=LAUNCH_S,
        )

    def runs(self, launch: Launch) -> None:
        launch.running = True

        def told(pid: Any) -> None:
            launch.pid = int(pid)

        self.ask_pid(launch.id, told, _of_no_interest)

    def refused(self, launch: Launch, error: Exception) -> None:
        """Nothing was launched: say why, or do without, as the administrator wants."""
        why = understood(error)
        if why.code in _ABSENT and self.may_be_unisolated(why):
            self.launch_unisolated(launch, why)
            return
        self.launches.pop(launch.id, None)
        _finish(launch.log, f"isolauncher: {why.line()}")
        self.fail(launch.id, sentence(why), f"{why.line()}", launch.log_path)

    # --------------------------------------------------------------- without a service

    def may_be_unisolated(self, why: IsolauncherError) -> bool:
        try:
            return config.load(self.config_file).shell.unisolated
        except IsolauncherError as error:
            why.message += f"; and {error.message}"
            return False

    def launch_unisolated(self, launch: Launch, why: IsolauncherError) -> None:
        """As the toolkit does it; nobody shall think that it is confined."""
        handle, bundle = launch.handler._handle, launch.bundle
        launch.log.write(f"isolauncher: LAUNCHED WITHOUT ISOLATION: {why.line()}\n")
        launch.log.flush()
        command = self.factory.get_command(
            bundle, launch.id, handle.object_id, handle.uri, handle.invited
        )
        del self.launches[launch.id]
        try:
            child = subprocess.Popen(
                [str(word) for word in command],
                env=for_activity(launch.environment, bundle.get_command()),
                cwd=str(bundle.get_path()),
                stdin=subprocess.DEVNULL,
                stdout=launch.log.fileno(),
                stderr=launch.log.fileno(),
            )
        except OSError as error:
            _finish(launch.log, f"isolauncher: {error}")
            self.fail(launch.id, str(error), str(error), launch.log_path)
            return
        GLib.child_watch_add(
            child.pid, self.factory._child_watch_cb, (launch.log, launch.id)
        )
        self.warn(launch)

    def warn(self, launch: Launch) -> None:
        """A sign in the corner; its words are in the palette of the activity's icon."""
        self.bus.call_async(
            "org.freedesktop.Notifications",
            "/org/freedesktop/Notifications",
            "org.freedesktop.Notifications",
            "Notify",
            "susssava{sv}i",
            (
                *(launch.id, 0, ""),
                f"{launch.bundle.get_name()} is not isolated",
                "isolauncher is not running, so it has all your rights.",
                [],
                dbus.Dictionary({"x-sugar-icon-name": "emblem-warning"}, "sv"),
                -1,
            ),
            _of_no_interest,
            _logged,
        )

    # ------------------------------------------------------------------------- its end

    def exited(self, status: int, signal: int, reason: str, path: str) -> None:
        """A signal of the service's; as the toolkit's own when a child has ended."""
        launch = self.launches.pop(str(path).rpartition("/")[2], None)
        if launch is None:
            return  # another's: of a shell before this one, or of the command line
        if signal:
            how, said = f"Terminated by signal {signal}", f"It ended by signal {signal}"
        elif status:
            how, said = f"Exited with status {status}", f"It ended with status {status}"
        else:
            how = "Normal successful completion"
        if reason:
            launch.log.write(f"isolauncher: {reason}\n")
        _finish(launch.log, f"{how}, pid {launch.pid} activity_id {launch.id}")
        if status or signal:
            self.fail(launch.id, f"{said}.", reason or how, launch.log_path)

    def fail(self, id: str, said: str, logged: str, log: str = "") -> None:
        """Have the shell say that it failed to start, and why, if it still waits."""
        logging.error("isolauncher: %s: %s", id, logged)
        self.reasons[id] = _markup(said, os.path.basename(log))
        self.tell_shell("NotifyLaunchFailure", id)

    def tell_shell(self, method: str, *words: str) -> None:
        """Over the bus, as the toolkit does it."""
        name = "org.laptop.Shell"
        self.bus.call_async(
            *(name, "/org/laptop/Shell", name, method, "s" * len(words), words),
            *(_of_no_interest, _logged),
        )

    def explain(self, model: Any, activity: Any) -> None:
        """Below the shell's "failed to start", in the window with the pulsing icon."""
        id = str(activity.get_activity_id())
        reason = self.reasons.pop(id, None)
        launcher = model.get_launcher(id)
        if reason is None or launcher is None:
            return
        label = launcher.error_text
        label.set_line_wrap(True)
        label.set_max_width_chars(60)
        label.set_justify(2)  # Gtk.Justification.CENTER
        label.set_markup(f"{label.get_label()}\n\n{reason}")

    # ---------------------------------------------------------------------------- Stop

    def stop(self, activity: Any, otherwise: Callable[[], None]) -> None:
        """Ask it to close its window, and end what hangs; not one of ours: otherwise.

        Its process id is the service's word. The window has what the activity says.
        """
        id = str(activity.get_activity_id())

        def found(pid: Any) -> None:
            activity.stop()
            GLib.timeout_add(HANGING_MS, self.end, id, int(pid))

        def failed(error: Any) -> None:
            gone = str(error.get_dbus_name()).startswith((*_NOBODY, *_UNKNOWN))
            if gone and id not in self.launches:
                otherwise()
            else:
                activity.stop()

        self.ask_pid(id, found, failed)

    def end(self, id: str, pid: int) -> bool:
        """Unless it has ended; who resumes an entry has its id again."""

        def found(now: Any) -> None:
            if int(now) == pid:
                self.bus.call_async(
                    *(NAME, _path(id), ACTIVITY, "Stop", "u", (dbus.UInt32(GRACE_MS),)),
                    *(_of_no_interest, _logged),
                )

        self.ask_pid(id, found, _of_no_interest)
        return False

    def leave(self, then: Callable[[], None]) -> None:
        """Before the shell ends: have what is open saved, then.

        Sugar's session manager asks its own clients; a sandbox has no way to it.
        """
        until = time.monotonic() + LEAVE_S
        for id in self.launches:
            activity = self.shell.get_activity_by_id(id)
            if activity is not None:
                activity.stop()

        def look() -> bool:
            if self.launches and time.monotonic() < until:
                return True
            then()
            return False

        GLib.timeout_add(LOOK_MS, look)

    def ask_pid(self, id: str, found: Callable[..., None], failed: Any) -> None:
        self.bus.call_async(
            *(NAME, _path(id), PROPERTIES, "Get", "ss", (ACTIVITY, "Pid")),
            *(found, failed),
        )

    # ------------------------------------------------------------------- the service

    def wake(self) -> None:
        """Have the bus start the service, so that the first click need not wait."""
        now = time.monotonic()
        if self.woken and now - self.woken < WAKE_AGAIN_S:
            return
        self.woken = now
        self.bus.call_async(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "StartServiceByName",
            "su",
            (NAME, dbus.UInt32(0)),
            _of_no_interest,
            _logged,
        )

    def owner_changed(self, owner: str) -> None:
        """What runs goes on without the service; another one takes it up."""
        if not owner:
            self.was_lost = any(launch.running for launch in self.launches.values())
            if self.was_lost:
                self.wake()
        elif self.was_lost:
            self.was_lost = False
            self.bus.call_async(
                *(NAME, PATH, OBJECT_MANAGER, "GetManagedObjects", "", ()),
                *(self.look_again, _logged),
            )

    def look_again(self, objects: Mapping[Any, Any]) -> None:
        there = {str(path).rpartition("/")[2] for path in objects}
        for launch in list(self.launches.values()):
            if not launch.running or launch.id in there:
                continue
            del self.launches[launch.id]
            how = "isolauncher-session ended before it: how it ends is not known"
            _finish(launch.log, f"{how}, pid {launch.pid} activity_id {launch.id}")
            if self.shell.get_launcher(launch.id) is not None:
                self.fail(launch.id, "It ended.", how, launch.log_path)


def for_activity(environment: Mapping[str, str], command: str) -> dict[str, str]:
    """What may be sent, and the key of the shell's socket for web activities alone."""
    web = any(os.path.basename(word) in WEB for word in command.split())
    return {
        name: value
        for name, value in environment.items()
        if _is_text(name + value) and (web or name not in API_SOCKET)
    }


def without_host(title: str) -> str:
    """A window's title as it was before the window manager saw whose host it is."""
    words = "%s (on %s)"
    for form in (words, dgettext("metacity", words)):
        pattern = re.escape(form).replace("%s", "(.*)", 1).replace("%s", "[^()]*", 1)
        if found := re.fullmatch(pattern, title, re.DOTALL):
            return found[1]
    return title


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def sentence(error: IsolauncherError) -> str:
    """For who looks at the screen: in Sugar's own words where it has them."""
    if error.code in _ABSENT:
        return (
            "isolauncher, which keeps activities apart, is not running. "
            "Whoever looks after this computer can start it."
        )
    if error.code == "quota":
        return str(
            _(
                "The maximum number of open activities has been reached. "
                "Please close an activity before launching a new one."
            )
        )
    hint = f" ({error.hint})" if error.hint else ""
    return f"{error.message[:1].upper()}{error.message[1:]}{hint}."


def _path(id: str) -> str:
    return f"{PATH}/Activity/{id}"


def _markup(said: str, log: str) -> str:
    more = f"\n<small>{GLib.markup_escape_text(log)}</small>" if log else ""
    return f"{GLib.markup_escape_text(said)}{more}"


def _finish(log: TextIO, line: str) -> None:
    try:
        log.write(f"{line}\n")
        log.close()
    except OSError as error:  # a full disk; the launch itself is not touched by it
        logging.error("isolauncher: a log could not be written: %s", error)


def _of_no_interest(*answer: object) -> None:
    """There is nothing to do then."""


def _logged(error: object) -> None:
    logging.error("isolauncher: %s", error)


def install(config_file: str | None = None) -> None:
    """From now on this shell launches through isolauncher.

    ``config_file`` stands in for /etc/isolauncher/isolauncher.toml.
    """
    from jarabe.model import session, shell
    from jarabe.view import palettes, viewsource
    from sugar3 import env
    from sugar3.activity import activityfactory

    from . import sourceview

    sourceview.install(viewsource, shell.get_model(), env.get_profile_path())
    handlers = activityfactory.ActivityCreationHandler
    palette = palettes.CurrentActivityPalette
    name = "_CurrentActivityPalette__stop_activate_cb"
    toolkits, stops = handlers._create_activity, getattr(palette, name)
    leaves = session.SessionManager.initiate_shutdown
    titles = shell.Activity.get_title
    adapter = Adapter(activityfactory, shell.get_model(), config_file)

    def stop(self: Any, item: Any) -> None:
        adapter.stop(self._home_activity, lambda: stops(self, item))
        self.emit("done")

    def leave(self: Any, mode: int) -> None:
        adapter.leave(lambda: leaves(self, mode))

    def title(self: Any) -> Any:
        found = titles(self)
        own = str(self.get_activity_id()) in adapter.launches
        return without_host(found) if own and found else found

    handlers._create_activity = lambda handler: adapter.create(handler)
    setattr(palette, name, stop)
    session.SessionManager.initiate_shutdown = leave
    shell.Activity.get_title = title
    try:
        adapter.begin()
    except BaseException:
        handlers._create_activity = toolkits
        setattr(palette, name, stops)
        session.SessionManager.initiate_shutdown = leaves
        shell.Activity.get_title = titles
        raise
