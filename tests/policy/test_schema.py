# SPDX-License-Identifier: GPL-3.0-or-later
"""The published schemas say what the loader takes and what the reports hold."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.powers import installed, need, root, sandboxes

from isolauncher.policy import schema
from isolauncher.policy.load import PolicyStore


def validator(checkout: Path, name: str) -> Any:
    need(installed("jsonschema"))
    import jsonschema

    text = (checkout / "docs/schema" / name).read_text(encoding="utf-8")
    made = jsonschema.Draft7Validator(json.loads(text))
    made.check_schema(made.schema)
    return made


def test_the_schema_of_policies_is_printed_from_the_model(checkout: Path) -> None:
    text = (checkout / "docs/schema/policy.json").read_text(encoding="utf-8")
    assert (
        json.loads(text) == schema.schema()
    ), "python3 -m isolauncher.policy.schema > docs/schema/policy.json"


def test_every_shipped_policy_keeps_to_the_schema(checkout: Path) -> None:
    policies = validator(checkout, "policy.json")
    with closing(PolicyStore()) as shipped:
        names = shipped.names()
    for name in names:
        text = (checkout / "policies" / f"{name}.toml").read_text(encoding="utf-8")
        assert list(policies.iter_errors(tomllib.loads(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "description = 'no version'",
        "version = 2",
        "version = 1\n[limits]\nproceses = 3",
        "version = 1\n[limits]\nmemory = '10Q'",
        "version = 1\n[network]\naccess = 'filtered'",
        "version = 1\n[devices]\nallow = ['webcam']",
        "version = 1\n[display]\nx11 = true",
        "version = 1\n[[expect]]\nthat = 'x'\ntry = 'dance'\nresult = 'refused'",
        "version = 1\n[nonsense]\n",
        "version = 1\n[grants]\nP_NET = {}",
        "version = 1\n[grants]\nP_NET = { because = '' }",
        "version = 1\n[grants]\nP_NONE = { because = 'x' }",
        "version = 1\n[grants]\nP_DOCUMENT_RO = { because = 'x' }",
        "version = 1\n[grants]\n'P_BIOS_*' = { because = 'x' }",
    ],
)
def test_what_no_policy_may_say_does_not_keep_to_it(checkout: Path, text: str) -> None:
    policies = validator(checkout, "policy.json")
    assert list(policies.iter_errors(tomllib.loads(text)))


def test_grants_keep_to_it(checkout: Path) -> None:
    policies = validator(checkout, "policy.json")
    text = "version = 1\n[grants]\n"
    for name in ("P_NET", "P_X", "P_BIOS_CORE", "P_THEFT"):
        text += f"{name} = {{ because = 'A reason.' }}\n"
    assert list(policies.iter_errors(tomllib.loads(text))) == []


ACCEPT = "version = 1\n[[accept]]\n"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("finding = 'network-host'\nbecause = 'x'\nuntil = 2027-06-30", True),
        ("finding = 'network-host'\nbecause = 'x'", False),
        ("finding = 'network-host'\nbecause = ''\nuntil = 2027-06-30", False),
        ("finding = 'no-reason'\nbecause = 'x'\nuntil = 2027-06-30", False),
        ("finding = 'network-host'\nbecause = 'x'\nuntil = 2027", False),
        ("finding = 'bus-wide'\nbecause = 'x'\nuntil = 2027-06-30T10:00:00", False),
    ],
)
def test_exceptions_keep_to_it(checkout: Path, text: str, good: bool) -> None:
    """To an editor a date is a text."""
    policies = validator(checkout, "policy.json")
    read = json.loads(json.dumps(tomllib.loads(ACCEPT + text), default=str))
    assert (not list(policies.iter_errors(read))) is good


def test_a_report_with_exceptions_keeps_to_its_schema(
    checkout: Path, tmp_path: Path
) -> None:
    for name, day in (("held", "9999-12-31"), ("late", "2020-01-01")):
        text = f"finding = 'network-host'\nbecause = 'x'\nuntil = {day}\n"
        network = "[network]\naccess = 'host'\n"
        (tmp_path / f"{name}.toml").write_text(ACCEPT + text + network)
    reports = validator(checkout, "test-policy.json")
    command = [sys.executable, "-m", "isolauncher", "test-policy", "--json"]
    for words in ((), ("--diff", "held", "late")):
        done = subprocess.run(
            [*command, "--policy-dir", str(tmp_path), *words],
            capture_output=True,
            cwd=checkout,
            check=False,
        )
        assert b"accepted" in done.stdout
        assert list(reports.iter_errors(json.loads(done.stdout))) == []


@pytest.mark.parametrize(
    "words",
    [(), ("--diff", "default", "sugar"), ("nosuch",), ("--live", "untrusted")],
)
def test_reports_keep_to_their_schema(checkout: Path, words: tuple[str, ...]) -> None:
    reports = validator(checkout, "test-policy.json")
    if "--live" in words:
        need(root(), sandboxes())
    command = [sys.executable, "-m", "isolauncher", "test-policy", "--json", *words]
    done = subprocess.run(command, capture_output=True, cwd=checkout, check=False)
    assert list(reports.iter_errors(json.loads(done.stdout))) == []
