# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a file that takes something from an activity into its place, and takes it out.

Runs as root for a person whose word nobody has to take: what comes in is a bundle's id
and names of powers, both from short lists. Before anything is written the whole
directory is tried out with the new file in it, in another place, and what that file
comes to is held against what was meant; `test-policy` would say the same.

The administrator's own files are never lost. A new file is renamed to a name that is
free, and one of ours is exchanged for the next, in one step of the kernel's
(renameat2(2)). What comes out is looked at, and put back if it is not what was there
when this began. No signal ends that half-way, and nothing is removed before it was seen
to be ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from isolauncher import kernel
from isolauncher.errors import HostError, NotAllowed, PolicyError
from isolauncher.policy import audit, choose, restrict, trust
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy, values
from isolauncher.policy.restrict import Power, Standing

Rename = Callable[..., None]
_PREFIX = ".restrict-"  # no policy can be called so


def put(
    store: PolicyStore,
    standing: Standing,
    taken: Sequence[Power],
    *,
    rename: Rename = kernel.rename,
) -> str:
    """Take these powers and no others from a bundle; the path of the file, if any.

    NotAllowed for what must not be written, HostError for what cannot be. ``rename`` is
    the kernel's; a test may do something before it.
    """
    etc_dir = store.etc_dir
    if etc_dir is None:
        raise NotAllowed("there is no directory for policies", code="restrict-no-place")
    if standing.by_hand:
        raise _by_hand(standing.by_hand, standing.bundle_id)
    name = f"{standing.name}.toml"
    path = os.path.join(etc_dir, name)
    if not taken and not standing.taken:
        return ""
    text = b""
    if taken:
        if refusal := restrict.refusal(store, standing):
            raise refusal
        text = restrict.text(standing.bundle_id, standing.base, taken).encode()
        try:
            _try_out(store, standing, taken, text)
        except OSError as error:
            raise HostError(
                f"the policies cannot be tried out: {os.strerror(error.errno or 0)}",
                code="restrict-not-tried",
            ) from error
        except trust.Untrusted as error:
            raise _distrust(error) from error
    else:
        _check_needed(store, standing)
    try:
        directory = _open(etc_dir, store.owners)
    except OSError as error:
        raise _refused(error, etc_dir) from error
    try:
        before = _look(directory, name, store.owners, standing)
        with _undisturbed():
            if taken:
                _replace(directory, name, text, before, store.owners, rename)
            elif before is not None:
                _take_out(directory, name, before, store.owners, rename)
        os.fsync(directory.descriptor)
    except OSError as error:
        raise _refused(error, path) from error
    finally:
        directory.close()
    return path if taken else ""


def _check_needed(store: PolicyStore, standing: Standing) -> None:
    """NotAllowed if another policy could not be used without the file."""
    name = standing.name
    if name in store.directory_names("vendor"):
        return
    if extending := store.standing_on(name):
        raise NotAllowed(
            f"{' and '.join(extending)} extends {name}, and could not be used without",
            code="restrict-shared",
            hint=f"let it extend {standing.base.name}",
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What would end this waits until it is done."""
    waits = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waits)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------------ trying it out


def _try_out(
    store: PolicyStore, standing: Standing, taken: Sequence[Power], text: bytes
) -> None:
    """Refuse what would be no lower policy of this bundle's, or one with a danger."""
    with tempfile.TemporaryDirectory(prefix="isolauncher-restrict-") as place:
        for name, data in (*_others(store, standing.name), (standing.name, text)):
            with open(os.path.join(place, f"{name}.toml"), "xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
        owners = store.owners | {os.geteuid()}
        tried = PolicyStore(store.vendor_dir, place, owners=owners)
        try:
            found = choose.for_bundle(tried, standing.bundle_id, system=True).policy
            mistakes = choose.clashes(tried)
            if mistakes:
                raise PolicyError(mistakes)
        except PolicyError as error:
            raise _at_home(error, place, store.etc_dir or "") from error
        finally:
            tried.close()
    _judge(standing, taken, found)


def _judge(standing: Standing, taken: Sequence[Power], found: Policy) -> None:
    base, meant = standing.base, restrict.lowered(standing.base, taken)
    if found.name != standing.name or values(found) != {**values(base), **meant}:
        raise NotAllowed(
            f"the file would not come to {base.name} without {', '.join(taken)}",
            code="restrict-not-lower",
            hint=f"see `isolauncher explain {base.name}`",
        )
    remarks = audit.remarks(found)
    worst = [r for r in audit.findings(remarks) if r.accepted is None]
    if worst and audit.reaches(worst[0].severity, "dangerous"):
        raise NotAllowed(
            f"what is left would be dangerous: {worst[0].message}",
            code="restrict-dangerous",
            hint=f"see line {worst[0].line} of {os.path.basename(worst[0].file)}",
        )
    if audit.exposure(remarks) > audit.exposure(audit.remarks(base)):
        raise NotAllowed(
            f"the file would open more than {base.name}", code="restrict-not-lower"
        )


def _others(store: PolicyStore, name: str) -> list[tuple[str, bytes]]:
    """The administrator's files but that one, as whoever launches reads them."""
    try:
        directory = trust.open_directory(store.etc_dir or "", store.owners)
    except FileNotFoundError:
        return []
    try:
        return [
            (one, trust.read_file(directory, f"{one}.toml", store.owners)[0])
            for one in store.directory_names("etc")
            if one != name
        ]
    finally:
        directory.close()


def _at_home(error: PolicyError, place: str, home: str) -> PolicyError:
    """The mistakes as of the directory that was tried out elsewhere."""
    return PolicyError(
        tuple(
            replace(
                mistake,
                file=mistake.file.replace(place, home),
                message=mistake.message.replace(place, home),
            )
            for mistake in error.mistakes
        )
    )


# ---------------------------------------------------------------------------- the place


def _open(path: str, owners: frozenset[int]) -> trust.Directory:
    """The directory, made if it is not there; never one that others may write."""
    try:
        return trust.open_directory(path, owners)
    except FileNotFoundError:
        if path == "/":
            raise
    except trust.Untrusted as error:
        raise _distrust(error) from error
    above = _open(os.path.dirname(path), owners)
    try:
        os.mkdir(os.path.basename(path), 0o755, dir_fd=above.descriptor)
    finally:
        above.close()
    return _open(path, owners)


def _look(
    directory: trust.Directory, name: str, owners: frozenset[int], standing: Standing
) -> bytes | None:
    """What lies under a name, if it was made here for this bundle; None: nothing."""
    path = os.path.join(directory.path, name)
    try:
        data, _ = trust.read_file(directory, name, owners)
    except FileNotFoundError:
        return None
    except trust.Untrusted as error:
        raise _distrust(error) from error
    found = restrict.made(data)
    if found is None or found.bundle_id != standing.bundle_id:
        raise _by_hand(path, standing.bundle_id)
    return data


def _replace(
    directory: trust.Directory,
    name: str,
    text: bytes,
    before: bytes | None,
    owners: frozenset[int],
    rename: Rename,
) -> None:
    here = directory.descriptor
    new = f"{_PREFIX}{secrets.token_hex(8)}"
    _write(here, new, text)
    try:
        rename(here, new, name, exchange=before is not None)
    except OSError:
        os.unlink(new, dir_fd=here)
        raise
    if before is None:
        return
    if _differs(directory, new, before, owners):
        _put_back(directory, new, name, rename, exchange=True)
        if _differs(directory, new, text, owners):
            # Changed once more meanwhile: what was written last is in force, the one
            # before is kept, and neither is ours to remove.
            _put_back(directory, new, name, rename, exchange=True)
            raise _kept(directory, new, name)
        os.unlink(new, dir_fd=here)
        raise _changed(os.path.join(directory.path, name))
    os.unlink(new, dir_fd=here)


def _write(here: int, name: str, text: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=here)
    try:
        os.fchmod(descriptor, 0o644)
        # A limit of the caller's on the size of files may cut it short.
        if os.write(descriptor, text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except BaseException:
        os.unlink(name, dir_fd=here)
        raise
    finally:
        os.close(descriptor)


def _take_out(
    directory: trust.Directory,
    name: str,
    before: bytes,
    owners: frozenset[int],
    rename: Rename,
) -> None:
    here = directory.descriptor
    out = f"{_PREFIX}{secrets.token_hex(8)}"
    rename(here, name, out)
    if _differs(directory, out, before, owners):
        _put_back(directory, out, name, rename)
        raise _changed(os.path.join(directory.path, name))
    os.unlink(out, dir_fd=here)


def _put_back(
    directory: trust.Directory,
    out: str,
    name: str,
    rename: Rename,
    *,
    exchange: bool = False,
) -> None:
    try:
        rename(directory.descriptor, out, name, exchange=exchange)
    except OSError as error:
        raise _kept(directory, out, name) from error


def _differs(
    directory: trust.Directory, name: str, before: bytes, owners: frozenset[int]
) -> bool:
    try:
        return trust.read_file(directory, name, owners)[0] != before
    except (OSError, trust.Untrusted):
        return True


# ---------------------------------------------------------------------------- refusals


def _by_hand(path: str, bundle_id: str) -> NotAllowed:
    return NotAllowed(
        f"{path} is an administrator's own file, and stays as it is",
        code="restrict-by-hand",
        hint=f"say there what {bundle_id} may not, or take the file away",
    )


def _changed(path: str) -> NotAllowed:
    return NotAllowed(
        f"{path} was changed by somebody else meanwhile, and stays as it is now",
        code="restrict-changed",
        hint="try again",
    )


def _kept(directory: trust.Directory, out: str, name: str) -> HostError:
    return HostError(
        f"{name} was changed by somebody else meanwhile: what was there is "
        f"{os.path.join(directory.path, out)} now",
        code="restrict-changed",
        hint="look at both, and keep one",
    )


def _distrust(error: trust.Untrusted) -> NotAllowed:
    return NotAllowed(f"{error.path} {error.message}", code=error.code, hint=error.hint)


def _refused(error: OSError, path: str) -> NotAllowed | HostError:
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS if os.geteuid() != 0:
            return NotAllowed(
                f"{path} is root's to write",
                code="restrict-not-root",
                hint="put pkexec before the command",
            )
        case errno.EEXIST | errno.ENOENT:
            return _changed(path)
        case errno.EINVAL | errno.ENOSYS:
            return HostError(
                f"the file system of {path} cannot exchange two files",
                code="restrict-no-exchange",
                hint="write the file by hand; `isolauncher restrict --print` shows it",
            )
    return HostError(
        f"{path} cannot be written: {os.strerror(error.errno or 0)}",
        code="restrict-not-written",
    )


__all__ = ["put"]
