# SPDX-License-Identifier: GPL-3.0-or-later
"""What the adapter in Sugar's shell asks of the bus, and what follows the answers.

With a bus that only remembers; tests/shell has the real one, and a real shell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import dbus
import pytest
from support.daemons import TOP
from support.glib import GLib  # noqa: F401 (before anybody else imports it)
from support.powers import need, root

from isolauncher import windows
from isolauncher.errors import DaemonError, RequestError
from isolauncher.session import adapter, iconless, openwindows, shellwords
from isolauncher.session.names import ACTIVITY, NAME
from isolauncher.windows import Present

UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"


@dataclass
class Call:
    path: str
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
        self.calls.append(Call(path, method, words, reply, fail))

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
        path = self.top / f"a-{len(list(self.top.glob('a-*.log'))) + 1}.log"
        # As the toolkit opens it: without a name of its own.
        return str(path), os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY), "w")

    def get_command(self, bundle: Any, *words: Any) -> list[str]:
        return ["/bin/true", *(str(word) for word in words if word)]

    def _child_watch_cb(self, pid: int, status: int, told: Any) -> None:
        self.ended.append((pid, status, told))


@dataclass
class Open:
    """What the shell has in its frame: an id, and a window of a process."""

    id: str | None
    xid: int = 1
    stopped: int = 0

    def get_activity_id(self) -> str | None:
        return self.id

    def get_xid(self) -> int:
        return self.xid

    def stop(self) -> None:
        self.stopped += 1


class Shell(list[Open]):
    def __init__(self) -> None:
        super().__init__()
        self.connected: list[tuple[str, Callable[..., None]]] = []

    def connect(self, what: str, call: Callable[..., None]) -> None:
        self.connected.append((what, call))

    def say(self, what: str, activity: Open) -> None:
        for wanted, call in self.connected:
            if wanted == what:
                call(self, activity)

    def get_launcher(self, id: str) -> None:
        return None

    def get_activity_by_id(self, id: str) -> Open | None:
        return next((one for one in self if one.id == id), None)


NOT_YET = dbus.DBusException("not yet", name=f"{NAME}.Error.NotKnownYet")
PERSON = os.getuid()


def objects(**running: tuple[int, int]) -> dict[str, Any]:
    """As GetManagedObjects has them: by id the pid and the uid."""
    return {
        f"/x/{id}": {
            ACTIVITY: {
                **{"Id": id, "BundleId": "b", "Policy": "p", "State": "running"},
                **{"Pid": pid, "Uid": uid},
            }
        }
        for id, (pid, uid) in running.items()
    }


@dataclass
class Made:
    adapter: adapter.Adapter
    bus: Bus
    factory: Factory
    config: Path
    shell: Shell = field(default_factory=Shell)
    timers: list[Callable[[], object]] = field(default_factory=list)

    def later(self) -> None:
        """Its timers go off, those that they set do not yet."""
        due, self.timers[:] = self.timers[:], []
        self.timers += [call for call in due if call()]

    @property
    def ids(self) -> list[str]:
        return [launch.id for launch in self.adapter.launches]

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
    shell = Shell()
    one = Made(
        adapter.Adapter(factory, shell, str(config)), bus, factory, config, shell
    )

    def timeout_add(after_ms: int, call: Callable[..., object], *words: Any) -> None:
        one.timers.append(lambda: call(*words))

    monkeypatch.setattr(adapter.GLib, "timeout_add", timeout_add)
    yield one
    for launch in one.adapter.launches:
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
        place = made.adapter
        started = SimpleNamespace(pid=1)
        monkeypatch.setattr(adapter.subprocess, "Popen", lambda *_, **how: started)

        def watch(pid: int, call: object, told: tuple[TextIO, str]) -> None:
            told[0].close()

        monkeypatch.setattr(adapter.GLib, "child_watch_add", watch)
    monkeypatch.setattr(place, broken, fail)
    made.config.write_text('version = 1\n[shell]\nwithout-service = "unisolated"\n')
    made.click()
    if "Launch" in made.bus.methods():
        made.bus.the("Launch").fail(dbus.DBusException("nobody", name=UNKNOWN))
    assert made.adapter.launches == []
    if broken == "warn":  # it runs
        assert "NotifyLaunchFailure" not in made.bus.methods()
    else:
        assert made.bus.the("NotifyLaunchFailure").words == ("a1",)
        assert "embedded null byte" in made.adapter.reasons["a1"]


# ----------------------------------------------------------------- one id, two launches

TAKEN = RequestError("an activity 'a1' is already running", code="id-taken")


def calls(made: Made, method: str) -> list[Call]:
    return [call for call in made.bus.calls if call.method == method]


@pytest.mark.parametrize("running", [False, True])
def test_who_clicks_twice_launches_once(made: Made, running: bool) -> None:
    made.click()
    if running:
        made.bus.the("Launch").reply("/a1")
        made.shell.append(Open("a1"))
    made.click()
    assert len(calls(made, "NotifyLaunch")) == len(calls(made, "Launch")) == 1
    assert made.ids == ["a1"]


def test_what_is_resumed_before_it_has_ended_starts_then(made: Made) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.click()  # its window is closed
    for _ in range(2):
        error = dbus.DBusException(TAKEN.line(), name=f"{NAME}.Error.IdTaken")
        calls(made, "Launch")[-1].fail(error)
        made.later()
    # An end that it does not share.
    made.adapter.exited(137, 9, "", "/x/a1")
    assert made.log == "Terminated by signal 9, pid 0 activity_id a1\n"
    assert "NotifyLaunchFailure" not in made.bus.methods()
    calls(made, "Launch")[-1].reply("/a1")
    assert made.ids == ["a1"]
    made.adapter.exited(3, 0, "", "/x/a1")
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
    calls(made, "Launch")[-1].reply("/a1")
    assert made.ids == ["a1"]
    assert "how it ends is not known" in made.log
    made.adapter.exited(0, 0, "", "/x/a1")
    assert made.ids == []


def test_an_id_that_stays_taken_is_told(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "RESUME_S", 0)
    made.click()
    error = dbus.DBusException(TAKEN.line(), name=f"{NAME}.Error.IdTaken")
    made.bus.the("Launch").fail(error)
    assert made.bus.the("NotifyLaunchFailure").words == ("a1",)


# --------------------------------------------------------------------------- its window


@pytest.fixture
def owners(made: Made, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By the number of a window, which is that of its process too, the uid."""
    uids: dict[int, int] = {}

    def one(environment: Any, number: int) -> Present | None:
        return Present(
            **{"number": number, "pid": number, "title": ""},
            **{"sugar_bundle": "", "sugar_activity": ""},
        )

    monkeypatch.setattr(windows, "one", one)
    monkeypatch.setattr(windows, "present", lambda _: [one(_, n) for n in uids])
    monkeypatch.setattr(openwindows, "owner", uids.get)
    return uids


@contextmanager
def another_uid_s_family() -> Iterator[tuple[int, int]]:
    program = "import os, time; os.write(1, b'%d\\n' % os.fork()); time.sleep(60)"
    need(root())
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        user=12345,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        found = {int(process.stdout.readline()) for _ in range(2)}
        yield process.pid, max(found)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


RUNNING = objects(a1=(71, 70001), a2=(72, 70002), b1=(73, 70003), b2=(74, 70003))


@pytest.mark.parametrize(
    ("says", "uid", "ended"),
    [
        ("a1", 70001, "a1"),
        ("a2", 70001, "a1"),  # another's id
        (None, 70001, "a1"),  # none
        ("a1", 70009, None),  # of a uid that nothing runs as
        ("b2", 70003, "b2"),  # of those that share a uid
        ("a1", 70003, None),
    ],
)
def test_stop_ends_what_a_window_belongs_to_and_not_what_it_says(
    made: Made, owners: dict[int, int], says: str | None, uid: int, ended: str | None
) -> None:
    window = Open(says, 21)
    owners[21] = uid
    made.adapter.stop(window, lambda: pytest.fail("Sugar's own"))
    assert window.stopped == 1
    made.bus.the("GetManagedObjects").reply(RUNNING)
    made.later()
    if ended is None:
        assert "Get" not in made.bus.methods()
        return
    pid = RUNNING[f"/x/{ended}"][ACTIVITY]["Pid"]
    asked = made.bus.the("Get")
    assert asked.path.endswith(f"/{ended}")
    asked.reply(pid)
    assert made.bus.the("Stop").path == asked.path


@pytest.mark.parametrize("uid", [PERSON, None])
def test_what_says_a_confined_one_s_id_and_is_none_has_none_ended(
    made: Made, owners: dict[int, int], uid: int | None
) -> None:
    """Sugar's own Stop for the person's; what nobody knows is asked to close."""
    made.click()
    made.bus.the("Launch").reply("/a1")
    window, others = Open("a1", 21), list[int]()
    if uid is not None:
        owners[21] = uid
    made.adapter.stop(window, lambda: others.append(1))
    assert (window.stopped, others) == ((0, [1]) if uid == PERSON else (1, []))
    assert "GetManagedObjects" not in made.bus.methods()


@pytest.mark.parametrize("with_window", [False, True])
def test_what_has_no_window_any_more_is_ended(
    made: Made, monkeypatch: pytest.MonkeyPatch, *, with_window: bool
) -> None:
    """b1 and b2 share a uid: the window of the one is none of the other's."""
    window = Present(
        **{"number": 1, "pid": 173 if with_window else 174, "title": ""},
        **{"sugar_bundle": "", "sugar_activity": "b1"},
    )
    init_of = {73: 7, 173: 7, 74: 8, 174: 8}
    monkeypatch.setattr(windows, "present", lambda _: (window,))
    monkeypatch.setattr(openwindows, "owner", lambda pid: 70003)
    monkeypatch.setattr(openwindows, "sandbox", init_of.get)
    iconless.watch(made.adapter)
    made.shell.say("activity-removed", Open("b1"))
    made.later()
    made.bus.the("GetManagedObjects").reply(RUNNING)
    if with_window:
        assert "Get" not in made.bus.methods()
        return
    asked = made.bus.the("Get")
    assert asked.path.endswith("/b1")
    asked.reply(73)
    assert made.bus.the("Stop").path == asked.path


@pytest.mark.parametrize("what", ["activity-removed", "launch-failed"])
def test_what_has_a_window_again_is_not_asked_after(made: Made, what: str) -> None:
    iconless.watch(made.adapter)
    made.shell.say(what, Open("a1", 0))
    made.shell.append(Open("a1", 21))
    made.later()
    assert "GetManagedObjects" not in made.bus.methods()


def test_a_sandbox_is_the_first_above_that_has_another_uid() -> None:
    """Two below us as another uid, as a program and its child below their init."""
    with another_uid_s_family() as (parent, child):
        assert openwindows.sandbox(parent) == os.getpid()
        assert openwindows.sandbox(child) == os.getpid()
    assert openwindows.sandbox(0) is None


def test_who_leaves_asks_what_was_launched_past_this_shell_too(
    made: Made, owners: dict[int, int]
) -> None:
    owners.update({1: 70001, 2: 70002, 3: 70009, 4: PERSON})
    made.click()
    made.bus.the("Launch").reply("/a1")
    own, other, bare = Open("a1", 1), Open("b1", 9), Open(None, 2)
    not_ours, persons = Open("x", 3), Open(None, 4)
    made.shell += [own, other, bare, not_ours, persons]
    left: list[int] = []
    made.adapter.leave(lambda: left.append(1))
    assert own.stopped == 1
    asked = made.bus.calls.pop()
    asked.fail(NOT_YET)
    made.later()
    made.bus.the("GetManagedObjects").reply(RUNNING)
    stopped = [one.stopped for one in made.shell]
    assert stopped == [1, 1, 1, 0, 0]
    made.shell.clear()
    made.adapter.exited(0, 0, "", "/x/a1")
    made.adapter.exited(0, 0, "", "/x/b1")
    made.later()
    assert left == []
    made.adapter.exited(0, 0, "", "/x/a2")
    made.later()
    assert left == [1]


def test_who_resumes_an_entry_is_not_ended_by_the_stop_before(made: Made) -> None:
    """The same id, another process: Stop ends what hangs, and looks again first."""
    made.adapter.end("a1", 77)
    made.bus.the("Get").reply(78)
    assert "Stop" not in made.bus.methods()
    made.bus.calls.clear()
    made.adapter.end("a1", 77)
    made.bus.the("Get").reply(77)
    assert made.bus.the("Stop").words == (adapter.GRACE_MS,)


def test_what_the_next_service_does_not_know_once_it_knows_has_ended(
    made: Made,
) -> None:
    made.click()
    made.bus.the("Launch").reply("/a1")
    made.adapter.owner_changed("")
    assert made.bus.methods()[-1] == "StartServiceByName"
    made.adapter.owner_changed(":1.7")
    asked = made.bus.the("GetManagedObjects")
    made.bus.calls.remove(asked)
    asked.fail(NOT_YET)
    made.later()
    asked = made.bus.the("GetManagedObjects")
    asked.reply(objects(a1=(77, 70005)))
    assert made.ids == ["a1"]
    asked.reply(objects())
    assert made.adapter.launches == []
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
