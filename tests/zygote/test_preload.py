# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that does at import what no child may inherit is found and named."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from isolauncher.errors import ZygoteError
from isolauncher.zygote import preload, state
from isolauncher.zygote.handover import Pristine
from isolauncher.zygote.sets import SETS

from . import twins

TOP = str(twins.BOOTSTRAP.parent.parent.parent)

# Imports argv[4:] with argv[2] on the path and prints the report and what came of it;
# what is the process id is sought as if it were argv[3].
ASK = """
import sys
COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[1]
import json, os
from isolauncher.errors import ZygoteError
from isolauncher.zygote import handover, preload, state, traces
pristine = handover.Pristine.capture(*COLD)
sys.path.append(sys.argv[2])
out = os.dup(1); os.set_inheritable(out, False)
report = preload.preload(
    sys.argv[4:], pristine=pristine, expected_fds=(0, 1, 2, out), time_limit_s=1
)
try:
    state.prove_fit((0, 1, 2, out))
    fit = ""
except ZygoteError as error:
    fit = str(error)
values = traces.own_values()
values["process id"] = int(sys.argv[3]) or values["process id"]
found = traces.scan_identity(values, report.world.visible)
os.write(out, json.dumps({
    "entries": report.as_data(),
    "fit": fit,
    "pid": os.getpid(),
    "traces": [[t.module, t.name, t.what] for t in found],
    "exits": [getattr(f, "__module__", "") for f, _, _ in report.world.exits],
}).encode())
os._exit(0)
"""


def ask(directory: Path, *names: str, pid: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [twins.PYTHON, "-c", ASK, TOP, str(directory), str(pid), *names],
        env=twins.ZYGOTE_ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


PLANTED = {
    "thread": (
        "import threading, time\n"
        "t = threading.Thread(target=time.sleep, args=(60,), daemon=True); t.start()",
        "started threads",
    ),
    "thread_unseen_by_python": (
        "import _thread, time\n_thread.start_new_thread(time.sleep, (60,))",
        "started threads",
    ),
    "descriptor": ("f = open('/dev/null')", "left descriptors open"),
    "auditor": (
        "import sys; sys.addaudithook(lambda *event: None)",
        "added an audit hook",
    ),
    "auditor_by_name": (
        "from sys import addaudithook; addaudithook(lambda *event: None)",
        "added an audit hook",
    ),
    "socket_": ("import socket; s = socket.socket()", "left descriptors open"),
    "epoll_": ("import select; e = select.epoll()", "left descriptors open"),
    "closes": ("import os; os.close(0)", "closed descriptors: 0"),
    "exits": ("import sys; sys.exit(0)", "called sys.exit(0)"),
    "raises": ("raise ValueError('no')", "raised ValueError: no"),
    "broken": ("if x\n", "raised SyntaxError"),
    "absent": (None, "raised ModuleNotFoundError"),
    "raises_odd": ("class E(BaseException): pass\nraise E", "raised E"),
    "hangs": ("while True:\n    pass", "did not finish importing in 1 s"),
    "hangs_hard": (
        "import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass",
        "did not finish importing in 1 s",
    ),
    "hangs_deaf": (
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0); time.sleep(1.5)",
        "did not finish importing in 1 s",
    ),
    "handler": (
        "import signal; signal.signal(signal.SIGTERM, print)",
        "changed umask, signal mask or dispositions",
    ),
    "mask": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15})",
        "changed umask, signal mask or dispositions",
    ),
    "umask_": ("import os; os.umask(0)", "changed umask"),
    "directory": ("import os; os.chdir('/tmp')", "changed working directory"),
    "environ_": ("import os; os.environ['X'] = '1'", "changed environment"),
    "reads": (
        "import os; X = os.environ.get('X', 'home')",
        "read environment variables: X",
    ),
    "reads_getenv": ("import os; os.getenv('X')", "read environment variables: X"),
    "reads_bytes": ("import os; os.getenvb(b'X')", "read environment variables: X"),
    "reads_in": ("import os; 'X' in os.environ", "read environment variables: X"),
    "reads_all": (
        "import os; ALL = os.environ.copy()",
        "read environment variables: PAD, all of them",
    ),
    "reads_through": (
        "import os.path; P = os.path.expandvars('$X/y')",
        "read environment variables: X",
    ),
    "locale_": (
        "import locale; locale.setlocale(locale.LC_CTYPE, 'C')",
        "changed locale",
    ),
    "zone": (
        "import os, time; os.environ['TZ'] = 'X3'; time.tzset(); del os.environ['TZ']",
        "changed time zone",
    ),
    "argv": ("import sys; sys.argv.append('x')", "changed sys.argv"),
    "path": ("import sys; sys.path.append('/x')", "changed sys.path"),
    "stdout": (
        "import sys, io; sys.stdout = io.StringIO()",
        "changed standard streams",
    ),
    "hook": ("import sys; sys.excepthook = print", "changed sys.excepthook"),
    "shared": (
        "import mmap; memory = mmap.mmap(-1, 4096)",
        "changed memory that children would share",
    ),
    "gc_": ("import gc; gc.disable()", "changed gc settings"),
    "timeout": (
        "import socket; socket.setdefaulttimeout(1)",
        "changed socket default timeout",
    ),
    "traced": ("import tracemalloc; tracemalloc.start()", "changed tracing of memory"),
    "fields": ("import csv; csv.field_size_limit(5)", "changed limit of csv's fields"),
    "digits": (
        "import sys; sys.set_int_max_str_digits(0)",
        "changed limit of a number",
    ),
    "coroutines": (
        "import sys; sys.set_coroutine_origin_tracking_depth(5)",
        "changed tracking of coroutines",
    ),
    "loader": ("import sys; sys.setdlopenflags(258)", "changed flags of dlopen"),
    "domain": (
        "import locale; locale.textdomain('mine')",
        "changed text domain of the C library",
    ),
    "codec": (
        "import codecs; codecs.register(lambda name: None)",
        "changed codecs or handlers of their errors",
    ),
    "error_handler": (
        "import codecs; codecs.register_error('mine', codecs.strict_errors)",
        "changed codecs or handlers of their errors",
    ),
    "recursion": ("import sys; sys.setrecursionlimit(9999)", "changed recursion limit"),
    "child": (
        # It ends when its standard input does.
        "import subprocess as s\np = s.Popen(['cat'], stdin=-1, stdout=-3, stderr=-3)",
        "changed child processes",
    ),
    "timer": (
        "import signal; signal.setitimer(signal.ITIMER_VIRTUAL, 60)",
        "changed interval timers",
    ),
    "variable": (
        "import contextvars; contextvars.ContextVar('v').set(1)",
        "changed context variables",
    ),
    "generator": ("import random\nrng = random.Random()", "keeps a random generator"),
    "loop": ("import asyncio\nloop = asyncio.new_event_loop()", "keeps an event loop"),
    "database": (
        "import sqlite3\ndb = sqlite3.connect(':memory:')",
        "keeps a database connection",
    ),
    "lock": (
        "import threading\nlock = threading.Lock(); lock.acquire()",
        "keeps a lock that is held",
    ),
    "displays": ("import sys; sys.displayhook = print", "changed other hooks"),
    "built_in": ("import builtins; builtins._ = str", "changed names that are built"),
    "limits": (
        "import resource as r\n"
        "r.setrlimit(r.RLIMIT_CORE, (0, r.getrlimit(r.RLIMIT_CORE)[1]))\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (99, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
        "changed resource limits",
    ),
    "nice": ("import os; os.nice(1)", "changed priority or processors"),
    "root_logger": (
        "import logging; logging.basicConfig()",
        "changed handlers of the root logger",
    ),
    "precision": (
        "import decimal; decimal.getcontext().prec = 5",
        "changed decimal context",
    ),
    "death": (
        "import ctypes; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)",
        "changed what prctl keeps",
    ),
    "process_name": (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'other', 0, 0, 0)",
        "changed name of the process",
    ),
    "replaces": (
        "import sys, types; sys.modules['json'] = types.ModuleType('json')",
        "changed modules of others",
    ),
    "importer": (
        "import builtins; f = builtins.__import__\n"
        "builtins.__import__ = lambda *a, **k: f(*a, **k)",
        "changed the builtin __import__",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_unfit_is_named_and_its_neighbours_are_not(
    name: str, tmp_path: Path
) -> None:
    text, fault = PLANTED[name]
    if text is not None:
        (tmp_path / f"planted_{name}.py").write_text(text)
    # The second one ends what the first may have started.
    entries = ask(tmp_path, "base64", f"planted_{name}", "textwrap")["entries"]
    assert [e["name"] for e in entries if e["faults"]] == [f"planted_{name}"]
    assert any(found.startswith(fault) for found in entries[1]["faults"]), entries[1]


@pytest.mark.parametrize("name", ["thread", "thread_unseen_by_python", "descriptor"])
def test_h1_h2_h27_no_fork_with_what_was_left(name: str, tmp_path: Path) -> None:
    text, _ = PLANTED[name]
    assert text is not None
    (tmp_path / "planted.py").write_text(text)
    said = ask(tmp_path, "planted")["fit"]
    assert ("threads" in said) if "thread" in name else ("/dev/null" in said)


def test_h40_the_report_has_the_cost_of_each_entry(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("x = bytearray(30 << 20)\n")
    report = ask(tmp_path, "heavy", "decimal")
    heavy, other = report["entries"]
    assert heavy["rss"] > 25 << 20 > other["rss"]
    assert heavy["us"] > 0
    assert heavy["modules"] == 1
    assert report["fit"] == ""


def test_h39_values_that_name_the_zygote_are_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(
        "import os, pwd\n"
        "place = 'at ' + pwd.getpwuid(os.getuid()).pw_dir\n"
        "table = {'pid': os.getpid()}\n"
        "innocent = ('x', 0)\n"
    )
    traces = ask(tmp_path, "planted")["traces"]
    assert ["planted", "table", "process id"] in traces
    assert ["planted", "place", "home"] in traces
    assert not [t for t in traces if t[1] == "innocent"]


def test_looking_for_identity_leaves_none_behind(tmp_path: Path) -> None:
    script = tmp_path / "p.py"
    script.write_text("import platform; print(platform._uname_cache)")
    looks = (
        "from isolauncher.zygote import traces as p\n"
        "import platform; platform._uname_cache = None\n"
        "p.scan_identity(p.own_values(), ())"
    )
    # Left out is what would put it back.
    forked = twins.forked(str(script), plant=looks, without=["stdlib_caches"])
    assert forked.out == b"None\n", forked.err


def test_exit_handlers_of_preloaded_modules_are_noted(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("import atexit; atexit.register(print)")
    report = ask(tmp_path, "planted", "logging")
    assert "logging" in report["exits"]
    assert report["entries"][0]["faults"] == []
    assert report["entries"][0]["notes"] == ["changed exit handlers"]


@pytest.mark.parametrize("name", SETS)
def test_every_entry_of_a_set_is_fit_and_holds_nothing_of_the_zygote(
    name: str, tmp_path: Path
) -> None:
    report = ask(tmp_path, *SETS[name])
    assert [e for e in report["entries"] if e["faults"]] == []
    assert report["fit"] == ""
    # Some constant may happen to be that process id: it is so in the next process, too.
    again = ask(tmp_path, *SETS[name], pid=report["pid"])["traces"]
    found = [t for t in report["traces"] if t[2] != "process id" or t not in again]
    # Emptied before the zygote looks (handover/stdlib_caches.py): see above.
    renewed = ["platform", "_uname_cache", "host name"]
    assert [t for t in found if t != renewed] == []


def test_the_set_python_has_what_the_bench_imports() -> None:
    wanted = (
        "argparse asyncio collections csv dataclasses datetime decimal email hashlib "
        "http.client json logging pathlib random re socket ssl subprocess tempfile "
        "urllib.request"
    )
    assert set(wanted.split()) <= set(SETS["python"])


def test_a_zygote_with_a_user_site_is_refused(tmp_path: Path) -> None:
    import site
    import sys

    pristine = Pristine.capture(
        tuple(sys.modules), (*sys.path[1:], site.getusersitepackages()), ()
    )
    expected = state.descriptors()
    with pytest.raises(ZygoteError) as caught:
        preload.preload([], pristine=pristine, expected_fds=expected)
    assert caught.value.code == "zygote-user-site"


def test_prove_fit_accepts_what_is_expected_and_names_what_is_not() -> None:
    expected = state.descriptors()
    state.prove_fit(expected)
    read, write = os.pipe()
    try:
        with pytest.raises(ZygoteError, match=f"{read} .pipe:"):
            state.prove_fit(expected)
    finally:
        os.close(read)
        os.close(write)
    state.prove_fit(expected)


def test_the_command_line_lists_and_checks(tmp_path: Path) -> None:
    def isolauncher(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [twins.PYTHON, "-m", "isolauncher", "preload", *argv],
            cwd=TOP,
            capture_output=True,
            text=True,
        )

    listed = isolauncher("list", "--json")
    assert listed.returncode == 0, listed.stderr
    entries = json.loads(listed.stdout)["sets"]["python"]["entries"]
    assert [e["name"] for e in entries] == list(SETS["python"])
    bad = isolauncher("check", "base64", "nosuchmodule")
    assert bad.returncode == 1
    assert bad.stdout.splitlines() == [
        "base64: fit",
        "nosuchmodule: unfit: raised ModuleNotFoundError: "
        "No module named 'nosuchmodule'",
    ]
    assert isolauncher("list", "nosuchset").returncode == 125
