# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an activity works if its person's file system has no id-mapped mounts.

On overlayfs, NFS or ubifs what an activity wrote would belong to its own uid, which
another activity gets one day. So it works in a tmpfs of the person's instead, which
can be id-mapped from Linux 6.3 on. The person's own process copies in what is kept,
and back at the end: it has a descriptor of this directory, and the file system lasts
as long as that. Here it is mounted, found again by a daemon that comes later, and
unmounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from . import apply, kernel
from .errors import HostError, RequestError
from .request import Caller

NAME = "scratch"
MAX_INODES = 65536
MAX_KNOWN = 64
"""Of how many file systems it is remembered whether they can be id-mapped."""


class Scratch:
    """The scratch directories of one daemon."""

    def __init__(self, linux: kernel.Kernel, run_dir: Path) -> None:
        self._linux = linux
        self._top = run_dir / NAME
        self._top.mkdir(mode=0o700, exist_ok=True)
        # Any map will do, to see whether a file system takes one. Made now: later
        # the child that it takes would hold whatever callers have sent.
        self._userns = -1
        with suppress(OSError):
            self._userns = apply.user_namespace(linux, b"0 1 1\n", b"0 1 1\n")
        self._known: dict[tuple[int, int], bool] = {}

    def mappable(self, fd: int) -> bool:
        """Whether the directory ``fd`` can be shown by an id-mapped mount.

        Where no user namespace can be made the launch itself will say so.
        """
        if self._userns < 0:
            return True
        # A file system's answer is its kind's. To ask takes a mount, and for the end
        # of one the kernel waits until every processor has noticed.
        try:
            key = os.fstat(fd).st_dev, kernel.file_system(fd)
        except OSError:
            return self._takes_a_map(fd)  # it shows itself to its owner alone (FUSE)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._takes_a_map(fd)
        return self._known[key]

    def _takes_a_map(self, fd: int) -> bool:
        mount = self._linux.open_tree(fd, recursive=False)
        try:
            self._linux.mount_setattr(
                mount, set_=0, recursive=False, userns=self._userns
            )
        except OSError as e:
            # mount_setattr(2): the file system does not support it.
            if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return False
        finally:
            os.close(mount)
        return True

    def make(self, activity_id: str, caller: Caller, size: int) -> int:
        """Mount one of ``size`` bytes; returns a descriptor of it, to be sent.

        RequestError if another has its name, HostError where a tmpfs cannot be
        id-mapped either.
        """
        path = self._top / activity_id
        mount = self._linux.detached_mount(
            "tmpfs",
            {
                "size": str(size),
                "nr_inodes": str(min(MAX_INODES, max(1024, size // 4096))),
                "mode": "0700",
                "uid": str(caller.uid),
                "gid": str(caller.gid),
            },
            kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV,
        )
        try:
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                raise RequestError(
                    f"an activity {activity_id!r} is being launched", code="id-taken"
                ) from None
            try:
                target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._linux.move_mount(mount, target)
                finally:
                    os.close(target)
            except BaseException:
                path.rmdir()
                raise
        finally:
            os.close(mount)
        try:
            # For the person's process, which reads and writes by it as itself.
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if self.mappable(fd):
                return fd
            os.close(fd)
        except BaseException:
            self.remove(activity_id)
            raise
        self.remove(activity_id)
        raise HostError(
            "neither the person's file system nor a tmpfs can be id-mapped here, so "
            "an activity can keep nothing",
            code="idmap-missing",
            hint="Linux 6.3 or later, or a home on ext4, xfs, btrfs or f2fs",
        )

    def remove(self, activity_id: str) -> None:
        """Unmount it; what still holds a descriptor goes on using it."""
        path = self._top / activity_id
        with suppress(FileNotFoundError):
            while os.path.ismount(path):
                self._linux.unmount(str(path))
            path.rmdir()

    def sweep(self, known: Collection[str]) -> None:
        """Remove what a daemon before this one left and nobody works in."""
        for name in os.listdir(self._top):
            if name not in known:
                self.remove(name)

    def close(self) -> None:
        if self._userns >= 0:
            os.close(self._userns)
            self._userns = -1
