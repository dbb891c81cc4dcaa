# SPDX-License-Identifier: GPL-3.0-or-later
"""A forked program sees what a cold one sees, field by field."""

from __future__ import annotations

import os
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from isolauncher.zygote.handover import stdlib_caches
from isolauncher.zygote.sets import PYTHON

from . import twins

WITNESS = str(Path(__file__).resolve().parent / "twin" / "witness.py")

# Field → why it may differ.
ALLOWED = {
    "recursion depth": "the zygote's own frame counts as one call",
}


def differences(cold: dict[str, Any], forked: dict[str, Any]) -> dict[str, Any]:
    cold, forked = flat(cold), flat(forked)
    names = [n for n in {**cold, **forked} if n.partition("/")[0] not in ALLOWED]
    return {
        n: (cold.get(n), forked.get(n)) for n in names if cold.get(n) != forked.get(n)
    }


def flat(state: dict[str, Any]) -> dict[str, Any]:
    """One level of objects taken apart, so that a difference names one value."""
    out = {}
    for name, value in state.items():
        if isinstance(value, dict):
            out |= {f"{name}/{key}": inner for key, inner in value.items()}
        else:
            out[name] = value
    return out


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "plain": {},
    "zone": {"TZ": "Asia/Kathmandu"},
    "home": {"HOME": "/tmp", "TMPDIR": "/var/tmp", "XDG_DATA_HOME": "/x"},
    "locale": {"LC_ALL": "C.utf8", "LANGUAGE": "de"},
    "proxy": {"http_proxy": "http://p:1", "USER": "somebody", "LOGNAME": "other"},
    "bytes": {"ODD": os.fsdecode(b"\xff\xfe="), "EMPTY": ""},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_script_sees_what_a_cold_start_sees(name: str) -> None:
    environment = {**twins.ENVIRONMENT, **ENVIRONMENTS[name]}
    cold, forked = twins.both(
        WITNESS, "a", "ü", environment=environment, cwd="/usr", stdin=b"x\r\ny"
    )
    assert differences(cold.json(), forked.json()) == {}


def test_a_relative_script_sees_what_a_cold_start_sees(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.py").write_bytes(Path(WITNESS).read_bytes())
    (tmp_path / "sub" / "link.py").symlink_to("../w.py")
    for program in ("w.py", "./w.py", "sub/../w.py", "sub/link.py"):
        cold, forked = twins.both(program, cwd=str(tmp_path))
        assert differences(cold.json(), forked.json()) == {}, program


def test_a_module_sees_what_a_cold_start_sees(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_bytes(Path(WITNESS).read_bytes())
    (tmp_path / "w.py").write_bytes(Path(WITNESS).read_bytes())
    for module in ("pkg", "w", "pkg.__main__"):
        cold, forked = twins.both("-m", module, "x", cwd=str(tmp_path))
        assert differences(cold.json(), forked.json()) == {}, module


def test_a_zip_file_sees_what_a_cold_start_sees(tmp_path: Path) -> None:
    import zipfile

    archive = tmp_path / "app.py"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(WITNESS, "__main__.py")
    cold, forked = twins.both(str(archive), "x")
    assert differences(cold.json(), forked.json()) == {}


def test_sys_modules_is_a_cold_starts() -> None:
    cold, forked = (t.json()["sys.modules"] for t in twins.both(WITNESS))
    assert forked == cold


ASKS_SYSCONFIG = """\
import json, sys
{first}
import zoneinfo
import sysconfig
found = sysconfig.get_config_vars()
print(json.dumps([*found.items()]), "_sysconfigdata" in str(sys.modules))
print(sysconfig._init_posix.__module__, found is sysconfig._CONFIG_VARS)
print(sysconfig.get_config_vars() is found, sorted(n for n in vars(sysconfig)))
"""
ANOTHER_BUILD = """
import types
name = f"_sysconfigdata_{sys.abiflags}_{sys.platform}_{sys.implementation._multiarch}"
sys.modules[name] = types.ModuleType(name)
sys.modules[name].build_time_vars = {"TZPATH": "/of/mine", "prefix": "/mine"}
"""
SYSCONFIG: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("", {}),
    "home": ("", {"HOME": "/var/tmp"}),
    "base": ("", {"PYTHONUSERBASE": "/somewhere"}),
    "asked before": ("import sysconfig; sysconfig.get_config_vars()['x'] = 'y'", {}),
    "another build": (ANOTHER_BUILD, {}),
    "another's name": ("", {"_PYTHON_SYSCONFIGDATA_NAME": "there_is_none"}),
}


@pytest.mark.parametrize("name", SYSCONFIG)
def test_how_the_interpreter_was_built_is_told_as_to_a_cold_start(
    name: str, tmp_path: Path
) -> None:
    """An import asks for it, and what is the same for all was made ready."""
    first, more = SYSCONFIG[name]
    script = tmp_path / "asks.py"
    script.write_text(ASKS_SYSCONFIG.format(first=first))
    environment = {**twins.ENVIRONMENT, **more}
    cold, forked = twins.both(str(script), environment=environment)
    assert (forked.status, forked.out) == (cold.status, cold.out)
    assert (cold.status == 0) is (name != "another's name")


def test_how_the_interpreter_was_built_is_not_copied_once_more() -> None:
    stdlib_caches._build(sysconfig)
    ((ready, _),) = stdlib_caches._built
    stdlib_caches._paths_of_zones(None)
    assert sysconfig.get_config_vars() is ready
    assert len(ready) > 500
    assert not stdlib_caches._built


NOISY = """\
import logging, threading
from multiprocessing.reduction import ForkingPickler

LOG = logging.getLogger("another.name")
# Kept nowhere but by its name.
logging.getLogger(__name__).setLevel(7)


class Thing:
    pass


def _reduce(thing):
    return Thing, ()


def _at_exit():
    print("noisy ends")


ForkingPickler.register(Thing, _reduce)
threading._register_atexit(_at_exit)
"""
LISTENS = """\
import logging, threading
from multiprocessing.reduction import ForkingPickler

def show():
    known = logging.Logger.manager.loggerDict
    print(sorted(known), [getattr(known[n], "level", None) for n in sorted(known)])
    print([c.__name__ for c in ForkingPickler._extra_reducers])
    print(len(threading._threading_atexits))

show()
import noisy
show()
print(noisy.LOG.parent, logging.getLogger("noisy").level)
"""


def test_what_a_module_leaves_with_others_comes_with_it(tmp_path: Path) -> None:
    """Loggers, ways to pickle, exit calls: before its import there is none of it."""
    (tmp_path / "noisy.py").write_text(NOISY)
    script = tmp_path / "listens.py"
    script.write_text(LISTENS)
    cold = twins.cold(str(script))
    forked = twins.forked(str(script), preload=[*PYTHON, "noisy"], path=[str(tmp_path)])
    assert cold.err == forked.err == b""
    assert forked.out == cold.out
    assert b"noisy ends" in cold.out


MEDDLES = """\
import copyreg, csv, json, string, sys, urllib.parse

class Mine:
    pass

class Loud(csv.excel):
    delimiter = "!"

copyreg.pickle(Mine, lambda one: (Mine, ()))
urllib.parse.uses_netloc.append("mine")
urllib.parse.uses_netloc.insert(0, "first")
csv.register_dialect("loud", Loud)
json.dumps = len
json.JSONEncoder.item_separator = ";"
del string.capwords
sys.mine = Mine
HAS = "fractions" in sys.modules
"""
UNDERGOES = """\
import copyreg, csv, json, string, sys, urllib.parse

def show():
    print(sorted(kind.__qualname__ for kind in copyreg.dispatch_table))
    print(urllib.parse.uses_netloc, csv.list_dialects())
    print(json.dumps.__name__, json.JSONEncoder.item_separator)
    print(hasattr(string, "capwords"), hasattr(sys, "mine"), list(vars(json)))

show()
if sys.argv[1] == "own":
    json.dumps = print
    urllib.parse.uses_netloc.append("own")
import meddles
show()
print(meddles.HAS)
"""


@pytest.mark.parametrize("mode", ["plain", "own"])
def test_h41_what_a_module_changes_in_others_comes_with_it(
    tmp_path: Path, mode: str
) -> None:
    (tmp_path / "meddles.py").write_text(MEDDLES)
    script = tmp_path / "undergoes.py"
    script.write_text(UNDERGOES)
    cold = twins.cold(str(script), mode)
    names = [*PYTHON, "fractions", "meddles"]
    forked = twins.forked(str(script), mode, preload=names, path=[str(tmp_path)])
    assert cold.err == forked.err == b""
    assert forked.out == cold.out
    before, after = cold.out.split(b"\n")[:4], cold.out.split(b"\n")[4:8]
    assert all(one != other for one, other in zip(before, after, strict=True))


HOLDS_MODULES = """\
from sys import modules, path_importer_cache
from builtins import __dict__ as built_in
"""


def test_h41_what_is_imported_after_a_module_has_sys_modules_is_still_there(
    tmp_path: Path,
) -> None:
    """It would be a change in that module's own, and be taken back."""
    (tmp_path / "holds.py").write_text(HOLDS_MODULES)
    (tmp_path / "later.py").write_text("import holds, fractions\n")
    script = tmp_path / "p.py"
    script.write_text("import later, sys; print(list(sys.modules))\n")
    cold = twins.cold(str(script))
    names = [*PYTHON, "holds", "later"]
    forked = twins.forked(str(script), preload=names, path=[str(tmp_path)])
    assert cold.err == forked.err == b""
    assert forked.out == cold.out


LAZY = """\
import sys, types

class Lazy(types.ModuleType):
    pass

class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        from importlib.machinery import ModuleSpec
        return ModuleSpec(name, Finder) if name == "lazy.moves" else None

    create_module = staticmethod(lambda spec: moves)
    exec_module = staticmethod(lambda module: None)

moves = Lazy("lazy.moves")
moves.there = 1
__path__ = []
sys.meta_path.append(Finder)
"""


def test_a_child_that_a_module_gives_itself_needs_no_import(tmp_path: Path) -> None:
    """As `six` has it: ``import six`` is enough for ``six.moves``."""
    (tmp_path / "lazy.py").write_text(LAZY)
    script = tmp_path / "uses.py"
    script.write_text("import lazy; print(lazy.moves.there, list(vars(lazy)))\n")
    cold = twins.cold(str(script))
    names = [*PYTHON, "lazy", "lazy.moves"]
    forked = twins.forked(str(script), preload=names, path=[str(tmp_path)])
    assert cold.err == forked.err == b""
    assert forked.out == cold.out


HANDLES = """\
import logging, warnings

LOG = logging.getLogger("quietly")
LOG.addHandler(logging.NullHandler())
SPARE = logging.StreamHandler()
warnings.filterwarnings("ignore", message="of quietly")
"""
ASKS = """\
import sys

def show():
    import logging, warnings
    print([type(ref()).__name__ for ref in logging._handlerList])
    print([str(one[1]) for one in warnings.filters])

if sys.argv[1] == "before":
    show()
import quietly
print("logging" in sys.modules)
show()
import quietly.inner
show()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_filters_and_handlers_come_with_the_module_that_made_them(
    tmp_path: Path, when: str
) -> None:
    """Also where a package that has a logger's name does not import logging."""
    package = tmp_path / "quietly"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(HANDLES)
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    cold = twins.cold(str(script), when)
    forked = twins.forked(
        str(script), when, preload=[*PYTHON, "quietly.inner"], path=[str(tmp_path)]
    )
    assert cold.err == forked.err == b""
    assert forked.out == cold.out
    assert b"of quietly" in cold.out.splitlines()[-1]
    assert b"of quietly" not in cold.out.splitlines()[-3]


TWO_NAMES = """\
import sys, types

class Lib:
    __slots__ = ()
    number = 5

lib = Lib()
sys.modules["_bare"] = sys.modules[__name__]
sys.modules["_bare.lib"] = lib
"""


def test_a_module_of_two_names_and_what_has_no_globals_are_imported(
    tmp_path: Path,
) -> None:
    """As cffi leaves an extension module that lies in a package."""
    package = tmp_path / "outer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_bare.py").write_text(TWO_NAMES)
    script = tmp_path / "uses.py"
    script.write_text(
        "import sys\nfrom outer._bare import lib\nimport _bare.lib\n"
        "print(lib.number, _bare.lib is lib, list(sys.modules)[-4:])\n"
    )
    cold = twins.cold(str(script))
    forked = twins.forked(
        str(script), preload=[*PYTHON, "outer._bare"], path=[str(tmp_path)]
    )
    assert cold.err == forked.err == b""
    assert forked.out == cold.out
    assert cold.out.startswith(b"5 True ")


PATHS = {
    "ahead": "sys.path.insert(0, OWN)",
    "behind": "sys.path.append(OWN)",
    "with what is no path": "sys.path[:0] = [None, ['list'], OWN, 7]",
    "nothing": "sys.path.clear()",
    "without the library": "sys.path[:] = [p for p in sys.path if 'python3' not in p]",
    "only its own": "sys.path[:] = [OWN]",
    "after an import": "import json; sys.path.insert(0, OWN)",
    "written later": "import json; sys.path.insert(0, NEW); import csv; fill()",
    "an archive": "sys.path.insert(0, OWN + '.zip')",
    "forgotten": "sys.path_importer_cache.clear(); sys.path.insert(0, OWN)",
}
IMPORTS = """\
import os, sys
OWN, NEW = os.path.abspath("own"), os.path.abspath(sys.argv[1])
def fill():
    os.mkdir(NEW)
    for name in ("queue", "tempfile"):
        open(f"{NEW}/{name}.py", "w").close()
"""
TELL = """
def came(name):
    try:
        return getattr(__import__(name), "__file__", "none")
    except ImportError as error:
        return str(error)
found = {n: came(n) for n in ("queue", "asyncio", "json", "tempfile", "decimal")}
print(found, [n for n in sys.modules if "." not in n])
"""


@pytest.mark.parametrize("name", PATHS)
def test_what_comes_back_is_what_the_programs_own_path_has(
    name: str, tmp_path: Path
) -> None:
    """Own modules are called as preloaded ones; the cold start says which come."""
    (tmp_path / "own").mkdir()
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for module in ("queue", "decimal"):
            (tmp_path / "own" / f"{module}.py").write_text("")
            archive.writestr(f"{module}.py", "")
    script = tmp_path / "p.py"
    script.write_text(f"{IMPORTS}{PATHS[name]}\n{TELL}")
    cold, forked = (
        start(str(script), new, cwd=str(tmp_path))
        for new, start in (("new-1", twins.cold), ("new-2", twins.forked))
    )
    assert cold.status == 0, cold.err
    assert forked.out.replace(b"new-2", b"new-1") == cold.out
