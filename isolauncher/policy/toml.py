# SPDX-License-Identifier: GPL-3.0-or-later
"""TOML with places: every key and value with the line and column it stands at.

The standard library's tomllib knows no places and stops at the first mistake. Here
the text is split into statements, keys and values by a scanner of our own; what a
single value means is still asked of tomllib. A statement that cannot be read is
noted and left out, and reading goes on behind it, so that one run shows all mistakes.

A text without mistakes is read a second time, whole, by tomllib, and accepted only
if both readers found the same: a difference would be a bug here, and must not become
a policy that says something else than its author reads.

Depth, number of statements and number of mistakes are bounded before tomllib sees the
text, because its time grows with the square of a key's parts. Knows nothing of
policies and opens no file.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

MAX_PARTS = 6
MAX_DEPTH = 8
MAX_PROBLEMS = 100

Scalar = object  # str, int, float, bool, or one of datetime's; told apart where used


@dataclass(frozen=True, slots=True)
class Place:
    """Where something begins; both count from 1, the column in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """A string, number, flag or date."""

    value: Scalar
    place: Place


@dataclass(frozen=True, slots=True)
class Array:
    """Either written in brackets, or made of ``[[tables]]``."""

    items: list[Node]
    place: Place
    of_tables: bool = False


# How a table came to be decides who may add to it: toml.io, "Table", "Inline Table".
Made = Literal["root", "header", "implied", "dotted", "inline"]


@dataclass(slots=True)
class Table:
    """Entries in their order; ``place`` is where the table was first named."""

    place: Place
    made: Made
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    key: Place
    node: Node


Node = Leaf | Array | Table


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where the text is not TOML, or says one thing twice."""

    place: Place
    key: str
    code: Literal["policy-not-toml", "policy-duplicate-key"]
    message: str
    hint: str = ""


def read(text: str) -> tuple[Table, tuple[Problem, ...]]:
    """Everything that could be read, and every reason why something could not."""
    text = text.replace("\r\n", "\n")
    reader = _Reader(text)
    reader.note_unseen()
    root = reader.document()
    if not reader.problems:
        reader.compare_with_tomllib(root)
    return root, tuple(reader.problems)


def plain(node: Node) -> object:
    """The same without places, as tomllib would return it."""
    match node:
        case Leaf():
            return node.value
        case Array():
            return [plain(item) for item in node.items]
        case Table():
            return {name: plain(entry.node) for name, entry in node.entries.items()}


class _Stop(Exception):
    """This statement cannot be read; ``resume``: where the next one may begin."""

    def __init__(
        self, pos: int, message: str, hint: str = "", *, resume: int | None = None
    ) -> None:
        super().__init__(message)
        self.pos = pos
        self.message = message
        self.hint = hint
        self.resume = resume


class _Twice(Exception):
    """A key or table was named before."""

    def __init__(self, key: str, place: Place, first: Place, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.place = place
        self.first = first
        self.message = message


_MARK = "\ufeff"
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_COMMENT = re.compile(r"#[^\n]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_BASIC_END = re.compile(r'\\.|"""', re.DOTALL)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d[^\s,\]}#]*|[^\s,\]}#\"'\[{=]+")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# After a mistake, where a new statement probably begins.
_NEXT = re.compile(
    r"""^[ \t]*(?:\[{1,2}[ \t]*[A-Za-z0-9_"'][^\n\]=,]*\]{1,2}[ \t]*(?:\#.*)?$"""
    r"""|(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\.[A-Za-z0-9_."'-]+)?[ \t]*=)""",
    re.MULTILINE,
)
_TOMLLIB_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0] + [found.end() for found in re.finditer("\n", text)]
        self.problems: list[Problem] = []

    def place(self, pos: int) -> Place:
        line = bisect_right(self.starts, pos)
        return Place(line, pos - self.starts[line - 1] + 1)

    def note_unseen(self) -> None:
        """A byte order mark, and a carriage return that ends no line of TOML's.

        Editors show neither; the rest is read as they show it.
        """
        text = self.text
        if text.startswith(_MARK):
            self._note(
                *(0, "", "policy-not-toml", "the file begins with a byte order mark"),
                "save it as UTF-8 without one",
            )
        if (pos := text.find("\r")) >= 0:
            self._note(
                *(pos, "", "policy-not-toml", "a carriage return stands here alone"),
                "a line ends with a newline, or with both",
            )
        unmarked = " " + text[1:] if text.startswith(_MARK) else text
        self.text = unmarked.replace("\r", "\n")

    # Statements

    def document(self) -> Table:
        root = Table(Place(1, 1), "root")
        here = root
        prefix = ""
        pos = 0
        while len(self.problems) < MAX_PROBLEMS:
            pos = self._skip(_BLANK_LINES, pos)
            if pos >= len(self.text):
                break
            start = pos
            header = self.text[start] == "["
            try:
                if header:
                    pos, path, places, array = self._header(pos)
                    here = _open_table(root, path, places, array=array)
                    prefix = ".".join(path) + "."
                else:
                    pos, path, places, node = self._pair(pos, 0)
                    _assign(here, path, places, node)
            except _Stop as stop:
                self._note(stop.pos, "", "policy-not-toml", stop.message, stop.hint)
                if stop.resume is None:
                    pos = self._recover(max(pos, stop.pos))
                else:
                    pos = stop.resume
            except _Twice as twice:
                where = self._offset(twice.place)
                if pos == start:  # inside a value: its end is not known
                    pos = self._recover(where)
                self._note(
                    where,
                    twice.key if header else prefix + twice.key,
                    "policy-duplicate-key",
                    f"{twice.message} in line {twice.first.line}",
                    "keep one of the two",
                )
            else:
                continue
            if header:
                # What follows a header that does not count must not count either.
                here = Table(Place(1, 1), "root")
        return root

    def _offset(self, place: Place) -> int:
        return self.starts[place.line - 1] + place.column - 1

    def _note(
        self,
        pos: int,
        key: str,
        code: Literal["policy-not-toml", "policy-duplicate-key"],
        message: str,
        hint: str = "",
    ) -> None:
        self.problems.append(Problem(self.place(pos), key, code, message, hint))

    def _recover(self, pos: int) -> int:
        newline = self.text.find("\n", pos)
        if newline < 0:
            return len(self.text)
        found = _NEXT.search(self.text, newline + 1)
        return found.start() if found else len(self.text)

    def _skip(self, pattern: re.Pattern[str], pos: int) -> int:
        found = pattern.match(self.text, pos)
        return found.end() if found else pos

    def _end_of_statement(self, pos: int) -> int:
        pos = self._skip(_COMMENT, self._skip(_BLANK, pos))
        if pos < len(self.text) and self.text[pos] != "\n":
            raise _Stop(pos, "something stands behind the end of the value")
        return pos

    def _header(self, start: int) -> tuple[int, list[str], list[Place], bool]:
        array = self.text.startswith("[[", start)
        pos = self._skip(_BLANK, start + (2 if array else 1))
        pos, path, places = self._key(pos)
        close = "]]" if array else "]"
        if not self.text.startswith(close, pos):
            raise _Stop(start, f"the table's name does not end with '{close}'")
        return self._end_of_statement(pos + len(close)), path, places, array

    def _pair(self, pos: int, depth: int) -> tuple[int, list[str], list[Place], Node]:
        start = pos
        pos, path, places = self._key(pos)
        if not self.text.startswith("=", pos):
            raise _Stop(start, "this is neither 'key = value' nor a table in brackets")
        pos, node = self._value(self._skip(_BLANK, pos + 1), depth)
        if not depth:
            pos = self._end_of_statement(pos)
        return pos, path, places, node

    def _key(self, pos: int) -> tuple[int, list[str], list[Place]]:
        path: list[str] = []
        places: list[Place] = []
        while True:
            places.append(self.place(pos))
            if found := _BARE_KEY.match(self.text, pos):
                path.append(found[0])
            elif found := _BASIC.match(self.text, pos) or _LITERAL.match(
                self.text, pos
            ):
                path.append(str(self._meaning(found[0], pos)))
            else:
                raise _Stop(pos, "a key is expected here", "letters, digits, - and _")
            if len(path) > MAX_PARTS:
                raise _Stop(pos, f"a key of more than {MAX_PARTS} parts")
            pos = self._skip(_BLANK, found.end())
            if not self.text.startswith(".", pos):
                return pos, path, places
            pos = self._skip(_BLANK, pos + 1)

    # Values

    def _value(self, pos: int, depth: int) -> tuple[int, Node]:
        if depth > MAX_DEPTH:
            raise _Stop(pos, f"values nested more than {MAX_DEPTH} deep")
        if self.text.startswith("[", pos):
            return self._array(pos, depth + 1)
        if self.text.startswith("{", pos):
            return self._inline_table(pos, depth + 1)
        end = self._scalar_end(pos)
        return end, Leaf(self._meaning(self.text[pos:end], pos), self.place(pos))

    def _scalar_end(self, pos: int) -> int:
        text = self.text
        if text.startswith('"""', pos):
            return self._long_string_end(pos, _BASIC_END, '"')
        if text.startswith("'''", pos):
            return self._long_string_end(pos, re.compile("'''"), "'")
        if text.startswith(('"', "'"), pos):
            pattern = _BASIC if text[pos] == '"' else _LITERAL
            if found := pattern.match(text, pos):
                return found.end()
            raise _Stop(pos, f"the text that begins here has no closing {text[pos]}")
        if found := _SCALAR.match(text, pos):
            return found.end()
        raise _Stop(pos, "a value is expected here")

    def _long_string_end(self, pos: int, pattern: re.Pattern[str], quote: str) -> int:
        for found in pattern.finditer(self.text, pos + 3):
            if found[0] == quote * 3:
                end = found.end()
                # Up to two more quotes belong to the text itself.
                for _ in range(2):
                    if self.text.startswith(quote, end):
                        end += 1
                return end
        raise _Stop(pos, f"the text that begins here has no closing {quote * 3}")

    def _array(self, start: int, depth: int) -> tuple[int, Array]:
        try:
            return self._closed_array(start, depth)
        except _Stop as stop:
            # A forgotten bracket makes a list swallow what comes behind it. Say where
            # the list begins, and go on where the next statement seems to.
            newline = self.text.find("\n", start)
            found = _NEXT.search(self.text, newline + 1) if newline >= 0 else None
            if depth > 1 or found is None or found.start() > stop.pos:
                raise
            raise _Stop(
                start,
                "the list that begins here has no closing ']'",
                resume=found.start(),
            ) from stop

    def _closed_array(self, start: int, depth: int) -> tuple[int, Array]:
        items: list[Node] = []
        pos = self._skip(_BLANK_LINES, start + 1)
        while not self.text.startswith("]", pos):
            pos, node = self._value(pos, depth)
            items.append(node)
            pos = self._skip(_BLANK_LINES, pos)
            if self.text.startswith(",", pos):
                pos = self._skip(_BLANK_LINES, pos + 1)
            elif not self.text.startswith("]", pos):
                self._unclosed(pos, start, "list", "]")
        return pos + 1, Array(items, self.place(start))

    def _inline_table(self, start: int, depth: int) -> tuple[int, Table]:
        table = Table(self.place(start), "inline")
        pos = self._skip(_BLANK, start + 1)
        while not self.text.startswith("}", pos):
            pos, path, places, node = self._pair(pos, depth)
            _assign(table, path, places, node)
            pos = self._skip(_BLANK, pos)
            if self.text.startswith(",", pos):
                pos = self._skip(_BLANK, pos + 1)
                if self.text.startswith("}", pos):
                    raise _Stop(pos, "no comma may stand before '}'")
            elif not self.text.startswith("}", pos):
                self._unclosed(pos, start, "inline table", "}")
        _seal(table)
        return pos + 1, table

    def _unclosed(self, pos: int, start: int, what: str, close: str) -> NoReturn:
        if pos >= len(self.text) or self.text[pos] == "\n":
            raise _Stop(start, f"the {what} that begins here has no closing '{close}'")
        raise _Stop(pos, f"',' or '{close}' is expected here, in a {what}")

    def _meaning(self, token: str, pos: int) -> object:
        try:
            return tomllib.loads(f"v = {token}")["v"]
        except (ValueError, RecursionError) as error:
            if token[:1] in ("'", '"'):
                raise _Stop(
                    pos,
                    "this text holds something that TOML does not allow",
                    "a backslash begins an escape such as \\n; "
                    "control characters must be escaped",
                ) from error
            if _DAY.match(token):
                raise _Stop(
                    pos,
                    f"{token[:40]!a} is no day or time that there is",
                    "a day is written 2027-06-30",
                ) from error
            if re.fullmatch(r"[+-]?\d+", token):
                # Of more digits than int() takes.
                text = f"a number of {len(token)} digits is no amount of anything"
                raise _Stop(pos, text, "write the number that is meant") from error
            raise _Stop(
                pos,
                f"{token[:40]!a} is not a value",
                "text stands in quotes; numbers, true and false do not",
            ) from error

    # The second reader

    def compare_with_tomllib(self, root: Table) -> None:
        try:
            other = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            message = str(error)
            pos = len(self.text)
            if found := _TOMLLIB_PLACE.search(message):
                message = message[: found.start()]
                if found[1]:
                    pos = self._offset(Place(int(found[1]), int(found[2])))
            self._note(min(pos, len(self.text)), "", "policy-not-toml", message)
        else:
            if not _same(plain(root), other):
                self._note(
                    0, "", "policy-not-toml", "two readers of this file disagree"
                )


def _seal(table: Table) -> None:
    """Nothing may be added to what was written between braces."""
    for entry in table.entries.values():
        if isinstance(entry.node, Table) and entry.node.made == "dotted":
            entry.node.made = "inline"
            _seal(entry.node)


def _open_table(
    root: Table, path: list[str], places: list[Place], *, array: bool
) -> Table:
    """Follow a ``[header]`` or ``[[header]]`` to the table that it opens."""
    table = root
    for name, place in zip(path[:-1], places[:-1], strict=True):
        entry = table.entries.get(name)
        if entry is None:
            entry = Entry(place, Table(place, "implied"))
            table.entries[name] = entry
        node = entry.node
        if isinstance(node, Array) and node.of_tables:
            node = node.items[-1]
        if not isinstance(node, Table) or node.made == "inline":
            raise _Twice(".".join(path), place, entry.key, f"'{name}' has a value")
        table = node

    name, place = path[-1], places[-1]
    entry = table.entries.get(name)
    if array:
        new = Table(place, "header")
        if entry is None:
            table.entries[name] = Entry(place, Array([new], place, of_tables=True))
        elif isinstance(entry.node, Array) and entry.node.of_tables:
            entry.node.items.append(new)
        else:
            raise _Twice(".".join(path), place, entry.key, f"'{name}' is already there")
        return new
    if entry is None:
        new = Table(place, "header")
        table.entries[name] = Entry(place, new)
        return new
    if isinstance(entry.node, Table) and entry.node.made == "implied":
        entry.node.made = "header"
        return entry.node
    raise _Twice(".".join(path), place, entry.key, f"'{name}' is already there")


def _assign(table: Table, path: list[str], places: list[Place], node: Node) -> None:
    """``a.b = value``: tables on the way must have been made by dots as well."""
    for name, place in zip(path[:-1], places[:-1], strict=True):
        entry = table.entries.get(name)
        if entry is None:
            entry = Entry(place, Table(place, "dotted"))
            table.entries[name] = entry
        if not isinstance(entry.node, Table) or entry.node.made != "dotted":
            raise _Twice(".".join(path), place, entry.key, f"'{name}' is already there")
        table = entry.node
    name, place = path[-1], places[-1]
    if (entry := table.entries.get(name)) is not None:
        raise _Twice(".".join(path), place, entry.key, f"'{name}' is already there")
    table.entries[name] = Entry(place, node)


def _same(one: object, other: object) -> bool:
    """Equal in value and type; NaN is the same as NaN here."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            _same(one[name], other[name]) for name in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or (one != one and other != other)
