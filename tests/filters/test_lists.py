# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists as data: nothing misspelt, nothing said twice, nothing contradictory."""

from __future__ import annotations

import errno
import itertools
import random
from collections import defaultdict

import pytest
from support import powers

from isolauncher import filters
from isolauncher.syscalls import (
    LET_THROUGH,
    LISTS,
    NUMBERS,
    Rule,
    SyscallList,
    When,
    all_but,
)

every_list = pytest.mark.parametrize("chosen", LISTS.values(), ids=LISTS)


def by_call(chosen: SyscallList) -> dict[str, list[Rule]]:
    calls: dict[str, list[Rule]] = defaultdict(list)
    for rule in chosen.rules:
        calls[rule.call].append(rule)
    return calls


def can_both_match(one: Rule, other: Rule) -> bool:
    for mine, theirs in itertools.product(one.when, other.when):
        common = mine.mask & theirs.mask
        if mine.arg == theirs.arg and (mine.value ^ theirs.value) & common:
            return False
    return True


@every_list
def test_every_call_has_a_number_in_some_architecture(chosen: SyscallList) -> None:
    powers.need(powers.seccomp())
    library = filters._library()
    tokens = [library.Arch(name) for name in ("x86_64", "aarch64")]
    unknown = {
        call
        for call in by_call(chosen)
        if not any(filters._resolve(library, token, call) for token in tokens)
    }
    assert not unknown


@every_list
def test_rules_with_different_answers_never_match_the_same_call(
    chosen: SyscallList,
) -> None:
    for rules in by_call(chosen).values():
        for one, other in itertools.combinations(rules, 2):
            if one.answer != other.answer:
                assert not can_both_match(one, other), (one, other)


@every_list
def test_no_rule_is_said_twice_or_can_never_match(chosen: SyscallList) -> None:
    assert len(set(chosen.rules)) == len(chosen.rules)
    for rules in by_call(chosen).values():
        if any(not rule.when for rule in rules):
            assert len(rules) == 1, rules
    for rule in chosen.rules:
        assert rule.answer != chosen.otherwise
        # libseccomp takes one question for each argument.
        assert len({ask.arg for ask in rule.when}) == len(rule.when)
        for ask in rule.when:
            assert ask.value & ~ask.mask == 0, rule


def test_our_numbers_are_those_of_libseccomp_where_it_has_them() -> None:
    powers.need(powers.seccomp())
    library = filters._library()
    compared = 0
    for name, number in NUMBERS.items():
        for arch in ("x86_64", "aarch64"):
            theirs = library.resolve_syscall(library.Arch(arch), name)
            if isinstance(theirs, int) and theirs != -1:
                assert theirs == number, name
                compared += 1
    assert compared > 40


def test_all_but_is_true_exactly_outside_the_values() -> None:
    dice = random.Random(2)  # noqa: S311 - a test that repeats, not a secret
    for _ in range(200):
        mask = dice.getrandbits(10)
        values = {dice.getrandbits(10) & mask for _ in range(dice.randrange(4))}
        asks = all_but(0, values, mask=mask)
        for word in range(1024):
            matching = [ask for ask in asks if word & ask.mask == ask.value]
            assert len(matching) == (word & mask not in values), (word, mask, values)


@pytest.mark.parametrize("mask", [0o6000, 0xFFFF_FFFF])
def test_all_but_of_nothing_is_always_true(mask: int) -> None:
    assert all_but(3, (), mask=mask) == (When(arg=3, mask=0, value=0),)


def test_desktop_lets_no_call_through_whose_arguments_hide_behind_a_pointer() -> None:
    calls = by_call(LISTS["desktop"])
    for hidden in ("clone3", "openat2", "fchmodat2", "io_uring_setup", "statmount"):
        assert hidden not in calls
    assert LISTS["desktop"].otherwise == errno.ENOSYS


def test_desktop_refuses_set_id_bits_in_every_call_that_takes_a_mode() -> None:
    takes_a_mode = {
        *("chmod", "fchmod", "fchmodat", "creat", "open", "openat"),
        *("mkdir", "mkdirat", "mknod", "mknodat"),
    }
    calls = by_call(LISTS["desktop"])
    for call in takes_a_mode:
        assert {rule.answer for rule in calls[call]} == {LET_THROUGH, errno.EPERM}
        assert all(rule.when for rule in calls[call])


@every_list
def test_a_list_lets_through_what_a_stem_does_when_it_is_bound(
    chosen: SyscallList,
) -> None:
    """The rest of its steps, and what it says of them."""
    calls = by_call(chosen)
    later = "landlock_add_rule landlock_restrict_self close_range sendmsg recvmsg"
    for call in (*later.split(), "chdir", "read", "close"):
        assert [rule.answer for rule in calls[call]] == [LET_THROUGH], call


def test_debug_differs_from_desktop_in_three_calls_alone() -> None:
    desktop, debug = (by_call(LISTS[name]) for name in ("desktop", "debug"))
    differing = {call for call in desktop | debug if desktop[call] != debug[call]}
    assert differing == {"ptrace", "process_vm_readv", "process_vm_writev"}
    for call in differing:
        assert [rule.answer for rule in debug[call]] == [LET_THROUGH]
        assert [rule.answer for rule in desktop[call]] == [errno.EPERM]
    assert LISTS["debug"].otherwise == LISTS["desktop"].otherwise
