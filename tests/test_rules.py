# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the command line, each against a real daemon and real programs.

What `run` may be given and what comes back: kinds of programs, exit statuses, signals,
streams, policies, reports; then `ps`, `stop` and the end of a client.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import (
    PATIENCE_S,
    Finished,
    Leftovers,
    Service,
    nothing_left,
)
from support.powers import need

from isolauncher import wire
from isolauncher.bench import contenders
from isolauncher.client import connect, prepare

BOB = 12345
ALICE = 12346
TIERS = pytest.mark.parametrize("tier", ["fork", "exec"])

SHOW = "import json, os, sys\njson.dump([sys.argv, os.getcwd()], sys.stdout)\n"


def settled(where: Service) -> Leftovers:
    """The machine once nothing runs any more: an end takes the kernel a moment."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := Leftovers.now(where)).processes or now.records:
        assert time.monotonic() < deadline, now
        select.select([], [], [], 0.01)
    return now


def tier_of(done: Finished) -> object:
    assert done.report is not None
    return done.report["activity"]["tier"]  # type: ignore[index]


def error_of(done: Finished) -> dict[str, object]:
    assert done.report is not None, done.errors
    error = done.report["error"]
    assert isinstance(error, dict)
    return error


def refused(done: Finished, status: int, code: str) -> None:
    """It did not run, said why in one line, and the report says the same."""
    assert done.status == status, done.errors
    assert done.out == b""
    assert done.errors.count("\n") == 1
    assert done.errors.endswith(f"[{code}]\n")
    assert error_of(done)["code"] == code
    assert done.report is not None
    assert done.report["exit"] == {"status": None, "signal": None}


# ---------------------------------------------------------------------- exit status


@TIERS
@pytest.mark.parametrize("status", [0, 3, 77, 125, 126, 127, 137, 143])
def test_the_program_s_own_status_comes_back_and_is_no_failure_to_launch(
    daemon: Service, tier: str, status: int
) -> None:
    script = daemon.script("status.py", "import sys; sys.exit(int(sys.argv[1]))")
    done = daemon.run("--tier", tier, "--", script, str(status))
    assert (done.status, done.errors) == (status, "")
    assert done.report is not None
    assert done.report["exit"] == {"status": status, "signal": None}
    assert "error" not in done.report


@TIERS
@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "USR1"])
def test_a_program_killed_by_a_signal_returns_128_and_its_number(
    daemon: Service, tier: str, name: str
) -> None:
    number = signal.Signals[f"SIG{name}"]
    script = daemon.script(
        "die.py", "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"
    )
    done = daemon.run("--tier", tier, "--", script, str(int(number)))
    assert (done.status, done.errors) == (128 + number, "")
    assert done.report is not None
    assert done.report["exit"] == {"status": 128 + number, "signal": number}


@TIERS
def test_an_uncaught_exception_is_python_s_own_message_and_status(
    daemon: Service, tier: str
) -> None:
    script = daemon.script("raise.py", "def f():\n    1 / 0\n\nf()\n")
    done = daemon.run("--tier", tier, "--", script)
    assert done.status == 1
    plain = subprocess.run(
        ["/usr/bin/python3", script], capture_output=True, check=False
    )
    assert done.err == plain.stderr


# -------------------------------------------------------------------------- signals

HEAR = """\
import os, signal, time
NAMES = "HUP INT QUIT TERM USR1 USR2 WINCH".split()
heard = set()
def hear(number, frame):
    name = signal.Signals(number).name[3:]
    os.write(1, name.encode() + b"\\n")  # print cannot be interrupted by print
    heard.add(name)
for name in NAMES:
    signal.signal(getattr(signal, "SIG" + name), hear)
os.write(1, b"up\\n")
while heard != set(NAMES):
    time.sleep(0.01)
"""


@TIERS
def test_every_forwarded_signal_arrives(daemon: Service, tier: str) -> None:
    script = daemon.script("hear.py", HEAR)
    client = daemon.start_client("run", "--tier", tier, "--", script)
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"):
        client.send_signal(signal.Signals[f"SIG{name}"])
        assert client.stdout.readline() == f"{name}\n".encode()
    out, err = client.communicate(timeout=PATIENCE_S)
    assert (client.returncode, out, err) == (0, b"", b"")


@TIERS
@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"])
def test_a_signal_that_nobody_handles_ends_the_program_and_is_its_status(
    daemon: Service, tier: str, name: str
) -> None:
    source = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    client = daemon.start_client(
        "run", "--tier", tier, "--", daemon.script("up.py", source)
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    number = signal.Signals[f"SIG{name}"]
    client.send_signal(number)
    client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 128 + number


# -------------------------------------------------------------------------- streams


@TIERS
def test_100_mb_of_standard_input_pass_through_intact(
    daemon: Service, tier: str
) -> None:
    script = daemon.script(
        "digest.py",
        "import hashlib, sys\n"
        "digest, size = hashlib.sha256(), 0\n"
        "while block := sys.stdin.buffer.read(1 << 20):\n"
        "    digest.update(block); size += len(block)\n"
        "print(size, digest.hexdigest())\n",
    )
    block = os.urandom(1 << 20)
    data = block * 100
    done = daemon.run("--tier", tier, "--", script, input=data)
    assert done.text == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"


def test_a_filter_in_a_pipe_passes_both_ways_and_ends_at_end_of_file(
    daemon: Service,
) -> None:
    data = os.urandom(3 << 20)
    done = daemon.run("--", "cat", input=data)
    assert (done.status, done.out) == (0, data)


def test_standard_error_is_kept_apart(daemon: Service) -> None:
    script = daemon.script(
        "both.py", "import sys; print('out'); print('err', file=sys.stderr)"
    )
    done = daemon.run("--", script)
    assert (done.out, done.err) == (b"out\n", b"err\n")


def test_a_device_the_policy_does_not_name_cannot_come_in_as_a_stream(
    daemon: Service,
) -> None:
    # Those that a machine may have, and a container.
    known = [p for p in ("/dev/kmsg", "/dev/net/tun") if os.path.exists(p)]
    need(None if known else "there is no device to try")
    with open(known[0], "rb") as device:
        done = daemon.run("--", "true", stdin=device)
    refused(done, 125, "request-bad-stream")


ON_A_TERMINAL = """\
import os, signal, sys
def show(*_):
    size = os.get_terminal_size(0)
    text = f"{[os.isatty(n) for n in (0, 1, 2)]} {size.columns} {size.lines}\\n"
    os.write(1, text.encode())  # not print: a signal may come in the middle of it
signal.signal(signal.SIGWINCH, show)
show()
sys.stdin.readline()
"""


@TIERS
@pytest.mark.parametrize("uid", [0, BOB])
def test_a_terminal_passes_through_with_its_size_and_its_changes(
    daemon: Service, tier: str, uid: int
) -> None:
    script = daemon.script("terminal.py", ON_A_TERMINAL)
    master, slave = pty.openpty()
    os.fchown(slave, uid, -1)
    resize(slave, 40, 100)

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(slave, number)

    client = daemon.start_client(
        "run", "--tier", tier, "--", script, uid=uid, prepare=take_terminal
    )
    try:
        os.close(slave)
        assert read_line(master) == "[True, True, True] 100 40"
        resize(master, 50, 120)
        assert read_line(master) == "[True, True, True] 120 50"
        os.write(master, b"\n")
        client.wait(PATIENCE_S)
        assert client.returncode == 0
    finally:
        client.kill()
        client.communicate()
        os.close(master)


def resize(fd: int, lines: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def read_line(fd: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"nothing came after {line!r}"
        line += os.read(fd, 1)
    return line.decode().strip()


# ---------------------------------------------------------------- kinds of programs


def test_a_py_file_needs_no_execute_permission(daemon: Service) -> None:
    script = daemon.script("plain.py", "print('ran')")
    os.chmod(script, 0o444)
    done = daemon.run("--", script)
    assert (done.text, tier_of(done)) == ("ran\n", "fork")
    assert done.report is not None
    assert done.report["activity"]["path"] == "demand"  # type: ignore[index]


@pytest.mark.parametrize(
    ("line", "tier"),
    [("#!/usr/bin/python3", "fork"), ("#!/usr/bin/env python3", "fork"),
     ("#!/usr/bin/python3 -E", "exec")],
)  # fmt: skip
def test_a_first_line_that_names_python3_makes_a_script(
    daemon: Service, line: str, tier: str
) -> None:
    script = daemon.script("no_suffix", f"{line}\nimport sys\nprint(sys.argv)\n")
    os.chmod(script, 0o644)
    done = daemon.run("--", script, "x")
    assert (done.text, done.status) == (f"{[script, 'x']}\n", 0)
    assert tier_of(done) == tier


@TIERS
@pytest.mark.parametrize("mode", [0o644, 0o755])
@pytest.mark.parametrize(
    ("line", "begin"),
    [
        ("#!/usr/bin/python3 -IO", ["/usr/bin/python3", "-IO"]),
        ("#! /usr/bin/python3 -I \t", ["/usr/bin/python3", "-I"]),
        ("#!/usr/bin/env -S python3 -I -O", ["/usr/bin/python3", "-I", "-O"]),
        ("#!/no/such/python3 -I", ["/usr/bin/python3", "-I"]),
    ],
)
def test_options_in_the_first_line_are_the_interpreter_s(
    daemon: Service, tier: str, mode: int, line: str, begin: list[str]
) -> None:
    show = "print(sys.orig_argv, sys.flags.isolated, sys.flags.optimize)\n"
    script = daemon.script("with_options", f"{line}\nimport sys\n{show}")
    os.chmod(script, mode)
    done = daemon.run("--tier", tier, "--", script, "x")
    optimize = int("O" in begin[-1])
    assert (done.text, done.errors) == (f"{[*begin, script, 'x']} 1 {optimize}\n", "")
    assert tier_of(done) == "exec"


def test_what_the_interpreter_says_to_its_options_is_said_as_in_a_cold_start(
    daemon: Service,
) -> None:
    # The kernel makes one argument of them.
    script = daemon.script("two_options", "#!/usr/bin/python3 -u -E\nprint('ran')\n")
    os.chmod(script, 0o755)  # noqa: S103
    cold = subprocess.run([script], capture_output=True, check=False)
    done = daemon.run("--", script)
    assert (done.status, done.out, done.err) == (
        cold.returncode,
        cold.stdout,
        cold.stderr,
    )


def test_an_executable_runs_in_a_fresh_process(daemon: Service) -> None:
    script = daemon.script("tool", "#!/bin/sh\necho shell $1\nexit 4\n")
    os.chmod(script, 0o755)  # noqa: S103
    done = daemon.run("--", script, "arg")
    assert (done.text, done.status, tier_of(done)) == ("shell arg\n", 4, "exec")
    assert done.report is not None
    assert done.report["activity"]["path"] == "exec"  # type: ignore[index]


def test_what_a_program_lacks_to_start_is_named_and_not_the_program(
    daemon: Service,
) -> None:
    script = daemon.script("tool", "#! /nowhere/sh -e\necho never\n")
    os.chmod(script, 0o755)  # noqa: S103
    done = daemon.run("--", script)
    refused(done, 127, "interpreter-not-found")
    assert "'/nowhere/sh'" in done.errors
    nothing = daemon.policy("nothing", "version = 1\n[files]\nread = []\n")
    done = daemon.run("--policy", nothing, "--", "/bin/true")
    refused(done, 127, "interpreter-not-found")
    assert "true: the library that loads it" in done.errors
    script = daemon.script("words", "just text\n")
    os.chmod(script, 0o755)  # noqa: S103
    done = daemon.run("--", script)
    refused(done, 126, "program-not-executable")
    assert "a script names its interpreter in its first line" in done.errors


def test_a_policy_may_name_more_than_there_is_but_not_show_more_than_can_be_sent(
    daemon: Service,
) -> None:
    places = [daemon.top / "many" / str(n) for n in range(201)]
    text = ", ".join(f'"{place}"' for place in places)
    many = daemon.policy("many", f'version = 1\n[files]\nread = ["...", {text}]\n')
    assert daemon.run("--policy", many, "--", "true").status == 0
    for place in places:
        place.mkdir(parents=True)
    done = daemon.run("--policy", many, "--", "true")
    refused(done, 125, "open-too-many")
    assert "name a directory that holds several of them" in done.errors


def test_what_is_neither_a_script_nor_executable_is_status_126(
    daemon: Service,
) -> None:
    script = daemon.script("notes.txt", "just text\n")
    os.chmod(script, 0o644)
    refused(daemon.run("--", script), 126, "program-not-executable")


def test_a_script_its_caller_may_not_read_is_status_126(daemon: Service) -> None:
    script = daemon.script("secret.py", "print('never')")
    os.chmod(script, 0o600)
    done = daemon.run("--", script, uid=BOB)
    assert (done.status, done.out) == (126, b"")
    assert error_of(done)["code"] == "program-not-yours"


def test_a_script_below_another_s_private_directory_is_status_126(
    daemon: Service,
) -> None:
    home = daemon.top / "alice"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "x.py").write_text("print('never')")
    os.chown(home, ALICE, ALICE)
    done = daemon.run("--", str(home / "x.py"), uid=BOB)
    assert (done.status, done.out) == (126, b"")
    assert error_of(done)["code"] == "program-not-permitted"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o755])
@pytest.mark.parametrize("uid", [0, BOB])
def test_an_own_script_in_an_own_private_home_runs(
    daemon: Service, uid: int, mode: int
) -> None:
    home = daemon.top / f"home-{uid}"
    home.mkdir(mode=0o700, exist_ok=True)
    script = home / f"mine-{mode:o}.py"
    script.write_text("import os; print(oct(os.stat(__file__).st_mode & 0o777))")
    script.chmod(mode)
    for path in (home, script):
        os.chown(path, uid, uid)
    done = daemon.run("--", str(script), uid=uid, cwd=home)
    assert (done.status, done.errors) == (0, "")
    assert int(done.text, 8) in (mode, 0o444)  # a copy, where nothing can be mapped


def test_a_program_that_is_not_there_is_status_127(daemon: Service) -> None:
    refused(daemon.run("--", "/no/such/program"), 127, "program-not-found")


def test_a_directory_is_no_program(daemon: Service) -> None:
    done = daemon.run("--", "/usr/bin")
    assert (done.status, done.out) in ((126, b""), (125, b""))


def test_a_bare_name_is_sought_in_the_policy_s_path_only(daemon: Service) -> None:
    place = daemon.top / "programs"
    tool = daemon.script("own-tool", "#!/bin/sh\necho wrong\n")
    os.chmod(tool, 0o755)  # noqa: S103
    done = daemon.run(
        "--", "own-tool", cwd=place, environment={"PATH": f"{place}:/usr/bin"}
    )
    assert (done.status, done.out) == (127, b"")
    assert error_of(done)["code"] == "program-not-found"
    assert "write ./own-tool" in done.errors
    assert daemon.run("--", "env").status == 0


def test_a_python_script_is_found_in_path_too(daemon: Service) -> None:
    found = [p for p in ("pydoc3", "pygettext3", "2to3") if shutil.which(p)]
    need(None if found else "Debian's python3 brings no script in /usr/bin")
    done = daemon.run("--", found[0], "--help")
    assert done.errors.count("[") == 0


@TIERS
def test_a_module_runs_as_with_python_s_own_m(daemon: Service, tier: str) -> None:
    words = ("-m", "json.tool", "--compact")
    done = daemon.run("--tier", tier, *words, input=b'{"a":  1}')
    assert (done.status, done.text) == (0, '{"a":1}\n')
    assert tier_of(done) == tier


def test_a_module_that_is_not_there_is_python_s_own_message(daemon: Service) -> None:
    done = daemon.run("-m", "no_such_module_anywhere")
    assert done.status == 1
    assert done.errors == "/usr/bin/python3: No module named no_such_module_anywhere\n"


@TIERS
def test_a_relative_path_stays_as_it_was_typed_where_it_leads_there_inside(
    daemon: Service, tier: str
) -> None:
    daemon.script("relative.py", SHOW)
    place = daemon.top / "programs"
    done = daemon.run("--tier", tier, "--", "./relative.py", "a", cwd=place)
    assert json.loads(done.text) == [["./relative.py", "a"], str(place)]
    done = daemon.run("--tier", tier, "--", "programs/relative.py", cwd=daemon.top)
    assert json.loads(done.text) == [["programs/relative.py"], str(daemon.top)]


@TIERS
def test_a_working_directory_that_is_visible_is_kept(
    daemon: Service, tier: str
) -> None:
    script = daemon.script("where.py", SHOW)
    done = daemon.run("--tier", tier, "--", script, cwd="/usr/share")
    assert json.loads(done.text) == [[script], "/usr/share"]


@TIERS
def test_a_working_directory_that_is_hidden_becomes_the_root(
    daemon: Service, tier: str
) -> None:
    script = daemon.script("where.py", SHOW)
    hidden = daemon.top / "hidden"
    hidden.mkdir(exist_ok=True)
    done = daemon.run("--tier", tier, "--", script, cwd=hidden)
    assert json.loads(done.text) == [[script], "/"]
    relative = daemon.run("--tier", tier, "--", "../programs/where.py", cwd=hidden)
    assert json.loads(relative.text) == [[script], "/"]


@TIERS
def test_a_link_to_a_program_runs_the_program(daemon: Service, tier: str) -> None:
    script = daemon.script("target.py", SHOW)
    link = daemon.top / "link.py"
    link.unlink(missing_ok=True)
    link.symlink_to(script)
    done = daemon.run("--tier", tier, "--", str(link), "a")
    assert json.loads(done.text)[0] == [script, "a"]


def test_a_program_in_a_place_the_policy_shows_needs_no_mount_of_its_own(
    daemon: Service,
) -> None:
    done = daemon.run("--", "/usr/bin/env")
    assert done.status == 0
    assert dict(v.split("=", 1) for v in done.text.splitlines()) == {
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }


# ----------------------------------------------------------------- what run is given


@TIERS
def test_setenv_passes_through_keep_and_what_is_dropped_is_in_the_report(
    daemon: Service, tier: str
) -> None:
    script = daemon.script(
        "env.py", "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
    )
    done = daemon.run(
        *("--tier", tier, "--setenv", "TZ=Asia/Tokyo", "--setenv", "COLUMNS=a=b\nc"),
        *("--setenv", "HOME=/root", "--setenv", "SECRET=x", "--setenv", "LANG=C.utf8"),
        *("--", script),
        environment={"TZ": "UTC"},
    )
    assert json.loads(done.text) == {
        "TZ": "Asia/Tokyo",
        "COLUMNS": "a=b\nc",
        "LANG": "C.utf8",
        "HOME": "/tmp",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    assert done.report is not None
    told = json.dumps(done.report["skipped"])
    assert "SECRET" in told
    assert "HOME" in told


def test_a_setenv_without_a_value_is_refused(daemon: Service) -> None:
    refused(daemon.run("--setenv", "TZ", "--", "true"), 125, "request-bad-value")


def test_an_id_is_used_and_cannot_run_twice_at_once(daemon: Service) -> None:
    first = daemon.start_client(
        "run", "--id", "only_one", "--", "cat", stdin=subprocess.PIPE
    )
    wait_until_listed(daemon, "only_one")
    second = daemon.run("--id", "only_one", "--", "true")
    refused(second, 125, "id-taken")
    assert second.report is not None
    assert second.report["activity"]["id"] == "only_one"  # type: ignore[index]
    out, _ = first.communicate(b"still here", timeout=PATIENCE_S)
    assert (first.returncode, out) == (0, b"still here")
    again = daemon.run("--id", "only_one", "--", "true")
    assert again.status == 0
    assert again.report is not None
    assert again.report["activity"]["id"] == "only_one"  # type: ignore[index]


@pytest.mark.parametrize("bad", ["../x", "a/b", "a b", "", "x" * 65, "-x", "é"])
def test_what_is_no_id_is_refused(daemon: Service, bad: str) -> None:
    done = daemon.run(f"--id={bad}", "--", "true")
    assert (done.status, done.out) == (125, b"")
    assert error_of(done)["code"] == "request-bad-id"


def test_root_may_name_any_policy_and_others_those_that_admit_them(
    daemon: Service,
) -> None:
    daemon.policy("for-root", "version = 1\n")
    daemon.policy("for-nobody", 'version = 1\n[match]\ncallers = ["nobody"]\n')
    nobody = 65534
    for name in ("for-root", "for-nobody", "untrusted"):
        done = daemon.run("--policy", name, "--", "true")
        assert done.status == 0, done.errors
        assert done.report is not None
        assert done.report["policy"]["name"] == name  # type: ignore[index]
    assert daemon.run("--policy", "for-nobody", "--", "true", uid=nobody).status == 0
    assert daemon.run("--policy", "untrusted", "--", "true", uid=BOB).status == 0
    for name in ("for-root", "for-nobody"):
        done = daemon.run("--policy", name, "--", "true", uid=BOB)
        assert (done.status, done.out) == (125, b"")
        assert done.errors.startswith("isolauncher: ")
        assert error_of(done)["step"] in ("request", "policy")


def test_a_policy_of_an_unknown_name_is_refused(daemon: Service) -> None:
    done = daemon.run("--policy", "no-such-policy", "--", "true")
    assert (done.status, done.out) == (125, b"")
    assert "no-such-policy" in done.errors


@pytest.mark.parametrize("standalone", [(), ("--standalone",)])
def test_a_policy_file_is_for_root(
    daemon: Service, standalone: tuple[str, ...]
) -> None:
    path = daemon.top / "own.toml"
    path.write_text('version = 1\n[namespaces]\nhostname = "own"\n')
    done = daemon.run(*standalone, "--policy", str(path), "--", "uname", "-n")
    assert (done.text, done.errors) == ("own\n", "")
    assert done.report is not None
    assert str(path) in done.report["policy"]["files"]  # type: ignore[index]


def test_a_policy_file_of_another_caller_is_refused(daemon: Service) -> None:
    path = daemon.top / "bobs.toml"
    path.write_text("version = 1\n")
    os.chown(path, BOB, BOB)
    done = daemon.run("--policy", str(path), "--", "true", uid=BOB)
    assert (done.status, done.out) == (125, b"")
    assert error_of(done)["step"] in ("request", "policy")


def test_standalone_is_for_root(daemon: Service) -> None:
    done = daemon.run("--standalone", "--", "true", uid=BOB)
    refused(done, 125, "standalone-not-root")


@TIERS
def test_standalone_leaves_the_daemon_beside_it_alone(
    daemon: Service, tier: str
) -> None:
    before = settled(daemon)
    script = daemon.script("status.py", "import sys; sys.exit(int(sys.argv[1]))")
    words = ("--tier", tier, "--", script, "9")
    assert daemon.run("--standalone", *words).status == 9
    assert daemon.run(*words).status == 9
    nothing_left(daemon, before)


def test_a_policy_s_exec_cannot_be_asked_away(daemon: Service) -> None:
    script = daemon.script("plain.py", "print('ran')")
    done = daemon.run("--policy", "untrusted", "--tier", "fork", "--", script)
    assert (done.text, tier_of(done)) == ("ran\n", "exec")
    assert done.report is not None
    assert any(s["what"] == "tier fork" for s in done.report["skipped"])  # type: ignore[attr-defined]


# -------------------------------------------------------------------------- reports

SHAPE = {
    "version": int,
    "activity": {
        "id": str,
        "bundle_id": type(None),
        "program": list,
        "pid": int,
        "tier": str,
        "path": str,
    },
    "caller": {"uid": int, "gid": int},
    "policy": {"name": str, "files": list},
    "identity": {"uid": int, "gid": int, "groups": list, "inner_uid": int},
    "namespaces": dict.fromkeys(
        ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"), str
    ),
    "enforced": list,
    "skipped": list,
    "timings_us": dict.fromkeys(
        ("queue", "fork", "plan", "apply", "verify", "handover", "total"), int
    ),
    "exit": {"status": int, "signal": type(None)},
}


def has_shape(value: object, shape: object, where: str = "report") -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(shape), where
        for name, inner in shape.items():
            has_shape(value[name], inner, f"{where}.{name}")
    else:
        assert type(value) is shape, f"{where} is {value!r}"


@TIERS
@pytest.mark.parametrize("uid", [0, BOB])
def test_the_report_has_exactly_the_fields_of_its_version(
    daemon: Service, tier: str, uid: int
) -> None:
    done = daemon.run("--tier", tier, "--", "/usr/bin/python3", "-c", "", uid=uid)
    has_shape(done.report, SHAPE)
    assert done.report is not None
    assert done.report["version"] == 1
    assert done.report["caller"] == {"uid": uid, "gid": uid}
    assert done.report["activity"]["program"] == ["/usr/bin/python3", "-c", ""]  # type: ignore[index]
    timings: dict[str, int] = done.report["timings_us"]  # type: ignore[assignment]
    assert 0 < sum(v for k, v in timings.items() if k != "total") <= timings["total"]


def test_a_report_to_a_dash_is_the_last_line_of_standard_output(
    daemon: Service,
) -> None:
    script = daemon.script("two.py", "print('one'); print('two', end='\\n')")
    done = daemon.isolauncher("run", "--report", "-", "--", script)
    *before, last = done.text.splitlines()
    assert before == ["one", "two"]
    has_shape(json.loads(last), SHAPE)
    assert done.out.endswith(b"\n")


def test_a_report_of_a_failure_says_step_code_and_message(daemon: Service) -> None:
    done = daemon.isolauncher("run", "--report", "-", "--", "/no/such")
    report = json.loads(done.text)
    assert done.status == 127
    assert report["exit"] == {"status": None, "signal": None}
    assert set(report["error"]) == {"step", "code", "message"}
    assert set(report) == {*SHAPE, "error"}


def test_a_report_of_a_failure_in_the_sandbox_has_the_same_fields(
    daemon: Service,
) -> None:
    done = daemon.run("--", "no-such-name-in-path")
    assert done.status == 127
    assert done.report is not None
    assert set(done.report) == {*SHAPE, "error"}
    assert set(error_of(done)) == {"step", "code", "message"}
    assert done.report["policy"]["name"] == "default"  # type: ignore[index]
    assert done.report["identity"]["uid"] >= 70001  # type: ignore[index]


def test_a_report_that_cannot_be_written_is_said_before_the_launch(
    daemon: Service,
) -> None:
    done = daemon.isolauncher(
        "run", "--report", "/no/such/place/r", "--", "echo", "ran"
    )
    assert (done.status, done.out) == (125, b"")
    assert done.errors.endswith("[report-not-writable]\n")


# ----------------------------------------------------------------------- ps and stop

FIELDS = {
    "id": str,
    "bundle_id": type(None),
    "pid": int,
    "uid": int,
    "caller_uid": int,
    "policy": str,
    "tier": str,
    "path": str,
    "state": str,
    "age_s": float,
}


def listed(where: Service, uid: int = 0) -> dict[str, dict[str, object]]:
    done = where.isolauncher("ps", "--json", uid=uid)
    assert (done.status, done.errors) == (0, "")
    return {one["id"]: one for one in json.loads(done.text)}


def wait_until_listed(where: Service, name: str, state: str = "running") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while listed(where).get(name, {}).get("state") != state:
        assert time.monotonic() < deadline


@pytest.fixture
def sleepers(daemon: Service) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """One activity of root's and one of Bob's, each waiting for ever."""
    source = "import signal\nprint('up', flush=True)\nwhile True: signal.pause()\n"
    script = daemon.script("sleeper.py", source)
    clients = {
        name: daemon.start_client("run", "--id", name, "--", script, uid=uid)
        for name, uid in (("roots", 0), ("bobs", BOB))
    }
    for client in clients.values():
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
    yield clients
    for client in clients.values():
        client.kill()
        client.communicate()


def test_ps_lists_to_root_everybody_s_and_to_others_their_own(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    wait_until_listed(daemon, "roots")
    wait_until_listed(daemon, "bobs")
    everything = listed(daemon)
    assert {"roots", "bobs"} <= set(everything)
    for one in everything.values():
        has_shape(one, FIELDS, "ps")
    bobs = everything["bobs"]
    assert (bobs["caller_uid"], bobs["policy"], bobs["state"]) == (
        BOB,
        "default",
        "running",
    )
    assert (bobs["tier"], bobs["path"]) == ("fork", "demand")
    assert bobs["age_s"] >= 0  # type: ignore[operator]
    status = Path(f"/proc/{bobs['pid']}/status").read_text()
    assert f"Uid:\t{bobs['uid']}\t" in status
    assert set(listed(daemon, BOB)) == {"bobs"}
    assert listed(daemon, ALICE) == {}


def test_ps_without_json_is_a_table_with_a_heading(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    lines = daemon.isolauncher("ps").text.splitlines()
    assert lines[0].split()[:3] == ["ID", "PID", "UID"]
    assert any(line.startswith("bobs ") for line in lines[1:])


def test_stop_ends_one_s_own_and_its_client_says_so(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    done = daemon.isolauncher("stop", "bobs", uid=BOB)
    assert (done.status, done.out, done.errors) == (0, b"", "")
    sleepers["bobs"].communicate(timeout=PATIENCE_S)
    assert sleepers["bobs"].returncode == 128 + signal.SIGTERM
    assert "bobs" not in listed(daemon)
    assert "roots" in listed(daemon)


def test_stop_of_an_unknown_id_is_1_and_of_another_s_125(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    unknown = daemon.isolauncher("stop", "no_such")
    assert (unknown.status, unknown.out) == (1, b"")
    another = daemon.isolauncher("stop", "roots", uid=BOB)
    assert (another.status, another.out) == (125, b"")
    assert "roots" in listed(daemon)
    # The worst of several; what could be ended is ended all the same.
    both = daemon.isolauncher("stop", "bobs", "roots", "no_such", uid=BOB)
    assert both.status == 125
    assert set(listed(daemon)) == {"roots"}


def test_stop_by_root_ends_anybody_s(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    assert daemon.isolauncher("stop", "bobs", "roots").status == 0
    assert listed(daemon) == {}


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(
    daemon: Service,
) -> None:
    before = settled(daemon)
    source = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'no\\n'))\n"
        "os.write(1, b'up\\n')\n"
        "while True: signal.pause()\n"
    )
    script = daemon.script("stubborn.py", source)
    client = daemon.start_client("run", "--id", "stubborn", "--", script)
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    began = time.monotonic()
    done = daemon.isolauncher("stop", "--grace", "0.3", "stubborn")
    took = time.monotonic() - began
    assert done.status == 0
    assert took >= 0.3
    out, _ = client.communicate(timeout=PATIENCE_S)
    assert out == b"no\n"
    assert client.returncode == 128 + signal.SIGKILL
    nothing_left(daemon, before)


def test_a_grace_of_0_kills_at_once(
    daemon: Service, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    assert daemon.isolauncher("stop", "--grace", "0", "roots").status == 0
    sleepers["roots"].communicate(timeout=PATIENCE_S)
    assert sleepers["roots"].returncode in (128 + signal.SIGKILL, 128 + signal.SIGTERM)


@TIERS
def test_an_activity_ends_with_its_killed_client_and_leaves_nothing(
    daemon: Service, tier: str
) -> None:
    before = settled(daemon)
    source = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['/bin/sleep', '1000'])\n"
        "print('up', flush=True)\nchild.wait()\n"
    )
    script = daemon.script("family.py", source)
    client = daemon.start_client(
        "run", "--id", f"orphan_{tier}", "--tier", tier, "--", script
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.communicate()
    nothing_left(daemon, before)
    assert f"orphan_{tier}" not in listed(daemon)


def test_a_background_process_ends_with_the_program(daemon: Service) -> None:
    before = settled(daemon)
    source = (
        "import subprocess, sys\n"
        "subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True,\n"
        "    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,\n"
        "    stderr=subprocess.DEVNULL)\n"
        "sys.exit(5)\n"
    )
    assert daemon.run("--", daemon.script("leaves.py", source)).status == 5
    nothing_left(daemon, before)


def test_nobody_serving_the_socket_is_status_125_and_a_hint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "isolauncher", "run", "--", "true"],
        env={**os.environ, "ISOLAUNCHER_SOCKET": str(tmp_path / "none")},
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"isolauncher daemon" in done.stderr


def test_a_launch_s_time_begins_with_its_request(daemon: Service) -> None:
    """Not with the connection, which may have stood for long before."""
    asked = prepare([daemon.script("quick.py", "")])
    try:
        with connect(str(daemon.socket)) as sock:
            time.sleep(1)
            wire.send(sock, asked.message, asked.fds)
            report = contenders.end_of(sock)
    finally:
        asked.close()
    timings = report["timings_us"]
    assert isinstance(timings, dict)
    assert timings["queue"] < 1_000_000
