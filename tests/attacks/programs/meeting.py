# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Offers a meeting place of every kind the kernel has, or looks for another's.

``offer TAG`` makes them and waits; ``look TAG`` tries to find them.
"""

from __future__ import annotations

inside()

import contextlib  # noqa: E402 - only where it may run
import socket  # noqa: E402

what, tag = sys.argv[1:3]
KEY = 0x49534F4C
LIBC.shmat.restype = ctypes.c_void_p
LIBRT = ctypes.CDLL("librt.so.1", use_errno=True)
CREATE = 0o1000 | 0o666
PLACES = [f"/tmp/{tag}", f"/dev/shm/{tag}"]


def answer(result):
    return "ok" if result >= 0 else name_of(ctypes.get_errno())


def kinds(flags, mode):
    attributes = (ctypes.c_long * 8)(0, 4, 64, 0)
    return {
        "shm": answer(LIBC.shmget(KEY, 4096, flags)),
        "sem": answer(LIBC.semget(KEY, 1, flags)),
        "msg": answer(LIBC.msgget(KEY, flags)),
        "mq": answer(LIBRT.mq_open(f"/{tag}".encode(), mode, 0o666, attributes)),
    }


def abstract(kind):
    return f"\0{tag}-{kind.name}"


STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)

if what == "offer":
    found = kinds(CREATE, os.O_CREAT | os.O_RDWR)
    kept = []
    for kind in STREAMS:
        for name in (abstract(kind), f"/tmp/{tag}-{kind.name}"):
            own = socket.socket(socket.AF_UNIX, kind)
            own.bind(name)
            if kind != socket.SOCK_DGRAM:
                own.listen()
            os.chmod(name, 0o777) if name[0] == "/" else None
            kept.append(own)
    for place in PLACES:
        with open(place, "w") as file:
            file.write(tag)
    for kind, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError):
            own = socket.socket(kind)
            own.bind((address, 42425))
            own.listen()
            kept.append(own)
    # Only what can be found by its own maker is an offer at all.
    own = socket.socket(socket.AF_UNIX)
    found["abstract"] = tried(own.connect, abstract(socket.SOCK_STREAM))
    say({"ready": True, "own": found})
    sys.stdin.readline()
    sys.exit()

found = kinds(0, os.O_RDWR)
for number_ in range(64):
    # By number and not by key: shmat(2) asks for no key.
    if LIBC.shmat(number_, None, 0) not in (None, ctypes.c_void_p(-1).value):
        found[f"shm {number_}"] = "ok"
for kind in STREAMS:
    own = socket.socket(socket.AF_UNIX, kind)
    found[f"abstract {kind.name}"] = tried(own.connect, abstract(kind))
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    found[f"sendto {kind.name}"] = tried(own.sendto, b"x", abstract(kind))
    own = socket.socket(socket.AF_UNIX, kind)
    found[f"path {kind.name}"] = tried(own.connect, f"/tmp/{tag}-{kind.name}")
for place in PLACES:
    found[place] = opened(place)
if len(sys.argv) < 4:
    for kind, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        own = socket.socket(kind)
        own.settimeout(1)
        found[address] = tried(own.connect, (address, 42425))
for path in sys.argv[4:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        own = socket.socket(socket.AF_UNIX, kind)
        name = "\0" + path[1:] if path[0] == "@" else path
        found[f"{path} {kind.name}"] = tried(own.connect, name)
say(found)
