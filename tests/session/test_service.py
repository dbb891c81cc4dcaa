# SPDX-License-Identifier: GPL-3.0-or-later
"""isolauncher on the session bus, held against what is written down of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

import pytest
from support.daemons import TOP
from support.desktop import missing
from support.hostile import Hostile, hostile
from support.peers import until
from support.powers import need, sandboxes
from support.sugar import NAME

from isolauncher import request

PATH = "/org/sugarlabs/IsoLauncher1"
MANAGER = f"{NAME}.Manager"
ACTIVITY = f"{NAME}.Activity"
WRITTEN = TOP / "integration/dbus/org.sugarlabs.IsoLauncher1.xml"

Me = Any
"""hostile_program.Me: the functions that have one run in that program."""


@pytest.fixture(scope="module")
def session() -> Iterator[Hostile]:
    need(sandboxes())
    need(missing())
    with hostile() as made:
        yield made


@pytest.fixture(autouse=True)
def _the_service_holds_no_more_than_before(session: Hostile) -> Iterator[None]:
    if session.service.poll() is not None:
        session.serve()
    process, before = session.service, descriptors(session)
    yield
    for activity_id in going(session):
        session.session.stop(activity_id)
    if session.service is process and process.poll() is None:
        assert until(lambda: descriptors(session) <= before), descriptors(session)


def descriptors(session: Hostile) -> int:
    """How many that belong to somebody; GLib's own are its own affair."""
    place = f"/proc/{session.service.pid}/fd"
    found = []
    for name in os.listdir(place):
        with suppress(FileNotFoundError):  # closed in between
            found.append(os.readlink(f"{place}/{name}"))
    return sum(1 for one in found if not one.startswith(("anon_inode", "socket")))


def going(session: Hostile) -> list[str]:
    """Those that the daemon has seen the end of are listed for a while."""
    rows = session.session.running()
    return [row["id"] for row in rows if row["state"] != "exited"]


# What the program of the person's does; each runs there.


def call(
    me: Me, member: str, kind: str | None = None, values: tuple[Any, ...] = ()
) -> Any:
    name, path = "org.sugarlabs.IsoLauncher1", "/org/sugarlabs/IsoLauncher1"
    return me.call(name, path, f"{name}.Manager", member, kind, values)


def introspect(me: Me, path: str) -> str:
    bus = "org.freedesktop.DBus.Introspectable"
    said = me.call("org.sugarlabs.IsoLauncher1", path, bus, "Introspect")
    return str(said[1])


def listen(me: Me) -> None:
    """Keep every signal of the service's in ``me.heard``."""
    from gi.repository import Gio

    me.heard = []

    def heard(_: Any, sender: str, path: str, about: str, name: str, body: Any) -> None:
        me.heard.append([path, about.rpartition(".")[2], name, body.unpack()])

    if hasattr(me, "watch"):
        me.bus.signal_unsubscribe(me.watch)
    me.watch = me.bus.signal_subscribe(
        *("org.sugarlabs.IsoLauncher1", None, None, None, None),
        *(Gio.DBusSignalFlags.NONE, heard),
    )
    me.driver("GetId")


def launch(
    me: Me, bundle: str, options: str, names: list[str], closed: bool = False
) -> Any:
    """``options`` is a dictionary as source; ``names`` of descriptors to give.

    stdin and stdout are ends of pipes whose others are ``me.to`` and ``me.of``.
    """
    import os

    from gi.repository import Gio, GLib

    stdin, me.to = os.pipe()
    me.of, stdout = os.pipe()
    given = Gio.UnixFDList.new()
    handles = {}
    for name in names:
        handles[name] = given.append(stdin if name == "stdin" else stdout)
    os.close(stdin)
    os.close(stdout)
    values = GLib.Variant(
        "(sa{sv}a{sh})",
        (bundle, eval(options, {"GLib": GLib}), handles),  # noqa: S307
    )
    name, path = "org.sugarlabs.IsoLauncher1", "/org/sugarlabs/IsoLauncher1"
    words = (name, path, f"{name}.Manager", "Launch", values, None)
    try:
        answer, _ = me.bus.call_with_unix_fd_list_sync(
            *words, Gio.DBusCallFlags.NONE, 60_000, given, None
        )
    except GLib.Error as error:
        os.close(me.to)
        os.close(me.of)
        remote = Gio.dbus_error_get_remote_error(error)
        text = error.message.removeprefix(f"GDBus.Error:{remote}: ")
        return ["error", remote, text]
    return ["ok", *answer.unpack()]


def first_line(me: Me) -> Any:
    import json
    import os

    data = b""
    while not data.endswith(b"\n"):
        data += os.read(me.of, 65536)
    return json.loads(data)


def let_end(me: Me) -> None:
    import os

    os.close(me.to)
    os.close(me.of)


def properties(me: Me, path: str) -> Any:
    name = "org.sugarlabs.IsoLauncher1"
    about = "org.freedesktop.DBus.Properties"
    return me.call(name, path, about, "GetAll", "(s)", (f"{name}.Activity",))


def property_errors(me: Me, path: str) -> list[Any]:
    from gi.repository import GLib

    name = "org.sugarlabs.IsoLauncher1"
    about = (name, path, "org.freedesktop.DBus.Properties")
    value = GLib.Variant("s", "x")
    return [
        me.call(*about, "Get", "(ss)", (f"{name}.Activity", "Pid")),
        me.call(*about, "Get", "(ss)", (f"{name}.Activity", "Nothing")),
        me.call(*about, "Get", "(ss)", (f"{name}.Manager", "Pid")),
        me.call(*about, "Set", "(ssv)", (f"{name}.Activity", "Id", value)),
    ]


def managed(me: Me) -> Any:
    name, path = "org.sugarlabs.IsoLauncher1", "/org/sugarlabs/IsoLauncher1"
    about = "org.freedesktop.DBus.ObjectManager"
    return me.call(name, path, about, "GetManagedObjects")


def stop(me: Me, path: str, grace_ms: int) -> Any:
    name = "org.sugarlabs.IsoLauncher1"
    return me.call(name, path, f"{name}.Activity", "Stop", "(u)", (grace_ms,))


def hear(me: Me, wanted: str) -> list[Any]:
    """The signals up to the one that is ``wanted``."""
    from gi.repository import GLib

    while not any(one[2] == wanted for one in me.heard):
        GLib.MainContext.default().iteration(True)
    heard, me.heard = me.heard, []
    return heard


def interfaces(text: str, names: tuple[str, ...]) -> dict[str, set[tuple[str, ...]]]:
    """Members with their types and directions, of the interfaces with those names."""
    found: dict[str, set[tuple[str, ...]]] = {}
    top = ElementTree.fromstring(text)  # noqa: S314 (our own)
    for interface in top.iter("interface"):
        name = interface.get("name", "")
        if name in names:
            found[name] = {member(one) for one in interface}
    return found


def member(one: ElementTree.Element) -> tuple[str, ...]:
    if one.tag == "property":
        return ("property", *(str(one.get(k)) for k in ("name", "type", "access")))
    return (
        one.tag,
        str(one.get("name")),
        *(f"{arg.get('direction') or 'out'} {arg.get('type')}" for arg in one),
    )


STAYS = "{'activity-id': GLib.Variant('s', 'stays')}"


def test_what_is_written_down_is_what_the_service_says_of_itself(
    session: Hostile,
) -> None:
    names = (MANAGER, "org.freedesktop.DBus.ObjectManager")
    written = interfaces(WRITTEN.read_text(), (*names, ACTIVITY))
    assert interfaces(session.person.do(introspect, PATH), names) == {
        name: written[name] for name in names
    }
    bundle = str(session.bundle())
    _, path = session.person.do(launch, bundle, STAYS, ["stdin", "stdout"])
    said = session.person.do(introspect, path)
    assert interfaces(said, (ACTIVITY,)) == {ACTIVITY: written[ACTIVITY]}
    session.person.do(listen)
    session.person.do(let_end)
    session.person.do(hear, "InterfacesRemoved")


def test_an_activity_is_there_with_all_that_was_asked_for_until_it_ends(
    session: Hostile,
) -> None:
    uid = "00000000-0000-4000-8000-000000000000"
    own = session.session.desktop.environment
    names = ("HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    environment = {"LANG": "C.UTF-8"} | {name: own[name] for name in names}
    options = (
        "{'activity-id': GLib.Variant('s', 'whole'),"
        f" 'object-id': GLib.Variant('s', '{uid}'),"
        " 'uri': GLib.Variant('s', 'file:///there'),"
        " 'invited': GLib.Variant('b', True),"
        f" 'environment': GLib.Variant('a{{ss}}', {environment})}}"
    )
    person = session.person
    person.do(listen)
    streams = ["stdin", "stdout", "stderr"]
    said = person.do(launch, str(session.bundle()), options, streams)
    path = f"{PATH}/Activity/whole"
    assert said == ["ok", path]
    inner, words = person.do(first_line)["said"]
    assert inner == session.session.uid
    assert words == [
        *("-b", "org.laptop.Hostile", "-a", "whole"),
        *("-o", uid),
        *("-u", "file:///there", "-i"),
    ]
    (row,) = [row for row in session.session.running() if row["id"] == "whole"]
    values = {
        "Id": "whole",
        "BundleId": "org.laptop.Hostile",
        "Pid": row["pid"],
        "Uid": row["uid"],
        "Policy": "sugar",
        "State": "running",
    }
    assert person.do(properties, path) == ["ok", values]
    assert person.do(call, "List") == ["ok", [path]]
    assert person.do(managed) == ["ok", {path: {ACTIVITY: values}}]
    got, unknown, other, written = person.do(property_errors, path)
    assert got == ["ok", row["pid"]]
    assert unknown[1] == other[1] == "org.freedesktop.DBus.Error.UnknownProperty"
    assert written[1] == "org.freedesktop.DBus.Error.PropertyReadOnly"
    (added,) = person.do(hear, "InterfacesAdded")
    told = [path, {ACTIVITY: values}]
    assert added == [PATH, "ObjectManager", "InterfacesAdded", told]
    person.do(let_end)
    heard = person.do(hear, "InterfacesRemoved")
    assert heard == [
        [path, "Properties", "PropertiesChanged", [ACTIVITY, {"State": "exited"}, []]],
        [path, "Activity", "Exited", [0, 0, ""]],
        [PATH, "ObjectManager", "InterfacesRemoved", [path, [ACTIVITY]]],
    ]
    assert person.do(call, "List") == ["ok", []]
    assert person.do(properties, path)[0] == "error"


def test_stop_returns_when_it_is_gone_and_says_what_ended_it(session: Hostile) -> None:
    person = session.person
    for grace, ended in ((30_000, [143, 15, ""]), (0, [137, 9, ""])):
        person.do(listen)
        _, path = person.do(launch, str(session.bundle()), "{}", ["stdin", "stdout"])
        person.do(first_line)
        assert person.do(stop, path, grace) == ["ok"]
        assert going(session) == []
        heard = person.do(hear, "InterfacesRemoved")
        (exited,) = [one for one in heard if one[2] == "Exited"]
        assert exited == [path, "Activity", "Exited", ended]
        states = [one[3][1]["State"] for one in heard if one[2] == "PropertiesChanged"]
        assert states == ["stopping", "exited"]
        person.do(let_end)


def test_whoever_waits_hears_why_it_was_stopped(session: Hostile) -> None:
    person, reason = session.person, "data: it is full  [data-full]"
    person.do(listen)
    _, path = person.do(launch, str(session.bundle()), "{}", ["stdin", "stdout"])
    person.do(first_line)
    asked = request.Stop(ids=(path.rpartition("/")[2],), grace_ms=30_000, reason=reason)
    session.session.service.ask(request.encode(asked))
    heard = person.do(hear, "InterfacesRemoved")
    assert [path, "Activity", "Exited", [143, 15, reason]] in heard
    person.do(let_end)


REFUSED = {
    "an option": ("{'nice': GLib.Variant('i', 1)}", [], "RequestUnknownOption"),
    "a policy": (
        "{'policy': GLib.Variant('s', 'default')}",
        [],
        "RequestUnknownOption",
    ),
    "an id of another type": (
        "{'activity-id': GLib.Variant('i', 1)}",
        [],
        "RequestWrongType",
    ),
    "an invitation of another type": (
        "{'invited': GLib.Variant('s', 'yes')}",
        [],
        "RequestWrongType",
    ),
    "an environment of another type": (
        "{'environment': GLib.Variant('a{sv}', {})}",
        [],
        "RequestWrongType",
    ),
    "an environment without a home": (
        "{'environment': GLib.Variant('a{ss}', {'LANG': 'C'})}",
        [],
        "RequestBadHome",
    ),
    "an id that is none": (
        "{'activity-id': GLib.Variant('s', '../x')}",
        [],
        "RequestBadId",
    ),
    "a descriptor": ("{}", ["stdin", "bundle"], "RequestUnknownDescriptor"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_meaning_is_refused_and_nothing_is_launched(
    session: Hostile, what: str
) -> None:
    options, names, code = REFUSED[what]
    said = session.person.do(launch, str(session.bundle()), options, names)
    assert said[0] == "error"
    assert said[1] == f"{NAME}.Error.{code}", said
    assert session.person.do(call, "List") == ["ok", []]
    assert going(session) == []


def odd(me: Me, member: str, kind: str, values: str, count: int) -> Any:
    """A message with a body of ``kind`` and ``count`` descriptors; its error."""
    import os

    from gi.repository import Gio, GLib

    name, path = "org.sugarlabs.IsoLauncher1", "/org/sugarlabs/IsoLauncher1"
    message = Gio.DBusMessage.new_method_call(name, path, f"{name}.Manager", member)
    message.set_body(GLib.Variant(kind, eval(values)))  # noqa: S307
    given = Gio.UnixFDList.new()
    for _ in range(count):
        fd = os.open("/dev/null", os.O_RDONLY)
        given.append(fd)
        os.close(fd)
    if count:
        message.set_unix_fd_list(given)
    flags = Gio.DBusSendMessageFlags.NONE
    said, _ = me.bus.send_message_with_reply_sync(message, flags, 60_000, None)
    return [said.get_error_name(), *said.get_body().unpack()]


ODD = {
    "too few": ("Launch", "(s)", "('/nowhere',)", 0, "InvalidArgs"),
    "too many": ("Launch", "(sa{sv}a{sh}s)", "('/', {}, {}, 'x')", 0, "InvalidArgs"),
    "of other types": ("Launch", "(sss)", "('/', 'a', 'b')", 0, "InvalidArgs"),
    "what takes none": ("List", "(s)", "('x',)", 0, "InvalidArgs"),
    "what there is not": ("Nosuch", "(s)", "('x',)", 0, "UnknownMethod"),
    "a descriptor that did not come": (
        *("Launch", "(sa{sv}a{sh})", "('/', {}, {'stdin': 7})"),
        *(1, "InvalidArgs"),
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_a_message_that_is_not_as_it_is_written_down_is_refused_in_a_sentence(
    session: Hostile, what: str
) -> None:
    *message, kind = ODD[what]
    error, text = session.person.do(odd, *message)
    assert error == f"org.freedesktop.DBus.Error.{kind}"
    assert "Traceback" not in text
    assert text.count("\n") == 0


def test_an_error_is_the_line_of_the_command_line(session: Hostile) -> None:
    for bundle, code in (
        ("/nowhere/at/all", "BundleNotFound"),
        ("org.example.NotInstalled", "BundleNotFound"),
        ("/etc", "BundleNoInfo"),
    ):
        said = session.person.do(launch, bundle, "{}", [])
        process = session.session.isolauncher("launch", bundle, stderr=subprocess.PIPE)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (125, 127)
        assert errors.decode() == f"isolauncher: {said[2]}\n"
        assert said[1] == f"{NAME}.Error.{code}"


def test_a_second_activity_of_an_id_that_runs_is_refused(session: Hostile) -> None:
    bundle = str(session.bundle())
    person = session.person
    _, path = person.do(launch, bundle, STAYS, ["stdin", "stdout"])
    end = person.do(ends)
    said = person.do(launch, bundle, STAYS, [])
    assert said[1] == f"{NAME}.Error.IdTaken"
    assert person.do(call, "List") == ["ok", [path]]
    person.do(listen)
    person.do(close, end)
    person.do(hear, "InterfacesRemoved")


def ends(me: Me) -> list[int]:
    return [me.to, me.of]


def close(me: Me, fds: list[int]) -> None:
    import os

    for fd in fds:
        os.close(fd)


def test_many_refused_launches_leave_no_descriptor_open(session: Hostile) -> None:
    before = descriptors(session)
    for _ in range(5):
        for bundle in ("/nowhere/", "org.example.NotInstalled", "/etc/"):
            streams = ["stdin", "stdout", "stderr"]
            assert session.person.do(launch, bundle, "{}", streams)[0] == "error"
    assert until(lambda: descriptors(session) <= before)


def test_a_policy_is_audited_as_on_the_command_line(session: Hostile) -> None:
    session.session.service.policy("mine", 'version = 1\nextends = "sugar"\n')
    for name in ("sugar", "nothing-of-that-name", ""):
        said = session.person.do(call, "TestPolicy", "(s)", [name])
        process = session.session.isolauncher(
            *("test-policy", "--json", *([name] if name else [])),
            stdout=subprocess.PIPE,
        )
        out, _ = process.communicate(timeout=60)
        assert said == ["ok", out.decode()]
        assert json.loads(said[1])["version"] == 1
    said = session.person.do(call, "TestPolicy", "(s)", ["--live"])
    assert said[:2] == ["error", f"{NAME}.Error.RequestBadValue"]


def test_a_second_service_refuses_and_the_first_goes_on(session: Hostile) -> None:
    process = session.session.desktop.start(
        *session.service.args,  # type: ignore[misc]
        environment=session.session.environment,
        stderr=subprocess.PIPE,
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 125
    assert b"[session-exists]" in errors
    assert session.person.do(call, "List") == ["ok", []]


def test_the_next_service_takes_up_what_runs_once_the_daemon_has_said_it(
    session: Hostile,
) -> None:
    """And never says before that nothing runs."""
    person, daemon = session.person, session.session.service
    _, path = person.do(launch, str(session.bundle()), STAYS, ["stdin", "stdout"])
    _, before = person.do(properties, path)
    session.service.send_signal(signal.SIGTERM)
    assert session.service.wait(30) == 0
    daemon.stop(signal.SIGKILL)
    session.serve()
    for ask, words in ((managed, ()), (call, ("List",))):
        assert person.do(ask, *words)[:2] == ["error", f"{NAME}.Error.NotKnownYet"]
    daemon.start()
    person.do(listen)
    assert until(lambda: person.do(call, "List") == ["ok", [path]])
    assert person.do(properties, path) == ["ok", before]
    person.do(listen)
    person.do(let_end)
    heard = person.do(hear, "InterfacesRemoved")
    while not any(
        member == "InterfacesRemoved" and path in a for *_, member, a in heard
    ):
        # Of another test's, which was still on its way out.
        heard += person.do(hear, "InterfacesRemoved")
    assert [path, "Activity", "Exited", [0, 0, ""]] in heard


def test_the_bus_starts_the_service_when_it_is_asked_for(session: Hostile) -> None:
    file = TOP / "integration/dbus/org.sugarlabs.IsoLauncher1.service"
    lines = file.read_text().splitlines()
    assert f"Name={NAME}" in lines
    assert "Exec=/usr/bin/isolauncher-session" in lines
    session.service.kill()
    session.service.wait()
    assert session.person.do(call, "List") == ["ok", []]
    started = session.person.do(pid_of_service)
    os.kill(started, signal.SIGTERM)
    assert until(lambda: session.person.do(has_owner) == ["ok", False])


def has_owner(me: Me) -> Any:
    return me.driver("NameHasOwner", "(s)", ("org.sugarlabs.IsoLauncher1",))


def pid_of_service(me: Me) -> int:
    name = "org.sugarlabs.IsoLauncher1"
    return int(me.driver("GetConnectionUnixProcessID", "(s)", (name,))[1])
