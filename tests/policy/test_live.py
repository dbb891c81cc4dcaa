# SPDX-License-Identifier: GPL-3.0-or-later
"""`test-policy --live`: each claim is tried in a sandbox, and so is each [[expect]]."""

from __future__ import annotations

import glob
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import bundles
from support.bundles import overlay
from support.daemons import Leftovers, Service, nothing_left, service
from support.desktop import Desktop
from support.peers import until
from support.powers import landlock, loopback, need, sandboxes

from isolauncher.errors import HostError
from isolauncher.live import expects, places, probe
from isolauncher.policy.model import Expect, Origin

PATIENCE_S = 120
FOR_NOBODYS = ("developer", "exam")
"""They are for programs and bundles that an administrator names, and govern none."""
FOR_BUNDLES = ("files.data", "files.documents", "display.x11", "bus")
NOT_HERE = "there is none on this machine"
NODES = {
    "camera": "/dev/video*",
    "gpu": "/dev/dri/renderD*",
    "microphone": "/dev/snd/pcmC*c",
    "sound": "/dev/snd/pcmC*p",
}


@pytest.fixture(autouse=True)
def _can() -> None:
    need(sandboxes(), landlock(), loopback())


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def live(self, policy: str) -> list[dict[str, str]]:
        (found,) = [p["live"] for p in self.report["policies"] if p["name"] == policy]
        return list(found)

    def results(self, policy: str) -> dict[str, str]:
        return {p["claim"]: p["result"] for p in self.live(policy)}


def live(
    checkout: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    uid: int = 0,
    cwd: str | Path = "/",
) -> Said:
    """``isolauncher test-policy --live WORDS…``; no daemon runs unless one is named."""
    process = subprocess.Popen(
        [sys.executable, "-m", "isolauncher", "test-policy", "--live", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/dev/null/home",
            "ISOLAUNCHER_SOCKET": "/run/nobody-is-here/socket",
            **(environment or {}),
        },
        user=uid or None,
        group=uid or None,
        extra_groups=() if uid else None,
    )
    STARTED.add(process.pid)
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return Said(process.returncode, out, err)


@pytest.fixture
def directory() -> Iterator[Path]:
    """For an administrator's policies: root's, all the way up but for /tmp."""
    with tempfile.TemporaryDirectory(prefix="isolauncher-", dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert ours() == set()


STARTED: set[int] = set()
"""Whom we have had try policies; others may do it at the same time."""


def ours() -> set[str]:
    return {
        str(path)
        for top in ("/run", "/var/lib", "/tmp")
        for pid in STARTED
        for path in Path(top).glob(f"isolauncher-live-{pid}-*")
    }


# ------------------------------------------------------------------------ every claim

SHELL = """\
import dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib
bus = dbus.SessionBus(mainloop=DBusGMainLoop())
class Shell(dbus.service.Object):
    @dbus.service.method("org.laptop.Shell", in_signature="s", out_signature="b")
    def ActivateActivity(self, name):
        return False
    @dbus.service.method("org.laptop.Shell", in_signature="s", out_signature="s")
    def GetBundlePath(self, name):
        return ""
every = ("org.laptop.Shell", "org.laptop.Journal", "org.example.Other")
names = [dbus.service.BusName(name, bus) for name in every]
Shell(bus, "/org/laptop/Shell")
print("up", flush=True)
GLib.MainLoop().run()
"""
KEEP = """\
import dbus
store = dbus.SessionBus().get_object("org.laptop.sugar.DataStore",
                                     "/org/laptop/sugar/DataStore")
store.create(dbus.Dictionary({"title": "a diary"}, signature="sv"), "", False,
             dbus_interface="org.laptop.sugar.DataStore")
"""


@contextmanager
def shells(session: Desktop) -> Iterator[dict[str, str]]:
    """A stand-in for Sugar's shell, and something in the Journal."""
    process = session.start("/usr/bin/python3", "-c", SHELL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    session.run("/usr/bin/python3", "-c", KEEP)
    try:
        # As under sudo: the person who called it launches.
        yield {**session.environment, "SUDO_UID": str(session.uid)}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


KINDS = ("default", "sugar", "untrusted", "exam", "terminal", "write")
"""Of the activities' own policies one: they differ in what they take from ``sugar``."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("which", [KINDS, pytest.param((), marks=pytest.mark.long)])
def test_every_claim_of_every_shipped_policy_is_proved(
    checkout: Path, session: Desktop, which: tuple[str, ...]
) -> None:
    with shells(session) as environment:
        began = time.monotonic()
        said = live(checkout, "--json", *which, environment=environment)
        print(f"{time.monotonic() - began:.1f} s")
    assert said.status == 0, said.err
    shipped = {path.stem for path in (checkout / "policies").glob("*.toml")}
    names = set(which) or shipped
    assert {policy["name"] for policy in said.report["policies"]} == names
    for name in names:
        for proof in said.live(name):
            if proof["detail"] == NOT_HERE:
                assert proof["claim"].startswith("files.read /"), proof
                path = proof["claim"].removeprefix("files.read ")
                assert not os.path.lexists(path)
            elif NOT_HERE in proof["detail"]:
                assert proof["result"] == "untried", (name, proof)
                kind = proof["claim"].removeprefix("devices.allow ")
                assert not glob.glob(NODES[kind])
            elif "this machine has none" in proof["detail"]:
                assert proof["result"] == "untried", (name, proof)
                assert "sound card" in proof["claim"], proof
                assert not glob.glob(NODES["sound"])
            elif proof["claim"] in FOR_BUNDLES and name in FOR_NOBODYS:
                assert "for bundles" in proof["detail"]
            else:
                assert proof["result"] == "proved", (name, proof)
        assert len(said.live(name)) > 70
    sugar = said.results("sugar")
    for claim in ("display.x11", "bus", "files.documents", "files.data", "landlock"):
        assert sugar[claim] == "proved"
    assert any("by isolauncher-desktop" in note for note in said.report["notes"])


def test_a_uid_of_its_own_is_another_at_the_next_launch_and_a_bundles_the_same(
    checkout: Path, directory: Path
) -> None:
    for uid in ("instance", "bundle"):
        text = f'version = 1\n[match]\ncallers = ["*"]\n[identity]\nuid = "{uid}"\n'
        (directory / f"{uid}.toml").write_text(text)
    said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 0, said.out
    for uid in ("instance", "bundle"):
        (proof,) = [p for p in said.live(uid) if p["claim"] == "identity.uid"]
        one, other = proof["detail"].split(", then ")
        assert (one == other) == (uid == "bundle")
        assert proof["result"] == "proved"


def test_what_the_report_calls_enforced_is_a_claim(
    checkout: Path, daemon: Service
) -> None:
    said = live(
        checkout,
        "--json",
        "default",
        environment={"ISOLAUNCHER_SOCKET": str(daemon.socket)},
    )
    claims = {p["claim"].partition(" ")[0] for p in said.live("default")}
    done = daemon.run("--", "true", uid=12345)
    assert done.report is not None
    named = {"rlimits": "rlimit"}
    for name in done.report["enforced"]:  # type: ignore[attr-defined]
        assert named.get(name, name) in claims


def test_without_a_display_and_a_bus_they_are_said_to_be_untried(
    checkout: Path,
) -> None:
    said = live(checkout, "--json", "untrusted")
    assert said.status == 0, said.err
    untried = {
        p["claim"]: p["detail"]
        for p in said.live("untrusted")
        if p["result"] == "untried" and p["detail"] != NOT_HERE
    }
    assert set(untried) == {"display.x11", "bus", "files.documents"}
    assert "no display here" in untried["display.x11"]
    assert "could not be tried here" in said.report["notes"][-1]


# --------------------------------------------------------------------------- [[expect]]

OPEN = """version = 1
[match]
callers = ["*"]
[network]
access = "host"
[files]
read = ["...", "{books}"]
write = ["{drawings}"]
[environment]
keep = ["...", "LIVE_NAME"]
"""
CLOSED = """version = 1
[match]
callers = ["*"]
[files]
read = ["...", "{drawings}"]
[limits]
processes = 20
memory = "64M"
"""


def outside_knows(name: str) -> bool:
    """A root from debootstrap alone has no hosts(5)."""
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


# What is tried; what comes of it where much is open, and where little is.
VERBS = (
    ("read {books}/tales", "allowed", "absent"),
    ("read /etc/shadow", "absent", "absent"),
    ("list {books}", "allowed", "absent"),
    ("read {home}/diary", "absent", "absent"),
    ("list {home}/papers", "absent", "absent"),
    ("write {drawings}/mine", "allowed", "refused"),
    ("write /usr/mine", "refused", "refused"),
    ("exec {books}/tool", "allowed", "absent"),
    ("exec /etc/debian_version", "refused", "refused"),
    ("connect tcp 127.0.0.1:{tcp}", "allowed", "refused"),
    *(
        [("connect tcp localhost:{taken}", "allowed", "refused")]
        if outside_knows("localhost")
        else []
    ),
    ("connect udp 127.0.0.1:{udp}", "allowed", "refused"),
    ("connect unix {books}/socket", "allowed", "absent"),
    ("connect unix @isolauncher-live-{tcp}", "refused", "refused"),
    ("bind tcp 127.0.0.1:{free}", "allowed", "refused"),
    # Where no interface is up ::1 is nobody's address, 127.0.0.1 always one's own.
    ("bind udp [::1]:{free}", "allowed", "refused"),
    ("bind udp 127.0.0.1:{free}", "allowed", "allowed"),
    ("bind unix {drawings}/own", "allowed", "refused"),
    ("bind unix /tmp/own", "allowed", "allowed"),
    ("bind unix @isolauncher-live-own", "allowed", "allowed"),
    ("resolve localhost", "allowed", "allowed"),
    ("call org.freedesktop.Notifications", "absent", "absent"),
    ("open serial", "absent", "absent"),
    ("open camera", "absent", "absent"),
    ("fork 30", "allowed", "refused"),
    ("allocate 100M", "allowed", "refused"),
    ("getenv LIVE_NAME", "allowed", "absent"),
    ("getenv LIVE_OTHER", "absent", "absent"),
)
OTHER = {"allowed": "refused", "refused": "allowed", "absent": "allowed"}
NOBODY_MAY = {"read /etc/shadow", "write /usr/mine", "exec /etc/debian_version"}
"""Who launches may not outside either: whether a policy lets it is not to be seen."""


@dataclass(frozen=True)
class Things:
    """What is outside for the verbs to find, as the words of `VERBS`."""

    names: dict[str, str]

    def policy(self, text: str, expected: Sequence[tuple[str, str]]) -> str:
        made = text.format(**self.names)
        for tried, result in expected:
            words = tried.format(**self.names)
            made += f'[[expect]]\nthat = "{words}"\ntry = "{words}"\n'
            made += f'result = "{result}"\n'
        return made


@pytest.fixture(scope="module")
def things() -> Iterator[Things]:
    with ExitStack() as stack:
        top = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/srv"))
        stack.callback(shutil.rmtree, top)
        top.chmod(0o755)
        books, drawings = top / "books", top / "drawings"
        for path, mode in ((books, 0o755), (drawings, 0o777)):
            path.mkdir()
            path.chmod(mode)
        (books / "tales").write_text("Once upon a time")
        (books / "tool").write_text("#!/bin/sh\n")
        (books / "tool").chmod(0o755)
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        held = [stack.enter_context(socket.socket(type=kind)) for kind in kinds]
        for sock in held:
            sock.bind(("127.0.0.1", 0))
        ports = [str(sock.getsockname()[1]) for sock in held]
        held[0].close()
        held[1].close()
        held[2].listen()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            free = str(sock.getsockname()[1])
        names = dict(zip(("tcp", "udp", "taken"), ports, strict=True))
        names |= {
            "home": "{home}",
            "free": free,
            "books": str(books),
            "drawings": str(drawings),
        }
        yield Things(names)


@pytest.mark.timeout(120)
def test_every_verb_comes_out_both_ways(
    checkout: Path, directory: Path, things: Things
) -> None:
    for name, text, column in (("open", OPEN, 1), ("closed", CLOSED, 2)):
        expected = [(row[0], row[column]) for row in VERBS]
        (directory / f"{name}.toml").write_text(things.policy(text, expected))
    said = live(checkout, "--json", "--policy-dir", str(directory), "closed", "open")
    assert said.status == 1, said.err  # access = "host" is a dangerous finding
    for name in ("open", "closed"):
        found = [p for p in said.live(name) if p["claim"].startswith("expect: ")]
        assert len(found) == len(VERBS)
        for proof in found:
            assert proof["result"] == "proved", (name, proof)
            own = "is allowed (in a network of its own)" in proof["detail"]
            there = any(w in proof["claim"] for w in ("bind udp 127.", "bind unix @"))
            assert own == (name == "closed" and there)
            assert f"{directory}/{name}.toml:" in proof["detail"]
        broken = [p for p in said.live(name) if p["result"] in ("broken", "failed")]
        assert not broken
    verbs = {row[0].partition(" ")[0] for row in VERBS}
    from isolauncher.policy.attempts import ATTEMPTS

    assert verbs == set(ATTEMPTS)


@pytest.mark.timeout(120)
def test_an_expectation_that_comes_out_otherwise_has_failed(
    checkout: Path, directory: Path, things: Things
) -> None:
    # What need not be there to be absent, but to be anything else.
    rows = [r for r in VERBS if not r[0].startswith(("open", "call"))]
    expected = [(row[0], OTHER[row[2]]) for row in rows]
    (directory / "closed.toml").write_text(things.policy(CLOSED, expected))
    said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 1
    found = [p for p in said.live("closed") if p["claim"].startswith("expect: ")]
    for proof, (tried, result) in zip(found, expected, strict=True):
        if tried in NOBODY_MAY:
            assert proof["result"] == "untried"
            assert "outside it is refused too" in proof["detail"]
        else:
            assert proof["result"] == "failed", proof
            assert f"not {result}" in proof["detail"]


def test_a_refusal_where_nobody_answers_proves_nothing(
    checkout: Path, directory: Path
) -> None:
    expected = [
        ("connect tcp 192.0.2.1:9", "refused"),
        ("resolve nowhere.invalid", "refused"),
        ("call org.example.Nobody", "refused"),
        ("read /nowhere/at/all", "allowed"),
        ("open camera", "allowed"),
        ("fork 90000", "refused"),
        ("allocate 100000G", "refused"),
    ]
    text = Things({}).policy("version = 1\n", expected)
    (directory / "mine.toml").write_text(text)
    said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 0, said.out
    found = [p for p in said.live("mine") if p["claim"].startswith("expect: ")]
    assert [p["result"] for p in found] == ["untried"] * len(expected), found


CALLS = """version = 1
extends = "sugar"
[match]
bundle-id = ["org.example.Calls"]
[bus]
session-call = [{rule}]
[preload]
set = "python"
[[expect]]
that = "the shell can be called"
try = "call org.laptop.Shell"
result = "{first}"
[[expect]]
that = "nobody else can"
try = "call org.example.Other"
result = "{second}"
[[expect]]
that = "its home is its own"
try = "write {{home}}/note"
result = "allowed"
[[expect]]
that = "the person's papers are not there"
try = "read {{home}}/papers/diary"
result = "absent"
[[expect]]
that = "the person's music is"
try = "list {{home}}/Music/old"
result = "allowed"
[files]
read = ["...", "{{home}}/Music"]
"""


def test_a_name_on_the_bus_is_called_both_ways(
    checkout: Path, session: Desktop, directory: Path
) -> None:
    rule = '"org.laptop.Shell=org.laptop.Shell.GetBundlePath@/org/laptop/Shell"'
    path = directory / "calls.toml"
    place = ("--json", "--policy-dir", str(directory))
    with shells(session) as environment:
        path.write_text(CALLS.format(rule=rule, first="allowed", second="absent"))
        said = live(checkout, *place, environment=environment)
        assert said.status == 0, said.out
        results = said.results("calls")
        path.write_text(CALLS.format(rule="", first="allowed", second="allowed"))
        closed = live(checkout, *place, environment=environment)
    assert results["expect: the shell can be called"] == "proved"
    for claim in (
        *("nobody else can", "its home is its own"),
        *("the person's papers are not there", "the person's music is"),
    ):
        assert results[f"expect: {claim}"] == "proved", said.out
    assert closed.status == 1
    assert closed.results("calls")["expect: the shell can be called"] == "failed"
    assert closed.results("calls")["expect: nobody else can"] == "failed"


# ------------------------------------------------------------------ who, and with whom


def test_anybody_else_than_root_asks_the_daemon_that_runs(
    checkout: Path, daemon: Service
) -> None:
    environment = {"ISOLAUNCHER_SOCKET": str(daemon.socket)}
    before = Leftovers.now(daemon)
    said = live(checkout, "--json", "default", environment=environment, uid=12345)
    assert said.status == 0, said.err
    results = said.results("default")
    assert results["uid"] == results["seccomp"] == results["landlock"] == "proved"
    assert "broken" not in results.values()
    # What only root is told.
    assert results["keyring"] == "untried"
    assert "a program, by you" in said.report["notes"][0]
    not_mine = live(checkout, "--json", "sugar", environment=environment, uid=12345)
    assert not_mine.status == 0
    launch, *expected = not_mine.live("sugar")
    assert (launch["claim"], launch["result"]) == ("launch", "untried")
    assert {p["result"] for p in expected} == {"untried"}
    nothing_left(daemon, before)


def test_without_a_daemon_only_root_can_have_one(
    checkout: Path, directory: Path
) -> None:
    (directory / "mine.toml").write_text("version = 1\n")
    for words, code in (
        (("default",), "daemon-not-running"),
        (("--policy-dir", str(directory)), "live-not-root"),
    ):
        said = live(checkout, *words, uid=12345)
        assert (said.status, said.out) == (2, "")
        assert f"[{code}]" in said.err
        assert said.err.count("\n") == 1


def test_a_file_is_tried_as_roots_program(checkout: Path, directory: Path) -> None:
    path = directory / "mine.toml"
    path.write_text(
        'version = 1\n[limits]\nnice = 3\n[[expect]]\nthat = "it is not root"\n'
        'try = "read /etc/shadow"\nresult = "absent"\n'
    )
    said = live(checkout, "--json", "./mine.toml", cwd=directory)
    assert said.status == 0, said.out
    assert "a file is for root alone" in said.report["notes"][0]
    results = said.results("mine")
    assert set(results.values()) <= {"proved", "untried"}
    assert results["limits.nice"] == "proved"


def test_a_policy_for_a_group_is_tried_by_one_of_its_members(
    checkout: Path, directory: Path
) -> None:
    (directory / "mine.toml").write_text('version = 1\n[match]\ncallers = ["@games"]\n')
    (directory / "own.toml").write_text("version = 1\n")
    said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 0, said.out
    mine, own, *_ = said.report["notes"]
    assert "in the group games" in mine
    assert own == "own: tried as a program, by root"


def test_a_launch_that_is_refused_has_failed(
    checkout: Path, directory: Path, things: Things
) -> None:
    drawings = things.names["drawings"]
    (directory / "mine.toml").write_text(
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nwrite = ["{drawings}"]\n'
        '[[expect]]\nthat = "it draws"\ntry = "write /tmp/x"\nresult = "allowed"\n'
    )
    with overlay(Path(drawings)):
        said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 1, said.out
    launch, expected = said.live("mine")
    assert (launch["claim"], launch["result"]) == ("launch", "failed")
    assert "cannot be id-mapped" in launch["detail"]
    assert expected["result"] == "untried"


def test_what_is_shown_to_nobody_is_not_found_to_be_missing(
    checkout: Path, directory: Path
) -> None:
    with bundles.system_directory() as place:
        (place / "own").symlink_to("/tmp")
        os.mkfifo(place / "pipe")
        (directory / "mine.toml").write_text(
            'version = 1\n[match]\ncallers = ["*"]\n'
            f'[files]\nread = ["...", "{place}/own", "{place}/pipe"]\n'
        )
        said = live(checkout, "--json", "--policy-dir", str(directory))
    assert said.status == 0, said.out
    details = {p["claim"]: (p["result"], p["detail"]) for p in said.live("mine")}
    assert details[f"files.read {place}/own"] == (
        "untried",
        "it leads to /tmp: every activity has its own",
    )
    assert details[f"files.read {place}/pipe"] == (
        "untried",
        "it is neither a directory nor a file",
    )


def test_a_daemon_with_another_policy_of_that_name_proves_nothing(
    checkout: Path, directory: Path
) -> None:
    with service() as other:
        other.policy("untrusted", 'version = 1\n[match]\ncallers = ["*"]\n')
        environment = {"ISOLAUNCHER_SOCKET": str(other.socket)}
        said = live(checkout, "--json", "untrusted", environment=environment)
    assert said.status == 0
    launch, *expected = said.live("untrusted")
    assert launch["result"] == "untried"
    assert f"{other.policies}/untrusted.toml" in launch["detail"]
    assert {p["result"] for p in expected} == {"untried"}


# ------------------------------------------------------------------------------ reports


def test_the_text_tells_the_worst_first_and_names_what_holds(
    checkout: Path, directory: Path
) -> None:
    (directory / "mine.toml").write_text(
        'version = 1\n[match]\ncallers = ["*"]\n'
        '[[expect]]\nthat = "it has a home"\ntry = "list /home"\nresult = "allowed"\n'
    )
    said = live(checkout, "--policy-dir", str(directory))
    assert said.status == 1
    lines = said.out.splitlines()
    tried = lines.index("  tried as a program, by uid 59999, who is nobody:")
    assert lines[tried + 1].startswith("  failed    expect: it has a home: list /home")
    assert any(line.startswith("  untried ") for line in lines)
    (proved,) = [n for n, line in enumerate(lines) if line.startswith("  proved ")]
    assert "claims: uid, groups, capabilities" in lines[proved]
    assert "could not be tried here" in said.err


def test_junit_has_a_case_for_each_claim(checkout: Path, directory: Path) -> None:
    (directory / "mine.toml").write_text(
        'version = 1\n[match]\ncallers = ["*"]\n'
        '[[expect]]\nthat = "it has a home"\ntry = "list /home"\nresult = "allowed"\n'
    )
    place = ("--policy-dir", str(directory))
    said = live(checkout, *place, "--format", "junit")
    assert said.status == 1
    (suite,) = ET.fromstring(said.out)  # noqa: S314 (our own)
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert suite.get("tests") == str(len(suite.findall("testcase")))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) == "1"
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
    assert cases["expect: it has a home"].find("failure") is not None
    assert len(cases["seccomp"]) == 0


def test_live_and_diff_do_not_go_together(checkout: Path) -> None:
    said = live(checkout, "--diff", "default", "untrusted")
    assert said.status == 2
    assert said.err.count("\n") == 1


# ------------------------------------------------------------------ what may go wrong


@pytest.mark.parametrize("first", ["itself", "daemon"])
def test_what_one_leaves_that_is_killed_the_next_removes(
    checkout: Path, first: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "isolauncher", "test-policy", "--live", "default"],
        cwd=checkout,
        env={**os.environ, "ISOLAUNCHER_SOCKET": "/run/nobody-is-here/socket"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    STARTED.add(process.pid)
    try:
        assert until(lambda: running(process.pid), seconds=60)
        (daemon,) = titled(process.pid, "isolauncher: daemon")
        ((init, place),) = running(process.pid)
        groups = groups_of(init)
        gone = [os.pidfd_open(pid) for pid in (daemon, init)]
        if first == "daemon":
            os.kill(daemon, signal.SIGKILL)
        process.kill()
        for fd in gone:
            # It takes its daemon along, and a probe that nobody listens to ends.
            assert select.select([fd], [], [], 30)[0]
            os.close(fd)
        left = ours()
        # Who was launching for it ends when it has noticed.
        assert until(lambda: all(map(is_free, left)), seconds=30)
        assert {os.path.dirname(path) for path in left} == {"/run", "/var/lib"}
        assert str(place) in left
        other = next(iter(left)) + "x"
        os.mkdir(other)  # none of ours: it has another name
        try:
            assert live(checkout, "--json", "exam").status == 0
            assert ours() == {other}
        finally:
            os.rmdir(other)
        assert not [path for path in groups if os.path.exists(path)]
    finally:
        process.kill()
        process.wait()


def test_what_somebody_works_in_is_not_swept(tmp_path: Path) -> None:
    told: list[str] = []
    with places.directory(str(tmp_path)) as held:
        left = tmp_path / "isolauncher-live-1-abcdefgh"
        left.mkdir()
        (left / "link").symlink_to(tmp_path)
        alike = tmp_path / "isolauncher-live-2-abcdefgh"
        alike.symlink_to(held)
        foreign = tmp_path / "isolauncher-live-3-abcdefgh"
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
        assert list(places.held_by_nobody([str(tmp_path)], told.append)) == [str(left)]
        assert told == [str(left)]
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            (os.path.basename(held), alike.name, foreign.name)
        )
        assert alike.is_symlink()


def running(parent: int) -> list[tuple[int, Path]]:
    """(its init, the directory of its daemon), if the daemon of ``parent`` has one."""
    found = []
    for record in Path("/run").glob("isolauncher-live-*/run/activities/*"):
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        if any(one["event"] == "go" for one in lines):
            place = record.parents[2]
            if place.name.startswith(f"isolauncher-live-{parent}-"):
                found.append((lines[0]["init_pid"], place))
    return found


def is_free(path: str) -> bool:
    held = places._hold(path)
    if held >= 0:
        os.close(held)
    return held >= 0


def groups_of(pid: int) -> list[str]:
    """A process's own cgroups, below a daemon's."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = [line.partition(":")[2].partition(":") for line in lines]
    found = []
    for kind, _, path in paths:
        if "isolauncher" in path:
            found += [f"/sys/fs/cgroup/{kind}{path}", f"/sys/fs/cgroup{path}"]
    return [path for path in found if os.path.exists(path)]


def titled(parent: int, title: str) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if Path(f"/proc/{pid}/cmdline").read_text().startswith(title)
    ]


def test_the_probe_attacks_nothing_as_root() -> None:
    """In namespaces of its own, where no harm would be done if it did."""
    done = subprocess.run(
        ["unshare", "-rmupf", sys.executable, probe.__file__],
        input='{"attack": {"set_id": null, "filter": [39, []]}}\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the probe attacks in a sandbox only, and nothing as root\n"


def test_a_place_that_cannot_be_held_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the file system has no flock(2)."""
    monkeypatch.setattr(places, "_hold", lambda _: -1)
    with pytest.raises(HostError) as caught, places.directory(str(tmp_path)):
        pass
    assert caught.value.code == "live-no-place"
    assert str(tmp_path) in caught.value.message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "outside", "result"),
    [
        ("{home}/diary", ("allowed", ""), "proved"),
        ("{home}/diary", ("absent", "it does not exist"), "untried"),
        ("/media", ("absent", "it does not exist"), "proved"),
    ],
)
def test_what_could_not_be_put_into_a_home_is_not_proved_absent(
    path: str, outside: tuple[str, str], result: str
) -> None:
    expect = Expect(
        that="the diary is not there",
        verb="read",
        argument=(path,),
        result="absent",
        origin=Origin(file="mine.toml", line=1),
    )
    trial = expects.Trial(expect=expect, words=("read", path), outside=outside)
    proof = expects.judge(trial, ["absent", ""])
    assert proof.result == result
    if result == "untried":
        assert "outside it is absent too (it does not exist)" in proof.detail


def test_a_socket_is_made_in_the_directory_that_was_opened(tmp_path: Path) -> None:
    """Whoever owns a directory cannot lead root elsewhere, nor have a mode changed."""
    place, secret = tmp_path / "place", tmp_path / "secret"
    place.mkdir()
    secret.mkdir(mode=0o700)
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as sock:
        expects._make(sock, str(place / "answers"), stack)
        assert (place / "answers").stat().st_mode & 0o777 == 0o777
        place.rename(tmp_path / "moved")
        place.symlink_to(secret)
        (secret / "answers").write_text("kept")
    assert not (tmp_path / "moved/answers").exists()
    assert (secret / "answers").read_text() == "kept"
