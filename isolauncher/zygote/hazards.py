# SPDX-License-Identifier: GPL-3.0-or-later
"""What the auditor knows hazards by: events, words of `preload`, variables, caches.

Tables and what reads them. Watches nothing and imports nothing of what is audited.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import NamedTuple

from isolauncher.zygote import variables

THREADS = "started threads"
OPENED = "left descriptors open"
CLOSED = "closed descriptors"
READS = "reads the environment variable "
CHANGES = "changes "
OUTPUT = "wrote to standard output or error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One hazard (``hazard``: its id), and the line that is to blame; 0: not known.

    ``answer``: the module of the hand-over that makes up for it, or nothing.
    """

    entry: str
    kind: str
    text: str
    hazard: str
    answer: str = ""
    file: str = ""
    line: int = 0

    @property
    def variable(self) -> str:
        """Which variable it reads, or nothing."""
        rest = self.text.removeprefix(READS)
        return "" if rest == self.text else rest.partition(",")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    kind: str
    text: str
    hazard: str


# Audit events (sys.addaudithook) that are hazards by themselves.
EVENTS: dict[str, _Event] = {
    **dict.fromkeys(
        ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"),
        _Event(kind="process", text="runs a program", hazard="H33"),
    ),
    **dict.fromkeys(
        ("os.fork", "os.forkpty"),
        _Event(kind="process", text="forks a process", hazard="H38"),
    ),
    **dict.fromkeys(
        ("socket.__new__", "socket.connect", "socket.bind", "socket.sendto"),
        _Event(kind="socket", text="uses a socket", hazard="H27"),
    ),
    **dict.fromkeys(
        ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"),
        _Event(kind="name-service", text="asks the resolver", hazard="H37"),
    ),
    **dict.fromkeys(
        ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"),
        _Event(kind="file", text="changes files", hazard="H39"),
    ),
    "sys.addaudithook": _Event(kind="hook", text="adds an audit hook", hazard="H20"),
    **dict.fromkeys(
        ("sys.settrace", "sys.setprofile"),
        _Event(kind="interpreter", text="sets a trace function", hazard="H20"),
    ),
    "syslog.openlog": _Event(kind="socket", text="opens the log", hazard="H27"),
}

# What `preload` finds, by the beginning of its words: kind, hazard, what answers.
FAULTS: tuple[tuple[str, str, str, str], ...] = (
    (THREADS, "thread", "H1", ""),
    ("changed running threads", "thread", "H1", ""),
    (OPENED, "descriptor", "H27", ""),
    (CLOSED, "descriptor", "H27", ""),
    ("changed umask, signal", "signals", "H25", ""),
    ("changed Python signal", "signals", "H25", ""),
    ("changed interval timers", "signals", "H25", ""),
    ("changed working directory", "directory", "H20", ""),
    ("changed environment", "environment", "H5", ""),
    ("changed locale", "locale", "H14", ""),
    ("changed time zone", "time-zone", "H13", ""),
    ("changed user and groups", "identity", "H39", ""),
    ("changed child processes", "process", "H33", ""),
    ("changed sys.path_hooks", "import-hooks", "H17", "interpreter"),
    ("changed sys.meta_path", "import-hooks", "H17", "shelf"),
    ("changed warning filters", "interpreter", "H20", "interpreter"),
    ("changed sys.path", "search-path", "H17", ""),
    ("changed standard streams", "streams", "H23", ""),
    ("changed handlers of the root logger", "logging", "H24", ""),
    ("changed gc settings", "gc", "H34", ""),
    ("changed memory", "memory", "H36", ""),
    ("changed resource limits", "limits", "H31", ""),
    ("changed what prctl keeps", "process-attributes", "H29", ""),
    ("changed name of the process", "process-attributes", "H21", ""),
    ("changed modules of others", "modules", "H18", ""),
    ("changed exit handlers", "exit-handler", "H22", "shelf"),
    ("changed ", "interpreter", "H20", ""),
    ("read environment", "environment", "H19", ""),
    ("used a socket", "socket", "H27", ""),
    ("ran a program", "process", "H33", ""),
    ("added an audit hook", "hook", "H20", ""),
    ("keeps ", "kept", "", ""),
    ("", "import", "H40", ""),
)


def stable(fault: str) -> str:
    """Without the numbers that are others in another run."""
    return fault.partition(":")[0]


def file_hazard(path: object, mode: object = None, flags: object = 0) -> str:
    if not isinstance(path, str | bytes) or not path:
        return ""
    name = os.fsdecode(path)
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    home, here = os.environ.get("HOME", ""), os.getcwd()
    if not os.path.isabs(name):
        return f"opens a file of the working directory: {name}"
    if home and (name == home or name.startswith(home + os.sep)):
        return f"opens a file of the home directory: {name.removeprefix(home)}"
    if here != "/" and name.startswith(here + os.sep):
        return f"opens a file of the working directory: {name.removeprefix(here)}"
    if writes and not name.startswith("/dev/"):
        return f"writes to a file: {name}"
    return ""


# The C library's, asked again when the child sets locale and time zone.
_ANSWERED_IN_C = ("LANG", "LC_", "LOCPATH", "NLSPATH", "OUTPUT_CHARSET", "TZ")
# LLVM asks for it so that a linker keeps what comes after, and ignores the answer.
_IGNORED_IN_C = frozenset({"bar"})


def is_answered_in_c(variable: str, before: str) -> bool:
    return (
        variable.startswith(_ANSWERED_IN_C)
        or variable.startswith("PYTHON")
        or variable in _IGNORED_IN_C
        or variables.is_read_at_start(variable)
        # SQLite's, which `stdlib_caches` starts again.
        or variable == "SQLITE_TMPDIR"
        or (variable == "TMPDIR" and before == "SQLITE_TMPDIR")
    )


class _Cache(NamedTuple):
    module: str
    name: str
    empty: tuple[object, ...]
    hazard: str
    answer: str


CACHES = (
    _Cache("asyncio.events", "_event_loop_policy", (None,), "H28", "stdlib_caches"),
    _Cache("gettext", "_current_domain", ("messages",), "H14", "locale_time"),
    _Cache("gettext", "_translations", ({},), "H14", "locale_time"),
    _Cache("mimetypes", "inited", (False,), "H39", "stdlib_caches"),
    _Cache("platform", "_uname_cache", (None,), "H16", "stdlib_caches"),
    _Cache("sysconfig", "_CONFIG_VARS", (None, {}), "H15", "stdlib_caches"),
    _Cache("tempfile", "tempdir", (None,), "H12", "randomness"),
    _Cache("urllib.request", "_opener", (None,), "H39", "stdlib_caches"),
    _Cache("uuid", "_node", (None,), "H8", "randomness"),
)
"""What the standard library computes at first use, and the hand-over takes back."""


def filled_caches() -> dict[int, bool]:
    return {
        at: cache.module in sys.modules
        and getattr(sys.modules[cache.module], cache.name, None) not in cache.empty
        for at, cache in enumerate(CACHES)
    }
