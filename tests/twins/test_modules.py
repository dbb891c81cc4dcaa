# SPDX-License-Identifier: GPL-3.0-or-later
"""A preloaded module is what a cold start would have made of it, value by value."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import product

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes
from support.states import ENVIRONMENTS, POLICIES, compared

from isolauncher import twin
from isolauncher.zygote.sets import PYTHON

MODULES = tuple(
    """
    argparse asyncio base64 bz2 calendar codecs collections.abc concurrent.futures
    configparser contextlib contextvars copy csv ctypes ctypes.util dataclasses datetime
    decimal difflib email.message enum fractions functools getpass gettext hashlib
    html.parser http.client http.cookiejar http.server importlib.metadata inspect
    ipaddress json locale logging logging.handlers mimetypes multiprocessing
    multiprocessing.pool optparse pathlib pickle platform random secrets shutil signal
    socket socketserver sqlite3 ssl statistics subprocess sysconfig tempfile threading
    typing unittest urllib.request uuid xml.etree.ElementTree zipfile zoneinfo
    """.split()
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes())
    with service() as made:
        for name, text in POLICIES.items():
            made.policy(name, text)
        yield made


def rows(share: int) -> list[tuple[str, str, str]]:
    """One of ``share`` modules, each with an environment and a policy in turn."""
    turn = int(os.environ.get("ISOLAUNCHER_OFFSET") or time.time_ns() // 1000)
    environments, policies = list(ENVIRONMENTS), list(POLICIES)
    return [
        (name, environments[(n + turn) % 6], policies[(n + turn // 6) % 3])
        for n, name in enumerate(MODULES)
        if n % share == turn % share
    ]


def test_a_tenth_of_the_modules_is_what_a_cold_start_makes(daemon: Service) -> None:
    faults = [f for row in rows(10) for f in compared(daemon, *row)]
    assert not faults, "\n".join(faults)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_all_modules_are_what_a_cold_start_makes(
    daemon: Service, environment: str, policy: str
) -> None:
    faults = [f for m in MODULES for f in compared(daemon, m, environment, policy)]
    assert not faults, "\n".join(faults)


def test_the_table_is_of_sixty_preloaded_modules_and_three_exceptions() -> None:
    assert len(MODULES) >= 60
    assert set(MODULES) <= {*PYTHON, *(n.rpartition(".")[0] for n in PYTHON)}
    assert len(list(product(ENVIRONMENTS, POLICIES))) == 18
    assert len(twin.ALLOWED) < 5
