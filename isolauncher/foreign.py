# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptors that came from a caller: what may be handed on, and how they are closed.

They are the caller's own open files, so nothing is gained by reading or writing them.
But some lead further than the stream that they are: a socket that is not connected is
a way into the host's network, whatever the policy says. And closing may wait for
somebody else: for the other end of a socket that lingers, for a file system that a
person's program serves. The daemon has one thread and waits for nobody.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from . import kernel, wire

_SO_PROTOCOL_FREE = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


def refuse_socket(fd: int, *, network: bool) -> str | None:
    """Why a socket cannot be a standard stream, or None.

    A connected AF_UNIX stream stays connected to what it is connected to (unix(7)).
    Any other can be connected or sent elsewhere, in the network namespace that it was
    made in and not the activity's: it takes a policy with that network.
    """
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "a socket that listens"
        try:
            sock.getpeername()
        except OSError:
            return "a socket that is not connected"
        if sock.type not in _SO_PROTOCOL_FREE:
            return "a socket that can send to anybody"
        if sock.family != socket.AF_UNIX and not network:
            return "a connection of a network that the policy does not grant"
    return None


async def close(fds: Iterable[int]) -> None:
    """Close each; what may keep us waiting is closed, and waited for, aside."""
    slow = []
    for fd in fds:
        if _closes_at_once(fd):
            wire.close_all((fd,))
        else:
            slow.append(fd)
    if slow:
        await asyncio.shield(_aside(slow))


def served(fd: int) -> str | None:
    """Why even fstat(2) of it may wait for a person's program, or None.

    Everyone may mount FUSE in a user namespace, and an overlay over it, which asks
    the server in the name of who mounted it. So of these two kinds only what is
    mounted in our own namespace will do; there FUSE refuses root at once, unless it
    is open to others than the person who serves it.
    """
    if answers_at_once(fd):
        return None
    here = mount(fd)
    if here is None:
        # What a person mounts in a user namespace answers at once to who is outside.
        kind = kernel.file_system(fd)
        if kind not in (kernel.FUSE_SUPER_MAGIC, kernel.OVERLAYFS_SUPER_MAGIC):
            return None
        return "in another mount namespace, on a file system that may not answer"
    if "allow_other" in here[1] and is_a_persons(here):
        return "on a file system that a person's program serves"
    return None


_Devices = frozenset[tuple[int, int]]

# As kernel.is_local has them, and what devices and terminals lie on.
_LOCAL = frozenset(
    (
        *("ext2", "ext3", "ext4", "tmpfs", "btrfs", "xfs", "f2fs", "ramfs"),
        *("squashfs", "hugetlbfs", "devtmpfs", "devpts"),
    )
)


def answers_at_once(fd: int) -> bool:
    """Whether this kernel's own disks and memory answer for it alone, and nobody else.

    It is mounted in our own mount namespace then, or a pipe, socket or memory file. No
    server is asked, neither a person's program nor another machine.
    """
    if kernel.device(fd) in know_mounts().devices():
        return True
    here = mount(fd)  # whose files may have another number each (btrfs)
    return here is not None and here[0] in _LOCAL


class _Table:
    """Our namespace's mount table, read again when it has changed.

    As long as it has not, the number of a device stays the same one's.
    """

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb")  # noqa: SIM115
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._known: _Devices | None = None
        read, write = os.pipe2(os.O_CLOEXEC)
        memory = os.memfd_create("isolauncher", os.MFD_CLOEXEC)
        with socket.socket(socket.AF_UNIX) as sock:
            numbers = (read, memory, sock.fileno())
            self._kernels = frozenset(map(kernel.device, numbers))
        wire.close_all((read, write, memory))

    def devices(self) -> _Devices:
        if self._known is None or self._poll.poll(0):
            self._known = self._kernels | self._read()
        return self._known

    def _read(self) -> _Devices:
        self._file.seek(0)
        return local_devices(self._file)


def local_devices(mounts: Iterable[bytes]) -> _Devices:
    """Those that only this kernel answers for, of a mount table's lines (proc(5))."""
    found: set[tuple[int, int]] = set()
    for line in mounts:
        major, _, minor = line.split(None, 3)[2].partition(b":")
        if line.partition(b" - ")[2].split(None, 1)[0].decode() in _LOCAL:
            found.add((int(major), int(minor)))
    return frozenset(found)


@cache
def know_mounts() -> _Table:
    """Open the mount table, for as long as this process lives."""
    return _Table()


def mount(fd: int) -> tuple[str, frozenset[str]] | None:
    """The kind of file system that ``fd`` lies on, and its options (proc(5)).

    None: not mounted in our own mount namespace. No server is asked.
    """
    wanted = mount_id(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.split(" ", 1)[0] == wanted:
                words = line.partition(" - ")[2].split()
                return words[0], frozenset(words[-1].split(","))
    return None


def mount_id(fd: int) -> str:
    """The kernel's number of the mount; no other has it while ``fd`` is open."""
    told = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Among the first lines of every kind of file.
        return os.read(told, 4096).partition(b"mnt_id:")[2].split(None, 1)[0].decode()
    finally:
        os.close(told)


def is_a_persons(here: tuple[str, frozenset[str]]) -> bool:
    """Whether a program of another than root serves what `mount` told of (FUSE)."""
    kind, options = here
    return kind.partition(".")[0].startswith("fuse") and "user_id=0" not in options


def _closes_at_once(fd: int) -> bool:
    if kernel.access_mode(fd) & os.O_PATH:
        return True  # no file was opened: there is nothing to flush
    if served(fd) is not None:
        return False
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False  # a file system that root may not ask
    if stat.S_ISFIFO(mode):
        return True
    if stat.S_ISCHR(mode):
        return os.major(os.fstat(fd).st_rdev) == 1
    # A served file system asks its server at each close (close(2), NFS and FUSE). A
    # socket may linger, and so may another that lies unread in a socket of ours.
    return stat.S_ISREG(mode) and kernel.is_local(fd)


def _aside(fds: list[int]) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def work() -> None:
        try:
            wire.close_all(fds)
        finally:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(finish)

    threading.Thread(target=work, daemon=True).start()
    return done
