# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller may ask: bounded, typed names and descriptors; no powers.

Values of this module come only out of `parse`, which refuses what it does not know.
Nothing here says who asks: that is learnt from the socket (`Caller`). No uid, group,
capability, mount or preload can be asked for: no field has the room to say so.

    parse          the first message of a connection → one of `Asked`
    parse_signal   the only later one, while a program runs → Signal
    encode         any of them → the fields of its message
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, assert_never, cast, get_args

from .errors import RequestError
from .wire import VERSION

ProgramKind = Literal["file", "name", "module"]
TierName = Literal["fork", "exec"]
SignalName = Literal["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"]

# The names a launch message may give to the descriptors it carries, in this order.
DESCRIPTORS = ("stdin", "stdout", "stderr", "program", "cwd", "policy")
STANDARD = DESCRIPTORS[:3]

SIGNALS: Final[tuple[SignalName, ...]] = get_args(SignalName)

MAX_ARGUMENTS = 4096
MAX_ARGUMENT_BYTES = 96 * 1024
MAX_VARIABLES = 4096
MAX_VARIABLE_BYTES = 96 * 1024
MAX_VARIABLE_NAME = 256
MAX_IDS = 256
MAX_GRACE_MS = 600_000

_ID = re.compile(r"[0-9a-zA-Z_]{1,64}")
_POLICY_NAME = re.compile(r"[0-9a-zA-Z_](?:[0-9a-zA-Z_.-]{0,126}[0-9a-zA-Z_])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The kernel's word about the peer (SO_PEERCRED, SO_PEERGROUPS: socket(7))."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One launch asked for with ``run``.

    ``program_kind`` is ``file`` (the descriptor ``program`` names it), ``name``
    (sought in the policy's PATH inside the sandbox) or ``module`` (``-m``).
    ``argv[0]`` is the program as it was typed; for a module it is its name.
    ``policy`` is a policy's name; None asks for the one that applies by default, or
    for the file given by the descriptor ``policy``. ``descriptors`` names the
    descriptors that came with the message, in their order. ``umask`` 0..0o777.
    ``tied`` activities end with the connection that asked.
    """

    id: str | None
    program_kind: ProgramKind
    argv: tuple[str, ...]
    policy: str | None
    tier: TierName | None
    environment: Mapping[str, str]
    setenv: Mapping[str, str]
    umask: int
    tied: bool
    descriptors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """Take up a running activity again after the connection broke."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ps:
    """List what the caller may see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End activities: SIGTERM, ``grace_ms``, then SIGKILL to the init of each."""

    ids: tuple[str, ...]
    grace_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the daemon has measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Pass a signal on to the program; ``name`` is without SIG."""

    name: SignalName


Asked = Request | Attach | Ps | Stop | Stats

_RUN_FIELDS = frozenset(
    {
        "id",
        "program_kind",
        "argv",
        "policy",
        "tier",
        "environment",
        "setenv",
        "umask",
        "tied",
        "descriptors",
    }
)


def valid_id(text: str) -> bool:
    """Whether ``text`` can name an activity; never an option, never a path."""
    return _ID.fullmatch(text) is not None


def valid_policy_name(text: str) -> bool:
    """Whether ``text`` can name a policy, which is ``text.toml`` in its directory."""
    return _POLICY_NAME.fullmatch(text) is not None and ".." not in text


def valid_variable(text: str) -> bool:
    """Whether ``text`` can be the name of an environment variable."""
    return len(text) <= MAX_VARIABLE_NAME and _VARIABLE.fullmatch(text) is not None


def parse(fields: Mapping[str, object], n_fds: int) -> Asked:
    """Understand the first message of a connection, or refuse it with its reason."""
    version = _take(fields, "version")
    if type(version) is not int or version != VERSION:
        raise RequestError(
            f"field 'version': the client speaks version {_shown(version)}, "
            f"this daemon version {VERSION}",
            code="request-version",
            hint="restart the older of the two after an upgrade",
        )
    verb = _take(fields, "verb")
    rest = {name: fields[name] for name in fields if name not in ("version", "verb")}
    if verb == "run":
        return parse_run(rest, n_fds)
    if verb not in ("attach", "ps", "stop", "stats"):
        raise RequestError(
            f"field 'verb': {_shown(verb)} is not one of run attach ps stop stats",
            code="request-verb",
        )
    if n_fds:
        raise RequestError(
            f"{n_fds} descriptors came with a message that takes none",
            code="request-descriptors",
        )
    match verb:
        case "attach":
            _only(rest, {"id"})
            return Attach(id=_id(rest, "id"))
        case "ps":
            _only(rest, set())
            return Ps()
        case "stop":
            _only(rest, {"ids", "grace_ms"})
            ids = _strings(rest, "ids", most=MAX_IDS, most_bytes=MAX_IDS * 64)
            if not ids:
                raise _wrong("ids", "names no activity")
            for one in ids:
                _check_id("ids", one)
            return Stop(ids=ids, grace_ms=_integer(rest, "grace_ms", 0, MAX_GRACE_MS))
        case _:
            _only(rest, set())
            return Stats()


def parse_run(fields: Mapping[str, object], n_fds: int) -> Request:
    """Understand a launch, ``version`` and ``verb`` taken off."""
    _only(fields, _RUN_FIELDS)
    kind = _choice(fields, "program_kind", get_args(ProgramKind))
    argv = _strings(fields, "argv", most=MAX_ARGUMENTS, most_bytes=MAX_ARGUMENT_BYTES)
    if not argv or not argv[0]:
        raise _wrong("argv", "names no program")
    if kind == "name" and ("/" in argv[0] or argv[0] in (".", "..")):
        raise _wrong("argv", "a program to be sought in PATH is a name without '/'")
    if kind == "module" and not _MODULE.fullmatch(argv[0]):
        raise _wrong("argv", f"{_shown(argv[0])} is not the name of a module")
    descriptors = _descriptors(fields, n_fds, kind)
    policy = None if fields["policy"] is None else _text(fields, "policy", 128)
    if policy is not None and not valid_policy_name(policy):
        raise _wrong("policy", f"{_shown(policy)} is not the name of a policy")
    if policy is not None and "policy" in descriptors:
        raise _wrong("policy", "a name and a file are given, one is wanted")
    tied = fields["tied"]
    if not isinstance(tied, bool):
        raise _wrong("tied", "is not true or false", code="request-wrong-type")
    return Request(
        id=None if fields["id"] is None else _id(fields, "id"),
        program_kind=cast(ProgramKind, kind),
        argv=argv,
        policy=policy,
        tier=(
            None
            if fields["tier"] is None
            else cast(TierName, _choice(fields, "tier", get_args(TierName)))
        ),
        environment=_variables(fields, "environment"),
        setenv=_variables(fields, "setenv"),
        umask=_integer(fields, "umask", 0, 0o777),
        tied=tied,
        descriptors=descriptors,
    )


def parse_signal(fields: Mapping[str, object], n_fds: int) -> Signal:
    """Understand what a client may say while its program runs."""
    if n_fds:
        raise RequestError(
            f"{n_fds} descriptors came with a message that takes none",
            code="request-descriptors",
        )
    verb = _take(fields, "verb")
    if verb != "signal":
        raise RequestError(
            f"field 'verb': {_shown(verb)} cannot be said while a program runs",
            code="request-verb",
        )
    _only({k: v for k, v in fields.items() if k != "verb"}, {"signal"})
    return Signal(name=cast(SignalName, _choice(fields, "signal", SIGNALS)))


def encode(asked: Asked | Signal) -> dict[str, object]:
    """The fields of the message that `parse` or `parse_signal` reads as ``asked``."""
    match asked:
        case Request():
            return {
                "version": VERSION,
                "verb": "run",
                "id": asked.id,
                "program_kind": asked.program_kind,
                "argv": list(asked.argv),
                "policy": asked.policy,
                "tier": asked.tier,
                "environment": dict(asked.environment),
                "setenv": dict(asked.setenv),
                "umask": asked.umask,
                "tied": asked.tied,
                "descriptors": list(asked.descriptors),
            }
        case Attach():
            return {"version": VERSION, "verb": "attach", "id": asked.id}
        case Ps():
            return {"version": VERSION, "verb": "ps"}
        case Stop():
            return {
                "version": VERSION,
                "verb": "stop",
                "ids": list(asked.ids),
                "grace_ms": asked.grace_ms,
            }
        case Stats():
            return {"version": VERSION, "verb": "stats"}
        case Signal():
            return {"verb": "signal", "signal": asked.name}
        case _ as never:
            assert_never(never)


def _wrong(field: str, what: str, *, code: str = "request-bad-value") -> RequestError:
    return RequestError(f"field '{field}': {what}", code=code)


def _shown(value: object) -> str:
    """A foreign value in a message: short, and in ASCII whatever it holds."""
    if isinstance(value, str):
        return ascii(value[:40]) + ("..." if len(value) > 40 else "")
    if value is None or isinstance(value, bool | int | float):
        return ascii(value)
    return f"a {type(value).__name__}"


def _only(fields: Mapping[str, object], known: frozenset[str] | set[str]) -> None:
    """Exactly the fields ``known``: another has no meaning, an absent no default."""
    for name in fields:
        if name not in known:
            raise RequestError(
                f"field {_shown(name)} is unknown",
                code="request-unknown-field",
                hint="a request can name only "
                + (", ".join(sorted(known)) or "a verb"),
            )
    for name in sorted(known):
        _take(fields, name)


def _take(fields: Mapping[str, object], name: str) -> object:
    if name not in fields:
        raise RequestError(f"field '{name}' is missing", code="request-missing-field")
    return fields[name]


def _check_text(field: str, value: object, most: int) -> str:
    if not isinstance(value, str):
        raise _wrong(
            field, f"{_shown(value)} is not a string", code="request-wrong-type"
        )
    try:
        size = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise _wrong(field, "holds what no byte string can hold") from None
    if size > most:
        raise _wrong(field, f"is longer than {most} bytes", code="request-too-large")
    if "\0" in value:
        # The kernel ends a string there: two readers would see two values.
        raise _wrong(field, "holds a NUL")
    return value


def _text(fields: Mapping[str, object], field: str, most: int) -> str:
    return _check_text(field, fields[field], most)


def _check_id(field: str, text: str) -> None:
    if not valid_id(text):
        raise RequestError(
            f"field '{field}': {_shown(text)} is not an id",
            code="request-bad-id",
            hint="1 to 64 letters, digits and underscores",
        )


def _id(fields: Mapping[str, object], field: str) -> str:
    text = _text(fields, field, 1024)
    _check_id(field, text)
    return text


def _choice(fields: Mapping[str, object], field: str, among: tuple[str, ...]) -> str:
    value = fields[field]
    if not isinstance(value, str) or value not in among:
        raise _wrong(field, f"{_shown(value)} is not one of {' '.join(among)}")
    return value


def _integer(fields: Mapping[str, object], field: str, least: int, most: int) -> int:
    value = fields[field]
    # bool is an int to isinstance, but true is no number to anyone who writes one.
    if type(value) is not int:
        raise _wrong(
            field, f"{_shown(value)} is not a whole number", code="request-wrong-type"
        )
    if not least <= value <= most:
        raise _wrong(field, f"{value} is not in {least} to {most}")
    return value


def _strings(
    fields: Mapping[str, object], field: str, *, most: int, most_bytes: int
) -> tuple[str, ...]:
    value = fields[field]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(field, f"{_shown(value)} is not a list", code="request-wrong-type")
    if len(value) > most:
        raise _wrong(
            field, f"has {len(value)} entries, {most} at most", code="request-too-large"
        )
    left = most_bytes
    texts = []
    for item in value:
        text = _check_text(field, item, most_bytes)
        left -= len(text.encode("utf-8", "surrogateescape")) + 1
        if left < 0:
            raise _wrong(
                field, f"is longer than {most_bytes} bytes", code="request-too-large"
            )
        texts.append(text)
    return tuple(texts)


def _variables(fields: Mapping[str, object], field: str) -> dict[str, str]:
    value = fields[field]
    if not isinstance(value, Mapping):
        raise _wrong(
            field, f"{_shown(value)} is not an object", code="request-wrong-type"
        )
    if len(value) > MAX_VARIABLES:
        raise _wrong(
            field,
            f"has {len(value)} variables, {MAX_VARIABLES} at most",
            code="request-too-large",
        )
    left = MAX_VARIABLE_BYTES
    variables: dict[str, str] = {}
    for name, item in value.items():
        if not isinstance(name, str) or not valid_variable(name):
            raise _wrong(field, f"{_shown(name)} is not the name of a variable")
        text = _check_text(field, item, MAX_VARIABLE_BYTES)
        left -= len(name) + len(text.encode("utf-8", "surrogateescape")) + 2
        if left < 0:
            raise _wrong(
                field,
                f"is longer than {MAX_VARIABLE_BYTES} bytes",
                code="request-too-large",
            )
        variables[name] = text
    return variables


def _descriptors(
    fields: Mapping[str, object], n_fds: int, kind: str
) -> tuple[str, ...]:
    names = _strings(fields, "descriptors", most=len(DESCRIPTORS), most_bytes=256)
    if names != tuple(name for name in DESCRIPTORS if name in names):
        raise _wrong(
            "descriptors",
            f"each of {' '.join(DESCRIPTORS)} at most once, in this order",
        )
    if names[:3] != STANDARD:
        raise _wrong("descriptors", "stdin, stdout and stderr are wanted")
    if ("program" in names) != (kind == "file"):
        raise _wrong(
            "descriptors", "'program' belongs to the kind 'file' and to no other"
        )
    if len(names) != n_fds:
        raise RequestError(
            f"field 'descriptors': {len(names)} are named, {n_fds} came",
            code="request-descriptors",
        )
    return names
