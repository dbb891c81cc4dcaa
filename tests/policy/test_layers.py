# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on files: what is inherited, what replaces, and where each value came from."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from isolauncher.errors import PolicyError
from isolauncher.policy import load
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import KEYS, TABLES

from .conftest import SHIPPED, Shelf


def test_no_extends_means_default(shelf: Shelf) -> None:
    path = shelf.put("mine", "version = 1\n[limits]\nnice = 7\n")
    mine, default = shelf.store.get("mine"), shelf.store.get("default")
    assert mine.limits.nice == 7
    assert mine.limits.processes == default.limits.processes == 128
    assert mine.view == default.view
    assert mine.files == (str(shelf.vendor / "default.toml"), str(path))


def test_every_value_says_which_file_and_line_set_it(shelf: Shelf) -> None:
    path = shelf.put(
        "mine",
        'version = 1\n[limits]\nnice = 7\n[environment.set]\nA = "1"\nB = "2"\n',
    )
    origin = shelf.store.get("mine").origin
    assert (origin["limits.nice"].file, origin["limits.nice"].line) == (str(path), 3)
    assert origin["environment.set.B"].line == 6
    assert origin["limits.memory"].file == str(shelf.vendor / "default.toml")
    assert origin["environment.set.PATH"].file == str(shelf.vendor / "default.toml")
    for key in KEYS:
        if key.inherited:
            where = origin[key.name]
            written = Path(where.file).read_text().splitlines()[where.line - 1]
            assert written.startswith((key.name.rpartition(".")[2], "[environment.set"))


def test_lists_replace_and_dots_keep(shelf: Shelf) -> None:
    inherited = shelf.store.get("default").view.read
    shelf.put("new", 'version = 1\n[files]\nread = ["/srv"]\n')
    shelf.put("more", 'version = 1\n[files]\nread = ["...", "/srv", "/usr"]\n')
    shelf.put("same", 'version = 1\n[files]\nread = ["..."]\n')
    shelf.put("none", "version = 1\n[files]\nread = []\n")
    assert shelf.store.get("new").view.read == ("/srv",)
    assert shelf.store.get("more").view.read == (*inherited, "/srv")
    assert shelf.store.get("same").view.read == inherited
    assert shelf.store.get("none").view.read == ()


def test_settings_are_merged_by_name_and_false_takes_away(shelf: Shelf) -> None:
    shelf.put("mine", 'version = 1\n[environment]\nset = { HOME = false, A = "1" }\n')
    policy = shelf.store.get("mine")
    assert dict(policy.environment.set) == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "A": "1",
    }
    assert "environment.set.HOME" not in policy.origin


def test_match_description_and_expectations_are_never_inherited(shelf: Shelf) -> None:
    shelf.put(
        "base",
        'version = 1\ndescription = "base"\n[match]\nbundle-id = ["org.a.*"]\n'
        'callers = ["alice"]\ninstalled-by = "user"\n'
        '[[expect]]\nthat = "x"\ntry = "read /a"\nresult = "absent"\n',
    )
    shelf.put("top", 'version = 1\nextends = "base"\n')
    base, top = shelf.store.get("base"), shelf.store.get("top")
    assert base.match.callers == ("alice",)
    assert base.expects[0].verb == "read"
    assert base.expects[0].origin.line == 7
    assert top.match.bundle_ids == top.match.callers == ()
    assert top.match.installed_by == "system"
    assert top.description == ""
    assert top.expects == ()
    assert not any(name.startswith("match.") for name in top.origin)


def test_a_file_in_etc_replaces_the_shipped_one(shelf: Shelf) -> None:
    shelf.put("untrusted", "version = 1\n[limits]\nprocesses = 5\n")
    policy = shelf.store.get("untrusted")
    assert policy.limits.processes == 5
    assert policy.limits.memory == shelf.store.get("default").limits.memory
    assert str(shelf.vendor / "untrusted.toml") not in policy.files


def test_extending_its_own_name_means_the_shipped_file(shelf: Shelf) -> None:
    path = shelf.put(
        "untrusted", 'version = 1\nextends = "untrusted"\n[limits]\nprocesses = 5\n'
    )
    policy = shelf.store.get("untrusted")
    assert policy.limits.processes == 5
    assert policy.limits.memory == 512 * 1024**2
    assert policy.files == (
        str(shelf.vendor / "default.toml"),
        str(shelf.vendor / "untrusted.toml"),
        str(path),
    )


def test_etc_changes_default_for_all_that_stand_on_it(shelf: Shelf) -> None:
    shelf.put("default", 'version = 1\nextends = "default"\n[limits]\nnice = 3\n')
    shelf.put("mine", "version = 1\n")
    assert shelf.store.get("mine").limits.nice == 3
    assert shelf.store.get("mine").limits.processes == 128


def test_a_default_that_stands_on_nothing_must_set_every_key(shelf: Shelf) -> None:
    shelf.put("default", "version = 1\n[limits]\nnice = 3\n")
    mistakes = shelf.mistakes("default")
    assert {mistake.code for mistake in mistakes} == {"policy-missing-key"}
    assert {mistake.key for mistake in mistakes} == {
        key.name for key in KEYS if key.inherited and key.name != "limits.nice"
    }


def test_an_empty_machine_is_an_error_not_a_permission(tmp_path: Path) -> None:
    store = PolicyStore(str(tmp_path / "a"), str(tmp_path / "b"))
    assert store.names() == ()
    with pytest.raises(PolicyError) as caught:
        store.get("default")
    assert caught.value.code == "policy-unknown"


def test_an_admins_file_wins_over_the_shipped_weaker_one(shelf: Shelf) -> None:
    """What may be said for users is said in /etc alone: no third layer exists."""
    shelf.put("tool", 'version = 1\n[network]\naccess = "host"\n', where="vendor")
    admin = shelf.put("tool", 'version = 1\n[network]\naccess = "none"\n')
    policy = shelf.store.get("tool")
    assert policy.network == "none"
    assert policy.origin["network.access"].file == str(admin)


# Chains


def test_a_policy_that_extends_itself_names_the_chain(shelf: Shelf) -> None:
    shelf.put("a", 'version = 1\nextends = "a"\n', where="vendor")
    (mistake,) = shelf.mistakes("a")
    assert mistake.code == "policy-extends-loop"
    assert (mistake.line, mistake.column) == (2, 11)
    assert mistake.message.count("a (") == 2


def test_a_loop_of_three_names_the_chain(shelf: Shelf) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        shelf.put(name, f'version = 1\nextends = "{other}"\n')
    (mistake,) = shelf.mistakes("b")
    assert mistake.code == "policy-extends-loop"
    assert re.findall(r"(\w) \(", mistake.message) == ["b", "c", "a", "b"]
    assert mistake.file == str(shelf.etc / "a.toml")


def test_a_loop_through_both_directories_is_found(shelf: Shelf) -> None:
    shelf.put("a", 'version = 1\nextends = "a"\n')
    shelf.put("a", 'version = 1\nextends = "b"\n', where="vendor")
    shelf.put("b", 'version = 1\nextends = "a"\n', where="vendor")
    assert shelf.codes("a") == ["policy-extends-loop"]
    assert shelf.codes("b") == ["policy-extends-loop"]


def test_default_on_something_that_stands_on_default_is_a_loop(shelf: Shelf) -> None:
    shelf.put("default", 'version = 1\nextends = "untrusted"\n')
    assert shelf.codes("default") == ["policy-extends-loop"]
    assert shelf.codes("untrusted") == ["policy-extends-loop"]


def test_a_thousand_policies_on_each_other_are_refused_naming_them(
    shelf: Shelf,
) -> None:
    for number in range(1000):
        shelf.put(f"p{number}", f'version = 1\nextends = "p{number + 1}"\n')
    (mistake,) = shelf.mistakes("p0")
    assert mistake.code == "policy-extends-too-deep"
    assert mistake.message.count("→") == load.MAX_CHAIN
    shelf.put("p999", "version = 1\n")
    assert shelf.store.get("p990").name == "p990"


def test_sixteen_on_each_other_are_allowed(shelf: Shelf) -> None:
    for number in range(load.MAX_CHAIN - 2):
        shelf.put(f"p{number}", f'version = 1\nextends = "p{number + 1}"\n')
    shelf.put(f"p{load.MAX_CHAIN - 2}", "version = 1\n[limits]\nnice = 9\n")
    policy = shelf.store.get("p0")
    assert policy.limits.nice == 9
    assert len(policy.files) == load.MAX_CHAIN


# Loose files


def test_a_file_elsewhere_stands_on_the_directories(
    shelf: Shelf, tmp_path: Path
) -> None:
    path = tmp_path / "loose.toml"
    path.write_text('version = 1\nextends = "untrusted"\n[limits]\nnice = 9\n')
    policy = shelf.store.load_file(str(path))
    assert (policy.name, policy.limits.nice, policy.limits.processes) == (
        "loose",
        9,
        96,
    )
    with open(path) as opened:
        same = shelf.store.load_descriptor(opened.fileno(), str(path))
    assert same == policy
    descriptor = os.open(path, os.O_PATH)
    try:
        assert shelf.store.load_descriptor(descriptor, str(path)) == policy
    finally:
        os.close(descriptor)


def test_a_file_may_stand_on_the_installed_one_of_its_name(
    shelf: Shelf, tmp_path: Path
) -> None:
    path = tmp_path / "untrusted.toml"
    path.write_text('version = 1\nextends = "untrusted"\n[limits]\nnice = 9\n')
    policy = shelf.store.load_file(str(path))
    assert len(policy.files) == 3


def test_a_missing_file_is_a_policy_error(shelf: Shelf, tmp_path: Path) -> None:
    for path in (tmp_path / "no.toml", tmp_path / "no" / "no.toml"):
        with pytest.raises(PolicyError) as caught:
            shelf.store.load_file(str(path))
        assert caught.value.code == "policy-unreadable"


# What is shipped


def test_shipped_default_sets_every_key_as_the_model_says(shelf: Shelf) -> None:
    said = tomllib.loads((SHIPPED / "default.toml").read_text())
    for key in KEYS:
        if not key.inherited:
            continue
        value = said[key.table][key.name.rpartition(".")[2]]
        if key.default in ("[…]", "{…}"):
            assert value
        else:
            assert value == tomllib.loads(f"v = {key.default}")["v"], key.name
    assert set(said) <= {*TABLES, "version", "description", "expect"}


# What only a bundle has a use for: how Sugar's toolkit is to look.
LOOKS = ("SUGAR_", "GTK_OVERLAY_", "LIBOVERLAY_")


def test_shipped_untrusted_allows_a_program_nothing_that_default_does_not(
    shelf: Shelf,
) -> None:
    default, untrusted = shelf.store.get("default"), shelf.store.get("untrusted")
    assert set(untrusted.view.read) < set(default.view.read)
    assert set(untrusted.view.write) <= set(default.view.write)
    kept = {n for n in untrusted.environment.keep if not n.startswith(LOOKS)}
    assert kept < set(default.environment.keep)
    assert untrusted.view.tmp < default.view.tmp
    for limit in ("processes", "memory", "open_files", "file_size", "cpu_weight"):
        assert getattr(untrusted.limits, limit) < getattr(default.limits, limit)
    assert untrusted.limits.nice > default.limits.nice
    assert untrusted.network == default.network == "none"


def test_shipped_policies_show_nothing_secret(shelf: Shelf) -> None:
    for name in shelf.store.names():
        for path in shelf.store.get(name).view.read:
            assert not path.startswith(
                ("/home", "/root", "/etc/shadow", "/etc/gshadow", "/etc/ssl/private")
            )
            assert path not in ("/etc/ssl", "/var", "/run", "/etc/passwd")


def test_the_digest_names_what_a_policy_was_made_from(shelf: Shelf) -> None:
    first = shelf.store.get("untrusted")
    shelf.put("untrusted", (shelf.vendor / "untrusted.toml").read_text() + "# x\n")
    assert shelf.store.get("untrusted").digest != first.digest
