# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person chooses in the Journal's window exists for the activity, to be read.

A hostile activity asks for choosers beside a stand-in of the shell's, which tells what
it was asked to show and says what the person chose.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.desktop import missing
from support.hostile import Hostile, Witness, hostile
from support.powers import need, sandboxes

Me = Any
"""hostile_program.Me: the functions that have one run in that program."""

SECRET = "what was written for somebody else"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
RESPONSE, CANCELLED = "ObjectChooserResponse", "ObjectChooserCancelled"


@pytest.fixture(scope="module")
def session() -> Iterator[Hostile]:
    need(sandboxes())
    need(missing())
    with hostile() as made:
        yield made


# What runs in the activity, or as the person.


def listen(me: Me) -> None:
    """Hear whatever is said of choosers, and of the name, from now on."""
    from gi.repository import Gio

    me.heard, journal = [], "org.laptop.Journal"

    def heard(bus, sender, path, interface, member, body):  # type: ignore[no-untyped-def]
        me.heard.append([member, *body.unpack()])

    none = Gio.DBusSignalFlags.NONE
    me.bus.signal_subscribe(journal, journal, None, None, None, none, heard)
    me.driver("GetId")


def heard(me: Me, count: int) -> list[list[str]]:
    """Signals since it was asked last; waits for ``count``, and for what comes with
    the answer to a question."""
    from gi.repository import GLib

    context = GLib.MainContext.default()
    while len(me.heard) < count:
        context.iteration(True)
    me.store("find_ids", "(a{sv})", ({},))
    while context.iteration(False):
        pass
    found, me.heard = me.heard, []
    return list(found)


def choose(me: Me, window: int = 7, what: str = "Image", *more: Any) -> Any:
    name = "org.laptop.Journal"
    about = (name, "/org/laptop/Journal", name)
    if more:
        kinds, values = "(issb)", (window, what, *more)
        return me.call(*about, "ChooseObjectWithFilter", kinds, values)
    return me.call(*about, "ChooseObject", "(is)", (window, what))


def forge(me: Me, shown: str, uid: str) -> None:
    from gi.repository import GLib

    name, path = "org.laptop.Journal", "/org/laptop/Journal"
    for destination in (None, name, *me.peers):
        body = GLib.Variant("(ss)", (shown, uid))
        me.bus.emit_signal(destination, path, name, "ObjectChooserResponse", body)
    me.driver("GetId")


def peers(me: Me) -> list[str]:
    me.peers = [n for n in me.driver("ListNames")[1] if n.startswith(":")]
    return list(me.peers)


def say(me: Me, member: str, *words: str) -> Any:
    """Have the shell say so."""
    name = f"org.laptop.Journal.{member}"
    values = ("/org/laptop/Journal", name, words)
    return me.call("org.laptop.Shell", "/", "org.laptop.Test", "Emit", "(ssas)", values)


def let_go(me: Me) -> Any:
    values = ("org.laptop.Journal",)
    return me.call("org.laptop.Shell", "/", "org.laptop.Test", "LetGo", "(s)", values)


def keep(me: Me, title: str, text: str) -> Any:
    import os
    import tempfile

    fd, path = tempfile.mkstemp()
    os.write(fd, text.encode())
    os.close(fd)
    return me.create({"title": title}, path, True)[1]


def read(me: Me, uid: str) -> Any:
    said = me.store("get_filename", "(s)", (uid,))
    if said[0] == "error":
        return said
    with open(said[1]) as file:
        return file.read()


def properties(me: Me, uid: str) -> Any:
    return me.store("get_properties", "(s)", (uid,))[0]


def harm(me: Me, uid: str) -> list[str]:
    update = me.update(uid, {"title": "mine now"})
    return [update[1], me.store("delete", "(s)", (uid,))[1]]


def titles(me: Me) -> list[str]:
    return sorted(one["title"] for one in me.find({}, ["title"])[1])


def shown(session: Hostile) -> list[dict[str, Any]]:
    return [one for one in session.shell.heard() if "shown" in one]


def chosen(session: Hostile, witness: Witness) -> tuple[str, str]:
    """A chooser that is open: by the activity's name, and by the shell's."""
    said = witness.do(choose)
    assert said[0] == "ok", said
    (one,) = shown(session)
    return said[1], one["shown"]


def test_what_the_person_chooses_exists_to_be_read_and_nothing_else_does(
    session: Hostile,
) -> None:
    person = session.person
    uids = [person.do(keep, title, SECRET) for title in ("a letter", "a diary")]
    with session.launch() as witness:
        witness.do(listen)
        ours, shells = chosen(session, witness)
        assert ours != shells
        assert witness.do(properties, uids[0]) == "error"
        # Not by itself, not by another program's word, not by another's chooser.
        for who in (witness, person):
            who.do(peers)
            for name in (ours, shells):
                who.do(forge, name, uids[0])
        person.do(say, RESPONSE, ours, uids[0])
        person.do(say, RESPONSE, "another's", uids[0])
        assert witness.do(properties, uids[0]) == "error"
        assert witness.do(heard, 0) == []
        person.do(say, RESPONSE, shells, uids[0])
        assert witness.do(heard, 1) == [[RESPONSE, ours, uids[0]]]
        assert witness.do(read, uids[0]) == SECRET
        assert witness.do(titles) == ["a letter"]
        assert witness.do(harm, uids[0]) == [DENIED, DENIED]
        assert witness.do(properties, uids[1]) == "error"
        # It has been answered: a second answer is no chooser's.
        person.do(say, RESPONSE, shells, uids[1])
        assert witness.do(heard, 0) == []
        assert witness.do(properties, uids[1]) == "error"
        with session.launch() as other:
            assert other.do(properties, uids[0]) == "error"
    assert person.do(read, uids[0]) == SECRET
    with session.launch() as witness:
        assert witness.do(properties, uids[0]) == "error"  # it was for that run


def test_what_is_not_chosen_is_not_given(session: Hostile) -> None:
    person = session.person
    with session.launch() as witness:
        witness.do(listen)
        for words in ((CANCELLED,), (RESPONSE, "/media/stick/letter.txt")):
            ours, shells = chosen(session, witness)
            person.do(say, words[0], shells, *words[1:])
            assert witness.do(heard, 1) == [[CANCELLED, ours]]
        ours, _ = chosen(session, witness)
        person.do(let_go)
        assert witness.do(heard, 1) == [[CANCELLED, ours]]
        assert witness.do(choose)[0] == "error"
        assert session.shell.witness.process.poll() is None
    person.do(own_again, session.shell.unique)


def own_again(me: Me, unique: str) -> Any:
    """Of the shell's: LetGo and back, so that others find it."""
    name = ("org.laptop.Journal",)
    return me.call(unique, "/", "org.laptop.Test", "TakeBack", "(s)", name)


JOURNAL = """
import os, sys
for name, value in (
    ("SUGAR_HOME", os.path.expanduser("~/.sugar")),
    ("SUGAR_PROFILE", "default"),
    ("SUGAR_SCALING", "72"),
    ("SUGAR_GROUP_LABELS", "/usr/share/sugar/data/group-labels.defaults"),
    ("SUGAR_MIME_DEFAULTS", "/usr/share/sugar/data/mime.defaults"),
    ("SUGAR_ACTIVITIES_HIDDEN", "/usr/share/sugar/data/activities.hidden"),
):
    os.environ.setdefault(name, value)
import gi
for name in ("Gtk", "Gdk", "GdkX11", "Wnck"):
    gi.require_version(name, "3.0")
from gi.repository import GLib, Gtk
from dbus.mainloop.glib import DBusGMainLoop
DBusGMainLoop(set_as_default=True)
from jarabe.journal.journalactivity import JournalActivityDBusService
from jarabe.journal.objectchooser import ObjectChooser
service = JournalActivityDBusService(None)

def look():
    shown = [w for w in Gtk.Window.list_toplevels() if isinstance(w, ObjectChooser)]
    if not shown:
        return True
    print("shown", flush=True)
    shown[0]._list_view.emit("entry-activated", sys.stdin.readline().strip())
    return False

GLib.timeout_add(50, look)
print("up", flush=True)
Gtk.main()
"""


def choose_as_activities_do(me: Me) -> list[Any]:
    """Insert image, Import, Choose…: sugar3's own part of it."""
    import dbus
    from dbus.mainloop.glib import DBusGMainLoop

    DBusGMainLoop(set_as_default=True)
    dbus.SessionBus()
    from gi.repository import Gtk
    from sugar3.graphics.objectchooser import ObjectChooser

    chooser = ObjectChooser(None, what_filter="")
    accepted = chooser.run() == Gtk.ResponseType.ACCEPT
    found = chooser.get_selected_object()
    with open(found.file_path) as file:
        text = file.read()
    return [accepted, found.metadata["title"], text]


def test_sugars_own_chooser_is_shown_and_sugars_own_toolkit_hears_of_it(
    session: Hostile,
) -> None:
    person = session.person
    uid = person.do(keep, "a drawing", SECRET)
    person.do(let_go)
    with open(session.session.desktop.top / "journal.log", "wb") as errors:
        journal = session.session.desktop.start(
            *("/usr/bin/python3", "-c", JOURNAL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert journal.stdin is not None
        assert journal.stdout is not None
        assert journal.stdout.readline() == b"up\n"
        with session.launch() as witness:
            witness.send(choose_as_activities_do)
            assert journal.stdout.readline() == b"shown\n"
            journal.stdin.write(f"{uid}\n".encode())
            journal.stdin.flush()
            assert witness.answer() == [True, "a drawing", SECRET]
    finally:
        journal.kill()
        journal.communicate()
        person.do(own_again, session.shell.unique)


def test_choosers_are_asked_for_in_bounds(session: Hostile) -> None:
    with session.launch() as witness:
        good = (3, "org.laptop.Write", "mime_by_activity", True)
        ids = [
            witness.do(choose, *good)[1],
            witness.do(choose, -3, "")[1],
            witness.do(choose, 0, "text/plain", "generic_mime", False)[1],
        ]
        assert len({*ids}) == 3
        assert [tuple(one["values"]) for one in shown(session)] == [
            good,
            (0, ""),
            (0, "text/plain", "generic_mime", False),
        ]
        assert witness.do(choose)[1] == LIMITS
        for bad in (
            *((1, "<b>"), (1, "x" * 256), (1, "a\nb")),
            *((1, "Image", "sql", False), (1, "Image", "", True)),
        ):
            assert witness.do(choose, *bad)[1] == INVALID
        assert shown(session) == []


def test_a_policy_of_its_own_objects_alone_has_no_chooser(session: Hostile) -> None:
    bundle = session.policy("org.laptop.Owner", '[files]\ndocuments = "own"\n')
    with session.launch(bundle) as witness:
        assert witness.do(choose)[0] == "error"
    assert shown(session) == []
