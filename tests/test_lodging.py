# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms that wait in a person's session: what comes of them is what a fork comes to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.bundles import make, system_directory
from support.daemons import ROOMS_AHEAD, service
from support.desktop import Desktop, desktop, missing
from support.peers import until
from support.powers import need, sandboxes
from support.sugar import Session, profile, session

from isolauncher import ahead, lodging, verify

# Imported by sugar-activity3 when GTK and the toolkit are there.
TOLD = """
import gc, json, locale, logging, os, signal, sys, warnings
from gi.repository import Gdk, GLib, Gtk

def kinds():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + number).partition("[")[0])
        except OSError:
            pass
    return sorted(found)

settings = Gtk.Settings.get_default()
status = dict(li.split(":", 1) for li in open("/proc/self/status") if ":" in li)
names = ("Uid", "Gid", "Groups", "CapBnd", "NoNewPrivs", "Seccomp", "Umask", "SigBlk",
         "Seccomp_filters", "SigIgn")
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ),
    "order": list(os.environ), "modules": list(sys.modules),
    "shown": open("/proc/self/cmdline").read(),
    "environ": sorted(open("/proc/self/environ").read().split("\\0")),
    "descriptors": kinds(), "status": {n: status.get(n) for n in names},
    "threads": len(os.listdir("/proc/self/task")),
    "signals": [str(signal.getsignal(n)) for n in (2, 13, 15, 17)],
    "gc": [gc.isenabled(), gc.get_threshold()],
    "locale": locale.setlocale(locale.LC_ALL),
    "filters": len(warnings.filters), "handlers": len(logging.root.handlers),
    "program": [GLib.get_prgname(), GLib.get_application_name()],
    "class": Gdk.get_program_class(), "display": Gdk.Display.get_default().get_name(),
    "windows": len(Gtk.Window.list_toplevels()),
    "settings": [settings.get_property(n) for n in
                 ("gtk-theme-name", "gtk-icon-theme-name", "gtk-font-name")],
    "home": sorted(os.path.join(d, f) for d, _, fs in os.walk(os.environ["HOME"])
                   for f in fs if "/data/" not in d),
    "streams": [os.readlink(f"/proc/self/fd/{n}").partition("[")[0] for n in (0, 1, 2)],
}), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes())
    need(missing())
    with desktop() as made, service(config=ROOMS_AHEAD) as daemon:
        profile(made)
        yield session(made, daemon)


@pytest.fixture(scope="module")
def bundle() -> Iterator[str]:
    with system_directory() as place:
        path = make(place, exec="sugar-activity3 told.Told")
        (path / "told.py").write_text(TOLD)
        (path / "activity/activity-test.svg").write_text("<svg/>")
        yield f"{path}/"


def told(sugar: Session, bundle: str, number: int, **more: str) -> dict[str, Any]:
    out = sugar.output(bundle, "-a", f"told{number:04}", environment=more)
    (line,) = [li for li in out.splitlines() if li.startswith("{")]
    found: dict[str, Any] = json.loads(line.replace(f"told{number:04}", "ID"))
    for name in ("modules",):
        found[name] = [m for m in found[name] if not m.startswith("_sysconfigdata")]
    return found


def room(sugar: Session) -> str:
    lines = [li for li in sugar.service.log.splitlines() if ": launched" in li]
    return lines[-1].partition('room="')[2].partition('"')[0]


def test_the_second_activity_finds_a_room_in_its_session(
    sugar: Session, bundle: str
) -> None:
    """And is in all that it can see what the first one was, which had none."""
    first = told(sugar, bundle, 1)
    assert room(sugar) == "on-demand"
    for number in (2, 3):
        sugar.service.at_rest()
        again = told(sugar, bundle, number)
        assert room(sugar) == "lodged"
        again["status"] |= {n: first["status"][n] for n in ("Uid", "Gid")}
        differs = {n: (v, again[n]) for n, v in first.items() if again[n] != v}
        assert not differs


def test_another_setting_is_another_session(sugar: Session, bundle: str) -> None:
    told(sugar, bundle, 4)
    sugar.service.at_rest()
    found = told(sugar, bundle, 5, SUGAR_SCALING="100")
    assert found["environment"]["SUGAR_SCALING"] == "100"
    assert room(sugar) == "on-demand"
    sugar.service.at_rest()
    told(sugar, bundle, 6, SUGAR_SCALING="100")
    assert room(sugar) == "lodged"


def test_what_lives_there_is_confined_and_has_written_nothing(
    sugar: Session, bundle: str
) -> None:
    told(sugar, bundle, 7)
    sugar.service.at_rest()
    (stem,) = _lodgers(sugar)
    status = Path(f"/proc/{stem}/status").read_text()
    assert "\nNoNewPrivs:\t1\n" in status
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"\n{name}:\t{'0' * 16}\n" in status
    uid = int(status.partition("\nUid:\t")[2].split()[0])
    assert 70000 < uid < 90000
    inside = Path(f"/proc/{stem}/root")
    found = {
        os.path.join(top.removeprefix(str(inside)), name)
        for place in (f"{inside}{sugar.desktop.home}", f"{inside}/tmp")
        for top, _, files in os.walk(place)
        for name in files
    }
    assert not {f for f in found if ".config/" not in f and ".X11-unix/" not in f}
    # What it has as any room's; the daemon's log is where it could say why it ends.
    own = ("/dev/null", "/probe", str(sugar.service.top / "log"))
    held = [os.readlink(f"/proc/{stem}/fd/{n}") for n in os.listdir(f"/proc/{stem}/fd")]
    assert not [k for k in held if k.startswith("/") and k not in own]


def test_one_that_was_killed_is_not_missed(sugar: Session, bundle: str) -> None:
    told(sugar, bundle, 8)
    sugar.service.at_rest()
    for stem in _lodgers(sugar):
        os.kill(stem, signal.SIGKILL)
    time.sleep(0.1)
    told(sugar, bundle, 9)
    assert room(sugar) == "on-demand"


def _display(made: Desktop) -> int:
    """The X server's pid."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_text().split("\0")
            if words[0] == "Xvfb" and made.environment["XAUTHORITY"] in words:
                return int(path.parent.name)
    raise AssertionError


def _lodgers(sugar: Session) -> list[int]:
    """Stems that wait: the children of inits that nobody has been told of yet."""
    found = []
    for record in (sugar.service.run_dir / "activities").iterdir():
        events = [json.loads(line) for line in record.read_text().splitlines()]
        if any(e["event"] in ("go", "exited") for e in events):
            continue
        init = events[-1]["init_pid"]
        children = Path(f"/proc/{init}/task/{init}/children").read_text()
        found += map(int, children.split())
    return found


def test_it_ends_with_its_display(sugar: Session, bundle: str) -> None:
    """The last one in this session."""
    told(sugar, bundle, 10)
    sugar.service.at_rest()
    (stem,) = _lodgers(sugar)
    os.kill(_display(sugar.desktop), signal.SIGTERM)
    until = time.monotonic() + 10
    while Path(f"/proc/{stem}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def policy(network: str = "none", set: str = "sugar3") -> SimpleNamespace:
    return SimpleNamespace(network=network, preload=SimpleNamespace(set=set))


@pytest.mark.parametrize(
    "changes",
    [
        {"program_kind": "file"},
        {"argv": ("other", "x")},
        {"bundle": None},
        {"lease_key": "kept"},
        {"asked": SimpleNamespace(display=None)},
        {"policy": policy(network="host")},
        {"policy": policy(set="gtk3")},
    ],
)
def test_not_for_what_cannot_be_prepared(changes: dict[str, object]) -> None:
    wanted = {
        "bundle": "one",
        "asked": SimpleNamespace(display=":1"),
        "at": "somewhere",
        "lease_key": None,
        "program_kind": "name",
        "argv": (lodging.PROGRAM, "x.X"),
        "policy": policy(),
    }
    assert lodging.of(SimpleNamespace(**{**wanted, **changes})) is None  # type: ignore[arg-type]


def test_a_descriptor_that_was_exchanged_is_a_difference() -> None:
    channel, other = socket.socketpair()
    living = os.eventfd(0)
    with channel, other:
        process = subprocess.Popen(
            ["/usr/bin/sleep", "60"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(channel.fileno(), living),
        )
    try:
        # Until then it has what it loads open, too.
        assert until(
            lambda: "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text()
        )
        null = os.stat("/dev/null")
        is_ = (null.st_dev, null.st_ino)

        def differences(**known: str) -> list[str]:
            sealed = verify.Sealed(
                init=0,
                stem=process.pid,
                sent=dict.fromkeys(("stdin", "stdout", "stderr"), is_),
                probes={},
                notes=(),
                living={int(n[1:]): kind for n, kind in known.items()},
            )
            return list(verify._descriptors(sealed))

        right = os.readlink(f"/proc/{process.pid}/fd/{living}")
        assert not differences(**{f"n{living}": right})
        (told,) = differences(**{f"n{living}": "socket:[1]"})
        assert told == f"descriptor {living} is not the socket:[1] that it lived with"
        (told,) = differences()
        assert told.startswith("descriptors are ")
        (told,) = differences(**{f"n{living}": right, "n99": "socket:[1]"})
        assert told.startswith("descriptor 99 is not ")
    finally:
        process.kill()
        process.wait()
        os.close(living)


@pytest.mark.parametrize(("tried", "again"), [(ahead.TRIED - 1, 1), (ahead.TRIED, 0)])
def test_what_cannot_be_prepared_is_not_tried_again_at_each_launch(
    tried: int, again: int
) -> None:
    closed: list[object] = []

    class Lodger:
        serves = "a session"
        times = 1
        beside = False

        def close(self) -> None:
            closed.append(self)

    async def launched() -> tuple[object, ...]:
        kept = ahead.Rooms(SimpleNamespace(), most=4, per_caller=2)  # type: ignore[arg-type]
        kept._in_vain += ["a session"] * tried
        facts = SimpleNamespace(policy=SimpleNamespace(digest="", name=""))
        kept.launched(facts, Lodger())  # type: ignore[arg-type]
        kept._mounts.close()
        return kept._asked[0].words

    assert len(asyncio.run(launched())) == again
    assert len(closed) == 1 - again
