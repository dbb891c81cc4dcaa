# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy's own test, an ``[[expect]]``, can try, and what may come of it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from isolauncher.policy import bus, environment, quote
from isolauncher.policy.model import DEVICES, IN_HOME

_HOST_PORT = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

RESULTS = ("allowed", "refused", "absent")

ATTEMPTS: Mapping[str, str] = {
    "read": "read PATH",
    "write": "write PATH",
    "list": "list PATH",
    "exec": "exec PATH",
    "connect": "connect tcp HOST:PORT, connect udp HOST:PORT or connect unix PATH",
    "bind": "bind tcp HOST:PORT, bind udp HOST:PORT or bind unix PATH",
    "resolve": "resolve NAME",
    "call": "call BUS-NAME",
    "open": "open DEVICE: one of " + ", ".join(DEVICES),
    "fork": "fork N, N from 1 to 100000",
    "allocate": 'allocate SIZE, such as "allocate 2G"',
    "getenv": "getenv NAME",
}


def is_attempt(words: list[str]) -> bool:
    match words:
        case ["read" | "write" | "list" | "exec", path]:
            rest = path.removeprefix(IN_HOME)
            inner = f"/{rest}" == posixpath.normpath(f"/{rest}") != "/"
            return path.startswith("/") or (path.startswith(IN_HOME) and inner)
        case ["connect" | "bind", "tcp" | "udp", address]:
            found = _HOST_PORT.fullmatch(address)
            return found is not None and 0 < int(found[2]) < 65536
        case ["connect" | "bind", "unix", address]:
            return len(address) > 1 and address.startswith(("/", "@"))
        case ["resolve", name]:
            return _HOST.fullmatch(name) is not None
        case ["call", name]:
            return bus.is_name(name) and not name.endswith("*")
        case ["open", device]:
            return device in DEVICES
        case ["fork", number]:
            return re.fullmatch(r"[1-9][0-9]{0,5}", number) is not None and (
                int(number) <= 100_000
            )
        case ["allocate", size]:
            found = quote.SIZE.fullmatch(size)
            return found is not None and int(found[1]) > 0
        case ["getenv", name]:
            return environment.is_name(name)
        case _:
            return False
