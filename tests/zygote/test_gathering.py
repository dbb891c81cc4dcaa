# SPDX-License-Identifier: GPL-3.0-or-later
"""What an import writes to lies together, and is what it would be elsewhere."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from isolauncher.zygote import filling, gathering

TOP = Path(__file__).resolve().parents[2]
NAMES = [f"planted{number}" for number in range(60)]


def pages(objects: Iterable[object]) -> int:
    return len({id(one) // mmap.PAGESIZE for one in objects})


IMPORTS = """
import mmap, sys, types
from isolauncher.zygote import gathering

sys.path.insert(0, {place!r})
gathering.begin()
names = gathering.names({names!r})
modules = [__import__(name) for name in {names!r}]
gathering.end()
assert len({{id(module) // mmap.PAGESIZE for module in modules}}) <= 3
assert len({{id(vars(module)) // mmap.PAGESIZE for module in modules}}) <= 3
for module in modules:
    assert type(module) is types.ModuleType
    assert module.kept == [module.__name__] * 500
first = {names!r}[0]
assert list(vars(modules[0])) == list(vars(types.ModuleType(first))) + {after!r}
assert all(name is sys.intern(str(name)) for name in names)
import {another}
assert {another}.kept
"""


def test_modules_are_made_of_those_that_are_ready(tmp_path: Path) -> None:
    text = "kept = [__name__] * 500\n"
    for name in (*NAMES, "another"):
        (tmp_path / f"{name}.py").write_text(text)
    after = ["__file__", "__cached__", "__builtins__", "kept"]
    script = IMPORTS.format(
        place=str(tmp_path), names=NAMES, after=after, another="another"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_specs_are_equal_ones_that_lie_together() -> None:
    modules, others = [], []
    for name in NAMES:
        others += [ModuleSpec(name, None) for _ in range(100)]
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin=name, is_package=True)
        module.__spec__.loader_state = [name]
        modules.append(module)
    before = [module.__spec__ for module in modules]
    assert pages(before) > len(NAMES) / 2
    filling.fill()
    gathering.specs([*modules, ModuleType("none"), None])
    after = [module.__spec__ for module in modules]
    assert pages(after) < len(NAMES) / 10
    assert after == before
    for one, other in zip(before, after, strict=True):
        assert one is not other
        assert list(vars(one).items()) == list(vars(other).items())
