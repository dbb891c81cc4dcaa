# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what Python's ConfigParser reads, with line numbers and in linear time.

Sugar reads activity.info with a ConfigParser as it comes: BasicInterpolation, strict,
no inline comments. So a file means what configparser says it means, and this module
says the same or refuses. It exists because a bundle is a stranger's: a line of 32,000
spaces keeps configparser's expressions busy for seconds, and ten lines that refer to
one another for ever. Knows nothing of bundles; opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

DEFAULT = "DEFAULT"
MAX_DEPTH = 10  # configparser.MAX_INTERPOLATION_DEPTH
MAX_EXPANDED = 64 * 1024
MAX_PARTS = 2048

_DELIMITER = re.compile("[=:]")
# The text up to a reference, an escaped "%", a reference; or a "%" that is neither.
_PIECE = re.compile(r"[^%]+|%%|%\(([^)]+)\)s|%")


class Misread(Exception):
    """Not such a file; ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Value:
    """As it is written, references not followed; ``line`` is its key's."""

    text: str
    line: int


Section = Mapping[str, Value]


def read(text: str) -> dict[str, Section]:
    """Each section by its name, [DEFAULT] among them; keys in small letters.

    Misread at the first line that ConfigParser would not take.
    """
    sections: dict[str, dict[str, tuple[int, list[str]]]] = {DEFAULT: {}}
    given: set[tuple[str, str]] = set()
    name: str | None = None
    growing: list[str] | None = None  # the lines of the value that an indent continues
    indent = 0
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare:
            if growing is not None:
                growing.append("")
            continue
        if bare[0] in "#;":
            continue
        depth = len(line) - len(line.lstrip())
        if growing is not None and depth > indent:
            growing.append(bare)
            continue
        indent = depth
        end = bare.rfind("]")
        if bare[0] == "[" and end > 1:
            name = bare[1:end]
            if name in sections and name != DEFAULT:
                raise Misread(number, f"the section [{name[:40]}] is there twice")
            sections.setdefault(name, {})
            growing = None
            continue
        if name is None:
            raise Misread(number, "there is text before the first section")
        found = _DELIMITER.search(bare)
        if found is None:
            raise Misread(number, "this is neither a section nor a key with a value")
        key = bare[: found.start()].rstrip().lower()
        if not key:
            raise Misread(number, "there is a value without a key")
        if (name, key) in given:
            raise Misread(number, f"the key {key[:40]!a} is there twice")
        given.add((name, key))
        growing = [bare[found.end() :].strip()]
        sections[name][key] = (number, growing)
    return {
        name: {
            key: Value("\n".join(lines).rstrip(), at)
            for key, (at, lines) in values.items()
        }
        for name, values in sections.items()
    }


def section(sections: Mapping[str, Section], name: str) -> Section | None:
    """A section with what [DEFAULT] adds to it; None: there is none of that name.

    Not done for all at once: thousands of short sections, each with thousands of
    keys added, are no long file.
    """
    if name not in sections:
        return None
    return {**sections[DEFAULT], **sections[name]}


def expand(section: Section, key: str) -> str:
    """The value of ``key`` with every ``%(other)s`` in it put in; KeyError if none.

    Misread where configparser would not expand it, and where it would become longer
    than MAX_EXPANDED or of more than MAX_PARTS: a few lines can stand for more text
    than there is memory, or for nothing, said more often than there is time.
    """
    value = section[key]
    parts: list[str] = []
    length = 0
    for part in _parts(section, value.text, value.line, 1):
        length += len(part)
        if length > MAX_EXPANDED or len(parts) == MAX_PARTS:
            raise Misread(value.line, "becomes too long by what it refers to")
        parts.append(part)
    return "".join(parts)


def _parts(section: Section, text: str, line: int, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise Misread(line, f"refers on and on, more than {MAX_DEPTH} times")
    for piece in _PIECE.finditer(text):
        if piece[0] == "%%":
            yield "%"
        elif piece[0][0] != "%":
            yield piece[0]
        elif piece[1] is None:
            raise Misread(line, "has a '%' that is neither '%%' nor '%(key)s'")
        else:
            other = section.get(piece[1].lower())
            if other is None:
                raise Misread(line, f"refers to {piece[1][:40]!a}, which is not there")
            if "%" in other.text:
                yield from _parts(section, other.text, other.line, depth + 1)
            else:
                yield other.text
