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


def run(place: Path, filters: str = "ignore") -> list[str]:
    ruled = ("-W", filters) if filters else ()
    words = ("/usr/bin/python3", *ruled, "-c", PROGRAM, str(TOP), str(place))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
