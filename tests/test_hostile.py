# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle that tries everything that a session bus and a Journal have to offer.

Each call is made by the person's own program first, without a sandbox: it arrives.
Made by the same program in its sandbox, only what the policy names arrives. ATTACKS
rows 54, 64 to 66.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import bundles
from support.desktop import missing
from support.hostile import PROGRAM, Hostile, hostile
from support.peers import until
from support.powers import need, sandboxes
from support.sugar import NAME

from isolauncher.session import files

Me = Any
"""hostile_program.Me: the functions that have one run in that program."""


@pytest.fixture(scope="module")
def session() -> Iterator[Hostile]:
    need(sandboxes())
    need(missing())
    with hostile() as made:
        yield made


# ------------------------------------------------------------------------- the session

SHELL = "org.laptop.Shell"
JOURNAL = "org.laptop.Journal"
NOTIFICATIONS = "org.freedesktop.Notifications"
TELEPATHY = "org.freedesktop.Telepathy"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"


def methods(name: str, path: str, interface: str, *members: str) -> list[list[str]]:
    return [[name, path, interface, member] for member in members]


def standard(name: str, path: str) -> list[list[str]]:
    return [
        *methods(name, path, INTROSPECTABLE, "Introspect"),
        *methods(name, path, PROPERTIES, "Get", "GetAll", "Set"),
        *methods(name, path, "org.freedesktop.DBus.Peer", "Ping", "GetMachineId"),
    ]


MANAGER = f"{TELEPATHY}.AccountManager"
MANAGER_PATH = "/org/freedesktop/Telepathy/AccountManager"
ACCOUNT_PATH = f"{MANAGER_PATH.removesuffix('Manager')}/gabble/jabber/person0"
DISPATCHER = f"{TELEPATHY}.ChannelDispatcher"
DISPATCHER_PATH = "/org/freedesktop/Telepathy/ChannelDispatcher"
CLIENT = f"{TELEPATHY}.Client"
CLIENT_PATH = "/org/freedesktop/Telepathy/Client/Sugar"

# As jarabe 0.120 has them (view/service.py, journal/journalactivity.py,
# model/notifications.py, model/telepathyclient.py), and Telepathy's specification of
# what Mission Control does.
METHODS = [
    *methods(
        *(SHELL, "/org/laptop/Shell", SHELL),
        *("GetBundlePath", "ActivateActivity", "NotifyLaunch", "NotifyLaunchFailure"),
    ),
    *methods(
        *(JOURNAL, "/org/laptop/Journal", JOURNAL),
        *("GetBundlePath", "LaunchBundle", "ShowObject"),
        *("ChooseObject", "ChooseObjectWithFilter"),
    ),
    *methods(
        *(NOTIFICATIONS, "/org/freedesktop/Notifications", NOTIFICATIONS),
        *("Notify", "CloseNotification", "GetCapabilities", "GetServerInformation"),
    ),
    *methods(MANAGER, MANAGER_PATH, MANAGER, "CreateAccount"),
    *methods(
        *(MANAGER, ACCOUNT_PATH, f"{TELEPATHY}.Account"),
        *("Remove", "UpdateParameters", "Reconnect"),
    ),
    *methods(
        *(DISPATCHER, DISPATCHER_PATH, DISPATCHER),
        *("CreateChannel", "EnsureChannel", "CreateChannelWithHints"),
        *("EnsureChannelWithHints", "DelegateChannels", "PresentChannel"),
    ),
    *methods(
        *(f"{TELEPATHY}.MissionControl5", "/org/freedesktop/Telepathy/MissionControl5"),
        *(f"{TELEPATHY}.MissionControl5", "Quit"),
    ),
    *methods(f"{CLIENT}.Sugar", CLIENT_PATH, f"{CLIENT}.Handler", "HandleChannels"),
    *methods(
        *(f"{CLIENT}.Sugar", CLIENT_PATH, f"{CLIENT}.Approver", "AddDispatchOperation")
    ),
    *methods(
        *(f"{CLIENT}.Sugar", CLIENT_PATH, f"{CLIENT}.Interface.Requests", "AddRequest")
    ),
    *methods(
        *("org.freedesktop.secrets", "/org/freedesktop/secrets"),
        *("org.freedesktop.Secret.Service", "OpenSession", "SearchItems"),
        *("GetSecrets", "Unlock", "ReadAlias"),
    ),
    *(
        one
        for name, path in (
            (SHELL, "/org/laptop/Shell"),
            (JOURNAL, "/org/laptop/Journal"),
            (NOTIFICATIONS, "/org/freedesktop/Notifications"),
            (MANAGER, MANAGER_PATH),
            (MANAGER, ACCOUNT_PATH),
            (DISPATCHER, DISPATCHER_PATH),
            (f"{CLIENT}.Sugar", CLIENT_PATH),
        )
        for one in standard(name, path)
    ),
]

GRANTED = (
    (SHELL, "ActivateActivity", "/org/laptop/Shell"),
    (SHELL, "GetBundlePath", "/org/laptop/Shell"),
)
"""As policies/sugar.toml has them: interface, method, path."""

UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
REFUSALS = {
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
}


def call_all(me: Me, calls: list[list[str]]) -> list[str]:
    """Each without arguments: whether it may be made is not about these."""
    said = []
    for one in calls:
        answer = me.call(*one)
        said.append(answer[1] if answer[0] == "error" else "ok")
    return said


def arrived(session: Hostile) -> list[tuple[str, str, str]]:
    """What came to the shell, but the signals of services of the person's."""
    services = [
        session.person.do(owner_of, name)
        for name in (NAME, "org.laptop.sugar.DataStore", "org.a11y.Bus")
    ]
    return [
        (one["interface"], one["member"], one["path"])
        for one in session.shell.heard()
        if one["call"] or one["sender"] not in services
    ]


def owner_of(me: Me, name: str) -> str:
    said: list[str] = me.driver("GetNameOwner", "(s)", (name,))
    return said[1]


def test_of_the_shell_the_journal_and_telepathy_only_what_the_policy_names_answers(
    session: Hostile,
) -> None:
    """Row 65, and every other method that there is."""
    assert session.person.do(call_all, METHODS) == ["ok"] * len(METHODS)
    assert arrived(session) == [(i, m, p) for _, p, i, m in METHODS]
    with session.launch() as witness:
        said = witness.do(call_all, METHODS)
    assert sorted(arrived(session)) == sorted(GRANTED)
    for (name, path, interface, member), answer in zip(METHODS, said, strict=True):
        if (interface, member, path) in GRANTED and name == SHELL:
            assert answer == "ok", (name, member)
        elif name == MANAGER:
            # Not the real one, which has heard nothing: one that knows no account.
            assert answer in ("ok", UNKNOWN_METHOD), (path, interface, member, answer)
        elif (name, interface) == (JOURNAL, INTROSPECTABLE):
            assert answer == "ok"  # nor here: session/test_chooser.py
        elif name == JOURNAL and member.startswith("ChooseObject"):
            assert answer == "org.freedesktop.DBus.Error.InvalidArgs"
        else:
            assert answer in REFUSALS, (name, path, interface, member, answer)


def test_no_other_name_of_a_connection_is_a_way_to_what_is_refused_under_one(
    session: Hostile,
) -> None:
    """The shell's unique name, its other names, no name at all: one connection."""
    refused = [m for m in METHODS if tuple(m[i] for i in (2, 3, 1)) not in GRANTED]
    ways = [
        [name, path, interface, member]
        for _, path, interface, member in refused
        for name in (session.shell.unique, SHELL, MANAGER, "org.example.Unheard")
    ]
    assert set(session.person.do(call_all, ways)) == {"ok"}
    assert len(session.shell.heard()) == len(ways)
    with session.launch() as witness:
        said = witness.do(call_all, ways)
    assert arrived(session) == []
    for (name, *_), answer in zip(ways, said, strict=True):
        assert answer in REFUSALS or name == MANAGER, (name, answer)


def ask_the_bus(me: Me) -> dict[str, Any]:
    """What the bus itself offers to whoever wants to know or do more than its part."""
    said = {}
    bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus")
    monitor = (*bus, "org.freedesktop.DBus.Monitoring", "BecomeMonitor")
    kept = me.bus
    # Each on a connection of its own: whoever hears everything is asked everything.
    for what, words in {
        "eavesdrop": (*bus, bus[0], "AddMatch", "(s)", ("eavesdrop=true",)),
        "calls": (
            *(*bus, bus[0], "AddMatch"),
            *("(s)", ("type='method_call',eavesdrop='true',path='/'",)),
        ),
        "monitor": (*monitor, "(asu)", ([], 0)),
    }.items():
        me._bus = me.connect()
        me.bus.set_exit_on_close(False)
        said[what] = me.call(*words)
        me.bus.close_sync(None)
    me._bus = kept
    variables = ({"LD_PRELOAD": "/tmp/evil.so"},)
    journal = ("org.laptop.Journal",)
    for what, member, kind, values in (
        ("names", "ListNames", None, ()),
        ("activatable", "ListActivatableNames", None, ()),
        ("start", "StartServiceByName", "(su)", ("ca.desrt.dconf", 0)),
        ("environment", "UpdateActivationEnvironment", "(a{ss})", variables),
        ("own", "RequestName", "(su)", ("org.example.Taken", 4)),
        ("own-another", "RequestName", "(su)", ("org.laptop.Activityother", 4)),
        ("own-launcher", "RequestName", "(su)", ("org.sugarlabs.IsoLauncher2", 4)),
        ("pid", "GetConnectionUnixProcessID", "(s)", journal),
        ("credentials", "GetConnectionCredentials", "(s)", journal),
        ("owner", "GetNameOwner", "(s)", journal),
        ("reload", "ReloadConfig", None, ()),
    ):
        said[what] = me.driver(member, kind, values)
    launcher = "org.sugarlabs.IsoLauncher1"
    for what, one in {
        "launch": (launcher, "/org/sugarlabs/IsoLauncher1", f"{launcher}.Manager"),
        "dconf": ("ca.desrt.dconf", "/ca/desrt/dconf", launcher),
    }.items():
        said[what] = me.call(*one, "List")
    stats = "org.freedesktop.DBus.Debug.Stats"
    said["rules"] = me.call(*bus, stats, "GetAllMatchRules")
    return said


def test_the_bus_itself_tells_and_does_no_more_than_the_policy_needs(
    session: Hostile,
) -> None:
    """Row 54."""
    free = session.person.do(ask_the_bus)
    unsaid = {what for what, said in free.items() if said[0] == "error"}
    assert unsaid == {"dconf"}, free  # it has no such method, and says so
    assert free["dconf"][1] == "org.freedesktop.DBus.Error.UnknownMethod"
    session.shell.heard()
    with session.launch() as witness:
        said = witness.do(ask_the_bus)
        unique = witness.do(unique_name)
    names = {"org.freedesktop.DBus", SHELL}
    assert set(said.pop("names")[1]) == names | {session.shell.unique, unique}
    assert set(said.pop("activatable")[1]) <= names
    # Who stands in for it, and has a name that nobody has on the bus.
    assert said.pop("owner") == ["ok", ":0.3"]
    for what, answer in said.items():
        assert answer[0] == "error", (what, answer)
        assert answer[1] in REFUSALS, (what, answer)
    assert arrived(session) == []


def unique_name(me: Me) -> Any:
    return me.bus.get_unique_name()


def test_what_starts_programs_for_the_person_cannot_be_reached(
    session: Hostile,
) -> None:
    """systemd runs what it is told to; so would our own service, without a sandbox."""
    calls = [
        *methods(
            *("org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
            "org.freedesktop.systemd1.Manager",
            *("StartTransientUnit", "ListUnits", "SetEnvironment"),
        ),
        *methods(NAME, f"/{NAME.replace('.', '/')}", f"{NAME}.Manager", "Launch"),
        *methods(NAME, f"/{NAME.replace('.', '/')}", INTROSPECTABLE, "Introspect"),
        *methods(session.person.do(owner_of, NAME), "/", INTROSPECTABLE, "Introspect"),
    ]
    with session.launch() as witness:
        assert set(witness.do(call_all, calls)) <= REFUSALS


def test_no_policy_can_grant_the_name_that_launches(session: Hostile) -> None:
    """Row 66."""
    refusal = "policy-grants-isolauncher"
    for key, value in (
        ("session-own", NAME),
        ("session-own", "org.sugarlabs.*"),
        ("session-call", f"{NAME}={NAME}.Manager.Launch@/{NAME.replace('.', '/')}"),
    ):
        bundle = session.policy("org.laptop.Granting", f'[bus]\n{key} = ["{value}"]\n')
        try:
            with pytest.raises(AssertionError, match=refusal), session.launch(bundle):
                pass
        finally:
            (session.session.service.policies / "granting.toml").unlink()


FORGED = (
    ("/org/laptop/sugar/DataStore", "org.laptop.sugar.DataStore", "Deleted"),
    ("/org/laptop/Journal", JOURNAL, "ObjectChooserResponse"),
    ("/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged"),
    ("/org/freedesktop/Telepathy", f"{TELEPATHY}.Account", "Removed"),
    ("/org/laptop/Activity", "org.laptop.Activit", "Anything"),
)


def signal_all(me: Me, names: list[str | None], signals: list[list[str]]) -> None:
    from gi.repository import GLib

    body = GLib.Variant("(s)", ("of my making",))
    for name in names:
        for path, interface, member in signals:
            me.bus.emit_signal(name, path, interface, member, body)
    me.driver("GetId")


def test_no_signal_leaves_that_could_be_taken_for_anothers(session: Hostile) -> None:
    """The shell listens for the DataStore's signals whoever sends them."""
    names = [None, SHELL, JOURNAL, session.shell.unique]
    session.person.do(signal_all, names, FORGED)
    sent = [(interface, member, path) for path, interface, member in FORGED]
    assert arrived(session) == sent * len(names)
    own = ("/org/laptop/Activity", "org.laptop.Activity", "Anything")
    with session.launch() as witness:
        witness.do(signal_all, names, [*FORGED, own])
    assert arrived(session) == [(own[1], own[2], own[0])]


# ------------------------------------------------------------------------- the Journal

SECRET = b"what is nobody's business"


@pytest.fixture
def bait(session: Hostile) -> Iterator[dict[str, Path]]:
    """Files of the person's, which are the same and where they were at the end."""
    files = {
        "key": session.own(session.home / ".ssh/id", SECRET),
        "document": session.own(session.home / "Documents/letter", SECRET),
        "other": session.own(
            session.home / ".sugar/default/org.laptop.Other/data/kept", SECRET
        ),
    }
    before = {path: path.stat() for path in files.values()}
    yield files
    for path, was in before.items():
        now = path.stat()
        assert path.read_bytes() == SECRET
        assert (was.st_ino, was.st_mode, was.st_uid, was.st_mtime_ns) == (
            *(now.st_ino, now.st_mode, now.st_uid, now.st_mtime_ns),
        )
        assert now.st_nlink == 1


@pytest.fixture
def journal(session: Hostile) -> Iterator[Hostile]:
    """The person's Journal, which answers and is emptied at the end."""
    yield session
    found = session.person.do(find_all)
    assert found[0] == "ok", found
    for one in found[1]:
        assert session.person.do(delete, one["uid"]) == ["ok"]


def find_all(me: Me) -> Any:
    return me.find()


def delete(me: Me, uid: str) -> Any:
    return me.store("delete", "(s)", (uid,))


def create(
    me: Me, properties: dict[str, str], path: str = "", transfer: bool = False
) -> Any:
    return me.create(properties, path, transfer)


def contents(session: Hostile) -> dict[str, bytes]:
    """Of every object that the person's Journal has: title, data."""
    return {
        title: data.encode("latin-1")
        for title, data in session.person.do(read_all).items()
    }


def read_all(me: Me) -> dict[str, bytes]:
    import os

    read = {}
    for one in me.find()[1]:
        path = me.store("get_filename", "(s)", (one["uid"],))[1]
        read[one["title"]] = b""
        if path:
            with open(path, "rb") as file:
                read[one["title"]] = file.read()
            os.unlink(path)
    return read


def plant(me: Me, key: str) -> list[str]:
    """What could be taken for a file of the activity's; what it cannot even make."""
    import os
    import socket

    os.chdir(me.root + "/instance")
    with open("good", "w") as file:
        file.write("good")
    with open("../data/good", "w") as file:
        file.write("good")
    os.symlink(key, "link")
    os.symlink("good", "link-to-good")
    os.symlink(os.path.dirname(key), "way")
    os.symlink("/", "top")
    os.mkfifo("fifo")
    os.mkdir("directory")
    me.listener = socket.socket(socket.AF_UNIX)
    me.listener.bind("socket")
    with open("sparse", "w") as file:
        file.truncate(200 * 1024**2)
    os.chmod("good", 0o644)
    refused = []
    for name, make in (
        ("device", lambda: os.mknod("device", 0o020666, os.makedev(1, 5))),
        ("hard link to a device", lambda: os.link("/dev/zero", "zero")),
        ("larger", lambda: os.truncate("sparse", 201 * 1024**2)),
    ):
        try:
            make()
        except OSError:
            refused.append(name)
    me.kept = open("good")  # noqa: SIM115 (for /proc/self/fd)
    return refused


def store_all(me: Me, paths: list[str]) -> list[list[Any]]:
    own = me.kept.fileno()
    return [
        me.create({"title": f"{path} {move}"}, path.format(own=own), move)
        for path in paths
        for move in (False, True)
    ]


def test_a_path_is_a_file_of_its_own_or_nothing(
    journal: Hostile, bait: dict[str, Path]
) -> None:
    """Row 64."""
    key, other = str(bait["key"]), str(bait["other"])
    own = journal.own(journal.home / "Documents/sacrifice", SECRET)
    # So it goes without a sandbox: whatever can be read, and moved, is.
    for path in (key, other, "/etc/passwd"):
        assert journal.person.do(create, {"title": path}, path)[0] == "ok"
    assert journal.person.do(create, {"title": "moved"}, str(own), True)[0] == "ok"
    assert not own.exists()
    found = contents(journal)
    assert found[key] == found[other] == found["moved"] == SECRET
    assert found["/etc/passwd"] == Path("/etc/passwd").read_bytes()
    for one in journal.person.do(find_all)[1]:
        journal.person.do(delete, one["uid"])

    with journal.launch() as witness:
        root = witness.do(root_of)
        made = witness.do(plant, key)
        assert made == ["device", "hard link to a device", "larger"]
        at = f"{root}/instance"
        refused = [
            *(key, other, str(bait["document"]), "/etc/passwd", "/etc/hostname"),
            *(f"{at}/link", f"{at}/link-to-good", f"{at}/way/id", f"{at}/top{key}"),
            *(f"{at}/../../../org.laptop.Other/data/kept", f"{at}/../../good"),
            *(f"{root}/data/../../org.laptop.Other/data/kept", f"{root}/../x"),
            *(f"{at}/fifo", f"{at}/socket", f"{at}/directory", at, root, "/", "."),
            *("/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/fd/0"),
            *("/proc/self/fd/{own}", "/proc/self/environ", "/proc/1/root/etc/passwd"),
            *("good", "instance/good", f"{at}/absent", f"{at}//", f"{root}/other/x"),
            *(f"file://{at}/good", f"{at}/good\n", f"{at}/" + "x" * 5000),
            *(f"{at}{'/x' * 3000}", f"{root[:-1]}/instance/good", f"{at}/good/x"),
        ]
        said = witness.do(store_all, refused)
        assert {one[0] for one in said} == {"error"}, said
        assert {one[1] for one in said} == {"org.freedesktop.DBus.Python.ValueError"}
        assert contents(journal) == {}
        # And what is one is one, moved only if that is asked for.
        assert witness.do(create, {"title": "kept"}, f"{root}/data/good")[0] == "ok"
        for name in ("good", "./good/../good"):
            assert witness.do(create, {"title": name}, f"{at}/{name}")[0] == "ok"
        said = witness.do(create, {"title": "moved"}, f"{root}/data/good", True)
        assert said[0] == "ok"
        assert not witness.do(exists, f"{root}/data/good")
        assert witness.do(exists, f"{at}/good")
    assert set(contents(journal).values()) == {b"good"}
    assert len(contents(journal)) == 4


def root_of(me: Me) -> str:
    return str(me.root)


def exists(me: Me, path: str) -> bool:
    import os

    return os.path.lexists(path)


def store_while_it_changes(me: Me, key: str, times: int) -> int:
    """The name is a file, a link to the person's and a FIFO by turns; how many went."""
    import os
    import threading

    os.chdir(me.root + "/instance")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in (
                lambda: os.symlink(key, "next"),
                lambda: os.mkfifo("next"),
                lambda: os.symlink(os.path.dirname(key), "next"),
                lambda: os.close(os.open("next", os.O_CREAT | os.O_WRONLY)),
            ):
                make()
                os.rename("next", "id")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        said = [
            me.create({"title": str(n)}, me.root + "/instance/id", n % 2 == 1)
            for n in range(times)
        ]
    finally:
        stop.set()
        thread.join()
    return sum(one[0] == "ok" for one in said)


def test_a_file_that_is_replaced_during_the_call_is_not_followed(
    journal: Hostile, bait: dict[str, Path]
) -> None:
    with journal.launch() as witness:
        stored = witness.do(store_while_it_changes, str(bait["key"]), 200)
        assert stored > 0  # it is a file now and then
    found = contents(journal)
    assert len(found) == stored
    assert set(found.values()) == {b""}


def store_huge(me: Me, size: int, times: int) -> list[Any]:
    import os

    path = me.root + "/instance/huge"
    with open(path, "w") as file:
        file.truncate(size)
    said = [me.create({"title": str(n)}, path) for n in range(times)]
    os.unlink(path)
    return said


def test_a_file_of_holes_takes_no_room_and_a_run_stores_only_so_much(
    journal: Hostile,
) -> None:
    def used() -> int:
        top = journal.home / ".sugar/default"
        return sum(p.lstat().st_blocks * 512 for p in top.rglob("*"))

    before = used()
    bundle = journal.policy("org.laptop.Huge", '[limits]\nfile-size = "8M"\n')
    with journal.launch(bundle) as witness:
        said = witness.do(store_huge, 8 * 1024**2, 12)
        assert [one[0] for one in said] == ["ok"] * 8 + ["error"] * 4
        assert said[-1][1] == "org.freedesktop.DBus.Error.LimitsExceeded"
        assert used() - before < 4 * 1024**2


def ask_of(me: Me, uid: str) -> dict[str, Any]:
    """Everything that can be asked or done of one object."""
    return {
        "properties": me.store("get_properties", "(s)", (uid,)),
        "filename": me.store("get_filename", "(s)", (uid,)),
        "update": me.update(uid, {"title": "mine now"}),
        "update-file": me.update(uid, {"title": "mine"}, me.root + "/instance/good"),
        "delete": me.store("delete", "(s)", (uid,)),
        "find": me.find({"uid": uid}),
        "ids": me.store("find_ids", "(a{sv})", ({},)),
        "all": me.find(),
        "named": me.find({}, ["uid", "title"]),
        "title": me.find({"query": "letter"}),
        "values": me.store("get_uniquevaluesfor", "(sa{sv})", ("activity", {})),
    }


def test_anothers_object_cannot_be_told_from_one_that_is_not_there(
    journal: Hostile,
) -> None:
    """Row 64."""
    properties = {"title": "letter", "activity": "org.laptop.Other"}
    source = journal.own(journal.home / "Documents/letter", SECRET)
    _, uid = journal.person.do(create, properties, str(source))
    assert journal.person.do(ask_of, uid)["find"][2] == 0  # it was deleted
    _, uid = journal.person.do(create, properties, str(source))
    odd = [
        *(
            "../../../../../.ssh",
            "..",
            ".",
            "",
            "/",
            f"../{uid[:2]}/{uid}",
            "checksums",
        ),
        *(f"{uid}/", f"{uid}/metadata", f"{uid[:2]}", "index", "x" * 64, f"{uid}\n"),
    ]
    with journal.launch() as witness:
        witness.do(plant, str(source))
        absent = witness.do(ask_of, "00000000-0000-4000-8000-000000000000")
        for other in (uid, uid.upper(), *odd):
            assert witness.do(ask_of, other) == absent, other
    assert {said[0] for what, said in absent.items() if "ind" not in what} == {
        *("error", "ok"),
    }
    for what in ("properties", "filename", "update", "update-file", "delete"):
        assert absent[what][0] == "error"
    for what in ("find", "all", "named", "title"):
        assert absent[what] == ["ok", [], 0]
    assert absent["ids"] == absent["values"] == ["ok", []]
    assert contents(journal) == {"letter": SECRET}
    handed = list((journal.home / ".sugar/default/data").iterdir())
    assert len(handed) == 1  # the person's, of the first


POISONS: dict[str, str] = {
    "text that is none": "{'title': GLib.Variant('ay', b'\\xff\\xfe')}",
    "a time past 2038": "{'timestamp': GLib.Variant('x', 2**40)}",
    "a time that is none": "{'timestamp': GLib.Variant('s', 'never')}",
    "a creation that is none": "{'creation_time': GLib.Variant('s', 'never')}",
    "a creation past 2038": "{'creation_time': GLib.Variant('t', 2**63)}",
    "a negative time": "{'timestamp': GLib.Variant('x', -2**40)}",
    "a fraction": "{'creation_time': GLib.Variant('d', 0.5)}",
    "no number": "{'timestamp': GLib.Variant('d', float('nan'))}",
    "a size": "{'filesize': GLib.Variant('s', 'x')}",
    "a checksum": "{'checksum': GLib.Variant('ay', b'\\xff')}",
    "an identity": "{'uid': GLib.Variant('s', '../../x')}",
    "a dictionary": "{'title': GLib.Variant('a{sv}', {})}",
    "a dictionary elsewhere": "{'x': GLib.Variant('a{ss}', {'a': 'b'})}",
    "a structure": "{'x': GLib.Variant('(ss)', ('a', 'b'))}",
    "a variant": "{'x': GLib.Variant('v', GLib.Variant('s', 'x'))}",
    "a preview that is none": "{'preview': GLib.Variant('(i)', (1,))}",
    "a long type": "{'mime_type': GLib.Variant('s', 'x' * 5000)}",
    "a long activity": "{'activity': GLib.Variant('s', 'x' * 300)}",
    "a format for a time": ("{'ctime': GLib.Variant('s', '%%Y-%%m-%%dT%%H:%%M:%%S')}"),
    "a name with a slash": "{'a/b': GLib.Variant('s', 'x')}",
    "a name that leads up": "{'../../../../x': GLib.Variant('s', 'x')}",
    "a name that is a directory": "{'..': GLib.Variant('s', 'x')}",
    "a hidden name": "{'.title': GLib.Variant('s', 'x')}",
    "an empty name": "{'': GLib.Variant('s', 'x')}",
    "half a name": "{':x': GLib.Variant('s', 'x')}",
    "a long name": "{'x' * 300: GLib.Variant('s', 'x')}",
    "a name of lines": "{'a\\nb': GLib.Variant('s', 'x')}",
    "a name of two words": "{'a b': GLib.Variant('s', 'x')}",
    "a name of signs": "{' ~*?%s|`$\"<>{0}\\\\': GLib.Variant('s', 'x')}",
    "a name of another script": "{'\\xe9\\u0646': GLib.Variant('s', 'x')}",
    "half of half a name": "{'x:': GLib.Variant('s', 'x')}",
    "two that are one": (
        "{'title': GLib.Variant('s', 'x'), 'title:text': GLib.Variant('ay', b'\\xff')}"
    ),
}
BREAKING = [
    *("text that is none", "a time past 2038", "a creation that is none"),
    *("a creation past 2038", "a negative time", "a checksum", "two that are one"),
]
"""With these in it nobody finds anything in the Journal any more."""


def poison(me: Me, text: str) -> Any:
    from gi.repository import GLib

    return me.create({"title": "poisoned", **eval(text, {"GLib": GLib})})  # noqa: S307


def test_no_property_keeps_the_person_from_the_journal(journal: Hostile) -> None:
    top = journal.home / ".sugar/default/datastore"
    breaking = []
    for what, text in POISONS.items():
        journal.person.do(poison, text)
        if journal.person.do(find_all)[0] == "error":
            breaking.append(what)
        # What it cannot read it does not delete either.
        for entry in top.glob("??/*"):
            shutil.rmtree(entry)
        assert journal.person.do(find_all)[0] == "ok"
    # More do, now and then: as the DataStore has just written its index, or not.
    assert set(BREAKING) <= set(breaking)
    with journal.launch() as witness:
        for what, text in POISONS.items():
            said = witness.do(poison, text)
            found = journal.person.do(find_all)
            assert found[0] == "ok", what
            assert all(one["title"] != "" for one in found[1])
            for one in found[1]:
                assert witness.do(delete, one["uid"]) == ["ok"], (what, said)
        # Nor what is left of those that were refused, when the index is made anew.
        assert journal.person.do(ask_badly, QUERIES[0])[0] == "ok"
    assert journal.person.do(find_all)[0] == "ok"
    assert [p.name for p in top.glob("??/*")] == []


NAMES = ("activity count", "score (easy)", "a+b=c", "números")
"""Such as activities give: TurtleBlocks has "activity count"."""


def test_a_property_may_have_any_name_of_printable_letters(journal: Hostile) -> None:
    with journal.launch() as witness:
        given = {"title": "named", **dict.fromkeys(NAMES, "7"), "best:3": "8"}
        _, uid = witness.do(create, given)
        for who in (witness, journal.person):
            said, one = who.do(properties_of, uid)
            assert said == "ok", one
            assert {name: one[name] for name in NAMES} == dict.fromkeys(NAMES, "7")
            assert one["best"] == "8"


def properties_of(me: Me, uid: str) -> Any:
    return me.store("get_properties", "(s)", (uid,))


QUERIES = (
    "{'timestamp': GLib.Variant('s', 'never')}",
    "{'timestamp': GLib.Variant('(ss)', ('a', 'b'))}",
    "{'timestamp': GLib.Variant('(iii)', (1, 2, 3))}",
    "{'timestamp': GLib.Variant('a{sv}', {'start': GLib.Variant('s', 'x')})}",
    "{'filesize': GLib.Variant('av', [GLib.Variant('s', 'x')])}",
    "{'creation_time': GLib.Variant('a{ss}', {})}",
    "{'offset': GLib.Variant('s', 'x')}",
    "{'offset': GLib.Variant('i', -1)}",
    "{'limit': GLib.Variant('a{ss}', {})}",
    "{'limit': GLib.Variant('t', 2**63)}",
    "{'order_by': GLib.Variant('i', 5)}",
    "{'order_by': GLib.Variant('a{ss}', {'x': 'y'})}",
    "{'uid': GLib.Variant('s', 'x' * 300)}",
    "{'mime_type': GLib.Variant('as', ['x' * 300])}",
    "{'activity': GLib.Variant('aas', [['x']])}",
    "{'query': GLib.Variant('s', '((( NOT \"' + 'x' * 300 + '*')}",
    "{'query': GLib.Variant('as', ['x'])}",
    "{'nothing': GLib.Variant('s', 'x')}",
)


def ask_badly(me: Me, text: str) -> Any:
    from gi.repository import GLib

    return me.find(eval(text, {"GLib": GLib}))  # noqa: S307


def find_ids(me: Me) -> Any:
    return me.store("find_ids", "(a{sv})", ({},))


def rebuilds(session: Hostile) -> int:
    log = session.home / ".sugar/default/logs/datastore.log"
    return log.read_text().count("Failed to query index, will rebuild")


def test_no_question_makes_the_datastore_build_its_index_anew(
    journal: Hostile,
) -> None:
    """While it does, it answers everybody with everything, or nothing."""
    assert journal.person.do(create, {"title": "kept"})[0] == "ok"
    before = rebuilds(journal)
    for text in QUERIES:
        journal.person.do(ask_badly, text)
        while journal.person.do(find_ids) == ["ok", []]:
            pass  # it is still at it, and begins no other
    assert rebuilds(journal) - before > 5
    before = rebuilds(journal)
    with journal.launch() as witness:
        for text in QUERIES:
            witness.do(ask_badly, text)
            assert len(journal.person.do(find_ids)[1]) == 1, text
    assert rebuilds(journal) == before


def flood(me: Me, count: int, member: str) -> dict[str, int]:
    """So many calls before the first answer is read; how they were answered."""
    import threading

    sock = me.raw()
    asked = {
        "find": ("(a{sv}as)", ({}, [])),
        "create": ("(a{sv}sb)", ({}, "", False)),
        "none": (None, ()),
    }[member]
    calls = b"".join(
        message(STORE, STORE_PATH, STORE, member, *asked, serial=n + 10)  # noqa: F821
        for n in range(count)
    )
    thread = threading.Thread(target=sock.sendall, args=(calls,))
    thread.start()
    said: dict[str, int] = {}
    for _ in range(count):
        one = Gio.DBusMessage.new_from_blob(  # noqa: F821
            received(sock),  # noqa: F821
            Gio.DBusCapabilityFlags.UNIX_FD_PASSING,  # noqa: F821
        )
        name = one.get_error_name() or "ok"
        said[name] = said.get(name, 0) + 1
    thread.join()
    sock.close()
    return said


def memory(pid: int) -> int:
    """The most that it has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_ten_thousand_calls_at_once_are_answered_and_the_person_is_too(
    journal: Hostile,
) -> None:
    with journal.launch() as witness:
        pid = journal.mediator(witness.id)
        before = memory(pid)
        for member, count in (("find", 10_000), ("create", 300), ("none", 10_000)):
            witness.send(flood, count, member)
            # Meanwhile: asked and answered, as on any other day.
            assert journal.person.do(find_all)[0] == "ok"
            said = witness.answer()
            assert sum(said.values()) == count
            assert set(said) <= {
                *("ok", "org.freedesktop.DBus.Error.LimitsExceeded"),
                "org.freedesktop.DBus.Error.UnknownMethod",
            }
        assert memory(pid) - before < 64 * 1024**2


def wrong_signatures(me: Me) -> list[Any]:
    from gi.repository import GLib

    said = []
    for member in (
        *("create", "update", "find", "find_ids", "get_filename", "get_properties"),
        *("get_uniquevaluesfor", "delete", "mount", "unmount", "stop", "Stopped", "x"),
    ):
        for kind, values in (
            (None, ()),
            ("(i)", (1,)),
            ("(ss)", ("a", "b")),
            ("(a{sv}sbs)", ({}, "", False, "")),
            ("(v)", (GLib.Variant("s", "x"),)),
            ("(o)", ("/",)),
        ):
            said.append(me.store(member, kind, values))
    return said


def elsewhere(me: Me) -> list[Any]:
    name = "org.laptop.sugar.DataStore"
    return [
        me.call(to, path, interface, "find_ids", "(a{sv})", ({},))
        for to in (name, ":0.1")
        for path, interface in (
            ("/", name),
            ("/org/laptop/sugar", name),
            ("/org/laptop/sugar/DataStore", "org.laptop.sugar.DataStore2"),
            ("/org/laptop/sugar/DataStore", "org.freedesktop.DBus.Properties"),
        )
    ]


def test_a_call_of_another_shape_is_refused(journal: Hostile) -> None:
    with journal.launch() as witness:
        said = [*witness.do(wrong_signatures), *witness.do(elsewhere)]
    assert {one[0] for one in said} == {"error"}
    assert {one[1] for one in said} == {
        "org.freedesktop.DBus.Error.InvalidArgs",
        "org.freedesktop.DBus.Error.UnknownMethod",
    }


def the_stand_in(me: Me) -> dict[str, Any]:
    """As sugar3 and gdbus find it; and by its unique name."""
    name, path = "org.laptop.sugar.DataStore", "/org/laptop/sugar/DataStore"
    introspectable = ("org.freedesktop.DBus.Introspectable", "Introspect")
    return {
        "introspected": me.call(name, path, *introspectable),
        "ping": me.call(name, path, "org.freedesktop.DBus.Peer", "Ping"),
        "mounts": me.store("mounts"),
        "unique": me.call(":0.1", path, name, "find_ids", "(a{sv})", ({},)),
        "owner": me.driver("GetNameOwner", "(s)", (name,)),
    }


def test_the_stand_in_is_found_where_the_datastore_is(journal: Hostile) -> None:
    free = journal.person.do(the_stand_in)
    with journal.launch() as witness:
        said = witness.do(the_stand_in)
    assert said["owner"] == ["ok", ":0.1"]
    assert said["ping"] == ["ok"]
    assert said["mounts"] == free["mounts"]
    assert said["unique"] == ["ok", []]
    assert members(said["introspected"][1]) == members(free["introspected"][1])


def members(text: str) -> set[tuple[str, ...]]:
    """Methods and signals of the DataStore's interface with their types."""
    top = ElementTree.fromstring(text)  # noqa: S314 (our own)
    (interface,) = top.findall("interface[@name='org.laptop.sugar.DataStore']")
    return {
        (
            str(member.tag),
            str(member.get("name")),
            *(f"{a.get('direction', '')}{a.get('type')}" for a in member),
        )
        for member in interface
    }


def use(me: Me, uid: str) -> dict[str, Any]:
    """One object as an activity uses it: what is there, and whether it can save."""
    import os

    path = me.store("get_filename", "(s)", (uid,))
    said = {
        "find": [one["title"] for one in me.find()[1]],
        "properties": me.store("get_properties", "(s)", (uid,))[0],
        "filename": path[0],
        "inside": path[0] == "ok" and path[1].startswith(me.root + "/instance/"),
        "content": "",
        "update": "",
    }
    if path[0] == "ok" and path[1]:
        with open(path[1]) as file:
            said["content"] = file.read()
        new = me.root + "/instance/new"
        with open(new, "w") as file:
            file.write("changed")
        said["update"] = me.update(uid, {"title": "changed"}, new)[0]
        os.unlink(path[1])
    return said


NOTHING = {
    "find": [],
    "properties": "error",
    "filename": "error",
    "inside": False,
    "content": "",
    "update": "",
}


def documents(journal: Hostile, kind: str) -> Path:
    return journal.policy(
        f"org.laptop.Documents{kind}", f'[files]\ndocuments = "{kind}"\n'
    )


def letter(journal: Hostile, title: str, **properties: str) -> str:
    """An object that a program without a sandbox has made; its uid."""
    source = journal.own(journal.home / "Documents/letter", SECRET)
    said = journal.person.do(create, {"title": title, **properties}, str(source))
    return str(said[1])


def test_documents_none_leaves_no_journal(journal: Hostile) -> None:
    uid = letter(journal, "letter")
    with journal.launch(documents(journal, "none"), "-o", uid) as witness:
        said = witness.do(ask_of, uid)
        owner = witness.do(owner_of, "org.laptop.sugar.DataStore")
    assert {one[0] for one in said.values()} == {"error"}
    assert {one[1] for one in said.values()} <= REFUSALS
    assert owner in REFUSALS
    assert contents(journal) == {"letter": SECRET}


def test_documents_own_leaves_what_it_made_itself_in_this_run_or_another(
    journal: Hostile,
) -> None:
    bundle = documents(journal, "own")
    claimed = {"activity": "org.laptop.Documentsown", "isolauncher-made-by": "x"}
    uid = letter(journal, "letter", **claimed)
    with journal.launch(bundle, "-o", uid) as witness:
        assert witness.do(use, uid) == NOTHING
        _, own = witness.do(create, {"title": "own"})
    with journal.launch() as witness:
        assert witness.do(use, own) == NOTHING
    with journal.launch(bundle) as witness:
        assert witness.do(use, own)["find"] == ["own"]
        properties = {"title": "taken", "isolauncher-made-by": "system:org.laptop.X"}
        _, again = witness.do(create, properties)
        assert witness.do(use, again)["properties"] == "ok"
        assert witness.do(delete, own) == ["ok"]
    assert sorted(contents(journal)) == ["letter", "taken"]


def test_documents_opened_adds_the_one_it_was_opened_with_for_that_run(
    journal: Hostile,
) -> None:
    bundle = documents(journal, "opened")
    mine = {"activity": "org.laptop.Documentsopened"}
    uid, other = letter(journal, "opened", **mine), letter(journal, "other", **mine)
    with journal.launch(bundle, "-o", uid) as witness:
        assert witness.do(use, other) == NOTHING | {"find": ["opened"]}
        assert witness.do(use, uid) == {
            "find": ["opened"],
            "properties": "ok",
            "filename": "ok",
            "inside": True,
            "content": SECRET.decode(),
            "update": "ok",
        }
    assert contents(journal) == {"changed": b"changed", "other": SECRET}
    # It has changed it, and has not made it.
    with journal.launch(bundle) as witness:
        assert witness.do(use, uid) == NOTHING


def test_documents_all_is_the_journal(journal: Hostile) -> None:
    uid = letter(journal, "letter", activity="org.laptop.Other")
    with journal.launch(documents(journal, "all")) as witness:
        said = witness.do(use, uid)
        assert said["content"] == SECRET.decode()
        assert said["inside"] is True
        assert witness.do(exists, str(journal.home / "Documents")) is False
    assert contents(journal) == {"changed": b"changed"}


def test_what_it_saves_opens_with_itself_and_nothing_else(journal: Hostile) -> None:
    """Clicked in the Journal, an object starts what its properties name."""
    properties = {"title": "bait", "activity": "org.laptop.Terminal"}
    with journal.launch() as witness:
        witness.do(create, {**properties, "activity_id": "another"})
        named = {"title": "bait", "activity:x": "org.laptop.Terminal"}
        witness.do(create, named)
        for one in journal.person.do(find_all)[1]:
            assert one["activity"] == "org.laptop.Hostile"
            assert one.get("activity_id", witness.id) == witness.id


# --------------------------------------------------------------------- its directories


def leave(me: Me, targets: list[str]) -> None:
    """What the next run, and who removes this one's, may fall over."""
    import os

    for directory in ("data", "instance", "tmp"):
        top = f"{me.root}/{directory}"
        for n, target in enumerate(targets):
            os.symlink(target, f"{top}/link{n}")
            os.symlink("link" + str(n), f"{top}/link-to-link{n}")
        for name in (
            "-rf",
            "--no-preserve-root",
            "new\nline",
            "*",
            " ",
            "\x01\x7f",
            "é",
            b"\xff\xfe",
            "x" * 255,
        ):
            path = os.fsencode(top) + b"/" + os.fsencode(name)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0))
        os.mkfifo(f"{top}/fifo", 0)
        os.chdir(top)
        for name in ("closed", "closed/inner", "closed/inner/most"):
            os.mkdir(name)
            os.symlink(targets[0], name + "/link")
            open(name + "/file", "w").close()
        for name in ("closed/inner/most", "closed/inner", "closed"):
            os.chmod(name, 0)


def dig(me: Me) -> None:
    """Deeper than a path is long; it may be stopped for that before it can say so."""
    import os

    for directory in ("instance", "tmp"):
        os.chdir(f"{me.root}/{directory}")
        for _ in range(1100):
            os.mkdir("deep")
            os.chdir("deep")
    os._exit(0)


def what_is_in(me: Me, directory: str) -> list[str]:
    import os

    return sorted(os.listdir(f"{me.root}/{directory}"))


def through(me: Me, count: int) -> list[str]:
    """What the links in `data` lead to from inside."""
    import os

    found = []
    for n in range(count):
        try:
            os.stat(f"{me.root}/data/link{n}")
        except OSError as error:
            found.append(error.strerror)
    return found


@pytest.mark.timeout(120)
def test_links_in_data_lead_nowhere_and_what_a_run_left_is_gone_but_data(
    session: Hostile, bait: dict[str, Path]
) -> None:
    """Row 31."""
    bundle = session.policy("org.laptop.Leaves", '[files]\ndocuments = "own"\n')
    place = session.home / ".sugar/default/org.laptop.Leaves"
    targets = [
        *(str(bait["key"]), str(bait["key"].parent), str(session.home)),
        *("/etc/shadow", "/root", str(bait["other"].parent)),
    ]
    session.home.chmod(0o700)
    with session.launch(bundle) as witness:
        witness.do(leave, targets)
        kept = witness.do(what_is_in, "data")
        witness.send(dig)
        assert witness.process.wait(60) in (0, 128 + 9)
    assert nothing_running(session)
    assert list((place / "instance").iterdir()) == []
    assert list((place / "tmp").iterdir()) == []
    assert len(list((place / "data").iterdir())) == len(kept)
    with session.launch(bundle) as witness:
        assert witness.do(what_is_in, "data") == kept
        assert witness.do(what_is_in, "instance") == []
        # Those in the person's home lead to a path that is not there.
        assert (
            witness.do(through, len(targets))[:2] == ["No such file or directory"] * 2
        )
        for name in ("link0", "link1/id", "link2/.ssh/id", "link5/kept"):
            said = witness.do(create, {"title": "x"}, f"{place}/data/{name}")
            assert said[0] == "error"
    for n, target in enumerate(targets):
        assert os.readlink(place / f"data/link{n}") == target
    assert session.person.do(find_all) == ["ok", [], 0]


def nothing_running(session: Hostile) -> bool:
    """Of a sandbox: no process beside it, no socket, no record (waits for the last)."""

    def gone() -> bool:
        return not left(session)

    assert until(gone), left(session)
    return True


def left(session: Hostile) -> list[str]:
    running = session.home / ".sugar/default/isolauncher/running"
    return [
        *(str(p) for p in session.processes("isolauncher: mediator(")),
        *(str(p) for p in session.filters()),
        *(p.name for p in session.runtime.iterdir() if "isolauncher" in p.name),
        *(p.name for p in (running.iterdir() if running.exists() else ())),
    ]


def test_whatever_ends_a_run_nothing_is_left_beside_it(session: Hostile) -> None:
    for end in ("itself", "stopped", "killed inside", "killed outside"):
        with session.launch() as witness:
            assert left(session)
            pid = witness.do(my_pid) if end == "killed inside" else 0
            if end == "itself":
                witness.end()
            elif end == "stopped":
                session.session.stop(witness.id)
            elif end == "killed inside":
                witness.send(kill_all)
                assert pid > 0
            else:
                rows = session.session.running()
                (row,) = [row for row in rows if row["id"] == witness.id]
                os.kill(row["pid"], signal.SIGKILL)
            witness.process.wait(30)
        assert nothing_running(session), end


def my_pid(me: Me) -> int:
    import os

    return os.getpid()


def kill_all(me: Me) -> None:
    import contextlib
    import os
    import signal

    with contextlib.suppress(ProcessLookupError):  # it is alone
        os.kill(-1, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def fill(me: Me, how: str) -> None:
    """For ever, or until somebody ends it."""
    import os

    top = f"{me.root}/data"
    if how == "closed":
        os.mkdir(f"{top}/inner")
        inner = os.open(f"{top}/inner", os.O_RDONLY)
        os.chmod(top, 0)
    else:
        inner = os.open(top, os.O_RDONLY)
    block = b"x" * 65536
    for n in range(10**9):
        if how == "deep" and n < 100:
            os.mkdir("deep", dir_fd=inner)
            inner = os.open("deep", os.O_RDONLY, dir_fd=inner)
            continue
        flags = os.O_CREAT | os.O_WRONLY
        fd = os.open(f"file{n}", flags, dir_fd=inner)
        if how == "many":
            os.close(fd)
            if n == 100_000:
                break
        else:
            os.write(fd, block)
            os.close(fd)
            if n == 200:
                break
    while True:
        pass


@pytest.mark.parametrize(
    "how",
    [
        "large",
        "closed",
        *(pytest.param(w, marks=pytest.mark.long) for w in ("deep", "many")),
    ],
)
def test_who_stores_more_than_it_may_is_stopped_and_it_is_said(
    session: Hostile, how: str
) -> None:
    """Row 37."""
    bundle = session.policy("org.laptop.Fills", '[files]\ndata = "1M"\n')
    report = session.home / "report.json"
    with session.launch(bundle, "--report", str(report)) as witness:
        witness.send(fill, how)
        assert witness.process.wait(60) == 128 + 9
        log = session.log.read_text().splitlines()
        (line,) = [line for line in log if witness.id in line]
        assert line.endswith("[data-full]"), line
        assert line.startswith(f"data: {witness.id} is stopped: its directories hold ")
        assert witness.errors.read_text() == f"isolauncher: {line}\n"
        assert json.loads(report.read_text())["exit"] == {
            "status": 137,
            "signal": 9,
            "reason": line,
        }
    assert nothing_running(session)
    place = session.home / ".sugar/default/org.laptop.Fills"
    assert list((place / "instance").iterdir()) == []
    # What it kept is there; whoever launches it is told if that is no use.
    if how == "deep":
        with pytest.raises(AssertionError, match="data-unfit"), session.launch(bundle):
            pass
    else:
        with session.launch(bundle) as witness:
            assert witness.do(what_is_in, "data")
            assert witness.do(what_happens_for, 2.5) == "nothing"
    files.remove(str(place / "data"))


def what_happens_for(me: Me, seconds: float) -> str:
    """Long enough to be counted and stopped."""
    import select

    select.select([], [], [], seconds)
    return "nothing"


# ------------------------------------------------------------- what is killed beside it


def bus_and_journal(me: Me) -> list[str]:
    """How each answers; one that is gone says so, and is looked for once more."""
    shell = ("org.laptop.Shell", "/org/laptop/Shell", "org.laptop.Shell")
    said = []
    for _ in range(2):
        for answer in (
            me.call(*shell, "ActivateActivity", "(s)", ("x",), seconds=5),
            me.store("find_ids", "(a{sv})", ({},), seconds=5),
        ):
            said.append(answer[0])
    return said


def again(me: Me) -> str:
    me._bus = None
    try:
        return str(me.find()[0])
    except Exception as error:
        return type(error).__name__


def test_without_its_mediator_it_has_no_bus_and_nothing_else_opens(
    session: Hostile, bait: dict[str, Path]
) -> None:
    with session.launch() as witness:
        assert witness.do(bus_and_journal) == ["ok"] * 4
        os.kill(session.mediator(witness.id), signal.SIGKILL)
        assert until(lambda: not session.filters())
        session.shell.heard()
        assert witness.do(bus_and_journal) == ["error"] * 4
        assert witness.do(again) != "ok"
        assert session.shell.heard() == []
        # Its own it has still, and nothing more of the person's than before.
        assert witness.do(exists, f"{witness.do(root_of)}/data") is True
        assert witness.do(exists, str(bait["key"])) is False
    # What the mediator would have removed is removed by the next that looks.
    assert left(session)
    clear(session)
    assert nothing_running(session)
    place = session.home / ".sugar/default/org.laptop.Hostile"
    assert list((place / "instance").iterdir()) == []
    assert list((place / "tmp").iterdir()) == []


def clear(session: Hostile) -> None:
    """As a service does when it starts."""
    source = (
        "from isolauncher.session.mediators import Mediators\n"
        "with Mediators.start() as mediators:\n    mediators.clear([])\n"
    )
    where = session.session
    words = (sys.executable, "-c", source)
    process = where.desktop.start(*words, environment=where.environment)
    assert process.wait(30) == 0


def test_what_still_runs_is_not_cleared_away(session: Hostile) -> None:
    with session.launch() as witness:
        instance = session.home / ".sugar/default/org.laptop.Hostile/instance"
        clear(session)
        # By a lock that its mediator holds, whatever list of those that run was had.
        assert [p.name for p in instance.iterdir()] == [witness.id]
        assert witness.do(bus_and_journal) == ["ok"] * 4
    assert nothing_running(session)


def test_without_the_sessions_service_it_goes_on_with_bus_and_journal(
    session: Hostile,
) -> None:
    with session.launch() as witness:
        # What it says comes before the service has answered who launched it.
        assert until(lambda: session.person.do(listed) == [witness.id])
        session.service.kill()
        session.service.wait()
        assert witness.do(bus_and_journal) == ["ok"] * 4
        session.serve()
        assert until(lambda: session.person.do(listed) == [witness.id])
        assert witness.do(bus_and_journal) == ["ok"] * 4
        assert witness.do(create, {"title": "after"})[0] == "ok"
    assert nothing_running(session)
    for one in session.person.do(find_all)[1]:
        session.person.do(delete, one["uid"])


def listed(me: Me) -> list[str]:
    name = "org.sugarlabs.IsoLauncher1"
    said = me.call(name, "/org/sugarlabs/IsoLauncher1", f"{name}.Manager", "List")
    return [str(path).rpartition("/")[2] for path in said[1]]


def test_a_bundle_of_the_persons_own_is_nobody_s_namesake(session: Hostile) -> None:
    """Row 62: it calls itself what it likes, and has nothing of who is called so."""
    place = session.home / "Activities"
    bundle = bundles.make(
        *(place / "mine",),
        id="org.laptop.Terminal",
        exec="attack",
        programs={"attack": PROGRAM.read_text()},
        owner=session.session.uid,
    )
    os.chown(place, session.session.uid, session.session.uid)
    made = {"title": "of Terminal", "activity": "org.laptop.Terminal"}
    made |= {"isolauncher-made-by": "system:org.laptop.Terminal"}
    answer, uid = session.person.do(create, made)
    assert answer == "ok"
    session.shell.heard()
    with session.launch(bundle) as witness:
        (row,) = [r for r in session.session.running() if r["id"] == witness.id]
        assert row["policy"] == "untrusted"
        said = witness.do(call_all, METHODS)
        assert witness.do(find_all)[1:] == [[], 0]
    assert arrived(session) == []
    for (name, *_), answer in zip(METHODS, said, strict=True):
        assert answer in REFUSALS or name == MANAGER, (name, answer)
    assert nothing_running(session)
    session.person.do(delete, uid)


# --------------------------------------------------------- a home that cannot be mapped


@pytest.fixture
def unmapped(session: Hostile) -> Iterator[Path]:
    """The data of a bundle, on a file system that has no id-mapped mounts."""
    place = session.home / ".sugar/default/org.laptop.Overlay"
    session.own(place / "data/kept", b"kept")
    session.own(place / "data/changed", b"before")
    session.own(place / "data/below/removed", b"removed")
    (place / "data/link").symlink_to(session.home)
    session.policy("org.laptop.Overlay", "")
    for path in (place, *place.rglob("*")):
        os.lchown(path, session.session.uid, session.session.uid)
    with bundles.overlay(place):
        yield place
    files.remove(str(place))


def work(me: Me) -> list[str]:
    import os

    os.chdir(me.root + "/data")
    seen = sorted(os.listdir("."))
    with open("changed", "w") as file:
        file.write("after")
    os.unlink("below/removed")
    os.mkdir("below/new")
    with open("below/new/file", "w") as file:
        file.write("new")
    os.symlink("/etc", "below/way")
    os.mkfifo("fifo")
    os.mkdir("closed")
    with open("closed/file", "w") as file:
        file.write("closed")
    os.chmod("closed", 0)
    for name in ("instance", "tmp"):
        with open(f"{me.root}/{name}/note", "w") as file:
            file.write("passing")
    return seen


def test_on_overlayfs_it_works_in_memory_and_what_it_keeps_is_there_after(
    journal: Hostile, unmapped: Path
) -> None:
    bundle = journal.bundle("org.laptop.Overlay")
    scratch = journal.session.service.run_dir / "scratch"
    mounts = Path("/proc/self/mountinfo").read_text()
    with journal.launch(bundle) as witness:
        assert os.path.ismount(scratch / witness.id)
        assert witness.do(work) == ["below", "changed", "kept", "link"]
        # Its files are files of its own for the Journal, too.
        path = str(unmapped / "data/changed")
        assert witness.do(create, {"title": "stored"}, path)[0] == "ok"
        assert (unmapped / "data/changed").read_bytes() == b"before"
    assert nothing_running(journal)
    assert until(lambda: os.listdir(scratch) == [])
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert contents(journal) == {"stored": b"after"}
    data = unmapped / "data"
    assert (data / "kept").read_bytes() == b"kept"
    assert (data / "changed").read_bytes() == b"after"
    assert (data / "below/new/file").read_bytes() == b"new"
    assert (data / "closed/file").read_bytes() == b"closed"
    assert os.readlink(data / "below/way") == "/etc"
    assert os.readlink(data / "link") == str(journal.home)
    names = {str(path.relative_to(data)) for path in data.rglob("*")}
    assert names.isdisjoint({"fifo", "below/removed"})
    for path in data.rglob("*"):
        assert path.lstat().st_uid == journal.session.uid
    assert list((unmapped / "instance").iterdir()) == []
    assert list((unmapped / "tmp").iterdir()) == []
    with journal.launch(bundle) as witness:
        assert witness.do(what_is_in, "data") == sorted(os.listdir(data))
    assert nothing_running(journal)


def test_on_overlayfs_a_killed_mediator_leaves_what_was_kept_before(
    session: Hostile, unmapped: Path
) -> None:
    scratch = session.session.service.run_dir / "scratch"
    with session.launch(session.bundle("org.laptop.Overlay")) as witness:
        witness.do(work)
        os.kill(session.mediator(witness.id), signal.SIGKILL)
        assert until(lambda: not session.filters())
    assert until(lambda: os.listdir(scratch) == [])
    assert (unmapped / "data/changed").read_bytes() == b"before"
    assert (unmapped / "data/below/removed").read_bytes() == b"removed"
    clear(session)
    assert nothing_running(session)
