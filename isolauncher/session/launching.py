# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's launch from the person's side: what the daemon grants is brought here.

    Launch → daemon → granted → directories, mediator, display, settings → started

What was granted to a bundle before will most often be granted again. So where it is
known (`Grants`) the mediator is begun while the daemon looks; nothing of it goes there
before the daemon has granted just that.

Blocking, in any thread: the session's service has one for each activity, the command
line only its own. Whatever is opened is opened with the person's rights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from .. import client, request, wire
from ..errors import IsolauncherError, RequestError
from . import installed, settings, xauth
from .mediators import Mediated, Mediators
from .running import Running, listed

_DISPLAY = re.compile(r"(?:unix)?:(\d{1,5})(\.\d{1,2})?")
X11_DIRECTORY = "/tmp/.X11-unix"  # noqa: S108 (where the X server has it)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One launch as it was asked for.

    ``bundle`` is a directory, with a slash, or a bundle id. ``environment`` None: this
    process's own. ``streams`` are descriptors by the names stdin, stdout and stderr;
    absent: /dev/null. They stay the caller's.
    """

    bundle: str
    activity_id: str | None = None
    object_id: str | None = None
    uri: str | None = None
    invited: bool = False
    environment: Mapping[str, str] | None = None
    streams: Mapping[str, int] = field(default_factory=dict)


class Grants:
    """What the daemon granted to each bundle the last time, by the bundle's path."""

    MOST = 64

    def __init__(self) -> None:
        self._last: dict[str, Mapping[str, object]] = {}
        """The latest at the end."""

    def likely(self, path: str, activity_id: str | None) -> Mapping[str, object] | None:
        """What it will be for an activity of that id; None: nobody knows."""
        last = self._last.get(path)
        if last is None or activity_id is None:
            return None
        return {**last, "id": activity_id}

    def keep(self, path: str, granted: Mapping[str, object]) -> None:
        self._last.pop(path, None)
        self._last[path] = granted
        if len(self._last) > self.MOST:
            self._last.pop(next(iter(self._last)), None)


def running() -> list[Running]:
    """The person's own activities that were launched from bundles."""
    own = os.geteuid()
    return [one for one in listed() if one.bundle_id and one.caller_uid == own]


def launch(
    asked: Asked,
    mediators: Mediators,
    *,
    granted: Callable[[Mapping[str, object]], None],
    started: Callable[[Mapping[str, object]], None],
    tell: Callable[[str], None],
    grants: Grants | None = None,
) -> client.End:
    """Launch, and wait for the end. Raises what kept it from being asked for.

    ``granted`` hears what the daemon grants and ``started`` that it runs, in this
    thread. ``grants``: what it is likely to be, where no other activity can have this
    one's id.
    """
    environment = dict(os.environ if asked.environment is None else asked.environment)
    path = asked.bundle
    if "/" not in path:
        path = installed.find(path, environment)
    with ExitStack() as stack:
        prepared = client.prepare_bundle(
            path,
            id=asked.activity_id,
            object_id=asked.object_id,
            uri=asked.uri,
            invited=asked.invited,
            environment=environment,
            streams=_streams(asked, stack),
        )
        stack.callback(prepared.close)
        brought = _Brought(environment, asked.object_id, mediators)
        stack.callback(brought.forget)

        def furnish(fields: Mapping[str, object], *fds: int) -> client.Furniture:
            if fields["event"] == "copy":
                return brought.work_in(*fds)
            granted(fields)
            if grants is not None:
                grants.keep(path, fields)
            return brought.furnish(fields)

        def meanwhile() -> None:
            likely = grants and grants.likely(path, asked.activity_id)
            if likely:
                brought.begin(likely)

        def begun(fields: Mapping[str, object]) -> None:
            brought.forget()
            started(fields)

        return client.accompany(
            client.connect(),
            prepared,
            meanwhile=meanwhile,
            furnish=furnish,
            started=begun,
            reconnect=lambda: client.connect(wait=False),
            tell=tell,
        )


def _streams(asked: Asked, stack: ExitStack) -> tuple[int, int, int]:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, null)
    stdin, stdout, stderr = (asked.streams.get(name, null) for name in request.STANDARD)
    return stdin, stdout, stderr


class _Brought:
    """What is made for one launch on this side, until it runs or has failed."""

    def __init__(
        self,
        environment: Mapping[str, str],
        object_id: str | None,
        mediators: Mediators,
    ) -> None:
        self._environment = environment
        self._object_id = object_id
        self._mediators = mediators
        self._mediated: Mediated | None = None
        self._granted: Mapping[str, object] = {}
        self._files: dict[str, bytes] | None = None

    def begin(self, likely: Mapping[str, object]) -> None:
        """Make what would be granted; the daemon has not said yet what is."""
        with suppress(IsolauncherError):  # said when it is granted
            self._begin(likely)
            self._settings()

    def furnish(self, granted: Mapping[str, object]) -> client.Furniture:
        """Everything that ``granted`` has a place for and that is there."""
        if self._mediated is not None and granted != self._granted:
            self._mediated.undo()
            self._mediated = None
        mediated = self._mediated or self._begin(granted)
        return self._all(mediated.made)

    def _begin(self, granted: Mapping[str, object]) -> Mediated:
        self._granted = granted
        self._mediated = self._mediators.begin(
            granted, environment=self._environment, object_id=self._object_id
        )
        return self._mediated

    def _settings(self) -> dict[str, bytes]:
        """Found out while others are at work."""
        if self._files is None:
            self._files = settings.of_person(
                self._environment.get("HOME", "/"),
                self._environment.get("SUGAR_PROFILE") or "default",
            )
        return self._files

    def work_in(self, scratch: int) -> client.Furniture:
        """The same once more, with directories in ``scratch`` for the person's own."""
        assert self._mediated is not None  # noqa: S101 (granted comes first)
        return self._all(partial(self._mediated.copy, scratch))

    def _all(self, made: Callable[[], dict[str, int]]) -> client.Furniture:
        places = self._granted["furniture"]
        assert isinstance(places, list)  # noqa: S101 (the daemon's own word)
        display: str | None = None
        cookie: bytes | None = None
        files: dict[str, bytes] = {}
        fds: dict[str, int] = {}
        try:
            if "display" in places:
                # While the mediator is at work.
                display, cookie = self._display(fds)
                files = self._settings()
            fds |= made()
        except BaseException:
            wire.close_all(fds.values())
            raise
        names = tuple(name for name in request.FURNITURE if name in fds)
        asked = request.Furnish(
            display=display, cookie=cookie, files=files, descriptors=names
        )
        return client.Furniture(
            request.encode(asked), tuple(fds[name] for name in names)
        )

    def forget(self) -> None:
        """What the sandbox has by now, or will never have, needs no name any more."""
        if self._mediated is not None:
            self._mediated.forget()

    def _display(self, fds: dict[str, int]) -> tuple[str | None, bytes | None]:
        """The display's name inside and its cookie; the socket is opened on the way."""
        named = self._environment.get("DISPLAY")
        if not named:
            return None, None
        match = _DISPLAY.fullmatch(named)
        if match is None:
            raise RequestError(
                f"DISPLAY {named[:64]!a} is not a display of this machine",
                code="display-not-local",
                hint="an activity reaches the display by its socket in "
                f"{X11_DIRECTORY} alone",
            )
        path = f"{X11_DIRECTORY}/X{int(match[1])}"
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise RequestError(
                f"the display {named} has no socket {path}: {error.strerror}",
                code="display-not-there",
            ) from None
        fds["display"] = fd
        cookie: bytes | None = None
        with suppress(OSError):  # a server that asks for none, or one by uid
            with open(xauth.file_of(self._environment), "rb") as file:
                data = file.read(xauth.MAX_BYTES)
            cookie = xauth.for_display(data, int(match[1])) or None
        return f":{int(match[1])}{match[2] or ''}", cookie
