# SPDX-License-Identifier: GPL-3.0-or-later
"""One daemon for each file of attacks, looked after around every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemons import Leftovers, Service, nothing_left, service
from support.powers import need, sandboxes


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes())
    with service() as made:
        yield made


@pytest.fixture(autouse=True)
def _unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was tried: the daemon answers, and nothing of the attack is left."""
    if "daemon" not in request.fixturenames:
        yield
        return
    where: Service = request.getfixturevalue("daemon")
    before = Leftovers.now(where)
    yield
    nothing_left(where, before)
    done = where.isolauncher("ps", "--json")
    assert (done.status, done.text.strip()) == (0, "[]"), (done.text, done.errors)
