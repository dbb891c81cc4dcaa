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
from dataclasses import dataclass

from isolauncher.errors import Mistake, NotAllowed, PolicyError
from isolauncher.policy.load import ROOT_POLICY, PolicyStore
from isolauncher.policy.model import Policy
from isolauncher.request import Caller

UNTRUSTED_POLICY = "untrusted"
EVERYBODY = "*"


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

    ``system``: every part of its path is root's and writable by nobody else.
    """
    kind = "system" if system else "user"
    best: list[tuple[tuple[int, int], str, str, str, int]] = []
    for name, (match, origin) in store.matches().items():
        if match.installed_by != kind:
            continue
        for pattern in match.bundle_ids:
            rank = _specificity(pattern, bundle_id)
            if rank is not None:
                best.append((rank, name, pattern, origin.file, origin.line))
    if not best:
        policy = store.get(ROOT_POLICY if system else UNTRUSTED_POLICY)
        return Choice(
            policy=policy,
            why=f"no policy matches {bundle_id} as a {kind} bundle; "
            f"such bundles get {policy.name}",
        )
    best.sort(key=lambda found: (found[0], found[1]), reverse=True)
    top = [found for found in best if found[0] == best[0][0]]
    if len(top) > 1:
        raise PolicyError(
            tuple(
                Mistake(
                    file=file,
                    line=line,
                    column=0,
                    key="match.bundle-id",
                    code="policy-match-ambiguous",
                    message=f"'{pattern}' is as specific for {bundle_id} as in "
                    + " and ".join(other[3] for other in top if other[1] != name),
                    hint="take it out of all but one of these files",
                )
                for _, name, pattern, file, line in sorted(
                    top, key=lambda found: (found[3], found[4])
                )
            )
        )
    _, name, pattern, file, line = top[0]
    return Choice(
        policy=store.get(name),
        why=f"{file}:{line} governs '{pattern}', which is the most specific match "
        f"for {bundle_id} as a {kind} bundle",
    )


def clashes(store: PolicyStore) -> tuple[Mistake, ...]:
    """Every pattern that two policies claim: whoever it matches cannot be launched."""
    claimed: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for match, origin in store.matches().values():
        for pattern in match.bundle_ids:
            places = claimed.setdefault((match.installed_by, pattern), [])
            places.append((origin.file, origin.line))
    return tuple(
        Mistake(
            file=file,
            line=line,
            column=0,
            key="match.bundle-id",
            code="policy-match-ambiguous",
            message=f"'{pattern}' is claimed by "
            + " and ".join(other for other, _ in places if other != file)
            + " as well",
            hint="take it out of all but one of these files",
        )
        for (_, pattern), places in claimed.items()
        if len(places) > 1
        for file, line in sorted(places)
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
