# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks by who one is: uids of the range, uids given again, and our own processes.

Rows 27, 28 and 67 of the list of attacks, seen from outside a sandbox. What a program
can do to its neighbours and keepers from inside is in test_privileges.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.daemons import Service
from support.peers import (
    ALICE,
    BOB,
    Watch,
    ask,
    peer,
    pids,
    run_message,
    until,
    verdict,
)

from isolauncher import wire

OPEN = 'version = 1\n[match]\ncallers = ["*"]\n'
# Ten uids: the first is every init's, nine are for activities.
CONFIG = "version = 1\n[uids]\nfirst = 80000\nlast = 80009\n[limits]\ngrace-ms = 1000\n"

_libc = ctypes.CDLL(None, use_errno=True)


def _as(uid: int, work: Callable[[], object]) -> str:
    """What ``work`` returns, or the errno it raises, in a child that is ``uid``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                text = str(work())
            except OSError as e:
                text = f"errno {e.errno}"
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


REFUSED = {"errno 1", "errno 3", "errno 13", "errno 2"}


def _ptrace(pid: int) -> object:
    if _libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    return "attached"


def _getfd(pid: int) -> object:
    fd = _libc.syscall(438, os.pidfd_open(pid), 3, 0)  # pidfd_getfd
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return "got"


HARM: dict[str, Callable[[int], object]] = {
    "signal": lambda pid: os.kill(pid, signal.SIGTERM),
    "signal-0": lambda pid: os.kill(pid, 0),
    "signal-by-descriptor": lambda pid: signal.pidfd_send_signal(
        os.pidfd_open(pid), signal.SIGKILL
    ),
    "ptrace": _ptrace,
    "descriptor": _getfd,
    "memory": lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR),
    "environment": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
    "maps": lambda pid: Path(f"/proc/{pid}/maps").read_text(),
    "descriptors": lambda pid: os.listdir(f"/proc/{pid}/fd"),
    "root": lambda pid: os.listdir(f"/proc/{pid}/root/tmp"),
    "cwd": lambda pid: os.listdir(f"/proc/{pid}/cwd/"),
    "limit": lambda pid: __import__("resource").prlimit(pid, 7, (1, 1)),
    "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "affinity": lambda pid: os.sched_setaffinity(pid, {0}),
    "namespace": lambda pid: os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY),
    "oom": lambda pid: Path(f"/proc/{pid}/oom_score_adj").write_text("1000"),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_caller_can_do_nothing_to_the_daemon_the_zygotes_or_a_sandbox(
    daemon: Service, watch: Watch, harm: Callable[[int], object], null: int
) -> None:
    """Row 27: nor to the program that he launched himself, but through the daemon."""
    with peer(daemon, BOB) as sock:
        wire.send(sock, run_message(argv=["sleep", "60"]), [null] * 3)
        stem = wire.recv(sock).fields["pid"]
        assert isinstance(stem, int)
        init = int(
            Path(f"/proc/{stem}/stat")
            .read_text(errors="replace")
            .rpartition(")")[2]
            .split()[1]
        )
        victims = {**pids(daemon), "init": init, "program": stem}
        for name, pid in victims.items():
            for uid in (BOB, 80000, 80009, 65534):
                own = name == "program" and _uid_of(pid) == uid
                own |= name == "init" and uid == 80000
                if own:
                    continue  # nobody else has these: see the next test
                assert _as(uid, lambda pid=pid: harm(pid)) in REFUSED, (name, uid)
        wire.send(sock, {"verb": "signal", "signal": "TERM"})
        assert verdict(sock)["signal"] == signal.SIGTERM
    watch.settled()


def _uid_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise AssertionError(pid)


def test_the_child_that_opens_paths_as_the_caller_is_out_of_the_callers_reach(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 27: it has his uid, and is a copy of the daemon: its memory and descriptors
    are not his. A signal can reach it, and ends one launch of his own."""
    service = _service_of_openers(daemon)
    children = f"/proc/{service}/task/{service}/children"
    seen = 0
    for _ in range(20):
        with peer(daemon, BOB) as sock:
            wire.send(sock, run_message(), [null] * 3)
            answers = _as(BOB, lambda: _harm_child(children))
            assert set(answers.split()) <= {"refused", "gone", "killed"}, answers
            seen += "refused" in answers
            said = verdict(sock)
            assert said["event"] in ("exited", "refused"), said
    assert seen > 0
    watch.settled()


def _service_of_openers(daemon: Service) -> int:
    assert daemon.process is not None
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
    (pid,) = (
        int(word)
        for word in children.read_text().split()
        if Path(f"/proc/{word}/cmdline").read_bytes().startswith(b"isolauncher: opener")
    )
    return pid


def _harm_child(children: str) -> str:
    """As the caller: find the child with the caller's uid, and try everything."""
    answers = []
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        for word in Path(children).read_text().split():
            with suppress(OSError, AssertionError):
                if _uid_of(int(word)) != os.getuid():
                    continue
                pid = int(word)
                for harm in ("ptrace", "descriptor", "memory", "environment", "maps"):
                    try:
                        # Nothing comes out of one that has ended meanwhile.
                        if got := HARM[harm](pid):
                            answers.append(f"{harm}:{got}")
                    except OSError as e:
                        answers.append(
                            "refused" if f"errno {e.errno}" in REFUSED else str(e)
                        )
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    answers.append("killed")
                return " ".join(answers)
    return "gone"


@pytest.mark.parametrize("uid", [80000, 80001, 80009])
@pytest.mark.parametrize(
    "message",
    [
        run_message(),
        {"version": 1, "verb": "ps"},
        {"version": 1, "verb": "stats"},
        {"version": 1, "verb": "attach", "id": "victim"},
        {"version": 1, "verb": "stop", "ids": ["victim"], "grace_ms": 0},
    ],
    ids=lambda m: m["verb"],
)
def test_an_activitys_uid_can_ask_the_daemon_nothing(
    daemon: Service, watch: Watch, uid: int, message: dict[str, object]
) -> None:
    """Row 67: of the range that this daemon was configured with, its ends included."""
    said = ask(daemon, message, uid=uid)
    assert said["code"] == "caller-is-activity"
    assert ask(daemon, {"version": 1, "verb": "ps"}, [], uid=70001)["event"] == "list"
    watch.settled("caller-is-activity")


def test_a_program_finds_no_socket_of_the_daemon(daemon: Service, watch: Watch) -> None:
    """Row 67: not by its path, and not by a name in the abstract."""
    script = daemon.script(
        "connect.py",
        "import socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "    try:\n"
        "        s.connect(path)\n"
        "        print('connected', path)\n"
        "    except OSError as e:\n"
        "        print(e.errno)\n",
    )
    for tier in ("fork", "exec"):
        done = daemon.isolauncher(
            *("run", "--tier", tier, "--", script, str(daemon.socket)),
            *("/run/isolauncher/socket", "/proc/1/root/run/isolauncher/socket"),
            uid=BOB,
        )
        assert set(done.text.split()) <= {"2", "13", "1"}, done
    watch.settled()


def test_a_program_with_the_daemons_socket_as_a_stream_speaks_as_its_caller_only(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 67: its caller's own connection is its caller's own doing: Bob's, never
    root's, and never alice's program's end."""
    with peer(daemon, ALICE) as hers:
        wire.send(hers, run_message(id="hers", argv=["sleep", "60"]), [null] * 3)
        assert wire.recv(hers).fields["event"] == "started"
        stop = b'{"version":1,"verb":"stop","ids":["hers"],"grace_ms":0}'
        script = daemon.script(
            "speak.py",
            "import os, socket\n"
            "s = socket.socket(fileno=os.dup(0))\n"
            "s.setblocking(True)\n"
            f"s.send({stop!r})\n"
            "print(s.recv(65536).decode())\n",
        )
        with peer(daemon, BOB) as own, peer(daemon, BOB) as sock:
            reader, writer = os.pipe()
            program = os.open(script, os.O_PATH)
            message = run_message(
                program_kind="file",
                argv=[script],
                descriptors=["stdin", "stdout", "stderr", "program"],
            )
            wire.send(sock, message, [own.fileno(), writer, null, program])
            os.close(program)
            os.close(writer)
            assert verdict(sock)["event"] == "exited"
            with open(reader, "rb") as out:
                answer = out.read().decode()
        assert "not-allowed" in answer or "refused" in answer, answer
        wire.send(hers, {"verb": "signal", "signal": "TERM"})
        assert verdict(hers)["signal"] == signal.SIGTERM
    watch.settled()


# ------------------------------------------------------------------ row 28: given again


def _uid(said: dict[str, object]) -> int:
    report = said["report"]
    assert isinstance(report, dict)
    uid = report["identity"]["uid"]
    assert isinstance(uid, int)
    return uid


def test_a_uid_is_given_again_only_when_nothing_is_left_of_the_last_one(
    daemon: Service, watch: Watch
) -> None:
    """Row 28: a process of it (even one that the ledger knows nothing of) holds it."""
    strays = []
    try:
        for uid in range(80001, 80010):
            if uid != 80004:
                strays.append(
                    subprocess.Popen(["sleep", "600"], user=uid, group=uid, cwd="/")
                )
        # Those that nobody has had since the last look are given first.
        got = [_uid(ask(daemon, run_message(), uid=BOB)) for _ in range(24)]
        assert set(got[12:]) == {80004}
        strays.append(subprocess.Popen(["sleep", "600"], user=80004, cwd="/"))
        said = ask(daemon, run_message(), uid=BOB)
        assert said["event"] == "refused", said
        assert said["step"] == "identity"
    finally:
        for process in strays:
            process.kill()
            process.wait()
    watch.settled(str(said["code"]))


def test_files_of_a_uid_in_the_state_hold_it(daemon: Service, watch: Watch) -> None:
    """Row 28: what the last one kept is purged, or its uid stays with it."""
    kept = daemon.state_dir / "data"
    kept.mkdir(exist_ok=True)
    planted = []
    for uid in range(80001, 80010):
        path = kept / f"of-{uid}"
        path.write_text("secret")
        os.chown(path, uid, uid)
        path.chmod(0o600)
        planted.append(path)
    # Those that nobody has had since the last look are given first.
    ends = [ask(daemon, run_message(), uid=BOB) for _ in range(24)]
    codes = {said.get("code") for said in ends[9:]}
    for path in planted:
        path.unlink()
    kept.rmdir()
    assert codes == {"identity-exhausted"}
    assert watch.lines('code="identity-exhausted"', "not purged yet")
    watch.settled()


def test_what_one_wrote_the_next_one_with_its_uid_cannot_read(
    daemon: Service, watch: Watch, null: int, out: int
) -> None:
    """Row 28: /tmp, /dev/shm and where a policy lets it write; Bob's, then alice's."""
    shared = daemon.top / "shared"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o1777)
    daemon.policy("shares", OPEN + f'[files]\nwrite = ["{shared}"]\n')
    seen: dict[int, set[int]] = {}
    for number in range(24):
        caller = (BOB, ALICE)[number % 2]
        words = (
            f"umask 077; cat /tmp/* /dev/shm/* {shared}/* 2>/dev/null;"
            f"for d in /tmp /dev/shm {shared}; do echo secret-{caller} > $d/f{number};"
            "done; true"
        )
        os.ftruncate(out, 0)
        os.lseek(out, 0, os.SEEK_SET)
        said = ask(
            daemon,
            run_message(policy="shares", argv=["sh", "-c", words]),
            [null, out, null],
            uid=caller,
        )
        assert said["event"] == "exited", said
        text = os.pread(out, 1 << 16, 0).decode()
        other = ALICE if caller == BOB else BOB
        assert f"secret-{other}" not in text, (number, text)
        seen.setdefault(_uid(said), set()).add(caller)
    owners = {path.stat().st_uid for path in shared.iterdir()}
    assert owners <= {BOB, ALICE}, owners
    assert [uid for uid, callers in seen.items() if len(callers) > 1], seen
    for path in shared.iterdir():
        path.unlink()
    watch.settled()


def test_a_uid_that_the_machine_knows_by_name_is_given_to_nobody(
    daemon: Service, watch: Watch, null: int, out: int
) -> None:
    """Row 28: nor does the caller become the owner of what an activity left behind."""
    for uid in (BOB, 0):
        said = ask(
            daemon,
            run_message(
                argv=["sh", "-c", "id -u; id -g; id -G; cat /proc/self/uid_map"]
            ),
            [null, out, null],
            uid=uid,
        )
        lease = _uid(said)
        assert 80001 <= lease <= 80009
    assert until(lambda: not list((daemon.run_dir / "activities").iterdir()))
    watch.settled()


def test_a_socket_pair_kept_by_the_caller_does_not_outlive_the_uid(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 28: a daemonised grandchild is not left behind with its uid."""
    one, other = socket.socketpair()
    words = "(setsid sleep 600 <&- >&- 2>&- &) ; (trap '' TERM HUP; sleep 600) & exit 0"
    for _ in range(9):
        said = ask(
            daemon,
            run_message(argv=["sh", "-c", words]),
            [other.fileno(), null, null],
            uid=BOB,
        )
        assert (said["event"], said["status"]) == ("exited", 0), said
    one.close()
    other.close()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                assert not 80000 <= os.stat(f"/proc/{name}").st_uid <= 80009, name
    watch.settled()
