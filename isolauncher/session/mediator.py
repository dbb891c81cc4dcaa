# SPDX-License-Identifier: GPL-3.0-or-later
"""The person's process beside one sandbox: its directories, its bus, its Journal.

It comes before the sandbox and ends with it: init holds the other end of a pipe, and
nothing else of the session is needed for that. Then what was only for this run is
removed. What it makes is described to whoever asked for it and brought into the
sandbox by the daemon; what the activity then says or leaves there arrives here, and is
looked at by `relay`, `journal` and `files`.

Below the person's profile (``~/.sugar/default``):

    ID/data                     kept; a bundle of the person's own has another place
    ID/instance/ACTIVITY        this run's, as ID/tmp/ACTIVITY
    isolauncher/running/ACTIVITY    what to remove if this process is killed
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from gi.repository import Gio, GLib

from .. import client, kernel, request, wire
from ..errors import HostError, IsolauncherError, RequestError, WireError
from . import chooser, copying, files, journal, presence, proxy, relay

SCAN_MS = 1000
ATTEND_S = 1
"""How long after a launch it is watched whether the session goes on."""
AGAIN_S = 1
_GROWTH = 1 << 20
_NAMES = 256
_CLIENT = (
    Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
    | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
)
_NOBODY = (Gio.IOErrorEnum.CONNECTION_REFUSED, Gio.IOErrorEnum.NOT_FOUND)
_SCAN_ANYWAY = 15
"""Every so many times it is counted, whatever the file system says of its space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the daemon grants, and what of the person's session it is for.

    ``root`` is SUGAR_ACTIVITY_ROOT inside, ``profile`` the path of the profile;
    ``address`` of the session bus, "" for none. ``data`` and ``file_size`` in bytes.
    """

    id: str
    bundle_id: str
    installed_by: str
    furniture: list[str]
    root: str
    profile: str
    runtime: str
    address: str
    documents: str
    object_id: str | None
    data: int
    file_size: int
    session_call: list[str]
    session_own: list[str]
    accessibility: bool
    input_method: bool


def serve(wanted: Wanted, channel: socket.socket) -> None:
    """Make it all, tell ``channel``, and stay until the sandbox has ended."""
    try:
        made = Mediator(wanted, channel)
    except IsolauncherError as error:
        _refuse(channel, error)
        return
    except OSError as error:
        text = f"the activity's directories cannot be made: {error}"
        _refuse(channel, HostError(text, code="session-directories", step="furnish"))
        return
    # Not before: nobody waits for this.
    kernel.title(f"isolauncher: mediator({wanted.id})")
    made.run()


def _refuse(channel: socket.socket, error: IsolauncherError) -> None:
    with suppress(WireError):  # the launch has failed already, for another reason
        wire.send(channel, {"event": "refused", **error.as_fields()})


def rehearse() -> None:
    """As the beginning of `serve`, for nobody: in a directory that is gone at once."""
    channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryDirectory(prefix="isolauncher-") as top, channel, its:
        wanted = Wanted(
            id="none",
            bundle_id="none",
            installed_by="system",
            furniture=["data"],
            root="",
            profile=top,
            runtime="",
            address="",
            documents="none",
            object_id=None,
            data=1 << 20,
            file_size=0,
            session_call=[],
            session_own=[],
            accessibility=False,
            input_method=False,
        )
        wire.send(channel, asdict(wanted))
        made = Mediator(from_fields(wire.recv(its).fields), its)
        if made.directories is not None:
            _rehearse_bus(top, made.directories)
        wire.recv(channel, max_fds=8).close()
        made.end()
        made.forget()
    # It needs a moment before it can be told what to filter.
    proxy.prepare()


_DRIVER, _DRIVER_AT = "org.freedesktop.DBus", "/org/freedesktop/DBus"


def _rehearse_bus(top: str, directories: files.Directories) -> bytes:
    """A conversation such as an activity begins with, with nobody at either end.

    What it is told. (What is asked of GLib for the first time PyGObject has to look
    up; of the person's bus nothing is asked.)
    """
    upstream, bus = os.path.join(top, "filter"), os.path.join(top, "bus")
    mediated = journal.Journal(
        part=journal.Part(
            documents="own",
            bundle_id="none",
            activity_id="none",
            maker="none",
            opened=None,
            file_size=0,
            directories=directories,
            staging=top,
        ),
        connect=_unreachable,
    )
    turn = GLib.MainContext.default().iteration
    stand_ins = (presence.NoAccounts(), mediated)
    store, end = socket.socketpair()
    mediated.use(asked := _silent(end))
    with (
        store,
        socket.socket(socket.AF_UNIX) as behind,
        socket.socket(socket.AF_UNIX) as one,
    ):
        behind.bind(upstream)
        behind.listen()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(bus)
        listener.listen()
        talk = relay.Relay(
            listener, upstream, stand_ins, lambda: None, frozenset({"none"})
        )
        mediated.relay = talk
        try:
            one.connect(bus)
            turn(False)
            other, _ = behind.accept()
            with other:
                for sender, words in _conversation(mediated.unique):
                    (one if sender == "activity" else other).sendall(words)
                    while turn(False):
                        pass
                asked.close_sync(None)
                while mediated.is_busy:
                    turn(True)
                return one.recv(1 << 16)
        finally:
            talk.close()
            for path in (upstream, bus):
                os.unlink(path)


def _unreachable() -> Any:
    raise GLib.Error("there is none")


def _silent(end: socket.socket) -> Any:
    """A connection that nobody answers, over ``end``, which is its own from now on."""
    made = Gio.Socket.new_from_fd(end.detach()).connection_factory_create_connection()
    return Gio.DBusConnection.new_sync(
        made, None, Gio.DBusConnectionFlags.NONE, None, None
    )


def _conversation(datastore: str) -> Iterator[tuple[str, bytes]]:
    """Who says what; ``datastore`` is its unique name."""
    yield "activity", b"\0AUTH EXTERNAL\r\n"
    yield "bus", b"OK 0\r\n"
    yield "activity", b"BEGIN\r\n"
    driver = (_DRIVER, _DRIVER_AT, _DRIVER)
    calls: tuple[tuple[tuple[str, str, str], str, Any], ...] = (
        (driver, "Hello", None),
        (driver, "AddMatch", GLib.Variant("(s)", ("sender='none'",))),
        (driver, "GetNameOwner", GLib.Variant("(s)", (journal.NAME,))),
        (driver, "RequestName", GLib.Variant("(su)", ("none", 0))),
        (
            (datastore, journal.PATH, journal.NAME),
            "create",
            GLib.Variant("(a{sv}sb)", ({"title": GLib.Variant("s", "")}, "", False)),
        ),
    )
    for serial, ((name, path, interface), member, body) in enumerate(calls, 1):
        call = Gio.DBusMessage.new_method_call(name, path, interface, member)
        call.set_serial(serial)
        if body is not None:
            call.set_body(body)
        yield "activity", call.to_blob(Gio.DBusCapabilityFlags.NONE)
        if member in ("Hello", "AddMatch"):
            answer = Gio.DBusMessage.new_method_reply(call)
            answer.set_serial(serial)
            yield "bus", answer.to_blob(Gio.DBusCapabilityFlags.NONE)


class Mediator:
    def __init__(self, wanted: Wanted, channel: socket.socket) -> None:
        self.wanted = wanted
        self.channel = channel
        self.loop = GLib.MainLoop()
        self.hold = -1
        self.held = 0
        self.directories: files.Directories | None = None
        self.working_copy: copying.WorkingCopy | None = None
        self.relay: relay.Relay | None = None
        self.proxy: proxy.Proxy | None = None
        self.session: Any = None
        self.buses: list[tuple[str, str, tuple[str, ...]]] = []
        self.later: list[Callable[[], object]] = []
        """What is done when the activity runs."""
        self.bus_at: dict[str, str] = {}
        self.scans = 0
        self.space = (0, 0)
        self.most = wanted.data
        self.most_entries = files.MAX_ENTRIES
        self.scanning = False
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.stopping: set[str] = set()
        self.note = Note(wanted.profile, wanted.id)
        try:
            if "data" in wanted.furniture:
                self._directories()
            # An activity that was started by path only has no business with a bus.
            if "bus" in wanted.furniture and wanted.address:
                self._bus()
            self._tell()
        except BaseException:
            self.end()
            raise

    def run(self) -> None:
        watch = GLib.IO_IN | GLib.IO_HUP | GLib.IO_ERR
        GLib.unix_fd_add_full(
            GLib.PRIORITY_DEFAULT, self.channel.fileno(), watch, self._asked
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # The session ends before its activities do; so the one that stays.
            signal.signal(number, signal.SIG_IGN)
        if self.directories is not None:
            GLib.timeout_add(SCAN_MS, self._look)
        try:
            self.loop.run()
        finally:
            self.end()

    def _directories(self) -> None:
        wanted = self.wanted
        place = os.path.join(wanted.profile, wanted.bundle_id)
        if wanted.installed_by != "system":
            # Its id is only a claim: another's data are not there.
            place = os.path.join(wanted.profile, "isolauncher/user", wanted.bundle_id)
        own = {
            "data": os.path.join(place, "data"),
            "instance": os.path.join(place, "instance", wanted.id),
            "tmp": os.path.join(place, "tmp", wanted.id),
        }
        self.note.add(own["instance"], own["tmp"])
        for name in ("instance", "tmp"):
            files.remove(own[name])
        fds = {name: files.make(path) for name, path in own.items()}
        self.directories = files.Directories(wanted.root, fds)
        try:
            size, entries = self.directories.used()
        except files.Unfit as error:
            raise HostError(
                f"what {wanted.bundle_id} has kept cannot be counted: it holds {error}",
                code="data-unfit",
                step="furnish",
                hint=f"look at {own['data']}, and remove or move away what is in it",
            ) from None
        # What was too much already is not held against this run.
        self.most = max(self.most, size)
        self.most_entries = max(self.most_entries, entries)

    def _bus(self) -> None:
        wanted = self.wanted
        proxy.refuse_missing()
        runtime = _runtime(wanted.runtime)
        top = tempfile.mkdtemp(prefix="isolauncher-", dir=runtime)
        self.bus_at["top"] = top
        self.note.add(top)
        upstream, bus = os.path.join(top, "filter"), os.path.join(top, "bus")
        rules = proxy.session_rules(
            call=wanted.session_call,
            own=wanted.session_own,
            activity_id=wanted.id,
            input_method=wanted.input_method,
        )
        buses = [(wanted.address, upstream, rules)]
        if wanted.accessibility:
            address = _accessibility_bus(wanted.address)
            if address:
                there = os.path.join(top, "accessibility")
                buses.append((address, there, proxy.accessibility_rules()))
                self.bus_at["accessibility"] = there
        self.buses = buses
        stand_ins: list[relay.StandIn] = []
        if not any(call.startswith(presence.NAME) for call in wanted.session_call):
            stand_ins.append(presence.NoAccounts())
        mediated: journal.Journal | None = None
        choosing: chooser.Chooser | None = None
        if wanted.documents != "none" and self.directories is not None:
            mediated = journal.Journal(
                part=journal.Part(
                    documents=wanted.documents,  # type: ignore[arg-type]
                    bundle_id=wanted.bundle_id,
                    activity_id=wanted.id,
                    maker=f"{wanted.installed_by}:{wanted.bundle_id}",
                    opened=wanted.object_id,
                    file_size=min(wanted.file_size or wanted.data, wanted.data),
                    directories=self.directories,
                    staging=self.note.path,
                ),
                connect=lambda: _connect(wanted.address),
            )
            stand_ins.append(mediated)
            named = any(c.startswith(f"{chooser.NAME}=") for c in wanted.session_call)
            chooses = wanted.documents in ("opened", "all") and not named
            if chooses and "display" in wanted.furniture:
                choosing = chooser.Chooser(
                    connect=lambda: _connect(wanted.address), chosen=mediated.choose
                )
                stand_ins.append(choosing)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(bus)
        # The activity has another uid. Who gets as far as this directory is the
        # person, or has it mounted.
        os.chmod(bus, 0o666)  # noqa: S103
        listener.listen(relay.MAX_CONNECTIONS)
        # Of Sugar's `sugar-activity -s`: by this name one process takes over the next
        # instance of its bundle, and another's instance is not its business.
        private = frozenset({wanted.bundle_id}) - set(wanted.session_own)
        # Of a name that is told apart by its end the interface has the beginning.
        own = tuple(n.partition("{")[0].removesuffix(".*") for n in wanted.session_own)
        self.relay = relay.Relay(
            listener, upstream, stand_ins, self._ready, private, own
        )
        if choosing is not None:
            choosing.relay = self.relay
        if mediated is not None:
            mediated.relay = self.relay
            self.later.append(mediated.get_ready)
        self.bus_at["bus"] = bus
        if "accessibility" in self.bus_at:
            self._ready()
            os.chmod(self.bus_at["accessibility"], 0o666)  # noqa: S103

    def _start_filter(self) -> None:
        if self.proxy is None and self.buses:
            self.proxy = proxy.taken()
            self.proxy.filter(self.buses)

    def _ready(self) -> None:
        """The filter is there to be connected to."""
        self._start_filter()
        if self.proxy is not None and not self.proxy.is_ready:
            self.proxy.wait()

    def _tell(self) -> None:
        """Hand over everything, with a new pipe for the sandbox to hold."""
        if self.held:
            GLib.source_remove(self.held)
            os.close(self.hold)
        self.hold, end = os.pipe2(os.O_CLOEXEC)
        fds = {"hold": end}
        opened: list[int] = [end]
        try:
            if self.directories is not None:
                fds |= self.directories.fds
            for name in ("bus", "accessibility"):
                if name in self.bus_at:
                    flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
                    fds[name] = os.open(self.bus_at[name], flags)
                    opened.append(fds[name])
            names = list(fds)
            wire.send(self.channel, {"event": "made", "names": names}, [*fds.values()])
        finally:
            wire.close_all(opened)
        watch = GLib.IO_IN | GLib.IO_HUP | GLib.IO_ERR
        self.held = GLib.unix_fd_add_full(
            GLib.PRIORITY_DEFAULT, self.hold, watch, self._ended
        )

    def _asked(self, *_: Any) -> bool:
        """ "copy", with a directory to work in; or nothing more, ever."""
        try:
            message = wire.recv(self.channel, max_fds=1)
        except IsolauncherError:
            self._no_longer_named()
            return False
        try:
            (scratch,) = message.fds
            assert self.directories is not None  # noqa: S101 (they needed it)
            self.working_copy = copying.WorkingCopy(self.directories, scratch)
            self.directories.fds.update(self.working_copy.fds)
            self._tell()
        except (OSError, files.Unfit) as error:
            failed = HostError(
                f"its kept data cannot be copied: {error}", code="session-copy"
            )
            wire.send(self.channel, {"event": "refused", **failed.as_fields()})
        return True

    def _no_longer_named(self) -> None:
        """It runs, or never will: what is mounted needs no name out here."""
        # By the time it asks for the first time; not while init and the stem are at
        # work. If this is the end, that is noticed before.
        for work in (self._start_filter, *self.later):
            GLib.idle_add(work)
        # In its own time: what runs opens its window now.
        GLib.timeout_add_seconds(ATTEND_S, self._attend_session)
        for name in ("bus", "accessibility"):
            if name in self.bus_at:
                with suppress(OSError):
                    os.unlink(self.bus_at[name])

    def _attend_session(self) -> None:
        """Who has logged out shall leave nothing running: the bus is the session's."""

        def connected(_: Any, result: Any) -> None:
            try:
                self.session = Gio.DBusConnection.new_for_address_finish(result)
            except GLib.Error as error:
                if any(error.matches(Gio.io_error_quark(), one) for one in _NOBODY):
                    self._session_over()
                else:  # it may have gone while we spoke with it, or have no place
                    GLib.timeout_add_seconds(1, self._attend_session)
            else:
                self.session.connect("closed", self._session_over)
                if self.session.is_closed():  # that signal may have been sent before
                    self._session_over()

        if self.wanted.address:
            words = (self.wanted.address, _CLIENT, None, None, connected)
            Gio.DBusConnection.new_for_address(*words)

    def _session_over(self, *_: Any) -> None:
        why = (
            "the session that it was launched from has ended",
            "session-ended",
            "nothing to do; what it had not kept is lost, as without isolauncher",
        )
        threading.Thread(target=self._stop, args=why, daemon=True).start()

    def _ended(self, *_: Any) -> bool:
        self.held = 0
        self.over.set()
        self.loop.quit()
        return False

    def _look(self) -> bool:
        """Count what it has stored, if there is reason to."""
        assert self.directories is not None  # noqa: S101
        self.scans += 1
        space = os.statvfs(self.directories.fds["data"])
        left, names = space.f_bavail * space.f_frsize, space.f_favail
        grown = self.space[0] - left > _GROWTH or self.space[1] - names > _NAMES
        if not self.scanning and (grown or self.scans % _SCAN_ANYWAY == 1):
            self.space = (left, names)
            self.scanning = True
            threading.Thread(target=self._scan, daemon=True).start()
        return True

    def _scan(self) -> None:
        assert self.directories is not None  # noqa: S101
        try:
            size, _ = self.directories.used(self.most_entries)
            why = ""
            if size > self.most:
                why = f"its directories hold {size} bytes, {self.wanted.data} at most"
        except files.Unfit as error:
            why = f"its directories hold {error}"
        except OSError as error:
            # What changes meanwhile is passed over there. A limit that cannot be held
            # must not be one that is not held.
            why = f"its directories cannot be counted: {error.strerror}"
        finally:
            self.scanning = False
        if why:
            hint = "what it has kept stays; see files.data of its policy"
            self._stop(why, "data-full", hint, step="data", grace_ms=0)

    def _stop(
        self,
        why: str,
        code: str,
        hint: str,
        step: str = "session",
        grace_ms: int = 5000,
    ) -> None:
        """End it; who waits for that is told why, and so is the session's log.

        Until it has ended: a daemon that cannot be asked now may be back later.
        """
        with self.lock:
            if code in self.stopping:
                return
            self.stopping.add(code)
        wanted = self.wanted
        line = HostError(
            f"{wanted.id} is stopped: {why}", code=code, hint=hint, step=step
        ).line()
        _log(line)
        stop = request.Stop(ids=(wanted.id,), grace_ms=grace_ms, reason=line)
        told = ""
        while not self.over.is_set():
            try:
                (answer,) = client.ask(request.encode(stop))
                failed = _not_stopped(answer)
            except Exception as error:
                # Whatever it is, what is to end must not go on for it.
                failed = str(error)
            if failed not in ("", told):
                _log(f"{wanted.id} could not be stopped, and will be: {failed}")
                told = failed
            self.over.wait(AGAIN_S)

    def end(self) -> None:
        """What was only for this run goes."""
        if self.relay is not None:
            self.relay.close()
        if self.proxy is not None:
            self.proxy.close()
        if self.working_copy is not None:
            self.working_copy.copy_back()
        self.note.clear()

    def forget(self) -> None:
        """After `end`, in a process that goes on: all descriptors."""
        GLib.source_remove(self.held)
        os.close(self.hold)
        if self.directories is not None:
            wire.close_all(self.directories.fds.values())


class Note:
    """``isolauncher/running/ID``: what to remove, and whether anybody still will.

    Its directory is locked (flock(2)) by the process that will, and what is passed to
    the DataStore is copied there, which is on the disk of the Journal.
    """

    def __init__(self, profile: str, id: str) -> None:
        self.path = os.path.join(profile, "isolauncher/running", id)
        self._fd = -1
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise RequestError(
                f"an activity {id!r} is running", code="id-taken"
            ) from None

    def add(self, *paths: str) -> None:
        known = self.passing()
        with open(os.path.join(self.path, "passing"), "w") as file:
            json.dump([*known, *paths], file)

    def passing(self) -> list[str]:
        try:
            with open(os.path.join(self.path, "passing")) as file:
                found = json.load(file)
        except (OSError, ValueError):
            return []
        return [path for path in found if isinstance(path, str)]

    def clear(self) -> None:
        for path in self.passing():
            for _ in range(100):
                # Its last process may still be on its way out, and write.
                with suppress(OSError):
                    files.remove(path)
                    break
                time.sleep(0.05)
        files.remove(self.path)
        os.close(self._fd)


def clear(profile: str, running: set[str]) -> None:
    """Remove what mediators that were killed have left, but of what still runs."""
    top = os.path.join(profile, "isolauncher/running")
    try:
        names = os.listdir(top)
    except OSError:
        return
    for name in names:
        if name not in running:
            with suppress(OSError, RequestError):
                Note(profile, name).clear()


def _log(line: str) -> None:
    with suppress(OSError):  # where the log went may be gone
        sys.stderr.write(f"{line}\n")


def _not_stopped(answer: Mapping[str, Any]) -> str:
    """Why not, by the daemon's word; "" if it was."""
    return next((one["message"] for one in answer["results"] if one["message"]), "")


def from_fields(fields: Mapping[str, Any]) -> Wanted:
    return Wanted(**fields)


def _runtime(named: str) -> str | None:
    """XDG_RUNTIME_DIR where it is what it should be: the person's own alone."""
    try:
        status = os.stat(named)
    except (OSError, ValueError):
        return None
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return named if mine and not status.st_mode & 0o077 else None


def _connect(address: str) -> Any:
    return Gio.DBusConnection.new_for_address_sync(address, _CLIENT, None, None)


def _accessibility_bus(address: str) -> str:
    """Its address, if the session has one and somebody listens; else ""."""
    name, path = "org.a11y.Bus", "/org/a11y/bus"
    try:
        bus = _connect(address)
        words = (name, path, name, "GetAddress", None, None)
        answer = bus.call_sync(*words, Gio.DBusCallFlags.NONE, 2000, None)
        bus.close_sync(None)
    except GLib.Error:
        return ""
    return str(answer.unpack()[0])
