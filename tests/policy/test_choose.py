# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policy governs: who may name one, and which bundle belongs to which."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from isolauncher.errors import NotAllowed, PolicyError
from isolauncher.policy import choose
from isolauncher.request import Caller

from .conftest import SHIPPED, Shelf

ROOT = Caller(uid=0, gid=0, groups=(), pid=1)


def caller(uid: int, gid: int = 12345, groups: tuple[int, ...] = ()) -> Caller:
    return Caller(uid=uid, gid=gid, groups=groups, pid=1)


def test_run_without_a_policy_uses_default_for_everybody(shelf: Shelf) -> None:
    for who in (ROOT, caller(4242)):
        assert (
            choose.for_run(shelf.store, caller=who, name=None).policy.name == "default"
        )
    choice = choose.for_run(shelf.store, caller=caller(4242), name="untrusted")
    assert choice.policy.name == "untrusted"
    assert f"{shelf.vendor / 'untrusted.toml'}:19 admits everybody" in choice.why


def test_a_policy_without_callers_is_for_root_alone(shelf: Shelf) -> None:
    path = shelf.put("mine", "version = 1\n")
    assert choose.for_run(shelf.store, caller=ROOT, name="mine").policy.name == "mine"
    with pytest.raises(NotAllowed) as caught:
        choose.for_run(shelf.store, caller=caller(4242), name="mine")
    assert caught.value.code == "policy-not-for-caller"
    assert str(path) in caught.value.message
    assert "root alone" in caught.value.message
    assert "callers" in caught.value.hint


def test_callers_are_users_and_groups_by_name(shelf: Shelf) -> None:
    user, group = pwd.getpwnam("daemon"), grp.getgrnam("games")
    path = shelf.put("mine", 'version = 1\n[match]\ncallers = ["daemon", "@games"]\n')
    for who in (
        caller(user.pw_uid),
        caller(4242, group.gr_gid),
        caller(4242, 12345, (7, group.gr_gid)),
    ):
        assert (
            choose.for_run(shelf.store, caller=who, name="mine").policy.name == "mine"
        )
    with pytest.raises(NotAllowed) as caught:
        choose.for_run(shelf.store, caller=caller(4242, user.pw_gid), name="mine")
    assert f"{path}:3 admits daemon, @games" in caught.value.message


def test_a_name_that_nobody_has_admits_nobody(shelf: Shelf) -> None:
    shelf.put("mine", 'version = 1\n[match]\ncallers = ["no-such", "@no-such"]\n')
    with pytest.raises(NotAllowed):
        choose.for_run(shelf.store, caller=caller(4242), name="mine")


def test_who_may_name_a_policy_is_not_inherited(shelf: Shelf) -> None:
    shelf.put("mine", 'version = 1\nextends = "untrusted"\n')
    with pytest.raises(NotAllowed):
        choose.for_run(shelf.store, caller=caller(4242), name="mine")


def test_a_policy_file_is_for_root_alone(shelf: Shelf) -> None:
    path = shelf.put("mine", "version = 1\n")
    descriptor = os.open(path, os.O_PATH)
    try:
        choice = choose.for_file(
            shelf.store, caller=ROOT, descriptor=descriptor, path=str(path)
        )
        with pytest.raises(NotAllowed):
            choose.for_file(
                shelf.store, caller=caller(1), descriptor=descriptor, path=str(path)
            )
    finally:
        os.close(descriptor)
    assert choice.policy.name == "mine"


def bundle(name: str, *ids: str, by: str = "system") -> tuple[str, str]:
    listed = ", ".join(f'"{one}"' for one in ids)
    return name, (
        f'version = 1\n[match]\nbundle-id = [{listed}]\ninstalled-by = "{by}"\n'
    )


def test_exact_beats_longer_beats_shorter_prefix(shelf: Shelf) -> None:
    shelf.put(*bundle("short", "org.*"))
    shelf.put(*bundle("long", "org.laptop.*"))
    shelf.put(*bundle("exact", "org.laptop.Calculate"))
    for id_, wanted in (
        ("org.laptop.Calculate", "exact"),
        ("org.laptop.Calculate.More", "long"),
        ("org.laptop.Write", "long"),
        ("org.other", "short"),
        ("organ.x", "default"),
        ("org", "default"),
    ):
        choice = choose.for_bundle(shelf.store, id_, system=True)
        assert choice.policy.name == wanted, id_
        assert id_ in choice.why
    assert (
        f"{shelf.etc / 'exact.toml'}:3"
        in choose.for_bundle(shelf.store, "org.laptop.Calculate", system=True).why
    )


def test_a_users_bundle_is_governed_by_untrusted_whatever_it_calls_itself(
    shelf: Shelf,
) -> None:
    shelf.put(*bundle("terminal", "org.laptop.Terminal"))
    choice = choose.for_bundle(shelf.store, "org.laptop.Terminal", system=False)
    assert choice.policy.name == "untrusted"
    shelf.put(*bundle("theirs", "org.laptop.Terminal", by="user"))
    choice = choose.for_bundle(shelf.store, "org.laptop.Terminal", system=False)
    assert choice.policy.name == "theirs"
    choice = choose.for_bundle(shelf.store, "org.laptop.Terminal", system=True)
    assert choice.policy.name == "terminal"


def test_two_files_equally_specific_are_refused_naming_both_and_their_lines(
    shelf: Shelf,
) -> None:
    a = shelf.put(*bundle("a", "org.laptop.*"))
    name, text = bundle("b", "org.other.Thing", "org.laptop.*")
    b = shelf.put(name, "# moved\n" + text)
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(shelf.store, "org.laptop.Write", system=True)
    assert {mistake.code for mistake in caught.value.mistakes} == {
        "policy-match-ambiguous"
    }
    assert [(m.file, m.line) for m in caught.value.mistakes] == [
        (str(a), 3),
        (str(b), 4),
    ]
    for mistake, other in zip(caught.value.mistakes, (f"{b}:4", f"{a}:3"), strict=True):
        assert "org.laptop.Write" in mistake.message
        assert other in mistake.message
    # Whoever sees but the one line sees both places.
    assert f"{a}:3" in caught.value.line()
    assert f"{b}:4" in caught.value.line()
    assert len(choose.clashes(shelf.store)) == 2
    # Others they govern are governed, and so is who has a file of its own.
    assert (
        choose.for_bundle(shelf.store, "org.other.Thing", system=True).policy.name
        == "b"
    )
    shelf.put(*bundle("c", "org.laptop.Write"))
    assert (
        choose.for_bundle(shelf.store, "org.laptop.Write", system=True).policy.name
        == "c"
    )
    shelf.put(*bundle("d", "org.laptop.Write"))
    shelf.put(*bundle("e", "org.laptop.Write"))
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(shelf.store, "org.laptop.Write", system=True)
    assert len(caught.value.mistakes) == 3


def test_who_claims_what_a_shipped_file_has_is_told_to_take_its_name(
    shelf: Shelf,
) -> None:
    shelf.put(*bundle("paint", "org.laptop.Oficina"), where="vendor")
    shelf.put(*bundle("mine", "org.laptop.Oficina"))
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(shelf.store, "org.laptop.Oficina", system=True)
    for mistake in caught.value.mistakes:
        assert mistake.hint.startswith("call your own paint.toml")
    (shelf.etc / "mine.toml").unlink()
    text = (
        'version = 1\nextends = "paint"\n[match]\nbundle-id = ["org.laptop.Oficina"]\n'
    )
    shelf.put("paint", text)
    choice = choose.for_bundle(shelf.store, "org.laptop.Oficina", system=True)
    assert str(shelf.etc / "paint.toml") in choice.policy.files


def test_the_same_claim_for_the_system_s_and_for_a_user_s_bundles_is_no_clash(
    shelf: Shelf,
) -> None:
    shelf.put(*bundle("mine", "org.laptop.*"))
    shelf.put(*bundle("theirs", "org.laptop.*", by="user"))
    assert choose.clashes(shelf.store) == ()
    for system, wanted in ((True, "mine"), (False, "theirs")):
        choice = choose.for_bundle(shelf.store, "org.laptop.X", system=system)
        assert choice.policy.name == wanted


def test_an_exact_id_for_the_system_s_leaves_a_user_s_prefix_alone(
    shelf: Shelf,
) -> None:
    """Row 62: more specific, but not about bundles of this kind."""
    shelf.put(*bundle("exact", "org.laptop.Terminal"))
    shelf.put(*bundle("prefix", "org.*", by="user"))
    choice = choose.for_bundle(shelf.store, "org.laptop.Terminal", system=False)
    assert choice.policy.name == "prefix"


@pytest.mark.parametrize(
    ("system", "wanted"), [(True, "default"), (False, "untrusted")]
)
def test_a_bundle_that_nothing_matches_gets_what_its_kind_gets_and_is_told_why(
    shelf: Shelf, system: bool, wanted: str
) -> None:
    shelf.put(*bundle("other", "org.laptop.*", by="user" if system else "system"))
    choice = choose.for_bundle(shelf.store, "org.laptop.Write", system=system)
    assert choice.policy.name == wanted
    assert "org.laptop.Write" in choice.why
    assert "bundle-id" in choice.why
    assert wanted in choice.why


def test_a_system_s_activity_of_whatever_name_is_governed_as_sugar_s(
    shelf: Shelf,
) -> None:
    """Under default it would have no display, and so none would ever open."""
    shelf.put("sugar", (SHIPPED / "sugar.toml").read_text(), where="vendor")
    for id_ in ("vu.lux.olpc.Maze", "org.laptop.Maze"):
        choice = choose.for_bundle(shelf.store, id_, system=True)
        assert choice.policy.name == "sugar"
        assert choice.policy.x11 == "shared"
        assert id_ in choice.why
        choice = choose.for_bundle(shelf.store, id_, system=False)
        assert choice.policy.name == "untrusted"


@pytest.mark.parametrize(
    "id_",
    ["ORG.LAPTOP.Write", "org.laptopx.Write", "org.laptop", "org", "x.org.laptop.y"],
)
def test_a_prefix_matches_whole_words_as_they_are_written(
    shelf: Shelf, id_: str
) -> None:
    shelf.put(*bundle("prefix", "org.laptop.*"))
    choice = choose.for_bundle(shelf.store, id_, system=True)
    assert choice.policy.name == "default"


def test_a_policy_that_is_changed_governs_the_next_launch(shelf: Shelf) -> None:
    shelf.put(*bundle("one", "org.a.Tool"))
    choice = choose.for_bundle(shelf.store, "org.a.Tool", system=True)
    assert choice.policy.name == "one"
    shelf.put(*bundle("one", "org.a.Tool", by="user"))
    for system, wanted in ((True, "default"), (False, "one")):
        choice = choose.for_bundle(shelf.store, "org.a.Tool", system=system)
        assert choice.policy.name == wanted


def test_a_match_is_not_inherited(shelf: Shelf) -> None:
    shelf.put(*bundle("base", "org.a.*"))
    shelf.put("child", 'version = 1\nextends = "base"\n')
    assert choose.clashes(shelf.store) == ()
    choice = choose.for_bundle(shelf.store, "org.a.Tool", system=True)
    assert choice.policy.name == "base"


def test_an_etc_file_takes_the_match_of_the_shipped_one_away(shelf: Shelf) -> None:
    name, text = bundle("tool", "org.a.Tool")
    shelf.put(name, text, where="vendor")
    shelf.put("tool", 'version = 1\nextends = "tool"\n')
    choice = choose.for_bundle(shelf.store, "org.a.Tool", system=True)
    assert choice.policy.name == "default"


@pytest.mark.parametrize(
    "text",
    [
        "version = 1\n[match]\nbundle-ids = ['org.a.Exam']\n",
        "version = 1\n[mach]\nbundle-id = ['org.a.Exam']\n",
        "version = 1\n[match]\nbundle-id = ['org.a.Exam'\n",
        "version = 2\n[match]\nbundle-id = ['org.a.Exam']\n",
        "version = 1\n[match]\nbundle-id = 'org.a.Exam'\n",
    ],
)
def test_a_file_whose_match_cannot_be_read_stops_the_choice(
    shelf: Shelf, text: str
) -> None:
    """It might have been the stricter one."""
    shelf.put("exam", text)
    with pytest.raises(PolicyError):
        choose.for_bundle(shelf.store, "org.a.Exam", system=True)


def test_other_mistakes_stop_only_the_bundles_they_govern(shelf: Shelf) -> None:
    name, text = bundle("exam", "org.a.Exam")
    shelf.put(name, text + "[limits]\nnice = 99\n")
    assert (
        choose.for_bundle(shelf.store, "org.b.Other", system=True).policy.name
        == "default"
    )
    with pytest.raises(PolicyError):
        choose.for_bundle(shelf.store, "org.a.Exam", system=True)


def test_a_link_in_the_directory_stops_the_choice(shelf: Shelf) -> None:
    (shelf.etc / "exam.toml").symlink_to("/nowhere")
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(shelf.store, "org.a.Exam", system=True)
    assert caught.value.code == "policy-not-trusted"
