# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that modules of the standard library computed once and would keep.

Most are put back once, in the zygote: nothing computes them again between then and the
program. What a module computes from the child when it is imported is in ``RENEW``.

Hazards: H16 (`platform`), H24 (logging's handlers), H28 (event loops), the parts of
H19 and H39 that lie in the standard library, H27's one case that is not a descriptor
(SQLite notes TMPDIR's address when it is loaded).
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import sys
import time
from types import ModuleType
from typing import Any

from isolauncher.zygote.handover import Start, World

_MAIN = "__mp_main__"
_SQLITE_TEMP = ("SQLITE_TMPDIR", "TMPDIR")


def settle(world: World) -> World:
    for name, renew in _RENEW:
        module = sys.modules.get(name)
        if module is not None:
            renew(module)
    # The zygote's own __main__, by the name that multiprocessing gives it.
    sys.modules.pop(_MAIN, None)
    return dataclasses.replace(world, shelved=world.shelved - {_MAIN})


def apply(start: Start, world: World) -> None:
    """What is left depends on the moment of the import, see ``RENEW``."""


def _platform(module: ModuleType) -> None:
    module._uname_cache = None  # type: ignore[attr-defined]
    module._platform_cache.clear()
    module._os_release_cache = None  # type: ignore[attr-defined]


def _logging(module: ModuleType) -> None:
    root = module.root
    root.handlers.clear()
    root.setLevel(module.WARNING)
    root.filters.clear()
    module.disable(module.NOTSET)
    module.raiseExceptions = True  # type: ignore[attr-defined]
    kept = module.lastResort
    module._handlerList[:] = [ref for ref in module._handlerList if ref() is kept]


def _threading(module: ModuleType) -> None:
    module._counter = itertools.count(1).__next__  # type: ignore[attr-defined]
    module._trace_hook = module._profile_hook = None  # type: ignore[attr-defined]
    module.excepthook = module.__excepthook__  # type: ignore[attr-defined]
    module.stack_size(0)


def _events(module: ModuleType) -> None:
    module._event_loop_policy = None  # type: ignore[attr-defined]
    module._set_running_loop(None)


def _tasks(module: ModuleType) -> None:
    module._task_name_counter = itertools.count(1).__next__  # type: ignore[attr-defined]


def _executor(module: ModuleType) -> None:
    count = itertools.count().__next__
    module.ThreadPoolExecutor._counter = count


def _multiprocessing(module: ModuleType) -> None:
    module._default_context._actual_context = None


def _resource_tracker(module: ModuleType) -> None:
    module._resource_tracker._fd = None
    module._resource_tracker._pid = None


def _mimetypes(module: ModuleType) -> None:
    if module.inited:
        module._default_mime_types()
        module.inited = False  # type: ignore[attr-defined]
        module._db = None  # type: ignore[attr-defined]


def _urllib(module: ModuleType) -> None:
    module._opener = None  # type: ignore[attr-defined]
    module._localhost = module._thishost = None  # type: ignore[attr-defined]
    module._ftperrors = module._noheaders = None  # type: ignore[attr-defined]
    module.ftpcache.clear()


def _sysconfig(module: ModuleType) -> None:
    module._CONFIG_VARS = None  # type: ignore[attr-defined]
    module._USER_BASE = None  # type: ignore[attr-defined]


def _linecache(module: ModuleType) -> None:
    module.cache.clear()


def _inspect(module: ModuleType) -> None:
    module.modulesbyfile.clear()
    module._filesbymodname.clear()


def _socket(module: ModuleType) -> None:
    module.setdefaulttimeout(None)


def _http_server(module: ModuleType) -> None:
    module.nobody = None  # type: ignore[attr-defined]


def _zoneinfo(module: ModuleType) -> None:
    module.ZoneInfo.clear_cache()


_RENEW = (
    ("platform", _platform),
    ("logging", _logging),
    ("threading", _threading),
    ("asyncio.events", _events),
    ("asyncio.tasks", _tasks),
    ("concurrent.futures.thread", _executor),
    ("multiprocessing.context", _multiprocessing),
    ("multiprocessing.resource_tracker", _resource_tracker),
    ("mimetypes", _mimetypes),
    ("urllib.request", _urllib),
    ("sysconfig", _sysconfig),
    ("linecache", _linecache),
    ("inspect", _inspect),
    ("_socket", _socket),
    ("http.server", _http_server),
    ("zoneinfo", _zoneinfo),
)


def _start_of_logging(module: Any) -> None:
    module._startTime = time.time()


def _restart_sqlite(module: Any) -> None:
    # The library keeps the pointers that getenv gave it at sqlite3_initialize. No
    # connection exists (a preloaded one fails the descriptor check), which is when it
    # may be shut down.
    if not any(name in os.environ for name in _SQLITE_TEMP):
        return
    library = ctypes.CDLL(module.__file__)
    if library.sqlite3_shutdown() != 0 or library.sqlite3_initialize() != 0:
        raise OSError("SQLite could not be started again")


def _name_of_main(module: Any) -> None:
    if "__main__" in sys.modules:
        sys.modules[_MAIN] = sys.modules["__main__"]


RENEW = {
    "logging": _start_of_logging,
    "_sqlite3": _restart_sqlite,
    "multiprocessing": _name_of_main,
}
