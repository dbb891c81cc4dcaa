# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program is, and how one runs in a forked interpreter as in a fresh one.

`classify`, `resolve` and `needs_exec` decide (the daemon asks them); `prepare` reads;
`load` makes ``__main__``, after which the program is one call away. That call is made
by the zygote's own script, unseen (see `unseen`), and the interpreter then ends as it
always does: exit handlers, threads, streams, exit status and SIGINT are CPython's own
doing, not imitated here.
"""

from __future__ import annotations

import _warnings
import builtins
import ctypes
import importlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.machinery import BuiltinImporter, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Literal

from isolauncher.errors import ProgramNotExecutable, ProgramNotFound
from isolauncher.plan import PYTHON
from isolauncher.zygote import forever, unseen, variables
from isolauncher.zygote.handover import Fresh, Start, World, interpreter

Kind = Literal["python", "executable"]

_IMPORTLIB = importlib.__path__[0]

_FIRST_LINE_LIMIT = 256
SOURCE_LIMIT = 1 << 20
"""A script that is longer is compiled for a second or more, and has its "go" first."""
_PYTHON_NAME = re.compile(r"(.*/)?python3(\.[0-9]+)?$")
_PYTHON_LINE = re.compile(rb"#!.*\bpython3(\.[0-9]+)?(\s|$)")


# Deciding -------------------------------------------------------------------------


def first_line(path: str) -> bytes:
    """The start of ``path`` up to its first newline, or nothing if unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.read(fd, _FIRST_LINE_LIMIT).partition(b"\n")[0]
    finally:
        os.close(fd)


def is_python(name: str, line: bytes) -> bool:
    """A script by its name or by its first line; ``.py`` needs no first line."""
    return name.endswith(".py") or _PYTHON_LINE.match(line) is not None


def classify(path: str) -> Kind:
    """What ``path`` is, having looked; ProgramNotFound and -NotExecutable if neither.

    A Python script must be readable, anything else executable.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ProgramNotFound(
            f"{path}: no such program", code="program-not-found"
        ) from None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        raise _unusable(path, "not a regular file")
    if is_python(path, first_line(path)):
        if not os.access(path, os.R_OK, effective_ids=True):
            raise _unusable(path, "a Python script must be readable")
        return "python"
    if not os.access(path, os.X_OK, effective_ids=True):
        raise _unusable(path, "neither executable nor a Python script")
    return "executable"


def _unusable(path: str, why: str) -> ProgramNotExecutable:
    return ProgramNotExecutable(
        f"{path}: {why}",
        code="program-not-executable",
        hint="a script ends in .py or names python3 in its first line; "
        "other programs need the execute permission",
    )


def resolve(name: str, search: str) -> str:
    """The first program called ``name`` in ``search``, a PATH, as execvp would.

    Scripts without the execute permission count: they need only be readable.
    """
    refused: ProgramNotExecutable | None = None
    for directory in search.split(":"):
        # An empty entry would mean the current directory; a policy's PATH has none,
        # and a program there must be named with a slash.
        if not directory.startswith("/"):
            continue
        path = os.path.join(directory, name)
        try:
            classify(path)
        except ProgramNotFound:
            continue
        except ProgramNotExecutable as error:
            refused = refused or error
            continue
        return path
    if refused is not None:
        raise refused
    raise ProgramNotFound(
        f"{name}: not found in {search or 'an empty PATH'}",
        code="program-not-found",
        hint="name it with a slash, or give the policy a PATH that has it",
    )


_UTF8 = ("utf8", "utf-8")


def effective_ctype(environment: Mapping[str, str]) -> str:
    """The locale that setlocale(LC_CTYPE, "") would ask for (locale(7))."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = environment.get(name)
        if value:
            return value
    return "C"


def _normal(name: str) -> str:
    """As glibc compares names: the codeset in small letters and digits only."""
    base, dot, rest = name.partition(".")
    codeset, at, modifier = rest.partition("@")
    return base + dot + re.sub("[^a-z0-9]", "", codeset.lower()) + at + modifier


def available_locales() -> frozenset[str]:
    """What ``locale -a`` lists, in one spelling; C and POSIX where it is missing."""
    try:
        result = subprocess.run(
            ["/usr/bin/locale", "-a"],
            env={"PATH": "/usr/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset({"C", "POSIX"})
    text = result.stdout.decode("utf-8", "surrogateescape")
    return frozenset(_normal(name) for name in text.split())


def needs_exec(
    environment: Mapping[str, str],
    locales: frozenset[str],
    line: bytes = b"",
    *,
    set_name: str = "python",
) -> str | None:
    """Why only a fresh interpreter can serve this, in words; None: a fork can.

    ``line`` is the script's first line (`first_line`), ``locales`` what
    `available_locales` found. Pure.
    """
    for name in environment:
        if name.startswith("PYTHON") and name not in variables.HARMLESS:
            return f"{name} is read only when the interpreter starts"
        if variables.is_of_a_module(name):
            return f"{name} is read only when a module is imported"
        if name.startswith(variables.LIBRARY_START):
            return f"{name} is read only when a library is loaded"
        if set_name != "python" and name.startswith(variables.GLIB_START):
            return f"{name} is read only when GLib is loaded"
        if set_name != "python" and name.startswith(variables.WINDOW_START):
            return f"{name} is read only when a library of windows is loaded"
        if set_name != "python" and name.startswith(variables.DRAWING_START):
            return f"{name} is read only when a library that draws is loaded"
    wanted = effective_ctype(environment)
    if wanted in ("C", "POSIX"):
        return (
            f"in the locale {wanted} a starting interpreter turns UTF-8 mode on, "
            "which cannot be changed later"
        )
    if "/" in wanted or _normal(wanted) not in locales:
        return (
            f"the locale {wanted} is not available, and a starting interpreter falls "
            "back to UTF-8 mode"
        )
    codeset = wanted.partition(".")[2].partition("@")[0].lower()
    if codeset not in _UTF8:
        return f"the locale {wanted} decides the encoding of file names at the start"
    return line_reason(line)


def line_reason(line: bytes) -> str | None:
    if not line.startswith(b"#!") or _PYTHON_LINE.match(line) is None:
        return None
    words = line[2:].split()
    flags = [word for word in words[1:] if word.startswith(b"-")]
    if flags:
        return f"its first line gives the interpreter {os.fsdecode(b' '.join(flags))}"
    python = words[-1]
    if python in (b"python3", b"/usr/bin/python3"):
        return None
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if python in (os.fsencode(version), os.fsencode(f"/usr/bin/{version}")):
        # sys.executable would be another name of the same file.
        return f"its first line names {version}, not python3"
    return f"its first line names another interpreter, {os.fsdecode(python)}"


def fresh_start(line: bytes, search: str) -> list[str]:
    """What a script's fresh start begins with: the interpreter and its options.

    As its first line says and the kernel has it (execve(2)): what follows the
    interpreter is one argument; ``env -S`` takes it apart, at blanks. Where there is no
    such interpreter in the view, and for a script that names none, it is the zygote's.
    """
    if not line.startswith(b"#!") or _PYTHON_LINE.match(line) is None:
        return [PYTHON]
    # For the kernel the line ends at a NUL.
    words = os.fsdecode(line[2:].partition(b"\0")[0]).strip().split(None, 1)
    python, *options = words or [PYTHON]
    if os.path.basename(python) == "env":
        words = "".join(options).split()
        named = (n for n, w in enumerate(words) if _PYTHON_NAME.match(w))
        at = next(named, len(words))
        python, options = "".join(words[at : at + 1]) or PYTHON, words[at + 1 :]
    if python == "python3":
        return [PYTHON, *options]
    try:
        found = python if "/" in python else resolve(python, search)
        usable = classify(found) == "executable"
    except (ProgramNotFound, ProgramNotExecutable):
        usable = False
    return [found if usable else PYTHON, *options]


# Running --------------------------------------------------------------------------


_gc_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_gc_track = ctypes.pythonapi.PyObject_GC_Track
_gc_untrack.argtypes = _gc_track.argtypes = (ctypes.py_object,)
_gc_untrack.restype = _gc_track.restype = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A program that has been read. ``source`` None: `runpy` will find it.

    ``code`` is it compiled, if the compiler had nothing to say of it.
    """

    start: Start
    world: World
    filename: str
    source: bytes | None
    module: str | None
    code: CodeType | None = None


def prepare(start: Start, world: World, before: Prepared | None = None) -> Prepared:
    """Read the program, in the handed-over child and before its "go".

    ``before``: what that came to when it was read before, in this process; where it is
    still word for word the same that is what it is. ProgramNotFound and
    ProgramNotExecutable if it cannot be read; Fresh if only a fresh interpreter reads
    it as a cold start does.
    """
    if start.kind == "module":
        return Prepared(
            start=start, world=world, filename="", source=None, module=start.program
        )
    program = start.program
    # As the interpreter does: made absolute and not normalised.
    filename = program if program.startswith("/") else os.path.join(start.cwd, program)
    try:
        with open(filename, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _unusable(program, "not a regular file")
            # The interpreter asks the same of each script: is it perhaps a zip file
            # with a __main__.py? The answer stays in sys.path_importer_cache.
            find = PathFinder._path_importer_cache  # type: ignore[attr-defined]
            if find(filename) is not None:
                # In place of the script's directory.
                sys.path[0] = filename
                return Prepared(
                    start=start,
                    world=world,
                    filename="",
                    source=None,
                    module="__main__",
                )
            source = file.read(SOURCE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ProgramNotFound(
            f"{program}: no such program", code="program-not-found"
        ) from None
    except OSError as error:
        raise _unusable(program, error.strerror or str(error)) from error
    if before is not None and (before.filename, before.source) == (filename, source):
        return before
    why = _only_from_file(source)
    code = None if why else _silently_compiled(source, filename)
    if code is None and (why or _encoding(source)):
        # What is wrong with UTF-8 compile() says in the very same words.
        raise Fresh(why or f"its encoding is {_encoding(source)}")
    return Prepared(
        start=start,
        world=world,
        filename=filename,
        source=source,
        module=None,
        code=code,
    )


def _silently_compiled(source: bytes, filename: str) -> CodeType | None:
    """None if there is an error or a warning, which is the program's own to tell.

    Compiled before "go", in whatever time there is until it comes; nothing of it runs.
    Fresh if a file's own reader tells of the error in other words.
    """
    _warnings.filters.insert(0, ("error", None, Warning, None, 0))
    _warnings._filters_mutated()  # type: ignore[attr-defined]
    try:
        return _compiled(source, filename)
    except SyntaxError as error:
        if error.end_offset == _AT_THE_END:
            raise Fresh("something is missing at its end") from None
        return None
    except Exception:
        return None
    finally:
        del _warnings.filters[0]
        _warnings._filters_mutated()  # type: ignore[attr-defined]


def _compiled(source: bytes, filename: str) -> CodeType:
    # Or the last line is counted twice where it ends in the middle of a text.
    source = _LINE_END.sub(b"\n", source) if b"\r" in source else source
    return compile(source, filename, "exec", dont_inherit=True)


def _have_runpy() -> None:
    """As `python3 -m` leaves things: runpy imported, from importlib's directory too.

    Not before "go": a program's own ``importlib.py`` would run.
    """
    import runpy  # noqa: F401

    PathFinder._path_importer_cache(_IMPORTLIB)  # type: ignore[attr-defined]


def load(prepared: Prepared) -> Callable[[], object]:
    """A fresh ``__main__`` and the program as one call without arguments.

    Must be called as ``load(prepared)()`` by the last line of the script that the
    interpreter runs, whose globals become the program's. A syntax error in the
    program is raised from here, as the program's.
    """
    ctypes.set_errno(0)  # it has its own copy, with the last of our calls' in it
    customised = interpreter.add_user_site(prepared.world)
    if prepared.source is None:
        namespace = _fresh_main(sys.modules["__main__"])
        _have_runpy()
        import runpy

        named = prepared.start.kind == "module"
        call = partial(runpy._run_module_as_main, prepared.module, named)  # type: ignore[attr-defined]
        forever.keep(prepared.world)
        return call
    filename = prepared.filename
    namespace = _fresh_main(sys.modules["__main__"])
    # After this the interpreter itself takes away __file__ and __cached__ when the
    # script's code has ended, as it does for any script.
    namespace["__file__"] = filename
    namespace["__cached__"] = None
    namespace["__loader__"] = SourceFileLoader("__main__", filename)
    code = prepared.code
    if code is None or customised:
        # Whoever has been there may hear of it (sys.addaudithook).
        code = _compiled(prepared.source, filename)
    main = FunctionType(code, namespace)
    # Functions on the stack and modules taken out still use it.
    forever.keep(prepared.world)
    return main


_AT_THE_END = -1
"""Of a SyntaxError: whoever reads a file line by line has no line then to point at."""
_COOKIE = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"[ \t\f]*(#|$)")
_LINE_END = re.compile(rb"\r\n?|\n")
_UTF8_COOKIE = re.compile(rb"utf[-_]8([-_].*)?$", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"
_ASCII = bytes(range(1, 128))


def _only_from_file(source: bytes) -> str | None:
    """Why only an interpreter that reads the file itself can tell what it says.

    It goes line by line, and for what is not plain text, or in an encoding that does
    not have ASCII's characters at their places, compile() answers differently.
    """
    if len(source) > SOURCE_LIMIT:
        return f"it is larger than {SOURCE_LIMIT >> 20} MiB"
    if b"\0" in source:
        return "there is a NUL in it"
    encoding = _encoding(source)
    if encoding is None:
        try:
            source.decode("utf-8")
        except UnicodeDecodeError:
            return "it is not UTF-8, and names no other encoding"
        return None
    if source.startswith(_BOM):
        return "it begins as UTF-8 does, and names another encoding"
    try:
        if _ASCII.decode(encoding) == _ASCII.decode("ascii"):
            return None
    except (LookupError, ValueError):
        pass
    return f"its encoding is {encoding}"


def _encoding(source: bytes) -> str | None:
    """What its first two lines name as its encoding (PEP 263); None: UTF-8."""
    lines = _LINE_END.split(source.removeprefix(_BOM), maxsplit=2)[:2]
    for line in lines:
        if named := _COOKIE.match(line):
            other = _UTF8_COOKIE.match(named[1]) is None
            return named[1].decode("ascii") if other else None
        if not _BLANK.match(line):
            return None
    return None


def _fresh_main(module: ModuleType) -> dict[str, object]:
    namespace = module.__dict__
    namespace.clear()
    # Frozen with the zygote's heap, cycles through it would never be collected, and
    # the program's objects not be finalised at exit.
    for frozen in (module, namespace):
        _gc_untrack(frozen)
        _gc_track(frozen)
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=BuiltinImporter,
        __spec__=None,
        __annotations__={},
        __builtins__=builtins,
    )
    return namespace


# What they raise is the program's own mistake, and has no place of ours in it.
for _function in (load, _compiled, _have_runpy):
    unseen.hide(_function)
