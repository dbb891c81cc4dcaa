# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a program's path has a module of its own is what a search would find."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from isolauncher.zygote.handover import Pristine, World, shelf

KNOWN = frozenset(sys.path)
FOUND = shelf.place("json", json)


def _package(top: Path) -> None:
    (top / "json").mkdir()
    (top / "json" / "__init__.py").write_text("")


def _archive(top: Path) -> None:
    top.rmdir()
    with zipfile.ZipFile(top, "w") as archive:
        archive.writestr("json.py", "")


LAYOUTS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "nothing": (False, lambda top: None),
    "another name": (False, lambda top: (top / "jsonx.py").write_text("")),
    "a module": (True, lambda top: (top / "json.py").write_text("")),
    "compiled": (True, lambda top: (top / "json.pyc").write_bytes(b"")),
    "an extension": (True, lambda top: (top / "json.abi3.so").write_bytes(b"")),
    "a package": (True, _package),
    "a directory": (False, lambda top: (top / "json").mkdir()),
    "a directory of that name": (False, lambda top: (top / "json.py").mkdir()),
    "an archive": (True, _archive),
    "no such place": (False, lambda top: top.rmdir()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_comes_first_is_what_a_search_finds(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, make = LAYOUTS[layout]
    top = tmp_path / "path"
    top.mkdir()
    make(top)
    monkeypatch.setattr(sys, "path", [None, ["list"], str(top), *sys.path])
    assert FOUND is not None
    assert shelf.Ahead(KNOWN).has("json", FOUND) is expected
    spec = PathFinder.find_spec("json")
    assert spec is not None
    assert (spec.origin != FOUND[1]) is expected


def test_a_module_that_was_written_since_is_seen_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    # The kernel's clock for files is coarse.
    os.utime(tmp_path, (1, 1))
    assert FOUND is not None
    assert not shelf.Ahead(KNOWN).has("json", FOUND)
    (tmp_path / "json.py").write_text("")
    assert shelf.Ahead(KNOWN).has("json", FOUND)


def test_what_is_not_on_the_path_any_more_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert FOUND is not None
    assert shelf.Ahead(KNOWN).has("json", FOUND)


def test_lists_of_names_are_what_they_were_made_of() -> None:
    names = [f"name{number}" for number in range(1000)]
    of = {name: tuple(names[: number % 7 * 100]) for number, name in enumerate(names)}
    lists = shelf._Lists(of)
    assert all(lists[name] == list(those) for name, those in of.items())
    with pytest.raises(KeyError):
        lists["another"]


def test_of_the_practice_nothing_is_left() -> None:
    pristine = Pristine.capture(tuple(sys.modules), tuple(sys.path), ())
    world = World(
        pristine=pristine,
        visible=frozenset(),
        needs={},
        exits=(),
        meta_path=(),
        path_hooks=(),
        warning_filters=(),
    )

    def state() -> tuple[object, ...]:
        return list(sys.modules), list(sys.path), list(sys.path_importer_cache)

    before = state()
    shelf._practise(world)
    assert state() == before
