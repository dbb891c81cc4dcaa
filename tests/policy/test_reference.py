# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of the language and the language are the same thing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from isolauncher.policy.model import KEYS, TABLES
from isolauncher.policy.reference import reference

from .conftest import Shelf


def test_the_document_is_up_to_date(checkout: Path) -> None:
    written = (checkout / "docs" / "policy.md").read_text()
    assert (
        written == reference()
    ), "run: python3 -m isolauncher.policy.reference > docs/policy.md"


def test_the_document_names_every_key() -> None:
    text = reference()
    for key in KEYS:
        if key.name != "grants":
            assert f"- `{key.name.rpartition('.')[2]}` (" in text
        assert key.table in TABLES


def test_the_documents_examples_are_policies(shelf: Shelf) -> None:
    examples = re.findall(r"```toml\n(.*?)```", reference(), re.DOTALL)
    assert examples
    for number, text in enumerate(examples):
        if "version" not in tomllib.loads(text):
            text = "version = 1\n" + text
        shelf.put(f"example{number}", text)
        assert shelf.store.get(f"example{number}").files


def test_no_line_of_the_document_is_too_wide() -> None:
    assert max(map(len, reference().splitlines())) <= 90
