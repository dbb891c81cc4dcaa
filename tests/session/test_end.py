# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left when a person's session ends: of what ran in it, nothing."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from support import bundles
from support.daemons import Service, service
from support.desktop import desktop, missing
from support.peers import until
from support.powers import need, sandboxes
from support.sugar import profile, session

STUBBORN = """#!/usr/bin/python3
import os, signal
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
with open(os.environ["SUGAR_ACTIVITY_ROOT"] + "/instance/note", "w"):
    pass
while True:
    signal.pause()
"""


def bus_of(runtime: str) -> int:
    """The dbus-daemon that listens there."""
    wanted = f"--address=unix:path={runtime}/bus".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"dbus-daemon") and wanted in words:
            return int(path.parent.name)
    raise AssertionError(wanted)


def told_nobody(daemon: Service) -> None:
    """Be in a dead daemon's place until it is asked to stop something; say nothing."""
    daemon.socket.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as there:
        there.bind(str(daemon.socket))
        daemon.socket.chmod(0o666)
        there.listen()
        there.settimeout(30)
        asked = b""
        while b"session-ended" not in asked:
            with there.accept()[0] as caller:
                asked = caller.recv(1 << 16)
    daemon.socket.unlink()


@pytest.mark.timeout(120)
def test_who_heeds_no_signal_ends_when_the_session_does_and_the_daemon_is_back() -> (
    None
):
    need(sandboxes())
    need(missing())
    with (
        bundles.system_directory() as place,
        desktop() as made,
        service() as daemon,
    ):
        profile(made)
        one = session(made, daemon)
        bundle = bundles.make(
            place, id="org.laptop.Stubborn", exec="stay", programs={"stay": STUBBORN}
        )
        launched = one.isolauncher("launch", "-a", "stubborn", str(bundle))
        instance = one.profile / "org.laptop.Stubborn/instance/stubborn"
        assert until((instance / "note").exists, seconds=40)
        (row,) = one.running()
        assert row["state"] == "running"

        daemon.stop(signal.SIGKILL)
        os.kill(bus_of(made.environment["XDG_RUNTIME_DIR"]), signal.SIGKILL)
        told_nobody(daemon)
        assert os.path.exists(f"/proc/{row['pid']}")
        daemon.start()
        assert until(lambda: not os.path.exists(f"/proc/{row['pid']}"), seconds=30)
        one.gone("stubborn")
        assert list(instance.parent.iterdir()) == []
        launched.wait(30)
        assert until(lambda: "session-ended" in daemon.log, seconds=20)
