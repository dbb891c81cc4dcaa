# SPDX-License-Identifier: GPL-3.0-or-later
"""A preloaded module is what a cold start would have made of it, value by value.

The same program under the same policy, in the same environment, once in the tier exec
and once forked. What two cold starts have not in common is nobody's promise: with
another hash seed a set has another order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes
from support.spoiling import launch

from isolauncher.zygote.sets import PYTHON

STATE = Path(__file__).resolve().parent / "state.py"

ALLOWED = {
    "importlib": "its _find_and_load is the shelf's; see docs/preload.md",
    "path caches": "what comes from the shelf is not sought in the path",
    "re": "it remembers expressions that other modules had compiled",
    "flags": "an enum remembers each combination of flags that somebody asked for",
}
"""What may differ, each with why; `_is_allowed` says which values that are."""

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
    assert len(ALLOWED) < 5


def compared(
    daemon: Service, module: str, environment: str, policy: str
) -> Iterator[str]:
    cold, again = (run(daemon, module, environment, policy, "exec") for _ in range(2))
    forked = run(daemon, module, environment, policy, "fork")
    assert module in forked["after"]
    noise = {_value(path) for path, _ in differences(cold, again)}
    for path, value in differences(cold, forked):
        if _value(path) not in noise and not _is_allowed(path):
            yield f"{module} ({environment}, {policy}): {path}: {value}"


def run(
    daemon: Service, module: str, environment: str, policy: str, tier: str
) -> dict[str, Any]:
    made = launch(
        daemon,
        str(STATE),
        module,
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
    state: dict[str, Any] = json.loads(printed)
    return state


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if type(one) is not type(other):
        yield path, f"{str(one)[:150]} | {str(other)[:150]}"
    elif isinstance(one, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
        if one.keys() == other.keys() and list(one) != list(other):
            yield f"{path}/", "in another order"
    elif isinstance(one, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(first, second, f"{path}/{number}")
    elif one != other:
        yield path, f"{str(one)[:150]} | {str(other)[:150]}"


def _value(path: str) -> tuple[str, ...]:
    """Module and global: what two cold starts have not in common is told by these."""
    return tuple(path.split("/")[1:3])


def _is_allowed(path: str) -> bool:
    _, module, *rest = path.split("/")
    name = rest[0] if rest else ""
    if module in ("_frozen_importlib", "importlib._bootstrap"):
        return name == "_find_and_load"
    if module == "sys":
        return name == "path_importer_cache"
    return (module, name) == ("re", "_cache") or "/_value2member_map_" in path
