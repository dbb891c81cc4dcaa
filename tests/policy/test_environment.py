# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of an activity: the policy's names and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isolauncher.errors import RequestError
from isolauncher.policy import environment
from isolauncher.policy.model import Environment, Policy

from .conftest import Shelf

LOADER = (
    "LD_PRELOAD LD_AUDIT LD_LIBRARY_PATH GCONV_PATH LOCPATH MALLOC_CHECK_ "
    "GLIBC_TUNABLES TMPDIR TZDIR GETCONF_DIR HOSTALIASES LOCALDOMAIN NIS_PATH NLSPATH "
    "RESOLV_HOST_CONF RES_OPTIONS LD_DEBUG LD_PROFILE MALLOC_TRACE"
).split()
PYTHON = (
    "PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT PYTHONBREAKPOINT "
    "PYTHONWARNINGS PYTHONPYCACHEPREFIX PYTHONUSERBASE PYTHONHASHSEED"
).split()
TOOLKITS = (
    "GTK_MODULES GTK_PATH GDK_PIXBUF_MODULE_FILE GIO_EXTRA_MODULES GI_TYPELIB_PATH "
    "GST_PLUGIN_PATH GST_PLUGIN_SYSTEM_PATH QT_PLUGIN_PATH BASH_ENV PERL5LIB "
    "NODE_OPTIONS"
).split()
PERSON = (
    "SSH_AUTH_SOCK GPG_AGENT_INFO XAUTHORITY NOTIFY_SOCKET LISTEN_FDS LISTEN_PID "
    "DBUS_SESSION_BUS_ADDRESS DBUS_SYSTEM_BUS_ADDRESS"
).split()
ALL = [*LOADER, *PYTHON, *TOOLKITS, *PERSON]


@pytest.fixture
def policy(shelf: Shelf) -> Policy:
    return shelf.store.get("default")


def keeping(policy: Policy, *keep: str, **settings: str) -> Policy:
    return replace(policy, environment=Environment(keep=keep, set=settings))


def test_nothing_comes_in_but_what_the_policy_keeps_and_sets(policy: Policy) -> None:
    asked = {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "SECRET": "x", "HOME": "/home/a"}
    built, dropped = environment.build(policy, asked, {})
    assert built == {
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
    }
    assert [name for name, _ in dropped] == ["HOME", "SECRET"]
    assert "default.toml:" in dict(dropped)["SECRET"]


@pytest.mark.parametrize("name", ALL)
def test_dangerous_names_are_dropped_by_the_shipped_policies(
    shelf: Shelf, name: str
) -> None:
    for policy in map(shelf.store.get, shelf.store.names()):
        for asked, setenv in (({name: "evil"}, {}), ({}, {name: "evil"})):
            built, dropped = environment.build(policy, asked, setenv)
            assert name not in built
            assert name in dict(dropped)


@pytest.mark.parametrize("name", ALL)
def test_no_pattern_takes_a_dangerous_name_but_its_full_name_does(
    policy: Policy, name: str
) -> None:
    for length in range(1, len(name)):
        wild = keeping(policy, name[:length] + "*")
        built, dropped = environment.build(wild, {name: "x"}, {})
        assert name not in built
        assert "would have to be named" in dict(dropped)[name]
    named = keeping(policy, name)
    assert environment.build(named, {name: "x"}, {})[0][name] == "x"
    set_ = keeping(policy, **{name: "y"})
    assert environment.build(set_, {name: "x"}, {})[0][name] == "y"


def test_a_pattern_takes_what_begins_so_and_nothing_else(policy: Policy) -> None:
    wild = keeping(policy, "MY_*")
    asked = {"MY_A": "1", "MY_": "2", "NOT_MY_A": "3", "MY": "4"}
    built, _ = environment.build(wild, asked, {})
    assert built == {"MY_A": "1", "MY_": "2", "LANG": "C.UTF-8"}


def test_setenv_passes_through_the_same_keep_and_wins_over_the_callers(
    policy: Policy,
) -> None:
    built, dropped = environment.build(
        policy, {"TZ": "UTC"}, {"TZ": "Asia/Tokyo", "X": "1", "PATH": "/evil"}
    )
    assert built["TZ"] == "Asia/Tokyo"
    assert built["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert [name for name, _ in dropped] == ["PATH", "X"]


def test_what_the_policy_sets_wins_over_what_it_keeps_and_says_so(
    policy: Policy,
) -> None:
    both = keeping(policy, "A", A="policy")
    built, dropped = environment.build(both, {}, {"A": "mine"})
    assert built["A"] == "policy"
    assert "sets it itself" in dict(dropped)["A"]


@pytest.mark.parametrize(
    ("asked", "added"),
    [
        ({}, True),
        ({"LANG": ""}, True),
        ({"LC_ALL": "", "LANG": ""}, True),
        ({"LC_TIME": "C"}, True),
        ({"LANG": "C"}, False),
        ({"LC_ALL": "POSIX"}, False),
        ({"LC_CTYPE": "de_DE.UTF-8"}, False),
    ],
)
def test_a_locale_is_added_where_there_is_none(
    policy: Policy, asked: dict[str, str], added: bool
) -> None:
    built, _ = environment.build(policy, asked, {})
    assert (built.get("LANG") == "C.UTF-8") is added


def test_names_a_shell_makes_up_are_dropped_from_the_callers_environment(
    policy: Policy,
) -> None:
    odd = keeping(policy, "BASH_*", "A*")
    asked = {"BASH_FUNC_f%%": "() { :; }", "A B": "1", "A*": "2", "Ä": "3", "": "4"}
    built, dropped = environment.build(odd, asked, {})
    assert built == {"LANG": "C.UTF-8"}
    assert {why for _, why in dropped} == {"not a variable's name"}


@pytest.mark.parametrize("name", ["A B", "", "1A", "A-B", "Ä", "A\n", "A" * 300, "A%%"])
def test_names_that_were_typed_wrong_are_an_error(policy: Policy, name: str) -> None:
    with pytest.raises(RequestError):
        environment.build(policy, {}, {name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("A\0B", "x"), ("A=B", "x"), ("A", "x\0y"), ("A", "\ud800"), ("\ud800", "x")],
)
def test_what_no_environment_can_hold_is_refused(
    policy: Policy, name: str, value: str
) -> None:
    for asked, setenv in (({name: value}, {}), ({}, {name: value})):
        with pytest.raises(RequestError) as caught:
            environment.build(policy, asked, setenv)
        assert caught.value.line().isprintable()


def test_newlines_and_stray_bytes_in_values_are_data(policy: Policy) -> None:
    mine = keeping(policy, "A", "B")
    asked = {"A": "x\nLD_PRELOAD=/evil.so", "B": "caf\udce9"}
    built, _ = environment.build(mine, asked, {})
    assert built == {**asked, "LANG": "C.UTF-8"}


def test_size_is_bounded_by_what_is_kept(policy: Policy) -> None:
    huge = "x" * (environment.MAX_VALUE + 1)
    assert environment.build(policy, {"SECRET": huge}, {})[0]
    with pytest.raises(RequestError) as caught:
        environment.build(policy, {"LANG": huge}, {})
    assert caught.value.code == "request-environment-too-large"
    many = {f"LC_{n}": "x" * environment.MAX_VALUE for n in range(4)}
    with pytest.raises(RequestError):
        environment.build(policy, many, {})
