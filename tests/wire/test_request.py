# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller may ask, and everything near it that is refused."""

from __future__ import annotations

import pytest

from isolauncher import request, wire
from isolauncher.errors import RequestError
from isolauncher.policy import check

RUN: dict[str, object] = {
    "version": 1,
    "verb": "run",
    "id": "one",
    "program_kind": "file",
    "argv": ["./x.py", "a", ""],
    "policy": "default",
    "tier": "fork",
    "environment": {"LANG": "C", "X": "a=b\nc"},
    "setenv": {},
    "umask": 0o22,
    "tied": True,
    "descriptors": ["stdin", "stdout", "stderr", "program", "cwd"],
}


def parse(fields: dict[str, object], n_fds: int | None = None) -> request.Asked:
    if n_fds is None:
        names = fields["descriptors"]
        assert isinstance(names, list)
        n_fds = len(names)
    return request.parse(fields, n_fds)


def refused(fields: dict[str, object], n_fds: int | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(fields, n_fds)
    assert caught.value.code.startswith("request-")
    assert caught.value.line().isascii()
    assert "\n" not in caught.value.line()
    return caught.value


@pytest.mark.parametrize(
    "asked",
    [
        request.Attach(id="a_1"),
        request.Ps(),
        request.Stop(ids=("a", "b"), grace_ms=5000),
        request.Stop(ids=("a",), grace_ms=0, reason="data: it is full  [data-full]"),
        request.Stats(),
    ],
)
def test_what_is_encoded_is_read_as_the_same(asked: request.Asked) -> None:
    assert request.parse(wire.decode(wire.encode(request.encode(asked))), 0) == asked


def test_a_launch_is_read_whole_and_encoded_as_it_was() -> None:
    asked = parse(RUN)
    assert isinstance(asked, request.Request)
    assert asked.argv == ("./x.py", "a", "")
    assert asked.environment == {"LANG": "C", "X": "a=b\nc"}
    assert request.encode(asked) == RUN


@pytest.mark.parametrize("name", request.SIGNALS)
def test_the_signals_that_pass_through_can_be_named(name: request.SignalName) -> None:
    signal = request.Signal(name=name)
    assert request.parse_signal(request.encode(signal), 0) == signal


@pytest.mark.parametrize(
    "fields",
    [
        {"verb": "signal", "signal": "KILL"},
        {"verb": "signal", "signal": 15},
        {"verb": "signal", "signal": ["TERM"]},
        {"verb": "signal"},
        {"verb": "signal", "signal": "TERM", "pid": 1},
        {"verb": "run", "signal": "TERM"},
        {"signal": "TERM"},
    ],
)
def test_other_signals_and_words_cannot_be_said_while_it_runs(
    fields: dict[str, object],
) -> None:
    with pytest.raises(RequestError):
        request.parse_signal(fields, 0)
    with pytest.raises(RequestError):
        request.parse_signal({"verb": "signal", "signal": "TERM"}, 1)


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.0, True, None, [1]])
def test_another_version_is_refused_and_both_are_named(version: object) -> None:
    error = refused({**RUN, "version": version})
    assert error.code == "request-version"
    assert "this daemon version 1" in error.message


@pytest.mark.parametrize(
    "name",
    [
        "uid",
        "gid",
        "groups",
        "user",
        "capabilities",
        "caps",
        "mounts",
        "mount",
        "preload",
        "namespaces",
        "seccomp",
        "cgroup",
        "root",
        "pid",
        "",
        "version ",
        "\x1b[2J",
    ],
)
def test_powers_are_not_expressible(name: str) -> None:
    for value in (0, "root", -1, 2**32, ["CAP_SYS_ADMIN"], None):
        assert refused({**RUN, name: value}).code == "request-unknown-field"


@pytest.mark.parametrize("name", sorted(RUN))
def test_no_field_has_a_default(name: str) -> None:
    fields = {key: value for key, value in RUN.items() if key != name}
    error = refused(fields, 5)
    assert error.code == "request-missing-field"
    assert f"'{name}'" in error.message


@pytest.mark.parametrize("name", sorted(RUN))
@pytest.mark.parametrize("value", [{"a": {}}, [[]], [None], 1.5, -1, 2**64, "\0", {}])
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_field(
    name: str, value: object
) -> None:
    if name in ("environment", "setenv") and value == {}:
        return
    assert f"'{name}'" in refused({**RUN, name: value}, 5).message


@pytest.mark.parametrize(
    "id",
    [
        "../../x",
        "a/b",
        "a" * 65,
        "a" * 300,
        "-rf",
        "--option",
        "\u202eabc",
        "é",
        "\u0661",
        "",
        ".",
        "a\n",
        "a b",
        "a\0",
        "a-b",
        0,
        False,
    ],
)
def test_an_id_is_letters_digits_and_underscores(id: object) -> None:
    refused({**RUN, "id": id})
    refused({"version": 1, "verb": "attach", "id": id}, 0)
    refused({"version": 1, "verb": "stop", "ids": [id], "grace_ms": 0}, 0)


@pytest.mark.parametrize("name", [".", ".."])
def test_a_directory_s_name_is_no_program_s(name: str) -> None:
    with pytest.raises(RequestError, match="is a directory and no program"):
        parse({**RUN, "program_kind": "name", "argv": [name]}, 4)


@pytest.mark.parametrize(
    "policy",
    ["", "../x", "a/b", "-x", ".x", "_x", "..", "a\nb", "é", "a" * 65, "a\0", 5],
)
def test_a_policy_is_a_name_and_never_a_path(policy: object) -> None:
    refused({**RUN, "policy": policy})


@pytest.mark.parametrize(
    "policy", ["default", "org.laptop.Calculate", "a-b_c", "7", "a-", "x.", "a..b"]
)
def test_the_names_of_policies_are_those_that_a_policy_file_may_have(
    policy: str,
) -> None:
    assert check.POLICY_NAME.fullmatch(policy)
    asked = parse({**RUN, "policy": policy})
    assert isinstance(asked, request.Request)
    assert asked.policy == policy


@pytest.mark.parametrize(
    "name", ["", "A=B", "A\n", "1A", "A B", "é", "A%%", "A\0", "-"]
)
@pytest.mark.parametrize("field", ["environment", "setenv"])
def test_a_variable_has_a_plain_name(name: str, field: str) -> None:
    refused({**RUN, field: {name: "x"}})


@pytest.mark.parametrize("value", ["a\0b", 1, None, ["x"], {}, True])
def test_a_variable_has_a_string_without_nul(value: object) -> None:
    refused({**RUN, "environment": {"A": value}})


def test_cve_2024_31317_newline_is_data() -> None:
    argv = ["./x", "a\nb", "\r", "--", "=", "8\n--setuid=0"]
    asked = parse({**RUN, "argv": argv})
    assert isinstance(asked, request.Request)
    assert asked.argv == tuple(argv)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [""],
        ["./x"] * 4097,
        ["./x", "y" * 98_304],
        ["./x", "é" * 49_152],
        ["./x", "a\0"],
        "./x",
        ["./x", 1],
        ["./x", ["y"]],
    ],
)
def test_arguments_are_bounded(argv: object) -> None:
    refused({**RUN, "argv": argv})


def test_the_most_arguments_pass() -> None:
    assert isinstance(parse({**RUN, "argv": ["./x"] * 4096}), request.Request)


def test_variables_are_bounded() -> None:
    refused({**RUN, "environment": {f"A{n}": "" for n in range(4097)}})
    refused({**RUN, "environment": {"A": "x" * 98_304}})
    refused({**RUN, "environment": {"A" * 257: ""}})


@pytest.mark.parametrize("umask", [-1, 0o1000, "022", True, 18.0, None])
def test_a_umask_is_nine_bits(umask: object) -> None:
    refused({**RUN, "umask": umask})


@pytest.mark.parametrize(
    ("kind", "program"),
    [
        ("name", "a/b"),
        ("name", "."),
        ("name", ".."),
        ("module", "a-b"),
        ("module", ".a"),
        ("module", "a/b"),
        ("module", "a\n"),
        ("setuid", "x"),
    ],
)
def test_a_program_is_what_its_kind_says(kind: str, program: str) -> None:
    refused(
        {
            **RUN,
            "program_kind": kind,
            "argv": [program],
            "descriptors": ["stdin", "stdout", "stderr"],
        }
    )


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["stdin", "stdout"],
        ["stdin", "stdout", "stderr"],  # the kind is file, so a program is wanted
        ["stdout", "stdin", "stderr", "program"],
        ["stdin", "stdout", "stderr", "program", "program"],
        ["stdin", "stdout", "stderr", "cwd", "program"],
        ["stdin", "stdout", "stderr", "program", "root"],
        ["stdin", "stdout", "stderr", "program", "policy"],  # and a name is given
        ["stdin", "stdout", "stderr", "program", 3],
    ],
)
def test_descriptors_are_named_once_and_in_order(names: list[object]) -> None:
    refused({**RUN, "descriptors": names})


@pytest.mark.parametrize("n_fds", [0, 1, 4, 6])
def test_as_many_descriptors_come_as_are_named(n_fds: int) -> None:
    assert refused(RUN, n_fds).code == "request-descriptors"


@pytest.mark.parametrize("verb", ["ps", "stats", "attach", "stop"])
def test_only_a_launch_takes_descriptors(verb: str) -> None:
    assert refused({"version": 1, "verb": verb}, 1).code == "request-descriptors"


@pytest.mark.parametrize("verb", ["", "RUN", "signal", "furnish", None, 1, ["run"], {}])
def test_other_verbs_are_refused(verb: object) -> None:
    assert refused({"version": 1, "verb": verb}, 0).code == "request-verb"


@pytest.mark.parametrize(
    "fields",
    [
        {"ids": [], "grace_ms": 0},
        {"ids": ["a"] * 257, "grace_ms": 0},
        {"ids": ["a"], "grace_ms": -1},
        {"ids": ["a"], "grace_ms": 600_001},
        {"ids": "a", "grace_ms": 0},
        {"ids": ["a"]},
        {"ids": ["a"], "grace_ms": 0, "uid": 0},
        {"ids": ["a"], "grace_ms": 0, "reason": None},
        {"ids": ["a"], "grace_ms": 0, "reason": "x" * 1001},
        {"ids": ["a"], "grace_ms": 0, "reason": "two\nlines"},
        {"ids": ["a"], "grace_ms": 0, "reason": "\u202eno"},
        {"ids": ["a"], "grace_ms": 0, "reason": "\udc80"},
    ],
)
def test_a_stop_is_bounded(fields: dict[str, object]) -> None:
    refused({"version": 1, "verb": "stop", **fields}, 0)


def test_a_stop_needs_no_reason() -> None:
    """A mediator of before an upgrade must still be able to stop its activity."""
    asked = request.parse(
        {"version": 1, "verb": "stop", "ids": ["a"], "grace_ms": 0}, 0
    )
    assert asked == request.Stop(ids=("a",), grace_ms=0)
