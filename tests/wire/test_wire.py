# SPDX-License-Identifier: GPL-3.0-or-later
"""The framing and the only serializer: what passes intact, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator

import pytest
from support.powers import need, open_descriptors, root

from isolauncher import wire
from isolauncher.errors import WireError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def refused(code: str, data: bytes, pair: Pair) -> None:
    pair[1].send(data)
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0])
    assert caught.value.code == code


def test_a_message_and_its_descriptors_pass(pair: Pair) -> None:
    reader, writer = os.pipe()
    wire.send(pair[1], {"a": 1, "b": ["x", None, True]}, [writer])
    os.close(writer)
    message = wire.recv(pair[0], max_fds=1)
    assert message.fields == {"a": 1, "b": ["x", None, True]}
    (fd,) = message.fds
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    message.close()
    assert os.read(reader, 99) == b"through"
    assert os.read(reader, 99) == b""
    os.close(reader)


def test_two_messages_glued_in_the_queue_stay_two(pair: Pair) -> None:
    wire.send(pair[1], {"n": 1})
    wire.send(pair[1], {"n": 2})
    assert wire.recv(pair[0]).fields == {"n": 1}
    assert wire.recv(pair[0]).fields == {"n": 2}
    assert wire.try_recv(pair[0]) is None


def test_two_objects_in_one_packet_are_refused(pair: Pair) -> None:
    refused("wire-not-json", b'{"n":1}{"n":2}', pair)


def test_each_part_of_a_split_message_is_refused_alone(pair: Pair) -> None:
    whole = wire.encode({"version": 1, "verb": "ps", "text": 'a"b\\'})
    for at in range(1, len(whole)):
        with pytest.raises(WireError):
            wire.decode(whole[:at])
        with pytest.raises(WireError):
            wire.decode(whole[at:])


@pytest.mark.parametrize(
    "argument",
    ["", "a\nb\rc=d", "\x1b[31m", "é漢😀", "\udcff\udc80", "\x00", "\u202eevil"],
)
def test_every_byte_string_survives(argument: str, pair: Pair) -> None:
    wire.send(pair[1], {"x": argument, argument: 0})
    assert wire.recv(pair[0]).fields == {"x": argument, argument: 0}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1,"a":2}', "wire-not-json"),
        (b'{"b":{"a":1,"a":1}}', "wire-not-json"),
        (b'{"a":NaN}', "wire-not-json"),
        (b'{"a":-Infinity}', "wire-not-json"),
        (b'{"a":1e999}', "wire-not-json"),
        (b'{"a":9223372036854775808}', "wire-not-json"),
        (b'{"a":' + b"9" * 100_000 + b"}", "wire-not-json"),
        (b'{"a":0.' + b"9" * 100_000 + b"}", "wire-not-json"),
        (b"[1]", "wire-not-object"),
        (b'"text"', "wire-not-object"),
        (b"1", "wire-not-object"),
        (b"null", "wire-not-object"),
        (b"\xef\xbb\xbf{}", "wire-not-json"),
        (b'{"a":"\\ud800"}', "wire-bad-string"),
        (b'{"\\udfff":1}', "wire-bad-string"),
        (b'{"a":["\\udcc3\\udca9"]}', "wire-bad-string"),
        (b'{"a":"\n"}', "wire-not-json"),
        (b'{"a":1}\0', "wire-not-json"),
        (b"{'a':1}", "wire-not-json"),
        (b'{"a":"' + b'\\"' * 60_000, "wire-not-json"),
        (b"[" * 100_000, "wire-too-deep"),
        (b'{"a":' * 20_000, "wire-too-deep"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "wire-too-deep"),
        (pickle.dumps({"version": 1, "verb": "ps"}), "wire-not-json"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else value,
)
def test_what_is_not_one_strict_object_is_refused(
    data: bytes, code: str, pair: Pair
) -> None:
    refused(code, data, pair)


def test_brackets_in_strings_are_not_nesting() -> None:
    text = "[{" * 1000
    assert wire.decode(wire.encode({"a": text})) == {"a": text}


def test_a_message_as_large_as_allowed_passes_and_one_byte_more_does_not(
    pair: Pair,
) -> None:
    rest = wire.MAX_MESSAGE - len(b'{"a":""}')
    wire.send(pair[1], {"a": "x" * rest})
    assert wire.recv(pair[0]).fields == {"a": "x" * rest}
    with pytest.raises(WireError) as caught:
        wire.send(pair[1], {"a": "x" * (rest + 1)})
    assert caught.value.code == "wire-too-large"
    refused("wire-too-large", b'{"a":"' + b"x" * (rest + 1) + b'"}', pair)


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1, 2}, "\ud800", object()])
def test_what_has_no_spelling_is_not_sent(value: object, pair: Pair) -> None:
    with pytest.raises(WireError) as caught:
        wire.send(pair[1], {"a": value})
    assert caught.value.code == "wire-not-serializable"
    assert wire.try_recv(pair[0]) is None


@pytest.mark.parametrize("expected", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("more", [1, 2, 60])
def test_extra_descriptors_are_closed_and_the_message_refused(
    expected: int, more: int, pair: Pair
) -> None:
    before = open_descriptors()
    wire.send(pair[1], {"a": 1}, [0] * (expected + more))
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0], max_fds=expected)
    assert caught.value.code == "wire-too-many-descriptors"
    assert open_descriptors() == before


def test_who_cannot_open_more_does_not_blame_the_sender(pair: Pair) -> None:
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    wire.send(pair[1], {"a": 1}, [0] * 5)
    # The lowest free numbers are given: two of five fit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_free(2), hard))
    try:
        with pytest.raises(WireError) as caught:
            wire.try_recv(pair[0], max_fds=6, discard=taken.extend)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.code == "wire-descriptors-lost"
    assert len(taken) == 2
    wire.close_all(taken)
    assert open_descriptors() == before


def _free(count: int) -> int:
    """The limit under which so many more descriptors can be opened."""
    opened = open_descriptors()
    return next(
        n for n in itertools.count() if n - sum(fd < n for fd in opened) == count
    )


@pytest.mark.parametrize("data", [b"{", b"x" * 200_000, pickle.dumps(1), b"[]"])
def test_descriptors_of_a_refused_message_are_closed(data: bytes, pair: Pair) -> None:
    before = open_descriptors()
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    rights = array("i", [0, 1, 2])
    pair[1].sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(WireError):
        wire.recv(pair[0], max_fds=6)
    assert open_descriptors() == before


def test_descriptors_of_an_empty_packet_are_closed(pair: Pair) -> None:
    before = open_descriptors()
    rights = array("i", [0])
    pair[1].sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0], max_fds=6)
    assert caught.value.code == "wire-closed"
    assert open_descriptors() == before


def test_the_end_of_the_connection_is_told_apart_from_no_message_yet(
    pair: Pair,
) -> None:
    assert wire.try_recv(pair[0]) is None
    pair[1].close()
    with pytest.raises(WireError) as caught:
        wire.try_recv(pair[0])
    assert caught.value.code == "wire-closed"
    with pytest.raises(WireError) as caught:
        wire.send(pair[0], {})
    assert caught.value.code == "wire-closed"


def test_the_last_words_of_a_peer_that_left_mail_unread_are_read(pair: Pair) -> None:
    wire.send(pair[0], {"unread": True})
    wire.send(pair[1], {"last": "words"})
    pair[1].close()
    assert wire.recv(pair[0]).fields == {"last": "words"}
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0])
    assert caught.value.code == "wire-closed"


def test_a_full_queue_never_waits(pair: Pair) -> None:
    sent = 0
    while wire.try_send(pair[1], {"n": sent}):
        sent += 1
    assert sent
    pair[1].setblocking(False)
    with pytest.raises(WireError) as caught:
        wire.send(pair[1], {"n": sent})
    assert caught.value.code == "wire-busy"
    for n in range(sent):
        assert wire.recv(pair[0]).fields == {"n": n}


def test_a_message_that_does_not_come_in_time_is_said(pair: Pair) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0])
    assert caught.value.code == "wire-timeout"


def test_the_kernel_says_who_the_peer_is(pair: Pair) -> None:
    caller = wire.peer(pair[0])
    assert (caller.uid, caller.gid, caller.pid) == (
        os.geteuid(),
        os.getegid(),
        os.getpid(),
    )
    assert caller.groups == tuple(os.getgroups())
    assert wire.peer_uid(pair[0]) == os.geteuid()


def _connected_with_groups(count: int) -> Pair:
    """A connection whose peer was in ``count`` groups when it was made."""
    address = b"\0isolauncher-test-" + os.urandom(8).hex().encode()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    before = os.getgroups()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.setgroups(range(1000, 1000 + count))
    try:
        client.connect(address)
    finally:
        os.setgroups(before)
    accepted, _ = listener.accept()
    listener.close()
    return accepted, client


@pytest.mark.parametrize("count", [0, 1, 32, 33, 256])
def test_every_group_of_the_peer_is_known(count: int) -> None:
    need(root())
    ours, theirs = _connected_with_groups(count)
    with ours, theirs:
        assert wire.peer(ours).groups == tuple(range(1000, 1000 + count))


def test_a_peer_in_more_groups_than_can_be_asked_is_refused_not_shortened() -> None:
    need(root())
    ours, theirs = _connected_with_groups(257)
    with ours, theirs:
        with pytest.raises(WireError) as caught:
            wire.peer(ours)
        assert caught.value.code == "wire-too-many-groups"


def test_credentials_come_with_each_message_when_asked(pair: Pair) -> None:
    wire.pass_credentials(pair[0])
    reader, writer = os.pipe()
    wire.send(pair[1], {"a": 1}, [reader, writer])
    message = wire.recv(pair[0], max_fds=2, credentials=True)
    assert message.credentials == wire.Credentials(
        os.getpid(), os.geteuid(), os.getegid()
    )
    assert len(message.fds) == 2
    message.close()
    wire.close_all((reader, writer))


def test_a_socket_that_was_not_told_to_pass_credentials_gives_no_message(
    pair: Pair,
) -> None:
    before = open_descriptors()
    wire.send(pair[1], {"a": 1}, [0])
    with pytest.raises(WireError) as caught:
        wire.recv(pair[0], max_fds=1, credentials=True)
    assert caught.value.code == "wire-no-credentials"
    assert open_descriptors() == before


def test_credentials_that_nobody_asked_for_are_no_way_in(pair: Pair) -> None:
    """With SO_PASSCRED set but not expected, they count as foreign or do not fit."""
    wire.pass_credentials(pair[0])
    wire.send(pair[1], {"a": 1})
    with pytest.raises(WireError):
        wire.recv(pair[0], max_fds=6)
    claimed = struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
    pair[1].sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claimed)])
    assert wire.recv(pair[0], credentials=True).credentials is not None


def test_a_long_list_comes_in_parts_that_each_fit() -> None:
    items = [{"id": str(n), "text": "\x00" * 1000} for n in range(300)]
    parts = list(wire.in_parts("list", "activities", items))
    assert len(parts) > 1
    assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False]
    together: list[object] = []
    for part in parts:
        activities = wire.decode(wire.encode(part))["activities"]
        assert isinstance(activities, list)
        together += activities
    assert together == items


def test_an_empty_list_is_one_message() -> None:
    assert list(wire.in_parts("list", "x", [])) == [
        {"event": "list", "x": [], "more": False}
    ]


def test_no_unpickling_is_loaded_with_the_wire() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; old = set(sys.modules); import isolauncher.wire, "
            "isolauncher.request; print(*(set(sys.modules) - old))",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "isolauncher.request" in loaded
    assert not {"pickle", "_pickle", "marshal", "shelve", "ctypes"} & set(loaded)


def test_what_we_write_is_json_to_others() -> None:
    assert json.loads(wire.encode({"a": ["é", 1.5, None]})) == {"a": ["é", 1.5, None]}
