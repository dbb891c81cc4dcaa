# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a zygote was made from, so that `watch` can tell when one changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, FrozenImporter

from isolauncher.errors import ZygoteError
from isolauncher.zygote.handover import Pristine

FINGERPRINT_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was when the zygote had loaded it."""

    path: str
    dev: int
    ino: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, path: str) -> File:
        s = os.stat(path)
        return cls(
            path=path,
            dev=s.st_dev,
            ino=s.st_ino,
            mtime_ns=s.st_mtime_ns,
            size=s.st_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All files a zygote was made from, and where else modules would be sought.

    ``names`` are the preloaded modules' full names with the directory each was found
    in, ``path`` the search path: a new file there could come first.
    """

    files: tuple[File, ...]
    path: tuple[str, ...]
    names: tuple[tuple[str, str], ...]

    def to_bytes(self) -> bytes:
        """NUL between fields, one empty field between the three parts."""
        fields: list[str] = []
        for f in self.files:
            fields += [f.path, f"{f.dev} {f.ino} {f.mtime_ns} {f.size}"]
        fields += ["", *self.path, ""]
        for name, directory in self.names:
            fields += [name, directory]
        data = "\0".join(fields).encode("utf-8", "surrogateescape")
        if len(data) > FINGERPRINT_LIMIT:
            raise ZygoteError(
                f"the list of preloaded files takes {len(data)} bytes, more than "
                f"{FINGERPRINT_LIMIT}",
                code="zygote-fingerprint-size",
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Refuses what `to_bytes` would not write, though only it should have."""
        try:
            if len(data) > FINGERPRINT_LIMIT:
                raise ValueError("too long")
            fields = data.decode("utf-8", "surrogateescape").split("\0")
            first = fields.index("")
            second = fields.index("", first + 1)
            files = []
            for path, numbers in _pairs(fields[:first]):
                dev, ino, mtime, size = (int(n) for n in numbers.split(" "))
                files.append(
                    File(path=path, dev=dev, ino=ino, mtime_ns=mtime, size=size)
                )
            return cls(
                files=tuple(files),
                path=tuple(fields[first + 1 : second]),
                names=tuple(_pairs(fields[second + 1 :])),
            )
        except ValueError as error:
            raise ZygoteError(
                f"a zygote sent an unreadable list of its files: {error}",
                code="zygote-fingerprint",
            ) from error


def _pairs(fields: list[str]) -> list[tuple[str, str]]:
    if len(fields) % 2:
        raise ValueError("a field is missing")
    return list(zip(fields[::2], fields[1::2], strict=True))


def fingerprint(pristine: Pristine, shelf: Mapping[str, object]) -> Fingerprint:
    """What this process has loaded: modules, their caches, mapped libraries."""
    paths = {sys.executable}
    names = []
    for name, module in {**sys.modules, **shelf}.items():
        spec = getattr(module, "__spec__", None)
        origin = getattr(module, "__file__", None)
        if spec is None or not origin or not os.path.isabs(origin):
            continue
        if spec.loader not in (BuiltinImporter, FrozenImporter):
            directory = os.path.dirname(origin)
            # Not by what it says of itself: `six` is one file and says "package".
            if os.path.basename(origin) == "__init__.py":
                directory = os.path.dirname(directory)
            names.append((name, directory))
        paths.add(origin)
        cached = getattr(module, "__cached__", None)
        if cached:
            paths.add(cached)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            # A name that ends so is one that is no longer there: an upgrade has gone
            # over a running zygote, and its stat fails below.
            if path and not path.startswith(("memfd:", "dev/", "SYSV")):
                paths.add("/" + path)
    files = []
    for path in sorted(paths):
        try:
            files.append(File.of(path))
        except FileNotFoundError:
            # A cache that was never written is no file of ours; anything else has
            # been taken away while it was being read.
            if path.endswith(".pyc"):
                continue
            raise ZygoteError(
                f"{path} was preloaded and is gone",
                code="zygote-file-gone",
                hint="an upgrade is going on: the next zygote will have the new file",
            ) from None
    return Fingerprint(
        files=tuple(files), path=tuple(pristine.path), names=tuple(sorted(names))
    )
