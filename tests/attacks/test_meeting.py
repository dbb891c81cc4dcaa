# SPDX-License-Identifier: GPL-3.0-or-later
"""Two activities, and an activity and the host, find no common ground."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from support.attacks import TIERS, attack, running, unrefused
from support.daemons import Service
from support.powers import landlock, loopback, need

# The kernel's words for "there is nothing here" and "you may not".
NOTHING = frozenset(
    "ENOENT EPERM EACCES ECONNREFUSED EIDRM EINVAL ENETUNREACH EADDRNOTAVAIL "
    "EPROTOTYPE".split()
)
SOCKETS = (
    "/run/dbus/system_bus_socket /run/user/0/bus /run/user/1000/bus "
    "/run/user/1000/wayland-0 /run/user/1000/pulse/native /run/docker.sock "
    "/var/run/docker.sock /run/systemd/private /run/systemd/notify "
    "/run/systemd/journal/socket /run/systemd/userdb/io.systemd.DynamicUser "
    "/tmp/.X11-unix/X0 /tmp/.ICE-unix/1 /dev/log /run/nscd/socket "
    "@/tmp/.X11-unix/X0 @/tmp/dbus-1 @/org/freedesktop/systemd1/notify"
).split()


@pytest.fixture(scope="module")
def host(daemon: Service) -> str:
    """A policy under which both share the machine's network."""
    return daemon.policy(
        "host", 'version = 1\n[match]\ncallers = ["*"]\n[network]\naccess = "host"\n'
    )


@pytest.fixture
def abstract() -> Iterator[str]:
    """A listening abstract socket of the host's, as an X server has."""
    name = f"isolauncher-host-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("\0" + name)
        own.listen()
        yield "@" + name


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("network", ["none", "loopback", "host"])
def test_two_activities_of_one_caller_share_no_memory_queue_socket_or_file(
    daemon: Service, host: str, abstract: str, tier: str, network: str
) -> None:
    if network == "host":
        # Without a network namespace nothing else keeps abstract sockets apart.
        need(landlock(abi=6))
    if network == "loopback":
        need(loopback())
    policy = {"none": None, "host": host}.get(network) or daemon.policy(
        network,
        f'version = 1\n[match]\ncallers = ["*"]\n[network]\naccess = "{network}"\n',
    )
    where = {"tier": tier, "policy": policy}
    with running(daemon, "meeting", "offer", "here", **where) as other:
        own = other.line()["own"]
        assert isinstance(own, dict)
        # Landlock knows no rule for message queues: nobody has any.
        assert own.pop("mq") in ("ok", "EACCES")
        assert own == dict.fromkeys(("shm", "sem", "msg", "abstract"), "ok")
        # On the host's network a port of 127.0.0.1 is everybody's: not asked there.
        more = ["no-ports"] if network == "host" else []
        sockets = [abstract, *SOCKETS, str(daemon.socket)] if more else []
        found = attack(daemon, "meeting", "look", "here", *more, *sockets, **where)
        assert unrefused(found, NOTHING) == {}
        if network == "host":
            assert found["abstract SOCK_STREAM"] == "EPERM"
            assert found[f"{abstract} SOCK_STREAM"] == "EPERM"
        other.tell()
        assert other.ended()[0] == 0


@pytest.mark.parametrize("tier", TIERS)
def test_no_socket_of_the_host_is_there_neither_by_path_nor_by_abstract_name(
    daemon: Service, abstract: str, tier: str
) -> None:
    """Display and sound are later issues; until then nothing of them is there."""
    named = [abstract, *SOCKETS, str(daemon.socket)]
    found = attack(daemon, "meeting", "look", "x", "no-ports", *named, tier=tier)
    assert unrefused(found, NOTHING) == {}
    for path in named:
        expected = {"ECONNREFUSED", "EPERM"} if path[0] == "@" else {"ENOENT"}
        assert found[f"{path} SOCK_STREAM"] in expected, path


def test_a_program_that_is_run_meets_no_bus_whatever_its_policy_grants(
    daemon: Service,
) -> None:
    """Only a bundle's launch brings one, from its person's session."""
    name = daemon.policy(
        "bus",
        'version = 1\n[match]\ncallers = ["*"]\n[bus]\naccessibility = true\n'
        'session-own = ["org.example.Mine"]\n'
        'session-call = ["org.example=org.example.One.*@/org/example"]\n',
    )
    source = (
        "import os; print([n for n in os.environ if 'BUS' in n], "
        "os.path.exists('/run/user'), os.path.exists('/run/dbus'))"
    )
    done = daemon.run(
        "--policy", name, "--", "/usr/bin/python3", "-c", source, uid=12345
    )
    assert (done.status, done.out) == (0, b"[] False False\n"), done.errors
    os.unlink(daemon.policies / f"{name}.toml")
