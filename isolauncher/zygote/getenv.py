# SPDX-License-Identifier: GPL-3.0-or-later
"""Hears of every getenv(3) in this process, whichever library asks.

For processes that audit and then end: the C library's function is overwritten, in
memory, by a jump to one of ours, so no compiler and no preloaded library is needed.
Who walks through ``environ`` by itself is not heard.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable

_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_MACHINE = "x86_64"

_kept: list[object] = []


def watch(note: Callable[[str], None]) -> str:
    """Have ``note`` called with each name; why that cannot be, or nothing."""
    if os.uname().machine != _MACHINE or sys.maxsize < 1 << 32:
        return f"getenv(3) can be watched on {_MACHINE} only"
    libc = ctypes.CDLL(None, use_errno=True)
    # Resolved here once: the linker's own messages are translated, which asks getenv.
    environ = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")

    def getenv(pointer: int) -> int | None:
        name = ctypes.string_at(pointer)
        note(os.fsdecode(name))
        place = 0
        # The array is a null pointer after clearenv(3).
        while bool(environ) and environ[place]:
            address = int(environ[place])
            if ctypes.string_at(address).startswith(name + b"="):
                return address + len(name) + 1
            place += 1
        return None

    hook = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(getenv)
    target = ctypes.cast(hook, ctypes.c_void_p).value or 0
    address = ctypes.cast(libc.getenv, ctypes.c_void_p).value or 0
    # movabs $target, %rax; jmp *%rax
    code = b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"
    if ctypes.string_at(address, 4) == _ENDBR64:
        address += len(_ENDBR64)
    page = address & -mmap.PAGESIZE
    size = address + len(code) - page
    area = (ctypes.c_void_p(page), ctypes.c_size_t(size))
    if libc.mprotect(*area, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return f"getenv(3) cannot be watched: {os.strerror(ctypes.get_errno())}"
    _kept.append(hook)
    ctypes.memmove(address, code, len(code))
    if libc.mprotect(*area, mmap.PROT_READ | mmap.PROT_EXEC):
        return f"getenv(3) cannot be watched: {os.strerror(ctypes.get_errno())}"
    return ""
