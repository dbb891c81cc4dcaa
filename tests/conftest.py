# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test gets without asking, and what it may ask for by name.

Makes ``support`` importable wherever pytest was started. The askers for powers are
in support/powers.py; ``must_work`` says whether a skip counts as a failure. A daemon
that no test harms serves the files that ask for ``daemon``, or by its configuration.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

CLONE_NEWUTS = 0x04000000


def pytest_configure() -> None:
    """Take the tests out of the machine's mounts and host name; and mind their signals.

    Some of them leave out a step of a launch on purpose. A pivot in the machine's own
    mount namespace would take its root away, from every process on it.
    """
    # Whoever runs them by nohup, or behind a script's "&", has these ignored for all.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            asked = number == signal.SIGINT
            handler = signal.default_int_handler if asked else signal.SIG_DFL
            signal.signal(number, handler)
    if reach.own_mounts(CLONE_NEWUTS):
        reach.open_to_all(HERE.parent)
        # A name that is in no path and no module: some look for it.
        socket.sethostname("isolauncher-tests")


sys.path[:0] = [str(HERE), str(HERE.parent)]

from support import powers, reach  # noqa: E402 - found only now
from support.daemons import Service, service  # noqa: E402
from support.desktop import Desktop, desktop, missing  # noqa: E402


@pytest.fixture(scope="session")
def must_work() -> bool:
    """True where every skip for want of a power is a failure."""
    return powers.must_work()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top of the source tree under test."""
    return HERE.parent


@pytest.fixture(scope="session")
def services() -> Iterator[Callable[[str], Service]]:
    """A daemon for a configuration: the one that is there, if it is still alive."""
    with ExitStack() as stack:
        made: dict[str, Service] = {}

        def get(config: str) -> Service:
            known = made.get(config)
            if (
                known is None
                or known.process is None
                or known.process.poll() is not None
            ):
                made[config] = stack.enter_context(service(config=config))
            return made[config]

        yield get


@pytest.fixture(scope="module")
def daemon(services: Callable[[str], Service]) -> Service:
    powers.need(powers.sandboxes())
    return services("")


@pytest.fixture(scope="module")
def session() -> Iterator[Desktop]:
    """A person's X server, bus and home, for the tests of one file."""
    powers.need(missing())
    with desktop() as made:
        yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Under ISOLAUNCHER_MUST_WORK no skip passes unseen, whoever called it."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and powers.must_work():
        report.outcome = "failed"
        report.longrepr = f"must work here, but was skipped: {report.longrepr}"
