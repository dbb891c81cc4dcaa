# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Takes as much as it gets of one thing: processes, threads, memory, descriptors, …"""

from __future__ import annotations

inside()

import resource  # noqa: E402 - only where it may run
import signal  # noqa: E402
import socket  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

what = sys.argv[1]


def processes():
    """Forks in every process until none can; says how many there were at once."""
    reader, writer = os.pipe()
    refused = ""
    for _ in range(100_000):
        try:
            child = os.fork()
        except OSError as why:
            refused = name_of(why.errno)
            break
        if child == 0:
            os.write(writer, b"x")
            if os.getppid() == parent:
                continue
            signal.pause()
    if os.getpid() != parent:
        signal.pause()
    os.set_blocking(reader, False)
    # The others fork on as long as somebody may: until two looks are alike.
    seen, before = len(os.listdir("/proc")), -1
    while seen != before:
        before = seen
        time.sleep(0.05)
        seen = sum(name.isdigit() for name in os.listdir("/proc"))
    say({"refused": refused, "at once": seen - 1})
    sys.stdin.readline()
    # Ends without its children: they are init's, and go with it.


def threads():
    alive, stop = [], threading.Event()
    try:
        for _ in range(100_000):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            alive.append(thread)
        refused = ""
    except RuntimeError:
        refused = "EAGAIN"
    say({"refused": refused, "at once": len(os.listdir("/proc/self/task"))})
    sys.stdin.readline()
    stop.set()


def memory():
    kept = []
    while True:
        kept.append(bytearray(b"x" * (1 << 20)))


def shared():
    """Memory that is no process's: files, queues, segments."""
    segments = []
    while True:
        fd = os.memfd_create("m")
        os.write(fd, b"x" * (1 << 20))
        segments.append(fd)
        if len(segments) > 900:
            break


def files():
    with open("/tmp/f", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))


def descriptors():
    opened_, refused = [], ""
    try:
        for _ in range(100_000):
            opened_.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as why:
        refused = name_of(why.errno)
    count = len(opened_)
    for fd in opened_:
        os.close(fd)
    # In flight they are nobody's, but counted all the same.
    left, right = socket.socketpair()
    left.setblocking(False)
    flying, lost = 0, ""
    try:
        for _ in range(10_000):
            socket.send_fds(left, [b"x"], [0] * 100)
            flying += 100
    except OSError as why:
        lost = name_of(why.errno)
    say({"refused": refused, "count": count, "flying": flying, "lost": lost})


def limits():
    answers = {}
    for name in dir(resource):
        if not name.startswith("RLIMIT_"):
            continue
        number_ = getattr(resource, name)
        soft, hard = resource.getrlimit(number_)
        answers[f"{name} hard"] = hard
        if hard == resource.RLIM_INFINITY:
            continue
        for more in (hard + 1, resource.RLIM_INFINITY):
            pair = (ctypes.c_uint64 * 2)(
                more & 0xFFFFFFFFFFFFFFFF, more & (1 << 64) - 1
            )
            answers[f"{name} to {more}"] = call("prlimit64", 0, number_, pair, 0)
            answers[f"{name} own to {more}"] = call(
                "prlimit64", os.getpid(), number_, pair, 0
            )
    say(answers)


def spin():
    for _ in range(int(sys.argv[2])):
        if os.fork() == 0:
            while True:
                pass
    say({"ready": True})
    while True:
        pass


def burn():
    while True:
        pass


def crash():
    os.chdir("/tmp")
    child = os.fork()
    if child == 0:
        ctypes.string_at(0)
    _, status_ = os.waitpid(child, 0)
    say(
        {
            "signal": os.WTERMSIG(status_),
            "dumped": os.WCOREDUMP(status_),
            "cores": [name for name in os.listdir(".") if "core" in name],
            "raise": call(
                "prlimit64",
                0,
                resource.RLIMIT_CORE,
                (ctypes.c_uint64 * 2)(9999, 9999),
                0,
            ),
        }
    )
    sys.stdout.flush()
    ctypes.string_at(0)


def locked():
    import mmap

    area = mmap.mmap(-1, 1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.set_errno(0)
    got = LIBC.mlock(ctypes.c_void_p(address), ctypes.c_size_t(1 << 20))
    answers = {"mlock": "ok" if got == 0 else name_of(ctypes.get_errno())}
    got = LIBC.mlockall(3)
    answers["mlockall"] = "ok" if got == 0 else name_of(ctypes.get_errno())
    made = 0
    event = ctypes.create_string_buffer(64)
    out = ctypes.create_string_buffer(8)
    while made < 20_000:
        ctypes.cast(event, ctypes.POINTER(ctypes.c_int))[2] = signal.SIGUSR1
        if call("timer_create", 0, event, out) != "ok":
            break
        made += 1
    answers["timers"] = made
    say(answers)


def orphans():
    """A thousand grandchildren, one after the other: who buries them?"""
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)
    # As a sibling, by CLONE_PARENT: init's child from the first moment.
    for _ in range(100):
        if call_clone_parent() == 0:
            os._exit(7)
    say({"whole": True})


def call_clone_parent():
    nr = number("clone")
    return LIBC.syscall(ctypes.c_long(nr), ctypes.c_ulong(0x8000 | 17), 0, 0, 0, 0)


def stubborn():
    """Will not go: ignores what can be ignored, in sessions of its own, stopped."""
    for number_ in range(1, 65):
        if number_ not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number_, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
            while True:
                signal.sigtimedwait([signal.SIGTERM], 1000)
    say({"ready": True})
    if sys.argv[2] == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        signal.sigtimedwait([signal.SIGTERM], 1000)


def plain():
    say({"ready": True})
    signal.pause()


def left_behind():
    """Ends at once and leaves a family that would live for ever."""
    reader, writer = os.pipe()
    for number_ in range(3):
        if os.fork() == 0:
            os.setsid()
            if number_ and os.fork():
                os._exit(0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.write(writer, b"x")
            while True:
                time.sleep(1000)
    for _ in range(3):
        os.read(reader, 1)
    say({"ready": True})
    os._exit(5)


parent = os.getpid()
globals()[what]()
