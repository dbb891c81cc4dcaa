#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's program that does as it is told; see support/hostile.py.

Each line of its input is a function of a test's, as source, and arguments; what it
returns is a line of the output. The first argument of each is `Me`.
"""

import json
import os
import re
import socket
import sys
import traceback

from gi.repository import Gio, GLib

STORE = "org.laptop.sugar.DataStore"
STORE_PATH = "/org/laptop/sugar/DataStore"
DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class Me:
    """What a function has to work with; attributes that it sets stay."""

    def __init__(self):
        self.root = os.environ.get("SUGAR_ACTIVITY_ROOT", "")
        self._bus = None

    @property
    def address(self):
        return os.environ["DBUS_SESSION_BUS_ADDRESS"]

    def connect(self):
        flags = (
            Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
            | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        )
        return Gio.DBusConnection.new_for_address_sync(self.address, flags, None, None)

    @property
    def bus(self):
        if self._bus is None or self._bus.is_closed():
            self._bus = self.connect()
            self._bus.set_exit_on_close(False)
        return self._bus

    def call(self, name, path, interface, member, kind=None, values=(), seconds=20):
        """["ok", what it answered] or ["error", name, text]."""
        body = None if kind is None else GLib.Variant(kind, tuple(values))
        message = Gio.DBusMessage.new_method_call(name, path, interface, member)
        if body is not None:
            message.set_body(body)
        try:
            answer, _ = self.bus.send_message_with_reply_sync(
                message, Gio.DBusSendMessageFlags.NONE, seconds * 1000, None
            )
        except GLib.Error as error:
            return ["error", error.domain, error.message]
        if answer.get_message_type() == Gio.DBusMessageType.ERROR:
            body = answer.get_body()
            return [
                "error",
                answer.get_error_name(),
                body.unpack()[0] if body is not None and body.n_children() else "",
            ]
        body = answer.get_body()
        return ["ok", *(() if body is None else body.unpack())]

    def driver(self, member, kind=None, values=()):
        return self.call(*DRIVER, member, kind, values)

    def store(self, member, kind=None, values=(), seconds=20):
        return self.call(STORE, STORE_PATH, STORE, member, kind, values, seconds)

    def create(self, properties, path="", transfer=False):
        """``properties``: strings, or variants."""
        return self.store("create", "(a{sv}sb)", (variants(properties), path, transfer))

    def update(self, uid, properties, path="", transfer=False):
        values = (uid, variants(properties), path, transfer)
        return self.store("update", "(sa{sv}sb)", values)

    def find(self, query=None, names=()):
        return self.store("find", "(a{sv}as)", (variants(query or {}), list(names)))

    def raw(self, lines=b"NEGOTIATE_UNIX_FD\r\nBEGIN\r\n"):
        """A socket on which everything was said before BEGIN, and its answers read."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        path = re.match("unix:path=([^,]*)", self.address)[1]
        sock.connect(path)
        uid = str(os.getuid()).encode().hex().encode()
        sock.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\n" + lines)
        said = b""
        while said.count(b"\r\n") < 1 + lines.count(b"NEGOTIATE_UNIX_FD"):
            more = sock.recv(4096)
            if not more:
                raise EOFError(said)
            said += more
        sock.sendall(message(*DRIVER, "Hello", serial=1))
        received(sock)
        return sock


def variants(properties):
    """Strings and bytes as they are; what is a variant already stays one."""
    return {
        name: value if isinstance(value, GLib.Variant) else GLib.Variant("s", value)
        for name, value in properties.items()
    }


def message(name, path, interface, member, kind=None, values=(), serial=7):
    """The bytes of a method call."""
    made = Gio.DBusMessage.new_method_call(name, path, interface, member)
    if kind is not None:
        made.set_body(GLib.Variant(kind, tuple(values)))
    made.set_serial(serial)
    return made.to_blob(Gio.DBusCapabilityFlags.UNIX_FD_PASSING)


def received(sock):
    """The next message of a stream, b"" at its end."""
    data = b""
    wanted = 16
    while len(data) < wanted:
        more = sock.recv(wanted - len(data))
        if not more:
            return b""
        data += more
        if len(data) == 16 and wanted == 16:
            wanted = Gio.DBusMessage.bytes_needed(data)
    return data


def closed(sock):
    """Whether the other end hangs up, rather than wait for more."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def serve():
    me = Me()
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            exec(asked["source"], globals())  # noqa: S102 - what it is for
            answer = {"said": globals()[asked["name"]](me, *asked["arguments"])}
        except BaseException:
            answer = {"raised": traceback.format_exc()}
        print(json.dumps(answer, default=_plain), flush=True)


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return repr(value)


if __name__ == "__main__":
    print(json.dumps({"said": [os.getuid(), sys.argv[1:]]}), flush=True)
    serve()
