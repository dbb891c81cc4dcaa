# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle asks for in permissions.info, held against the policy that governs it.

The file is Rainbow's: a directive a line. What is granted is never more than what the
policy allows: a limit can be asked for, and is given if it is the lower one; whatever
else is asked for is had only where the policy says so for every bundle that it governs.
So a line of a stranger's can take something from its own activity and from nobody else.

Knows what the directives mean; how the file is read is bundle.py's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from isolauncher.policy.model import KEYS, Origin, Policy, Said
from isolauncher.policy.quote import shown, with_unit

LIMITS: Mapping[str, tuple[str, str]] = {
    "lim_nofile": ("limits.open-files", "open_files"),
    "lim_fsize": ("limits.file-size", "file_size"),
    "lim_nproc": ("limits.processes", "processes"),
    "lim_mem": ("limits.memory", "memory"),
}
"""Directive to key and field of `Limits`; each takes bytes or pieces, no unit."""

DIRECTIVES = ("constant-uid", "use-serial", *LIMITS)
_KEYS = {key.name: key for key in KEYS}
_NUMBER = re.compile(r"[0-9]+")


class Asked(Protocol):
    """A line of the file, split into words; ``line`` counts from 1."""

    @property
    def words(self) -> tuple[str, ...]: ...

    @property
    def line(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one line; ``granted`` False: it has less than it asked for."""

    asked: str
    origin: Origin
    granted: bool
    why: str

    def as_data(self) -> dict[str, object]:
        return {
            "asked": self.asked,
            "file": self.origin.file,
            "line": self.origin.line,
            "granted": self.granted,
            "why": self.why,
        }


def answer(
    policy: Policy, asked: Iterable[Asked], file: str
) -> tuple[Policy, tuple[Answer, ...]]:
    """The policy as it is for this bundle, and what became of each of its lines.

    ``file`` is what the lines are from. Where one lowers a limit, the policy's origin
    and history name it.
    """
    answers = []
    for wish in asked:
        policy, granted, why = _one(policy, wish, file)
        answers.append(
            Answer(
                asked=shown(" ".join(wish.words))[1:-1],
                origin=Origin(file=file, line=wish.line),
                granted=granted,
                why=why,
            )
        )
    return policy, tuple(answers)


def _one(policy: Policy, wish: Asked, file: str) -> tuple[Policy, bool, str]:
    match wish.words:
        case ("constant-uid",):
            granted = policy.identity.uid == "bundle"
            return policy, granted, _says(policy, "identity.uid", policy.identity.uid)
        case ("use-serial",):
            allowed = ", ".join(policy.devices) or "empty"
            why = _says(policy, "devices.allow", allowed)
            return policy, "serial" in policy.devices, why
        case (name, number) if name in LIMITS:
            return _limit(policy, name, number, Origin(file=file, line=wish.line))
        case (name, *_) if name in LIMITS:
            return policy, False, "one number is expected behind it"
        case (name, *_) if name in DIRECTIVES:
            return policy, False, "nothing is expected behind it"
        case (name, *_):
            near = difflib.get_close_matches(name[:64], DIRECTIVES, 1)
            hint = f"; did they mean {near[0]}?" if near else ""
            return policy, False, f"there is no such directive{hint}"
        case _:
            return policy, False, "it says nothing"


def _limit(
    policy: Policy, name: str, number: str, origin: Origin
) -> tuple[Policy, bool, str]:
    key, field = LIMITS[name]
    allowed: int = getattr(policy.limits, field)
    if not _NUMBER.fullmatch(number):
        what = "bytes" if _KEYS[key].kind == "size" else "pieces"
        return policy, False, f"{shown(number)} is not a whole number of {what}"
    wanted = int(number)  # a line is short
    before = _says(policy, key, _shown(key, allowed))
    if wanted == allowed:
        return policy, True, before
    if wanted > allowed:
        return policy, False, f"{before}, and a bundle cannot ask for more"
    given = max(wanted, _KEYS[key].minimum)
    least = given != wanted
    if given >= allowed:
        return policy, False, f"{before}, the least there is"
    lowered = replace(
        policy,
        limits=replace(policy.limits, **{field: given}),  # type: ignore[arg-type]
        origin={**policy.origin, key: origin},
        history={
            **policy.history,
            key: (*policy.history.get(key, ()), Said(value=given, origin=origin)),
        },
    )
    why = f"{key} is {_shown(key, given)}" + (", the least there is" if least else "")
    return lowered, not least, f"{why}; without it {_shown(key, allowed)}"


def _says(policy: Policy, key: str, value: str) -> str:
    origin = policy.origin.get(key)
    where = f" ({origin.file}:{origin.line})" if origin else ""
    return f"{key} is {value}{where}"


def _shown(key: str, value: int) -> str:
    return with_unit(value) if _KEYS[key].kind == "size" else str(value)


__all__ = ["DIRECTIVES", "LIMITS", "Answer", "answer"]
