# SPDX-License-Identifier: GPL-3.0-or-later
"""A forked program ends, fails and is found as a cold one is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from isolauncher.errors import ProgramNotExecutable, ProgramNotFound
from isolauncher.zygote import program, variables
from isolauncher.zygote.handover import Start

from . import twins

ENDINGS = {
    "nothing": b"",
    "exit-0": b"import sys; sys.exit()",
    "exit-3": b"import sys; sys.exit(3)",
    "exit-77": b"raise SystemExit(77)",
    "exit-words": b"import sys; sys.exit('in words')",
    "exit-from-thread": b"import sys, threading\n"
    b"t = threading.Thread(target=sys.exit, args=(4,)); t.start(); t.join()",
    "os-_exit": b"import os; os._exit(9)",
    "exception": b"def f():\n    return 1 / 0\nf()\n",
    "chained": b"try:\n    {}['x']\n"
    b"except KeyError as e:\n    raise ValueError('y') from e",
    "syntax-error": b"x = 1\nif x\n    pass\n",
    "indentation-error": b"def f():\nreturn 1\n",
    "null-byte": b"x = 1\0\n",
    "latin-1": b"# -*- coding: latin-1 -*-\nprint(ascii('\xe4'))\n",
    "bom": b"\xef\xbb\xbfprint('\xc3\xa4')\n",
    "not-utf8": b"print('\xe4')\n",
    "not-utf8-later": b"x = 1\n\nprint('\xe4')\n",
    "null-byte-within": b"x = 1\0 y\nprint(2)\n",
    "null-byte-and-encoding": b"# coding: latin-1\nprint(1)\0\n",
    "not-utf8-after-an-error": b"  x = 1\n# \xff\n",
    "encoding-of-a-text-only": b"pass # coding: latin-1\n# \xff\n",
    "encoding-unknown": b"# coding: nope\n",
    "encoding-of-no-text": b"# coding: base64\n",
    "encoding-wrong": b"# coding: ascii\nprint('\xe4')\n",
    "encoding-by-a-longer-name": b"# coding: latin-1-unix\nprint(ascii('\xe4'))\n",
    "encoding-unlike-ascii": b"# coding: cp037\nprint(1)\n",
    "encoding-after-a-bom": b"\xef\xbb\xbf# coding: latin-1\nprint(1)\n",
    "encoding-and-error": b"# coding: cp1252\nx = '\x80\n",
    "encoding-and-warning": b"# coding: cp1252\nprint('\\d', ascii('\x80'))\n",
    "encoding-in-the-second-line": b"#!/usr/bin/python3\r# coding=koi8-r\r"
    b"print(ascii('\xc1'))\r",
    "block-missing-at-the-end": b"def f():\n",
    "block-missing-before-a-comment": b"x = 1\nif x:\n\n# that is all\n",
    "clause-missing-at-the-end": b"try:\n    x = 1",
    "line-missing-at-the-end": b"\\\n",
    "bracket-missing-at-the-end": b"x = (\n\n",
    "crlf-unterminated": b"'''\r\n",
    "longer-than-is-read": b"#" * (1 << 20) + b"\nprint(1)\n",
    "crlf": b"print(1)\r\nprint('''a\r\nb''' == 'a\\nb')\r\n",
    "no-last-newline": b"if 1:\n    print(2)",
    "keyboard-interrupt": b"import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    b"import time; time.sleep(30)",
    "raised-keyboard-interrupt": b"raise KeyboardInterrupt",
    "sigterm": b"import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n"
    b"signal.pause()",
    "stdout-full": b"import os; os.dup2(os.open('/dev/full', 1), 1); print('x')",
    "stdout-closed": b"import os; os.close(1); print('x')",
    "exit-handlers": b"import atexit, logging, threading\n"
    b"atexit.register(print, 'first'); atexit.register(print, 'second')\n"
    b"threading.Thread(target=print, args=('thread',)).start()\nprint('main')",
    "failing-exit-handler": b"import atexit\natexit.register(lambda: 1 / 0)",
    "buffered-log": b"import logging, logging.handlers, sys\n"
    b"h = logging.handlers.MemoryHandler(9, 99, logging.StreamHandler(sys.stdout))\n"
    b"logging.root.addHandler(h); logging.error('late')",
    "names-after-the-end": b"import atexit\n"
    b"atexit.register(lambda: print(sorted(globals())))",
    "own-excepthook": b"import sys\n"
    b"def hook(t, v, tb): print(t, v, tb.tb_frame.f_code.co_name, tb.tb_next)\n"
    b"sys.excepthook = hook\n1 / 0",
    "failing-excepthook": b"import sys\n"
    b"def hook(t, v, tb): 1 / 0\nsys.excepthook = hook\nraise ValueError('first')",
    "last-traceback": b"import atexit, sys\ndef look():\n"
    b"    t = sys.last_traceback\n    print(t.tb_frame.f_code.co_filename, t.tb_next)\n"
    b"atexit.register(look)\nraise ValueError",
    "recursion": b"def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)",
    "stack": b"import sys, traceback\ntraceback.print_stack()\n"
    b"print(sys._getframe().f_back)\nprint(sys._getframe(1))",
    "warning": b"import warnings\n"
    b"def f(): warnings.warn('look', stacklevel=2)\nf()\n"
    b"warnings.warn('far', stacklevel=5)\nwarnings.warn('d', DeprecationWarning)",
    "compiler-warns": b"print(1 is 1)\nimport sys; print(len(sys.warnoptions))\n"
    b"import _warnings, warnings; print(warnings.filters is _warnings.filters)\n"
    b"print(*warnings.filters, sep='\\n')\n",
    "compiler-warns-of-an-escape": b"print('\\d')\n",
    "logging-caller": b"import logging\n"
    b"logging.basicConfig(format='%(pathname)s %(lineno)d"
    b" %(funcName)s %(processName)s %(threadName)s')\nlogging.error('x')",
    "thread-excepthook": b"import threading\n"
    b"threading.Thread(target=lambda: 1 / 0, name='T').start()",
    "gettrace": b"import sys\nsys.settrace(lambda f, e, a: print(e, f.f_lineno))\n"
    b"def f(): return 1\nf()\nsys.settrace(None)",
    "pickle-main": b"import pickle\nclass C: pass\n"
    b"print(pickle.loads(pickle.dumps(C())).__class__ is C, C.__module__)",
    "dataclass-in-main": b"from __future__ import annotations\n"
    b"import dataclasses, typing\n@dataclasses.dataclass\nclass C:\n    x: int\n"
    b"print(C(1), typing.get_type_hints(C))",
    "future-flag-does-not-leak": b"def f(x: int): pass\nprint(f.__annotations__)",
    "debug": b"print(__debug__, __doc__)\n",
    "docstring": b"'''words'''\nprint(__doc__, __annotations__, __builtins__)\n"
    b"x: int = 1\n"
    b"print(__annotations__)",
    "imports-main": b"import __main__\nprint(__main__.__file__, __main__ is not None)",
    "asyncio": b"import asyncio\nasync def f():\n"
    b"    print(asyncio.current_task().get_name()); 1 / 0\nasyncio.run(f())",
    "exec-itself": b"import os, sys\nif len(sys.argv) < 3:\n"
    b"    os.execv(sys.executable, [*sys.orig_argv, 'a', 'b'])\n"
    b"print(sys.argv[1:], sys.orig_argv)",
    "interactive-flag": b"import sys\nprint(hasattr(sys, 'ps1'), sys.flags)",
    "unraisable": b"class C:\n    def __del__(self): 1 / 0\nC()\n",
    "finalizing": b"import sys\nclass C:\n"
    b"    def __del__(self): print('gone', sys.is_finalizing())\nc = C()",
}


def same(cold: twins.Ended, forked: twins.Ended) -> None:
    import re

    def plain(data: bytes) -> bytes:
        return re.sub(rb"0x[0-9a-f]+", b"0x", data)

    assert (forked.status, plain(forked.out), plain(forked.err)) == (
        cold.status,
        plain(cold.out),
        plain(cold.err),
    )


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_as_in_a_cold_start(name: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_bytes(ENDINGS[name])
    same(*twins.both(str(script), cwd=str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    ["exit-3", "exception", "syntax-error", "stack", "raised-keyboard-interrupt"],
)
def test_a_module_ends_as_in_a_cold_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_bytes(ENDINGS[name])
    same(*twins.both("-m", "program", "x", cwd=str(tmp_path)))


def test_who_comes_before_the_program_hears_it_compiled(tmp_path: Path) -> None:
    site = tmp_path / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "usercustomize.py").write_text(
        "import sys\n"
        "def hear(event, args):\n"
        "    if event == 'compile' and str(args[1]).endswith('program.py'):\n"
        "        print(event, args[1])\n"
        "sys.addaudithook(hear)\n"
        "import warnings; warnings.simplefilter('error')\n"
    )
    for text in (b"print(1)\n", ENDINGS["compiler-warns"]):
        script = tmp_path / "program.py"
        script.write_bytes(text)
        environment = {**twins.ENVIRONMENT, "HOME": str(tmp_path)}
        cold, forked = twins.both(str(script), environment=environment)
        same(cold, forked)


def test_a_module_that_is_not_there_is_told_as_in_a_cold_start(tmp_path: Path) -> None:
    for module in ("nosuch", "json", "email.nosuch"):
        same(*twins.both("-m", module, cwd=str(tmp_path)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["script", "module"])
def test_multiprocessing_works_from_a_forked_program(
    method: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import multiprocessing, os\n"
        "class C:\n    x = 5\n"
        "def work(c): return c.x, __name__, os.getcwd()\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        print(pool.map(work, [C()]))\n"
        "        pool.close(); pool.join()\n"
    )
    argv = ["program.py"] if kind == "script" else ["-m", "program"]
    cold, forked = twins.both(*argv, cwd=str(tmp_path))
    assert cold.status == 0, cold.err
    same(cold, forked)


def test_stdin_passes_whole_and_untranslated(tmp_path: Path) -> None:
    script = tmp_path / "p.py"
    script.write_text(
        "import sys, hashlib; d = sys.stdin.buffer.read()\n"
        "print(len(d), hashlib.sha256(d).hexdigest())"
    )
    data = os.urandom(1 << 20) + b"\r\n\0"
    same(*twins.both(str(script), stdin=data))


def test_the_mask_for_new_files_is_the_one_asked_for(tmp_path: Path) -> None:
    script = tmp_path / "p.py"
    script.write_text("import os; print(oct(os.umask(0)))")
    assert twins.forked(str(script), umask=0o27).out == b"0o27\n"


# Deciding -------------------------------------------------------------------------


def make(path: Path, text: bytes, mode: int) -> str:
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "mode", "kind"),
    [
        ("a.py", b"", 0o644, "python"),
        ("a", b"#!/usr/bin/python3\n", 0o644, "python"),
        ("a", b"#!/usr/bin/env python3\n", 0o644, "python"),
        ("a", b"#!/usr/bin/python3.11 -E\n", 0o644, "python"),
        ("a", b"#!/usr/bin/env -S python3 -u\n", 0o755, "python"),
        ("a", b"#!/bin/sh\n# python3\n", 0o755, "executable"),
        ("a", b"#!/usr/bin/python3000\n", 0o755, "executable"),
        ("a", b"\x7fELF python3", 0o755, "executable"),
    ],
)
def test_classify(tmp_path: Path, name: str, text: bytes, mode: int, kind: str) -> None:
    assert program.classify(make(tmp_path / name, text, mode)) == kind


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramNotFound):
        program.classify(str(tmp_path / "nothing"))
    with pytest.raises(ProgramNotFound):
        program.classify(make(tmp_path / "f.py", b"", 0o644) + "/x")
    for path in (
        make(tmp_path / "plain", b"words", 0o644),
        str(tmp_path),
        "/dev/null",
    ):
        with pytest.raises(ProgramNotExecutable):
            program.classify(path)
    fifo = tmp_path / "fifo.py"
    os.mkfifo(fifo)
    with pytest.raises(ProgramNotExecutable):
        program.classify(str(fifo))


def test_resolve_takes_the_first_usable_and_never_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    make(one / "tool", b"words", 0o644)
    make(two / "tool", b"#!/bin/sh\n", 0o755)
    make(two / "script", b"#!/usr/bin/python3\n", 0o644)
    search = f"{one}:{two}"
    assert program.resolve("tool", search) == str(two / "tool")
    assert program.resolve("script", search) == str(two / "script")
    with pytest.raises(ProgramNotExecutable):
        program.resolve("tool", str(one))
    monkeypatch.chdir(two)
    with pytest.raises(ProgramNotFound):
        program.resolve("tool", ":.:")


LOCALES = frozenset({"C", "POSIX", "C.utf8", "de_DE.utf8", "de_DE", "de_DE.iso88591"})


@pytest.mark.parametrize(
    ("environment", "fork"),
    [
        ({"LANG": "C.UTF-8"}, True),
        ({"LANG": "C.utf8", "PYTHONBREAKPOINT": "0"}, True),
        ({"LANG": "C", "LC_ALL": "de_DE.UTF-8"}, True),
        ({"LANG": "C.UTF-8", "LC_CTYPE": ""}, True),
        ({}, False),
        ({"LANG": "C"}, False),
        ({"LC_ALL": "POSIX", "LANG": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C", "LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, False),
        ({"LANG": "fr_FR.UTF-8"}, False),
        ({"LANG": "../x.UTF-8"}, False),
        ({"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}, False),
        ({"LANG": "C.UTF-8", "PYTHONOPTIMIZE": "1"}, False),
        ({"LANG": "C.UTF-8", "PYTHONPATH": "/x"}, False),
        ({"LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/x"}, False),
        ({"LANG": "C.UTF-8", "OPENSSL_CONF": "/x"}, False),
        ({"LANG": "C.UTF-8", "PY_SAX_PARSER": "x"}, False),
        ({"LANG": "C.UTF-8", "DEB_PYTHON_INSTALL_LAYOUT": "deb"}, False),
    ],
)
def test_needs_exec_by_environment(environment: dict[str, str], fork: bool) -> None:
    assert (program.needs_exec(environment, LOCALES) is None) == fork


@pytest.mark.parametrize(
    "name", [*variables.GLIB_START, *variables.WINDOW_START, *variables.DRAWING_START]
)
def test_needs_exec_for_what_a_library_of_the_set_reads_once(name: str) -> None:
    environment = {"LANG": "C.UTF-8", name: "1"}
    assert variables.is_read_at_start(name)
    assert program.needs_exec(environment, LOCALES) is None
    for larger in ("gtk3", "sugar3"):
        assert program.needs_exec(environment, LOCALES, set_name=larger)


@pytest.mark.parametrize(
    ("line", "fork"),
    [
        (b"", True),
        (b"import os", True),
        (b"#!/usr/bin/python3", True),
        (b"#! /usr/bin/env python3", True),
        (b"#!/usr/bin/python3 -Es", False),
        (b"#!/home/a/venv/bin/python3", False),
        (b"#!/usr/local/bin/python3.12", False),
    ],
)
def test_needs_exec_by_first_line(line: bytes, fork: bool) -> None:
    assert (program.needs_exec({"LANG": "C.UTF-8"}, LOCALES, line) is None) == fork


@pytest.mark.parametrize(
    ("line", "begin"),
    [
        (b"", ["/usr/bin/python3"]),
        (b"import os", ["/usr/bin/python3"]),
        (b"#!/bin/sh", ["/usr/bin/python3"]),
        (b"#!/usr/bin/python3\r", ["/usr/bin/python3"]),
        (b"#!/usr/bin/python3 -u -E", ["/usr/bin/python3", "-u -E"]),
        (b"#!\t/usr/bin/python3\t-IO ", ["/usr/bin/python3", "-IO"]),
        (b"#!/usr/bin/python3 -I\0 python3", ["/usr/bin/python3", "-I"]),
        (b"#!\0python3", ["/usr/bin/python3"]),
        (b"#!/usr/bin/env python3", ["/usr/bin/python3"]),
        (b"#!/usr/bin/env -S python3 -X dev", ["/usr/bin/python3", "-X", "dev"]),
        (b"#!/usr/bin/env -S A=1 sh python3 -u", ["/usr/bin/python3", "-u"]),
        (b"#!/usr/bin/env -S other3 -u", ["/usr/bin/python3"]),
        (b"#!{here}/python3.9 -u", ["{here}/python3.9", "-u"]),
        (b"#!{here}/python3.8", ["/usr/bin/python3"]),
        (b"#!/usr/bin/env python3.9", ["{here}/python3.9"]),
        (b"#!/usr/bin/env python3.8", ["/usr/bin/python3"]),
    ],
)
def test_a_fresh_start_begins_as_the_first_line_says(
    tmp_path: Path, line: bytes, begin: list[str]
) -> None:
    make(tmp_path / "python3.9", b"\x7fELF", 0o755)
    make(tmp_path / "python3.8", b"\x7fELF", 0o644)
    here = str(tmp_path)
    line = line.replace(b"{here}", here.encode())
    wanted = [word.replace("{here}", here) for word in begin]
    assert program.fresh_start(line, f"/nowhere:{here}") == wanted


def test_the_locales_of_this_machine_are_found() -> None:
    assert "C.utf8" in program.available_locales()
    assert program.needs_exec({"LANG": "C.UTF-8"}, program.available_locales()) is None


def test_what_needs_exec_says_is_true_of_this_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "p.py"
    script.write_text("import sys; print(sys.flags)")
    for environment in ({}, {"LANG": "C"}, {"LANG": "xx_YY.UTF-8"}):
        assert program.needs_exec(environment, program.available_locales())
        cold, forked = twins.both(str(script), environment=environment)
        assert cold.out != forked.out, environment


def test_a_script_that_is_still_the_same_is_not_compiled_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("version = 1\n")
    start = Start(
        kind="script", program=str(script), arguments=(), environment={}, cwd="/"
    )
    world: Any = None
    before = program.prepare(start, world)
    assert program.prepare(start, world, before) is before
    script.write_text("version = 2\n")
    after = program.prepare(start, world, before)
    assert after.source == b"version = 2\n"
    assert after.code is not None
    found: dict[str, object] = {}
    exec(after.code, found)  # noqa: S102
    assert found["version"] == 2
    # Broken in between: what is wrong is the program's to tell, now and later.
    script.write_text("version =\n")
    broken = program.prepare(start, world, after)
    assert (broken.code, broken.source) == (None, b"version =\n")
    script.unlink()
    with pytest.raises(ProgramNotFound):
        program.prepare(start, world, broken)
