# SPDX-License-Identifier: GPL-3.0-or-later
"""A test's side of the spoilt daemon: launches, what is left of them, who to kill.

`spoilt_service` is a `Service` whose daemon, zygotes and sandboxes look at a board
before every call. `Run` is one launch as a bare client, whose words come one by one:
what a command prints is made of them. `recorded` says every call of a launch.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import isolauncher
from isolauncher import wire
from isolauncher.errors import WireError
from support.daemons import PATIENCE_S, Service, service
from support.devices import StandIns, refuse_nodes, stand_ins

HERE = Path(__file__).resolve().parent
if str(HERE) not in isolauncher.__path__:
    isolauncher.__path__.append(str(HERE))

from isolauncher.spoilt import board as boards  # noqa: E402
from isolauncher.spoilt.kernel import SEPARATOR  # noqa: E402

ALICE = 12345
"""A caller who is not root, so that ids inside and outside differ."""


@dataclass(frozen=True)
class Call:
    """One call of a recorded launch; ``step`` is empty outside the plan's steps."""

    actor: str
    number: int
    name: str
    step: str
    about: str

    def __str__(self) -> str:
        at = f" of {self.step}" if self.step else ""
        return f"{self.actor} {self.number}: {self.name}({self.about}){at}"


@dataclass
class Spoilt:
    """A service and the board that its processes look at."""

    service: Service
    board: boards.Board
    card: StandIns | None = None
    places: list[Path] = field(default_factory=list)

    def record(self) -> None:
        self.board.set(boards.RECORD)

    def calls(self, actors: Iterable[str] = boards.ACTORS) -> list[Call]:
        """Everything since the board was last set."""
        return [
            Call(actor, number, *line.split(SEPARATOR, 2))
            for actor in actors
            for number, line in enumerate(self.board.calls(actor))
        ]


@contextmanager
def spoilt_service(
    *,
    config: str = "",
    within: Sequence[str] = (),
) -> Iterator[Spoilt]:
    """``within`` stands before the daemon's command, and becomes it.

    Where nodes can be made, its devices are stand-ins: one sound card, which everybody
    may use.
    """
    _refuse_the_machines_mounts()
    # In memory, where files can be mapped to another owner on every kernel we know.
    place = Path(f"/dev/shm/isolauncher-board-{os.getpid()}-{time.monotonic_ns()}")
    board = boards.Board(str(place))
    daemon = HERE / "spoilt" / "daemon.py"
    command = (*within, sys.executable, str(daemon), str(place))
    with ExitStack() as stack:
        stack.callback(place.unlink)
        environment, card = {}, None
        if refuse_nodes() is None:
            card = stack.enter_context(stand_ins())
            card.make_card()
            environment["STAND_INS"] = str(card.top)
        made = stack.enter_context(
            service(command=command, config=config, environment=environment)
        )
        spoilt = Spoilt(made, board, card)
        spoilt.places += _places(spoilt)
        yield spoilt


def _refuse_the_machines_mounts() -> None:
    """A kernel that leaves out `unshare` would have the rest done to its surroundings.

    tests/conftest.py takes pytest into namespaces of its own, so whoever started it is
    in others.
    """
    for name in ("mnt", "uts"):
        own = os.readlink(f"/proc/self/ns/{name}")
        if own == os.readlink(f"/proc/{os.getppid()}/ns/{name}"):
            raise RuntimeError(f"a spoilt kernel must not run in the {name} of others")


# ------------------------------------------------------------------------ one launch


@dataclass
class Run:
    """A client of one launch: connection, the program's output, the daemon's words."""

    sock: socket.socket
    output: int
    input: int = -1
    uid: int = 0
    words: list[dict[str, object]] = field(default_factory=list)

    def hear(self) -> dict[str, object] | None:
        """The next message; None when the daemon has closed the connection."""
        try:
            fields = wire.recv(self.sock).fields
        except WireError as error:
            if error.code != "wire-closed":
                raise
            return None
        self.words.append(fields)
        return fields

    def started(self) -> str:
        """Wait for the program to run; its id."""
        said = self.hear()
        assert said is not None
        assert said["event"] == "started", said
        return str(said["id"])

    def end(self) -> dict[str, object] | None:
        """The last word: exited or refused; None if the connection ended without."""
        while (said := self.hear()) is not None:
            if said["event"] in ("exited", "refused"):
                return said
        return None

    def printed(self) -> bytes:
        """Everything that the program wrote, to the end of its output."""
        data = b""
        while block := _read(self.output):
            data += block
        return data

    def first_line(self) -> bytes:
        data = b""
        while not data.endswith(b"\n"):
            block = _read(self.output)
            assert block, f"the output ended: {data!r}"
            data += block
        return data

    def tell(self, data: bytes) -> None:
        """Write to the program's standard input."""
        os.write(self.input, data)

    def attach(self, where: Service, activity_id: str) -> None:
        """Connect again, as a client does after the daemon was restarted."""
        self.sock.close()
        self.sock = connect(where, self.uid)
        wire.send(self.sock, {"version": 1, "verb": "attach", "id": activity_id})

    def close(self) -> None:
        self.sock.close()
        os.close(self.output)
        if self.input >= 0:
            os.close(self.input)


def _read(fd: int) -> bytes:
    # Not select(2), which knows no number above 1023.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(PATIENCE_S * 1000):
        raise AssertionError("no output and no end of it")
    return os.read(fd, 65536)


def connect(where: Service, uid: int = 0) -> socket.socket:
    """A connection of ``uid``'s: the kernel notes who connects (SO_PEERCRED)."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        return where.client()
    finally:
        os.seteuid(0)
        os.setegid(0)


def launch(
    where: Service,
    *words: str,
    uid: int = 0,
    policy: str | None = None,
    tier: str | None = None,
    activity_id: str | None = None,
    environment: Mapping[str, str] | None = None,
    umask: int = 0o022,
    stdin: bool = False,
) -> Run:
    """Send one request, with pipes for stdin and stdout, and do not wait.

    ``stdin``: `Run.tell` writes to it; else it is at its end.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # Not /dev/null: what a zygote has there could not be told from it.
    source, teller = os.pipe2(os.O_CLOEXEC)
    if not stdin:
        os.close(teller)
        teller = -1
    opened = [source, writer, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)]
    names = ["stdin", "stdout", "stderr"]
    fds = list(opened)
    try:
        kind = "file" if "/" in words[0] else "name"
        if kind == "file":
            opened.append(os.open(words[0], os.O_PATH | os.O_CLOEXEC))
            fds.append(opened[-1])
            names.append("program")
        sock = connect(where, uid)
        message = {
            "version": 1,
            "verb": "run",
            "id": activity_id,
            "program_kind": kind,
            "argv": list(words),
            "policy": policy,
            "tier": tier,
            "environment": dict(environment or {}),
            "setenv": {},
            "umask": umask,
            "tied": True,
            "descriptors": names,
        }
        wire.send(sock, message, fds)
    except BaseException:
        os.close(reader)
        raise
    finally:
        wire.close_all(opened)
    return Run(sock, reader, teller, uid=uid)


# --------------------------------------------------------------- what a launch leaves


@dataclass(frozen=True)
class Trace:
    """All that one daemon's launches can leave, whoever is its parent by now.

    ``processes`` have the board in their memory or are in one of its cgroups; the
    daemon itself and its zygotes are not counted. ``namespaces`` are those that these
    are in or will fork into; one more can only be kept alive by a process or, like
    anything else of the kernel's, by one of the daemon's ``descriptors``; None: those
    are not compared.
    """

    processes: frozenset[int]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    records: frozenset[str]
    leases: frozenset[str]
    namespaces: frozenset[str]
    descriptors: frozenset[str] | None

    @classmethod
    def now(cls, of: Spoilt) -> Trace:
        where = of.service
        groups = list(cgroups(of))
        members = {pid for path in groups for pid in _members(path)}
        sharing = boarded(of.board)
        inside = {pid for pid, numbers in sharing.items() if len(numbers) > 1}
        assert where.process is not None
        return cls(
            processes=frozenset(members | inside),
            namespaces=frozenset(
                link for pid in set(sharing) - inside for link in _links(pid, "ns")
            ),
            descriptors=frozenset(_links(where.process.pid, "fd")),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            cgroups=frozenset(groups),
            records=frozenset(_names(where.run_dir / "activities")),
            leases=frozenset(_names(where.state_dir / "identity" / "uids")),
        )


def nothing_left(of: Spoilt, before: Trace, what: object = "") -> None:
    """Assert that all is as before; the kernel may need a moment to be done."""
    deadline = time.monotonic() + 10
    while (odd := _changes(of, before)) and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    assert not odd, f"{what}: {odd}"


def _changes(of: Spoilt, before: Trace) -> list[str]:
    now = _alike(of, before)
    odd = []
    for name in Trace.__dataclass_fields__:
        was = getattr(before, name) or frozenset()
        is_ = getattr(now, name) or frozenset()
        if is_ - was:
            odd.append(f"{name}: left {is_ - was}")
        # A descriptor of what came before may have been on its way out just then.
        if was - is_ and name != "descriptors":
            odd.append(f"{name}: gone {was - is_}")
    return odd


def _alike(of: Spoilt, before: Trace) -> Trace:
    now = Trace.now(of)
    return replace(now, descriptors=None) if before.descriptors is None else now


def cgroups(of: Spoilt) -> Iterator[str]:
    """The activities' directories below this daemon's own, in every hierarchy."""
    for place in of.places:
        with suppress(FileNotFoundError):
            yield from (e.path for e in os.scandir(place) if e.is_dir())


def _places(of: Spoilt) -> list[Path]:
    """The daemon's own directories, found by what is made for an activity."""
    name = f"cf{time.monotonic_ns():x}"
    run = launch(of.service, "/usr/bin/cat", activity_id=name, stdin=True)
    run.started()
    found = [
        Path(directory)
        for directory, names, _ in os.walk("/sys/fs/cgroup")
        if name in names
    ]
    os.close(run.input)
    run.input = -1
    said = run.end()
    run.close()
    assert said is not None
    assert said.get("status") == 0, said
    return found


def _members(path: str) -> Iterator[int]:
    with suppress(FileNotFoundError):
        yield from map(int, Path(f"{path}/cgroup.procs").read_text().split())


def _links(pid: int, directory: str) -> Iterator[str]:
    place = f"/proc/{pid}/{directory}"
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(place):
            with suppress(FileNotFoundError):
                yield os.readlink(f"{place}/{name}")


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def find(of: Spoilt, actor: str, *, not_in: Iterable[int] = ()) -> int:
    """The host pid of the launch's init or stem."""
    known = set(not_in)
    found = {
        inner[-1]: pid
        for pid, inner in boarded(of.board).items()
        if len(inner) > 1 and pid not in known
    }
    # The stem is the first that init forks; a helper for a mount comes after it.
    return found[1] if actor == "init" else found[2]


def boarded(board: boards.Board) -> dict[int, list[int]]:
    """Pid → its pids from outermost to innermost, of all who share the board."""
    place = board.path
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            # Only ours have it, and the maps of all would take longer than a launch.
            if "/python" not in os.readlink(f"/proc/{name}/exe"):
                continue
            if place in Path(f"/proc/{name}/maps").read_text():
                status = Path(f"/proc/{name}/status").read_text()
                line = status.partition("NSpid:")[2].partition("\n")[0]
                found[int(name)] = [int(n) for n in line.split()]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def zygote(of: Spoilt, set_name: str) -> int:
    """The pid of the daemon's living zygote of a set, from its log."""
    mark = f'zygote-started set="{set_name}" pid='
    return int(of.service.log.rpartition(mark)[2].split()[0])


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send it, and for SIGKILL wait until the process is gone."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, number)
        if number == signal.SIGKILL:
            assert select.select([fd], [], [], PATIENCE_S)[0], f"{pid} does not end"
    finally:
        os.close(fd)
