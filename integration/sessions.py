# SPDX-License-Identifier: GPL-3.0-or-later
"""A session without hardware with isolauncher in it: for the demo, and to try it.

A person, a display, a session bus and a daemon with directories of its own, which all
end with it, whatever ends it but SIGKILL. ``isolauncher`` is this checkout's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP / "tests")]

from support import reach  # noqa: E402
from support.daemons import kill_recorded  # noqa: E402
from support.desktop import Desktop, adopt, desktop, end_all  # noqa: E402

COMMANDS = TOP / ".venv/bin"
PATIENCE_S = 60


@contextmanager
def daemon(top: Path) -> Iterator[Path]:
    """A daemon of root's; the path of its socket."""
    run, state, log = top / "run", top / "state", top / "log"
    for directory in (run, state):
        directory.mkdir(mode=0o755)
    words = ("--socket", str(run / "socket"), "--state-dir", str(state))
    with open(log, "w+") as said:
        process = subprocess.Popen(
            # Not even a session that is killed leaves it behind.
            (
                *("/usr/bin/setpriv", "--pdeathsig", "TERM"),
                *(COMMANDS / "isolauncher", "daemon", *words),
            ),
            env={"PATH": "/usr/bin:/bin", "ISOLAUNCHER_LOG": "stderr"},
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            while "sets-ready" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
                time.sleep(0.01)
            yield run / "socket"
        finally:
            try:
                stop_all(run / "socket")
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)
                kill_recorded(run)


def stop_all(socket: Path) -> None:
    """What runs would go on without the daemon."""

    def isolauncher(*words: str) -> str:
        done = subprocess.run(
            (COMMANDS / "isolauncher", *words),
            env={**os.environ, "ISOLAUNCHER_SOCKET": str(socket)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE_S,
        )
        return done.stdout

    # Nothing is said where there is no daemon.
    rows = json.loads(isolauncher("ps", "--json") or "[]")
    ids = [row["id"] for row in rows if row["state"] != "exited"]
    if ids:
        isolauncher("stop", "--grace", "1", *ids)


def install_service(session: Desktop, socket: Path) -> None:
    """Have the session bus start isolauncher-session when it is asked for."""
    place = session.home / ".local/share/dbus-1/services"
    command = f"/usr/bin/env ISOLAUNCHER_SOCKET={socket} {COMMANDS}/isolauncher-session"
    place.mkdir(parents=True)
    (place / "org.sugarlabs.IsoLauncher1.service").write_text(
        f"[D-BUS Service]\nName=org.sugarlabs.IsoLauncher1\nExec={command}\n"
    )
    for path in (place, *place.relative_to(session.home).parents):
        os.chown(session.home / path, session.uid, session.uid)
    session.run(
        *("dbus-send", "--session", "--type=method_call", "--print-reply"),
        *("--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ReloadConfig"),
    )


def heed_signals() -> None:
    """Whoever is told to end takes down what it has started, and is told only once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]

    def leave(number: int, frame: object) -> None:
        for one in heeded:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in heeded:
        signal.signal(number, leave)


@contextmanager
def session(*, nested: bool = False) -> Iterator[tuple[Desktop, Path]]:
    """The session, and the socket of its daemon. ``nested``: in a window on ours.

    At its end no process is left below this one.
    """
    heed_signals()
    adopt()
    if reach.closed(TOP) is not None:
        # Nobody but root could run what lies there.
        if not reach.own_mounts():
            raise SystemExit(f"{TOP} is closed to others, and stays so")
        reach.open_to_all(TOP)
    top = Path(tempfile.mkdtemp(prefix="isolauncher-session-"))
    top.chmod(0o755)
    try:
        # The person first: whoever is to know the name must come after it.
        with desktop(nested=nested) as made, daemon(top) as socket:
            install_service(made, socket)
            yield made, socket
    finally:
        end_all()
        shutil.rmtree(top)


def environment(made: Desktop, socket: Path) -> dict[str, str]:
    """Beside the desktop's own: for commands in this session."""
    path = f"{COMMANDS}:{made.environment['PATH']}"
    return {"ISOLAUNCHER_SOCKET": str(socket), "PATH": path}


def here(words: list[str]) -> list[str]:
    """Popen looks for a program in its own PATH, not in the one it gives."""
    first, *rest = words
    return [
        shutil.which(first, path=f"{COMMANDS}:{os.environ['PATH']}") or first,
        *rest,
    ]


__all__ = ["COMMANDS", "PATIENCE_S", "TOP", "Desktop", "environment", "here", "session"]
