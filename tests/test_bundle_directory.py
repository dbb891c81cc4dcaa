# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles as an opener finds them: with the caller's rights, beneath a descriptor.

The openers are real processes of another uid. Where a mount is needed it is made in
the tests' own mount namespace (conftest.py).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from support import powers
from support.peers import ALICE, BOB

from isolauncher import bundle, bundledir, channel, foreign, opener, reopen
from isolauncher.bundle import Found
from isolauncher.errors import BundleError, IsolauncherError
from isolauncher.request import Caller

# A test that hangs has failed: nothing here may wait for anybody.
pytestmark = pytest.mark.timeout(20)

PLAIN = b"""\
[Activity]
name = Plain
bundle_id = org.example.Plain
exec = sugar-activity3 plain.Plain
"""
CALCULATE = Path("/usr/share/sugar/activities/Calculate.activity")
MS_NOSUID, MS_NODEV, MS_BIND, MNT_DETACH = 2, 4, 4096, 2

_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


def asked(
    fd: int,
    question: Callable[[opener.Opener, int], Awaitable[_T]],
    uid: int = BOB,
) -> _T:
    """Ask a new opener of ``uid`` about ``fd``; nothing is left of it."""

    async def ask() -> _T:
        service = opener.Service()
        service.start()
        caller = Caller(uid=uid, gid=uid, groups=(), pid=1)
        one = opener.Opener(service, caller)
        try:
            return await question(one, fd)
        finally:
            ended = os.dup(one._pidfd) if one._pidfd >= 0 else -1
            one.close()
            service.close()
            if ended >= 0:
                await channel.readable(ended)
                os.close(ended)
                # The opener's own watch of its end comes in the same round.
                await asyncio.sleep(0)

    powers.need(powers.root())
    # Counted, and not looked at: of some nobody may even ask what they are.
    foreign.know_mounts()  # which stays open
    before = len(os.listdir("/proc/self/fd"))
    try:
        return asyncio.run(ask())
    finally:
        assert len(os.listdir("/proc/self/fd")) == before


def look(directory: Path | bytes | int, uid: int = BOB) -> Found:
    """``directory`` may be a descriptor, which stays open."""
    named = not isinstance(directory, int)
    fd = os.open(directory, os.O_PATH) if named else directory
    try:
        return asked(fd, lambda one, fd: one.open_bundle(fd), uid)
    finally:
        if named:
            os.close(fd)


def refused(directory: Path | bytes | int, code: str) -> str:
    """The line that says so."""
    with pytest.raises(IsolauncherError) as caught:
        look(directory)
    line = caught.value.line()
    assert caught.value.code == code, line
    assert line.isprintable()
    assert line.isascii()
    return line


def make(directory: Path, info: bytes = PLAIN) -> Path:
    (directory / "activity").mkdir(parents=True)
    (directory / bundle.INFO).write_bytes(info)
    for path in (directory, directory / "activity"):
        path.chmod(0o755)
    return directory


@contextmanager
def mounted(
    place: Path, kind: str, options: str = "", flags: int = 0
) -> Iterator[None]:
    powers.need(powers.mounting())
    done = _libc.mount(
        b"none", str(place).encode(), kind.encode(), flags, options.encode()
    )
    assert done == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert _libc.umount2(str(place).encode(), MNT_DETACH) == 0


@pytest.fixture
def system() -> Iterator[Path]:
    """A directory in which only root may write, and so above it; nobody else's too."""
    with mounted(Path("/mnt"), "tmpfs", "mode=0755,size=4m"):
        yield Path("/mnt")


# ---------------------------------------------------------------------- what is found


def test_an_installed_activity_is_found_and_is_the_system_s() -> None:
    powers.need(None if CALCULATE.is_dir() else "Calculate is not installed")
    it = bundle.parse(look(CALCULATE))
    assert it.bundle_id == "org.laptop.Calculate"
    assert it.path == str(CALCULATE)
    assert it.installed_by == "system"


def test_both_files_are_read_with_the_caller_s_rights(system: Path) -> None:
    place = make(system / "Plain.activity")
    assert look(place).permissions is None
    (place / bundle.PERMISSIONS).write_bytes(b"")
    found = look(place)
    assert (found.info, found.permissions) == (PLAIN, b"")
    (place / bundle.PERMISSIONS).write_bytes(b"use-serial\n")
    assert look(place).permissions == b"use-serial\n"
    (place / bundle.INFO).write_bytes(b"#" * bundle.MAX_BYTES)
    (place / bundle.PERMISSIONS).write_bytes(b"#" * bundle.MAX_BYTES)
    found = look(place)
    assert len(found.info) == len(found.permissions or b"") == bundle.MAX_BYTES
    for name in (bundle.INFO, bundle.PERMISSIONS):
        (place / name).chmod(0o600)
        assert name in refused(place, "bundle-unreadable")
        assert look(place, uid=0).info
        (place / name).chmod(0o644)
    # Who owns it may read it, whatever its group and others may.
    shutil.chown(place / bundle.INFO, BOB)
    (place / bundle.INFO).chmod(0o400)
    assert look(place).info


def test_the_path_is_the_kernel_s_whatever_link_led_there(system: Path) -> None:
    place = make(system / "Plain ½.activity")
    (system / "link").symlink_to(place)
    found = look(system / "link")
    assert found.path == str(place)
    assert found.installed_by == "system"


# --------------------------------------------------------------- whose the bundle is


def acl(entry: str) -> Callable[[Path], None]:
    def set_it(path: Path) -> None:
        powers.need(powers.program("setfacl"))
        subprocess.run(["setfacl", "-m", entry, path], check=True)

    return set_it


OTHERS: dict[str, Callable[[Path], object]] = {
    "another owner": lambda path: shutil.chown(path, BOB),
    "a group": lambda path: path.chmod(0o775),
    "everybody": lambda path: path.chmod(0o757),
    "a sticky directory": lambda path: path.chmod(0o1777),
    "an access control list": acl(f"u:{ALICE}:rwx"),
    "a list for a group": acl(f"g:{ALICE}:-wx"),
}


@pytest.mark.parametrize("which", ["the bundle", "its parent", "the one above"])
@pytest.mark.parametrize("how", OTHERS)
def test_a_bundle_that_others_than_root_could_have_put_there_is_a_user_s(
    system: Path, how: str, which: str
) -> None:
    place = make(system / "share/activities/Plain.activity")
    assert look(place).installed_by == "system"
    changed = {
        "the bundle": place,
        "its parent": place.parent,
        "the one above": place.parent.parent,
    }[which]
    OTHERS[how](changed)
    found = look(place)
    assert found.installed_by == "user"
    assert found.why.startswith(f"{changed} ")


def test_a_list_that_lets_nobody_write_leaves_a_bundle_the_system_s(
    system: Path,
) -> None:
    place = make(system / "Plain.activity")
    for path in (system, place):
        acl(f"u:{ALICE}:r-x")(path)
        acl(f"d:u:{ALICE}:rwx")(path)
    assert look(place).installed_by == "system"


def test_a_file_system_that_somebody_brought_along_is_not_the_system_s(
    system: Path,
) -> None:
    """Root's ownership is one number in an image that anybody can make."""
    (system / "stick").mkdir()
    with mounted(system / "stick", "tmpfs", "mode=0755,size=1m", MS_NOSUID | MS_NODEV):
        found = look(make(system / "stick/Plain.activity"))
    assert found.installed_by == "user"
    assert "nosuid" in found.why


def test_what_cannot_be_reached_by_its_name_is_not_the_system_s(system: Path) -> None:
    place = make(system / "closed/Plain.activity")
    (system / "closed").chmod(0o700)
    found = look(place)
    assert found.installed_by == "user"
    assert "cannot be reached" in found.why
    assert look(place, uid=0).installed_by == "system"


def test_another_directory_of_that_name_does_not_speak_for_it(system: Path) -> None:
    """It was there first, and the system's is mounted over it."""
    place = make(system / "hidden/Plain.activity")
    shutil.chown(place, BOB)
    fd = os.open(place, os.O_PATH)
    try:
        with mounted(system / "hidden", "tmpfs", "mode=0755,size=1m"):
            make(place)
            assert look(place).installed_by == "system"
            found = look(fd)
    finally:
        os.close(fd)
    assert found.installed_by == "user"
    assert "another directory" in found.why


def test_the_same_directory_through_another_mount_does_not_speak_for_it(
    system: Path,
) -> None:
    place = make(system / "hidden/Plain.activity")
    fd = os.open(place, os.O_PATH)
    there = str(place).encode()
    try:
        assert _libc.mount(there, there, None, MS_BIND, None) == 0
        try:
            found = look(fd)
        finally:
            _libc.umount2(there, MNT_DETACH)
    finally:
        os.close(fd)
    assert found.installed_by == "user"


# -------------------------------------------------------------------- hostile bundles


def replaced(place: Path, name: str) -> Path:
    (place / name).unlink()
    return place / name


def fifo(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o666)


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    path.chmod(0o666)


def listener(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


def real(path: Path) -> None:
    (path.parent / "real").write_bytes(PLAIN)
    path.symlink_to("real")


def outside(path: Path) -> None:
    path.symlink_to("/etc/passwd")


TRICKS = {
    "a fifo": (fifo, "bundle-not-a-file"),
    "a device": (device, "bundle-not-a-file"),
    "a socket": (listener, "bundle-not-a-file"),
    "a directory": (Path.mkdir, "bundle-not-a-file"),
    "a link beside it": (real, "bundle-link"),
    "a link elsewhere": (outside, "bundle-link"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "bundle-link"),
    "/dev/zero": (lambda path: path.symlink_to("/dev/zero"), "bundle-link"),
    "a gigabyte": (sparse, "bundle-too-large"),
    "a byte too much": (
        lambda path: path.write_bytes(b"#" * (bundle.MAX_BYTES + 1)),
        "bundle-too-large",
    ),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", [bundle.INFO, bundle.PERMISSIONS])
@pytest.mark.parametrize("trick", TRICKS)
def test_what_is_no_short_file_of_the_bundle_is_refused_at_once(
    system: Path, trick: str, name: str
) -> None:
    place = make(system / "Plain.activity")
    (place / bundle.PERMISSIONS).touch()
    do, code = TRICKS[trick]
    do(replaced(place, name))  # type: ignore[operator]
    line = refused(place, code)
    assert f"{place}/{name}" in line


def test_a_linked_activity_directory_is_refused(system: Path) -> None:
    place = make(system / "Plain.activity")
    (place / "activity").rename(system / "elsewhere")
    (place / "activity").symlink_to("../elsewhere")
    refused(place, "bundle-link")
    (place / "activity").unlink()
    (place / "activity").symlink_to(system / "elsewhere")
    refused(place, "bundle-link")
    (place / "activity").unlink()
    (place / "activity").touch()
    assert "Not a directory" in refused(place, "bundle-unreadable")


def test_a_file_swapped_between_open_and_read_is_not_the_one_that_is_read(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(system / "Plain.activity")
    theirs = os.open

    def swap(path: str, flags: int) -> int:
        """Between the look at it (O_PATH) and its opening."""
        if path.startswith("/proc/self/fd/"):
            (place / bundle.INFO).rename(place / "old")
            (place / bundle.INFO).symlink_to("/etc/passwd")
        return theirs(path, flags)

    fd = theirs(place, os.O_PATH)
    monkeypatch.setattr(os, "open", swap)
    try:
        assert bundledir._read(fd, str(place), bundle.INFO) == PLAIN
    finally:
        monkeypatch.undo()
        os.close(fd)
    assert (place / "old").exists()


def test_a_file_that_changes_while_it_is_read_is_refused(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(system / "Plain.activity")
    theirs = os.read

    def change(fd: int, most: int) -> bytes:
        data = theirs(fd, most)
        with open(place / bundle.INFO, "ab") as file:
            file.write(b"#")
        return data[:-1]

    fd = os.open(place, os.O_PATH)
    monkeypatch.setattr(os, "read", change)
    try:
        with pytest.raises(BundleError) as caught:
            bundledir._read(fd, str(place), bundle.INFO)
    finally:
        monkeypatch.undo()
        os.close(fd)
    assert caught.value.code in ("bundle-changed", "bundle-too-large")


@pytest.mark.parametrize(
    "name",
    [b"a\nb.activity", b"\xff.activity", b"a:b.activity", b"\x1b[2J", b"\xe2\x80\xa8"],
)
def test_a_path_that_cannot_be_told_is_refused(system: Path, name: bytes) -> None:
    place = make(system / "Plain.activity")
    other = os.fsencode(system) + b"/" + name
    os.rename(place, other)
    refused(other, "bundle-bad-path")


def test_what_is_no_bundle_is_refused(system: Path) -> None:
    place = make(system / "Plain.activity")
    (system / "Packed.xo").touch()
    refused(system / "Packed.xo", "bundle-not-a-directory")
    # Of a directory above, of one below, of what is no place for bundles at all.
    for other in (
        system,
        place / "activity",
        Path("/"),
        Path("/proc"),
        Path("/dev/pts"),
    ):
        assert str(other) in refused(other, "bundle-no-info")
    fd = os.open(place, os.O_PATH)
    try:
        shutil.rmtree(place)
        refused(fd, "bundle-deleted")
    finally:
        os.close(fd)
    reader, writer = os.pipe()
    try:
        refused(reader, "foreign-mount")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_bundle_of_another_mount_namespace_is_refused() -> None:
    powers.need(powers.mounting())
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            _libc.unshare(0x20000)
            _libc.mount(b"none", b"/mnt", b"tmpfs", 0, b"mode=0755")
            place = make(Path("/mnt/Plain.activity"))
            socket.send_fds(theirs, [b"x"], [os.open(place, os.O_PATH)])
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    try:
        refused(fds[0], "foreign-mount")
    finally:
        os.close(fds[0])


@contextmanager
def silent_server(place: Path, options: str = "") -> Iterator[None]:
    """A file system of Bob's whose server says nothing, and ends before pytest does."""
    try:
        served = os.open("/dev/fuse", os.O_RDWR)
    except OSError as why:
        powers.need(f"no file systems in user space: {why}")
    server = os.fork()
    if server == 0:
        # Whoever waits for it by then waits beyond a SIGTERM, but not beyond its end.
        signal.alarm(15)
        signal.pause()
        os._exit(0)
    whose = f"fd={served},rootmode=40000,user_id={BOB},group_id={BOB}{options}"
    try:
        with mounted(place, "fuse", whose, MS_NOSUID | MS_NODEV):
            os.close(served)
            yield
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


@pytest.mark.parametrize("options", ["", ",allow_other"])
def test_a_bundle_that_a_person_s_program_serves_is_refused_and_never_asked_for(
    system: Path, options: str
) -> None:
    (system / "Plain.activity").mkdir()
    with silent_server(system / "Plain.activity", options):
        refused(system / "Plain.activity", "bundle-served")


def test_no_descriptor_of_a_silent_server_keeps_the_daemon_waiting(
    system: Path,
) -> None:
    place = system / "Plain.activity"
    place.mkdir()
    told = {}
    with opened(place) as before:
        assert foreign.answers_at_once(before)
    for options in ("", ",allow_other"):
        with silent_server(place, options), opened(place) as fd:
            assert not foreign.answers_at_once(fd)
            told[options] = foreign.served(fd)
    assert told == {
        "": None,  # it refuses root, at once
        ",allow_other": "on a file system that a person's program serves",
    }
    with opened(place) as after:
        assert foreign.answers_at_once(after)


@contextmanager
def opened(place: Path) -> Iterator[int]:
    fd = os.open(place, os.O_PATH)
    try:
        yield fd
    finally:
        os.close(fd)


def test_what_is_mounted_inside_a_bundle_is_not_part_of_it(system: Path) -> None:
    place = make(system / "Plain.activity")
    with silent_server(place / "activity"):
        refused(place, "bundle-mount")
    with mounted(place / "activity", "tmpfs", "size=1m"):
        refused(place, "bundle-mount")


def test_a_caller_who_limits_its_opener_gets_no_half_of_a_file(system: Path) -> None:
    """prlimit(2) asks only for the same uid. The half may name another bundle."""
    place = make(system / "Plain.activity")

    async def limited(one: opener.Opener, fd: int) -> Found:
        await one.open_bundle(fd)
        with open(f"/proc/self/fdinfo/{one._pidfd}") as info:
            pid = next(int(line.split()[1]) for line in info if line[:4] == "Pid:")
        child = os.fork()
        if child == 0:
            try:
                reopen.become(Caller(uid=BOB, gid=BOB, groups=(), pid=1))
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (60, 60))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        return await one.open_bundle(fd)

    fd = os.open(place, os.O_PATH)
    try:
        with pytest.raises(IsolauncherError) as caught:
            asked(fd, limited)
    finally:
        os.close(fd)
    assert caught.value.code == "open-failed"


# ------------------------------------------------------------------------ its program


@pytest.fixture
def programs(system: Path) -> Path:
    place = make(system / "Plain.activity")
    for name in ("bin", "else"):
        (place / name).mkdir()
        (place / name).chmod(0o755)
    for name, text, mode in (
        ("bin/start", "#!/bin/sh\n", 0o755),
        ("bin/script", "#!/usr/bin/env python3\n", 0o644),
        ("bin/main.py", "", 0o644),
        ("bin/plain", "", 0o644),
        ("bin/secret", "#!/usr/bin/python3\n", 0o700),
        ("here", "#!/bin/sh\n", 0o755),
        ("else/start", "#!/usr/bin/python3\n", 0o755),
        ("else/tool", "#!/usr/bin/python3\n", 0o755),
    ):
        (place / name).write_text(text)
        (place / name).chmod(mode)
    (place / "bin/dangling").symlink_to("nowhere")
    (place / "bin/folder").mkdir()
    return place


async def _found(
    one: opener.Opener, fd: int, word: str, search: str
) -> tuple[bool, str]:
    with suppress(BundleError):  # it is none, and has been looked at
        await one.open_bundle(fd)
    one.ask_program(fd, word, search)
    return await one.found_program()


def find(place: Path, word: str, search: str = "/usr/bin:/bin") -> tuple[bool, str]:
    fd = os.open(place, os.O_PATH)
    try:
        return asked(fd, lambda one, fd: _found(one, fd, word, search))
    finally:
        os.close(fd)


def test_a_program_is_sought_in_the_bundle_and_then_in_the_path(programs: Path) -> None:
    search = f"{programs}/else:/usr/bin"
    for word, found in {
        "start": (True, "executable"),
        "script": (True, "python"),
        "main.py": (True, "python"),
        "tool": (False, "python"),
        "env": (False, "executable"),
        "./here": (False, "executable"),
        "bin/script": (False, "python"),
        "/usr/bin/env": (False, "executable"),
    }.items():
        assert find(programs, word, search) == found, word


@pytest.mark.parametrize(
    "word", ["plain", "folder", "secret", "./bin/plain", "..", "/"]
)
def test_a_program_that_the_caller_could_not_run_is_refused(
    programs: Path, word: str
) -> None:
    with pytest.raises(IsolauncherError) as caught:
        find(programs, word)
    assert caught.value.exit_status == 126


@pytest.mark.parametrize("word", ["dangling", "nowhere", "./nowhere", "/no/where"])
def test_a_program_that_is_nowhere_is_not_found(programs: Path, word: str) -> None:
    with pytest.raises(IsolauncherError) as caught:
        find(programs, word)
    assert caught.value.exit_status == 127


def test_sugar_s_own_starter_runs_in_the_zygote_s_interpreter() -> None:
    powers.need(None if CALCULATE.is_dir() else "Calculate is not installed")
    assert find(CALCULATE, "sugar-activity3") == (False, "python")


def test_an_opener_keeps_no_pipe_that_it_has_looked_at(programs: Path) -> None:
    async def look(one: opener.Opener, fd: int) -> bytes:
        with suppress(BundleError):  # it is none, and has been looked at
            await one.open_bundle(fd)
        read, write = os.pipe()
        os.set_blocking(read, False)
        with open(read, "rb", buffering=0) as end:
            one.ask_check((("hold", "pipe"),), [write])
            await one.checked()
            os.close(write)
            left = end.read(1)  # None while anybody has it open
        assert left is not None
        return left

    fd = os.open(programs, os.O_PATH)
    try:
        assert asked(fd, look) == b""
    finally:
        os.close(fd)
