# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's other end: connects, asks, forwards signals, waits for the end.

Runs as the caller and with the caller's rights: whatever exists outside is opened
here, so that the daemon gets a descriptor and resolves no path. Prints nothing and
exits nothing; the command line does both.

    connect   a connection to the daemon, or to nobody who only claims to be it
    ask       one question, every message of the answer (ps, stop, stats)
    prepare   what was typed → the message of a launch and its descriptors
    prepare_bundle   the same for a Sugar bundle
    converse  sends it and stays until the program's end, over restarts of the daemon
    accompany   the same for a bundle, which its client furnishes and may leave alone
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from . import paths, request, wire
from .errors import (
    DaemonError,
    IsolauncherError,
    ProgramNotExecutable,
    ProgramNotFound,
    RequestError,
    WireError,
    from_fields,
)

# What passes through to the program, and which of them ask a waiting client to end.
FORWARDED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")
TERMINATING = frozenset({"HUP", "INT", "QUIT", "TERM"})

FIRST_RETRY = 0.05
LAST_RETRY = 1.0
HESITATION = 0.5
"""How long one who is told to end waits for a launch that may have succeeded: the
program can be heard of, by what it writes, before the daemon's word has come."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_START_HINT = (
    "start it with `sudo isolauncher daemon`, or as root add --standalone to run"
)


@dataclass(slots=True)
class Launch:
    """One launch, ready to send. ``fds`` are the standard three, then ours to close."""

    message: dict[str, object]
    fds: tuple[int, ...]
    dropped: tuple[str, ...] = ()

    def close(self) -> None:
        """Close what was opened for it; once is enough, twice does no harm."""
        opened, self.fds = self.fds[3:], self.fds[:3]
        wire.close_all(opened)


@dataclass(frozen=True, slots=True)
class End:
    """How it ended: the exit status to return, why not if it was not launched."""

    status: int
    report: dict[str, object] | None = None
    error: IsolauncherError | None = None

    def reason(self) -> str:
        """The line of whoever stopped it, or of why it was not launched; or ""."""
        if self.error is not None:
            return self.error.line()
        exited = (self.report or {}).get("exit")
        reason = exited.get("reason") if isinstance(exited, dict) else None
        return reason if isinstance(reason, str) else ""


def connect(path: str | None = None, *, wait: bool = True) -> socket.socket:
    """Connect to the daemon's socket and see that root or oneself listens there.

    The descriptors that follow are worth something to whoever sits at the other end.
    Without ``wait``, a daemon with a full queue is `BlockingIOError`.
    """
    where = path or paths.socket()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(wait)
        try:
            sock.connect(where)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _unreachable(where, error) from None
        uid = wire.peer_uid(sock)
        if uid not in (0, os.geteuid()):
            raise DaemonError(
                f"{where} is served by uid {uid}, neither by root nor by you",
                code="daemon-not-trusted",
                hint=f"unset {paths.SOCKET_VARIABLE} to reach this machine's daemon",
            )
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


def ask(
    message: Mapping[str, object], *, path: str | None = None
) -> Iterator[dict[str, object]]:
    """Ask one question and yield every message of the answer."""
    with connect(path) as sock:
        try:
            wire.send(sock, message)
        except WireError as error:
            if error.code != "wire-closed":  # else why it hung up is to be read
                raise
        while True:
            try:
                reply = wire.recv(sock).fields
            except WireError as error:
                if error.code != "wire-closed":
                    raise
                raise DaemonError(
                    "the daemon closed the connection without an answer",
                    code="daemon-no-answer",
                    hint="see its log",
                ) from None
            if reply.get("event") == "refused":
                raise refusal(reply)
            yield reply
            if reply.get("more") is not True:
                return


def prepare(
    arguments: Sequence[str],
    *,
    module: bool = False,
    policy: str | None = None,
    id: str | None = None,
    setenv: Mapping[str, str] | None = None,
    tier: str | None = None,
) -> Launch:
    """Open as the caller what a launch names, and write its message.

    ``arguments[0]`` is the program, or the module. ``policy`` is a file if it has a
    slash or ends in ``.toml``, else a name. The caller closes the result.
    """
    environment, dropped = own_environment()
    names = ["stdin", "stdout", "stderr"]
    fds = [0, 1, 2]
    program = arguments[0] if arguments else ""
    kind = "module" if module else "file" if "/" in program else "name"
    try:
        if kind == "file":
            fds.append(_open_program(program))
            names.append("program")
        directory = _open_directory()
        if directory is not None:
            fds.append(directory)
            names.append("cwd")
        from_file = policy is not None and ("/" in policy or policy.endswith(".toml"))
        if policy is not None and from_file:
            fds.append(_open_policy(policy))
            names.append("policy")
    except BaseException:
        wire.close_all(fds[3:])
        raise
    return Launch(
        message={
            "version": wire.VERSION,
            "verb": "run",
            "id": id,
            "program_kind": kind,
            "argv": [_text(argument) for argument in arguments],
            "policy": None if from_file else policy,
            "tier": tier,
            "environment": environment,
            "setenv": {k: _text(v) for k, v in (setenv or {}).items()},
            "umask": _umask(),
            "tied": True,
            "descriptors": names,
        },
        fds=tuple(fds),
        dropped=dropped,
    )


def converse(
    sock: socket.socket,
    launch: Launch,
    *,
    reconnect: Callable[[], socket.socket] | None,
    tell: Callable[[str], None],
) -> End:
    """Launch over ``sock``, forward signals, and return how the program ended.

    Closes ``sock``. ``reconnect`` makes a new connection without waiting; None: the
    daemon of this connection is the only one there is. ``tell`` gets a line for a
    person when the daemon goes away or is back.
    """
    with _Signals() as signals:
        talk = _Conversation(sock, signals, reconnect, tell)
        try:
            try:
                wire.send(sock, launch.message, launch.fds)
            except WireError as error:
                if error.code == "wire-closed":
                    # A daemon that refuses before reading has left its reason here.
                    return talk.until_the_end()
                raise _explained(error, launch) from None
            launch.close()
            return talk.until_the_end()
        finally:
            talk.hang_up()


def prepare_bundle(
    bundle: str,
    *,
    id: str | None = None,
    object_id: str | None = None,
    uri: str | None = None,
    invited: bool = False,
    environment: Mapping[str, str] | None = None,
    streams: tuple[int, int, int] = (0, 1, 2),
) -> Launch:
    """Open the directory ``bundle`` as the caller, and write the message of its launch.

    ``environment`` None: this process's own. The caller closes the result.
    """
    own, dropped = own_environment() if environment is None else (environment, ())
    try:
        fd = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ProgramNotFound(
            f"{bundle}: there is no such bundle",
            code="bundle-not-found",
            hint="name its directory, or the id of a bundle that is installed",
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ProgramNotExecutable(
            f"{bundle} cannot be opened: {why}", code="bundle-not-permitted"
        ) from None
    asked = request.Launch(
        id=id,
        object_id=object_id,
        uri=uri,
        invited=invited,
        environment=own,
        umask=_umask(),
        descriptors=request.BUNDLE_DESCRIPTORS,
    )
    return Launch(
        message=request.encode(asked), fds=(*streams, fd), dropped=tuple(dropped)
    )


@dataclass(frozen=True, slots=True)
class Furniture:
    """The answer to what was granted; ``fds`` are closed once they are sent."""

    message: Mapping[str, object]
    fds: tuple[int, ...]


def accompany(
    sock: socket.socket,
    launch: Launch,
    *,
    furnish: Callable[..., Furniture],
    started: Callable[[Mapping[str, object]], None],
    reconnect: Callable[[], socket.socket],
    tell: Callable[[str], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> End:
    """Launch a bundle over ``sock`` and return how it ended. Closes ``sock``.

    ``meanwhile`` is called when the daemon has been asked, ``furnish`` with what it
    grants, and once more with a directory to work in if the first one will not do;
    ``started`` with its word that the activity runs. No signal is passed on, so that
    any thread may do this: what happens to it does not concern the activity.
    """
    with _Nobody() as signals:
        talk = _Conversation(sock, signals, reconnect, tell, furnish, started)
        try:
            try:
                wire.send(sock, launch.message, launch.fds)
            except WireError as error:
                if error.code != "wire-closed":
                    raise _explained(error, launch) from None
            launch.close()
            meanwhile()
            return talk.until_the_end()
        finally:
            talk.hang_up()


def attend(
    sock: socket.socket,
    id: str,
    *,
    started: Callable[[Mapping[str, object]], None],
    reconnect: Callable[[], socket.socket],
    tell: Callable[[str], None],
) -> End:
    """How the activity ``id``, which somebody else has launched, ends."""
    with _Nobody() as signals:
        talk = _Conversation(sock, signals, reconnect, tell, None, started)
        try:
            with suppress(WireError):  # why it hung up is to be read
                wire.send(sock, {"version": wire.VERSION, "verb": "attach", "id": id})
            return talk.until_the_end()
        finally:
            talk.hang_up()


def refusal(reply: Mapping[str, object]) -> IsolauncherError:
    """The error that a ``refused`` event tells of."""
    return from_fields({"message": "refused", "step": "launch", **reply})


@dataclass(slots=True)
class _Conversation:
    """One launch over one or, when the daemon restarts, several connections."""

    sock: socket.socket | None
    signals: _Signals | _Nobody
    reconnect: Callable[[], socket.socket] | None
    tell: Callable[[str], None]
    furnish: Callable[..., Furniture] | None = None
    started: Callable[[Mapping[str, object]], None] | None = None
    id: str | None = None
    # Signals wait until the daemon has something to deliver them to.
    listening: bool = False
    waiting: list[str] = field(default_factory=list)
    retry_at: float = 0.0
    retry_after: float = FIRST_RETRY
    lost: bool = False
    give_up_at: float | None = None

    def until_the_end(self) -> End:
        while True:
            self._wait()
            for name in self.signals.arrived():
                self._take(name)
            if self.sock is None:
                self._try_again()
            elif self.give_up_at is not None and time.monotonic() >= self.give_up_at:
                name = next(n for n in self.waiting if n in TERMINATING)
                raise self._interrupted(name)
            else:
                try:
                    message = wire.try_recv(self.sock, max_fds=1)
                    if message is not None:
                        end = self._hear(message.fields, message.fds)
                        if end is not None:
                            return end
                    self._forward()
                except WireError as error:
                    if error.code != "wire-closed":
                        raise
                    self._lose()

    def hang_up(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.signals.fd, select.POLLIN)
        timeout: float | None = None
        if self.sock is None:
            timeout = max(0.0, self.retry_at - time.monotonic()) * 1000
        else:
            if self.give_up_at is not None:
                timeout = max(0.0, self.give_up_at - time.monotonic()) * 1000
            full = self.listening and bool(self.waiting)
            poll.register(self.sock, select.POLLIN | (select.POLLOUT if full else 0))
        poll.poll(timeout)

    def _take(self, name: str) -> None:
        if name in TERMINATING and not self.listening:
            if self.sock is None or self.lost or self.give_up_at is not None:
                raise self._interrupted(name)
            self.give_up_at = time.monotonic() + HESITATION
        if name not in self.waiting:  # as the kernel: one of a kind is pending
            self.waiting.append(name)

    def _interrupted(self, name: str) -> DaemonError:
        if self.lost:
            return DaemonError(
                f"SIG{name} came while the daemon was away; how {self.id} ends "
                "will not be known",
                code="client-interrupted",
                hint="the daemon ends it when it is back",
            )
        return DaemonError(
            f"SIG{name} came before the program ran; the launch is given up",
            code="client-interrupted",
            step="launch",
        )

    def _hear(self, fields: Mapping[str, object], fds: tuple[int, ...]) -> End | None:
        event = fields.get("event")
        report = fields.get("report")
        found = report if isinstance(report, dict) else None
        if self.lost:
            self.tell("the daemon is back")
            self.lost = False
        self.retry_after = FIRST_RETRY
        if event == "started":
            again = self.id is not None
            self.id = _string(fields, "id", "")
            self.listening = True
            self.give_up_at = None
            if self.started is not None and not again:
                self.started(fields)
            return None
        if (
            event in ("granted", "copy")
            and self.furnish is not None
            and self.sock is not None
        ):
            try:
                brought = self.furnish(fields, *fds)
            finally:
                wire.close_all(fds)
            try:
                wire.send(self.sock, brought.message, brought.fds)
            finally:
                wire.close_all(brought.fds)
            return None
        if event == "exited":
            return End(_status(fields), found)
        if event == "refused":
            error = refusal(fields)
            return End(error.exit_status, found, error)
        wire.close_all(fds)
        raise DaemonError(
            "the daemon said something that this client does not understand",
            code="daemon-unknown-event",
            hint="restart the older of the two after an upgrade",
        )

    def _forward(self) -> None:
        while self.listening and self.waiting and self.sock is not None:
            message = {"verb": "signal", "signal": self.waiting[0]}
            try:
                if not wire.try_send(self.sock, message):
                    return
            except WireError as error:
                if error.code != "wire-closed":
                    raise
                return  # its last words are still to be read; then comes the end
            del self.waiting[0]

    def _lose(self) -> None:
        """The connection broke: what runs goes on, what did not run yet never will."""
        self.hang_up()
        if not self.id:
            raise DaemonError(
                "the daemon went away before the program ran",
                code="daemon-went-away",
                hint="see its log",
            )
        if self.reconnect is None:
            raise DaemonError(
                f"the standalone daemon went away; how {self.id} ended is not known",
                code="daemon-went-away",
            )
        if not self.lost:
            self.tell(f"the daemon went away; {self.id} runs on, waiting for it")
        self.lost = True
        self.listening = False
        self.give_up_at = None
        self._later()

    def _later(self) -> None:
        self.retry_at = time.monotonic() + self.retry_after
        self.retry_after = min(LAST_RETRY, self.retry_after * 2)

    def _try_again(self) -> None:
        if self.reconnect is None or time.monotonic() < self.retry_at:
            return
        try:
            sock = self.reconnect()
        except BlockingIOError:
            self._later()
            return
        except DaemonError as error:
            if error.code == "daemon-not-trusted":
                raise
            self._later()
            return
        self.sock = sock
        try:
            wire.send(sock, {"version": wire.VERSION, "verb": "attach", "id": self.id})
        except WireError as error:
            if error.code != "wire-closed":
                raise
            # Read next: either why it was refused, or that it has gone again.


class _Nobody:
    """In the place of `_Signals`: none arrives."""

    def __init__(self) -> None:
        self.fd = -1

    def __enter__(self) -> _Nobody:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)

    def arrived(self) -> Iterator[str]:
        return iter(())


class _Signals:
    """Catches what is to be passed on; what the caller ignores stays ignored."""

    def __init__(self) -> None:
        self.fd = -1
        self._writer = -1
        self._before: dict[signal.Signals, object] = {}
        self._wakeup = -1

    def __enter__(self) -> _Signals:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for name in FORWARDED:
            number = signal.Signals[f"SIG{name}"]
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # nohup means what it says
                self._before[number] = before
                signal.signal(number, _caught)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        wire.close_all((self.fd, self._writer))

    def arrived(self) -> Iterator[str]:
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            name = signal.Signals(number).name.removeprefix("SIG")
            if name in FORWARDED:
                yield name


def _caught(number: int, frame: FrameType | None) -> None:
    """Nothing: the interpreter has written the number to the wakeup descriptor."""


def _explained(error: WireError, launch: Launch) -> IsolauncherError:
    """Name what takes the room when a request is larger than a message can be."""
    environment = launch.message.get("environment")
    if error.code != "wire-too-large" or not isinstance(environment, dict):
        return error
    largest = sorted(environment, key=lambda name: -len(environment[name]))[:3]
    return RequestError(
        f"arguments and environment take more than {wire.MAX_MESSAGE} bytes",
        code="request-too-large",
        hint="shorten the arguments, or unset what is largest of the environment: "
        + ", ".join(largest),
    )


def _unreachable(where: str, error: OSError) -> DaemonError:
    if error.errno == errno.ENOENT:
        why, code = "there is no such socket", "daemon-not-running"
    elif error.errno == errno.ECONNREFUSED:
        why, code = "nobody listens there", "daemon-not-running"
    elif error.errno in (errno.EACCES, errno.EPERM):
        return DaemonError(
            f"the daemon cannot be reached at {where}: you may not connect to it",
            code="daemon-not-permitted",
            hint="its directory and socket must let you in",
        )
    else:
        # Without a number where the path is longer than an address of a socket.
        why, code = error.strerror or str(error), "daemon-unreachable"
    return DaemonError(
        f"the daemon cannot be reached at {where}: {why}", code=code, hint=_START_HINT
    )


def _open_program(program: str) -> int:
    """Hold the program by O_PATH, which needs no right to read or execute it."""
    try:
        fd = os.open(program, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ProgramNotFound(
            f"{program}: there is no such file", code="program-not-found"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ProgramNotExecutable(
            f"{program} cannot be opened: {why}",
            code="program-not-permitted",
            hint="you need search permission on every directory of its path",
        ) from None
    return fd


def _open_directory() -> int | None:
    """The working directory; None when it is gone or out of reach."""
    try:
        fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # removed: it can be opened by ".", but no path leads there
    return None


def _open_policy(file: str) -> int:
    # O_NONBLOCK: a FIFO named by mistake is refused later instead of waited for.
    # O_NOFOLLOW: as everywhere else a policy is no link, which somebody else may own.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
    try:
        return os.open(file, flags)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        if os.path.islink(file):
            why = "it is a symbolic link"
        raise RequestError(
            f"the policy file {file} cannot be opened: {why}",
            code="policy-not-readable",
            hint="a name without '/' and '.toml' names an installed policy",
            step="policy",
        ) from None


def own_environment() -> tuple[dict[str, str], tuple[str, ...]]:
    """The caller's variables, and the names that no policy could keep.

    Shells export functions under names such as ``BASH_FUNC_x%%``.
    """
    kept: dict[str, str] = {}
    dropped: list[str] = []
    for raw, value in os.environb.items():
        name = raw.decode("utf-8", "surrogateescape")
        if len(name) <= 256 and _VARIABLE.fullmatch(name):
            kept[name] = value.decode("utf-8", "surrogateescape")
        else:
            dropped.append(name)
    return kept, tuple(dropped)


def _text(argument: str) -> str:
    """The bytes of an argument in the wire's spelling, whatever the locale's is."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _string(fields: Mapping[str, object], name: str, default: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else default


def _status(fields: Mapping[str, object]) -> int:
    """What isolauncher returns: the program's own, or 128+N for signal N."""
    status, number = fields.get("status"), fields.get("signal")
    if type(status) is int and 0 <= status <= 255:
        return status
    if type(number) is int and 0 < number < 128:
        return 128 + number
    raise DaemonError(
        "the daemon told of an end without a status", code="daemon-unknown-event"
    )
