# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to run a program that came before, byte for byte, and what they came to.

The bytes of a message decide what it says, and with the policy all of `Wanted` but the
descriptors. So of a caller who says the same again nothing of that is worked out once
more while the policy is the same object (`PolicyStore.get`). Whether he may name it,
and all that the world decides, is asked each time. (A launch's code runs seldom and
finds nothing of itself in the processor's caches: what need not run is what is fast.)
"""

from __future__ import annotations

from dataclasses import dataclass

from .activity import Wanted
from .request import Caller, Request

MOST = 16
MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """``wanted`` is without the descriptors, and what they decide."""

    request: Request
    wanted: Wanted


class Before:
    """The `MOST` that were new last, by caller; no larger ones than `MAX_BYTES`."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], Known] = {}
        """The latest at the end."""

    def find(self, caller: Caller, data: bytes) -> Known | None:
        if len(data) > MAX_BYTES:
            return None
        return self._known.get((caller.uid, data))

    def keep(self, caller: Caller, data: bytes, known: Known) -> None:
        """It came just now, and was not known, or is another thing now."""
        if len(data) > MAX_BYTES:
            return
        key = caller.uid, data
        self._known.pop(key, None)
        self._known[key] = known
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
