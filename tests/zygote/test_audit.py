# SPDX-License-Identifier: GPL-3.0-or-later
"""The auditor finds every planted hazard at its line, and nothing where there is none.

The line to blame is the one that ends in ``#!``; without one, the module's file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.powers import installed, need

from isolauncher.zygote import verdict
from isolauncher.zygote.hazards import Finding

from . import twins

# The one asked for may be the last of a hundred that wait for a processor.
pytestmark = pytest.mark.timeout(300)

TOP = twins.BOOTSTRAP.parent.parent.parent
MARK = "#!"


@dataclass(frozen=True)
class Planted:
    hazard: str
    kind: str
    text: str
    source: str
    needs: tuple[str, ...] = ()
    answer: str = ""


P = Planted
PLANTED = {
    "thread": P(
        *("H1", "thread", "started threads"),
        "import threading, time\n"
        "def start():\n"
        "    t = threading.Thread(target=time.sleep, args=(60,), daemon=True)\n"
        "    t.start()  #!\n"
        "start()\n",
    ),
    "lock_held": P(
        *("H1", "kept", "keeps a lock that is held in lock_held.LOCK"),
        "import threading\nLOCK = threading.Lock()  #!\nLOCK.acquire()\n",
    ),
    "pool": P(
        *("H1", "kept", "keeps a pool of workers in pool.POOL"),
        "from concurrent.futures import ThreadPoolExecutor\n"
        "POOL = ThreadPoolExecutor(2)  #!\n",
    ),
    "thread_of_c": P(
        *("H1", "thread", "started threads"),
        "import ctypes\n"
        "lib = ctypes.CDLL(None)\n"
        "started = ctypes.c_ulong()\n"
        "lib.pthread_create(ctypes.byref(started), None, lib.pause, None)  #!\n",
    ),
    "main_context": P(
        *("H27", "descriptor", "left descriptors open"),
        "from gi.repository import GLib\nCONTEXT = GLib.MainContext.new()  #!\n",
        needs=("gi.repository.GLib",),
    ),
    "argv": P(
        *("H20", "interpreter", "changed sys.argv"),
        "import sys\nsys.argv.append('--display')  #!\n",
    ),
    "loader_variable": P(
        *("H5", "environment-c", "reads the environment variable GTK_MODULES"),
        "import ctypes\n"
        "def ask(name):\n"
        "    return ctypes.CDLL(None).getenv(name)  #!\n"
        "ask(b'GTK_MODULES')\n",
    ),
    "sets_variable": P(
        *("H5", "environment", "changed environment"),
        "import os\nos.environ['THEME'] = 'dark'  #!\n",
    ),
    "home_of_glib": P(
        *("H5", "environment-c", "reads the environment variable HOME, by getenv"),
        "from gi.repository import GLib\nGLib.get_home_dir()  #!\n",
        needs=("gi.repository.GLib",),
    ),
    "generator": P(
        *("H7", "kept", "keeps a random generator in generator.rng"),
        "import random\n\nrng = random.Random()  #!\n",
    ),
    "generator_within": P(
        *("H7", "kept", "keeps a random generator in generator_within.DICE"),
        "import random\n"
        "class Dice:\n"
        "    def __init__(self):\n"
        "        self.source = random.Random(7)\n"
        "DICE = {'red': [Dice()]}  #!\n",
    ),
    "secret": P(
        *("H8", "value", "secret.TOKEN is another each time"),
        "import secrets\nTOKEN = secrets.token_hex()  #!\n",
    ),
    "drawn": P(
        *("H8", "value", "drawn.PORT is another each time"),
        "import random\nPORT = random.randrange(10 ** 12)  #!\n",
    ),
    "node": P(
        *("H8", "cache", "fills uuid._node"),
        "import uuid\nuuid.getnode()\n",
        answer="randomness",
    ),
    "key": P(
        *("H8", "value", "key.KEY is another each time"),
        "import multiprocessing as m\nKEY = bytes(m.current_process().authkey)  #!\n",
    ),
    "temporary": P(
        *("H19", "environment", "reads the environment variable TMPDIR"),
        "import tempfile\nPLACE = tempfile.gettempdir()  #!\n",
    ),
    "temporary_place": P(
        *("H39", "value", "temporary_place.PLACE depends on whose it is"),
        "import tempfile\nPLACE = tempfile.gettempdir()  #!\n",
    ),
    "temporary_cache": P(
        *("H12", "cache", "fills tempfile.tempdir"),
        "import tempfile\ntempfile.gettempdir()\n",
        answer="randomness",
    ),
    "temporary_directory": P(
        *("H12", "kept", "keeps a temporary directory"),
        "import tempfile\nPLACE = tempfile.TemporaryDirectory()  #!\n",
    ),
    "zone": P(
        *("H13", "time-zone", "changed time zone"),
        "import os, time\n"
        "os.environ['TZ'] = 'X3'\n"
        "time.tzset()  #!\n"
        "del os.environ['TZ']\n",
    ),
    "zone_kept": P(
        *("H39", "value", "zone_kept.ZONE depends on whose it is: "),
        "import time\nZONE = time.tzname  #!\n",
    ),
    "locale_": P(
        *("H14", "locale", "changed locale"),
        "import locale\nlocale.setlocale(locale.LC_CTYPE, 'C')  #!\n",
    ),
    "translated": P(
        *("H14", "translation", "translates a text"),
        "from gettext import gettext as _\n"
        "class Page:\n"
        "    TITLE = _('Page')  #!\n",
    ),
    "translated_by_c": P(
        *("H14", "translation", "translates a text"),
        "import locale\nTITLE = locale.dgettext('gtk30', 'Open')  #!\n",
    ),
    "user_site": P(
        *("H39", "value", "user_site.SITE depends on whose it is"),
        "import os\n"
        "SITE = os.path.expanduser('~/.local/lib/python3.11/site-packages')  #!\n",
    ),
    "user_base": P(
        *("H15", "cache", "fills sysconfig._CONFIG_VARS"),
        "import sysconfig\nsysconfig.get_config_var('userbase')\n",
        answer="stdlib_caches",
    ),
    "host": P(
        *("H39", "value", "host.NAME depends on whose it is"),
        "import os\nNAME = os.uname().nodename  #!\n",
    ),
    "host_cached": P(
        *("H16", "cache", "fills platform._uname_cache"),
        "import platform\nplatform.node()\n",
        answer="stdlib_caches",
    ),
    "search_path": P(
        *("H17", "search-path", "changed sys.path"),
        "import sys\nsys.path.append('/opt/more')  #!\n",
    ),
    "finder": P(
        *("H17", "import-hooks", "changed sys.meta_path"),
        "import sys\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None): return None\n"
        "sys.meta_path.append(Finder)  #!\n",
        answer="shelf",
    ),
    "replaces": P(
        *("H18", "modules", "changed modules of others"),
        "import sys, types\nsys.modules['json'] = types.ModuleType('json')  #!\n",
    ),
    "reads": P(
        *("H19", "environment", "reads the environment variable THEME"),
        "import os\nTHEME = os.environ.get('THEME', 'light')  #!\n",
    ),
    "reads_then_keeps": P(
        *("H39", "value", "reads_then_keeps.DARK depends on whose it is: False or"),
        "import os\nDARK = 'THEME' in os.environ  #!\n",
    ),
    "reads_all": P(
        *("H19", "environment", "reads the whole environment"),
        "import os\nALL = dict(os.environ)  #!\n",
    ),
    "reads_past_getenv": P(
        *("H39", "value", "reads_past_getenv.COUNT depends on whose it is"),
        "with open('/proc/self/environ', 'rb') as file:\n"
        "    COUNT = file.read().count(b'\\0')  #!\n",
    ),
    "directory": P(
        *("H20", "directory", "changed working directory"),
        "import os\nos.chdir('/tmp')  #!\n",
    ),
    "directory_kept": P(
        *("H39", "value", "directory_kept.HERE depends on whose it is: '/' or "),
        "import os\nHERE = os.path.abspath('data')\nHERE = os.getcwd()  #!\n",
    ),
    "traces": P(
        *("H20", "interpreter", "changed trace or profile function"),
        "import sys\nsys.setprofile(print)  #!\n",
    ),
    "hook": P(
        *("H20", "interpreter", "changed other hooks of the interpreter"),
        "import sys\nsys.displayhook = print  #!\n",
    ),
    "audit_hook": P(
        *("H20", "hook", "adds an audit hook"),
        "import sys\nsys.addaudithook(lambda *event: None)  #!\n",
    ),
    "built_in": P(
        *("H20", "interpreter", "changed names that are built in"),
        "import builtins\nbuiltins._ = str  #!\n",
    ),
    "recursion": P(
        *("H20", "interpreter", "changed recursion limit"),
        "import sys\nsys.setrecursionlimit(9999)  #!\n",
    ),
    "filters": P(
        *("H20", "interpreter", "changed warning filters"),
        "import warnings\nwarnings.simplefilter('ignore')  #!\n",
        answer="interpreter",
    ),
    "context": P(
        *("H20", "interpreter", "changed decimal context"),
        "import decimal\ndecimal.getcontext().prec = 5  #!\n",
    ),
    "name": P(
        *("H21", "process-attributes", "changed name of the process"),
        "import ctypes\nctypes.CDLL(None).prctl(15, b'colours', 0, 0, 0)  #!\n",
    ),
    "exits": P(
        *("H22", "exit-handler", "changed exit handlers"),
        "import atexit\natexit.register(print)  #!\n",
        answer="shelf",
    ),
    "prints": P(
        *("H23", "output", "wrote to standard output or error: welcome"),
        "WORDS = 'welcome'\nprint(WORDS)  #!\n",
    ),
    "stdout": P(
        *("H23", "streams", "changed standard streams"),
        "import sys, io\nsys.stdout = io.StringIO()  #!\n",
    ),
    "logging_": P(
        *("H24", "logging", "changed handlers of the root logger"),
        "import logging\nlogging.basicConfig(level=0)  #!\n",
    ),
    "handler": P(
        *("H25", "signals", "changed umask, signal mask or dispositions"),
        "import signal\nsignal.signal(signal.SIGTERM, print)  #!\n",
    ),
    "mask": P(
        *("H25", "signals", "changed umask, signal mask or dispositions"),
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {15})  #!\n",
    ),
    "umask_": P(
        *("H25", "signals", "changed umask"),
        "import os\nos.umask(0)  #!\n",
    ),
    "timer": P(
        *("H25", "signals", "changed interval timers"),
        "import signal\nsignal.setitimer(signal.ITIMER_VIRTUAL, 60)  #!\n",
    ),
    "broken_pipe": P(
        *("H25", "signals", "changed umask, signal mask or dispositions"),
        "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)  #!\n",
    ),
    "descriptor": P(
        *("H27", "descriptor", "left descriptors open"),
        "def opened():\n    return open('/dev/null')  #!\nFILE = opened()\n",
    ),
    "epoll_": P(
        *("H27", "kept", "keeps an epoll in epoll_.EVENTS"),
        "import select\nEVENTS = select.epoll()  #!\n",
    ),
    "socket_": P(
        *("H27", "socket", "uses a socket"),
        "import socket\nwith socket.socket() as s:  #!\n    pass\n",
    ),
    "database": P(
        *("H27", "kept", "keeps a database connection in database.DB"),
        "import sqlite3\nDB = sqlite3.connect(':memory:')  #!\n",
    ),
    "loop": P(
        *("H28", "kept", "keeps an event loop in loop.LOOP"),
        "import asyncio\nLOOP = asyncio.new_event_loop()  #!\n",
    ),
    "death": P(
        *("H29", "process-attributes", "changed what prctl keeps"),
        "import ctypes\nctypes.CDLL(None).prctl(1, 15, 0, 0, 0)  #!\n",
    ),
    "limits": P(
        *("H31", "limits", "changed resource limits"),
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (77, hard))  #!\n",
    ),
    "child": P(
        *("H33", "process", "changed child processes"),
        # It ends when its standard input does.
        "import subprocess as s\n"
        "p = s.Popen(['cat'], stdin=-1, stdout=-3, stderr=-3)  #!\n",
    ),
    "runs": P(
        *("H33", "process", "runs a program"),
        "import subprocess\nsubprocess.run(['true'])  #!\n",
    ),
    "gc_": P(*("H34", "gc", "changed gc settings"), "import gc\ngc.disable()  #!\n"),
    "executable": P(
        *("H36", "memory", "changed memory that children would share"),
        "import mmap\n"
        "CODE = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)  #!\n",
    ),
    "users": P(
        *("H37", "name-service", "asks the name service by pwd.getpwuid"),
        "import os, pwd\nME = pwd.getpwuid(os.getuid())  #!\n",
    ),
    "resolves": P(
        *("H37", "name-service", "asks the resolver: localhost"),
        "import socket\nsocket.getaddrinfo('localhost', 80)  #!\n",
    ),
    "forks": P(
        *("H38", "process", "forks a process"),
        "import os\npid = os.fork()  #!\nif not pid: os._exit(0)\nos.wait()\n",
    ),
    "uid": P(
        *("H39", "value", "uid.TABLE depends on whose it is"),
        "import os\nTABLE = {'me': [os.getuid(), 'x']}  #!\n",
    ),
    "pid": P(
        *("H8", "value", "pid.PID is another each time"),
        "import os\nPID = os.getpid()  #!\n",
    ),
    "began": P(
        *("H8", "value", "began.BEGAN is another each time"),
        "import time\nBEGAN = time.time()  #!\n",
    ),
    "file_at_home": P(
        *("H39", "file", "opens a file of the home directory: /.colours"),
        "import os\n"
        "def read():\n"
        "    try:\n"
        "        return open(os.path.expanduser('~/.colours')).read()  #!\n"
        "    except OSError:\n"
        "        return ''\n"
        "read()\n",
    ),
    "file_here": P(
        *("H39", "file", "opens a file of the working directory: colours.txt"),
        "try:\n    open('colours.txt')  #!\nexcept OSError: pass\n",
    ),
    "writes": P(
        *("H39", "file", "writes to a file: /tmp/isolauncher-audit.log"),
        "try:\n    open('/tmp/isolauncher-audit.log', 'a').close()  #!\n"
        "except OSError: pass\n",
    ),
    "raises": P(
        *("H40", "import", "raised ValueError: no"),
        "def fail():\n    raise ValueError('no')  #!\nfail()\n",
    ),
    "broken": P(*("H40", "import", "raised SyntaxError"), "x = 1\nif x  #!\n"),
    "quits": P(
        *("H40", "import", "called sys.exit(0)"), "import sys\nsys.exit(0)  #!\n"
    ),
    "fails_elsewhere": P(
        *("H40", "import", "under another identity: raised ValueError"),
        "import os\nint(os.environ.get('LEVEL', '3'))\n",
    ),
    "replaces_function": P(
        *("H41", "elsewhere", "changes json.dumps"),
        "import json\ndef patch():\n    json.dumps = len  #!\npatch()\n",
        answer="elsewhere",
    ),
    "changes_class": P(
        *("H41", "elsewhere", "changes json.encoder.JSONEncoder.item_separator"),
        "import json\njson.JSONEncoder.item_separator = ';'  #!\n",
        answer="elsewhere",
    ),
    "registers": P(
        *("H41", "elsewhere", "changes copyreg.dispatch_table[<class"),
        "import copyreg\nclass Mine: pass\ncopyreg.pickle(Mine, lambda one: '')  #!\n",
        answer="elsewhere",
    ),
    "appends": P(
        *("H41", "elsewhere", "changes urllib.parse.uses_netloc"),
        "import urllib.parse\nurllib.parse.uses_netloc.append('mine')  #!\n",
        answer="elsewhere",
    ),
    "counts_children": P(
        *("H33", "process", "ran a program"),
        "import ctypes, os\n"
        "pid = ctypes.CDLL(None).fork()\n"
        "if not pid: os._exit(0)\n"
        "os.waitpid(pid, 0)\n",
    ),
    "reads_below": P(
        # In a module that this one imports, and not where it is imported.
        *("H19", "environment", "reads the environment variable BELOW"),
        "from . import below\n",
    ),
}

CLEAN = (
    "abc argparse base64 bisect collections configparser copy csv dataclasses datetime "
    "difflib enum fractions functools heapq html itertools json statistics textwrap"
).split()

# What a hazard is found by where the row is one of symptoms: its neighbour's row.
STANDS_FOR = {
    "H2": "thread_of_c",
    "H3": "main_context",
    "H4": "argv",
    "H6": "home_of_glib",
    "H11": "key",
    "H26": "broken_pipe",
}
NOT_OF_IMPORTS = {
    "H9": "the hash seed is the interpreter's",
    "H10": "the address layout is the interpreter's",
    "H30": "the sandbox sets dumpable for each child, whatever it was",
    "H32": "each child joins a keyring of its own, whatever it had",
    "H35": "a matter of the files (watch), not of what they do",
}


@pytest.fixture(scope="module")
def plantation() -> Iterator[Path]:
    # Not tmp_path, which only root may enter: the import runs as somebody else.
    top = Path(tempfile.mkdtemp(prefix="planted-"))
    top.chmod(0o755)
    for name, planted in PLANTED.items():
        (top / f"{name}.py").write_text(planted.source)
    package = top / "package"
    package.mkdir()
    (package / "__init__.py").write_text(PLANTED["reads_below"].source)
    (package / "below.py").write_text("import os\n\nos.getenv('BELOW')  #!\n")
    yield top
    shutil.rmtree(top)


def line_of(path: Path) -> int:
    lines = path.read_text().splitlines()
    return next((n for n, text in enumerate(lines, 1) if text.endswith(MARK)), 0)


Judged = dict[str, Future[verdict.Verdicts]]


@pytest.fixture(scope="module")
def judged(plantation: Path) -> Iterator[Judged]:
    """All of them, as many at once as there are processors: each is a process's."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(name: str, *path: str) -> Future[verdict.Verdicts]:
            return pool.submit(verdict.judge, [name], path=path)

        names = [n for n, p in PLANTED.items() if not (p.needs and installed(*p.needs))]
        planted = {n: begin(MODULES.get(n, n), str(plantation)) for n in names}
        yield planted | {name: begin(name) for name in CLEAN}


MODULES = {"reads_below": "package"}
"""Whose findings lie in a module below the one that is named."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_hazard_is_found_at_its_line(
    name: str, plantation: Path, judged: Judged
) -> None:
    planted = PLANTED[name]
    need(installed(*planted.needs))
    file = plantation / f"{name}.py"
    if name in MODULES:
        file = plantation / "package/below.py"
    (said,) = judged[name].result().verdicts
    found = [f for f in said.findings if f.text.startswith(planted.text)]
    assert found, said.findings
    assert {(f.kind, f.hazard, f.answer) for f in found} == {
        (planted.kind, planted.hazard, planted.answer)
    }
    line = line_of(file)
    if line:
        assert [(f.file, f.line) for f in found] == [(str(file), line)]
    if planted.answer:
        assert planted.answer in said.handover
    else:
        assert said.unfit


def test_every_hazard_that_an_import_can_make_is_planted() -> None:
    rows = {f"H{number}" for number in range(1, 41)}
    planted = {one.hazard for one in PLANTED.values()} | STANDS_FOR.keys()
    assert set(STANDS_FOR.values()) <= PLANTED.keys()
    assert len(PLANTED) >= 40
    assert planted.isdisjoint(NOT_OF_IMPORTS)
    assert rows - planted == NOT_OF_IMPORTS.keys()


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_where_there_is_nothing(name: str, judged: Judged) -> None:
    (said,) = judged[name].result().verdicts
    assert said.findings == ()
    assert said.unfit == ()
    assert said.handover == ()


def test_each_hazard_is_its_own_entry_s_and_no_neighbour_s(plantation: Path) -> None:
    names = ["base64", "handler", "textwrap", "generator", "csv"]
    found = verdict.judge(names, path=[str(plantation)]).verdicts
    assert [v.entry["name"] for v in found if v.unfit] == ["handler", "generator"]
    assert [v.entry["name"] for v in found if v.findings] == ["handler", "generator"]


def test_every_set_is_fit_and_its_hand_over_is_named() -> None:
    done = subprocess.run(
        [twins.PYTHON, "-m", "isolauncher", "preload", "check", "--json", "sugar3"],
        cwd=TOP,
        capture_output=True,
        check=False,
    )
    sets = json.loads(done.stdout)["sets"]
    assert [
        (e["name"], e["unfit"])
        for said in sets.values()
        for e in said["entries"]
        if e["verdict"] == "unfit"
    ] == []
    assert done.returncode == 0
    handover = {e["name"]: e["handover"] for e in sets["sugar3"]["entries"]}
    assert handover["tempfile"] == ["randomness"]
    assert handover["json"] == []


def test_the_command_says_verdict_place_and_hazard(plantation: Path) -> None:
    def check(*names: str) -> list[str]:
        done = subprocess.run(
            [twins.PYTHON, "-m", "isolauncher", "preload", "check", *names],
            cwd=TOP,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        return done.stdout.splitlines()

    said = check("this")
    assert said[0].startswith("this: unfit: wrote to standard output or error: The Zen")
    assert said[1].startswith("  /usr/lib/python3.11/this.py:28: wrote to standard")
    assert said[1].endswith(" [H23]")


def check(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [twins.PYTHON, "-m", "isolauncher", "preload", "check", *names],
        cwd=TOP,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_no_module_that_is_unfit() -> None:
    said = check("")
    assert (said.returncode, said.stdout) == (125, "")
    assert said.stderr.endswith("[preload-no-such-module]\n")


def test_a_module_is_named_by_its_file_or_sought_in_pythonpath(
    plantation: Path,
) -> None:
    said = check(str(plantation / "handler.py"))
    assert (said.returncode, said.stderr) == (1, "")
    assert said.stdout.startswith("handler: unfit: ")
    assert check(str(plantation / "package")).stdout.startswith("package: unfit: ")
    assert check("handler", PYTHONPATH=str(plantation)).stdout == said.stdout
    # Last in the path: what is installed wins, as in a zygote.
    (plantation / "colorsys.py").write_text("print('not this one')\n")
    assert check("colorsys", PYTHONPATH=str(plantation)).stdout == "colorsys: fit\n"


def test_what_is_no_module_s_file_is_refused(plantation: Path) -> None:
    (plantation / "two words.py").touch()
    (plantation / "empty").mkdir(exist_ok=True)
    for name, why in {
        "nothing.py": "No such file or directory",
        "empty": "No such file or directory",
        "two words.py": "is no Python module's file or package",
        "/etc/passwd": "is no Python module's file or package",
    }.items():
        said = check(str(plantation / name))
        assert (said.returncode, said.stdout) == (125, "")
        assert why in said.stderr
        assert "Traceback" not in said.stderr


def test_a_date_is_found_though_it_is_the_same_all_day(plantation: Path) -> None:
    source = "import time\n\nDAY = time.strftime('%Y-%m-%d')\n"
    (plantation / "dated.py").write_text(source)
    said = check(str(plantation / "dated.py")).stdout
    assert f"{plantation}/dated.py:3: dated.DAY depends on whose it is" in said


def test_a_finding_without_a_place_is_not_lost() -> None:
    lost = Finding(entry="x", kind="thread", text="started threads: 5", hazard="H1")
    entry = {"name": "x", "faults": [], "absent": ""}
    one = verdict.Verdict(entry=entry, findings=(lost,), handover=())
    assert one.unfit == ("started threads: 5",)
