# SPDX-License-Identifier: GPL-3.0-or-later
"""`Recorder` over the real kernel, told by a board which call to spoil.

Every process of a launch has it: the daemon and the zygote make one, forks inherit
it. Each tells itself which of them it is, and names the step it is at by looking up
the stack, so that the product need not say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from isolauncher import kernel, steps
from isolauncher.spoilt.board import PAUSE, PRETEND, REFUSE, Board

SEPARATOR = "\t"


class Spoilt(kernel.Recorder):
    """A kernel with one bad call; ``owner`` is the actor that made it."""

    __slots__ = ("board", "owner", "pid")

    def __init__(self, board: Board, owner: str) -> None:
        super().__init__(real=kernel.Linux())
        self.board = board
        self.owner = owner
        self.pid = os.getpid()

    def __getattr__(self, name: str) -> Callable[..., object]:
        recorded = super().__getattr__(name)

        def call(*args: object, **keywords: object) -> object:
            # Nothing is kept in the process: its memory is what a test measures.
            self.calls.clear()
            actor, step = self._who()
            about = " ".join(_short(a) for a in (*args, *keywords.values()))
            do = self.board.enter(actor, SEPARATOR.join((name, step, about)))
            if do == REFUSE:
                number = self.board.errno()
                raise OSError(number, os.strerror(number))
            if do == PRETEND:
                return getattr(kernel.Recorder(), name)(*args, **keywords)
            result = recorded(*args, **keywords)
            if do == PAUSE:
                self.board.pause()
            return result

        return call

    def _who(self) -> tuple[str, str]:
        frame = sys._getframe(2)
        step, mapping = "", False
        while frame is not None:
            module = frame.f_globals.get("__name__")
            if module == "isolauncher.apply":
                mapping = mapping or frame.f_code.co_name == "user_namespace"
                if frame.f_code.co_name == "apply":
                    step = steps.name_of(frame.f_locals["step"])
                    break
            frame = frame.f_back  # type: ignore[assignment]
        pid = os.getpid()
        if pid == self.pid:
            return self.owner, step
        if pid == 1:
            return "init", step
        return ("mapper" if mapping else "stem"), step


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
