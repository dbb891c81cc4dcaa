# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons of the benchmark's own, each in a child, with directories of its own."""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import client, kernel, wire
from ..config import Config, DaemonLimits, RoomsAhead
from ..errors import COULD_NOT_LAUNCH, DaemonError, HostError, IsolauncherError
from ..paths import vendor_policies
from . import scripts

PATIENCE_S = 60
# All get the same one, so that no interpreter pays for another locale.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_LIMITS = DaemonLimits(activities=4000, connections=4000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """One that serves; ``pid`` is its process."""

    socket: str
    pid: int


def need_root() -> None:
    if os.geteuid() != 0:
        raise HostError(
            "the benchmark starts a daemon of its own, which is for root",
            code="bench-not-root",
            hint="sudo isolauncher bench --quick",
        )


def config(above: Path, name: str, ahead: int = RoomsAhead().ahead) -> Config:
    """Directories below ``above``, this checkout's policies and the lists' own."""
    top = above / name
    (top / "policies").mkdir(parents=True)
    scripts.write_policies(top / "policies")
    return Config(
        rooms=RoomsAhead(ahead=ahead),
        limits=_LIMITS,
        socket=str(top / "run" / "socket"),
        run_dir=str(top / "run"),
        state_dir=str(top / "state"),
        policy_dirs=(vendor_policies(), str(top / "policies")),
    )


@contextmanager
def environment() -> Iterator[None]:
    """Every command started here, and their daemons, end up with this one."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.environ["ISOLAUNCHER_LOG"] = "stderr"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def own(above: Path, name: str, ahead: int = RoomsAhead().ahead) -> Iterator[Own]:
    """A daemon as it is set up when nobody says otherwise, but for ``ahead``."""
    set_up = config(above, name, ahead)
    log = above / name / "log"
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _be_daemon(set_up, log, parent)
    try:
        _wait_for(child, set_up.socket, log)
        yield Own(socket=set_up.socket, pid=child)
    finally:
        _end(child)


def wait_for_rest(where: str) -> None:
    """Until a daemon neither launches nor cleans up nor prepares anything."""
    _wait(where, lambda stats: bool(stats["activities"]))


def wait_until_filled(where: str) -> None:
    """The same, whatever goes on running."""
    _wait(where, lambda stats: False)


def _wait(where: str, busy: Callable[[Mapping[str, object]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stats = ask_stats(where)
        rooms = stats["rooms"]
        assert isinstance(rooms, dict)  # noqa: S101 (for the type checker)
        if not (rooms["wanted"] or rooms["ending"] or busy(stats)):
            # What the kernel still does for those that have just ended.
            time.sleep(0.02)
            return
        time.sleep(0.005)
    raise DaemonError("the daemon does not come to rest", code="bench-timeout")


def ask_stats(where: str) -> Mapping[str, object]:
    with client.connect(where) as sock:
        wire.send(sock, {"version": wire.VERSION, "verb": "stats"}, ())
        stats = wire.recv(sock).fields["stats"]
    assert isinstance(stats, dict)  # noqa: S101 (for the type checker)
    return stats


def zygote(where: str, name: str) -> int | None:
    """The pid of the one of a set, if there is one."""
    zygotes = ask_stats(where)["zygotes"]
    assert isinstance(zygotes, dict)  # noqa: S101 (for the type checker)
    found = zygotes.get(name)
    return int(found["pid"]) if isinstance(found, dict) else None


def keep_only(*fds: int) -> None:
    """In a forked child: of the parent's descriptors no others stay open.

    Whoever waits for the end of a pipe must not wait for the child to end.
    """
    # The parent's files are no garbage here: closed as such, each would close whatever
    # has its number by then.
    gc.freeze()
    kernel.Linux().close_except(frozenset(fds))


def _be_daemon(config: Config, log: Path, parent: int) -> None:
    """Never returns."""
    status = COULD_NOT_LAUNCH
    try:
        # A group of its own: ^C is ours, and ends it in order.
        os.setsid()
        # The benchmark's own ways to end are none of the daemon's.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        keep_only(0, 1, 2)
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        # Killed, the benchmark cannot end it any more.
        kernel.end_with(parent, signal.SIGTERM)
        from .. import daemon

        status = daemon.main(config)
    except IsolauncherError as error:
        os.write(2, f"{error.line()}\n".encode())
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _wait_for(child: int, path: str, log: Path) -> None:
    """Until it accepts connections, or has ended."""
    deadline = time.monotonic() + PATIENCE_S
    pidfd = os.pidfd_open(child)
    try:
        while not _listens(path):
            # The end of the child is an event; that somebody listens is not.
            ended, _, _ = select.select([pidfd], [], [], 0.01)
            if ended or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()
                raise DaemonError(
                    "the daemon to be measured did not start: "
                    + (said[-1] if said else "it said nothing"),
                    code="bench-no-daemon",
                )
    finally:
        os.close(pidfd)


def _listens(path: str) -> bool:
    try:
        client.connect(path).close()
    except DaemonError:
        return False
    return True


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGTERM)
    except ProcessLookupError:
        return
    os.waitpid(child, 0)
