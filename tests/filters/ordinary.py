# SPDX-License-Identifier: GPL-3.0-or-later
"""What ordinary Python programs do; each check is run alone behind the filter.

Run as text with the name of one check. A check that returns has passed.
"""

from __future__ import annotations

import os
import sys


def subprocesses() -> None:
    import subprocess

    assert subprocess.check_output(["/bin/echo", "a"]) == b"a\n"
    shell = subprocess.run(["sh", "-c", "cat; exit 3"], input=b"x" * 200_000, stdout=-1)
    assert (shell.returncode, len(shell.stdout)) == (3, 200_000)
    detached = subprocess.run(["true"], start_new_session=True, umask=0o77)
    assert detached.returncode == 0
    pid = os.posix_spawn("/bin/true", ["true"], {}, setpgroup=0)
    assert os.waitpid(pid, 0)[1] == 0


def multiprocessing_pool() -> None:
    import math
    import multiprocessing

    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(math.sqrt, [1.0, 4.0, 9.0]) == [1.0, 2.0, 3.0]


def shared_memory() -> None:
    from multiprocessing import Lock, Queue, Value, shared_memory

    block = shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = 7
    block.close()
    block.unlink()
    with Lock():
        Value("i", 3).value += 1
    queue: Queue[int] = Queue()
    queue.put(1)
    assert queue.get(timeout=20) == 1


def asyncio_unix_server() -> None:
    import asyncio
    import tempfile

    async def main(path: str) -> bytes:
        async def echo(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(echo, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        out, _ = await child.communicate(b"through cat")
        return answer + out

    with tempfile.TemporaryDirectory() as place:
        assert asyncio.run(main(f"{place}/s")) == b"hello\nthrough cat"


def sockets_and_names() -> None:
    import select
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"x")
                assert select.select([peer], [], [], 20)[0]
                assert peer.recv(1) == b"x"
    # A machine without that file asks a server for the name.
    named = os.path.exists("/etc/hosts")
    assert socket.getaddrinfo("localhost" if named else "127.0.0.1", 80)
    assert socket.if_nametoindex("lo") == 1
    assert any(name == "lo" for _, name in socket.if_nameindex())
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    socket.send_fds(left, [b"d"], [writer])
    _, descriptors, _, _ = socket.recv_fds(right, 1, 1)
    os.write(descriptors[0], b"ok")
    assert os.read(reader, 2) == b"ok"
    left.close()
    right.close()


def sqlite_with_a_journal() -> None:
    import sqlite3
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        for mode in ("wal", "delete"):
            database = sqlite3.connect(f"{place}/{mode}")
            database.execute(f"pragma journal_mode={mode}")
            with database:
                database.execute("create table t (x)")
                database.executemany("insert into t values (?)", [(1,), (2,)])
            assert database.execute("select sum(x) from t").fetchone() == (3,)
            database.close()


def threads() -> None:
    import queue
    import threading
    from concurrent.futures import ThreadPoolExecutor

    done: queue.Queue[int] = queue.Queue()
    for n in range(8):
        threading.Thread(target=done.put, args=(n,), name=f"t{n}").start()
    assert sorted(done.get(timeout=20) for _ in range(8)) == list(range(8))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def temporary_files() -> None:
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as nameless, tempfile.NamedTemporaryFile() as named:
        nameless.write(b"1")
        named.write(b"2")
    with tempfile.TemporaryDirectory() as place:
        source = f"{place}/a"
        os.makedirs(f"{source}/b/c", mode=0o755)
        with open(f"{source}/b/file", "w") as file:
            file.write("x" * 100_000)
        os.symlink("file", f"{source}/b/link")
        os.mkfifo(f"{source}/fifo")
        os.unlink(f"{source}/fifo")
        os.mknod(f"{source}/plain", 0o600)
        os.chmod(f"{source}/b", 0o1777)  # noqa: S103 - bits that must pass
        os.chmod(f"{source}/b/file", 0o750)  # noqa: S103 - bits that must pass
        os.link(f"{source}/b/file", f"{source}/b/hard")
        os.rename(f"{source}/b/hard", f"{source}/b/renamed")
        os.utime(f"{source}/b/file", (1, 2))
        shutil.copytree(source, f"{place}/copy", symlinks=True)
        assert os.stat(f"{place}/copy/b/file").st_mode & 0o7777 == 0o750
        assert len(list(os.walk(place))) == 7
        shutil.rmtree(f"{place}/copy")


def moving_bytes() -> None:
    import fcntl
    import mmap
    import tempfile

    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(b"y" * 8192)
        source.flush()
        os.sendfile(target.fileno(), source.fileno(), 0, 4096)
        os.copy_file_range(source.fileno(), target.fileno(), 4096, 4096, 4096)
        os.posix_fallocate(target.fileno(), 0, 16384)
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        fcntl.lockf(target, fcntl.LOCK_EX)
        fcntl.flock(target, fcntl.LOCK_SH)
        with mmap.mmap(target.fileno(), 16384) as memory:
            assert memory[:8192] == b"y" * 8192
            memory[0] = 1
            memory.flush()
            memory.resize(32768)
            memory.madvise(mmap.MADV_DONTNEED)
        reader, writer = os.pipe()
        os.splice(source.fileno(), writer, 100, offset_src=0)
        assert os.read(reader, 100) == b"y" * 100
    memory_file = os.memfd_create("m", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(memory_file, 1033, 8)  # F_ADD_SEALS, F_SEAL_WRITE


def signals_and_timers() -> None:
    import signal
    import time

    seen = []
    signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not seen:
        signal.pause()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
    time.sleep(0.001)
    child = os.fork()
    if child == 0:
        signal.pause()
    handle = os.pidfd_open(child)
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    ended = os.waitid(os.P_PIDFD, handle, os.WEXITED)
    assert ended is not None
    assert ended.si_status == signal.SIGTERM
    assert os.sched_getaffinity(0)
    os.nice(1)


def its_own_limits_and_ids() -> None:
    import platform
    import resource
    import secrets
    import uuid

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    # A program may look at and lower its children as well as itself.
    child = os.fork()
    if child == 0:
        import signal

        signal.pause()
    resource.prlimit(child, resource.RLIMIT_CORE, (0, 0))
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.setresuid(os.getuid(), os.getuid(), os.getuid())
    assert platform.uname().system == "Linux"
    assert len(secrets.token_bytes(9)) == 9
    assert uuid.uuid4() != uuid.uuid4()


def a_pseudo_terminal() -> None:
    import pty

    child, master = pty.fork()
    if child == 0:
        command = "tty >/dev/null && stty size && echo held"
        os.execvp("sh", ["sh", "-c", command])
    out = b""
    while True:
        try:
            more = os.read(master, 1024)
        except OSError:  # how a pty says that its other side is gone
            break
        out += more
    assert os.waitpid(child, 0)[1] == 0, out
    assert b"held" in out


def watching_files() -> None:
    import ctypes
    import tempfile

    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as place:
        watch = libc.inotify_init1(0)
        assert libc.inotify_add_watch(watch, place.encode(), 0x100) > 0
        with open(f"{place}/new", "w"):
            assert b"new" in os.read(watch, 4096)
    assert libc.eventfd(0, 0) >= 0


def tls() -> None:
    import ssl

    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return
    raise AssertionError("a handshake without a peer")


def a_filter_of_its_own() -> None:
    import ctypes

    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    let_all_through = b"\x06\x00\x00\x00\x00\x00\xff\x7f"
    program = SockFprog(1, let_all_through)
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
    assert libc.unshare(0x10000000) == -1
    assert ctypes.get_errno() == 1


CHECKS = {
    check.__name__: check
    for check in (
        subprocesses,
        multiprocessing_pool,
        shared_memory,
        asyncio_unix_server,
        sockets_and_names,
        sqlite_with_a_journal,
        threads,
        temporary_files,
        moving_bytes,
        signals_and_timers,
        its_own_limits_and_ids,
        a_pseudo_terminal,
        watching_files,
        tls,
        a_filter_of_its_own,
    )
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
