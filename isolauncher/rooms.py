# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms: sandboxes that need nothing more than a request.

`prepare` makes one: a forked init and stem, a lease, a cgroup, namespaces, a root with
what the policy shows, and a stem that is nobody already. Whether that happens when it
is asked for or before (ahead.py) makes no difference to what it is. `dissolve` gives
back all that it holds.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import (
    cgroups,
    filters,
    opener,
    plan,
    records,
    reopen,
    verify,
    view,
    ways,
)
from .errors import IdentityError, IsolauncherError, StepError
from .identity import passwd
from .policy.model import Policy
from .request import Caller
from .sandbox import Sandbox
from .steps import Planned, Skipped

if TYPE_CHECKING:
    from .daemon import Daemon
    from .road import Sealed

AFTER_S = 0.05
"""How long after a launch all else is begun, so as not to disturb its start."""

OPENING_S = 1.0
"""The same after a bundle's launch, which has a window to open by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a room is made from, the paths it shows excepted: two equal, one room.

    ``caller`` has no pid; ``name`` is its name for passwd(5) inside, ``home`` the
    directory there, which is made for it if ``own_home``. ``lease_key`` is set where
    the uid is to be kept. ``machine`` has the places above the room's cgroups.
    """

    policy: Policy
    caller: Caller
    name: str
    home: str
    own_home: bool
    set_name: str
    lease_key: str | None
    machine: plan.Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is known of a room before anything else, and what is done of it then."""

    machine: plan.Machine
    steps: tuple[Planned, ...]


@dataclass(slots=True, kw_only=True)
class Room:
    """One sandbox and all that is held for it; filled step by step.

    ``id`` names its cgroup and, until an activity has it, its ``record``; ``leased_as``
    is the activity id the ledger has. ``sent`` says device and inode of each mount;
    ``checker`` can look at them once more; ``looked`` is what was found right of it
    while it waits; ``watched`` are the ways to what it shows, where the kernel tells of
    changes there; ``begun`` are the steps of the rest that the stem was told already.
    ``serves``: the only launches that it is for, None: any. ``waiting``: it is sealed
    for that one. ``living``: what the stem has open for the session that it lives in,
    by number, as /proc/PID/fd names it.
    """

    id: str
    sandbox: Sandbox | None = None
    checker: opener.Opener | None = None
    init_start: int = 0
    uid: int = -1
    inner_uid: int = -1
    leased_as: str | None = None
    cgroups: tuple[str, ...] = ()
    record: records.Record | None = None
    ahead: bool = False
    dissolved: bool = False
    """Told to end: whatever is being made for it ends as soon as it is there."""
    facts: Facts | None = None
    ground: Ground | None = None
    planned: plan.Room | None = None
    frame: plan.Frame | None = None
    visible: plan.View | None = None
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    made: bool = False
    looked: verify.Looked | None = None
    watched: ways.Watched | None = None
    begun: tuple[Planned, ...] = ()
    serves: object = None
    waiting: Sealed | None = None
    living: Mapping[int, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def end(self) -> None:
        """What runs in it ends; what is being made of it will."""
        self.dissolved = True
        if self.sandbox is not None:
            self.sandbox.kill()

    def look_again(self, program: int | None) -> None:
        """Have its opener open the program, and look whether all it shows is the same.

        Not where the kernel has told of no change. StepError as of `Opener`.
        """
        assert self.checker is not None  # noqa: S101 (for the type checker)
        if self.watched is not None and not self.watched.is_quiet():
            self._stop_watching()
        if self.watched is None:
            self.checker.open_again(program)
        elif program is not None:
            self.checker.open_program(program)

    async def is_same(self) -> bool:
        """What came of `look_again`, once nothing else is to be waited for."""
        if self.watched is not None:
            return self.watched.is_quiet()
        assert self.checker is not None  # noqa: S101 (for the type checker)
        return await self.checker.same()

    def _stop_watching(self) -> None:
        if self.watched is not None:
            self.watched.close()
            self.watched = None

    def close_checker(self) -> None:
        """A process of the caller's, and not for longer than it is of use."""
        self._stop_watching()
        if self.checker is not None:
            self.checker.close()
            self.checker = None

    def close_checker_later(self) -> None:
        """When what begins now has begun: an end, too, takes a processor's time."""
        pause = OPENING_S if self.facts and self.facts.own_home else AFTER_S
        asyncio.get_running_loop().call_later(pause, self.close_checker)


_NO_UID = ("identity-quota", "identity-exhausted")


def new_id() -> str:
    return secrets.token_hex(8)


def facts(
    daemon: Daemon,
    policy: Policy,
    caller: Caller,
    *,
    home: str,
    own_home: bool,
    set_name: str,
    lease_key: str | None,
) -> Facts:
    return Facts(
        policy=policy,
        caller=replace(caller, pid=0),
        name=_name(caller.uid),
        home=home,
        own_home=own_home,
        set_name=set_name,
        lease_key=lease_key,
        machine=daemon.machine(),
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


async def prepare(
    daemon: Daemon,
    room: Room,
    made_from: Facts,
    program: int | None,
    *,
    ahead: bool = False,
) -> reopen.Program | None:
    """Make the room; ``program`` is opened on the way, where one is there already.

    Whatever is raised, what was made of it so far is the caller's to `dissolve`.
    ``ahead``: nobody waits for it, and it is `made` when this returns; else init and
    the stem are still at it.
    """
    room.facts = made_from
    room.ahead = ahead
    policy = made_from.policy
    known = None if ahead else daemon.rooms.seen(made_from)
    lent = known.borrow() if known is not None else None
    room.checker = lent or opener.Opener(daemon.openers, made_from.caller)
    refused: list[IsolauncherError | OSError] = []

    begun = False

    def meanwhile() -> None:
        """The ledger asks NSS and writes files, while others are at work.

        What is made ahead leaves an activity that ends as much time to give its uid
        back.
        """
        nonlocal begun
        if begun or ahead:
            return
        begun = True
        try:
            if room.sandbox is not None:
                _found(daemon, room, made_from)
            _take_identity(daemon, room, made_from)
            if known is not None and room.sandbox is not None:
                _furnish(daemon, room, made_from, known.show, known.sent)
        except (IsolauncherError, OSError) as e:
            refused.append(e)

    wants = view.wants(policy, made_from.home if made_from.own_home else "")

    async def opening() -> _Found:
        assert room.checker is not None  # noqa: S101 (for the type checker)
        now = () if known is not None else wants
        try:
            return await room.checker.open(now, program, meanwhile, again=ahead)
        except StepError as e:
            if lent is None or e.code != "open-failed":
                raise
        # It has waited, and was its caller's to end.
        room.close_checker()
        room.checker = opener.Opener(daemon.openers, made_from.caller)
        return await room.checker.open(now, program, meanwhile)

    spare = None
    if not ahead:
        own_net = plan.own_net(made_from.policy)
        spare = daemon.pool.spare(made_from.set_name, own_net=own_net)
    if spare is not None:
        # Nobody need be waited for but the opener.
        sandbox = room.sandbox = spare
        opened, found_program = await opening()
        if (ended := told_to_end(room)) is not None:
            _close_opened(opened)
            close_program(found_program)
            raise ended
    else:
        forking = _forked(daemon, room, made_from, ahead=ahead)
        sandbox, (opened, found_program) = await _both(room, forking, opening())

    def show(mounts: view.Mounts) -> tuple[plan.View, list[Skipped]]:
        return view.show(
            mounts,
            opened,
            made_from.caller,
            refuse_read=daemon.store.refuse_read,
            refuse_write=daemon.store.refuse_write,
            allowed=policy.devices,
        )

    try:
        if ahead:
            _take_identity(daemon, room, made_from)
        for e in refused:
            if isinstance(e, StepError) and e.code == "sandbox-died":
                # What they had begun may have failed, and it has been said why.
                raise await sandbox.why_ended() or e from e
            if not isinstance(e, IdentityError) or e.code not in _NO_UID:
                raise e
            # Who has a use for a uid now goes before who may come.
            own = made_from.caller.uid if e.code == "identity-quota" else None
            if not await daemon.rooms.make_way(e.message, own):
                raise e
            _take_identity(daemon, room, made_from)
        if room.planned is None:
            try:
                if known is not None:
                    _furnish(daemon, room, made_from, known.show, known.sent)
                else:
                    _furnish(daemon, room, made_from, show)
            except StepError as e:
                if e.code != "sandbox-died":
                    raise
                raise await sandbox.why_ended() or e from e
        if ahead:
            await made(room)
            look(room)
        elif known is None:
            daemon.rooms.views.came(made_from)
    except BaseException:
        close_program(found_program)
        raise
    finally:
        _close_opened(opened)
        if known is not None and room.checker is not None:
            known.give_back(room.checker)
            room.checker = None
        elif not ahead:
            room.close_checker_later()
    return found_program


_Show = Callable[[view.Mounts], tuple[plan.View, list[Skipped]]]


def _furnish(
    daemon: Daemon,
    room: Room,
    made_from: Facts,
    show: _Show,
    sent: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Have them do all the rest of a room, for which there is a uid by now.

    ``sent``: device and inode of each of the mounts that ``show`` makes, if known.
    """
    sandbox, policy = room.sandbox, made_from.policy
    ground = room.ground or _found(daemon, room, made_from)
    assert sandbox is not None  # noqa: S101 (for the type checker)
    assert room.record is not None  # noqa: S101
    # Whose uid it may come to have, too, before it is told that.
    room.record.append("planned", describe(daemon, room, made_from.caller))
    mounts = view.Mounts(daemon.kernel)
    try:
        room.visible, room.skipped = show(mounts)
        planned = plan.room(
            room_id=room.id,
            policy=policy,
            person=_person(room, made_from),
            view=room.visible,
            machine=ground.machine,
            filter_=compiled_filter(policy),
            ahead=room.ahead,
        )
        room.frame = plan.frame(planned, room.visible)
        room.skipped += planned.skipped
        room.sent |= sent or {name: file_of(fd) for name, fd in mounts.fds.items()}
        sandbox.furnish(
            planned, mounts.fds, {"landlock-probe": daemon.outside}, ground.steps
        )
        room.planned = planned
    finally:
        mounts.close()


async def _forked(
    daemon: Daemon, room: Room, made_from: Facts, *, ahead: bool
) -> Sandbox:
    own_net = plan.own_net(made_from.policy)
    # At once the room's: who waits for what is opened meanwhile has a use for it.
    room.sandbox = await daemon.pool.sandbox(
        made_from.set_name, own_net=own_net, ahead=ahead
    )
    return room.sandbox


def _found(daemon: Daemon, room: Room, made_from: Facts) -> Ground:
    """Have init and the stem begin, with what needs neither a path nor a uid."""
    sandbox = room.sandbox
    assert sandbox is not None  # noqa: S101 (for the type checker)
    machine = replace(made_from.machine, cgroups=daemon.parents.for_activity(room.id))
    steps = plan.foundation(policy=made_from.policy, machine=machine)
    room.cgroups = tuple(place.path for place in machine.cgroups)
    room.init_start = records.start_time(sandbox.pid)
    # Before init is told anything: a daemon that comes after us must find it.
    room.record = records.create(
        daemon.run_dir, room.id, describe(daemon, room, made_from.caller)
    )
    mounts = view.Mounts(daemon.kernel)
    try:
        view.show_devices(mounts)
        room.sent = {name: file_of(fd) for name, fd in mounts.fds.items()}
        sandbox.begin(room.id, steps, mounts.fds, ahead=room.ahead)
    finally:
        mounts.close()
    room.ground = Ground(machine=machine, steps=steps)
    return room.ground


async def made(room: Room) -> None:
    """Until init and the stem have done all that they were told of it."""
    assert room.sandbox is not None  # noqa: S101 (for the type checker)
    if not room.made:
        room.skipped += await room.sandbox.furnished()
        room.made = True


def look(room: Room) -> None:
    """Verify what is there of it while it waits, for its launch to go by."""
    assert room.sandbox is not None  # noqa: S101 (for the type checker)
    assert room.planned is not None  # noqa: S101
    room.looked = verify.verify_room(
        room.planned,
        verify.Sealed(
            init=room.sandbox.pid,
            stem=room.sandbox.stem_pid,
            sent=room.sent,
            probes={},
            notes=tuple(room.skipped),
        ),
    )


def describe(daemon: Daemon, room: Room, caller: Caller) -> dict[str, object]:
    """What a record must say so that a later daemon can give the room back."""
    assert room.sandbox is not None  # noqa: S101 (for the type checker)
    return {
        "init_pid": room.sandbox.pid,
        "init_start": room.init_start,
        "uid": room.uid,
        "inner_uid": room.inner_uid,
        "caller_uid": caller.uid,
        "caller_gid": caller.gid,
        "cgroups": list(room.cgroups),
        "owner_pid": os.getpid(),
        "owner_start": records.own_start_time(os.getpid()),
        "alone": daemon.alone,
        "boot_id": records.boot_id(),
    }


def compiled_filter(policy: Policy) -> plan.CompiledFilter:
    compiled = filters.compile(policy.kernel.syscalls)
    number, arguments, errno_ = compiled.probe
    return plan.CompiledFilter(
        name=compiled.name,
        program=compiled.bpf,
        probe_number=number,
        probe_arguments=arguments,
        probe_errno=errno_,
    )


def file_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def close_program(program: reopen.Program | None) -> None:
    if program is not None and program.fd >= 0:
        os.close(program.fd)


def _close_opened(opened: tuple[reopen.Opened, ...]) -> None:
    for entry in opened:
        if entry.fd >= 0:
            os.close(entry.fd)


_Found = tuple[tuple[reopen.Opened, ...], reopen.Program | None]


async def _both(
    room: Room,
    forking: Coroutine[object, object, Sandbox],
    opening: Coroutine[object, object, _Found],
) -> tuple[Sandbox, _Found]:
    """Fork and open at once; if either fails, what the other brought is given back."""
    both = asyncio.gather(forking, opening, return_exceptions=True)
    cut_short: BaseException | None = None
    while not both.done():
        try:
            await asyncio.shield(both)
        except asyncio.CancelledError as e:
            # To their ends all the same, however often we are told: a zygote's answer
            # that nobody took would be the next launch's, and what they bring must
            # become somebody's to close.
            cut_short = e
    sandbox, found = both.result()
    failed: BaseException | None = cut_short
    if isinstance(sandbox, Sandbox):
        room.sandbox = sandbox
    if isinstance(found, BaseException):
        raise cut_short or found
    if isinstance(sandbox, BaseException):
        failed = failed or sandbox
    failed = failed or told_to_end(room)
    if failed is not None or isinstance(sandbox, BaseException):
        opened, program = found
        _close_opened(opened)
        close_program(program)
        raise failed or AssertionError
    return sandbox, found


def told_to_end(room: Room) -> StepError | None:
    """Why it goes no further: somebody has stopped it, or its zygote has died.

    Neither may have known yet whose sandbox it was.
    """
    if room.dissolved:
        return StepError("it was stopped", step="launch", code="stopped")
    zygote = room.sandbox.zygote if room.sandbox is not None else None
    if zygote is not None and zygote.has_died():  # see `Daemon._zygote_died`
        return StepError(
            "its zygote has died", step="launch", code="zygote-died", hint="ask again"
        )
    return None


def _take_identity(daemon: Daemon, room: Room, made_from: Facts) -> None:
    policy, caller = made_from.policy, made_from.caller
    lease = daemon.ledger.take(
        mode=policy.identity.uid,
        caller_uid=caller.uid,
        caller_name=made_from.name,
        activity_id=room.id,
        bundle_key=made_from.lease_key,
    )
    room.uid = lease.uid
    room.leased_as = room.id
    room.inner_uid = inner_uid(policy, caller, lease.uid)


def inner_uid(policy: Policy, caller: Caller, uid: int) -> int:
    """Who the activity believes it is, being ``uid`` outside."""
    same = policy.identity.inner_uid == "same" or caller.uid == 0
    return uid if same else caller.uid


def _person(room: Room, made_from: Facts) -> plan.Person:
    caller = made_from.caller
    same = room.inner_uid == room.uid
    inner_gid = room.uid if same or caller.gid == 0 else caller.gid
    views = passwd.views(  # noqa: S604 - "shell" is a field of passwd(5)
        inner_uid=room.inner_uid,
        inner_gid=inner_gid,
        # Its own uid has a name outside only, which is ours and not worth asking NSS.
        name="user" if same else made_from.name or "user",
        home=made_from.home,
        shell="/bin/sh",
        hostname=made_from.policy.hostname,
        mixes_sound=not {"sound", "microphone"}.isdisjoint(made_from.policy.devices),
    )
    return plan.Person(
        uid=room.uid,
        gid=room.uid,
        inner_uid=room.inner_uid,
        inner_gid=inner_gid,
        home=made_from.home if made_from.own_home else "",
        passwd=views.passwd,
        group=views.group,
        nsswitch=views.nsswitch,
        hosts=views.hosts,
        lends=(
            (caller.uid, caller.gid)
            if made_from.own_home and made_from.policy.view.data
            else None
        ),
    )


async def dissolve(daemon: Daemon, room: Room) -> None:
    """End it and give back all that it holds, after its last process is gone."""
    room.end()
    sandbox = room.sandbox
    if sandbox is not None:
        await sandbox.ended()
    busy = room.cgroups
    for pause in (0.0, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0):
        # EBUSY: the kernel takes the last task out a moment after it has ended.
        await asyncio.sleep(pause)
        busy = cgroups.remove(busy)
        if not busy:
            break
    for path in busy:
        daemon.log.event("cgroup-left", id=room.id, path=path)
    # First what cannot fail, and makes room for what can.
    room.close_checker()
    if sandbox is not None:
        sandbox.close()
    try:
        if room.leased_as is not None:
            daemon.ledger.release(room.uid, room.leased_as)
            room.leased_as = None
        if room.record is not None:
            room.record.remove()
    finally:
        # A lease or a record that stays is the next daemon's to find; a descriptor
        # would be nobody's.
        if room.record is not None:
            room.record.close()
