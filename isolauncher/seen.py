# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller has been shown under a policy, kept for as long as it would be again.

A launch that finds no room has every path of its policy opened with the caller's rights
first. Who comes for the third time need not wait for that: after the second an opener
of theirs has looked once more, and the kernel tells of every change on the way to what
it found (see ways.py). No change, and the view is the same; else they are opened anew.

Kept are descriptors of what was found, from which each launch's mounts are made. So no
file system is kept busy that somebody may want to take away: nothing is remembered
where a path leads to another than the system's own. And the opener, for the program of
who comes next.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import descriptors, kernel, opener, plan, reopen, steps, view, ways, wire
from .errors import IsolauncherError

if TYPE_CHECKING:
    from .daemon import Daemon
    from .rooms import Facts

MOST = 4
"""How many are kept. Each has a process of its caller's, seen by ``ps``."""
IDLE_S = 300
"""And for how long after the last launch that they were for."""
REMEMBERED = 16
AFTER_S = 0.05
"""How long after a launch has begun is looked at what it was shown: it goes first."""


@dataclass(slots=True, kw_only=True, eq=False)
class Seen:
    """``made_from`` is what it was looked at for, to be compared; ``found`` has the
    descriptors, by the plan's names, and whether each is of a directory.

    ``sent`` says device and inode of each. ``idle``: an opener of the caller's that has
    nothing to do.
    """

    made_from: Facts
    shown: plan.View
    skipped: tuple[steps.Skipped, ...]
    found: Mapping[str, tuple[int, bool, str]]
    sent: Mapping[str, tuple[int, int]]
    watched: ways.Watched
    idle: opener.Opener | None
    used: float = 0.0
    closed: bool = False

    def borrow(self) -> opener.Opener | None:
        """The opener, if nobody else has it."""
        found, self.idle = self.idle, None
        return found

    def give_back(self, lent: opener.Opener) -> None:
        if self.closed or self.idle is not None or not lent.is_idle():
            lent.close()
        else:
            self.idle = lent

    def is_same(self) -> bool:
        return self.watched.is_quiet()

    def show(self, mounts: view.Mounts) -> tuple[plan.View, list[steps.Skipped]]:
        """As `view.show` did."""
        for name, (fd, recursive, path) in self.found.items():
            mounts.clone(name, fd, recursive=recursive, shown=path)
        return self.shown, list(self.skipped)

    def close(self) -> None:
        self.closed = True
        self.watched.close()
        wire.close_all(fd for fd, _, _ in self.found.values())
        if self.idle is not None:
            self.idle.close()
            self.idle = None


def keep(
    made_from: Facts,
    shown: plan.View,
    skipped: list[steps.Skipped],
    opened: tuple[reopen.Opened, ...],
    watched: ways.Watched,
    looked: opener.Opener,
) -> Seen:
    """With descriptors of what was ``opened``; the last two are its own by then."""
    fds = {entry.path: entry.fd for entry in opened if entry.fd >= 0}
    found: dict[str, tuple[int, bool, str]] = {}
    sent: dict[str, tuple[int, int]] = {}
    try:
        for tree in shown.trees:
            fd = os.dup(fds[tree.path])
            found[tree.descriptor] = fd, tree.kind == "directory", tree.path
            status = os.fstat(fd)
            sent[tree.descriptor] = status.st_dev, status.st_ino
    except BaseException:
        watched.close()
        wire.close_all(fd for fd, _, _ in found.values())
        raise
    return Seen(
        made_from=made_from,
        shown=shown,
        skipped=tuple(skipped),
        found=found,
        sent=sent,
        watched=watched,
        idle=looked,
    )


def stays(fd: int) -> bool:
    """Whether the file system is one that this system itself runs from, or memory."""
    in_memory = kernel.file_system(fd) == kernel.TMPFS_MAGIC
    return in_memory or (
        kernel.is_local(fd)
        and os.fstat(fd).st_dev in {os.stat(top).st_dev for top in ("/", "/usr")}
    )


class Views:
    """Those of one daemon, the latest at the end."""

    def __init__(self, daemon: Daemon, watch: ways.Watch) -> None:
        self._daemon = daemon
        self._watch = watch
        self._seen: list[Seen] = []
        self._came: deque[Facts] = deque(maxlen=REMEMBERED)
        self._wanted: list[Facts] = []
        self._due: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._in_vain: deque[Facts] = deque(maxlen=REMEMBERED)
        self._dropped = 0
        self._ends: asyncio.TimerHandle | None = None

    def find(self, made_from: Facts) -> Seen | None:
        """What would be shown again just so; it stays where it is."""
        for known in self._seen:
            if known.made_from == made_from:
                self._seen.remove(known)
                if known.is_same():
                    self._keep(known)
                    return known
                known.close()
                break
        return None

    def _keep(self, known: Seen) -> None:
        loop = asyncio.get_running_loop()
        known.used = loop.time()
        self._seen.append(known)
        while len(self._seen) > MOST:
            self._seen.pop(0).close()
        if self._ends is None:
            self._ends = loop.call_later(IDLE_S, self._forget)

    def _forget(self) -> None:
        """Those for which nobody has come for long."""
        self._ends = None
        loop = asyncio.get_running_loop()
        while self._seen and self._seen[0].used <= loop.time() - IDLE_S:
            self._seen.pop(0).close()
        if self._seen:
            self._ends = loop.call_at(self._seen[0].used + IDLE_S, self._forget)

    def came(self, made_from: Facts) -> None:
        """Somebody had all of it opened; who has had so before may come again."""
        if not self._daemon.config.rooms.spares or self._daemon.alone:
            return  # nothing is to wait for anybody
        if made_from not in self._came:
            self._came.append(made_from)
        elif made_from not in self._in_vain and made_from not in self._wanted:
            self._wanted.append(made_from)
        self._look_later()

    def _look_later(self) -> None:
        if self._wanted and self._due is None and self._looking is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(AFTER_S, self._look_now)

    def is_busy(self) -> bool:
        return bool(self._wanted) or self._looking is not None

    def _look_now(self) -> None:
        self._due = None
        if self._daemon.closing.is_set():
            return
        if self._daemon.starting() or self._daemon.rooms.making():
            self._look_later()
            return
        self._looking = asyncio.create_task(self._look())
        self._looking.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not self._daemon.closing.is_set():
            self._look_later()  # for who came when it was all but over
        if not task.cancelled() and (error := task.exception()) is not None:
            self._daemon.log.event(
                "internal-error", error=f"{type(error).__name__}: {error}"
            )

    async def _look(self) -> None:
        while self._wanted:
            made_from = self._wanted[0]
            try:
                descriptors.need(descriptors.CONNECTION + 2 * descriptors.LAUNCH)
                kept = await self._once_more(made_from)
            except (IsolauncherError, OSError):
                kept = None  # a launch is told what stands in the way
            finally:
                self._wanted.remove(made_from)
            if kept is None:
                self._in_vain.append(made_from)
                continue
            self._keep(kept)

    async def _once_more(self, made_from: Facts) -> Seen | None:
        """Look again, with the caller's rights; None: nobody tells of changes there."""
        before = self._dropped
        checker = opener.Opener(self._daemon.openers, made_from.caller)
        kept: Seen | None = None
        try:
            kept = await self._look_by(checker, made_from)
        finally:
            if kept is None:
                checker.close()
        changed = self._daemon.rooms.has_mounts_changed() or self._dropped != before
        if kept is not None and changed:
            kept.close()
            return None
        return kept

    async def _look_by(self, checker: opener.Opener, made_from: Facts) -> Seen | None:
        policy, store = made_from.policy, self._daemon.store
        home = made_from.home if made_from.own_home else ""
        opened, _ = await checker.open(view.wants(policy, home), None, again=True)
        mounts = view.Mounts(self._daemon.kernel)
        try:
            if not all(stays(entry.fd) for entry in opened if entry.fd >= 0):
                return None
            shown, skipped = view.show(
                mounts,
                opened,
                made_from.caller,
                refuse_read=store.refuse_read,
                refuse_write=store.refuse_write,
                allowed=policy.devices,
            )
            watched = await checker.watched(self._watch)
            if watched is None:
                return None
            return keep(made_from, shown, skipped, opened, watched, checker)
        finally:
            mounts.close()
            wire.close_all(entry.fd for entry in opened if entry.fd >= 0)

    def drop_all(self) -> None:
        self._dropped += 1
        for known in self._seen:
            known.close()
        self._seen.clear()

    async def close(self) -> None:
        for timer in (self._due, self._ends):
            if timer is not None:
                timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self.drop_all()
