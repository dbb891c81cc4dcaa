# SPDX-License-Identifier: GPL-3.0-or-later
"""Zygotes and what they fork, as the daemon sees them.

`Pool.sandbox` gives one sandbox for a preload set: an init that waits for its plan. A
zygote is checked before each fork against the files it was made from, and replaced
when one of them has changed or it has died. `Pool.usable` says which set a policy's
name comes to on this machine.
"""

from __future__ import annotations

import asyncio
import glob
import json
import os
import select
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import kernel
from .channel import Channel, readable
from .errors import IsolauncherError, WireError, ZygoteError, from_fields
from .host import TYPELIBS
from .log import Log
from .sandbox import Sandbox, pid_of
from .zygote import sets
from .zygote.fingerprint import Fingerprint
from .zygote.watch import Watch

INTERPRETER = "/usr/bin/python3"
BOOTSTRAP = os.path.join(os.path.dirname(__file__), "zygote", "bootstrap.py")
BARE = "bare"
"""The set of sandboxes whose program is exec'ed: nothing but what init needs."""

LOOK_S = 1
LOOKS_START = 30
LOOKS_ENTRY = 15
"""How often a start is looked at, and one import in it, until it takes too long; longer
than the zygote itself lets an import take, which some can prevent. Not by the clock:
daemon and zygote may have been stopped together."""
MAX_CULPRITS = 16
"""Of one start: so many crash for a reason of the machine's, not of theirs."""
MAX_NAME = 4096
FORK_S = 5
MAX_REPORT = 8 << 20
SPARE_AFTER_S = 0.1
"""How long after a zygote was last asked it forks a spare: a launch goes first."""
SOON_S = 0.004
OFTEN_S = 0.3
"""And how long where launches come as close as this: the next one will not wait."""

Command = Callable[[str], tuple[str, ...]]


def command(set_name: str) -> tuple[str, ...]:
    """How a zygote is started; the set comes as its first message, not here."""
    return (INTERPRETER, BOOTSTRAP)


@dataclass(slots=True, kw_only=True)
class Zygote:
    """One zygote process. ``report`` says what it preloaded, entry by entry.

    ``dead``: nothing more is asked of it. ``killed``: it ended and was not told to, and
    what it forked that is not running yet ends with it. ``own_net`` is what was asked
    for last, and what the spare is forked with.
    """

    set_name: str
    process: subprocess.Popen[bytes]
    channel: Channel
    report: Mapping[str, object] = field(default_factory=dict)
    watch: Watch | None = None
    forking: asyncio.Lock = field(default_factory=asyncio.Lock)
    dead: bool = False
    killed: bool = False
    own_net: bool = True
    spare: Sandbox | None = None
    spare_due: asyncio.TimerHandle | None = None
    asked: float = 0.0
    pause: float = SPARE_AFTER_S

    def changed(self) -> list[str]:
        return [] if self.watch is None else self.watch.changed()

    def has_died(self) -> bool:
        """Whether it has ended untold, though nobody may have heard of it yet."""
        if self.dead:
            return self.killed
        poll = select.poll()
        poll.register(self.channel.sock, 0)  # of its end one is told in any case
        return bool(poll.poll(0))

    async def fork(self, *, own_net: bool, ahead: bool = False) -> Sandbox:
        """A new init and its stem; ZygoteError when it is unfit or has died.

        ``own_net``: as of `plan.first`; ``ahead``: nobody waits for them.
        """
        channel, of_init = _channel()
        stem_channel, of_stem = _channel()
        try:
            # One at a time: answers have no number, they come in order.
            async with self.forking:
                try:
                    with of_init, of_stem:
                        fds = [of_init.fileno(), of_stem.fileno()]
                        word = (b"a" if ahead else b"f") + b"n" * own_net
                        socket.send_fds(self.channel.sock, [word], fds)
                    async with asyncio.timeout(FORK_S):
                        answer = await self._answer()
                except (OSError, WireError, TimeoutError) as e:
                    # One that was stopped does not see its channel's end either. Of
                    # one that has been told to go nothing else need end.
                    if not self.dead:
                        self.dead = True
                        self.process.kill()
                    raise ZygoteError(
                        f"the zygote {self.set_name} has died",
                        code="zygote-died",
                        hint="ask again: another one is started",
                    ) from e
            if answer.startswith(b"!"):
                raise ZygoteError(
                    answer[1:].decode("utf-8", "replace"), code="zygote-unfit"
                )
            async with asyncio.timeout(FORK_S):
                hello = await channel.recv(max_fds=2)
            if len(hello.fds) != 2:
                raise from_fields(hello.fields)
        except BaseException as e:
            channel.close()
            stem_channel.close()
            if isinstance(e, WireError):
                raise ZygoteError(
                    "init ended before it said a word", code="init-died"
                ) from e
            raise
        init, stem = hello.fds
        return Sandbox(
            channel=channel,
            init=init,
            pid=pid_of(init),
            zygote=self,
            stem=stem,
            stem_pid=pid_of(stem),
            stem_channel=stem_channel,
            own_net=own_net,
        )

    def take_spare(self, *, own_net: bool) -> Sandbox | None:
        """The one that was forked ahead, if it is still there; never twice."""
        self.own_net = own_net
        if self.spare is not None and self.spare.own_net != own_net:
            self.drop_spare()
        spare, self.spare = self.spare, None
        if spare is not None and spare.has_ended():
            spare.close()
            return None
        return spare

    def drop_spare(self) -> None:
        """Nothing of anybody's is in it: the kernel may take its time."""
        if self.spare_due is not None:
            self.spare_due.cancel()
            self.spare_due = None
        if self.spare is not None:
            self.spare.kill()
            self.spare.close()
            self.spare = None

    async def _answer(self) -> bytes:
        while True:
            try:
                data = self.channel.sock.recv(4096)
            except BlockingIOError:
                await readable(self.channel.sock.fileno())
                continue
            if not data:
                raise WireError("the zygote closed its channel", code="wire-closed")
            return data

    def stop(self) -> None:
        """Close its channel, upon which it exits; what it forked and runs goes on."""
        self.dead = True
        self.drop_spare()
        self.channel.close()
        if self.watch is not None:
            self.watch.close()
            self.watch = None


def _first_line(file: int) -> str:
    line = os.pread(file, MAX_NAME, 0).partition(b"\n")[0]
    return line.decode("utf-8", "replace")


def _channel() -> tuple[Channel, socket.socket]:
    """Our end and theirs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs


class LacksError(ZygoteError):
    """What a set is made of is not installed."""


class EndedError(ZygoteError):
    """A zygote has ended, or stood still, and reported nothing.

    ``culprit`` is what it was importing then, empty between imports; ``why`` in words.
    """

    def __init__(self, set_name: str, culprit: str, why: str) -> None:
        super().__init__(
            f"the zygote {set_name} did not start: it {why}",
            code="zygote-not-started",
            hint="its own message is in the daemon's log",
        )
        self.culprit, self.why = culprit, why


@dataclass(frozen=True, slots=True)
class _Lacking:
    """Why a set is no use here, and the directories' times when that was so."""

    why: str
    path: tuple[str, ...]
    stamps: tuple[int, ...]

    def still(self) -> bool:
        return _stamps(self.path) == self.stamps


def _stamps(path: tuple[str, ...]) -> tuple[int, ...]:
    """When something was last installed into the search path, or a typelib."""
    typelibs = [place for pattern in TYPELIBS for place in glob.glob(pattern)]
    return tuple(_changed_ns(place) for place in (*path, *sorted(typelibs)))


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Pool:
    """The zygotes of one daemon, by set."""

    def __init__(
        self,
        log: Log,
        *,
        command: Command = command,
        died: Callable[[Zygote], None],
        spares: bool = False,
        may_spare: Callable[[str], bool | None] = lambda set_name: True,
    ) -> None:
        """``spares``: whether there are any; ``may_spare`` says of a set's whether it
        can be forked now; None: it can, and a launch goes first."""
        self._log = log
        self._command = command
        self._died = died
        self._spares = spares
        self._may_spare = may_spare
        self._zygotes: dict[str, Zygote] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive: list[Zygote] = []
        """Alive, retired ones included."""
        self.generations: dict[str, int] = {}
        self._lacking: dict[str, _Lacking] = {}
        self._deadly: dict[str, set[str]] = {}
        """What has ended zygotes of each set, since the last one that has started."""

    def zygotes(self) -> Mapping[str, Zygote]:
        return self._zygotes

    async def sandbox(
        self, set_name: str, *, own_net: bool, ahead: bool = False
    ) -> Sandbox:
        """An init of this set and its stem, waiting for their plan.

        ``own_net``: as of `plan.first`. ``ahead``: nobody waits for it, and who does
        next may have the spare one.
        """
        zygote = await self.zygote(set_name)
        try:
            spare = None if ahead else zygote.take_spare(own_net=own_net)
            if ahead:
                self._spare_later(zygote)
            else:
                self._asked(zygote)
            return spare or await zygote.fork(own_net=own_net, ahead=ahead)
        except ZygoteError as e:
            if e.code == "init-died":
                raise  # somebody killed it
            if e.code != "zygote-died":
                self._retire(zygote, e.message)
                raise
        # It died between two launches, which is nobody's fault; this once.
        self._retire(zygote, "died")
        return await (await self.zygote(set_name)).fork(own_net=own_net)

    def spare(self, set_name: str, *, own_net: bool) -> Sandbox | None:
        """The spare one, where there is one and its zygote is as it was."""
        zygote = self._zygotes.get(set_name)
        if zygote is None or zygote.spare is None or zygote.dead or zygote.changed():
            return None
        spare = zygote.take_spare(own_net=own_net)
        self._asked(zygote)
        return spare

    def as_data(self) -> dict[str, int]:
        """How many spares wait, and how many are still to be forked."""
        of = self._zygotes.values()
        return {
            "ready": sum(z.spare is not None for z in of),
            "wanted": sum(z.spare_due is not None for z in of),
        }

    def drop_spares(self) -> None:
        """Until their zygotes are asked again there is none."""
        for zygote in self._zygotes.values():
            zygote.drop_spare()

    def _asked(self, zygote: Zygote) -> None:
        """It has been, by a launch; the next spare is for the next one."""
        now = asyncio.get_running_loop().time()
        zygote.pause = SOON_S if now - zygote.asked < OFTEN_S else SPARE_AFTER_S
        zygote.asked = now
        self._spare_later(zygote)

    def _spare_later(self, zygote: Zygote) -> None:
        """Once it has not been asked for a while."""
        if zygote.spare_due is not None:
            zygote.spare_due.cancel()
        zygote.spare_due = None
        if self._spares and not zygote.dead:
            loop = asyncio.get_running_loop()
            zygote.spare_due = loop.call_later(zygote.pause, self._spare_now, zygote)

    def _spare_now(self, zygote: Zygote) -> None:
        match self._may_spare(zygote.set_name):
            case None:
                self._spare_later(zygote)
            case False:
                zygote.spare_due = None
            case True:
                task = asyncio.create_task(self._fork_spare(zygote))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _fork_spare(self, zygote: Zygote) -> None:
        due = zygote.spare_due
        try:
            if zygote.spare is None:
                zygote.spare = await zygote.fork(own_net=zygote.own_net, ahead=True)
                if zygote.dead or self._may_spare(zygote.set_name) is False:
                    zygote.drop_spare()  # meanwhile
        except (IsolauncherError, OSError) as e:
            # No launch suffers: the next one is told what stands in the way.
            self._log.event("no-spare", set=zygote.set_name, why=str(e))
        finally:
            if zygote.spare_due is due:
                zygote.spare_due = None

    async def usable(self, set_name: str) -> tuple[str, str]:
        """The largest set within ``set_name`` that is installed; why it is not that.

        Starts its zygote if there is none.
        """
        reasons = []
        for name in sets.nested(set_name):
            lacking = self._lacking.get(name)
            if lacking is not None and lacking.still():
                reasons.append(lacking.why)
                continue
            try:
                await self.zygote(name)
            except LacksError as e:
                reasons.append(e.message)
            else:
                return name, reasons[0] if reasons else ""
        raise ZygoteError("; ".join(reasons), code="zygote-lacks")

    async def zygote(self, set_name: str) -> Zygote:
        """A zygote whose files are the ones on disk; or LacksError."""
        async with self._starting.setdefault(set_name, asyncio.Lock()):
            known = self._zygotes.get(set_name)
            if known is not None and not known.dead:
                changed = known.changed()
                if not changed:
                    return known
                self._retire(known, f"changed: {', '.join(changed[:3])}")
            started = await self._start_fit(set_name)
            self._zygotes[set_name] = started
            self._spare_later(started)
            return started

    def _retire(self, zygote: Zygote, why: str) -> None:
        if self._zygotes.get(zygote.set_name) is zygote:
            del self._zygotes[zygote.set_name]
            self._log.event("zygote-retired", set=zygote.set_name, why=why)
        zygote.stop()

    async def _start_fit(self, set_name: str) -> Zygote:
        """A zygote without the modules that would make it unfit to fork.

        What an import did cannot be undone in the process that did it, so the next
        one leaves the culprits out; each round finds at least one.
        """
        # Known also if whoever waited for this one does not wait any more.
        deadly = self._deadly.setdefault(set_name, set())
        left_out = set(deadly)
        culprits = 0
        while True:
            try:
                zygote = await self._start(set_name, left_out)
            except EndedError as e:
                culprits += 1
                if not e.culprit or e.culprit in left_out or culprits > MAX_CULPRITS:
                    raise
                why = f"the zygote that imported it {e.why}"
                self._log.event("module-unfit", set=set_name, module=e.culprit, why=why)
                deadly.add(e.culprit)
                left_out.add(e.culprit)
                continue
            unfit = zygote.report.get("unfit")
            if not isinstance(unfit, dict) or not unfit:
                deadly.clear()
                self._refuse_lacking(zygote)
                return zygote
            zygote.stop()
            for name, why in unfit.items():
                self._log.event("module-unfit", set=set_name, module=name, why=why)
            if set(unfit) <= left_out:
                raise ZygoteError(
                    f"the zygote {set_name} stays unfit: {', '.join(unfit)}",
                    code="zygote-unfit",
                )
            left_out |= set(unfit)

    def _refuse_lacking(self, zygote: Zygote) -> None:
        why = zygote.report.get("lacks")
        path = zygote.report.get("path")
        if not why or not isinstance(path, list):
            return
        zygote.stop()
        places = tuple(map(str, path))
        known = _Lacking(str(why), places, _stamps(places))
        self._lacking[zygote.set_name] = known
        self._log.event("zygote-set-lacks", set=zygote.set_name, why=known.why)
        raise LacksError(known.why, code="zygote-lacks")

    async def _start(self, set_name: str, left_out: set[str]) -> Zygote:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Nothing of our own environment: GTK_MODULES, GI_TYPELIB_PATH and their like
        # are foreign code. LC_CTYPE keeps the interpreter out of UTF-8 mode, which a
        # child could not leave; HOME keeps `site` from asking NSS for one, and there is
        # no user site in it.
        environment = {"LC_CTYPE": "C.UTF-8", "HOME": "/nonexistent"}
        with theirs:
            process = subprocess.Popen(
                self._command(set_name),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                close_fds=True,
                umask=0o022,
            )
        zygote = Zygote(set_name=set_name, process=process, channel=Channel(ours))
        task = asyncio.create_task(self._attend(zygote))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with open(os.memfd_create("isolauncher-at"), "rb", buffering=0) as at:
                words = " ".join([set_name, *sorted(left_out)]).encode()
                socket.send_fds(zygote.channel.sock, [words], [at.fileno()])
                zygote.report = await self._patiently(zygote, task, at.fileno())
        except (OSError, WireError) as e:
            zygote.stop()
            process.kill()
            raise ZygoteError(
                f"the zygote {set_name} did not start: {e}",
                code="zygote-not-started",
                hint="its own message is in the daemon's log",
            ) from e
        except BaseException:
            # Nobody knows it yet who could stop it later.
            zygote.stop()
            process.kill()
            raise
        self.generations[set_name] = self.generations.get(set_name, 0) + 1
        self._log.event(
            "zygote-started",
            set=set_name,
            pid=process.pid,
            generation=self.generations[set_name],
            left_out=sorted(left_out) or None,
        )
        return zygote

    async def _patiently(
        self, zygote: Zygote, ended: asyncio.Task[None], at: int
    ) -> Mapping[str, object]:
        """Its report, or EndedError; ``at``: the file that has what it imports now."""
        name, same, looks = "", 0, 0
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    return await self._report(zygote)
            except TimeoutError:
                before, name, looks = name, _first_line(at), looks + 1
                same = same + 1 if name and name == before else 0
                if same >= LOOKS_ENTRY:
                    why = f"has not come to its end in {same * LOOK_S} s"
                    raise EndedError(zygote.set_name, name, why) from None
                if looks >= LOOKS_START:
                    why = f"has not come to its end in {looks * LOOK_S} s"
                    raise EndedError(zygote.set_name, "", why) from None
            except WireError as e:
                if e.code != "wire-closed":
                    raise
                # It is reaped soon.
                await asyncio.wait({ended}, timeout=LOOK_S)
                status = zygote.process.returncode
                why = "ended" if status is None else f"ended with status {status}"
                raise EndedError(zygote.set_name, _first_line(at), why) from e

    async def _report(self, zygote: Zygote) -> Mapping[str, object]:
        """Its report comes as a memory file: hundreds of entries and files."""
        message = await zygote.channel.recv(max_fds=2)
        with open(message.fds[0], "rb") as f:
            f.seek(0)
            report: object = json.loads(f.read(MAX_REPORT))
        if len(message.fds) > 1:
            with open(message.fds[1], "rb") as f:
                f.seek(0)
                fingerprint = Fingerprint.from_bytes(f.read(MAX_REPORT))
            zygote.watch = Watch(
                fingerprint,
                inotify_init=kernel.inotify_init,
                inotify_add_watch=kernel.inotify_add_watch,
            )
        if not isinstance(report, dict):
            raise WireError("not a report", code="wire-not-object")
        error = report.get("error")
        if error:
            raise WireError(str(error), code="zygote-unfit")
        return report

    async def _attend(self, zygote: Zygote) -> None:
        """Reap it when it ends, and let those in flight know."""
        pidfd = os.pidfd_open(zygote.process.pid)
        self._alive.append(zygote)
        try:
            await readable(pidfd)
        finally:
            os.close(pidfd)
        self._alive.remove(zygote)
        status = zygote.process.wait()
        zygote.dead = True
        if status != 0:
            # Not told to: whatever it was forking ends with it.
            self._log.event("zygote-ended", set=zygote.set_name, status=status)
            zygote.killed = True
            self._retire(zygote, "ended")
            self._died(zygote)

    async def close(self) -> None:
        for zygote in list(self._zygotes.values()):
            self._retire(zygote, "the daemon ends")
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=5)
            if stuck:
                for zygote in self._alive:
                    zygote.process.kill()
                await asyncio.wait(stuck, timeout=5)


__all__ = ["BARE", "Pool", "Zygote", "command"]
