# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy's own [[expect]]: what is tried for each, and what has to hold outside.

That something is refused inside says nothing of the policy where it does not work
outside either. So whoever launches tries the same outside first, as far as that is
harmless, and for a `connect` somebody is made to answer.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from .. import devices, kernel
from ..policy.model import IN_HOME, Expect, Policy
from ..report import Proof, Result
from . import probe
from .caller import Case, as_caller

MOST_PROCESSES = 5000
"""More are not started for a trial: who expects them refused has a lower limit."""

_UNIT = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_LAST = ("fork", "allocate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One expectation. ``words`` are the probe's; ``outside`` is [result, why] of the
    same as the caller; ``allowed`` says where, if it is; ``untried`` says why it is not
    tried at all."""

    expect: Expect
    words: tuple[str, ...]
    outside: tuple[str, str] = ("allowed", "")
    allowed: str = ""
    untried: str = ""


@contextmanager
def trials(case: Case, variables: Mapping[str, str]) -> Iterator[list[Trial]]:
    """What to try for each expectation of the policy, with all that has to answer."""
    wanted = case.policy.expects
    _put_in_home(case, variables, wanted)
    with _answering(wanted):
        yield [_trial(expect, case, variables) for expect in wanted]


def variables(policy: Policy) -> dict[str, str]:
    """Names that expectations ask for: in the caller's environment they are there."""
    names = [e.argument[0] for e in policy.expects if e.verb == "getenv"]
    return dict.fromkeys(names, "1")


def in_order(asked: Sequence[Trial]) -> list[int]:
    """Indices of those that are tried: what uses something up comes last."""
    known = [n for n, trial in enumerate(asked) if not trial.untried]
    return sorted(known, key=lambda n: asked[n].expect.verb in _LAST)


def judge(trial: Trial, said: Sequence[str] | None) -> Proof:
    """What was expected, against [result, why] of inside."""
    expect = trial.expect
    tried = " ".join((expect.verb, *expect.argument))
    if trial.untried or said is None:
        why = trial.untried or "the probe has ended before"
        return _proof(expect, "untried", f"{tried}: {why}")
    found, reason = said
    if found == "allowed":
        reason = reason or trial.allowed
    what = f"{tried} is {found}" + (f" ({reason})" if reason else "")
    elsewhere, outside_why = trial.outside
    nor = f"{what}, and outside it is {elsewhere} too"
    nor += f" ({outside_why})" if outside_why else ""
    if found == "untried":
        return _proof(expect, "untried", f"{tried}: {reason}")
    if found == expect.result:
        if found == elsewhere == "absent" and _is_of_home(expect):
            return _proof(expect, "untried", nor)
        if found == "refused" and elsewhere != "allowed" and expect.verb in _PROVED:
            return _proof(expect, "untried", nor)
        return _proof(expect, "proved", what)
    if found != "allowed" and elsewhere not in ("allowed", expect.result):
        return _proof(expect, "untried", nor)
    return _proof(expect, "failed", f"{what}, not {expect.result}")


_PROVED = ("connect", "bind", "resolve", "call")
"""Where a refusal counts only if the same works outside."""


def _is_of_home(expect: Expect) -> bool:
    """Whether it is about what `_put_in_home` has to see to."""
    return expect.argument[0].startswith(IN_HOME)


def _proof(expect: Expect, result: Result, detail: str) -> Proof:
    where = f"{expect.origin.file}:{expect.origin.line}"
    return Proof(
        claim=f"expect: {expect.that}",
        result=result,
        detail=f"{detail} ({where})",
        key="expect",
    )


# ----------------------------------------------------------------------------- trials


def _trial(expect: Expect, case: Case, variables: Mapping[str, str]) -> Trial:
    verb, argument = expect.verb, expect.argument
    match verb:
        case "connect" | "bind":
            return _address(expect, case, variables)
        case "resolve":
            return _as_outside(expect, (verb, *argument), case, variables)
        case "call":
            words = (verb, argument[0], *_method(case.policy, argument[0]))
            return _as_outside(expect, words, case, variables)
        case "open":
            return _device(expect, case)
        case "fork":
            number = int(argument[0])
            why = f"more than {MOST_PROCESSES} are not tried"
            why = why if number > MOST_PROCESSES else ""
            return Trial(expect=expect, words=(verb, str(number)), untried=why)
        case "allocate":
            return _allocation(expect)
        case "getenv":
            return Trial(expect=expect, words=(verb, *argument))
        case _:
            return _file(expect, case, variables)


def _put_in_home(
    case: Case, variables: Mapping[str, str], wanted: Sequence[Expect]
) -> None:
    """What expectations name in the caller's home, which is empty else."""
    files = {"read": 0o600, "exec": 0o700}
    named = [
        (e.verb, _path(e.argument[0], variables)) for e in wanted if _is_of_home(e)
    ]

    def make() -> None:
        for verb, path in named:
            top = path if verb == "list" else os.path.dirname(path)
            os.makedirs(top, mode=0o700, exist_ok=True)
        for verb, path in named:
            if verb in files and not os.path.lexists(path):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, files[verb]))

    if named:
        as_caller(case.caller, variables, make)


def _path(path: str, variables: Mapping[str, str]) -> str:
    if path.startswith(IN_HOME):
        return f"{variables['HOME']}/{path.removeprefix(IN_HOME)}"
    return path


def _as_outside(
    expect: Expect, words: tuple[str, ...], case: Case, variables: Mapping[str, str]
) -> Trial:
    """With what the caller itself gets outside: none of these does any harm."""
    verb, *argument = words
    said = as_caller(case.caller, variables, partial(probe.tried, verb, argument))
    outside = ("untried", "it could not be tried") if said is None else tuple(said)
    return Trial(expect=expect, words=words, outside=outside)


def _address(expect: Expect, case: Case, variables: Mapping[str, str]) -> Trial:
    kind, where = expect.argument
    try:
        number = where if kind == "unix" else numbers(where)
    except OSError as error:
        why = f"nobody knows the address here: {error}"
        return Trial(expect=expect, words=(), untried=why)
    if expect.verb == "bind" and kind == "unix" and not where.startswith("@"):
        # A file would be made; that it could is told by its directory.
        there = _may(case, os.path.dirname(where), os.W_OK | os.X_OK)
        return Trial(expect=expect, words=("bind", kind, where), outside=there)
    trial = _as_outside(expect, (expect.verb, kind, number), case, variables)
    # Abstract names (unix(7)) are a network's as well, others a file system's.
    if where.startswith("/") or case.policy.network == "host":
        return trial
    return replace(trial, allowed="in a network of its own")


def numbers(where: str) -> str:
    """HOST:PORT with the host's address for its name; OSError for one unknown."""
    host, _, port = where.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _method(policy: Policy, name: str) -> tuple[str, str]:
    """(method, path) of a call that the policy lets through, if any."""
    for rule in policy.bus.session_call:
        owner, _, allowed = rule.partition("=")
        if owner == name:
            return method_of(allowed)
    return f"{probe.DRIVER}.Peer.Ping", "/"


def method_of(rule: str) -> tuple[str, str]:
    """One method and path that a rule ``METHOD@/PATH`` covers."""
    method, _, path = rule.partition("@")
    path = path.removesuffix("/*") or "/"
    if method == "*":
        return f"{probe.DRIVER}.Peer.Ping", path
    return method.replace(".*", ".IsolauncherLive"), path


def _device(expect: Expect, case: Case) -> Trial:
    (name,) = expect.argument
    kinds = [kind for kind in devices.KINDS[name] if not kind.aside]
    nodes = [node for kind in kinds for node in sorted(glob.glob(kind.pattern))]
    if nodes:
        # To open one does things, and others may hear of it.
        said = [_may(case, node, os.R_OK) for node in nodes]
        outside = max(said, key=lambda one: one[0] == "allowed")
    else:
        outside = ("absent", "this machine has none")
    # Those that a machine with one has.
    usual = [k.pattern.replace("C*D*", "C0D0").replace("*", "0") for k in kinds]
    return Trial(expect=expect, words=("open", *(nodes or usual)), outside=outside)


def _allocation(expect: Expect) -> Trial:
    (size,) = expect.argument
    number = int(size.rstrip("KMG")) * _UNIT[size[-1] if size[-1] in "KMG" else ""]
    spare = _available()
    why = f"this machine has {spare} bytes to spare, and they stay so"
    return Trial(
        expect=expect,
        words=("allocate", str(number)),
        untried=why if number > spare * 3 // 4 else "",
    )


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        words = dict(line.split(":", 1) for line in file)
    return int(words["MemAvailable"].split()[0]) * 1024


def _file(expect: Expect, case: Case, variables: Mapping[str, str]) -> Trial:
    path, verb = _path(expect.argument[0], variables), expect.verb
    rights = {"read": os.R_OK, "list": os.R_OK, "exec": os.X_OK, "write": os.W_OK}
    place = path
    if verb == "write" and not os.path.lexists(path):
        place = os.path.dirname(path)
    outside = _may(case, place, rights[verb])
    return Trial(expect=expect, words=(verb, path), outside=outside)


def _may(case: Case, path: str, rights: int) -> tuple[str, str]:
    if not os.path.lexists(path):
        return "absent", "it does not exist"
    may = as_caller(case.caller, {}, lambda: os.access(path, rights))
    return ("allowed", "") if may else ("refused", f"uid {case.caller.uid} may not")


# ------------------------------------------------------------------- who has to answer


@contextmanager
def _answering(wanted: Sequence[Expect]) -> Iterator[None]:
    """Somebody answers at each local address that is to be connected to."""
    with contextlib.ExitStack() as stack:
        listening: list[socket.socket] = []
        for expect in wanted:
            if expect.verb == "connect":
                with contextlib.suppress(OSError):
                    kind, where = expect.argument
                    sock = _listen(kind, where, stack)
                    listening.append(sock)
                    stack.callback(sock.close)
        if listening:
            stack.enter_context(_child(partial(_answer, listening)))
        yield


def _listen(kind: str, where: str, stack: contextlib.ExitStack) -> socket.socket:
    """A socket there; OSError where somebody listens already, or nobody can."""
    sock, to = probe.address(kind, where if kind == "unix" else numbers(where))
    try:
        if kind == "unix" and not where.startswith("@"):
            _make(sock, where, stack)
        elif kind == "unix" or _is_loopback(to[0]):
            if kind == "tcp":
                # Of an earlier trial's connections the kernel remembers a minute.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(to)
        else:
            raise OSError("not of this machine alone")
        if kind != "udp":
            sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return sock


def _make(sock: socket.socket, where: str, stack: contextlib.ExitStack) -> None:
    """A socket that whoever launches can connect to.

    By its directory's descriptor, and with its mode from the start: a path could lead
    root elsewhere meanwhile, where the directory is somebody else's.
    """
    top, name = os.path.split(where)
    directory = os.open(top, os.O_PATH | os.O_DIRECTORY)
    stack.callback(os.close, directory)
    mask = os.umask(0)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{name}")
    finally:
        os.umask(mask)
    stack.callback(_unlink, name, directory)


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


@contextmanager
def _child(work: Callable[[], None]) -> Iterator[None]:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            kernel.end_with(parent, signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _answer(listening: Sequence[socket.socket]) -> None:
    while True:
        for sock in select.select(listening, [], [])[0]:
            with contextlib.suppress(OSError):
                if sock.type == socket.SOCK_DGRAM:
                    data, sender = sock.recvfrom(4096)
                    sock.sendto(data, sender)
                else:
                    sock.accept()[0].close()
