# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment (Python's and C's), working directory and file mode mask.

Hazards: H5 and H19 (the zygote's own variables are gone before anything reads
them), the working directory of H20.

What the kernel shows as ``/proc/self/environ`` lies in the process's memory map and is
not Python's to change: the stem has written it before it was sealed.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from isolauncher.zygote.handover import Start, World

_clearenv = ctypes.CDLL(None).clearenv


def settle(world: World) -> World:
    # A library may have put variables into C's array that Python has not heard of, as
    # readline does; they would be in the array of every child, and of its children.
    _clearenv()
    for name, value in os.environb.items():
        os.putenv(name, value)
    return world


def apply(start: Start, world: World) -> None:
    # Through os.environ, so that Python's mapping and C's array agree, in the order in
    # which an exec would have laid them out.
    os.environ.clear()
    _clearenv()
    for name, value in start.environment.items():
        os.environ[name] = value
    os.chdir(start.cwd)
    if start.umask is not None:
        os.umask(start.umask)


def _process(module: Any) -> None:
    # multiprocessing notes the directory when it is imported, and spawned children look
    # for a relative __main__ there.
    try:
        module.ORIGINAL_DIR = os.path.abspath(os.getcwd())
    except OSError:
        module.ORIGINAL_DIR = None


RENEW = {"multiprocessing.process": _process}
