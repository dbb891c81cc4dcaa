# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon answers: one question a connection, and what follows from it.

Whoever asks has been let in (`Daemon.connection`). Here the question is read and
understood, and done: a launch, whose client stays until its end; attaching to one; a
list, numbers, stopping. One rule says whose activities anybody hears of: a uid its own,
0 all.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from . import (
    consult,
    foreign,
    furniture,
    kernel,
    launch,
    memory,
    rooms,
    steps,
    wire,
)
from .activity import Activity
from .before import Known
from .channel import Channel, readable
from .errors import IsolauncherError, RequestError, WireError
from .opener import Opener
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
from .stats import Launch

if TYPE_CHECKING:
    from .daemon import Daemon

MAX_BROUGHT = 6
"""Descriptors that may come with a question."""


async def answer(daemon: Daemon, channel: Channel, caller: Caller) -> None:
    """The one question of a connection, to its end."""
    message = await _asked(daemon, channel, caller)
    # Not from the connection on: it may have stood for long before it asks.
    received_us = kernel.monotonic_us()
    received = list(message.fds)
    try:
        _refuse_served(received)
        known = _known(daemon, message, caller)
        asked = known.request if known else _understood(message)
        match asked:
            case Request():
                fds = dict(zip(asked.descriptors, received, strict=True))
                before = known.wanted if known else None
                wanted = launch.to_run(daemon, asked, fds, caller, before)
                if before is None or before.policy is not wanted.policy:
                    kept = Known(asked, replace(wanted, fds={}))
                    daemon.before.keep(caller, message.data, kept)
                await _run(daemon, channel, wanted, received, caller, received_us)
            case Bundled():
                wanted = await _consult(daemon, channel, asked, received, caller)
                try:
                    await _run(daemon, channel, wanted, received, caller, received_us)
                finally:
                    if wanted.scratch and wanted.id not in daemon.activities:
                        daemon.scratch.remove(str(wanted.id))
            case Attach():
                await _attach(daemon, channel, asked, caller)
            case Ps():
                _list(daemon, channel, caller)
            case Stop():
                await _stop(daemon, channel, asked, caller)
            case Stats():
                await _stats(daemon, channel, asked, caller)
            case _:
                assert_never(asked)
    finally:
        # The connection counts until they are closed, so that nobody can pile up
        # descriptors whose end does not come.
        await foreign.close(received)


async def _asked(daemon: Daemon, channel: Channel, caller: Caller) -> wire.Message:
    """Its question; most have sent it by now."""

    def known(data: bytes) -> bool:
        return daemon.before.find(caller, data) is not None

    message = channel.try_recv(max_fds=MAX_BROUGHT, known=known)
    if message is not None:
        return message
    try:
        async with asyncio.timeout(daemon.config.limits.message_ms / 1000):
            return await channel.recv(max_fds=MAX_BROUGHT, known=known)
    except TimeoutError:
        raise RequestError("no message came in time", code="request-timeout") from None


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


def _known(daemon: Daemon, message: wire.Message, caller: Caller) -> Known | None:
    """What the same came to before, where it came with as many descriptors."""
    known = daemon.before.find(caller, message.data)
    if known and len(known.request.descriptors) == len(message.fds):
        return known
    return None


async def _consult(
    daemon: Daemon,
    channel: Channel,
    asked: Bundled,
    received: list[int],
    caller: Caller,
) -> launch.Wanted:
    """Tell the caller what governs its bundle, and take what it furnishes.

    What comes is added to ``received``.
    """
    fds = dict(zip(asked.descriptors, received, strict=True))
    looking = Opener(daemon.openers, caller)
    made = False
    try:
        consulted = await consult.look(daemon, asked, fds, caller, looking)
        daemon.refuse_taken(consulted.activity_id)
        channel.send(consulted.granted())
        furnish, brought = await _furnished(daemon, channel, received)
        if _needs_scratch(daemon, brought):
            scratch = daemon.scratch.make(
                consulted.activity_id, caller, consulted.policy.view.data
            )
            made = True
            try:
                channel.send({"event": "copy"}, [scratch])
            finally:
                os.close(scratch)
            furnish, brought = await _furnished(daemon, channel, received)
        wanted = await consult.complete(consulted, furnish, brought, looking)
        fresh = launch.why_fresh(daemon, wanted.policy, consulted.variables)
    except BaseException:
        looking.close()
        if made:
            daemon.scratch.remove(consulted.activity_id)
        raise
    return replace(wanted, scratch=made, looking=looking, fresh=fresh)


async def _furnished(
    daemon: Daemon, channel: Channel, received: list[int]
) -> tuple[Furnish, dict[str, int]]:
    """What came next, by name; its descriptors are added to ``received``."""
    try:
        async with asyncio.timeout(daemon.config.limits.message_ms / 1000):
            message = await channel.recv(max_fds=len(FURNITURE))
    except TimeoutError:
        raise RequestError(
            "nothing was furnished in time", code="request-timeout"
        ) from None
    received += message.fds
    _refuse_served(message.fds)
    furnish = parse_furnish(message.fields, len(message.fds))
    return furnish, dict(zip(furnish.descriptors, message.fds, strict=True))


def _needs_scratch(daemon: Daemon, brought: Mapping[str, int]) -> bool:
    named = (brought[n] for n in furniture.DIRECTORIES if n in brought)
    return not all(daemon.scratch.mappable(fd) for fd in named)


async def _run(
    daemon: Daemon,
    channel: Channel,
    wanted: launch.Wanted,
    received: list[int],
    caller: Caller,
    received_us: int,
) -> None:
    """``received``: the caller's descriptors, taken out once they are closed."""
    launching = asyncio.create_task(launch.launch(daemon, wanted, caller, received_us))
    if wanted.looking is not None:
        looking = wanted.looking
        launching.add_done_callback(lambda _: looking.close_later())
    try:
        # A client that goes away while it waits ends the launch. It may say nothing
        # before "started"; what it says after that is a signal.
        await readable(channel.sock.fileno(), done=launching)
        if not launching.done():
            daemon.log.event("client-gone", caller=caller.uid, id=wanted.id)
            raise WireError("the client went away", code="wire-closed")
        activity = launching.result()
    finally:
        if not launching.done():
            # To its end, before what it works with is closed under its hands.
            launching.cancel()
            with suppress(asyncio.CancelledError, IsolauncherError):
                activity = await launching
                # It had just got through.
                daemon.spawn(asyncio.create_task(daemon.attend(activity)))
                await daemon.stop(activity, 0)
    # The activity has its own by now: a pipe's reader must see its end.
    theirs, received[:] = list(received), []
    closing = asyncio.create_task(foreign.close(theirs))
    daemon.launches.add(
        Launch(caller_uid=caller.uid, way=activity.path, timings_us=activity.timings)
    )
    daemon.log.event(
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
    daemon.spawn(asyncio.create_task(daemon.attend(activity)))
    # From here on its activity stands for it: who has all that he may have must still
    # be able to list and stop them.
    daemon.count_connection(caller, -1)
    try:
        await _accompany(daemon, channel, activity)
    finally:
        daemon.count_connection(caller, 1)
        await closing


def _kept(room: rooms.Room) -> str:
    """Of a room, for the log: how it came to be."""
    if room.waiting is not None:
        return "expected"
    if room.living:
        return "lodged"
    return "ahead" if room.ahead else "on-demand"


async def _accompany(daemon: Daemon, channel: Channel, activity: Activity) -> None:
    """A client's connection while its activity runs: signals in, the end out."""
    activity.clients += 1
    ended = asyncio.create_task(activity.ended.wait())
    hearing = asyncio.create_task(_hear(daemon, channel, activity))
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
            if activity.tied and last and not daemon.closing.is_set():
                daemon.log.event("client-gone", id=activity.id)
                grace = daemon.config.limits.grace_ms / 1000
                await daemon.stop(activity, grace)
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


async def _hear(daemon: Daemon, channel: Channel, activity: Activity) -> None:
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
            daemon.log.often("refused", caller=caller, id=activity.id, code=e.code)


async def _attach(
    daemon: Daemon, channel: Channel, asked: Attach, caller: Caller
) -> None:
    activity = daemon.activities.get(asked.id)
    if activity is None or not _may(caller, activity):
        raise RequestError(
            f"no activity {asked.id!r} of yours is known", code="unknown-id"
        )
    await _accompany(daemon, channel, activity)


def _may(caller: Caller, activity: Activity) -> bool:
    return caller.uid in (0, activity.caller_uid)


def _list(daemon: Daemon, channel: Channel, caller: Caller) -> None:
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
        for a in daemon.activities.values()
        if _may(caller, a)
    ]
    for part in wire.in_parts("list", "activities", rows):
        channel.send(part)


async def _stats(
    daemon: Daemon, channel: Channel, asked: Stats, caller: Caller
) -> None:
    """Of its own launches to a caller, of everyone's to root."""

    def told(uid: int) -> bool:
        return caller.uid in (0, uid)

    states = Counter(
        a.state
        for a in daemon.activities.values()
        # One that has ended is only remembered, for a client that reconnects.
        if a.state != "exited" and told(a.caller_uid)
    )
    zygotes = {
        name: {"pid": z.process.pid, "generation": daemon.pool.generations[name]}
        for name, z in sorted(daemon.pool.zygotes().items())
    }
    stats = {
        "version": 1,
        "activities": dict(states),
        "launches": daemon.launches.as_data(told),
        "rooms": daemon.rooms.as_data(told),
        "spares": daemon.pool.as_data(),
        "zygotes": zygotes,
    }
    channel.send({"event": "stats", "stats": stats, "more": asked.memory})
    if asked.memory:
        rows = await _memory(daemon, told)
        for part in wire.in_parts("memory", "memory", rows):
            channel.send(part)


async def _memory(
    daemon: Daemon, told: Callable[[int], bool]
) -> list[dict[str, object]]:
    """What each activity has, its init included: KiB, as the kernel counts them."""
    rows: list[dict[str, object]] = []
    for activity in list(daemon.activities.values()):
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


async def _stop(daemon: Daemon, channel: Channel, asked: Stop, caller: Caller) -> None:
    results = await asyncio.gather(
        *(_stop_one(daemon, activity_id, asked, caller) for activity_id in asked.ids)
    )
    channel.send({"event": "stopped", "results": list(results)})


async def _stop_one(
    daemon: Daemon, activity_id: str, asked: Stop, caller: Caller
) -> dict[str, object]:
    activity = daemon.activities.get(activity_id)
    if activity is None or activity.state == "exited":
        result, message = "unknown", f"no activity {activity_id!r} is running"
    elif not _may(caller, activity):
        result = "not-allowed"
        message = f"{activity_id!r} was not launched by you"
        daemon.log.often("refused", id=activity_id, caller=caller.uid, code=result)
    else:
        activity.reason = activity.reason or asked.reason
        await daemon.stop(activity, asked.grace_ms / 1000)
        result, message = "gone", ""
    return {"id": activity_id, "result": result, "message": message}
