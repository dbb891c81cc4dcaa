# SPDX-License-Identifier: GPL-3.0-or-later
"""The child that becomes the activity: lowers itself, proves it, hands over, runs.

Messages with the daemon, on a channel of its own:

    ← a plan's part (`parts.write`) + […]                 of a room
    → {"event": "room", "notes": […]}                    the room's steps are done
    ← a plan's part                                       where to wait: in a session
    → {"event": "living", "lacks": "", "descriptors": […]}   and what it has for that
    ← a plan's part + [stdin, …]                          the rest of the plan, or how
                                                          it begins and then the rest
    → {"event": "sealed", "probes": {…}, "notes": […]}   every step is done
    → {"event": "ready"}                                  a cold start's twin, and waits
    ← {"verb": "streams"} + [stdin, stdout, stderr]       of a launch that was expected
    → {"event": "dressed"}                                it has them
    → {"event": "ready"}                                  and has handed over once more
    ← {"verb": "go"}                                      verified from outside
    → {"event": "running", "program": […], "tier": …, "at_us": n}    what begins now
    → {"event": "failed", …}                              and it ends

Sealed, it hands over while the daemon looks at it. Where "go" has come by then it is
not "ready": nobody is to be woken for that. No byte of activity code runs before "go".
An end of file instead of a message means that the daemon has died: the launch ends
with it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from .. import init, kernel, parts, plan, steps, wire
from ..apply import Context
from ..errors import ProgramNotExecutable, ProgramNotFound, StepError
from ..init import Gone, Stem
from .program import first_line

Live = Callable[[plan.Start, int], str]
"""Do what a start like this one would do first; returns what of it was not done."""


def prepare(
    stem: Stem, warm: Callable[[int], None], live: Live
) -> tuple[plan.Start, str]:
    """Walk the stem's steps, the room's and the rest's; returns when all is in force.

    What is to be started, and the directory we are in. ``warm`` is called in between,
    with the descriptor that is readable when there is no more time for it; ``live``
    where it is to wait in a session.
    On any failure tells the daemon and ends the process: there is no way on.
    """
    try:
        return _prepare(stem, warm, live)
    except BaseException as e:
        if isinstance(e, StepError) and (e.step, e.errno) == _INIT_HAS_ENDED:
            e = Gone()  # and has said why
        give_up(stem.channel, e)


_INIT_HAS_ENDED = (
    steps.name_of(steps.FollowInit(members=(), namespaces=())),
    errno.ESRCH,
)


def _prepare(
    stem: Stem, warm: Callable[[int], None], live: Live
) -> tuple[plan.Start, str]:
    keep = frozenset((0, 1, 2, stem.channel.fileno(), stem.baton.fileno()))
    c = Context(kernel=stem.kernel, descriptors={}, keep=keep)
    init.walk_alone("stem", stem.first, c)
    room, c.descriptors = init.receive(stem.channel, plan.RoomPart)
    init.walk("stem", room.steps, c, stem.baton)
    while room.more:
        room, c.descriptors = init.receive(stem.channel, plan.RoomPart)
        init.walk("stem", room.steps, c, stem.baton)
    outside = c.descriptors.get("landlock-probe", -1)
    if outside >= 0:
        c.keep |= {outside}
    _tell("room", stem.channel, c)
    warm(stem.channel.fileno())
    if room.ahead:
        init.rehearse()
    rest, c.descriptors = init.receive(stem.channel, plan.Rest)
    walked = room.steps + rest.steps
    while not rest.last:
        # How it begins, while the daemon is still at work on the rest; or where to
        # wait for it.
        init.walk_alone("stem", rest.steps, c)
        if rest.start is not None:
            c.keep |= _live(stem, rest.start, live)
        rest, more = init.receive(stem.channel, plan.Rest)
        walked += rest.steps
        c.descriptors |= more
    assert rest.start is not None  # noqa: S101 (for the type checker)
    bound = (p.step for p in rest.steps if isinstance(p.step, steps.Landlock))
    waits = not all(step.rules_are_sent for step in bound)
    if waits:
        # A rule names what init attaches.
        init.take(stem.baton)
    init.walk_alone("stem", rest.steps, c)
    seccomp = next(p.step for p in walked if isinstance(p.step, steps.Seccomp))
    probes = {
        "seccomp": stem.kernel.probe(
            seccomp.probe_number, seccomp.probe_arguments
        ).errno,
        "securebits": stem.kernel.securebits(),
        "landlock": _landlock_probe(outside),
    }
    if outside >= 0:
        os.close(outside)
    if not waits:
        # What is to be started is where init attaches it.
        init.take(stem.baton)
    stem.baton.close()
    cwd = enter(rest.start.cwd)
    # Not before: the daemon has heard of init by now and is awake. And what it looks
    # at is as it will be.
    _tell("sealed", stem.channel, c, probes=probes)
    return rest.start, cwd


def enter(cwd: str) -> str:
    """The caller's directory where it is in the view, else the root."""
    try:
        os.chdir(cwd)
    except OSError:
        os.chdir("/")
        return "/"
    return cwd


def _tell(event: str, channel: socket.socket, c: Context, **more: object) -> None:
    notes = [parts.pack(n) for n in c.notes]
    wire.send(channel, {"event": event, "notes": notes, **more})
    c.notes.clear()


def _live(stem: Stem, start: plan.Start, live: Live) -> frozenset[int]:
    """Wait where the session's display is; the descriptors that this takes.

    It ends with the display: what has been prepared for that one is of no use then.
    """
    channel = stem.channel
    before = _open()
    lacks = live(start, channel.fileno())
    kept = _open() - before
    told = {"event": "living", "lacks": lacks, "descriptors": sorted(kept)}
    wire.send(channel, told)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    for fd in kept:
        poll.register(fd, select.POLLRDHUP)
    if not any(fd == channel.fileno() for fd, _ in poll.poll()):
        raise StepError("its display has gone", step="display", code="display-gone")
    return kept


def _open() -> frozenset[int]:
    fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return frozenset(map(int, os.listdir(fd))) - {fd}
    finally:
        os.close(fd)


def _landlock_probe(fd: int) -> int:
    """errno of opening a readable file that no rule covers, here by its descriptor."""
    if fd < 0:
        return 0
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        return e.errno or -1
    return 0


def await_go(
    channel: socket.socket,
    look: Callable[[], None],
    again: Callable[[], None] = lambda: None,
    *,
    program: list[str],
    tier: str,
    why: str = "",
    warm: Callable[[int], None] = lambda until: None,
) -> None:
    """Wait for "go" and say what begins; the reading ends the launch's time.

    When time has passed since the hand-over, and streams have come: ``look`` sees that
    we are where we were, and then, while the daemon looks at us, ``again`` does what a
    hand-over finds anew. ``warm``: as of `prepare`.
    """
    message = wire.try_recv(channel)
    if message is None:
        wire.send(channel, {"event": "ready"})
        with suppress(OSError):  # the policy's filter may not let it
            # Who is to say "go" may be waiting for this very processor.
            os.sched_yield()
        warm(channel.fileno())
        message = wire.recv(channel, max_fds=len(_STREAMS))
        if message.fields == {"verb": "streams"}:
            _dress(message.fds)
            look()
            wire.send(channel, {"event": "dressed"})
            again()
            wire.send(channel, {"event": "ready"})
            message = wire.recv(channel)
    # The daemon's end is the launch's end.
    if message.fields != {"verb": "go"}:
        raise StepError(
            f"the daemon said {message.fields!r}", step="go", code="unexpected-message"
        )
    began = {"program": program, "tier": tier, "why": why}
    at_us = kernel.monotonic_us()
    wire.send(channel, {"event": "running", **began, "at_us": at_us})


def changed() -> StepError:
    """What a launch that was expected would find is not what it was prepared with."""
    return StepError(
        "what it was made from has changed", step="streams", code="room-stale"
    )


_STREAMS = ("stdin", "stdout", "stderr")


def _dress(fds: tuple[int, ...]) -> None:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)


def give_up(channel: socket.socket, error: BaseException) -> NoReturn:
    """The one door of a stem that cannot become an activity."""
    try:
        if not isinstance(error, Gone):
            wire.send(channel, init.failure(error, "stem"))
    finally:
        os._exit(init.FAILED)


def execute(
    channel: socket.socket,
    path: str,
    argv: list[str],
    environment: dict[str, str],
    restore: Callable[[], None],
) -> NoReturn:
    """Become another program. A refusal is told: the channel closes on success."""
    try:
        restore()
        os.execve(path, argv, environment)
    except (FileNotFoundError, NotADirectoryError) as e:
        error: BaseException = _not_found(path, e)
    except OSError as e:
        no_format = e.errno == errno.ENOEXEC
        error = ProgramNotExecutable(
            f"{path}: {e.strerror}",
            code="program-not-executable",
            hint="a script names its interpreter in its first line, after #!"
            if no_format
            else "",
        )
    except BaseException as e:
        error = e
    give_up(channel, error)


def _not_found(path: str, error: OSError) -> ProgramNotFound:
    """The kernel says the same of a program and of what it starts by (execve(2))."""
    if not os.path.exists(path):
        return ProgramNotFound(f"{path}: {error.strerror}", code="program-not-found")
    line = first_line(path)
    words = line.removeprefix(b"#!").split() if line.startswith(b"#!") else []
    what = "the library that loads it (ld.so)"
    if words:
        what = f"the interpreter of its first line, {os.fsdecode(words[0])!a},"
    return ProgramNotFound(
        f"{path}: {what} does not exist in the sandbox",
        code="interpreter-not-found",
        hint="files.read of the policy says what does",
    )
