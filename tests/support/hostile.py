# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle that tries everything, beside a session in which everything can be tried.

`Witness` is one run of the program in support/hostile_program.py, in a sandbox or as
the person: `Witness.do` has it call a function of the test's. `Shell` stands where the
Sugar shell and Telepathy would, owns all their names on one connection as the shell
does, and tells what arrived.
"""

from __future__ import annotations

import inspect
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import bundles
from .daemons import TOP, service
from .desktop import PYTHON, desktop
from .sugar import NAME, PATIENCE_S, Session, profile, session

PROGRAM = Path(__file__).with_name("hostile_program.py")
_FUTURE = "from __future__ import annotations\n"
BUNDLE = "org.laptop.Hostile"


@dataclass
class Witness:
    """A running program, and whoever waits for it (`isolauncher launch`, or itself)."""

    process: subprocess.Popen[bytes]
    id: str = ""
    errors: Path = Path("/dev/null")
    unread: bytes = b""

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns there; AssertionError with what it raised."""
        self.send(function, *arguments)
        return self.answer()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        assert self.process.stdin is not None
        asked = {
            "name": function.__name__,
            "source": _FUTURE + textwrap.dedent(inspect.getsource(function)),
            "arguments": arguments,
        }
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        answer = json.loads(self.line())
        assert "raised" not in answer, answer["raised"]
        return answer["said"]

    def line(self) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([fd], [], [], PATIENCE_S)
            assert ready, "it said nothing"
            more = os.read(fd, 65536)
            assert more, (
                f"it ended: {self.unread!r}, {self.process.wait(PATIENCE_S)}"
                f" {self.errors.read_text()}"
            )
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def end(self) -> int:
        """Let it end by itself; the status."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


@dataclass
class Shell:
    """What stands in for the shell; ``unique`` is its connection's name."""

    witness: Witness
    unique: str
    person: Witness

    def heard(self) -> list[dict[str, Any]]:
        """What has arrived since it was asked last.

        The question goes the way of every message, so what was sent before it, and
        followed by an answer from the bus, has arrived before it.
        """
        self.person.send(mark)
        # Read first: it may be more than a pipe holds.
        found: list[dict[str, Any]] = json.loads(self.witness.line())
        self.person.answer()
        return found


def mark(me):  # type: ignore[no-untyped-def]
    return me.call("org.laptop.Shell", "/", "org.laptop.Test", "Mark")


def listen(me, names):  # type: ignore[no-untyped-def]
    """Own ``names``, answer every call, and print what has come when asked to."""
    import json
    import threading

    from gi.repository import Gio, GLib

    def send(bus, member, body):  # type: ignore[no-untyped-def]
        driver = "org.freedesktop.DBus"
        asked = Gio.DBusMessage.new_method_call(driver, "/", driver, member)
        asked.set_body(body)
        bus.send_message(asked, Gio.DBusSendMessageFlags.NONE)

    def arrived(bus, message, incoming):  # type: ignore[no-untyped-def]
        kind = message.get_message_type()
        call = kind == Gio.DBusMessageType.METHOD_CALL
        ours = message.get_sender() in (None, "org.freedesktop.DBus")
        signal = kind == Gio.DBusMessageType.SIGNAL
        if not incoming or ours or not (call or signal):
            return message
        body = message.get_body()
        one = {
            "call": call,
            "sender": message.get_sender(),
            "to": message.get_destination(),
            "path": message.get_path(),
            "interface": message.get_interface(),
            "member": message.get_member(),
            "signature": "" if body is None else body.get_type_string(),
        }
        if one["member"] == "Mark":
            print(json.dumps(kept), flush=True)
            kept.clear()
        elif one["member"] == "Emit":
            path, name, words = body.unpack()
            interface, _, member = name.rpartition(".")
            said = GLib.Variant(f"({'s' * len(words)})", tuple(words))
            bus.emit_signal(None, path, interface, member, said)
        elif one["member"] == "LetGo":
            send(bus, "ReleaseName", GLib.Variant("(s)", body.unpack()))
        elif one["member"] == "TakeBack":
            again = (*body.unpack(), 4)
            send(bus, "RequestName", GLib.Variant("(su)", again))
        else:
            kept.append(one)
        if call:
            answer = Gio.DBusMessage.new_method_reply(message)
            if one["member"].startswith("ChooseObject") and body is not None:
                one["values"] = body.unpack()
                one["shown"] = f"shown{len(kept)}"
                answer.set_body(GLib.Variant("(s)", (one["shown"],)))
            bus.send_message(answer, Gio.DBusSendMessageFlags.NONE)
        return None

    kept: list[dict[str, Any]] = []
    me.bus.add_filter(arrived)
    for name in names:
        said = me.driver("RequestName", "(su)", (name, 4))
        assert said == ["ok", 1], (name, said)
    me.driver("AddMatch", "(s)", ("type='signal'",))
    print(json.dumps({"said": me.bus.get_unique_name()}), flush=True)
    threading.Event().wait()


NAMES = (
    "org.laptop.Shell",
    "org.laptop.Journal",
    "org.freedesktop.Notifications",
    "org.freedesktop.Telepathy.AccountManager",
    "org.freedesktop.Telepathy.MissionControl5",
    "org.freedesktop.Telepathy.ChannelDispatcher",
    "org.freedesktop.Telepathy.Client.Sugar",
    "org.freedesktop.secrets",
    "org.example.Unheard",
)


@dataclass
class Hostile:
    """A session, its shell, and a program of the person's without a sandbox."""

    session: Session
    shell: Shell
    person: Witness
    systems: Path
    service: subprocess.Popen[bytes] = field(init=False)
    count: int = 0

    def serve(self) -> None:
        """Start the session's service, with a log; returns when it has its name."""
        with open(self.log, "ab") as file:
            self.service = self.session.desktop.start(
                *(sys.executable, "-m", "isolauncher.session.service"),
                environment=self.session.environment,
                stderr=file,
            )
        until_owned(self.person, NAME)

    @property
    def log(self) -> Path:
        return self.session.desktop.top / "service.log"

    @property
    def home(self) -> Path:
        return self.session.desktop.home

    @property
    def runtime(self) -> Path:
        return Path(self.session.desktop.environment["XDG_RUNTIME_DIR"])

    def own(self, path: Path, data: bytes = b"") -> Path:
        """A file of the person's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        for one in (path, *path.parents):
            if one != self.home and one.is_relative_to(self.home):
                os.lchown(one, self.session.uid, self.session.uid)
        path.chmod(0o600)
        return path

    def bundle(self, id: str = BUNDLE) -> Path:
        """A system bundle with that id."""
        place = self.systems / id
        if not place.exists():
            source = PROGRAM.read_text()
            bundles.make(place, id=id, exec="attack", programs={"attack": source})
        return place / "Test.activity"

    def policy(self, id: str, text: str) -> Path:
        """A system bundle under a policy of its own, which extends ``sugar``."""
        self.session.service.policy(
            id.rpartition(".")[2].lower(),
            f'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["{id}"]\n{text}',
        )
        return self.bundle(id)

    @contextmanager
    def launch(
        self, bundle: Path | None = None, *words: str, id: str | None = None
    ) -> Iterator[Witness]:
        """The bundle in its sandbox, through the session's service."""
        self.count += 1
        id = id or f"hostile{self.count}"
        errors = self.session.desktop.top / f"errors-{id}"
        with open(errors, "wb") as log:
            process = self.session.isolauncher(
                *("launch", "-a", id, *words, str(bundle or self.bundle())),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        witness = Witness(process, id, errors)
        try:
            witness.answer()
            yield witness
        finally:
            if process.poll() is None:
                self.session.stop(id)
            witness.end()

    def mediator(self, id: str) -> int:
        """The pid of the process beside that sandbox."""
        found = self.processes(f"isolauncher: mediator({id})")
        # What it has just forked is called the same until it is another program.
        (pid,) = (one for one in found if _parent(one) not in found)
        return pid

    def filters(self) -> list[int]:
        """What filters a bus; one whose mediator waits has nothing to filter yet."""
        waiting = set(self.processes("isolauncher: mediators, spare"))
        return [
            pid
            for pid in self.processes("xdg-dbus-proxy")
            if _parent(pid) not in waiting
        ]

    def processes(self, title: str) -> list[int]:
        """The person's processes whose command line holds ``title``."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    words = Path(f"/proc/{name}/cmdline").read_bytes()
                    uid = os.stat(f"/proc/{name}").st_uid
                except OSError:
                    continue
                if title.encode() in words and uid == self.session.uid:
                    found.append(int(name))
        return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def hostile() -> Iterator[Hostile]:
    with ExitStack() as stack:
        made = stack.enter_context(desktop())
        daemon = stack.enter_context(service())
        profile(made)
        where = session(made, daemon)
        systems = Path(tempfile.mkdtemp(prefix="isolauncher-test-", dir="/opt"))
        systems.chmod(0o755)
        stack.callback(subprocess.run, ["rm", "-rf", systems], check=True)
        person, shell = _free(where), _free(where)
        stack.callback(person.end)
        stack.callback(_close, shell)
        shell.send(listen, NAMES)
        beside = Shell(shell, shell.answer(), person)
        ready = Hostile(session=where, shell=beside, person=person, systems=systems)
        ready.serve()
        yield ready


def until_owned(person: Witness, name: str) -> None:
    """Until ``name`` has an owner: the bus tells of it."""
    assert person.do(_until_owned, name) == ["ok", True]


def _until_owned(me, name):  # type: ignore[no-untyped-def]
    from gi.repository import Gio, GLib

    bus, context = "org.freedesktop.DBus", GLib.MainContext.default()
    about = (bus, bus, "NameOwnerChanged", "/org/freedesktop/DBus", name)
    flags = Gio.DBusSignalFlags.NONE
    watch = me.bus.signal_subscribe(*about, flags, lambda *_: None)
    while (said := me.driver("NameHasOwner", "(s)", (name,))) != ["ok", True]:
        context.iteration(True)
    me.bus.signal_unsubscribe(watch)
    return said


def _free(where: Session) -> Witness:
    """The same program without a sandbox, as the person."""
    process = where.desktop.start(
        *(PYTHON, str(PROGRAM)),
        environment={"PYTHONPATH": str(TOP)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
    )
    witness = Witness(process)
    witness.answer()
    return witness


def _close(witness: Witness) -> None:
    witness.process.kill()
    witness.end()


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return pid  # it has ended, and is not the one that stays
    return int(stat.rpartition(")")[2].split()[1])
