# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon finds when it starts: adopts what runs, removes what is left.

A record whose "go" was written, whose boot is this one and whose init is still the
process with that start time is a running activity; it is taken over, exit status
included. Everything else in the run directory, the ledger and our cgroups is what a
killed daemon, zygote or init left behind. A record names its init from its first line
on, which is written before init is told anything: so whoever may come to have the uid,
the cgroup or a mount of a launch ends before these are given back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from . import cgroups, records
from .channel import Channel, leave, readable
from .launch import Activity
from .rooms import Room
from .sandbox import Sandbox, pid_of, send_signal

if TYPE_CHECKING:
    from .daemon import Daemon

Events = Mapping[str, Mapping[str, object]]

KILLED = signal.SIGKILL.value
"""waitpid(2)'s status of a process that SIGKILL ended: what init's own end means."""


def exit_status(events: Events) -> int:
    """waitpid(2)'s status as init wrote it; killed if it could not."""
    status = events.get("exited", {}).get("status")
    return status if isinstance(status, int) else KILLED


async def adopt(daemon: Daemon) -> None:
    """Take over what runs; give back what does not."""
    for name in records.names(daemon.run_dir):
        await _settle(daemon, name)
    await _cgroups(daemon)
    daemon.scratch.sweep(records.names(daemon.run_dir))
    kept = _ledger(daemon)
    if kept:
        daemon.spawn(asyncio.create_task(_collect_later(daemon, kept)))


async def tidy(daemon: Daemon) -> None:
    """For a standalone daemon: give back what others of its kind could not.

    What the daemon with the socket left is for its successor, who may adopt it.
    """
    for name in records.names(daemon.run_dir):
        await _settle(daemon, name)
    await _cgroups(daemon)
    _ledger(daemon)


async def _settle(daemon: Daemon, name: str) -> None:
    """What becomes of one record."""
    try:
        record = records.reopen(daemon.run_dir, name)
    except FileNotFoundError:
        return  # a standalone daemon's, who has just removed it
    events = records.read(record)
    planned = events.get("planned", {})
    alone = planned.get("alone") is True
    if (
        _owned_by_another(planned)
        or (daemon.alone and not alone)
        or (alone and not records.claim(record))
    ):
        record.close()
        return
    activity = _activity(name, record, events)
    pidfd = _alive(events)
    if pidfd >= 0 and "go" in events and not alone:
        await _take_over(daemon, activity, events, pidfd)
        return
    if pidfd >= 0:
        # In flight when its daemon died, so that it never got its "go"; or of a
        # standalone one, to which nobody can come back and ask.
        send_signal(pidfd, signal.SIGKILL)
        await readable(pidfd)
        os.close(pidfd)
    await _bury(daemon, activity, events)


def _owned_by_another(planned: Mapping[str, object]) -> bool:
    """A ``--standalone`` daemon that is alive looks after its own."""
    pid, start = planned.get("owner_pid"), planned.get("owner_start")
    if planned.get("boot_id") != records.boot_id() or not isinstance(pid, int):
        return False
    return pid != os.getpid() and records.start_time(pid) == start


def _alive(events: Events) -> int:
    """A pidfd of the record's init, or -1 if that process is gone."""
    planned = events.get("planned", {})
    if planned.get("boot_id") != records.boot_id():
        return -1
    return _pidfd(planned.get("init_pid"), planned.get("init_start"))


def _pidfd(pid: object, start: object) -> int:
    if not isinstance(pid, int) or not isinstance(start, int) or start == 0:
        return -1
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    # Asked after it is held: the pid cannot be another's any more.
    if records.start_time(pid) != start:
        os.close(fd)
        return -1
    return fd


def _activity(name: str, record: records.Record, events: Events) -> Activity:
    fields = {**events.get("planned", {}), **events.get("go", {})}

    def number(key: str) -> int:
        value = fields.get(key)
        return value if isinstance(value, int) else -1

    def words(key: str) -> list[str]:
        value = fields.get(key)
        return [str(v) for v in value] if isinstance(value, list) else []

    names = fields.get("namespaces")
    groups = words("cgroups")
    return Activity(
        id=name,
        caller_uid=number("caller_uid"),
        caller_gid=number("caller_gid"),
        bundle_id=str(bundle_id) if (bundle_id := fields.get("bundle_id")) else None,
        policy=str(fields.get("policy")),
        policy_files=tuple(words("policy_files")),
        tier=str(fields.get("tier")),
        path=str(fields.get("path")),
        program=words("program"),
        room=Room(
            id=os.path.basename(groups[0]) if groups else name,
            uid=number("uid"),
            inner_uid=number("inner_uid"),
            leased_as=name if number("uid") >= 0 else None,
            cgroups=tuple(groups),
            record=record,
        ),
        tied=fields.get("tied") is True,
        scratch=fields.get("scratch") is True,
        client_pid=number("client_pid"),
        client_start=number("client_start"),
        started=_started(fields.get("started")),
        enforced=tuple(words("enforced")),
        namespaces={str(k): str(v) for k, v in names.items()}
        if isinstance(names, dict)
        else {},
    )


def _started(value: object) -> float:
    # CLOCK_MONOTONIC, so the same for every daemon of this boot.
    return float(value) if isinstance(value, int | float) else 0.0


async def _take_over(
    daemon: Daemon, activity: Activity, events: Events, pidfd: int
) -> None:
    forked = events["forked"]
    # Init's channel went with the old daemon; nobody needs it any more.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    stem = _pidfd(forked.get("pid"), forked.get("pid_start"))
    activity.room.sandbox = Sandbox(
        channel=Channel(ours),
        init=pidfd,
        pid=pid_of(pidfd),
        zygote=None,
        stem=stem,
        stem_pid=_int(forked.get("pid")),
    )
    activity.pid = _int(forked.get("pid"))
    activity.state = "running"
    daemon.counts.enter(activity)
    daemon.activities[activity.id] = activity
    daemon.log.event("adopted", id=activity.id, pid=activity.pid, uid=activity.room.uid)
    daemon.spawn(asyncio.create_task(daemon.attend(activity)))
    if activity.tied:
        daemon.spawn(asyncio.create_task(_await_client(daemon, activity)))


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


async def _await_client(daemon: Daemon, activity: Activity) -> None:
    """An activity tied to a client ends unless that client comes back."""
    from .daemon import RECONNECT_S

    client = _pidfd(activity.client_pid, activity.client_start)
    if client >= 0:
        gone = asyncio.create_task(readable(client))
        with suppress(TimeoutError):
            await asyncio.wait_for(gone, RECONNECT_S)
        os.close(client)
    if activity.clients == 0 and activity.state == "running":
        daemon.log.event("client-gone", id=activity.id)
        await daemon.stop(activity, daemon.config.limits.grace_ms / 1000)


async def _bury(daemon: Daemon, activity: Activity, events: Events) -> None:
    """It ended while no daemon looked; its client may still come and ask how."""
    activity.status = exit_status(events)
    busy = activity.room.cgroups
    for pause in (0.0, 0.01, 0.1, 1.0):
        await asyncio.sleep(pause)
        busy = cgroups.remove(busy)
        if not busy:
            break
    cgroups.remove(cgroups.above_alone(activity.room.cgroups))
    if activity.room.leased_as is not None:
        daemon.ledger.release(activity.room.uid, activity.id)
    if activity.room.record is not None:
        activity.room.record.remove()
    activity.state = "exited"
    activity.ended.set()
    daemon.log.event("buried", id=activity.id, status=activity.exit()[0])
    alone = events.get("planned", {}).get("alone") is True
    if "go" in events and activity.tied and not alone:
        daemon.activities[activity.id] = activity
        daemon.spawn(asyncio.create_task(_forget(daemon, activity)))


async def _forget(daemon: Daemon, activity: Activity) -> None:
    from .daemon import REMEMBER_S

    with suppress(TimeoutError):
        await asyncio.wait_for(daemon.closing.wait(), REMEMBER_S)
    if daemon.activities.get(activity.id) is activity:
        del daemon.activities[activity.id]


def _ledger(daemon: Daemon) -> set[int]:
    """Take back leases of launches that died before they had a record.

    Returns the processes that stand in the way of others: uids are a matter of the
    whole machine, and whoever has one need not be ours.
    """
    known = set(daemon.activities) | set(records.names(daemon.run_dir))
    kept: set[int] = set()
    for collected in daemon.ledger.gc(lambda activity_id: activity_id in known):
        daemon.log.event(
            "lease",
            uid=collected.uid,
            id=collected.activity_id,
            what=collected.what,
            why=collected.why,
        )
        if collected.pid:
            kept.add(collected.pid)
    return kept


async def _collect_later(daemon: Daemon, kept: set[int]) -> None:
    """Look again whenever a process that stood in the way of a lease has ended."""
    pause = 0.05
    while kept:
        await _one_ends(kept)
        # One that ended but waits to be reaped has its uid still.
        await asyncio.sleep(pause)
        pause = min(2 * pause, 30.0)
        kept = _ledger(daemon)


async def _one_ends(pids: set[int]) -> None:
    held: list[int] = []
    try:
        for pid in pids:
            try:
                held.append(os.pidfd_open(pid))
            except ProcessLookupError:
                return
        waiting = [asyncio.create_task(readable(fd)) for fd in held]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        for fd in held:
            leave(fd)
            os.close(fd)


async def _cgroups(daemon: Daemon) -> None:
    """Directories of ours that no activity has; a room gave them their name."""
    known = {
        os.path.basename(path)
        for activity in daemon.activities.values()
        for path in activity.room.cgroups
    }
    left = cgroups.left_behind(daemon.parents)
    name = cgroups.name_for(daemon.run_dir)
    left["(standalone)"] = cgroups.of_ended(daemon.parents, name)
    left["(trials)"] = cgroups.of_trials(daemon.parents)
    for name, paths in left.items():
        if name in known:
            continue
        for path in paths:
            _kill_members(path)
        busy = paths
        for pause in (0.0, 0.01, 0.1, 1.0):
            await asyncio.sleep(pause)
            busy = cgroups.remove(busy)
            if not busy:
                break
        for path in busy:
            daemon.log.event("cgroup-left", id=name, path=path)


def _kill_members(path: str) -> None:
    """Inits that were forked but not yet recorded when their daemon was killed."""
    for pid in _members(path):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        # Asked again now that it is held: the pid may have been another's by then.
        if pid in _members(path):
            send_signal(fd, signal.SIGKILL)
        os.close(fd)


def _members(path: str) -> list[int]:
    try:
        with open(f"{path}/cgroup.procs") as f:
            # 0: a process of a PID namespace that is not ours to see.
            return [int(word) for word in f.read().split() if word != "0"]
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return []  # it has just been removed
