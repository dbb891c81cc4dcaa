# SPDX-License-Identifier: GPL-3.0-or-later
"""An activity's directories and copies of them, with all that can lie in them.

Everything runs as a person who is nobody here: root would open what others cannot.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peers import BOB, identity

from isolauncher.session import bounded, copying, files

ROOT = "/home/somebody/.sugar/default/org.laptop.Test"
MEMORY = "/dev/shm"
"""A disk takes its time for thousands of directories in one another."""
SECRET = b"what is nobody's business"


@pytest.fixture
def top() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(dir=MEMORY))
    os.chown(place, BOB, BOB)
    try:
        with identity(BOB):
            yield place
    finally:
        shutil.rmtree(place)


def directories(place: Path) -> files.Directories:
    fds = {name: files.make(str(place / name)) for name in files.DIRECTORIES}
    return files.Directories(ROOT, fds)


@pytest.fixture
def own(top: Path) -> Iterator[files.Directories]:
    made = directories(top / "own")
    yield made
    for fd in made.fds.values():
        os.close(fd)


def content(own: files.Directories, path: str) -> bytes | None:
    given = own.find(path)
    if given is None:
        return None
    try:
        return os.pread(given.fd, 100, 0)
    finally:
        given.close()


def test_only_a_regular_file_beneath_one_of_them_is_found(
    top: Path, own: files.Directories
) -> None:
    (top / "secret").write_bytes(SECRET)
    data = top / "own/data"
    (data / "good").write_bytes(b"good")
    (data / "deep/deeper").mkdir(parents=True)
    (data / "deep/deeper/good").write_bytes(b"good")
    (data / b"odd\xff\n".decode("utf-8", "surrogateescape")).write_bytes(b"good")
    (data / "link").symlink_to(top / "secret")
    (data / "within").symlink_to("good")
    (data / "way").symlink_to("deep")
    (data / "up").symlink_to("..")
    os.mkfifo(data / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(data / "socket"))
    (data / "closed").write_bytes(b"closed")
    (data / "closed").chmod(0)
    for path in ("data/good", "data/deep/deeper/good", "data/./good"):
        assert content(own, f"{ROOT}/{path}") == b"good"
    assert content(own, f"{ROOT}/data/odd\udcff\n") == b"good"
    for path in (
        *("link", "within", "way/deeper/good", "up/data/good", "fifo", "socket"),
        *("deep", ".", "", "..", "../data/good", "../../secret", "absent", "closed"),
        *(
            "/good",
            "good/x",
            "x" * 300,
            "/" * 5000,
            "x/" * 3000,
            "deep/../../secret",
            "good\0",
        ),
    ):
        assert content(own, f"{ROOT}/data/{path}") is None, path
    for path in (
        *("", "/", ROOT, f"{ROOT}/", f"{ROOT}/data", f"{ROOT}/data/", "data/good"),
        *(f"{ROOT}x/data/good", f"{ROOT}/other/good", str(top / "own/data/good")),
        *(f"/{ROOT}/data/good", f"{ROOT}/../x", f"{ROOT}/secret", "good", "\udcff"),
    ):
        assert content(own, path) is None, path


@given(st.lists(st.sampled_from(["..", ".", "", "a", "link", "data", "x\n", "\0"])))
@settings(max_examples=200, deadline=None)
def test_no_path_leads_out(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        top = Path(place)
        own = directories(top / "own")
        try:
            (top / "a").write_bytes(SECRET)
            (top / "own/a").write_bytes(SECRET)
            (top / "own/data/link").symlink_to("..")
            (top / "own/data/a").write_bytes(b"good")
            found = content(own, "/".join([ROOT, "data", *parts]))
            assert found in (None, b"good")
        finally:
            for fd in own.fds.values():
                os.close(fd)


def test_a_name_that_is_another_file_by_now_is_not_removed(
    top: Path, own: files.Directories
) -> None:
    path = top / "own/data/given"
    path.write_bytes(b"given")
    given = own.find(f"{ROOT}/data/given")
    assert given is not None
    path.unlink()
    path.write_bytes(b"other")
    given.unlink()
    given.close()
    assert path.read_bytes() == b"other"


def test_a_file_that_is_too_large_or_would_fill_the_disk_is_not_copied(
    top: Path, own: files.Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = top / "own/data/given"
    path.write_bytes(bytes(4096))
    given = own.find(f"{ROOT}/data/given")
    assert given is not None
    with pytest.raises(files.Unfit, match="4095"):
        files.stage(given, str(top), 4095)
    with pytest.raises(files.Unfit, match="4095"):
        own.check_out(str(path), 4095)
    monkeypatch.setattr(bounded, "SPARE", 1 << 62)
    with pytest.raises(files.Unfit, match="room"):
        files.stage(given, str(top), 4096)
    with pytest.raises(files.Unfit, match="room"):
        own.check_out(str(path), 4096)
    given.close()
    assert os.listdir(top) == ["own"]
    assert os.listdir(top / "own/instance") == []


SIZES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3 * 4096)), min_size=1, max_size=6
)


@given(SIZES)
@settings(max_examples=60, deadline=None)
def test_a_copy_has_the_same_bytes_and_the_same_holes(
    parts: list[tuple[bool, int]],
) -> None:
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        for filled, size in parts:
            if filled:
                one.write(os.urandom(size))
            else:
                one.seek(size * 100, os.SEEK_CUR)
        one.truncate()
        one.flush()
        size = os.fstat(one.fileno()).st_size
        files.copy(one.fileno(), other.fileno(), size)
        one.seek(0)
        other.seek(0)
        assert one.read() == other.read()
        assert os.fstat(other.fileno()).st_blocks <= os.fstat(one.fileno()).st_blocks


def test_a_file_that_grows_or_shrinks_meanwhile_is_copied_to_an_end() -> None:
    for size in (0, 1, 4096, 1 << 40):
        with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
            one.write(b"x" * 5000)
            one.flush()
            files.copy(one.fileno(), other.fileno(), size)
            other.seek(0)
            assert other.read(6000).rstrip(b"\0") == b"x" * min(size, 5000)


def fill(place: Path, outside: Path) -> None:
    """Whatever an activity could leave in a directory."""
    place.mkdir(exist_ok=True)
    (place / "link").symlink_to(outside)
    (place / "file").symlink_to(outside / "secret")
    (place / "dangling").symlink_to("nothing")
    os.mkfifo(place / "fifo")
    for name in (b"-rf", b"\xff\xfe", b"new\nline", b" ", b"x" * 255):
        path = os.fsencode(place) + b"/" + name
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0))
    (place / "closed/inner").mkdir(parents=True)
    (place / "closed/inner/file").write_bytes(b"x")
    (place / "closed/inner/link").symlink_to(outside)
    (place / "closed/inner").chmod(0)
    (place / "closed").chmod(0)


def dig(place: Path, depth: int) -> None:
    """Deeper than a path is long, so by descriptors."""
    at = os.open(place, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deep", dir_fd=at)
        inner = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_whatever_is_in_a_directory_is_removed_and_nothing_outside(top: Path) -> None:
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (outside / "secret").chmod(0o400)
    outside.chmod(0o500)
    fill(top / "gone", outside)
    dig(top / "gone", 2500)
    (top / "gone").chmod(0)
    files.remove(str(top / "gone"))
    assert os.listdir(top) == ["outside"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o400
    assert (outside / "secret").read_bytes() == SECRET
    files.remove(str(top / "gone"))  # twice is once


def test_a_link_in_the_place_of_a_directory_is_not_followed(top: Path) -> None:
    (top / "outside").mkdir()
    (top / "outside/kept").write_bytes(SECRET)
    (top / "link").symlink_to("outside")
    with pytest.raises(OSError, match="link"):
        files.remove(str(top / "link"))
    with pytest.raises(OSError, match="link"):
        files.make(str(top / "link"))
    assert (top / "outside/kept").read_bytes() == SECRET


def test_what_is_closed_is_counted_and_too_deep_or_too_much_is_said(
    top: Path, own: files.Directories
) -> None:
    assert own.used() == (0, 0)
    data = top / "own/data"
    (data / "closed").mkdir()
    (data / "closed/file").write_bytes(bytes(65536))
    (data / "closed").chmod(0)
    data.chmod(0)
    size, entries = own.used()
    assert entries == 2
    assert 65536 <= size < 2 * 65536
    with pytest.raises(files.Unfit, match="more than 1 files"):
        own.used(1)
    dig(data, files.MAX_DEPTH)
    with pytest.raises(files.Unfit, match="deeper"):
        own.used()


# ---------------------------------------------------------------------- a working copy


class Copy:
    """A person's data, and the copy of it in which an activity works."""

    def __init__(self, top: Path, own: files.Directories) -> None:
        self.data = top / "own/data"
        self.scratch = top / "scratch"
        self.scratch.mkdir()
        self.own = own
        self.work = self.scratch / "data"

    def begin(self) -> copying.WorkingCopy:
        fd = os.open(self.scratch, os.O_RDONLY)
        try:
            return copying.WorkingCopy(self.own, fd)
        finally:
            os.close(fd)


@pytest.fixture
def copy(top: Path, own: files.Directories) -> Copy:
    return Copy(top, own)


def tree(place: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        name = str(path.relative_to(place))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = (path.read_bytes(), status.st_mtime_ns, status.st_mode)
        else:
            found[name] = kind
    return found


def test_a_working_copy_comes_back_as_it_was_left(copy: Copy) -> None:
    (copy.data / "kept/below").mkdir(parents=True)
    (copy.data / "kept/same").write_bytes(b"same")
    (copy.data / "kept/below/changed").write_bytes(b"before")
    (copy.data / "removed/below").mkdir(parents=True)
    (copy.data / "removed/below/file").write_bytes(b"x")
    (copy.data / "was-file").write_bytes(b"x")
    (copy.data / "was-directory/below").mkdir(parents=True)
    (copy.data / "was-link").symlink_to("kept")
    (copy.data / "link").symlink_to("/etc")
    work = copy.begin()
    assert tree(copy.work) == tree(copy.data)
    before = (copy.data / "kept/same").stat().st_ino
    (copy.work / "kept/below/changed").write_bytes(b"after")
    shutil.rmtree(copy.work / "removed")
    (copy.work / "was-file").unlink()
    (copy.work / "was-file").mkdir()
    (copy.work / "was-file/new").write_bytes(b"new")
    shutil.rmtree(copy.work / "was-directory")
    (copy.work / "was-directory").write_bytes(b"file now")
    (copy.work / "was-link").unlink()
    (copy.work / "was-link").mkdir()
    (copy.work / "new").write_bytes(b"new")
    (copy.work / "new").chmod(0o755)
    work.copy_back()
    assert tree(copy.data) == tree(copy.work)
    assert (copy.data / "kept/same").stat().st_ino == before


def test_what_comes_back_follows_nothing_and_keeps_no_set_id(
    top: Path, copy: Copy
) -> None:
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (copy.data / "place/below").mkdir(parents=True)
    (copy.data / "place/below/file").write_bytes(b"x")
    (copy.data / "other").write_bytes(b"x")
    work = copy.begin()
    shutil.rmtree(copy.work / "place")
    (copy.work / "place").symlink_to(outside)
    (copy.work / "other").unlink()
    os.mkfifo(copy.work / "other")
    fill(copy.work / "odd", outside)
    (copy.work / "set").write_bytes(b"x")
    (copy.work / "set").chmod(0o6755)
    work.copy_back()
    assert os.readlink(copy.data / "place") == str(outside)
    assert os.readlink(copy.data / "odd/link") == str(outside)
    assert os.readlink(copy.data / "odd/closed/inner/link") == str(outside)
    assert (copy.data / "odd/closed/inner/file").read_bytes() == b"x"
    assert (copy.data / "odd/-rf").read_bytes() == b""
    assert not (copy.data / "odd/fifo").exists()
    assert stat.S_IMODE((copy.data / "set").stat().st_mode) == 0o755
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET


def test_files_of_holes_come_back_as_such(copy: Copy) -> None:
    work = copy.begin()
    for n in range(50):
        with open(copy.work / str(n), "wb") as file:
            file.truncate(1 << 30)
    work.copy_back()
    sizes = [path.stat() for path in copy.data.iterdir()]
    assert {s.st_size for s in sizes} == {1 << 30}
    assert sum(s.st_blocks * 512 for s in sizes) < 1 << 20


def test_one_that_cannot_be_copied_keeps_no_other_from_it(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy.data / "kept").write_bytes(b"before")
    work = copy.begin()
    (copy.work / "a").write_bytes(b"small")
    (copy.work / "large").write_bytes(bytes(1 << 20))
    (copy.work / "z").write_bytes(b"small")
    (copy.work / "kept").write_bytes(b"after")
    dig(copy.work, files.MAX_DEPTH + 5)
    see_room = files.see_room

    def small(directory: str | int, size: int, most: int) -> None:
        see_room(directory, size, min(most, 1 << 19))

    monkeypatch.setattr(files, "see_room", small)
    work.copy_back()
    assert set(os.listdir(copy.data)) == {"a", "z", "kept", "deep"}
    assert (copy.data / "kept").read_bytes() == b"after"
    said = capsys.readouterr().err
    assert "more than" in said
    assert "deeper" in said


def test_what_a_broken_copy_has_left_is_neither_shown_nor_kept(copy: Copy) -> None:
    (copy.data / ".isolauncher-0123456789abcdef").write_bytes(b"half")
    work = copy.begin()
    assert os.listdir(copy.work) == []
    work.copy_back()
    assert os.listdir(copy.data) == []


def test_more_than_there_is_room_for_is_said_before_anything_runs(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy.data / "large").write_bytes(bytes(4096))
    monkeypatch.setattr(bounded, "SPARE", 1 << 62)
    with pytest.raises(files.Unfit, match="room"):
        copy.begin()
