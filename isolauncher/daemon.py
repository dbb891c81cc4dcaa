# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon: accepts local peers, decides who may, launches, remembers, cleans up.

It equals root in power; its defence is how little it parses: one bounded message a
connection, policies, and what its own children say. One rule of authorisation: a uid
launches, lists and stops its own; 0 anyone's; a uid of the activity range nothing.

How it is started is in serving.py, what it answers in answers.py. What runs does not
end with it: a new one adopts that (see cleanup.py).
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from . import (
    ahead,
    answers,
    cgroups,
    cleanup,
    consult,
    descriptors,
    foreign,
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
    waiter,
    wire,
)
from .activity import Activity, Counts
from .before import Before
from .channel import Channel
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
from .identity.ledger import Ledger
from .identity.userdb import USERDB
from .log import Log
from .policy.load import PolicyStore
from .request import Caller
from .sandbox import send_signal
from .scratch import Scratch
from .stats import Launches
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
        """SIGTERM to its main process if there is a grace, then the end of its init."""
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
        if sandbox.stem >= 0 and grace_s > 0:
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
            self.count_connection(caller, 1)
            counted = True
            await answers.answer(self, channel, caller)
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
                    self.count_connection(caller, -1)
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

    def count_connection(self, caller: Caller, change: int) -> None:
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
