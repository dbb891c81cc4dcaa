# SPDX-License-Identifier: GPL-3.0-or-later
"""CPython's own tests, as a witness that nobody here has written.

Each of its modules is run in a sandbox, in both tiers: every test must have the same
outcome. They are about what a process has once: signals, threads, locale, time zone,
descriptors, imports, exit handlers, child processes.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemons import Service, service
from support.powers import need, sandboxes
from support.spoiling import ALICE

MODULES = tuple(
    """
    test_argparse test_asyncio.test_base_events test_asyncio.test_events
    test_asyncio.test_subprocess test_asyncio.test_tasks test_asyncio.test_unix_events
    test_atexit test_audit test_builtin test_codecs test_configparser test_context
    test_contextlib test_copyreg test_datetime test_decimal test_doctest test_email
    test_enum test_fileio test_fork1 test_functools test_gc test_getpass test_gettext
    test_glob test_grp test_hash test_hashlib test_hmac test_http_cookies test_import
    test_inspect test_io test_json test_linecache test_locale test_logging
    test_mimetypes test_multiprocessing_main_handling test_os test_pathlib test_pickle
    test_pkgutil test_platform test_posix test_pprint test_pwd test_queue test_random
    test_re test_resource test_runpy test_secrets test_select test_selectors test_shutil
    test_signal test_site test_socket test_sqlite3 test_ssl test_string test_subprocess
    test_sys test_sysconfig test_tempfile test_thread test_threading
    test_threading_local test_time test_traceback test_unittest test_urllib
    test_urllib2 test_uuid test_warnings test_weakref test_zipimport test_zoneinfo
    """.split()
)
SHORT = ("test_gettext", "test_locale", "test_random", "test_tempfile")
"""Those of `make test`: a second each."""

DIFFERS: dict[str, str] = {}
"""Test id → why it cannot have the same outcome from the zygote."""

POLICY = """version = 1
extends = "default"
[match]
callers = ["*"]
[network]
access = "loopback"
[files]
tmp = "500M"
[limits]
memory = "1500M"
processes = 800
open-files = 2000
file-size = "300M"
"""
PATIENCE_S = 240
TRIES = 3

BEGUN = re.compile(r"^(\w+) \(([\w.]+)\)\n?[^\n]*? \.\.\. ", re.MULTILINE)
# What a test itself prints comes between.
OUTCOME = re.compile(
    r"(?:\A|^)(ok|FAIL|ERROR|skipped|expected|unexpected)\b", re.MULTILINE
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes())
    there = Path(sysconfig.get_path("stdlib"), "test/test_gettext.py").exists()
    need(None if there else "libpythonVERSION-testsuite is not installed")
    with service() as made:
        made.policy("cpython", POLICY)
        yield made


def outcomes(daemon: Service, module: str, tier: str) -> dict[str, str]:
    """Test id → ok, skipped, FAIL, ERROR, expected, unexpected."""
    words = ("run", "--policy", "cpython", "--tier", tier, "-m", "unittest", "-v")
    client = daemon.start_client(*words, f"test.{module}", uid=ALICE, cwd="/tmp")
    try:
        _, errors = client.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        client.terminate()
        _, errors = client.communicate()
    text = errors.decode(errors="replace")
    begun = list(BEGUN.finditer(text))
    ends = [*(m.start() for m in begun[1:]), len(text)]
    found = {}
    for m, end in zip(begun, ends, strict=True):
        said = OUTCOME.search(text[m.end() : end])
        found[f"{m[2]}:{m[1]}"] = said[1] if said else "nothing"
    return found


@dataclass
class Tried:
    """What differs in two of three runs, and how many passed by exec, of how many."""

    faults: list[str]
    passed: int
    ran: int


def tried(daemon: Service, module: str) -> Tried:
    unlike: list[dict[str, tuple[str | None, str | None]]] = []
    for _ in range(TRIES):
        cold, forked = (outcomes(daemon, module, tier) for tier in ("exec", "fork"))
        names = {**cold, **forked}
        pairs = {name: (cold.get(name), forked.get(name)) for name in names}
        unlike.append({n: p for n, p in pairs.items() if p[0] != p[1]})
        if not unlike[-1]:
            break
    ran = [outcome for outcome in cold.values() if not outcome.startswith("skipped")]
    faults = [
        f"{module}: {name}: {pair}"
        for name, pair in unlike[-1].items()
        if sum(name in once for once in unlike) > 1 and name not in DIFFERS
    ]
    if not ran:
        faults.append(f"{module}: nothing ran")
    passed = sum(outcome in ("ok", "expected") for outcome in ran)
    return Tried(faults=faults, passed=passed, ran=len(ran))


def test_a_few_of_cpython_s_own_tests_have_the_same_outcome(daemon: Service) -> None:
    for module in SHORT:
        found = tried(daemon, module)
        assert found.faults == []
        assert found.passed >= 0.9 * found.ran


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_cpython_s_own_tests_have_the_same_outcome(daemon: Service) -> None:
    found = []
    for module in MODULES:
        found.append(tried(daemon, module))
        print(module, found[-1], flush=True)
    faults = [fault for one in found for fault in one.faults]
    assert not faults, "\n".join(faults)
    # Else it would be no witness: both fail alike where a sandbox refuses something.
    assert sum(one.passed for one in found) >= 0.9 * sum(one.ran for one in found)


def test_the_table_has_sixty_modules() -> None:
    assert len(set(MODULES)) >= 60
    assert set(SHORT) <= set(MODULES)
