# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's launch up to where its caller furnishes it: what governs it, and so what.

    Launch → look (bundle, policy, place) → granted → Furnish → complete → Wanted

The caller does not read the bundle and the policy for itself: what was read here
governs both the sandbox and the caller's own processes around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import bundle, furniture, plan, rooms
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
    """

    asked: Launch
    fds: Mapping[str, int]
    bundle: bundle.Bundle
    policy: Policy
    why: str
    answers: tuple[wishes.Answer, ...]
    at: furniture.Place
    activity_id: str

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

    ``looking`` is an opener of the caller's. Raises the error that tells what is
    wrong with the bundle or the policies.
    """
    read = bundle.parse(await looking.open_bundle(fds["bundle"]))
    choice = choose.for_bundle(
        daemon.store, read.bundle_id, system=read.installed_by == "system"
    )
    policy, answers = wishes.answer(choice.policy, read.wishes, read.permissions)
    inner = rooms.inner_uid(policy, caller, daemon.config.uids.first)
    return Consulted(
        asked=asked,
        fds=fds,
        bundle=read,
        policy=policy,
        why=choice.why,
        answers=answers,
        at=furniture.place(read, policy, asked.environment, inner),
        activity_id=bundle.new_activity_id(asked.id),
    )


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
    """All that is to be launched; RequestError for what the policy has no place for."""
    c = consulted
    furniture.refuse_ungranted(furnish, c.policy)
    fds = {**c.fds, **brought}
    kinds = furniture.wanted(fds)
    await looking.check(kinds, [fds[name] for name, _ in kinds])
    kept, dropped = environment.build(c.policy, c.asked.environment, {})
    variables = bundle.environment(
        c.bundle,
        kept,
        activity_root=c.at.root,
        user_activities=bundle.user_activities(c.asked.environment, c.at.home),
    )
    if c.policy.view.data:
        for name, place in FOUND_BEFORE.items():
            variables.setdefault(name, f"{c.at.root}/data/{place}")
    if "sound" not in c.policy.devices:
        variables = {**UNHEARD, **variables}
    words = bundle.words(c.bundle, variables)
    in_bundle, _ = await looking.find_program(
        c.fds["bundle"], words[0], variables["PATH"]
    )
    command = bundle.command(
        c.bundle,
        words,
        in_bundle=in_bundle,
        activity_id=c.activity_id,
        object_id=c.asked.object_id,
        uri=c.asked.uri,
        invited=c.asked.invited,
    )
    lease_key = None
    if c.policy.identity.uid == "bundle":
        lease_key = f"{c.bundle.installed_by}:{c.bundle.bundle_id}"
    return Wanted(
        policy=c.policy,
        variables=variables,
        not_kept=(
            *not_kept({}, [d for d in dropped if d[0] not in _GIVEN]),
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


def _not_granted(answers: tuple[wishes.Answer, ...]) -> Iterator[plan.Skipped]:
    for told in answers:
        if not told.granted:
            what = f"{bundle.PERMISSIONS}:{told.origin.line}: {told.asked}"
            yield plan.Skipped(what=what, why=told.why)
