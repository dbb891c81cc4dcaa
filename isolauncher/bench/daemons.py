# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons of the benchmark's own, each in a child, with directories of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import client, kernel, wire
from ..config import Config, DaemonLimits, RoomsAhead
from ..errors import DaemonError, HostError, IsolauncherError
from ..paths import vendor_policies
from . import forks, patience, scripts
from .patience import PATIENCE_S, readable

# All get the same one, so that no interpreter pays for another locale.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
PYTHON = "/usr/bin/python3"
REST_S = 0.03
"""What the kernel still does for those that have just ended is in nobody's time."""
QUIET_S = 0.1
"""A zygote that has spent no processor time for so long is not at work."""
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
    child = forks.fork(lambda: _be_daemon(set_up, log, parent), forks.complain)
    try:
        _wait_for(child, set_up.socket, log)
        if ahead:
            _wait_until_prepared(child)
        yield Own(socket=set_up.socket, pid=child)
    finally:
        try:
            # What runs when a daemon ends goes on, and nobody cleans up after it.
            with suppress(IsolauncherError, OSError):
                _wait(set_up.socket, _runs)
        finally:
            forks.end(child, PATIENCE_S)


def wait_for_rest(*sockets: str) -> None:
    """Until no daemon launches, cleans up or prepares anything, and a while longer."""
    for where in sockets:
        _wait(where, lambda stats: _runs(stats) + _prepares(stats))
    time.sleep(REST_S)


def wait_until_filled(where: str | None) -> None:
    """The same of one, whatever goes on running; None: of this machine's own."""
    _wait(where, _prepares)
    time.sleep(REST_S)


def _runs(stats: Mapping[str, object]) -> int:
    activities = stats["activities"]
    assert isinstance(activities, dict)  # noqa: S101 (for the type checker)
    return sum(activities.values())


def _prepares(stats: Mapping[str, object]) -> int:
    rooms = stats["rooms"]
    assert isinstance(rooms, dict)  # noqa: S101 (for the type checker)
    spares = stats["spares"]
    assert isinstance(spares, dict)  # noqa: S101
    return int(rooms["wanted"]) + int(rooms["ending"]) + int(spares["wanted"])


def _wait(where: str | None, busy: Callable[[Mapping[str, object]], int]) -> None:
    """Until none is left; a thousand take longer, but not without one less in time."""
    least, deadline = sys.maxsize, 0.0
    while left := busy(ask_stats(where)):
        if left < least:
            least, deadline = left, time.monotonic() + patience.PATIENCE_S
        if time.monotonic() > deadline:
            raise DaemonError("the daemon does not come to rest", code="bench-timeout")
        time.sleep(0.005)


def ask_stats(where: str | None) -> Mapping[str, object]:
    with client.connect(where) as sock:
        sock.settimeout(PATIENCE_S)
        wire.send(sock, {"version": wire.VERSION, "verb": "stats"}, ())
        fields = wire.recv(sock).fields
    if fields.get("event") == "refused":
        raise client.refusal(fields)
    stats = fields["stats"]
    assert isinstance(stats, dict)  # noqa: S101 (for the type checker)
    return stats


def zygote(where: str, name: str) -> int | None:
    """The pid of the one of a set, if there is one."""
    zygotes = ask_stats(where)["zygotes"]
    assert isinstance(zygotes, dict)  # noqa: S101 (for the type checker)
    found = zygotes.get(name)
    return int(found["pid"]) if isinstance(found, dict) else None


def _be_daemon(config: Config, log: Path, parent: int) -> int:
    # A session of its own: ^C is ours, and ends it in order.
    os.setsid()
    forks.keep_only(0, 1, 2)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    # Killed, the benchmark cannot end it any more.
    kernel.end_with(parent, signal.SIGTERM)
    from .. import serving

    return serving.main(config)


def _wait_for(child: int, path: str, log: Path) -> None:
    """Until it accepts connections, or has ended."""
    deadline = time.monotonic() + PATIENCE_S
    pidfd = os.pidfd_open(child)
    try:
        while not _listens(path):
            # The end of the child is an event; that somebody listens is not.
            if readable(pidfd, 0.01) or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()
                raise DaemonError(
                    "the daemon to be measured did not start: "
                    + (said[-1] if said else "it said nothing"),
                    code="bench-no-daemon",
                )
    finally:
        os.close(pidfd)


def _wait_until_prepared(child: int) -> None:
    """Until none of its zygotes is at work.

    They import and prepare for what they fork, for seconds, one after the other, on a
    processor that a launch wants.
    """
    deadline = time.monotonic() + PATIENCE_S
    before: list[str] = []
    while before != (spent := _spent(child)):
        if time.monotonic() > deadline:
            raise DaemonError("its zygotes do not come to rest", code="bench-timeout")
        before = spent
        time.sleep(QUIET_S)


def _spent(child: int) -> list[str]:
    """The processor time of each of its children (proc(5), schedstat)."""
    spent = []
    for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            spent.append(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return spent


def _listens(path: str) -> bool:
    try:
        client.connect(path).close()
    except DaemonError:
        return False
    return True
