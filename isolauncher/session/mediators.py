# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a mediator for each sandbox, by a fork.

A fresh interpreter for each would cost as much as the whole launch, and the session's
service, which has threads and connections, cannot fork. So a child of it that was
forked before it had any waits for requests, and forks mediators, which go on without
either.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from .. import spares, wire
from ..errors import DaemonError, IsolauncherError, WireError, from_fields
from . import mediator

MAX_FDS = 8
PATIENCE_S = 20


@dataclass
class Mediated:
    """A mediator that is at work for one launch."""

    channel: socket.socket

    def made(self) -> dict[str, int]:
        """What it has made, by name: descriptors, which are the caller's to close.

        Raises what kept it from that.
        """
        try:
            return _answer(self.channel)
        except WireError as error:
            raise _gone(error) from None

    def copy(self, scratch: int) -> dict[str, int]:
        """Have it work in the directory ``scratch``; all descriptors anew."""
        wire.send(self.channel, {"event": "copy"}, [scratch])
        return self.made()

    def undo(self) -> None:
        """It ends, and what it has made goes, before another makes the same."""
        with suppress(IsolauncherError):  # at its end at the latest
            wire.close_all(self.made().values())
            while True:
                wire.recv(self.channel).close()
        self.channel.close()

    def forget(self) -> None:
        """Nothing more is wanted of it: the activity runs, or the launch has failed."""
        self.channel.close()


class Mediators:
    """The process that forks them; started before there is any thread."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self._pid = pid

    @classmethod
    def start(cls) -> Mediators:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                _serve(its)
                status = 0
            finally:
                os._exit(status)
        its.close()
        return cls(ours, pid)

    def __enter__(self) -> Mediators:
        return self

    def __exit__(self, *error: object) -> None:
        self._sock.close()
        os.waitpid(self._pid, 0)

    def begin(
        self,
        granted: Mapping[str, object],
        *,
        environment: Mapping[str, str],
        object_id: str | None,
    ) -> Mediated:
        """A mediator for what the daemon grants: begun, and not waited for.

        ``environment`` is that of who launches: where the home, the profile and the
        session bus are.
        """
        wanted = _wanted(granted, environment, object_id)
        channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.settimeout(PATIENCE_S)
        try:
            wire.send(self._sock, {"wanted": asdict(wanted)}, [its.fileno()])
        except WireError as error:
            channel.close()
            raise _gone(error) from None
        finally:
            its.close()
        return Mediated(channel)

    def clear(self, running: Sequence[str]) -> None:
        """Remove what is left of activities that are not ``running`` any more."""
        with suppress(WireError):
            home = os.environ.get("HOME", "/")
            wire.send(self._sock, {"clear": list(running), "sugar": f"{home}/.sugar"})


def _gone(error: WireError) -> DaemonError:
    return DaemonError(
        f"the session's mediator does not answer: {error}",
        code="mediator-gone",
        hint="end isolauncher-session; it is started anew when it is needed",
    )


def _wanted(
    granted: Mapping[str, object],
    environment: Mapping[str, str],
    object_id: str | None,
) -> mediator.Wanted:
    names = (
        *("id", "bundle_id", "installed_by", "furniture", "root", "documents", "data"),
        *("file_size", "session_call", "session_own", "accessibility", "input_method"),
    )
    profile = environment.get("SUGAR_PROFILE") or "default"
    return mediator.from_fields(
        {
            **{name: granted[name] for name in names},
            "profile": os.path.join(environment["HOME"], ".sugar", profile),
            "runtime": environment.get("XDG_RUNTIME_DIR", ""),
            "address": environment.get("DBUS_SESSION_BUS_ADDRESS", ""),
            "object_id": object_id,
        }
    )


def _answer(channel: socket.socket) -> dict[str, int]:
    message = wire.recv(channel, max_fds=MAX_FDS)
    if message.fields.get("event") != "made":
        message.close()
        raise from_fields(message.fields)
    names = message.fields["names"]
    assert isinstance(names, list)  # noqa: S101 (our own process's word)
    return dict(zip(names, message.fds, strict=True))


def _serve(sock: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    spares.serve(sock, "isolauncher: mediators", _mediate, rehearse=mediator.rehearse)


def _mediate(message: wire.Message) -> None:
    os.setsid()
    try:
        _work(message)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"a mediator failed: {why}\n")
        raise


def _work(message: wire.Message) -> None:
    match message.fields:
        case {"wanted": dict(wanted)}:
            (fd,) = message.fds
            mediator.serve(mediator.from_fields(wanted), socket.socket(fileno=fd))
        case {"clear": list(running), "sugar": str(sugar)}:
            with suppress(OSError):
                for profile in os.listdir(sugar):
                    mediator.clear(os.path.join(sugar, profile), set(running))
