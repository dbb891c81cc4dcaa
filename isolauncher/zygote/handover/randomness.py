# SPDX-License-Identifier: GPL-3.0-or-later
"""What siblings must not share: random streams, keys, unique names.

Hazards: H7 (generators outside the standard library), H8 (the standard library's
own: reseeded at each fork by their makers, and so there is nothing left to do at an
import), H11 (multiprocessing's key), H12 (temporary names).
Shared on purpose, and said so in the report: the hash seed (H9) and the address
layout (H10), which only a fresh interpreter can change.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    """Only once they are imported, see ``RENEW``."""


def _random(module: Any) -> None:
    module.seed()


def _uuid(module: Any) -> None:
    module._node = module._last_timestamp = None


def _tempfile(module: Any) -> None:
    module.tempdir = module._name_sequence = None


def _process(module: Any) -> None:
    # A new main process object draws a new key.
    module._current_process = type(module._current_process)()
    module._parent_process = None
    module._process_counter = itertools.count(1)
    module._children = set()


def _synchronize(module: Any) -> None:
    # Names of semaphores: its generator renews itself when the process id changes, but
    # ids repeat from sandbox to sandbox.
    module.SemLock._rand = sys.modules["tempfile"]._RandomNameSequence()


RENEW = {
    "numpy.random": _random,
    "uuid": _uuid,
    "tempfile": _tempfile,
    "multiprocessing.process": _process,
    "multiprocessing.synchronize": _synchronize,
}
