# SPDX-License-Identifier: GPL-3.0-or-later
"""What the section shows, without a widget: policies, windows, and the one request.

Everything is isolauncher's own answer (policy/words.py, policy/restrict.py,
session/openwindows.py). The request is `isolauncher restrict`, run by pkexec: the only
thing here that takes an administrator.

No name begins with ``get_``: the control panel calls all those when a section opens.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .text import _

try:
    # Written by integration/sugar/install: where it found what it installed this for.
    from .installed import CODE, COMMAND
except ImportError:
    CODE, COMMAND = "", ""

if CODE and CODE not in sys.path:
    sys.path.append(CODE)

# Its own way to ask is on the terminal that Sugar was started from, which nobody sees.
ASK = ("pkexec", "--disable-internal-agent")
POLICY_DIR = "/etc/isolauncher/policies"

_SHARED = _("Others have the same policy, so nothing can be taken from it alone here.")


class NotInstalled(Exception):
    """Sugar's Python finds no isolauncher."""


@dataclass(frozen=True)
class Sentence:
    """``level``: none, some or all. ``power``: what can be taken away here, if any."""

    topic: str
    level: str
    says: str
    power: str = ""
    taken: bool = False


@dataclass(frozen=True)
class Activity:
    """One that is installed. ``problem``: why nothing can be told of it.

    ``mend``: what sets right what was taken here, where it is not as it was meant.
    """

    bundle_id: str
    name: str
    icon: str
    policy: str = ""
    origin: str = ""
    sentences: tuple[Sentence, ...] = ()
    changeable: bool = False
    problem: str = ""
    mend: str = ""

    @property
    def taken(self) -> tuple[str, ...]:
        return tuple(one.power for one in self.sentences if one.taken)

    @property
    def powers(self) -> tuple[str, ...]:
        """The topics of which it has something, each once."""
        had = (one.topic for one in self.sentences if one.level != "none")
        return tuple(dict.fromkeys(had))


def activities(bundles: Iterable[object]) -> list[Activity]:
    """Of each bundle (Sugar's own objects) what it may do, by name."""
    _import()
    from isolauncher.cli import governing

    store = governing.store(POLICY_DIR)
    try:
        found = [_activity(bundle, store) for bundle in bundles]
    finally:
        store.close()
    return sorted(found, key=lambda one: one.name.casefold())


def activity(bundle: object) -> Activity:
    """One of them, as the policies are now."""
    return activities([bundle])[0]


def _activity(bundle, store) -> Activity:
    from isolauncher.cli import governing
    from isolauncher.errors import IsolauncherError, NotAllowed
    from isolauncher.policy import restrict, words

    told = {
        "bundle_id": bundle.get_bundle_id(),
        "name": bundle.get_name(),
        "icon": bundle.get_icon(),
    }
    try:
        found = governing.find(store, f"{bundle.get_path()}/")
        standing = refusal = None
        if found.for_all:
            # If nothing can be taken from it here, what it may do can still be told.
            with suppress(NotAllowed):
                standing = restrict.standing(store, told["bundle_id"])
                refusal = restrict.refusal(store, standing)
    except IsolauncherError as error:
        if _in_the_way(store, told["bundle_id"]):
            says = _("What was taken from it here stands in the way of its new policy.")
            return Activity(problem=says, mend=_("Give everything back"), **told)
        return Activity(problem=error.line(), **told)
    # What has been taken away is said of the policy in force, and switched by topic.
    powers = set(standing.held) if standing and not refusal else set()
    sentences = []
    for one in words.tell(found.policy, _):
        power = one.topic if one.topic in powers else ""
        powers.discard(power)
        taken = bool(power) and power in standing.taken
        sentences.append(Sentence(one.topic, one.level, one.says, power, taken))
    return Activity(
        policy=(standing.base if standing else found.policy).name,
        origin=_origin(found, standing, refusal),
        sentences=tuple(sentences),
        changeable=bool(standing) and not standing.by_hand,
        mend=_mend(standing, refusal),
        **told,
    )


def _in_the_way(store, bundle_id):
    from isolauncher.errors import IsolauncherError
    from isolauncher.policy import restrict

    try:
        return restrict.standing(store, bundle_id).now is None
    except IsolauncherError:
        return False


def _mend(standing, refusal) -> str:
    if standing is None or not standing.taken:
        return ""
    if refusal is not None:
        return _("Give everything back")
    return _("Take it anew") if standing.stale else ""


def _origin(found, standing, refusal) -> str:
    if standing is not None and standing.by_hand:
        says = _("An administrator wrote its policy, and it is changed only there: %s")
        return says % standing.by_hand
    if refusal is not None and refusal.code == "restrict-shared":
        return _SHARED
    if standing is not None and standing.stale:
        return _(
            "Its policy has changed since something was taken from it here, and what "
            "was taken does not follow that."
        )
    if standing is not None and standing.taken:
        return _("An administrator has taken something from it here.")
    written = found.policy.files[-1]
    if os.path.dirname(written) == POLICY_DIR:
        return _("An administrator wrote its policy: %s") % written
    if not found.for_all:
        return _("It is not installed for everybody, so it gets as little as can be.")
    return _("Its policy came with isolauncher, and nobody has changed it.")


@dataclass(frozen=True)
class Window:
    """One that is open; ``verdict``: confined, unconfined or unknown."""

    title: str
    bundle_id: str
    verdict: str
    policy: str = ""


def open_windows() -> list[Window]:
    """Those of other processes than Sugar itself. It may take a while: for a thread."""
    _import()
    from isolauncher.session import openwindows

    return [
        Window(
            title=one.window.title,
            bundle_id=one.bundle_id,
            verdict=one.verdict,
            policy=one.running.policy if one.running else "",
        )
        for one in openwindows.look(os.environ, without=(os.getpid(),))
    ]


# --------------------------------------------------------------------- the request


def request(bundle_id: str, taken: Sequence[str]) -> list[str]:
    """The command that takes these powers, and no others, from an activity."""
    command = COMMAND or shutil.which("isolauncher") or "isolauncher"
    words = [*ASK, command, "restrict", bundle_id, *(taken or ("--as-shipped",))]
    if POLICY_DIR != "/etc/isolauncher/policies":
        words.append(f"--policy-dir={POLICY_DIR}")
    return words


def refusal(status: int, said: str) -> str:
    """What to tell a person of a request that failed."""
    from isolauncher.errors import from_line

    if status == 126:
        return _("Nobody gave an administrator's password, so nothing has changed.")
    if status == 127:
        return _("Only an administrator can change this, and none could be asked here.")
    lines = [line for line in said.splitlines() if line.endswith("]")]
    error = from_line(lines[-1].removeprefix("isolauncher: ") if lines else said)
    reasons = {
        "restrict-by-hand": _(
            "An administrator wrote the policy of this activity by hand; it stays as "
            "it is."
        ),
        "restrict-dangerous": _(
            "The policy would be dangerous, so it was not written."
        ),
        "restrict-shared": _SHARED,
        "restrict-changed": _("Somebody else has just changed it. Please try again."),
    }
    return reasons.get(error.code) or _("Error: %s") % error.message


def _import() -> None:
    try:
        import isolauncher.policy  # noqa: F401
    except ImportError as error:
        raise NotInstalled(str(error)) from None
