# SPDX-License-Identifier: GPL-3.0-or-later
"""What init becomes when it has only to wait: the program, and the file that it is in.

Begun here by processes that are no inits; launches with it are in test_init.py.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from support import assembled
from support.daemons import TOP
from support.peers import until
from support.powers import need, root, sandboxes
from support.spoiling import ALICE

from isolauncher import init, kernel, waiter

HERE = os.uname().machine
SHOWN = "isolauncher: init(of-a-long-name)"
EXE = f"/memfd:{waiter.NAME} (deleted)"
PATIENCE_S = 20
EMULATOR = "qemu-aarch64"
# mov eax, 157; syscall: prctl(2), and first of all the one that makes it undumpable.
PRCTL, NOP = bytes.fromhex("b89d0000000f05"), 0x90

# linux/elf.h
PT_LOAD, PT_GNU_STACK = 1, 0x6474E551
READ_EXECUTE, READ_WRITE = 5, 6


# ------------------------------------------------------------------------- the program


@pytest.mark.parametrize("machine", waiter.PROGRAMS)
def test_its_bytes_are_what_the_sources_come_to(machine: str) -> None:
    need(assembled.missing(machine))
    assert waiter.program(machine).hex() == assembled.assemble(machine).hex()


@pytest.mark.parametrize("machine", waiter.PROGRAMS)
def test_all_of_it_is_one_part_that_is_never_written_to(machine: str) -> None:
    program = waiter.program(machine)
    assert len(program) < 1024
    start, parts, sections = struct.unpack_from("<QQQ", program, 24)
    size, count = struct.unpack_from("<HH", program, 54)
    assert sections == 0
    found = {}
    for number in range(count):
        kind, flags = struct.unpack_from("<II", program, parts + number * size)
        found[kind] = flags
        if kind == PT_LOAD:
            values = struct.unpack_from("<QQQQQQ", program, parts + number * size + 8)
    assert found == {PT_LOAD: READ_EXECUTE, PT_GNU_STACK: READ_WRITE}
    assert values[:5] == (0, 0, 0, len(program), len(program))
    assert start < len(program)


def test_there_is_one_for_each_processor_that_filters_are_compiled_for() -> None:
    from isolauncher import filters

    assert waiter.PROGRAMS.keys() == filters._ARCHITECTURES.keys()
    with pytest.raises(OSError, match="nothing has been assembled for 'vax'"):
        waiter.program("vax")


@dataclass
class Waiter:
    """One that was begun by a test, with a stem that does what it is told.

    ``stem`` ends by the status, or by minus the signal, that it reads; ``other`` is
    another child, which ends when its input does.
    """

    pid: int
    stem: int
    other: int
    channel: socket.socket
    record: Path
    _teller: int
    _other: int
    ended: int | None = field(default=None)

    def end_stem(self, status: int) -> None:
        os.write(self._teller, struct.pack("i", status))

    def end_other(self) -> None:
        os.close(self._other)
        self._other = -1

    def said(self) -> bytes:
        return self.channel.recv(4096)

    def wait(self) -> int:
        """Its exit status."""
        assert until(self._is_over, seconds=PATIENCE_S)
        assert self.ended is not None
        return self.ended

    def _is_over(self) -> bool:
        if self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = os.waitstatus_to_exitcode(status)
        return self.ended is not None

    def close(self) -> None:
        if not self._is_over():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.channel.close()
        # Whichever child is left ends with these.
        os.close(self._teller)
        if self._other >= 0:
            os.close(self._other)


Become = Callable[[tuple[str, ...]], None]


def own(words: tuple[str, ...]) -> None:
    kernel.become(waiter.make(), words)


def as_alice(words: tuple[str, ...], mode: int, *, says_so: bool) -> None:
    """Who may execute the file, and perhaps read it; ``says_so``: it calls prctl(2)."""
    data = waiter.program(HERE)
    fd = os.memfd_create("copy", os.MFD_CLOEXEC)
    os.write(fd, data if says_so else data.replace(PRCTL, bytes([NOP]) * 7, 1))
    os.fchmod(fd, mode)
    kernel.Linux().setgroups(())
    kernel.Linux().setresgid(ALICE)
    kernel.Linux().setresuid(ALICE)
    kernel.become(fd, words)


def emulated(words: tuple[str, ...]) -> None:
    fd = _copy("aarch64")
    os.set_inheritable(fd, True)
    emulator = shutil.which(EMULATOR)
    assert emulator is not None
    title, *others = words
    path = f"/proc/self/fd/{fd}"
    os.execv(emulator, [emulator, "-0", title, path, *others])


def _copy(machine: str) -> int:
    fd = os.memfd_create("copy", os.MFD_CLOEXEC)
    os.write(fd, waiter.program(machine))
    return fd


@contextmanager
def begun(
    top: Path,
    become: Become = own,
    *,
    record: int | None = None,
    listens: bool = True,
    words: Callable[[int, int, int], tuple[str, ...]] | None = None,
) -> Iterator[Waiter]:
    """``record``: how it is opened, None for not at all; ``listens``: to the channel;
    ``words``: others than it is begun with, of stem, record and channel.
    """
    path = top / "record"
    path.write_bytes(b"before\n")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE_S)
    told, teller = os.pipe2(os.O_CLOEXEC)
    held, holder = os.pipe2(os.O_CLOEXEC)
    pids, writes = os.pipe2(os.O_CLOEXEC)
    parent = os.fork()
    if parent == 0:
        try:
            for number in (signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            stem = _child(lambda: _end_as_told(told), teller, holder)
            other = _child(lambda: os.read(held, 1), teller, holder)
            os.write(writes, struct.pack("ii", stem, other))
            fd = -1 if record is None else os.open(path, record)
            for one in (fd, theirs.fileno()):
                if one >= 0:
                    os.set_inheritable(one, True)
            ours.close()
            given = (str(stem), str(fd), str(theirs.fileno()))
            if words is not None:
                given = words(stem, fd, theirs.fileno())
            become((SHOWN, *given))
        finally:
            os._exit(99)
    for fd in (told, held, writes):
        os.close(fd)
    theirs.close()
    stem, other = struct.unpack("ii", os.read(pids, 8))
    os.close(pids)
    if not listens:
        ours.close()
    one = Waiter(parent, stem, other, ours, path, teller, holder)
    try:
        yield one
    finally:
        one.close()


def _child(does: Callable[[], object], *closes: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for fd in closes:
                os.close(fd)
            does()
        finally:
            os._exit(98)
    return pid


def _end_as_told(told: int) -> None:
    (status,) = struct.unpack("i", os.read(told, 4))
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


ENDS = [
    pytest.param(0, 0, id="0"),
    pytest.param(3, 3 << 8, id="3"),
    pytest.param(255, 255 << 8, id="255"),
    pytest.param(-signal.SIGKILL, signal.SIGKILL, id="SIGKILL"),
    pytest.param(-signal.SIGTERM, signal.SIGTERM, id="SIGTERM"),
]


def line(status: int) -> bytes:
    return b'{"event": "exited", "status": %d}\n' % status


def says_how_its_stem_ended(top: Path, become: Become, ends: int, status: int) -> None:
    with begun(top, become, record=os.O_WRONLY | os.O_APPEND) as one:
        one.end_stem(ends)
        assert one.said() == line(status)
        assert one.wait() == 0
        assert one.record.read_bytes() == b"before\n" + line(status)


@pytest.mark.parametrize(("ends", "status"), ENDS)
def test_it_writes_to_the_record_and_says_how_its_stem_ended(
    ends: int, status: int, tmp_path: Path
) -> None:
    says_how_its_stem_ended(tmp_path, own, ends, status)


def test_whoever_else_ends_is_reaped_and_is_not_its_stem(tmp_path: Path) -> None:
    reaps_others(tmp_path, own)


def reaps_others(top: Path, become: Become) -> None:
    with begun(top, become) as one:
        assert Path(f"/proc/{one.other}").exists()
        one.end_other()
        assert until(lambda: not Path(f"/proc/{one.other}").exists())
        one.end_stem(7)
        assert one.said() == line(7 << 8)
        assert one.wait() == 0


def test_without_a_record_it_says_it_all_the_same(tmp_path: Path) -> None:
    with begun(tmp_path) as one:
        one.end_stem(1)
        assert one.said() == line(1 << 8)
        assert one.wait() == 0
        assert one.record.read_bytes() == b"before\n"


def test_a_record_that_cannot_be_written_does_not_keep_it_from_saying_so(
    tmp_path: Path,
) -> None:
    with begun(tmp_path, record=os.O_RDONLY) as one:
        one.end_stem(1)
        assert one.said() == line(1 << 8)
        assert one.wait() == 0
        assert one.record.read_bytes() == b"before\n"


def test_it_writes_to_the_record_where_nobody_listens(tmp_path: Path) -> None:
    with begun(tmp_path, record=os.O_WRONLY | os.O_APPEND, listens=False) as one:
        one.end_stem(2)
        assert one.wait() == 0
        assert one.record.read_bytes() == b"before\n" + line(2 << 8)


def gives_up(top: Path, become: Become) -> None:
    """Its children end one after the other, and none is what it was told of."""
    with begun(top, become, words=lambda s, r, c: ("1", "-1", str(c))) as one:
        one.end_other()
        one.end_stem(0)
        assert one.wait() == init.FAILED
        assert one.said() == b""


def test_it_ends_where_it_has_nothing_to_wait_for(tmp_path: Path) -> None:
    gives_up(tmp_path, own)


@pytest.mark.parametrize("words", [(), ("2", "-1"), ("2", "-1", "3", "4")])
def test_it_ends_where_it_is_told_something_else(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    with begun(tmp_path, words=lambda *of: words) as one:
        assert one.wait() == init.FAILED


def test_it_shows_its_title_and_no_word_more(tmp_path: Path) -> None:
    with begun(tmp_path) as one:
        assert until(lambda: became(one.pid))
        assert until(lambda: shown(one.pid).rstrip("\0") == SHOWN)
        assert Path(f"/proc/{one.pid}/comm").read_text() == "init(of-a-long-\n"
        assert Path(f"/proc/{one.pid}/environ").read_bytes() == b""


@pytest.mark.parametrize(
    ("mode", "says_so", "owner"),
    [
        pytest.param(waiter.EXECUTE_ONLY, False, 0, id="by its file's mode"),
        pytest.param(0o555, True, 0, id="by its own word"),
        pytest.param(0o555, False, ALICE, id="but not by itself"),
    ],
)
def test_it_is_not_dumpable(
    mode: int, says_so: bool, owner: int, tmp_path: Path
) -> None:
    need(root(), None if HERE == "x86_64" else "the bytes of its call are x86-64's")
    with begun(tmp_path, partial(as_alice, mode=mode, says_so=says_so)) as one:
        assert until(lambda: shown(one.pid).rstrip("\0") == SHOWN)
        assert f"\nUid:\t{ALICE}\t" in Path(f"/proc/{one.pid}/status").read_text()
        # Whose is dumpable are its own user's (proc(5)).
        assert os.stat(f"/proc/{one.pid}/maps").st_uid == owner


@pytest.mark.long
def test_that_of_64_bit_arm_does_the_same(tmp_path: Path) -> None:
    need(None if shutil.which(EMULATOR) else f"there is no {EMULATOR}")
    for number, (ends, status) in enumerate(one.values for one in ENDS):
        place = tmp_path / str(number)
        place.mkdir()
        says_how_its_stem_ended(place, emulated, ends, status)  # type: ignore[arg-type]
    reaps_others(tmp_path, emulated)
    gives_up(tmp_path, emulated)
    with begun(tmp_path, emulated, record=os.O_RDONLY) as one:
        one.end_stem(1)
        assert one.said() == line(1 << 8)
    with begun(tmp_path, emulated, words=lambda *of: ("2", "-1")) as one:
        assert one.wait() == init.FAILED


def shown(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def became(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe") == EXE


# ---------------------------------------------------------------------------- its file


def test_its_file_may_be_executed_and_by_nobody_be_changed() -> None:
    fd = waiter.make()
    try:
        found = os.fstat(fd)
        assert stat.S_IMODE(found.st_mode) == 0o111
        assert not os.get_inheritable(fd)
        for change in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.pwrite(fd, b"x", found.st_size),
            lambda: os.ftruncate(fd, 0),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
        ):
            with pytest.raises(PermissionError):
                change()
        assert os.pread(fd, 1024, 0) == waiter.program(HERE)
    finally:
        os.close(fd)


NOEXEC = """
import sys
from isolauncher import host, waiter
with open("/proc/sys/vm/memfd_noexec", "w") as file:
    file.write(sys.argv[1])
try:
    waiter.make()
except OSError as e:
    print(e.strerror)
print(host.probe().why.get("waiter"))
"""


@pytest.mark.parametrize("value", ["1", "2"])
def test_where_no_memory_file_may_be_executed_there_is_none(value: str) -> None:
    """Where they merely are not by themselves (1) there is one, since it asks."""
    need(sandboxes())
    path = Path("/proc/sys/vm/memfd_noexec")
    need(None if path.exists() else "Linux 6.3")
    done = subprocess.run(
        ["unshare", "-pmf", "--mount-proc", sys.executable, "-c", NOEXEC, value],
        capture_output=True,
        text=True,
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        check=True,
    )
    refused = value == "2"
    why = os.strerror(13)
    assert done.stdout.split("\n") == ([why, why, ""] if refused else ["None", ""])
