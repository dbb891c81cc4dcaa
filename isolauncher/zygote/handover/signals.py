# SPDX-License-Identifier: GPL-3.0-or-later
"""Signal dispositions, mask and wake-up descriptor.

Hazards: H25 (handlers, mask and wake-up descriptor are inherited), H26 (what Python
ignores for itself, an exec'ed program would go on ignoring: `for_exec`).
"""

from __future__ import annotations

# The C module: its functions take and give plain numbers, at a tenth of the price.
import _signal  # type: ignore[import-not-found]

from isolauncher.zygote.handover import Start, World

# CPython ignores these at start (signalmodule.c, signal_install_handlers).
IGNORED = frozenset(
    getattr(_signal, name)
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ")
    if hasattr(_signal, name)
)
_ALL = tuple(
    sorted(
        int(number)
        for number in _signal.valid_signals()
        if number not in (_signal.SIGKILL, _signal.SIGSTOP)
    )
)


def apply(start: Start, world: World) -> None:
    _signal.set_wakeup_fd(-1)
    # Every one is set, not only those Python thinks are different: a C library may
    # have set a disposition that Python has not heard of.
    for number in _ALL:
        ignored = number in IGNORED
        _signal.signal(number, _signal.SIG_IGN if ignored else _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    # After the dispositions: a signal that waits must meet its new one.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def for_exec() -> None:
    """All defaults and an empty mask, for a program that is exec'ed from here."""
    _signal.set_wakeup_fd(-1)
    for number in _ALL:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
