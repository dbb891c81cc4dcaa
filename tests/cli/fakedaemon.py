# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that launches nothing: says what a test has it say over the real wire."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from isolauncher import request, wire
from isolauncher.errors import WireError

PATIENCE = 20  # seconds until a test that waits for an event has failed


class Connection:
    """One client, seen from the daemon's end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.fds: dict[str, int] = {}

    def hear(self) -> dict[str, object]:
        """The next message; descriptors of a launch are kept by their names."""
        message = wire.recv(self.sock, max_fds=len(request.DESCRIPTORS))
        names = message.fields.get("descriptors")
        if isinstance(names, list):
            self.fds = dict(zip(names, message.fds, strict=True))
        return message.fields

    def launch(self) -> request.Request:
        fields = self.hear()
        asked = request.parse(fields, len(self.fds))
        assert isinstance(asked, request.Request)
        return asked

    def say(self, **fields: object) -> None:
        wire.send(self.sock, fields)

    def started(self, id: str = "one") -> None:
        self.say(event="started", id=id, pid=4242)

    def close(self) -> None:
        wire.close_all(self.fds.values())
        self.fds = {}
        self.sock.close()


Handler = Callable[[Connection], None]


class FakeDaemon:
    """Serves one connection after the other with one handler each, in a thread."""

    def __init__(self, path: Path, *handlers: Handler) -> None:
        self.path = path
        self.handlers = list(handlers)
        self.failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.listener = self._listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(os.fspath(self.path))
        listener.listen()
        listener.settimeout(PATIENCE)
        return listener

    def go_away(self) -> None:
        """As a daemon that is killed: the socket refuses."""
        self.listener.close()

    def come_back(self) -> None:
        self.path.unlink()
        self.listener = self._listen()

    def _serve(self) -> None:
        while self.handlers:
            handler = self.handlers.pop(0)
            try:
                sock, _ = self.listener.accept()
                connection = Connection(sock)
                try:
                    handler(connection)
                finally:
                    connection.close()
            except BaseException as error:
                self.failed.put(error)
                return

    def __enter__(self) -> FakeDaemon:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.listener.fileno() >= 0:
            # Wakes the thread, which may wait for a client that will not come.
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.listener.close()
        if error is None:
            if not self.failed.empty():
                raise self.failed.get()
            assert not self.thread.is_alive()


class Client:
    """The command in a process of its own, ended whatever the test does."""

    def __init__(
        self,
        socket_path: Path,
        *words: str | bytes,
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        env = {
            **os.environ,
            **(environment or {}),
            "ISOLAUNCHER_SOCKET": os.fspath(socket_path),
            "PYTHONPATH": os.fspath(Path(__file__).parents[2]),
        }
        settings: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        command: Sequence[str | bytes] = (sys.executable, "-m", "isolauncher", *words)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            command, env=env, **settings
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def signal(self, name: str) -> None:
        self.process.send_signal(signal.Signals[f"SIG{name}"])

    def finish(self) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()


def closed(connection: Connection) -> bool:
    """Whether the client has hung up; waits for its next word."""
    try:
        wire.recv(connection.sock)
    except WireError as error:
        return error.code == "wire-closed"
    return False
