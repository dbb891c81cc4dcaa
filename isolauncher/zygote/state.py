# SPDX-License-Identifier: GPL-3.0-or-later
"""What an import may change of a process, as far as a forked child would inherit it.

`State.now` before and after one, and `faults` in words. `prove_fit` is asked before
every fork. Changes nothing; what an import keeps in its globals is for `kept`, and what
it does to other modules for `elsewhere`.
"""

from __future__ import annotations

import _tracemalloc
import _warnings
import atexit
import builtins
import codecs
import contextvars
import ctypes
import encodings
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from isolauncher.errors import ZygoteError
from isolauncher.zygote import noting

_RLIMITS = 16
# PR_GET_PDEATHSIG, PR_GET_CHILD_SUBREAPER; PR_GET_DUMPABLE, PR_GET_KEEPCAPS,
# PR_GET_SECUREBITS, PR_GET_TIMERSLACK, PR_GET_NO_NEW_PRIVS (prctl(2)).
_PR_BY_POINTER = (2, 37)
_PR_PLAIN = (3, 7, 27, 30, 39)
_DECIMAL = (
    "Context(prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, "
    "capitals=1, clamp=0, flags=[], "
    "traps=[InvalidOperation, DivisionByZero, Overflow])"
)
_CSV_LIMIT = 128 * 1024
_libc = ctypes.CDLL(None)


def threads() -> frozenset[int]:
    """The kernel's tasks of this process: Python does not know of all of them."""
    return frozenset(int(name) for name in os.listdir("/proc/self/task"))


def descriptors() -> frozenset[int]:
    """Open descriptors, without the one this looks with, closed when it has looked."""
    return frozenset(fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _status() -> list[bytes]:
    with open("/proc/self/status", "rb") as file:
        keys = (b"Umask:", b"SigBlk:", b"SigIgn:", b"SigCgt:")
        return [line for line in file if line.startswith(keys)]


def _shared_memory() -> int:
    """Mappings that stay one and the same, and writable, across a fork."""
    with open("/proc/self/maps", "rb") as file:
        maps = file.read()
    return maps.count(b" rw-s ") + maps.count(b" rwxs ")


def _fd_name(fd: int) -> str:
    try:
        return f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})"
    except OSError:
        return str(fd)


def _thread_name(task: int) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
            return f"{task} ({file.read().strip()})"
    except OSError:
        return f"{task} (gone)"


def prove_fit(expected_fds: Iterable[int]) -> None:
    """One task and no descriptor but these, or ZygoteError naming what is too much.

    Cheap (about 20 µs): to be asked before every fork, since a thread may start and a
    descriptor may appear long after the import that is to blame.
    """
    tasks = os.listdir("/proc/self/task")
    if len(tasks) != 1:
        extra = [_thread_name(t) for t in sorted(map(int, tasks)) if t != os.getpid()]
        raise ZygoteError(
            f"a zygote must have one thread; it has also {', '.join(extra)}",
            code="zygote-threads",
            hint="see `isolauncher preload list` for the module that started it",
        )
    left = descriptors().difference(expected_fds)
    if left:
        raise ZygoteError(
            "a zygote holds descriptors its children would share: "
            + ", ".join(_fd_name(fd) for fd in sorted(left)),
            code="zygote-descriptors",
            hint="see `isolauncher preload list` for the module that opened them",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an import may change that a child would inherit."""

    tasks: frozenset[int]
    fds: frozenset[int]
    values: Mapping[str, object]

    @classmethod
    def now(cls) -> State:
        looks = {**LOOKS, **NOTED}
        return cls(
            tasks=threads(),
            fds=descriptors(),
            values={name: look() for name, look in looks.items()},
        )


def _children() -> str:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read().strip()


def _built_in() -> dict[str, int]:
    # What the interactive prompt sets is the interpreter's own.
    return {n: id(v) for n, v in vars(builtins).items() if n != "__import__"}


def _root_logger() -> object:
    # Absent, or half imported (`audit` looks while it is).
    root = getattr(noting.everything().get("logging"), "root", None)
    if root is None or not hasattr(root, "manager"):
        return [], 30, 0
    return [id(h) for h in root.handlers], root.level, root.manager.disable


def _decimal_context() -> object:
    decimal: Any = noting.everything().get("_decimal")
    if not hasattr(decimal, "Context"):
        return ""
    # In a copy of the context variables: to ask for it makes one.
    context = contextvars.copy_context().run(decimal.getcontext).copy()
    context.clear_flags()
    plain = decimal.Context()
    return "" if repr(context) == repr(plain) == _DECIMAL else repr((context, plain))


def _csv_limit() -> int:
    module: Any = noting.everything().get("_csv")
    # Absent, or not made yet.
    limit: int = getattr(module, "field_size_limit", lambda: _CSV_LIMIT)()
    return limit


def _registries() -> tuple[dict[str, object], list[object]]:
    """The interpreter's own, which it shows to nobody; empty where it has others."""
    strict = codecs.lookup_error("strict")
    handlers, searches = {}, []
    for found in gc.get_referrers(strict):
        if type(found) is dict and found.get("strict") is strict:
            handlers = found
    for found in gc.get_referrers(encodings.search_function):
        if type(found) is list:
            searches = found
    return handlers, searches


_HANDLERS, _SEARCHES = _registries()


def _codecs_known() -> object:
    return {k: id(v) for k, v in _HANDLERS.items()}, [id(f) for f in _SEARCHES]


def _prctl() -> tuple[int, ...]:
    number = ctypes.c_int(0)
    by_pointer = []
    for option in _PR_BY_POINTER:
        _libc.prctl(option, ctypes.byref(number), 0, 0, 0)
        by_pointer.append(number.value)
    return (*by_pointer, *(_libc.prctl(option, 0, 0, 0, 0) for option in _PR_PLAIN))


def _comm() -> bytes:
    with open("/proc/self/comm", "rb") as file:
        return file.read()


class _Modules:
    """What stood in sys.modules: equal to a later one that has the same, and more."""

    def __init__(self, modules: Mapping[str, object]) -> None:
        self._ids = {name: id(module) for name, module in modules.items()}

    def __eq__(self, later: object) -> bool:
        if not isinstance(later, _Modules):
            return NotImplemented
        return self._ids.items() <= later._ids.items()

    def __hash__(self) -> int:
        return hash(tuple(self._ids))


# Looked at before and after each entry; a difference is a fault under this name.
LOOKS: dict[str, Callable[[], object]] = {
    "umask, signal mask or dispositions": _status,
    "Python signal handlers": lambda: tuple(
        repr(signal.getsignal(number))
        for number in sorted(signal.valid_signals())
        if number != signal.SIGALRM
    ),
    # Whether they run, not how long still: that is less each time one looks.
    "interval timers": lambda: (
        signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0,
        signal.getitimer(signal.ITIMER_PROF)[0] > 0,
    ),
    "working directory": os.getcwd,
    "environment": lambda: dict(os.environ),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "time zone": lambda: (time.tzname, time.timezone),
    "user and groups": lambda: (os.getresuid(), os.getresgid(), os.getgroups()),
    "child processes": _children,
    "sys.argv": lambda: list(sys.argv),
    "sys.path": lambda: list(sys.path),
    "standard streams": lambda: (id(sys.stdin), id(sys.stdout), id(sys.stderr)),
    "sys.excepthook": lambda: id(sys.excepthook),
    "other hooks of the interpreter": lambda: (
        id(sys.displayhook),
        id(sys.unraisablehook),
        id(sys.breakpointhook),
        id(threading.excepthook),
        repr(sys.get_asyncgen_hooks()),
    ),
    "names that are built in": lambda: _built_in(),
    "trace or profile function": lambda: (
        repr(sys.gettrace()),
        repr(sys.getprofile()),
    ),
    "recursion limit": sys.getrecursionlimit,
    "switch interval": sys.getswitchinterval,
    "gc settings": lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
    "socket default timeout": socket.getdefaulttimeout,
    "tracing of memory": _tracemalloc.is_tracing,
    "limit of csv's fields": lambda: _csv_limit(),
    "limit of a number's digits": sys.get_int_max_str_digits,
    "tracking of coroutines": sys.get_coroutine_origin_tracking_depth,
    "flags of dlopen": sys.getdlopenflags,
    "text domain of the C library": lambda: locale.textdomain(None),
    "codecs or handlers of their errors": lambda: _codecs_known(),
    "context variables": lambda: sorted(
        v.name for v in contextvars.copy_context() if v.name != "decimal_context"
    ),
    "the builtin __import__": lambda: id(__import__),
    "running threads of Python": threading.active_count,
    "memory that children would share": lambda: _shared_memory(),
    "resource limits": lambda: [resource.getrlimit(n) for n in range(_RLIMITS)],
    "priority or processors": lambda: (
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
    ),
    "handlers of the root logger": lambda: _root_logger(),
    "decimal context": lambda: _decimal_context(),
    "what prctl keeps": lambda: _prctl(),
    "name of the process": lambda: _comm(),
    "modules of others": lambda: _Modules(noting.everything()),
}

# Changed by an import as a cold start's import would change it, and handed on so.
NOTED: dict[str, Callable[[], object]] = {
    "sys.meta_path": lambda: [repr(finder) for finder in sys.meta_path],
    "sys.path_hooks": lambda: [repr(hook) for hook in sys.path_hooks],
    "warning filters": lambda: repr(_warnings.filters),
    "exit handlers": lambda: atexit._ncallbacks(),
}


def faults(before: State, after: State) -> list[str]:
    """What makes an import unfit that lies between the two, in words."""
    found = []
    started = after.tasks - before.tasks
    if started:
        names = ", ".join(_thread_name(task) for task in sorted(started))
        found.append(f"started threads: {names}")
    opened = after.fds - before.fds
    if opened:
        names = ", ".join(_fd_name(fd) for fd in sorted(opened))
        found.append(f"left descriptors open: {names}")
    closed = before.fds - after.fds
    if closed:
        found.append(f"closed descriptors: {', '.join(map(str, sorted(closed)))}")
    found += [f"changed {n}" for n in LOOKS if before.values[n] != after.values[n]]
    return found
