# SPDX-License-Identifier: GPL-3.0-or-later
"""An init when it has only to wait: it becomes another program, or stays what it is."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemons import COMMAND, Service, service
from support.peers import until
from support.powers import need, sandboxes
from support.spoiling import ALICE, Run, launch

from isolauncher import init, memory, waiter

EXE = f"/memfd:{waiter.NAME} (deleted)"
WAITS = "import sys\nprint('up', flush=True)\nsys.exit(int(input()))\n"
PATIENCE_S = 20


def shown(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def held_by(pid: int) -> dict[str, str]:
    """Descriptors of a process, by number, but the one that they are looked up by."""
    place = Path(f"/proc/{pid}/fd")
    return {p.name: os.readlink(p) for p in place.iterdir() if p.is_symlink()}


def became(pid: int) -> bool:
    """It is the waiter, which has read its arguments and erased them."""
    if os.readlink(f"/proc/{pid}/exe") != EXE:
        return False
    # Of one in the midst of execve(2) there is none yet.
    shown = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    return shown != b"" and b"\0" not in shown


@pytest.fixture
def where(daemon: Service) -> Service:
    need(sandboxes())
    return daemon


def parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


@contextmanager
def running(
    where: Service, source: str = WAITS, name: str = "waits.py", **keywords: object
) -> Iterator[tuple[Run, int]]:
    """One that has said its first line, and its init."""
    program = where.script(name, source)
    run = launch(where, program, uid=ALICE, stdin=True, **keywords)  # type: ignore[arg-type]
    try:
        run.started()
        assert run.first_line() == b"up\n"
        yield run, parent(int(str(run.words[-1]["pid"])))
    finally:
        run.close()


def ends(run: Run, text: bytes) -> tuple[object, object]:
    run.tell(text)
    said = run.end()
    assert said is not None
    return said["status"], said["signal"]


@pytest.mark.parametrize("status", [0, 3, 255])
@pytest.mark.parametrize("tier", ["fork", "exec"])
def test_how_a_program_ended_arrives(where: Service, status: int, tier: str) -> None:
    with running(where, tier=tier) as (run, init_pid):
        assert until(lambda: became(init_pid))
        assert ends(run, b"%d\n" % status) == (status, None)


def test_by_which_signal_a_program_ended_arrives(where: Service) -> None:
    with running(where) as (run, init_pid):
        assert until(lambda: became(init_pid))
        os.kill(int(str(run.words[-1]["pid"])), signal.SIGKILL)
        assert ends(run, b"") == (137, 9)


def test_an_init_has_next_to_nothing_of_its_own(where: Service) -> None:
    with running(where) as (_, init_pid):
        assert until(lambda: became(init_pid))
        assert memory.rollup(init_pid)["Private_Dirty"] < 64
        status = Path(f"/proc/{init_pid}/status").read_text()
        tables = int(status.partition("VmPTE:")[2].split()[0])
        assert tables < 64


SAME = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask", "NSsid", "NSpgid", "PPid"),
    *("SigBlk", "SigIgn", "Cpus_allowed", "Threads", "Name", "Tgid"),
)


def state(pid: int) -> dict[str, object]:
    """All of an init that an exec is not to change."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(text.split(":", 1) for text in status.splitlines())
    stat_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found: dict[str, object] = {name: fields[name].strip() for name in SAME}
    for name in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        found[name] = os.readlink(f"/proc/{pid}/ns/{name}")
    for name in ("cwd", "root"):
        at = os.stat(f"/proc/{pid}/{name}")
        found[name] = (at.st_dev, at.st_ino)
    for name in ("cgroup", "limits", "oom_score_adj", "mountinfo", "sessionid"):
        found[f"{name} "] = Path(f"/proc/{pid}/{name}").read_text()
    # Of proc_pid_stat(5): session, terminal, nice, start time, policy.
    found |= {n: stat_[at - 3] for n, at in (("sid", 6), ("tty", 7), ("nice", 19))}
    found |= {n: stat_[at - 3] for n, at in (("start", 22), ("policy", 41))}
    found["shown"] = shown(pid).rstrip("\0")
    found["owner"] = [os.stat(f"/proc/{pid}/{n}").st_uid for n in ("fd", "maps")]
    found["held"] = {n: link for n, link in held_by(pid).items() if link != EXE}
    return found


def test_its_memory_is_all_that_changes(where: Service) -> None:
    """What it was is looked at before, while it is an interpreter for certain."""
    for _ in range(20):
        with running(where) as (_, init_pid):
            # Its end of the baton is closed by then, and its name is what it will be.
            before = state(init_pid)
            if len(before["held"]) > 2 or became(init_pid):  # type: ignore[arg-type]
                continue
            assert until(lambda pid=init_pid: became(pid))
            title = before["shown"]
            assert until(
                lambda pid=init_pid, title=title: shown(pid).rstrip("\0") == title
            )
            assert state(init_pid) == before
            assert before["owner"] == [0, 0]
            return
    raise AssertionError("it has always been too late to look")


LOOKS = """
import os, signal, sys
print("up", flush=True)
input()
found = []
for name in (
    "exe", "environ", "mem", "maps", "smaps", "auxv", "fd", "fdinfo", "root", "cwd",
    "map_files", "io", "personality", "stack", "syscall", "pagemap", "ns/pid",
):
    path = "/proc/1/" + name
    try:
        if name in ("fd", "fdinfo", "map_files"):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    except PermissionError:
        continue
    except FileNotFoundError:
        continue
    found.append(name)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGKILL):
    try:
        os.kill(1, number)
    except PermissionError:
        continue
    found.append(number)
shown = open("/proc/1/cmdline").read().rstrip(chr(0))
print(found, shown, flush=True)
input()
"""


def test_nothing_of_it_is_seen_or_harmed_from_inside(where: Service) -> None:
    with running(where, LOOKS, "looks.py") as (run, init_pid):
        assert until(lambda: became(init_pid))
        run.tell(b"\n")
        name = run.words[-1]["id"]
        assert run.first_line() == f"[] isolauncher: init({name})\n".encode()
        assert ends(run, b"\n") == (0, None)


def test_nobody_with_its_uid_sees_it_and_no_signal_but_sigkill_ends_it(
    where: Service,
) -> None:
    with running(where) as (run, init_pid):
        assert until(lambda: became(init_pid))
        status = Path(f"/proc/{init_pid}/status").read_text()
        uid = int(status.partition("Uid:")[2].split()[0])

        def look() -> None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for name in ("maps", "mem", "environ", "exe"):
                try:
                    os.close(os.open(f"/proc/{init_pid}/{name}", os.O_RDONLY))
                except PermissionError:
                    continue
                os._exit(1)
            os._exit(0)

        child = os.fork()
        if child == 0:
            try:
                look()
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        # A namespace's first process ignores what it has no handler for, whoever sends
        # it (pid_namespaces(7)).
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGCHLD):
            os.kill(init_pid, number)
        assert ends(run, b"4\n") == (4, None)


ORPHANS = """
import os, sys
def alive():
    return sorted(int(n) for n in os.listdir("/proc") if n.isdigit())
print("up", flush=True)
input()
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(5)
        os._exit(6)
    os.wait()
while alive() != [1, os.getpid()]:
    pass
sys.exit(9)
"""


def test_who_has_lost_a_parent_is_reaped(where: Service) -> None:
    with running(where, ORPHANS, "orphans.py") as (run, init_pid):
        assert until(lambda: became(init_pid))
        assert ends(run, b"\n") == (9, None)


def record_of(where: Service, run: Run) -> list[dict[str, object]]:
    path = where.run_dir / "activities" / str(run.words[0]["id"])
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_a_daemon_that_comes_later_learns_how_it_ended() -> None:
    """Of one that ends while there is none, and of one that goes on."""
    need(sandboxes())
    with service() as made:
        with running(made) as (ended, first), running(made) as (lives, second):
            assert until(lambda: became(first))
            assert until(lambda: became(second))
            made.stop(signal.SIGKILL)
            ended.tell(b"77\n")
            gone = os.pidfd_open(first) if Path(f"/proc/{first}").exists() else -1
            if gone >= 0:
                assert select.select([gone], [], [], PATIENCE_S)[0]
                os.close(gone)
            assert record_of(made, ended)[-1] == {"event": "exited", "status": 77 << 8}
            made.start()
            for run, text, status in ((ended, b"", 77), (lives, b"78\n", 78)):
                name = str(run.words[0]["id"])
                run.attach(made, name)
                if text:
                    assert run.started() == name
                assert ends(run, text)[0] == status
            assert f'adopted id="{lives.words[0]["id"]}"' in made.log


def test_when_it_ends_matters_not(where: Service) -> None:
    """Long before init becomes another program, at that moment, and after it."""
    source = "import sys, time\ntime.sleep(float(sys.argv[1]))\nsys.exit(21)\n"
    program = where.script("ends.py", source)
    steps = [0.0, *(init.SOON_S * part / 100 for part in range(50, 122, 3))]
    for seconds in steps:
        run = launch(where, program, str(seconds), uid=ALICE)
        said = run.end()
        run.close()
        assert said is not None
        assert said.get("status") == 21, (seconds, said)


def test_it_holds_what_init_held_and_nothing_else(tmp_path: Path) -> None:
    """The record, the channel, and what a mediator learns the sandbox's end by."""
    # Which every program has that pytest starts; an init has none.
    others = {int(n) for n in held_by(os.getpid()) if os.get_inheritable(int(n))}
    held, hold = os.pipe2(os.O_CLOEXEC)
    told, teller = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    record = os.open(tmp_path / "record", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    program = waiter.make()
    parent = os.fork()
    if parent == 0:
        try:
            stem = os.fork()
            if stem == 0:
                os.close(hold)
                os.close(teller)
                os.read(told, 1)
                os._exit(0)
            init._become_waiter(
                program, "isolauncher: init(it)", stem, record, theirs, [record, hold]
            )
        finally:
            os._exit(1)
    for fd in (hold, told, program):
        os.close(fd)
    with ours, theirs:
        assert until(lambda: became(parent))
        links = held_by(parent)
        there = {int(n) for n in links} - others
        assert there == {record, hold, theirs.fileno()}, links
        ends = select.poll()
        ends.register(held, select.POLLHUP)
        assert ends.poll(0) == []
        os.close(teller)
        assert os.waitpid(parent, 0)[1] == 0
        assert ends.poll(PATIENCE_S * 1000) != []
    os.close(record)
    os.close(held)


# --------------------------------------------------------------- where it is refused

FILTERED = """
import errno, os, sys
import seccomp
filter_ = seccomp.SyscallFilter(seccomp.ALLOW)
filter_.set_attr(seccomp.Attr.CTL_NNP, 0)
filter_.add_rule(seccomp.ERRNO(errno.EPERM), "execveat")
filter_.load()
os.execv(sys.argv[1], sys.argv[1:])
"""


def stays_an_interpreter(run: Run, init_pid: int) -> None:
    time.sleep(3 * init.SOON_S)  # for nothing to happen
    assert "python" in os.readlink(f"/proc/{init_pid}/exe")
    assert ends(run, b"8\n") == (8, None)


def test_where_the_kernel_refuses_it_init_stays_what_it_is() -> None:
    need(sandboxes())
    words = ("/usr/bin/python3", "-c", FILTERED, *COMMAND, "daemon")
    with service(command=words) as made:
        assert 'no-waiter why="Operation not permitted"' in made.log
        with running(made) as (run, init_pid):
            stays_an_interpreter(run, init_pid)


def test_an_init_that_is_refused_it_goes_on_as_it_was() -> None:
    """More processes have its uid than may be, when it takes that uid and at the exec.

    One may be: the second is one too many, which the third finds.
    """
    need(sandboxes())
    words = ("prlimit", "--nproc=1:1", *COMMAND, "daemon")
    # Another uid than that of all the others' inits.
    config = "version = 1\n[uids]\nfirst = 420000\nlast = 429999\n"
    with service(command=words, config=config) as made:
        assert "no-waiter" not in made.log
        with running(made) as (first, one), running(made) as (second, another):
            assert until(lambda: became(one))
            assert until(lambda: became(another))
            with running(made) as (third, refused):
                stays_an_interpreter(third, refused)
            for run, status in ((first, 5), (second, 6)):
                assert ends(run, b"%d\n" % status) == (status, None)


def test_of_a_room_that_waits_too_init_becomes_it_when_it_has_only_to_wait() -> None:
    need(sandboxes())
    with service(config="version = 1\n[rooms]\nahead = 1\n") as made:
        ways = set()
        for number in range(4):
            # Other words each time: a launch that is expected has its init wait sooner.
            with running(made, name=f"waits{number}.py") as (run, init_pid):
                assert until(lambda pid=init_pid: became(pid))
                run_now = made.ask({"version": 1, "verb": "ps"})["activities"]
                ways |= {one["path"] for one in run_now}  # type: ignore[attr-defined]
                assert ends(run, b"0\n") == (0, None)
            made.at_rest()
        assert "pool" in ways
