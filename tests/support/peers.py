# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that speak the daemon's protocol themselves, and badly.

`peer` is a raw connection as any uid; `run_message` a launch message to spoil;
`verdict` what came of it. `Watch` asserts, after an attack, what every attack must
leave true: the daemon answers, nothing is left on the machine, the daemon and its
zygotes hold no more descriptors than before, and one log line names the refusal. Every
third one is followed by a normal launch, and so is each file's last.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from isolauncher import wire
from isolauncher.errors import WireError

from .daemons import PATIENCE_S, Leftovers, Service, nothing_left

BOB = 12345
ALICE = 12346
STANDARD = ["stdin", "stdout", "stderr"]
LIST = {"version": 1, "verb": "ps"}

# Short patience, so that a test of it need not be long; and every line in the log.
QUICK = """version = 1
[limits]
message-ms = 700
grace-ms = 1000
log-lines = 10000
"""


@contextmanager
def identity(
    uid: int, gid: int | None = None, groups: Sequence[int] = ()
) -> Iterator[None]:
    """This process as another for a moment: what the kernel says of it is all true."""
    kept = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(kept)


@contextmanager
def peer(
    where: Service, uid: int = 0, gid: int | None = None, groups: Sequence[int] = ()
) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        with identity(uid, gid, groups):
            sock.connect(str(where.socket))
        sock.settimeout(PATIENCE_S)
        yield sock


def run_message(**changes: object) -> dict[str, object]:
    """A launch of ``true`` that would be granted, with ``changes``."""
    return {
        "version": 1,
        "verb": "run",
        "id": None,
        "program_kind": "name",
        "argv": ["true"],
        "policy": None,
        "tier": None,
        "environment": {"LANG": "C.UTF-8"},
        "setenv": {},
        "umask": 0o022,
        "tied": True,
        "descriptors": list(STANDARD),
        **changes,
    }


def verdict(sock: socket.socket) -> dict[str, object]:
    """The last thing the daemon says: ``exited``, ``refused``, or ``closed``."""
    said: dict[str, object] = {}
    while said.get("event") not in ("exited", "refused", "stopped", "list"):
        try:
            said = wire.recv(sock).fields
        except WireError as error:
            if error.code != "wire-closed":
                raise
            return {"event": "closed"}
    return said


def ask(
    where: Service,
    message: Mapping[str, object] | bytes,
    fds: Sequence[int] | None = None,
    *,
    uid: int = 0,
    gid: int | None = None,
    groups: Sequence[int] = (),
) -> dict[str, object]:
    """Send one message (raw bytes are sent as they are) and hear the verdict."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        with peer(where, uid, gid, groups) as sock:
            given = [null] * 3 if fds is None else list(fds)
            data = message if isinstance(message, bytes) else _encode(message)
            with suppress(BrokenPipeError, ConnectionResetError):
                # It may have hung up already; why is still to be read.
                socket.send_fds(sock, [data], given)
            return verdict(sock)
    finally:
        os.close(null)


def _encode(message: Mapping[str, object]) -> bytes:
    return wire.encode(message)


def descriptors(pid: int) -> Counter[str]:
    """A process's descriptors by what they are; numbers of sockets left out."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        found[target.partition("[")[0] if ":[" in target else target] += 1
    return found


def zygotes(where: Service) -> dict[str, int]:
    """Set name → pid of the daemon's zygotes."""
    assert where.process is not None
    found = {}
    children = f"/proc/{where.process.pid}/task/{where.process.pid}/children"
    for word in Path(children).read_text().split():
        try:
            title = Path(f"/proc/{word}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"zygote(" in title:
            found[title.partition(b"(")[2].partition(b")")[0].decode()] = int(word)
    return found


def pids(where: Service) -> dict[str, int]:
    assert where.process is not None
    return {"daemon": where.process.pid, **zygotes(where)}


def until(true: object, *, seconds: float = 10) -> bool:
    """Poll what no descriptor tells (another process's /proc) until it is true."""
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.002)
    return True


def read_log(where: Service, since: int = 0) -> list[str]:
    data = (where.top / "log").read_bytes()[since:]
    return data.decode("utf-8", "replace").splitlines()


@dataclass
class Watch:
    """What was before an attack; `settled` asserts that it is so again.

    Make it when zygotes are up and one launch has been made (first launches open what
    the daemon keeps: the ledger's files, a policy's).
    """

    where: Service
    leftovers: Leftovers = field(init=False)
    held: dict[str, Counter[str]] = field(init=False)
    since: int = field(init=False)

    def __post_init__(self) -> None:
        if len(zygotes(self.where)) < 2:
            normal_launch(self.where)  # one was killed, and is started when needed
        self.leftovers = Leftovers.now(self.where)
        self.held = self.now_held()
        self.since = (self.where.top / "log").stat().st_size

    def now_held(self) -> dict[str, Counter[str]]:
        return {name: descriptors(pid) for name, pid in pids(self.where).items()}

    def lines(self, *words: str) -> list[str]:
        """The log's lines since, that hold all ``words``."""
        lines = read_log(self.where, self.since)
        return [line for line in lines if all(w in line for w in words)]

    def settled(
        self, code: str | None = None, *, lines: int | None = 1, faults: bool = False
    ) -> None:
        """``code``: the refusal that the log must name, in ``lines`` lines."""
        if code is not None:
            found = self.lines(f'code="{code}"')
            assert lines is None or len(found) == lines, read_log(
                self.where, self.since
            )
            assert found, read_log(self.where, self.since)
            assert all(line.startswith("isolauncher: ") for line in found)
        assert faults or not self.lines("internal-error"), self.lines("internal-error")
        nothing_left(self.where, self.leftovers)
        if (tier := next(_TURNS)) is None:
            assert self.where.ask(LIST)["event"] == "list"
        else:
            normal_launch(self.where, tiers=(tier,))
            nothing_left(self.where, self.leftovers)
        until(lambda: not self._more())
        assert not self._more()

    def _more(self) -> dict[str, Counter[str]]:
        """What the daemon and its zygotes hold beyond what they held before."""
        now = self.now_held()
        more = {n: now.get(n, Counter()) - before for n, before in self.held.items()}
        return {name: held for name, held in more.items() if held}


def left_out(watch: Watch, code: str) -> int:
    """How many refusals with that code were counted and not written."""
    lines = watch.lines(" left-out ", f'code="{code}"')
    return sum(int(line.rpartition("=")[2]) for line in lines)


_TURNS = itertools.cycle(("fork", None, None, "exec", None, None))


def normal_launch(
    where: Service, uid: int = BOB, tiers: Sequence[str] = ("fork", "exec")
) -> None:
    """A launch in each tier, as somebody who has done nothing wrong."""
    for tier in tiers:
        reader, writer = os.pipe()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            said = ask(
                where,
                run_message(program_kind="module", argv=["this"], tier=tier, setenv={}),
                [null, writer, null],
                uid=uid,
            )
            os.close(writer)
            writer = -1
            text = os.read(reader, 100)
        finally:
            for fd in (reader, writer, null):
                if fd >= 0:
                    os.close(fd)
        assert said["event"] == "exited", said
        assert said["status"] == 0, said
        assert text.startswith(b"The Zen of Python"), text


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(word) for word in Path(path).read_text().split()]
