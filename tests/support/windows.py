# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures activities from launch to their window: isolated against cold, in turns.

    sudo .venv/bin/python3 tests/support/windows.py [--pairs N] [BUNDLE…]

Both are started by a process that runs already, as Sugar's shell does: the cold one by
fork and exec of what the shell would exec, the isolated one by a call of
isolauncher-session. The end is the X server's word that the window is mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests")]

from support.daemons import ROOMS_AHEAD, service  # noqa: E402
from support.desktop import Desktop, desktop  # noqa: E402
from support.sugar import PATIENCE_S, Session, session  # noqa: E402

NAMES = ("Calculate", "Terminal", "Log", "Memorize")

# Waits for the names of bundles, says when it has asked for each.
ASKER = """
import dbus, sys, time
bus = dbus.SessionBus()
place = bus.get_object("org.sugarlabs.IsoLauncher1", "/org/sugarlabs/IsoLauncher1")
launch = place.get_dbus_method("Launch", "org.sugarlabs.IsoLauncher1.Manager")
for line in sys.stdin:
    bundle, activity = line.split()
    options = dbus.Dictionary({"activity-id": activity}, signature="sv")
    print(time.monotonic_ns(), flush=True)
    launch(bundle, options, dbus.Dictionary({}, signature="sh"))
    print("launched", flush=True)
"""


@contextmanager
def asker(sugar: Session) -> Iterator[subprocess.Popen[bytes]]:
    process = sugar.desktop.start(
        *("/usr/bin/python3", "-c", ASKER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=PATIENCE_S)


def isolated(sugar: Session, asks: subprocess.Popen[bytes], name: str, id: str) -> int:
    """Nanoseconds from the call to the mapped window."""
    assert asks.stdin is not None
    assert asks.stdout is not None
    with sugar.desktop.watch() as watch:
        asks.stdin.write(f"org.laptop.{name} {id}\n".encode())
        asks.stdin.flush()
        start = int(asks.stdout.readline())
        window = watch.wait(lambda w: w.sugar_activity == id, alive=asks)
        assert asks.stdout.readline() == b"launched\n"
    sugar.stop(id)
    return window.at_ns - start


def cold(sugar: Session, name: str, id: str) -> int:
    made: Desktop = sugar.desktop
    words, place = made.activity(name, id)
    root = sugar.profile / f"org.laptop.{name}"
    for part in ("data", "instance", "tmp"):
        (root / part).mkdir(parents=True, exist_ok=True)
        os.chown(root / part, made.uid, made.uid)
    os.chown(root, made.uid, made.uid)
    environment = {
        "SUGAR_BUNDLE_PATH": str(place),
        "SUGAR_BUNDLE_ID": f"org.laptop.{name}",
        "SUGAR_ACTIVITY_ROOT": str(root),
        "PATH": f"{place}/bin:{made.environment['PATH']}",
    }
    with made.watch() as watch:
        start = time.monotonic_ns()
        process = made.start(*words, environment=environment, cwd=place)
        window = watch.wait(lambda w: w.sugar_activity == id, alive=process)
    process.kill()
    process.wait(PATIENCE_S)
    return window.at_ns - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*", default=NAMES)
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with desktop() as made, service(config=ROOMS_AHEAD) as daemon:
        logs = made.home / ".sugar/default/logs"
        logs.mkdir(parents=True)
        for path in (logs, logs.parent, logs.parent.parent):
            os.chown(path, made.uid, made.uid)
        sugar = session(made, daemon)
        with asker(sugar) as asks:
            for name in args.names:
                # For caches, the session's services, and a room from the third on.
                cold(sugar, name, f"first{name}")
                for number in range(2):
                    isolated(sugar, asks, name, f"warm{name}{number}")
                for number in range(args.pairs):
                    turns = found.setdefault(name, {"cold": [], "isolated": []})
                    pair = f"{name}{number}"
                    turns["cold"].append(cold(sugar, name, f"c{pair}") / 1e6)
                    taken = isolated(sugar, asks, name, f"i{pair}")
                    turns["isolated"].append(taken / 1e6)
    if args.json:
        print(json.dumps(found))
        return
    for name, turns in found.items():
        cold_ms, isolated_ms = (statistics.median(turns[k]) for k in turns)
        spans = [
            f"{k} {statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})"
            for k, v in turns.items()
        ]
        print(f"{name}: {', '.join(spans)} ms, {cold_ms / isolated_ms:.2f} x")


if __name__ == "__main__":
    main()
