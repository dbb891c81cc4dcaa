# SPDX-License-Identifier: GPL-3.0-or-later
"""What Sugar's shell does about several activities, and what it asks of each.

An activity of which there may be one, in a shell that has been told how many may be
open; it says what it hears from the shell, and answers what it has been told to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import bundles
from support.clicks import Clicks, in_pictures, next_window
from support.desktop import PYTHON
from support.shell import until
from support.sugar import Session

from isolauncher.windows import Window

# With a daemon and zygotes started anew in one of them.
pytestmark = pytest.mark.timeout(180)

SINGLE = "org.laptop.Single"
GUEST = "org.laptop.Guest"
POLICY = f"""
version = 1
extends = "sugar"

[match]
bundle-id = ["{GUEST}"]

[bus]
session-own = ["...", "org.freedesktop.Telepathy.Client.{GUEST}"]
"""
CLIENT = "org.freedesktop.Telepathy.Client"
HANDLE = (
    *(PYTHON, "-W", "ignore", "-c"),
    """
import dbus, sys
name, what = sys.argv[1:]
client = "org.freedesktop.Telepathy.Client.Handler"
handler = dbus.SessionBus().get_object(name, "/" + name.replace(".", "/"))
if what == "filters":
    print(handler.Get(client, "HandlerChannelFilter",
                      dbus_interface="org.freedesktop.DBus.Properties"))
else:
    channel = "org.freedesktop.Telepathy.Channel"
    about = {f"{channel}.ChannelType": f"{channel}.Type.Text",
             f"{channel}.TargetHandleType": dbus.UInt32(1)}
    handler.HandleChannels(
        dbus.ObjectPath("/account"), dbus.ObjectPath("/connection"),
        [(dbus.ObjectPath("/channel"), dbus.Dictionary(about, signature="sv"))],
        dbus.Array([], signature="o"), dbus.UInt64(0),
        dbus.Dictionary({}, signature="sv"), dbus_interface=client)
""",
)
CALCULATE = "org.laptop.Calculate"
MOST_WINDOWS = 2
"""The Journal's is one of them, and Sugar lets one more be opened than it says."""

TELL_KEY = """#!/usr/bin/python3
import os
print(sorted(name for name in os.environ if "APISOCKET" in name), flush=True)
"""
KEEPS = """
version = 1
extends = "sugar"

[match]
bundle-id = ["{id}"]

[environment]
keep = ["...", "SUGAR_APISOCKET_KEY", "SUGAR_APISOCKET_PORT"]
"""
WEB = {
    "a web activity whose policy keeps it": ("WebKept", True),
    "a web activity under the shipped policy": ("Web", False),
    "another under a policy that keeps it": ("OtherKept", True),
}
"""Who is offered the key of the shell's socket: (bundle, does its policy keep it)."""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="55" height="55">'
    '<circle cx="27" cy="27" r="20" fill="#ff0000"/></svg>'
)
ACTIVITY = """
import json, os
from gi.repository import Gtk
from sugar3.activity import activity

class Single(activity.Activity):
    def __init__(self, handle):
        super().__init__(handle)
        self.connect("notify::active", self.told)
        label = Gtk.Label(label="there may be one of me")
        self.set_canvas(label)
        label.show()

    def say(self, *words):
        print("SAID", *words, flush=True)

    def told(self, *_):
        self.say("active", self.props.active)

    def get_document_path(self, done, failed):
        root = activity.get_activity_root()
        with open(root + "/data/asked") as file:
            name = json.load(file)
        own = root + "/instance/document.txt"
        with open(own, "w") as file:
            file.write("what it has made")
        if not os.path.lexists(root + "/instance/link.txt"):
            os.symlink(name, root + "/instance/link.txt")
        answer = root + "/instance/" + name if name.endswith(".txt") else name
        self.say("document", answer)
        done(answer)
"""
LOOKS = """
import json, os
from gi.repository import GLib
from jarabe.desktop import homewindow
from jarabe.journal import misc
from jarabe.model import bundleregistry, shell

def document(window):
    display = getattr(window, "_source_display", None)
    return display and display._file_path

def look():
    alert = homewindow._instance and homewindow._instance._alert
    shown = [document(w) for a in shell.get_model() for w in a._shell_windows]
    seen = {"alert": alert and alert.props.msg, "shown": shown}
    place = os.path.expanduser("~/seen")
    with open(place + ".new", "w") as file:
        json.dump(seen, file)
    os.rename(place + ".new", place)
    invited = os.path.expanduser("~/invite")
    if os.path.exists(invited):
        os.unlink(invited)
        # As jarabe.model.invites has it.
        bundle = bundleregistry.get_registry().get_bundle("org.laptop.Single")
        misc.launch(bundle, invited=True)
    return True

def setup(tray):
    GLib.timeout_add(100, look)
"""
"""An extension of the shell's: it tells an alert's words and the file in the window of
sources, and takes up an invitation."""


@dataclass
class Together(Clicks):
    def open(self, name: str) -> Window:
        """And what comes up is in front: a key before that leads away for nothing."""
        window = super().open(name)
        self.shell.settled()
        return window

    def seen(self, what: str) -> object:
        with suppress(OSError):
            found: dict[str, object] = json.loads(
                (self.session.desktop.home / "seen").read_text()
            )
            return found[what]
        return None

    def said(self) -> list[str]:
        lines = self.newest_log(SINGLE).read_text().splitlines()
        return [line[5:] for line in lines if line.startswith("SAID ")]

    def alert(self, words: str) -> None:
        until(lambda: words in str(self.seen("alert")), f"an alert: {words}")

    def dismiss(self) -> None:
        """The alert's one button has the focus of the keyboard."""
        self.shell.settled()
        self.shell.click(1120, 94)
        until(lambda: self.seen("alert") is None, "no alert")

    def running(self, bundle_id: str) -> int:
        rows = self.session.running()
        return len(
            [
                row
                for row in rows
                if (row["bundle_id"], row["state"]) == (bundle_id, "running")
            ]
        )

    def close(self, window: Window) -> None:
        self.shell.press(window, "alt+Escape")
        self.ended(window.sugar_activity)
        # What is in front then is the shell's choice, and may be yet to come.
        self.shell.settled()


def install(place: Path) -> None:
    """All of them, where the shell looks."""
    activities = place / "sugar/activities"
    activities.mkdir(parents=True)
    for id, more in ((SINGLE, "single_instance = yes\n"), (GUEST, "")):
        bundle = bundles.make(place, id=id, exec="sugar-activity3 single.Single")
        (bundle / "single.py").write_text(ACTIVITY)
        (bundle / "activity/activity-test.svg").write_text(ICON)
        info = bundle / "activity/activity.info"
        text = info.read_text().replace("A bundle for tests", id)
        info.write_text(text + more)
        bundle.rename(activities / f"{id}.activity")
    for name, _ in WEB.values():
        id = f"org.laptop.{name}"
        exec = "sugar-activity-web" if "Web" in name else "sugar-activity-other"
        bundle = bundles.make(place, id=id, exec=exec, programs={exec: TELL_KEY})
        (bundle / "activity/activity-test.svg").write_text(ICON)
        bundle.rename(activities / f"{id}.activity")


def allow(made: Session) -> None:
    """Policies for some of them, and how many windows the shell may have open."""
    made.service.policy("guest", POLICY)
    for name, keeps in WEB.values():
        if keeps:
            made.service.policy(name.lower(), KEEPS.format(id=f"org.laptop.{name}"))
    key = ("org.sugarlabs", "maximum-number-of-open-activities")
    made.desktop.run("gsettings", "set", *key, str(MOST_WINDOWS))


@pytest.fixture(scope="module")
def together(shell_session: Callable[..., Clicks]) -> Iterator[Together]:
    with bundles.system_directory() as place:
        install(place)
        begun = shell_session(
            settings="[shell]\nwithout-service = 'unisolated'\n",
            before=allow,
            environment={"XDG_DATA_DIRS": f"{place}:/usr/local/share:/usr/share"},
            extensions={"looks.py": LOOKS},
        )
        yield Together(shell=begun.shell, session=begun.session)


@pytest.fixture(autouse=True)
def picture(together: Together, pictures: Path) -> Iterator[None]:
    with in_pictures(together.shell, pictures / "together-last.png"):
        yield
    together.stop_all()
    for path in together.shell.logs.glob(f"{SINGLE}-*.log"):
        print(f"{path.name}: {path.read_text(errors='replace')}")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    named = os.environ.get("ISOLAUNCHER_SCREENSHOTS")
    return Path(named) if named else tmp_path


def doctor(together: Together) -> list[dict[str, str]]:
    """What it finds in this session."""
    words = ("sh", "-c", "isolauncher doctor --json || true")
    found: list[dict[str, str]] = json.loads(together.shell.run(*words))["findings"]
    return found


@pytest.mark.long
def test_of_a_single_instance_the_shell_opens_one_and_of_all_as_many_as_it_may(
    together: Together, pictures: Path
) -> None:
    single = together.open(SINGLE)
    assert single.sugar_bundle == SINGLE
    together.confined(single, "sugar")
    # It hears from the shell whether it is in front.
    until(lambda: together.said()[-1:] == ["active True"], "that it is in front")
    said = {one["what"]: one for one in doctor(together)}
    assert said["sugar extension"]["state"] == "ok"
    shell_pid = together.shell.process.pid
    assert said["sugar shell"]["detail"] == f"runs as process {shell_pid}"
    assert said["sugar windows"]["detail"] == "every activity's is confined"
    together.shell.click(*together.find(SINGLE))
    together.alert("is already running. Please stop")
    together.shell.screenshot(pictures / "together-single.png")
    together.dismiss()
    assert together.running(SINGLE) == 1

    other = together.open("Calculate")
    until(lambda: together.said()[-1:] == ["active False"], "that another is")
    together.shell.click(*together.find("Calculate"))
    together.alert("The maximum number of open activities has been reached.")
    together.shell.screenshot(pictures / "together-most.png")
    together.dismiss()
    assert together.running(CALCULATE) == 1

    together.close(other)
    together.close(single)
    together.close(together.open(SINGLE))


def ask(together: Together, name: str) -> None:
    """What it shall say that its document is."""
    data = together.session.profile / SINGLE / "data"
    (data / "asked").write_text(json.dumps(name))
    os.chown(data / "asked", together.session.uid, together.session.uid)


def sources(together: Together, single: Window) -> Path:
    """Have the window of its sources opened; the file that is shown in it."""
    with together.shell.watch() as watch:
        together.shell.press(single, "alt+shift+v")
        window = watch.wait()
    until(lambda: together.seen("shown"), "the window of its sources")
    together.shell.settled()
    together.shell.xdotool("windowfocus", "--sync", window.number)
    (path,) = together.seen("shown")  # type: ignore[misc,attr-defined]
    return Path(path)


def close_sources(together: Together) -> None:
    together.shell.xdotool("key", "Escape")
    until(lambda: together.seen("shown") == [], "that the window is closed")


def test_the_shell_shows_and_deletes_nothing_but_a_copy_of_an_activity_s_document(
    together: Together, pictures: Path
) -> None:
    """Sugar's own deletes the person's file that an activity names."""
    precious = together.session.desktop.home / "precious"
    precious.write_text("what is nobody's business")
    os.chown(precious, together.session.uid, together.session.uid)
    single = together.open(SINGLE)
    place = together.session.profile / SINGLE / "instance" / single.sugar_activity
    # A path, then a link to it in its own directory.
    for name in (str(precious), "link.txt"):
        ask(together, name)
        assert sources(together, single).name == "single.py"
        close_sources(together)
        assert precious.read_text() == "what is nobody's business"
    assert together.said()[-1].endswith(f"/{SINGLE}/instance/link.txt")
    assert (place / "link.txt").readlink() == precious

    ask(together, "document.txt")
    copy = sources(together, single)
    together.shell.screenshot(pictures / "together-document.png")
    assert copy.name.endswith("-document.txt")
    assert copy.read_text() == "what it has made"
    assert copy.parent != place
    close_sources(together)
    assert not copy.exists()
    assert (place / "document.txt").exists()
    together.close(single)


# ------------------------------------------------------------------- alone or together


def test_who_is_invited_has_the_name_that_a_policy_grants_and_is_handed_the_channel(
    together: Together,
) -> None:
    """By Mission Control, whose part is the test's: there is nobody to invite."""
    client = f"{CLIENT}.{GUEST}"
    path = together.shell.bundle_path(GUEST)
    with together.shell.watch() as watch:
        process = together.session.isolauncher("launch", "-i", f"{path}/")
        together.shell.run("gdbus", "wait", "--session", "--timeout", "30", client)
        # It waits for its channel, and shows nothing before.
        filters = together.shell.run(*HANDLE, client, "filters")
        assert "org.freedesktop.Telepathy.Channel.Type.Text" in filters
        together.shell.run(*HANDLE, client, "handle")
        guest = next_window(watch)
    assert guest.sugar_bundle == GUEST
    together.confined(guest, "guest")
    id = guest.sugar_activity
    # As the shell asks when a friend is chosen in the frame: there is no connection.
    together.shell.run(
        *("gdbus", "call", "--session", "--dest", f"org.laptop.Activity{id}"),
        *("--object-path", f"/org/laptop/Activity/{id}"),
        *("--method", "org.laptop.Activity.InviteContact", "<'/'>", "<'a friend'>"),
    )
    together.close(guest)
    assert process.wait(30) == 0


def test_who_is_invited_where_no_policy_grants_it_ends_and_is_told_of(
    together: Together,
) -> None:
    """After the others: what the shell says of it stays in front, and moves."""
    before = len(list(together.shell.logs.glob(f"{SINGLE}-*.log")))
    log = together.shell.logs / f"{SINGLE}-{before + 1}.log"
    (together.session.desktop.home / "invite").touch()
    until(log.exists, "a launch")
    assert together.last_line(log).startswith("Exited with status 1, ")
    assert "in __init__\n    bus_name = dbus.service.BusName(" in log.read_text()


# ----------------------------------------------------------------- the shell's socket


@pytest.mark.parametrize("what", WEB)
def test_the_key_of_the_shell_s_socket_is_a_web_activity_s_whose_policy_keeps_it(
    together: Together, what: str
) -> None:
    """Last: for the shell these go on starting, and count as open."""
    name, keeps = WEB[what]
    together.shell.launch_bundle(f"org.laptop.{name}")
    log = together.shell.logs / f"org.laptop.{name}-1.log"
    until(log.exists, "a launch")
    assert together.last_line(log).startswith("Normal successful completion")
    given = ["SUGAR_APISOCKET_KEY", "SUGAR_APISOCKET_PORT"]
    has = keeps and "Web" in name
    assert log.read_text().splitlines()[0] == str(given if has else [])
