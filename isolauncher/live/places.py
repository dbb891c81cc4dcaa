# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of one run, and those that a run which was killed has left.

Whoever makes one holds a lock on it (flock(2)) and lets go by ending, however it ends.
So what nobody holds is nobody's any more, and goes before the next run begins.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from ..errors import HostError, IsolauncherError

RUN = "/run"
BASES = ("/var/lib", "/opt", "/srv")
"""Where root alone can make a directory that everybody can enter."""

_NAME = re.compile(r"isolauncher-live-[1-9][0-9]*-[a-z0-9_]{8}")
_TRIES = 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def directory(base: str | None) -> Iterator[str]:
    """A new one in ``base`` that everybody can enter, gone again at the end."""
    top, held = _made(base)
    try:
        os.chmod(top, 0o755)  # noqa: S103 (what is secret in it is closed by itself)
        yield top
    finally:
        shutil.rmtree(top)
        os.close(held)


def _made(base: str | None) -> tuple[str, int]:
    """A directory and the descriptor that holds it; HostError if none can be held."""
    prefix, top = f"isolauncher-live-{os.getpid()}-", ""
    for _ in range(_TRIES):
        # Another run may take it for a dead one's before it is held, and removes it.
        top = tempfile.mkdtemp(prefix=prefix, dir=base)
        held = _hold(top)
        if held >= 0:
            return top, held
        with suppress(OSError):
            os.rmdir(top)
    raise HostError(
        f"a directory in {os.path.dirname(top)} could not be made one's own "
        f"in {_TRIES} tries",
        code="live-no-place",
        hint="its file system must know flock(2), and keep whose a file is",
    )


def sweep(give_back: Callable[[str], None]) -> None:
    """Remove what runs of our own uid have left; ``give_back`` is told before.

    As root only where nobody else can put or move anything: $TMPDIR may be anybody's.
    """
    bases = (RUN, *BASES) if os.geteuid() == 0 else (tempfile.gettempdir(),)
    for _ in held_by_nobody(bases, give_back):
        pass


def held_by_nobody(
    bases: Iterable[str], give_back: Callable[[str], None]
) -> Iterator[str]:
    """Those that are removed; what cannot be removed now is left to the next run."""
    for path in _named(bases):
        held = _hold(path)
        if held < 0:
            continue
        try:
            give_back(path)
            shutil.rmtree(path)
            yield path
        except (OSError, IsolauncherError):
            continue
        finally:
            os.close(held)


def _named(bases: Iterable[str]) -> Iterator[str]:
    for base in dict.fromkeys(bases):
        with suppress(OSError):
            for name in os.listdir(base):
                if _NAME.fullmatch(name):
                    yield f"{base}/{name}"


def _hold(path: str) -> int:
    """A descriptor that holds the directory; -1: it is another's, or is no more."""
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        return -1
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, own = os.stat(path, follow_symlinks=False), os.fstat(fd)
        if os.path.samestat(there, own) and own.st_uid == os.geteuid():
            return fd
    os.close(fd)
    return -1
