# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices that a policy grants: opened by the activity, and nothing beside them.

Memory devices stand for sound cards and the like (support/devices.py), so that every
machine on which nodes can be made tries the whole road.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemons import ROOMS_AHEAD, TOP, Finished, Service, service
from support.devices import FULL, NULL, URANDOM, ZERO, StandIns, refuse_nodes, stand_ins
from support.powers import need, sandboxes

from isolauncher import devices as table
from isolauncher import reopen
from isolauncher.policy.model import DEVICES

ALICE = 12345
DAEMON = TOP / "tests/support/devices_daemon.py"
POLICY = 'version = 1\n[match]\ncallers = ["*"]\n[devices]\nallow = {}\n'
LOOK = """
import json, os, stat, sys
top, *tried = sys.argv[1:]
said = {"there": [], "opened": {}}
for directory, _, names in os.walk(top):
    said["there"] += (os.path.join(directory, name) for name in names)
for path in tried:
    how = os.O_RDONLY if path.endswith("js0") else os.O_RDWR
    try:
        fd = os.open(path, how)
        made = os.fstat(fd)
        mode = stat.S_IMODE(made.st_mode)
        number = [os.major(made.st_rdev), os.minor(made.st_rdev)]
        own = made.st_uid == os.getuid()
        said["opened"][path] = [*number, mode, own, len(os.read(fd, 4))]
    except OSError as error:
        said["opened"][path] = type(error).__name__
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def devices() -> Iterator[StandIns]:
    need(sandboxes(), refuse_nodes())
    with stand_ins() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(devices: StandIns) -> Iterator[Service]:
    with service(command=command(devices), config=ROOMS_AHEAD) as made:
        yield made


def command(devices: StandIns) -> tuple[str, ...]:
    return (sys.executable, str(DAEMON), str(devices.top))


@pytest.fixture
def card(devices: StandIns) -> Iterator[StandIns]:
    devices.make_card()
    yield devices
    devices.clear()


def look(
    where: Service, devices: StandIns, allow: list[str], *names: str, uid: int = ALICE
) -> tuple[dict[str, object], Finished]:
    """What an activity has below the directory, and what became of opening these."""
    policy = where.policy("granting", POLICY.format(json.dumps(allow)))
    script = where.script("look.py", LOOK)
    tried = (devices.path(name) for name in names)
    words = ("--policy", policy, "--", script, str(devices.top), *tried)
    done = where.run(*words, uid=uid)
    assert (done.status, done.errors) == (0, ""), done
    return json.loads(done.text), done


def opened(said: dict[str, object]) -> dict[str, object]:
    """By the last parts of their paths."""
    found = said["opened"]
    assert isinstance(found, dict)
    return {"/".join(path.split("/")[3:]): what for path, what in found.items()}


def there(said: dict[str, object]) -> list[str]:
    paths = said["there"]
    assert isinstance(paths, list)
    return sorted("/".join(path.split("/")[3:]) for path in paths)


def skipped(done: Finished) -> dict[str, str]:
    assert done.report is not None
    found = done.report["skipped"]
    assert isinstance(found, list)
    return {s["what"]: s["why"] for s in found if "devices" in s["what"]}


# ---------------------------------------------------------------------------- the table


def test_every_kind_of_the_language_has_its_nodes() -> None:
    assert tuple(table.KINDS) == DEVICES
    for kind, nodes in table.KINDS.items():
        assert any(not n.aside for n in nodes), kind
        for n in nodes:
            # A glob in the last part only, where the caller's rights are asked for.
            assert re.fullmatch(r"/dev/([a-z]+/)?[A-Za-z*]+", n.pattern), n


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("sound", "/dev/snd/pcmC0D0c"),
        ("sound", "/dev/snd/seq"),
        ("sound", "/dev/snd/hwC0D0"),
        ("sound", "/dev/snd/midiC0D0"),
        ("microphone", "/dev/snd/pcmC0D0p"),
        ("gpu", "/dev/dri/card0"),
        ("gpu", "/dev/dri/controlD64"),
        ("camera", "/dev/vbi0"),
        ("camera", "/dev/media0"),
        ("serial", "/dev/tty1"),
        ("joystick", "/dev/input/event0"),
        ("joystick", "/dev/input/mouse0"),
    ],
)
def test_a_kind_is_nothing_beside_what_it_says(kind: str, path: str) -> None:
    assert table.of_kind(kind, path) is None


@pytest.mark.parametrize(
    ("kind", "path", "number", "good"),
    [
        ("sound", "/dev/snd/pcmC0D0p", (116, 4), True),
        ("sound", "/dev/snd/pcmC0D0p", (1, 1), False),
        ("gpu", "/dev/dri/renderD128", (226, 128), True),
        # cardN under another name.
        ("gpu", "/dev/dri/renderD128", (226, 0), False),
        ("serial", "/dev/ttyS0", (4, 64), True),
        # A console, the one in front too.
        ("serial", "/dev/ttyS0", (4, 1), False),
        ("serial", "/dev/ttyS0", (4, 0), False),
        ("camera", "/dev/video0", (81, 0), True),
        ("joystick", "/dev/input/js0", (13, 0), True),
        # The keyboard, perhaps.
        ("joystick", "/dev/input/js0", (13, 64), False),
    ],
)
def test_name_and_number_must_agree(
    kind: str, path: str, number: tuple[int, int], good: bool
) -> None:
    found = table.Found(path=path, device=os.makedev(*number))
    (given,) = table.given((kind,), (found,))
    assert (path in given.nodes) is good
    assert (given.why == "") is good


def test_a_mixer_without_a_stream_is_not_given() -> None:
    found = [
        table.Found(path="/dev/snd/controlC0", device=os.makedev(116, 0)),
        table.Found(path="/dev/snd/timer", device=os.makedev(116, 33)),
        table.Found(path="/dev/snd/pcmC*D*p", why="there is none here"),
    ]
    (given,) = table.given(("sound",), found)
    assert (dict(given.nodes), given.why) == ({}, "there is none here")


# ----------------------------------------------------------------------------- the road


def test_what_is_granted_is_opened_and_nothing_else_is_there(
    daemon: Service, card: StandIns
) -> None:
    tried = ("snd/pcmC0D0p", "snd/controlC0", "snd/pcmC0D0c", "snd/seq", "snd/hwC0D0")
    said, done = look(daemon, card, ["sound"], *tried)
    assert there(said) == ["snd/controlC0", "snd/pcmC0D0p"]
    assert opened(said) == {
        "snd/pcmC0D0p": [1, ZERO, 0o600, True, 4],
        "snd/controlC0": [1, FULL, 0o600, True, 4],
        "snd/pcmC0D0c": "FileNotFoundError",
        "snd/seq": "FileNotFoundError",
        "snd/hwC0D0": "FileNotFoundError",
    }
    assert skipped(done) == {}


def test_the_microphone_is_another_grant(daemon: Service, card: StandIns) -> None:
    said, _ = look(daemon, card, ["microphone"], "snd/pcmC0D0c", "snd/pcmC0D0p")
    assert there(said) == ["snd/controlC0", "snd/pcmC0D0c"]
    assert opened(said) == {
        "snd/pcmC0D0c": [1, URANDOM, 0o600, True, 4],
        "snd/pcmC0D0p": "FileNotFoundError",
    }


def test_a_joystick_is_there_to_be_read(daemon: Service, card: StandIns) -> None:
    card.make("input/js0", ZERO, 0o644)
    said, _ = look(daemon, card, ["joystick", "camera"], "input/js0")
    assert there(said) == ["input/js0"]
    assert opened(said) == {"input/js0": [1, ZERO, 0o400, True, 4]}


def test_who_is_not_granted_it_does_not_see_it(daemon: Service, card: StandIns) -> None:
    said, done = look(daemon, card, [], "snd/pcmC0D0p")
    assert there(said) == []
    assert opened(said) == {"snd/pcmC0D0p": "FileNotFoundError"}
    assert skipped(done) == {}


def test_nobody_gives_what_he_may_not_open_himself(
    daemon: Service, devices: StandIns
) -> None:
    devices.make_card(0o660)
    try:
        said, done = look(daemon, devices, ["sound"], "snd/pcmC0D0p")
        assert there(said) == []
        assert opened(said) == {"snd/pcmC0D0p": "FileNotFoundError"}
        nodes = ", ".join(map(devices.path, ("snd/pcmC0D0p", "snd/controlC0")))
        assert skipped(done) == {
            "devices sound": f"{nodes}: the caller may not open it"
        }
        # By an access list, as logind lets who sits at the machine.
        for name in ("snd/controlC0", "snd/pcmC0D0p"):
            words = ("setfacl", "-m", f"u:{ALICE}:rw", devices.path(name))
            subprocess.run(words, check=True)
        said, done = look(daemon, devices, ["sound"], "snd/pcmC0D0p")
        assert opened(said) == {"snd/pcmC0D0p": [1, ZERO, 0o600, True, 4]}
        assert skipped(done) == {}
    finally:
        devices.clear()


def test_a_node_that_was_put_in_the_place_of_another_is_not_given(
    daemon: Service, devices: StandIns
) -> None:
    """CVE-2025-31133: what has the name only is no way to what it leads to."""
    try:
        devices.make("snd/pcmC0D0p", NULL)
        devices.make("snd/pcmC1D0p", ZERO)
        Path(devices.path("snd/pcmC2D0p")).write_text("a file")
        os.symlink(devices.path("snd/pcmC1D0p"), devices.path("snd/pcmC3D0p"))
        os.mknod(devices.path("snd/pcmC4D0p"), 0o60666, os.makedev(1, ZERO))
        said, done = look(daemon, devices, ["sound"])
    finally:
        devices.clear()
    assert there(said) == ["snd/pcmC1D0p"]
    (why,) = skipped(done).values()
    assert f"{devices.path('snd/pcmC0D0p')}: it is the device 1:{NULL}" in why
    others = ", ".join(devices.path(f"snd/pcmC{n}D0p") for n in (2, 3, 4))
    assert f"{others}: it is no character device" in why


def test_what_an_opener_finds_is_compared_by_number_as_well(card: StandIns) -> None:
    """A file system may give another node the number of an inode that has gone."""
    want = reopen.Want(path=card.path("snd/pcmC*D*p"), writable=True, device=True)
    (found,) = reopen._follow(want)
    os.close(found.fd)
    assert (found.kind, found.number) == ("device", os.makedev(1, ZERO))
    other = replace(found, number=os.makedev(1, NULL))
    assert reopen._without_fd(found) != reopen._without_fd(other)


def test_a_directory_of_devices_is_reached_through_no_link(
    daemon: Service, devices: StandIns
) -> None:
    devices.make("other/pcmC0D0p", ZERO)
    os.symlink("other", devices.path("snd"))
    try:
        said, done = look(daemon, devices, ["sound"])
    finally:
        os.unlink(devices.path("snd"))
        devices.clear()
    assert there(said) == []
    assert skipped(done) == {"devices sound": "there is none here"}


CHANGE = """
import os, stat, sys
def tried(what, do):
    try:
        do()
        print(what, "done")
    except OSError as error:
        print(what, os.strerror(error.errno))
top = sys.argv[1]
node, new = f"{top}/pcmC0D0p", f"{top}/new"
tried("write", lambda: open(new, "w"))
tried("in /dev", lambda: open("/dev/new", "w"))
tried("link", lambda: os.link(node, new))
tried("link elsewhere", lambda: os.link(node, "/tmp/new"))
tried("rename", lambda: os.rename(node, new))
tried("unlink", lambda: os.unlink(node))
tried("chmod", lambda: os.chmod(node, 0o666))
tried("times", lambda: os.utime(node))
tried("mknod", lambda: os.mknod("/tmp/new", 0o600 | stat.S_IFCHR, os.makedev(1, 5)))
"""


def test_nothing_can_be_changed_where_the_devices_are(
    daemon: Service, card: StandIns
) -> None:
    policy = daemon.policy("granting", POLICY.format('["sound"]'))
    script = daemon.script("change.py", CHANGE)
    words = ("--policy", policy, "--", script, card.path("snd"))
    done = daemon.run(*words, uid=ALICE)
    assert done.status == 0, done
    read_only = "Read-only file system"
    assert done.text.splitlines() == [
        f"write {read_only}",
        f"in /dev {read_only}",
        f"link {read_only}",
        "link elsewhere Invalid cross-device link",
        f"rename {read_only}",
        f"unlink {read_only}",
        f"chmod {read_only}",
        f"times {read_only}",
        "mknod Operation not permitted",
    ]


ASK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print(len(fcntl.ioctl(fd, 0x80045200, bytes(4))))  # RNDGETENTCNT (random(4))
"""


def test_a_device_is_asked_and_told_things_by_ioctl(
    daemon: Service, card: StandIns
) -> None:
    """Neither the filter nor Landlock, from its ABI 5 on, stands in the way."""
    policy = daemon.policy("granting", POLICY.format('["microphone"]'))
    script = daemon.script("ask.py", ASK)
    words = ("--policy", policy, "--", script, card.path("snd/pcmC0D0c"))
    assert daemon.run(*words, uid=ALICE).text == "4\n"


def test_who_plays_finds_the_group_by_which_sound_is_mixed(
    daemon: Service, card: StandIns
) -> None:
    source = "import grp, os; print(grp.getgrnam('audio').gr_gid == os.getgid())"
    script = daemon.script("group.py", source)
    for allow, said in (('["sound"]', "True\n"), ("[]", "")):
        policy = daemon.policy("granting", POLICY.format(allow))
        done = daemon.run("--policy", policy, "--", script, uid=ALICE)
        assert done.text == said, done.errors


# -------------------------------------------------------------------------------- rooms


def way(done: Finished) -> object:
    assert done.report is not None
    return done.report["activity"]["path"]  # type: ignore[index]


def ready(where: Service, devices: StandIns, allow: list[str]) -> None:
    for _ in range(2):
        look(where, devices, allow)
        where.at_rest()
    assert where.at_rest()["rooms"]["ready"]  # type: ignore[index]


def test_a_room_that_waits_has_the_devices(daemon: Service, card: StandIns) -> None:
    ready(daemon, card, ["sound"])
    said, done = look(daemon, card, ["sound"], "snd/pcmC0D0p")
    assert way(done) == "pool"
    assert opened(said) == {"snd/pcmC0D0p": [1, ZERO, 0o600, True, 4]}


def test_a_room_is_not_given_to_whom_other_devices_are_granted(
    daemon: Service, card: StandIns
) -> None:
    ready(daemon, card, ["sound"])
    said, done = look(daemon, card, ["microphone"])
    assert way(done) == "demand"
    assert there(said) == ["snd/controlC0", "snd/pcmC0D0c"]
    daemon.at_rest()
    said, done = look(daemon, card, [])
    assert way(done) == "demand"
    assert there(said) == []


def test_what_is_only_read_is_looked_for_again_as_well(
    daemon: Service, card: StandIns
) -> None:
    ready(daemon, card, ["joystick"])
    card.make("input/js0", ZERO, 0o644)
    said, done = look(daemon, card, ["joystick"])
    assert way(done) == "demand"
    assert there(said) == ["input/js0"]


def _plug_in(devices: StandIns) -> None:
    devices.make("snd/pcmC1D0p", ZERO)


def _pull_out(devices: StandIns) -> None:
    os.unlink(devices.path("snd/pcmC0D0p"))


def _renumber(devices: StandIns) -> None:
    _pull_out(devices)
    devices.make("snd/pcmC0D0p", NULL)


def _close(devices: StandIns) -> None:
    os.chmod(devices.path("snd/pcmC0D0p"), 0o600)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (_plug_in, ["snd/controlC0", "snd/pcmC0D0p", "snd/pcmC1D0p"]),
        (_pull_out, []),
        (_renumber, []),
        (_close, []),
    ],
)
def test_a_room_is_given_to_nobody_when_the_machines_devices_have_changed(
    daemon: Service,
    card: StandIns,
    change: Callable[[StandIns], None],
    left: list[str],
) -> None:
    ready(daemon, card, ["sound"])
    change(card)
    said, done = look(daemon, card, ["sound"])
    assert way(done) == "demand"
    assert there(said) == left
