# SPDX-License-Identifier: GPL-3.0-or-later
"""Passes an activity's D-Bus messages on to its filter, and answers some itself.

    activity ──▶ relay ──▶ xdg-dbus-proxy ──▶ session bus
                   └──▶ a `StandIn`, for the messages to its name

For the activity a stand-in is a peer of the bus: it has a well-known name and a
unique one, which nobody on the bus has, so that what is sent there could go nowhere
else. The real owner of the well-known name is not to be reached by any message: the
filter has no rule for it. Whatever is not for a stand-in goes on byte by byte, so
that nothing here can widen what the filter lets through. One thing is held back that
the filter has no rule about: signals to everybody, which a listener that asks for no
sender would take for another's (the shell listens for the DataStore's in this way).

Of a message that passes only the header is read. What is for the stand-in is read by
GLib, which makes objects of up to a hundred times its size, hence `MAX_CALL`. Nothing
here waits.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gi.repository import Gio, GLib

from ..errors import IsolauncherError

MAX_MESSAGE = 16 * 1024 * 1024
"""Larger ones end the connection; a preview or a long list is far below."""
MAX_HEADER = 64 * 1024
MAX_CALL = 1024 * 1024
"""Of what is for the stand-in; a preview is a tenth of that."""
MAX_HELD = 64 * 1024 * 1024
"""Bytes of all connections that have come and cannot go on yet."""
MAX_CONNECTIONS = 16
MAX_FDS = 64
MAX_HELD_FDS = 256
MAX_UNTOLD = 64
_AT_ONCE = 256 * 1024
_MAX_LINE = 16 * 1024

DOCTYPE = """<!DOCTYPE node PUBLIC
 "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">"""
"""With which what a stand-in says of itself begins."""

_DRIVER = "org.freedesktop.DBus"
_FDS = Gio.DBusCapabilityFlags.UNIX_FD_PASSING
_CALL, _SIGNAL = 1, 4
_NO_REPLY_EXPECTED = 1
_BEGIN = b"BEGIN\r\n"
_FIXED = 16
_ORDERS = {ord("l"): "<", ord("B"): ">"}
_INTERFACE, _MEMBER, _DESTINATION, _UNIX_FDS = 2, 3, 6, 9
_MAX_QUESTION = 4096
_ABOUT_NAMES = frozenset(
    (
        *("GetNameOwner", "NameHasOwner", "StartServiceByName", "ListQueuedOwners"),
        *("GetConnectionUnixUser", "RequestName", "ReleaseName"),
    )
)
"""What a stand-in, or a private name, has an answer to."""


class Call(Protocol):
    """One method call to the stand-in; answered once, sooner or later."""

    @property
    def message(self) -> Any: ...
    def reply(self, body: Any = None) -> None: ...
    def fail(self, name: str, text: str) -> None: ...


class StandIn(Protocol):
    """Who answers in the place of ``name``; ``unique`` is its own for the activity.

    The bus counts its unique names from :1.0.
    """

    name: str
    unique: str

    def call(self, call: Call) -> None: ...


new_string = GLib.Variant.new_string


def body_of(*parts: str | bool | dict[str, Any]) -> Any:
    """As ``GLib.Variant("(sba{sv})", parts)`` for these types, in a tenth of the time.

    It walks the signature in Python at each value.
    """
    made = []
    for part in parts:
        if isinstance(part, dict):
            dictionary = GLib.VariantDict.new(None)
            for name, value in part.items():
                dictionary.insert_value(name, value)
            made.append(dictionary.end())
        elif isinstance(part, bool):
            made.append(GLib.Variant.new_boolean(part))
        else:
            made.append(new_string(part))
    return GLib.Variant.new_tuple(*made)


class Malformed(Exception):
    """What came is no D-Bus message; its connection ends."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a message's first bytes say (D-Bus Specification, "Message Format")."""

    kind: int
    flags: int
    serial: int
    interface: str | None
    member: str | None
    destination: str | None
    unix_fds: int


class Relay:
    """Listens on ``path``, and brings each connection to the filter's ``upstream``."""

    def __init__(
        self,
        listener: socket.socket,
        upstream: str,
        stand_ins: Sequence[StandIn],
        ready: Callable[[], None],
        private: frozenset[str] = frozenset(),
        own: tuple[str, ...] = (),
    ) -> None:
        """``ready`` returns once ``upstream`` is there to be connected to.

        Names of ``private`` can be owned without the bus being told: what asks for
        one has it, and finds nobody else there. Signals to everybody are passed on if
        their interface is one of ``own``, or below it.
        """
        self._listener = listener
        self._upstream = upstream
        self._names = {
            name: stand_in
            for stand_in in stand_ins
            for name in (stand_in.name, stand_in.unique)
        }
        self._ready = ready
        self.private = private
        self.own = own
        self._connections: list[_Connection] = []
        self._watch = _watch(listener.fileno(), GLib.IO_IN, self._accept)

    def _accept(self, _: int) -> bool:
        try:
            client, _address = self._listener.accept()
        except OSError:
            return True
        if len(self._connections) >= MAX_CONNECTIONS:
            client.close()
            return True
        try:
            self._ready()
            bus = socket.socket(socket.AF_UNIX)
            try:
                bus.connect(self._upstream)
            except OSError:
                bus.close()
                raise
        except (OSError, IsolauncherError) as error:
            sys.stderr.write(f"the session bus cannot be reached: {error}\n")
            client.close()
            return True
        self._connections.append(_Connection(self, client, bus))
        return True

    def stand_in(self, name: str) -> StandIn | None:
        """Who answers there, by its well-known name or its unique one."""
        return self._names.get(name)

    def broadcast(
        self, sender: StandIn, path: str, interface: str, name: str, body: Any
    ) -> None:
        """A signal of a stand-in's, to everybody who may have asked for it."""
        for connection in list(self._connections):
            message = Gio.DBusMessage.new_signal(path, interface, name)
            message.set_body(body)
            connection.tell(message, sender.unique)

    def see_room(self) -> None:
        """Malformed, if the activity has us hold more than we would."""
        pipes = [p for c in self._connections for p in (c.client, c.bus)]
        if sum(pipe.held for pipe in pipes) > MAX_HELD:
            raise Malformed("nobody takes what is sent")
        if sum(pipe.held_fds for pipe in pipes) > MAX_HELD_FDS:
            raise Malformed("too many descriptors wait")

    def gone(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    def close(self) -> None:
        GLib.source_remove(self._watch)
        self._listener.close()
        for connection in list(self._connections):
            connection.close()


class _Connection:
    """One of the activity's connections, and its own one to the filter."""

    def __init__(self, relay: Relay, client: socket.socket, bus: socket.socket) -> None:
        self.relay = relay
        self._serial = 0x8000_0000
        self.open = True
        self.bus = _Pipe(bus, self._from_bus, self.close)
        self.client = _Pipe(client, self._from_client, self.close)
        self._spoke = False
        self._unanswered = 0
        self._wants_to_begin = False
        self._begun = False
        self._bus_begun = False
        self._greeted = False
        self._untold: list[bytes] = []

    def close(self) -> None:
        if self.open:
            self.open = False
            self.client.close()
            self.bus.close()
            self.relay.gone(self)

    def _from_client(self, source: _Pipe) -> None:
        if not self._begun:
            self._authenticate(source)
        while self._begun and self.open:
            data = source.take_message()
            if data is None:
                break
            header = read_header(data)
            fds = source.take_fds(header.unix_fds)
            if self._is_ours(header, data) or self._is_kept(header):
                for fd in fds:
                    os.close(fd)
            else:
                self.bus.put(data, fds)
        self.relay.see_room()

    def _authenticate(self, source: _Pipe) -> None:
        """What the client says before its messages: each line is answered with one."""
        while not self._wants_to_begin:
            line = source.take_line(first=b"" if self._spoke else b"\0")
            if line is None:
                return
            self._spoke = True
            if line == _BEGIN:
                self._wants_to_begin = True
            else:
                self._unanswered += line != b"\0"
                self.bus.put(line)
        self._begin()

    def _begin(self) -> bool:
        """Whether it is time, and has been said now."""
        # After BEGIN the filter takes what comes from either side for messages. Some
        # clients say it with everything else before they have heard a word (sd-bus).
        if self._begun or self._unanswered or not self._wants_to_begin:
            return False
        self.bus.put(_BEGIN)
        self._begun = True
        return True

    def _from_bus(self, source: _Pipe) -> None:
        while not self._bus_begun:
            # A message begins with its byte order, no line of the server's does.
            if self._begun and source.peek() in (b"l", b"B"):
                self._bus_begun = True
                break
            line = source.take_line()
            if line is None:
                return
            self.client.put(line)
            self._unanswered -= 1
            if self._begin():
                self._from_client(self.client)
        while (data := source.take_message()) is not None:
            self.client.put(data, source.take_fds(read_header(data).unix_fds))
            # The first is the answer to Hello, and some wait for no other.
            self._greeted = True
            while self._untold:
                self.client.put(self._untold.pop(0))
        self.relay.see_room()

    def _is_ours(self, header: Header, data: bytes) -> bool:
        """Whether the message is for a stand-in, and then it has been given it."""
        if header.destination is None:
            return False
        if header.destination == _DRIVER:
            return self._about_names(header, data)
        stand_in = self.relay.stand_in(header.destination)
        if stand_in is None:
            return False
        if header.kind == _CALL:
            if len(data) > MAX_CALL:
                text = f"a call of more than {MAX_CALL} bytes"
                name = "org.freedesktop.DBus.Error.LimitsExceeded"
                _Call(self, header, None, stand_in.unique).fail(name, text)
            else:
                call = _Call(self, header, _read(data), stand_in.unique)
                stand_in.call(call)
        return True

    def _is_kept(self, header: Header) -> bool:
        """Whether the message is one that goes nowhere."""
        if header.kind != _SIGNAL or header.destination is not None:
            return False
        interface = f"{header.interface}."
        return not interface.startswith(tuple(f"{own}." for own in self.relay.own))

    def _about_names(self, header: Header, data: bytes) -> bool:
        """What the bus would answer of the stand-in, and of private names."""
        if header.kind != _CALL or len(data) > _MAX_QUESTION:
            return False
        if header.member not in _ABOUT_NAMES:
            return False  # which most are, and GLib takes as long as all else
        message = _read(data)
        body = message.get_body()
        if body is None or body.n_children() == 0:
            return False
        first = body.get_child_value(0)
        if first.get_type_string() != "s":
            return False
        name, call = first.get_string(), _Call(self, header, message, _DRIVER)
        if name in self.relay.private:
            return _private(header.member, name, call)
        stand_in = self.relay.stand_in(name)
        if stand_in is None:
            return False
        match header.member:
            case "GetNameOwner":
                call.reply(body_of(stand_in.unique))
            case "NameHasOwner":
                call.reply(body_of(True))
            case "StartServiceByName":
                already_running = 2
                call.reply(GLib.Variant("(u)", (already_running,)))
            case "GetConnectionUnixUser":
                call.reply(GLib.Variant("(u)", (os.geteuid(),)))
            case "ListQueuedOwners":
                call.reply(GLib.Variant("(as)", ([stand_in.unique],)))
            case _:
                return False
        return True

    def tell(self, message: Any, sender: str) -> None:
        """A signal: who has not begun cannot have asked for it."""
        if self._greeted:
            self.send(message, sender)

    def send(self, message: Any, sender: str) -> None:
        if not self.open:
            return
        # Apart from the bus's own serials, which count up from 1.
        self._serial = 0x8000_0000 | (self._serial + 1) & 0x7FFF_FFFF
        message.set_serial(self._serial)
        message.set_sender(sender)
        try:
            data = message.to_blob(_FDS)
            if not self._greeted:
                # It has said more than Hello before it was let in.
                self._untold.append(data)
                if len(self._untold) > MAX_UNTOLD:
                    raise Malformed("too much is asked before the bus has answered")
                return
            self.client.put(data)
            self.relay.see_room()
        except (GLib.Error, Malformed) as error:
            sys.stderr.write(f"a connection to the session bus ends: {error}\n")
            self.close()


class _Call:
    """See `Call`."""

    def __init__(
        self, connection: _Connection, header: Header, message: Any, sender: str
    ) -> None:
        self._connection = connection
        self._header = header
        self._sender = sender
        self.message = message

    def reply(self, body: Any = None) -> None:
        self._send(Gio.DBusMessageType.METHOD_RETURN, body)

    def fail(self, name: str, text: str) -> None:
        body = body_of(text[:1000])
        self._send(Gio.DBusMessageType.ERROR, body, name)

    def _send(self, kind: Any, body: Any, error: str | None = None) -> None:
        if self._header.flags & _NO_REPLY_EXPECTED:
            return
        answer = Gio.DBusMessage.new()
        answer.set_message_type(kind)
        answer.set_reply_serial(self._header.serial)
        if error is not None:
            answer.set_error_name(error)
        if body is not None:
            answer.set_body(body)
        self._connection.send(answer, self._sender)


class _Pipe:
    """One stream socket: what has come and is not taken, what is to go and has not."""

    def __init__(
        self,
        sock: socket.socket,
        arrived: Callable[[_Pipe], None],
        ended: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._arrived = arrived
        self._ended = ended
        self._in = bytearray()
        self._in_fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._queued = 0
        self._reading = _watch(
            sock.fileno(), GLib.IO_IN | GLib.IO_HUP | GLib.IO_ERR, self._readable
        )
        self._writing = 0

    @property
    def held(self) -> int:
        return len(self._in) + self._queued

    @property
    def held_fds(self) -> int:
        return len(self._in_fds) + sum(len(fds) for _, fds in self._out)

    def take_line(self, first: bytes = b"") -> bytes | None:
        """Up to and with the next line's end; ``first`` may stand before it."""
        if first and self._in[:1] == first:
            del self._in[:1]
            return first
        end = self._in.find(b"\r\n")
        if end < 0:
            if len(self._in) > _MAX_LINE:
                raise Malformed("a line that is too long")
            return None
        line = bytes(self._in[: end + 2])
        del self._in[: end + 2]
        return line

    def peek(self) -> bytes:
        return bytes(self._in[:1])

    def take_message(self) -> bytes | None:
        if len(self._in) < _FIXED:
            return None
        size = message_size(self._in)
        if len(self._in) < size:
            return None
        data = bytes(self._in[:size])
        del self._in[:size]
        return data

    def take_fds(self, count: int) -> tuple[int, ...]:
        """They come with the first byte of their message, or before."""
        if count > len(self._in_fds):
            raise Malformed(f"{count} descriptors are named, fewer came")
        return tuple(self._in_fds.popleft() for _ in range(count))

    def put(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Queued, and sent when the other end takes it; ``fds`` are closed then."""
        self._out.append((memoryview(data), fds))
        self._queued += len(data)
        self._flush()

    def close(self) -> None:
        for watch in (self._reading, self._writing):
            if watch:
                GLib.source_remove(watch)
        self._reading = self._writing = 0
        self._sock.close()
        for fd in (*self._in_fds, *(fd for _, fds in self._out for fd in fds)):
            os.close(fd)
        self._in_fds.clear()
        self._out.clear()

    def _readable(self, _: int) -> bool:
        try:
            if not self._receive():
                self._ended()
            else:
                self._arrived(self)
        except Exception as error:
            # Ours or its mistake: GLib would call nobody here again.
            sys.stderr.write(f"a connection to the session bus ends: {error!r}\n")
            self._ended()
        return True

    def _receive(self) -> bool:
        room = socket.CMSG_SPACE(MAX_FDS * 4)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _AT_ONCE, room, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._in_fds.extend(fds)
        if flags & socket.MSG_CTRUNC or len(self._in_fds) > MAX_FDS:
            raise Malformed("too many descriptors")
        self._in += data
        return bool(data)

    def _flush(self) -> None:
        while self._out:
            data, fds = self._out[0]
            rights = (
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            )
            try:
                sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # Its end is read, and told, by `_readable`.
                break
            for fd in fds:
                os.close(fd)
            self._queued -= sent
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())
        if self._out and not self._writing:
            self._writing = _watch(self._sock.fileno(), GLib.IO_OUT, self._writable)

    def _writable(self, _: int) -> bool:
        self._flush()
        if not self._out:
            self._writing = 0
            return False
        return True


def _private(member: str | None, name: str, call: _Call) -> bool:
    match member:
        case "RequestName" | "ReleaseName":
            # DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER, DBUS_RELEASE_NAME_REPLY_RELEASED
            call.reply(GLib.Variant("(u)", (1,)))
        case "GetNameOwner":
            text = f"Could not get owner of name '{name}': no such name"
            call.fail("org.freedesktop.DBus.Error.NameHasNoOwner", text)
        case "NameHasOwner":
            call.reply(body_of(False))
        case _:
            return False
    return True


def message_size(start: bytes | bytearray) -> int:
    """Of the whole message that ``start`` is the fixed part of."""
    order = _ORDERS.get(start[0])
    if order is None:
        raise Malformed("a message of no byte order")
    (body,) = struct.unpack_from(f"{order}I", start, 4)
    (fields,) = struct.unpack_from(f"{order}I", start, 12)
    size: int = _aligned(_FIXED + fields, 8) + body
    if fields > MAX_HEADER or size > MAX_MESSAGE:
        raise Malformed(f"a message of {size} bytes, {fields} of them its header")
    return size


def read_header(data: bytes) -> Header:
    """Malformed for what the bus would not take for a header either.

    Fields that the specification does not name may be there if they are of the types
    that those have which it names.
    """
    order = _ORDERS[data[0]]
    (serial,) = struct.unpack_from(f"{order}I", data, 8)
    (length,) = struct.unpack_from(f"{order}I", data, 12)
    end = _FIXED + length
    found: dict[int, str | int] = {}
    try:
        at = _FIXED
        while at < end:
            at = _aligned(at, 8)
            code = data[at]
            kind = data[at + 1 : at + 4]
            at += 4
            match kind:
                case b"\1s\0" | b"\1o\0":
                    (size,) = struct.unpack_from(f"{order}I", data, at)
                    found[code] = data[at + 4 : at + 4 + size].decode()
                    at += 4 + size + 1
                case b"\1g\0":
                    at += 1 + data[at] + 1
                case b"\1u\0":
                    (found[code],) = struct.unpack_from(f"{order}I", data, at)
                    at += 4
                case _:
                    raise Malformed("a header field of a type that none has")
    except (IndexError, struct.error, UnicodeDecodeError):
        raise Malformed("a header that ends in the middle") from None
    if at > end:
        raise Malformed("a header that ends in the middle")
    fds = found.get(_UNIX_FDS, 0)

    def text(code: int) -> str | None:
        value = found.get(code)
        if value is not None and not isinstance(value, str):
            raise Malformed("a header field of another's type")
        return value

    return Header(
        kind=data[1],
        flags=data[2],
        serial=serial,
        interface=text(_INTERFACE),
        member=text(_MEMBER),
        destination=text(_DESTINATION),
        unix_fds=fds if isinstance(fds, int) else 0,
    )


def _aligned(at: int, to: int) -> int:
    return (at + to - 1) // to * to


def _read(data: bytes) -> Any:
    try:
        return Gio.DBusMessage.new_from_blob(data, _FDS)
    except GLib.Error as error:
        raise Malformed(error.message) from None


def _watch(fd: int, condition: Any, call: Callable[[int], bool]) -> int:
    def happened(fd: int, _: Any) -> bool:
        return call(fd)

    source: int = GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, fd, condition, happened)
    return source
