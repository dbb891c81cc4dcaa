# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: what a child opens there, isolauncher opens.

    click → activityfactory → Launch, on the session bus → the daemon
      │                            └─ Exited ─▶ log, NotifyLaunchFailure
      └─ NotifyLaunch, environment, log file: the toolkit's own, as before

Debian's shell is not changed on disk. When it starts it imports the files of its
extension directories; the one of ours (integration/sugar/deviceicon) calls `install`,
which puts another method into the class through which every launch goes, one into the
palette whose Stop signals the process behind a window, which it may not where that has
another uid, and one into the session manager, which cannot ask a sandbox to save before
it ends; and sourceview.py looks after what an activity calls its document. The
window manager takes a window from a sandbox, which has a host name of its own, for one
from another machine; its title shall not say so.

Everything on the bus is asked for and answered later: nothing here makes the shell
wait. If neither the service nor the daemon is to be had, an administrator's setting
decides (`[shell]` in isolauncher.toml).
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import dbus
from gi.repository import GLib

from .. import config, windows
from ..errors import DaemonError, HostError, IsolauncherError, from_line
from . import iconless, openwindows
from .names import ACTIVITY, MANAGER, NAME, OBJECT_MANAGER, PATH, PROPERTIES
from .running import Running, managed
from .shellwords import ABSENT, for_activity, sentence, without_host

LAUNCH_S = 60
WAKE_AGAIN_S = 10
HANGING_MS, GRACE_MS = 3000, 1500
"""From Stop to SIGTERM, and from there to the end; the shell's own figures."""

SOON_S = 1
"""Past this another may have the uid of what was stopped."""

LOOK_S, AGAIN_MS = 30, 1000
"""How long the service is asked again what runs, and how often."""

RESUME_S, RESUME_MS = 10, 250
"""How long what is resumed may wait for its own end, and how often it tries."""

LEAVE_S, LOOK_MS = 5, 50
"""How long what is open may take to save itself when the shell is to end."""

_NOBODY = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.DBus.Error.TimedOut",  # it was started, and took no name
)


@dataclass(slots=True, eq=False)
class Launch:
    """One activity, from the click to its end; ``until`` its id may still be taken."""

    handler: Any
    id: str
    environment: dict[str, str]
    log: TextIO
    log_path: str
    until: float = 0.0
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
        self.launches: list[Launch] = []
        self.closing: set[str] = set()
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
        iconless.watch(self)
        self.wake()

    # ---------------------------------------------------------------------- a launch

    def create(self, handler: Any) -> None:
        """In the place of ActivityCreationHandler._create_activity."""
        handle, bundle = handler._handle, handler._bundle
        if handle.activity_id is None:
            handle.activity_id = self.factory.create_activity_id()
        id = str(handle.activity_id)
        if self.is_on_its_way(id):
            logging.info("isolauncher: %s is being launched: clicked twice", id)
            return
        # Not by the toolkit's proxy: it waits until it knows the shell's methods, and
        # a failure would be told of before the launch.
        self.tell_shell("NotifyLaunch", str(handler._service_name), id)
        # Whoever clicked waits for an answer, whatever goes wrong.
        try:
            environment = dict(self.factory.get_environment(bundle))
            path, log = self.factory.open_log_file(bundle)
        except Exception as error:
            self.fail(id, *_worded(error))
            return
        launch = Launch(
            handler=handler,
            id=id,
            environment=environment,
            log=log,
            log_path=str(path),
            until=time.monotonic() + RESUME_S,
        )
        self.launches.append(launch)
        self.ask_again(launch)

    def is_on_its_way(self, id: str) -> bool:
        """Whether it opens anyway; the shell does not look before it has its window."""
        of_it = [one for one in self.launches if one.id == id]
        there = self.shell.get_activity_by_id(id) is not None
        return any(there or not one.running for one in of_it)

    def has_launched(self, id: str) -> bool:
        return any(one.id == id for one in self.launches)

    def ask_again(self, launch: Launch) -> bool:
        try:
            self.ask(launch)
        except Exception as error:
            self.refused(launch, error)
        return False

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
        for one in self.launches[:]:
            if one.running and one.id == launch.id:
                self.lose(one)
        launch.running = True

        def told(pid: Any) -> None:
            launch.pid = int(pid)

        self.ask_pid(launch.id, told, _of_no_interest)

    def refused(self, launch: Launch, error: Exception) -> None:
        """Nothing was launched: say why, or do without, as the administrator wants."""
        why = understood(error)
        if why.code == "id-taken" and time.monotonic() < launch.until:
            # Stopped, and resumed before it has ended.
            GLib.timeout_add(RESUME_MS, self.ask_again, launch)
            return
        self.launches.remove(launch)
        try:
            if why.code in ABSENT and self.may_be_unisolated(why):
                self.launch_unisolated(launch, why)
                return
        except Exception as failed:
            said, logged = _worded(failed)
            lines = [why.line(), logged]
        else:
            said, lines = sentence(why), [why.line()]
        _finish(launch.log, *(f"isolauncher: {line}" for line in lines))
        self.fail(launch.id, said, lines[-1], launch.log_path)

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
        child = subprocess.Popen(
            [str(word) for word in command],
            env=for_activity(launch.environment, bundle.get_command()),
            cwd=str(bundle.get_path()),
            stdin=subprocess.DEVNULL,
            stdout=launch.log.fileno(),
            stderr=launch.log.fileno(),
        )
        GLib.child_watch_add(
            child.pid, self.factory._child_watch_cb, (launch.log, launch.id)
        )
        try:
            self.warn(launch)
        except Exception as error:  # it runs all the same
            _logged(error)

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
        id = str(path).rpartition("/")[2]
        self.closing.discard(id)
        of_it = [one for one in self.launches if one.id == id]
        launch = next((one for one in of_it if one.running), None)
        if launch is None:
            return  # another's: of a shell before this one, or of the command line
        self.launches.remove(launch)
        if signal:
            how, said = f"Terminated by signal {signal}", f"It ended by signal {signal}"
        elif status:
            how, said = f"Exited with status {status}", f"It ended with status {status}"
        else:
            how = "Normal successful completion"
        why = (f"isolauncher: {reason}",) if reason else ()
        _finish(launch.log, *why, f"{how}, pid {launch.pid} activity_id {id}")
        # The shell knows ids alone: it would take it for the end of the next one.
        if (status or signal) and len(of_it) == 1:
            self.fail(id, f"{said}.", reason or how, launch.log_path)

    def fail(self, id: str, said: str, logged: str, log: str = "") -> None:
        """Have the shell say that it failed to start, and why, if it still waits."""
        logging.error("isolauncher: %s: %s", id, logged)
        reason = self.reasons[id] = _markup(said, os.path.basename(log))

        def told(*answer: object) -> None:
            # It has been shown by now, or never will be.
            if self.reasons.get(id) is reason:
                del self.reasons[id]

        self.tell_shell("NotifyLaunchFailure", id, then=told)

    def tell_shell(
        self, method: str, *words: str, then: Callable[..., None] | None = None
    ) -> None:
        """Over the bus, as the toolkit does it; ``then``, whatever is answered."""
        name = "org.laptop.Shell"

        def failed(error: object) -> None:
            _logged(error)
            if then is not None:
                then()

        self.bus.call_async(
            *(name, "/org/laptop/Shell", name, method, "s" * len(words), words),
            *(then or _of_no_interest, failed),
        )

    def explain(self, model: Any, activity: Any) -> None:
        """Below the shell's "failed to start", in the window with the pulsing icon."""
        id = str(activity.get_activity_id())
        reason = self.reasons.get(id)
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
        """Ask it to close its window, and end what hangs; not confined: otherwise.

        Who that is, the X server, the kernel and the service say; the window itself
        only where several activities of a bundle have one uid.
        """
        pid = _process(activity)
        uid = openwindows.owner(pid) if pid else None
        if uid == os.getuid() and pid != os.getpid():
            otherwise()
            return
        activity.stop()
        if uid is None:
            logging.error("isolauncher: whose window is stopped is not known")
            return
        said, began = str(activity.get_activity_id()), time.monotonic()

        def found(running: Sequence[Running]) -> None:
            if time.monotonic() - began > SOON_S and openwindows.owner(pid) != uid:
                return  # and the uid may be another's by now
            of_it = [one for one in running if one.uid == uid]
            if len(of_it) > 1:
                of_it = [one for one in of_it if one.id == said]
            for one in of_it:
                GLib.timeout_add(HANGING_MS, self.end, one.id, one.pid)

        self.ask_running(found)

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

        Sugar's session manager asks its own clients; a sandbox has no way to it. What
        was launched past this shell is asked when the service has named it.
        """
        until = time.monotonic() + LEAVE_S
        own = {launch.id for launch in self.launches}
        heard = False
        for id in own:
            activity = self.shell.get_activity_by_id(id)
            if activity is not None:
                activity.stop()

        def found(running: Sequence[Running]) -> None:
            nonlocal heard
            heard = True
            uids = {one.uid: one.id for one in running}
            ids = {one.id for one in running}
            owners = _owners()
            for activity in list(self.shell):
                said = str(activity.get_activity_id())
                owner = owners.get(activity.get_xid() or 0, -1)
                id = said if said in ids else uids.get(owner)
                if id is not None and said not in own:
                    self.closing.add(id)
                    activity.stop()

        def look() -> bool:
            waits = self.launches or self.closing or not heard
            if waits and time.monotonic() < until:
                return True
            then()
            return False

        self.ask_running(found, LEAVE_S, nobody=lambda: found(()))
        GLib.timeout_add(LOOK_MS, look)

    def ask_pid(self, id: str, found: Callable[..., None], failed: Any) -> None:
        self.bus.call_async(
            *(NAME, _path(id), PROPERTIES, "Get", "ss", (ACTIVITY, "Pid")),
            *(found, failed),
        )

    def ask_running(
        self,
        found: Callable[[Sequence[Running]], None],
        patience_s: float = LOOK_S,
        nobody: Callable[[], None] = lambda: None,
    ) -> None:
        """What runs; for so long again, while the service does not know it."""
        until = time.monotonic() + patience_s

        def failed(error: Any) -> None:
            if str(error.get_dbus_name()).startswith(_NOBODY):
                _logged(error)
                nobody()
            elif time.monotonic() < until:
                GLib.timeout_add(AGAIN_MS, ask)
            else:
                _logged(error)

        def ask() -> bool:
            self.bus.call_async(
                *(NAME, PATH, OBJECT_MANAGER, "GetManagedObjects", "", ()),
                *(lambda objects: found(managed(objects)), failed),
            )
            return False

        ask()

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
            self.was_lost = any(launch.running for launch in self.launches)
            if self.was_lost:
                self.wake()
        elif self.was_lost:
            self.was_lost = False
            self.ask_running(self.look_again, math.inf)

    def look_again(self, running: Sequence[Running]) -> None:
        there = {one.id for one in running}
        for launch in self.launches[:]:
            if launch.running and launch.id not in there:
                how = self.lose(launch)
                if self.shell.get_launcher(launch.id) is not None:
                    self.fail(launch.id, "It ended.", how, launch.log_path)

    def lose(self, launch: Launch) -> str:
        """It has ended, and nobody has said how; returns what its log says."""
        self.launches.remove(launch)
        how = "isolauncher-session ended before it: how it ends is not known"
        _finish(launch.log, f"{how}, pid {launch.pid} activity_id {launch.id}")
        return how


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


def _path(id: str) -> str:
    return f"{PATH}/Activity/{id}"


def _process(activity: Any) -> int:
    """Of the window that is closed first, by the X server's word; 0: not known."""
    number = activity.get_xid()
    try:
        window = windows.one(os.environ, number) if number else None
    except HostError as error:
        _logged(error)
        return 0
    return window.pid if window else 0


def _owners() -> dict[int, int]:
    """Of each window the uid of its process, where that can be known."""
    try:
        found = windows.present(os.environ)
    except HostError as error:
        _logged(error)
        return {}
    owners = {one.number: openwindows.owner(one.pid) for one in found if one.pid}
    return {number: uid for number, uid in owners.items() if uid is not None}


def _worded(error: Exception) -> tuple[str, str]:
    """For the screen, and for the log."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}", str(error)
    return str(error), f"{type(error).__name__}: {error}"


def _markup(said: str, log: str) -> str:
    more = f"\n<small>{GLib.markup_escape_text(log)}</small>" if log else ""
    return f"{GLib.markup_escape_text(said)}{more}"


def _finish(log: TextIO, *lines: str) -> None:
    try:
        with log:
            log.writelines(f"{line}\n" for line in lines)
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
        own = adapter.has_launched(str(self.get_activity_id()))
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
