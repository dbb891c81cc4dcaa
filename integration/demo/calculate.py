#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens Calculate in its sandbox, on a display of its own, and shows the report.

`make demo` runs this as root. A person, a display and a session bus exist for as long
as it takes; the daemon runs on what it has built in, with directories of its own. What
a person would see is saved as a picture.
"""

from __future__ import annotations

import json
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
sys.path.insert(0, str(TOP / "tests"))

from support.desktop import Desktop, desktop  # noqa: E402

BUNDLE = "org.laptop.Calculate"
PICTURE = TOP / "demo-calculate.png"
COMMANDS = TOP / ".venv/bin"
PATIENCE_S = 60

SCREENSHOT = """
import sys
import gi
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk
root = Gdk.get_default_root_window()
picture = Gdk.pixbuf_get_from_window(root, 0, 0, root.get_width(), root.get_height())
sys.stdout.buffer.write(picture.save_to_bufferv("png", [], [])[1])
"""


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


def show(session: Desktop, socket: Path, report: Path) -> int:
    """Launch, take the picture, have it end, print the report."""
    environment = {"ISOLAUNCHER_SOCKET": str(socket)}
    with session.watch() as watch:
        launching = session.start(
            *(str(COMMANDS / "isolauncher"), "launch", "-a", "demo"),
            *("--report", str(report), BUNDLE),
            environment=environment,
            stderr=None,
        )
        watch.wait(lambda window: window.sugar_bundle == BUNDLE, alive=launching)
    print("Calculate has opened its window.", flush=True)
    subprocess.run(
        [COMMANDS / "isolauncher", "ps"], env={**os.environ, **environment}, check=True
    )
    picture = subprocess.run(
        ["/usr/bin/python3", "-c", SCREENSHOT],
        env=session.environment,
        stdout=subprocess.PIPE,
        check=True,
        **session.person(),
    ).stdout
    PICTURE.write_bytes(picture)
    print(f"What it looks like is in {PICTURE}.", flush=True)
    subprocess.run(
        [COMMANDS / "isolauncher", "stop", "demo"],
        env={**os.environ, **environment},
        check=True,
    )
    launching.wait(PATIENCE_S)
    print("\nthe launch report")
    print(json.dumps(json.loads(report.read_text()), indent=2))
    return 0


def main() -> int:
    if os.geteuid() != 0:
        print("sandboxes are root's to make: sudo make demo", file=sys.stderr)
        return 1
    top = Path(tempfile.mkdtemp(prefix="isolauncher-demo-"))
    top.chmod(0o755)
    try:
        # The person first: whoever is to know the name must come after it.
        with desktop() as session, daemon(top) as socket:
            install_service(session, socket)
            return show(session, socket, session.home / "report.json")
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    sys.exit(main())
