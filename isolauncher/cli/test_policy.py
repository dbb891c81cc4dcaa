# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher test-policy``: are these policies valid, and what do they open?

Walks the road of a launch as far as the plan and stops: needs no root, touches
nothing, and imports neither `apply` nor `init`. It therefore also takes policy files
that belong to whoever calls it, which the daemon would not.

With ``--live`` each policy is then tried in a sandbox (see isolauncher/live). Without,
the report says that nothing was tried: an empty list must not read like a proof.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import report
from ..errors import (
    BundleError,
    DaemonError,
    HostError,
    IsolauncherError,
    Mistake,
    PolicyError,
)
from ..policy import audit, choose, restrict
from ..policy.load import ETC_DIRECTORY, PolicyStore
from ..policy.model import IN_HOME, Policy
from ..report import Outcome
from . import complain, governing, printable, tell

if TYPE_CHECKING:
    from ..live.prove import Prove
    from .main import Parser

FOUND = 1
UNUSABLE = 2

NOT_TRIED = (
    "nothing was tried in a sandbox, and [[expect]] is only checked: --live does both"
)


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "test-policy",
        description="Check policies: all mistakes at once; what each one opens, with "
        "the line that says so and what to write instead; how much that is, as a "
        "figure to compare policies by; and its plan. With --live, whether a sandbox "
        "keeps what the policy promises, claim by claim. Without arguments: every "
        "policy of the directory.",
        epilog="exit status: 0; 1 when a finding reaches the threshold, or what was "
        "tried is not in force or came out otherwise than expected; 2 when an input "
        "is unusable. With a slash an argument is a file if it ends in .toml, "
        "else a bundle's directory; without, a policy's name or a bundle id.",
        allow_abbrev=False,
    )
    parser.usage_status = UNUSABLE
    parser.add_argument("what", nargs="*", metavar="NAME|FILE|BUNDLE")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output"
    )
    parser.add_argument(
        "--format", choices=("text", "json", "junit"), help="text, unless given"
    )
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        help=f"a directory that stands in for {ETC_DIRECTORY}; without further "
        "arguments only its policies are looked at",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="launch a probe under each policy and try every claim and [[expect]]; "
        "for root with a daemon of its own where none runs or --policy-dir is given",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="what differs between two of them, by effect",
    )
    parser.add_argument(
        "--threshold",
        choices=audit.SEVERITIES,
        default="dangerous",
        help="the least severity that makes the exit status 1 (default: dangerous)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    form = args.format or ("json" if args.json else "text")
    if args.json and form != "json":
        tell(f"test-policy: --json and --format {form} are two forms  [usage]")
        return UNUSABLE
    if args.diff and (args.what or form == "junit"):
        tell("test-policy: --diff takes its two alone, as text or JSON  [usage]")
        return UNUSABLE
    if args.diff and args.live:
        tell("test-policy: --live tries policies, --diff compares them  [usage]")
        return UNUSABLE
    directory: str | None = args.policy_dir
    if directory is not None and not os.path.isdir(directory):
        tell(
            f"test-policy: there is no directory {directory} (name one that holds "
            "policies)  [policy-no-directory]"
        )
        return UNUSABLE
    store = governing.store(directory or ETC_DIRECTORY)
    words: list[str] = args.diff or args.what
    outcomes = (
        [_outcome(store, word) for word in words]
        if words
        else _everything(store, own_only=directory is not None)
    )
    unusable = any(outcome.errors for outcome in outcomes)
    if args.live:
        try:
            outcomes = _tried(outcomes, words, store, directory)
        except (DaemonError, HostError) as error:
            tell(error.line())
            return UNUSABLE
    apart = None
    if args.diff and not unusable:
        apart = report.difference(*outcomes)
    if form == "json":
        _print_json(outcomes, apart, _notes(outcomes, live=args.live))
    elif form == "junit":
        at = time.strftime("%Y-%m-%dT%H:%M:%S")
        host = platform.node() or "localhost"
        sys.stdout.write(report.junit(outcomes, args.threshold, hostname=host, at=at))
    elif apart is not None:
        text = report.Text(colour=_on_terminal())
        for line in text.difference(words[0], words[1], apart):
            print(line)
    else:
        _print_text(outcomes, _notes(outcomes, live=args.live))
    if unusable:
        return UNUSABLE
    worst = (audit.worst(outcome.remarks) for outcome in outcomes)
    failed = any(p.result == "failed" for o in outcomes for p in o.live)
    found = failed or any(audit.reaches(w, args.threshold) for w in worst)
    return FOUND if found else 0


def _tried(
    outcomes: list[Outcome],
    words: list[str],
    store: PolicyStore,
    directory: str | None,
) -> list[Outcome]:
    """With what came of each policy in a sandbox; `DaemonError` if none can be made."""
    # Not at the top: whoever only reads policies needs none of it.
    from ..live import prove

    files = [word if word.endswith(".toml") and "/" in word else "" for word in words]
    files += [""] * (len(outcomes) - len(files))
    # Else what was started for it would go on.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    made: list[Outcome] = []
    with prove.proving(store, directory) as one:
        for outcome, file in zip(outcomes, files, strict=True):
            made.append(_live(outcome, one, file) if outcome.policy else outcome)
    return made


def _live(outcome: Outcome, one: Prove, file: str) -> Outcome:
    policy = outcome.policy
    assert policy is not None  # noqa: S101 (the caller's to see to)
    proved = one(policy, file)
    broken = tuple(
        audit.not_engaged(policy, p.key, f"{p.claim}: {p.detail}")
        for p in proved.proofs
        if p.result == "broken"
    )
    return replace(
        outcome,
        live=proved.proofs,
        live_by=proved.by,
        remarks=(*broken, *outcome.remarks),
    )


def _notes(outcomes: list[Outcome], *, live: bool) -> list[str]:
    if not live:
        return [NOT_TRIED]
    notes = [
        f"{o.name}: tried as {o.live_by}" for o in outcomes if o.live and o.live_by
    ]
    number = sum(p.result == "untried" for o in outcomes for p in o.live)
    if number:
        notes.append(f"{number} claims could not be tried here: each says why")
    return notes


def _on_terminal() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


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
        found = governing.find(store, word)
        policy = found.policy
        made = restrict.made_here(store, policy)
        stale = audit.restriction_stale(policy, made.stale if made else ())
        return Outcome(
            name=policy.name,
            policy=policy,
            plan=(
                *plan.describe_policy(policy),
                *besides(policy),
                *report.answered(found.answers),
            ),
            why=found.why,
            remarks=(*stale, *audit.remarks(policy)),
        )
    except PolicyError as error:
        return Outcome(name=word, policy=None, errors=error.mistakes)
    except IsolauncherError as error:
        return Outcome(name=word, policy=None, errors=(_unusable(word, error),))


_WITHOUT = {
    "required": "no launch",
    "if-possible": "a launch, and the report says so",
    "off": "as anywhere",
}


def besides(policy: Policy) -> Iterator[str]:
    """What the plan's steps do not show, since it depends on who asks and for what."""
    uid = {
        "instance": "a uid of its own at each launch",
        "bundle": "a uid that the caller's bundle keeps",
    }
    match = policy.match
    settings = policy.environment.set.items()
    yield "what depends on who asks, and for what:"
    yield f"  who may name it: {' '.join(match.callers) or 'root alone'}"
    if match.bundle_ids:
        whose = {"system": "the system's", "user": "a person's own"}[match.installed_by]
        yield f"  bundles that it governs, {whose}: {' '.join(match.bundle_ids)}"
    yield f"  identity: {uid[policy.identity.uid]}"
    for what, need in (
        ("control groups", policy.limits.cgroup),
        ("Landlock", policy.kernel.landlock),
    ):
        yield f"  on a machine without {what}: {_WITHOUT[need]}"
    yield f"  environment, kept if it is there: {' '.join(policy.environment.keep)}"
    yield "  environment, set: " + " ".join(f"{k}={v}" for k, v in sorted(settings))
    yield f"  Python programs: {policy.preload.tier} (set {policy.preload.set})"
    yield from _of_a_bundle(policy)


def _of_a_bundle(policy: Policy) -> Iterator[str]:
    """What a person's session brings, and only for bundles."""
    view, bus = policy.view, policy.bus
    documents = {
        "none": "there is none",
        "own": "what it made",
        "opened": "what it made or was opened with, and to read what is chosen for it",
        "all": "every entry",
    }
    display = {"none": "none", "shared": "the person's"}
    yield "a bundle has besides:"
    for verb, paths in (("read", view.read), ("write", view.write)):
        for path in paths:
            if path.startswith(IN_HOME):
                yield f"  of the person's home, to {verb}: {path}"
    size = report.written(view.data, "files.data").strip('"')
    yield f"  a directory of its own: {f'up to {size}' if view.data else 'none'}"
    yield f"  the Journal: {documents[view.documents]}"
    yield f"  the display: {display[policy.x11]}"
    for name in bus.session_own:
        yield f"  on the session bus, to be: {name}"
    for rule in bus.session_call:
        yield f"  on the session bus, to call: {rule}"
    for name, given in (
        ("the screen reader's bus", bus.accessibility),
        ("the input method", bus.input_method),
    ):
        yield f"  {name}: {'filtered' if given else 'none'}"


def _unusable(word: str, error: IsolauncherError) -> Mistake:
    file, line, message = word, 0, error.message
    if isinstance(error, BundleError) and error.file:
        file, line = error.file, error.line_number
        message = message.removeprefix(f"{file}:{line}: ")
    return Mistake(
        file=file,
        line=line,
        column=0,
        key="",
        code=error.code,
        message=message,
        hint=error.hint,
    )


def _print_json(
    outcomes: list[Outcome], apart: report.Difference | None, notes: list[str]
) -> None:
    said = {
        "version": 1,
        "policies": [outcome.as_data() for outcome in outcomes],
        "notes": notes,
    }
    if apart is not None:
        said["diff"] = apart.as_data()
    json.dump(said, sys.stdout, indent=1)
    print()


def _print_text(outcomes: list[Outcome], notes: list[str]) -> None:
    text = report.Text(colour=_on_terminal())
    told: set[Mistake] = set()
    for outcome in outcomes:
        if outcome.policy is not None:
            for line in text.valid(outcome):
                print(line)
            continue
        print(text.unusable(outcome))
        sys.stdout.flush()
        for mistake in outcome.errors:
            if mistake in told:
                continue  # of a file that another policy stands on as well
            told.add(mistake)
            for line in mistake.text().split("\n"):
                complain(printable(line))
    for note in notes:
        # Who tried it stands with the policy.
        if "tried as" not in note:
            complain(f"note: {note}")
