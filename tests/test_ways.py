# SPDX-License-Identifier: GPL-3.0-or-later
"""What can change on the way to a path is told; what else happens there is not."""

from __future__ import annotations

import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.daemons import ROOMS_AHEAD, service
from support.peers import until
from support.powers import need, sandboxes

from isolauncher import kernel, reopen, ways, wire

CAROL = 12347


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``above/in/file``, a link to it through another to a directory, and ``other``."""
    place = tmp_path / "above" / "in"
    place.mkdir(parents=True)
    (place / "file").touch()
    (tmp_path / "far").symlink_to("above/in")
    (tmp_path / "far-file").symlink_to("far/file")
    (tmp_path / "dangling").symlink_to("above/nothing")
    (tmp_path / "other").mkdir()
    return tmp_path


@contextmanager
def watching(*paths: Path) -> Iterator[ways.Watched]:
    watch = ways.Watch()
    places = ways.looked_up(map(str, paths))
    assert places is not None
    watched = watch.add(places)
    wire.close_all(place.fd for place in places)
    assert watched is not None
    assert watched.is_quiet()
    try:
        yield watched
    finally:
        watch.close()


def give_access(path: Path) -> None:
    """setfacl -m u:1234:r (acl(5), linux/posix_acl_xattr.h)."""
    none = 0xFFFFFFFF
    entries = ((1, 6, none), (2, 4, 1234), (4, 4, none), (0x10, 4, none))
    acl = b"".join(struct.pack("<HHI", *e) for e in (*entries, (0x20, 4, none)))
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + acl)


def take_access(path: Path) -> None:
    os.removexattr(path, "system.posix_acl_access")


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.touch()
    new.rename(path)


def make_anew(path: Path) -> None:
    path.rename(path.with_name("moved"))
    shutil.copytree(path.with_name("moved"), path)


def exchange(path: Path) -> None:
    path.with_name("new").mkdir()
    fd = os.open(path.parent, os.O_PATH)
    try:
        kernel.rename(fd, path.name, "new", exchange=True)
    finally:
        os.close(fd)


def lead_elsewhere(path: Path) -> None:
    new = path.with_name("new")
    new.symlink_to("other")
    new.rename(path)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "file: mode": ("above/in/file", lambda path: path.chmod(0)),
    "file: owner": ("above/in/file", lambda path: os.chown(path, 1, -1)),
    "file: group": ("above/in/file", lambda path: os.chown(path, -1, 1)),
    "file: access list": ("above/in/file", give_access),
    "file: replaced": ("above/in/file", replace),
    "file: exchanged": ("above/in/file", exchange),
    "file: gone": ("above/in/file", Path.unlink),
    "file: moved": ("above/in/file", lambda path: path.rename(path.parent / "new")),
    "above: mode": ("above/in", lambda path: path.chmod(0)),
    "above: owner": ("above/in", lambda path: os.chown(path, 1, -1)),
    "above: access list": ("above/in", give_access),
    "above: moved": ("above/in", lambda path: path.rename(path.parent / "new")),
    "above: gone": ("above/in", shutil.rmtree),
    "above: made anew": ("above/in", make_anew),
    "above: exchanged": ("above/in", exchange),
    "further above: mode": ("above", lambda path: path.chmod(0)),
    "further above: moved": ("above", lambda path: path.rename(path.parent / "new")),
    "further above: made anew": ("above", make_anew),
}
OF_A_LINK: dict[str, tuple[str, Callable[[Path], object]]] = {
    "link": ("far-file", lead_elsewhere),
    "link of a directory": ("far", lead_elsewhere),
    "its directory: others may write": (".", lambda path: path.chmod(0o777)),
    "link gone": ("far", Path.unlink),
}
APPEARS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "file": ("above/nothing", Path.touch),
    "directory": ("above/nothing", Path.mkdir),
    "link": ("above/nothing", lambda path: path.symlink_to("/")),
    "moved here": (
        "above/nothing",
        lambda path: (path.parent.parent / "other").rename(path),
    ),
    "linked here": (
        "above/nothing",
        lambda path: path.hardlink_to(path.parent / "in" / "file"),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_on_the_way_is_told(
    tree: Path, change: tuple[str, Callable[[Path], object]]
) -> None:
    with watching(tree / "above/in/file") as watched:
        change[1](tree / change[0])
        assert not watched.is_quiet()


@pytest.mark.parametrize(
    "change", [*CHANGES.values(), *OF_A_LINK.values()], ids=[*CHANGES, *OF_A_LINK]
)
def test_a_change_on_the_way_of_a_link_is_told(
    tree: Path, change: tuple[str, Callable[[Path], object]]
) -> None:
    with watching(tree / "far-file") as watched:
        change[1](tree / change[0])
        assert not watched.is_quiet()


@pytest.mark.parametrize("path", ["above/nothing", "dangling", "above/nothing/below"])
@pytest.mark.parametrize("change", APPEARS.values(), ids=APPEARS)
def test_what_appears_is_told(
    tree: Path, path: str, change: tuple[str, Callable[[Path], object]]
) -> None:
    with watching(tree / path) as watched:
        change[1](tree / change[0])
        assert not watched.is_quiet()


def test_so_is_what_becomes_free_to_be_found(tree: Path) -> None:
    """By whoever may not search the directory, and whose opener gets no further."""
    (tree / "above").chmod(0o700)
    for path in (tree, *tree.parents[:-1]):
        if path.stat().st_mode & 0o5 != 0o5:
            path.chmod(0o755)
    # As all threads of this process: another test may have left some.
    os.setegid(65534)
    os.seteuid(65534)
    try:
        places = ways.looked_up([str(tree / "above/in/file")])
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert places is not None
    assert places[-1].names == ("in",)
    watch = ways.Watch()
    watched = watch.add(places)
    assert watched is not None
    (tree / "above").chmod(0o755)
    assert not watched.is_quiet()
    wire.close_all(place.fd for place in places)
    watch.close()


def test_a_change_by_another_name_of_the_file_is_told(tree: Path) -> None:
    (tree / "other/name").hardlink_to(tree / "above/in/file")
    with watching(tree / "above/in/file") as watched:
        (tree / "other/name").chmod(0)
        assert not watched.is_quiet()


def test_a_list_that_is_taken_away_is_told(tree: Path) -> None:
    give_access(tree / "above/in")
    with watching(tree / "above/in/file") as watched:
        take_access(tree / "above/in")
        assert not watched.is_quiet()


def test_what_else_happens_there_is_not(tree: Path) -> None:
    with watching(tree / "above/in/file", tree / "far-file") as watched:
        (tree / "above/in/file").write_text("other text")
        (tree / "above/in/beside").touch()
        (tree / "above/in/beside").chmod(0)
        (tree / "above/in/beside").rename(tree / "above/in/another")
        (tree / "above/in/another").unlink()
        (tree / "other").rmdir()
        assert (tree / "far-file").read_text() == "other text"
        assert watched.is_quiet()


def test_more_than_there_is_time_to_weigh_is_a_change(tree: Path) -> None:
    watch = ways.Watch()
    places = ways.looked_up([str(tree / "above/in/file")])
    assert places is not None
    watched = watch.add(places)
    assert watched is not None
    for number in range(ways._MOST // 32):
        (tree / "above/in" / str(number)).touch()
    assert not watched.is_quiet()
    assert not watched.is_quiet()
    again = watch.add(places)
    assert again is not None
    watched.close()  # takes nothing from the other
    assert again.is_quiet()
    (tree / "above/in/file").chmod(0)
    assert not again.is_quiet()
    wire.close_all(place.fd for place in places)
    watch.close()


def test_what_one_room_no_longer_watches_another_does(tree: Path) -> None:
    watch = ways.Watch()
    one, both = (
        ways.looked_up(str(tree / name) for name in names)
        for names in (["above/in/file"], ["above/in/file", "other"])
    )
    assert one is not None
    assert both is not None
    first, second = watch.add(one), watch.add(both)
    assert first is not None
    assert second is not None
    second.close()
    (tree / "other").chmod(0)
    assert first.is_quiet()
    (tree / "above/in").chmod(0)
    assert not first.is_quiet()
    first.close()
    assert not watch._of
    wire.close_all(place.fd for place in (*one, *both))
    watch.close()


def test_where_the_kernel_is_not_told_nothing_is_watched(tree: Path) -> None:
    assert ways.looked_up(["/proc/self/status"]) is None
    assert ways.looked_up([str(tree), "/sys/kernel"]) is None


def test_a_directory_with_other_names_than_it_shows_is_not_watched(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted, or one for which names that differ in case are the same."""
    places = ways.looked_up([str(tree / "above/in/file")])
    assert places is not None
    watch = ways.Watch()
    for flag in (ways._FS_ENCRYPT_FL, ways._FS_CASEFOLD_FL):
        told = struct.pack("Q", flag)
        monkeypatch.setattr(ways.fcntl, "ioctl", lambda *words, told=told: told)
        assert watch.add(places) is None
    monkeypatch.undo()
    assert not watch._of
    assert watch.add(places) is not None
    wire.close_all(place.fd for place in places)
    watch.close()


@pytest.mark.parametrize("want", [{"writable": True}, {"device": True}])
def test_what_may_be_written_and_devices_are_looked_at_by_the_opener(
    tree: Path, want: dict[str, bool]
) -> None:
    wants = [[str(tree / "above"), False, False]]
    more = [str(tree / "other"), want.get("writable", False), want.get("device", False)]
    assert _told(reopen._Answers(), wants)
    assert not _told(reopen._Answers(), [*wants, more])


def _told(answers: reopen._Answers, wants: list[list[object]]) -> object:
    fds: list[int] = []
    answers.to(wire.Message({"wants": wants, "again": True}), fds)
    told = answers.to(wire.Message({"ways": None}), fds)["ways"]
    wire.close_all(fds)
    assert isinstance(told, dict)
    return told["places"]


def move_and_link(path: Path) -> None:
    """Another way to the same file, by a directory that nobody watches."""
    path.mkdir()
    (path.parent / "in" / "file").rename(path / "file")
    (path.parent / "in").rmdir()
    path.rename(path.parent / "in")


@pytest.mark.parametrize(
    ("place", "change", "same"),
    [
        ("above/in/file", lambda path: None, True),
        ("above/in", make_anew, False),
        ("above/in/file", Path.unlink, False),
        ("above/new", move_and_link, False),
    ],
)
def test_a_change_before_it_was_watched_is_seen_by_the_second_look(
    tree: Path, place: str, change: Callable[[Path], object], same: bool
) -> None:
    answers = reopen._Answers()
    fds: list[int] = []
    wants = [[str(tree / "above/in/file"), False, False]]
    answers.to(wire.Message({"wants": wants, "again": True}), fds)
    answers.to(wire.Message({"ways": None}), fds)
    change(tree / place)
    told = answers.to(wire.Message({"ways": True}), fds)["ways"]
    wire.close_all(fds)
    assert told == {"same": same}


def test_a_room_asks_its_opener_only_when_something_has_changed(tree: Path) -> None:
    need(sandboxes())
    with service(config=ROOMS_AHEAD) as daemon:
        shown = daemon.script("shown", "")
        policy = f'version = 1\n[match]\ncallers = ["*"]\n[files]\nread = ["{shown}"]\n'
        daemon.policy("shows", policy)
        script = daemon.script("says.py", "print('here')")

        def launched() -> str:
            daemon.at_rest()
            done = daemon.run("--policy", "shows", "--", script, uid=CAROL)
            assert done.out == b"here\n", done
            lines = [li for li in daemon.log.splitlines() if "launched" in li]
            return lines[-1].partition('room="')[2].partition('"')[0]

        for _ in range(3):
            launched()
        daemon.at_rest()
        waiting = _openers()
        assert waiting
        for pid in waiting:
            os.kill(pid, signal.SIGSTOP)
        assert launched() == "expected"
        Path(shown).chmod(0o604)
        # Its opener finds nothing that makes a difference.
        assert launched() == "expected"
        daemon.at_rest()
        Path(shown).chmod(0)
        assert launched() == "on-demand"
        # Whatever is to go when the daemon goes does, though it is stopped.
        for pid in _openers():
            os.kill(pid, signal.SIGSTOP)
    assert until(lambda: not _openers())


def _openers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(f"isolauncher: opener({CAROL})".encode()):
                found.append(int(path.parent.name))
    return found
