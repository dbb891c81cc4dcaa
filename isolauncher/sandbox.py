# SPDX-License-Identifier: GPL-3.0-or-later
"""A sandbox as the daemon talks to it: told the plan part by part, heard, ended.

Two processes answer, each on a channel of its own: init (see init.py) and the stem
(see zygote/stem.py). Whatever one of them says instead of what is expected ends the
launch, with its own words.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import parts, plan, wire
from .channel import Channel, leave, readable
from .errors import IsolauncherError, StepError, WireError, from_fields
from .steps import Planned, Skipped

if TYPE_CHECKING:
    from .pool import Zygote


BEGINS_S = 0.003
"""How long a program that has had its "go" is left alone before it is heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What has begun: the tier that it was in the end, and why if it is another one.

    ``at_us``: the stem's first reading of CLOCK_MONOTONIC after "go".
    """

    tier: str
    why: str
    at_us: int

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Running:
        at = fields.get("at_us")
        return cls(
            tier=str(fields["tier"]),
            why=str(fields["why"]),
            at_us=at if isinstance(at, int) else 0,
        )


@dataclass(slots=True, kw_only=True)
class Sandbox:
    """A PID namespace with its init, from fork to end.

    ``init`` and ``stem`` are pidfds, ``pid`` and ``stem_pid`` host pids. The stem of
    one that was found running may not be known. ``own_net``: as of `plan.first`.
    """

    channel: Channel
    init: int
    pid: int
    zygote: Zygote | None
    stem: int = -1
    stem_pid: int = 0
    stem_channel: Channel | None = None
    own_net: bool = True

    def begin(
        self,
        room_id: str,
        steps: tuple[Planned, ...],
        for_init: Mapping[str, int],
        *,
        ahead: bool,
    ) -> None:
        """Have them do what comes first of a room that is still being planned."""
        # For init the stem has to wait.
        of_init = plan.begins(room_id, steps, "init", ahead=ahead)
        _hand(self.channel, of_init, for_init)
        _hand(self._stem(), plan.begins(room_id, steps, "stem", ahead=ahead), {})

    def furnish(
        self,
        room: plan.Room,
        for_init: Mapping[str, int],
        for_stem: Mapping[str, int],
        begun: tuple[Planned, ...],
    ) -> None:
        """Have the room's steps done, of which they have ``begun`` the first."""
        begun = plan.first(own_net=self.own_net) + begun
        _hand(self.channel, room.part_of("init", begun), for_init)
        _hand(self._stem(), room.part_of("stem", begun), for_stem)

    async def furnished(self) -> list[Skipped]:
        """They are done: what had to be let pass."""
        told, sealed = await self._both_say("room", "room")
        return [*_notes(told.fields), *_notes(sealed.fields)]

    def tell_rest(
        self,
        rest: plan.Rest,
        for_init: Mapping[str, int],
        for_stem: Mapping[str, int],
        begun: tuple[Planned, ...] = (),
    ) -> None:
        """Have the rest done, of which the stem has ``begun`` the first steps."""
        # For init the stem has to wait.
        _hand(self.channel, rest.part_of("init"), for_init)
        _hand(self._stem(), rest.part_of("stem", begun), for_stem)

    def begin_rest(
        self,
        activity_id: str,
        steps: tuple[Planned, ...],
        for_stem: Mapping[str, int],
    ) -> None:
        """Have the stem do its first steps of a rest that is still being planned."""
        _hand(
            self._stem(),
            plan.Rest(id=activity_id, steps=steps, start=None, last=False),
            for_stem,
        )

    async def lodge(
        self,
        room_id: str,
        steps: tuple[Planned, ...],
        start: plan.Start,
        for_init: Mapping[str, int],
    ) -> tuple[list[Skipped], str, list[int]]:
        """Have it wait in a session: what had to be let pass, what the stem lacks.

        And the numbers of the descriptors that the stem has for it.
        """
        part = plan.Rest(id=room_id, steps=steps, start=None, last=False)
        _hand(self.channel, part, for_init)
        lodged = await _said(self.channel, "lodged")
        part = plan.Rest(id=room_id, steps=(), start=start, last=False)
        _hand(self._stem(), part, {})
        living = (await _said(self._stem(), "living")).fields
        held = living.get("descriptors")
        if not isinstance(held, list) or not all(isinstance(n, int) for n in held):
            raise StepError("not an answer", step="lodge", code="unexpected-message")
        return list(_notes(lodged.fields)), str(living.get("lacks")), held

    async def sealed(
        self, left: Callable[[list[Skipped]], None]
    ) -> tuple[list[Skipped], dict[str, int]]:
        """The rest is done: what the stem let pass, and its answers to probes.

        Init may have done its part before; what it let pass is for ``left`` then.
        """

        def heard(message: wire.Message) -> None:
            left(list(_notes(message.fields)))

        _, sealed = await self._both_say("left", "sealed", heard)
        probes = sealed.fields.get("probes")
        if not isinstance(probes, dict):
            raise StepError("no probes came", step="verify", code="verify-no-probes")
        answers = {str(k): v for k, v in probes.items() if isinstance(v, int)}
        return list(_notes(sealed.fields)), answers

    async def why_ended(self) -> IsolauncherError | None:
        """Of a sandbox that has ended, or ends: what the stem has said, or init."""
        for channel in (self._stem(), self.channel):
            with suppress(WireError):
                while (fields := (await channel.recv()).fields)["event"] != "ready":
                    if fields["event"] == "failed":
                        return from_fields(fields)
        return None

    async def ready(self) -> None:
        """Until the stem is a cold start's twin; for who has not said "go" to it."""
        await _said(self._stem(), "ready")

    def dress(self, streams: Mapping[str, int]) -> None:
        """Give a stem that is ready its caller's streams, in the place of none."""
        names = {"verb": "streams"}
        tell(self._stem(), "streams", names, tuple(streams.values()))

    async def dressed(self) -> None:
        """Until it has them; it hands over once more, and says when it is `ready`."""
        await _said(self._stem(), "dressed")

    async def go(self) -> Running:
        """Let it run, and hear what began."""
        try:
            tell(self._stem(), "go", {"verb": "go"})
        except StepError as e:
            raise await self.why_ended() or e from e
        # It says so at once; but to be woken by that may take the processor from it.
        await asyncio.sleep(BEGINS_S)
        message = await self._heard()
        if message.fields.get("event") == "ready":
            message = await self._heard()  # that word and ours have crossed
        running = Running.read(_expected(message, "running").fields)
        # The channel closes when the program has taken over; a refusal comes before.
        try:
            message = await self._stem().recv()
        except WireError as e:
            if e.code != "wire-closed":
                raise
        else:
            raise from_fields(message.fields)
        return running

    async def _heard(self) -> wire.Message:
        try:
            return await self._stem().recv()
        except WireError as e:
            raise _died("running", e) from e

    def _stem(self) -> Channel:
        assert self.stem_channel is not None  # noqa: S101 (for the type checker)
        return self.stem_channel

    async def _both_say(
        self,
        of_init: str,
        of_stem: str,
        hear_init: Callable[[wire.Message], None] = lambda message: None,
    ) -> tuple[wire.Message, wire.Message]:
        """Where one fails the other ends with it, and only the one knows why."""
        waiting = {"stem": (self._stem(), of_stem), "init": (self.channel, of_init)}
        heard: dict[str, wire.Message] = {}
        gone: StepError | None = None
        while waiting:
            for who, (channel, event) in list(waiting.items()):
                try:
                    message = channel.try_recv()
                except WireError as e:
                    gone = gone or _died(event, e)
                else:
                    if message is None:
                        continue
                    heard[who] = _expected(message, event)
                    if who == "init":
                        hear_init(message)
                del waiting[who]
            if waiting:
                await readable(*(c.sock.fileno() for c, _ in waiting.values()))
        if gone is not None:
            raise gone
        return heard["init"], heard["stem"]

    def open_root(self) -> int:
        """An O_PATH descriptor of the root that the stem has."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(f"/proc/{self.stem_pid}/root", flags)
        except OSError as e:
            raise StepError(
                f"the sandbox ended before its root was looked at: {e.strerror}",
                step="program",
                code="sandbox-died",
            ) from e

    def kill(self) -> None:
        """End it all: without its init the kernel kills the whole namespace."""
        if self.init >= 0:
            send_signal(self.init, signal.SIGKILL)

    def last_words(self) -> dict[str, dict[str, object]]:
        """What init has said that nobody heard, by event; once it has ended."""
        said: dict[str, dict[str, object]] = {}
        with suppress(WireError):
            while (message := wire.try_recv(self.channel.sock)) is not None:
                said[str(message.fields.get("event"))] = message.fields
        return said

    def has_ended(self) -> bool:
        """Whether init has, or the stem, as far as they are known."""
        poll = select.poll()
        for fd in (self.init, self.stem):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    async def spoilt(self) -> None:
        """Until its init has ended, or its stem."""
        await readable(*(fd for fd in (self.init, self.stem) if fd >= 0))

    async def ended(self) -> None:
        if self.init >= 0:
            await readable(self.init)

    def close(self) -> None:
        self.channel.close()
        if self.stem_channel is not None:
            self.stem_channel.close()
        for fd in (self.init, self.stem):
            if fd >= 0:
                leave(fd)
                os.close(fd)
        self.init = self.stem = -1


def send_signal(pidfd: int, number: int) -> bool:
    """False if the process has ended already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def pid_of(pidfd: int) -> int:
    """The pid as this namespace counts it (proc_pid_fdinfo(5)); 0 once it is reaped."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as f:
        for line in f:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0


# -------------------------------------------------------------------------- messages


_PACKET = 64 * 1024
"""The largest part of a plan that goes as one; a larger one is a memory file."""


def _hand(
    channel: Channel, part: plan.RoomPart | plan.Rest, fds: Mapping[str, int]
) -> None:
    data = parts.write(fds, part)
    if len(data) <= _PACKET:
        _send("plan", lambda: channel.send_data(data, tuple(fds.values())))
        return
    paper = os.memfd_create("isolauncher-plan", os.MFD_CLOEXEC)
    try:
        with open(paper, "wb", closefd=False) as f:
            f.write(data)
        _send("plan", lambda: channel.send_data(parts.LONG, (*fds.values(), paper)))
    finally:
        os.close(paper)


def tell(
    channel: Channel,
    step: str,
    message: Mapping[str, object],
    fds: tuple[int, ...] = (),
) -> None:
    """Send it into the sandbox; one that has ended is not a client that went away."""
    _send(step, lambda: channel.send(message, fds))


def _send(step: str, send: Callable[[], None]) -> None:
    try:
        send()
    except WireError as e:
        raise StepError(
            f"the sandbox ended before it was told: {e.message}",
            step=step,
            code="sandbox-died",
        ) from e


async def _said(channel: Channel, event: str, *, max_fds: int = 0) -> wire.Message:
    """The expected event, or the error that came instead."""
    try:
        message = await channel.recv(max_fds=max_fds)
    except WireError as e:
        raise _died(event, e) from e
    return _expected(message, event)


def _died(event: str, error: WireError) -> StepError:
    died = StepError(
        f"the sandbox ended before it said {event!r}", step=event, code="sandbox-died"
    )
    died.__cause__ = error
    return died


def _expected(message: wire.Message, event: str) -> wire.Message:
    fields = message.fields
    if fields.get("event") == "failed":
        raise from_fields(fields)
    if fields.get("event") == "exited":
        # Init's word on how the stem ended, which has said itself why.
        raise StepError(
            f"the stem ended before it was to say {event!r}",
            step=event,
            code="sandbox-died",
        )
    if fields.get("event") != event:
        message.close()
        raise StepError(
            f"{fields.get('event')!r} came instead of {event!r}",
            step=event,
            code="unexpected-message",
        )
    return message


def _notes(fields: Mapping[str, object]) -> Iterator[Skipped]:
    notes = fields.get("notes")
    for packed in notes if isinstance(notes, list) else []:
        note = parts.unpack(packed)
        if isinstance(note, Skipped):
            yield note


__all__ = ["Sandbox", "pid_of", "send_signal", "tell"]
