# SPDX-License-Identifier: GPL-3.0-or-later
"""How a daemon is started: on a socket for everybody, or for one connection.

`main` serves a socket until SIGTERM; `start_standalone` serves one connection in a
child. What each needs of the machine is seen to before anybody is heard: root, enough
descriptors, directories that are root's alone, and a socket that no other serves.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import stat
from contextlib import suppress
from dataclasses import replace

from . import cleanup, descriptors, kernel, pool, wire
from .config import Config
from .daemon import Daemon
from .errors import COULD_NOT_LAUNCH, DaemonError, IsolauncherError, WireError
from .log import JOURNAL, Log

BACKLOG = 128
MAX_SOCKET_PATH = 107


def main(
    config: Config,
    *,
    command: pool.Command = pool.command,
    linux: kernel.Kernel | None = None,
) -> int:
    """``isolauncher daemon``: serve until SIGTERM or SIGINT."""
    if os.geteuid() != 0:
        raise DaemonError(
            "the daemon must be started by root",
            code="daemon-not-root",
            hint="sudo isolauncher daemon",
        )
    os.umask(0o022)
    kernel.title("isolauncher: daemon")
    # Six descriptors a sandbox and as many a connection: the usual soft limit of 1024
    # is for programs that use select(2).
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < descriptors.LEAST:
        raise DaemonError(
            f"the daemon may open no more than {most} descriptors",
            code="daemon-few-descriptors",
            hint=f"raise its RLIMIT_NOFILE to {descriptors.LEAST} or more",
        )
    _directories(config)
    listener = _listen(config.socket)
    try:
        asyncio.run(_serve(config, listener, command, linux))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(config.socket)
        listener.close()
    return 0


async def _serve(
    config: Config,
    listener: socket.socket,
    command: pool.Command,
    linux: kernel.Kernel | None,
) -> None:
    log = Log(journal=_journal(), lines=config.limits.log_lines)
    daemon = Daemon(config, log=log, command=command, linux=linux)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.closing.set)
    try:
        await cleanup.adopt(daemon)
        warm = asyncio.create_task(_warm(daemon))
        daemon.spawn(warm)
        daemon.prepare_uid_later()
        daemon.log.event("serving", socket=config.socket)
        await daemon.serve(listener)
    finally:
        await daemon.close()


def _journal() -> str:
    """Where the log goes; ISOLAUNCHER_LOG=stderr keeps it out of the journal."""
    return "" if os.environ.get("ISOLAUNCHER_LOG") == "stderr" else JOURNAL


async def _warm(daemon: Daemon) -> None:
    """Zygotes before the first launch; a failure is told again by that launch."""
    names = ("python", pool.BARE)
    results = await asyncio.gather(
        *(daemon.pool.zygote(name) for name in names), return_exceptions=True
    )
    for name, result in zip(names, results, strict=True):
        if isinstance(result, IsolauncherError):
            daemon.log.event("zygote-failed", set=name, message=result.message)
        elif isinstance(result, BaseException):
            raise result
    # What is there now stays: no launch shall wait while it is searched for garbage.
    gc.collect()
    gc.freeze()
    daemon.log.event("zygotes-ready")
    if daemon.config.rooms.ahead:
        await _warm_more(daemon)


async def _warm_more(daemon: Daemon) -> None:
    """The sets that policies name, one after the other; nobody waits for them yet."""
    for name in daemon.store.names():
        try:
            await daemon.pool.usable(daemon.store.get(name).preload.set)
        except IsolauncherError as e:
            # A policy with mistakes, or a set: the launch that wants it is told.
            daemon.log.event("zygote-failed", policy=name, message=e.message)
    daemon.log.event("sets-ready")


def _directories(config: Config) -> None:
    """Ours alone: what is in them decides who runs as what."""
    for path, mode in (
        (config.run_dir, 0o755),
        (f"{config.run_dir}/activities", 0o700),
        (config.state_dir, 0o700),
    ):
        # What is there is looked at before anything is made below it: else a link
        # would have us make directories where it leads.
        there = path
        while not os.path.lexists(there):
            there = os.path.dirname(os.path.abspath(there))
        _refuse_foreign(there)
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
        except OSError as e:
            raise DaemonError(
                f"the directory {path} cannot be made: {e.strerror}",
                code="directory-not-made",
                hint="name one on a file system that can be written",
            ) from e
        _refuse_foreign(path)


def _refuse_foreign(path: str) -> None:
    """The directory and every one above it: root's, and no link on the way."""
    part = os.path.abspath(path)
    while True:
        status = os.lstat(part)
        sticky = status.st_mode & stat.S_ISVTX and part != os.path.abspath(path)
        writable = status.st_mode & 0o022 and not sticky
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or writable:
            hint = "remove it, or have root own it with mode 0755"
            if status.st_mode & stat.S_ISVTX:
                hint = "make a directory of root's in it, and name one in that"
            raise DaemonError(
                f"{part} is not a directory that only root can write",
                code="directory-not-ours",
                hint=hint,
            )
        if part == "/":
            return
        part = os.path.dirname(part)


def _listen(path: str) -> socket.socket:
    """The socket, for everyone to connect: who asks is known from the kernel."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise DaemonError(
            f"{path[:64]!a}… is too long for a socket's path",
            code="socket-path-too-long",
            hint=f"it has at most {MAX_SOCKET_PATH} bytes (unix(7))",
        )
    _refuse_foreign(os.path.dirname(os.path.abspath(path)))
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != 0:
            raise DaemonError(
                f"{path} is there and is not a socket of root's",
                code="socket-replaced",
                hint="find out who put it there, and remove it",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial:
            # A daemon that is stopped, its queue full, would have us wait for ever.
            trial.setblocking(False)
            try:
                with suppress(BlockingIOError):
                    trial.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)  # left by a daemon that was killed
            else:
                raise DaemonError(
                    f"a daemon serves {path} already", code="daemon-running"
                )
    listener = socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    )
    try:
        listener.bind(path)
    except OSError as e:
        listener.close()
        raise DaemonError(
            f"the socket {path} cannot be made: {e.strerror}",
            code="socket-not-made",
            hint="name one on a file system that can be written",
        ) from e
    os.chmod(path, 0o666)  # noqa: S103 - everyone may ask; we see who it is
    listener.listen(BACKLOG)
    return listener


# ------------------------------------------------------------------------ standalone


def start_standalone(
    config: Config | None = None,
    *,
    command: pool.Command = pool.command,
    linux: kernel.Kernel | None = None,
) -> tuple[socket.socket, int]:
    """A daemon for one connection, in a child: (the client's end, its pid)."""
    ours, theirs = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    )
    child = os.fork()
    if child:
        theirs.close()
        return ours, child
    status = COULD_NOT_LAUNCH
    try:
        ours.close()
        _become_standalone()
        asyncio.run(_serve_one(config or Config(), theirs, command, linux))
        status = 0
    except IsolauncherError as e:
        _tell(theirs, e)
    except Exception as e:
        _tell(theirs, DaemonError(f"{type(e).__name__}: {e}", code="internal"))
    finally:
        os._exit(status)


def _become_standalone() -> None:
    """Out of the client's reach of the terminal: ^C is the client's to forward."""
    os.setsid()
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    kernel.title("isolauncher: daemon")


def _tell(sock: socket.socket, error: IsolauncherError) -> None:
    message = {"event": "refused", **error.as_fields()}
    with suppress(WireError, OSError):
        sock.setblocking(True)
        wire.send(sock, message)


def end_standalone(child: int, config: Config | None = None) -> None:
    """Wait for it; if it was killed, another one gives back what it could not."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        ours, another = start_standalone(config)
        ours.close()
        os.waitpid(another, 0)


async def _serve_one(
    config: Config,
    sock: socket.socket,
    command: pool.Command,
    linux: kernel.Kernel | None,
) -> None:
    _directories(config)
    config = replace(config, socket="")
    daemon = Daemon(config, log=Log(quiet=True), command=command, linux=linux)
    try:
        await cleanup.tidy(daemon)
        await daemon.connection(sock)
        running = [a for a in daemon.activities.values() if a.state != "exited"]
        for activity in running:
            await daemon.stop(activity, config.limits.grace_ms / 1000)
    finally:
        await daemon.close()
