#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command in a session without hardware, with isolauncher in it.

    sudo integration/demo/in_session.py -- isolauncher bench --windows

A person, a display, a session bus and a daemon with directories of its own exist for as
long as it takes. COMMAND runs as that person; ``isolauncher`` is this checkout's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests")]

from support import reach  # noqa: E402
from support.desktop import Desktop, desktop  # noqa: E402

COMMANDS = TOP / ".venv/bin"
PATIENCE_S = 60


@contextmanager
def daemon(top: Path) -> Iterator[Path]:
    """A daemon of root's; the path of its socket."""
    run, state, log = top / "run", top / "state", top / "log"
    for directory in (run, state):
        directory.mkdir(mode=0o755)
    words = ("--socket", str(run / "socket"), "--state-dir", str(state))
    reader, writer = os.pipe()
    with open(reader) as said, open(log, "w") as kept:
        process = subprocess.Popen(
            (COMMANDS / "isolauncher", "daemon", *words),
            env={"PATH": "/usr/bin:/bin", "ISOLAUNCHER_LOG": "stderr"},
            stdin=subprocess.DEVNULL,
            stderr=writer,
        )
        os.close(writer)
        try:
            for line in said:
                kept.write(line)
                if "sets-ready" in line:
                    break
            else:
                raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
            yield run / "socket"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


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


@contextmanager
def session() -> Iterator[tuple[Desktop, Path]]:
    """The session, and the socket of its daemon."""
    if reach.closed(TOP) is not None:
        # Nobody but root could run what lies there.
        if not reach.own_mounts():
            raise SystemExit(f"{TOP} is closed to others, and stays so")
        reach.open_to_all(TOP)
    top = Path(tempfile.mkdtemp(prefix="isolauncher-session-"))
    top.chmod(0o755)
    try:
        # The person first: whoever is to know the name must come after it.
        with desktop() as made, daemon(top) as socket:
            install_service(made, socket)
            yield made, socket
    finally:
        shutil.rmtree(top)


def main() -> int:
    if os.geteuid() != 0:
        print("sandboxes are root's to make: run this as root", file=sys.stderr)
        return 1
    words = [word for word in sys.argv[1:] if word != "--"]
    if not words:
        print(f"usage: {sys.argv[0]} -- COMMAND [ARG ...]", file=sys.stderr)
        return 2
    with session() as (made, socket):
        path = f"{COMMANDS}:{made.environment['PATH']}"
        environment = {"ISOLAUNCHER_SOCKET": str(socket), "PATH": path}
        if words[0] == "isolauncher":
            words[0] = str(COMMANDS / words[0])
        return made.start(
            *words, environment=environment, stdout=None, stderr=None
        ).wait()


if __name__ == "__main__":
    sys.exit(main())
