# SPDX-License-Identifier: GPL-3.0-or-later
"""Each policy in a sandbox of its own: launched, looked at, judged.

`proving` finds the daemon that serves the policies, or is root's to start one; `one`
tries a policy. As anybody else than root the running daemon is asked, as that person.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from .. import client, devices, filters, paths, wire
from ..errors import DaemonError
from ..policy.load import PolicyStore
from ..policy.model import Policy
from ..report import Proof, Result
from . import caller, claims, desktop, expects, outside, places, private, probe
from .caller import Case, Place
from .talk import Silent, Talk


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """``by`` says as what it was launched, and by whom; empty: it was not."""

    by: str
    proofs: tuple[Proof, ...]


Prove = Callable[[Policy, str], Proved]

SET_ID = ("su", "passwd", "chsh", "mount", "newgrp", "gpasswd", "sudo", "pkexec")


@contextmanager
def proving(store: PolicyStore, policy_dir: str | None) -> Iterator[Prove]:
    """Gives what tries one policy, with the file it was named by, if any.

    Raises `DaemonError` where none can be asked or started.
    """
    places.sweep(private.give_back)
    with _socket(policy_dir) as socket:
        with client.connect(socket) as sock:
            daemon = wire.peer(sock).pid
        yield lambda policy, file: one(policy, file, store, socket, daemon)


@contextmanager
def _socket(policy_dir: str | None) -> Iterator[str]:
    root, running = os.geteuid() == 0, paths.socket()
    if policy_dir is not None and not root:
        raise DaemonError(
            "only root can have a directory of policies tried that no daemon serves",
            code="live-not-root",
            hint="use sudo, or leave --policy-dir out",
        )
    if policy_dir is None:
        try:
            client.connect(running).close()
        except DaemonError:
            if not root:
                raise
        else:
            yield running
            return
    with private.serving(policy_dir) as socket:
        yield socket


def one(
    policy: Policy, file: str, store: PolicyStore, socket: str, daemon: int
) -> Proved:
    """Every claim of one policy, and its expectations."""
    case = caller.choose_case(policy, store, file)
    if case.untried:
        trials_ = (
            expects.Trial(expect=e, words=(), untried=case.untried)
            for e in policy.expects
        )
        everything = claims.untried("launch", "match.callers", case.untried)
        expected = (expects.judge(trial, None) for trial in trials_)
        return Proved(by="", proofs=(everything, *expected))
    with caller.place(case) as place:
        asked = caller.asked_environment(case, place.home, expects.variables(policy))
        asked = desktop.reachable(case, asked)
        with expects.trials(case, asked) as trials:
            run = _Run(case, place, asked, trials, socket, daemon)
            return Proved(by=case.why, proofs=tuple(run.proofs()))


class _Run:
    """One launch: everything is asked, then it ends, then it is judged."""

    def __init__(
        self,
        case: Case,
        place: Place,
        asked: dict[str, str],
        trials: list[expects.Trial],
        socket: str,
        daemon: int,
    ) -> None:
        self.case = case
        self.place = place
        self.asked = asked
        self.trials = trials
        self.daemon = daemon
        self.devices = devices_there(case)
        self.talk = _talk(case, place, asked, socket)
        self.look: dict[str, Any] | None = None
        self.attacks: dict[str, dict[str, str]] | None = None
        self.desktop: desktop.Desktop | None = None
        self.outside: outside.Outside | None = None
        self.keyrings: set[str] | None = None
        self.ended: set[str] = set()
        self.said: dict[int, list[str]] = {}
        self.filled: str | None = None
        self.silent = ""

    def proofs(self) -> Iterator[Proof]:
        before = outside.keyrings()
        with self.talk:
            try:
                self._converse(before)
            except Silent as why:
                self.silent = str(why)
        if self.keyrings is not None:
            self.ended = outside.that_end(self.keyrings)
        yield from self._judge()

    def _converse(self, before: set[str] | None) -> None:
        case, place, talk = self.case, self.place, self.talk
        shown = claims.shown_paths(case, place)
        self.look = talk.ask(
            "look",
            {
                "paths": [*shown, *desktop.data_paths(case, place)],
                "hidden": claims.hidden_paths(case, place),
                "limits": sorted(claims.limits(case)),
                "memory": claims.memory_paths(case, place),
                "devices": sorted(n for kind in self.devices for n in kind.nodes),
            },
        )
        during = outside.keyrings()
        if before is not None and during is not None:
            self.keyrings = during - before
        pid = talk.pid()
        if pid:
            with suppress(FileNotFoundError, ProcessLookupError):
                self.outside = outside.look(pid, self.daemon)
        number, arguments, _ = filters.compile(case.policy.kernel.syscalls).probe
        asked = {"set_id": set_id_program(), "filter": [number, list(arguments)]}
        self.attacks = talk.ask("attack", asked)
        self.desktop = desktop.look(talk, case, self.asked)
        order = expects.in_order(self.trials)
        said = talk.ask("try", [self.trials[n].words for n in order])
        self.said = dict(zip(order, said, strict=True))
        self.filled = desktop.fill(case, place, talk)

    # ------------------------------------------------------------------------- judging

    def _judge(self) -> Iterator[Proof]:
        failure = self._failure()
        if failure is not None:
            yield failure
        if self.look is not None and self.talk.report and self._is_ours():
            found = [*self._claims(self.look)]
            yield from found
            if not any(proof.result == "broken" for proof in found):
                yield self._again()
        for number, trial in enumerate(self.trials):
            if self.talk.report and not self._is_ours():
                trial = replace(trial, untried="another policy was in force")
            yield expects.judge(trial, self.said.get(number))

    def _again(self) -> Proof:
        """Who the next launch of the same is: another, or the same once more."""
        key, talk = "identity.uid", self.talk
        with _talk(self.case, self.place, self.asked, talk.socket) as another:
            pass
        if not another.report:
            return claims.untried(key, key, "it could not be launched once more")
        uids = [t.report["identity"]["uid"] for t in (talk, another)]
        kept, wanted = uids[0] == uids[1], self.case.policy.identity.uid == "bundle"
        problem = "" if kept == wanted else f"two launches had the uids {uids}"
        return claims.proof(key, key, [problem], f"{uids[0]}, then {uids[1]}")

    def _failure(self) -> Proof | None:
        """Why not everything could be asked; None: it could."""
        error, key = self.talk.error, "match.callers"
        if error is not None:
            # What the daemon read back and found otherwise is not in force.
            kind: Result = "broken" if error.step == "verify" else "failed"
            return Proof(claim="launch", result=kind, detail=error.line(), key=key)
        if not self.talk.report:
            why = self.talk.errors() or self.silent or "it says nothing of its end"
            return Proof(claim="launch", result="failed", detail=why, key=key)
        if not self._is_ours():
            named = self.talk.report["policy"]
            files = ", ".join(named["files"])
            why = f"the daemon launches it under {named['name']}, made from {files}"
            return claims.untried("launch", key, why)
        if self.silent:
            what = "was asked" if self.look is None else "could be asked to the end"
            why = f"it runs and not all {what}: {self.silent} {self.talk.errors()}"
            return Proof(claim="launch", result="broken", detail=why.strip(), key=key)
        return None

    def _is_ours(self) -> bool:
        named = self.talk.report["policy"]
        policy = self.case.policy
        files = [os.path.realpath(path) for path in policy.files]
        made_from = [os.path.realpath(path) for path in named["files"]]
        return (named["name"], made_from) == (policy.name, files)

    def _claims(self, look: dict[str, Any]) -> Iterator[Proof]:
        case, place = self.case, self.place
        seen = claims.Seen(
            case=case,
            place=place,
            asked=self.asked,
            look=look,
            attacks=self.attacks,
            outside=self.outside,
            report=self.talk.report,
            there=there(case, place),
            devices=self.devices,
            keyrings=self.keyrings,
            ended=self.ended,
        )
        yield from claims.judge(seen)
        yield from desktop.data(case, place, look)
        if self.filled is not None:
            yield desktop.filled(case, self.filled, self.talk.status)
        if self.desktop is not None:
            yield from desktop.judge(case, place, self.talk, self.desktop)


def _talk(case: Case, place: Place, asked: dict[str, str], socket: str) -> Talk:
    name = f"live{os.urandom(6).hex()}"
    return Talk(case=case, place=place, id=name, socket=socket, variables=asked)


def there(case: Case, place: Place) -> dict[str, dict[str, Any]]:
    """What the caller finds outside at each path that the policy shows."""
    paths_ = list(claims.shown_paths(case, place))
    found = caller.as_caller(case.caller, {}, lambda: {p: _entry(p) for p in paths_})
    return found or {}


def devices_there(case: Case) -> tuple[devices.Given, ...]:
    """What each kind that the policy names comes to, by what the caller may open."""
    named = devices.wanted(case.policy.devices)

    def look() -> list[tuple[str, int, str]]:
        return [found for nodes in named for found in _nodes(nodes)]

    found = caller.as_caller(case.caller, {}, look) or ()
    known = [devices.Found(path=p, device=d, why=w) for p, d, w in found]
    return tuple(devices.given(case.policy.devices, known))


def _nodes(nodes: devices.Nodes) -> Iterator[tuple[str, int, str]]:
    paths_ = sorted(glob.glob(nodes.pattern))
    if not paths_:
        yield nodes.pattern, 0, "there is none on this machine"
    rights = os.R_OK | (os.W_OK if nodes.writable else 0)
    for path in paths_:
        # None is opened: that does things, and the microphone may be in use.
        why = "" if os.access(path, rights) else "who launches may not open it"
        yield path, os.lstat(path).st_rdev, why


def _entry(path: str) -> dict[str, Any]:
    """As probe.entry, without doing anything to it."""
    try:
        found = os.stat(path)
    except OSError as refused:
        why = probe.name_of(refused.errno)
        return {"there": why, "read": why, "write": why, "link": ""}

    def may(rights: int) -> str:
        return "ok" if os.access(path, rights) else "EACCES"

    return {
        "there": "ok",
        "file": [found.st_dev, found.st_ino],
        "link": os.readlink(path) if os.path.islink(path) else "",
        "read": may(os.R_OK),
        "write": may(os.W_OK),
    }


def set_id_program() -> str | None:
    """One that would run as root: it belongs to root and has the bit."""
    for name in SET_ID:
        path = f"/usr/bin/{name}"
        with suppress(OSError):
            found = os.stat(path)
            if found.st_uid == 0 and found.st_mode & 0o4000:
                return path
    return None


__all__ = ["one", "proving"]
