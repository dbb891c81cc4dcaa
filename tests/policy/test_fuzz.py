# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever bytes a policy file holds: a policy or a list of mistakes, soon."""

from __future__ import annotations

import contextlib
import random
import resource
import time

import pytest

from isolauncher.errors import PolicyError
from isolauncher.policy import check, environment, trust
from isolauncher.policy.model import KEYS

from .conftest import SHIPPED, Shelf
from .test_bad_policies import BAD
from .test_toml import Writer, mangle

PROTECTED = ("/var/lib/isolauncher",)
CODES: set[str] = set()


def tried(data: bytes) -> bool:
    """True: no mistake. Anything but mistakes is raised and fails the test."""
    layer = check.check(data, "x.toml", protected=PROTECTED, private=PROTECTED)
    assert len(layer.mistakes) <= check.MAX_MISTAKES + 1
    for mistake in layer.mistakes:
        assert mistake.line >= 1
        assert mistake.column >= 1
        assert len(mistake.text()) < 6000
        assert mistake.text().replace("\n  (", "").isprintable(), mistake
        CODES.add(mistake.code)
    if layer.mistakes:
        assert str(PolicyError(layer.mistakes))
    return not layer.mistakes


def seeds() -> list[str]:
    texts = [(SHIPPED / "untrusted.toml").read_text()[:900]]
    texts += ["version = 1\n" + text for text, _ in BAD.values() if len(text) < 300]
    values = ['"64M"', "3", "true", '["..."]', '["/usr"]', '"none"', "{}", "nan", "-1"]
    for number, key in enumerate(KEYS):
        if key.table:
            last = key.name.rpartition(".")[2]
            value = values[number % len(values)]
            texts.append(f"version = 1\n[{key.table}]\n{last} = {value}\n")
    return texts


def fuzz(number: int, *, first: int) -> int:
    good = 0
    texts = seeds()
    for seed in range(first, first + number):
        source = random.Random(seed)  # noqa: S311 - a test that repeats itself
        match source.randrange(8):
            case 0:
                data = source.randbytes(source.randrange(200))
            case 1:
                data = ("version = 1\n" + Writer(seed).document()).encode()
            case 2:
                one, two = source.choice(texts), source.choice(texts)
                cut = source.randrange(len(one))
                data = (one[:cut] + two).encode("utf-8", "surrogateescape")
            case 3:
                raw = bytearray(source.choice(texts).encode("utf-8", "surrogateescape"))
                for _ in range(source.randrange(1, 6)):
                    raw[source.randrange(len(raw))] = source.randrange(256)
                data = bytes(raw)
            case _:
                text = source.choice(texts)
                for _ in range(source.randrange(1, 4)):
                    text = mangle(text, source)
                data = text.encode("utf-8", "surrogateescape")
        good += tried(data)
    return good


def test_ten_thousand_fuzzed_files_give_mistakes_or_a_layer() -> None:
    assert fuzz(10_000, first=0) > 100
    assert len(CODES) > 25


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_fuzzed_files_in_bounded_memory() -> None:
    fuzz(1000, first=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz(100_000, first=10_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_fuzzed_files_through_the_whole_store(shelf: Shelf) -> None:
    texts = seeds()
    for seed in range(500):
        source = random.Random(seed)  # noqa: S311 - a test that repeats itself
        text = mangle(source.choice(texts), source)
        shelf.put("fuzzed", text.encode("utf-8", "surrogateescape"))
        with contextlib.suppress(PolicyError):
            environment.build(shelf.store.get("fuzzed"), {"LANG": "C"}, {})


BIG = trust.MAX_BYTES - 20

LARGE: dict[str, str] = {
    "brackets": "[" * BIG,
    "list in list": "a = " + "[" * BIG,
    "table in table": "a = " + "{a=" * (BIG // 3),
    "key of thousands of parts": ".".join("a" * (BIG // 2)) + " = 1",
    "header of thousands of parts": "[" + ".".join("a" * (BIG // 2)) + "]",
    "keys of many parts": "a.b.c.d.e.f = 1\n" * (BIG // 16),
    "unknown keys": "".join(f"k{n} = 1\n" for n in range(BIG // 12)),
    "long unknown key": "a" * BIG + " = 1",
    "similar unknown keys": "[limits]\n"
    + "".join(f"memory{n} = 1\n" for n in range(BIG // 17)),
    "texts not closed": '"""\n' * (BIG // 4),
    "values not closed": 'a = """\n' * (BIG // 8),
    "quotes": '"' * BIG,
    "escapes": 'a = "' + "\\" * BIG,
    "long text": 'description = "' + "a" * (BIG - 16) + '"',
    "blanks": " " * BIG,
    "newlines": "\n" * BIG,
    "comments": "#\n" * (BIG // 2),
    "empty tables": "".join(f"[a{n}]\n" for n in range(BIG // 9)),
    "lists of tables": "[[expect]]\n" * (BIG // 11),
    "nested lists of tables": "[[a]]\n[[a.b]]\n[[a.b.c]]\n" * (BIG // 24),
    "many values": "a = [" + "1," * (BIG // 2 - 5) + "]",
    "many paths": "[files]\nread = [" + '"/a",' * (BIG // 5 - 10) + "]",
    "many settings": "[environment.set]\n"
    + "".join(f"A{n} = '1'\n" for n in range(BIG // 13)),
    "digits": "[limits]\nprocesses = " + "9" * (BIG - 30),
    "hex digits": "[limits]\nprocesses = 0x" + "f" * (BIG - 30),
    "fraction": "[limits]\nmemory = 1." + "0" * (BIG - 30),
    "exponent": "[limits]\nmemory = 1e" + "9" * (BIG - 30),
    "size digits": '[limits]\nmemory = "' + "9" * (BIG - 30) + '"',
    "long try": "[[expect]]\nthat = 'a'\nresult = 'absent'\ntry = 'read "
    + "/a " * (BIG // 3 - 40)
    + "'",
    "lists not closed": "a = [\n" * (BIG // 6),
    "headers not closed": "[a\n" * (BIG // 3),
    "NUL": "\0" * BIG,
    "commas": "a = [" + "," * BIG,
    "dots": "a" + "." * BIG,
    "long bundle id": '[match]\nbundle-id = ["' + "a." * (BIG // 2 - 30) + '"]',
    "long path": '[files]\nread = ["' + "/a" * (BIG // 2 - 30) + '"]',
}


@pytest.mark.parametrize("name", LARGE)
def test_the_largest_file_of_each_shape_is_answered_soon(name: str) -> None:
    text = "version = 1\n" + LARGE[name]
    started = time.process_time()
    tried(text.encode()[: trust.MAX_BYTES])
    assert time.process_time() - started < 3
