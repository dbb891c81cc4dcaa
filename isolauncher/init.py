# SPDX-License-Identifier: GPL-3.0-or-later
"""PID 1 of a sandbox: builds it as root, gives up everything, then only waits.

The zygote unshares the PID namespace and forks; the child calls `main`. It does the
first steps, which are the same whoever comes, and forks the *stem*. Both wait for their
parts of a room and walk them at the same time, and a baton goes to and fro where one
has to wait for the other. Then both wait, for seconds or for an hour, until the daemon
sends the rest of a plan and they walk that: the baton says that init is through. After
it init is the activity's parent: it reaps, and when the stem has ended it writes how to
the record and to the daemon, and exits; the kernel then kills whatever is left in the
namespace. For that alone it need not be an interpreter, and soon is none any more: see
`_become_waiter`.

Messages to the daemon, on the channel that came with the fork:

    {"event": "init"} + [pidfds]             here we are, init and the stem
    {"event": "room", "notes": […]}          init's part of the room is done
    {"event": "lodged", "notes": […]}        so is what a session has brought to it
    {"event": "left", "notes": […]}          all init's steps are done
    {"event": "failed", …}                   a step failed; nothing of the activity ran
    {"event": "exited", "status": n}         waitpid(2)'s status of the stem
"""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from . import parts, plan, steps, wire
from .apply import Context, apply
from .errors import IsolauncherError, StepError
from .kernel import Kernel, Recorder, become, fork, forked, title, trim
from .steps import WAITS, Actor, Planned

FAILED = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """What the stem has after its fork; `main`'s caller goes on with it.

    ``first``: what it does before it is told anything. ``ahead``: nobody waits for it
    yet.
    """

    kernel: Kernel
    baton: socket.socket
    channel: socket.socket
    first: tuple[Planned, ...]
    ahead: bool


class Gone(Exception):
    """The other end went away: whoever it was, the launch has ended."""


def failure(error: BaseException, who: str) -> dict[str, object]:
    """An error as a message: bytes up a pipe, no pickle.

    ``who`` stands for the step where it belongs to none.
    """
    if isinstance(error, IsolauncherError):
        return {"event": "failed", **error.as_fields()}
    try:
        text = "".join(traceback.format_exception(error))[-2000:]
    except Exception as e:
        # Its modules may be the program's already. That something failed is said.
        text = f"and it cannot be told where: {type(e).__name__}"
    return {
        "event": "failed",
        "step": who,
        "code": "internal",
        "message": f"{type(error).__name__}: {error}",
        "hint": text,
        "exit_status": FAILED,
    }


_T = TypeVar("_T", plan.RoomPart, plan.Rest)

# Something like the rest of a plan, for nobody.
_LIKELY = plan.Rest(
    id="0",
    steps=tuple(
        Planned(actor="stem", step=step)
        for step in (
            steps.Stdio(),
            steps.SetUmask(umask=0),
            steps.ShowAs(argv=("",) * 2, environ=("",) * 16, name=""),
            steps.WriteFile(path="/", data=b"", mode=0),
            steps.Attach(path="/", descriptor="", kind="file", attributes=0),
            steps.SealRoot(),
            steps.LeavePrivileges(uid=0),
            steps.Landlock(rules=(steps.LandlockRule(path="/", rights=0),)),
            steps.CloseDescriptors(),
            steps.Seccomp(name="", probe_number=0, probe_arguments=(), probe_errno=0),
        )
    ),
    start=plan.Start(
        program_kind="file",
        path="/",
        argv=("",) * 2,
        environment=(("", ""),) * 16,
        cwd="/",
        tier="fork",
        hostname="",
        preload="",
    ),
)


def rehearse() -> None:
    """Receive a plan that is none, while nobody waits.

    Init and the stem share their memory until they write, and reading writes too (a
    reference count): what the kernel copies of it now, it need not when the rest comes.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        wire.send_data(ours, parts.write(["likely"], _LIKELY), [ours.fileno()])
        _, descriptors = receive(theirs, plan.Rest)
        wire.close_all(descriptors.values())
    finally:
        ours.close()
        theirs.close()


_ROOM = (
    steps.JoinKeyring(),
    steps.ScheduleNormally(),
    steps.JoinCgroup(
        directories=(
            steps.CgroupDirectory(path="", settings=(("", ""),), members="tasks"),
        )
    ),
    steps.Unshare(namespaces=("mnt", "cgroup")),
    steps.FollowInit(members=("tasks",), namespaces=("mnt", "cgroup")),
    steps.Directory(path="/", mode=0),
    steps.Symlink(path="/", target=""),
    steps.MemoryFiles(path="/", size=0, inodes=0, mode=0, executable=True),
    steps.MountProc(),
    steps.LeaveOldRoot(),
    steps.SetHostname(name=""),
    steps.Priority(nice=0, oom_score_adj=0),
    steps.ResetSignals(),
    steps.SetLimits(limits=(("core", 0),)),
    steps.ClearGroups(),
    steps.MapIdentity(inner_uid=0, uid=0, inner_gid=0, gid=0),
    steps.LowerInit(),
    steps.BecomeUser(uid=0, gid=0),
    steps.DropCapabilities(),
    steps.NoNewPrivs(),
)
_OFTEN = 20


def practise(times: int = _OFTEN) -> None:
    """In the zygote: receive and walk plans that are none, with a kernel that is none.

    The interpreter notes in code that runs how best to run it (PEP 659). What it has
    noted here no child has to write, and to copy, again.
    """
    steps = (*(Planned(actor="stem", step=s) for s in _ROOM), *_LIKELY.steps)
    names = ("", "stdin", "stdout", "stderr")
    for _ in range(times):
        rehearse()
        parts.read(parts.write([], steps))
        nobodys = Recorder().as_kernel()
        c = Context(
            kernel=nobodys, descriptors=dict.fromkeys(names, 0), keep=frozenset()
        )
        c.root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        c.ruleset = os.dup(c.root)
        walk_alone("stem", steps, c)
        os.close(c.root)


def receive(channel: socket.socket, kind: type[_T]) -> tuple[_T, dict[str, int]]:
    """A part of the plan; in a memory file where it is larger than a packet."""
    message = wire.recv_data(channel, max_fds=250)
    data, fds = message.data, message.fds
    if data == parts.LONG:
        *fds, paper = fds
        data = os.pread(paper, os.fstat(paper).st_size, 0)
        os.close(paper)
    names, value = parts.read(data)
    if not isinstance(value, kind):
        raise StepError("something else came", step="plan", code="not-a-plan")
    if len(names) != len(fds):
        raise StepError("descriptors and names differ", step="plan", code="not-a-plan")
    return value, dict(zip(names, fds, strict=True))


def walk(
    me: Actor, steps: tuple[Planned, ...], c: Context, baton: socket.socket
) -> None:
    """Do my steps in order; before some wait for all that comes before them.

    A turn of the other's that ends before one of mine is a baton (see `steps.WAITS`).
    """
    previous: Actor = "init"
    for number, planned in enumerate(steps):
        if planned.actor == me:
            if previous != me:
                c.owed += 1
            while c.owed and type(planned.step) in WAITS:
                take(baton)
                c.owed -= 1
            apply(planned.step, c)
            if number + 1 < len(steps) and steps[number + 1].actor != me:
                _pass(baton)
        previous = planned.actor


def walk_alone(me: Actor, steps: tuple[Planned, ...], c: Context) -> None:
    """Do my steps in order, whatever the other is at."""
    for planned in steps:
        if planned.actor == me:
            apply(planned.step, c)


def take(baton: socket.socket) -> None:
    try:
        if baton.recv(1) == b"b":
            return
    except ConnectionError:
        pass
    raise Gone


def _pass(baton: socket.socket) -> None:
    try:
        baton.send(b"b", socket.MSG_NOSIGNAL)
    except ConnectionError:
        raise Gone from None


def main(
    channel: socket.socket,
    of_stem: socket.socket,
    kernel: Kernel,
    *,
    own_net: bool,
    ahead: bool,
) -> Stem:
    """Run as init; returns only in the stem. Never returns in init.

    ``of_stem`` is the stem's channel, ``own_net`` as of `plan.first`. ``ahead``: nobody
    waits for it yet.
    """
    try:
        if os.getpid() != 1:
            # Another sandbox's PID namespace, or the host's: never go on in it.
            raise StepError(
                f"this is process {os.getpid()} of a PID namespace, not its first",
                step="init",
                code="not-pid-1",
            )
        os.umask(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        mine, theirs = socket.socketpair()
        keep = frozenset((channel.fileno(), mine.fileno()))
        c = Context(kernel=kernel, descriptors={}, keep=keep)
        first = plan.first(own_net=own_net)
        walk_alone("init", first, c)
        c.stem = fork()
        if c.stem == 0:
            # From here on the stem: the caller goes on with it (see zygote/stem.py).
            # What other modules want done in a forked child is its alone: init runs
            # none of them.
            forked()
            mine.close()
            channel.close()
            return Stem(
                kernel=kernel,
                baton=theirs,
                channel=of_stem,
                first=first,
                ahead=ahead,
            )
        theirs.close()
        # The stem's alone: its end is how the daemon hears of the stem's.
        of_stem.close()
        pidfds = [os.pidfd_open(pid) for pid in (os.getpid(), c.stem)]
        wire.send(channel, {"event": "init"}, pidfds)
        wire.close_all(pidfds)
        if ahead:
            title("isolauncher: init, spare")
            practise(1)
    except BaseException as e:
        _give_up(channel, e)
    try:
        _accompany(channel, mine, c)
    except BaseException as e:
        _give_up(channel, e)


def _title(activity_id: str) -> str:
    """The waiter takes what comes after "isolauncher: " for its name, too."""
    return f"isolauncher: init({activity_id})"


def _name(activity_id: str, kernel: Kernel) -> None:
    title(_title(activity_id))
    kernel.set_name(f"init({activity_id})"[:15])


def _accompany(channel: socket.socket, baton: socket.socket, c: Context) -> NoReturn:
    record, held, waiter, activity_id = -1, -1, -1, ""
    try:
        room, c.descriptors = receive(channel, plan.RoomPart)
        # Else ps shows the zygote's words, and so does PID 1 to the program.
        _name(room.id, c.kernel)
        walk("init", room.steps, c, baton)
        while room.more:
            room, sent = receive(channel, plan.RoomPart)
            c.descriptors |= sent
            walk("init", room.steps, c, baton)
        _tell("room", channel, c)
        if room.ahead:
            rehearse()
        rest, sent = receive(channel, plan.Rest)
        while not rest.last:
            # What a session brings to a room that waits in it.
            before, c.descriptors = c.descriptors, c.descriptors | sent
            walk_alone("init", rest.steps, c)
            c.descriptors = before
            wire.close_all(sent.values())
            _tell("lodged", channel, c)
            rest, sent = receive(channel, plan.Rest)
        activity_id, record = rest.id, sent["record"]
        held, waiter = sent.get("hold", -1), sent.get("waiter", -1)
        c.descriptors |= sent
        # Whoever waits at the other end of the second learns that all this has ended.
        # Verified by name: nothing else comes to what init becomes with the third.
        c.keep |= {fd for fd in (record, held, waiter) if fd >= 0}
        walk_alone("init", rest.steps, c)
        _pass(baton)
        if rest.id != room.id:
            # Before the word: it opens a file of /proc, and from then on the daemon
            # counts what is open here.
            _name(rest.id, c.kernel)
        _tell("left", channel, c)
    except Gone:
        # The stem ended before its time and has said why; its status is next.
        pass
    baton.close()
    status = _ended_soon(c.stem)
    if status is None:
        if waiter >= 0:
            keep = [fd for fd in (record, held) if fd >= 0]
            _become_waiter(waiter, _title(activity_id), c.stem, record, channel, keep)
        # What the plan took: it lives as long as the activity, and there are many.
        trim()
        status = wait_for(c.stem)
    _exit(status, record, channel)


def _tell(event: str, channel: socket.socket, c: Context) -> None:
    wire.send(channel, {"event": event, "notes": [parts.pack(n) for n in c.notes]})
    c.notes.clear()


SOON_S = 0.2
"""How long a stem has to end before init becomes the waiter.

Longer than a launch takes from here to the program's first byte, which the exec, of
some tenths of a millisecond of a processor, would be in the way of; and longer than a
program that says a line and ends, for whose memory it is not worth while.
"""


def _ended_soon(stem: int) -> int | None:
    """Reap for a while; its status, or None while it runs."""
    # Blocked it is queued though nothing handles it, and can be waited for: one that
    # comes between the look and the wait is found there (sigtimedwait(2); the kernel's
    # sig_ignored() never ignores what is blocked).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    try:
        until = time.monotonic() + SOON_S
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == stem:
                return status
            left = until - time.monotonic()
            if pid == 0 and (
                left <= 0 or signal.sigtimedwait((signal.SIGCHLD,), left) is None
            ):
                return None
    finally:
        # What is pending is dropped now, by its default; whose end it told of waits to
        # be reaped all the same, by whatever this process is by then.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_waiter(
    waiter: int,
    shown: str,
    stem: int,
    record: int,
    channel: socket.socket,
    keep: list[int],
) -> None:
    """Go on as a program of 500 bytes (see waiter/); returns where that is refused.

    Its memory is all that changes: ids, capabilities, no_new_privs, namespaces, signals
    that are ignored and children stay (execve(2)), so a stem that ends meanwhile is
    found by its wait4(2). Refused, besides by who is in charge here (a security module,
    say): EAGAIN, where more processes have init's uid than RLIMIT_NPROC lets one have,
    which has not stood in the way of the setresuid(2) before (execve(2)).
    """
    try:
        # All others, and the program's own, close with it; there is no other in here.
        for fd in (channel.fileno(), *keep):
            os.set_inheritable(fd, True)
        words = (shown, str(stem), str(record), str(channel.fileno()))
        become(waiter, words)
    except OSError:
        # Nobody is worse off for it: as an interpreter it does the same.
        os.close(waiter)


def wait_for(stem: int) -> int:
    """Reap until the stem ends; how it did. Nothing else happens here."""
    while True:
        pid, status = os.wait()
        if pid == stem:
            return status


def _exit(status: int, record: int, channel: socket.socket) -> NoReturn:
    """Write how the stem has ended, and end."""
    line = b'{"event": "exited", "status": %d}\n' % status
    # One write to a file opened for appending, before the message: a daemon that is
    # just being restarted reads it there. Whether either arrives, this process ends.
    try:
        if record >= 0:
            os.write(record, line)
    finally:
        try:
            channel.send(line, socket.MSG_NOSIGNAL)
        finally:
            os._exit(0)


def _give_up(channel: socket.socket, error: BaseException) -> NoReturn:
    try:
        wire.send(channel, failure(error, "init"))
    finally:
        os._exit(FAILED)
