# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: what a child opens there, isolauncher opens.

    click → activityfactory → Launch, on the session bus → the daemon
      │                            └─ Exited ─▶ log, NotifyLaunchFailure
      └─ NotifyLaunch, environment, log file: the toolkit's own, as before

Debian's shell is not changed on disk. When it starts it imports the files of its
extension directories; the one of ours (integration/sugar/deviceicon) calls `install`,
which puts another method into the class through which every launch goes. Here is what
becomes of launches; beside it are whose windows there are (icons.py), Stop and what
precedes the shell's end (stopping.py), what is said on the bus (shellbus.py), and what
an activity calls its document (sourceview.py). The window manager takes a window from a
sandbox, which has a host name of its own, for one from another machine; its title shall
not say so.

If neither the service nor the daemon is to be had, an administrator's setting decides
(`[shell]` in isolauncher.toml).
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

from gi.repository import GLib

from .. import config, windows
from ..errors import IsolauncherError
from .icons import Icons
from .running import Running
from .shellbus import ShellBus, logged, understood
from .shellwords import ABSENT, for_activity, sentence, without_host
from .stopping import Stopping

RESUME_S, RESUME_MS = 10, 250
"""How long what is resumed may wait for its own end, and how often it tries."""


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
        self.reasons: dict[str, str] = {}
        self.bus = ShellBus()
        clients = windows.Clients(os.environ)
        self.icons = Icons(shell, clients, self.bus.ask_running, self.bus.end)
        self.stopping = Stopping(shell, self.icons, self.bus)
        self.was_lost = False
        self.looks_again = False

    def begin(self) -> None:
        self.bus.listen(self.exited, self.owner_changed)
        # After the shell's own, which writes the sentence that ours follows.
        self.shell.connect_after("launch-failed", self.explain)
        self.bus.wake()

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
        self.bus.tell_shell("NotifyLaunch", str(handler._service_name), id)
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
        options = {"activity-id": launch.id}
        for name, value in (("object-id", handle.object_id), ("uri", handle.uri)):
            if value is not None:
                options[name] = value
        self.bus.launch(
            # With a slash it is a directory; without one an id.
            os.path.join(str(bundle.get_path()), ""),
            options=options,
            invited=bool(handle.invited),
            environment=for_activity(launch.environment, bundle.get_command()),
            log=launch.log.fileno(),
            runs=lambda: self.runs(launch),
            refused=lambda error: self.refused(launch, error),
        )

    def runs(self, launch: Launch) -> None:
        for one in self.launches[:]:
            if one.running and one.id == launch.id:
                self.lose(one)
        launch.running = True

        def told(pid: int) -> None:
            launch.pid = pid

        self.bus.ask_pid(launch.id, told)

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
            self.bus.warn(
                launch.id,
                f"{bundle.get_name()} is not isolated",
                "isolauncher is not running, so it has all your rights.",
            )
        except Exception as error:  # it runs all the same
            logged(error)

    # ------------------------------------------------------------------------- its end

    def exited(self, status: int, signal: int, reason: str, id: str) -> None:
        """A signal of the service's; as the toolkit's own when a child has ended."""
        self.stopping.closing.discard(id)
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

        self.bus.tell_shell("NotifyLaunchFailure", id, then=told)

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

    def leave(self, then: Callable[[], None]) -> None:
        """Before the shell ends: have what is open saved, then."""
        self.stopping.leave(lambda: {launch.id for launch in self.launches}, then)

    # ------------------------------------------------------------------- the service

    def owner_changed(self, owner: str) -> None:
        """What runs goes on without the service; another one takes it up."""
        if not owner:
            self.was_lost |= any(launch.running for launch in self.launches)
            if self.was_lost:
                self.bus.wake()
        elif self.was_lost and not self.looks_again:
            self.looks_again = True
            self.bus.ask_running(self.look_again, math.inf, self.not_there)

    def not_there(self) -> None:
        """It went away again; whoever owns the name next is asked."""
        self.looks_again = False

    def look_again(self, running: Sequence[Running]) -> None:
        self.was_lost = self.looks_again = False
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


def install(config_file: str | None = None) -> None:
    """From now on this shell launches through isolauncher.

    ``config_file`` stands in for /etc/isolauncher/isolauncher.toml.
    """
    from gi.repository import Wnck
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
        adapter.stopping.stop(self._home_activity, lambda: stops(self, item))
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
        adapter.icons.watch(Wnck.Screen.get_default())
        adapter.begin()
    except BaseException:
        handlers._create_activity = toolkits
        setattr(palette, name, stops)
        session.SessionManager.initiate_shutdown = leaves
        shell.Activity.get_title = titles
        raise
