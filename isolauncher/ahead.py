# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms that are prepared ahead: `Rooms` keeps some for who is likely to come again.

A room is given out only when all it was made from is the same: its `Facts` are
compared, the zygote asked whether its files have changed, the kernel whether anything
was mounted and whether anything has changed on the way to a path it shows; if so, or
where the kernel cannot say, the room's own opener looks once more, with the caller's
rights, at every one. Any difference and the room is dissolved, another is made on
demand.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from . import descriptors, memory, pool, seen, ways
from .errors import IsolauncherError
from .rooms import AFTER_S, OPENING_S, Facts, Room, dissolve, new_id, prepare

if TYPE_CHECKING:
    from .daemon import Daemon

IDLE_S = 300
"""How long a room waits. Its opener is a process of the caller's, seen by ``ps``."""

LODGED_S = 1800
"""The same in a session, where somebody is at one activity before the next."""

OPENED_S = 15.0
"""When a bundle's activity has its window at the latest.

Or it will go on to be busy whatever is open.
"""

LOOK_S = 0.25
BUSY = 0.2
"""Of one processor, between two looks `LOOK_S` apart: who has more is opening still."""

TWICE = 2
"""Who launched once may not come again: a room is made after this many launches."""

REMEMBERED = 16

TRIED = 3
"""How often it is tried to prepare what cannot be: a display may refuse for once."""
_IN_VAIN = ("not-lodged", "warm-spoilt")

WORDS = 2
"""How many launches under the same policy are remembered word for word."""


class Again(Protocol):
    """A launch that may come again, and how to be ready for it."""

    @property
    def serves(self) -> object:
        """What a room that is prepared for it serves, to be compared."""

    @property
    def times(self) -> int:
        """How many of its kind there must have been."""

    @property
    def beside(self) -> bool:
        """Whether a room for any other launch is wanted beside it."""

    async def prepare(self, daemon: Daemon, room: Room) -> None:
        """Have a room that is ready go on; it is dissolved if this raises."""

    def another(self) -> Self:
        """The same, with descriptors of its own."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Who has launched, how often, and when last (the loop's seconds).

    ``words`` are the latest that may come again, as they were put, and how often each
    has; the last one first. ``others``: the very last launch was none of these.
    """

    facts: Facts
    count: int
    at: float
    words: tuple[tuple[Again, int], ...] = ()
    others: bool = False

    def deserves(self) -> list[Again | None]:
        """What to have a room for; None: for any launch."""
        usual = next((a for a, count in self.words if count >= a.times), None)
        if usual is None:
            return [None] if self.count >= TWICE else []
        return [usual] if not usual.beside and not self.others else [None, usual]

    def heard(self, last: Again | None) -> tuple[tuple[Again, int], ...]:
        """``words`` when ``last`` has come, too; what falls out of them is closed."""
        if last is None:
            return self.words
        count, others = 1, []
        for again, times in self.words:
            if again.serves == last.serves:
                count += times
                again.close()
            else:
                others.append((again, times))
        for again, _ in others[WORDS - 1 :]:
            again.close()
        return ((last, count), *others[: WORDS - 1])

    def close(self) -> None:
        for again, _ in self.words:
            again.close()

    def is_replaced_by(self, newer: Facts) -> bool:
        """Of two versions of one policy only the newer is worth a room.

        What two bundles make of one version, by what they ask for, are no versions.
        """
        older = self.facts.policy
        edited = newer.policy.digest != older.digest or newer.policy == older
        return (
            edited
            and newer.policy.name == older.name
            and newer == replace(self.facts, policy=newer.policy, machine=newer.machine)
        )


class Rooms:
    """Rooms of one daemon that nobody has asked for yet."""

    def __init__(self, daemon: Daemon, *, most: int, per_caller: int) -> None:
        self._daemon = daemon
        self._most = most
        self._per_caller = per_caller
        self._ready: dict[str, Room] = {}
        self._waits: dict[str, asyncio.Task[None]] = {}
        self._asked: list[_Asked] = []
        """The latest at the end."""
        self._making: Room | None = None
        self._filling: asyncio.Task[None] | None = None
        self._ending: dict[asyncio.Task[None], Room] = {}
        self._mounts = MountTable()
        self._watch = ways.Watch()
        self.views = seen.Views(daemon, self._watch)
        self._short_until = 0.0
        self._in_vain: deque[object] = deque(maxlen=REMEMBERED)
        """What no room could be prepared to serve; as often as it was tried."""

    def as_data(self, of: Callable[[int], bool]) -> dict[str, int]:
        """How many are ready, are to be made for who launched lately, and end."""
        ready = [r for r in self._ready.values() if r.facts and of(r.facts.caller.uid)]
        filling = self._filling is not None and not self._filling.done()
        wanted = filling or self._wanted() is not None or self.views.is_busy()
        return {
            "ready": len(ready),
            "wanted": int(wanted),
            "ending": len(self._ending),
        }

    def find(self, made_from: Facts, asked: object = None) -> Room | None:
        """One that was made from the same, or None; it stays where it is.

        If there is one for just such a launch (`Room.serves`) it is that, else one for
        any.
        """
        fit = [r for r in self._ready.values() if r.facts == made_from]
        just = (r for r in fit if r.serves is not None and r.serves == asked)
        return next(just, None) or next((r for r in fit if r.serves is None), None)

    def has(self, room_id: str) -> bool:
        """Whether one of this name waits, is being made, or is not gone yet."""
        rooms = [*self._ready.values(), *self._ending.values()]
        if self._making is not None:
            rooms.append(self._making)
        return any(room.id == room_id for room in rooms)

    def seen(self, made_from: Facts) -> seen.Seen | None:
        """What would be shown just as it was, if that is known."""
        self._drop_if_mounted()
        return self.views.find(made_from)

    def has_mounts_changed(self) -> bool:
        """Since it was last asked for whatever; what depends on it is gone by then."""
        return self._drop_if_mounted()

    async def take(self, made_from: Facts, asked: object = None) -> Room | None:
        """As `find`, one that is still right; what is not is gone by then."""
        if self._drop_if_mounted() and self._ending:
            await asyncio.wait(self._ending)
        room = self.find(made_from, asked)
        if room is None or room.sandbox is None:
            return None
        self._take_out(room)
        try:
            zygote = await self._daemon.pool.zygote(made_from.set_name)
        except BaseException:
            await asyncio.shield(self.dissolve(room))
            raise
        if zygote is not room.sandbox.zygote or room.sandbox.has_ended():
            await asyncio.shield(self.dissolve(room))
            return None
        return room

    def launched(self, made_from: Facts, again: Again | None) -> None:
        """Somebody has launched who may come again; ``again`` is ours from now on."""
        if again is not None and self._in_vain.count(again.serves) >= TRIED:
            again.close()
            again = None
        if not self._most:
            # Nothing is kept for what is never made.
            if again is not None:
                again.close()
            return
        count, before = 1, _Asked(facts=made_from, count=0, at=0)
        for asked in self._asked:
            if asked.is_replaced_by(made_from):
                self._asked.remove(asked)
                count += asked.count
                if asked.facts == made_from:
                    before = asked
                else:
                    asked.close()  # said under another version of the policy
                break
        now = asyncio.get_running_loop().time()
        words = before.heard(again)
        self._asked.append(
            _Asked(
                facts=made_from, count=count, at=now, words=words, others=again is None
            )
        )
        for asked in self._asked[:-REMEMBERED]:
            asked.close()
        del self._asked[:-REMEMBERED]

    def making(self) -> bool:
        return self._making is not None

    def consider(self) -> None:
        """Begin to fill up, once nothing more urgent is to be done."""
        idle = self._filling is None or self._filling.done()
        if idle and self._wanted() is not None:
            self._filling = asyncio.create_task(self._fill())
            self._filling.add_done_callback(self._filled)

    def _filled(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._daemon.log.event(
                "internal-error", error=f"{type(error).__name__}: {error}"
            )

    def _deserved(self) -> list[tuple[Facts, Again | None]]:
        """Which rooms there should be: who came last, within what we may keep.

        For any launch first, then for the one that is expected.
        """
        now = asyncio.get_running_loop().time()
        chosen: list[tuple[Facts, Again | None]] = []
        for asked in reversed(self._asked):
            made_from = asked.facts
            # A uid that is kept is the program's, and which program comes is unknown.
            if asked.at <= now - _patience(made_from) or made_from.lease_key:
                continue
            for again in asked.deserves():
                own = sum(f.caller == made_from.caller for f, _ in chosen)
                if own < self._per_caller:
                    chosen.append((made_from, again))
        return chosen[: self._most]

    def _wanted(self) -> tuple[Facts, Again | None] | None:
        """What the room to make next is for."""
        if self._daemon.closing.is_set() or self._memory_is_short():
            return None
        return next((d for d in self._deserved() if not self._is_there(*d)), None)

    def _is_there(self, made_from: Facts, again: Again | None) -> bool:
        return any(_is_for(room, made_from, again) for room in self._ready.values())

    def _memory_is_short(self) -> bool:
        """Whether what runs has waited for it of late, or a launch has lacked it."""
        return asyncio.get_running_loop().time() < self._short_until

    def give_up_memory(self, why: str) -> None:
        """What only waits for a request goes, and no other comes for a while."""
        self._short_until = asyncio.get_running_loop().time() + memory.RELIEF_S
        self.views.drop_all()
        self.drop_all(why)
        if self._making is not None:
            self._making.end()

    def _forget(self, room: Room) -> None:
        """It ended, or never was: another only for who launches again, and again."""
        kept: list[_Asked] = []
        for asked in self._asked:
            if asked.facts != room.facts:
                kept.append(asked)
                continue
            asked.close()
            if room.serves is not None:
                # Perhaps for what was expected alone.
                kept.append(replace(asked, words=()))
        self._asked = kept

    async def _fill(self) -> None:
        while True:
            wanted = self._wanted()
            opening = wanted is not None and wanted[0].own_home
            await asyncio.sleep(OPENING_S if opening else AFTER_S)
            if opening:
                await self._opened()
            wanted = self._wanted()
            if wanted is None or self._daemon.starting():
                return  # the launch under way asks us again when it is done
            deserved = self._deserved()
            for room in list(self._ready.values()):
                if not any(_is_for(room, *one) for one in deserved):
                    self._take_out(room)
                    self.dissolve(room)
            # Whoever's is not made is forgotten, and the next one's turn comes.
            await self._make(*wanted)

    async def _opened(self) -> None:
        """Until no bundle's activity that has begun of late wants the processor."""
        now = asyncio.get_running_loop().time
        used: dict[int, float] = {}
        while True:
            since = now() - OPENED_S
            last, used = (
                used,
                {
                    a.pid: _processor_s(a.pid)
                    for a in self._daemon.activities.values()
                    if a.state == "running" and a.bundle_id and a.started > since
                },
            )
            if all(used[pid] - last.get(pid, -LOOK_S) < BUSY * LOOK_S for pid in used):
                return
            await asyncio.sleep(LOOK_S)

    async def _make(self, made_from: Facts, again: Again | None) -> None:
        self._drop_if_mounted()
        room = self._making = Room(id=new_id())
        if again is not None:
            room.serves = again.serves
            # The next launch closes the other's, and may be over before this is made.
            again = again.another()
        try:
            # A launch beside it comes first.
            descriptors.need(descriptors.CONNECTION + 2 * descriptors.LAUNCH)
            self._need_memory(made_from.set_name)
            async with asyncio.timeout(self._daemon.config.limits.launch_ms / 1000):
                await prepare(self._daemon, room, made_from, None, ahead=True)
                assert room.checker is not None  # noqa: S101 (for the type checker)
                room.watched = await room.checker.watched(self._watch)
                if again is not None:
                    await again.prepare(self._daemon, room)
        except (IsolauncherError, OSError) as e:
            # No launch suffers: the next one is told what stands in the way.
            told = e.message if isinstance(e, IsolauncherError) else e.strerror
            if isinstance(e, IsolauncherError) and e.code in _IN_VAIN:
                self._in_vain.append(room.serves)
            self._not_made(room, made_from, told or "not ready in time")
            return
        except BaseException:
            self.dissolve(room)
            raise
        finally:
            self._making = None
            if again is not None:
                again.close()
        if self._drop_if_mounted() or room.dissolved:
            self._not_made(room, made_from, "what it was made from is gone")
            return
        self._ready[room.id] = room
        self._waits[room.id] = asyncio.create_task(self._wait(room))

    def _need_memory(self, set_name: str) -> None:
        """OSError unless there is enough for it, and for a launch beside it."""
        keep = self._daemon.config.memory.keep_free_mb
        if keep and not memory.is_left(keep + 2 * memory.NEEDS_MB[set_name]):
            raise OSError(errno.ENOMEM, "memory is short")

    def _not_made(self, room: Room, made_from: Facts, why: str) -> None:
        self._daemon.log.event("room-not-made", set=made_from.set_name, why=why)
        self._forget(room)
        self.dissolve(room)

    async def _wait(self, room: Room) -> None:
        """Until it has waited long enough, or has ended of itself."""
        assert room.sandbox is not None  # noqa: S101 (for the type checker)
        with suppress(TimeoutError):
            patience = _patience(room.facts)
            await asyncio.wait_for(room.sandbox.spoilt(), patience)
        if self._ready.pop(room.id, None) is not None:
            del self._waits[room.id]
            self._forget(room)
            self.dissolve(room)
            self.consider()

    def _take_out(self, room: Room) -> None:
        del self._ready[room.id]
        # Not at once: a launch goes on, and this takes the loop three turns.
        waiting = self._waits.pop(room.id)
        asyncio.get_running_loop().call_later(AFTER_S, waiting.cancel)

    def dissolve(self, room: Room) -> asyncio.Task[None]:
        """In its own time; `close` waits for it."""
        room.end()
        task = asyncio.create_task(dissolve(self._daemon, room))
        self._ending[task] = room
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        room = self._ending.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What it held is the next daemon's to find.
            why = f"{type(error).__name__}: {error}"
            self._daemon.log.event("internal-error", id=room.id, error=why)

    def drop_all(self, why: str, caller_uid: int | None = None) -> bool:
        """Give back every room, or all of one caller's; False if there is none."""
        rooms = [r for r in self._ready.values() if _is_of(r, caller_uid)]
        if rooms:
            self._daemon.log.event("rooms-dissolved", count=len(rooms), why=why)
        for room in rooms:
            self._take_out(room)
            self.dissolve(room)
        return bool(rooms)

    def _drop_if_mounted(self) -> bool:
        """Whether something was; the kernel says so once, so it concerns all rooms."""
        changed = self._mounts.changed()
        if changed:
            self.views.drop_all()
            self.drop_all("something was mounted")
            if self._making is not None:
                self._making.end()
        return changed

    async def make_way(self, why: str, caller_uid: int | None = None) -> bool:
        """As `drop_all`, with the one that has a uid and is not ready yet; and wait."""
        dropped = self.drop_all(why, caller_uid) or bool(self._ending)
        making, filling = self._making, self._filling
        if making and filling and making.leased_as and _is_of(making, caller_uid):
            dropped = True
            making.end()
            await asyncio.wait((filling,))
        if self._ending:
            await asyncio.wait(self._ending)
        return dropped

    def zygote_died(self, zygote: pool.Zygote) -> None:
        """What was forked from it and has not been asked for ends with it."""
        for room in list(self._ready.values()):
            if room.sandbox is not None and room.sandbox.zygote is zygote:
                self._take_out(room)
                self._forget(room)
                self.dissolve(room)
        making = self._making
        if making and making.sandbox and making.sandbox.zygote is zygote:
            making.end()
        self.consider()

    async def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        await self.views.close()
        await self.make_way("the daemon ends")
        for asked in self._asked:
            asked.close()
        self._asked.clear()
        self._mounts.close()
        self._watch.close()


def _processor_s(pid: int) -> float:
    """What a process has used of it (proc_pid_stat(5), utime and stime)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_S


_TICKS_A_S = os.sysconf("SC_CLK_TCK")


def _patience(made_from: Facts | None) -> float:
    return LODGED_S if made_from is not None and made_from.own_home else IDLE_S


def _is_for(room: Room, made_from: Facts, again: Again | None) -> bool:
    wanted = again.serves if again is not None else None
    return room.facts == made_from and room.serves == wanted


def _is_of(room: Room, caller_uid: int | None) -> bool:
    own = room.facts is not None and room.facts.caller.uid == caller_uid
    return caller_uid is None or own


class MountTable:
    """Whether anything was mounted or unmounted in our namespace (proc_pid_mounts(5)).

    A room has copies of the mounts that were below its trees when it was made.
    """

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb")  # noqa: SIM115
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)

    def changed(self) -> bool:
        """Since the last time it was asked, which the kernel remembers."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._file.close()
