# SPDX-License-Identifier: GPL-3.0-or-later
"""Each hazard of preloading has a remedy, and a test that fails without it.

A zygote is spoilt by hand (``plant``), the program asks; with the hand-over it sees
what a cold start sees, and with the one module taken out it does not.
"""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.powers import installed, need

from isolauncher.zygote.handover import sugar
from isolauncher.zygote.sets import SETS

from . import twins


@dataclass(frozen=True)
class Row:
    module: str
    program: str
    plant: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    set: str = "python"


# A catalogue of Sugar's toolkit, which Debian has none of.
CATALOGUE = """
import array, gettext, os, struct
top = os.environ["HOME"] + "/locale"
os.makedirs(top + "/es/LC_MESSAGES", exist_ok=True)
pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8"), (b"Ok", b"De acuerdo"),
         (b"Text", b"Texto"), (b"Seconds ago", b"Hace unos segundos")]
keys, values, data, at = [], [], b"", 28 + 16 * len(pairs)
for table, n in ((keys, 0), (values, 1)):
    for pair in pairs:
        table += [len(pair[n]), at + len(data)]
        data += pair[n] + b"\\0"
head = struct.pack("7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
tables = array.array("I", keys + values).tobytes()
with open(top + "/es/LC_MESSAGES/sugar-toolkit-gtk3.mo", "wb") as file:
    file.write(head + tables + data)
gettext.bindtextdomain("sugar-toolkit-gtk3", top)
"""

VERSIONS = (
    "import gi; three = dict.fromkeys(('Gdk', 'Gtk', 'GdkX11'), '3.0')\n"
    "gi.require_versions({**three, 'Rsvg': '2.0'})\n"
)

ROWS = {
    "H5-environment-of-the-zygote": Row(
        "environment",
        "import ctypes; g = ctypes.CDLL(None).getenv; g.restype = ctypes.c_char_p\n"
        "import os; print(g(b'PAD'), os.environ.get('PAD'), g(b'LANG'))",
    ),
    "H5-variables-of-a-library": Row(
        "environment",
        "import ctypes; g = ctypes.CDLL(None).getenv; g.restype = ctypes.c_char_p\n"
        "print(g(b'COLUMNS'), g(b'OF_A_LIBRARY'))",
        plant="import ctypes; ctypes.CDLL(None).setenv(b'OF_A_LIBRARY', b'1', 1)",
    ),
    "H19-value-read-while-importing": Row(
        "environment", "import os; print(os.path.expanduser('~'))"
    ),
    "H20-directory-noted-by-multiprocessing": Row(
        "environment",
        "import multiprocessing.process as p; print(p.ORIGINAL_DIR)",
    ),
    "H13-time-zone": Row(
        "locale_time",
        "import time; print(time.tzname, time.localtime(0).tm_hour)",
        environment={"TZ": "Asia/Kathmandu"},
    ),
    "H14-locale": Row(
        "locale_time",
        "import locale; print(locale.setlocale(locale.LC_ALL, None))",
        plant="import locale; locale.setlocale(locale.LC_ALL, 'POSIX')",
    ),
    "H14-gettext": Row(
        "locale_time",
        "import gettext; print(gettext.textdomain(), gettext._translations)",
        plant="import gettext; gettext.textdomain('zygote')\n"
        "gettext._translations['key'] = 'stale'",
    ),
    "H14-words-of-optparse": Row(
        "locale_time",
        "import gettext; gettext.dgettext = lambda domain, text: text.upper()\n"
        "import optparse; print([w for _, w in optparse._builtin_cvt.values()])",
    ),
    "H14-words-of-optparse-searched-otherwise": Row(
        "locale_time",
        "import gettext\n"
        "def find(domain, *more, **how): print(domain, more, how); return []\n"
        "gettext.find = find; import optparse",
    ),
    "H14-words-of-optparse-in-a-catalogue": Row(
        "locale_time",
        CATALOGUE.replace("sugar-toolkit-gtk3", "messages")
        .replace("Seconds ago", "integer")
        .replace('os.environ["HOME"]', "os.getcwd()")
        + "import optparse; print([w for _, w in optparse._builtin_cvt.values()])",
        environment={"LANGUAGE": "es"},
    ),
    "H12-temporary-directory": Row(
        "randomness",
        "import tempfile; print(tempfile.gettempdir())",
        plant="import tempfile; tempfile.tempdir = '/nonexistent'",
        environment={"TMPDIR": "/var/tmp"},
    ),
    "H8-uuid-node": Row(
        "randomness",
        "import uuid; print(uuid._node, uuid._last_timestamp)",
        plant="import uuid; uuid.getnode(); uuid._last_timestamp = 5",
    ),
    "H16-host-name": Row(
        "stdlib_caches",
        "import platform; print(platform.node())",
        plant="import platform\n"
        "platform._uname_cache = platform.uname_result('L', 'old', 'r', 'v', 'm')",
    ),
    "H24-logging": Row(
        "stdlib_caches",
        "import logging; print(logging.root.handlers, logging.root.level)\n"
        "print(len(logging._handlerList))",
        plant="import logging; logging.basicConfig(level=0)",
    ),
    "H24-start-of-logging": Row(
        "stdlib_caches",
        "import logging, time; print(time.time() - logging._startTime < 60)",
        plant="import logging; logging._startTime = 0",
    ),
    "H28-event-loop-policy": Row(
        "stdlib_caches",
        "import asyncio.events as e; print(e._event_loop_policy)",
        plant="import asyncio; asyncio.get_event_loop_policy()",
    ),
    "H39-urllib-opener": Row(
        "stdlib_caches",
        "import urllib.request as r; print(r._opener, r._thishost)",
        plant="import urllib.request as r; r.install_opener('zygote')\n"
        "r._thishost = 'old'",
    ),
    "H39-sysconfig": Row(
        "stdlib_caches",
        "import sysconfig; print(sysconfig.get_config_var('userbase'))",
        plant="import sysconfig; sysconfig.get_config_vars()",
        environment={"HOME": "/var"},
    ),
    "H27-socket-timeout": Row(
        "stdlib_caches",
        "import socket; print(socket.getdefaulttimeout())",
        plant="import socket; socket.setdefaulttimeout(3)",
    ),
    "H39-mime-types": Row(
        "stdlib_caches",
        "import mimetypes; print(mimetypes.inited)",
        plant="import mimetypes; mimetypes.init()",
    ),
    "H1-thread-names": Row(
        "stdlib_caches",
        "import threading; print(threading.Thread().name)",
        plant="import threading; threading.Thread()",
    ),
    "H25-handlers": Row(
        "signals",
        "import signal; print([signal.getsignal(n) for n in signal.valid_signals()])",
        plant="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
    ),
    "H25-mask": Row(
        "signals",
        "print([l for l in open('/proc/self/status') if l.startswith('Sig')][1:])",
        plant="import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15})",
    ),
    "H25-wakeup-descriptor": Row(
        "signals",
        "import signal; print(signal.set_wakeup_fd(-1))",
        plant="import os, signal; r, w = os.pipe(); os.set_blocking(w, False)\n"
        "signal.set_wakeup_fd(w)",
    ),
    "H23-streams": Row(
        "streams",
        "import sys; print(sys.stdout.errors, sys.stdin is sys.__stdin__)",
        plant="import sys; sys.stdout.reconfigure(errors='replace'); sys.stdin = 0",
    ),
    "H20-arguments": Row("interpreter", "import sys; print(sys.argv, sys.orig_argv)"),
    "H20-search-path": Row("interpreter", "import sys; print(sys.path)"),
    "H17-path-caches": Row(
        "interpreter",
        "import sys; print(sys.path_importer_cache.get('/var'))",
        plant="import sys; sys.path_importer_cache['/var'] = 'stale'",
    ),
    "H20-hooks": Row(
        "interpreter",
        "import sys; print(sys.excepthook, sys.displayhook)",
        plant="import sys; sys.excepthook = sys.displayhook = print",
    ),
    "H20-warning-filters": Row(
        "interpreter",
        "import warnings; print(warnings.filters)",
        plant="import warnings; warnings.simplefilter('ignore')",
    ),
    "H20-recursion-limit": Row(
        "interpreter",
        "import sys; print(sys.getrecursionlimit())",
        plant="import sys; sys.setrecursionlimit(5000)",
    ),
    "H34-gc": Row(
        "interpreter",
        "import gc; print(gc.isenabled(), gc.get_threshold())",
        plant="import gc; gc.disable(); gc.set_threshold(1, 1, 1)",
    ),
    "H1-native-thread-id": Row(
        "interpreter",
        "import threading, os\n"
        "print(threading.main_thread().native_id == os.getpid())",
    ),
    "H4-initialised-by-import": Row(
        "gtk",
        "import gi; gi.require_version('Gtk', '3.0')\n"
        "from gi.repository import GLib; print(GLib.get_prgname())\n"
        "from gi.repository import Gtk; print(GLib.get_prgname())\n"
        "import gi.overrides.Gtk as o, gi.overrides.Gdk as d\n"
        "print(o.initialized, d.initialized, o.argv, d.argv, o.Gtk.init_check)",
        set="gtk3",
    ),
    "H4-nothing-before-its-import": Row(
        "shelf",
        # In any order: some are put there by C, not imported.
        "import sys; look = lambda: sorted(\n"
        "    n for n in sys.modules if n.split('.')[0] in ('gi', 'dbus', 'sugar3'))\n"
        "print(look(), len(sys.meta_path)); import gi\n"
        "print(look(), len(sys.meta_path), hasattr(gi, 'module'))\n"
        "from gi.repository import GLib\n"
        "print(sorted(look()), len(sys.meta_path), hasattr(gi, 'module'))",
        set="gtk3",
    ),
    "H14-locale-set-by-gtk": Row(
        "gtk",
        "import gi; gi.require_version('Gtk', '3.0')\n"
        "import locale; print(locale.setlocale(locale.LC_ALL, None))\n"
        "from gi.repository import Gtk\n"
        "print(locale.setlocale(locale.LC_ALL, None))",
        set="gtk3",
    ),
    "H3-default-main-loop": Row(
        "dbus_python",
        "import dbus; print(dbus.get_default_main_loop())\n"
        "import sugar3.activity.activityinstance as a\n"
        "print(type(dbus.get_default_main_loop()), a.DBusGMainLoop)",
        set="sugar3",
    ),
    "H14-translated-at-import": Row(
        "sugar",
        CATALOGUE + VERSIONS + "from sugar3 import mime, util\n"
        "from sugar3.graphics import alert\n"
        "print(util.NOW, mime.get_generic_type('Text').name)\n"
        "print(alert._TimeoutAlert.__init__.__defaults__)",
        environment={"LANGUAGE": "es"},
        set="sugar3",
    ),
    "H19-sizes-and-fonts": Row(
        "sugar",
        VERSIONS + "from sugar3.graphics import style, toolbarbox\n"
        "from sugar3.activity import activity\n"
        "print(style.STANDARD_ICON_SIZE, style.FONT_SIZE, str(style.FONT_BOLD))\n"
        "print(toolbarbox.ToolbarBox.__init__.__defaults__, activity.PREVIEW_SIZE)",
        environment={"SUGAR_SCALING": "72"},
        set="sugar3",
    ),
    "H39-made-at-first-use": Row(
        "sugar",
        "from sugar3 import profile; print(profile._profile)\n"
        "from sugar3.datastore import datastore; print(datastore._data_store)",
        plant="from sugar3 import profile; profile.get_profile()\n"
        "from sugar3.datastore import datastore; datastore._data_store = 'old'",
        set="sugar3",
    ),
    "H22-exit-handlers": Row(
        "exits",
        "import atexit; atexit.register(print, 'mine')",
        plant="import atexit; atexit.register(print, 'of the zygote')",
    ),
    "H41-registered-elsewhere": Row(
        "elsewhere", "import copyreg; print(len(copyreg.dispatch_table))"
    ),
    "H20-our-modules": Row(
        "modules",
        "import sys; print('isolauncher.zygote.handover' in sys.modules)",
    ),
}


NEEDED = {
    "python": (),
    "gtk3": ("gi.repository.Gtk", "dbus.mainloop.glib"),
    "sugar3": ("gi.repository.Gtk", "sugar3.activity.activity"),
}


@pytest.mark.parametrize("name", ROWS)
def test_remedy_makes_it_a_cold_start_and_its_absence_does_not(
    name: str, tmp_path: Path
) -> None:
    row = ROWS[name]
    script = tmp_path / "program.py"
    script.write_text(row.program)
    home = "/usr" if row.set == "python" else str(tmp_path)
    need(installed(*NEEDED[row.set]))
    how: dict[str, Any] = {
        "environment": {**twins.ENVIRONMENT, "HOME": home, **row.environment},
        "cwd": str(tmp_path),
    }
    cold = twins.cold(str(script), **how)
    assert cold.status == 0, cold.err
    how |= {"plant": row.plant, "preload": list(SETS[row.set])}
    mended = twins.forked(str(script), **how)
    assert mended == cold
    spoilt = twins.forked(str(script), without=[row.module], **how)
    assert spoilt != cold, "the remedy is not what makes them equal"


def test_h15_user_site_is_the_programs_and_its_pth_files_run(tmp_path: Path) -> None:
    site = tmp_path / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "mine.py").write_text("x = 5")
    (tmp_path / "more").mkdir()
    (site / "a.pth").write_text(f"{tmp_path}/more\nimport sys; sys.seen = 'pth'\n")
    (site / "usercustomize.py").write_text("import sys; sys.before = list(sys.path)")
    # Comes after the standard library, and so does not count; nor does the other.
    (site / "json.py").write_text("mine = 1")
    (tmp_path / "more" / "decimal.py").write_text("mine = 1")
    script = tmp_path / "p.py"
    script.write_text(
        "import site, sys, mine\n"
        "import json, decimal; print(json.__file__, decimal.__file__, sys.before)\n"
        "print(mine.x, sys.seen, sys.path, site.USER_SITE, site.USER_BASE)"
    )
    how: dict[str, Any] = {"environment": {**twins.ENVIRONMENT, "HOME": str(tmp_path)}}
    cold = twins.cold(str(script), **how)
    assert cold.status == 0, cold.err
    assert twins.forked(str(script), **how) == cold
    assert twins.forked(str(script), without=["interpreter"], **how) != cold


@pytest.mark.parametrize("kind", ["script", "module"])
def test_nothing_of_the_programs_runs_before_it_may(kind: str, tmp_path: Path) -> None:
    site = tmp_path / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    seen = tmp_path / "seen"
    trap = f"open({str(seen)!r}, 'w')"
    (site / "a.pth").write_text(f"import sys; {trap}\n")
    (site / "usercustomize.py").write_text(trap)
    for name in ("program", "runpy", "site", "array", "importlib", "encodings", "json"):
        (tmp_path / f"{name}.py").write_text(trap)
    argv = ["program.py"] if kind == "script" else ["-m", "program"]
    how: dict[str, Any] = {
        "environment": {**twins.ENVIRONMENT, "HOME": str(tmp_path)},
        "cwd": str(tmp_path),
    }
    assert twins.forked(*argv, stop=True, **how).status == 0
    assert not seen.exists()
    # And then it does, though what a program with such names comes to is its affair.
    twins.forked(*argv, **how)
    assert seen.exists()


SIBLING = """
import json, multiprocessing, multiprocessing.synchronize, os, random, secrets
import tempfile, uuid
print(json.dumps({
    "random": random.random(),
    "uuid4": str(uuid.uuid4()),
    "secrets": secrets.token_hex(),
    "authkey": multiprocessing.current_process().authkey.hex(),
    "temporary name": next(tempfile._get_candidate_names()),
    "semaphore name": multiprocessing.synchronize.SemLock._make_name(),
    "urandom": os.urandom(8).hex(),
    "private": __import__("numpy.random").random.draw(),
}))
"""


def siblings(tmp_path: Path, **told: Any) -> list[dict[str, object]]:
    package = tmp_path / "planted" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "random.py").write_text(
        "from random import Random\n_own = Random(1)\n"
        "seed, draw = _own.seed, _own.random\n"
    )
    script = tmp_path / "p.py"
    script.write_text(
        f"import sys; sys.path.append({str(tmp_path / 'planted')!r})\n" + SIBLING
    )
    ended = twins.forked(
        str(script),
        children=2,
        preload=[*SETS["python"], "numpy.random"],
        path=[str(tmp_path / "planted")],
        **told,
    )
    assert ended.status == 0, ended.err
    found: list[dict[str, object]] = [json.loads(x) for x in ended.out.splitlines()]
    assert len(found) == 2
    return found


@pytest.mark.parametrize(
    "plant",
    ["", "import tempfile; next(tempfile._get_candidate_names())"],
    ids=["untouched", "names-drawn-by-the-zygote"],
)
def test_h7_h8_h11_siblings_draw_nothing_alike(tmp_path: Path, plant: str) -> None:
    one, other = siblings(tmp_path, plant=plant)
    assert not [name for name in one if one[name] == other[name]]


def test_h7_h11_without_randomness_siblings_share(tmp_path: Path) -> None:
    one, other = siblings(tmp_path, without=["randomness"])
    shared = {name for name in one if one[name] == other[name]}
    assert {"authkey", "private"} <= shared


@pytest.mark.parametrize("without", [[], ["glib"]], ids=["mended", "spoilt"])
def test_h7_siblings_draw_nothing_alike_from_glib(
    tmp_path: Path, without: list[str]
) -> None:
    need(installed(*NEEDED["gtk3"]))
    script = tmp_path / "p.py"
    script.write_text("from gi.repository import GLib; print(GLib.random_int())")
    ended = twins.forked(
        str(script),
        children=2,
        preload=list(SETS["gtk3"]),
        plant="from gi.repository import GLib; GLib.random_int()",
        without=without,
    )
    one, other = ended.out.splitlines()
    assert (one == other) is bool(without)


def test_h6_glib_asks_for_directories_in_the_child(tmp_path: Path) -> None:
    """Nobody has asked in the zygote: once somebody had, nothing would mend it."""
    need(installed(*NEEDED["sugar3"]))
    script = tmp_path / "p.py"
    script.write_text(
        VERSIONS + "from sugar3.activity import activity\n"
        "from gi.repository import GLib\n"
        "names = 'home_dir tmp_dir user_data_dir user_config_dir user_cache_dir '\n"
        "names += 'user_runtime_dir user_name real_name host_name prgname '\n"
        "names += 'application_name system_data_dirs system_config_dirs'\n"
        "for n in names.split(): print(n, getattr(GLib, 'get_' + n)())\n"
        "print(GLib.getenv('PAD'), GLib.getenv('HOME'), GLib.get_language_names())"
    )
    environment = {
        **{"HOME": str(tmp_path), "TMPDIR": "/var/tmp", "LANG": "C.UTF-8"},
        **{"PATH": "/usr/bin", "XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/config"},
        **{"XDG_CACHE_HOME": "/cache", "XDG_RUNTIME_DIR": "/run/x"},
        **{"XDG_DATA_DIRS": "/usr/share:/d", "XDG_CONFIG_DIRS": "/etc/xdg:/e"},
    }
    how: dict[str, Any] = {"environment": environment}
    cold = twins.cold(str(script), **how)
    how["preload"] = list(SETS["sugar3"])
    assert twins.forked(str(script), **how) == cold
    asked = "from gi.repository import GLib; GLib.get_user_data_dir()"
    assert twins.forked(str(script), plant=asked, **how) != cold


def test_h14_h19_every_line_that_asks_is_done_again() -> None:
    """No other module of a set translates or measures while it is imported."""
    need(installed(*NEEDED["sugar3"]))
    asking = set()
    for name in SETS["sugar3"]:
        place = Path("/usr/lib/python3/dist-packages", *name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if name.startswith("sugar3.") and path.exists():
                body = ast.parse(path.read_text()).body
                if any(map(sugar._asks, body)) or list(sugar._defaults(body, "", "")):
                    asking.add(name)
    # Its constants are no calls of `style`, they are `style`.
    assert asking <= {*sugar.PARTS, sugar.STYLE}


def test_h26_an_execed_program_gets_default_signals() -> None:
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1])\n"
        "from isolauncher.zygote.handover import signals\n"
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {2})\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if sys.argv[2] == 'yes': signals.for_exec()\n"
        "os.execv('/bin/grep', ['grep', '-E', 'Sig(Blk|Ign)', '/proc/self/status'])"
    )
    top = str(twins.BOOTSTRAP.parent.parent.parent)

    def grep(mend: str) -> set[str]:
        command = [twins.PYTHON, "-c", code, top, mend]
        out = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        return {line.split()[1] for line in out.splitlines()}

    # Two that the C library keeps for itself: whoever started us may ignore them, and
    # only the kernel's own call brings them back, which the sandbox's steps make.
    ours = 1 << 31 | 1 << 32
    assert all(int(mask, 16) & ~ours == 0 for mask in grep("yes"))
    assert any(int(mask, 16) & ~ours for mask in grep("no"))


def test_h36_callbacks_made_before_the_fork_and_after_it_work(tmp_path: Path) -> None:
    """They are code that libffi writes; none of it is in memory that siblings share."""
    need(installed(*NEEDED["gtk3"]))
    script = tmp_path / "p.py"
    script.write_text(
        "import ctypes, sys\n"
        "from gi.repository import GObject\n"
        "twice = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: 2 * n)\n"
        "class Bell(GObject.Object):\n"
        "    __gsignals__ = {'rings': (GObject.SignalFlags.RUN_LAST, None, (int,))}\n"
        "bell = Bell(); bell.connect('rings', lambda bell, n: print('ding', n))\n"
        "bell.emit('rings', twice(2)); print(getattr(sys, 'old', twice)(4))\n"
        "maps = open('/proc/self/maps').read(); print(' rw-s ' in maps)"
    )
    plant = (
        "import ctypes, sys\n"
        "sys.old = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: 2 * n)"
    )
    how: dict[str, Any] = {"preload": list(SETS["gtk3"]), "plant": plant}
    assert twins.forked(str(script), **how) == twins.cold(str(script))


def test_h27_sqlite_puts_its_files_where_the_program_says(tmp_path: Path) -> None:
    script = tmp_path / "p.py"
    script.write_text(
        "import os, sqlite3\n"
        "c = sqlite3.connect('')\n"
        "c.execute('pragma cache_size = 1'); c.execute('create table t (x)')\n"
        "c.executemany('insert into t values (?)', [('x' * 900,)] * 400)\n"
        "c.commit()\n"
        "names = [os.readlink(f'/proc/self/fd/{n}') for n in range(3, 9)\n"
        "         if os.path.islink(f'/proc/self/fd/{n}')]\n"
        "print([os.path.dirname(n) for n in names])"
    )
    place = tmp_path / "place"
    place.mkdir()
    environment = {**twins.ENVIRONMENT, "TMPDIR": str(place)}
    cold = twins.cold(str(script), environment=environment)
    assert str(place) in cold.out.decode()
    assert twins.forked(str(script), environment=environment) == cold
    spoilt = twins.forked(
        str(script), environment=environment, without=["stdlib_caches"]
    )
    assert spoilt != cold


CLASHES = {
    "json.py": "import json; print(json.__file__, json.mine)",
    "random.py": "import random, sys; print(random.__file__)\nimport tempfile",
    # Preloaded `random` holds the standard library's bisect.
    "bisect.py": "import random; print(random._bisect())",
    "textwrap.py": "import argparse, textwrap; print(textwrap.mine)",
    "site.py": "import site; print(site.__file__)",
    "os.py": "import os; print(os.__file__)",
    "sitecustomize.py": "import sitecustomize as s; print(s.__file__)",
    "usercustomize.py": "import usercustomize as s; print(s.__file__)",
    "encodings/__init__.py": "import encodings; print(encodings.__file__)",
    "email/__init__.py": "import email; print(email.__file__)\n"
    "try:\n import email.message\nexcept ImportError as e: print(e)",
    # A directory that is no package gives way.
    "http/data.txt": "import http.client; print(http.__file__)",
    "threading.py": "import threading; print(threading.__file__)",
    "token.py": "import tokenize; print(tokenize.token)",
    "signal.py": "import signal; print(signal.__file__)",
    "resource.py": "import resource; print(resource.mine)",
    "mmap.py": "import mmap; print(mmap.mine)",
    "array.py": "import array; print(array)",
    "_json.py": "import json; print(json.loads('[1]'))",
    "math.py": "import math; print(math)",
    "time.py": "import time; print(time)",
    "logging.py": "import logging; print(logging.__file__)",
    "dataclasses.py": "import dataclasses; print(dataclasses.mine)",
    "io.py": "import io; print(io.__file__)",
}


@pytest.mark.parametrize("name", CLASHES)
@pytest.mark.parametrize("kind", ["script", "module"])
def test_h18_a_programs_own_module_wins_as_in_a_cold_start(
    tmp_path: Path, name: str, kind: str
) -> None:
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    # A cold start compiles it, a second run must not find it compiled differently.
    own.write_text("mine = 5\ndef bisect(): return 'mine'\n")
    (tmp_path / "program.py").write_text(CLASHES[name])
    argv = ["program.py"] if kind == "script" else ["-m", "program"]
    cold, forked = twins.both(*argv, cwd=str(tmp_path))
    assert (forked.status, forked.out) == (cold.status, cold.out), forked.err
    assert forked.err == cold.err


def test_h18_without_the_rule_the_preloaded_module_would_win(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("mine = 5\n")
    (tmp_path / "program.py").write_text("import json; print(json.__file__)")
    cold = twins.cold("program.py", cwd=str(tmp_path))
    spoilt = twins.forked("program.py", cwd=str(tmp_path), without=["shelf"])
    assert spoilt != cold


def test_h18_bystanders_stay_preloaded(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("mine = 5\n")
    (tmp_path / "program.py").write_text(
        "import json, decimal, re\n"
        "print(*(hasattr(m, 'planted') for m in (json, decimal, re)))"
    )
    plant = "import json, decimal, re; json.planted = decimal.planted = re.planted = 1"
    forked = twins.forked("program.py", cwd=str(tmp_path), plant=plant)
    assert forked.out == b"False True True\n"
