# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair of policy directories of a test's own, with the shipped policies in one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolauncher.errors import Mistake, PolicyError
from isolauncher.policy.load import PolicyStore

SHIPPED = Path(__file__).resolve().parents[2] / "policies"


@dataclass(frozen=True)
class Shelf:
    """Where a test puts policies, and the store that reads them."""

    vendor: Path
    etc: Path
    store: PolicyStore

    def put(self, name: str, text: str | bytes, *, where: str = "etc") -> Path:
        path = (self.etc if where == "etc" else self.vendor) / f"{name}.toml"
        new = path.with_suffix(".new")
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        new.rename(path)
        return path

    def mistakes(self, name: str) -> tuple[Mistake, ...]:
        with pytest.raises(PolicyError) as caught:
            self.store.get(name)
        return caught.value.mistakes

    def codes(self, name: str) -> list[str]:
        return [mistake.code for mistake in self.mistakes(name)]


@contextmanager
def shelf_in(top: Path) -> Iterator[Shelf]:
    vendor, etc = top / "vendor", top / "etc"
    vendor.mkdir()
    etc.mkdir()
    for name in ("default.toml", "untrusted.toml"):
        shutil.copy(SHIPPED / name, vendor / name)
    store = PolicyStore(
        str(vendor),
        str(etc),
        owners=frozenset({0, os.getuid()}),
        protected=("/var/lib/isolauncher", "/run/isolauncher"),
    )
    try:
        yield Shelf(vendor, etc, store)
    finally:
        store.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with shelf_in(tmp_path) as made:
        yield made
