# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter in Sugar's shell makes of a click, and of an activity's end.

With a bus that only remembers; tests/shell has the real one, and a real shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import dbus
import pytest
from support.adapting import NOT_YET, UNKNOWN, Made, Open, objects
from support.daemons import TOP

from isolauncher.errors import DaemonError, RequestError
from isolauncher.session import adapter, shellwords
from isolauncher.session.names import NAME


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
    assert shellwords.for_activity({**key, "A": "b"}, command) == (
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
    assert made.adapter.launches == []
    # What the shell had no place for is not shown when the id fails another time.
    made.bus.the("NotifyLaunchFailure").reply()
    assert made.adapter.reasons == {}


def test_the_reason_is_shown_below_the_shell_s_own_sentence(made: Made) -> None:
    shown: list[str] = []
    label = SimpleNamespace(
        **dict.fromkeys(
            ("set_line_wrap", "set_max_width_chars", "set_justify"), lambda _: None
        ),
        get_label=lambda: "A failed to start.",
        set_markup=shown.append,
    )
    model = SimpleNamespace(get_launcher=lambda id: SimpleNamespace(error_text=label))
    made.adapter.fail("a1", "No <such> thing.", "", "/logs/a-1.log")
    made.adapter.explain(model, Open("a1"))
    made.adapter.explain(model, Open("a2"))
    assert shown == [
        "A failed to start.\n\nNo &lt;such&gt; thing.\n<small>a-1.log</small>"
    ]


def test_what_only_runs_and_ends_well_is_no_failure(made: Made) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.bus.the("Get").reply(77)
    made.adapter.exited(0, 0, "", "a1")
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
    made.adapter.exited(status, signal, "", "a1")
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    assert made.log == f"{line}, pid 0 activity_id a1\n"


def absent(made: Made) -> None:
    made.click()
    made.bus.the("Launch").fail(UNKNOWN)


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


@pytest.mark.parametrize(
    "broken", ["get_environment", "open_log_file", "get_command", "Popen", "warn"]
)
def test_whoever_clicked_is_answered_whatever_is_broken(
    made: Made, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any, **how: Any) -> Any:
        raise ValueError("embedded null byte")

    place: Any = made.factory
    if broken == "Popen":
        place = adapter.subprocess
    elif broken == "warn":
        place = made.adapter.bus
        started = SimpleNamespace(pid=1)
        monkeypatch.setattr(adapter.subprocess, "Popen", lambda *_, **how: started)

        def watch(pid: int, call: object, told: tuple[TextIO, str]) -> None:
            told[0].close()

        monkeypatch.setattr(adapter.GLib, "child_watch_add", watch)
    monkeypatch.setattr(place, broken, fail)
    made.config.write_text('version = 1\n[shell]\nwithout-service = "unisolated"\n')
    made.click()
    if "Launch" in made.bus.methods():
        made.bus.the("Launch").fail(UNKNOWN)
    assert made.adapter.launches == []
    if broken == "warn":  # it runs
        assert "NotifyLaunchFailure" not in made.bus.methods()
    else:
        assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
        assert "embedded null byte" in made.adapter.reasons["a1"]


# ----------------------------------------------------------------- one id, two launches

TAKEN = RequestError("an activity 'a1' is already running", code="id-taken")


@pytest.mark.parametrize("running", [False, True])
def test_who_clicks_twice_launches_once(made: Made, running: bool) -> None:
    made.click()
    if running:
        made.bus.the("Launch").reply("/a1")
        made.shell.append(Open("a1"))
    made.click()
    assert len(made.bus.all("NotifyLaunch")) == len(made.bus.all("Launch")) == 1
    assert made.ids == ["a1"]


def test_what_is_resumed_before_it_has_ended_starts_then(made: Made) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.click()  # its window is closed
    for _ in range(2):
        error = dbus.DBusException(TAKEN.line(), name=f"{NAME}.Error.IdTaken")
        made.bus.all("Launch")[-1].fail(error)
        made.later()
    # An end that it does not share.
    made.adapter.exited(137, 9, "", "a1")
    assert made.log == "Terminated by signal 9, pid 0 activity_id a1\n"
    assert "NotifyLaunchFailure" not in made.bus.methods()
    made.bus.all("Launch")[-1].reply("/a1")
    assert made.ids == ["a1"]
    made.adapter.exited(3, 0, "", "a1")
    assert made.ids == []
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
    second = (made.factory.top / "a-2.log").read_text()
    assert second == "Exited with status 3, pid 0 activity_id a1\n"


def test_the_second_is_not_taken_for_a_first_whose_end_nobody_heard(
    made: Made,
) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.click()
    made.bus.all("Launch")[-1].reply("/a1")
    assert made.ids == ["a1"]
    assert "how it ends is not known" in made.log
    made.adapter.exited(0, 0, "", "a1")
    assert made.ids == []


def test_an_id_that_stays_taken_is_told(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "RESUME_S", 0)
    made.click()
    error = dbus.DBusException(TAKEN.line(), name=f"{NAME}.Error.IdTaken")
    made.bus.the("Launch").fail(error)
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)


# ------------------------------------------------------------------- another service


def test_what_the_next_service_does_not_know_once_it_knows_has_ended(
    made: Made,
) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.adapter.owner_changed("")
    assert made.bus.methods()[-1] == "StartServiceByName"
    made.adapter.owner_changed(":1.7")
    (asked,) = made.bus.take("GetManagedObjects")
    asked.fail(NOT_YET)
    made.later()
    asked = made.bus.the("GetManagedObjects")
    asked.reply(objects(a1=(77, 70005)))
    assert made.ids == ["a1"]
    asked.reply(objects())
    assert made.adapter.launches == []
    assert "how it ends is not known" in made.log


def test_however_often_the_service_ends_it_is_asked_by_one(made: Made) -> None:
    """And a service that cannot be had is asked when the next one is there."""
    made.click()
    made.bus.the("Launch").reply("/a1")
    for _ in range(3):
        made.adapter.owner_changed("")
        made.adapter.owner_changed(":1.7")
    (asked,) = made.bus.take("GetManagedObjects")
    asked.fail(NOT_YET)
    made.adapter.owner_changed("")
    made.adapter.owner_changed(":1.8")
    made.later()
    (asked,) = made.bus.take("GetManagedObjects")
    asked.fail(UNKNOWN)
    made.later()
    assert made.bus.all("GetManagedObjects") == []
    made.adapter.owner_changed(":1.9")
    made.answer(objects())
    assert made.adapter.launches == []
    made.adapter.owner_changed(":1.9")
    assert made.bus.all("GetManagedObjects") == []


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
    assert shellwords.without_host(title) == shown


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
