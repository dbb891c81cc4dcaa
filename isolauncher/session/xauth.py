# SPDX-License-Identifier: GPL-3.0-or-later
"""The cookie of one display, as an Xauthority file that holds nothing else.

A person's file may have cookies of other displays and other machines, and says of
each which host it is for; inside a sandbox the host has another name. The format is
Xau's (libXau, AuRead.c): big-endian counted fields, one entry after the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FAMILY_WILD = 0xFFFF
"""Matches any address (X11/Xauth.h)."""

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``number`` is the display's in digits; empty: any."""

    family: int
    address: bytes
    number: bytes
    name: bytes
    data: bytes


def read(data: bytes) -> Iterator[Entry]:
    """The entries of a file; what is cut off at its end is not one of them."""
    at = 0
    while at + 2 <= len(data):
        (family,) = struct.unpack_from(">H", data, at)
        at += 2
        fields = []
        for _ in range(4):
            if at + 2 > len(data):
                return
            (size,) = struct.unpack_from(">H", data, at)
            at += 2
            if at + size > len(data):
                return
            fields.append(data[at : at + size])
            at += size
        address, number, name, secret = fields
        yield Entry(
            family=family, address=address, number=number, name=name, data=secret
        )


def write(entry: Entry) -> bytes:
    fields = (entry.address, entry.number, entry.name, entry.data)
    parts = [struct.pack(">H", len(field)) + field for field in fields]
    return struct.pack(">H", entry.family) + b"".join(parts)


def for_display(data: bytes, number: int) -> bytes:
    """What is left of a file for this machine's display ``number``, for any host name.

    And for any number, since it may have another inside. Entries of other machines'
    displays (by network) are none of this machine's.
    """
    wanted = str(number).encode("ascii")
    local = (FAMILY_WILD, _FAMILY_LOCAL)
    kept = {
        (entry.name, entry.data): None
        for entry in read(data)
        if entry.family in local and entry.number in (b"", wanted)
    }
    return b"".join(
        write(
            Entry(family=FAMILY_WILD, address=b"", number=b"", name=name, data=secret)
        )
        for name, secret in kept
    )


_FAMILY_LOCAL = 256


def file_of(environment: Mapping[str, str]) -> str:
    """Where Xlib looks for it (XauFileName)."""
    named = environment.get("XAUTHORITY")
    return named or os.path.join(environment.get("HOME", "/"), ".Xauthority")
