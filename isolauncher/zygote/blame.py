# SPDX-License-Identifier: GPL-3.0-or-later
"""Which line is to blame: of what happens now, and of what was found to have changed.

`place` reads the stack. `Tracer` is for changes that no event goes with: it looks after
each line that is run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from isolauncher.zygote import hazards, noting, state

TRACE_S = 20
_NOTHING = object()
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_IMPORTLIB = os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep
# Their frames lie between who asks and what is asked, not beyond.
_STAND_INS = tuple(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    for name in ("audit.py", "preload.py")
)

Place = tuple[str, int]
"""A file and a line of it; nothing and 0 where that is not known."""


def place(frame: FrameType | None) -> Place:
    """File and line to blame for what happens in ``frame``.

    Of the module whose body is being executed the innermost frame: of its own package,
    not of a library that it has called.
    """
    chain: list[FrameType] = []
    while frame is not None:
        if not is_machinery(frame):
            chain.append(frame)
        elif chain and frame.f_code.co_filename not in _STAND_INS:
            break
        frame = frame.f_back
    if not chain:
        return "", 0
    top = _root(chain[-1])
    for one in chain:
        if _root(one) == top:
            return one.f_code.co_filename, one.f_lineno
    return "", 0


def behind_stand_ins(frame: FrameType | None) -> FrameType | None:
    """Who has called what stands in for the interpreter's own."""
    while frame is not None and frame.f_code.co_filename in _STAND_INS:
        frame = frame.f_back
    return frame


def _is_body(frame: FrameType | None) -> bool:
    """Whether a module's body is being executed, not our own limit of time."""
    # An extension module is loaded by importlib, for a body that imports it.
    while frame is not None and is_machinery(frame):
        frame = frame.f_back
    while frame is not None and not is_machinery(frame):
        last, frame = frame, frame.f_back
        if last.f_code.co_name == "<module>":
            return True
    return False


def is_machinery(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file == "<string>":
        return frame.f_globals.get("__name__") == "__main__"
    return file.startswith(("<frozen importlib", _IMPORTLIB, _OURS))


def _root(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


class Tracer:
    """Looks for changes after each line, for faults that no event goes with.

    ``note`` is told the name of the look and the place; ``hush`` that what follows is
    our own doing, and that it is over.
    """

    def __init__(
        self,
        trace: Mapping[str, Callable[[], object]],
        note: Callable[[str, Place], None],
        hush: Callable[[bool], None],
    ) -> None:
        self._trace, self._note, self._hush = trace, note, hush
        self._until = time.monotonic() + TRACE_S
        self._was: dict[str, object] = {}
        # The last line run of each frame that is being traced.
        self._at: dict[FrameType, int] = {}

    def start(self) -> None:
        self._was = {name: look() for name, look in self._trace.items()}
        sys.settrace(self._call)

    def stop(self) -> None:
        sys.settrace(None)
        self._at.clear()

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        if is_machinery(frame) or frame.f_code.co_filename.startswith("<frozen"):
            return None
        self._look(frame.f_back)
        self._at[frame] = frame.f_lineno
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        self._look(frame)
        if event == "return":
            self._at.pop(frame, None)
        else:
            self._at[frame] = frame.f_lineno
        return self._step

    def _look(self, frame: FrameType | None) -> None:
        if time.monotonic() > self._until:
            # A body that runs long stays without a place, and not without an end.
            sys.settrace(None)
            return
        self._hush(True)
        try:
            for name, look in self._trace.items():
                now = look()
                if now != self._was[name]:
                    self._was[name] = now
                    self._blame(name, frame)
        finally:
            self._hush(False)

    def _blame(self, name: str, frame: FrameType | None) -> None:
        if not _is_body(frame):
            return
        file, line = place(frame)
        # The line that has run, not the one that is about to.
        while frame is not None and frame.f_code.co_filename != file:
            frame = frame.f_back
        if frame is not None:
            line = self._at.get(frame, line)
        self._note(name, (file, line))


def looks() -> dict[str, Callable[[], object]]:
    """What can be traced, by the stable part of the fault's words."""
    all_looks = {**state.LOOKS, **state.NOTED}
    return {
        **{f"changed {name}": look for name, look in all_looks.items()},
        hazards.THREADS: state.threads,
        hazards.OPENED: state.descriptors,
        hazards.CLOSED: state.descriptors,
        hazards.OUTPUT: output_sizes,
    }


def can_look_for(text: str) -> bool:
    return text.startswith(hazards.CHANGES) or text in looks()


def look_for(text: str) -> Callable[[], object]:
    """What is to be looked at to see where a finding of these words was made."""
    if not text.startswith(hazards.CHANGES):
        return looks()[text]
    name = text.removeprefix(hazards.CHANGES).partition("[")[0]
    return lambda: _seen(name)


def _seen(name: str) -> object:
    """By what one sees that the global, attribute or container is another."""
    modules = noting.everything()
    parts = name.split(".")
    for many in range(len(parts) - 1, 0, -1):
        thing = modules.get(".".join(parts[:many]), _NOTHING)
        if thing is not _NOTHING:
            own: Any = noting.globals_of(thing)
            for part in parts[many:]:
                thing = own.get(part, _NOTHING)
                own = vars(thing) if isinstance(thing, type) else {}
            if type(thing) in (dict, list, set):
                return id(thing), len(thing)  # type: ignore[arg-type]
            return id(thing)
    return None


def output_sizes() -> tuple[int, int]:
    """How much has been written; the streams are files when this is used."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
    sizes = []
    for number in (1, 2):
        try:
            sizes.append(os.fstat(number).st_size)
        except OSError:
            sizes.append(-1)
    return sizes[0], sizes[1]


def written(since: tuple[int, int]) -> str:
    """The first line that has been written since."""
    for number, size in zip((1, 2), since, strict=True):
        with contextlib.suppress(OSError):
            text = os.pread(number, 200, size).decode("utf-8", "replace").strip()
            if text:
                return text.partition("\n")[0]
    return ""
