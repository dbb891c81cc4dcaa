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
        "version = 1\n[devices]\nallow = ['camera']",
        "version = 1\n[display]\nx11 = true",
        "version = 1\n[[expect]]\nthat = 'x'\ntry = 'dance'\nresult = 'refused'",
        "version = 1\n[nonsense]\n",
    ],
)
def test_what_no_policy_may_say_does_not_keep_to_it(checkout: Path, text: str) -> None:
    policies = validator(checkout, "policy.json")
    assert list(policies.iter_errors(tomllib.loads(text)))


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
