# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that modules of the standard library computed once and would keep.

Most are put back once, in the zygote: nothing computes them again between then and the
program. What a module computes from the child when it is imported is in ``RENEW``.

Hazards: H16 (`platform`), H24 (logging's handlers), H28 (event loops), the parts of
H19 and H39 that lie in the standard library, H27's one case that is not a descriptor
(SQLite notes TMPDIR's address when it is loaded).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from isolauncher.zygote.handover import Start, World
from isolauncher.zygote.noting import globals_of

_MAIN = "__mp_main__"
_SQLITE_TEMP = ("SQLITE_TMPDIR", "TMPDIR")


def settle(world: World) -> World:
    for name, renew in _RENEW:
        module = sys.modules.get(name)
        if module is not None:
            renew(module)
    if "zoneinfo._tzpath" in world.shelved:
        _build(sys.modules["sysconfig"])
    if "importlib" not in world.pristine.modules:
        # Else `site` has imported it (a .pth file did), in a cold start too.
        _names_of_importlib()
    _loggers(world)
    for name in world.asking:
        _also(name, _asks_platform)
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
    # Once, in the zygote: a child has none but that one yet.
    _made_handlers[:] = _made_handlers or module._handlerList
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

RENEWED = frozenset(name for name, _ in _RENEW)
"""Modules whose values are put back, once, in the zygote."""

CONTAINERS = frozenset(
    {
        *("inspect._filesbymodname", "inspect.modulesbyfile", "linecache.cache"),
        *("logging._handlerList", "platform._platform_cache", "threading._active"),
        *("urllib.request.ftpcache", "mimetypes.encodings_map", "mimetypes.types_map"),
        *("mimetypes.suffix_map", "mimetypes.common_types"),
    }
)
"""Globals that others may fill while they are imported, and are renewed here."""


def _also(name: str, renew: Callable[[Any], None]) -> None:
    """One thing more for ``RENEW`` to do about a module that comes back."""
    first = RENEW.get(name)

    def both(module: Any) -> None:
        if first is not None:
            first(module)
        renew(module)

    RENEW[name] = both


_importlib: dict[str, dict[str, object]] = {}


def _most_descriptors(module: Any) -> None:
    with contextlib.suppress(Exception):  # as its own body has it
        module.MAXFD = os.sysconf("SC_OPEN_MAX")


def _asks_platform(module: Any) -> None:
    # Its body asks, and so it is remembered: by the name of this host.
    platform = sys.modules.get("platform")
    if platform is not None:
        platform.system()


def _names_of_importlib() -> None:
    """The package gives the interpreter's own two modules its own names."""
    for name in ("_frozen_importlib", "_frozen_importlib_external"):
        own = vars(sys.modules[name])
        named = ("__name__", "__package__", "__file__")
        _importlib[name] = {key: own[key] for key in named if key in own}
        # In place: their order is seen too.
        own["__name__"], own["__package__"] = name, ""
    # The other one has it from the start.
    vars(sys.modules["_frozen_importlib"]).pop("__file__", None)


def _name_importlib(module: Any) -> None:
    for name, named in _importlib.items():
        vars(sys.modules[name]).update(named)


_kept_loggers: dict[str, list[Any]] = {}
_kept_handlers: dict[str, list[Any]] = {}
_kept_logging: list[Any] = []
_made_handlers: list[Any] = []


def _loggers(world: World) -> None:
    """Each is known again when the module comes back that keeps it, or has its name.

    What our own code has brought along (pyroute2 has thirty) is not; one that is
    nobody's stays.
    """
    logging: Any = sys.modules.get("logging")
    if logging is None:
        return
    _kept_logging[:] = [logging]
    manager = logging.Logger.manager
    known = [one for one in manager.loggerDict.values() if hasattr(one, "handlers")]
    manager.loggerDict.clear()
    ours = {n.partition(".")[0] for n in sys.modules if n not in world.visible}
    owners: dict[int, list[str]] = {}
    for name in world.shelved - {"logging"}:
        for value in globals_of(sys.modules.get(name)).values():
            kind = type(value)
            if issubclass(kind, logging.Logger) and value is not logging.root:
                owners.setdefault(id(value), []).append(name)
            elif issubclass(kind, logging.Handler):
                _kept_handlers.setdefault(name, []).append(value)
    for logger in known:
        named = next((n for n in _upwards(logger.name) if n in world.shelved), None)
        found = owners.get(id(logger)) or ([named] if named else [])
        for name in found:
            _kept_loggers.setdefault(name, []).append(logger)
        if not found and logger.name.partition(".")[0] not in ours:
            _know(logger)
    for name, loggers in _kept_loggers.items():
        own = _kept_handlers.setdefault(name, [])
        own += (h for one in loggers for h in one.handlers if h not in own)
    made = [ref() for ref in _made_handlers]
    for name, own in _kept_handlers.items():
        # In the order of their making, which logging keeps them in.
        own.sort(key=lambda h: made.index(h) if h in made else len(made))
        _also(name, _know_loggers)


def _upwards(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _know_loggers(module: Any) -> None:
    # Perhaps not in sys.modules: a package need not import it to have its name.
    for logger in _kept_loggers.get(module.__name__, ()):
        _know(logger)
    handlers = _kept_handlers.get(module.__name__)
    if not handlers:
        return
    (logging,) = _kept_logging
    known = {ref() for ref in logging._handlerList}
    for handler in handlers:
        if handler not in known:
            logging._addHandlerRef(handler)


def _know(logger: Any) -> None:
    """As getLogger does for a name that nobody has asked for."""
    manager = logger.manager
    there = manager.loggerDict.get(logger.name)
    if there is logger:
        return
    manager.loggerDict[logger.name] = logger
    if there is not None and hasattr(there, "loggerMap"):
        manager._fixupChildren(there, logger)
    manager._fixupParents(logger)


def _paths_of_zones(module: Any) -> None:
    # Asked for by its import; it depends on the person's home.
    sysconfig: Any = sys.modules["sysconfig"]
    if sysconfig._CONFIG_VARS is None and _built and _WHICH_BUILD not in os.environ:
        _take_built(sysconfig)
    sysconfig.get_config_var("TZPATH")


_Variables = dict[str, object]
_built: list[tuple[_Variables, object]] = []
"""What `sysconfig` would answer, for one who asks, and is given it; and the module's
dictionary that most of it is from."""
_WHICH_BUILD = "_PYTHON_SYSCONFIGDATA_NAME"
_READ = ("MULTIARCH", "srcdir")
"""What it reads of how the interpreter was built before it answers."""


def _build(sysconfig: Any) -> None:
    """Make its answer for all children, if it can be told from what it asks of each.

    Most are a thousand variables of how the interpreter was built. Made in the child it
    would be a copy of them, which counts each of their names and values once more.
    """
    _built.clear()
    _sysconfig(sysconfig)
    try:
        whole = dict(sysconfig.get_config_vars())
        _sysconfig(sysconfig)
        source = sys.modules[sysconfig._get_sysconfigdata_name()].build_time_vars
        _built.append((dict(whole), source))
        if list(_take_built(sysconfig).items()) == list(whole.items()):
            _built.append((whole, source))
    except (AttributeError, KeyError):
        # Another release, which does it in another way.
        _built.clear()
    _sysconfig(sysconfig)


def _take_built(sysconfig: Any) -> _Variables:
    """Have it answer what is ready, but for what it finds out in this process."""
    (whole, source), real = _built.pop(), sysconfig._init_posix
    others = []

    def init(variables: _Variables) -> None:
        # As the real one does.
        built = __import__(sysconfig._get_sysconfigdata_name()).build_time_vars
        if built is source:
            asked = (*variables, *_READ)
            variables.update({name: built[name] for name in asked if name in built})
        else:
            others.append(built)
            real(variables)

    sysconfig._init_posix = init
    try:
        found: _Variables = sysconfig.get_config_vars()
    finally:
        sysconfig._init_posix = real
    if others:
        return found
    whole.update(found)
    sysconfig._CONFIG_VARS = whole
    return whole


def _main_thread(module: Any) -> None:
    # Lost in a fork: `threading` makes the set anew, and knows it of no other thread.
    # Python 3.13 has neither.
    if hasattr(module, "_shutdown_locks"):
        module._shutdown_locks.add(module.main_thread()._tstate_lock)


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


RENEW: dict[str, Callable[[Any], None]] = {
    "logging": _start_of_logging,
    "_sqlite3": _restart_sqlite,
    "threading": _main_thread,
    "importlib": _name_importlib,
    "zoneinfo._tzpath": _paths_of_zones,
    "multiprocessing.util": _most_descriptors,
}

AHEAD = {"multiprocessing": _name_of_main}
