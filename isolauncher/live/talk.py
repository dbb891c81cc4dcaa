# SPDX-License-Identifier: GPL-3.0-or-later
"""One launch of the probe, and the conversation with it.

A child becomes the caller, opens everything with the caller's rights, and launches as
`isolauncher run` and `isolauncher launch` do. We hold the other ends of the probe's
standard streams, and learn from the child how it ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from .. import client, paths, wire
from ..errors import IsolauncherError, from_fields
from .caller import UMASK, Case, Place, become

PATIENCE_S = 60
END_S = 20


class Silent(Exception):
    """The probe does not answer: it has ended, or hangs."""


@dataclass(kw_only=True)
class Talk:
    """A launch that is under way; ``report`` and ``error`` are known at its end."""

    case: Case
    place: Place
    id: str
    socket: str
    variables: Mapping[str, str]
    child: int = 0
    stdin: int = -1
    stdout: int = -1
    ends: int = -1
    heard: bytes = b""
    report: dict[str, Any] = field(default_factory=dict)
    error: IsolauncherError | None = None
    status: int | None = None

    def __enter__(self) -> Talk:
        theirs_in, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, theirs_out = os.pipe2(os.O_CLOEXEC)
        self.ends, end = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        self.child = os.fork()
        if self.child == 0:
            for fd in (self.stdin, self.stdout, self.ends):
                os.close(fd)
            try:
                self._launch(theirs_in, theirs_out, end)
            except BaseException:
                # Where `errors` finds it.
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(1)
        for fd in (theirs_in, theirs_out, end):
            os.close(fd)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()

    # --------------------------------------------------------------------- the child

    def _launch(self, stdin: int, stdout: int, end: int) -> None:
        """Be the caller, launch, and say how it ended. Does not return."""
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        errors = os.open(self.place.errors, os.O_WRONLY | os.O_APPEND)
        for fd, target in ((stdin, 0), (stdout, 1), (errors, 2)):
            os.dup2(fd, target)
        become(self.case.caller)
        os.umask(UMASK)
        os.chdir("/")
        os.environ.clear()
        os.environ["HOME"] = self.place.home
        os.environ["PATH"] = "/usr/bin:/bin"
        os.environ[paths.SOCKET_VARIABLE] = self.socket
        try:
            ended = self._as_bundle() if self.case.bundle_id else self._as_program()
        except IsolauncherError as error:
            ended = client.End(error.exit_status, error.report, error)
        said = {
            "status": ended.status,
            "report": ended.report,
            "error": None if ended.error is None else ended.error.as_fields(),
        }
        os.write(end, json.dumps(said).encode())

    def _as_program(self) -> client.End:
        os.environ.update(self.variables)
        launch = client.prepare([self.place.probe], policy=self.case.named, id=self.id)
        for name in self.variables:
            if name not in ("HOME", "PATH"):
                del os.environ[name]
        try:
            return client.converse(
                client.connect(self.socket), launch, reconnect=None, tell=_nothing
            )
        finally:
            launch.close()

    def _as_bundle(self) -> client.End:
        from ..session.launching import Asked, launch
        from ..session.mediators import Mediators

        asked = Asked(
            bundle=self.place.bundle,
            activity_id=self.id,
            environment=self.variables,
            streams={"stdin": 0, "stdout": 1, "stderr": 2},
        )
        with Mediators.start() as mediators:
            return launch(
                asked, mediators, granted=_nothing, started=_nothing, tell=_nothing
            )

    # ------------------------------------------------------------------------ our side

    def ask(self, name: str, asked: object, *, seconds: float = PATIENCE_S) -> Any:
        """The probe's answer; `Silent` if none comes."""
        data = json.dumps({name: asked}).encode() + b"\n"
        until = time.monotonic() + seconds
        try:
            while data:
                self._wait(until, writing=True)
                data = data[os.write(self.stdin, data[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            raise Silent("it was never there, or has ended") from None
        while b"\n" not in self.heard:
            self._wait(until)
            more = os.read(self.stdout, 1 << 16)
            if not more:
                raise Silent("it has ended")
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        try:
            return json.loads(line)[name]
        except (ValueError, KeyError, TypeError):
            raise Silent(f"it says {line[:200]!r}") from None

    def _wait(self, until: float, *, writing: bool = False) -> None:
        left = max(0.0, until - time.monotonic())
        fd = self.stdin if writing else self.stdout
        ready = select.select(
            [] if writing else [fd], [fd] if writing else [], [], left
        )
        if not any(ready):
            raise Silent("nothing came in time")

    def pid(self) -> int:
        """Of the probe, outside; 0 if the daemon lists no such activity."""
        for part in client.ask(
            {"version": wire.VERSION, "verb": "ps"}, path=self.socket
        ):
            rows = part.get("activities")
            for row in rows if isinstance(rows, list) else ():
                if row["id"] == self.id:
                    return int(row["pid"])
        return 0

    def finish(self) -> None:
        """Let it end, by itself or not, and take what is known then."""
        if not self.child:
            return
        for fd in (self.stdin, self.stdout):
            os.close(fd)
        data = self._last_words()
        os.close(self.ends)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        self.child = 0
        if data:
            said = json.loads(data)
            self.status = said["status"]
            self.report = said["report"] or {}
            self.error = from_fields(said["error"]) if said["error"] else None

    def _last_words(self) -> bytes:
        """What the child says at its end; an activity that does not end is stopped."""
        data, until = b"", time.monotonic() + END_S
        stopped = False
        while True:
            left = max(0.0, until - time.monotonic())
            if not select.select([self.ends], [], [], left)[0]:
                if stopped:
                    return b""
                stopped, until = True, time.monotonic() + END_S
                stop(self.id, self.socket)
                continue
            more = os.read(self.ends, 1 << 16)
            if not more:
                return data
            data += more

    def errors(self) -> str:
        """The last line of standard error, the launching child's and the probe's."""
        with open(self.place.errors, encoding="utf-8", errors="replace") as file:
            lines = file.read().strip().splitlines()
        return lines[-1] if lines else ""


def stop(activity_id: str, socket: str) -> None:
    message = {"version": wire.VERSION, "verb": "stop", "ids": [activity_id]}
    try:
        list(client.ask({**message, "grace_ms": 0}, path=socket))
    except IsolauncherError:
        return  # it has ended meanwhile


def _nothing(*_: object) -> None:
    """Of no interest here."""
