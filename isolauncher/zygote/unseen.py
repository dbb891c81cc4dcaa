# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a program's frames be the first of the process, though others lie below.

A cold start has nothing under its ``<module>``. Here the zygote's own frame does, and
must not be in a traceback, in ``sys._getframe().f_back`` or in `inspect.stack`.
CPython (3.11 and later) leaves out a frame that has not yet passed the instruction
RESUME of its code; a code object in which RESUME is a NOP never passes it, so the
interpreter itself treats its frames as not there: errors unwind through them, and
nothing has to be cut out of what programs see.

The zygote's lowest frame is that of the script the interpreter was told to run, so
`become` starts the interpreter again, on that script compiled in this way.
"""

from __future__ import annotations

import dis
import importlib.util
import marshal
import os
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NoReturn

from isolauncher.errors import ZygoteError


def unseen_code(code: CodeType) -> CodeType:
    """The same code, whose frames the interpreter does not show."""
    raw = bytearray(code.co_code)
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RESUME":
            raw[instruction.offset] = dis.opmap["NOP"]
    return code.replace(co_code=bytes(raw))


def hide(function: Callable[..., object]) -> None:
    """Make all later frames of ``function`` unseen."""
    function.__code__ = unseen_code(function.__code__)


def exchange(function: FunctionType, model: Any, **constants: object) -> None:
    """Give ``function`` the code of ``model``, unseen, as if it were where its own is.

    Its globals stay its own. So what the model wants of ours it names by strings, each
    the whole of a constant: those of ``constants``, and ``PLAIN``, the function as it
    was before.
    """
    code = function.__code__
    plain = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__
    )
    exchanged = {**constants, "PLAIN": plain}
    function.__code__ = unseen_code(model.__code__).replace(
        co_consts=tuple(
            exchanged.get(c, c) if isinstance(c, str) else c
            for c in model.__code__.co_consts
        ),
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
    )


def image(path: str) -> bytes:
    """``path`` compiled to a .pyc whose module frame is unseen."""
    with open(path, "rb") as file:
        source = file.read()
    code = unseen_code(compile(source, path, "exec", dont_inherit=True))
    # Flags 0 and no time: the interpreter does not compare a .pyc it is told to run.
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def become(path: str) -> NoReturn:
    """Exec the interpreter again on the unseen image of ``path``, same pid.

    The new interpreter finds the image as ``sys.argv[0]`` (``/proc/self/fd/N``, to be
    closed with `close_image`) and the arguments this one was given after it.
    """
    data = image(path)
    fd = os.memfd_create("isolauncher-zygote", 0)
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, f"/proc/self/fd/{fd}", *sys.argv[1:]])


def is_image(argv0: str) -> bool:
    """Whether the interpreter was started by `become`."""
    return argv0.startswith("/proc/self/fd/")


def close_image(argv0: str) -> None:
    os.close(int(argv0.rpartition("/")[2]))


def prove() -> None:
    """Raise if this interpreter shows frames that should be unseen."""

    def top() -> object:
        return sys._getframe().f_back

    def below() -> object:
        return top()

    hide(below)
    if below() is not sys._getframe():
        raise ZygoteError(
            f"Python {sys.version.split()[0]} shows frames a program must not see",
            code="zygote-frames-seen",
            hint="use tier = 'exec' with this interpreter",
        )
