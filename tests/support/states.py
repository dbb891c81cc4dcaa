# SPDX-License-Identifier: GPL-3.0-or-later
"""An import's whole state, forked and from two cold starts, compared.

The same program under the same policy, in the same environment, once in the tier exec
and once forked. What two cold starts have not in common is nobody's promise: with
another hash seed a set has another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isolauncher import twin
from support.daemons import Service
from support.spoiling import launch

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
