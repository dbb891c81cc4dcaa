# SPDX-License-Identifier: GPL-3.0-or-later
"""A SEQPACKET socket in the daemon's event loop: wait for a message, send without."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence

from . import wire


class Channel:
    """Owns its socket. One reader at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    async def recv(self, *, max_fds: int = 0) -> wire.Message:
        """The next message; WireError "wire-closed" at the end."""
        while (message := wire.try_recv(self.sock, max_fds=max_fds)) is None:
            await readable(self.sock.fileno())
        return message

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Never waits: who does not read what it asked for is cut off (wire-busy)."""
        wire.send(self.sock, message, fds)

    def close(self) -> None:
        self.sock.close()


async def readable(fd: int) -> None:
    """Until ``fd`` is readable, as a pidfd is when its process ends (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    # A loop has one reader for a number: a second waiter would take the first one's
    # place, which then waits for ever. Each gets a number of its own.
    own = os.dup(fd)
    loop.add_reader(own, ready)
    try:
        await future
    finally:
        loop.remove_reader(own)
        os.close(own)
