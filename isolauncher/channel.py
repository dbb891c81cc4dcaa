# SPDX-License-Identifier: GPL-3.0-or-later
"""A SEQPACKET socket in the daemon's event loop: wait for a message, send without."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from . import wire


class Channel:
    """Owns its socket. One reader at a time.

    ``refused``: descriptors that came with a message that was refused. Close them
    first (`foreign.close`) where they are a caller's; `close` does it without care.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.refused: list[int] = []

    async def recv(self, *, max_fds: int = 0) -> wire.Message:
        """The next message; WireError "wire-closed" at the end."""
        while True:
            message = wire.try_recv(
                self.sock, max_fds=max_fds, discard=self.refused.extend
            )
            if message is not None:
                return message
            await readable(self.sock.fileno())

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Never waits: who does not read what it asked for is cut off (wire-busy)."""
        wire.send(self.sock, message, fds)

    def close(self) -> None:
        self.sock.close()
        wire.close_all(self.refused)
        self.refused.clear()


_waiting: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[int, list[asyncio.Future[None]]]
] = WeakKeyDictionary()


async def readable(fd: int) -> None:
    """Until ``fd`` is readable, as a pidfd is when its process ends (pidfd_open(2)).

    Any number may wait for the same one. A loop keeps a single reader for a number:
    a second one would silently take the first one's place.
    """
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, {})
    future: asyncio.Future[None] = loop.create_future()
    futures = waiting.setdefault(fd, [])
    futures.append(future)
    if len(futures) == 1:
        loop.add_reader(fd, _wake, futures)
    try:
        await future
    finally:
        futures.remove(future)
        if not futures:
            del waiting[fd]
            loop.remove_reader(fd)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
