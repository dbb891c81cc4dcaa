# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon: accepts local peers, decides who may, launches, remembers, cleans up.

It equals root in power; its defence is how little it parses: one bounded message a
connection, policies, and what its own children say. One rule of authorisation: a uid
launches, lists and stops its own; 0 anyone's; a uid of the activity range nothing.

How it is started is in serving.py. What runs does not end with it: a new one adopts
that (see cleanup.py).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from . import (
    ahead,
    cgroups,
    cleanup,
    consult,
    descriptors,
    foreign,
    furniture,
    host,
    kernel,
    launch,
    memory,
    opener,
    paths,
    plan,
    pool,
    records,
    rooms,
    steps,
    waiter,
    wire,
)
from .activity import Activity, Counts
from .before import Before, Known
from .channel import Channel, readable
from .config import Config
from .errors import (
    DaemonError,
    IdentityError,
    IsolauncherError,
    NotAllowed,
    PolicyError,
    RequestError,
    WireError,
)
from .identity import Ledger
from .log import Log
from .opener import Opener
from .policy.load import PolicyStore
from .request import (
    FURNITURE,
    Asked,
    Attach,
    Caller,
    Furnish,
    Ps,
    Request,
    Signal,
    Stats,
    Stop,
    parse,
    parse_furnish,
)
from .request import Launch as Bundled
from .request import parse_signal as read_signal
from .sandbox import send_signal
from .scratch import Scratch
from .stats import Launch, Launches
from .userdb import USERDB
from .zygote.program import available_locales

REMEMBER_S = 60
"""How long the end of an adopted activity waits for its client to ask."""
ASK_S = 5
"""How long the end of a bundle waits for who had it launched by somebody else."""
ACCEPT_AGAIN_S = 0.2
NOTICED = 3
"""Turns of the loop after which a connection that has ended is known to have."""
QUIET_S = 0.1
"""How long after a launch has begun the next one's uid is looked at."""
RECONNECT_S = 10
"""How long a client has to come back after the daemon was restarted."""
MAX_BROUGHT = 6
"""Descriptors that may come with a question."""


class Daemon:
    """Everything that one daemon holds; one event loop, one thread."""

    def __init__(
        self,
        config: Config,
        *,
        log: Log,
        command: pool.Command = pool.command,
        linux: kernel.Kernel | None = None,
    ) -> None:
        self.config = config
        self.log = log
        # First, while there is no descriptor of anybody's that it could inherit.
        self.openers = opener.Service(opener.SPARES * config.rooms.spares)
        self.openers.start()
        self.kernel: kernel.Kernel = linux or kernel.Linux()
        self.run_dir = Path(config.run_dir)
        self.state_dir = Path(config.state_dir)
        vendor, etc = config.policy_dirs
        self.store = PolicyStore(
            vendor, etc, protected=(config.state_dir, config.run_dir)
        )
        self.host = host.probe(uids=range(config.uids.first, config.uids.last + 1))
        foreign.know_mounts()  # /proc is the kernel's
        self.locales = available_locales()
        self.ledger = Ledger(
            self.state_dir,
            self.run_dir,
            first=config.uids.first,
            last=config.uids.last,
            quota=config.quotas.uids,
            bundle_quota=config.quotas.uids,
            userdb_dir=self._userdb(),
        )
        self.outside = launch.new_outside()
        self.waiter = self._waiter()
        self.scratch = Scratch(self.kernel, self.run_dir)
        self.parents = self._cgroup_parents()
        self.pool = pool.Pool(
            log,
            command=command,
            died=self._zygote_died,
            spares=bool(config.rooms.spares) and not self.alone,
            may_spare=self._may_spare,
        )
        self.rooms = ahead.Rooms(
            self, most=config.rooms.ahead, per_caller=config.rooms.per_caller
        )
        self.pressure = memory.Pressure(
            config.memory.stall_ms,
            lambda: self._give_up_memory("programs wait for memory"),
        )
        if self.pressure.why:
            log.event("memory-not-watched", why=self.pressure.why)
        self._short_until = 0.0
        self._uid_due: asyncio.TimerHandle | None = None
        self.activities: dict[str, Activity] = {}
        self.counts = Counts()
        self.before = Before()
        self.bundles = consult.Bundles()
        self._machine: tuple[tuple[tuple[str, int], ...], plan.Machine] | None = None
        self.launches = Launches()
        self._connections: Counter[int] = Counter()
        self._turned_away: dict[int, list[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._undoing: set[asyncio.Task[None]] = set()
        self.closing = asyncio.Event()

    @property
    def alone(self) -> bool:
        """Of one connection, beside the daemon that has the socket, or without it."""
        return not self.config.socket

    # ------------------------------------------------------------------- what it has

    def _userdb(self) -> Path:
        """The machine's, for the machine's daemon; another must not name its uids."""
        ours = self.config.run_dir == paths.RUN_DIR
        return USERDB if ours else self.run_dir / "userdb"

    def _waiter(self) -> int:
        """What each init becomes in the end, where that has been seen to run; or -1."""
        if self.host.waiter:
            return waiter.make()
        self.log.event("no-waiter", why=self.host.why["waiter"])
        return -1

    def _cgroup_parents(self) -> cgroups.Parents:
        if not self.host.cgroups:
            return cgroups.Parents(places=())
        name = cgroups.name_for(self.run_dir)
        if self.alone:
            name = cgroups.alone(name)
        return cgroups.prepare(self.host.cgroups, name)

    def machine(self) -> plan.Machine:
        """As it is now; its cgroups are those that activities' own are made below."""
        hard = tuple(
            (name, resource.getrlimit(number)[1])
            for name, number in kernel.RLIMITS.items()
        )
        # All else is as it was when the daemon began.
        if self._machine is None or self._machine[0] != hard:
            self._machine = hard, self._machine_with(hard)
        return self._machine[1]

    def _machine_with(self, hard: tuple[tuple[str, int], ...]) -> plan.Machine:
        return plan.Machine(
            landlock_abi=self.host.landlock,
            cgroups=self.parents.places,
            why_no_cgroup="; ".join(
                self.host.why[f"cgroup.{c}"]
                for c in host.CONTROLLERS
                if f"cgroup.{c}" in self.host.why
            ),
            hard_limits=tuple(
                (name, value) for name, value in hard if value != resource.RLIM_INFINITY
            ),
            root_over=str(self.run_dir),
            init_uid=self.config.uids.init,
        )

    def describe(self, activity: Activity) -> dict[str, object]:
        """What a record must say so that a later daemon can answer for it."""
        assert activity.room.facts is not None  # noqa: S101 (for the type checker)
        return {
            "id": activity.id,
            **rooms.describe(self, activity.room, activity.room.facts.caller),
            "bundle_id": activity.bundle_id,
            "scratch": activity.scratch,
            "policy": activity.policy,
            "policy_files": list(activity.policy_files),
            "tier": activity.tier,
            "path": activity.path,
            "program": activity.program,
            "tied": activity.tied,
            "client_pid": activity.client_pid,
            "client_start": activity.client_start,
            "started": activity.started,
            "enforced": list(activity.enforced),
            "namespaces": activity.namespaces,
        }

    def pids(self, activity: Activity) -> dict[str, object]:
        sandbox = activity.room.sandbox
        assert sandbox is not None  # noqa: S101
        return {
            "init_pid": sandbox.pid,
            "pid": sandbox.stem_pid,
            "pid_start": records.start_time(sandbox.stem_pid),
        }

    # ------------------------------------------------------------------- activities

    def refuse_taken(self, activity_id: str) -> None:
        # A room has its name to its end, and an activity in it another by then.
        alive = (a for a in self.activities.values() if a.state != "exited")
        if self.rooms.has(activity_id) or any(
            activity_id in (a.id, a.room.id) for a in alive
        ):
            raise RequestError(
                f"an activity {activity_id!r} is already running",
                code="id-taken",
                hint="stop it, or choose another --id",
            )

    def add(self, activity: Activity) -> None:
        """Enter it, if its caller's and the daemon's quotas allow."""
        alive, starting = self.counts.alive, self.counts.starting
        quotas, limits = self.config.quotas, self.config.limits
        uid = activity.caller_uid
        held = (
            ("activities", alive[uid], quotas.activities, "you"),
            ("launches", starting[uid], quotas.launches, "you"),
            ("activities", alive.total(), limits.activities, "this machine"),
            ("launches", starting.total(), limits.launches, "this machine"),
        )
        for what, count, most, whose in held:
            if count >= most and not (whose == "you" and activity.caller_uid == 0):
                raise NotAllowed(
                    f"{whose} may have {most} {what} at a time",
                    code="quota",
                    hint="wait until one has ended, or stop one; an administrator "
                    "sets [quotas] in /etc/isolauncher/isolauncher.toml",
                )
        try:
            self._spare_descriptors()
        except OSError as e:
            raise DaemonError(
                f"the daemon has no descriptors for another launch: {e.strerror}",
                code="descriptors",
                hint="wait until something has ended, or raise its RLIMIT_NOFILE",
            ) from e
        self.counts.enter(activity)
        self.activities[activity.id] = activity
        self.prepare_uid_later()

    def prepare_uid_later(self) -> None:
        """Have the ledger look ahead at the next uid, when no launch is under way.

        Whether it has a name is asked of NSS, which is most of what a lease takes.
        """
        if self._uid_due is not None:
            self._uid_due.cancel()
        if self.alone:
            return  # there will be no other
        loop = asyncio.get_running_loop()
        self._uid_due = loop.call_later(QUIET_S, self._prepare_uid)

    def _prepare_uid(self) -> None:
        self._uid_due = None
        if self.starting():
            self.prepare_uid_later()
        elif not self.closing.is_set():
            with suppress(IdentityError):  # who needs one is told
                self.ledger.prepare()

    async def spare_memory(self, set_name: str, *, waits: bool) -> None:
        """NotAllowed if a launch from that zygote would leave too little.

        ``waits``: its room did, and has some of what it needs already.
        """
        keep = self.config.memory.keep_free_mb
        needs = memory.NEEDS_MB[set_name] - memory.ROOM_MB * waits
        if not keep or memory.is_left(keep + needs):
            return
        # What only waits goes first.
        self._give_up_memory("a launch has not enough memory")
        await self.rooms.make_way("a launch has not enough memory")
        if memory.is_left(keep + needs):
            return
        raise NotAllowed(
            "this machine has not enough free memory for another activity: it has "
            f"{(memory.available_kb() or 0) // 1024} MB, {keep} MB are to stay free, "
            f"and this one would need about {needs} MB",
            code="memory",
            hint="close an activity; an administrator sets [memory] in "
            "/etc/isolauncher/isolauncher.toml",
        )

    def _give_up_memory(self, why: str) -> None:
        """What only waits goes, and no other comes for a while."""
        self.rooms.give_up_memory(why)
        self.pool.drop_spares()
        self._short_until = time.monotonic() + memory.RELIEF_S

    def _may_spare(self, set_name: str) -> bool | None:
        """Whether its zygote can fork a spare; None: not now, a launch goes first."""
        keep = self.config.memory.keep_free_mb
        if (
            self.closing.is_set()
            or time.monotonic() < self._short_until
            or (keep and not memory.is_left(keep + 2 * memory.NEEDS_MB[set_name]))
        ):
            return False
        try:
            # A launch beside it comes first.
            descriptors.need(descriptors.CONNECTION + 2 * descriptors.LAUNCH)
        except OSError:
            return False
        return None if self.starting() or self.rooms.making() else True

    def _spare_descriptors(self, beside: int = 0) -> None:
        """OSError unless another launch would find enough, and each under way."""
        launches = 1 + self.counts.starting.total() + self.rooms.making()
        descriptors.need(beside + descriptors.LAUNCH * launches)

    async def abandon(self, activity: Activity) -> None:
        """Give back all that a failed launch had taken; the sandbox ends first.

        Whoever waits for it may be cut short (its client goes away): it goes on.
        """
        undoing = asyncio.create_task(self._abandon(activity))
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undoing.discard)
        await asyncio.shield(undoing)

    async def _abandon(self, activity: Activity) -> None:
        try:
            await rooms.dissolve(self, activity.room)
            if activity.scratch:
                self.scratch.remove(activity.id)
        finally:
            # Even where the ledger could not be written: whoever waits must hear.
            self.activities.pop(activity.id, None)
            self.counts.ended(activity)
            activity.ended.set()

    async def attend(self, activity: Activity) -> None:
        """Wait for a running activity's end, note how, and clean up after it."""
        sandbox = activity.room.sandbox
        record = activity.room.record
        assert sandbox is not None  # noqa: S101
        assert record is not None  # noqa: S101
        await sandbox.ended()
        # The record first, as for a daemon that comes later; init's own word where
        # the record could not be written.
        try:
            events = {**sandbox.last_words(), **records.read(record)}
            activity.status = cleanup.exit_status(events)
            await rooms.dissolve(self, activity.room)
            if activity.scratch:
                self.scratch.remove(activity.id)
        finally:
            self.counts.ended(activity)
            activity.ended.set()
        status, number = activity.exit()
        self.log.event(
            "ended",
            id=activity.id,
            status=status,
            signal=number,
            uid=activity.room.uid,
            caller=activity.caller_uid,
            reason=activity.reason or None,
        )
        alone = activity.clients == 0 and activity.tied
        if alone or activity.bundle_id is not None:
            # A client that is reconnecting may still ask how it ended; one that has
            # another launch a bundle for it has not asked yet.
            await self._or_closing(REMEMBER_S if alone else ASK_S)
        if self.activities.get(activity.id) is activity:
            del self.activities[activity.id]

    async def _or_closing(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)

    async def stop(self, activity: Activity, grace_s: float) -> None:
        """SIGTERM to its main process, then the end of its init."""
        if activity.state == "exited":
            return
        sandbox = activity.room.sandbox
        if activity.state == "starting":
            # Nothing of it runs that could end of its own accord.
            activity.room.end()
            await activity.ended.wait()
            return
        assert sandbox is not None  # noqa: S101 (for the type checker)
        activity.state = "stopping"
        if sandbox.stem >= 0:
            send_signal(sandbox.stem, signal.SIGTERM)
            # A stopped program gets no signal but SIGKILL and SIGCONT.
            send_signal(sandbox.stem, signal.SIGCONT)
        try:
            await asyncio.wait_for(asyncio.shield(sandbox.ended()), grace_s)
        except TimeoutError:
            sandbox.kill()
        await activity.ended.wait()

    def starting(self) -> bool:
        """Whether a launch is under way."""
        return bool(self.counts.starting)

    def _zygote_died(self, zygote: pool.Zygote) -> None:
        """Launches in flight end with their zygote; what runs does not."""
        self.rooms.zygote_died(zygote)
        for activity in self.activities.values():
            sandbox = activity.room.sandbox
            if (
                activity.state == "starting"
                and sandbox is not None
                and sandbox.zygote is zygote
            ):
                activity.room.end()

    # ------------------------------------------------------------------- connections

    def spawn(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.event("internal-error", error=f"{type(error).__name__}: {error}")

    async def serve(self, listener: socket.socket) -> None:
        """Accept until `closing`; more connections than allowed are told so."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        self._listen_to(loop, listener)
        try:
            await self.closing.wait()
        finally:
            loop.remove_reader(listener.fileno())

    def _listen_to(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket
    ) -> None:
        if not self.closing.is_set():
            loop.add_reader(listener.fileno(), self._accept, loop, listener)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        """One connection; called as long as there is another."""
        try:
            self._spare_descriptors(descriptors.CONNECTION)
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as e:
            # EMFILE, ENFILE, ENOMEM (accept(2)): they wait in the queue until
            # something of ours has ended.
            self.log.often("cannot-accept", why=e.strerror)
            self.rooms.drop_all("what they hold is needed")
            self.rooms.views.drop_all()
            self.pool.drop_spares()
            loop.remove_reader(listener.fileno())
            loop.call_later(ACCEPT_AGAIN_S, self._listen_to, loop, listener)
            return
        self.spawn(asyncio.create_task(self.connection(sock)))

    async def connection(self, sock: socket.socket) -> None:
        """One peer, one question."""
        channel = Channel(sock)
        caller: Caller | None = None
        counted = False
        try:
            caller = wire.peer(sock)
            await self._let_in(caller)
            self._count(caller, 1)
            counted = True
            await self._answer(channel, caller)
        except PolicyError as e:
            self._refuse(channel, caller, e)
        except IsolauncherError as e:
            if e.code != "wire-closed":
                self._refuse(channel, caller, e)
        except Exception as e:
            # Ours, or the machine's (a full disk): the peer hears of it all the same.
            text = f"{type(e).__name__}: {e}"
            self.log.event("internal-error", error=text, where=_where(e))
            self._refuse(channel, caller, DaemonError(text, code="internal"))
        finally:
            # The socket too: what was sent and not read ends with it.
            if counted and caller is not None:
                try:
                    await foreign.close(channel.take_apart())
                finally:
                    self._count(caller, -1)
            else:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # the other end sees it at once
                uid = caller.uid if caller is not None else -1
                await self._close_in_turn(uid, channel.take_apart())

    async def _close_in_turn(self, uid: int, fds: list[int]) -> None:
        """Of connections that no quota counts: those of a caller one after another.

        Whoever makes one wait makes his own next ones wait, and each of them costs a
        descriptor (see `serve`) and no thread.
        """
        waiting = self._turned_away.get(uid)
        if waiting is not None:
            waiting += fds  # whoever closes for this caller just now goes on with them
            return
        waiting = self._turned_away[uid] = list(fds)
        try:
            while waiting:
                now, waiting[:] = list(waiting), []
                await foreign.close(now)
        finally:
            del self._turned_away[uid]

    def _count(self, caller: Caller, change: int) -> None:
        self._connections[caller.uid] += change
        if not self._connections[caller.uid]:
            del self._connections[caller.uid]

    async def _let_in(self, caller: Caller) -> None:
        """NotAllowed if he may not; whoever he ended before he came counts no more."""
        with suppress(NotAllowed):
            return self._admit(caller)
        for _ in range(NOTICED):
            await asyncio.sleep(0)
        return self._admit(caller)

    def _admit(self, caller: Caller) -> None:
        """Before a byte of the peer's is read."""
        if caller.uid in self.config.uids:
            raise NotAllowed(
                f"uid {caller.uid} is an activity's: it launches, lists and stops "
                "nothing",
                code="caller-is-activity",
            )
        limits = self.config.limits.connections
        own = self._connections[caller.uid]
        if self._connections.total() >= limits or (
            caller.uid != 0 and own >= self.config.quotas.connections
        ):
            raise NotAllowed(
                "too many connections at a time",
                code="quota-connections",
                hint="wait until one has ended",
            )

    def _refuse(
        self, channel: Channel, caller: Caller | None, error: IsolauncherError
    ) -> None:
        self.log.often(
            "refused",
            caller=caller.uid if caller else None,
            step=error.step,
            code=error.code,
            message=error.message,
            id=_activity_id(error.report),
        )
        message = {"event": "refused", **error.as_fields()}
        if error.report is not None:
            message["report"] = error.report
        try:
            channel.send(message)
        except WireError as e:
            if e.code == "wire-too-large":
                message.pop("report", None)
                with suppress(WireError):
                    channel.send(message)
            # Who has gone needs no answer.

    async def _answer(self, channel: Channel, caller: Caller) -> None:
        message = await self._asked(channel, caller)
        # Not from the connection on: it may have stood for long before it asks.
        received_us = kernel.monotonic_us()
        received = list(message.fds)
        try:
            _refuse_served(received)
            known = self._known(message, caller)
            asked = known.request if known else _understood(message)
            match asked:
                case Request():
                    fds = dict(zip(asked.descriptors, received, strict=True))
                    before = known.wanted if known else None
                    wanted = launch.to_run(self, asked, fds, caller, before)
                    if before is None or before.policy is not wanted.policy:
                        kept = Known(asked, replace(wanted, fds={}))
                        self.before.keep(caller, message.data, kept)
                    await self._run(channel, wanted, received, caller, received_us)
                case Bundled():
                    wanted = await self._consult(channel, asked, received, caller)
                    try:
                        await self._run(channel, wanted, received, caller, received_us)
                    finally:
                        if wanted.scratch and wanted.id not in self.activities:
                            self.scratch.remove(str(wanted.id))
                case Attach():
                    await self._attach(channel, asked, caller)
                case Ps():
                    self._list(channel, caller)
                case Stop():
                    await self._stop(channel, asked, caller)
                case Stats():
                    await self._stats(channel, asked, caller)
                case _:
                    assert_never(asked)
        finally:
            # The connection counts until they are closed, so that nobody can pile
            # up descriptors whose end does not come.
            await foreign.close(received)

    async def _asked(self, channel: Channel, caller: Caller) -> wire.Message:
        """Its question; most have sent it by now."""

        def known(data: bytes) -> bool:
            return self.before.find(caller, data) is not None

        message = channel.try_recv(max_fds=MAX_BROUGHT, known=known)
        if message is not None:
            return message
        try:
            async with asyncio.timeout(self.config.limits.message_ms / 1000):
                return await channel.recv(max_fds=MAX_BROUGHT, known=known)
        except TimeoutError:
            raise RequestError(
                "no message came in time", code="request-timeout"
            ) from None

    def _known(self, message: wire.Message, caller: Caller) -> Known | None:
        """What the same came to before, where it came with as many descriptors."""
        known = self.before.find(caller, message.data)
        if known and len(known.request.descriptors) == len(message.fds):
            return known
        return None

    async def _consult(
        self, channel: Channel, asked: Bundled, received: list[int], caller: Caller
    ) -> launch.Wanted:
        """Tell the caller what governs its bundle, and take what it furnishes.

        What comes is added to ``received``.
        """
        fds = dict(zip(asked.descriptors, received, strict=True))
        looking = Opener(self.openers, caller)
        made = False
        try:
            consulted = await consult.look(self, asked, fds, caller, looking)
            self.refuse_taken(consulted.activity_id)
            channel.send(consulted.granted())
            furnish, brought = await self._furnished(channel, received)
            if self._needs_scratch(brought):
                scratch = self.scratch.make(
                    consulted.activity_id, caller, consulted.policy.view.data
                )
                made = True
                try:
                    channel.send({"event": "copy"}, [scratch])
                finally:
                    os.close(scratch)
                furnish, brought = await self._furnished(channel, received)
            wanted = await consult.complete(consulted, furnish, brought, looking)
            fresh = launch.why_fresh(self, wanted.policy, consulted.variables)
        except BaseException:
            looking.close()
            if made:
                self.scratch.remove(consulted.activity_id)
            raise
        return replace(wanted, scratch=made, looking=looking, fresh=fresh)

    async def _furnished(
        self, channel: Channel, received: list[int]
    ) -> tuple[Furnish, dict[str, int]]:
        """What came next, by name; its descriptors are added to ``received``."""
        try:
            async with asyncio.timeout(self.config.limits.message_ms / 1000):
                message = await channel.recv(max_fds=len(FURNITURE))
        except TimeoutError:
            raise RequestError(
                "nothing was furnished in time", code="request-timeout"
            ) from None
        received += message.fds
        _refuse_served(message.fds)
        furnish = parse_furnish(message.fields, len(message.fds))
        return furnish, dict(zip(furnish.descriptors, message.fds, strict=True))

    def _needs_scratch(self, brought: Mapping[str, int]) -> bool:
        named = (brought[n] for n in furniture.DIRECTORIES if n in brought)
        return not all(self.scratch.mappable(fd) for fd in named)

    async def _run(
        self,
        channel: Channel,
        wanted: launch.Wanted,
        received: list[int],
        caller: Caller,
        received_us: int,
    ) -> None:
        """``received``: the caller's descriptors, taken out once they are closed."""
        launching = asyncio.create_task(
            launch.launch(self, wanted, caller, received_us)
        )
        if wanted.looking is not None:
            looking = wanted.looking
            launching.add_done_callback(lambda _: looking.close_later())
        try:
            # A client that goes away while it waits ends the launch. It may say nothing
            # before "started"; what it says after that is a signal.
            await readable(channel.sock.fileno(), done=launching)
            if not launching.done():
                self.log.event("client-gone", caller=caller.uid, id=wanted.id)
                raise WireError("the client went away", code="wire-closed")
            activity = launching.result()
        finally:
            if not launching.done():
                # To its end, before what it works with is closed under its hands.
                launching.cancel()
                with suppress(asyncio.CancelledError, IsolauncherError):
                    activity = await launching
                    # It had just got through.
                    self.spawn(asyncio.create_task(self.attend(activity)))
                    await self.stop(activity, 0)
        # The activity has its own by now: a pipe's reader must see its end.
        theirs, received[:] = list(received), []
        closing = asyncio.create_task(foreign.close(theirs))
        self.launches.add(
            Launch(
                caller_uid=caller.uid, way=activity.path, timings_us=activity.timings
            )
        )
        self.log.event(
            "launched",
            id=activity.id,
            caller=caller.uid,
            policy=activity.policy,
            uid=activity.room.uid,
            pid=activity.pid,
            tier=activity.tier,
            room=_kept(activity.room),
            total_us=activity.timings.get("total"),
            program=activity.program[:1],
        )
        self.spawn(asyncio.create_task(self.attend(activity)))
        # From here on its activity stands for it: who has all that he may have must
        # still be able to list and stop them.
        self._count(caller, -1)
        try:
            await self._accompany(channel, activity)
        finally:
            self._count(caller, 1)
            await closing

    async def _accompany(self, channel: Channel, activity: Activity) -> None:
        """A client's connection while its activity runs: signals in, the end out."""
        activity.clients += 1
        ended = asyncio.create_task(activity.ended.wait())
        hearing = asyncio.create_task(self._hear(channel, activity))
        try:
            with suppress(WireError):  # who has gone already is not heard either
                channel.send(
                    {
                        "event": "started",
                        "id": activity.id,
                        "pid": activity.pid,
                        "uid": activity.room.uid,
                    }
                )
            await asyncio.wait((ended, hearing), return_when=asyncio.FIRST_COMPLETED)
            if not activity.ended.is_set():
                # The client has gone, or talks nonsense; another may be attached.
                last = activity.clients == 1
                if activity.tied and last and not self.closing.is_set():
                    self.log.event("client-gone", id=activity.id)
                    grace = self.config.limits.grace_ms / 1000
                    await self.stop(activity, grace)
                return
            status, number = activity.exit()
            end = {"event": "exited", "status": status, "signal": number}
            try:
                channel.send(end | {"report": activity.report()})
            except WireError as e:
                if e.code != "wire-too-large":
                    raise
                # It repeats the words and the variables of the largest request.
                less = steps.Skipped(what="report", why="it does not fit one message")
                small = replace(activity, program=activity.program[:1], skipped=[less])
                channel.send(end | {"report": small.report()})
        finally:
            activity.clients -= 1
            ended.cancel()
            hearing.cancel()

    async def _hear(self, channel: Channel, activity: Activity) -> None:
        """Signals for the main process, until the connection ends."""
        try:
            while True:
                message = await channel.recv()
                asked: Signal = read_signal(message.fields, len(message.fds))
                sandbox = activity.room.sandbox
                if sandbox is not None and activity.state in ("running", "stopping"):
                    send_signal(sandbox.stem, signal.Signals[f"SIG{asked.name}"])
        except IsolauncherError as e:
            if e.code != "wire-closed":
                caller = activity.caller_uid
                self.log.often("refused", caller=caller, id=activity.id, code=e.code)

    async def _attach(self, channel: Channel, asked: Attach, caller: Caller) -> None:
        activity = self.activities.get(asked.id)
        if activity is None or not _may(caller, activity):
            raise RequestError(
                f"no activity {asked.id!r} of yours is known", code="unknown-id"
            )
        await self._accompany(channel, activity)

    def _list(self, channel: Channel, caller: Caller) -> None:
        now = asyncio.get_running_loop().time()
        rows = [
            {
                "id": a.id,
                "bundle_id": a.bundle_id,
                "pid": a.pid or None,
                "uid": a.room.uid,
                "caller_uid": a.caller_uid,
                "policy": a.policy,
                "tier": a.tier,
                "path": a.path,
                "state": a.state,
                "age_s": round(now - a.started, 3),
            }
            for a in self.activities.values()
            if _may(caller, a)
        ]
        for part in wire.in_parts("list", "activities", rows):
            channel.send(part)

    async def _stats(self, channel: Channel, asked: Stats, caller: Caller) -> None:
        """Of its own launches to a caller, of everyone's to root."""

        def told(uid: int) -> bool:
            return caller.uid in (0, uid)

        states = Counter(
            a.state
            for a in self.activities.values()
            # One that has ended is only remembered, for a client that reconnects.
            if a.state != "exited" and told(a.caller_uid)
        )
        zygotes = {
            name: {"pid": z.process.pid, "generation": self.pool.generations[name]}
            for name, z in sorted(self.pool.zygotes().items())
        }
        stats = {
            "version": 1,
            "activities": dict(states),
            "launches": self.launches.as_data(told),
            "rooms": self.rooms.as_data(told),
            "spares": self.pool.as_data(),
            "zygotes": zygotes,
        }
        channel.send({"event": "stats", "stats": stats, "more": asked.memory})
        if asked.memory:
            rows = await self._memory(told)
            for part in wire.in_parts("memory", "memory", rows):
                channel.send(part)

    async def _memory(self, told: Callable[[int], bool]) -> list[dict[str, object]]:
        """What each activity has, its init included: KiB, as the kernel counts them."""
        rows: list[dict[str, object]] = []
        for activity in list(self.activities.values()):
            sandbox = activity.room.sandbox
            if activity.state not in ("running", "stopping") or sandbox is None:
                continue
            if not told(activity.caller_uid):
                continue
            used = await memory.used_below(sandbox.pid)
            if sandbox.has_ended():
                continue  # and its number may have been another's meanwhile
            rows.append(
                {
                    "id": activity.id,
                    "bundle_id": activity.bundle_id,
                    "processes": used.processes,
                    "pss_kb": used.pss,
                    "uss_kb": used.uss,
                    "private_dirty_kb": used.private_dirty,
                }
            )
        return rows

    async def _stop(self, channel: Channel, asked: Stop, caller: Caller) -> None:
        results = await asyncio.gather(
            *(self._stop_one(activity_id, asked, caller) for activity_id in asked.ids)
        )
        channel.send({"event": "stopped", "results": list(results)})

    async def _stop_one(
        self, activity_id: str, asked: Stop, caller: Caller
    ) -> dict[str, object]:
        activity = self.activities.get(activity_id)
        if activity is None or activity.state == "exited":
            result, message = "unknown", f"no activity {activity_id!r} is running"
        elif not _may(caller, activity):
            result = "not-allowed"
            message = f"{activity_id!r} was not launched by you"
            self.log.often("refused", id=activity_id, caller=caller.uid, code=result)
        else:
            activity.reason = activity.reason or asked.reason
            await self.stop(activity, asked.grace_ms / 1000)
            result, message = "gone", ""
        return {"id": activity_id, "result": result, "message": message}

    # ----------------------------------------------------------------------- the end

    async def close(self) -> None:
        """Let go: what runs goes on, what is in flight ends."""
        self.closing.set()
        for activity in list(self.activities.values()):
            if activity.state == "starting":
                activity.room.end()
        connections = [t for t in self._tasks if not t.done()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        if self._undoing:
            await asyncio.wait(self._undoing, timeout=5)
        self.pressure.close()
        await self.rooms.close()
        await self.pool.close()
        self.openers.close()
        self.scratch.close()
        self.log.close()
        self.ledger.close()
        self.store.close()
        os.close(self.outside)
        if self.waiter >= 0:
            os.close(self.waiter)
        cgroups.close(self.parents)


def _activity_id(report: Mapping[str, object] | None) -> object:
    activity = (report or {}).get("activity")
    return activity.get("id") if isinstance(activity, dict) else None


def _where(error: BaseException) -> str:
    """The innermost line of ours, for the log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _understood(message: wire.Message) -> Asked:
    fields = message.fields or wire.decode(message.data)
    return parse(fields, len(message.fds))


def _refuse_served(fds: Iterable[int]) -> None:
    """Before any other look at them, which may be one too many."""
    for why in filter(None, map(foreign.served, fds)):
        raise RequestError(
            f"a descriptor lies {why}",
            code="foreign-mount",
            hint="pass it through a pipe, or copy the program to a disk",
        )


def _kept(room: rooms.Room) -> str:
    """Of a room, for the log: how it came to be."""
    if room.waiting is not None:
        return "expected"
    if room.living:
        return "lodged"
    return "ahead" if room.ahead else "on-demand"


def _may(caller: Caller, activity: Activity) -> bool:
    return caller.uid in (0, activity.caller_uid)
