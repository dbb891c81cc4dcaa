# SPDX-License-Identifier: GPL-3.0-or-later
"""An administrator's directory of a test's own, and what is taken in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolauncher.errors import HostError, NotAllowed
from isolauncher.policy import keep, restrict
from isolauncher.policy.load import PolicyStore

SHIPPED = Path(__file__).resolve().parents[3] / "policies"
LOG, CALCULATE, RECORD = "org.laptop.Log", "org.laptop.Calculate", "org.laptop.Record"
BY_HAND = """\
version = 1
extends = "log"

[match]
bundle-id = ["org.laptop.Log"]
"""


class Place:
    """An administrator's directory beside the shipped policies, and its store."""

    def __init__(self, etc: Path, vendor: Path = SHIPPED) -> None:
        self.etc = etc
        owners = frozenset({0, os.getuid(), SHIPPED.stat().st_uid})
        self.store = PolicyStore(str(vendor), str(etc), owners=owners)

    def standing(self, bundle_id: str = LOG) -> restrict.Standing:
        return restrict.standing(self.store, bundle_id)

    def take(self, *powers: str, bundle_id: str = LOG, **how: object) -> str:
        standing = self.standing(bundle_id)
        taken = restrict.powers(powers, standing)
        return keep.put(self.store, standing, taken, **how)  # type: ignore[arg-type]

    def files(self) -> dict[str, bytes]:
        """All that lies there, the hidden too."""
        if not self.etc.exists():
            return {}
        return {path.name: path.read_bytes() for path in self.etc.iterdir()}

    def write(self, name: str, text: str) -> Path:
        self.etc.mkdir(exist_ok=True)
        path = self.etc / name
        path.write_text(text)
        path.chmod(0o644)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "policies")
    yield made
    made.store.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    """With shipped policies of its own, as another version may bring them."""
    vendor = tmp_path / "vendor"
    shutil.copytree(SHIPPED, vendor)
    made = Place(tmp_path / "policies", vendor)
    yield made
    made.store.close()


def refused(place: Place, code: str, *powers: str, **how: object) -> NotAllowed:
    before = place.files()
    with pytest.raises((NotAllowed, HostError)) as caught:
        place.take(*powers, **how)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert place.files() == before
    return caught.value  # type: ignore[return-value]
