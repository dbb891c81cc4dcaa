# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's configuration: what it may say, whose file it may be; and places."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from support.powers import need, root

from isolauncher import config, paths
from isolauncher.errors import PolicyError

MAN = Path(__file__).parents[2] / "docs" / "man" / "isolauncherd.8"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "isolauncher.toml"


def refused(file: Path) -> list[tuple[int, str, str]]:
    with pytest.raises(PolicyError) as caught:
        config.load(str(file))
    assert caught.value.step == "config"
    return [(m.line, m.key, m.code) for m in caught.value.mistakes]


def test_without_a_file_everything_has_a_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(paths.SOCKET_VARIABLE, raising=False)
    monkeypatch.setattr(paths, "CONFIG_FILE", str(tmp_path / "absent"))
    found = config.load()
    assert found == config.Config()
    assert found.file is None
    assert (found.uids.init, found.uids.first_activity) == (70000, 70001)
    assert (69999 in found.uids, 70000 in found.uids) == (False, True)
    assert (89999 in found.uids, 90000 in found.uids) == (True, False)
    assert found.socket == "/run/isolauncher/socket"
    assert found.run_dir == "/run/isolauncher"


def test_the_example_of_the_manual_is_the_defaults(file: Path) -> None:
    page = MAN.read_text().replace("\\-", "-")
    example = re.search(r"\.EX\n(version = 1.*?)\.EE", page, re.DOTALL)
    assert example
    file.write_text(example[1])
    found = config.load(str(file))
    assert (
        *(found.uids, found.quotas, found.limits, found.rooms),
        found.shell,
    ) == (
        *(config.Uids(), config.Quotas(), config.DaemonLimits(), config.RoomsAhead()),
        config.Shell(),
    )
    told = {
        table: set(keys)
        for table, keys in tomllib.loads(example[1]).items()
        if isinstance(keys, dict)
    }
    every = [*config._BOUNDS.items(), *config._WORDS.items()]
    assert told == {table: set(keys) for table, keys in every}


def test_what_is_said_is_what_is_used(file: Path, tmp_path: Path) -> None:
    file.write_text(
        "version = 1\n[uids]\nfirst = 100000\nlast = 100009\n"
        "[limits]\ngrace-ms = 0\n[quotas]\nactivities = 1\n"
        '[shell]\nwithout-service = "unisolated"\n'
    )
    found = config.load(
        str(file), socket="/run/other/s", state_dir="/s", policy_dir=str(file.parent)
    )
    assert found.uids == config.Uids(first=100000, last=100009)
    assert found.limits.grace_ms == 0
    assert found.quotas.activities == 1
    assert found.shell.unisolated
    assert (found.socket, found.run_dir) == ("/run/other/s", "/run/other")
    assert found.state_dir == "/s"
    assert found.policy_dirs == (paths.vendor_policies(), str(file.parent))
    assert found.file == str(file)


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", [(0, "version", "config-no-version")]),
        ("version = 2", [(1, "version", "config-version")]),
        ("version = true", [(1, "version", "config-version")]),
        ("version = 1\nversion = 1", [(2, "", "config-not-toml")]),
        ("version = 1\n[uids", [(2, "", "config-not-toml")]),
        (f"version = 1\nx = {'9' * 5000}", [(0, "", "config-not-toml")]),
        (f"x = {'[' * 3000}{']' * 3000}", [(0, "", "config-not-toml")]),
        (f"version = 0x{'f' * 5000}", [(1, "version", "config-version")]),
        (f"version = [0x{'f' * 5000}]", [(1, "version", "config-version")]),
        (
            f"version = 1\n[rooms]\nahead = 0x{'f' * 5000}",
            [(3, "rooms.ahead", "config-out-of-bounds")],
        ),
        ("version = 1\nuid = 5", [(2, "uid", "config-unknown-key")]),
        ("version = 1\nuids = 5", [(2, "uids", "config-wrong-type")]),
        ("version = 1\n[uid]\n", [(2, "uid", "config-unknown-key")]),
        (
            "version = 1\n[quotas]\nactivites = 5",
            [(3, "quotas.activites", "config-unknown-key")],
        ),
        (
            'version = 1\n[uids]\nfirst = "70000"\nlast = 1.5',
            [
                (3, "uids.first", "config-wrong-type"),
                (4, "uids.last", "config-wrong-type"),
            ],
        ),
        (
            "version = 1\n[uids]\nfirst = true",
            [(3, "uids.first", "config-wrong-type")],
        ),
        (
            "version = 1\n[uids]\nfirst = 0\nlast = 4294967295",
            [
                (3, "uids.first", "config-out-of-bounds"),
                (4, "uids.last", "config-out-of-bounds"),
            ],
        ),
        (
            "version = 1\n[uids]\nfirst = 70000\nlast = 70000",
            [(4, "uids.last", "config-empty-range")],
        ),
        (
            "version = 1\n[uids]\nfirst = 90000",
            [(3, "uids.first", "config-empty-range")],
        ),
        (
            'version = 1\n[shell]\nwithout-service = "launch"\nservice = 1',
            [
                (3, "shell.without-service", "config-wrong-type"),
                (4, "shell.service", "config-unknown-key"),
            ],
        ),
        (
            "version = 1\n[shell]\nwithout-service = ['refuse']",
            [(3, "shell.without-service", "config-wrong-type")],
        ),
        (
            "version = 1\n[limits]\ngrace-ms = -1\nlaunches = 0",
            [
                (3, "limits.grace-ms", "config-out-of-bounds"),
                (4, "limits.launches", "config-out-of-bounds"),
            ],
        ),
    ],
)
def test_mistakes_are_told_all_at_once_with_their_lines(
    file: Path, text: str, mistakes: list[tuple[int, str, str]]
) -> None:
    file.write_text(text)
    assert refused(file) == mistakes


def test_a_misspelt_key_names_the_nearest(file: Path) -> None:
    file.write_text("version = 1\n[limits]\ngrase-ms = 5\n")
    with pytest.raises(PolicyError) as caught:
        config.load(str(file))
    assert "grace-ms" in caught.value.mistakes[0].hint


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    assert refused(file) == [(0, "", "config-not-found")]


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({"socket": ""}, "config-no-name"),
        ({"state_dir": ""}, "config-no-name"),
        ({"policy_dir": ""}, "config-no-name"),
        ({"policy_dir": "/nonexistent"}, "config-no-directory"),
        ({"policy_dir": "/etc/passwd"}, "config-no-directory"),
    ],
)
def test_a_place_that_is_named_is_no_other(named: dict[str, str], code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        config.load(**named)
    assert [m.code for m in caught.value.mistakes] == [code]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.write_text("version = 1\n")
    file.chmod(mode)
    assert refused(file) == [(0, "", "config-not-trusted")]


def test_a_directory_that_others_may_write_is_refused(file: Path) -> None:
    file.write_text("version = 1\n")
    file.parent.chmod(0o777)
    assert refused(file) == [(0, "", "config-not-trusted")]


def test_a_file_of_another_user_is_refused(file: Path) -> None:
    need(root())
    file.write_text("version = 1\n")
    os.chown(file, 70005, 70005)
    assert refused(file) == [(0, "", "config-not-trusted")]


def test_a_link_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("version = 1\n")
    file.symlink_to(tmp_path / "real")
    assert refused(file) == [(0, "", "config-not-trusted")]


def test_a_fifo_and_a_device_are_refused_without_waiting(
    file: Path, tmp_path: Path
) -> None:
    os.mkfifo(file)
    assert refused(file) == [(0, "", "config-not-trusted")]
    assert refused(Path("/dev/zero")) == [(0, "", "config-not-trusted")]
    assert refused(tmp_path) == [(0, "", "config-not-trusted")]


def test_a_file_that_is_no_text_or_too_much_is_refused(file: Path) -> None:
    file.write_bytes(b"version = 1 # \xff")
    assert refused(file) == [(0, "", "config-not-utf8")]
    file.write_text("version = 1\n" + "#" * config.MAX_FILE)
    assert refused(file) == [(0, "", "config-too-large")]


def test_another_socket_is_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.SOCKET_VARIABLE, "/run/other/socket")
    assert paths.socket() == "/run/other/socket"
    assert config.load().run_dir == "/run/other"
    monkeypatch.setenv(paths.SOCKET_VARIABLE, "")
    assert paths.socket() == paths.SOCKET


def test_from_a_checkout_its_policies_are_the_vendors(checkout: Path) -> None:
    assert paths.checkout() == str(checkout)
    assert paths.vendor_policies() == str(checkout / "policies")
    assert paths.policy_dirs()[1] == "/etc/isolauncher/policies"


def test_installed_code_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "isolauncher").mkdir()
    monkeypatch.setattr(paths, "PACKAGE", str(tmp_path / "isolauncher"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert paths.checkout() is None
    assert paths.vendor_policies() == paths.VENDOR_POLICIES
    (tmp_path / "share/isolauncher/policies").mkdir(parents=True)
    assert paths.vendor_policies() == str(tmp_path / "share/isolauncher/policies")
