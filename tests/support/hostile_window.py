#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's program that Sugar's shell starts: it tries what it can, and stays.

What it is to try for is in data/asked, as JSON; what came of it is one line of its log
that begins with SAID. Then it has a window that does not close, does not heed SIGTERM,
and leaves a process behind that counts in data/alive. Or it does only what the first
word of its name says; see shell/test_hostile_shell.py.
"""

import base64
import json
import os
import signal
import socket
import sys
import time

ROOT = os.environ["SUGAR_ACTIVITY_ROOT"]
SHELL = ("org.laptop.Shell", "/org/laptop/Shell")
JOURNAL = ("org.laptop.Journal", "/org/laptop/Journal")
STORE = ("org.laptop.sugar.DataStore", "/org/laptop/sugar/DataStore")
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus")


def tried(attempt, *arguments):
    try:
        return attempt(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def call(name, path, member, kind, *values):
    from gi.repository import Gio, GLib

    bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
    body = GLib.Variant(kind, values)
    flags = Gio.DBusCallFlags.NONE
    said = bus.call_sync(name, path, name, member, body, None, flags, 10000, None)
    return said.unpack()


def by_socket(key, port, uid):
    """What the shell's socket for web activities says of an object of the Journal."""
    sock = socket.create_connection(("127.0.0.1", int(port)), 5)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        + base64.b64encode(os.urandom(16))
        + b"\r\n\r\n"
    )
    said = b""
    while b"\r\n\r\n" not in said:
        said += sock.recv(4096)
    for number, (method, params) in enumerate(
        (("authenticate", ["me", key]), ("datastore.get_metadata", [uid]))
    ):
        text = json.dumps({"method": method, "params": params, "id": number}).encode()
        head = bytes((0x81, 0x80 | 126)) + len(text).to_bytes(2, "big")
        sock.sendall(head + bytes(4) + text)
    return sock.recv(65536).decode(errors="replace")


def attack(asked):
    other, uid = asked["name"], asked["uid"]
    key = os.environ.get("SUGAR_APISOCKET_KEY")
    port = os.environ.get("SUGAR_APISOCKET_PORT")
    return {
        "uid": os.getuid(),
        "key": key,
        "port": port,
        "socket": tried(by_socket, key or asked["key"], port or asked["port"], uid),
        "signal": tried(os.kill, asked["shell"], 0),
        "find": tried(call, *STORE, "find_ids", "(a{sv})", {}),
        "read": tried(call, *STORE, "get_filename", "(s)", uid),
        "properties": tried(call, *STORE, "get_properties", "(s)", uid),
        "own": tried(call, *BUS, "RequestName", "(su)", other, 4),
        "launch": tried(call, *JOURNAL, "LaunchBundle", "(ss)", asked["bundle"], ""),
        "failure": tried(call, *SHELL, "NotifyLaunchFailure", "(s)", "nobody"),
        "names": tried(call, *BUS, "ListNames", "()"),
    }


def leave_something_behind():
    """A process of nobody's, in a session of its own, which counts for ever."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for count in range(10**9):
            with open(f"{ROOT}/data/counting", "w") as file:
                file.write(f"{os.getpid()} {count}")
            os.rename(f"{ROOT}/data/counting", f"{ROOT}/data/alive")
            time.sleep(0.05)
        os._exit(0)


def window(*, closes, says=""):
    import gi

    gi.require_version("Gtk", "3.0")
    gi.require_version("GdkX11", "3.0")
    gi.require_version("SugarExt", "1.0")
    from gi.repository import GdkX11, Gtk, SugarExt

    assert GdkX11
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    made = Gtk.Window(title=words["-b"])
    made.connect("delete-event", lambda *_: Gtk.main_quit() if closes else True)
    made.realize()
    number = made.get_window().get_xid()
    SugarExt.wm_set_bundle_id(number, words["-b"])
    SugarExt.wm_set_activity_id(number, says or words["-a"])
    made.show_all()
    Gtk.main()


def hand_on():
    """A window whose connection was made by a process that has ended."""
    made = os.fork()
    if made == 0:
        import gi

        gi.require_version("Gtk", "3.0")
        from gi.repository import Gtk

        assert Gtk.init_check()[0]
        if os.fork() != 0:
            os._exit(0)
        window(closes=False)
    os.waitpid(made, 0)


def main():
    what = os.path.basename(sys.argv[0])
    if what == "called":
        window(closes=True)
        return
    if what == "early":
        print("what it says before it ends", flush=True)
        sys.exit(3)
    if what == "crash":
        print("what it says before it crashes", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "twin":
        for place in ("instance", "tmp"):
            with open(f"{ROOT}/{place}/note", "w") as file:
                file.write(sys.argv[4])
        window(closes=True)
        return
    if what == "handed":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hand_on()
        while True:
            signal.pause()
    if what == "hidden":
        window(closes=True)
        window(closes=True, says="nobody")
        # And on without one, as a process that nobody has started.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        leave_something_behind()
        while True:
            signal.pause()
    with open(f"{ROOT}/data/asked") as file:
        print("SAID", json.dumps(attack(json.load(file)), default=str), flush=True)
    leave_something_behind()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    window(closes=False)


if __name__ == "__main__":
    main()
