# SPDX-License-Identifier: GPL-3.0-or-later
"""What siblings must not share: random streams, keys, unique names.

Hazards: H7 (generators outside the standard library), H8 (the standard library's
own: reseeded at fork by their makers, and here again, since a child may be forked
long before it is used), H11 (multiprocessing's key), H12 (temporary names).
Shared on purpose, and said so in the report: the hash seed (H9) and the address
layout (H10), which only a fresh interpreter can change.
"""

from __future__ import annotations

import itertools
import sys

from isolauncher.zygote.handover import Start, World


def apply(start: Start, world: World) -> None:
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        uuid._node = None  # type: ignore[attr-defined]
        uuid._last_timestamp = None  # type: ignore[attr-defined]
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]
        tempfile._name_sequence = None  # type: ignore[attr-defined]
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        # A new main process object draws a new key.
        fresh = type(process._current_process)()
        process._current_process = fresh  # type: ignore[attr-defined]
        process._parent_process = None  # type: ignore[attr-defined]
        process._process_counter = itertools.count(1)  # type: ignore[attr-defined]
        process._children = set()  # type: ignore[attr-defined]
    synchronize = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None:
        # Names of semaphores: its generator renews itself when the process id
        # changes, but ids repeat from sandbox to sandbox.
        names = sys.modules["tempfile"]._RandomNameSequence()
        synchronize.SemLock._rand = names
