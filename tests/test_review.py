# SPDX-License-Identifier: GPL-3.0-or-later
"""Holes that a review found, each as the test that would have shown it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemons import Leftovers, Service, nothing_left
from support.powers import namespaces, need, sandboxes

from isolauncher import (
    cgroups,
    foreign,
    kernel,
    opener,
    plan,
    reopen,
    steps,
    verify,
    wire,
)
from isolauncher.channel import Channel, leave, readable
from isolauncher.errors import StepError, WireError
from isolauncher.request import Caller

BOB = 12345


def _caller() -> Caller:
    return Caller(uid=BOB, gid=BOB, groups=(), pid=os.getpid())


def _in_the_opening_child(
    monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]
) -> None:
    """Have ``then`` happen in the child once it has the caller's ids."""
    become = reopen.become

    def and_then(caller: Caller) -> None:
        become(caller)
        then()

    monkeypatch.setattr(reopen, "become", and_then)


async def _open(wants: tuple[reopen.Want, ...]) -> tuple[reopen.Opened, ...]:
    """What an opener finds that is forked now, so with what a test has changed."""
    service = opener.Service()
    one = opener.Opener(service, _caller())
    try:
        return (await one.open(wants, None))[0]
    finally:
        one.close()
        service.close()


def test_a_callers_sigterm_to_the_opening_child_does_not_end_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fork shares the pipe that the daemon's signal handlers write to."""
    need(sandboxes())
    _in_the_opening_child(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    heard: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, heard.append, signal.SIGTERM)
        try:
            with pytest.raises(StepError) as failed:
                await _open(())
            assert failed.value.code == "open-failed"
            # One more turn of the loop, had there been something in its pipe.
            await asyncio.sleep(0)
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    asyncio.run(scene())
    assert heard == []


def test_a_caller_cannot_look_into_the_child_that_opens_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a copy of root's memory and descriptors, whatever fs.suid_dumpable says."""
    need(sandboxes())

    def look(wants: object) -> Iterator[reopen.Opened]:
        peer = os.fork()
        if peer == 0:
            try:
                os.listdir(f"/proc/{os.getppid()}/fd")
            except PermissionError:
                os._exit(7)
            finally:
                os._exit(0)
        _, status = os.waitpid(peer, 0)
        why = f"exit {os.waitstatus_to_exitcode(status)}"
        yield reopen.Opened(path="/usr", kind="absent", why=why)

    monkeypatch.setattr(reopen, "_follow", look)
    want = reopen.Want(path="/usr", writable=False)
    opened = asyncio.run(_open((want,)))
    assert [o.why for o in opened] == ["exit 7"]


def test_a_child_that_hangs_keeps_no_pipe_of_another_caller_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need(sandboxes())
    reader, writer = os.pipe()
    monkeypatch.setattr(opener, "PATIENCE_S", 1)
    _in_the_opening_child(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    async def scene() -> None:
        asking = asyncio.create_task(_open(()))
        # It is forked by the first step of the task and stops with the caller's ids.
        await asyncio.sleep(0)
        os.close(writer)
        await asyncio.wait_for(readable(reader), 5)
        assert os.read(reader, 1) == b""
        assert not asking.done()
        with pytest.raises(StepError) as failed:
            await asking
        assert failed.value.code == "open-timeout"

    asyncio.run(scene())
    os.close(reader)


def test_descriptors_of_a_refused_message_are_not_closed_by_the_one_thread() -> None:
    """Closing may wait for who sent them: it is left to `foreign.close`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open(os.devnull, os.O_RDONLY)
    channel = Channel(ours)
    with theirs:
        # More than were asked for as well: what is cut off, the kernel closes.
        for data, count in ((b"no json", 1), (b"{}", 40)):
            socket.send_fds(theirs, [data], [null] * count)
            with pytest.raises(WireError):
                asyncio.run(channel.recv(max_fds=1))
    os.close(null)
    apart = channel.take_apart()
    assert len(apart) == 1 + 1 + 40
    wire.close_all(apart)


def test_only_what_this_kernel_answers_for_alone_is_asked_at_once() -> None:
    table = b"""\
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 29 0:25 / /tmp rw,nosuid - tmpfs tmpfs rw
31 29 0:40 / /home/alice/cloud rw - fuse.sshfs host: rw,user_id=1000
32 29 0:41 / /mnt rw - nfs4 server:/export rw
33 29 0:42 / /net rw - autofs systemd-1 rw
34 29 0:43 / /merged rw - overlay overlay rw,lowerdir=/a
35 29 8:2 / /win rw - fuseblk /dev/sda2 rw,user_id=0
"""
    assert foreign.local_devices(table.splitlines()) == {(8, 1), (0, 25)}


def test_an_overlay_of_another_mount_namespace_is_not_even_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Below it may be a file system whose server never answers (FUSE)."""
    with open(__file__, "rb") as ours:
        assert foreign.served(ours.fileno()) is None
        monkeypatch.setattr(
            kernel, "file_system", lambda fd: kernel.OVERLAYFS_SUPER_MAGIC
        )
        monkeypatch.setattr(foreign, "answers_at_once", lambda fd: False)
        assert foreign.served(ours.fileno()) is None
        need(namespaces("mnt"))
        theirs = _of_another_namespace(__file__)
        try:
            why = foreign.served(theirs)
            assert why is not None
            assert "another mount namespace" in why
        finally:
            os.close(theirs)


def _of_another_namespace(path: str) -> int:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            kernel.Linux().unshare(kernel.CLONE_NEWNS)
            socket.send_fds(theirs, [b"x"], [os.open(path, os.O_RDONLY)])
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    return fds[0]


@pytest.mark.parametrize("words", [b'{"version":1,"verb":"ps"}', b""])
def test_a_lingering_socket_nobody_reads_does_not_stop_the_daemon(
    daemon: Service, words: bytes
) -> None:
    """Its last holder waits for it, in the kernel, though it never received it."""
    assert daemon.process is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    client = daemon.client()
    # Ours must be closed before the daemon can close its own.
    daemon.process.send_signal(signal.SIGSTOP)
    wire.send(client, {"version": 1, "verb": "ps"})
    socket.send_fds(client, [words], [sock.fileno()])
    sock.close()
    client.close()
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.ask({"version": 1, "verb": "ps"})["event"] == "list"
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()


def test_a_client_that_cannot_be_told_of_the_start_still_ends_its_program(
    daemon: Service,
) -> None:
    before = Leftovers.now(daemon)
    null = os.open(os.devnull, os.O_RDWR)
    with daemon.client() as client:
        client.shutdown(socket.SHUT_RD)
        message = {
            "version": 1,
            "verb": "run",
            "id": None,
            "program_kind": "name",
            "argv": ["sleep", "1000"],
            "policy": None,
            "tier": None,
            "environment": {},
            "setenv": {},
            "umask": 0o22,
            "tied": True,
            "descriptors": ["stdin", "stdout", "stderr"],
        }
        daemon_log = len(daemon.log)
        wire.send(client, message, [null, null, null])
        daemon.wait_for_log("launched", since=daemon_log)
    os.close(null)
    nothing_left(daemon, before)


def test_whoever_waits_for_a_descriptor_that_is_closed_does_not_wait_for_its_heir() -> (
    None
):
    """The number is another's a moment later, in the same turn of the loop."""

    async def scene() -> None:
        first, one = os.pipe()
        early = asyncio.create_task(readable(first))
        await asyncio.sleep(0)
        leave(first)
        os.close(first)
        second, two = os.pipe()
        assert second == first
        late = asyncio.create_task(readable(second))
        await asyncio.wait_for(early, 5)
        assert not late.done()
        os.write(two, b"x")
        await asyncio.wait_for(late, 5)
        for fd in (one, second, two):
            os.close(fd)

    asyncio.run(scene())


def test_a_launch_that_failed_reports_nothing_as_enforced(daemon: Service) -> None:
    parents = _parents(daemon)
    need(None if parents else "no cgroups here")
    for parent in parents:
        (parent / "taken").mkdir()
    try:
        done = daemon.run("--id", "taken", "--", "true")
    finally:
        for parent in parents:
            with suppress(FileNotFoundError):
                (parent / "taken").rmdir()
    assert done.status == 125
    assert done.report is not None
    assert done.report["enforced"] == []


def _parents(daemon: Service) -> list[Path]:
    name = cgroups.name_for(daemon.run_dir)
    return [
        Path(directory)
        for directory, _, _ in os.walk("/sys/fs/cgroup")
        if directory.endswith(f"/{name}")
    ]


def test_a_working_directory_outside_the_root_is_a_difference() -> None:
    """As in CVE-2024-21626; pytest itself stands in for init, a child for the stem."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outside = kernel.Linux().detached_mount("tmpfs", {"size": "4096"}, 0)
            os.fchdir(outside)
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"x"
        sealed = verify.Sealed(
            init=os.getpid(), stem=child, sent={}, probes={}, notes=()
        )
        outside_all = "its working directory is in none of its mounts"
        assert list(verify._working_directory(sealed)) == [outside_all]
        itself = replace(sealed, stem=os.getpid())
        assert list(verify._working_directory(itself)) == []
        assert "init's root is the host's" in list(verify._directories(sealed))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_a_proc_that_is_not_the_kernels_is_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in CVE-2025-52881, when it was replaced while the daemon runs."""
    assert list(verify._proc()) == []
    monkeypatch.setattr(kernel, "PROC_SUPER_MAGIC", 0x01021994)  # as if a tmpfs
    assert list(verify._proc()) == ["what is at /proc is not the kernel's"]


def test_an_id_mapped_mount_that_is_none_is_a_difference() -> None:
    step = steps.Attach(
        path="/x", descriptor="x", kind="file", attributes=plan.READ_ONLY, mapped=1
    )
    note = steps.Skipped(what="id-mapped mount of /x", why="not here")
    for notes, wanted in (((), True), ((note,), False)):
        sealed = verify.Sealed(init=0, stem=0, sent={}, probes={}, notes=notes)
        [(_, _, options, _)] = verify._expected_mounts([step], sealed)
        assert ("idmapped" in options) is wanted


def test_a_mount_of_a_waiting_room_is_looked_at_again_if_it_is_another() -> None:
    line = "40 30 0:5 / /x rw,nosuid,nodev - tmpfs tmpfs rw"
    step = steps.MemoryFiles(path="/x", size=1, inodes=1, mode=0, executable=True)
    sealed = verify.Sealed(
        init=os.getpid(),
        stem=os.getpid(),
        sent={},
        probes={},
        notes=(),
        looked=verify.Looked(namespaces={}, mounts={line: "/x"}),
    )

    def differences(*lines: str) -> list[str]:
        return list(verify._mounts([step], sealed, list(lines)))

    another = line.replace("40", "41").replace(",nodev", "")
    assert differences(line) == []
    assert differences(another) == ["/x lacks nodev"]
    assert differences() == ["nothing is mounted at /x"]
    assert differences(line, another) == ["something is mounted at /x"]
