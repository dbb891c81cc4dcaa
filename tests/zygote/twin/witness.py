# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints all of its process's state that a program can see, one JSON object.

Addresses, ids and times are left out or made canonical; nothing else is.
"""

import sys

MODULES = list(sys.modules)
MAIN = {name: repr(value) for name, value in globals().items() if name != "MODULES"}
IMPORTERS = {k: type(v).__name__ for k, v in sys.path_importer_cache.items()}
FRAME = sys._getframe()
DEPTH = 0
while FRAME is not None:
    DEPTH += 1
    FRAME = FRAME.f_back


def deepest(n=1):
    try:
        return deepest(n + 1)
    except RecursionError:
        return n


RECURSION = deepest()

import asyncio  # noqa: E402
import atexit  # noqa: E402
import concurrent.futures  # noqa: E402
import contextvars  # noqa: E402
import ctypes  # noqa: E402
import decimal  # noqa: E402
import gc  # noqa: E402
import getpass  # noqa: E402
import gettext  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import linecache  # noqa: E402
import locale  # noqa: E402
import logging  # noqa: E402
import mimetypes  # noqa: E402
import multiprocessing.process  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import site  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import sysconfig  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
import urllib.request  # noqa: E402
import uuid  # noqa: E402
import warnings  # noqa: E402

libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
libc.setlocale.restype = ctypes.c_char_p


def canonical(text):
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def attempt(function):
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def stream(s):
    if s is None:
        return None
    raw = s.buffer.raw
    return {
        "text": repr(s),
        "buffer": repr(s.buffer),
        "raw": repr(raw),
        "encoding": s.encoding,
        "errors": s.errors,
        "line_buffering": s.line_buffering,
        "write_through": s.write_through,
        "mode": s.mode,
        "name": s.name,
        "tty": s.isatty(),
        "fileno": s.fileno(),
        "attributes": sorted(vars(s)) if hasattr(s, "__dict__") else [],
        "raw_attributes": sorted(vars(raw)) if hasattr(raw, "__dict__") else [],
    }


def status(*keys):
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":", 1) for line in file)
    return {key: lines[key].strip() for key in keys}


def descriptors():
    found = {}
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return {n: re.sub(r"\[\d+\]", "[]", t) for n, t in found.items()}


def stack():
    try:
        raise ValueError("seen")
    except ValueError:
        return traceback.format_exc()


async def loop_facts():
    return [
        type(asyncio.get_running_loop()).__name__,
        asyncio.get_running_loop().get_debug(),
    ]


state = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "main": {k: canonical(v) for k, v in MAIN.items()},
    "main order": list(MAIN),
    "main module": canonical(repr(sys.modules["__main__"])),
    "sys.modules": MODULES,
    "sys.path": sys.path,
    "path_importer_cache": IMPORTERS,
    "meta_path": [canonical(repr(f)) for f in sys.meta_path],
    "path_hooks": [canonical(repr(f)) for f in sys.path_hooks],
    "sys names": sorted(vars(sys)),
    "sys.flags": repr(sys.flags),
    "sys values": {
        name: canonical(repr(getattr(sys, name)))
        for name in sorted(vars(sys))
        if name
        not in {
            "modules",
            "argv",
            "orig_argv",
            "path",
            "path_importer_cache",
            # A set's order is the hash seed's.
            "stdlib_module_names",
            "meta_path",
            "path_hooks",
            "flags",
        }
    },
    "sys answers": [
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.gettrace(),
        sys.getprofile(),
        sys.getfilesystemencoding(),
        sys.getfilesystemencodeerrors(),
        sys.getdlopenflags(),
        sys.get_int_max_str_digits(),
        sys.get_coroutine_origin_tracking_depth(),
        repr(sys.get_asyncgen_hooks()),
        sys.is_finalizing(),
        sys.getdefaultencoding(),
    ],
    "frames": [DEPTH, len(inspect.stack()), stack(), traceback.format_stack()],
    "recursion depth": RECURSION,
    "stdin": stream(sys.stdin),
    "stdout": stream(sys.stdout),
    "stderr": stream(sys.stderr),
    "dunder streams": [
        sys.stdin is sys.__stdin__,
        sys.stdout is sys.__stdout__,
        sys.stderr is sys.__stderr__,
    ],
    "environ": list(os.environ.items()),
    "environb": [repr(pair) for pair in os.environb.items()],
    "C environ": {
        name: repr(libc.getenv(name.encode())) for name in [*os.environ, "PAD", "HOME"]
    },
    "C locale": [repr(libc.setlocale(n, None)) for n in range(13)],
    "locale": [attempt(locale.getlocale), locale.getpreferredencoding(False)],
    "time": [time.tzname, time.timezone, time.daylight, time.localtime(1e9).tm_hour],
    "strptime": time.strptime("2020-01-02", "%Y-%m-%d")[:8],
    "gettext": [
        gettext.textdomain(),
        list(gettext._translations),
        list(gettext._localedirs),
    ],
    "cwd": os.getcwd(),
    "status": status("Umask", "SigBlk", "SigIgn", "SigCgt", "Threads"),
    "signals": {
        int(n): canonical(repr(signal.getsignal(n))) for n in signal.valid_signals()
    },
    "wakeup": signal.set_wakeup_fd(-1),
    "timers": [signal.getitimer(n) for n in (0, 1, 2)],
    "nice": os.nice(0),
    "descriptors": descriptors(),
    "threads": [
        threading.active_count(),
        threading.current_thread().name,
        threading.current_thread() is threading.main_thread(),
        threading.main_thread().native_id == os.getpid(),
        threading.Thread().name,
        threading.stack_size(),
        canonical(repr(threading.excepthook)),
    ],
    "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks],
    "tempfile": [tempfile.tempdir, tempfile.gettempdir(), tempfile._name_sequence],
    "platform": [platform.node(), platform.platform()],
    "site": [site.ENABLE_USER_SITE, site.USER_BASE, site.USER_SITE, site.PREFIXES],
    "sysconfig": [
        sysconfig.get_path("purelib"),
        sysconfig.get_config_var("userbase"),
    ],
    "warnings": [repr(warnings.filters), repr(sys.warnoptions), warnings.onceregistry],
    "logging": [
        repr(logging.root.handlers),
        logging.root.level,
        len(logging._handlerList),
        logging.raiseExceptions,
        time.time() - logging._startTime < 30,
    ],
    "context variables": [v.name for v in contextvars.copy_context()],
    "decimal": repr(decimal.getcontext()),
    "asyncio": [repr(asyncio.events._event_loop_policy), asyncio.run(loop_facts())],
    "executor": concurrent.futures.ThreadPoolExecutor()._thread_name_prefix,
    "multiprocessing": [
        multiprocessing.get_start_method(allow_none=True),
        multiprocessing.current_process().name,
        multiprocessing.process.ORIGINAL_DIR,
        multiprocessing.process.parent_process(),
        len(multiprocessing.current_process().authkey),
        multiprocessing.Process().name,
    ],
    "ssl": [ssl.OPENSSL_VERSION, repr(ssl.get_default_verify_paths())],
    "mimetypes": [mimetypes.inited, mimetypes.guess_type("a.svg")],
    "urllib": [urllib.request._opener is None, urllib.request.getproxies()],
    "socket": [socket.getdefaulttimeout(), attempt(socket.gethostname)],
    "uuid": [uuid._node, uuid._last_timestamp],
    "user": attempt(getpass.getuser),
    "home": os.path.expanduser("~"),
    "linecache": [n for n in linecache.cache if not n.startswith("/")],
    "builtins": sorted(vars(__builtins__)),
    "exit handlers": atexit._ncallbacks(),
    "stdlib names": sorted(sys.stdlib_module_names),
    "stdin content": sys.stdin.read() if sys.stdin else None,
}
json.dump(state, sys.stdout, default=repr)
print()
