# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter in Sugar's shell asks of the bus, and what follows the answers.

With a bus that only remembers; tests/shell has the real one, and a real shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import dbus
import pytest
from support.daemons import TOP
from support.glib import GLib  # noqa: F401 (before anybody else imports it)

from isolauncher.errors import DaemonError, RequestError
from isolauncher.session import adapter
from isolauncher.session.names import NAME

UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"


@dataclass
class Call:
    method: str
    words: tuple[Any, ...]
    reply: Callable[..., None]
    fail: Callable[..., None]


@dataclass
class Bus:
    """Every call, to be answered by the test."""

    calls: list[Call] = field(default_factory=list)

    def call_async(
        self,
        name: str,
        path: str,
        interface: str,
        method: str,
        signature: str,
        words: tuple[Any, ...],
        reply: Callable[..., None],
        fail: Callable[..., None],
        timeout: float = 0,
    ) -> None:
        self.calls.append(Call(method, words, reply, fail))

    def the(self, method: str) -> Call:
        (call,) = [call for call in self.calls if call.method == method]
        return call

    def methods(self) -> list[str]:
        return [call.method for call in self.calls]


@dataclass
class Factory:
    """The toolkit's functions that the adapter uses."""

    top: Path
    environment: dict[str, str] = field(default_factory=dict)
    ended: list[tuple[int, int, Any]] = field(default_factory=list)

    def get_environment(self, bundle: Any) -> dict[str, str]:
        return self.environment

    def open_log_file(self, bundle: Any) -> tuple[str, TextIO]:
        path = self.top / "a-1.log"
        # As the toolkit opens it: without a name of its own.
        return str(path), os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY), "w")

    def get_command(self, bundle: Any, *words: Any) -> list[str]:
        return ["/bin/true", *(str(word) for word in words if word)]

    def _child_watch_cb(self, pid: int, status: int, told: Any) -> None:
        self.ended.append((pid, status, told))


@dataclass
class Made:
    adapter: adapter.Adapter
    bus: Bus
    factory: Factory
    config: Path

    def click(self, command: str = "sugar-activity3 a.A", **handle: Any) -> None:
        bundle = SimpleNamespace(
            get_command=lambda: command,
            get_path=lambda: "/",
            get_name=lambda: "A",
            get_bundle_id=lambda: "org.example.A",
        )
        about = {"object_id": None, "uri": None, "invited": False, **handle}
        self.adapter.create(
            SimpleNamespace(
                _handle=SimpleNamespace(activity_id="a1", **about),
                _bundle=bundle,
                _service_name="org.example.A",
            )
        )

    @property
    def log(self) -> str:
        return (self.factory.top / "a-1.log").read_text()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    bus, factory = Bus(), Factory(tmp_path)
    monkeypatch.setattr(dbus, "SessionBus", lambda: bus)
    config = tmp_path / "isolauncher.toml"
    config.write_text("version = 1\n")
    shell = SimpleNamespace(get_launcher=lambda id: None)
    one = adapter.Adapter(factory, shell, str(config))
    yield Made(one, bus, factory, config)
    for launch in one.launches.values():
        launch.log.close()


def test_the_shell_is_told_first_and_the_service_gets_all_that_was_said(
    made: Made,
) -> None:
    made.factory.environment = {
        "LANG": "es",
        "BAD": "\udcff",
        "SUGAR_APISOCKET_KEY": "k",
    }
    made.click(object_id="o", uri="http://x", invited=True)
    assert made.bus.methods() == ["NotifyLaunch", "Launch"]
    assert made.bus.the("NotifyLaunch").words == ("org.example.A", "a1")
    path, options, fds = made.bus.the("Launch").words
    assert path == "/"
    assert options == {
        "activity-id": "a1",
        "object-id": "o",
        "uri": "http://x",
        "invited": True,
        "environment": {"LANG": "es"},
    }
    assert set(fds) == {"stdout", "stderr"}


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("sugar-activity-web", True),
        ("/usr/bin/sugar-activity-web", True),
        ("sugar-activity3 sugar3.activity.webactivity.WebActivity", True),
        ("sugar-activity3 calculate.Calculate", False),
        ("my-sugar-activity-web", False),
    ],
)
def test_the_key_of_the_shell_s_socket_is_for_web_activities_alone(
    command: str, given: bool
) -> None:
    key = {"SUGAR_APISOCKET_KEY": "k", "SUGAR_APISOCKET_PORT": "1"}
    assert adapter.for_activity({**key, "A": "b"}, command) == (
        {**key, "A": "b"} if given else {"A": "b"}
    )


def test_a_refusal_is_told_with_its_reason_and_kept_in_the_log(made: Made) -> None:
    made.click()
    error = RequestError("no <such> thing", code="request-odd", hint="do that")
    made.bus.the("Launch").fail(
        dbus.DBusException(error.line(), name=f"{NAME}.Error.X")
    )
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    assert made.log == f"isolauncher: {error.line()}\n"
    reason = made.adapter.reasons["a1"]
    assert reason.startswith("No &lt;such&gt; thing (do that).")
    assert "a-1.log" in reason
    assert made.adapter.launches == {}


def test_what_only_runs_and_ends_well_is_no_failure(made: Made) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.bus.the("Get").reply(77)
    made.adapter.exited(0, 0, "", f"/x/{'a1'}")
    assert "NotifyLaunchFailure" not in made.bus.methods()
    assert made.log == "Normal successful completion, pid 77 activity_id a1\n"


@pytest.mark.parametrize(
    ("status", "signal", "line"),
    [(3, 0, "Exited with status 3"), (143, 15, "Terminated by signal 15")],
)
def test_an_end_that_is_none_is_told_as_the_toolkit_does(
    made: Made, status: int, signal: int, line: str
) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.adapter.exited(status, signal, "", "/x/a1")
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    assert made.log == f"{line}, pid 0 activity_id a1\n"


def absent(made: Made) -> None:
    made.click()
    made.bus.the("Launch").fail(dbus.DBusException("nobody", name=UNKNOWN))


@pytest.mark.parametrize(
    "text",
    [
        "version = 1\n",
        'version = 1\n[shell]\nwithout-service = "refuse"\n',
        'version = 1\n[shell]\nwithout-service = "unisolatd"\n',
        'version = 1\n[shell]\nwithout-service = "unisolated"\n[odd]\n',
    ],
)
def test_nothing_is_launched_unisolated_that_no_administrator_wanted(
    made: Made, text: str
) -> None:
    made.config.write_text(text)
    absent(made)
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    assert made.log.startswith("isolauncher: daemon: isolauncher-session cannot be ")
    assert "not running" in made.adapter.reasons["a1"]


def test_a_setting_that_others_could_have_written_is_none(made: Made) -> None:
    made.config.write_text('version = 1\n[shell]\nwithout-service = "unisolated"\n')
    made.config.chmod(0o666)
    absent(made)
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    assert "others may write it" in made.log


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("org.freedesktop.DBus.Error.NoReply", "it went away"),
        (f"{NAME}.Error.X", RequestError("odd", code="request-odd").line()),
        (f"{NAME}.Error.Y", DaemonError("broken", code="internal").line()),
    ],
)
def test_a_failure_of_a_service_that_is_there_never_means_unisolated(
    made: Made, name: str, text: str
) -> None:
    made.config.write_text('version = 1\n[shell]\nwithout-service = "unisolated"\n')
    made.click()
    made.bus.the("Launch").fail(dbus.DBusException(text, name=name))
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)


def test_who_resumes_an_entry_is_not_ended_by_the_stop_before(made: Made) -> None:
    """The same id, another process: Stop ends what hangs, and looks again first."""
    made.adapter.end("a1", 77)
    made.bus.the("Get").reply(78)
    assert "Stop" not in made.bus.methods()
    made.bus.calls.clear()
    made.adapter.end("a1", 77)
    made.bus.the("Get").reply(77)
    assert made.bus.the("Stop").words == (adapter.GRACE_MS,)


def test_what_the_next_service_does_not_know_has_ended(made: Made) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.adapter.owner_changed("")
    assert made.bus.methods()[-1] == "StartServiceByName"
    made.adapter.owner_changed(":1.7")
    made.bus.the("GetManagedObjects").reply({"/x/a1": {}})
    assert list(made.adapter.launches) == ["a1"]
    made.adapter.look_again({})
    assert made.adapter.launches == {}
    assert "how it ends is not known" in made.log


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Calculate Activity (on sugar)", "Calculate Activity"),
        ("a (on b) (on sugar)", "a (on b)"),
        ("a (on b) c", "a (on b) c"),
        ("a (one)", "a (one)"),
        ("", ""),
    ],
)
def test_a_title_does_not_name_the_sandbox_s_host(title: str, shown: str) -> None:
    assert adapter.without_host(title) == shown


def test_an_extension_that_is_broken_lets_nothing_be_launched(tmp_path: Path) -> None:
    """Else the shell would log it, and launch as before."""
    (tmp_path / "isolauncher").mkdir()
    (tmp_path / "isolauncher/__init__.py").write_text("raise RuntimeError('broken')")
    text = (TOP / "integration/sugar/deviceicon/isolauncher.py").read_text()
    text = text.replace('CHECKOUT = ""', f"CHECKOUT = {str(tmp_path)!r}")
    (tmp_path / "extension.py").write_text(text)
    (tmp_path / "sugar3").mkdir()
    (tmp_path / "sugar3/__init__.py").write_text("")
    (tmp_path / "sugar3/activity.py").write_text(
        "class activityfactory:\n"
        "    class ActivityCreationHandler:\n"
        "        def _create_activity(self): print('launched')\n"
        "    def create_activity_id(): return 'made'\n"
    )
    (tmp_path / "try.py").write_text(
        "import extension\n"
        "from types import SimpleNamespace as Made\n"
        "extension.setup(None)\n"
        "def told(name):\n"
        "    return lambda *words, **how: print(name, *words)\n"
        "one = extension.activityfactory.ActivityCreationHandler()\n"
        "one._handle, one._service_name = Made(activity_id=None), 'org.example.A'\n"
        "one._no_reply_handler = None\n"
        "one._shell = Made(NotifyLaunch=told('launch'),\n"
        "                  NotifyLaunchFailure=told('failure'))\n"
        "one._create_activity()\n"
    )
    done = subprocess.run(
        [sys.executable, "try.py"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "launch org.example.A made\nfailure made\n"
    assert "RuntimeError: broken" in done.stderr
