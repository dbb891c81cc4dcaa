# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own activities, unmodified, in their sandboxes on a real display and bus."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bundles import make, system_directory
from support.daemons import service
from support.desktop import SUGAR_ACTIVITIES, desktop, missing
from support.powers import need, sandboxes
from support.sugar import Session, profile, session

FOUR = (
    "org.laptop.Calculate",
    "org.laptop.Log",
    "org.laptop.Terminal",
    "org.laptop.Memorize",
)


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes())
    need(missing())
    with desktop() as made, service() as daemon:
        profile(made)
        yield session(made, daemon)


def test_all_four_open_their_window_as_four_uids_of_nobody(sugar: Session) -> None:
    with ExitStack() as stack:
        rows = []
        for number, bundle in enumerate(FOUR):
            launched = stack.enter_context(sugar.launch(bundle, f"four{number}"))
            assert launched.window is not None
            assert launched.window.sugar_bundle == bundle
            rows.append(launched.row)
        uids = {row["uid"] for row in rows}
        assert len(uids) == 4
        assert uids.isdisjoint({0, sugar.uid})
        for row in rows:
            status = Path(f"/proc/{row['pid']}/status").read_text()
            assert f"Uid:\t{row['uid']}" in status
            assert "NoNewPrivs:\t1" in status
            assert row["tier"] == "fork"


def test_a_calculation_is_in_the_journal_and_there_when_it_is_resumed(
    sugar: Session,
) -> None:
    with sugar.launch("org.laptop.Calculate", "calc1") as launched:
        launched.focus()
        sugar.xdotool("type", "--delay", "30", "6*7")
        sugar.xdotool("key", "Return")
        assert launched.press_stop() == 0
    (entry,) = [o for o in sugar.objects() if o["activity_id"] == "calc1"]
    data = Path(sugar.journal("get_filename", f'"{entry["uid"]}"')).read_text()
    assert "6*7;42" in data
    with sugar.launch("org.laptop.Calculate", "calc2", "-o", entry["uid"]) as launched:
        assert launched.press_stop() == 0
    again = Path(sugar.journal("get_filename", f'"{entry["uid"]}"')).read_text()
    assert "6*7;42" in again


def test_two_calculates_keep_apart_their_instance_and_share_their_data(
    sugar: Session,
) -> None:
    with sugar.launch("org.laptop.Calculate", "two1") as one:
        with sugar.launch("org.laptop.Calculate", "two2") as two:
            roots = [
                Path(f"/proc/{launched.row['pid']}/root{sugar.profile}")
                / "org.laptop.Calculate"
                for launched in (one, two)
            ]
            assert one.row["uid"] != two.row["uid"]
            for number, root in enumerate(roots):
                for name in ("data", "instance", "tmp"):
                    (root / name / f"note{number}").write_text("")
            for number, root in enumerate(roots):
                assert {p.name for p in (root / "data").iterdir()} >= {"note0", "note1"}
                for name in ("instance", "tmp"):
                    notes = {p.name for p in (root / name).glob("note*")}
                    assert notes == {f"note{number}"}
    kept = sugar.profile / "org.laptop.Calculate"
    assert {p.name for p in (kept / "data").iterdir()} >= {"note0", "note1"}
    sugar.gone("two1", "two2")
    assert list((kept / "instance").iterdir()) == []
    assert list((kept / "tmp").iterdir()) == []


def test_an_activity_of_the_person_s_own_opens_as_untrusted(sugar: Session) -> None:
    place = sugar.desktop.home / "Activities/Mine.activity"
    shutil.copytree(SUGAR_ACTIVITIES / "Calculate.activity", place)
    for path in (place.parent, place, *place.rglob("*")):
        os.chown(path, sugar.uid, sugar.uid)
    try:
        with sugar.launch(f"{place}/", "mine") as launched:
            assert launched.row["policy"] == "untrusted"
            assert launched.row["tier"] == "exec"
            assert launched.row["uid"] != sugar.uid
            assert launched.press_stop() == 0
        (entry,) = [o for o in sugar.objects() if o["activity_id"] == "mine"]
        assert entry["isolauncher-made-by"] == "user:org.laptop.Calculate"
    finally:
        shutil.rmtree(place)


def test_with_the_host_s_network_an_activity_has_its_display_all_the_same(
    sugar: Session,
) -> None:
    """There the server's abstract socket is found first, and Landlock refuses it."""
    sugar.service.policy(
        "calculate",
        'version = 1\nextends = "calculate"\n[match]\n'
        'bundle-id = ["org.laptop.Calculate"]\n[network]\naccess = "host"\n',
    )
    try:
        with sugar.launch("org.laptop.Calculate", "networked1") as launched:
            assert launched.press_stop() == 0
    finally:
        (sugar.service.policies / "calculate.toml").unlink()


LISTEN_TO_THE_SCREEN = """
import gi
gi.require_version("Atspi", "2.0")
from gi.repository import Atspi
desktop = Atspi.get_desktop(0)
for n in range(desktop.get_child_count()):
    app = desktop.get_child_at_index(n)
    for m in range(app.get_child_count()):
        print(app.get_child_at_index(m).get_name())
"""

LOOK_AROUND = """#!/usr/bin/python3
import os, dbus
from dbus.bus import BusConnection
bus = BusConnection(os.environ["AT_SPI_BUS_ADDRESS"])
calls = (
    ("org.a11y.atspi.Registry", "/org/a11y/atspi/accessible/root",
     "org.a11y.atspi.Accessible", "GetChildren"),
    ("org.a11y.atspi.Registry", "/org/a11y/atspi/registry/deviceeventcontroller",
     "org.a11y.atspi.DeviceEventController", "GenerateKeyboardEvent"),
    (os.environ["OTHER"], "/org/a11y/atspi/accessible/root",
     "org.a11y.atspi.Accessible", "GetChildren"),
)
for name, path, interface, method in calls:
    words = (9, "", dbus.UInt32(0)) if method.startswith("Generate") else ()
    try:
        bus.call_blocking(name, path, interface, method, None, words)
        print("answered")
    except dbus.DBusException as error:
        print(error.get_dbus_name().rpartition(".")[2])
names = bus.call_blocking("org.freedesktop.DBus", "/", "org.freedesktop.DBus",
                          "ListNames", None, ())
print([str(n) for n in names if n.startswith(":") and n != bus.get_unique_name()])
"""

ACCESSIBLE = """version = 1
extends = "sugar"
[match]
bundle-id = ["{id}"]
[bus]
accessibility = true
[environment]
keep = ["...", "OTHER"]
"""


def test_a_screen_reader_reads_an_activity_that_sees_nobody_else_there(
    sugar: Session,
) -> None:
    daemon = sugar.service
    daemon.policy("calculate", ACCESSIBLE.format(id="org.laptop.Calculate"))
    daemon.policy("looks", ACCESSIBLE.format(id="org.laptop.Test"))
    try:
        with sugar.launch("org.laptop.Calculate", "read") as launched:
            assert launched.window is not None
            said = sugar.desktop.run("/usr/bin/python3", "-c", LISTEN_TO_THE_SCREEN)
            assert launched.window.title in said
            other = sugar.accessible_name(launched.window.title)
            with system_directory() as place:
                bundle = make(place / "looks", programs={"show": LOOK_AROUND})
                out = sugar.output(f"{bundle}/", environment={"OTHER": other})
        *refused, names = out.splitlines()
        assert refused == ["AccessDenied", "AccessDenied", "NameHasNoOwner"], out
        # It sees the registry, which it may speak to.
        assert len(names.split(",")) == 1
        assert other not in names
    finally:
        for name in ("calculate", "looks"):
            (daemon.policies / f"{name}.toml").unlink()


PORTAL = """
import dbus, dbus.mainloop.glib, dbus.service
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
names = [dbus.service.BusName(n, bus) for n in
         ("org.freedesktop.portal.IBus", "org.freedesktop.IBus")]
class IBus(dbus.service.Object):
    @dbus.service.method("org.freedesktop.IBus.Portal", "s", "o")
    def CreateInputContext(self, name):
        return "/org/freedesktop/IBus/InputContext_1"
    @dbus.service.method("org.freedesktop.IBus", "s", "s")
    def SetGlobalEngine(self, name):
        return "done"
one = IBus(bus, "/org/freedesktop/IBus")
print("up", flush=True)
GLib.MainLoop().run()
"""

TYPE = """#!/usr/bin/python3
import os, dbus
bus = dbus.SessionBus()
for name in ("org.freedesktop.portal.IBus", "org.freedesktop.IBus"):
    for interface, method in (("org.freedesktop.IBus.Portal", "CreateInputContext"),
                              ("org.freedesktop.IBus", "SetGlobalEngine")):
        try:
            print(bus.call_blocking(name, "/org/freedesktop/IBus", interface, method,
                                    "s", ("x",)))
        except dbus.DBusException as error:
            print(error.get_dbus_name().rpartition(".")[2])
print(os.environ["IBUS_USE_PORTAL"])
"""


def test_an_input_method_can_be_typed_with_and_not_be_set_up(sugar: Session) -> None:
    sugar.service.policy(
        "types",
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.Test"]\n'
        "[bus]\ninput-method = true\n",
    )
    portal = sugar.desktop.start("/usr/bin/python3", "-c", PORTAL, stdout=-1)
    try:
        assert portal.stdout is not None
        assert portal.stdout.readline() == b"up\n"
        with system_directory() as place:
            bundle = make(place / "types", programs={"show": TYPE})
            out = sugar.output(f"{bundle}/")
        context = "/org/freedesktop/IBus/InputContext_1"
        others = ["AccessDenied", "ServiceUnknown", "ServiceUnknown"]
        assert out.splitlines() == [context, *others, "1"], out
    finally:
        portal.kill()
        portal.wait()
        portal.stdout.close()
        (sugar.service.policies / "types.toml").unlink()
