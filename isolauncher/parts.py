# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan's parts on their way to who walks them: values as bytes, and bytes as values.

For two processes of the same code, one of which is the daemon. What a part is, and who
is told it, `plan` says; `wire` is for messages that anybody may send: these are not.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial

from .errors import StepError
from .plan import Rest, Room, RoomPart, Start
from .steps import (
    Attach,
    CgroupDirectory,
    DeviceNode,
    Directory,
    Filter,
    LandlockRule,
    LandlockRules,
    Planned,
    SetLimits,
    Skipped,
    Step,
    Symlink,
)

_CLASSES: Mapping[str, type] = {
    c.__name__: c
    for c in (
        *Step.__args__,
        CgroupDirectory,
        DeviceNode,
        LandlockRule,
        Planned,
        Room,
        RoomPart,
        Rest,
        Start,
        Skipped,
    )
}


_FIELDS: Mapping[type, tuple[str, ...]] = {
    c: tuple(f.name for f in dataclasses.fields(c)) for c in _CLASSES.values()
}
_KINDS = tuple(_CLASSES.values())
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_TUPLE, _BYTES = -1, -2
# By the fields themselves: the constructor of a frozen class asks for each.
_PUT = tuple(tuple(getattr(c, name).__set__ for name in _FIELDS[c]) for c in _KINDS)
_new = object.__new__
# Most values of a plan are these, and a launch waits for every one of them.
_PLAIN = frozenset((str, int, bool, type(None)))


def pack(value: object) -> object:
    """A plan or a part of it as JSON values: what is not plain is a list.

    First the number of its class and then the fields, for a process of the same code
    (or one that says that it is a tuple, or bytes, in base64).
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, bytes):
        return [_BYTES, base64.b64encode(value).decode("ascii")]
    if isinstance(value, tuple):
        packed: list[object] = [_TUPLE]
        packed += [v if type(v) in _PLAIN else pack(v) for v in value]
        return packed
    packed = [_NUMBERS[kind]]
    for name in _FIELDS[kind]:
        field = getattr(value, name)
        packed.append(field if type(field) in _PLAIN else pack(field))
    return packed


def unpack(value: object) -> object:
    """The reverse of `pack`; StepError for what `pack` cannot have written."""
    if not isinstance(value, list):
        return value
    try:
        number, *fields = value
        if number == _TUPLE:
            return tuple([v if type(v) in _PLAIN else unpack(v) for v in fields])
        if number == _BYTES:
            (text,) = fields
            return base64.b64decode(text, validate=True)
        if number < 0:
            raise ValueError("no class has that number")
        made: object = _new(_KINDS[number])
        for put, field in zip(_PUT[number], fields, strict=True):
            put(made, field if type(field) in _PLAIN else unpack(field))
        return made
    except (IndexError, TypeError, ValueError, binascii.Error) as e:
        raise _not_a_plan(f"not a plan: {e}") from e


LONG = b"[]"
"""In the place of a part that is too long for a packet, and comes as a memory file."""

_ENCODER = json.JSONEncoder(check_circular=False, separators=(",", ":"))
_not_a_plan = partial(StepError, step="plan", code="not-a-plan")


def write(names: Iterable[str], part: object) -> bytes:
    """One of two processes' part, and what the descriptors are called that go with it.

    Not a message that anybody could send: the daemon's word, to who is to obey it.
    """
    if not isinstance(part, RoomPart):
        return _ENCODER.encode([list(names), pack(part)]).encode()
    # As `pack`; but most of its steps have been written for another room already.
    steps = ",".join((str(_TUPLE), *map(_text, part.steps)))
    fields = [_ENCODER.encode(getattr(part, n)) for n in _FIELDS[RoomPart] if n != _S]
    fields.insert(_FIELDS[RoomPart].index(_S), f"[{steps}]")
    told = ",".join((str(_NUMBERS[RoomPart]), *fields))
    return f"[{_ENCODER.encode(list(names))},[{told}]]".encode()


_S = "steps"
_ALIKE = frozenset((Attach, Directory, Symlink, LandlockRules, Filter, SetLimits))
"""Of such there are many in a room, and the same in the next; nobody's secrets."""


def _text(planned: Planned) -> str:
    kept = type(planned.step) in _ALIKE
    return _known_text(planned) if kept else _ENCODER.encode(pack(planned))


@lru_cache(maxsize=4096)
def _known_text(planned: Planned) -> str:
    return _ENCODER.encode(pack(planned))


def read(data: bytes) -> tuple[list[str], object]:
    """The reverse of `write`."""
    try:
        names, part = json.loads(data)
    except (TypeError, ValueError) as e:
        raise _not_a_plan(f"not a plan: {e}") from e
    return names, unpack(part)
