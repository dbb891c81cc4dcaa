# SPDX-License-Identifier: GPL-3.0-or-later
"""Only files that nobody but their keepers can change count (and are opened once)."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support.powers import need, program, root

from isolauncher.errors import PolicyError
from isolauncher.policy import load, trust
from isolauncher.policy.load import PolicyStore

from .conftest import Shelf

MINIMAL = "version = 1\n"


def test_a_file_others_may_write_is_refused(shelf: Shelf) -> None:
    path = shelf.put("mine", MINIMAL)
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        (mistake,) = shelf.mistakes("mine")
        assert mistake.code == "policy-not-trusted"
        assert mistake.file == str(path)
        assert f"chmod go-w {path}" in mistake.hint
    path.chmod(0o644)
    assert shelf.store.get("mine").name == "mine"


def test_a_file_made_writable_later_is_noticed_though_its_text_is_the_same(
    shelf: Shelf,
) -> None:
    path = shelf.put("mine", MINIMAL)
    os.utime(path, (1, 1))
    assert shelf.store.get("mine").name == "mine"
    path.chmod(0o666)
    assert shelf.codes("mine") == ["policy-not-trusted"]


def test_a_file_of_somebody_else_is_refused(shelf: Shelf) -> None:
    need(root())
    path = shelf.put("mine", MINIMAL)
    os.chown(path, 12345, 0)
    (mistake,) = shelf.mistakes("mine")
    assert mistake.code == "policy-not-trusted"
    assert "belongs to uid 12345" in mistake.message


def test_links_fifos_sockets_devices_and_directories_are_refused(shelf: Shelf) -> None:
    elsewhere = shelf.put("real", MINIMAL)
    (shelf.etc / "link.toml").symlink_to(elsewhere)
    os.mkfifo(shelf.etc / "fifo.toml", 0o600)
    (shelf.etc / "directory.toml").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(shelf.etc / "socket.toml"))
        for name in ("link", "fifo", "directory", "socket"):
            assert shelf.codes(name) == ["policy-not-trusted"], name


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_named_as_a_file_is_refused_without_being_opened(
    shelf: Shelf, device: str
) -> None:
    link = shelf.etc / "device.toml"
    link.symlink_to(device)
    assert shelf.codes("device") == ["policy-not-trusted"]
    descriptor = os.open(device, os.O_PATH)
    try:
        with pytest.raises(PolicyError) as caught:
            shelf.store.load_descriptor(descriptor, device)
    finally:
        os.close(descriptor)
    assert "device" in caught.value.message


def test_a_device_node_in_the_directory_is_refused(shelf: Shelf) -> None:
    need(root())
    path = shelf.etc / "node.toml"
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        need("device nodes cannot be made here")
    assert shelf.codes("node") == ["policy-not-trusted"]


def test_a_descriptor_of_a_link_itself_is_refused(shelf: Shelf) -> None:
    link = shelf.etc / "link.toml"
    link.symlink_to(shelf.put("real", MINIMAL))
    descriptor = os.open(link, os.O_PATH | os.O_NOFOLLOW)
    try:
        with pytest.raises(PolicyError) as caught:
            shelf.store.load_descriptor(descriptor, str(link))
    finally:
        os.close(descriptor)
    assert "symbolic link" in caught.value.message


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_policy_directory_others_may_write_is_refused(
    shelf: Shelf, mode: int
) -> None:
    shelf.etc.chmod(mode)
    with pytest.raises(PolicyError) as caught:
        shelf.store.get("default")
    assert caught.value.code == "policy-not-trusted"
    assert caught.value.mistakes[0].file == str(shelf.etc)


def test_a_directory_above_that_others_may_write_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "top"
    policies = top / "a" / "policies"
    policies.mkdir(parents=True)
    (policies / "mine.toml").write_text(MINIMAL)
    store = PolicyStore(str(policies), None, owners=frozenset({0, os.getuid()}))
    assert store.names() == ("mine",)
    top.chmod(0o777)
    with pytest.raises(PolicyError) as caught:
        store.names()
    assert caught.value.mistakes[0].file == str(top)
    top.chmod(0o1777)
    assert store.names() == ("mine",)


def test_in_a_sticky_directory_somebody_elses_entry_is_refused(tmp_path: Path) -> None:
    need(root())
    policies = tmp_path / "shared" / "policies"
    policies.mkdir(parents=True)
    policies.parent.chmod(0o1777)
    os.chown(policies, 12345, 0)
    store = PolicyStore(str(policies), None)
    with pytest.raises(PolicyError) as caught:
        store.names()
    assert "belongs to uid 12345" in caught.value.message


def test_links_on_the_way_are_followed_and_looked_at(
    shelf: Shelf, tmp_path: Path
) -> None:
    real = tmp_path / "real" / "policies"
    shutil.copytree(shelf.vendor, real)
    way = tmp_path / "way"
    way.mkdir()
    (way / "there").symlink_to("../real/./policies")
    owners = frozenset({0, os.getuid()})
    store = PolicyStore(str(way / "there"), None, owners=owners)
    assert store.get("default").name == "default"
    # Who may write the link's directory may turn the link around.
    way.chmod(0o777)
    with pytest.raises(PolicyError) as caught:
        store.get("default")
    assert caught.value.mistakes[0].file == str(way)


def test_a_link_turned_around_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(shelf.vendor, other)
    (other / "extra.toml").write_text(MINIMAL)
    here = tmp_path / "here"
    here.symlink_to(shelf.vendor)
    store = PolicyStore(str(here), None, owners=frozenset({0, os.getuid()}))
    assert "extra" not in store.names()
    here.unlink()
    here.symlink_to(other)
    assert "extra" in store.names()


def test_a_link_of_somebody_else_on_the_way_is_refused(
    shelf: Shelf, tmp_path: Path
) -> None:
    need(root())
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "policies"
    link.symlink_to(shelf.vendor)
    store = PolicyStore(str(link), None)
    assert "default" in store.names()
    os.chown(link, 12345, 0, follow_symlinks=False)
    with pytest.raises(PolicyError) as caught:
        store.names()
    assert caught.value.mistakes[0].file == str(link)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    store = PolicyStore(str(tmp_path / "a"), None, owners=frozenset({0, os.getuid()}))
    with pytest.raises(PolicyError) as caught:
        store.names()
    assert "links" in caught.value.message


def test_what_was_opened_is_what_is_read(shelf: Shelf, tmp_path: Path) -> None:
    """A name turned around after the look leads nowhere: the descriptor is reread."""
    path = shelf.put("mine", MINIMAL + "[limits]\nnice = 3\n")
    descriptor = os.open(path, os.O_PATH)
    try:
        path.unlink()
        path.symlink_to("/etc/passwd")
        policy = shelf.store.load_descriptor(descriptor, str(path))
    finally:
        os.close(descriptor)
    assert policy.limits.nice == 3


def test_an_unreadable_file_is_an_error_with_its_name(shelf: Shelf) -> None:
    need(root())
    path = shelf.put("mine", MINIMAL)
    path.chmod(0o000)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for directory in (shelf.etc, shelf.vendor, *shelf.etc.parents):
                if os.stat(directory).st_uid == 0 and directory != Path("/tmp"):
                    os.chmod(directory, os.stat(directory).st_mode | 0o055)
            os.setgroups([])
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            try:
                shelf.store.get("mine")
            except PolicyError as error:
                status = 0 if error.code == "policy-unreadable" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_list_that_lets_others_write_shows_in_the_mode(shelf: Shelf) -> None:
    need(program("setfacl"))
    path = shelf.put("mine", MINIMAL)
    done = subprocess.run(
        ["setfacl", "-m", "u:12345:rw", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        need(f"setfacl: {done.stderr.decode()}")
    assert shelf.codes("mine") == ["policy-not-trusted"]


def test_only_root_counts_unless_the_code_is_a_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = os.stat(Path(load.__file__).parent).st_uid
    assert load.trusted_owners() == {0, owner}
    monkeypatch.setattr(load, "checkout", lambda: None)
    assert load.trusted_owners() == {0}


def test_names_that_can_never_be_a_policy_are_reported(shelf: Shelf) -> None:
    (shelf.etc / "-rf.toml").write_text(MINIMAL)
    (shelf.etc / "a b.toml").write_text(MINIMAL)
    (shelf.etc / ".#mine.toml").symlink_to("nowhere")
    (shelf.etc / "README").write_text("hello")
    assert shelf.store.names() == ("default", "untrusted")
    assert [mistake.code for mistake in shelf.store.strays()] == ["policy-bad-name"] * 2


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/etc/x",
        "/usr",
        "/usr/share/isolauncher",
        "/usr/share/isolauncher/policies/new.toml",
        "/var/lib/isolauncher",
        "/var/lib",
        "/var",
        "/run",
        "/run/isolauncher/socket",
        "/proc/self",
        "/sys",
    ],
)
def test_no_activity_may_write_where_policies_or_state_are(
    shelf: Shelf, path: str
) -> None:
    assert shelf.store.refuse_write(path)
    shelf.put("bad", f'version = 1\n[files]\nwrite = ["{path}"]\n')
    assert shelf.codes("bad") == ["policy-forbidden-path"]


def test_the_stores_own_directories_and_the_code_are_not_writable_either(
    shelf: Shelf, tmp_path: Path
) -> None:
    code = Path(load.__file__).parents[1]
    for path in (shelf.etc, shelf.vendor, tmp_path, code, code / "policy", code.parent):
        assert shelf.store.refuse_write(str(path)), path
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    store = PolicyStore(str(link / "vendor"), str(link / "etc"))
    for path in (shelf.etc, link / "etc"):
        assert store.refuse_write(str(path)), path
    assert shelf.store.refuse_write("/srv/drawings") is None
    assert shelf.store.refuse_write("/var/libre") is None


def test_a_file_that_changes_while_it_is_read_is_refused(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf.put("mine", MINIMAL)
    read = os.read
    changes = ["# more\n"]

    def slow(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        if changes:
            with open(path, "a") as opened:
                opened.write(changes.pop())
        return data

    monkeypatch.setattr(trust.os, "read", slow)
    (mistake,) = shelf.mistakes("mine")
    monkeypatch.undo()
    assert mistake.code == "policy-unreadable"
    assert "changed while it was read" in mistake.message
    assert shelf.store.get("mine").name == "mine"


def test_no_descriptor_is_left_open(shelf: Shelf) -> None:
    shelf.store.get("untrusted")
    before = len(os.listdir("/proc/self/fd"))
    (shelf.etc / "link.toml").symlink_to("/dev/zero")
    for number in range(50):
        shelf.etc.chmod(0o755 if number % 2 else 0o777)
        for name in ("untrusted", "link", "nothing"):
            with contextlib.suppress(PolicyError):
                shelf.store.get(name)
    shelf.etc.chmod(0o755)
    shelf.store.get("untrusted")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limit_of_a_file_holds_whatever_its_size_says(shelf: Shelf) -> None:
    path = shelf.put("mine", MINIMAL)
    with open(path, "r+b") as opened:
        opened.truncate(1 << 40)  # sparse: takes no room
    assert shelf.codes("mine") == ["policy-too-large"]
    assert trust.MAX_BYTES == 64 * 1024
