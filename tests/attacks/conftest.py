# SPDX-License-Identifier: GPL-3.0-or-later
"""One daemon for each file of attacks, looked after around every test.

A file's ``CONFIG`` is its daemon's. A test that asks for ``watch`` says itself, by
`Watch.settled`, what became of its attack; after every other one the least is asserted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from support.daemons import Leftovers, Service, nothing_left
from support.peers import LIST, Watch, normal_launch
from support.powers import need, sandboxes


@pytest.fixture(scope="module")
def daemon(
    request: pytest.FixtureRequest, services: Callable[[str], Service]
) -> Iterator[Service]:
    need(sandboxes())
    made = services(getattr(request.module, "CONFIG", ""))
    normal_launch(made)
    yield made
    normal_launch(made)


@pytest.fixture
def watch(daemon: Service) -> Watch:
    return Watch(daemon)


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def out() -> Iterator[int]:
    """A file in memory for what programs print."""
    fd = os.memfd_create("out")
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def _unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was tried: the daemon answers, and nothing of the attack is left."""
    if "daemon" not in request.fixturenames or "watch" in request.fixturenames:
        yield
        return
    where: Service = request.getfixturevalue("daemon")
    before = Leftovers.now(where)
    yield
    nothing_left(where, before)
    assert where.ask(LIST) == {"event": "list", "activities": [], "more": False}
