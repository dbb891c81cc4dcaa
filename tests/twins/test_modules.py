# SPDX-License-Identifier: GPL-3.0-or-later
"""A preloaded module is what a cold start would have made of it, value by value.

The same program under the same policy, in the same environment, once in the tier exec
and once forked. What two cold starts have not in common is nobody's promise: with
another hash seed a set has another order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes
from support.spoiling import launch

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

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "plain": {},
    "locale": {"LC_ALL": "C.utf8", "LANGUAGE": "de:fr"},
    "zone": {"TZ": "Asia/Kathmandu"},
    "home": {"HOME": "/var/tmp", "TMPDIR": "/var/tmp", "USER": "somebody"},
    "directories": {
        "XDG_DATA_HOME": "/x",
        "XDG_CONFIG_HOME": "/y",
        "XDG_DATA_DIRS": "/z",
    },
    "display": {
        "DISPLAY": ":77",
        "XAUTHORITY": "/nonexistent",
        "http_proxy": "http://p:1",
    },
}

_POLICY = """version = 1
extends = "default"
[match]
callers = ["*"]
[environment]
keep = ["...", "HOME", "TMPDIR", "USER", "XDG_*", "DISPLAY", "XAUTHORITY", "http_proxy"]
"""
POLICIES = {
    "plain": _POLICY,
    "other": f"""{_POLICY}
[identity]
inner-uid = "same"
[namespaces]
hostname = "another"
[network]
access = "none"
""",
    "strict": f"""{_POLICY}
[limits]
open-files = 200
processes = 30
nice = 5
memory = "300M"
""",
}


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


def compared(
    daemon: Service, module: str, environment: str, policy: str
) -> Iterator[str]:
    cold, again = (run(daemon, module, environment, policy, "exec") for _ in range(2))
    forked = run(daemon, module, environment, policy, "fork")
    assert module in forked["modules"]
    for path, value in twin.unlike(cold, again, forked):
        if not twin.is_allowed(path):
            yield f"{module} ({environment}, {policy}): {path}: {value}"


def run(
    daemon: Service, module: str, environment: str, policy: str, tier: str
) -> dict[str, Any]:
    script = daemon.script("twin.py", twin.script(f"import {module}\n", "/twin.py"))
    made = launch(
        daemon,
        script,
        policy=policy,
        tier=tier,
        environment={"LANG": "C.UTF-8", **ENVIRONMENTS[environment]},
    )
    try:
        printed = made.printed()
        said = made.end()
    finally:
        made.close()
    assert said is not None
    assert said.get("status") == 0, said
    report = said["report"]
    assert isinstance(report, dict)
    assert report["activity"]["tier"] == tier, report["skipped"]
    _, state = twin.heard(printed.decode())
    assert state is not None
    return state
