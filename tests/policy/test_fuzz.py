# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever bytes a policy file holds: a policy or a list of mistakes, soon."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolauncher.errors import Mistake, PolicyError
from isolauncher.policy import audit, check, environment, trust
from isolauncher.policy.model import KEYS
from isolauncher.report import Outcome, Text

from .conftest import SHIPPED, Shelf
from .test_bad_policies import BAD
from .test_toml import Writer, mangle

PROTECTED = ("/var/lib/isolauncher",)
CODES: set[str] = set()
TODAY = datetime.date(2026, 11, 29)
TABLES = """version = 1
[grants]
P_NET = { because = "It reads the web." }
P_THEFT = { because = "It is on every machine." }
[display]
x11 = "shared"
[[accept]]
finding = "network-host"
because = "There is no other."
until = 2027-06-30
[[accept]]
finding = "reads-others"
key = "files.read"
item = "/srv"
because = "Maps."
until = 2020-01-01
[[expect]]
that = "the network is open"
try = "connect tcp 127.0.0.1:22"
result = "allowed"
"""


def tried(data: bytes) -> bool:
    """True: no mistake. Anything but mistakes is raised and fails the test."""
    layer = check.check(data, "x.toml", protected=PROTECTED, private=PROTECTED)
    told(layer.mistakes)
    return not layer.mistakes


def told(mistakes: tuple[Mistake, ...]) -> None:
    """Few, short, with their places, and harmless to read."""
    assert len(mistakes) <= check.MAX_MISTAKES + 1
    for mistake in mistakes:
        assert mistake.line >= 1
        assert len(mistake.text()) < 6000
        assert mistake.text().replace("\n  (", "").isprintable(), mistake
        CODES.add(mistake.code)
    if mistakes:
        assert str(PolicyError(mistakes))


def loaded(shelf: Shelf, data: bytes) -> bool:
    """The same through the whole loader: file, checks, layers, findings, plan."""
    # Never empty in between: some file systems wait for the disk then.
    fd = os.open(shelf.etc / "fuzzed.toml", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
    try:
        policy = shelf.store.get("fuzzed")
    except PolicyError as error:
        mistakes = error.mistakes
    else:
        environment.build(policy, {"LANG": "C"}, {})
        outcome = Outcome(
            name="fuzzed", policy=policy, remarks=audit.remarks(policy, today=TODAY)
        )
        for line in Text(colour=False).valid(outcome):
            assert line.isprintable(), line
        return True
    told(mistakes)
    return False


def seeds() -> list[str]:
    texts = [(SHIPPED / "untrusted.toml").read_text()[:900]]
    texts += ["version = 1\n" + text for text, _ in BAD.values() if len(text) < 300]
    texts += [TABLES] * 20
    values = ['"64M"', "3", "true", '["..."]', '["/usr"]', '"none"', "{}", "nan", "-1"]
    for number, key in enumerate(KEYS):
        if key.table:
            last = key.name.rpartition(".")[2]
            value = values[number % len(values)]
            texts.append(f"version = 1\n[{key.table}]\n{last} = {value}\n")
    return texts


@contextlib.contextmanager
def within(megabytes: int) -> Iterator[None]:
    """Whoever takes more memory meets MemoryError, which no loader may catch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text()
    now = int(re.search(r"VmData:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (now + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def fuzz(number: int, shelf: Shelf, *, first: int) -> int:
    """How many were policies; each answers within a second of the processor's time."""
    good = 0
    for data in fuzzed(number, first=first):
        started = time.process_time()
        good += loaded(shelf, data)
        assert time.process_time() - started < 1, data
    return good


def fuzzed(number: int, *, first: int) -> Iterator[bytes]:
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
        yield data


def test_ten_thousand_fuzzed_files_are_policies_or_mistakes(shelf: Shelf) -> None:
    with within(32):
        assert fuzz(10_000, shelf, first=0) > 100
    assert len(CODES) > 30
    assert {"policy-bad-grant", "policy-grant-contradicts"} <= CODES


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_fuzzed_files_in_bounded_memory(shelf: Shelf) -> None:
    fuzz(1000, shelf, first=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(32):
        assert fuzz(100_000, shelf, first=10_000) > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_the_limit_of_memory_is_one() -> None:
    with within(32), pytest.raises(MemoryError):
        bytearray(64 << 20)
    bytearray(64 << 20)


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
    "lists of exceptions": "[[accept]]\n" * (BIG // 11),
    "many exceptions": "[[accept]]\nfinding = 'bus-wide'\nbecause = 'x'\n"
    "until = 2027-06-30\n" * (BIG // 62),
    "many grants": "[grants]\n"
    + "".join(f"P_N{n} = {{ because = 'x' }}\n" for n in range(BIG // 26)),
    "long grant": "[grants]\nP_BIOS_" + "A" * (BIG - 40) + " = {}",
    "long reason": "[grants]\nP_NET = { because = '" + "a" * (BIG - 60) + "' }",
    "long finding": "[[accept]]\nbecause = 'x'\nuntil = 2027-06-30\nfinding = '"
    + "network-host" * (BIG // 12 - 8)
    + "'",
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
    with within(64):
        tried(text.encode()[: trust.MAX_BYTES])
    assert time.process_time() - started < 3
