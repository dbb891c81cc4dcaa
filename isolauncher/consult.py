# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's launch up to where its caller furnishes it: what governs it, and so what.

    Launch → look (bundle, policy, place) → granted → Furnish → complete → Wanted

The caller does not read the bundle and the policy for itself: what was read here
governs both the sandbox and the caller's own processes around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import bundle, foreign, furniture, rooms, steps
from .errors import IsolauncherError
from .launch import Wanted, not_kept
from .opener import Opener
from .policy import choose, environment, wishes
from .policy.model import Policy
from .request import Caller, Furnish, Launch

if TYPE_CHECKING:
    from .daemon import Daemon

FOUND_BEFORE = {
    # GStreamer looks at every plugin: 70 ms.
    "GST_REGISTRY": ".gstreamer-registry.bin",
    # matplotlib looks at every font: its own default is below the home, too.
    "MPLCONFIGDIR": ".matplotlib",
}
"""Where a library keeps what it found at an earlier start, in ``data``.

The home inside ends with the activity, what is kept is ``data``.
"""

UNHEARD = {"SDL_AUDIODRIVER": "dummy"}
"""Without sound: games of pygame's end at the start where SDL finds nothing to play on.

This one takes as long to play, and nobody hears it (SDL_hints.h).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """What a caller may furnish: a bundle under the policy that governs it.

    ``policy`` is lowered by what the bundle asks for, ``answers`` say by what.
    ``variables`` is its environment without what is furnished, ``dropped`` what was
    not kept of the caller's, with the reason; ``words`` are its command's.
    """

    asked: Launch
    fds: Mapping[str, int]
    bundle: bundle.Bundle
    policy: Policy
    why: str
    answers: tuple[wishes.Answer, ...]
    at: furniture.Place
    activity_id: str
    variables: Mapping[str, str]
    dropped: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def granted(self) -> dict[str, object]:
        """For the caller, whose own processes keep to it."""
        policy = self.policy
        return {
            "event": "granted",
            "id": self.activity_id,
            "bundle_id": self.bundle.bundle_id,
            "installed_by": self.bundle.installed_by,
            "policy": policy.name,
            "why": self.why,
            "furniture": sorted(furniture.granted(policy)),
            "root": self.at.root,
            "documents": policy.view.documents,
            "data": policy.view.data,
            "file_size": policy.limits.file_size,
            "session_call": list(policy.bus.session_call),
            "session_own": list(policy.bus.session_own),
            "accessibility": policy.bus.accessibility,
            "input_method": policy.bus.input_method,
        }


async def look(
    daemon: Daemon,
    asked: Launch,
    fds: Mapping[str, int],
    caller: Caller,
    looking: Opener,
) -> Consulted:
    """Read the bundle with its caller's rights, and choose its policy.

    ``looking`` is an opener of the caller's, which looks for the bundle's program when
    this returns. Raises the error that tells what is wrong with the bundle or the
    policies.
    """
    await looking.ask_bundle(fds["bundle"])
    key = _key(caller, fds["bundle"])
    likely = daemon.bundles.find(key)
    consulted: Consulted | None = None
    if likely is not None:
        # While the opener is at work.
        with suppress(IsolauncherError):  # said of what it finds
            consulted = _considered(daemon, asked, fds, caller, likely, looking)
    found = await looking.found_bundle()
    if consulted is None or found != likely:
        if consulted is not None:
            with suppress(IsolauncherError):
                await looking.found_program()
        consulted = _considered(daemon, asked, fds, caller, found, looking)
        daemon.bundles.keep(key, found)
    return consulted


_Key = tuple[int, int, int] | None


def _key(caller: Caller, directory: int) -> _Key:
    """Who asks for which directory; None where even that is not to be asked."""
    if not foreign.answers_at_once(directory):
        return None
    return caller.uid, *rooms.file_of(directory)


class Bundles:
    """What an opener of a caller's has found in a directory the last time.

    It will be so again, most likely: all that depends on it is worked out while
    another one looks.
    """

    MOST = 32

    def __init__(self) -> None:
        self._found: dict[_Key, bundle.Found] = {}
        """The latest at the end."""

    def find(self, key: _Key) -> bundle.Found | None:
        return self._found.get(key)

    def keep(self, key: _Key, found: bundle.Found) -> None:
        if key is None:
            return
        self._found.pop(key, None)
        self._found[key] = found
        if len(self._found) > self.MOST:
            del self._found[next(iter(self._found))]


def _considered(
    daemon: Daemon,
    asked: Launch,
    fds: Mapping[str, int],
    caller: Caller,
    found: bundle.Found,
    looking: Opener,
) -> Consulted:
    """What follows from it; ``looking`` is asked for the program of its command."""
    read = bundle.parse(found)
    choice = choose.for_bundle(
        daemon.store, read.bundle_id, system=read.installed_by == "system"
    )
    policy, answers = wishes.answer(choice.policy, read.wishes, read.permissions)
    inner = rooms.inner_uid(policy, caller, daemon.config.uids.first)
    at = furniture.place(read, policy, asked.environment, inner)
    kept, dropped = environment.build(policy, asked.environment, {})
    variables = _variables(read, policy, kept, asked, at)
    words = bundle.words(read, variables)
    looking.ask_program(fds["bundle"], words[0], variables["PATH"])
    return Consulted(
        asked=asked,
        fds=fds,
        bundle=read,
        policy=policy,
        why=choice.why,
        answers=answers,
        at=at,
        activity_id=bundle.new_activity_id(asked.id),
        variables=variables,
        dropped=tuple(dropped),
        words=words,
    )


def _variables(
    read: bundle.Bundle,
    policy: Policy,
    kept: Mapping[str, str],
    asked: Launch,
    at: furniture.Place,
) -> dict[str, str]:
    variables = bundle.environment(
        read,
        kept,
        activity_root=at.root,
        user_activities=bundle.user_activities(asked.environment, at.home),
    )
    if policy.view.data:
        for name, place in FOUND_BEFORE.items():
            variables.setdefault(name, f"{at.root}/data/{place}")
    if "sound" not in policy.devices:
        variables = {**UNHEARD, **variables}
    return variables


_GIVEN = frozenset(
    (
        *("HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR", "DISPLAY", "XAUTHORITY"),
        *("DBUS_SESSION_BUS_ADDRESS", "GSETTINGS_BACKEND"),
        *("AT_SPI_BUS_ADDRESS", "NO_AT_BRIDGE", "IBUS_USE_PORTAL"),
    )
)
"""Names that a bundle gets anew, whatever the caller's own say."""


async def complete(
    consulted: Consulted,
    furnish: Furnish,
    brought: Mapping[str, int],
    looking: Opener,
) -> Wanted:
    """All that is to be launched; RequestError for what the policy has no place for.

    Whether the caller may do with it what is to be done ``looking`` has been asked.
    """
    c = consulted
    furniture.refuse_ungranted(furnish, c.policy)
    fds = {**c.fds, **brought}
    kinds = furniture.wanted(fds)
    looking.ask_check(kinds, [fds[name] for name, _ in kinds])
    in_bundle, _ = await looking.found_program()
    command = bundle.command(
        c.bundle,
        c.words,
        in_bundle=in_bundle,
        activity_id=c.activity_id,
        object_id=c.asked.object_id,
        uri=c.asked.uri,
        invited=c.asked.invited,
    )
    inside = furniture.variables(furnish, fds, c.at, c.policy)
    lease_key = None
    if c.policy.identity.uid == "bundle":
        lease_key = f"{c.bundle.installed_by}:{c.bundle.bundle_id}"
    return Wanted(
        policy=c.policy,
        variables={**c.variables, **inside},
        not_kept=(
            *not_kept({}, [d for d in c.dropped if d[0] not in _GIVEN]),
            *_not_granted(c.answers),
        ),
        program_kind=command.program_kind,
        argv=command.argv,
        fds=fds,
        id=c.activity_id,
        umask=c.asked.umask,
        tied=False,
        lease_key=lease_key,
        path=command.path,
        cwd=c.bundle.path,
        bundle=c.bundle,
        asked=furnish,
        at=c.at,
    )


def _not_granted(answers: tuple[wishes.Answer, ...]) -> Iterator[steps.Skipped]:
    for told in answers:
        if not told.granted:
            what = f"{bundle.PERMISSIONS}:{told.origin.line}: {told.asked}"
            yield steps.Skipped(what=what, why=told.why)
