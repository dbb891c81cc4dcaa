# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents say is there, is there: verbs, options, files, links, tests."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from support import module_table, policy_page

from isolauncher import config, launch, rooms
from isolauncher.cli import main, ps
from isolauncher.cli.main import Parser
from isolauncher.zygote import sets

TOP = Path(__file__).resolve().parent.parent
MAN = TOP / "docs/man"
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])
MANUALS = sorted(MAN.iterdir())


def parsers(verb: str) -> Iterator[Parser]:
    """The parser of a verb, and those of what stands below it."""
    _, parser = main.load(verb)
    todo = [parser]
    while todo:
        one = todo.pop()
        yield one
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += action.choices.values()


def options(verb: str) -> set[str]:
    every = {
        option
        for parser in parsers(verb)
        for action in parser._actions
        for option in action.option_strings
    }
    return every - {"-h", "--help"}


def plain(roff: str) -> str:
    """The words of a manual page's source, without its marks."""
    text = re.sub(r"\\f[A-Z]", "", roff)
    text = text.replace(r"\-", "-").replace(r"\&", "").replace(r"\e", "\\")
    return re.sub(r"\\\(bu", "", text)


def sections(page: Path, mark: str) -> dict[str, str]:
    """Title → source, of the sections (.SH) or subsections (.SS) of a page."""
    found = {}
    for part in re.split(r"^(?=\.S[HS] )", page.read_text(), flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        if head.startswith(f".{mark} "):
            title = plain(head[4:]).strip('"')
            assert title not in found, f"{page.name} has {title} twice"
            found[title] = plain(body)
    return found


def test_every_verb_has_its_section_in_the_manual_and_nothing_else_has() -> None:
    assert list(sections(MAN / "isolauncher.1", "SS")) == list(main.present())


@pytest.mark.parametrize("verb", main.present())
def test_every_option_of_a_verb_is_in_its_section_and_no_other(verb: str) -> None:
    section = sections(MAN / "isolauncher.1", "SS")[verb]
    told = set(re.findall(r"^\.BI? (--?[a-z-]+)", section, flags=re.MULTILINE))
    assert told == options(verb)
    # `preload list` and their like.
    for parser in parsers(verb):
        below = parser.prog.split()[2:]
        assert all(re.search(rf"^\.B {word}$", section, re.M) for word in below)


def test_the_daemons_page_has_its_options_configuration_and_log() -> None:
    page = sections(MAN / "isolauncherd.8", "SH")
    told = set(re.findall(r"^\.BI (--[a-z-]+)", page["OPTIONS"], re.MULTILINE))
    assert told == options("daemon")
    numbers, words = config._check("the example", _examples(MAN / "isolauncherd.8")[0])
    written = {**numbers, **words}
    assert config.Uids(**written["uids"]) == config.Uids()
    assert config.Quotas(**written["quotas"]) == config.Quotas()
    assert config.DaemonLimits(**written["limits"]) == config.DaemonLimits()
    assert config.RoomsAhead(**written["rooms"]) == config.RoomsAhead()
    assert config.Memory(**written["memory"]) == config.Memory()
    assert config.Shell(**written["shell"]) == config.Shell()
    for table, kind in written.items():
        every = {
            "uids": config.Uids,
            "quotas": config.Quotas,
            "rooms": config.RoomsAhead,
            "memory": config.Memory,
            "shell": config.Shell,
        }
        names = fields(every.get(table, config.DaemonLimits))
        assert set(kind) == {f.name for f in names}, table
    source = "".join(p.read_text() for p in (TOP / "isolauncher").glob("*.py"))
    events = set(re.findall(r'\blog\.event\(\s*"([a-z-]+)"', source))
    assert len(events) > 10
    assert {e for e in events if not re.search(rf"\b{e}\b", page["LOG"])} == set()


def _examples(page: Path) -> list[str]:
    source = page.read_text()
    found = re.findall(r"^\.EX\n(.*?)^\.EE", source, re.MULTILINE | re.DOTALL)
    return [plain(text) for text in found]


def test_the_manual_names_every_field_of_the_report_and_of_ps() -> None:
    told = sections(MAN / "isolauncher.1", "SH")["REPORT"]
    activity = launch.Activity(
        id="",
        caller_uid=0,
        bundle_id=None,
        caller_gid=0,
        policy="",
        policy_files=(),
        tier="",
        path="",
        program=[],
        room=rooms.Room(id=""),
        tied=True,
    )
    report = activity.report()
    for name, value in report.items():
        inner = value if isinstance(value, dict) else {}
        for word in (*inner, *(() if name == "version" else (name,))):
            assert re.search(rf"\b{word}\b", told), f"{name}: {word}"
    listed = sections(MAN / "isolauncher.1", "SS")["ps"]
    assert [f for f in ps.FIELDS if not re.search(rf"\b{f}\b", listed)] == []


def test_the_manual_of_policies_is_the_reference_of_policies() -> None:
    said = policy_page.page((TOP / "docs/policy.md").read_text(encoding="utf-8"))
    assert (MAN / "isolauncher-policy.5").read_text(encoding="utf-8") == said


# ------------------------------------------------------------------------- commands


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line in a code block of a document: (where, its words)."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        blocks += re.findall(r"(?:^ {4}\S.*\n)+", text, re.MULTILINE)
        yield from _lines(path.name, "\n".join(blocks))
    for path in MANUALS:
        yield from _lines(path.name, "\n".join(_examples(path)))


def _lines(where: str, text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        line = re.sub(r"^source <\((.*)\)$", r"\1", line.strip().removeprefix("$ "))
        match = re.match(r"(sudo )?(\.venv/bin/)?(isolauncher|make) ", line)
        if match:
            words = shlex.split(re.split(r" [>&|]", line)[0], comments=True)
            yield where, words[1:] if match[1] else words


def test_the_commands_of_the_documents_parse() -> None:
    seen = set()
    for where, (_, verb, *words) in (c for c in commands() if c[1][0] != "make"):
        assert verb in main.present(), (where, verb)
        module, parser = main.load(verb)
        try:
            getattr(module, "parse", Parser.parse_args)(parser, words)
        except SystemExit:
            pytest.fail(f"{where}: isolauncher {verb} {shlex.join(words)}")
        seen.add((where, verb))
    assert {v for w, v in seen if w == "README.md"} >= {"doctor", "run", "daemon", "ps"}


def test_the_documents_name_targets_that_make_has() -> None:
    rules = re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE)
    told = {(w, words[1]) for w, words in commands() if words[0] == "make"}
    assert ("README.md", "demo") in told
    assert {target for target in told if target[1] not in rules} == set()


# ---------------------------------------------------------------------------- files


# Where a name without its whole path is looked for.
ROOTS = ("", "docs", "isolauncher", "isolauncher/zygote", "policies")
# Files that a reader or an example has, and we have not.
MADE_UP = {
    *("json.py", "hello.py", "handover/weather.py", "NAME.toml", "r.json"),
    "my-policies/reader.toml",
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_file_that_a_document_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # The table has what auditing printed, on one machine.
    text = text.partition(module_table.TITLE)[0]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([\w.][\w./-]*\.(?:py|md|sh|toml|1|5|8))`", prose))
    named |= set(re.findall(r"`((?:docs|tests|isolauncher|policies)/[\w./-]*)`", prose))
    missing = {
        name
        for name in named - MADE_UP
        if not any((TOP / root / name).exists() for root in ROOTS)
    }
    assert missing == set()


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert place.is_relative_to(TOP), target
        if anchor:
            assert anchor in anchors(place), target


# -------------------------------------------------------------------------- hazards


def hazards() -> list[list[str]]:
    text = (TOP / "docs/preload.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (H\d+ \|.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def test_the_table_of_hazards_is_complete_and_its_tests_exist() -> None:
    assert [row[0] for row in hazards()] == [f"H{n}" for n in range(1, 42)]
    known = set()
    for path in (TOP / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    planted = (TOP / "tests/zygote/test_hazards.py").read_text(encoding="utf-8")
    known |= {f"[{row}]" for row in re.findall(r'"(H\d+-[\w-]+)": Row\(', planted)}
    for row in hazards():
        assert len(row) == 4, row
        named = re.findall(r"`(test_\w+|\[H[\w-]+\])`", row[3])
        assert set(named) <= known, row[0]
        told = "later" in row[3] or row[3] in ("stated above", "by reading")
        assert named or told, row[0]


def test_every_module_of_a_set_and_every_package_is_in_the_table() -> None:
    rows = module_table.rows((TOP / "docs/preload.md").read_text(encoding="utf-8"))
    listed = (TOP / "tests/twins/packages.txt").read_text(encoding="utf-8")
    packages = {line.split()[0] for line in listed.splitlines() if line[0] != "#"}
    assert {*sets.SUGAR3, *packages} == set(rows)


def test_every_hazard_that_a_docstring_names_is_in_the_table_beside_it() -> None:
    """What a module of the hand-over says it answers, the table says of it too."""
    table = {row[0]: row[2] for row in hazards()}
    for path in (TOP / "isolauncher/zygote/handover").glob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        listed = text.partition("Hazards:")[2]
        for id in re.findall(r"\bH\d+\b", listed):
            assert id in table, (path.name, id)
            shared = id in ("H9", "H10", "H35")  # named as somebody else's
            assert shared or f"`{path.stem}" in table[id], (path.name, id)
