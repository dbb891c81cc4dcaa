# SPDX-License-Identifier: GPL-3.0-or-later
"""Activities that stay: launched, held until they have been looked at, ended."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import client, wire
from ..errors import DaemonError
from ..init import SOON_S
from ..waiter import NAME
from . import contenders, daemons
from .patience import END_S, PATIENCE_S, read, readable
from .reference import children

AT_ONCE = 8
SETTLED_S = 10 * SOON_S
"""How long an init may take, beside many others, to have but to wait."""


@dataclass(slots=True, kw_only=True)
class Crowd:
    """All have one standard input, and end when its other end is closed."""

    where: str
    script: Path
    policy: str | None
    reader: int
    writer: int
    said: int
    says: int
    pids: list[int] = field(default_factory=list)
    _socks: list[socket.socket] = field(default_factory=list)

    def grow(self, to: int) -> None:
        """Until so many are there and have written their byte."""
        while len(self._socks) < to:
            self._launch(min(AT_ONCE, to - len(self._socks)))

    def inits(self) -> list[int]:
        """Each is its activity's parent; when it has become what it stays.

        Where one stays an interpreter (see `isolauncher doctor`), that is looked at.
        """
        inits = [_parent(pid) for pid in self.pids]
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until and any(map(_is_interpreter, inits)):
            time.sleep(SOON_S)
        return inits

    def _launch(self, count: int) -> None:
        begun = []
        for _ in range(count):
            launch = client.prepare([str(self.script)], policy=self.policy)
            try:
                sock = client.connect(self.where)
                self._socks.append(sock)
                begun.append(sock)
                fds = (self.reader, self.says, *launch.fds[2:])
                wire.send(sock, launch.message, fds)
            finally:
                launch.close()
        for sock in begun:
            sock.settimeout(PATIENCE_S)
            fields = wire.recv(sock).fields
            if fields.get("event") == "refused":
                raise client.refusal(fields)
            pid = fields.get("pid")
            if fields.get("event") != "started" or not isinstance(pid, int):
                raise DaemonError(f"{fields!r} came of a launch", code="bench-failed")
            self.pids.append(pid)
        missing = count
        while missing:
            if not readable(self.said):
                raise DaemonError("no byte came in time", code="bench-timeout")
            missing -= len(os.read(self.said, missing))

    def end(self) -> None:
        """What they wait for comes; until all of each is given back."""
        os.close(self.writer)
        self.writer = -1
        # All end at once, and the last of a thousand after all others.
        patience_s = PATIENCE_S + len(self._socks)
        for sock in self._socks:
            contenders.end_of(sock, patience_s)

    def close(self) -> None:
        """Whoever is connected and goes takes its activity along.

        That takes time, which `daemons.own` gives them before it ends their daemon.
        """
        if self.writer >= 0:
            os.close(self.writer)
        for sock in self._socks:
            sock.close()


@contextmanager
def crowd(where: str, script: Path, policy: str | None = None) -> Iterator[Crowd]:
    # A connection for each: the usual soft limit is for programs that use select(2).
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        said, says = os.pipe2(os.O_CLOEXEC)
        for fd in (reader, said, says):
            stack.callback(os.close, fd)
        made = Crowd(
            where=where,
            script=script,
            policy=policy,
            reader=reader,
            writer=writer,
            said=said,
            says=says,
        )
        # Where one fails, the others end all the same.
        stack.callback(made.close)
        yield made
        made.end()


@contextmanager
def cold(script: Path, count: int) -> Iterator[list[int]]:
    """The same script in interpreters of their own, not confined; their pids."""
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen(
                (daemons.PYTHON, str(script)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=daemons.ENVIRONMENT,
            )
            stack.callback(_finish, process)
            started.append(process)
            assert process.stdout is not None  # noqa: S101 (for the type checker)
            if read(process.stdout.fileno(), "a cold start") != b"x":
                raise DaemonError("a cold start failed", code="bench-failed")
        yield [process.pid for process in started]


def _finish(process: subprocess.Popen[bytes]) -> None:
    """It ends with its standard input."""
    try:
        process.communicate(timeout=END_S)
    finally:
        if process.returncode is None:
            process.kill()
            process.communicate()


def waiting(zygote: int) -> list[tuple[int, int]]:
    """(init, stem) of the rooms that wait for a request."""
    pairs = []
    for init in children(zygote):
        for stem in children(init):
            with open(f"/proc/{stem}/cmdline", "rb") as shown:
                if shown.read().startswith(b"isolauncher: stem("):
                    pairs.append((init, stem))
    return pairs


def _is_interpreter(init: int) -> bool:
    return NAME not in os.readlink(f"/proc/{init}/exe")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[1])
