# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks by what is passed: programs, streams and directories as descriptors.

Rows 61 and 63 of the list of attacks, and what else a descriptor can be.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.daemons import Service
from support.peers import (
    ALICE,
    BOB,
    QUICK,
    STANDARD,
    Watch,
    ask,
    normal_launch,
    peer,
    run_message,
    until,
    verdict,
)
from support.powers import mounting, need

from isolauncher import kernel, wire

CONFIG = QUICK
HELLO = "#!/bin/sh\necho hello\n"

_libc = ctypes.CDLL(None, use_errno=True)


def _launch(
    where: Service,
    program: int,
    *,
    uid: int = BOB,
    groups: tuple[int, ...] = (),
    name: str = "/some/program",
    **changes: object,
) -> dict[str, object]:
    """Ask for ``program``; it is closed. The output is under "out"."""
    out = os.memfd_create("out")
    null = os.open(os.devnull, os.O_RDWR)
    try:
        message = run_message(
            program_kind="file",
            argv=[name],
            descriptors=[*STANDARD, "program"],
            **changes,
        )
        said = ask(where, message, [null, out, out, program], uid=uid, groups=groups)
        said["out"] = os.pread(out, 4096, 0)
        return said
    finally:
        for fd in (out, null, program):
            os.close(fd)


def _file(where: Service, name: str, *, mode: int = 0o755, uid: int = 0) -> Path:
    """A shell script in a directory that everybody may enter."""
    place = where.top / "programs"
    place.mkdir(exist_ok=True)
    path = place / name
    path.unlink(missing_ok=True)
    path.write_text(HELLO)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def test_a_good_program_is_launched_from_its_descriptor(
    daemon: Service, watch: Watch
) -> None:
    """What the refusals below differ from."""
    for tier in ("fork", "exec"):
        said = _launch(daemon, os.open(_file(daemon, "good"), os.O_PATH), tier=tier)
        assert (said["event"], said["status"], said["out"]) == ("exited", 0, b"hello\n")
    watch.settled()


# ------------------------------------------------------------------ row 61: not theirs


def test_a_program_in_a_home_that_is_closed_is_not_reached(
    daemon: Service, watch: Watch
) -> None:
    """Row 61: alice's home is 0700, her file 0644; Bob types its path."""
    home = daemon.top / "alice"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "x.py").write_text("print('alice')\n")
    (home / "x.py").chmod(0o644)
    for path in (home, home / "x.py"):
        os.chown(path, ALICE, ALICE)
    done = daemon.isolauncher("run", "--", str(home / "x.py"), uid=BOB)
    assert done.status == 126
    assert done.err.count(b"\n") == 1
    assert b"[program-not-permitted]" in done.err
    assert daemon.isolauncher("run", "--", str(home / "x.py"), uid=ALICE).text == (
        "alice\n"
    )
    watch.settled()


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize(
    ("mode", "uid", "groups"),
    [
        (0o600, ALICE, ()),
        (0o700, 0, ()),
        (0o070, ALICE, ()),
        (0o640, ALICE, ()),
        (0o604, BOB, ()),
        (0o007, BOB, ()),
        (0o066, ALICE, (ALICE + 1,)),
        (0o000, BOB, ()),
        (0o4700, 0, ()),
    ],
)
def test_a_path_alone_opens_nothing(
    daemon: Service,
    watch: Watch,
    tier: str,
    mode: int,
    uid: int,
    groups: tuple[int, ...],
) -> None:
    """Row 61: O_PATH needs no right to the file; its bytes do, and the daemon is root.

    0604 and 0007 of Bob's own: as the owner he may less than everybody else.
    """
    path = _file(daemon, "closed", mode=mode, uid=uid)
    if mode == 0o604:
        mode = 0o004
        path.chmod(mode)
    said = _launch(daemon, os.open(path, os.O_PATH), groups=groups, tier=tier)
    assert said["event"] == "refused", said
    assert said["exit_status"] == 126
    assert said["out"] == b""
    watch.settled(str(said["code"]))


def test_execute_permission_is_not_made_into_reading(
    daemon: Service, watch: Watch, null: int, out: int
) -> None:
    """Row 61: of the group's execute permission no owner's read permission is made."""
    path = daemon.top / "programs" / "sealed"
    path.unlink(missing_ok=True)
    path.write_bytes(Path("/bin/cat").read_bytes())
    os.chown(path, 0, 4242)
    path.chmod(0o710)
    program = os.open(path, os.O_PATH)
    try:
        message = run_message(
            program_kind="file",
            argv=[str(path), str(path)],
            descriptors=[*STANDARD, "program"],
        )
        said = ask(daemon, message, [null, out, null, program], uid=BOB, groups=(4242,))
    finally:
        os.close(program)
    assert os.pread(out, 64, 0) == b""
    assert said.get("status", said.get("exit_status")) in (1, 126)
    watch.settled()


def test_groups_count_as_the_kernel_tells_them(daemon: Service, watch: Watch) -> None:
    """Row 61: of a file for a group, its members and nobody who claims to be one."""
    path = _file(daemon, "grouped", mode=0o750)
    os.chown(path, 0, 4242)
    said = _launch(daemon, os.open(path, os.O_PATH), groups=(4242,))
    assert (said["event"], said["out"]) == ("exited", b"hello\n"), said
    said = _launch(daemon, os.open(path, os.O_PATH), groups=(4243,))
    assert said["exit_status"] == 126
    watch.settled(str(said["code"]))


# ------------------------------------------------------- row 63: what is no program


def _unlinked() -> int:
    path = f"/tmp/isolauncher-unlinked-{os.getpid()}"
    Path(path).write_text(HELLO)
    os.chmod(path, 0o755)  # noqa: S103
    fd = os.open(path, os.O_PATH)
    os.unlink(path)
    return fd


def _memfd() -> int:
    fd = os.memfd_create("program")
    os.write(fd, HELLO.encode())
    os.fchmod(fd, 0o755)
    return fd


def _fifo() -> int:
    path = f"/tmp/isolauncher-fifo-{os.getpid()}"
    os.mkfifo(path)
    fd = os.open(path, os.O_PATH)
    os.unlink(path)
    return fd


def _link() -> int:
    path = f"/tmp/isolauncher-link-{os.getpid()}"
    os.symlink("/etc/shadow", path)
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    os.unlink(path)
    return fd


def _socket_file() -> int:
    path = f"/tmp/isolauncher-socket-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    fd = os.open(path, os.O_PATH)
    os.unlink(path)
    return fd


def _detached(name: str = "program") -> int:
    """A file of a file system that is mounted nowhere."""
    mount = kernel.Linux().detached_mount("tmpfs", {"mode": "0755"}, 0)
    try:
        fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o755, dir_fd=mount)
        os.write(fd, HELLO.encode())
        os.fchmod(fd, 0o755)
        os.close(fd)
        return os.open(name, os.O_PATH, dir_fd=mount)
    finally:
        os.close(mount)


def _open(path: str, flags: int = os.O_PATH) -> Callable[[], int]:
    return lambda: os.open(path, flags)


def _pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def _sock() -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


def _anonymous(name: str, *arguments: int) -> Callable[[], int]:
    def make() -> int:
        fd = getattr(_libc, name)(*arguments)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        return int(fd)

    return make


NO_PROGRAMS: dict[str, Callable[[], int]] = {
    "root": _open("/"),
    "directory": _open("/usr"),
    "directory-open": _open("/tmp", os.O_RDONLY),
    "proc": _open("/proc"),
    "proc-file": _open("/proc/self/status"),
    "proc-environ-of-init": _open("/proc/1/environ"),
    "proc-mem": _open("/proc/self/mem", os.O_RDWR),
    "proc-root": _open("/proc/self/root"),
    "proc-cwd": _open("/proc/self/cwd"),
    "proc-sys": _open("/proc/sys/kernel/core_pattern"),
    "namespace-link": _open("/proc/self/ns/mnt", os.O_PATH | os.O_NOFOLLOW),
    "namespace": _open("/proc/self/ns/mnt"),
    "namespace-open": _open("/proc/self/ns/user", os.O_RDONLY),
    "sys": _open("/sys"),
    "sys-file": _open("/sys/kernel/uevent_seqnum"),
    "null": _open("/dev/null"),
    "zero": _open("/dev/zero", os.O_RDONLY),
    "terminal": _open("/dev/ptmx"),
    "link": _link,
    "fifo": _fifo,
    "socket-file": _socket_file,
    "unlinked": _unlinked,
    "memfd": _memfd,
    "detached": _detached,
    "pipe": _pipe,
    "socket": _sock,
    "eventfd": _anonymous("eventfd", 0, 0),
    "epoll": _anonymous("epoll_create1", 0),
    "inotify": _anonymous("inotify_init1", 0),
    "pidfd": lambda: os.pidfd_open(1),
}


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize("make", NO_PROGRAMS.values(), ids=NO_PROGRAMS.keys())
def test_what_is_no_program_is_refused_in_one_line(
    daemon: Service, watch: Watch, tier: str, make: Callable[[], int]
) -> None:
    """Row 63: of /proc, of a directory, of nothing that has a name; in both tiers."""
    said = _launch(daemon, make(), tier=tier)
    assert said["event"] == "refused", said
    assert said["exit_status"] in (125, 126, 127), said
    assert said["code"] != "internal"
    assert "\n" not in str(said["message"])
    watch.settled(str(said["code"]))


@contextmanager
def _elsewhere(work: str, path: str, flags: int = os.O_PATH) -> Iterator[int]:
    """A descriptor of ``path`` in a mount namespace where ``work`` has been done."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            assert _libc.unshare(0x20000) == 0
            os.system(f"mount --make-rprivate / && {work}")  # noqa: S605
            socket.send_fds(theirs, [b"x"], [os.open(path, flags)])
            theirs.recv(1)
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        assert fds, f"{path} could not be opened elsewhere"
        yield fds[0]
    os.waitpid(child, 0)


FAKE = (
    "mkdir -p /tmp && mount -t tmpfs none /mnt && mkdir -p /mnt/bin"
    " && printf '#!/bin/sh\\necho elsewhere\\n' > /mnt/bin/true"
    " && chmod 755 /mnt/bin/true && "
)
ELSEWHERE = {
    "a-path-of-its-own": (FAKE + "true", "/mnt/bin/true"),
    "a-path-that-the-host-has": (FAKE + "mount --bind /mnt /usr", "/usr/bin/true"),
    "one-file-over-the-hosts": (
        FAKE + "mount --bind /mnt/bin/true /usr/bin/true",
        "/usr/bin/true",
    ),
    "the-same-file-system": ("true", "/usr/bin/true"),
    "a-proc-elsewhere": ("mount -t proc none /mnt", "/mnt/self/status"),
    "a-sysfs-elsewhere": (
        "mount -t sysfs none /mnt",
        "/mnt/kernel/uevent_seqnum",
    ),
}


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize(("work", "path"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_program_of_another_mount_namespace_is_refused_or_the_same_file(
    daemon: Service, watch: Watch, tier: str, work: str, path: str
) -> None:
    """Row 63: never is the host's file of that name run in its place."""
    need(mounting())
    with _elsewhere(work, path) as fd:
        said = _launch(daemon, os.dup(fd), tier=tier)
    if "elsewhere" in work or "proc" in work or "sysfs" in work:
        assert said["event"] == "refused", said
        assert said["out"] == b""
        watch.settled(str(said["code"]))
    else:
        # The very file that the policy shows: it makes no difference who opened it.
        assert said["event"] == "exited", said
        watch.settled()


def test_a_program_that_was_renamed_runs_and_not_the_one_with_its_name(
    daemon: Service, watch: Watch
) -> None:
    """Row 63: what was sent is what runs, inside a directory that the policy shows."""
    path = _file(daemon, "renamed")
    other = _file(daemon, "other")
    other.write_text("#!/bin/sh\necho other\n")
    daemon.policy(
        "shows-programs",
        'version = 1\n[match]\ncallers = ["*"]\n[files]\n'
        f'read = ["...", "{path.parent}"]\n',
    )
    fd = os.open(path, os.O_PATH)
    path.rename(path.parent / "moved")
    other.rename(path)
    said = _launch(daemon, fd, policy="shows-programs", name=str(path))
    assert (said["event"], said["out"]) == ("exited", b"hello\n"), said
    watch.settled()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a\nb",
            "a b",
            "x (deleted)",
            "-c",
            "--help",
            "\u202egnp",
            "a\\012b",
            "$(id)",
        ),
        *("n" * 255, "\udcff\udcfe", "a'b\"c", "*", "%s", "$(id)"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("tier", ["fork", "exec"])
def test_a_program_may_be_called_anything(
    daemon: Service, watch: Watch, tier: str, name: str
) -> None:
    """Rows 1 and 63: a path is bytes, to the daemon, to mountinfo and to the log."""
    path = daemon.top / "programs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(HELLO)
    path.chmod(0o755)
    said = _launch(daemon, os.open(path, os.O_PATH), tier=tier, name=str(path))
    path.unlink()
    assert (said["event"], said["out"]) == ("exited", b"hello\n"), said
    watch.settled()


def test_a_program_deep_down_is_launched_or_refused_in_one_line(
    daemon: Service, watch: Watch
) -> None:
    """Row 63: longer than PATH_MAX, where no path leads at all."""
    place = daemon.top / "deep"
    place.mkdir(exist_ok=True)
    here = os.open(place, os.O_PATH)
    for _ in range(20):
        with suppress(FileExistsError):
            os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=here)
    os.write(fd, HELLO.encode())
    os.fchmod(fd, 0o755)
    os.close(fd)
    fd = os.open("program", os.O_PATH, dir_fd=here)
    os.close(here)
    said = _launch(daemon, fd)
    assert said["event"] == "refused", said
    assert said["code"] != "internal"
    watch.settled(str(said["code"]))


# ------------------------------------------------------------------ row 63: streams


def _unconnected(family: int, kind: int, protocol: int = 0) -> Callable[[], int]:
    return lambda: socket.socket(family, kind, protocol).detach()


def _listening(family: int) -> Callable[[], int]:
    def make() -> int:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET:
            sock.bind(("127.0.0.1", 0))
        else:
            sock.bind(b"\0isolauncher-attack-%d" % os.getpid())
        sock.listen()
        return sock.detach()

    return make


def _connected_udp() -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    return sock.detach()


def _connected_tcp() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        other.close()
    return sock.detach()


def _datagrams() -> int:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.close()
    return one.detach()


def _filesystem_context() -> int:
    return int(_libc.syscall(430, b"tmpfs", 0))  # fsopen


NO_STREAMS: dict[str, Callable[[], int]] = {
    "directory": _open("/", os.O_RDONLY),
    "directory-tmp": _open("/tmp", os.O_RDONLY | os.O_DIRECTORY),
    "directory-proc": _open("/proc", os.O_RDONLY),
    "directory-of-descriptors": _open("/proc/self/fd", os.O_RDONLY),
    "path-of-a-file": _open("/etc/shadow"),
    "path-of-a-directory": _open("/"),
    "path-of-a-link": _open("/bin", os.O_PATH | os.O_NOFOLLOW),
    "path-of-a-fifo": _fifo,
    "path-of-a-socket": _socket_file,
    "path-of-a-device": _open("/dev/null"),
    "path-of-a-namespace": _open("/proc/self/ns/net"),
    "mount-namespace": _open("/proc/self/ns/mnt", os.O_RDONLY),
    "network-namespace": _open("/proc/self/ns/net", os.O_RDONLY),
    "user-namespace": _open("/proc/self/ns/user", os.O_RDONLY),
    "pid-namespace": _open("/proc/self/ns/pid", os.O_RDONLY),
    "fuse": _open("/dev/fuse", os.O_RDWR),
    "kernel-log": _open("/dev/kmsg", os.O_RDONLY),
    "eventfd": _anonymous("eventfd", 0, 0),
    "epoll": _anonymous("epoll_create1", 0),
    "inotify": _anonymous("inotify_init1", 0),
    "timer": _anonymous("timerfd_create", 1, 0),
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "landlock": lambda: kernel.Linux().landlock_ruleset(1, 0, 0),
    "detached-mount": lambda: kernel.Linux().detached_mount("tmpfs", {}, 0),
    "file-system-context": _filesystem_context,
    "tcp": _unconnected(socket.AF_INET, socket.SOCK_STREAM),
    "udp": _unconnected(socket.AF_INET, socket.SOCK_DGRAM),
    "tcp6": _unconnected(socket.AF_INET6, socket.SOCK_STREAM),
    "raw": _unconnected(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet": _unconnected(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": _unconnected(socket.AF_NETLINK, socket.SOCK_RAW),
    "unix": _unconnected(socket.AF_UNIX, socket.SOCK_STREAM),
    "unix-datagram": _unconnected(socket.AF_UNIX, socket.SOCK_DGRAM),
    "unix-datagram-pair": _datagrams,
    "unix-listening": _listening(socket.AF_UNIX),
    "tcp-listening": _listening(socket.AF_INET),
    "tcp-connected": _connected_tcp,
    "udp-connected": _connected_udp,
}


@pytest.mark.parametrize("make", NO_STREAMS.values(), ids=NO_STREAMS.keys())
def test_what_is_no_stream_is_refused_in_one_line(
    daemon: Service, watch: Watch, make: Callable[[], int], null: int
) -> None:
    """Row 63: whatever leads further than the bytes that it holds, in each place."""
    try:
        bad = make()
    except OSError:
        return  # what this machine has not, nobody can pass
    for stream in (0, 1, 2):
        fds = [null, null, null]
        fds[stream] = bad
        said = ask(daemon, run_message(), fds, uid=BOB)
        assert said["event"] == "refused", said
        assert said["code"] == "request-bad-stream", said
        assert STANDARD[stream] in str(said["message"])
    os.close(bad)
    watch.settled("request-bad-stream", lines=3)


def _good_pair() -> int:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other.close()
    return one.detach()


def _good_file() -> int:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"words\n")
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


GOOD_STREAMS: dict[str, Callable[[], int]] = {
    "null": _open("/dev/null", os.O_RDWR),
    "zero": _open("/dev/zero", os.O_RDONLY),
    "file": _good_file,
    "file-read-only": _open("/etc/hostname", os.O_RDONLY),
    "memfd": lambda: os.memfd_create("x"),
    "pipe": _pipe,
    "pair": _good_pair,
    "terminal": lambda: os.openpty()[1],
}


@pytest.mark.parametrize("make", GOOD_STREAMS.values(), ids=GOOD_STREAMS.keys())
def test_what_is_a_stream_is_passed_on(
    daemon: Service, watch: Watch, make: Callable[[], int], null: int
) -> None:
    """What the refusals above must not take away."""
    good = make()
    said = ask(daemon, run_message(), [good, null, null], uid=BOB)
    os.close(good)
    assert (said["event"], said["status"]) == ("exited", 0), said
    watch.settled()


@pytest.mark.parametrize(
    "make",
    [
        _open("/proc/self/cwd"),
        _open("/"),
        _open("/root"),
        _open("/proc/self/fd", os.O_RDONLY),
        _open("/proc/self/root"),
    ],
    ids=["link", "root", "home", "descriptors", "root-again"],
)
def test_a_working_directory_shows_nothing_more(
    daemon: Service, watch: Watch, make: Callable[[], int], null: int, out: int
) -> None:
    """Row 63: a directory is a name to look for in the view, never a way out of it."""
    cwd = make()
    message = run_message(
        argv=["sh", "-c", "ls -A . .. ../.. | sort -u; ls /proc/self/fd; pwd -P"],
        descriptors=[*STANDARD, "cwd"],
    )
    said = ask(daemon, message, [null, out, null, cwd], uid=BOB)
    text = os.pread(out, 1 << 16, 0).decode()
    os.close(cwd)
    if said["event"] == "refused":
        assert said["code"] == "request-bad-cwd"
        watch.settled("request-bad-cwd")
        return
    assert said["status"] == 0
    assert not {"home", "root", "work", "boot", "sys"} & set(text.split()), text
    watch.settled()


@pytest.mark.parametrize(
    "make",
    [_open("/etc/hostname"), _open("/dev/null", os.O_RDWR), _pipe, _sock],
    ids=["file", "device", "pipe", "socket"],
)
def test_a_working_directory_that_is_none_is_refused(
    daemon: Service, watch: Watch, make: Callable[[], int], null: int
) -> None:
    """Row 63."""
    cwd = make()
    message = run_message(descriptors=[*STANDARD, "cwd"])
    said = ask(daemon, message, [null, null, null, cwd], uid=BOB)
    os.close(cwd)
    assert said["code"] == "request-bad-cwd"
    watch.settled("request-bad-cwd")


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 6, 7, 20, 253])
def test_descriptors_that_were_not_named_are_closed_and_refused(
    daemon: Service, watch: Watch, count: int, null: int
) -> None:
    """Row 63: more or fewer than the message says, up to what the kernel carries."""
    said = ask(daemon, run_message(), [null] * count, uid=BOB)
    assert said["event"] == "refused"
    assert said["code"] in ("request-descriptors", "wire-too-many-descriptors")
    watch.settled(str(said["code"]))


@pytest.mark.parametrize("verb", ["ps", "attach", "stop", "stats"])
def test_other_questions_take_no_descriptors(
    daemon: Service, watch: Watch, verb: str, null: int
) -> None:
    """Row 63."""
    fields = {"attach": {"id": "x"}, "stop": {"ids": ["x"], "grace_ms": 0}}
    message = {"version": 1, "verb": verb, **fields.get(verb, {})}
    said = ask(daemon, message, [null], uid=BOB)
    assert said["code"] == "request-descriptors"
    watch.settled("request-descriptors")


def test_the_connection_itself_as_a_stream_ends_with_the_launch(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 63: a socket that holds itself, and one in flight in itself (unix_gc)."""
    for _ in range(20):
        with peer(daemon, BOB) as sock:
            wire.send(sock, run_message(argv=["true"]), [sock.fileno(), null, null])
            assert verdict(sock)["event"] in ("exited", "refused")
        one, other = socket.socketpair()
        with one, other:
            socket.send_fds(one, [b"x"], [one.fileno(), other.fileno()])
            said = ask(daemon, run_message(), [other.fileno(), null, null], uid=BOB)
            assert said["event"] == "exited", said
    watch.settled()


# ------------------------------------------------- many of each, and nothing is held


FAILING: dict[str, dict[str, object]] = {
    "no-such-program": {"argv": ["no-such-program"]},
    "no-such-policy": {"policy": "no-such-policy"},
    "not-an-id": {"id": "../x"},
    "unknown-field": {"uid": 0},
    "bad-descriptors": {"descriptors": ["stdin"]},
    "no-such-module": {"program_kind": "module", "argv": ["no.such.module"]},
}


@pytest.mark.parametrize("change", FAILING.values(), ids=FAILING.keys())
def test_many_refusals_hold_no_descriptor(
    daemon: Service, watch: Watch, change: dict[str, object]
) -> None:
    """The daemon's /proc/PID/fd is as before (`Watch`), whatever was refused."""
    count = 30 if "argv" in change else 200
    for number in range(count):
        said = ask(daemon, run_message(**change), uid=BOB if number % 2 else 0)
        assert said["event"] in ("refused", "exited")
    watch.settled()


@pytest.mark.parametrize(
    "kind", ["memfd", "directory", "fifo", "detached", "null", "namespace", "proc-file"]
)
def test_many_bad_programs_hold_no_descriptor(
    daemon: Service, watch: Watch, kind: str
) -> None:
    """As above, in the paths where paths have been opened and an init waits."""
    for _ in range(30):
        assert _launch(daemon, NO_PROGRAMS[kind]())["event"] == "refused"
    watch.settled()


@pytest.mark.parametrize("kind", ["directory", "udp", "mount-namespace", "eventfd"])
def test_many_bad_streams_hold_no_descriptor(
    daemon: Service, watch: Watch, kind: str, null: int
) -> None:
    """As above."""
    bad = NO_STREAMS[kind]()
    for _ in range(200):
        said = ask(daemon, run_message(), [bad, null, null], uid=BOB)
        assert said["code"] == "request-bad-stream"
    os.close(bad)
    watch.settled()


# ------------------------------------------------------- what would make root wait


def test_a_socket_that_lingers_does_not_stop_the_daemon(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Closing the last descriptor of such a socket waits for its other end
    (SO_LINGER, socket(7)): the daemon must not be the one who waits."""
    assert daemon.process is not None
    peers = []
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(3):
            sock = socket.create_connection(server.getsockname())
            other, _ = server.accept()
            peers.append(other)
            sock.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    sock.send(b"x" * 65536)
            linger = struct.pack("ii", 1, 30)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client = stack.enter_context(peer(daemon, BOB))
            # Ours is closed before the daemon can close its own, which is the last.
            daemon.process.send_signal(signal.SIGSTOP)
            wire.send(client, run_message(), [sock.fileno(), null, null])
            sock.close()
            daemon.process.send_signal(signal.SIGCONT)
        started = time.monotonic()
        normal_launch(daemon, ALICE)
        assert time.monotonic() - started < 5
        for other in peers:
            abort = struct.pack("ii", 1, 0)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            other.close()
    assert until(lambda: len(watch.lines("request-bad-stream")) == 3)
    watch.settled("request-bad-stream", lines=3)


ATTRIBUTES = struct.Struct("=6Q10I")


def _serve_files(device: int, hang: int) -> None:
    """A file system with one file, whose server does not answer ``hang``, ever."""

    def attributes(node: int) -> bytes:
        mode = 0o40755 if node == 1 else 0o100755
        return ATTRIBUTES.pack(
            *(node, len(HELLO), 1, 0, 0, 0, 0, 0, 0, mode, 1, BOB, BOB, 0, 4096, 0)
        )

    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
        error, answer = 0, b""
        if opcode == hang:
            continue
        match opcode:
            case 26:  # FUSE_INIT
                answer = struct.pack("=IIIIHHII", 7, 31, 0, 0, 8, 8, 65536, 1)
                answer = answer.ljust(64, b"\0")
            case 1:  # FUSE_LOOKUP
                answer = struct.pack("=QQQQII", 2, 0, 60, 60, 0, 0) + attributes(2)
            case 3:  # FUSE_GETATTR
                answer = struct.pack("=QII", 60, 0, 0) + attributes(node)
            case 14 | 27:  # FUSE_OPEN, FUSE_OPENDIR
                answer = struct.pack("=QII", 1, 0, 0)
            case 15:  # FUSE_READ
                answer = HELLO.encode()
            case 17:  # FUSE_STATFS
                answer = bytes(80)
            case 18 | 25 | 29 | 34:  # RELEASE, FLUSH, RELEASEDIR, ACCESS
                pass
            case 2 | 42:  # FORGET, BATCH_FORGET: no answer is expected
                continue
            case _:
                error = -38
        head = struct.pack("=IiQ", 16 + len(answer), error, unique)
        with suppress(OSError):
            os.write(device, head + answer)


@contextmanager
def _bobs_file_system(
    hang: int, flags: int
) -> Iterator[tuple[int, Callable[[], None]]]:
    """(its file as Bob opened it, how to end its server)."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as why:
        need(f"no file systems in user space: {why}")
    place = f"/tmp/isolauncher-fuse-{os.getpid()}"
    os.mkdir(place)
    options = f"fd={device},rootmode=40000,user_id={BOB},group_id={BOB}"
    mounted = _libc.mount(b"none", place.encode(), b"fuse", 6, options.encode())
    assert mounted == 0, os.strerror(ctypes.get_errno())
    server = os.fork()
    if server == 0:
        try:
            _serve_files(device, hang)
        finally:
            os._exit(0)
    os.close(device)
    ended = False

    def end() -> None:
        nonlocal ended
        if not ended:
            ended = True
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)

    ours, theirs = socket.socketpair()
    opener = os.fork()
    if opener == 0:
        try:
            os.setgroups([])
            os.setresgid(BOB, BOB, BOB)
            os.setresuid(BOB, BOB, BOB)
            socket.send_fds(theirs, [b"x"], [os.open(f"{place}/program", flags)])
        finally:
            os._exit(0)
    theirs.close()
    try:
        with ours:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        yield fds[0], end
    finally:
        end()
        with suppress(OSError):
            os.close(fds[0])
        with suppress(ChildProcessError):
            os.waitpid(opener, 0)
        _libc.umount2(place.encode(), 2)
        os.rmdir(place)


def test_a_program_on_a_file_system_that_hangs_does_not_stop_the_daemon(
    daemon: Service, watch: Watch, null: int
) -> None:
    """A person's own server need not answer; even SIGKILL waits for it (fuse)."""
    need(mounting())
    with _bobs_file_system(14, os.O_PATH) as (fd, end), peer(daemon, BOB) as client:
        message = run_message(
            program_kind="file", argv=["x"], descriptors=[*STANDARD, "program"]
        )
        wire.send(client, message, [null, null, null, fd])
        # Once while it waits, once after it has been given up.
        started = time.monotonic()
        normal_launch(daemon, ALICE)
        assert time.monotonic() - started < 4
        said = verdict(client)
        assert said["code"] in ("open-timeout", "open-failed"), said
        started = time.monotonic()
        normal_launch(daemon, ALICE)
        assert time.monotonic() - started < 4
        end()
    watch.settled(str(said["code"]))


def test_a_stream_of_a_file_system_that_hangs_does_not_stop_the_daemon(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Its server is asked at each close of the file (FUSE_FLUSH)."""
    need(mounting())
    with _bobs_file_system(25, os.O_RDONLY) as (fd, end), peer(daemon, BOB) as client:
        wire.send(client, run_message(), [fd, null, null])
        for _ in range(3):
            started = time.monotonic()
            normal_launch(daemon, ALICE)
            assert time.monotonic() - started < 4
        end()
        assert verdict(client)["code"] == "request-bad-stream"
    watch.settled("request-bad-stream")


def test_a_program_on_a_file_system_of_ones_own_is_launched_or_refused_in_one_line(
    daemon: Service, watch: Watch
) -> None:
    """Root may not look into it: the caller's rights are not enough for everything."""
    need(mounting())
    with _bobs_file_system(0, os.O_PATH) as (fd, _):
        said = _launch(daemon, os.dup(fd))
    assert said["event"] == "refused"
    assert said["code"] == "program-not-reachable"
    assert said["exit_status"] == 126
    watch.settled("program-not-reachable")
