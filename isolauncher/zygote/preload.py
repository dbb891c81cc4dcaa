# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a zygote's list, says what each entry cost, and proves fitness to fork.

Nothing is decided here: what an entry did that cannot be undone is in the report, and
a zygote whose report names an unfit entry must end; its supervisor starts another
without that entry. Runs without powers. Forks nothing; `watch` looks at the files.
"""

from __future__ import annotations

import _warnings
import atexit
import builtins
import contextlib
import contextvars
import ctypes
import gc
import importlib
import importlib.util
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, FrozenImporter
from itertools import islice
from types import FrameType, ModuleType
from typing import Any, Protocol

from isolauncher.errors import ZygoteError
from isolauncher.zygote import kept, noting, sets, unseen, variables
from isolauncher.zygote.handover import Pristine, World
from isolauncher.zygote.noting import Brought
from isolauncher.zygote.quiet import quiet

OURS = "isolauncher"
USED_SOCKET = "used a socket"
RAN_PROGRAM = "ran a program"
TIME_LIMIT_S = 10.0
FINGERPRINT_LIMIT = 4 << 20
_CO_NEWLOCALS = 0x2
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
_libc = ctypes.CDLL(None)
_NAMESPACES = "gi.repository."


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name of the list: what it cost, and what is wrong with it.

    ``faults`` make it unfit; ``notes`` are what the hand-over takes care of. ``rss``
    in bytes; ``modules`` is how many it added to ``sys.modules``. ``absent``: why there
    is none of it on this machine, which is no fault.
    """

    name: str
    microseconds: int
    rss: int
    modules: int
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    entries: tuple[Entry, ...]
    world: World

    @property
    def unfit(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.faults)

    def lacks(self, set_name: str) -> str:
        """Why this machine has no use of the set, and what to install; or nothing."""
        absent = {e.name: e.absent for e in self.entries if e.absent}
        for name in reversed(sets.nested(set_name)):
            needed, package = sets.NEEDS.get(name, ("", ""))
            if needed in absent:
                return f"{absent[needed]} (install {package})"
        return ""

    def as_data(self) -> list[dict[str, object]]:
        """For JSON: what `isolauncher preload list` shows."""
        return [
            {
                "name": e.name,
                "us": e.microseconds,
                "rss": e.rss,
                "modules": e.modules,
                "faults": list(e.faults),
                "notes": list(e.notes),
                "absent": e.absent,
            }
            for e in self.entries
        ]


ANSWERED = frozenset(
    {
        *("HOME", "LANG", "LANGUAGE", "SUGAR_SCALING"),
    }
)
"""Variables that may be read while importing, as all of PYTHON… and LC_… may.

Locale, home and Sugar's scale are renewed by the hand-over. Those of
`variables.is_of_a_module` may be read too: a program that is given one gets a fresh
interpreter (`program.needs_exec`).
"""


class _TooLong(BaseException):
    """Out of reach of an entry's ``except Exception``."""


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


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
class _State:
    """Everything an import may change that a child would inherit."""

    tasks: frozenset[int]
    fds: frozenset[int]
    values: Mapping[str, object]


def _state(deep: Mapping[str, Callable[[], object]]) -> _State:
    return _State(
        tasks=threads(),
        fds=descriptors(),
        values={name: look() for name, look in deep.items()},
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
    context = decimal.getcontext().copy()
    context.clear_flags()
    plain = decimal.Context()
    return "" if repr(context) == repr(plain) == _DECIMAL else repr((context, plain))


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


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ExitCall = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]


@contextlib.contextmanager
def _noting_exits(calls: list[ExitCall]) -> Iterator[None]:
    """Note what is registered with atexit, which offers no way to ask later."""
    register, unregister = atexit.register, atexit.unregister

    def noting(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        calls.append((function, args, kwargs))
        return register(function, *args, **kwargs)

    def forgetting(function: Callable[..., Any], /) -> None:
        calls[:] = [call for call in calls if call[0] != function]
        unregister(function)

    atexit.register, atexit.unregister = noting, forgetting
    try:
        yield
    finally:
        atexit.register, atexit.unregister = register, unregister


class Observer(Protocol):
    """Who looks more closely (`audit`): is there while an entry is imported."""

    def entry(self, name: str) -> contextlib.AbstractContextManager[None]: ...

    def reads(self, variable: str) -> None:
        """Called from where Python's environment is read."""

    def failed(self, error: BaseException) -> None:
        """The import ended with this, whose traceback says where."""


@contextlib.contextmanager
def _noting_sockets(note: Callable[[], None]) -> Iterator[None]:
    """Note that one was made: what came of it may be another in a sandbox."""
    kind: Any = socket.socket
    real = kind.__init__

    def noting(self: object, *arguments: object, **keywords: object) -> None:
        note()
        real(self, *arguments, **keywords)

    kind.__init__ = noting
    try:
        yield
    finally:
        kind.__init__ = real


@contextlib.contextmanager
def _noting_reads(note: Callable[[str], None]) -> Iterator[None]:
    """Note which variables are read: whatever is computed from them is the zygote's.

    By another class of the two objects that everybody has. What a library reads by
    getenv(3) is not seen.
    """
    plain: Any = type(os.environ)

    class Noting(plain):  # type: ignore[misc]
        def __getitem__(self, key: str | bytes) -> object:
            note(os.fsdecode(key))
            return plain.__getitem__(self, key)

        def __iter__(self) -> object:
            note("all of them")
            return plain.__iter__(self)

    kept = (os.environ, os.environb)
    for one in kept:
        one.__class__ = Noting
    try:
        yield
    finally:
        for one in kept:
            one.__class__ = plain


def is_answered(variable: str) -> bool:
    known = variable in ANSWERED or variable.startswith(("PYTHON", "LC_"))
    return known or variables.is_of_a_module(variable)


def _unanswered(reads: set[str]) -> list[str]:
    return sorted(name for name in reads if not is_answered(name))


def _bring(name: str, limit: float, observer: Observer | None) -> tuple[str, str]:
    """Import or load ``name``: what went wrong, and why there is none of it here."""
    library = sets.library(name)
    if library is not None:
        return "", _load(library)
    absent = _absent(name) if name in sets.LASTING else ""
    return ("" if absent else _import_one(name, limit, observer)), absent


def _load(library: str) -> str:
    """Have the dynamic linker load it, which runs its constructors and no more."""
    try:
        # Every symbol bound, as those who load it later ask for it.
        ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        return str(error)
    return ""


def _import_one(name: str, limit: float, observer: Observer | None) -> str:
    """Import ``name``; what went wrong in words, or nothing."""
    try:
        with noting.alone(), _time_limit(limit):
            module = importlib.import_module(name)
            if name.startswith(_NAMESPACES):
                _wrap(module, name.removeprefix(_NAMESPACES))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if observer is not None:
            observer.failed(error)
        if isinstance(error, _TooLong):
            return f"did not finish importing in {limit:g} s"
        if isinstance(error, SystemExit):
            return f"called sys.exit({error.code!r})"
        return f"raised {type(error).__name__}: {error}"
    return ""


def _wrap(module: object, namespace: str) -> None:
    for attribute in sets.WRAPPED.get(namespace, "").split():
        # Another version of the library may be without it.
        getattr(module, attribute, None)


def _faults(before: _State, after: _State) -> list[str]:
    faults = []
    started = after.tasks - before.tasks
    if started:
        names = ", ".join(_thread_name(task) for task in sorted(started))
        faults.append(f"started threads: {names}")
    opened = after.fds - before.fds
    if opened:
        names = ", ".join(_fd_name(fd) for fd in sorted(opened))
        faults.append(f"left descriptors open: {names}")
    closed = before.fds - after.fds
    if closed:
        faults.append(f"closed descriptors: {', '.join(map(str, sorted(closed)))}")
    faults += [f"changed {n}" for n in LOOKS if before.values[n] != after.values[n]]
    return faults


def preload(
    names: Sequence[str],
    *,
    pristine: Pristine,
    expected_fds: Iterable[int],
    time_limit_s: float = TIME_LIMIT_S,
    observer: Observer | None = None,
) -> Report:
    """Import each of ``names`` in order and report; never raises for an entry.

    ZygoteError only for what is wrong before the first one.
    """
    prove_fit(expected_fds)
    _refuse_user_site(pristine)
    # Read by the hand-over without being imported there.
    ours_first = set(sys.modules) - set(pristine.modules)
    # Our own imports may have added filters; entries start from the interpreter's.
    warnings.filters[:] = list(pristine.warning_filters)  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    # So for the pointer types that ctypes keeps, of which it makes three itself.
    pointers = ctypes._pointer_type_cache  # type: ignore[attr-defined]
    for kind in set(pointers) - {None, ctypes.c_char, ctypes.c_wchar}:
        del pointers[kind]
    finders, hooks = list(sys.meta_path), list(sys.path_hooks)
    sys.meta_path[:] = pristine.meta_path  # type: ignore[assignment]
    sys.path_hooks[:] = pristine.path_hooks  # type: ignore[assignment]
    looks = {**LOOKS, **NOTED}
    calls: list[ExitCall] = []
    entries = []
    own: set[str] | None = None
    noting.begin()
    noting.looked_at = observer is not None
    for watching in (
        *(noting.import_, noting.find_and_load),
        *(noting.create_dynamic, noting.exec_dynamic),
    ):
        # Else what warns at import would blame them for what its importer does.
        unseen.hide(watching)
    with _noting_exits(calls), quiet():
        before = _state(looks)
        noting.sharpen(ctypes.c_uint64.from_address)
        for name in names:
            if own is None and name in sets.LASTING:
                own = set(sys.modules)
            entry, before = _measured(name, before, looks, time_limit_s, observer)
            entries.append(entry)
    meta_path, path_hooks = tuple(sys.meta_path), tuple(sys.path_hooks)
    sys.meta_path[:], sys.path_hooks[:] = finders, hooks
    changes = tuple(noting.changes())
    needs = needed_modules(pristine, noting.end())
    loaded = set(sys.modules) - set(pristine.modules) - ours_first
    wanted = noting.reach(set(names) | loaded, needs) & set(sys.modules)
    visible = frozenset(
        name
        for name in set(pristine.modules) | loaded | wanted
        if name.partition(".")[0] != OURS
    )
    calls += _early_exits(ours_first & wanted)
    shelved = visible - set(pristine.modules)
    lasting = frozenset[str]()
    if own is not None:
        first = [name for name in names if name not in sets.LASTING]
        again = own | noting.reach(set(first) | (loaded & own), needs)
        lasting = shelved - again
    added = {n: tuple(own) for n, own in noting.filters().items() if n in shelved}
    first_ones = pristine.warning_filters
    later = [f for own in added.values() for f, _ in own if f not in first_ones]
    theirs = [f for f in meta_path if getattr(f, "__module__", None) in shelved]
    world = World(
        pristine=pristine,
        visible=visible,
        needs=needs,
        exits=tuple(calls),
        meta_path=tuple(f for f in meta_path if f not in theirs),
        path_hooks=path_hooks,
        warning_filters=tuple(f for f in _warnings.filters if f not in later),
        filters=added,
        asking=noting.asking() & shelved,
        shelved=shelved,
        lasting=lasting,
        changes=changes,
        own_children=noting.own_children(),
        finders={
            name: tuple(f for f in theirs if getattr(f, "__module__", None) == name)
            for name in {str(getattr(f, "__module__", None)) for f in theirs}
        },
    )
    return Report(entries=tuple(entries), world=world)


def _measured(
    name: str,
    before: _State,
    looks: Mapping[str, Callable[[], object]],
    limit: float,
    observer: Observer | None,
) -> tuple[Entry, _State]:
    count, resident = len(sys.modules), _resident()
    reads: set[str] = set()
    sockets: list[bool] = []
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)

    def note(variable: str) -> None:
        reads.add(variable)
        if observer is not None:
            observer.reads(variable)

    start = time.perf_counter_ns()
    with observer.entry(name) if observer is not None else contextlib.nullcontext():
        with _noting_reads(note), _noting_sockets(lambda: sockets.append(True)):
            failure, absent = _bring(name, limit, observer)
    took = time.perf_counter_ns() - start
    after = _state(looks)
    faults = ([failure] if failure else []) + _faults(before, after)
    if sockets:
        faults.append(USED_SOCKET)
    if resource.getrusage(resource.RUSAGE_CHILDREN) != ended:
        faults.append(RAN_PROGRAM)
    unanswered = _unanswered(reads)
    if unanswered:
        faults.append(f"read environment variables: {', '.join(unanswered)}")
    faults += _kept(tuple(islice(sys.modules, count, None)))
    entry = Entry(
        name=name,
        microseconds=took // 1000,
        rss=_resident() - resident,
        modules=len(sys.modules) - count,
        faults=tuple(faults),
        notes=tuple(
            f"changed {n}" for n in NOTED if before.values[n] != after.values[n]
        ),
        absent=absent,
    )
    return entry, after


def _kept(names: Iterable[str]) -> list[str]:
    return [
        f"keeps {found.what}: {'.'.join(found.places[0])}" for found in kept.scan(names)
    ]


def _absent(name: str) -> str:
    """Why this name cannot be imported here, before it is tried."""
    top, _, rest = name.partition(".")
    try:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            return f"{top} is not installed"
        if name.startswith(_NAMESPACES):
            namespace = name.removeprefix(_NAMESPACES)
            known = importlib.import_module("gi").Repository.get_default()
            wanted = sets.VERSIONS.get(namespace)
            there = known.enumerate_versions(namespace)
            if not there or (wanted and wanted not in there):
                which = f"{namespace} {wanted}" if wanted else namespace
                return f"the typelib of {which} is not installed"
        elif rest and importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    except ImportError as error:
        return str(error)
    return ""


def _early_exits(names: set[str]) -> list[ExitCall]:
    """What modules that our own code imported first have registered.

    `noting` did not see them; the standard library has two such.
    """
    calls: list[ExitCall] = []
    if "logging" in names:
        calls.append((sys.modules["logging"].shutdown, (), {}))
    if "multiprocessing.util" in names:
        calls.append((sys.modules["multiprocessing.util"]._exit_function, (), {}))
    return calls


def _refuse_user_site(pristine: Pristine) -> None:
    import site

    if site.USER_SITE and site.USER_SITE in pristine.path:
        raise ZygoteError(
            f"the zygote has the user site {site.USER_SITE}, which its children would "
            "inherit",
            code="zygote-user-site",
            hint="start it with a HOME that does not exist",
        )


# Which module needs which ---------------------------------------------------------


def needed_modules(pristine: Pristine, brought: Brought) -> dict[str, tuple[str, ...]]:
    """For each loaded module the modules that its import asks for, in that order."""
    fixed = set(pristine.modules)
    needs: dict[str, tuple[str, ...]] = {
        name: tuple(ones)
        for name, ones in brought.items()
        if name in sys.modules and name not in fixed
    }
    there: Mapping[str, object] = sys.modules
    for name, thing in tuple(there.items()):
        # What a body has put there by its own hand, as that of `typing` does: a class.
        parent = name.rpartition(".")[0]
        if isinstance(thing, type) and parent in sys.modules:
            needs[parent] = (*needs.get(parent, ()), name)
    return needs


# Which files were loaded ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was when the zygote had loaded it."""

    path: str
    dev: int
    ino: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, path: str) -> File:
        s = os.stat(path)
        return cls(
            path=path,
            dev=s.st_dev,
            ino=s.st_ino,
            mtime_ns=s.st_mtime_ns,
            size=s.st_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All files a zygote was made from, and where else modules would be sought.

    ``names`` are the preloaded modules' full names with the directory each was found
    in, ``path`` the search path: a new file there could come first.
    """

    files: tuple[File, ...]
    path: tuple[str, ...]
    names: tuple[tuple[str, str], ...]

    def to_bytes(self) -> bytes:
        """NUL between fields, one empty field between the three parts."""
        fields: list[str] = []
        for f in self.files:
            fields += [f.path, f"{f.dev} {f.ino} {f.mtime_ns} {f.size}"]
        fields += ["", *self.path, ""]
        for name, directory in self.names:
            fields += [name, directory]
        data = "\0".join(fields).encode("utf-8", "surrogateescape")
        if len(data) > FINGERPRINT_LIMIT:
            raise ZygoteError(
                f"the list of preloaded files takes {len(data)} bytes, more than "
                f"{FINGERPRINT_LIMIT}",
                code="zygote-fingerprint-size",
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Refuses what `to_bytes` would not write, though only it should have."""
        try:
            if len(data) > FINGERPRINT_LIMIT:
                raise ValueError("too long")
            fields = data.decode("utf-8", "surrogateescape").split("\0")
            first = fields.index("")
            second = fields.index("", first + 1)
            files = []
            for path, numbers in _pairs(fields[:first]):
                dev, ino, mtime, size = (int(n) for n in numbers.split(" "))
                files.append(
                    File(path=path, dev=dev, ino=ino, mtime_ns=mtime, size=size)
                )
            return cls(
                files=tuple(files),
                path=tuple(fields[first + 1 : second]),
                names=tuple(_pairs(fields[second + 1 :])),
            )
        except ValueError as error:
            raise ZygoteError(
                f"a zygote sent an unreadable list of its files: {error}",
                code="zygote-fingerprint",
            ) from error


def _pairs(fields: list[str]) -> list[tuple[str, str]]:
    if len(fields) % 2:
        raise ValueError("a field is missing")
    return list(zip(fields[::2], fields[1::2], strict=True))


def fingerprint(pristine: Pristine, shelf: Mapping[str, object]) -> Fingerprint:
    """What this process has loaded: modules, their caches, mapped libraries."""
    paths = {sys.executable}
    names = []
    for name, module in {**sys.modules, **shelf}.items():
        spec = getattr(module, "__spec__", None)
        origin = getattr(module, "__file__", None)
        if spec is None or not origin or not os.path.isabs(origin):
            continue
        if spec.loader not in (BuiltinImporter, FrozenImporter):
            directory = os.path.dirname(origin)
            # Not by what it says of itself: `six` is one file and says "package".
            if os.path.basename(origin) == "__init__.py":
                directory = os.path.dirname(directory)
            names.append((name, directory))
        paths.add(origin)
        cached = getattr(module, "__cached__", None)
        if cached:
            paths.add(cached)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            # A name that ends so is one that is no longer there: an upgrade has gone
            # over a running zygote, and its stat fails below.
            if path and not path.startswith(("memfd:", "dev/", "SYSV")):
                paths.add("/" + path)
    files = []
    for path in sorted(paths):
        try:
            files.append(File.of(path))
        except FileNotFoundError:
            # A cache that was never written is no file of ours; anything else has
            # been taken away while it was being read.
            if path.endswith(".pyc"):
                continue
            raise ZygoteError(
                f"{path} was preloaded and is gone",
                code="zygote-file-gone",
                hint="an upgrade is going on: the next zygote will have the new file",
            ) from None
    return Fingerprint(
        files=tuple(files), path=tuple(pristine.path), names=tuple(sorted(names))
    )


# Values that name the zygote ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A global of a preloaded module that holds something of the zygote's own."""

    module: str
    name: str
    what: str


def own_values() -> dict[str, str | int]:
    """What a child must not find anywhere: this process's own identity.

    Asks neither `pwd` nor `platform`: the one would have the C library settle on this
    machine's nsswitch.conf, which it does not read again once the root directory is
    another; the other would note the host's name.
    """
    uid = os.getuid()
    values: dict[str, str | int] = {
        "process id": os.getpid(),
        "host name": os.uname().nodename,
        "working directory": os.getcwd(),
        "user id": uid,
    }
    with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if len(fields) == 7 and fields[2] == str(uid):
                values["home"] = fields[5]
                break
    return values


def scan_identity(
    values: Mapping[str, str | int],
    visible: Iterable[str],
    *,
    shelf: Mapping[str, object] | None = None,
) -> tuple[Trace, ...]:
    """Globals of the ``visible`` modules that hold one of ``values``.

    Shallow: globals, and items of tuples, lists and dicts among them. Strings of
    fewer than three characters and numbers below 100 say nothing and are not sought.
    Some constant may by chance be the process id: what two processes find is true.
    """
    strings = {v: k for k, v in values.items() if isinstance(v, str) and len(v) > 2}
    numbers = {v: k for k, v in values.items() if isinstance(v, int) and v >= 100}
    found = []
    modules = {**sys.modules, **(shelf or {})}
    for module_name in sorted(visible):
        module = modules.get(module_name)
        if module is None or module_name in ("os", "posix", "sys"):
            continue
        for name, value in tuple(noting.globals_of(module).items()):
            if name in ("__builtins__", "__doc__") or isinstance(value, ModuleType):
                continue
            for item in _items(value):
                what = None
                if type(item) is int:
                    what = numbers.get(item)
                elif isinstance(item, str | bytes):
                    text = os.fsdecode(item)
                    what = next((w for s, w in strings.items() if s in text), None)
                if what is not None:
                    found.append(Trace(module=module_name, name=name, what=what))
                    break
    return tuple(found)


def _items(value: object) -> Iterator[object]:
    yield value
    if isinstance(value, tuple | list | set | frozenset):
        yield from value
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
