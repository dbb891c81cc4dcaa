# SPDX-License-Identifier: GPL-3.0-or-later
"""How the daemon is set up: /etc/isolauncher/isolauncher.toml as one frozen value.

Reads that file and nothing else. No file is the defaults; a file that others could
have written, an unknown key or a wrong value is refused, all mistakes at once. What a
program may do is never said here but in policies.

    version = 1

    [uids]                  # given to activities, and gids of the same number
    first = 70000           # this one belongs to every sandbox's init
    last = 89999

    [quotas]                # of one caller; root has none
    activities = 64         # running at once
    launches = 8            # not yet running
    connections = 32
    uids = 2000             # that the ledger may keep for it

    [rooms]                 # sandboxes prepared before anybody asks (0: none)
    ahead = 4
    per-caller = 3
    spares = 1              # of each kind of process that a launch needs (0: none)

    [memory]
    keep-free-mb = 16       # no launch that would leave the machine less (0: any)
    stall-ms = 200          # no room waits where programs waited so long for memory, of
                            # two seconds, and it is scarce (0: they wait all the same)

    [limits]                # of the daemon
    activities = 512
    launches = 32
    connections = 256
    message-ms = 5000       # for a client to send its first message
    launch-ms = 30000       # for a launch until the program runs
    grace-ms = 5000         # from SIGTERM to the end when a caller says nothing
    log-lines = 100         # in two seconds, of one caller's refusals with one code

    [shell]                 # Sugar's
    without-service = "refuse"  # to launch; "unisolated": launch all the same, say so
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches

from . import paths
from .errors import Mistake, PolicyError

MAX_FILE = 64 * 1024
MAX_SHOWN = 60
"""Characters of a value in an error."""

# Below lie the ranges of Debian and of systemd's dynamic users; uids above 2^31 read
# as negative in too many tools to be given to anyone.
UID_LEAST = 65536
UID_MOST = 2**31 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Uids:
    """The range ``first`` to ``last``; ``init`` is the uid of every sandbox's PID 1."""

    first: int = 70000
    last: int = 89999

    @property
    def init(self) -> int:
        return self.first

    @property
    def first_activity(self) -> int:
        return self.first + 1

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, int) and self.first <= uid <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What one caller may hold at a time; root is not counted."""

    activities: int = 64
    launches: int = 8
    connections: int = 32
    uids: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLimits:
    """What all callers together may hold, and how long the daemon waits (ms)."""

    activities: int = 512
    launches: int = 32
    connections: int = 256
    message_ms: int = 5000
    launch_ms: int = 30_000
    grace_ms: int = 5000
    log_lines: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsAhead:
    """How many sandboxes may wait for who launched lately; root is a caller, too.

    ``spares``: whether processes that are nobody's yet are forked ahead.
    """

    ahead: int = 4
    per_caller: int = 3
    spares: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the machine is to keep, and when rooms are given up; see memory.py."""

    keep_free_mb: int = 16
    stall_ms: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """What Sugar's shell does when neither service nor daemon is to be had."""

    without_service: str = "refuse"

    @property
    def unisolated(self) -> bool:
        return self.without_service == "unisolated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the daemon is told; the directories come from its command line.

    ``shell`` is not for the daemon but for the adapter in Sugar's shell.
    ``policy_dirs``: vendor first; a later directory's file of the same name wins.
    """

    uids: Uids = field(default_factory=Uids)
    quotas: Quotas = field(default_factory=Quotas)
    limits: DaemonLimits = field(default_factory=DaemonLimits)
    rooms: RoomsAhead = field(default_factory=RoomsAhead)
    memory: Memory = field(default_factory=Memory)
    shell: Shell = field(default_factory=Shell)
    file: str | None = None
    socket: str = paths.SOCKET
    run_dir: str = paths.RUN_DIR
    state_dir: str = paths.STATE_DIR
    policy_dirs: tuple[str, ...] = field(default_factory=paths.policy_dirs)


# table → key → (least, most); the defaults are those of the dataclasses.
_BOUNDS: dict[str, dict[str, tuple[int, int]]] = {
    "uids": {"first": (UID_LEAST, UID_MOST), "last": (UID_LEAST, UID_MOST)},
    "quotas": {
        "activities": (1, 10_000),
        "launches": (1, 1000),
        "connections": (1, 10_000),
        "uids": (1, 1_000_000),
    },
    "rooms": {"ahead": (0, 1000), "per-caller": (0, 100), "spares": (0, 1)},
    "memory": {"keep-free-mb": (0, 1_000_000), "stall-ms": (0, 2000)},
    "limits": {
        "activities": (1, 10_000),
        "launches": (1, 1000),
        "connections": (1, 10_000),
        "message-ms": (100, 60_000),
        "launch-ms": (1000, 600_000),
        "grace-ms": (0, 600_000),
        "log-lines": (1, 1_000_000),
    },
}
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shell": {"without-service": ("refuse", "unisolated")},
}


def load(
    file: str | None = None,
    *,
    socket: str | None = None,
    state_dir: str | None = None,
    policy_dir: str | None = None,
) -> Config:
    """Read ``file``, or the machine's own where one is; the rest is the command line's.

    A file that is named must be there, and so must ``policy_dir``, which stands in for
    the administrator's directory: what extends ``default`` still finds the vendor's.
    """
    options = {"socket": socket, "state-dir": state_dir, "policy-dir": policy_dir}
    for option, value in options.items():
        if value == "":
            raise _refused(f"--{option}", "config-no-name", "a name is missing")
    if policy_dir is not None and not os.path.isdir(policy_dir):
        # Or an administrator's rules would be missing and nobody be told.
        what = f"there is no directory {policy_dir}"
        raise _refused("--policy-dir", "config-no-directory", what)
    name = file if file is not None else paths.CONFIG_FILE
    text = _read_trusted(name, must_exist=file is not None)
    numbers, words = _check(name, text) if text is not None else ({}, {})
    where = socket or paths.socket()
    return Config(
        uids=Uids(**numbers.get("uids", {})),
        quotas=Quotas(**numbers.get("quotas", {})),
        limits=DaemonLimits(**numbers.get("limits", {})),
        rooms=RoomsAhead(**numbers.get("rooms", {})),
        memory=Memory(**numbers.get("memory", {})),
        shell=Shell(**words.get("shell", {})),
        file=name if text is not None else None,
        socket=where,
        # Two daemons must not share records: one with another socket keeps its own
        # beside it.
        run_dir=os.path.dirname(os.path.abspath(where)),
        state_dir=state_dir or paths.STATE_DIR,
        policy_dirs=paths.policy_dirs(policy_dir),
    )


def _read_trusted(name: str, *, must_exist: bool) -> str | None:
    """The text of a file that only root, or the owner of this code, could write."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(name, flags)
    except FileNotFoundError:
        if not must_exist:
            return None
        raise _refused(name, "config-not-found", "there is no such file") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _untrusted(name, "it is a symbolic link") from None
        raise _refused(
            name, "config-unreadable", os.strerror(error.errno or 0)
        ) from None
    try:
        found = os.fstat(fd)
        trusted = {0, paths.code_owner()}
        if not stat.S_ISREG(found.st_mode):
            raise _untrusted(name, "it is no regular file")
        if found.st_uid not in trusted:
            raise _untrusted(name, f"it belongs to uid {found.st_uid}")
        if found.st_mode & 0o022:
            raise _untrusted(name, "others may write it")
        directory = os.stat(os.path.dirname(os.path.abspath(name)))
        if directory.st_uid not in trusted or (
            directory.st_mode & 0o022 and not directory.st_mode & stat.S_ISVTX
        ):
            raise _untrusted(name, "others may write its directory")
        if found.st_size > MAX_FILE:
            raise _refused(
                name, "config-too-large", f"it is larger than {MAX_FILE} bytes"
            )
        with open(fd, "rb", closefd=False) as stream:
            return stream.read(MAX_FILE).decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(name, "config-not-utf8", "it is not UTF-8") from None
    finally:
        os.close(fd)


def _check(
    name: str, text: str
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, str]]]:
    """The tables of ``text`` as arguments, or every mistake of the file at once.

    First those of numbers, then those of words.
    """
    try:
        data: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+), column (\d+)", str(error))
        # Without a place tomllib means the end of the document.
        line, column = (
            (int(place[1]), int(place[2])) if place else (text.count("\n") + 1, 0)
        )
        what = re.sub(r" \(at .*\)$", "", str(error))
        raise _error(
            [_mistake(name, line, "", "config-not-toml", what, column=column)]
        ) from None
    except (ValueError, RecursionError):
        # An int() of thousands of digits; lists in lists in lists.
        what = "it has a number of thousands of digits, or is nested as deep"
        raise _refused(name, "config-not-toml", what) from None

    mistakes: list[Mistake] = []

    def wrong(table: str, key: str, code: str, what: str, hint: str = "") -> None:
        dotted = ".".join(part for part in (table, key) if part)
        mistakes.append(
            _mistake(name, _line(text, table, key), dotted, code, what, hint)
        )

    version = data.pop("version", None)
    if version is None:
        wrong("", "version", "config-no-version", "is missing", "write version = 1")
    elif type(version) is not int or version != 1:
        wrong("", "version", "config-version", f"{_shown(version)} is not 1")

    numbers: dict[str, dict[str, int]] = {}
    words: dict[str, dict[str, str]] = {}
    for table, content in data.items():
        bounds, choices = _BOUNDS.get(table, {}), _WORDS.get(table, {})
        known = [*bounds, *choices]
        if not known:
            hint = _nearest(table, [*_BOUNDS, *_WORDS, "version"])
            wrong("", table, "config-unknown-key", "there is no such key", hint)
            continue
        if not isinstance(content, dict):
            wrong("", table, "config-wrong-type", "is not a table")
            continue
        for key, value in content.items():
            name_here = key.replace("-", "_")
            if key not in known:
                hint = _nearest(key, known)
                wrong(table, key, "config-unknown-key", "there is no such key", hint)
            elif key in choices:
                if value in choices[key]:
                    words.setdefault(table, {})[name_here] = value
                else:
                    either = " or ".join(f'"{word}"' for word in choices[key])
                    what = f"{_shown(value)} is not {either}"
                    wrong(table, key, "config-wrong-type", what)
            elif type(value) is not int:
                what = f"{_shown(value)} is not a whole number"
                wrong(table, key, "config-wrong-type", what)
            elif not bounds[key][0] <= value <= bounds[key][1]:
                least, most = bounds[key]
                wrong(
                    table,
                    key,
                    "config-out-of-bounds",
                    f"{_shown(value)} is not in {least} to {most}",
                )
            else:
                numbers.setdefault(table, {})[name_here] = value

    given = numbers.get("uids", {})
    uids = Uids(**given)
    if not mistakes and uids.first >= uids.last:
        wrong(
            "uids",
            "last" if "last" in given else "first",
            "config-empty-range",
            "the range holds no uid for an activity",
            "the first one belongs to init; last must be larger than first",
        )
    if mistakes:
        raise _error(mistakes)
    return numbers, words


def _line(text: str, table: str, key: str) -> int:
    """Where ``key`` of ``table`` is written plainly; 0 when it is written otherwise."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w-]+)\s*\]", line)
        if header:
            current = header[1]
            if not table and current == key:
                return number
        elif current == table and re.match(
            rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line
        ):
            return number
    return 0


def _shown(value: object) -> str:
    """In a line; Python refuses to print an int of thousands of digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "what is there"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _nearest(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _mistake(
    file: str,
    line: int,
    key: str,
    code: str,
    message: str,
    hint: str = "",
    *,
    column: int = 0,
) -> Mistake:
    return Mistake(
        file=file,
        line=line,
        column=column,
        key=key,
        code=code,
        message=message,
        hint=hint,
    )


def _error(mistakes: list[Mistake]) -> PolicyError:
    error = PolicyError(tuple(mistakes))
    error.step = "config"
    return error


def _refused(name: str, code: str, what: str, hint: str = "") -> PolicyError:
    return _error([_mistake(name, 0, "", code, what, hint)])


def _untrusted(name: str, why: str) -> PolicyError:
    return _refused(
        name,
        "config-not-trusted",
        why,
        "it must be a plain file of root's, or of the owner of isolauncher's code, "
        "that nobody else may write",
    )
