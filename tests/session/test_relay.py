# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay between an activity and its filter, with a bus of the test's behind it.

Whatever passes does so unchanged, in whatever pieces it comes; what is for the
stand-in goes nowhere else; and nothing that is sent makes it hold more than it would.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.daemons import TOP
from support.glib import Gio, GLib
from support.peers import until

from isolauncher.session import relay

FDS = Gio.DBusCapabilityFlags.UNIX_FD_PASSING
PATIENCE_S = 20
DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
STORE = "org.laptop.sugar.DataStore"
PIPELINED = b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
"""All that sd-bus says before it has heard a word (sd-bus, bus-socket.c)."""

BEGIN = b"BEGIN\r\n"
ANSWERS = b"DATA\r\nOK 0\r\nAGREE_UNIX_FD\r\n"

SOURCE = """
import socket, sys
from gi.repository import Gio, GLib
from isolauncher.session import relay

class StandIn:
    name, unique = "org.laptop.sugar.DataStore", ":0.1"
    def call(self, call):
        member = call.message.get_member()
        if member == "Big":
            call.reply(GLib.Variant("(s)", ("x" * (1 << 20),)))
        elif member == "Fail":
            call.fail("org.example.Error", "it was asked to")
        else:
            call.reply(GLib.Variant("(s)", (member,)))

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(100)
made = relay.Relay(listener, sys.argv[2], [StandIn()], lambda: None,
                   frozenset({"org.laptop.Private"}), ("org.laptop.Own",))
print("up", flush=True)
loop = GLib.MainLoop()
GLib.io_add_watch(0, GLib.PRIORITY_DEFAULT, GLib.IO_HUP, lambda *_: loop.quit())
GLib.io_add_watch(1, GLib.PRIORITY_DEFAULT, GLib.IO_ERR, lambda *_: loop.quit())
loop.run()
"""


def message(
    name: str | None,
    member: str,
    kind: str | None = None,
    values: tuple[Any, ...] = (),
    *,
    serial: int = 7,
    path: str = "/",
    interface: str = STORE,
    fds: int = 0,
    big: bool = False,
) -> bytes:
    made = Gio.DBusMessage.new_method_call(name, path, interface, member)
    if kind is not None:
        made.set_body(GLib.Variant(kind, values))
    if fds:
        # Their number has to be that of some; these are not what is sent.
        made.set_unix_fd_list(of_them := Gio.UnixFDList.new())
        for _ in range(fds):
            of_them.append(0)
        made.set_num_unix_fds(fds)
    if big:
        made.set_byte_order(Gio.DBusMessageByteOrder.BIG_ENDIAN)
    made.set_serial(serial)
    data = made.to_blob(FDS)
    assert data[:1] == (b"B" if big else b"l")
    return bytes(data)


class Client:
    """One end of a stream of messages."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self.data = b""
        self.fds: list[int] = []

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        sent = self.sock.sendmsg([data], rights if fds else [])
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def more(self) -> bool:
        room = socket.CMSG_SPACE(256 * 4)
        data, ancillary, _, _ = self.sock.recvmsg(65536, room)
        for _, _, content in ancillary:
            fds = array("i")
            fds.frombytes(content)
            self.fds.extend(fds)
        self.data += data
        return bool(data)

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            assert self.more(), f"hung up after {self.data!r}"
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def message(self) -> Any:
        while len(self.data) < 16:
            assert self.more(), "hung up"
        data = self.take(Gio.DBusMessage.bytes_needed(self.data[:16]))
        return Gio.DBusMessage.new_from_blob(data, FDS)

    def answer(self) -> None:
        """As a bus: what may be said after an answer comes after it."""
        before = PIPELINED.removesuffix(BEGIN)
        assert self.take(len(before)) == before
        assert self.data == b""
        self.send(ANSWERS)
        assert self.take(len(BEGIN)) == BEGIN

    def ended(self) -> bool:
        """Waits for the other end to hang up, whatever it still says."""
        try:
            while self.more():
                self.data = b""
        except ConnectionError:
            pass
        return True


def refused(client: Client, data: bytes) -> bool:
    """Sends it until the other end hangs up."""
    try:
        while True:
            client.send(data)
    except ConnectionError:
        return True


class Setup:
    """A relay as a process of its own, and the socket at which its bus is expected."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top, self.stack = top, stack
        self.upstream = socket.socket(socket.AF_UNIX)
        stack.callback(self.upstream.close)
        self.upstream.settimeout(PATIENCE_S)
        self.process = self.start(top / "upstream")
        self.upstream.bind(str(top / "upstream"))
        self.upstream.listen()

    def start(self, upstream: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SOURCE, str(self.top / "bus"), str(upstream)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TOP,
        )
        self.stack.callback(self.end)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE_S)

    def connect(self) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        self.stack.callback(sock.close)
        sock.connect(str(self.top / "bus"))
        return Client(sock)

    def accept(self) -> Client:
        sock, _ = self.upstream.accept()
        self.stack.callback(sock.close)
        return Client(sock)

    def pair(self) -> tuple[Client, Client]:
        """A client past BEGIN, and the bus's end of it."""
        client = self.connect()
        client.send(PIPELINED)
        bus = self.accept()
        bus.answer()
        assert client.take(27) == ANSWERS
        first = signal("Welcome")
        bus.send(first)
        assert client.take(len(first)) == first
        return client, bus

    @property
    def peak(self) -> int:
        """The most memory that it has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def open(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def signal(member: str, interface: str = "org.example.Any") -> bytes:
    made = Gio.DBusMessage.new_signal("/", interface, member)
    made.set_serial(9)
    return bytes(made.to_blob(FDS))


@pytest.fixture
def setup() -> Iterator[Setup]:
    with ExitStack() as stack:
        top = stack.enter_context(tempfile.TemporaryDirectory())
        yield Setup(Path(top), stack)


def test_what_is_said_all_at_once_before_the_bus_has_answered_goes_through(
    setup: Setup,
) -> None:
    hello = message(DRIVER[0], "Hello", path=DRIVER[1], interface=DRIVER[2])
    client = setup.connect()
    client.send(PIPELINED + hello + message(STORE, "Early", serial=8))
    bus = setup.accept()
    bus.answer()
    assert bus.take(len(hello)) == hello
    bus.send(signal("Welcome"))
    assert client.take(27) == ANSWERS
    assert client.message().get_member() == "Welcome"
    answer = client.message()
    assert answer.get_reply_serial() == 8
    assert answer.get_body().unpack() == ("Early",)


def test_byte_by_byte_is_as_good_as_all_at_once(setup: Setup) -> None:
    call = message("org.example.Other", "Some", "(s)", ("text",))
    asked = message(STORE, "Asked", serial=8)
    client = setup.connect()
    for one in PIPELINED + call + asked:
        client.send(bytes([one]))
    bus = setup.accept()
    before = PIPELINED.removesuffix(BEGIN)
    assert bus.take(len(before)) == before
    for one in ANSWERS:
        bus.send(bytes([one]))
    assert bus.take(len(BEGIN + call)) == BEGIN + call
    said = signal("Welcome")
    for one in said:
        bus.send(bytes([one]))
    assert client.take(27 + len(said)) == ANSWERS + said
    assert client.message().get_body().unpack() == ("Asked",)


def test_what_is_not_for_the_stand_in_passes_byte_by_byte(setup: Setup) -> None:
    client, bus = setup.pair()
    sent = [
        message("org.example.Other", "Some", "(sa{sv})", ("x", {})),
        message("org.example.Other", "Some", "(s)", ("x",), big=True),
        message(":1.7", "Some"),
        message("org.laptop.sugar.DataStor", "create"),
        message("org.laptop.sugar.DataStore2", "create"),
        message(":0.10", "create"),
        message(*DRIVER[:1], "ListNames", path=DRIVER[1], interface=DRIVER[2]),
        signal("Mine", "org.laptop.Own"),
        signal("Mine", "org.laptop.Own.Deeper"),
    ]
    for data in sent:
        client.send(data)
        assert bus.take(len(data)) == data
        bus.send(data)
        assert client.take(len(data)) == data


def test_what_is_for_the_stand_in_goes_nowhere_else(setup: Setup) -> None:
    client, bus = setup.pair()
    for name in (STORE, ":0.1"):
        for big in (False, True):
            client.send(message(name, "Asked", serial=99, big=big))
            answer = client.message()
            assert answer.get_body().unpack() == ("Asked",)
            assert answer.get_reply_serial() == 99
            assert answer.get_sender() == ":0.1"
        client.send(message(name, "Fail"))
        assert client.message().get_error_name() == "org.example.Error"
    # Neither a signal nor a reply to it, forged, nor what wants no reply.
    for kind in (Gio.DBusMessageType.SIGNAL, Gio.DBusMessageType.METHOD_RETURN):
        made = Gio.DBusMessage.new_signal("/", STORE, "Deleted")
        made.set_message_type(kind)
        made.set_destination(STORE)
        made.set_reply_serial(3)
        made.set_serial(5)
        client.send(made.to_blob(FDS))
    made = Gio.DBusMessage.new_method_call(STORE, "/", STORE, "Quiet")
    made.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
    made.set_serial(6)
    client.send(made.to_blob(FDS))
    last = message("org.example.Other", "Last")
    client.send(last)
    assert bus.take(len(last)) == last
    client.send(message(STORE, "Still"))
    assert client.message().get_body().unpack() == ("Still",)


def ask(client: Client, member: str, name: str) -> Any:
    words = {"path": DRIVER[1], "interface": DRIVER[2]}
    client.send(message(DRIVER[0], member, "(s)", (name,), **words))  # type: ignore[arg-type]
    answer = client.message()
    return answer.get_error_name() or answer.get_body().unpack()[0]


def test_the_stand_ins_name_has_an_owner_and_a_private_name_has_none(
    setup: Setup,
) -> None:
    client, _ = setup.pair()
    for name in (STORE, ":0.1"):
        assert ask(client, "GetNameOwner", name) == ":0.1"
        assert ask(client, "NameHasOwner", name) is True
        assert ask(client, "GetConnectionUnixUser", name) == os.geteuid()
        assert ask(client, "ListQueuedOwners", name) == [":0.1"]
    private = "org.laptop.Private"
    assert ask(client, "ReleaseName", private) == 1
    assert ask(client, "NameHasOwner", private) is False
    missing = "org.freedesktop.DBus.Error.NameHasNoOwner"
    assert ask(client, "GetNameOwner", private) == missing


def test_a_signal_to_everybody_stays_but_of_an_interface_of_its_own(
    setup: Setup,
) -> None:
    client, bus = setup.pair()
    for interface in (STORE, "org.laptop.Owner", "org.laptop", "org.freedesktop.DBus"):
        client.send(signal("Deleted", interface))
    own = signal("Mine", "org.laptop.Own")
    client.send(own)
    assert bus.take(len(own)) == own


def test_descriptors_pass_both_ways_each_with_its_message(setup: Setup) -> None:
    client, bus = setup.pair()
    pipes = [os.pipe() for _ in range(16)]
    before = setup.open
    try:
        for sender, receiver in ((client, bus), (bus, client)):
            for count in (1, 0, 15):
                given = tuple(reader for reader, _ in pipes[:count])
                kind = f"({'h' * count})" if count else None
                data = message(
                    *("org.example.Other", "Take", kind, tuple(range(count))),
                    fds=count,
                )
                sender.send(data, given)
                assert receiver.take(len(data)) == data
                same = [
                    os.path.samestat(os.fstat(a), os.fstat(b))
                    for a, b in zip(given, receiver.fds, strict=True)
                ]
                assert all(same)
                while receiver.fds:
                    os.close(receiver.fds.pop())
        # What the stand-in is given with a call is nobody's.
        client.send(message(STORE, "Asked", "(h)", (0,), fds=1), (pipes[0][0],))
        client.message()
        assert until(lambda: setup.open == before)
    finally:
        for pair in pipes:
            for fd in pair:
                os.close(fd)


def test_descriptors_that_are_named_and_not_sent_end_the_connection(
    setup: Setup,
) -> None:
    client, _ = setup.pair()
    client.send(message("org.example.Other", "Take", "(h)", (0,), fds=1))
    assert client.ended()


def test_descriptors_that_no_message_takes_are_not_heaped_up(setup: Setup) -> None:
    before = setup.open
    client, _ = setup.pair()
    reader, writer = os.pipe()
    try:
        with suppress(ConnectionError):
            while True:
                # One byte of a message that never ends with each sixteen of them.
                client.send(b"l", (reader,) * 16)
                assert setup.open < before + 4 + relay.MAX_FDS + 2 * 16
    finally:
        os.close(reader)
        os.close(writer)
    assert client.ended()


GARBAGE = {
    "no byte order": b"\0" * 16,
    "text": b"GET / HTTP/1.1\r\nHost: there\r\n\r\n",
    "the longest": b"l\1\0\1" + struct.pack("<III", 0xFFFFFFFF, 1, 0xFFFFFFFF),
    "a long body": b"l\1\0\1" + struct.pack("<III", 0x7000000, 1, 8) + bytes(8),
    "a long header": b"l\1\0\1" + struct.pack("<III", 0, 1, 0x100000),
    "a header of no fields": b"l\1\0\1" + struct.pack("<III", 0, 1, 8) + b"\xff" * 8,
    "a field without an end": (
        b"l\1\0\1" + struct.pack("<III", 0, 1, 8) + b"\6\1s\0\xff\xff\0\0"
    ),
    "a field of a container": (
        b"l\1\0\1" + struct.pack("<III", 0, 1, 8) + b"\x42\2ay\0\0\0\0"
    ),
    "the name of a number": (
        b"l\1\0\1" + struct.pack("<III", 0, 1, 8) + b"\6\1u\0\1\0\0\0"
    ),
    "no UTF-8": (
        b"l\1\0\1" + struct.pack("<III", 0, 1, 11) + b"\6\1s\0\2\0\0\0\xff\xfe\0"
        b"\0\0\0\0\0"
    ),
    "the stand-in's with a body that is none": (
        message(STORE, "create", "(s)", ("text",))[:-9] + b"\xff" * 9
    ),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_no_message_ends_its_connection_and_no_other(
    setup: Setup, what: str
) -> None:
    other, _ = setup.pair()
    client, _ = setup.pair()
    with suppress(ConnectionError):  # it need not hear the end
        client.send(GARBAGE[what])
    assert client.ended()
    other.send(message(STORE, "Still"))
    assert other.message().get_body().unpack() == ("Still",)


def test_a_line_that_does_not_end_ends_its_connection(setup: Setup) -> None:
    client = setup.connect()
    setup.accept()
    assert refused(client, b"\0AUTH " + b"a" * 4096)


def test_a_message_of_many_parts_costs_no_more_than_its_bytes(setup: Setup) -> None:
    """GLib's reader makes a gigabyte of these sixteen megabytes."""
    client, bus = setup.pair()
    parts = b"\1y\0\7" * (relay.MAX_MESSAGE // 4 - 100)
    empty = message("org.example.Other", "Some", "(av)", ([],))
    body = struct.pack("<I", len(parts)) + parts
    data = b"".join((empty[:4], struct.pack("<I", len(body)), empty[8:-4], body))
    before = setup.peak
    thread = threading.Thread(target=client.send, args=(data,))
    thread.start()
    assert bus.take(len(data)) == data
    thread.join()
    assert setup.peak - before < 5 * relay.MAX_MESSAGE
    to_us = message(STORE, "create", "(av)", ([],))
    data = b"".join((to_us[:4], struct.pack("<I", len(body)), to_us[8:-4], body))
    client.send(data)
    answer = client.message()
    assert answer.get_error_name() == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert setup.peak - before < 6 * relay.MAX_MESSAGE


def test_who_reads_no_replies_is_hung_up_on_before_they_fill_the_memory(
    setup: Setup,
) -> None:
    before = setup.peak
    call = message(STORE, "Big")
    clients = [setup.pair()[0] for _ in range(4)]
    for client in clients:
        for _ in range(relay.MAX_HELD // (1 << 20) // 5):
            client.send(call)
    assert refused(clients[0], call)
    assert setup.peak - before < 3 * relay.MAX_HELD


def test_a_bus_that_takes_nothing_does_not_fill_the_memory_either(
    setup: Setup,
) -> None:
    before = setup.peak
    client, _ = setup.pair()
    data = message("org.example.Other", "Some", "(s)", ("x" * (1 << 20),))
    assert refused(client, data)
    assert setup.peak - before < 3 * relay.MAX_HELD


def test_more_connections_than_there_may_be_are_hung_up_on(setup: Setup) -> None:
    clients = [setup.pair()[0]]
    before = setup.open
    clients += [setup.pair()[0] for _ in range(relay.MAX_CONNECTIONS - 1)]
    for _ in range(3):
        assert setup.connect().ended()
    assert setup.open == before + 2 * (relay.MAX_CONNECTIONS - 1)
    for client in clients:
        client.sock.close()
    assert until(lambda: setup.open == before - 2)
    client, _ = setup.pair()
    client.send(message(STORE, "Still"))
    assert client.message().get_body().unpack() == ("Still",)


def test_a_bus_that_hangs_up_is_no_bus_for_the_activity_either(setup: Setup) -> None:
    client, bus = setup.pair()
    bus.sock.close()
    assert client.ended()
    setup.upstream.close()
    (setup.top / "upstream").unlink()
    assert setup.connect().ended()


# ------------------------------------------------------------- the header, against GLib

NAME = st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9}){1,3}", fullmatch=True)
TEXT = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=50
)
MEMBER = st.from_regex(r"[A-Za-z_]{1,20}", fullmatch=True)


@given(
    name=st.none() | NAME,
    interface=NAME,
    member=MEMBER,
    text=TEXT,
    serial=st.integers(1, 0xFFFFFFFF),
    fds=st.integers(0, 9),
    big=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_header_says_what_glib_reads_in_it(
    name: str | None,
    interface: str,
    member: str,
    text: str,
    serial: int,
    fds: int,
    big: bool,
) -> None:
    words = {"serial": serial, "interface": interface, "fds": fds, "big": big}
    data = message(name, member, "(s)", (text,), **words)  # type: ignore[arg-type]
    assert relay.message_size(data[:16]) == len(data)
    header = relay.read_header(data)
    assert (header.destination, header.member) == (name, member)
    assert (header.interface, header.serial) == (interface, serial)
    assert (header.kind, header.unix_fds) == (1, fds)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_whatever_the_bytes_a_header_is_read_or_refused(
    tail: bytes, at: int, byte: int
) -> None:
    whole = bytearray(message("org.example.Other", "Some", "(s)", ("text",)) + tail)
    whole[at % len(whole)] = byte
    try:
        size = relay.message_size(whole)
        if size <= len(whole):
            relay.read_header(bytes(whole[:size]))
    except relay.Malformed:
        pass
