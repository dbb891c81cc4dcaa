# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle that tries everything that a session bus and a Journal have to offer.

Each call is made by the person's own program first, without a sandbox: it arrives.
Made by the same program in its sandbox, only what the policy names arrives. ATTACKS
rows 54, 64 to 66.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.desktop import missing
from support.hostile import Hostile, hostile
from support.powers import need, sandboxes
from support.sugar import NAME

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
