# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be taken from one activity, and the policy file that takes it.

A *power* is a thing that a person has a word for: the network, the Journal's documents,
the camera. Taking one away is a file in /etc that extends the policy which governs the
activity anyway and sets a few keys lower; giving more than that policy is nothing that
can be said here. Such a file names itself: its first lines say what made it and the
digest of the rest, so that one which somebody has edited is known to be theirs.

Decides and writes text; whoever puts the file in its place is keep.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from isolauncher.errors import NotAllowed, PolicyError, RequestError
from isolauncher.policy import choose, trust, words
from isolauncher.policy.check import POLICY_NAME
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy, Value, values

Power = Literal[
    "network", "documents", "files", "sound", "microphone", "camera", "programs"
]
POWERS: Mapping[Power, str] = {
    "network": "to reach a network",
    "documents": "to see what a person gives it of the Journal, beside its own",
    "files": "to read and write files that are no part of the system's programs",
    "sound": "to play sounds",
    "microphone": "to listen",
    "camera": "to see through the camera",
    "programs": "to call other programs on the session bus",
}
"""Every power that can be taken away, and what it is."""

_DEVICES = ("sound", "microphone", "camera")


def held(policy: Policy) -> tuple[Power, ...]:
    """Those that a policy gives, and that taking away would lower."""
    return tuple(power for power in POWERS if lowered(policy, [power]))


def lowered(policy: Policy, taken: Sequence[Power]) -> dict[str, Value]:
    """The keys that a policy without those powers sets, and to what."""
    has, now = values(policy), dict(values(policy))
    for power in taken:
        match power:
            case "network":
                now |= {"network.access": "none", "network.allow": ()}
            case "documents" if has["files.documents"] in ("opened", "all"):
                now["files.documents"] = "own"
            case "files":
                beyond, _ = words.beyond_the_system(policy)
                kept = (path for path in policy.view.read if path not in beyond)
                now |= {"files.read": tuple(kept), "files.write": ()}
            case "programs":
                now["bus.session-call"] = ()
            case "sound" | "microphone" | "camera":
                allowed = now["devices.allow"]
                assert isinstance(allowed, tuple)  # noqa: S101 (a list in the model)
                now["devices.allow"] = tuple(one for one in allowed if one != power)
    return {key: now[key] for key in now if now[key] != has[key]}


# ---------------------------------------------------------------------------- the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file that was made here."""

    bundle_id: str
    extends: str
    taken: tuple[Power, ...]


_HEAD = (
    "# Made by `isolauncher restrict`, which replaces it and takes it out again. Once\n"
    "# it is edited it is yours, and nothing but you changes it.\n"
    "# sha256 "
)
_FILE = re.compile(
    re.escape(_HEAD)
    + r"(?P<digest>[0-9a-f]{64})\n"
    + r"(?P<rest>\nversion = 1\n"
    + r'description = "(?P<bundle>[A-Za-z0-9._-]+) without (?P<taken>[a-z, ]+)\."\n'
    + r'extends = "(?P<extends>[A-Za-z0-9._-]+)"\n.*)',
    re.DOTALL,
)


def text(bundle_id: str, base: Policy, taken: Sequence[Power]) -> str:
    """The file that takes ``taken`` from a bundle which ``base`` governs."""
    ordered = [power for power in POWERS if power in taken]
    sets = lowered(base, ordered)
    lines = [
        "",
        "version = 1",
        f'description = "{bundle_id} without {", ".join(ordered)}."',
        f"extends = {_written(base.name)}",
        "",
        "[match]",
        f"bundle-id = {_written((bundle_id,))}",
    ]
    if base.match.callers and bundle_id in base.match.bundle_ids:
        lines.append(f"callers = {_written(base.match.callers)}")
    for table in dict.fromkeys(key.partition(".")[0] for key in sets):
        lines += ["", f"[{table}]"]
        lines += [
            f"{key.partition('.')[2]} = {_written(value)}"
            for key, value in sets.items()
            if key.startswith(f"{table}.")
        ]
    if "network.access" in sets:
        lines += ["", "[[expect]]", 'that = "the network is closed"']
        lines += ['try = "connect tcp 127.0.0.1:22"', 'result = "refused"']
    for path in _gone(base, sets):
        lines += ["", "[[expect]]", f"that = {_written(f'{path} is not there')}"]
        lines += [f"try = {_written(f'list {path}')}", 'result = "absent"']
    rest = "\n".join(lines) + "\n"
    return f"{_HEAD}{sha256(rest.encode()).hexdigest()}\n{rest}"


def _gone(base: Policy, sets: Mapping[str, Value]) -> list[str]:
    """What an expectation can be written of: not below what is still shown."""
    kept = _list(sets.get("files.read", base.view.read))
    return [
        path
        for path in base.view.read
        if path not in kept
        and re.fullmatch(r"/[^\s]+", path)
        and not any(path.startswith(f"{top}/") for top in kept)
    ]


def made(data: bytes) -> Made | None:
    """What a file says that was made here; None: it is somebody's own."""
    try:
        match = _FILE.fullmatch(data.decode())
    except UnicodeDecodeError:
        return None
    if match is None or sha256(match["rest"].encode()).hexdigest() != match["digest"]:
        return None
    taken = match["taken"].split(", ")
    known = tuple(power for power in POWERS if power in taken)
    if len(known) != len(taken):
        return None
    return Made(bundle_id=match["bundle"], extends=match["extends"], taken=known)


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        one = f"[{', '.join(map(_written, value))}]"
        many = "".join(f"  {_written(item)},\n" for item in value)
        return one if len(one) < 70 else f"[\n{many}]"
    # A basic string of TOML escapes as JSON does, for what policies may hold.
    return json.dumps(value, ensure_ascii=False)


def _list(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


# ---------------------------------------------------------------------- where it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What governs a system bundle now, and what would without a file made here.

    ``name`` is how the file is called that takes something away. ``by_hand`` is the
    administrator's own file that stands in its place; nothing can be taken then.
    ``now`` is None where the file that was made is what stands in the way of a choice.
    """

    bundle_id: str
    name: str
    base: Policy
    now: Policy | None
    taken: tuple[Power, ...] = ()
    by_hand: str = ""

    @property
    def held(self) -> tuple[Power, ...]:
        """Of the policy that governs it anyway."""
        return held(self.base)

    @property
    def stale(self) -> tuple[str, ...]:
        """The keys that are not what they would be if its file were made now.

        Such a file says some values as they were when it was made. Where the policy
        has become stricter since, it gives back what is not meant to be had.
        """
        if not self.taken or self.now is None:
            return ()
        meant = {**values(self.base), **lowered(self.base, self.taken)}
        has = values(self.now)
        found = [key for key in meant if has.get(key) != meant[key]]
        if self.name == self.base.name:
            # Whom the one admits and governs whose place it takes.
            match, own = self.base.match, self.now.match
            if {*match.callers} != {*own.callers}:
                found.append("match.callers")
            if not {*match.bundle_ids} <= {*own.bundle_ids}:
                found.append("match.bundle-id")
        return tuple(found)

    def again(self) -> str:
        """The command that makes its file anew, from the policy as it is now."""
        taken = " ".join(power for power in self.held if power in self.taken)
        if not taken or "match.bundle-id" in self.stale:
            taken = "--as-shipped"
        return f"isolauncher restrict {self.bundle_id} {taken}"

    def outdated(self) -> str:
        """What there is to say of a file that is stale."""
        return (
            f"{self.base.name} has changed since something was taken from "
            f"{self.bundle_id}, whose file still has {', '.join(self.stale)} of before "
            f"(make it anew: {self.again()})"
        )


def standing(store: PolicyStore, bundle_id: str) -> Standing:
    """PolicyError where policies are unusable, NotAllowed where none can be made."""
    try:
        now = choose.for_bundle(store, bundle_id, system=True).policy
    except PolicyError:
        # If a file made here is the cause, it can be told and taken out.
        name = _made_for(store, bundle_id)
        if not name:
            raise
        return _restricted(store, bundle_id, name, now=None)
    etc = store.directory_names("etc")
    if bundle_id not in now.match.bundle_ids:
        name = _name(now, bundle_id)
        by_hand = f"{store.etc_dir}/{name}.toml" if name in store.names() else ""
        return Standing(
            bundle_id=bundle_id, name=name, base=now, now=now, by_hand=by_hand
        )
    if now.name in etc and read(store, now.name) is not None:
        return _restricted(store, bundle_id, now.name, now=now)
    if now.name in etc:
        return Standing(
            bundle_id=bundle_id,
            name=now.name,
            base=now,
            now=now,
            by_hand=f"{store.etc_dir}/{now.name}.toml",
        )
    return Standing(bundle_id=bundle_id, name=now.name, base=now, now=now)


def made_here(store: PolicyStore, policy: Policy) -> Standing | None:
    """Where the bundle stands that a policy was made here for; None: it was not.

    None too where other policies are unusable: that is for whoever looks at those.
    """
    if policy.files[-1] != f"{store.etc_dir}/{policy.name}.toml":
        return None
    found = read(store, policy.name)
    if found is None or _made_for(store, found.bundle_id) != policy.name:
        return None
    try:
        return standing(store, found.bundle_id)
    except PolicyError:
        return None


def _restricted(
    store: PolicyStore, bundle_id: str, name: str, *, now: Policy | None
) -> Standing:
    found = read(store, name)
    with store.without(name):
        base = choose.for_bundle(store, bundle_id, system=True).policy
    return Standing(
        bundle_id=bundle_id,
        name=name,
        base=base,
        now=now,
        taken=found.taken if found else (),
    )


def _made_for(store: PolicyStore, bundle_id: str) -> str:
    """The name of the file that was made here for a bundle, under which it was made."""
    for name in store.directory_names("etc"):
        found = read(store, name)
        if found is None or found.bundle_id != bundle_id:
            continue
        if name in (found.extends, f"{bundle_id}{choose.RESTRICTED}"):
            return name
    return ""


def _name(base: Policy, bundle_id: str) -> str:
    """How the file is called that takes something from a bundle."""
    if bundle_id in base.match.bundle_ids:
        return base.name
    # A prefix, or no match at all: a file of its own is the more specific one.
    name = f"{bundle_id}{choose.RESTRICTED}"
    if not POLICY_NAME.fullmatch(name):
        raise NotAllowed(
            f"{bundle_id} is too long for the name of a policy",
            code="restrict-name-too-long",
            hint="write a policy for it, under a shorter name",
        )
    return name


def refusal(store: PolicyStore, standing: Standing) -> NotAllowed | None:
    """Why nothing can be taken: the file would change more than what the bundle may."""
    name, base, bundle_id = standing.name, standing.base, standing.bundle_id
    if name != _name(base, bundle_id):
        return NotAllowed(
            f"{store.etc_dir}/{name}.toml was made for another policy than "
            f"{base.name}, which governs {bundle_id} since",
            code="restrict-outdated",
            hint=f"give everything back first: isolauncher restrict {bundle_id} "
            "--as-shipped",
        )
    others = [one for one in base.match.bundle_ids if one != bundle_id]
    if name == base.name and others:
        return NotAllowed(
            f"policy {name} governs {bundle_id} together with {', '.join(others)}",
            code="restrict-shared",
            hint=f"write {store.etc_dir}/{name}.toml by hand",
        )
    if extending := store.standing_on(name):
        return NotAllowed(
            f"policy {name} is extended by {', '.join(extending)}, and what is taken "
            "from the one would be taken from the other",
            code="restrict-shared",
            hint=f"write {store.etc_dir}/{name}.toml by hand",
        )
    return None


def read(store: PolicyStore, name: str) -> Made | None:
    """What the administrator's file of that name says, if it was made here."""
    if store.etc_dir is None:
        return None
    try:
        directory = trust.open_directory(store.etc_dir, store.owners)
        try:
            data, _ = trust.read_file(directory, f"{name}.toml", store.owners)
        finally:
            directory.close()
    except (OSError, trust.Untrusted):
        return None
    return made(data)


def powers(given: Sequence[str], standing: Standing) -> tuple[Power, ...]:
    """The words of a command line as powers that can be taken; RequestError if not."""
    wanted: list[Power] = []
    for word in given:
        known = next((power for power in POWERS if power == word), None)
        if known is None:
            raise RequestError(
                f"there is no power {word[:32]!a}",
                code="restrict-no-power",
                hint=f"one of {', '.join(POWERS)}",
            )
        if known not in standing.held:
            raise RequestError(
                f"{standing.bundle_id} has no {known} that could be taken from it",
                code="restrict-not-held",
                hint=f"it has {', '.join(standing.held) or 'none of them'}",
            )
        wanted.append(known)
    return tuple(power for power in POWERS if power in wanted)


__all__ = [
    "POWERS",
    "Made",
    "Power",
    "Standing",
    "held",
    "lowered",
    "made",
    "powers",
    "read",
    "refusal",
    "standing",
    "text",
]
