# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader with places says what tomllib says, and its places are right."""

from __future__ import annotations

import random
import tomllib

import pytest

from isolauncher.policy import toml

WORDS = ["a", "b", "c", "limits", "open-files", "1", "x_y", "-"]


class Writer:
    """Writes TOML at random: mostly valid, in every notation that there is."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test that repeats itself

    def document(self) -> str:
        lines = [self.statement() for _ in range(self.random.randrange(12))]
        newline = self.random.choice(["\n", "\n", "\r\n"])
        text = "\n".join(lines) + self.random.choice(["", "\n", "\n\n  # end"])
        return text.replace("\n", newline)

    def statement(self) -> str:
        gap = self.random.choice(["", "", " ", "\t"])
        end = self.random.choice(["", "", "  ", " # why = [not]", "#\"'"])
        match self.random.randrange(10):
            case 0:
                return gap + end.lstrip()
            case 1 | 2:
                return f"{gap}[{gap}{self.key()}{gap}]{end}"
            case 3:
                return f"{gap}[[{gap}{self.key()}{gap}]]{end}"
            case _:
                return f"{gap}{self.pair(0)}{end}"

    def key(self) -> str:
        parts = self.random.choice([1, 1, 1, 2, 3])
        dot = self.random.choice([".", ".", " . ", "\t."])
        return dot.join(self.part() for _ in range(parts))

    def part(self) -> str:
        word = self.random.choice(WORDS) + self.random.choice(["", "", "2", "3", "4"])
        return self.random.choice(
            [word, word, word, f'"{word}"', f"'{word}'", '"a b"', "'.'", '"\\u00e9"']
        )

    def pair(self, depth: int) -> str:
        equals = self.random.choice(["=", " = ", " =\t"])
        return f"{self.key()}{equals}{self.value(depth)}"

    def value(self, depth: int) -> str:
        choice = self.random.randrange(16 if depth < 3 else 12)
        if choice >= 14:
            inner = [self.pair(depth + 1) for _ in range(self.random.randrange(3))]
            return "{" + self.random.choice([" ", ""]) + ", ".join(inner) + " }"
        if choice >= 12:
            gaps = ["", " ", "\n", " # ] ,\n", "\n\t"]
            inner = [
                self.random.choice(gaps)
                + self.value(depth + 1)
                + self.random.choice(gaps)
                for _ in range(self.random.randrange(4))
            ]
            comma = "," if inner and self.random.random() < 0.3 else ""
            return "[" + ",".join(inner) + comma + self.random.choice(gaps) + "]"
        return self.random.choice(
            [
                "1", "-17", "+0", "1_000", "0xfF", "0o7", "0b1", "9" * 25,
                "1.5", "-0.0", "1e9", "6.02E+23", "inf", "-inf", "nan", "+nan",
                "true", "false",
                "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
                "1979-05-27 07:32:00.25-07:00",
                '""', "''", '"a"', "'a\\'", '"q\\"q"', '"\\\\"', '"# no"', "'[x]'",
                '"\\u00e9\\t"', '"é → ü"', "'''a'b''c'''", '"""a"b""c"""',
                '"""\nx\ny\\\n   z"""', "'''\nx = 1\n[y]\n'''",
                '""""a"""""', "''''a'''''",
                '"""\\""" """', '""""""', "''''''",
            ]
        )  # fmt: skip


def mangle(text: str, source: random.Random) -> str:
    """One small accident."""
    at = source.randrange(len(text) + 1)
    piece = source.choice(
        ["", "", "\n", '"', "'", "[", "]", "{", "}", ",", "=", ".", "#", "\\", "\0",
         "\r", "x", "1", "\ufeff", '"""', "'''", " ", "é", "\u202e"]
    )  # fmt: skip
    return text[:at] + piece + text[at + source.randrange(3) :]


def check_places(node: toml.Node, text: str) -> None:
    """Every value stands where it is said to stand, and so does every key."""
    lines = text.replace("\r\n", "\n").split("\n")
    match node:
        case toml.Leaf():
            rest = "\n".join(
                [lines[node.place.line - 1][node.place.column - 1 :]]
                + lines[node.place.line :]
            )
            assert starts_with_value(rest, node.value)
        case toml.Array():
            if not node.of_tables:
                line = lines[node.place.line - 1]
                assert line[node.place.column - 1] == "["
            for item in node.items:
                check_places(item, text)
        case toml.Table():
            for name, entry in node.entries.items():
                rest = lines[entry.key.line - 1][entry.key.column - 1 :]
                assert starts_with_key(rest, name), (rest, name)
                check_places(entry.node, text)


def starts_with_key(rest: str, name: str) -> bool:
    if not rest.startswith(('"', "'")):
        return rest.startswith(name)
    end = rest.index(rest[0], 1) + 1
    return tomllib.loads(f"{rest[:end]} = 1") == {name: 1}


def starts_with_value(rest: str, value: object) -> bool:
    """Whether some beginning of the rest, read as a value, is this value."""
    for end in range(1, min(len(rest), 80) + 1):
        try:
            found = tomllib.loads(f"v = {rest[:end]}")["v"]
        except (tomllib.TOMLDecodeError, IndexError):
            continue
        if toml._same(found, value):
            return True
    return False


def agree(text: str, *, places: bool) -> bool:
    """Both readers take the text for the same, or both refuse it; True: taken."""
    root, problems = toml.read(text)
    try:
        wanted = tomllib.loads(text)
    except (ValueError, RecursionError):
        assert problems, text
        return False
    if problems:
        # The only strictness of our own: a table that a longer header implied is not
        # added to by dots, and names have at most six parts.
        assert all(p.code == "policy-duplicate-key" for p in problems), (text, problems)
        return False
    assert toml._same(toml.plain(root), wanted), text
    if places:
        check_places(root, text)
    return True


def test_generated_toml_is_read_as_tomllib_reads_it_and_stands_where_it_is_said() -> (
    None
):
    taken = sum(agree(Writer(seed).document(), places=True) for seed in range(1500))
    assert taken > 500


def test_mangled_toml_is_refused_whenever_tomllib_refuses_it() -> None:
    taken = 0
    for seed in range(4000):
        source = random.Random(seed)  # noqa: S311 - a test that repeats itself
        text = Writer(seed).document()
        for _ in range(source.randrange(1, 4)):
            text = mangle(text, source)
        root, problems = toml.read(text)
        try:
            wanted = tomllib.loads(text)
        except (ValueError, RecursionError):
            assert problems, text
        else:
            assert problems or toml._same(toml.plain(root), wanted), text
            taken += not problems
        for problem in problems:
            lines = text.replace("\r\n", "\n").split("\n")
            assert 1 <= problem.place.line <= len(lines)
            assert 1 <= problem.place.column <= len(lines[problem.place.line - 1]) + 1
    assert taken > 500


@pytest.mark.parametrize(
    "text",
    [
        "a.b = 1\n[a]\nc = 2",
        "[a]\nb.c = 1\n[a.b]\nd = 2",
        "[a]\n[a]",
        "[[a]]\n[a]",
        "a = []\n[[a]]",
        "a = {}\n[a.b]",
        "a = {}\na.b = 1",
        "a = { b.c = 1 }\na.b.d = 2",
        "a = { b.c = 1, b.d = 2, b = 3 }",
        "[a.b]\n[a]\nb.c = 1",
        "a = 1\n[a.b]",
        "a = [{ b = 1 }]\n[a.c]",
    ],
)
def test_what_is_said_twice_is_refused_like_tomllib_does(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    _, problems = toml.read(text)
    assert [problem.code for problem in problems] == ["policy-duplicate-key"]


@pytest.mark.parametrize(
    "text",
    [
        "[a.b]\n[a]\nc = 1",
        "[a]\nb.c = 1\nb.d = 2\n[a.b.e]\nf = 1",
        "[[a]]\nb = 1\n[a.c]\nd = 1\n[[a]]\n[a.c]\ne = 1",
        "a = { b.c = 1, b.d = 2 }",
        "[[a.b]]\n[[a.b.c]]\nd = 1\n[[a.b]]\n[a.e]",
        "a.b.c = 1\na.b.d = 2",
    ],
)
def test_tables_may_come_in_any_order_that_toml_allows(text: str) -> None:
    assert agree(text, places=True)


def test_the_first_of_two_is_named_by_its_line() -> None:
    _, (problem,) = toml.read("[a]\nb = 1\n\nb = 2\n")
    assert problem.place == toml.Place(4, 1)
    assert problem.key == "a.b"
    assert "in line 2" in problem.message


def test_keys_below_a_header_that_does_not_count_do_not_count() -> None:
    root, problems = toml.read("[a]\nx = 1\n[a]\nx = 2\ny = 3\n[b]\nz = 4\n")
    assert len(problems) == 1
    assert toml.plain(root) == {"a": {"x": 1}, "b": {"z": 4}}


def test_true_is_not_one_and_one_is_not_a_fraction() -> None:
    for one, other in ((1, True), (1, 1.0), ([0], [False]), ({"a": 1}, {"a": 1.0})):
        assert not toml._same(one, other)
    assert toml._same({"a": [float("nan")]}, {"a": [float("nan")]})


def test_two_readers_that_disagree_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toml, "plain", lambda _: {"something": "else"})
    _, problems = toml.read("a = 1\n")
    assert [problem.message for problem in problems] == [
        "two readers of this file disagree"
    ]
