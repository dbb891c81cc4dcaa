# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a forked child of the zygote like an interpreter that was just started.

Two walks over small modules in one order; each owns a concern and says in its docstring
which hazards of preloading it answers (their ids are those of ``docs/preload.md``).
`settle` runs in the zygote, once, and renews what is the same for all children: a page
written there is shared, one written in a child is copied, which is what a hand-over
costs. `run` runs in each child and does what only the child can: ``apply``; what of it
needs no request may have been done before, by `begin`, and what a file system may have
changed between hand-over and program is done once more, by `again`.
`run` may come again, for another `Start`: what the first has set the second sets anew.
What a program cannot see is not touched. What depends on the child but is made by a
module's import is renewed when the program imports it: ``RENEW``, by `shelf`.

The order: `elsewhere` comes first because others renew what it takes back; then the
environment, because time zone, locale and the search path are read from it; `modules`
comes late because what it takes out of ``sys.modules`` the others still use. Everything
here runs confined and without powers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from isolauncher.errors import StepError
from isolauncher.zygote.elsewhere import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a cold start would be told: ``python3 program arguments…``.

    ``program`` is the script as it would stand on the command line (``sys.argv[0]``),
    or the name of a module. ``environment`` is complete. ``umask`` None: as it is.
    """

    kind: Literal["script", "module"]
    program: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    umask: int | None = None
    interpreter: str = "/usr/bin/python3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pristine:
    """The interpreter as the zygote was given it, before anything was imported.

    ``modules`` and ``path`` must be taken by the zygote's first line, since to import
    this class already changes them; `capture` takes the rest.
    """

    modules: tuple[str, ...]
    path: tuple[str, ...]
    importers: tuple[str, ...]
    meta_path: tuple[object, ...]
    path_hooks: tuple[object, ...]
    warning_filters: tuple[Any, ...]
    displayhook: object
    excepthook: object
    dont_write_bytecode: bool

    @classmethod
    def capture(
        cls,
        modules: tuple[str, ...],
        path: tuple[str, ...],
        importers: tuple[str, ...],
    ) -> Pristine:
        """``path`` is ``sys.path`` without the zygote's own first entry.

        Finders and hooks count only if a module that was there then made them:
        importing our own (pyroute2 is one) has added others.
        """
        import _warnings

        def then(thing: object) -> bool:
            return getattr(thing, "__module__", None) in modules

        return cls(
            modules=modules,
            path=path,
            # Without the zygote's own script, which is no directory.
            importers=tuple(n for n in importers if not n.startswith("/proc/")),
            meta_path=tuple(finder for finder in sys.meta_path if then(finder)),
            path_hooks=tuple(hook for hook in sys.path_hooks if then(hook)),
            # Importing `warnings` adds no filter; it adopts this list.
            warning_filters=tuple(_warnings.filters),
            displayhook=(
                sys.displayhook if then(sys.displayhook) else sys.__displayhook__
            ),
            excepthook=sys.excepthook if then(sys.excepthook) else sys.__excepthook__,
            dont_write_bytecode=bool(sys.flags.dont_write_bytecode),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the zygote knows about what it preloaded; same in all its children.

    ``visible``: names that a program may come to see. ``shelved``: those of them that a
    cold start does not have from the beginning, ``lasting``: which of these cannot be
    imported twice in a process. ``needs``: for each preloaded module the modules its
    body imports, in this order. ``exits``: what preloaded modules registered with
    atexit while they were imported.
    ``finders``: what shelved ones added to ``sys.meta_path``, by the finder's module.
    ``asking``: those whose bodies ask `platform` for the host.
    ``filters``: what shelved ones added to the warning filters, and whether at the end.
    ``changes``: what imports have changed in modules that were there before them.
    ``own_children``: what packages have given themselves as attributes, importing it or
    not.
    """

    pristine: Pristine
    visible: frozenset[str]
    needs: Mapping[str, tuple[str, ...]]
    exits: tuple[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]], ...]
    meta_path: tuple[object, ...]
    path_hooks: tuple[object, ...]
    warning_filters: tuple[Any, ...]
    shelved: frozenset[str] = frozenset()
    lasting: frozenset[str] = frozenset()
    finders: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    asking: frozenset[str] = frozenset()
    filters: Mapping[str, tuple[tuple[Any, bool], ...]] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    own_children: frozenset[str] = frozenset()
    # What `settle` has found out, for `interpreter`, `modules` and `shelf`.
    site_index: int = 0
    tops: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    orphans: tuple[tuple[str, str], ...] = ()
    module_count: int = 0
    shelf: Mapping[str, object] = field(default_factory=dict)
    # Modules taken out of sys.modules stay alive: to tear them down would cost more
    # than the whole hand-over, and their functions may be on the stack.
    kept: list[ModuleType] = field(default_factory=list)


class Fresh(Exception):
    """This program wants a fresh interpreter; says why."""


# Below the dataclasses, which the modules import from here.
from isolauncher.zygote.handover import (  # noqa: E402
    bytecode,
    catalogues,
    dbus_python,
    elsewhere,
    environment,
    exits,
    glib,
    gtk,
    interpreter,
    locale_time,
    modules,
    pictures,
    randomness,
    shelf,
    signals,
    stdlib_caches,
    streams,
    sugar,
    typelibs,
)

ORDER: tuple[ModuleType, ...] = (
    elsewhere,
    environment,
    locale_time,
    catalogues,
    signals,
    stdlib_caches,
    randomness,
    streams,
    interpreter,
    glib,
    typelibs,
    gtk,
    dbus_python,
    sugar,
    bytecode,
    pictures,
    shelf,
    modules,
    exits,
)


def settle(world: World) -> World:
    """Renew, in the zygote, what is the same for every child.

    After the last import and before the heap is frozen; what `run` takes is returned.
    """
    for module in ORDER:
        once = getattr(module, "settle", None)
        if once is not None:
            world = once(world)
    return world


def begin(world: World) -> None:
    """What needs no request: in the zygote, once nothing is imported by name any more.

    Each name and each module that leaves ``sys.modules`` is written to, and lies on a
    page of its own. A child that waits does it for what has come back since; `run`
    finds it done.
    """
    for module in ORDER:
        early = getattr(module, "begin", None)
        if early is not None:
            early(world)


def run(start: Start, world: World) -> None:
    """Apply all, in order, to a child of the zygote that settled ``world``.

    StepError names the module that failed; Fresh if a fork cannot serve this program.
    """
    if not world.module_count:
        raise ValueError("the zygote has not settled")
    _walk("apply", start, world)


def again(start: Start, world: World) -> None:
    """Renew what has been found in the file system, or on a stream, since `run`.

    In a child that nobody but us has run in meanwhile. It is in its directory: the
    daemon looks where that is while this goes on. Raises what `run` does.
    """
    _walk("again", start, world)


def _walk(name: str, start: Start, world: World) -> None:
    for module in ORDER:
        step = getattr(module, name, None)
        if step is None:
            continue
        try:
            step(start, world)
        except Fresh:
            raise
        except Exception as error:
            name = module.__name__.rpartition(".")[2]
            raise StepError(
                f"the forked interpreter could not be renewed: {name}: "
                f"{type(error).__name__}: {error}",
                step=f"handover-{name.replace('_', '-')}",
                code="handover-failed",
                hint="--tier exec starts the same program in a fresh interpreter",
                errno=error.errno or 0 if isinstance(error, OSError) else 0,
            ) from error
