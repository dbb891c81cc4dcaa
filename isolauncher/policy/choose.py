# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policy governs a launch, and the sentence that says why.

For ``run`` the caller names one, if that policy admits the caller. For a bundle the
policies themselves say which bundles they govern. Nothing that a caller or a bundle
says of itself is believed: the caller is the kernel's word, and whether a bundle is
the system's is found out by whoever opened it.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from isolauncher.errors import Mistake, NotAllowed, PolicyError
from isolauncher.policy.load import ROOT_POLICY, PolicyStore
from isolauncher.policy.model import Policy
from isolauncher.request import Caller

UNTRUSTED_POLICY = "untrusted"
SYSTEM_POLICY = "sugar"
EVERYBODY = "*"
RESTRICTED = ".restricted"
"""What the name of a policy ends in that takes something from one bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A policy and why it governs."""

    policy: Policy
    why: str


def for_run(store: PolicyStore, *, caller: Caller, name: str | None) -> Choice:
    """The policy named by ``run --policy``, or default; NotAllowed if not for them.

    Callers with a uid of the activity range must have been turned away before:
    ``"*"`` admits them too.
    """
    policy = store.get(name or ROOT_POLICY)
    asked = f"--policy {policy.name}" if name else "run without --policy"
    if caller.uid == 0:
        return Choice(policy=policy, why=f"{asked}, by root")
    origin = policy.origin.get("match.callers")
    where = f"{origin.file}:{origin.line}" if origin else policy.files[-1]
    admitted = _admitted_by(policy.match.callers, caller)
    if admitted is None:
        who = _user_name(caller.uid)
        raise NotAllowed(
            f"policy {policy.name} may not be named by {who}: {where} "
            + (
                "admits " + ", ".join(policy.match.callers)
                if policy.match.callers
                else "admits root alone"
            ),
            code="policy-not-for-caller",
            hint=f"an administrator can add {who} to [match] callers "
            f"in /etc/isolauncher/policies/{policy.name}.toml",
        )
    return Choice(policy=policy, why=f"{asked}; {where} admits {admitted}")


def for_file(
    store: PolicyStore, *, caller: Caller, descriptor: int, path: str
) -> Choice:
    """The policy file that root opened: ``run --policy FILE``."""
    if caller.uid != 0:
        raise NotAllowed(
            f"{_user_name(caller.uid)} may not bring a policy file of their own",
            code="policy-file-not-for-caller",
            hint="name an installed policy, or have an administrator install this one",
        )
    policy = store.load_descriptor(descriptor, path)
    return Choice(policy=policy, why=f"--policy {path}, by root")


def for_bundle(store: PolicyStore, bundle_id: str, *, system: bool) -> Choice:
    """The policy whose [match] is the most specific for this bundle.

    ``system``: every part of its path is root's and writable by nobody else. Where
    nothing matches, root put the system's bundle there and it is an activity, which
    under default would not have a window: sugar, if there is such a policy. Of a
    user's bundle not even that is known.
    """
    kind: Literal["system", "user"] = "system" if system else "user"
    ranked = [
        (rank, claim)
        for claim in _claims(store)
        if claim.installed_by == kind
        and (rank := _specificity(claim.pattern, bundle_id)) is not None
    ]
    if not ranked:
        ours = SYSTEM_POLICY if SYSTEM_POLICY in store.names() else ROOT_POLICY
        policy = store.get(ours if system else UNTRUSTED_POLICY)
        return Choice(
            policy=policy,
            why=f"no policy has {bundle_id} in its [match] bundle-id for bundles "
            f"installed by the {kind}; such bundles get {policy.name}",
        )
    best = max(rank for rank, _ in ranked)
    top = [claim for rank, claim in ranked if rank == best]
    if len(top) > 1:
        raise PolicyError(tuple(_ambiguous(store, top, f"governs {bundle_id}")))
    (claim,) = top
    return Choice(
        policy=store.get(claim.policy),
        why=f"{claim.place} governs '{claim.pattern}', which is the most specific "
        f"match for {bundle_id} as a {kind} bundle",
    )


def clashes(store: PolicyStore) -> tuple[Mistake, ...]:
    """Every pattern that two policies claim: whoever it matches cannot be launched."""
    claimed: dict[tuple[str, str], list[_Claim]] = {}
    for claim in _claims(store):
        claimed.setdefault((claim.installed_by, claim.pattern), []).append(claim)
    return tuple(
        mistake
        for claims in claimed.values()
        if len(claims) > 1
        for mistake in _ambiguous(store, claims, "is claimed")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """One pattern of one policy's own [match]."""

    policy: str
    pattern: str
    installed_by: Literal["system", "user"]
    file: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def _claims(store: PolicyStore) -> list[_Claim]:
    return [
        _Claim(
            policy=name,
            pattern=pattern,
            installed_by=match.installed_by,
            file=origin.file,
            line=origin.line,
        )
        for name, (match, origin) in store.matches().items()
        for pattern in match.bundle_ids
    ]


def _ambiguous(
    store: PolicyStore, claims: list[_Claim], does: str
) -> Iterator[Mistake]:
    """One mistake for each place, which names the others."""
    hint = "take it out of all but one of these files"
    shipped = [c for c in claims if c.file.startswith(f"{store.vendor_dir}/")]
    if len(shipped) == 1:
        # Which nobody should edit.
        name = shipped[0].policy
        hint = f"call your own {name}.toml: it takes the place of the shipped one"
    for claim in claims:
        if claim.policy == f"{claim.pattern}{RESTRICTED}":
            command = f"isolauncher restrict {claim.pattern} --as-shipped"
            hint = f"`{command}` takes out the one that it made"
    for claim in sorted(claims, key=lambda claim: (claim.file, claim.line)):
        others = " and ".join(
            sorted(other.place for other in claims if other is not claim)
        )
        yield Mistake(
            file=claim.file,
            line=claim.line,
            column=0,
            key="match.bundle-id",
            code="policy-match-ambiguous",
            message=f"'{claim.pattern}' {does} here and in {others}, and neither is "
            "more specific",
            hint=hint,
        )


def _specificity(pattern: str, bundle_id: str) -> tuple[int, int] | None:
    """Exact beats any prefix, a longer prefix a shorter; None: no match."""
    if pattern == bundle_id:
        return (1, 0)
    if pattern.endswith(".*") and bundle_id.startswith(pattern[:-1]):
        return (0, len(pattern))
    return None


def _admitted_by(callers: tuple[str, ...], caller: Caller) -> str | None:
    """The word that admits this caller. A name that nobody has admits nobody."""
    groups = {caller.gid, *caller.groups}
    for word in callers:
        if word == EVERYBODY:
            return "everybody"
        try:
            if word.startswith("@"):
                if grp.getgrnam(word[1:]).gr_gid in groups:
                    return word
            elif pwd.getpwnam(word).pw_uid == caller.uid:
                return word
        except KeyError:
            continue
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
