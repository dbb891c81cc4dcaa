# SPDX-License-Identifier: GPL-3.0-or-later
"""The adapter in Sugar's shell, for the tests of more than one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapting import Made, adapting


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    with adapting(tmp_path, monkeypatch) as one:
        yield one
