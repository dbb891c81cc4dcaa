# SPDX-License-Identifier: GPL-3.0-or-later
"""Reopens what a policy or a caller names, with the caller's own rights.

This is an opener, from its fork on: it takes the caller's uid, gid and groups for
good, opens each path with the access the plan needs, and sends the descriptors back;
how the daemon comes by one and asks it is in opener.py. It looks through no mount of
its own making: it runs in the host's mount namespace. Asked again before a prepared
room is used, it says whether all is as it was then.

A symbolic link on the way is followed only where root alone could have put it. Else
an activity that may write in a directory could lead its next launch elsewhere.
"""

from __future__ import annotations

import errno
import fnmatch
import gc
import os
import posixpath
import signal
import socket
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NoReturn

from . import bundledir, kernel, ways, wire
from .errors import (
    IsolauncherError,
    ProgramNotExecutable,
    RequestError,
    StepError,
    WireError,
)
from .request import Caller
from .zygote import filling

PATIENCE_S = 5
MAX_LINKS = 40
MAX_OPENED = 200
MAX_CHECKED = 8

Kind = Literal["own-directory", "readable-directory", "socket", "pipe"]
"""What a descriptor must be to the caller who sent it; see `Opener.ask_check`."""

_LINUX = kernel.Linux()


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A host path that a policy shows, and whether it may be written.

    ``device``: character devices instead, the last part of the path being a glob.
    """

    path: str
    writable: bool
    device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was found. ``fd`` is O_PATH and the receiver's; -1 for links and refusals.

    ``public``: everyone may read it (and search, if a directory). ``why`` says why a
    path is not there. ``device`` and ``inode`` are stat(2)'s, ``number`` its st_rdev.
    """

    path: str
    kind: Literal["directory", "file", "device", "link", "absent"]
    writable: bool = False
    target: str = ""
    why: str = ""
    owner: int = -1
    public: bool = False
    device: int = -1
    inode: int = -1
    number: int = -1
    fd: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program's file as the caller may use it.

    ``fd`` is open for reading, or -1 where a file is not readable or where a person's
    program (FUSE) would be asked when it is closed.
    """

    readable: bool
    executable: bool
    owner: int
    public: bool
    fd: int = -1


def serve(sock: socket.socket) -> NoReturn:
    """Fork an opener for each channel; it ends with the daemon's end of the socket."""
    try:
        # The daemon's handlers would write a signal's number into the event loop's
        # own pipe, which the fork shares: a caller's SIGTERM would end the daemon.
        _LINUX.reset_signals()
        _LINUX.close_except(frozenset((2, sock.fileno())))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        kernel.title(_TITLE)
        _settle()
        while True:
            try:
                message = wire.recv(sock, max_fds=1)
            except WireError:
                return  # type: ignore[misc] # by the door below
            if os.fork() == 0:
                sock.close()
                _child(
                    socket.socket(fileno=message.fds[0]),
                    rehearse=message.fields["rehearse"] is True,
                )
            message.close()
    finally:
        os._exit(0)


_TITLE = "isolauncher: opener"
_OFTEN = 20


def _settle() -> None:
    """Before the first fork: what is written here no opener has to, and to copy.

    The interpreter's notes on how to run this code best (PEP 659), and the free places
    between objects. What the daemon had made until then is never taken apart.
    """
    with suppress(Exception):  # an opener's work will say what stands in the way
        for _ in range(_OFTEN):
            _rehearse()
    gc.collect()
    filling.fill()
    gc.freeze()


def _rehearse() -> None:
    """As an opener's work, at a place that is root's own: it is still root."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    usr = os.open("/usr", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answers = _Answers()
        for question, sent in (
            ({"wants": _REHEARSED, "again": True}, []),
            ({"wants": None}, []),
            ({"wants": [], "check": [["root", "readable-directory"]]}, [usr]),
            ({"bundle": ["sh", "/usr/bin"]}, [usr]),
            ({"bundle": None}, [usr]),
        ):
            fds: list[int] = []
            wire.send(ours, question, sent)
            message = wire.recv(its, max_fds=MAX_CHECKED)
            with suppress(IsolauncherError):  # it is no bundle
                wire.send(its, answers.to(message, fds), fds)
                wire.recv(ours, max_fds=MAX_OPENED).close()
            wire.close_all(fds)
            message.close()
    finally:
        os.close(usr)
        ours.close()
        its.close()


_REHEARSED = [[p, False, False] for p in ("/usr", "/bin", "/bin/sh", "/nowhere")]


def _child(sock: socket.socket, *, rehearse: bool) -> NoReturn:
    try:
        _LINUX.close_except(frozenset((2, sock.fileno())))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.title(f"{_TITLE}, spare")
        own = os.pidfd_open(os.getpid())
        wire.send(sock, {"event": "opener"}, [own])
        os.close(own)
        if rehearse:
            # Its memory is its own then. Its work will say what stands in the way.
            with suppress(Exception):
                _rehearse()
        try:
            ids = wire.recv(sock).fields
        except WireError:
            _leave()  # nobody needs it any more
        become(Caller(**{**ids, "groups": tuple(ids["groups"]), "pid": 0}))  # type: ignore[arg-type]
        # The change of uid did that, unless fs.suid_dumpable says otherwise: nobody
        # with this uid may look into a copy of the daemon's memory, core dumps
        # included.
        _LINUX.set_dumpable(dumpable=False)
        answers = _Answers()
        named = False
        while True:
            try:
                message = wire.recv(sock, max_fds=MAX_CHECKED)
            except WireError:
                _leave()
            signal.alarm(PATIENCE_S + 1)
            fds: list[int] = []
            try:
                # Its other descriptors stay open: to close one may wait for the caller.
                answer = answers.to(message, fds)
            except Exception as e:
                if not isinstance(e, IsolauncherError):
                    text = f"{type(e).__name__}: {e}"
                    e = StepError(text, step="open-as-caller", code="open-failed")
                answer, fds = e.as_fields(), []
            wire.send(sock, answer, fds)
            wire.close_all(fds)
            if not {"check", "bundle"} & message.fields.keys():
                # A program's file: who has many opened one after the other has no more
                # of them held than one. Whoever makes us wait here makes himself wait.
                message.close()
            signal.alarm(0)
            if not named:
                # Not before: somebody waits for the answer, and nobody for this.
                kernel.title(f"{_TITLE}({ids['uid']})")
                named = True
    finally:
        os._exit(0)


def _leave() -> NoReturn:
    """End when nobody else has a use for the processor (SCHED_IDLE, sched(7)).

    To take a process down keeps the kernel busy for milliseconds, and a launch is under
    way just then.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os._exit(0)


class _Answers:
    """What one opener has opened, to be compared with later."""

    def __init__(self) -> None:
        self._before: list[tuple[Want, list[Opened], _Straight | None]] = []
        self._ways: _Ways = None

    def to(self, message: wire.Message, fds: list[int]) -> Mapping[str, object]:
        """The answer; what is to go with it is added to ``fds``."""
        if "bundle" in message.fields:
            return _bundle(message, fds)
        if "ways" in message.fields:
            return {"ways": self._told_ways(fds, again=bool(message.fields["ways"]))}
        asked = message.fields["wants"]
        told = []
        same = False
        if asked is None:
            same = self._all_same()
        elif asked:
            assert isinstance(asked, list)  # noqa: S101 (our own words)
            wants = [Want(path=p, writable=w, device=d) for p, w, d in asked]
            found = [list(_follow(want)) for want in wants]
            if message.fields["again"]:
                self._before = [
                    (want, entries, _straight_way(want, entries))
                    for want, entries in zip(wants, found, strict=True)
                ]
            told = [_fields(entry, fds) for entry in _once(found)]
        if "check" in message.fields:
            for (name, kind), fd in zip(
                message.fields["check"],  # type: ignore[call-overload] # our own words
                message.fds,
                strict=True,
            ):
                _check(name, kind, fd)
                if kind == "pipe":
                    # Whoever waits for its end does not wait for ours.
                    os.close(fd)
            return {"opened": told, "program": []}
        programs = [_fields(_program(fd), fds) for fd in message.fds]
        return {"opened": told, "program": programs, "same": same}

    def _all_same(self) -> bool:
        return all(_is_same(*before) for before in self._before)

    def _told_ways(self, fds: list[int], *, again: bool) -> Mapping[str, object]:
        """The places on the way to all that was opened; or whether they are the same.

        None of what is open for writing, whose file system may be for reading only by
        then, nor of devices.
        """
        wants = [want for want, _, _ in self._before]
        places = None
        if not any(want.writable or want.device for want in wants):
            places = ways.looked_up(want.path for want in wants)
        found = _without_fds(places)
        if again:
            wire.close_all(place.fd for place in places or ())
            return {"same": found == self._ways and self._all_same()}
        self._ways = found
        if places is None or len(places) > MAX_OPENED:
            wire.close_all(place.fd for place in places or ())
            return {"places": []}
        return {"places": [_fields(place, fds) for place in places]}


_Ways = list[tuple[object, ...]] | None


def _without_fds(places: list[ways.Place] | None) -> _Ways:
    return None if places is None else [_without_fd(place) for place in places]


def _bundle(message: wire.Message, fds: list[int]) -> Mapping[str, object]:
    """What was asked of a bundle; its files go as memory, which waits for nobody."""
    (directory,) = message.fds
    asked = message.fields["bundle"]
    if isinstance(asked, list):
        word, search = asked
        in_bundle, kind = bundledir.find_program(directory, word, search)
        return {"found": {"in_bundle": in_bundle, "kind": kind}}
    found = bundledir.look(directory)
    for data in (found.info, found.permissions):
        if data is None:
            continue
        fds.append(os.memfd_create("isolauncher-bundle", os.MFD_CLOEXEC))
        # The caller may give this process an RLIMIT_FSIZE (prlimit(2)): half a file
        # could name another bundle.
        if os.write(fds[-1], data) != len(data):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    told = {name: getattr(found, name) for name in ("path", "installed_by", "why")}
    return {"bundle": told}


@dataclass(frozen=True, slots=True)
class _Straight:
    """A path with no link on the way, and what fstat(2) said of what is there.

    On a disk of this machine: then whoever could open it can do so still, unless its
    owner, its mode or an access list has changed, and with any of these its ctime.
    ``status`` None: nothing was there.
    """

    how: kernel.OpenPath
    status: tuple[int, ...] | None

    def is_same(self) -> bool:
        try:
            fd = self.how.open()
        except FileNotFoundError:
            return self.status is None
        except OSError:
            return False
        status = _status(fd)
        os.close(fd)
        return status == self.status


def _status(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return (*found[:3], found.st_uid, found.st_gid, found.st_ctime_ns)


def _straight_way(want: Want, entries: list[Opened]) -> _Straight | None:
    (entry, *more) = entries
    if more or entry.path != want.path or want.writable or want.device:
        return None  # a file system may be for reading only by then
    resolve = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
    how = kernel.OpenPath(want.path, resolve)
    if entry.fd >= 0:
        local = kernel.is_local(entry.fd)
        return _Straight(how, _status(entry.fd)) if local else None
    nothing = _Straight(how, None)
    return nothing if entry.kind == "absent" and nothing.is_same() else None


def _is_same(want: Want, before: list[Opened], straight: _Straight | None) -> bool:
    """Whether a path would be opened just as it was."""
    if straight is not None and straight.is_same():
        return True
    found = list(_follow(want))
    wire.close_all(entry.fd for entry in found if entry.fd >= 0)
    return [_without_fd(e) for e in found] == [_without_fd(e) for e in before]


def _without_fd(entry: Opened | ways.Place) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in entry.__slots__ if name != "fd")


def _fields(entry: Opened | Program | ways.Place, fds: list[int]) -> dict[str, object]:
    fields: dict[str, object] = {n: getattr(entry, n) for n in entry.__slots__}
    if entry.fd >= 0:
        fields["fd"] = len(fds)
        fds.append(entry.fd)
    return fields


def become(caller: Caller) -> None:
    """Take the caller's ids for good, and prove it: nothing must lead back to root."""
    os.setgroups(list(caller.groups))
    os.setresgid(caller.gid, caller.gid, caller.gid)
    os.setresuid(caller.uid, caller.uid, caller.uid)
    ids = (os.getresuid(), os.getresgid(), sorted(os.getgroups()))
    wanted = ((caller.uid,) * 3, (caller.gid,) * 3, sorted(caller.groups))
    if ids != wanted:
        raise PermissionError(f"the ids are {ids}, not {wanted}")


def _once(found: list[list[Opened]]) -> list[Opened]:
    """Each path once; a writable one is not hidden by a readable one.

    A path that is a link, and leads to nothing, is both.
    """
    best: dict[tuple[str, bool], Opened] = {}
    for entry in (entry for entries in found for entry in entries):
        key = entry.path, entry.kind == "absent"
        known = best.get(key)
        if known is None or (entry.writable and not known.writable):
            best[key] = entry
    if sum(entry.fd >= 0 for entry in best.values()) > MAX_OPENED:
        raise RequestError(
            f"the policy shows more than {MAX_OPENED} paths that are there",
            code="open-too-many",
            hint="name a directory that holds several of them",
        )
    return list(best.values())


def _follow(want: Want) -> Iterator[Opened]:
    """The links on the way to a path, then what is there."""
    if want.device:
        yield from _nodes(want)
        return
    path = want.path
    fd = _straight(path)
    if fd >= 0:
        yield _final(path, fd, want)
        return
    if fd == _NOTHING and os.path.isdir(posixpath.dirname(path)):
        # No link and nothing else was in the way, save that its last part is not there.
        why = os.strerror(errno.ENOENT)
        yield Opened(path=path, kind="absent", why=f"{path}: {why}")
        return
    for _ in range(MAX_LINKS):
        link = yield from _walk(path, want)
        if link is None:
            return
        path = link
    yield Opened(path=want.path, kind="absent", why="too many symbolic links")


def _straight(path: str) -> int:
    """The path in one call when no link is on the way, which is most of them.

    Else -1, or `_NOTHING` where it is not there.
    """
    if posixpath.normpath(path) != path:
        return -1
    resolve = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
    try:
        return _LINUX.openat2(kernel.AT_FDCWD, path, os.O_PATH, resolve)
    except FileNotFoundError:
        return _NOTHING
    except OSError:
        return -1  # a link, or it cannot be opened: the walk says which and why


_NOTHING = -2


def _walk(path: str, want: Want) -> Generator[Opened, None, str | None]:
    """Down from the root; returns where to start again after a link, or None."""
    parts = [p for p in path.split("/") if p]
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    so_far = ""
    for number, part in enumerate(parts):
        here = os.fstat(directory)
        so_far += "/" + part
        try:
            fd = os.open(
                part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
            )
        except OSError as e:
            why = e.strerror or str(e)
            yield Opened(path=want.path, kind="absent", why=f"{so_far}: {why}")
            return None
        finally:
            os.close(directory)
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink("", dir_fd=fd)
            os.close(fd)
            if here.st_uid != 0 or here.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                yield Opened(
                    path=want.path,
                    kind="absent",
                    why=f"{so_far} is a link in a directory that others than root "
                    "can write",
                )
                return None
            yield Opened(path=so_far, kind="link", target=target)
            rest = "/".join(parts[number + 1 :])
            start = posixpath.dirname(so_far)
            return posixpath.normpath(posixpath.join(start, target, rest))
        directory = fd
    yield _final(so_far or "/", directory, want)
    return None


def _final(path: str, fd: int, want: Want) -> Opened:
    status = os.fstat(fd)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        kind: Literal["directory", "file"] = "directory"
        public = mode & 0o005 == 0o005
    elif stat.S_ISREG(mode):
        kind = "file"
        public = bool(mode & 0o004)
    else:
        os.close(fd)
        return Opened(
            path=want.path, kind="absent", why="neither a directory nor a file"
        )
    try:
        if kind == "directory":
            os.close(os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd))
            if want.writable and not os.access(
                f"/proc/self/fd/{fd}", os.W_OK | os.X_OK
            ):
                raise PermissionError(13, "Permission denied (to write)")
        else:
            access = os.O_RDWR if want.writable else os.O_RDONLY
            flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            os.close(os.open(f"/proc/self/fd/{fd}", flags))
    except OSError as e:
        os.close(fd)
        return Opened(
            path=want.path, kind="absent", why=f"the caller: {e.strerror or e}"
        )
    return Opened(
        path=path,
        kind=kind,
        writable=want.writable,
        owner=status.st_uid,
        public=public,
        device=status.st_dev,
        inode=status.st_ino,
        fd=fd,
    )


def _nodes(want: Want) -> Iterator[Opened]:
    """The devices of that name, through no link; none is opened, which does things."""
    top, pattern = posixpath.split(want.path)
    directory = _straight(top)
    names, why = [], "there is none here"
    if directory >= 0:
        try:
            names = sorted(
                fnmatch.filter(os.listdir(f"/proc/self/fd/{directory}"), pattern)
            )
        except OSError as e:
            why = f"the caller may not look: {e.strerror or e}"
        for name in names:
            yield _node(f"{top}/{name}", directory, want)
        os.close(directory)
    if not names:
        yield Opened(path=want.path, kind="absent", why=why)


def _node(path: str, directory: int, want: Want) -> Opened:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(posixpath.basename(path), flags, dir_fd=directory)
    except OSError as e:
        return Opened(path=path, kind="absent", why=e.strerror or str(e))
    status = os.fstat(fd)
    rights = os.R_OK | (os.W_OK if want.writable else 0)
    why = ""
    if not stat.S_ISCHR(status.st_mode):
        why = "it is no character device"
    elif not os.access(f"/proc/self/fd/{fd}", rights):
        why = "the caller may not open it"
    if why:
        os.close(fd)
        return Opened(path=path, kind="absent", why=why)
    return Opened(
        path=path,
        kind="device",
        writable=want.writable,
        owner=status.st_uid,
        device=status.st_dev,
        inode=status.st_ino,
        number=status.st_rdev,
        fd=fd,
    )


def _program(fd: int) -> Program:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ProgramNotExecutable(
            "the program is not a file", code="program-not-a-file"
        )
    magic = f"/proc/self/fd/{fd}"
    reader = -1
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        reader = os.open(magic, flags)
    except PermissionError:
        pass  # a program may be executable and not readable; said in `readable`
    return Program(
        readable=reader >= 0,
        executable=os.access(magic, os.X_OK),
        owner=status.st_uid,
        public=bool(status.st_mode & 0o004),
        fd=reader if reader >= 0 and not _is_fuse(reader) else -1,
    )


def _check(name: str, kind: Kind, fd: int) -> None:
    """RequestError unless ``fd``, which may be O_PATH, is that to whoever we are."""
    status = os.fstat(fd)
    magic = f"/proc/self/fd/{fd}"
    mode = status.st_mode
    why = ""
    match kind:
        case "own-directory":
            if not stat.S_ISDIR(mode):
                why = "is not a directory"
            elif status.st_uid != os.getuid():
                why = f"belongs to uid {status.st_uid}, not to you"
            elif not os.access(magic, os.R_OK | os.W_OK | os.X_OK):
                why = "may not be read, written and searched by you"
        case "readable-directory":
            if not stat.S_ISDIR(mode):
                why = "is not a directory"
            elif not os.access(magic, os.R_OK | os.X_OK):
                why = "may not be read by you"
        case "socket":
            if not stat.S_ISSOCK(mode):
                why = "is not a socket"
            elif not os.access(magic, os.W_OK):
                why = "may not be connected to by you"
        case "pipe":
            if not stat.S_ISFIFO(mode):
                why = "is not a pipe"
    if why:
        raise RequestError(f"{name} {why}", code="request-bad-descriptor")


def _is_fuse(fd: int) -> bool:
    return kernel.file_system(fd) == kernel.FUSE_SUPER_MAGIC
