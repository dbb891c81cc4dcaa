# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compiled in the zygote is what an import would compile, and only that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.bundles import system_directory
from support.daemons import TOP

PROGRAM = """
import builtins, dataclasses, importlib, os, sys
sys.path.insert(0, sys.argv[1])
from isolauncher.zygote import sets
from isolauncher.zygote.handover import Pristine, World, bytecode
place = sys.argv[2]
sys.dont_write_bytecode = True
sets.BUNDLES = (place,)
real, compiled = builtins.compile, []
def counting(source, filename, *words, **how):
    compiled.append(os.path.basename(str(filename)))
    return real(source, filename, *words, **how)
builtins.compile = counting
world = World(pristine=None, visible=frozenset(), needs={}, exits=(), meta_path=(),
              path_hooks=(), warning_filters=(),
              shelved=frozenset({"sugar3.activity.activity"}))
bytecode.settle(world)
print(sorted(compiled)); compiled.clear()
heard = []
sys.addaudithook(lambda e, a: heard.append(a[1]) if e == "compile" else None)
sys.path.insert(0, place)
with open(place + "/edited.py", "a") as file:
    file.write("VALUE = 'new'")
for name in ("plain", "edited", "warns", "broken", "writable"):
    try:
        module = importlib.import_module(name)
        print(name, module.VALUE, module.f.__code__.co_filename == module.__file__)
    except SyntaxError as error:
        import traceback
        frames = traceback.extract_tb(error.__traceback__)
        print(name, error.lineno, [f.name for f in frames if "bytecode" in f.filename])
print(sorted(compiled))
print(place + "/plain.py" in heard)
"""
SOURCE = "VALUE = 'old'\ndef f(): pass\n"


def test_a_system_bundle_s_source_is_compiled_once_and_never_stale() -> None:
    with system_directory() as place:
        for name, source in {
            "plain": SOURCE,
            "edited": SOURCE,
            "warns": SOURCE + "x = '\\d'\n",
            "broken": "def f(:\n",
            "writable": SOURCE,
        }.items():
            (place / f"{name}.py").write_text(source)
        (place / "writable.py").chmod(0o666)
        (place / "linked.py").symlink_to(place / "plain.py")
        said = run(place)
    assert said == [
        "['broken.py', 'edited.py', 'plain.py', 'warns.py']",
        "plain old True",
        "edited new True",
        "warns old True",
        "broken 1 []",
        "writable old True",
        "['broken.py', 'edited.py', 'writable.py']",
        "True",
    ]


@pytest.mark.parametrize(
    ("filters", "came", "again"),
    [
        ("", "warns old True", False),
        ("ignore", "warns old True", False),
        ("ignore:invalid escape", "warns old True", False),
        ("error", "warns 3 []", True),
        ("default", "warns old True", True),
        ("always::DeprecationWarning", "warns old True", True),
        ("error::UserWarning", "warns old True", False),
        ("error::DeprecationWarning:warns", "warns old True", False),
        ("error::DeprecationWarning:{place}/warns", "warns 3 []", True),
        ("error::DeprecationWarning::3", "warns 3 []", True),
        ("error::DeprecationWarning::2", "warns old True", False),
    ],
)
def test_what_the_compiler_warns_of_is_compiled_again_where_that_is_to_be_seen(
    filters: str, came: str, again: bool
) -> None:
    with system_directory() as place:
        for name in ("plain", "edited", "broken", "writable"):
            (place / f"{name}.py").write_text(SOURCE)
        (place / "warns.py").write_text(SOURCE + "x = '\\d'\n")
        said = run(place, filters.format(place=place))
    assert came in said
    assert ("warns.py" in said[-2]) is again


WRITES = """
import importlib._bootstrap_external as external
import marshal, os, sys, types
sys.path.insert(0, sys.argv[1])
from isolauncher.zygote import sets
from isolauncher.zygote.handover import World, bytecode
place = sys.argv[2]
sets.BUNDLES = (place,)
sys.dont_write_bytecode = False
was = external._code_to_timestamp_pyc
known = was.__name__, was.__qualname__, was.__defaults__, was.__code__.co_filename
world = World(pristine=None, visible=frozenset(), needs={}, exits=(), meta_path=(),
              path_hooks=(), warning_filters=(),
              shelved=frozenset({"sugar3.activity.activity"}))
bytecode.settle(world)
now = external._code_to_timestamp_pyc
print(now is was, known == (now.__name__, now.__qualname__, now.__defaults__,
                            now.__code__.co_filename))
written = []
def dumps(code):
    written.append(os.path.basename(code.co_filename) if code else None)
    return marshal.dumps(code)
external.marshal = types.SimpleNamespace(dumps=dumps, loads=marshal.loads)
with open(place + "/edited.py", "a") as file:
    file.write("VALUE = 'new'")
sys.path.insert(0, place)
import plain, edited
print(written)
for module in (plain, edited):
    with open(module.__file__, "rb") as file, open(module.__cached__, "rb") as kept:
        source, data = file.read(), kept.read()
    status = os.stat(module.__file__)
    said = [0, int(status.st_mtime), status.st_size]
    head = external.MAGIC_NUMBER + b"".join(n.to_bytes(4, "little") for n in said)
    code = compile(source, module.__file__, "exec")
    print(data[:16] == head, marshal.loads(data[16:]) == code)
"""


AGAIN = """
import sys
sys.dont_write_bytecode = False
sys.path.insert(0, sys.argv[2])
import {0}
print({0}.VALUE)
"""


def test_what_an_import_writes_is_what_it_would_have_written() -> None:
    """Whole, of a file that is the same; and nothing is marshalled again for it."""
    with system_directory() as place:
        for name in ("plain", "edited"):
            (place / f"{name}.py").write_text(SOURCE)
        said = run(place, program=WRITES)
        assert said == ["True True", "[None, 'edited.py']", *["True True"] * 2]
        # A fresh interpreter takes them: none is written anew.
        for name, value in (("plain", "old"), ("edited", "new")):
            (kept,) = (place / "__pycache__").glob(f"{name}.*.pyc")
            was = kept.stat().st_mtime_ns
            assert run(place, program=AGAIN.format(name)) == [value]
            assert kept.stat().st_mtime_ns == was


def run(place: Path, filters: str = "ignore", *, program: str = PROGRAM) -> list[str]:
    ruled = ("-W", filters) if filters else ()
    words = ("/usr/bin/python3", *ruled, "-c", program, str(TOP), str(place))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
