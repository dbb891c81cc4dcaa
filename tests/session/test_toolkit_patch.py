# SPDX-License-Identifier: GPL-3.0-or-later
"""The patch for sugar-toolkit-gtk3, on the toolkit that Debian has."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.daemons import TOP
from support.powers import installed, need

PATCH = TOP / "integration/sugar/patches/sugar-toolkit-gtk3-isolauncher.patch"
INSTALLED = Path("/usr/lib/python3/dist-packages/sugar3/activity/activityfactory.py")
TRY = """
import json, sys, types
import dbus
class Bus:
    def __init__(self): self.calls, self.heard, self.removed = [], None, 0
    def add_signal_receiver(self, heard, *about, **how):
        self.heard = heard
        return self
    def remove(self): self.removed += 1
    def call_async(self, *words, timeout): self.calls.append(words)
bus = Bus()
dbus.SessionBus = lambda: bus
import activityfactory as factory
factory.is_isolated = lambda: sys.argv[2] == "installed"
bundle = types.SimpleNamespace(
    get_path=lambda: "/b", get_command=lambda: sys.argv[1],
    get_bundle_id=lambda: "org.example.A")
said = {"command": factory.get_command(bundle, "a1", "o", "u", True)}
if sys.argv[2] == "installed":
    failed = []
    for way in ("ends", "refused"):
        log = open("log-" + way, "w")
        one = types.SimpleNamespace(
            _bundle=bundle, _no_reply_handler=None,
            _create_error_handler=lambda error: failed.append(str(error)),
            _handle=types.SimpleNamespace(
                activity_id="a1", object_id="o", uri=None, invited=False))
        environment = {"A": "b", "SUGAR_APISOCKET_KEY": "k"}
        factory.ActivityCreationHandler._launch_isolated(one, environment, log)
        if way == "ends":
            bus.heard(3, 0, "", "/x/another")
            bus.heard(3, 0, "why", "/x/a1")
        else:
            bus.calls[-1][7](dbus.DBusException("nobody is there"))
        said[way] = open("log-" + way).read()
    path, options, fds = bus.calls[0][5]
    said |= {"path": path, "options": options, "fds": sorted(fds), "failed": failed,
             "method": bus.calls[0][3], "removed": bus.removed}
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(installed("sugar3.activity.activityfactory", "dbus"))
    top = tmp_path_factory.mktemp("toolkit")
    place = top / "src/sugar3/activity"
    place.mkdir(parents=True)
    shutil.copy(INSTALLED, place)
    subprocess.run(["patch", "-sp1", "-i", str(PATCH)], cwd=top, check=True)
    (place / "try.py").write_text(TRY)
    return place


def said(patched: Path, command: str, installed: str) -> Any:
    done = subprocess.run(
        ["/usr/bin/python3", "-W", "ignore", "try.py", command, installed],
        cwd=patched,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def test_without_isolauncher_the_toolkit_is_as_before(patched: Path) -> None:
    words = "-b org.example.A -a a1 -o o -u u -i".split()
    found = said(patched, "sugar-activity3 a.A", "absent")
    assert found == {"command": ["sugar-activity3", "a.A", *words]}


@pytest.mark.parametrize("command", ["sugar-activity3 a.A", "sugar-activity-web"])
def test_with_it_everything_goes_through_it(patched: Path, command: str) -> None:
    found = said(patched, command, "installed")
    words = "/usr/bin/isolauncher launch -a a1 -o o -u u -i /b/".split()
    assert found["command"] == words
    assert (found["method"], found["path"]) == ("Launch", "/b/")
    assert found["fds"] == ["stderr", "stdout"]
    key = {"SUGAR_APISOCKET_KEY": "k"} if "web" in command else {}
    assert found["options"] == {
        "activity-id": "a1",
        "invited": False,
        "object-id": "o",
        "environment": {"A": "b", **key},
    }
    assert found["ends"] == "Exited with status 3 activity_id a1\nwhy\n"
    assert found["refused"] == "isolauncher: nobody is there\n"
    assert found["failed"] == ["Exited with status 3", "nobody is there"]
    assert found["removed"] == 2
