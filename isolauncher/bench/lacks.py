# SPDX-License-Identifier: GPL-3.0-or-later
"""What was not measured, and why: not to be had on this machine, or failed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import HostError, IsolauncherError

UNEXPECTED = (OSError, ValueError, LookupError, subprocess.SubprocessError)
"""Of the machine, or of what was read of it; anything else is a fault of ours."""

_NOT_TO_BE_HAD = frozenset(
    (
        *("bench-not-root", "bench-of-root", "bench-no-session", "bench-no-compiler"),
        *("bench-not-installed", "bench-does-not-run", "bench-reference-step"),
        *("bench-no-sugar3", "bench-no-program", "bench-nothing"),
        *("bundle-not-found", "xlib-missing", "display-not-there"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """``failed``: it could have been measured here, and something went wrong."""

    why: str
    failed: bool


Lacks = Mapping[str, Lack]


def of(error: Exception) -> Lack:
    """What stands in the way, and what to do."""
    if not isinstance(error, IsolauncherError):
        return Lack(why=f"{type(error).__name__}: {error}", failed=True)
    why = f"{error.message} ({error.hint})" if error.hint else error.message
    return Lack(why=why, failed=error.code not in _NOT_TO_BE_HAD)


def nothing(lacks: Lacks) -> HostError:
    """For where not one of them could be measured."""
    why = "; ".join(f"{name}: {lack.why}" for name, lack in lacks.items())
    failed = any(lack.failed for lack in lacks.values())
    return HostError(
        f"nothing can be measured: {why}",
        code="bench-all-failed" if failed else "bench-nothing",
    )


@contextmanager
def noted(lacks: dict[str, Lack], name: str) -> Iterator[None]:
    """What fails in it is left out, with the line that says why."""
    try:
        yield
    except (IsolauncherError, *UNEXPECTED) as error:
        lacks[name] = of(error)


@contextmanager
def named(what: str) -> Iterator[None]:
    """What nobody expected in it is a HostError too, which says where it was."""
    try:
        yield
    except UNEXPECTED as error:
        raise HostError(
            f"{what}: {type(error).__name__}: {error}", code="bench-failed"
        ) from error


def as_data(lacks: Lacks) -> dict[str, object]:
    """``left_out`` and ``failed``, each why by name."""
    return {
        key: {name: lack.why for name, lack in lacks.items() if lack.failed == failed}
        for key, failed in (("left_out", False), ("failed", True))
    }
