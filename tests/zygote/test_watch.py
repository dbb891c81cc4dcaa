# SPDX-License-Identifier: GPL-3.0-or-later
"""A zygote is stale when a file it was made from changes, and only then."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isolauncher import kernel
from isolauncher.errors import ZygoteError
from isolauncher.zygote import fingerprint, watch
from isolauncher.zygote.fingerprint import File, Fingerprint
from isolauncher.zygote.handover import Pristine


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two directories of a search path: ``first`` is empty, ``lib`` has the modules."""
    (tmp_path / "first").mkdir()
    lib = tmp_path / "lib"
    (lib / "pkg" / "__pycache__").mkdir(parents=True)
    (lib / "mod.py").write_text("x = 1")
    (lib / "other.py").write_text("not preloaded")
    (lib / "pkg" / "__init__.py").write_text("")
    (lib / "pkg" / "sub.py").write_text("")
    (lib / "pkg" / "__pycache__" / "sub.cpython-311.pyc").write_bytes(b"c")
    return tmp_path


def made_of(tree: Path) -> Fingerprint:
    lib = tree / "lib"
    paths = [
        lib / "mod.py",
        lib / "pkg/__init__.py",
        lib / "pkg/sub.py",
        lib / "pkg/__pycache__/sub.cpython-311.pyc",
    ]
    return Fingerprint(
        files=tuple(File.of(str(p)) for p in paths),
        path=(str(tree / "absent.zip"), str(tree / "first"), str(lib)),
        names=(("mod", str(lib)), ("pkg", str(lib)), ("pkg.sub", str(lib / "pkg"))),
    )


def start(fingerprint: Fingerprint) -> watch.Watch:
    return watch.Watch(
        fingerprint,
        inotify_init=kernel.inotify_init,
        inotify_add_watch=kernel.inotify_add_watch,
    )


@pytest.fixture
def watched(tree: Path) -> Iterator[watch.Watch]:
    w = start(made_of(tree))
    assert w.changed() == []
    yield w
    w.close()


def upgrade(path: Path) -> None:
    new = path.with_name(path.name + ".dpkg-new")
    new.write_text("x = 2")
    new.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "upgraded": lambda t: upgrade(t / "lib/mod.py"),
    "written": lambda t: (t / "lib/mod.py").write_text("x = 3"),
    "removed": lambda t: (t / "lib/mod.py").unlink(),
    "moved": lambda t: (t / "lib/mod.py").rename(t / "x"),
    "touched": lambda t: os.utime(t / "lib/mod.py", (1, 1)),
    "cache-rewritten": lambda t: upgrade(t / "lib/pkg/__pycache__/sub.cpython-311.pyc"),
    "submodule": lambda t: upgrade(t / "lib/pkg/sub.py"),
    "package-replaced": lambda t: (t / "lib/pkg").rename(t / "lib/old"),
    "shadow-first": lambda t: (t / "first/mod.py").write_text(""),
    "shadow-first-package": lambda t: (t / "first/pkg").mkdir(),
    "shadow-package": lambda t: (t / "lib/mod").mkdir(),
    "shadow-extension": lambda t: (t / "lib/mod.abi3.so").write_text(""),
    "shadow-submodule": lambda t: (t / "lib/pkg/sub.so").write_text(""),
    "pth": lambda t: (t / "first/new.pth").write_text("/x"),
    "sitecustomize": lambda t: (t / "lib/sitecustomize.py").write_text(""),
    "absent-entry-appears": lambda t: (t / "absent.zip").write_text(""),
    "directory-gone": lambda t: shutil.rmtree(t / "first"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_and_not_forgotten(
    name: str, tree: Path, watched: watch.Watch
) -> None:
    CHANGES[name](tree)
    assert watched.changed()
    assert watched.changed()


OTHERS: dict[str, Callable[[Path], object]] = {
    "not-preloaded": lambda t: upgrade(t / "lib/other.py"),
    "new-module": lambda t: (t / "lib/new.py").write_text(""),
    "cache-of-another": lambda t: (
        t / "lib/pkg/__pycache__/other.cpython-311.pyc"
    ).write_text(""),
    "cache-directory": lambda t: (t / "lib/__pycache__").mkdir(),
    "no-module": lambda t: (t / "lib/mod.txt").write_text(""),
    "submodule-name-at-top": lambda t: (t / "lib/sub.py").write_text(""),
    "permissions": lambda t: (t / "lib/mod.py").chmod(0o600),
    "read": lambda t: (t / "lib/mod.py").read_text(),
    "link": lambda t: os.link(t / "lib/mod.py", t / "x"),
    "egg-info": lambda t: (t / "lib/new-1.0.dist-info").mkdir(),
    "beside-the-absent": lambda t: (t / "other.zip").write_text(""),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_nobody_preloaded_costs_no_zygote(
    name: str, tree: Path, watched: watch.Watch
) -> None:
    OTHERS[name](tree)
    assert watched.changed() == []


def test_a_change_before_the_watch_began_is_seen(tree: Path) -> None:
    fingerprint = made_of(tree)
    upgrade(tree / "lib/mod.py")
    w = start(fingerprint)
    assert w.changed() == [str(tree / "lib/mod.py")]
    w.close()


def test_overflow_counts_as_changed(tree: Path) -> None:
    read, write = os.pipe()
    numbers = iter(range(1, 99))
    w = watch.Watch(
        made_of(tree),
        inotify_init=lambda: read,
        inotify_add_watch=lambda fd, path, mask: next(numbers),
    )
    os.write(write, struct.pack("iIII", -1, watch.IN_Q_OVERFLOW, 0, 0))
    assert w.changed()
    w.close()
    os.close(write)


def test_this_interpreters_own_files_are_watched_and_at_rest() -> None:
    import decimal  # noqa: F401 - a module with a library of its own

    made = fingerprint.fingerprint(
        Pristine.capture(tuple(sys.modules), tuple(sys.path[1:]), ()), {}
    )
    paths = {file.path for file in made.files}
    assert os.__file__ in paths
    assert any("/_decimal." in path for path in paths)
    assert any(path.endswith("/libc.so.6") for path in paths)
    w = start(made)
    assert w.changed() == []
    w.close()


def test_the_fingerprint_survives_the_wire_whatever_files_are_called(
    tree: Path,
) -> None:
    odd = tree / "lib" / os.fsdecode(b"new\nline \xff.py")
    odd.write_text("")
    fingerprint = made_of(tree)
    fingerprint = Fingerprint(
        files=(*fingerprint.files, File.of(str(odd))),
        path=fingerprint.path,
        names=fingerprint.names,
    )
    assert Fingerprint.from_bytes(fingerprint.to_bytes()) == fingerprint


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"a\0b\0\0\0", b"a\0" b"1 2 3\0\0\0", b"\0\0x", b"a\0\0\0"],
)
def test_bytes_that_are_no_fingerprint_are_refused(data: bytes) -> None:
    with pytest.raises(ZygoteError):
        Fingerprint.from_bytes(data)
