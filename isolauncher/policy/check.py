# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds one file's keys and values against the language; collects every mistake.

In goes a tree of keys and values with places, out comes a `Layer`: what this one file
says, checked. Layers are stacked in load.py. Opens no file, and asks neither the
machine nor other policies, so a file means the same wherever it is checked.
"""

from __future__ import annotations

import datetime
import difflib
import math
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from isolauncher.errors import Mistake
from isolauncher.policy import (
    attempts,
    audit,
    bitfrost,
    bus,
    environment,
    quote,
    reserved,
    toml,
)
from isolauncher.policy.model import (
    IN_HOME,
    KEYS,
    TABLES,
    Accept,
    Expect,
    Grant,
    Key,
    Match,
    Origin,
    Value,
)
from isolauncher.policy.quote import safe, shown, with_unit, written

MAX_MISTAKES = 100
MAX_ITEMS = 256
MAX_TEXT = 300
MAX_PATH = 4095

INHERIT = "..."
POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_KEYS: Mapping[str, Key] = {key.name: key for key in KEYS}
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_BUNDLE_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")
_CALLER = re.compile(r"\*|@?[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
_ADDRESS = re.compile(
    r"(tcp|udp)://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})"
)

_NOT_MATCH = {*TABLES, "expect", "accept", "description", "extends"} - {"", "match"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A list as one file has it; ``inherits``: "..." stood first."""

    own: tuple[str, ...]
    inherits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one file says. ``settings`` holds environment.set, None for ``false``."""

    file: str
    values: Mapping[str, Value | Listed] = field(default_factory=dict)
    settings: Mapping[str, str | None] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    match: Match = field(default_factory=Match)
    match_is_known: bool = False
    grants: Mapping[str, Grant] = field(default_factory=dict)
    expects: tuple[Expect, ...] = ()
    accepts: tuple[Accept, ...] = ()
    extends: str | None = None
    extends_at: toml.Place = field(default_factory=lambda: toml.Place(1, 1))
    description: str = ""
    mistakes: tuple[Mistake, ...] = ()


def check(
    data: bytes,
    file: str,
    *,
    protected: tuple[str, ...] = (),
    private: tuple[str, ...] = (),
) -> Layer:
    """Read the bytes of ``file``; what is wrong with them is in ``mistakes``.

    ``protected`` must not become writable, ``private`` not even visible.
    """
    checker = _Checker(file, protected, private)
    checker.run(data)
    return checker.layer()


class _Enough(Exception):
    """More mistakes than anyone reads."""


class _Checker:
    def __init__(
        self, file: str, protected: tuple[str, ...], private: tuple[str, ...]
    ) -> None:
        self.file = file
        self.protected = protected
        self.private = private
        self.mistakes: list[Mistake] = []
        self.values: dict[str, Value | Listed] = {}
        self.settings: dict[str, str | None] = {}
        self.origins: dict[str, Origin] = {}
        self.grants: dict[str, Grant] = {}
        self.expects: list[Expect] = []
        self.accepts: list[Accept] = []
        self.extends_at = toml.Place(1, 1)
        self.match_is_known = False

    def layer(self) -> Layer:
        self.mistakes.sort(key=lambda mistake: (mistake.line, mistake.column))
        installed_by = self.values.get("match.installed-by", "system")
        return Layer(
            file=self.file,
            values=self.values,
            settings=self.settings,
            origins=self.origins,
            match=Match(
                bundle_ids=self._own("match.bundle-id"),
                installed_by=cast(Literal["system", "user"], installed_by),
                callers=self._own("match.callers"),
            ),
            match_is_known=self.match_is_known,
            grants=self.grants,
            expects=tuple(self.expects),
            accepts=tuple(self.accepts),
            extends=cast("str | None", self.values.get("extends")),
            extends_at=self.extends_at,
            description=str(self.values.get("description", "")),
            mistakes=tuple(self.mistakes),
        )

    def _own(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name)
        return value.own if isinstance(value, Listed) else ()

    def mistake(
        self, at: toml.Place, key: str, code: str, message: str, hint: str = ""
    ) -> None:
        self.mistakes.append(
            Mistake(
                file=self.file,
                line=at.line,
                column=at.column,
                key=key,
                code=code,
                message=message,
                hint=hint,
            )
        )
        if len(self.mistakes) == MAX_MISTAKES:
            self.mistakes.append(
                Mistake(
                    file=self.file,
                    line=at.line,
                    column=at.column,
                    key="",
                    code="policy-too-many-mistakes",
                    message=f"{MAX_MISTAKES} mistakes; the rest was not looked at",
                )
            )
            raise _Enough

    def run(self, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - data.rfind(b"\n", 0, error.start)
            self.mistake(
                toml.Place(line, column),
                "",
                "policy-not-utf8",
                f"byte 0x{data[error.start]:02x} is not UTF-8",
                "TOML files are UTF-8 text",
            )
            return
        root, problems = toml.read(text)
        try:
            for problem in problems:
                self.mistake(
                    problem.place,
                    problem.key,
                    problem.code,
                    problem.message,
                    problem.hint,
                )
            if self._version(root):
                self._tables(root)
            # A mistake outside the other tables may hide a [match]: a statement that
            # could not be read, a misspelt table, another language.
            self.match_is_known = all(
                mistake.key.partition(".")[0] in _NOT_MATCH for mistake in self.mistakes
            )
        except _Enough:
            pass  # the mistakes say it

    # Structure

    def _version(self, root: toml.Table) -> bool:
        """Whether this is our language; otherwise its keys say nothing to us."""
        entry = root.entries.get("version")
        if entry is None:
            self.mistake(
                toml.Place(1, 1),
                "version",
                "policy-version",
                "the file does not say which version of the language it is in",
                "write version = 1 at the top",
            )
            return True
        node = entry.node
        value = node.value if isinstance(node, toml.Leaf) else None
        if type(value) is not int or value != 1:
            self.mistake(
                node.place,
                "version",
                "policy-version",
                "only version 1 of the language is known here",
                "write version = 1",
            )
            return type(value) is not int
        return True

    def _tables(self, root: toml.Table) -> None:
        for name, entry in root.entries.items():
            if name == "expect":
                self._each(entry, "expect", "an expectation", self._expect)
            elif name == "accept":
                self._each(entry, "accept", "an exception", self._accept)
            elif name == "grants":
                continue  # below: they are held against the other tables
            elif name in TABLES and name:
                if isinstance(entry.node, toml.Table):
                    for inner, inner_entry in entry.node.entries.items():
                        self._entry(f"{name}.{inner}", inner_entry)
                else:
                    self.mistake(
                        entry.node.place,
                        name,
                        "policy-wrong-type",
                        f"{_kind_of(entry.node)} stands where a table is expected",
                        f"write [{name}] on a line of its own",
                    )
            elif "." not in name and name in _KEYS:
                self._entry(name, entry)
            else:
                self._unknown(name, entry, "")
        if "grants" in root.entries:
            self._grants(root.entries["grants"])

    def _entry(self, name: str, entry: toml.Entry) -> None:
        key = _KEYS.get(name)
        if key is None:
            self._unknown(name, entry, name.partition(".")[0])
            return
        if name == "extends":
            self.extends_at = entry.node.place
        value = _VALUES[key.kind](self, key, entry.node)
        if value is None:
            return
        if not self._enforced(key, value, entry.node):
            return
        self.values[name] = value
        self.origins[name] = Origin(file=self.file, line=entry.key.line)

    def _unknown(self, name: str, entry: toml.Entry, table: str) -> None:
        is_table = not table and isinstance(entry.node, toml.Table)
        last = name[len(table) + 1 :] if table else name
        near = _nearest(last, table)
        hint = f"did you mean {near}?" if near else "docs/policy.md lists all keys"
        self.mistake(
            entry.key,
            safe(name),
            "policy-unknown-key",
            f"there is no {'table' if is_table else 'key'} {shown(last)}"
            + (f" in [{table}]" if table else ""),
            hint,
        )

    def _enforced(self, key: Key, value: Value | Listed, node: toml.Node) -> bool:
        if value in key.later:
            self.mistake(
                node.place,
                key.name,
                "policy-not-enforced-yet",
                f"{shown(str(value))} is understood, but nothing enforces it yet",
                "use one of: "
                + ", ".join(word for word in key.choices if word not in key.later),
            )
            return False
        meant = value.own if isinstance(value, Listed) else value
        if key.only is not None and meant != key.only:
            self.mistake(
                node.place,
                key.name,
                "policy-not-enforced-yet",
                "this key is understood, but nothing enforces it yet",
                f"leave it out, or write {key.default}",
            )
            return False
        return True

    # Values. Each returns None after it has noted a mistake.

    def wrong_type(self, key: Key, node: toml.Node, wanted: str, hint: str) -> None:
        self.mistake(
            node.place,
            key.name,
            "policy-wrong-type",
            f"{_kind_of(node)} stands where {wanted} is expected",
            hint,
        )

    def text(self, key: Key, node: toml.Node, example: str) -> str | None:
        if isinstance(node, toml.Leaf) and isinstance(node.value, str):
            return node.value
        self.wrong_type(key, node, "a text in quotes", f"write {example}")
        return None

    def version(self, key: Key, node: toml.Node) -> Value | None:
        # Looked at before anything else, in `_version`.
        return 1

    def line_of_text(self, key: Key, node: toml.Node) -> Value | None:
        value = self.text(key, node, '"one sentence"')
        if value is None:
            return None
        if len(value) > MAX_TEXT or not value.isprintable():
            self.mistake(
                node.place,
                key.name,
                "policy-bad-text",
                f"{shown(value)} is longer than {MAX_TEXT} characters or holds "
                "characters that cannot be printed",
                "one line of plain text",
            )
            return None
        return value

    def policy_name(self, key: Key, node: toml.Node) -> Value | None:
        value = self.text(key, node, '"default"')
        if value is None:
            return None
        if not POLICY_NAME.fullmatch(value):
            self.mistake(
                node.place,
                key.name,
                "policy-bad-name",
                f"{shown(value)} is not the name of a policy",
                "the name of a file in a policy directory, without .toml: "
                "letters, digits, . _ -",
            )
            return None
        return value

    def choice(self, key: Key, node: toml.Node) -> Value | None:
        value = self.text(key, node, f'"{key.choices[0]}"')
        if value is None:
            return None
        if value not in key.choices:
            near = difflib.get_close_matches(value[:64], key.choices, 1)
            self.mistake(
                node.place,
                key.name,
                "policy-bad-choice",
                f"{shown(value)} is not a choice here",
                (f'did you mean "{near[0]}"? ' if near else "")
                + "one of: "
                + ", ".join(key.choices),
            )
            return None
        return value

    def flag(self, key: Key, node: toml.Node) -> Value | None:
        if isinstance(node, toml.Leaf) and isinstance(node.value, bool):
            return node.value
        self.wrong_type(key, node, "true or false", "without quotes")
        return None

    def count(self, key: Key, node: toml.Node) -> Value | None:
        value = node.value if isinstance(node, toml.Leaf) else None
        if isinstance(value, bool) or not isinstance(value, int):
            what = (
                shown(value)
                if isinstance(value, str)
                else str(value)[:40]
                if isinstance(value, float)
                else _kind_of(node)
            )
            self.mistake(
                node.place,
                key.name,
                "policy-not-a-number",
                f"{what} is not a whole number",
                "write a count such as "
                f"{_example(key)}, or leave the key out to keep the inherited one",
            )
            return None
        return self.in_range(key, node, value)

    def size(self, key: Key, node: toml.Node) -> Value | None:
        value = node.value if isinstance(node, toml.Leaf) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return self.in_range(key, node, value)
        if isinstance(value, float):
            self.mistake(
                node.place,
                key.name,
                "policy-not-a-number",
                f"{str(value)[:40]} is not a whole number of bytes",
                'write a size such as "64M"',
            )
            return None
        if not isinstance(value, str):
            self.wrong_type(key, node, "a size", 'write a size such as "64M"')
            return None
        found = quote.SIZE.fullmatch(value)
        if found is None:
            self.mistake(
                node.place,
                key.name,
                "policy-bad-size",
                f"{shown(value)} is not a size",
                'digits and at most one of K M G, such as "64M"; K is 1024',
            )
            return None
        return self.in_range(key, node, int(found[1]) * quote.UNIT[found[2]])

    def in_range(self, key: Key, node: toml.Node, value: int) -> int | None:
        if key.minimum <= value <= key.maximum:
            return value
        few, many = _number(key, key.minimum), _number(key, key.maximum)
        # An int of thousands of digits must not be printed: Python refuses to.
        number = str(value) if value.bit_length() < 80 else "a huge number"
        self.mistake(
            node.place,
            key.name,
            "policy-out-of-range",
            f"{number} is not between {few} and {many}",
            f"at least {few}" if value < key.minimum else f"at most {many}",
        )
        return None

    def hostname(self, key: Key, node: toml.Node) -> Value | None:
        value = self.text(key, node, '"sugar"')
        if value is None:
            return None
        if not _HOSTNAME.fullmatch(value):
            self.mistake(
                node.place,
                key.name,
                "policy-bad-hostname",
                f"{shown(value)} is not a host name",
                "at most 63 letters, digits and -, with no - at either end (RFC 1123)",
            )
            return None
        return value

    def items(
        self,
        key: Key,
        node: toml.Node,
        example: str,
        item: Callable[[Key, str, toml.Place], bool],
    ) -> Listed | None:
        """A list of texts, each accepted by ``item``; "..." may stand first."""
        if not isinstance(node, toml.Array) or node.of_tables:
            self.wrong_type(key, node, "a list", f"write [{example}]")
            return None
        if len(node.items) > MAX_ITEMS:
            self.mistake(
                node.place,
                key.name,
                "policy-too-many-items",
                f"more than {MAX_ITEMS} items",
                "name a directory instead of what is in it",
            )
            return None
        own: list[str] = []
        inherits = False
        good = True
        for index, element in enumerate(node.items):
            value = element.value if isinstance(element, toml.Leaf) else None
            if not isinstance(value, str):
                self.wrong_type(key, element, "a text in quotes", f"write {example}")
                good = False
            elif value == INHERIT:
                if index:
                    self.mistake(
                        element.place,
                        key.name,
                        "policy-misplaced-dots",
                        '"..." stands for the inherited items and must come first',
                        "move it to the front",
                    )
                    good = False
                elif not key.inherited:
                    self.mistake(
                        element.place,
                        key.name,
                        "policy-misplaced-dots",
                        "this key is never inherited, so there is nothing to keep",
                        'take the "..." away',
                    )
                    good = False
                inherits = True
            elif value in own:
                self.mistake(
                    element.place,
                    key.name,
                    "policy-duplicate-item",
                    f"{shown(value)} is in the list already",
                    "keep one of the two",
                )
                good = False
            elif item(key, value, element.place):
                own.append(value)
            else:
                good = False
        return Listed(tuple(own), inherits) if good else None

    def _grammar(
        self, pattern: re.Pattern[str], code: str, what: str, hint: str
    ) -> Callable[[Key, str, toml.Place], bool]:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            if pattern.fullmatch(value) and len(value) <= 255:
                return True
            self.mistake(at, key.name, code, f"{shown(value)} is not {what}", hint)
            return False

        return item

    def bundle_ids(self, key: Key, node: toml.Node) -> Listed | None:
        return self.items(
            key,
            node,
            '"org.laptop.Calculate"',
            self._grammar(
                _BUNDLE_ID,
                "policy-bad-bundle-id",
                "a bundle id or a prefix of one",
                'such as "org.laptop.Calculate" or "org.laptop.*"',
            ),
        )

    def callers(self, key: Key, node: toml.Node) -> Listed | None:
        return self.items(
            key,
            node,
            '"@users"',
            self._grammar(
                _CALLER,
                "policy-bad-caller",
                "a user or a group",
                'such as "alice" or "@teachers"; "*" is everybody',
            ),
        )

    def addresses(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            found = _ADDRESS.fullmatch(value)
            if found and 0 < int(found[3]) < 65536:
                return True
            self.mistake(
                at,
                key.name,
                "policy-bad-address",
                f"{shown(value)} is not an address",
                'such as "tcp://wiki.laptop.org:443"',
            )
            return False

        return self.items(key, node, '"tcp://wiki.laptop.org:443"', item)

    def devices(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            if value in key.choices:
                return True
            self.mistake(
                at,
                key.name,
                "policy-bad-choice",
                f"{shown(value)} is not a kind of device",
                "one of: " + ", ".join(key.choices),
            )
            return False

        return self.items(key, node, '"gpu"', item)

    def bus_calls(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            name, equals, rule = value.partition("=")
            if equals and bus.is_name(name) and bus.is_rule(rule):
                if bus.launches(rule):
                    self.mistake(
                        at,
                        key.name,
                        "policy-grants-launch",
                        f"{shown(value)} takes in org.laptop.Journal.LaunchBundle, by "
                        "which one activity could start another",
                        "name the methods and the path; Sugar's shell answers to "
                        "several names with one connection, and the filter knows "
                        "connections",
                    )
                    return False
                return self.not_ours(key, name, at)
            self.mistake(
                at,
                key.name,
                "policy-bad-bus-rule",
                f"{shown(value)} is not NAME=INTERFACE.METHOD@PATH",
                'such as "org.laptop.Shell=org.laptop.Shell.ActivateActivity'
                '@/org/laptop/Shell"',
            )
            return False

        return self.items(key, node, '"NAME=RULE"', item)

    def bus_names(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            name = value.replace("{activity-id}", "ID")
            if bus.is_name(name):
                return self.not_ours(key, name, at)
            self.mistake(
                at,
                key.name,
                "policy-bad-bus-rule",
                f"{shown(value)} is not a bus name",
                'such as "org.laptop.Activity{activity-id}"',
            )
            return False

        return self.items(key, node, '"NAME"', item)

    def not_ours(self, key: Key, name: str, at: toml.Place) -> bool:
        """No sandbox may ask the launcher for another one, or go behind a mediator."""
        # A pattern NAME.* takes in NAME itself and everything below it.
        stem = name.removesuffix(".*")
        for never, (code, why) in bus.NEVER.items():
            within = stem == never or stem.startswith(never + ".")
            if within or (name.endswith(".*") and never.startswith(stem + ".")):
                self.mistake(
                    at,
                    key.name,
                    code,
                    f"{shown(name)} takes in {never}, {why}",
                    "name the services one by one",
                )
                return False
        return True

    def variables(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            if environment.is_name(value.removesuffix("*")):
                return True
            self.mistake(
                at,
                key.name,
                "policy-bad-variable",
                f"{shown(value)} is not a variable's name",
                'such as "LANG", or "LC_*" for all that begin so; a bare "*" would '
                "keep every secret of the caller's",
            )
            return False

        return self.items(key, node, '"LANG"', item)

    def settings_(self, key: Key, node: toml.Node) -> Value | None:
        if not isinstance(node, toml.Table):
            self.wrong_type(key, node, "a table", 'write { NO_COLOR = "1" }')
            return None
        if len(node.entries) > MAX_ITEMS:
            self.mistake(
                node.place,
                key.name,
                "policy-too-many-items",
                f"more than {MAX_ITEMS} variables",
            )
            return None
        for name, entry in node.entries.items():
            full = f"{key.name}.{safe(name)}"
            value = entry.node.value if isinstance(entry.node, toml.Leaf) else None
            if not environment.is_name(name):
                self.mistake(
                    entry.key,
                    full,
                    "policy-bad-variable",
                    f"{shown(name)} is not a variable's name",
                    "letters, digits and _, not beginning with a digit",
                )
            elif value is False:
                self.settings[name] = None
            elif not isinstance(value, str):
                self.mistake(
                    entry.node.place,
                    full,
                    "policy-wrong-type",
                    f"{_kind_of(entry.node)} stands where a text in quotes is expected",
                    'write "1" for a number; false takes an inherited variable away',
                )
            elif "\0" in value or len(value.encode()) > environment.MAX_VALUE:
                self.mistake(
                    entry.node.place,
                    full,
                    "policy-bad-variable",
                    f"{shown(value)} holds a NUL or is longer than "
                    f"{environment.MAX_VALUE // 1024}K",
                    "no environment can carry that",
                )
            else:
                self.settings[name] = value
            self.origins[f"environment.set.{name}"] = Origin(
                file=self.file, line=entry.key.line
            )
        return "set"

    def read_paths(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            if not self._path(key, value, at):
                return False
            why = reserved.refuse_read(value, self.private)
            if why:
                self.mistake(
                    at,
                    key.name,
                    "policy-forbidden-path",
                    f"{shown(value)} may not be shown: {why}",
                    "name what the activity needs of it",
                )
                return False
            return True

        return self.items(key, node, '"/usr"', item)

    def write_paths(self, key: Key, node: toml.Node) -> Listed | None:
        def item(key: Key, value: str, at: toml.Place) -> bool:
            if not self._path(key, value, at):
                return False
            why = reserved.refuse_write(value, self.protected)
            if why:
                self.mistake(
                    at,
                    key.name,
                    "policy-forbidden-path",
                    f"{shown(value)} may not be written: {why}",
                    "name a directory that holds only what the activity is to write",
                )
                return False
            return True

        return self.items(key, node, '"/srv/drawings"', item)

    def _path(self, key: Key, value: str, at: toml.Place) -> bool:
        path = value
        if value.startswith(IN_HOME):
            value = f"/home/{value.removeprefix(IN_HOME)}"
        if (
            not value.startswith("/")
            or not value.isprintable()
            or len(value.encode()) > MAX_PATH
            or value != posixpath.normpath(value)
            or value.startswith("//")
        ):
            self.mistake(
                at,
                key.name,
                "policy-bad-path",
                f"{shown(path)} is not a plain absolute path",
                'such as "/usr/share" or "{home}/drawings": no "..", "." or "//", no '
                '"/" at the end, nothing that cannot be printed',
            )
            return False
        for ours in reserved.MADE_BY_US:
            if value == ours or value.startswith(ours + "/"):
                self.mistake(
                    at,
                    key.name,
                    "policy-forbidden-path",
                    f"{shown(value)} lies in {ours}, which every activity has anew",
                    "devices are granted by [devices]"
                    if ours == "/dev"
                    else "leave it out",
                )
                return False
        if value in reserved.MADE_PATHS:
            self.mistake(
                at,
                key.name,
                "policy-forbidden-path",
                f"every activity has {shown(value)} of its own",
                reserved.MADE_PATHS[value],
            )
            return False
        return True

    # Tables of another shape

    def _grants(self, entry: toml.Entry) -> None:
        if not isinstance(entry.node, toml.Table):
            self.mistake(
                entry.node.place,
                "grants",
                "policy-wrong-type",
                f"{_kind_of(entry.node)} stands where a table is expected",
                "write [grants] on a line of its own",
            )
            return
        for name, grant in entry.node.entries.items():
            self._grant(name, grant)

    def _grant(self, name: str, entry: toml.Entry) -> None:
        full = f"grants.{safe(name)}"
        known = bitfrost.find(name)
        because = _reason(entry.node)
        if known is None:
            near = bitfrost.nearest(name)
            self.mistake(
                entry.key,
                full,
                "policy-bad-grant",
                f"{shown(name)} is not one of Bitfrost's names",
                f"did you mean {near}?" if near else "docs/policy.md lists them",
            )
        elif because is None:
            self.mistake(
                entry.node.place,
                full,
                "policy-bad-grant",
                "a grant holds its reason and nothing else",
                f'write {name} = {{ because = "one sentence" }}',
            )
        elif known.missing:
            self.mistake(
                entry.key,
                full,
                "policy-not-enforced-yet",
                f"this grant is understood, but nothing enforces it yet: "
                f"{known.missing}",
                "leave it out",
            )
        else:
            good = [self._given(full, entry, given) for given in known.gives]
            if all(good):
                origin = Origin(file=self.file, line=entry.key.line)
                self.grants[name] = Grant(name=name, because=because, origin=origin)
                self.origins[full] = origin

    def _given(self, full: str, entry: toml.Entry, given: bitfrost.Gives) -> bool:
        """Set what a grant stands for, unless the file says it itself."""
        said, wanted = self.values.get(given.key), given.value
        if isinstance(wanted, tuple):
            own = said.own if isinstance(said, Listed) else ()
            more = tuple(item for item in wanted if item not in own)
            inherits = said.inherits if isinstance(said, Listed) else True
            self.values[given.key] = Listed((*own, *more), inherits)
        elif said is not None and not isinstance(said, Listed):
            if given.covers(said):
                return True
            self.mistake(
                entry.key,
                full,
                "policy-grant-contradicts",
                f"it stands for {given.key} = {written(wanted)}, and line "
                f"{self.origins[given.key].line} says {written(said)}",
                "take one of the two away",
            )
            return False
        else:
            self.values[given.key] = wanted
        self.origins.setdefault(given.key, Origin(file=self.file, line=entry.key.line))
        return True

    def _each(
        self,
        entry: toml.Entry,
        name: str,
        what: str,
        one: Callable[[toml.Table], None],
    ) -> None:
        """The tables of a list of them, each by ``one``."""
        node = entry.node
        if not isinstance(node, toml.Array) or not (node.of_tables or not node.items):
            self.mistake(
                entry.key,
                name,
                "policy-wrong-type",
                f"{what} is an item of a list of tables",
                f"write [[{name}]] on a line of its own",
            )
            return
        for item in node.items[:MAX_ITEMS]:
            if isinstance(item, toml.Table):
                one(item)
        if len(node.items) > MAX_ITEMS:
            self.mistake(
                node.items[MAX_ITEMS].place,
                name,
                "policy-too-many-items",
                f"more than {MAX_ITEMS} of [[{name}]]",
            )

    def _words(
        self,
        table: toml.Table,
        name: str,
        words: Mapping[str, str],
        needed: tuple[str, ...],
    ) -> dict[str, toml.Leaf] | None:
        """The values of one such table; ``words`` has an example of each key.

        None after a mistake: a key that is not known, or one that is missing.
        """
        found: dict[str, toml.Leaf] = {}
        good = True
        for key, entry in table.entries.items():
            if key not in words:
                near = difflib.get_close_matches(key[:64], words, 1)
                known = ", ".join(words)
                self.mistake(
                    entry.key,
                    f"{name}.{safe(key)}",
                    "policy-unknown-key",
                    f"there is no key {shown(key)} in [[{name}]]",
                    f"did you mean {near[0]}?" if near else f"it has {known}",
                )
                good = False
            elif isinstance(entry.node, toml.Leaf):
                found[key] = entry.node
            else:
                self.mistake(
                    entry.node.place,
                    f"{name}.{key}",
                    "policy-wrong-type",
                    f"{_kind_of(entry.node)} stands where one value is expected",
                    f"such as {key} = {words[key]}",
                )
                good = False
        for key in needed:
            if key not in table.entries:
                self.mistake(
                    table.place,
                    f"{name}.{key}",
                    "policy-missing-key",
                    f"this [[{name}]] is not complete",
                    f"it needs {', '.join(needed)}",
                )
                good = False
        return found if good else None

    def _line(self, leaf: toml.Leaf, key: str, example: str, most: int) -> str | None:
        """A line of text that somebody else reads, or a mistake and None."""
        value = leaf.value
        if (
            isinstance(value, str)
            and value.strip()
            and value.isprintable()
            and len(value) <= most
        ):
            return value
        self.mistake(
            leaf.place,
            key,
            "policy-wrong-type",
            "a line of text in quotes is expected",
            f"such as {key.rpartition('.')[2]} = {example}",
        )
        return None

    def _expect(self, table: toml.Table) -> None:
        found = self._words(table, "expect", EXPECT, tuple(EXPECT))
        if found is None:
            return
        words = {
            key: self._line(leaf, f"expect.{key}", EXPECT[key], MAX_PATH)
            for key, leaf in found.items()
        }
        that, attempt, result = (words[key] for key in EXPECT)
        if result is not None and result not in attempts.RESULTS:
            self.mistake(
                found["result"].place,
                "expect.result",
                "policy-bad-choice",
                f"{shown(result)} is not a choice here",
                "one of: " + ", ".join(attempts.RESULTS),
            )
            result = None
        if attempt is not None and not attempts.is_attempt(attempt.split()):
            verb = attempt.split()[0]
            hint = attempts.ATTEMPTS.get(
                verb, "begin with one of: " + ", ".join(attempts.ATTEMPTS)
            )
            if hint == f"{verb} PATH":
                hint += f", which is absolute or in {IN_HOME} and holds no space"
            self.mistake(
                found["try"].place,
                "expect.try",
                "policy-bad-expect",
                f"{shown(attempt)} cannot be tried",
                hint,
            )
            attempt = None
        if that is None or attempt is None or result is None:
            return
        verb, *argument = attempt.split()
        self.expects.append(
            Expect(
                that=that,
                verb=verb,
                argument=tuple(argument),
                result=cast(Literal["allowed", "refused", "absent"], result),
                origin=Origin(file=self.file, line=table.place.line),
            )
        )

    def _accept(self, table: toml.Table) -> None:
        found = self._words(table, "accept", ACCEPT, ("finding", "because", "until"))
        if found is None:
            return
        words = {
            key: self._line(
                leaf,
                f"accept.{key}",
                ACCEPT[key],
                MAX_PATH if key == "item" else MAX_TEXT,
            )
            for key, leaf in found.items()
            if key != "until"
        }
        finding = words["finding"]
        if finding is not None and finding not in audit.ACCEPTABLE:
            near = difflib.get_close_matches(finding[:64], audit.ACCEPTABLE, 1)
            self.mistake(
                found["finding"].place,
                "accept.finding",
                "policy-bad-choice",
                f"{shown(finding)} is no finding that can be accepted",
                f"did you mean {near[0]}?" if near else "docs/policy.md lists them",
            )
            finding = None
        key = words.get("key", "")
        if key and not _is_key(key):
            near_key = _nearest(key, "")
            self.mistake(
                found["key"].place,
                "accept.key",
                "policy-bad-choice",
                f"there is no key {shown(key)}",
                f"did you mean {near_key}?" if near_key else 'such as "files.read"',
            )
            key = None
        until = self._day(found["until"])
        because, item = words["because"], words.get("item", "")
        if finding and because and until and key is not None and item is not None:
            self.accepts.append(
                Accept(
                    finding=finding,
                    key=key,
                    item=item,
                    because=because,
                    until=until,
                    origin=Origin(file=self.file, line=table.place.line),
                )
            )

    def _day(self, leaf: toml.Leaf) -> datetime.date | None:
        value = leaf.value
        if isinstance(value, datetime.date) and not isinstance(
            value, datetime.datetime
        ):
            return value
        what = _kind_of(leaf)
        if isinstance(value, datetime.datetime | datetime.time):
            what = "a time"
        self.mistake(
            leaf.place,
            "accept.until",
            "policy-wrong-type",
            f"{what} stands where a day is expected",
            "write until = 2027-06-30, without quotes and without a time",
        )
        return None


_VALUES: Mapping[str, Callable[[_Checker, Key, toml.Node], Value | Listed | None]] = {
    "version": _Checker.version,
    "policy-name": _Checker.policy_name,
    "text": _Checker.line_of_text,
    "choice": _Checker.choice,
    "flag": _Checker.flag,
    "count": _Checker.count,
    "seconds": _Checker.count,
    "size": _Checker.size,
    "hostname": _Checker.hostname,
    "read-paths": _Checker.read_paths,
    "write-paths": _Checker.write_paths,
    "bundle-ids": _Checker.bundle_ids,
    "callers": _Checker.callers,
    "addresses": _Checker.addresses,
    "devices": _Checker.devices,
    "bus-calls": _Checker.bus_calls,
    "bus-names": _Checker.bus_names,
    "variables": _Checker.variables,
    "settings": _Checker.settings_,
}

EXPECT: Mapping[str, str] = {
    "that": '"the network is closed"',
    "try": '"connect tcp 127.0.0.1:22"',
    "result": '"refused"',
}
"""The keys of [[expect]], with an example of each."""

ACCEPT: Mapping[str, str] = {
    "finding": '"reads-others"',
    "key": '"files.read"',
    "item": '"/srv/atlas"',
    "because": '"All classes use the maps there."',
    "until": "2027-06-30",
}
"""The keys of [[accept]], with an example of each."""


def _reason(node: toml.Node) -> str | None:
    """The sentence in ``{ because = "…" }``; None if anything else is there."""
    if not isinstance(node, toml.Table) or {*node.entries} != {"because"}:
        return None
    reason = node.entries["because"].node
    value = reason.value if isinstance(reason, toml.Leaf) else None
    return value if isinstance(value, str) and _is_sentence(value) else None


def _is_sentence(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and len(text) <= MAX_TEXT


def _is_key(name: str) -> bool:
    """Of an origin: environment.set and grants have one for each of their names."""
    return name in _KEYS or name.startswith(("environment.set.", "grants."))


def _example(key: Key) -> str:
    return key.default if key.default.isdigit() and key.default != "0" else "32"


def _number(key: Key, number: int) -> str:
    return with_unit(number) if key.kind == "size" else str(number)


def _kind_of(node: toml.Node) -> str:
    match node:
        case toml.Table():
            return "a table"
        case toml.Array():
            return "a list of tables" if node.of_tables else "a list"
        case toml.Leaf(value=bool(value)):
            return "true" if value else "false"
        case toml.Leaf(value=str(text)):
            return f"the text {shown(text)}"
        case toml.Leaf(value=float(number)):
            return "a number that is none" if math.isnan(number) else "a number"
        case toml.Leaf(value=int()):
            return "a number"
        case _:
            return "a date"


def _nearest(name: str, table: str) -> str:
    """The known key that was probably meant, with its table if it is another one."""
    name = name[:64]
    here = {key.name.rpartition(".")[2]: key.name for key in KEYS if key.table == table}
    if not table:
        here |= {other: f"[{other}]" for other in TABLES if other}
        here |= {name: f"[[{name}]]" for name in ("expect", "accept")}
    if near := difflib.get_close_matches(name, here, 1, 0.6):
        return here[near[0]]
    last = {key.name.rpartition(".")[2]: key.name for key in KEYS}
    if near := difflib.get_close_matches(name, last, 1, 0.75):
        return last[near[0]]
    if near := difflib.get_close_matches(name, [key.name for key in KEYS], 1, 0.6):
        return near[0]
    return ""
