# SPDX-License-Identifier: GPL-3.0-or-later
"""The session that other tests run in works, and nothing of it stays."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from support import powers
from support.desktop import SUGAR_ACTIVITIES, UID, Desktop, desktop, missing

HERE = Path(__file__).resolve().parent

ASK_THE_DATASTORE = """
import dbus
name = "org.laptop.sugar.DataStore"
there = dbus.SessionBus().get_object(name, "/" + name.replace(".", "/"))
print(there.find({}, ["uid"], dbus_interface=name)[1])
"""


def test_a_service_of_the_bus_answers_the_session_s_person(session: Desktop) -> None:
    powers.need(powers.program("datastore-service"))
    assert session.run("/usr/bin/python3", "-c", ASK_THE_DATASTORE) == "0\n"
    person = UID if os.geteuid() == 0 else os.geteuid()
    assert session.run("id", "-u") == f"{person}\n"


def test_the_next_window_is_told_with_its_names(session: Desktop) -> None:
    powers.need(None if SUGAR_ACTIVITIES.exists() else "Sugar is not installed")
    words, place = session.activity("Log", "a" * 40)
    with session.watch() as watch:
        program = session.start(*words, cwd=place)
        window = watch.wait(alive=program)
    assert window.title == "Log Activity"
    assert (window.sugar_bundle, window.sugar_activity) == ("org.laptop.Log", "a" * 40)


def below(top: Path) -> list[str]:
    """Processes whose environment names ``top``, by command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if bytes(top) in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_nothing_of_a_session_is_left_when_it_ends() -> None:
    powers.need(missing(), powers.program("datastore-service"))
    mounts = Path("/proc/self/mountinfo")
    before = mounts.read_text()
    with desktop() as made:
        made.run("/usr/bin/python3", "-c", ASK_THE_DATASTORE)
        made.start("sleep", "600")
        assert len(below(made.top)) > 3
    assert below(made.top) == []
    assert not made.top.exists()
    assert mounts.read_text() == before


def test_a_session_ends_with_who_started_it() -> None:
    powers.need(missing())
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from support.desktop import desktop\n"
        "with desktop() as made:\n"
        "    print(made.top, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(HERE)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    top = Path(process.stdout.readline().strip())
    supervisors = [
        os.pidfd_open(int(pid))
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children")
        .read_text()
        .split()
    ]
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(supervisors) == 1
    ended, _, _ = select.select(supervisors, [], [], 30)
    os.close(supervisors[0])
    assert ended
    assert below(top) == []
    # Only its directory: nobody is left who could take it away.
    subprocess.run(["rm", "-r", str(top)], check=True)
