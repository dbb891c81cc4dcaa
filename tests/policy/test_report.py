# SPDX-License-Identifier: GPL-3.0-or-later
"""What `test-policy` and `explain` print: plain in a pipe, coloured on a terminal.

Whatever somebody else wrote, a path, a value, a bundle's request, is text and no more:
it neither moves the cursor nor turns a line around nor ends one.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from .test_command import command

TRICKS = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "c1": "\x9b31m",
    "turned": "\u202egnp.exe",
    "isolated": "\u2067a\u2069",
    "mark": "\u200f\u200e\u061c",
    "line": "one\ntwo",
    "lines": "one\u2028two\u2029three",
    "return": "good\rbad",
    "back": "bad\b\b\bgood",
    "tab": "a\tb",
    "delete": "\x7f",
    "nothing": "\u200b\ufeff\u00ad",
    "surrogate": os.fsdecode(b"\xff\xfe"),
}
TOGETHER = {
    "controls": ("colour", "clear", "title", "c1", "return", "back", "tab", "delete"),
    "directions": ("turned", "isolated", "mark", "nothing"),
    "lines": ("line", "lines", "surrogate"),
}
BUNDLE = "[Activity]\nname = A\nbundle_id = org.laptop.Own\nexec = a\n"


def harmless(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), line


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A directory whose name plays tricks, with two policies that say it as well."""
    trick = "".join(TRICKS[name] for name in TOGETHER[request.param])
    path = tmp_path / f"a {trick} b"
    path.mkdir()
    value = json.dumps(trick.encode("utf-8", "replace").decode())
    (path / "mine.toml").write_text(
        f"version = 1\n[environment]\nset = {{ PATH = {value}, NAME = {value} }}\n"
        '[network]\naccess = "host"\n[files]\nread = ["/srv"]\n'
    )
    (path / "bad.toml").write_text(
        f"version = 1\ndescription = {value}\n{value} = 3\n[files]\nread = [{value}]\n"
        f"[grants]\n{value} = {{ because = {value} }}\n"
        f"[[accept]]\nfinding = {value}\nbecause = {value}\nuntil = 2027-06-30\n"
        f"[[expect]]\nthat = {value}\ntry = {value}\nresult = {value}\n"
    )
    return path


def test_every_trick_is_played() -> None:
    assert {name for names in TOGETHER.values() for name in names} == {*TRICKS}


@pytest.mark.parametrize("place", TOGETHER, indirect=True)
def test_nothing_that_somebody_wrote_reaches_the_terminal_as_it_is(
    checkout: Path, place: Path
) -> None:
    mine, bad = f"{place}/mine.toml", f"{place}/bad.toml"
    for words in (
        ("test-policy", mine, bad, f"{place}/nosuch.toml", str(place)),
        ("test-policy", "--diff", mine, "default"),
        ("test-policy", "--policy-dir", str(place)),
        ("test-policy", "--format", "junit", mine, bad),
        ("test-policy", "--json", mine, bad),
        ("explain", mine),
        ("explain", "default", place.name),
        ("explain", "--json", mine),
    ):
        done = command(*words, checkout=checkout)
        harmless(done.stdout)
        harmless(done.stderr)
        assert "Traceback" not in done.stderr
        if "junit" in words:
            ET.fromstring(done.stdout)  # noqa: S314 (our own)
        if "--json" in words:
            assert json.loads(done.stdout)["version"] == 1
    said = command("test-policy", mine, checkout=checkout).stdout
    assert "dangerous" in said


@pytest.mark.parametrize("trick", ["turned", "mark", "nothing", "isolated"])
def test_what_a_bundle_asks_for_is_escaped(
    checkout: Path, tmp_path: Path, trick: str
) -> None:
    """Of control characters there can be none: such a file is refused."""
    (tmp_path / "activity").mkdir()
    (tmp_path / "activity/activity.info").write_text(BUNDLE)
    (tmp_path / "activity/permissions.info").write_text(
        f"{TRICKS[trick]} x\nlim_mem {TRICKS[trick]}\n"
    )
    for verb in ("explain", "test-policy"):
        done = command(verb, str(tmp_path), checkout=checkout)
        assert done.returncode == 0, done.stderr
        harmless(done.stdout)
        assert "line 1: " in done.stdout
        assert "line 2: lim_mem " in done.stdout


# ------------------------------------------------------------------- colour and columns


def on_terminal(*words: str, environment: Mapping[str, str] | None = None) -> str:
    main, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "isolauncher", *words],
        stdin=subprocess.DEVNULL,
        stdout=other,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", **(environment or {})},
    ):
        os.close(other)
        text = b""
        with open(main, "rb", buffering=0) as terminal:
            # EIO: the other end is closed, and all is read (pty(7)).
            with suppress(OSError):
                while more := terminal.read(65536):
                    text += more
    return text.decode().replace("\r\n", "\n")


SGR = re.compile(r"\x1b\[[0-9;]*m")


def test_colours_are_for_terminals_and_say_nothing_that_words_do_not(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text(
        'version = 1\n[network]\naccess = "host"\n[identity]\nuid = "bundle"\n'
        '[display]\nx11 = "shared"\n[[accept]]\nfinding = "display-shared"\n'
        'because = "It draws."\nuntil = 9999-12-31\n'
    )
    words = ("test-policy", f"{tmp_path}/a.toml")
    piped = command(*words, checkout=checkout).stdout
    seen = on_terminal(*words)
    assert "\x1b" not in piped
    coloured = {
        SGR.sub("", found[0]).strip()
        for found in re.finditer(r"\x1b\[[0-9;]+m[^\x1b]*\x1b\[0m", seen)
    }
    assert coloured == {"valid", "dangerous", "note", "accepted"}
    assert SGR.sub("", seen) == piped
    assert on_terminal(*words, environment={"NO_COLOR": "1"}) == piped
    assert "\x1b" not in on_terminal(*words, "--json")
    assert "\x1b" not in on_terminal(*words, "--format", "junit")


def test_findings_stand_in_columns(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'version = 1\n[network]\naccess = "host"\n[identity]\nuid = "bundle"\n'
        '[display]\nx11 = "shared"\n'
    )
    text = command("test-policy", f"{tmp_path}/a.toml", checkout=checkout).stdout
    heads = [line for line in text.splitlines() if line.endswith("]") and " (" in line]
    assert {line[2:12].strip() for line in heads} == {"dangerous", "open", "note"}
    for line in heads:
        assert re.match(r"  [a-z]+ +(?<=^.{12})[a-z0-9.-]+ \(", line), line
    lines = text.splitlines()
    for head in heads:
        at = lines.index(head)
        assert re.match(r" {12}\S", lines[at + 1])


# -------------------------------------------------------------------------------- JUnit

# What Ant's schema of JUnit reports asks for, which Jenkins, GitLab and others read:
# element → attributes that must be there, attributes that may be, children in order
# ("*" any number, "?" one or none of those between "|").
NUMBER, DECIMAL, TOKEN = r"\d+", r"\d+(\.\d+)?", r"\S(.*\S)?"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
JUNIT: Mapping[str, tuple[Mapping[str, str], Mapping[str, str], str]] = {
    "testsuites": ({}, {}, "(testsuite )*"),
    "testsuite": (
        {
            "name": TOKEN,
            "timestamp": TIME,
            "hostname": TOKEN,
            "tests": NUMBER,
            "failures": NUMBER,
            "errors": NUMBER,
            "time": DECIMAL,
            "package": TOKEN,
            "id": NUMBER,
        },
        {"skipped": NUMBER},
        "properties (testcase )*system-out system-err ",
    ),
    "properties": ({}, {}, "(property )*"),
    "testcase": (
        {"name": TOKEN, "classname": TOKEN, "time": DECIMAL},
        {},
        "((skipped|error|failure) )?",
    ),
    "error": ({"type": ".+"}, {"message": ".*"}, ""),
    "failure": ({"type": ".+"}, {"message": ".*"}, ""),
    "system-out": ({}, {}, ""),
    "system-err": ({}, {}, ""),
}


def keeps_to_junit(element: ET.Element) -> None:
    must, may, children = JUNIT[element.tag]
    assert {*must} <= {*element.keys()} <= {*must, *may}, element.tag
    for name, value in element.items():
        assert re.fullmatch({**must, **may}[name], value, re.DOTALL), (name, value)
    tags = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(children, tags), (element.tag, tags)
    if element.tag in ("testsuites", "testsuite", "properties"):
        assert not (element.text or "").strip()
    for child in element:
        keeps_to_junit(child)


def test_junit_keeps_to_its_schema(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("version = 1\n[limits]\nnise = 3\n")
    (tmp_path / "open.toml").write_text(
        'version = 1\n[environment]\nset = { LD_PRELOAD = "a  \\u001b[2J\\n b" }\n'
        '[network]\naccess = "host"\n[[accept]]\nfinding = "network-host"\n'
        'because = "x"\nuntil = 9999-12-31\n'
    )
    for words in (
        ("--policy-dir", str(tmp_path)),
        ("--threshold", "note"),
        ("nosuch", "./no/such/bundle", "default"),
    ):
        done = command("test-policy", "--format", "junit", *words, checkout=checkout)
        top = ET.fromstring(done.stdout)  # noqa: S314 (our own)
        keeps_to_junit(top)
        suites = list(top)
        assert [suite.get("id") for suite in suites] == [
            str(number) for number in range(len(suites))
        ]
        for suite in suites:
            cases = suite.findall("testcase")
            assert int(suite.get("tests", "")) == len(cases)
            for name, tag in (("failures", "failure"), ("errors", "error")):
                told = [case for case in cases if case.find(tag) is not None]
                assert int(suite.get(name, "")) == len(told)
            # A case is told from another by its name.
            names = [case.get("name") for case in cases]
            assert len({*names}) == len(names)
    wrong = ET.fromstring(done.stdout)  # noqa: S314 (our own)
    del wrong[0].attrib["hostname"]
    with pytest.raises(AssertionError):
        keeps_to_junit(wrong)
