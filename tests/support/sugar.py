# SPDX-License-Identifier: GPL-3.0-or-later
"""A desktop session with isolauncher in it, as a login on a Sugar machine has it.

The session bus starts isolauncher-session when it is asked for; the daemon is a test's
own. `Session.launch` is the command ``isolauncher launch`` of the person's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolauncher.errors import HostError
from isolauncher.windows import Watch, Window

from .daemons import TOP, Service
from .desktop import Desktop
from .reach import mounted_over

NAME = "org.sugarlabs.IsoLauncher1"
JOURNAL = "org.laptop.sugar.DataStore"
PATIENCE_S = 60


SCHEMAS = """<schemalist>
<schema id="org.sugarlabs" path="/org/sugarlabs/">
 <key name="backup-url" type="s"><default>''</default></key>
</schema>
<schema id="org.sugarlabs.font" path="/org/sugarlabs/font/">
 <key name="default-size" type="d"><default>10</default></key>
 <key name="default-face" type="s"><default>'Sans Serif'</default></key>
</schema>
<schema id="org.sugarlabs.user" path="/org/sugarlabs/user/">
 <key name="nick" type="s"><default>'Somebody'</default></key>
 <key name="color" type="s"><default>'#AC32FF,#9A5200'</default></key>
</schema>
</schemalist>
"""
"""As the shell installs them, which is not needed for its activities but Browse."""


@contextmanager
def schemas() -> Iterator[None]:
    """Settings of Sugar's, without which each start draws other colours."""
    with mounted_over("/usr/share/glib-2.0/schemas") as place:
        (place / "org.sugarlabs.test.gschema.xml").write_text(SCHEMAS)
        subprocess.run(["glib-compile-schemas", str(place)], check=True)
        yield


def profile(person: Desktop) -> Path:
    """The directory of a person's logs, as the shell makes it; returns it."""
    logs = person.home / ".sugar/default/logs"
    logs.mkdir(parents=True)
    for path in (logs, logs.parent, logs.parent.parent):
        os.chown(path, person.uid, person.uid)
    return logs


@dataclass
class Session:
    """A person's session; ``environment`` is the desktop's and the daemon's socket."""

    desktop: Desktop
    service: Service

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.desktop.environment,
            "ISOLAUNCHER_SOCKET": str(self.service.socket),
            "PYTHONPATH": str(TOP),
        }

    @property
    def uid(self) -> int:
        return self.desktop.uid

    @property
    def profile(self) -> Path:
        return self.desktop.home / ".sugar/default"

    def isolauncher(
        self, *words: str, environment: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[bytes]:
        return self.desktop.start(
            *(sys.executable, "-m", "isolauncher", *words),
            environment={**self.environment, **(environment or {})},
            **how,
        )

    @contextmanager
    def launch(
        self,
        bundle: str,
        activity_id: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Launched]:
        """A bundle with its window mapped; ended at the end, if it has not itself."""
        report = self.desktop.home / f"report-{activity_id}"
        errors = self.desktop.top / f"errors-{activity_id}"
        with self.desktop.watch() as watch, open(errors, "wb") as log:
            process = self.isolauncher(
                *("launch", "-a", activity_id, "--report", str(report), *words, bundle),
                environment=environment,
                stdout=log,
                stderr=log,
            )
            launched = Launched(
                session=self, id=activity_id, process=process, report_at=report
            )
            try:
                try:
                    launched.window = watch.wait(
                        lambda window: window.sugar_activity == activity_id,
                        alive=process,
                    )
                except HostError as error:
                    raise AssertionError(f"{error}: {errors.read_text()}") from None
                yield launched
            finally:
                if process.poll() is None:
                    self.stop(activity_id)
                    process.wait(PATIENCE_S)

    def stop(self, activity_id: str) -> None:
        self.isolauncher("stop", "--grace", "0", activity_id).wait(PATIENCE_S)

    def output(
        self, bundle: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """What a bundle's program prints on both streams; it has to end by itself."""
        process = self.isolauncher(
            *("launch", *words, bundle),
            environment=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = process.communicate(timeout=PATIENCE_S)
        return out.decode()

    def gone(self, *ids: str) -> None:
        """Wait until nothing is left of these activities in the profile."""
        noted = [self.profile / "isolauncher/running" / id for id in ids]
        until = time.monotonic() + PATIENCE_S
        while any(path.exists() for path in noted):
            assert time.monotonic() < until, noted
            time.sleep(0.01)

    def accessible_name(self, title: str) -> str:
        """The unique name on the accessibility bus of who has that window."""
        source = (
            "import sys, dbus\n"
            "from dbus.bus import BusConnection\n"
            "b = dbus.SessionBus().call_blocking('org.a11y.Bus', '/org/a11y/bus',\n"
            "    'org.a11y.Bus', 'GetAddress', None, ())\n"
            "bus = BusConnection(b)\n"
            "root = '/org/a11y/atspi/accessible/root'\n"
            "def get(name, path):\n"
            "    return bus.call_blocking(name, path, 'org.a11y.atspi.Accessible',\n"
            "        'GetChildren', None, ())\n"
            "def title(name, path):\n"
            "    return bus.call_blocking(name, path,\n"
            "        'org.freedesktop.DBus.Properties', 'Get', 'ss',\n"
            "        ('org.a11y.atspi.Accessible', 'Name'))\n"
            "for name, path in get('org.a11y.atspi.Registry', root):\n"
            "    if sys.argv[1] in [title(*w) for w in get(name, path)]:\n"
            "        print(name)\n"
        )
        return self.desktop.run("/usr/bin/python3", "-c", source, title).strip()

    def running(self) -> list[dict[str, Any]]:
        answer = self.service.ask({"version": 1, "verb": "ps"})["activities"]
        assert isinstance(answer, list)
        return answer

    def xdotool(self, *words: str) -> str:
        return self.desktop.run("xdotool", *words)

    def journal(self, method: str, *arguments: str) -> Any:
        """What the person's own DataStore answers, as plain values."""
        source = (
            "import sys, json, dbus\n"
            f"store = dbus.SessionBus().get_object('{JOURNAL}', '/org/laptop/sugar/"
            "DataStore')\n"
            "words = [json.loads(w) for w in sys.argv[2:]]\n"
            "words = [dbus.Dictionary(w, signature='sv') if w == {} else\n"
            "         dbus.Array(w, signature='s') if w == [] else w for w in words]\n"
            f"said = getattr(store, sys.argv[1])(*words, dbus_interface='{JOURNAL}')\n"
            "print(json.dumps(said, default=str))\n"
        )
        said = self.desktop.run("/usr/bin/python3", "-c", source, method, *arguments)
        return json.loads(said)

    def keep(self, path: Path, mime_type: str) -> str:
        """Put a file into the Journal as the person would; the object's uid."""
        source = (
            "import sys, dbus\n"
            f"store = dbus.SessionBus().get_object('{JOURNAL}', '/org/laptop/sugar/"
            "DataStore')\n"
            "about = {'title': sys.argv[1], 'mime_type': sys.argv[2], 'activity': ''}\n"
            "print(store.create(dbus.Dictionary(about, signature='sv'), sys.argv[1],\n"
            f"    False, dbus_interface='{JOURNAL}'))\n"
        )
        words = ("/usr/bin/python3", "-c", source, str(path), mime_type)
        return self.desktop.run(*words).strip()

    def objects(self) -> list[dict[str, Any]]:
        """Every object of the person's Journal, with all its properties."""
        found, _ = self.journal("find", "{}", "[]")
        return [dict(one) for one in found]


@dataclass
class Launched:
    session: Session
    id: str
    process: subprocess.Popen[bytes]
    report_at: Path
    window: Window | None = None

    @property
    def row(self) -> dict[str, Any]:
        (row,) = [row for row in self.session.running() if row["id"] == self.id]
        return row

    def focus(self) -> None:
        assert self.window is not None
        self.session.xdotool("windowfocus", "--sync", str(self.window.number))

    def press_stop(self) -> int:
        """Stop's key, as the child would: it saves and ends by itself."""
        self.focus()
        self.session.xdotool("key", "ctrl+q")
        return self.process.wait(PATIENCE_S)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.report_at.read_text())
        return found


def session(desktop: Desktop, service: Service) -> Session:
    """Let the session bus start isolauncher-session for that daemon."""
    made = Session(desktop=desktop, service=service)
    place = desktop.home / ".local/share/dbus-1/services"
    place.mkdir(parents=True)
    command = f"{sys.executable} -m isolauncher.session.service"
    variables = f"ISOLAUNCHER_SOCKET={service.socket} PYTHONPATH={TOP}"
    (place / f"{NAME}.service").write_text(
        f"[D-BUS Service]\nName={NAME}\nExec=/usr/bin/env {variables} {command}\n"
    )
    for path in (place, *place.relative_to(desktop.home).parents):
        os.chown(desktop.home / path, desktop.uid, desktop.uid)
    desktop.run(
        *("dbus-send", "--session", "--type=method_call", "--print-reply"),
        *("--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ReloadConfig"),
    )
    return made


__all__ = ["Launched", "Session", "Watch", "schemas", "session"]
