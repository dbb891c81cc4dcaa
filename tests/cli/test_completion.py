# SPDX-License-Identifier: GPL-3.0-or-later
"""The completion scripts in real shells, and the manual against the parsers."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.powers import need, program

from isolauncher.cli import completion, main

MAN = Path(__file__).parents[2] / "docs" / "man"

# What a shell is made to type, the last word unfinished, and what it must offer.
TYPED = [
    ("isolauncher ", set(main.present())),
    ("isolauncher r", {"run"}),
    ("isolauncher ps --", {"--json", "--help"}),
    ("isolauncher run --t", {"--tier"}),
    ("isolauncher run --tier ", {"fork", "exec"}),
    ("isolauncher run --id x --st", {"--standalone"}),
    ("isolauncher completion ", {"bash", "zsh"}),
    ("isolauncher completion z", {"zsh"}),
    ("isolauncher stop ", {"one_1", "two_2"}),
    ("isolauncher stop o", {"one_1"}),
    ("isolauncher identity ", {"list", "gc"}),
    ("isolauncher identity list --j", {"--json"}),
    ("isolauncher daemon --policy-dir dir", {"directory"}),
    ("isolauncher run --report file", {"file_one", "file two"}),
    ("isolauncher run -m x file", {"file_one", "file two"}),
    ("isolauncher run ls file", {"file_one", "file two"}),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files to complete, and an `isolauncher` that lists two activities."""
    (tmp_path / "file_one").touch()
    (tmp_path / "file two").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "isolauncher"
    command.write_text("#!/bin/sh\nprintf 'ID X\\none_1 x\\ntwo_2 x\\n'\n")
    command.chmod(0o755)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


def bash_offers(place: Path, line: str) -> list[str]:
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    script = completion.bash() + (
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))})\n"
        f"COMP_CWORD={len(words) - 1}\n"
        "_isolauncher\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    found = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    return [line for line in found.stdout.splitlines() if line]


@pytest.mark.parametrize(("line", "wanted"), TYPED)
def test_bash_completes(place: Path, line: str, wanted: set[str]) -> None:
    need(program("bash"))
    if line.startswith("isolauncher identity") and "identity" not in main.present():
        pytest.fail("the verb identity is gone")
    offered = bash_offers(place, line)
    assert wanted <= set(offered)
    last = line.rpartition(" ")[2]
    assert all(word.startswith(last) for word in offered)


def test_bash_offers_the_policies_that_are_installed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(program("bash"))
    (place / "my policies").mkdir()
    (place / "my policies" / "games.toml").touch()
    monkeypatch.setattr(
        completion, "_policy_dirs", lambda: (str(place / "my policies"), "/absent")
    )
    assert bash_offers(place, "isolauncher run --policy g") == ["games"]


def test_what_belongs_to_the_program_gets_no_options_of_ours(place: Path) -> None:
    need(program("bash"))
    for line in ("run ls --", "run -m x --", "run -- ls --", "run --tier exec ls -"):
        assert bash_offers(place, f"isolauncher {line}") == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_valid_for_its_shell(tmp_path: Path, shell: str) -> None:
    need(program(shell))
    text = completion.bash() if shell == "bash" else completion.zsh()
    script = tmp_path / "script"
    script.write_text(text)
    found = subprocess.run([shell, "-n", script], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_zsh_loads_the_script_as_a_completion(tmp_path: Path) -> None:
    need(program("zsh"))
    (tmp_path / "_isolauncher").write_text(completion.zsh())
    script = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; "
        f"compinit -u -d {tmp_path}/d; print -r -- $_comps[isolauncher]; "
        "autoload +X _isolauncher"
    )
    found = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "_isolauncher\n", "")


def test_zsh_takes_the_script_by_source_too(tmp_path: Path) -> None:
    need(program("zsh"))
    (tmp_path / "script").write_text(completion.zsh())
    script = (
        f"autoload -Uz compinit; compinit -u -d {tmp_path}/d; source {tmp_path}/script;"
        "print -r -- $_comps[isolauncher] $+functions[_isolauncher]"
    )
    found = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (
        0,
        "_isolauncher 1\n",
        "",
    )


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield from completion._nodes()


def test_both_scripts_know_every_option_of_every_verb() -> None:
    for _, parser in parsers():
        for action in parser._actions:
            for option in action.option_strings:
                assert option in completion.bash()
                assert option in completion.zsh()


@pytest.mark.parametrize("verb", main.present())
def test_the_manual_knows_every_option_of_the_verb(verb: str) -> None:
    page = (MAN / "isolauncher.1").read_text().replace("\\-", "-")
    section = page.split(f'\n.SS "{verb}"\n', 1)
    assert len(section) == 2, f"no section {verb}"
    text = section[1].split("\n.SS ")[0].split("\n.SH ")[0]
    for node, parser in parsers():
        if node.split()[0] != verb:
            continue
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert option in text, f"{node} {option}"


@pytest.mark.parametrize("page", ["isolauncher.1", "isolauncherd.8"])
def test_the_manual_is_set_without_a_warning(page: str) -> None:
    need(program("groff"))
    found = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-K", "utf8", MAN / page],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    assert "ISOLAUNCHER" in found.stdout
