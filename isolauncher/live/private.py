# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon of our own, in a child, for policies that no running one serves.

It is the same daemon, with a socket, records and a ledger in a directory that goes with
it. It prepares no rooms: nobody comes a second time.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from .. import client, config, kernel, request
from ..errors import DaemonError
from ..serving import main
from . import places

PATIENCE_S = 30


@contextmanager
def serving(policy_dir: str | None) -> Iterator[str]:
    """The socket of a daemon that serves ``policy_dir`` beside the shipped policies."""
    with places.directory(places.RUN) as top, _daemon(top, policy_dir) as path:
        yield path


@contextmanager
def _daemon(top: str, policy_dir: str | None) -> Iterator[str]:
    path = f"{top}/run/socket"
    settings = replace(
        config.load(
            socket=path, state_dir=f"{top}/state", policy_dir=_absolute(policy_dir)
        ),
        rooms=config.RoomsAhead(ahead=0),
    )
    child = _start(settings, f"{top}/log")
    try:
        _await(path, child, f"{top}/log")
        yield path
    finally:
        _stop(child)


def give_back(top: str) -> None:
    """What a daemon of another run, which was killed, has left: as a successor of it.

    That one ends what still runs, and removes its cgroups and mounts.
    """
    if not os.path.isdir(f"{top}/run"):
        return
    with _daemon(top, None) as path:
        rows: list[dict[str, object]] = []
        for part in client.ask(request.encode(request.Ps()), path=path):
            found = part.get("activities")
            rows += found if isinstance(found, list) else []
        ids = tuple(str(row["id"]) for row in rows if row["state"] != "exited")
        if ids:
            stop = request.Stop(ids=ids, grace_ms=0)
            list(client.ask(request.encode(stop), path=path))


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _start(settings: config.Config, log: str) -> int:
    sys.stdout.flush()
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # Until the daemon has its own: test-policy's would be lost in its start.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.end_with(parent, signal.SIGTERM)
        # ^C at the terminal is for who started us; a signal of theirs ends it in order.
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, target in ((null, 0), (written, 1), (written, 2)):
            os.dup2(fd, target)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.environ["ISOLAUNCHER_LOG"] = "stderr"
        os.environ.pop("NOTIFY_SOCKET", None)
        status = main(settings)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _await(path: str, child: int, log: str) -> None:
    """Until it answers; DaemonError if it ends instead."""
    until = time.monotonic() + PATIENCE_S
    gone = os.pidfd_open(child)
    try:
        while True:
            try:
                client.connect(path).close()
                return
            except DaemonError as error:
                # It makes the socket when it is ready; nothing else tells.
                ended = bool(select.select([gone], [], [], 0.01)[0])
                if ended or time.monotonic() > until:
                    raise DaemonError(
                        f"no daemon of its own could be started: {_last(log)}",
                        code="live-no-daemon",
                        hint="start one by hand, `isolauncher daemon`, and see why",
                    ) from error
    finally:
        os.close(gone)


def _last(log: str) -> str:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read().strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it says nothing"


def _stop(child: int) -> None:
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
