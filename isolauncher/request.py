# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller may ask: bounded, typed names and descriptors; no powers.

Values of this module come only out of `parse`, which refuses what it does not know.
Nothing here says who asks: that is learnt from the socket (`Caller`). No uid, group,
capability, mount or preload can be asked for: no field has the room to say so.

    parse          the first message of a connection → one of `Asked`
    parse_furnish  the second of a `Launch`, when its policy is known → Furnish
    parse_signal   the only later one, while a program runs → Signal
    encode         any of them → the fields of its message
"""

from __future__ import annotations

import base64
import binascii
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
BUNDLE_DESCRIPTORS = (*STANDARD, "bundle")

# What a person's session may bring for a bundle: three directories, three sockets, and
# the end of a pipe that lasts as long as the sandbox.
FURNITURE = ("data", "instance", "tmp", "bus", "accessibility", "display", "hold")

SIGNALS: Final[tuple[SignalName, ...]] = get_args(SignalName)

MAX_ARGUMENTS = 4096
MAX_ARGUMENT_BYTES = 96 * 1024
MAX_VARIABLES = 4096
MAX_VARIABLE_BYTES = 96 * 1024
MAX_VARIABLE_NAME = 256
MAX_NAMED = 4096
MAX_COOKIE = 4096
MAX_FILES = 16
MAX_FILE_BYTES = 48 * 1024
MAX_IDS = 256
MAX_GRACE_MS = 600_000
MAX_REASON = 1000

_ID = re.compile(r"[0-9a-zA-Z_]{1,64}")
_POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as policy/check.py
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A local server, by its number; another machine's is a matter of the network.
_DISPLAY = re.compile(r":[0-9]{1,5}(?:\.[0-9]{1,2})?")
_HOME_FILE = re.compile(
    r"(?:\.?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}/){0,7}"
    r"\.?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"
)
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
class Launch:
    """A Sugar bundle to launch: what governs it and what it runs, it says itself.

    ``id`` is the activity id, made up when None. ``object_id`` and ``uri`` are what
    it is to open (`-o` and `-u` of its command), ``invited`` is `-i`. It does not end
    with the connection that asked.
    """

    id: str | None
    object_id: str | None
    uri: str | None
    invited: bool
    environment: Mapping[str, str]
    umask: int
    descriptors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Furnish:
    """What the caller brings for a bundle, once it has been told what is granted.

    ``display`` is the DISPLAY inside, ``cookie`` what its Xauthority file holds; None:
    there is none. ``files`` are written into the home that is made for it, by their
    paths below that home: the person's settings, say.
    """

    display: str | None
    cookie: bytes | None
    files: Mapping[str, bytes]
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
    """End activities: SIGTERM, ``grace_ms``, then SIGKILL to the init of each.

    ``reason`` is a line for whoever waits for the end; empty: none is given.
    """

    ids: tuple[str, ...]
    grace_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the daemon has measured; ``memory``: and what each activity has of it."""

    memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Pass a signal on to the program; ``name`` is without SIG."""

    name: SignalName


Asked = Request | Launch | Attach | Ps | Stop | Stats

_LAUNCH_FIELDS = frozenset(
    {"id", "object_id", "uri", "invited", "environment", "umask", "descriptors"}
)
_FURNISH_FIELDS = frozenset({"display", "cookie", "files", "descriptors"})
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
    return _POLICY_NAME.fullmatch(text) is not None


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
    if verb == "launch":
        return parse_launch(rest, n_fds)
    if verb not in ("attach", "ps", "stop", "stats"):
        raise RequestError(
            f"field 'verb': {_shown(verb)} is not one of run launch attach ps stop "
            "stats",
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
            reason = _text({"reason": "", **rest}, "reason", MAX_REASON)
            if not reason.isprintable():
                raise _wrong("reason", "holds what cannot be printed")
            _only({"reason": "", **rest}, {"ids", "grace_ms", "reason"})
            ids = _strings(rest, "ids", most=MAX_IDS, most_bytes=MAX_IDS * 64)
            if not ids:
                raise _wrong("ids", "names no activity")
            for one in ids:
                _check_id("ids", one)
            grace = _integer(rest, "grace_ms", 0, MAX_GRACE_MS)
            return Stop(ids=ids, grace_ms=grace, reason=reason)
        case _:
            _only({"memory": False, **rest}, {"memory"})
            memory = rest.get("memory", False)
            if not isinstance(memory, bool):
                raise _wrong("memory", f"{_shown(memory)} is not true or false")
            return Stats(memory=memory)


def parse_run(fields: Mapping[str, object], n_fds: int) -> Request:
    """Understand a launch, ``version`` and ``verb`` taken off."""
    _only(fields, _RUN_FIELDS)
    kind = _choice(fields, "program_kind", get_args(ProgramKind))
    argv = _strings(fields, "argv", most=MAX_ARGUMENTS, most_bytes=MAX_ARGUMENT_BYTES)
    if not argv or not argv[0]:
        raise _wrong("argv", "names no program")
    if kind == "name" and argv[0] in (".", ".."):
        raise _wrong("argv", f"{argv[0]!a} is a directory and no program")
    if kind == "name" and "/" in argv[0]:
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


def parse_launch(fields: Mapping[str, object], n_fds: int) -> Launch:
    """Understand the launch of a bundle, ``version`` and ``verb`` taken off."""
    _only(fields, _LAUNCH_FIELDS)
    invited = fields["invited"]
    if not isinstance(invited, bool):
        raise _wrong("invited", "is not true or false", code="request-wrong-type")
    names = _strings(fields, "descriptors", most=len(DESCRIPTORS), most_bytes=256)
    if names != BUNDLE_DESCRIPTORS:
        raise _wrong("descriptors", f"{' '.join(BUNDLE_DESCRIPTORS)} are wanted")
    _refuse_count(names, n_fds)
    return Launch(
        id=None if fields["id"] is None else _id(fields, "id"),
        object_id=_argument(fields, "object_id"),
        uri=_argument(fields, "uri"),
        invited=invited,
        environment=_variables(fields, "environment"),
        umask=_integer(fields, "umask", 0, 0o777),
        descriptors=names,
    )


def parse_furnish(fields: Mapping[str, object], n_fds: int) -> Furnish:
    """Understand what a caller brings for a bundle that may be launched."""
    if _take(fields, "verb") != "furnish":
        raise RequestError(
            f"field 'verb': {_shown(fields['verb'])} came where 'furnish' was wanted",
            code="request-verb",
        )
    _only({k: v for k, v in fields.items() if k != "verb"}, _FURNISH_FIELDS)
    names = _strings(fields, "descriptors", most=len(FURNITURE), most_bytes=256)
    if names != tuple(name for name in FURNITURE if name in names):
        raise _wrong(
            "descriptors",
            f"each of {' '.join(FURNITURE)} at most once, in this order",
        )
    _refuse_count(names, n_fds)
    display = _argument(fields, "display")
    if (display is not None) != ("display" in names):
        raise _wrong("display", "its name and its socket belong together")
    if display is not None and not _DISPLAY.fullmatch(display):
        raise _wrong(
            "display",
            f"{_shown(display)} is not a display of this machine",
            code="request-bad-display",
        )
    return Furnish(
        display=display,
        cookie=_bytes(fields, "cookie", MAX_COOKIE),
        files=_files(fields, "files"),
        descriptors=names,
    )


def _argument(fields: Mapping[str, object], field: str) -> str | None:
    return None if fields[field] is None else _text(fields, field, MAX_NAMED)


def _bytes(fields: Mapping[str, object], field: str, most: int) -> bytes | None:
    if fields[field] is None:
        return None
    text = _text(fields, field, most * 4 // 3 + 4)
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise _wrong(field, "is not base64") from None


def _files(fields: Mapping[str, object], field: str) -> dict[str, bytes]:
    value = fields[field]
    if not isinstance(value, Mapping):
        raise _wrong(
            field, f"{_shown(value)} is not an object", code="request-wrong-type"
        )
    if len(value) > MAX_FILES:
        raise _wrong(
            field, f"has more than {MAX_FILES} entries", code="request-too-large"
        )
    files: dict[str, bytes] = {}
    for path in value:
        if not isinstance(path, str) or not _HOME_FILE.fullmatch(path):
            raise _wrong(field, f"{_shown(path)} is not the path of a file of a home")
        data = _bytes(value, path, MAX_FILE_BYTES)
        if data is None:
            raise _wrong(field, f"{path} has no content", code="request-wrong-type")
        files[path] = data
    if sum(map(len, files.values())) > MAX_FILE_BYTES:
        raise _wrong(
            field, f"more than {MAX_FILE_BYTES} bytes", code="request-too-large"
        )
    return files


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


def encode(asked: Asked | Furnish | Signal) -> dict[str, object]:
    """The fields of the message that one of the above reads as ``asked``."""
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
        case Launch():
            return {
                "version": VERSION,
                "verb": "launch",
                "id": asked.id,
                "object_id": asked.object_id,
                "uri": asked.uri,
                "invited": asked.invited,
                "environment": dict(asked.environment),
                "umask": asked.umask,
                "descriptors": list(asked.descriptors),
            }
        case Furnish():
            return {
                "verb": "furnish",
                "display": asked.display,
                "cookie": _base64(asked.cookie),
                "files": {path: _base64(data) for path, data in asked.files.items()},
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
                "reason": asked.reason,
            }
        case Stats():
            more = {"memory": True} if asked.memory else {}
            return {"version": VERSION, "verb": "stats", **more}
        case Signal():
            return {"verb": "signal", "signal": asked.name}
        case _ as never:
            assert_never(never)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


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
    _refuse_count(names, n_fds)
    return names


def _refuse_count(names: tuple[str, ...], n_fds: int) -> None:
    if len(names) != n_fds:
        raise RequestError(
            f"field 'descriptors': {len(names)} are named, {n_fds} came",
            code="request-descriptors",
        )
