# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a list once more, slowly, and says at which line each hazard lies.

Runs in a fresh process that then ends, under one of the identities of `verdict`, which
compares what two of them have found. Whether an entry is fit at all is `preload`'s to
say; here are finer instruments: an audit hook, stand-ins for what asks the machine who
it is, a watch on getenv(3), a search of globals, and a trace of the lines for faults
that a first run has seen and not placed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from isolauncher.zygote import (
    blame,
    describe,
    elsewhere,
    getenv,
    hazards,
    kept,
    noting,
    preload,
    traces,
)
from isolauncher.zygote.handover import Pristine, World
from isolauncher.zygote.handover.elsewhere import taken_back

_CLONE_NEWUTS = 0x04000000
_PR_SET_DUMPABLE = 4

_TRANSLATING = (
    *("gettext", "ngettext", "pgettext", "npgettext"),
    *("dgettext", "dngettext", "dpgettext", "dnpgettext"),
)
_NAME_SERVICE = {
    "pwd": ("getpwnam", "getpwuid", "getpwall"),
    "grp": ("getgrnam", "getgrgid", "getgrall"),
    "os": ("getlogin", "getgrouplist", "initgroups"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the process is told: the list, and who to be while it imports.

    ``uid`` and ``host`` None: as it is. ``trace``: for an entry the faults that are to
    be placed by tracing.
    """

    names: tuple[str, ...]
    path: tuple[str, ...] = ()
    uid: int | None = None
    host: str | None = None
    trace: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Told:
        data = json.loads(text)
        for name in ("names", "path"):
            data[name] = tuple(data[name])
        return cls(**data)


@dataclass(slots=True)
class _Auditor:
    """Is there while entries are imported (`preload.Observer`) and takes notes."""

    trace: Mapping[str, Sequence[str]]
    cold: frozenset[str]
    alone: bool
    findings: dict[hazards.Finding, None] = field(default_factory=dict)
    brought: dict[str, str] = field(default_factory=dict)
    current: str = ""
    placed: dict[str, blame.Place] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)
    busy: bool = False
    last_c: str = ""

    @contextlib.contextmanager
    def entry(self, name: str) -> Iterator[None]:
        count = len(sys.modules)
        output = blame.output_sizes()
        before = hazards.filled_caches()
        mine = self._put_aside(name) if self.alone else {}
        self.current = name
        looks = {text: blame.look_for(text) for text in self.trace.get(name, ())}
        tracer = blame.Tracer(looks, self._placed, self._hush)
        try:
            if looks:
                tracer.start()
            yield
        finally:
            if looks:
                tracer.stop()
            self.current = ""
            _put_back(mine)
            for module in tuple(sys.modules)[count:]:
                self.brought.setdefault(module, name)
            if blame.output_sizes() != output:
                text = f"{hazards.OUTPUT}: {blame.written(output)}"
                made = hazards.Finding(
                    entry=name, kind="output", text=text, hazard="H23"
                )
                self._put(made, self.placed.get(_key(name, hazards.OUTPUT)))
            for at, filled in hazards.filled_caches().items():
                if filled and not before[at]:
                    cache = hazards.CACHES[at]
                    made = hazards.Finding(
                        entry=name,
                        kind="cache",
                        text=f"fills {cache.module}.{cache.name}",
                        hazard=cache.hazard,
                        answer=cache.answer,
                    )
                    self._put(made)

    def _put_aside(self, name: str) -> dict[str, ModuleType]:
        """Take away what our own code has imported: its body is to be seen running.

        Only of a module that is checked alone: two copies get into each other's way in
        what comes after. The names below it are what it puts there itself (`typing`).
        """
        loader = getattr(sys.modules.get(name), "__loader__", None)
        if name in self.cold or not isinstance(loader, SourceFileLoader):
            return {}
        mine = {n: m for n, m in sys.modules.items() if n.startswith(f"{name}.")}
        return {**mine, name: sys.modules.pop(name)}

    def _placed(self, look: str, at: blame.Place) -> None:
        self.placed[_key(self.current, look)] = at

    def _hush(self, busy: bool) -> None:
        self.busy = busy

    def failed(self, error: BaseException) -> None:
        frames = [f for f, _ in traceback.walk_tb(error.__traceback__)]
        lines = [n for _, n in traceback.walk_tb(error.__traceback__)]
        theirs = [
            (f.f_code.co_filename, n)
            for f, n in zip(frames, lines, strict=True)
            if not blame.is_machinery(f)
        ]
        file, line = theirs[-1] if theirs else ("", 0)
        if isinstance(error, SyntaxError) and error.filename:
            file, line = error.filename, error.lineno or 0
        self.placed[_key(self.current, "import")] = (file, line)

    def reads(self, variable: str) -> None:
        if not preload.is_answered(variable) and self._listens():
            text = f"{hazards.READS}{variable}"
            if variable == "all of them":
                text = "reads the whole environment"
            self._note("environment", text, "H19")

    def reads_in_c(self, variable: str) -> None:
        """From within getenv(3): whatever this raised would go unheard."""
        if not self._listens():
            return
        self.busy = True
        try:
            before, self.last_c = self.last_c, variable
            if not hazards.is_answered_in_c(variable, before):
                text = f"{hazards.READS}{variable}, by getenv(3)"
                self._note("environment-c", text, "H5")
        finally:
            self.busy = False

    def hears(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook, which stays for the life of the process."""
        if not self._listens():
            return
        known = hazards.EVENTS.get(event)
        if known is None and event not in ("open", "os.listdir", "os.scandir"):
            return
        frame = sys._getframe().f_back
        if event == "sys.addaudithook":
            frame = blame.behind_stand_ins(frame)
        if frame is None or blame.is_machinery(frame):
            return
        self.busy = True
        try:
            if known is not None:
                detail = next((a for a in arguments if isinstance(a, str | bytes)), "")
                said = f": {os.fsdecode(detail)}" if detail else ""
                self._note(known.kind, known.text + said, known.hazard)
            else:
                text = hazards.file_hazard(*arguments)
                if text:
                    self._note("file", text, "H39")
        finally:
            self.busy = False

    def asks(self, kind: str, text: str, hazard: str) -> None:
        if self._listens():
            self._note(kind, text, hazard)

    def _listens(self) -> bool:
        return bool(self.current) and not self.busy and os.getpid() == self.pid

    def _note(self, kind: str, text: str, hazard: str) -> None:
        made = hazards.Finding(entry=self.current, kind=kind, text=text, hazard=hazard)
        self._put(made, blame.place(sys._getframe()))

    def _put(self, finding: hazards.Finding, at: blame.Place | None = None) -> None:
        file, line = at or ("", 0)
        self.findings[dataclasses.replace(finding, file=file, line=line)] = None

    def faults(self, report: preload.Report) -> None:
        """What `preload` has said, with its place if the trace has found it."""
        for entry in report.entries:
            for fault in (*entry.faults, *entry.notes):
                kind, hazard, answer = next(
                    rest for begin, *rest in hazards.FAULTS if fault.startswith(begin)
                )
                # Those that were noted when they were made.
                if fault.startswith(("read environment", "keeps ")):
                    continue
                by_event = fault in preload.BY_EVENT
                if by_event and self._has(entry.name, kind):
                    continue
                made = hazards.Finding(
                    entry=entry.name,
                    kind=kind,
                    text=fault,
                    hazard=hazard,
                    answer=answer,
                )
                what = "import" if kind == "import" else hazards.stable(fault)
                self._put(made, self.placed.get(_key(entry.name, what)))

    def _has(self, entry: str, kind: str) -> bool:
        return any((f.entry, f.kind) == (entry, kind) for f in self.findings)

    def elsewhere(self, world: World) -> None:
        """What was changed in other modules, and is told of: not within the library."""
        told: set[tuple[str, str]] = set()
        for change in taken_back(world):
            text = f"{hazards.CHANGES}{change.name}"
            if change.by not in self.brought:
                continue
            if change.by.partition(".")[0] in sys.stdlib_module_names:
                continue
            entry = self.brought[change.by]
            if (entry, text) not in told:
                told.add((entry, text))
                made = hazards.Finding(
                    entry=entry,
                    kind="elsewhere",
                    text=text,
                    hazard="H41",
                    answer="elsewhere",
                )
                at = self.placed.get(_key(entry, hazards.stable(text)))
                self._put(made, at or (_file(change.by), 0))

    def adopt(self, theirs: frozenset[str], names: Sequence[str], world: World) -> None:
        """What our own code had imported before counts as the first entry's to need it.

        How it was imported was not seen; what it holds is.
        """
        for name in names:
            for module in noting.reach({name}, world.needs) & theirs:
                self.brought.setdefault(module, name)
        for module in theirs:
            self.brought.setdefault(module, names[-1])

    def keeps(self, theirs: frozenset[str]) -> None:
        """Things that live in globals, by the module that made them."""
        lines = functools.cache(describe.lines)
        for found in kept.scan(sorted(theirs), depth=kept.DEPTH):
            made = [(m, n) for m, n in found.places if n in lines(_file(m))]
            module, name = (made or list(found.places))[0]
            finding = hazards.Finding(
                entry=self.brought.get(module, ""),
                kind="kept",
                text=f"keeps {found.what} in {module}.{name}",
                hazard=found.hazard,
            )
            file = _file(module)
            self._put(finding, (file, lines(file).get(name, 0)))


def _put_back(modules: Mapping[str, ModuleType]) -> None:
    for name, module in modules.items():
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


def _file(module: str) -> str:
    return getattr(sys.modules[module], "__file__", None) or ""


def _key(entry: str, what: str) -> str:
    return f"{entry} {what}"


# What is asked for ------------------------------------------------------------------


@contextlib.contextmanager
def _stand_ins(auditor: _Auditor) -> Iterator[None]:
    """Functions that translate, or ask for the names of users, tell that they do."""
    import gettext
    import locale

    wanted: list[tuple[Any, str, tuple[str, str, str]]] = []
    translates = ("translation", "translates a text", "H14")
    holders: tuple[Any, ...] = (
        *(gettext, locale, gettext.NullTranslations, gettext.GNUTranslations),
    )
    for holder in holders:
        wanted += [(holder, n, translates) for n in _TRANSLATING if n in vars(holder)]
    for module, names in _NAME_SERVICE.items():
        for name in names:
            text = f"asks the name service by {module}.{name}"
            wanted.append(
                (importlib.import_module(module), name, ("name-service", text, "H37"))
            )
    undo = []
    for holder, name, what in wanted:
        real = vars(holder)[name]
        undo.append((holder, name, real))
        setattr(holder, name, _telling(auditor, real, what))
    try:
        yield
    finally:
        for holder, name, real in undo:
            setattr(holder, name, real)


def _telling(
    auditor: _Auditor, real: Callable[..., Any], what: tuple[str, str, str]
) -> Callable[..., Any]:
    @functools.wraps(real)
    def tells(*arguments: Any, **keywords: Any) -> Any:
        auditor.asks(*what)
        return real(*arguments, **keywords)

    return tells


# The process -------------------------------------------------------------------------


def _become(told: Told) -> list[str]:
    """Take the identity; in words, what of it could not be taken."""
    skipped = []
    libc = ctypes.CDLL(None, use_errno=True)
    host = (told.host or "").encode()
    if host and (libc.unshare(_CLONE_NEWUTS) or libc.sethostname(host, len(host))):
        skipped.append(f"another host name: {os.strerror(ctypes.get_errno())}")
    if told.uid is not None:
        os.setgroups([])
        os.setresgid(told.uid, told.uid, told.uid)
        os.setresuid(told.uid, told.uid, told.uid)
        # The change of uid has shut /proc/self, which `preload` reads.
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    return skipped


Cold = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def main(cold: Cold, answer: int, text: str) -> None:
    """Do what ``text`` (`Told`) says, write what was found to ``answer``, and end."""
    mine = os.getpid()
    found = json.dumps(audit(cold, answer, Told.from_text(text)))
    if os.getpid() == mine:
        with open(answer, "w", encoding="utf-8") as out:
            out.write(found)
    # Not by the way an interpreter ends: an unfit module may hold that up.
    os._exit(0)


def audit(cold: Cold, answer: int, told: Told) -> dict[str, object]:
    pristine = Pristine.capture(*cold)
    skipped = _become(told)
    sys.path += told.path
    auditor = _Auditor(
        trace=told.trace,
        cold=frozenset(pristine.modules),
        alone=len(told.names) == 1,
    )
    unheard = getenv.watch(auditor.reads_in_c)
    skipped += [unheard] if unheard else []
    sys.addaudithook(auditor.hears)
    with _stand_ins(auditor):
        report = preload.preload(
            told.names,
            pristine=pristine,
            expected_fds=(0, 1, 2, answer),
            time_limit_s=preload.TIME_LIMIT_S
            + (2 * blame.TRACE_S if told.trace else 0),
            observer=auditor,
        )
    theirs = _theirs(report.world)
    auditor.adopt(theirs, told.names, report.world)
    auditor.faults(report)
    auditor.elsewhere(report.world)
    auditor.keeps(theirs)
    found = traces.scan_identity(traces.own_values(), report.world.visible)
    said = describe.globals_of(sorted(theirs))
    # What is said now is said by means that they may have changed.
    for change in reversed(report.world.changes):
        elsewhere.undo(change)
    return {
        "entries": report.as_data(),
        "traces": [[t.module, t.name, t.what] for t in found],
        "findings": [dataclasses.asdict(one) for one in auditor.findings],
        "globals": said,
        "brought": {name: auditor.brought.get(name, "") for name in theirs},
        "files": {name: _file(name) for name in said},
        "skipped": skipped,
    }


def _theirs(world: World) -> frozenset[str]:
    return frozenset(
        name for name in world.shelved if type(sys.modules.get(name)) is ModuleType
    )
