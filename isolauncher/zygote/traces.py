# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for values in preloaded modules that name the zygote itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from isolauncher.zygote import noting


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A global of a preloaded module that holds something of the zygote's own."""

    module: str
    name: str
    what: str


def own_values() -> dict[str, str | int]:
    """What a child must not find anywhere: this process's own identity.

    Asks neither `pwd` nor `platform`: the one would have the C library settle on this
    machine's nsswitch.conf, which it does not read again once the root directory is
    another; the other would note the host's name.
    """
    uid = os.getuid()
    values: dict[str, str | int] = {
        "process id": os.getpid(),
        "host name": os.uname().nodename,
        "working directory": os.getcwd(),
        "user id": uid,
    }
    with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if len(fields) == 7 and fields[2] == str(uid):
                values["home"] = fields[5]
                break
    return values


def scan_identity(
    values: Mapping[str, str | int],
    visible: Iterable[str],
    *,
    shelf: Mapping[str, object] | None = None,
) -> tuple[Trace, ...]:
    """Globals of the ``visible`` modules that hold one of ``values``.

    Shallow: globals, and items of tuples, lists and dicts among them. Strings of
    fewer than three characters and numbers below 100 say nothing and are not sought.
    Some constant may by chance be the process id: what two processes find is true.
    """
    strings = {v: k for k, v in values.items() if isinstance(v, str) and len(v) > 2}
    numbers = {v: k for k, v in values.items() if isinstance(v, int) and v >= 100}
    found = []
    modules = {**sys.modules, **(shelf or {})}
    for module_name in sorted(visible):
        module = modules.get(module_name)
        if module is None or module_name in ("os", "posix", "sys"):
            continue
        for name, value in tuple(noting.globals_of(module).items()):
            if name in ("__builtins__", "__doc__") or isinstance(value, ModuleType):
                continue
            for item in _items(value):
                what = None
                if type(item) is int:
                    what = numbers.get(item)
                elif isinstance(item, str | bytes):
                    text = os.fsdecode(item)
                    what = next((w for s, w in strings.items() if s in text), None)
                if what is not None:
                    found.append(Trace(module=module_name, name=name, what=what))
                    break
    return tuple(found)


def _items(value: object) -> Iterator[object]:
    yield value
    if isinstance(value, tuple | list | set | frozenset):
        yield from value
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
