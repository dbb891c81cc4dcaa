# SPDX-License-Identifier: GPL-3.0-or-later
"""A SEQPACKET socket in the daemon's event loop: wait for a message, send without."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from . import wire

Known = Callable[[bytes], bool] | None


class Channel:
    """Owns its socket, and what came with a message that was refused."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._refused: list[int] = []

    async def recv(self, *, max_fds: int = 0, known: Known = None) -> wire.Message:
        """The next message; WireError "wire-closed" at the end."""
        while (message := self.try_recv(max_fds=max_fds, known=known)) is None:
            await readable(self.sock.fileno())
        return message

    def try_recv(self, *, max_fds: int = 0, known: Known = None) -> wire.Message | None:
        """As `recv`, but None when there is no message yet; ``known`` as of `wire`."""
        return wire.try_recv(
            self.sock, max_fds=max_fds, discard=self._refused.extend, known=known
        )

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Never waits: who does not read what it asked for is cut off (wire-busy)."""
        wire.send(self.sock, message, fds)

    def send_data(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """As `send`; see `wire.send_data`."""
        wire.send_data(self.sock, data, fds)

    def close(self) -> None:
        wire.close_all(self.take_apart())

    def take_apart(self) -> list[int]:
        """The descriptors, for the taker to close: a caller's with `foreign.close`."""
        leave(self.sock.fileno())
        fds = [self.sock.detach(), *self._refused]
        self._refused.clear()
        return [fd for fd in fds if fd >= 0]


_waiting: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[int, list[asyncio.Future[None]]]
] = WeakKeyDictionary()


async def readable(*fds: int, done: asyncio.Future[Any] | None = None) -> None:
    """Until one of them is readable, as a pidfd is when its process ends.

    (pidfd_open(2).) Any number may wait for the same one. A loop keeps a single reader
    for a number: a second one would silently take the first one's place. ``done``: or
    until that is.
    """
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, {})
    future: asyncio.Future[None] = loop.create_future()
    held = [(fd, waiting.setdefault(fd, [])) for fd in fds]
    for fd, futures in held:
        futures.append(future)
        if len(futures) == 1:
            loop.add_reader(fd, _wake, futures)

    def wake(done: object) -> None:
        _wake([future])

    if done is not None:
        done.add_done_callback(wake)
    try:
        await future
    finally:
        if done is not None:
            done.remove_done_callback(wake)
        for fd, futures in held:
            futures.remove(future)
            if not futures and waiting.get(fd) is futures:
                del waiting[fd]
                loop.remove_reader(fd)


def leave(fd: int) -> None:
    """Before ``fd`` is closed: whoever waits for it is woken, to find it gone.

    The number may be another's a moment later, who would wait together with those
    that have not noticed yet, for what the kernel no longer watches.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return  # nobody waits
    futures = _waiting.get(loop, {}).pop(fd, None)
    if futures is not None:
        loop.remove_reader(fd)
        _wake(futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
