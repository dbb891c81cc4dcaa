# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher run`` against a daemon that says what each test has it say."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.powers import need, root

from isolauncher import client
from isolauncher.cli import main as main_module
from isolauncher.cli import run as run_module
from isolauncher.config import Config

from .fakedaemon import PATIENCE, Client, Connection, FakeDaemon, Handler, closed

REPORT = {"version": 1, "enforced": ["uid"], "exit": {"status": 3, "signal": None}}


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def ends(**fields: object) -> Handler:
    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        connection.say(event="exited", **fields)

    return handler


def refuses(**fields: object) -> Handler:
    def handler(connection: Connection) -> None:
        connection.launch()
        connection.say(event="refused", **fields)

    return handler


@pytest.mark.parametrize(
    ("status", "number"), [(0, None), (3, None), (77, None), (143, 15), (137, 9)]
)
def test_the_exit_status_is_the_programs(
    at: Path, status: int, number: int | None
) -> None:
    with FakeDaemon(at, ends(status=status, signal=number, report=REPORT)):
        with Client(at, "run", "--", "true") as command:
            assert command.finish() == (status, "", "")


@pytest.mark.parametrize("status", [125, 126, 127])
def test_a_refusal_is_one_line_and_its_status(at: Path, status: int) -> None:
    handler = refuses(
        exit_status=status,
        step="mount",
        code="step-failed",
        message="no\nsuch \x1b[31mthing\u202e",
        hint="ask\tagain",
        report=REPORT,
    )
    with FakeDaemon(at, handler):
        with Client(at, "run", "x") as command:
            assert command.finish() == (
                status,
                "",
                "isolauncher: mount: no\\nsuch \\x1b[31mthing\\u202e (ask\\tagain)"
                "  [step-failed]\n",
            )


@pytest.mark.parametrize("status", [0, 1, -1, 128, "127", None, True, [126]])
def test_a_refusal_is_never_taken_for_success(at: Path, status: object) -> None:
    with FakeDaemon(at, refuses(exit_status=status, message="no")):
        with Client(at, "run", "x") as command:
            assert command.finish()[0] == 125


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "exited"},
        {"event": "exited", "status": "0", "signal": None},
        {"event": "exited", "status": 256, "signal": None},
        {"event": "exited", "status": True, "signal": None},
        {"event": "welcome"},
        {},
    ],
)
def test_what_is_not_understood_is_never_taken_for_success(
    at: Path, fields: dict[str, object]
) -> None:
    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        connection.say(**fields)

    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        status, _, err = command.finish()
    assert status == 125
    assert err.count("\n") == 1


def test_standard_streams_are_the_programs_own(at: Path) -> None:
    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        while piece := os.read(connection.fds["stdin"], 1 << 16):
            os.write(connection.fds["stdout"], piece[::-1])
        os.write(connection.fds["stderr"], b"said")
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        with Client(at, "run", "x", stdin=subprocess.PIPE) as command:
            out, err = command.process.communicate(b"abc", timeout=PATIENCE)
    assert (out, err) == (b"cba", b"said")


def test_a_closed_standard_descriptor_becomes_dev_null_and_not_another_file(
    at: Path, tmp_path: Path
) -> None:
    program = tmp_path / "x.py"
    program.touch()
    seen: list[os.stat_result] = []

    def handler(connection: Connection) -> None:
        connection.launch()
        seen.append(os.fstat(connection.fds["stdin"]))
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        with Client(
            at, "run", str(program), stdin=None, preexec_fn=lambda: os.close(0)
        ) as command:
            assert command.finish()[0] == 0
    assert os.path.samestat(seen[0], os.stat(os.devnull))


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_closed_standard_descriptor_does_not_cost_the_exit_status(
    at: Path, fd: int
) -> None:
    with FakeDaemon(at, ends(status=77, signal=None)):
        with Client(at, "run", "x", preexec_fn=lambda: os.close(fd)) as command:
            assert command.finish() == (77, "", "")


def test_what_is_for_standard_error_never_goes_to_standard_output(at: Path) -> None:
    with Client(at, "run", "x", preexec_fn=lambda: os.close(2)) as command:
        assert command.finish() == (125, "", "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["run", "./absent"], 127),
        (["run", "--tier", "other", "x"], 125),
        (["ps"], 125),
        (["test-policy", "./absent.toml"], 2),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_who_cannot_be_told_why_still_gets_the_status(
    at: Path, words: list[str], status: int, full: bool
) -> None:
    reader, nobody = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as device:
        stderr = device.fileno() if full else nobody
        with Client(at, *words, stderr=stderr) as command:
            command.process.communicate(timeout=PATIENCE)
    os.close(nobody)
    assert command.process.returncode == status


@pytest.mark.parametrize("verb", ["test-policy", "explain", "launch"])
def test_in_a_directory_that_is_gone_a_relative_path_is_one_line(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with Client(at, verb, "./x.toml") as command:
        _, err = command.process.communicate(timeout=PATIENCE)
    assert command.process.returncode == 125
    assert err.decode().endswith("[no-working-directory]\n")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("words", [("completion", "bash"), ("--help",), ("run", "-h")])
def test_output_that_cannot_be_written_is_one_line(
    at: Path, words: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        with Client(at, *words, stdout=full) as command:
            _, err = command.process.communicate(timeout=PATIENCE)
    assert command.process.returncode == 125
    assert err.decode().endswith("[output-lost]\n")
    assert err.count(b"\n") == 1


def test_program_and_directory_come_as_descriptors_that_give_no_access(
    at: Path, tmp_path: Path
) -> None:
    program = tmp_path / "x.py"
    program.touch()

    def handler(connection: Connection) -> None:
        asked = connection.launch()
        assert asked.program_kind == "file"
        assert asked.argv == ("./x.py", "--policy", "y", "--", "-m")
        assert os.path.samestat(os.fstat(connection.fds["program"]), program.stat())
        assert os.path.samestat(os.fstat(connection.fds["cwd"]), tmp_path.stat())
        for name in ("program", "cwd"):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.read(connection.fds[name], 1)
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        words = ("./x.py", "--policy", "y", "--", "-m")
        with Client(at, "run", *words, cwd=tmp_path) as command:
            assert command.finish() == (0, "", "")


def test_what_was_typed_is_what_is_asked(at: Path, tmp_path: Path) -> None:
    def handler(connection: Connection) -> None:
        asked = connection.launch()
        assert asked.id == "my_1"
        assert asked.policy == "untrusted"
        assert asked.tier == "exec"
        assert asked.setenv == {"A": "1=2", "B": ""}
        assert asked.environment["GREETING"] == "hello\nworld"
        assert "BASH_FUNC_x%%" not in asked.environment
        assert asked.program_kind == "module"
        assert asked.argv == ("http.server", "-m", "\udcff\udcc3", "é")
        assert asked.umask == 0o027
        assert asked.tied is True
        connection.say(event="exited", status=0, signal=None, report={"skipped": []})

    report = tmp_path / "report"
    with FakeDaemon(at, handler):
        with Client(
            at,
            *("run", "--policy=untrusted", "--id", "my_1", "--tier", "exec"),
            *("--setenv", "A=1=2", "--setenv", "B=x", "--setenv", "B="),
            *("--report", str(report)),
            *("-m", "http.server", "-m", b"\xff\xc3", "é"),
            environment={"GREETING": "hello\nworld", "BASH_FUNC_x%%": "() { :; }"},
            preexec_fn=lambda: os.umask(0o027),
        ) as command:
            assert command.finish() == (0, "", "")
    (skipped,) = json.loads(report.read_text())["skipped"]
    assert "BASH_FUNC_x%%" in skipped["what"]


def test_a_policy_file_comes_as_a_descriptor(at: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("version = 1\n")

    def handler(connection: Connection) -> None:
        assert connection.launch().policy is None
        assert os.read(connection.fds["policy"], 99) == b"version = 1\n"
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        with Client(at, "run", "--policy", "mine.toml", "x", cwd=tmp_path) as command:
            assert command.finish() == (0, "", "")


@pytest.mark.parametrize("target", ["mine.toml", "absent.toml", "/dev/zero"])
def test_a_policy_file_that_is_a_link_is_not_sent(
    at: Path, tmp_path: Path, target: str
) -> None:
    """Row 16 of the attacks: who owns the link says what the policy is."""
    (tmp_path / "mine.toml").write_text("version = 1\n")
    (tmp_path / "link.toml").symlink_to(target)
    with Client(at, "run", "--policy", "./link.toml", "x", cwd=tmp_path) as command:
        status, out, err = command.finish()
    assert (status, out) == (125, "")
    assert "it is a symbolic link" in err
    assert err.endswith("[policy-not-readable]\n")


def test_a_directory_that_is_gone_is_not_sent(at: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def vanish() -> None:
        os.chdir(gone)
        gone.rmdir()

    def handler(connection: Connection) -> None:
        assert "cwd" not in connection.launch().descriptors
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        with Client(at, "run", "x", preexec_fn=vanish) as command:
            assert command.finish() == (0, "", "")


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["./absent"], 127, "program-not-found"),
        (["/etc/passwd/x"], 127, "program-not-found"),
        (["--policy", "absent.toml", "x"], 125, "policy-not-readable"),
        (["--setenv", "novalue", "x"], 125, "request-bad-value"),
        (["--report", "/absent/report", "x"], 125, "report-not-writable"),
        (["--report", "/tmp", "x"], 125, "report-not-writable"),
        (["--report", "", "x"], 125, "report-not-writable"),
        ([], 125, "usage"),
        (["--"], 125, "usage"),
        (["-m"], 125, "usage"),
        (["--tier", "other", "x"], 125, "usage"),
        (["--pol", "x", "x"], 125, "usage"),
        (["--unknown", "x"], 125, "usage"),
        (["x"], 125, "daemon-not-running"),
    ],
)
def test_what_cannot_be_asked_is_one_line_with_a_code(
    at: Path, words: list[str], status: int, code: str
) -> None:
    with Client(at, "run", *words) as command:
        got, out, err = command.finish()
    assert (got, out) == (status, "")
    assert err.endswith(f"  [{code}]\n")
    assert err.count("\n") == 1


def test_no_daemon_says_how_to_get_one(at: Path) -> None:
    with Client(at, "run", "x") as command:
        _, _, err = command.finish()
    assert "sudo isolauncher daemon" in err
    assert "--standalone" in err
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(at))
    stale.close()
    with Client(at, "run", "x") as command:
        status, _, err = command.finish()
    assert status == 125
    assert "nobody listens" in err


def test_a_path_too_long_for_a_socket_is_said_to_be(at: Path) -> None:
    with Client(at / ("x" * 200), "run", "x") as command:
        status, _, err = command.finish()
    assert status == 125
    assert "too long" in err
    assert err.endswith("[daemon-unreachable]\n")


def test_a_program_out_of_reach_is_126(at: Path, tmp_path: Path) -> None:
    need(root())
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "x.py").touch()

    def become_nobody() -> None:
        os.chdir("/")
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    for directory in [tmp_path, *tmp_path.parents]:
        if directory.name.startswith("pytest"):
            directory.chmod(0o755)
    with Client(at, "run", f"{home}/x.py", preexec_fn=become_nobody) as command:
        status, _, err = command.finish()
    assert status == 126
    assert "[program-not-permitted]" in err


def test_a_daemon_of_another_user_gets_nothing(at: Path) -> None:
    need(root())
    at.parent.chmod(0o755)
    reader, writer = os.pipe()
    impostor = os.fork()
    if impostor == 0:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(at))
            os.setresuid(70005, 70005, 70005)
            listener.listen()
            os.write(writer, b"!")
            connection, _ = listener.accept()
            os._exit(len(connection.recv(10)))
        finally:
            os._exit(255)
    assert os.read(reader, 1) == b"!"
    with Client(at, "run", "x") as command:
        status, _, err = command.finish()
    assert status == 125
    assert "[daemon-not-trusted]" in err
    assert os.waitstatus_to_exitcode(os.waitpid(impostor, 0)[1]) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", client.FORWARDED)
def test_a_signal_to_the_client_reaches_the_daemon(at: Path, name: str) -> None:
    started = threading.Event()
    heard: list[object] = []
    other = "USR1" if name != "USR1" else "USR2"

    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        started.set()
        heard.append(connection.hear())
        ready.set()
        heard.append(connection.hear())
        connection.say(event="exited", status=0, signal=None)

    ready = threading.Event()
    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        assert started.wait(PATIENCE)
        # A first signal that would end nothing shows that the client is listening.
        command.signal(other)
        assert ready.wait(PATIENCE)
        command.signal(name)
        assert command.finish() == (0, "", "")
    assert heard == [
        {"verb": "signal", "signal": other},
        {"verb": "signal", "signal": name},
    ]


def test_a_hangup_that_the_caller_ignores_stays_ignored(at: Path) -> None:
    started, ready = threading.Event(), threading.Event()
    heard: list[object] = []

    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        started.set()
        heard.append(connection.hear())
        ready.set()
        heard.append(connection.hear())
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler):
        with Client(
            at,
            "run",
            "x",
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        ) as command:
            assert started.wait(PATIENCE)
            command.signal("USR1")
            assert ready.wait(PATIENCE)
            command.signal("HUP")
            command.signal("TERM")
            assert command.finish()[0] == 0
    assert [h["signal"] for h in heard if isinstance(h, dict)] == ["USR1", "TERM"]


def test_signals_before_the_start_wait_and_arrive_once(at: Path) -> None:
    asked, sent = threading.Event(), threading.Event()
    heard: list[object] = []

    def handler(connection: Connection) -> None:
        connection.launch()
        asked.set()
        assert sent.wait(PATIENCE)
        connection.started()
        heard.append(connection.hear())
        connection.say(event="exited", status=0, signal=None)

    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        assert asked.wait(PATIENCE)
        command.signal("USR2")
        command.signal("USR2")
        sent.set()
        assert command.finish()[0] == 0
    assert heard == [{"verb": "signal", "signal": "USR2"}]


@pytest.mark.parametrize("name", sorted(client.TERMINATING))
def test_a_launch_that_is_interrupted_is_given_up(at: Path, name: str) -> None:
    asked = threading.Event()

    def handler(connection: Connection) -> None:
        connection.launch()
        asked.set()
        assert closed(connection)

    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        assert asked.wait(PATIENCE)
        command.signal(name)
        status, _, err = command.finish()
    assert status == 125
    assert f"SIG{name}" in err
    assert "[client-interrupted]" in err


def test_a_daemon_that_refuses_unread_is_heard(at: Path) -> None:
    """It hangs up with our message in its queue, which resets the connection."""

    def handler(connection: Connection) -> None:
        hello, _, _ = select.select([connection.sock], [], [], PATIENCE)
        assert hello
        connection.say(event="refused", code="caller-is-activity", message="not you")

    with FakeDaemon(at, handler, handler):
        for words in (("run", "x"), ("ps",)):
            with Client(at, *words) as command:
                status, _, err = command.finish()
            assert status == 125
            assert "[caller-is-activity]" in err


def test_an_end_that_is_on_its_way_outruns_a_signal(at: Path) -> None:
    """The signal finds the connection closed; the status is read all the same."""
    asked, sent = threading.Event(), threading.Event()

    def handler(connection: Connection) -> None:
        connection.launch()
        asked.set()
        assert sent.wait(PATIENCE)
        connection.started()
        connection.say(event="exited", status=9, signal=None)

    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        assert asked.wait(PATIENCE)
        command.signal("USR1")
        sent.set()
        assert command.finish() == (9, "", "")


def test_a_daemon_that_dies_during_the_launch_is_125(at: Path) -> None:
    def handler(connection: Connection) -> None:
        connection.launch()

    with FakeDaemon(at, handler), Client(at, "run", "x") as command:
        status, _, err = command.finish()
    assert status == 125
    assert "[daemon-went-away]" in err


class Restart:
    """A daemon that goes away while a program runs, and comes back when told."""

    def __init__(self, at: Path) -> None:
        self.again: list[Handler] = []
        self.gone = threading.Event()
        self.back = threading.Event()
        self.daemon = FakeDaemon(at, self.first, self.second)

    def first(self, connection: Connection) -> None:
        connection.launch()
        connection.started("kept_1")
        self.daemon.go_away()
        connection.close()
        self.gone.set()
        assert self.back.wait(PATIENCE)
        if self.again:
            self.daemon.come_back()
        else:
            self.daemon.handlers.clear()

    def second(self, connection: Connection) -> None:
        if self.again:
            assert connection.hear() == {
                "version": 1,
                "verb": "attach",
                "id": "kept_1",
            }
            self.again[0](connection)


def wait_for_line(command: Client) -> bytes:
    assert command.process.stderr is not None
    return command.process.stderr.readline()


def test_a_restarted_daemon_is_found_again_and_the_status_is_not_lost(
    at: Path,
) -> None:
    restart = Restart(at)

    def again(connection: Connection) -> None:
        connection.started("kept_1")
        assert connection.hear() == {"verb": "signal", "signal": "USR1"}
        connection.say(event="exited", status=77, signal=None, report=REPORT)

    restart.again = [again]
    with restart.daemon, Client(at, "run", "x") as command:
        assert restart.gone.wait(PATIENCE)
        line = wait_for_line(command)
        assert b"kept_1 runs on" in line
        command.signal("USR1")  # waits as the client does
        restart.back.set()
        status, _, err = command.finish()
    assert (status, err) == (77, "isolauncher: the daemon is back\n")


def test_a_daemon_that_restarts_twice_is_found_twice(at: Path) -> None:
    restart = Restart(at)
    restart.again = [lambda connection: None]  # hangs up at once

    def third(connection: Connection) -> None:
        assert connection.hear()["verb"] == "attach"
        connection.say(event="exited", status=7, signal=None)

    restart.daemon.handlers.append(third)
    with restart.daemon, Client(at, "run", "x") as command:
        restart.back.set()
        status, _, err = command.finish()
    assert status == 7
    assert err.count("went away") == 1


def test_a_daemon_that_does_not_know_the_id_any_more_is_125(at: Path) -> None:
    restart = Restart(at)
    restart.again = [
        lambda connection: connection.say(
            event="refused",
            exit_status=125,
            step="attach",
            code="unknown-id",
            message="no activity has the id kept_1",
        )
    ]
    with restart.daemon, Client(at, "run", "x") as command:
        restart.back.set()
        status, _, err = command.finish()
    assert status == 125
    assert "[unknown-id]" in err


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_client_that_is_ended_while_the_daemon_is_away_says_so(
    at: Path, name: str
) -> None:
    restart = Restart(at)
    with Client(at, "run", "x") as command, restart.daemon:
        assert restart.gone.wait(PATIENCE)
        wait_for_line(command)
        command.signal(name)
        status, _, err = command.finish()
        restart.back.set()
    assert status == 125
    assert "kept_1" in err
    assert "[client-interrupted]" in err


def test_a_request_that_is_too_large_names_what_is_large(at: Path) -> None:
    with FakeDaemon(at, lambda connection: None):
        with Client(
            at, "run", "x", environment={f"BIG{n}": "x" * 50_000 for n in range(3)}
        ) as command:
            status, _, err = command.finish()
    assert status == 125
    assert "BIG0, BIG1, BIG2" in err
    assert "[request-too-large]" in err


# The report


def test_a_report_is_written_whole_with_nothing_beside_it(
    at: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    report = tmp_path / "out" / "report"
    report.write_text("old")
    with FakeDaemon(at, ends(status=3, signal=None, report=REPORT)):
        with Client(at, "run", "--report", str(report), "x") as command:
            assert command.finish()[0] == 3
    assert json.loads(report.read_text()) == REPORT
    assert os.listdir(report.parent) == ["report"]


def test_a_report_on_standard_output_is_its_last_line(at: Path) -> None:
    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        os.write(connection.fds["stdout"], b"one\ntwo\n")
        connection.say(event="exited", status=3, signal=None, report=REPORT)

    with FakeDaemon(at, handler), Client(at, "run", "--report", "-", "x") as command:
        status, out, _ = command.finish()
    assert status == 3
    assert out.splitlines()[:2] == ["one", "two"]
    assert json.loads(out.splitlines()[2]) == REPORT


def test_a_report_to_a_fifo_and_to_dev_stdout_goes_straight(
    at: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    with FakeDaemon(at, ends(status=0, signal=None, report=REPORT)):
        with Client(at, "run", "--report", str(fifo), "x") as command:
            assert command.finish()[0] == 0
    reader.join(PATIENCE)
    assert json.loads(read[0]) == REPORT
    assert stat.S_ISFIFO(os.lstat(fifo).st_mode)


def test_a_report_to_somebody_else_s_pipe_that_is_our_own_output_is_written(
    at: Path,
) -> None:
    need(root())
    at.parent.chmod(0o755)
    for directory in at.parent.parents:
        if directory.name.startswith("pytest"):
            directory.chmod(0o755)

    def become_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    with FakeDaemon(at, ends(status=3, signal=None, report=REPORT)):
        at.chmod(0o777)
        words = ("run", "--report", "/dev/stderr", "true")
        with Client(at, *words, cwd="/", preexec_fn=become_nobody) as command:
            status, _, err = command.finish()
    assert status == 3
    assert json.loads(err) == REPORT


def test_a_report_to_dev_stdout_keeps_what_the_program_wrote_to_a_file(
    at: Path, tmp_path: Path
) -> None:
    at.unlink(missing_ok=True)

    def handler(connection: Connection) -> None:
        connection.launch()
        connection.started()
        os.write(connection.fds["stdout"], b"kept\n")
        connection.say(event="exited", status=0, signal=None, report=REPORT)

    with open(tmp_path / "output", "wb") as output:
        with FakeDaemon(at, handler):
            words = ("run", "--report", "/dev/stdout", "x")
            with Client(at, *words, stdout=output) as command:
                assert command.finish()[0] == 0
    first, second = (tmp_path / "output").read_text().splitlines()
    assert first == "kept"
    assert json.loads(second) == REPORT


@pytest.mark.parametrize("running", [True, False])
def test_a_refused_launch_has_a_report_too(
    at: Path, tmp_path: Path, running: bool
) -> None:
    report = tmp_path / "report"
    words = ("run", "--report", str(report), "--id", "a", "x", "y")
    handler = refuses(exit_status=125, step="s", code="c", message="m", report=REPORT)
    if running:
        with FakeDaemon(at, handler), Client(at, *words) as command:
            assert command.finish()[0] == 125
    else:
        with Client(at, *words) as command:
            assert command.finish()[0] == 125
    content = json.loads(report.read_text())
    assert content["version"] == 1
    assert content["exit"] == {"status": None, "signal": None}
    assert set(content["error"]) == {"step", "code", "message"}
    if running:
        assert content["error"] == {"step": "s", "code": "c", "message": "m"}
        assert content["enforced"] == ["uid"]
    else:
        assert content["error"]["code"] == "daemon-not-running"
        assert content["activity"]["program"] == ["x", "y"]


def test_a_report_that_cannot_be_written_is_said_and_the_status_stays(
    at: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def handler(connection: Connection) -> None:
        connection.launch()
        place.rmdir()
        connection.started()
        connection.say(event="exited", status=3, signal=None, report=REPORT)

    with FakeDaemon(at, handler):
        with Client(at, "run", "--report", str(place / "r"), "x") as command:
            status, _, err = command.finish()
    assert status == 3
    assert "the report cannot be written" in err


# Standalone, and what needs no process of its own


class Standalone:
    """What isolauncher.serving gives: the other end of a socketpair, in a child."""

    @staticmethod
    def start_standalone(config: Config) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            try:
                ours.close()
                connection = Connection(theirs)
                tier = connection.launch().tier
                connection.started()
                connection.say(
                    event="exited", status=40 if tier == "exec" else 41, signal=None
                )
            finally:
                os._exit(0)
        theirs.close()
        return ours, child

    @staticmethod
    def end_standalone(child: int, config: Config) -> None:
        os.waitpid(child, 0)


@pytest.fixture
def standalone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import isolauncher

    fake = Standalone()
    monkeypatch.setitem(sys.modules, "isolauncher.serving", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(isolauncher, "daemon", fake, raising=False)
    return


def test_standalone_talks_to_a_daemon_of_its_own_in_the_exec_tier(
    standalone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main_module.main(["run", "--standalone", "x"]) == 40
    assert main_module.main(["run", "--standalone", "--tier", "fork", "x"]) == 41


def test_standalone_is_for_root(
    standalone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main_module.main(["run", "--standalone", "x"]) == 125
    assert "[standalone-not-root]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "program", "module"),
    [
        (["x"], ["x"], False),
        (["--", "x"], ["x"], False),
        (["--", "--x"], ["--x"], False),
        (["--", "--", "x"], ["--", "x"], False),
        (["x", "--", "y"], ["x", "--", "y"], False),
        (["x", "--policy", "y"], ["x", "--policy", "y"], False),
        (["x", "--help"], ["x", "--help"], False),
        (["--policy", "x", "y"], ["y"], False),
        (["--policy=x", "y", "-m"], ["y", "-m"], False),
        (["--standalone", "y"], ["y"], False),
        (["--report", "-", "y"], ["y"], False),
        (["-m", "x", "--", "-m"], ["x", "--", "-m"], True),
        (["-mx", "y"], ["x", "y"], True),
        (["--id", "a", "-m", "x"], ["x"], True),
        (["-"], ["-"], False),
    ],
)
def test_options_end_where_the_program_begins(
    words: list[str], program: list[str], module: bool
) -> None:
    args = run_module.parse(main_module.load("run")[1], words)
    assert (args.program, args.module) == (program, module)


def test_the_file_that_was_probably_meant_is_pointed_out(
    at: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.py").touch()
    handler = refuses(exit_status=127, code="program-not-found", message="no x.py")
    with FakeDaemon(at, handler), Client(at, "run", "x.py", cwd=tmp_path) as command:
        status, _, err = command.finish()
    assert status == 127
    assert "write ./x.py" in err


def test_run_loads_little() -> None:
    """Every launch pays for what the client imports."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from isolauncher.cli.main import main; "
            "main(['run', './absent']); print(*sys.modules)",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    heavy = {"asyncio", "pathlib", "subprocess", "tempfile", "logging", "tomllib"}
    ours = {
        f"isolauncher.{name}"
        for name in ("daemon", "apply", "kernel", "config", "policy.load", "cli.ps")
    }
    assert not (heavy | ours) & set(loaded)
