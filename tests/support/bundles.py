# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles to launch, and a person's side of a launch without bus or display.

`Person.launch` speaks the daemon's protocol as any uid and brings what a session
would: three directories of the person's. Whatever it brings can be replaced.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from isolauncher import request, wire
from isolauncher.furniture import DIRECTORIES

from .daemons import Service
from .peers import peer
from .powers import need

INFO = """[Activity]
name = A bundle for tests
bundle_id = {id}
exec = {exec}
activity_version = 1
license = GPLv3+
icon = activity-test
"""
SHOW = """#!/usr/bin/python3
import json, os, sys
me = {
    "argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ),
    "uid": os.getuid(), "home": sorted(os.listdir(os.environ["HOME"])),
    "root": {n: sorted(os.listdir(os.path.join(os.environ["SUGAR_ACTIVITY_ROOT"], n)))
             for n in ("data", "instance", "tmp")},
}
print(json.dumps(me), flush=True)
"""


def make(
    directory: Path,
    *,
    id: str = "org.laptop.Test",
    exec: str = "show",
    programs: Mapping[str, str] | None = None,
    owner: int = 0,
) -> Path:
    """A bundle in ``directory``, with ``programs`` in its bin."""
    path = directory / "Test.activity"
    (path / "activity").mkdir(parents=True)
    (path / "bin").mkdir()
    (path / "activity/activity.info").write_text(INFO.format(id=id, exec=exec))
    for name, source in (programs or {"show": SHOW}).items():
        (path / "bin" / name).write_text(source)
        (path / "bin" / name).chmod(0o755)
    for top, directories, files in os.walk(path):
        for name in (".", *directories, *files):
            os.lchown(os.path.join(top, name), owner, owner)
    return path


@contextmanager
def system_directory() -> Iterator[Path]:
    """A place that only root can write, down from the root directory."""
    path = Path(tempfile.mkdtemp(prefix="isolauncher-test-", dir="/opt"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def overlay(directory: Path) -> Iterator[None]:
    """``directory`` on overlayfs, which has no id-mapped mounts (mount_setattr(2))."""
    top = Path(tempfile.mkdtemp(prefix="isolauncher-overlay-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "none", top], check=True)
    try:
        for name in ("upper", "work"):
            (top / name).mkdir()
        # The upper one is whose the whole is.
        owner = directory.stat()
        (top / "upper").chmod(owner.st_mode & 0o777)
        os.chown(top / "upper", owner.st_uid, owner.st_gid)
        options = f"lowerdir={directory},upperdir={top}/upper,workdir={top}/work"
        command = ["mount", "-t", "overlay", "none", "-o", options, directory]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        need(None if done.returncode == 0 else f"no overlayfs: {done.stderr}")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", directory], check=True)
    finally:
        subprocess.run(["umount", "-l", top], check=True)
        top.rmdir()


@dataclass
class Person:
    """Somebody with a home and a profile in it."""

    uid: int
    home: Path
    service: Service
    profile: Path = field(init=False)

    def __post_init__(self) -> None:
        self.profile = self.home / ".sugar/default"

    def directory(self, *names: str) -> Path:
        """One of the person's own in the profile, made if it is not there."""
        path = self.profile
        for name in names:
            path = path / name
            if not path.exists():
                path.mkdir(mode=0o700)
                os.chown(path, self.uid, self.uid)
        return path

    @contextmanager
    def launch(
        self,
        bundle: Path,
        *,
        environment: Mapping[str, str] | None = None,
        brought: Mapping[str, Path | int] | None = None,
        stdout: int | None = None,
        files: Mapping[str, bytes] | None = None,
        **changes: object,
    ) -> Iterator[Launched]:
        """Launch, up to the daemon's word on it.

        ``brought`` replaces what is brought by name; ``changes`` are fields of
        `request.Launch`.
        """
        with ExitStack() as stack:
            null = os.open(os.devnull, os.O_RDWR)
            stack.callback(os.close, null)
            sock = stack.enter_context(peer(self.service, self.uid))
            fd = os.open(bundle, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            fields = {
                "id": None,
                "object_id": None,
                "uri": None,
                "invited": False,
                "environment": {
                    "HOME": str(self.home),
                    "LANG": "C.UTF-8",
                    **(environment or {}),
                },
                "umask": 0o022,
                "descriptors": request.BUNDLE_DESCRIPTORS,
                **changes,
            }
            asked = request.Launch(**fields)  # type: ignore[arg-type]
            out = null if stdout is None else stdout
            wire.send(sock, request.encode(asked), [null, out, out, fd])
            launched = Launched(sock=sock)
            granted = launched.hear()
            if granted["event"] == "granted":
                launched.granted = granted
                self._furnish(sock, launched, brought, files or {}, stack)
                if launched.hear()["event"] == "copy":
                    stack.callback(os.close, launched.scratch)
                    named = {n: self._within(launched.scratch, n) for n in DIRECTORIES}
                    for made in named.values():
                        stack.callback(os.close, made)
                    self._furnish(sock, launched, named, files or {}, stack)
                    launched.hear()
            yield launched

    def _within(self, scratch: int, name: str) -> int:
        os.mkdir(name, 0o700, dir_fd=scratch)
        os.chown(name, self.uid, self.uid, dir_fd=scratch)
        return os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=scratch)

    def _furnish(
        self,
        sock: socket.socket,
        launched: Launched,
        brought: Mapping[str, Path | int] | None,
        files: Mapping[str, bytes],
        stack: ExitStack,
    ) -> None:
        grants = launched.granted
        bundle_id = str(grants["bundle_id"])
        things: dict[str, Path | int] = {}
        if "data" in grants["furniture"]:  # type: ignore[operator]
            things = {
                "data": self.directory(bundle_id, "data"),
                "instance": self.directory(bundle_id, "instance", str(grants["id"])),
                "tmp": self.directory(bundle_id, "tmp", str(grants["id"])),
            }
        things |= brought or {}
        names = [name for name in request.FURNITURE if name in things]
        fds = []
        for name in names:
            thing = things[name]
            if isinstance(thing, Path):
                thing = os.open(thing, os.O_PATH | os.O_NOFOLLOW)
                stack.callback(os.close, thing)
            fds.append(thing)
        message = request.encode(
            request.Furnish(
                display=":7" if "display" in names else None,
                cookie=None,
                files=files,
                descriptors=tuple(names),
            )
        )
        wire.send(sock, message, fds)


@dataclass
class Launched:
    """What the daemon said, the latest in ``said``."""

    sock: socket.socket
    granted: dict[str, object] = field(default_factory=dict)
    said: dict[str, object] = field(default_factory=dict)
    scratch: int = -1

    def hear(self) -> dict[str, object]:
        message = wire.recv(self.sock, max_fds=1)
        self.said = message.fields
        if message.fds:
            (self.scratch,) = message.fds
        return self.said

    def end(self) -> dict[str, object]:
        """The message of its end, or of why there was none."""
        while self.said["event"] not in ("exited", "refused"):
            self.hear()
        return self.said


@contextmanager
def person(service: Service, uid: int) -> Iterator[Person]:
    """Somebody whose home is in a directory that others may enter, and not it."""
    top = Path(tempfile.mkdtemp(prefix="isolauncher-home-", dir="/tmp"))
    top.chmod(0o755)
    home = top / "somebody"
    try:
        for path in (home, home / ".sugar", home / ".sugar/default"):
            path.mkdir(mode=0o700)
            os.chown(path, uid, uid)
        yield Person(uid=uid, home=home, service=service)
    finally:
        shutil.rmtree(top)
