# SPDX-License-Identifier: GPL-3.0-or-later
"""Openers as the daemon has them: children that open with a caller's own rights.

Root could open anything; a caller may not. So a forked child takes the caller's uid,
gid and groups for good, opens each path with the access the plan needs, and sends the
descriptors back; root then mounts those and resolves no name.

Here: where these children come from, and what is asked of one until it ends. What one
does is in reopen.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Literal, TypeVar

from . import bundledir, foreign, reopen, ways, wire
from .bundle import MAX_BYTES, Found
from .channel import leave, readable
from .errors import IsolauncherError, NotAllowed, StepError, WireError, from_fields
from .reopen import MAX_OPENED, PATIENCE_S, Kind, Opened, Program, Want
from .request import Caller

MAX_STUCK = 32
CLOSE_S = 0.5
"""How long an opener stays that a launch has no use for: what it launches goes first.

Of a bundle, whose window takes longer, the next thing is begun later still.
"""
LEAVE_S = 1.0
"""How long an opener that is no longer needed may take to end before it is killed."""
SPARES = 2
"""A bundle's launch takes one opener to look at the bundle, and one for its room."""
SPARE_AFTER_S = 1.0
"""How long after one is taken another is forked: what it was taken for goes first."""

# pidfd → the caller's uid, of each child that did not answer and has not ended: a file
# system of the caller's own (FUSE) can hold one beyond SIGKILL, as long as it likes.
_stuck: dict[int, int] = {}

# pidfds of children that nobody needs any more and that have not ended yet.
_leaving: set[int] = set()


class Service:
    """Where openers come from: a process forked before the daemon had any caller.

    Openers wait, some for minutes. Forked from the daemon they would keep whatever
    it held just then, other callers' descriptors included; to close those may wait
    for the caller that sent them (see foreign.py). This process never gets any.

    Some are forked before there is anybody for them, and wait as root until they are
    told whose they are. What they are told and asked goes to them, not by the service.
    """

    def __init__(self, keep: int = SPARES) -> None:
        """``keep`` is how many wait."""
        self._keep = keep
        self._sock: socket.socket | None = None
        self._pid = 0
        self._spares: list[socket.socket] = []

    def start(self) -> None:
        """Fork it, and have it fork the first openers."""
        self._start()
        self._fill()

    def _start(self) -> None:
        ours, theirs = _channel()
        self._pid = os.fork()
        if self._pid == 0:
            reopen.serve(theirs)
        theirs.close()
        self._sock = ours

    def ask(self, caller: Caller) -> socket.socket:
        """The channel of an opener, whose first message brings its pidfd."""
        ids = {"uid": caller.uid, "gid": caller.gid, "groups": list(caller.groups)}
        while True:
            spare = self._spares.pop(0) if self._spares else self._new(rehearse=False)
            try:
                wire.send(spare, ids)
            except WireError:
                spare.close()  # somebody has killed it
                continue
            asyncio.get_running_loop().call_later(SPARE_AFTER_S, self._fill)
            spare.setblocking(False)
            return spare

    def _fill(self) -> None:
        while self._sock is not None and len(self._spares) < self._keep:
            self._spares.append(self._new(rehearse=True))

    def _new(self, *, rehearse: bool) -> socket.socket:
        """The channel of one that is nobody's yet."""
        ours, theirs = _channel()
        with theirs:
            try:
                self._send(rehearse, theirs)
            except WireError:
                # It was killed; nothing of ours depends on which one it is.
                self._end()
                self._send(rehearse, theirs)
        return ours

    def _send(self, rehearse: bool, channel: socket.socket) -> None:
        if self._sock is None:
            self._start()
        assert self._sock is not None  # noqa: S101 (for the type checker)
        wire.send(self._sock, {"rehearse": rehearse}, [channel.fileno()])

    def close(self) -> None:
        """End it; openers end when they see the end of their own channels.

        Those that nobody needs any more have had their time: one that its caller has
        stopped sees nothing, and nobody would be there to kill it.
        """
        for pidfd in _leaving:
            _kill(pidfd)
        for spare in self._spares:
            spare.close()
        self._spares.clear()
        self._end()

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _channel() -> tuple[socket.socket, socket.socket]:
    """Our end and theirs."""
    return socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    )


class Opener:
    """A child with a caller's ids, which opens what it is told to; from fork to end."""

    def __init__(self, service: Service, caller: Caller) -> None:
        self._service = service
        self._caller = caller
        self._sock: socket.socket | None = None
        self._pidfd = -1
        self._owed = 0
        self._same: bool | None = None
        self._checked: tuple[IsolauncherError, ...] | None = None
        """What came of `ask_check`."""

    async def open(
        self,
        wants: tuple[Want, ...],
        program: int | None,
        meanwhile: Callable[[], None] = lambda: None,
        *,
        again: bool = False,
    ) -> tuple[tuple[Opened, ...], Program | None]:
        """Open all with the caller's rights; the descriptors are the receiver's.

        ``program`` is an O_PATH descriptor that came from the caller; ``meanwhile`` is
        called when the child is at work; ``again``: `open_again` will be. Raises
        StepError when the child fails or takes longer than PATIENCE_S (a file system
        that hangs).
        """
        question: dict[str, object] = {
            "wants": [[w.path, w.writable, w.device] for w in wants],
            "again": again,
        }
        return _read_answer(await self._ask(question, _maybe(program), meanwhile))

    def is_idle(self) -> bool:
        """Whether it is there and owes no answer."""
        return self._sock is not None and not self._owed

    def open_program(self, program: int) -> None:
        """Have it open the program, beside all else."""
        self._put({"wants": []}, [program])

    def open_again(self, program: int | None) -> None:
        """Have it open the program, and look whether all would be opened just so."""
        self._same = None
        if program is not None:
            self.open_program(program)
        self._put({"wants": None}, [])

    async def program(self) -> Program | None:
        """Its answer to `open_program`, or its first to `open_again` with one."""
        return _read_answer(await self._heard())[1]

    async def watched(self, watch: ways.Watch) -> ways.Watched | None:
        """Have all ways to what it opened watched from now on, if that can be.

        None also where something has changed since then.
        """
        places: list[ways.Place] = []
        answer = await self._ask({"ways": None}, [])
        try:
            for told in _entries(_told(answer, "ways")["places"]):
                places.append(_typed(ways.Place, told, answer.fds))
            watched = watch.add(places) if places else None
        finally:
            answer.close()
        if watched is None:
            return None
        # Only now: no change falls between the look and the watch.
        same = False
        try:
            told = _told(await self._ask({"ways": True}, []), "ways")
            same = told["same"] is True and watched.is_quiet()
        finally:
            if not same:
                watched.close()
        return watched if same else None

    async def same(self) -> bool:
        """Its last answer to `open_again`."""
        if self._same is None:
            # It has one answer: whoever asks once more after a failure gets no other.
            self._same = False
            answer = await self._heard()
            _read_answer(answer)
            self._same = answer.fields.get("same") is True
        return self._same

    def ask_check(self, wanted: tuple[tuple[str, Kind], ...], fds: list[int]) -> None:
        """Have it look whether each of ``fds`` is of its kind to the caller."""
        self._put({"wants": [], "check": wanted}, fds)

    async def checked(self) -> None:
        """Its answer to `ask_check`, however often: RequestError unless each is."""
        if self._checked is None:
            try:
                _read_answer(await self._heard())
                self._checked = ()
            except IsolauncherError as e:
                self._checked = (e,)
        for error in self._checked:
            raise error

    async def open_bundle(self, bundle: int) -> Found:
        """Look into the bundle whose directory ``bundle`` is; it stays the asker's.

        Raises what `bundledir.look` does, and StepError as `open` does.
        """
        await self.ask_bundle(bundle)
        return await self.found_bundle()

    async def ask_bundle(self, bundle: int) -> None:
        """Have it do that."""
        if not foreign.answers_at_once(bundle):
            # Else the child says so, where it lies in another mount namespace.
            bundledir.check_mount(bundle)
        await self._begin()
        self._put({"bundle": None}, [bundle])

    async def found_bundle(self) -> Found:
        """Its answer to `ask_bundle`."""
        answer = await self._heard()
        try:
            fields = _told(answer, "bundle")
            info, *rest = (os.pread(fd, MAX_BYTES + 1, 0) for fd in answer.fds)
            permissions = rest[0] if rest else None
            return Found(info=info, permissions=permissions, **fields)  # type: ignore[arg-type]
        finally:
            answer.close()

    def ask_program(self, bundle: int, word: str, search: str) -> None:
        """Have it do `bundledir.find_program`, for a bundle's command's first word."""
        self._put({"bundle": [word, search]}, [bundle])

    async def found_program(self) -> tuple[bool, Literal["python", "executable"]]:
        """Its answer to `ask_program`."""
        fields = _told(await self._heard(), "found")
        return fields["in_bundle"] is True, (
            "python" if fields["kind"] == "python" else "executable"
        )

    async def _ask(
        self,
        question: Mapping[str, object],
        fds: list[int],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> wire.Message:
        await self._begin()
        self._put(question, fds)
        meanwhile()
        return await self._heard()

    async def _begin(self) -> None:
        """Have a child, unless too many of the caller's own do not answer."""
        caller = self._caller
        stuck = sum(uid == caller.uid for uid in _stuck.values())
        if caller.uid != 0 and stuck >= MAX_STUCK:
            raise NotAllowed(
                f"{stuck} earlier attempts of yours still wait for a file system",
                code="open-stuck",
                hint="find out which file system does not answer",
            )
        if self._sock is None:
            self._sock = self._service.ask(caller)
            hello = await _message(self._sock)
            (self._pidfd,) = hello.fds

    def _put(self, question: Mapping[str, object], fds: list[int]) -> None:
        """Ask; each question has its answer, in order."""
        assert self._sock is not None  # noqa: S101 (for the type checker)
        try:
            wire.send(self._sock, question, fds)
        except WireError as e:
            raise _failed(e) from e
        self._owed += 1
        _stuck[self._pidfd] = self._caller.uid

    async def _heard(self) -> wire.Message:
        assert self._sock is not None  # noqa: S101 (for the type checker)
        message = await _message(self._sock)
        self._owed -= 1
        if not self._owed:
            del _stuck[self._pidfd]
        return message

    def close_later(self) -> None:
        """It has answered, and what comes now goes first."""
        asyncio.get_running_loop().call_later(CLOSE_S, self.close)

    def close(self) -> None:
        """End the child, in its own time: it may hang beyond SIGKILL.

        One that owes no answer sees the end of its channel and goes when nobody else
        has a use for the processor (see `reopen`); the caller can have stopped it.
        """
        if self._sock is not None:
            leave(self._sock.fileno())
            self._sock.close()
            self._sock = None
        if self._pidfd >= 0:
            pidfd, self._pidfd = self._pidfd, -1
            _forget_later(pidfd, 0 if pidfd in _stuck else LEAVE_S)


def _maybe(fd: int | None) -> list[int]:
    return [] if fd is None else [fd]


def _forget_later(pidfd: int, kill_after_s: float) -> None:
    """When it has ended, which takes the kernel a time no launch need wait for."""
    loop = asyncio.get_running_loop()

    def forget() -> None:
        killing.cancel()
        loop.remove_reader(pidfd)
        _leaving.discard(pidfd)
        os.close(pidfd)
        _stuck.pop(pidfd, None)

    _leaving.add(pidfd)
    killing = loop.call_later(kill_after_s, _kill, pidfd)
    loop.add_reader(pidfd, forget)


def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


async def _message(sock: socket.socket) -> wire.Message:
    try:
        message = wire.try_recv(sock, max_fds=MAX_OPENED + 1)
        if message is None:
            async with asyncio.timeout(PATIENCE_S):
                await readable(sock.fileno())
            message = wire.recv(sock, max_fds=MAX_OPENED + 1)
        return message
    except TimeoutError:
        raise StepError(
            "a path of the policy or the program did not open in time",
            step="open-as-caller",
            code="open-timeout",
            hint="is it on a file system that hangs?",
        ) from None
    except WireError as e:
        raise _failed(e) from e


def _failed(error: WireError) -> StepError:
    return StepError(
        f"the child that opens paths failed: {error.message}",
        step="open-as-caller",
        code="open-failed",
    )


def _read_answer(
    message: wire.Message,
) -> tuple[tuple[Opened, ...], Program | None]:
    fields = message.fields
    try:
        if "opened" not in fields:
            raise from_fields(fields)
        fds = message.fds
        opened = tuple(_typed(Opened, e, fds) for e in _entries(fields["opened"]))
        programs = [_typed(Program, e, fds) for e in _entries(fields["program"])]
        return opened, programs[0] if programs else None
    except BaseException:
        message.close()
        raise


def _told(message: wire.Message, name: str) -> dict[str, object]:
    """The object ``name`` of an answer, or the error that came in its place."""
    fields = message.fields
    if name not in fields:
        raise from_fields(fields)
    told = fields[name]
    if not isinstance(told, dict):
        raise StepError("not an answer", step="open-as-caller", code="open-failed")
    return told


def _entries(value: object) -> Iterator[dict[str, object]]:
    if not isinstance(value, list):
        raise StepError("not an answer", step="open-as-caller", code="open-failed")
    yield from value


_T = TypeVar("_T", Opened, Program, ways.Place)


def _typed(kind: type[_T], fields: dict[str, object], fds: tuple[int, ...]) -> _T:
    """Our own child's words, so a wrong one is a fault; the fd becomes the real one."""
    at = fields.pop("fd")
    if not isinstance(at, int):
        raise StepError("not an answer", step="open-as-caller", code="open-failed")
    made: _T = kind(fd=fds[at] if at >= 0 else -1, **fields)  # type: ignore[arg-type]
    return made
