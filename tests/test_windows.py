# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of windows, on a real X server, from programs that write anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.desktop import Desktop
from Xlib import X, Xatom

from isolauncher import windows
from isolauncher.errors import HostError

MEGABYTES = 2 << 20


@contextmanager
def client(session: Desktop) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """A connection to the display, and what makes a window there."""
    display, _, _ = windows._connected(session.environment)
    root = display.screen().root

    def window() -> Any:
        made = root.create_window(0, 0, 9, 9, 0, display.screen().root_depth)
        made.map()
        display.sync()
        return made

    try:
        yield display, window
    finally:
        display.close()


@contextmanager
def asked(session: Desktop) -> Iterator[windows.Clients]:
    clients = windows.Clients(session.environment)
    try:
        yield clients
    finally:
        assert clients._connection is not None
        clients._connection[0].close()


def append(display: Any, window: Any, name: str, data: bytes, bits: int) -> None:
    """In pieces of what fits into a request."""
    atom = display.intern_atom(name)
    for at in range(0, max(len(data), 1), 1 << 17):
        piece = data[at : at + (1 << 17)]
        window.change_property(atom, Xatom.STRING, bits, piece, X.PropModeAppend)
    display.sync()


@pytest.mark.parametrize(
    ("data", "bits", "read"),
    [
        (b"a1", 8, "a1"),
        (b"", 8, ""),
        ("né".encode() + b"\xff", 8, "né\ufffd"),
        (b"a1a1", 16, ""),
        (b"a1a1", 32, ""),
        (b"", 32, ""),
        (b"x" * MEGABYTES, 8, "x" * windows.MAX_TEXT),
        (b"x" * MEGABYTES, 32, ""),
    ],
    ids=[*("text", "empty", "odd"), *("16", "32", "empty-32"), *("long", "long-32")],
)
def test_a_property_of_any_format_and_length_is_a_short_text(
    session: Desktop, data: bytes, bits: int, read: str
) -> None:
    with client(session) as (display, window):
        made = window()
        for name in ("_NET_WM_NAME", "_SUGAR_BUNDLE_ID", "_SUGAR_ACTIVITY_ID"):
            append(display, made, name, data, bits)
        found = windows.present(session.environment)
        (one,) = [one for one in found if one.number == made.id]
    assert (one.title, one.sugar_bundle, one.sugar_activity) == (read, read, read)


@pytest.mark.parametrize(
    ("bits", "seen"),
    [(32, False), (8, True)],
)
def test_a_list_of_windows_that_is_none_hides_nothing(
    session: Desktop, bits: int, *, seen: bool
) -> None:
    with client(session) as (display, window):
        made, root = window(), display.screen().root
        append(display, root, "_NET_CLIENT_LIST", b"\1\0\0\0" * 10000, bits)
        try:
            found = windows.present(session.environment)
        finally:
            root.delete_property(display.intern_atom("_NET_CLIENT_LIST"))
            display.sync()
    assert any(one.number == made.id for one in found) == seen


def test_the_process_of_a_window_is_told_by_one_connection(session: Desktop) -> None:
    with asked(session) as clients, client(session) as (display, window):
        made = window()
        pid = display.intern_atom("_NET_WM_PID")
        made.change_property(pid, Xatom.CARDINAL, 32, [1])
        display.sync()
        assert clients.process(made.id) == os.getpid()
        before = len(os.listdir("/proc/self/fd"))
        # What every client is told, and none can refuse.
        for _ in range(3):
            display.change_keyboard_mapping(250, [[0]])
            display.sync()
            assert clients.process(made.id) == os.getpid()
        assert len(os.listdir("/proc/self/fd")) == before
        assert clients._connection is not None
        assert clients._connection[0].display.event_queue == []
        assert clients.process(0xFFFFFFFF) == 0


def test_a_connection_that_is_lost_is_told_and_made_again(session: Desktop) -> None:
    with asked(session) as clients, client(session) as (_, window):
        made = window()
        assert clients.process(made.id) == os.getpid()
        assert clients._connection is not None
        clients._connection[0].display.socket.shutdown(2)
        with pytest.raises(HostError, match="the display was lost"):
            clients.process(made.id)
        assert clients.process(made.id) == os.getpid()
