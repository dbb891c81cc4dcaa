# SPDX-License-Identifier: GPL-3.0-or-later
"""One bounded message and its descriptors over an AF_UNIX SOCK_SEQPACKET socket.

Here is the framing (one packet, one message), the only serializer of what anybody may
send (JSON, read strictly) and what the kernel says about the peer. What a message may
mean is in ``request.py``; nothing here acts on it. Whatever is wrong with a message is
a `WireError`, and then every descriptor that came with it is closed again.

On the wire a message is UTF-8 with a program's undecodable bytes as they are
(Python's ``surrogateescape``), so a byte costs a byte and argv survives exactly.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import WireError

if TYPE_CHECKING:
    from .request import Caller

VERSION = 1

MAX_MESSAGE = 128 * 1024
MAX_DEPTH = 16
MAX_INTEGER = 2**63 - 1

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_UCRED = struct.Struct("iII")
_SCM_MAX_FD = 253  # net/scm.h: more do not come with a message
_GETSOCKOPT_MOST = 1024  # CPython refuses a larger answer

# As plain numbers: what the module has is an enumeration, slow to combine.
_DONTWAIT, _NOSIGNAL, _CMSG_CLOEXEC, _CTRUNC, _TRUNC = map(
    int,
    (
        socket.MSG_DONTWAIT,
        socket.MSG_NOSIGNAL,
        socket.MSG_CMSG_CLOEXEC,
        socket.MSG_CTRUNC,
        socket.MSG_TRUNC,
    ),
)

# A string in one step (possessive, so that hostile input costs linear time even
# when the closing quote is missing), or a bracket outside strings.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who sent one message, as the kernel checked it (SCM_CREDENTIALS, unix(7))."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Message:
    """What came: ``fds`` are close-on-exec and belong to whoever received them.

    ``data`` is what ``fields`` were read from; where that was ``known`` to the receiver
    they have not been read, and are empty.
    """

    fields: dict[str, object]
    fds: tuple[int, ...] = ()
    credentials: Credentials | None = None
    data: bytes = b""

    def close(self) -> None:
        close_all(self.fds)


def encode(message: Mapping[str, object]) -> bytes:
    """Serialize ``message``; what does not fit one packet is refused here."""
    try:
        data = _ENCODER.encode(message).encode("utf-8", "surrogateescape")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(
            f"a message cannot be written: {error}", code="wire-not-serializable"
        ) from None
    if len(data) > MAX_MESSAGE:
        raise WireError(
            f"a message of {len(data)} bytes is larger than {MAX_MESSAGE}",
            code="wire-too-large",
            hint="pass fewer or shorter arguments and environment variables",
        )
    return data


def decode(data: bytes) -> dict[str, object]:
    """Read one message strictly: what JSON leaves open is refused, not guessed."""
    if len(data) > MAX_MESSAGE:
        raise _too_large()
    _refuse_depth(data)
    try:
        value: object = _DECODER.decode(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"a message is not strict JSON: {error}", code="wire-not-json"
        ) from None
    if not isinstance(value, dict):
        raise WireError(
            f"a message is a {type(value).__name__}, not an object",
            code="wire-not-object",
        )
    if not data.isascii() or b"\\u" in data:
        _refuse_odd_strings(value)
    return value


def send(
    sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()
) -> None:
    """Send one message; the sender keeps its descriptors.

    On a non-blocking socket whose queue is full: code ``wire-busy``, nothing sent.
    """
    if not _transmit(sock, encode(message), fds, 0):
        raise WireError("the other end does not take messages now", code="wire-busy")


def send_data(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """As `send`, of bytes that are no message of ours, and not larger than one."""
    if not _transmit(sock, data, fds, 0):
        raise WireError("the other end does not take messages now", code="wire-busy")


def try_send(
    sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()
) -> bool:
    """As `send`, but never waits: False when the queue is full and nothing was sent."""
    return _transmit(sock, encode(message), fds, _DONTWAIT)


def recv(
    sock: socket.socket, *, max_fds: int = 0, credentials: bool = False
) -> Message:
    """Receive one message and at most ``max_fds`` descriptors.

    The end of the connection is code ``wire-closed``; so is an empty packet, which
    the kernel does not tell from it. ``credentials`` wants `pass_credentials` before.
    """
    message = _receive(sock, max_fds, credentials, 0, None, _nothing)
    if message is None:
        raise WireError("no message came in time", code="wire-timeout")
    return message


def recv_data(sock: socket.socket, *, max_fds: int = 0) -> Message:
    """As `recv`, of what `send_data` sent: it has ``data``, and no ``fields``."""
    message = _receive(sock, max_fds, False, 0, None, _whatever)
    if message is None:
        raise WireError("no message came in time", code="wire-timeout")
    return message


def try_recv(
    sock: socket.socket,
    *,
    max_fds: int = 0,
    credentials: bool = False,
    discard: Callable[[list[int]], object] | None = None,
    known: Callable[[bytes], bool] | None = None,
) -> Message | None:
    """As `recv`, but never waits: None when there is no message yet.

    ``discard`` gets the descriptors of a message that is refused, all of them: to
    close one, or to have the kernel do it, may wait for whoever sent it. ``known``:
    whether such bytes were read before, and need not be once more.
    """
    known = known or _nothing
    return _receive(sock, max_fds, credentials, _DONTWAIT, discard, known)


def _nothing(data: bytes) -> bool:
    """Of what is known: no message is."""
    return False


def _whatever(data: bytes) -> bool:
    """Each is: it is somebody else's to read."""
    return True


def pass_credentials(sock: socket.socket) -> None:
    """Have the kernel add the sender's credentials to each message."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def peer_uid(sock: socket.socket) -> int:
    """The peer's effective uid when it connected, or when it began to listen."""
    return _peer_credentials(sock).uid


def peer(sock: socket.socket) -> Caller:
    """The kernel's word about who connected, supplementary groups included."""
    from .request import Caller

    ids = _peer_credentials(sock)
    return Caller(uid=ids.uid, gid=ids.gid, groups=_peer_groups(sock), pid=ids.pid)


def in_parts(
    event: str, key: str, items: Iterable[Mapping[str, object]]
) -> Iterator[dict[str, object]]:
    """Spread a list over as many messages as it needs.

    Each is ``{"event": event, key: [...], "more": bool}``, the last with false.
    """
    room = MAX_MESSAGE - 256
    part: list[Mapping[str, object]] = []
    size = 0
    for item in items:
        length = len(encode(item)) + 1
        if part and size + length > room:
            yield {"event": event, key: part, "more": True}
            part, size = [], 0
        part.append(item)
        size += length
    yield {"event": event, key: part, "more": False}


def close_all(fds: Iterable[int]) -> None:
    """Close each; one that is closed already does not keep the rest open."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            # The descriptor is gone after close() whatever it returns (close(2));
            # EBADF would be a mistake of ours that must not hide.
            if error.errno == errno.EBADF:
                raise


def _transmit(sock: socket.socket, data: bytes, fds: Sequence[int], flags: int) -> bool:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], rights, flags | _NOSIGNAL)
    except (BlockingIOError, TimeoutError):
        return False
    except OSError as error:
        raise _from_oserror(error) from None
    return True


def _receive(
    sock: socket.socket,
    max_fds: int,
    credentials: bool,
    flags: int,
    discard: Callable[[list[int]], object] | None,
    known: Callable[[bytes], bool],
) -> Message | None:
    room = max_fds if discard is None else _SCM_MAX_FD
    space = socket.CMSG_SPACE(4 * room) if room else 0
    if credentials:
        space += socket.CMSG_SPACE(_UCRED.size)
    try:
        data, ancillary, got, _ = _packet(sock, space, flags)
    except (BlockingIOError, TimeoutError):
        return None
    except OSError as error:
        raise _from_oserror(error) from None

    fds: list[int] = []
    sender: Credentials | None = None
    strange = False
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            rights = array("i")
            rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
            fds += rights
        elif (
            credentials
            and level == socket.SOL_SOCKET
            and kind == socket.SCM_CREDENTIALS
            and len(content) >= _UCRED.size
        ):
            pid, uid, gid = _UCRED.unpack_from(content)
            sender = Credentials(pid, uid, gid)
        else:
            strange = True

    try:
        # The alignment of the buffer may let more in than was meant, and what did
        # not fit is only told by MSG_CTRUNC: both are a sender that sent too many.
        if got & _CTRUNC and len(fds) < room == _SCM_MAX_FD:
            # There was room for as many as can be sent: it is we who had none.
            raise WireError(
                "a message came without its descriptors: no more can be opened here",
                code="wire-descriptors-lost",
                hint="wait until something has ended, and ask again",
            )
        if got & _CTRUNC or len(fds) > max_fds:
            raise WireError(
                f"a message carries more than {max_fds} descriptors",
                code="wire-too-many-descriptors",
            )
        if got & _TRUNC or len(data) > MAX_MESSAGE:
            raise _too_large()
        if strange:
            raise WireError(
                "a message carries ancillary data that is no descriptor",
                code="wire-strange-ancillary",
            )
        if credentials and sender is None and data:
            raise WireError(
                "a message came without credentials", code="wire-no-credentials"
            )
        if not data:
            raise WireError("the other end closed the connection", code="wire-closed")
        fields = {} if known(data) else decode(data)
        return Message(fields, tuple(fds), sender, data)
    except BaseException:
        (discard or close_all)(fds)
        raise


def _packet(
    sock: socket.socket, space: int, flags: int
) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    flags |= _CMSG_CLOEXEC
    try:
        return sock.recvmsg(MAX_MESSAGE + 1, space, flags)
    except ConnectionResetError:
        # A peer that hung up with mail unread: the kernel says so once, ahead of
        # what the peer has sent, which may be why it hung up.
        return sock.recvmsg(MAX_MESSAGE + 1, space, flags)


def _refuse_depth(data: bytes) -> None:
    """Bound nesting before parsing: the parser recurses once for each level."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise WireError(
                    f"a message is nested deeper than {MAX_DEPTH}",
                    code="wire-too-deep",
                )
        elif first in b"]}":
            depth -= 1


def _refuse_odd_strings(value: object) -> None:
    """Refuse text that is no bytes (a lone surrogate), or bytes spelt two ways."""
    if isinstance(value, str):
        if value.isascii():
            return
        try:
            raw = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raw = b""
        if raw.decode("utf-8", "surrogateescape") != value:
            raise WireError("a message holds a broken string", code="wire-bad-string")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_odd_strings(key)
            _refuse_odd_strings(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_odd_strings(item)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        # Two readers may each take another one of the two.
        raise ValueError("a field is given twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError("an integer is out of bounds")
    return number


def _float(digits: str) -> float:
    number = float(digits) if len(digits) <= 40 else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of bounds")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)


def _too_large() -> WireError:
    return WireError(
        f"a message is larger than {MAX_MESSAGE} bytes", code="wire-too-large"
    )


def _from_oserror(error: OSError) -> WireError:
    if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        return WireError("the other end closed the connection", code="wire-closed")
    if error.errno == errno.EMSGSIZE:
        return _too_large()
    return WireError(
        f"the connection failed: {os.strerror(error.errno or 0)}", code="wire-failed"
    )


def _peer_credentials(sock: socket.socket) -> Credentials:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError as error:
        raise _from_oserror(error) from None
    pid, uid, gid = _UCRED.unpack(raw)
    return Credentials(pid, uid, gid)


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    size = 128
    while True:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, size)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise _from_oserror(error) from None
            if size >= _GETSOCKOPT_MOST:
                # A shortened list is no subset of powers: a group may also deny.
                raise WireError(
                    f"the peer is in more than {size // 4} groups",
                    code="wire-too-many-groups",
                    hint="isolauncher cannot ask the kernel for a longer list",
                ) from None
            size = _GETSOCKOPT_MOST
        else:
            groups = array("I")
            groups.frombytes(raw)
            return tuple(groups)
