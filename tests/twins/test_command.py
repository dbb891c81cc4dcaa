# SPDX-License-Identifier: GPL-3.0-or-later
"""`preload check --twin`: a difference is found, and where there is none it says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes())
    with service() as made:
        yield made


def check(daemon: Service, path: Path | str, *words: str) -> tuple[int, str, str]:
    done = daemon.isolauncher(
        "preload", "check", *words, "--twin", str(path), "--", "a"
    )
    return done.status, done.text, done.errors


SAME = """
import argparse, json, logging, sys
logging.warning("heard %s", sys.argv[1:])
print(json.dumps({"a": 1}))
raise SystemExit(len(sys.argv))
"""
FAILS = "import json\n\ndef f():\n    raise ValueError('at the end')\n\nf()\n"
SEES = "import gc, json\njson.seen = gc.get_freeze_count() > 0\nprint(json.seen)\n"
ENDS = "import os\nprint('so far', flush=True)\nos._exit(3)\n"
FLAGS = "#!/usr/bin/python3 -I\nprint('isolated')\n"


@pytest.mark.parametrize("source", [SAME, FAILS])
def test_a_program_that_is_the_same_both_ways(
    daemon: Service, tmp_path: Path, source: str
) -> None:
    script = tmp_path / "same.py"
    script.write_text(source)
    status, text, errors = check(daemon, script)
    assert (status, errors) == (0, "")
    assert "modules, output and status compared: 0 values differ" in text


def test_a_difference_is_named_in_the_output_and_in_a_module(
    daemon: Service, tmp_path: Path
) -> None:
    script = tmp_path / "sees.py"
    script.write_text(SEES)
    status, text, _ = check(daemon, script)
    assert status == 1
    assert "differs: /out: False\\n | True\\n" in text
    assert "differs: /json/seen: False | True" in text
    status, text, _ = check(daemon, script, "--json")
    said = json.loads(text)["twin"]
    assert status == 1
    assert {d["what"] for d in said["differing"]} == {"/out", "/json/seen"}
    assert said["whole"] is True


def test_what_cannot_be_looked_at_or_forked_is_said(
    daemon: Service, tmp_path: Path
) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    status, text, _ = check(daemon, script)
    assert status == 0
    assert "left no time to look at its modules" in text
    script.write_text(FLAGS)
    status, text, _ = check(daemon, script)
    assert (status, text) == (
        0,
        "exec'ed in any case: its first line gives the interpreter -I\n",
    )
    status, text, errors = check(daemon, tmp_path / "none.py")
    assert (status, text) == (127, "")
    assert errors.endswith("[program-not-found]\n")
