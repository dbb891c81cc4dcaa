# SPDX-License-Identifier: GPL-3.0-or-later
"""Random and mutated messages: each is understood or refused, nothing is kept."""

from __future__ import annotations

import os
import pickle
import random
import socket
import string
from array import array

import pytest
from support.powers import open_descriptors

from isolauncher import request, wire
from isolauncher.errors import RequestError, WireError

SEED = 20080312

SAMPLES = [
    b'{"version":1,"verb":"run","id":null,"program_kind":"name","argv":["ls","-l"],'
    b'"policy":null,"tier":"exec","environment":{"LANG":"C"},"setenv":{},"umask":18,'
    b'"tied":true,"descriptors":["stdin","stdout","stderr"]}',
    b'{"version":1,"verb":"stop","ids":["a","b"],"grace_ms":5000}',
    b'{"version":1,"verb":"attach","id":"abc"}',
    b'{"version":1,"verb":"ps"}',
    pickle.dumps({"version": 1, "verb": "ps"}),
]
TOKENS = [
    *(c.encode() for c in '{}[]":,\\\n\0-'),
    b"null",
    b"NaN",
    b"1e999",
    b"9" * 400,
    b"\\ud800",
    b"\xff\xfe",
    b'"uid":0,',
    b'"version":1,',
    b"[" * 50,
    b'{"a":' * 50,
    b"A" * 5000,
    b"../../x",
    b"true",
]


def mutated(dice: random.Random) -> bytes:
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(1, 400))
    if dice.random() < 0.1:
        letters = dice.choices(string.printable, k=dice.randrange(1, 200))
        return "".join(letters).encode()
    data = bytearray(dice.choice(SAMPLES))
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0:
                data[at : at + dice.randrange(1, 20)] = b""
            case 1:
                data[at:at] = dice.choice(TOKENS)
            case 2 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case _:
                other = dice.choice(SAMPLES)
                data[at:] = other[dice.randrange(len(other)) :]
    return bytes(data) or b"{"


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def storm(count: int) -> None:
    dice = random.Random(SEED)  # noqa: S311 - it must repeat itself
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    understood = refused = unsayable = 0
    with ours, theirs:
        before = open_descriptors()
        warm = 0
        for turn in range(count):
            rights = array("i", [0] * dice.choice((0, 0, 3, 3, 5, 9, 40)))
            theirs.sendmsg(
                [mutated(dice)],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [],
            )
            try:
                message = wire.recv(ours, max_fds=len(request.DESCRIPTORS))
                try:
                    request.parse(message.fields, len(message.fds))
                    understood += 1
                finally:
                    message.close()
            except (WireError, RequestError) as error:
                refused += 1
                line = error.line()
                unsayable += not line.isprintable() or len(line) > 1000
            if turn == count // 10:
                warm = resident()
        assert open_descriptors() == before
    assert understood + refused == count
    assert unsayable == 0
    assert understood > 0
    assert refused > count // 2
    assert resident() - warm < 4 << 20


def test_a_hundred_thousand_broken_messages_leave_nothing_behind() -> None:
    storm(100_000)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_broken_messages_leave_nothing_behind() -> None:
    storm(1_000_000)
