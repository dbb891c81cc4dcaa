# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's own rules: its commands, its borders, its installation."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import powers

TOP = Path(__file__).resolve().parent.parent

# Third-party (and foreign) modules, and the only files that may import each. What a
# preloaded program finds in sys.modules is zygote/'s own business.
DOORS = {
    # live/probe.py is a program by itself: what runs in a sandbox has none of ours.
    "ctypes": {"kernel.py", "probe.py"},
    "prctl": {"kernel.py"},
    "pyroute2": {"netlink.py"},
    "seccomp": {"filters.py"},
    # shellbus.py is in Sugar's shell, on the connection that the shell has.
    "dbus": {"service.py", "shellbus.py"},
    "sugar3": {"adapter.py"},
    "jarabe": {"adapter.py"},
    "Xlib": {"windows.py"},
    # Whoever speaks D-Bus as the person: all of them in session/.
    "gi": {
        *("service.py", "settings.py", "mediator.py"),
        *("relay.py", "journal.py", "chooser.py", "presence.py", "adapter.py"),
        *("shellbus.py", "icons.py", "stopping.py"),
    },
}


def sources() -> list[Path]:
    return sorted((TOP / "isolauncher").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, capture_output=True, text=True, check=False, **{"cwd": TOP, **more}
    )


@pytest.mark.parametrize("package", DOORS)
def test_each_foreign_package_has_one_door(package: str) -> None:
    inside = [path for path in sources() if "zygote" not in path.parts]
    importers = {path.name for path in inside if package in set(imported(path))}
    assert importers <= DOORS[package]


def test_nothing_else_is_imported_than_what_pyproject_names() -> None:
    known = sys.stdlib_module_names | DOORS.keys() | {"isolauncher"}
    inside = [path for path in sources() if "zygote" not in path.parts]
    strangers = {
        (path.name, name)
        for path in inside
        for name in imported(path)
        if name not in known
    }
    assert strangers == set()


def test_every_source_file_names_its_licence_first() -> None:
    for path in [*sources(), *(TOP / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        head = [line for line in text.splitlines()[:2] if not line.startswith("#!")]
        assert head, path
        assert head[0] == "# SPDX-License-Identifier: GPL-3.0-or-later", path


def test_ci_runs_the_readme_s_test_command_and_excuses_nothing() -> None:
    assert "    sudo make test\n" in (TOP / "README.md").read_text()
    last = (TOP / ".ci/run").read_text().splitlines()[-1]
    assert last == 'exec "${sudo[@]}" make test ISOLAUNCHER_MUST_WORK=1'


def test_make_help_says_a_sentence_for_each_target() -> None:
    # Not as a part of the make that may run these tests: it would say where it is.
    alone = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    told = run("make", "help", env=alone).stdout.splitlines()
    targets = [line.split()[0] for line in told]
    wanted = (
        "help setup demo test test-long check bench install-sugar remove-sugar clean"
    ).split()
    assert targets == wanted
    assert all(re.fullmatch(r"\S+ +[A-Z].*\.", line) for line in told)


def test_what_is_put_where_sugar_looks_is_whole_or_what_was_there(
    tmp_path: Path,
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    place, tools = tmp_path / "place", tmp_path / "tools"
    words = ("make", "-o", "setup", "install-sugar", f"DESTDIR={place}")
    first = run(*words, env=env)
    asked = "run this as root: apt-get install" in first.stderr
    powers.need(first.stderr if asked else None)
    assert first.returncode == 0, first.stderr

    def found() -> dict[Path, str]:
        return {
            p: p.read_text()
            for p in place.rglob("*")
            if p.suffix != ".mo" and p.is_file()
        }

    before = found()
    assert sum(str(TOP) in text for text in before.values()) >= 3
    tools.mkdir()
    full = tools / "sed"
    full.write_text("#!/bin/sh\necho the first line\nexit 4\n")
    full.chmod(0o755)
    again = run(*words, env={**env, "PATH": f"{tools}:{env['PATH']}"})
    assert again.returncode != 0
    assert found() == before


def test_ruff_and_mypy_have_nothing_to_say() -> None:
    tools = TOP / ".venv/bin"
    missing = None if (tools / "mypy").exists() else "make tools has not been run"
    powers.need(missing)
    for command in (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    ):
        done = run(tools / command[0], *command[1:])
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_installation_with_pip_has_its_policies_and_runs(tmp_path: Path) -> None:
    """In a virtual environment that sees the system's packages; without a network."""
    tree = tmp_path / "tree"
    skip = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(TOP, tree, ignore=skip)
    venv = tmp_path / "venv"
    # A tree that pip has been told nothing about but this: no variable, no file.
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    made = run(
        *("/usr/bin/python3", "-m", "venv", "--system-site-packages", "--without-pip"),
        venv,
        env=clean,
    )
    assert made.returncode == 0, made.stderr
    python = venv / "bin/python3"
    installed = run(
        *(python, "-m", "pip", "install", "--no-index", "--no-build-isolation", tree),
        env=clean,
        cwd=tmp_path,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    shutil.rmtree(tree)
    command = venv / "bin/isolauncher"
    doctor = run(command, "doctor", "--json", env=clean, cwd=tmp_path)
    assert json.loads(doctor.stdout)["version"] == 1, doctor.stderr
    where = run(
        python,
        "-c",
        "from isolauncher import paths; print(paths.vendor_policies())",
        env=clean,
        cwd=tmp_path,
    )
    vendor = Path(where.stdout.strip())
    assert vendor == venv / "share/isolauncher/policies"
    names = {path.name for path in (TOP / "policies").glob("*.toml")}
    assert {path.name for path in vendor.iterdir()} == names
