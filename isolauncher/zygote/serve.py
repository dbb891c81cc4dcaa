# SPDX-License-Identifier: GPL-3.0-or-later
"""The zygote's life: import without power, prove fitness, then fork on demand.

It parses nothing. The first message on its channel is the name of a set and names to
leave out, with a file for the name of what is being imported: what ends the process
leaves nobody to report it. Every later one is a word ("f", or "a" where nobody waits
yet; and "n" if it has a network of its own) and the channels of a new init and of its
stem. What it answers, each a message of its own:

    descriptors of two memory files: the report of the imports, the files they read
    the pid of the init just forked, or "!" and why there is none

`main` returns only in a stem that has been handed over and has had its "go".
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from isolauncher import init, kernel, plan, wire
from isolauncher.errors import IsolauncherError
from isolauncher.zygote import (
    filling,
    fingerprint,
    forever,
    gathering,
    handover,
    preload,
    program,
    rehearsal,
    sets,
    state,
    stem,
    traces,
    unseen,
    warm,
)
from isolauncher.zygote.handover import Pristine, World, signals, streams

NOBODY = 65534
BARE = "bare"
_FD = 4
"""Bytes of one descriptor in a message (unix(7))."""
Cold = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
KernelMaker = Callable[[], kernel.Kernel]


def main(
    cold: Cold, argv: list[str], make_kernel: KernelMaker = kernel.Linux
) -> program.Prepared:
    """Be the zygote. ``cold`` is what the interpreter was before our imports."""
    try:
        unseen.close_image(argv[0])
        unseen.prove()
        channel = _take_channel()
        words, (at,) = _asked(channel, 65536)
        name, *left_out = words.decode().split()
        kernel.title(f"isolauncher: zygote({name})")
        own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        expected = (0, 1, 2, channel.fileno(), own_namespace)
        world = _preload(name, frozenset(left_out), cold, expected, channel, at)
        _settle(world, expected)
        written = () if name == BARE else _rehearse(world, name)
        linux = make_kernel()
    except Exception as e:
        print(f"isolauncher zygote: {type(e).__name__}: {e}", file=sys.stderr)
        os._exit(1)
    waiting = _serve(channel, own_namespace, expected, linux)
    forever.keep((waiting, written, cold))  # when this returns, a program begins
    gc.freeze()  # which no program finds, and no collection of its walks
    kernel.title(f"isolauncher: stem({name})")

    def touch(until: int) -> None:
        rehearsal.touch(written, until)

    def begin(until: int) -> None:
        handover.begin(world)
        touch(until)

    def live(start: plan.Start, until: int) -> str:
        return _live(start, world, until)

    if waiting.ahead:
        # Else what it writes to, and a program need not, would be copied in a launch's
        # time.
        init.practise(1)
        touch(waiting.channel.fileno())
    start, cwd = stem.prepare(waiting, begin, live)
    return _hand_over(waiting.channel, start, cwd, world, touch)


def _take_channel() -> socket.socket:
    """Off descriptor 0, which is the activity's standard input one day."""
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel


def _preload(
    name: str,
    left_out: frozenset[str],
    cold: Cold,
    expected: tuple[int, ...],
    channel: socket.socket,
    at: int,
) -> World:
    """Import the set with nobody's rights, and tell the daemon what came of it."""
    is_at = os.fstat(at)

    def begins(entry: str) -> None:
        with contextlib.suppress(OSError):
            # Not what another entry, which closes what it finds, has opened since.
            if os.path.samestat(os.fstat(at), is_at):
                os.pwrite(at, f"{entry}\n".encode(), 0)

    # Drawn before the path goes: pyroute2 may be where only our own code looks.
    kernel.loopback()
    pristine = Pristine.capture(*cold)
    sys.path[:] = list(cold[1])
    names = [] if name == BARE else [n for n in sets.SETS[name] if n not in left_out]
    # Not into places that are free among what was imported until now.
    filling.fill()
    forever.keep(gathering.names(names))
    with kernel.nobody(NOBODY):
        report = preload.preload(
            names, pristine=pristine, expected_fds=(*expected, at), begins=begins
        )
        begins("")
        with contextlib.suppress(OSError):
            os.close(at)
        gathering.end()
        gc.collect()
        filling.fill()
        gathering.specs(map(sys.modules.get, report.world.shelved))
        world = handover.settle(report.world)
        unfit = {e.name: "; ".join(e.faults) for e in report.unfit}
        init.practise()
        named = traces.scan_identity(
            traces.own_values(), world.visible, shelf=world.shelf
        )
    # As root again: our own files may lie where nobody may look.
    files = fingerprint.fingerprint(pristine, world.shelf).to_bytes()
    streams.before_fork()
    # Init reaps its own; ours are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    handover.pictures.draw(world, NOBODY)
    lacks = "" if name == BARE else report.lacks(name)
    told = {
        "set": name,
        "lacks": lacks,
        "path": list(pristine.path),
        "entries": report.as_data(),
        "unfit": unfit,
        "identity": [f"{t.module}.{t.name}: {t.what}" for t in named],
        "left_out": sorted(left_out),
        "modules": len(sys.modules),
    }
    papers = [_paper(json.dumps(told).encode()), _paper(files)]
    wire.send(channel, {"event": "preloaded"}, papers)
    wire.close_all(papers)
    if lacks and not unfit:
        os._exit(0)
    if unfit:
        # What an import did cannot be undone in this process.
        os._exit(3)
    return world


def _settle(world: World, expected: tuple[int, ...]) -> None:
    """Leave memory as children are to share it, after all that is only for once."""
    handover.begin(world)
    gc.collect()
    filling.fill()
    gc.freeze()
    state.prove_fit(expected)


def _rehearse(world: World, name: str) -> rehearsal.Pages:
    """The pages that a start of a program writes to, and the imports of most."""

    def start() -> None:
        told = handover.Start(
            kind="script",
            program="/program.py",
            arguments=("argument",),
            environment={"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"},
            cwd="/",
        )
        handover.run(told, world)
        typical = program.Prepared(
            start=told,
            world=world,
            filename="/program.py",
            source=sets.TYPICAL[name].encode(),
            module=None,
        )
        # Without a display or a home some of it fails; what was done until then counts.
        with contextlib.suppress(BaseException):
            program.load(typical)()

    return rehearsal.pages(start, NOBODY)


def _paper(data: bytes) -> int:
    fd = os.memfd_create("isolauncher-report", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as f:
        f.write(data)
    return fd


def _serve(
    channel: socket.socket,
    own_namespace: int,
    expected: tuple[int, ...],
    linux: kernel.Kernel,
) -> init.Stem:
    """Fork an init for every two descriptors that come; returns in a stem."""
    while True:
        data, fds = _asked(channel)
        if not data or len(fds) != 2:
            os._exit(0)
        try:
            # Its own descriptors are those that are too many just now.
            state.prove_fit((*expected, *fds))
            linux.unshare(kernel.CLONE_NEWPID)
            pid = kernel.fork()
        except (IsolauncherError, OSError) as e:
            # Still ours: an unshare that failed changed nothing, one that succeeded
            # is taken back below before anything else is forked.
            text = e.message if isinstance(e, IsolauncherError) else f"fork: {e}"
            channel.send(b"!" + text.encode("utf-8", "replace")[:2000])
            wire.close_all(fds)
            linux.setns(own_namespace, kernel.CLONE_NEWPID)
            continue
        if pid == 0:
            channel.close()
            os.close(own_namespace)
            of_init, of_stem = (socket.socket(fileno=fd) for fd in fds)
            ahead, own_net = data[:1] == b"a", data[1:] == b"n"
            return init.main(of_init, of_stem, linux, own_net=own_net, ahead=ahead)
        linux.setns(own_namespace, kernel.CLONE_NEWPID)
        wire.close_all(fds)
        channel.send(b"%d" % pid)


def _asked(channel: socket.socket, limit: int = 16) -> tuple[bytes, list[int]]:
    """A message and its descriptors. (socket.recv_fds imports a module each time.)"""
    space = socket.CMSG_SPACE(2 * _FD)
    data, told, _, _ = channel.recvmsg(limit, space, socket.MSG_CMSG_CLOEXEC)
    rights = b"".join(fds for _, _, fds in told)
    return data, [
        int.from_bytes(rights[at : at + _FD], sys.byteorder)
        for at in range(0, len(rights), _FD)
    ]


# -------------------------------------------------------------------- in the stem


def _live(start: plan.Start, world: World, until: int) -> str:
    """Be a start like this one as far as that goes without its words."""
    environment = dict(start.environment)
    kind, _, shown, why = _resolve(start, environment)
    if kind != "python" or why or start.tier == "exec":
        return why or "it is no program of Python's"
    told = handover.Start(
        kind="script",
        program=shown,
        arguments=(),
        environment=environment,
        cwd=stem.enter(start.cwd),
    )
    try:
        handover.run(told, world)
    except handover.Fresh as e:
        return str(e)
    return warm.warm(told, world, until)


def _hand_over(
    channel: socket.socket,
    start: plan.Start,
    cwd: str,
    world: World,
    touch: Callable[[int], None],
) -> program.Prepared:
    """Sealed: become a cold start's twin, or another program; verified: "go"."""
    try:
        environment = dict(start.environment)
        kind, path, shown, why = _resolve(start, environment)
        arguments = start.argv[1:]

        def look_again() -> None:
            # Of its file the daemon knows that it is the same.
            if stem.enter(start.cwd) != cwd or _shown(start, path) != shown:
                raise stem.changed()

        if kind == "executable":
            argv = [start.argv[0], *arguments]
            _execute(channel, look_again, path, argv, environment, why)
        if why or start.tier == "exec":
            begin = [plan.PYTHON, "-m"]
            if kind == "python":
                line = program.first_line(path)
                begin = program.fresh_start(line, environment.get("PATH", ""))
            argv = [*begin, shown, *arguments]
            _execute(channel, look_again, begin[0], argv, environment, why)
        told = handover.Start(
            kind="module" if kind == "module" else "script",
            program=shown,
            arguments=arguments,
            environment=environment,
            cwd=cwd,
        )
        try:
            handover.run(told, world)
            prepared = program.prepare(told, world)
        except handover.Fresh as e:
            words = ["-m", shown] if kind == "module" else [shown]
            argv = [plan.PYTHON, *words, *arguments]
            _execute(channel, look_again, plan.PYTHON, argv, environment, str(e))

        def again() -> None:
            nonlocal prepared
            try:
                handover.again(told, world)
                prepared = program.prepare(told, world, prepared)
            except handover.Fresh:
                raise stem.changed() from None

        said = [shown, *arguments]
        stem.await_go(channel, look_again, again, program=said, tier="fork", warm=touch)
        channel.close()
    except BaseException as e:
        stem.give_up(channel, e)
    return prepared


def _resolve(
    start: plan.Start, environment: Mapping[str, str]
) -> tuple[str, str, str, str]:
    """(python|module|executable, path, name for argv[0], why it must be exec'ed)."""
    if start.program_kind == "module":
        return "module", "", start.argv[0], ""
    if start.program_kind == "name":
        path = program.resolve(start.argv[0], environment.get("PATH", ""))
        shown = path
    else:
        path = start.path
        shown = _shown(start, path)
    if program.classify(path) == "executable":
        return "executable", path, shown, ""
    why = "" if start.tier == "exec" else program.line_reason(program.first_line(path))
    return "python", path, shown, why or ""


def _shown(start: plan.Start, path: str) -> str:
    """As it was typed, where that leads to the program inside, too."""
    typed = start.argv[0]
    if start.program_kind != "file" or typed == path:
        return typed
    try:
        return typed if os.path.samefile(typed, path) else path
    except OSError:
        return path


def _execute(
    channel: socket.socket,
    look: Callable[[], None],
    path: str,
    argv: list[str],
    environment: dict[str, str],
    why: str,
) -> NoReturn:
    stem.await_go(channel, look, program=argv, tier="exec", why=why)
    stem.execute(channel, path, argv, environment, signals.for_exec)
