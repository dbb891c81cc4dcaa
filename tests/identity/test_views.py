# SPDX-License-Identifier: GPL-3.0-or-later
"""passwd and group as an activity sees them."""

from __future__ import annotations

import pytest

from isolauncher.identity.passwd import views


def passwd(**changes: object) -> list[list[str]]:
    return lines(views(**{**PLAIN, **changes}).passwd)  # type: ignore[arg-type]


def lines(content: bytes) -> list[list[str]]:
    assert content.endswith(b"\n")
    return [line.split(":") for line in content.decode().split("\n")[:-1]]


PLAIN = {
    "inner_uid": 1000,
    "inner_gid": 1000,
    "name": "alice",
    "home": "/home/alice",
    "shell": "/bin/bash",
}


def test_inside_are_root_nobody_and_the_user() -> None:
    seen = views(**PLAIN)  # type: ignore[arg-type]
    assert [row[0] for row in lines(seen.passwd)] == ["root", "alice", "nobody"]
    assert lines(seen.passwd)[1] == "alice:x:1000:1000::/home/alice:/bin/bash".split(
        ":"
    )
    assert [row[:3] for row in lines(seen.group)] == [
        ["root", "x", "0"],
        ["alice", "x", "1000"],
        ["nogroup", "x", "65534"],
    ]
    assert b"passwd: files\n" in seen.nsswitch
    assert b"127.0.0.1 localhost\n" in seen.hosts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "root",
        "nobody",
        "nogroup",
        "a:x:0:0:::",
        "a\nevil:x:0:0:::",
        "a\0",
        "-rf",
        "+",
        "é",
        "a b",
        "a" * 32,
        "a\n",
        "1a",
    ],
)
def test_a_name_outside_the_grammar_becomes_user(name: str) -> None:
    rows = passwd(name=name)
    assert [row[0] for row in rows] == ["root", "user", "nobody"]
    assert all(len(row) == 7 for row in rows)


@pytest.mark.parametrize("bad", ["x", "", "/a:b", "/a\nb", "/\0", "/" + "a" * 2000])
def test_home_and_shell_are_never_injected(bad: str) -> None:
    row = passwd(home=bad, shell=bad)[1]
    assert row[5:] == ["/", "/bin/sh"]


@pytest.mark.parametrize(
    ("inner", "name"), [(0, "root"), (65534, "nobody"), (70003, "user")]
)
def test_no_uid_is_listed_twice(inner: int, name: str) -> None:
    rows = passwd(inner_uid=inner, inner_gid=inner, name="root")
    assert len({row[2] for row in rows}) == len(rows)
    assert len({row[0] for row in rows}) == len(rows)
    assert next(row[0] for row in rows if row[2] == str(inner)) == name


def test_a_host_name_is_data() -> None:
    good = views(**PLAIN, hostname="sugar")  # type: ignore[arg-type]
    assert b"127.0.1.1 sugar\n" in good.hosts
    bad = views(**PLAIN, hostname="a\n8.8.8.8 b")  # type: ignore[arg-type]
    assert b"8.8.8.8" not in bad.hosts
