# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher test-policy``: are these policies valid, and what do they come to?

Walks the road of a launch as far as the plan and stops: needs no root, touches
nothing, and imports neither `apply` nor `init`. It therefore also takes policy files
that belong to whoever calls it, which the daemon would not.

Findings, exposure and ``--live`` are not there yet. What is asked of them is refused,
and the report says that it holds none: an empty list must not read like a clean bill.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn

from ..errors import IsolauncherError, Mistake, PolicyError
from ..policy import choose
from ..policy.load import ETC_DIRECTORY, PolicyStore, trusted_owners
from ..policy.model import Policy
from . import complain, printable, tell

if TYPE_CHECKING:
    from .main import Parser

UNUSABLE = 2

NOT_YET = (
    "findings, exposure and live tests are not made by this version: "
    "an empty list of findings says nothing about a policy"
)
AS_SYSTEM = "taken for a system bundle, because bundles are not looked at yet"

_BUNDLE_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One input: a policy with its plan, or the mistakes that make it unusable."""

    name: str
    policy: Policy | None
    plan: tuple[str, ...] = ()
    errors: tuple[Mistake, ...] = ()
    why: str = ""

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "files": list(self.policy.files if self.policy else ()),
            "errors": [asdict(mistake) for mistake in self.errors],
            "findings": [],
            "exposure": None,
            "live": [],
            "plan": list(self.plan),
        }


class _NotYet(argparse.Action):
    """An option whose work is still to be done: one line, and no half answer."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        refuse_option(option_string or self.dest)


def refuse_option(option: str) -> NoReturn:
    tell(
        f"test-policy: {option} is understood, but this version checks validity and "
        "shows plans only (leave it out)  [test-policy-not-yet]"
    )
    raise SystemExit(UNUSABLE)


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "test-policy",
        description="Check policies, all mistakes at once, and show the plan that each "
        "one comes to. Without arguments: every policy of the directory.",
        epilog="exit status: 0; 2 when an input is unusable. "
        "With a slash an argument is a file if it ends in .toml, else a bundle's "
        "directory; without, a policy's name or a bundle id. " + NOT_YET + ".",
        allow_abbrev=False,
    )
    parser.usage_status = UNUSABLE
    parser.add_argument("what", nargs="*", metavar="NAME|FILE|BUNDLE")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output"
    )
    parser.add_argument(
        "--format", choices=("text", "json", "junit"), help="junit: not yet"
    )
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        help=f"a directory that stands in for {ETC_DIRECTORY}; without further "
        "arguments only its policies are looked at",
    )
    parser.add_argument("--live", nargs=0, action=_NotYet, help="not yet")
    parser.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), action=_NotYet, help="not yet"
    )
    parser.add_argument(
        "--threshold",
        choices=("note", "open", "dangerous"),
        action=_NotYet,
        help="not yet",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.format == "junit":
        refuse_option("--format junit")
    directory: str | None = args.policy_dir
    if directory is not None and not os.path.isdir(directory):
        tell(
            f"test-policy: there is no directory {directory} (name one that holds "
            "policies)  [policy-no-directory]"
        )
        return UNUSABLE
    store = PolicyStore(
        etc_dir=directory or ETC_DIRECTORY,
        # Who only looks may look at their own.
        owners=trusted_owners() | {os.getuid()},
    )
    words: list[str] = args.what
    outcomes = (
        [_outcome(store, word) for word in words]
        if words
        else _everything(store, own_only=directory is not None)
    )
    if args.json or args.format == "json":
        _print_json(outcomes)
    else:
        _print_text(outcomes)
    return UNUSABLE if any(outcome.errors for outcome in outcomes) else 0


def _everything(store: PolicyStore, *, own_only: bool) -> list[Outcome]:
    place = store.etc_dir if own_only and store.etc_dir else "policies"
    try:
        names = store.directory_names("etc") if own_only else store.names()
        strays = store.strays()
    except PolicyError as error:
        return [Outcome(name=place, policy=None, errors=error.mistakes)]
    outcomes = [_outcome(store, name) for name in names]
    broken = any(outcome.errors for outcome in outcomes)
    clashing = () if broken else choose.clashes(store)
    if strays or clashing:
        outcomes.append(Outcome(name=place, policy=None, errors=(*strays, *clashing)))
    if not outcomes:
        nothing = Mistake(
            file=place,
            line=0,
            column=0,
            key="",
            code="policy-none",
            message="there is no policy here",
            hint="a policy is a file NAME.toml",
        )
        outcomes.append(Outcome(name=place, policy=None, errors=(nothing,)))
    return outcomes


def _outcome(store: PolicyStore, word: str) -> Outcome:
    # Imported here so that a plan that cannot be made does not take --help with it.
    from .. import plan

    try:
        policy, why = _policy(store, word)
        return Outcome(
            name=policy.name,
            policy=policy,
            plan=(*plan.describe_policy(policy), *_besides(policy)),
            why=why,
        )
    except PolicyError as error:
        return Outcome(name=word, policy=None, errors=error.mistakes)
    except IsolauncherError as error:
        return Outcome(name=word, policy=None, errors=(_unusable(word, error),))


def _besides(policy: Policy) -> Iterator[str]:
    """What the plan's steps do not show, since it depends on who asks and for what."""
    uid = {
        "instance": "a uid of its own at each launch",
        "bundle": "a uid that the caller's bundle keeps",
    }
    settings = policy.environment.set.items()
    yield "what depends on who asks, and for what:"
    yield f"  who may name it: {' '.join(policy.match.callers) or 'root'}"
    yield f"  identity: {uid[policy.identity.uid]}"
    yield f"  environment, kept if it is there: {' '.join(policy.environment.keep)}"
    yield "  environment, set: " + " ".join(f"{k}={v}" for k, v in sorted(settings))
    yield f"  Python programs: {policy.preload.tier} (set {policy.preload.set})"


def _policy(store: PolicyStore, word: str) -> tuple[Policy, str]:
    if "/" in word:
        if word.endswith(".toml"):
            return store.load_file(word), ""
        raise IsolauncherError(
            "is a bundle's directory, and bundles are not looked at yet",
            code="test-policy-not-yet",
            hint="give a bundle's id, a policy's name, or a file that ends in .toml",
        )
    if word not in store.names() and _BUNDLE_ID.fullmatch(word):
        choice = choose.for_bundle(store, word, system=True)
        return choice.policy, f"{choice.why} ({AS_SYSTEM})"
    return store.get(word), ""


def _unusable(word: str, error: IsolauncherError) -> Mistake:
    return Mistake(
        file=word,
        line=0,
        column=0,
        key="",
        code=error.code,
        message=error.message,
        hint=error.hint,
    )


def _print_json(outcomes: list[Outcome]) -> None:
    report = {
        "version": 1,
        "policies": [outcome.as_json() for outcome in outcomes],
        "notes": [NOT_YET],
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def _print_text(outcomes: list[Outcome]) -> None:
    told: set[Mistake] = set()
    for outcome in outcomes:
        policy = outcome.policy
        if policy is None:
            number = len(outcome.errors)
            print(
                f"{printable(outcome.name)}: unusable, "
                f"{number} mistake{'s' if number > 1 else ''}"
            )
            sys.stdout.flush()
            for mistake in outcome.errors:
                if mistake in told:
                    continue  # of a file that another policy stands on as well
                told.add(mistake)
                for line in mistake.text().split("\n"):
                    complain(printable(line))
            continue
        print(f"{policy.name}: valid")
        if policy.description:
            print(f"  {printable(policy.description)}")
        if outcome.why:
            print(f"  {printable(outcome.why)}")
        print(f"  made from {printable(', '.join(policy.files))}")
        for line in outcome.plan:
            print(f"  {printable(line)}")
    complain(f"note: {NOT_YET}")
