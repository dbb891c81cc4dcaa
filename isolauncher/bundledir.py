# SPDX-License-Identifier: GPL-3.0-or-later
"""What an opener looks at in a bundle's directory, with the caller's rights.

Runs in an opener (reopen.py) only: whatever here waits for a file system,
waits in a process of the caller's. It begins at a descriptor that the caller opened,
and judges no content: that is `bundle.parse`, in the daemon. The bundle's own files
are reached beneath it, through no link and no other mount, and read by the
descriptor that was looked at: a name that changes meanwhile changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Literal

from . import foreign, kernel
from .bundle import (
    INFO,
    MAX_BYTES,
    PERMISSIONS,
    Found,
    check_path,
    too_large,
)
from .errors import BundleError, ProgramNotFound, RequestError
from .zygote import program

_LINUX = kernel.Linux()

_BENEATH = (
    kernel.RESOLVE_BENEATH
    | kernel.RESOLVE_NO_SYMLINKS
    | kernel.RESOLVE_NO_MAGICLINKS
    | kernel.RESOLVE_NO_XDEV
)


def check_mount(fd: int) -> None:
    """Refuse a bundle whose file system may not answer, before anything asks it.

    Called by the daemon too: it asks no server.
    """
    here = foreign.mount(fd)
    if here is None:
        raise RequestError(
            "the bundle lies in another mount namespace",
            code="foreign-mount",
            hint="name one that this machine's root sees under the same name",
        )
    if foreign.is_a_persons(here):
        raise BundleError(
            "the bundle is on a file system that a person's program serves "
            f"({here[0]}), into which nobody else can look",
            code="bundle-served",
            hint="copy it to another place",
        )


def look(fd: int) -> Found:
    """Its path, whose it is and its two files; BundleError if there is no bundle."""
    check_mount(fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    check_path(path)
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode):
        raise BundleError(
            f"{path}: is not a directory",
            code="bundle-not-a-directory",
            hint="a bundle that is still packed (.xo) must be installed first",
        )
    if status.st_nlink == 0:
        raise BundleError(f"{path}: was deleted", code="bundle-deleted")
    others = _not_the_systems(fd, path)
    info = _read(fd, path, INFO)
    if info is None:
        raise BundleError(
            f"{path}: has no {INFO}",
            code="bundle-no-info",
            hint="name the directory of a bundle, the one that has activity/ in it",
        )
    return Found(
        path=path,
        installed_by="user" if others else "system",
        why=others or "root alone can write every directory down to it",
        info=info,
        permissions=_read(fd, path, PERMISSIONS),
    )


def find_program(
    fd: int, word: str, search: str
) -> tuple[bool, Literal["python", "executable"]]:
    """(whether BUNDLE/bin has it, what it is): the first word of a bundle's command.

    ``search`` is the PATH for what it has not. ProgramNotFound and -NotExecutable.
    What runs is found once more inside the sandbox; this is what the caller sees.
    """
    try:
        os.fchdir(fd)
    except OSError as e:
        raise _refused("the bundle's directory", e) from e
    try:
        if "/" in word:
            return False, program.classify(word)
        try:
            return True, program.classify(f"bin/{word}")
        except ProgramNotFound:
            return False, program.classify(program.resolve(word, search))
    finally:
        os.chdir("/")


def _read(fd: int, path: str, name: str) -> bytes | None:
    """A regular file beneath ``fd``; None: there is none of that name."""
    shown = f"{path}/{name}"
    try:
        found = _LINUX.openat2(fd, name, os.O_PATH, _BENEATH)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise _refused(shown, e) from e
    try:
        # To open what is no regular file can do things: rewind a tape, arm a watchdog.
        _check_regular(shown, os.fstat(found))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            opened = os.open(f"/proc/self/fd/{found}", flags)
        except OSError as e:
            raise _refused(shown, e) from e
        try:
            return _read_whole(opened, shown)
        finally:
            os.close(opened)
    finally:
        os.close(found)


def _check_regular(shown: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(
            f"{shown}: is not a regular file",
            code="bundle-not-a-file",
            hint="put the text itself there",
        )
    if status.st_size > MAX_BYTES:
        raise too_large(shown)


def _read_whole(fd: int, shown: str) -> bytes:
    before = os.fstat(fd)
    data = b""
    try:
        while len(data) <= MAX_BYTES and (
            more := os.read(fd, MAX_BYTES + 1 - len(data))
        ):
            data += more
    except OSError as e:
        raise _refused(shown, e) from e
    if len(data) > MAX_BYTES:
        raise too_large(shown)
    after = os.fstat(fd)
    if _times(before) != _times(after):
        raise BundleError(
            f"{shown}: changed while it was read",
            code="bundle-changed",
            hint="launch it again when it is installed",
        )
    return data


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _refused(shown: str, error: OSError) -> BundleError:
    match error.errno:
        case errno.ELOOP:
            what, code = "is a symbolic link, or behind one", "bundle-link"
            hint = "put the file itself into the bundle"
        case errno.EXDEV:
            what, code = "is on another file system than its bundle", "bundle-mount"
            hint = "copy the bundle to another place"
        case _:
            what, code = f"cannot be read: {error.strerror}", "bundle-unreadable"
            hint = "the caller must be able to read it"
    return BundleError(f"{shown}: {what}", code=code, hint=hint)


def _not_the_systems(fd: int, path: str) -> str:
    """Why the bundle is not the system's; empty: it is.

    The system's is what only root can have put there: each directory on the way is
    root's and nobody else may write it. Where an access control list lets somebody
    write, the kernel shows its mask as the group's bits, so the mode says it all. A
    file system may claim root's ownership for what somebody else wrote: one that a
    person brought along is mounted nosuid (mount(8), udisks), and as little as the
    kernel believes root's files there do we.
    """
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    shown = "/"
    no_links = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
    try:
        for part in ["", *filter(None, path.split("/"))]:
            if part:
                shown = os.path.join(shown, part)
                try:
                    flags = os.O_PATH | os.O_DIRECTORY
                    below = _LINUX.openat2(here, part, flags, no_links)
                except OSError as e:
                    return f"{shown} cannot be reached by its name: {e.strerror}"
                os.close(here)
                here = below
            status = os.fstat(here)
            if status.st_uid != 0:
                return f"{shown} belongs to uid {status.st_uid}"
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                mode = stat.S_IMODE(status.st_mode)
                return f"{shown} may be written by others than root (mode {mode:04o})"
            if os.fstatvfs(here).f_flag & os.ST_NOSUID:
                return f"{shown} is mounted nosuid: what root owns there proves nothing"
        if not _same(here, fd):
            return f"{shown} is another directory than the one that was opened"
        return ""
    finally:
        os.close(here)


def _same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other) and (
        foreign.mount_id(one) == foreign.mount_id(other)
    )
