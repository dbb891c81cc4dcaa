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
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from . import kernel, wire
from .errors import WireError

AFTER_S = 1.0
"""How long after one is taken another is forked: what it was taken for goes first."""

Work = Callable[[wire.Message], None]


def serve(
    sock: socket.socket,
    title: str,
    work: Work,
    *,
    rehearse: Callable[[], object] = lambda: None,
    keep: int = 1,
) -> None:
    """Have a helper do ``work`` for each message, until the other end is closed.

    A message may bring one descriptor. Nobody waits for helpers: they are the kernel's
    to reap. What one raises ends it. ``keep`` is how many wait; ``rehearse`` is what
    each does before it waits: something like its work, so that the memory which that
    writes to is its own by then.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    kernel.title(title)
    waiting: list[socket.socket] = []
    due = [0.0] * keep
    """When to fork what is to wait."""

    def fork(prepare: Callable[[], object]) -> socket.socket:
        ours, its = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        if os.fork() == 0:
            for other in (sock, ours, *waiting):
                other.close()
            _help(its, title, work, prepare)
        its.close()
        return ours

    while True:
        while due and not _comes(sock, due[0] - time.monotonic()):
            waiting.append(fork(rehearse))
            due.pop(0)
        try:
            message = wire.recv(sock, max_fds=1)
        except WireError:
            return
        told = False
        while not told:
            # One that nobody waited for has no time to rehearse.
            spare = waiting.pop(0) if waiting else fork(lambda: None)
            if len(due) < keep:
                due.append(time.monotonic() + AFTER_S)
            with spare, suppress(WireError):
                # Else somebody has killed it.
                wire.send(spare, message.fields, message.fds)
                told = True
        message.close()


def _comes(sock: socket.socket, patience_s: float) -> bool:
    return bool(select.select([sock], [], [], max(0.0, patience_s))[0])


def _help(
    sock: socket.socket, title: str, work: Work, rehearse: Callable[[], object]
) -> NoReturn:
    status = 1
    try:
        kernel.title(f"{title}, spare")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(Exception):  # its work will say what stands in the way
            rehearse()
        with suppress(WireError):  # nobody needs one any more
            message = wire.recv(sock, max_fds=1)
            sock.close()
            work(message)
        status = 0
    finally:
        os._exit(status)


__all__ = ["serve"]
