# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that others have written, preloaded, are what a cold start makes of them.

Chosen because their imports are awkward: extension modules with state of their own,
threads, registries, caches, probing of the machine. Each has a zygote for itself. Only
what a zygote keeps counts: it leaves out what is unfit to be forked, and says so in the
daemon's log.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes
from support.states import ENVIRONMENTS, POLICIES, compared

TOP = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("packages.txt")
PACKAGES = tuple(
    line.split()[0]
    for line in LIST.read_text().splitlines()
    if not line.startswith("#")
)
"""What is imported; `make test-long` installs the Debian packages that have it."""

ALWAYS = ("jinja2", "psutil", "simplejson", "yaml")
"""Those that `make test` installs."""

LEAST = 25
"""So many at least are kept by a zygote, and are the same."""

_CODECS = "which codecs were looked up by then, C code remembers for itself"
DIFFERS = {
    "OpenSSL": "the names of digests depend on what libcrypto has loaded by then",
    "bs4": f"imports lxml: {_CODECS}",
    "gi.repository.Gst": "warns of versions once; see docs/preload.md",
    "lxml.etree": _CODECS,
}
"""What is preloaded and is not the same, and why."""


@pytest.fixture(autouse=True)
def able() -> None:
    need(sandboxes())


@contextmanager
def with_package(name: str) -> Iterator[Service | None]:
    """A daemon whose set `python` has it as well; None: it is unfit to be forked."""
    with tempfile.TemporaryDirectory(prefix="isolauncher-packages-") as place:
        os.chmod(place, 0o755)  # noqa: S103 (nobody imports from it)
        (Path(place) / "also").write_text(name)
        program = str(TOP / "tests/support/planted/daemon.py")
        with service(command=(sys.executable, program, place)) as made:
            for policy, text in POLICIES.items():
                made.policy(policy, text)
            made.run("--", made.script("nothing.py", ""))
            unfit = re.findall(r'module-unfit set="python" module="([^"]+)"', made.log)
            yield None if name in unfit else made


def there(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def faults(daemon: Service, name: str, environment: str, policy: str) -> list[str]:
    """What differs each time: in which order a set is walked is another's each time.

    Two cold starts may agree by chance on what has two orders: seldom six times.
    """
    found: dict[str, str] = {}
    for attempt in range(6):
        now = {
            fault.split(": ")[1]: fault
            for fault in compared(daemon, name, environment, policy)
        }
        found = {k: v for k, v in now.items() if not attempt or k in found}
        if not found:
            break
    return list(found.values())


def forked() -> dict[str, str]:
    """Of each package that is installed, what is to be told in docs/preload.md."""
    told = {}
    for name in filter(there, PACKAGES):
        with with_package(name) as daemon:
            if daemon is None:
                told[name] = "left out"
            else:
                same = not faults(daemon, name, "plain", "plain")
                told[name] = "the same" if same else DIFFERS.get(name, "differs")
    return told


def test_packages_that_are_preloaded_are_what_a_cold_start_makes() -> None:
    turn = int(os.environ.get("ISOLAUNCHER_OFFSET") or time.time_ns() // 1000)
    print(f"ISOLAUNCHER_OFFSET={turn}")
    rows = list(product(ENVIRONMENTS, POLICIES))
    for number, name in enumerate(ALWAYS):
        assert there(name), f"{name} is not installed"
        with with_package(name) as daemon:
            assert daemon is not None, f"{name} is unfit"
            environment, policy = rows[(turn + number) % len(rows)]
            assert faults(daemon, name, environment, policy) == []


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_all_packages_are_what_a_cold_start_makes() -> None:
    kept, differing = [], {}
    for name in PACKAGES:
        assert there(name), f"{name} is not installed"
        with with_package(name) as daemon:
            if daemon is None:
                continue
            kept.append(name)
            for environment, policy in product(ENVIRONMENTS, POLICIES):
                if found := faults(daemon, name, environment, policy):
                    differing[name] = found
                    break
            print(name, differing.get(name, "the same"), flush=True)
    assert set(differing) <= set(DIFFERS), differing
    assert len(kept) - len(differing) >= LEAST
