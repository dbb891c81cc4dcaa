# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that forks helpers for another one, each before it is asked for.

Who has threads, connections or callers cannot fork well; a child of it that was forked
before it had any can. And since one helper always waits, its fork is in nobody's time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from . import kernel, wire
from .errors import WireError

AFTER_S = 1.0
"""How long after one is taken the next is forked: what it was taken for goes first."""

Work = Callable[[wire.Message], None]


def serve(sock: socket.socket, title: str, work: Work) -> None:
    """Have a helper do ``work`` for each message, until the other end is closed.

    A message may bring one descriptor. Nobody waits for helpers: they are the kernel's
    to reap. What one raises ends it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    kernel.title(title)
    spare = _fork(sock, title, work)
    while True:
        try:
            message = wire.recv(sock, max_fds=1)
        except WireError:
            return
        try:
            wire.send(spare, message.fields, message.fds)
        except WireError:
            # Somebody has killed it.
            spare.close()
            spare = _fork(sock, title, work)
            wire.send(spare, message.fields, message.fds)
        message.close()
        spare.close()
        select.select([sock], [], [], AFTER_S)
        spare = _fork(sock, title, work)


def _fork(sock: socket.socket, title: str, work: Work) -> socket.socket:
    """By what is returned it is told, once, for whom it is."""
    ours, its = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    )
    if os.fork() == 0:
        sock.close()
        ours.close()
        _help(its, title, work)
    its.close()
    return ours


def _help(sock: socket.socket, title: str, work: Work) -> NoReturn:
    status = 1
    try:
        kernel.title(f"{title}, spare")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(WireError):  # nobody needs one any more
            message = wire.recv(sock, max_fds=1)
            sock.close()
            work(message)
        status = 0
    finally:
        os._exit(status)


__all__ = ["serve"]
