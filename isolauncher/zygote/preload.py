# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a zygote's list, and says what each entry cost and what is wrong with it.

Nothing is decided here: what an entry did that cannot be undone is in the report, and
a zygote whose report names an unfit entry must end; its supervisor starts another
without that entry. What is looked at is in `state`, `kept` and `noting`. Runs without
powers, and forks nothing.
"""

from __future__ import annotations

import _warnings
import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any, Protocol

from isolauncher.errors import ZygoteError
from isolauncher.zygote import kept, noting, sets, state, unseen, variables
from isolauncher.zygote.handover import Pristine, World
from isolauncher.zygote.noting import Brought
from isolauncher.zygote.quiet import quiet
from isolauncher.zygote.state import State

OURS = "isolauncher"
USED_SOCKET = "used a socket"
RAN_PROGRAM = "ran a program"
ADDED_HOOK = "added an audit hook"
BY_EVENT = (USED_SOCKET, RAN_PROGRAM, ADDED_HOOK)
"""Who listens to the interpreter's audit events hears of each by itself (`hazards`)."""
TIME_LIMIT_S = 10.0
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


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    begun = time.monotonic()
    try:
        yield
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if not left and time.monotonic() - begun > seconds:
        raise _TooLong  # it has stopped the timer, or blocked the signal


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
def _noting_hooks(note: Callable[[], None]) -> Iterator[None]:
    """Note that an audit hook was added: nobody can ask for them, or take one away."""
    real = sys.addaudithook

    def adding(hook: Callable[..., Any]) -> None:
        note()
        real(hook)

    sys.addaudithook = adding
    try:
        yield
    finally:
        sys.addaudithook = real
        for module in tuple(sys.modules.values()):
            names = noting.globals_of(module)
            if names.get(real.__name__) is adding:
                names[real.__name__] = real


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


def preload(
    names: Sequence[str],
    *,
    pristine: Pristine,
    expected_fds: Iterable[int],
    time_limit_s: float = TIME_LIMIT_S,
    observer: Observer | None = None,
    begins: Callable[[str], None] = lambda name: None,
) -> Report:
    """Import each of ``names`` in order and report; never raises for an entry.

    ``begins`` is told of each before it is imported.
    ZygoteError only for what is wrong before the first one.
    """
    state.prove_fit(expected_fds)
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
        before = State.now()
        noting.sharpen(ctypes.c_uint64.from_address)
        for name in names:
            if own is None and name in sets.LASTING:
                own = set(sys.modules)
            begins(name)
            entry, before = _measured(name, before, time_limit_s, observer)
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
    before: State,
    limit: float,
    observer: Observer | None,
) -> tuple[Entry, State]:
    count, resident = len(sys.modules), _resident()
    reads: set[str] = set()
    sockets: list[bool] = []
    hooks: list[bool] = []
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)

    def note(variable: str) -> None:
        reads.add(variable)
        if observer is not None:
            observer.reads(variable)

    start = time.perf_counter_ns()
    with observer.entry(name) if observer is not None else contextlib.nullcontext():
        with (
            _noting_reads(note),
            _noting_sockets(lambda: sockets.append(True)),
            _noting_hooks(lambda: hooks.append(True)),
        ):
            failure, absent = _bring(name, limit, observer)
    took = time.perf_counter_ns() - start
    after = State.now()
    faults = ([failure] if failure else []) + state.faults(before, after)
    if sockets:
        faults.append(USED_SOCKET)
    if resource.getrusage(resource.RUSAGE_CHILDREN) != ended:
        faults.append(RAN_PROGRAM)
    if hooks:
        faults.append(ADDED_HOOK)
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
            f"changed {n}" for n in state.NOTED if before.values[n] != after.values[n]
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
