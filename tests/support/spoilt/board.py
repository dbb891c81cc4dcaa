# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test and the processes of one launch write to each other in memory.

A mapped file, because a mapping outlives what a sandbox does to itself: neither a
change of root nor of uid, no closed descriptor and no filter takes it away. Waiting
is a futex in it (futex(2)), which the filters let through like any program's.

Words of 32 bits: what to do (mode, actor, number, errno), the two futexes, then for
each actor how many calls it has made; how to bend the plan, and which step of it to
leave out; the calls as short texts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

ACTORS = ("daemon", "zygote", "init", "mapper", "stem")
"""``mapper``: the child of init's that lends its user namespace to a mount."""

RECORD, REFUSE, PRETEND, PAUSE = range(4)

_MODE, _ACTOR, _NUMBER, _ERRNO, _PAUSED, _GO, _HIT = range(7)
_COUNTS = 16
_BENT = 1024
_LEFT = 1152
_TEXTS = 4096
_LINE = 160
_MOST = 1500
SIZE = _TEXTS + len(ACTORS) * _MOST * _LINE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.syscall.restype = ctypes.c_long
_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Board:
    """The mapping. It keeps no descriptor: a zygote with one more is not fit."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, SIZE)
            address = _libc.mmap(
                None,
                ctypes.c_size_t(SIZE),
                3,  # PROT_READ | PROT_WRITE
                1,  # MAP_SHARED
                fd,
                ctypes.c_long(0),
            )
        finally:
            os.close(fd)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self._base = address
        self._words = (ctypes.c_uint32 * (_TEXTS // 4)).from_address(address)

    # ------------------------------------------------------------ the kernel's side

    def enter(self, actor: str, text: str) -> int:
        """Write a call down before it is made; returns what to do with it."""
        which = ACTORS.index(actor)
        number = self._words[_COUNTS + which]
        if number >= _MOST:
            raise AssertionError("more calls than the board has lines")
        line = text.encode("utf-8", "replace")[: _LINE - 1].ljust(_LINE, b"\0")
        ctypes.memmove(self._at(which, number), line, _LINE)
        self._words[_COUNTS + which] = number + 1
        if self._words[_MODE] == RECORD:
            return RECORD
        if (self._words[_ACTOR], self._words[_NUMBER]) != (which, number):
            return RECORD
        self._words[_HIT] = 1
        return int(self._words[_MODE])

    def errno(self) -> int:
        return int(self._words[_ERRNO])

    def pause(self) -> None:
        """After a call: say so and wait until the test lets it go on."""
        self._words[_PAUSED] = 1
        self._futex(_PAUSED, _FUTEX_WAKE, 100)
        while self._words[_GO] == 0:
            self._futex(_GO, _FUTEX_WAIT, 0)

    # -------------------------------------------------------------- the test's side

    def set(
        self, mode: int, actor: str = "daemon", number: int = 0, no: int = 0
    ) -> None:
        """Forget the last launch and say what to do in the next."""
        for word in range(_TEXTS // 4):
            self._words[word] = 0
        self._words[_ACTOR] = ACTORS.index(actor)
        self._words[_NUMBER] = number
        self._words[_ERRNO] = no
        self._words[_MODE] = mode

    @property
    def hit(self) -> bool:
        return self._words[_HIT] == 1

    @property
    def bent(self) -> str:
        """How the next plan is to be bent: a name of plans.py, or nothing."""
        return ctypes.string_at(self._base + _BENT, 64).rstrip(b"\0").decode()

    @bent.setter
    def bent(self, name: str) -> None:
        ctypes.memmove(self._base + _BENT, name.encode().ljust(64, b"\0"), 64)

    @property
    def left_out(self) -> str:
        """Which step the applier leaves out, and whether nobody verifies (less.py)."""
        return ctypes.string_at(self._base + _LEFT, 64).rstrip(b"\0").decode()

    @left_out.setter
    def left_out(self, name: str) -> None:
        ctypes.memmove(self._base + _LEFT, name.encode().ljust(64, b"\0"), 64)

    def wait_paused(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._words[_PAUSED] == 0:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._futex(_PAUSED, _FUTEX_WAIT, 0, left)
        return True

    def go_on(self) -> None:
        self._words[_MODE] = RECORD
        self._words[_GO] = 1
        self._futex(_GO, _FUTEX_WAKE, 100)

    def calls(self, actor: str) -> list[str]:
        which = ACTORS.index(actor)
        return [
            ctypes.string_at(self._at(which, n), _LINE).rstrip(b"\0").decode()
            for n in range(self._words[_COUNTS + which])
        ]

    # ----------------------------------------------------------------------- inside

    def _at(self, which: int, number: int) -> int:
        return self._base + _TEXTS + (which * _MOST + number) * _LINE

    def _futex(
        self, word: int, operation: int, value: int, seconds: float | None = None
    ) -> None:
        limit = None
        if seconds is not None:
            whole = int(seconds)
            nano = int((seconds - whole) * 1e9)
            limit = ctypes.byref(_Timespec(whole, nano))
        result = _libc.syscall(
            ctypes.c_long(_FUTEX),
            ctypes.c_void_p(self._base + 4 * word),
            ctypes.c_int(operation),
            ctypes.c_uint32(value),
            limit,
            None,
            ctypes.c_int(0),
        )
        if result < 0 and ctypes.get_errno() not in (
            errno.EAGAIN,
            errno.EINTR,
            errno.ETIMEDOUT,
        ):
            raise OSError(ctypes.get_errno(), "futex")
