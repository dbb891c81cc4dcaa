# SPDX-License-Identifier: GPL-3.0-or-later
"""What `test-policy` and `explain` have to say: text for people, JSON and JUnit.

An `Outcome` is one input; `text`, `data` and `junit` show any number of them. Whatever
came from a file is escaped on its way to a person: it is text of somebody else's.
"""

from __future__ import annotations

import textwrap
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from .errors import Mistake
from .policy import audit
from .policy.audit import Remark, Severity
from .policy.model import KEYS, Accept, Policy, Said, Value, reasons, values
from .policy.quote import shown
from .policy.wishes import Answer

_COLOURS: Mapping[str, str] = {
    "proved": "\x1b[32m",
    "broken": "\x1b[1;31m",
    "failed": "\x1b[1;31m",
    "untried": "\x1b[36m",
    "dangerous": "\x1b[1;31m",
    "open": "\x1b[33m",
    "note": "\x1b[36m",
    "accepted": "\x1b[2m",
    "valid": "\x1b[32m",
    "unusable": "\x1b[1;31m",
}
_PLAIN = "\x1b[0m"


Result = Literal["proved", "broken", "failed", "untried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What became of one claim that was tried in a sandbox.

    ``proved``: it holds. ``broken``: it was asked for and is not in force. ``failed``:
    an expectation came out otherwise, or nothing could be launched. ``untried``: it
    cannot be tried here, ``detail`` says why. ``key`` is the policy's that asks for it.
    """

    claim: str
    result: Result
    detail: str
    key: str = ""

    def as_data(self) -> dict[str, object]:
        return {"claim": self.claim, "result": self.result, "detail": self.detail}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One input: a policy with its plan, or the mistakes that make it unusable.

    ``live`` is what was tried, ``live_by`` who launched it.
    """

    name: str
    policy: Policy | None
    plan: tuple[str, ...] = ()
    errors: tuple[Mistake, ...] = ()
    why: str = ""
    remarks: tuple[Remark, ...] = ()
    live: tuple[Proof, ...] = ()
    live_by: str = ""

    @property
    def exposure(self) -> float:
        return audit.exposure(self.remarks)

    def as_data(self) -> dict[str, object]:
        usable = self.policy is not None
        return {
            "name": self.name,
            "files": list(self.policy.files if self.policy else ()),
            "errors": [asdict(mistake) for mistake in self.errors],
            "findings": [r.finding() for r in audit.findings(self.remarks)],
            "exposure": self.exposure if usable else None,
            "exposure_lines": [r.exposed() for r in self.remarks if r.points],
            "live": [proof.as_data() for proof in self.live],
            "plan": list(self.plan),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two policies differ: ``values`` by key, of the one and of the other."""

    values: Mapping[str, tuple[Value | None, Value | None]]
    gone: tuple[Remark, ...]
    added: tuple[Remark, ...]
    exposure: float

    def as_data(self) -> dict[str, object]:
        return {
            "values": {key: list(pair) for key, pair in self.values.items()},
            "findings": {
                "only_in_first": [r.finding() for r in self.gone],
                "only_in_second": [r.finding() for r in self.added],
            },
            "exposure": self.exposure,
        }


def difference(one: Outcome, other: Outcome) -> Difference:
    """By effect: what is said in other words and comes to the same is no difference."""
    assert one.policy is not None  # noqa: S101 (the caller's to see to)
    assert other.policy is not None  # noqa: S101
    first, second = values(one.policy), values(other.policy)
    keys = [*first, *(key for key in second if key not in first)]
    told = (
        {
            (r.id, r.key, r.message, r.accepted is None): r
            for r in audit.findings(o.remarks)
        }
        for o in (one, other)
    )
    before, after = told
    return Difference(
        values={
            key: (first.get(key), second.get(key))
            for key in keys
            if _as_set(first.get(key)) != _as_set(second.get(key))
        },
        gone=tuple(r for name, r in before.items() if name not in after),
        added=tuple(r for name, r in after.items() if name not in before),
        exposure=round(other.exposure - one.exposure, 6),
    )


def _as_set(value: Value | None) -> object:
    """Where a list stands is nobody's business."""
    return frozenset(value) if isinstance(value, tuple) else value


# -------------------------------------------------------------------------------- text


class Text:
    """Lines for a person; ``colour``: on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def _in(self, name: str, text: str) -> str:
        return f"{_COLOURS[name]}{text}{_PLAIN}" if self._colour else text

    def unusable(self, outcome: Outcome) -> str:
        number = len(outcome.errors)
        mistakes = f"{number} mistake{'s' if number > 1 else ''}"
        return f"{safe(outcome.name)}: {self._in('unusable', 'unusable')}, {mistakes}"

    def valid(self, outcome: Outcome) -> Iterator[str]:
        """What a policy opens, how much that is, and the plan that it comes to."""
        policy = outcome.policy
        assert policy is not None  # noqa: S101 (the caller's to see to)
        yield (
            f"{policy.name}: {self._in('valid', 'valid')}, "
            f"exposure {outcome.exposure:.1f}"
        )
        if policy.description:
            yield f"  {safe(policy.description)}"
        if outcome.why:
            yield f"  {safe(outcome.why)}"
        yield f"  made from {safe(', '.join(policy.files))}"
        yield from self.findings(audit.findings(outcome.remarks))
        yield from self.live(outcome)
        yield f"  exposure {outcome.exposure:.1f}: {_by_key(outcome.remarks)}"
        yield from (f"  {safe(line)}" for line in outcome.plan)

    def findings(self, found: Sequence[Remark]) -> Iterator[str]:
        if not found:
            yield "  no findings"
        for remark in found:
            word = _word(remark)
            name = self._in(word, f"{word:9}")
            yield f"  {name} {remark.key} ({place(remark)}) [{remark.id}]"
            yield f"            {safe(remark.message)}"
            if remark.because:
                yield f"            because: {safe(remark.because)}"
            if remark.fix:
                yield f"            instead: {safe(remark.fix)} (see {remark.see})"
            if remark.accepted is not None:
                yield f"            {_accepted(remark.accepted)}"

    def live(self, outcome: Outcome) -> Iterator[str]:
        """What was tried; of the claims that hold only their names."""
        if not outcome.live:
            return
        yield f"  tried as {safe(outcome.live_by)}:" if outcome.live_by else "  tried:"
        for result in ("broken", "failed", "untried", "proved"):
            for detail, named in _together(outcome.live, result):
                line = f"{len(named)} claims: " if len(named) > 3 else ""
                line += safe(", ".join(_short(named, paths=result != "proved")))
                line += f": {safe(detail)}" if detail else ""
                first, *rest = textwrap.wrap(line, 76, break_on_hyphens=False)
                yield f"  {self._in(result, f'{result:9}')} {first}"
                yield from (f"            {more}" for more in rest)

    def difference(self, one: str, other: str, found: Difference) -> Iterator[str]:
        yield f"{safe(one)} and {safe(other)}:"
        if not found.values:
            yield "  every value is the same"
        for key, (before, after) in found.values.items():
            yield from _values_apart(key, before, after)
        for sign, which in (("-", found.gone), ("+", found.added)):
            for remark in which:
                word = self._in(_word(remark), _word(remark))
                yield f"  {sign} {word} {remark.key}: {safe(remark.message)}"
        yield f"  exposure {found.exposure:+.1f}"


def _together(live: Sequence[Proof], result: Result) -> Iterator[tuple[str, list[str]]]:
    """Claims with this result by what there is to say of them.

    Of those that hold nothing more is said than their names, but for expectations.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for proof in live:
        if proof.result == result:
            plain = result == "proved" and proof.key != "expect"
            found["" if plain else proof.detail].append(proof.claim)
    yield from found.items()


_OF_PATHS = ("files.read ", "files.write ")


def _short(claims: Sequence[str], *, paths: bool) -> Iterator[str]:
    """Their names, those of paths under one key together, by number or by path."""
    yield from (claim for claim in claims if not claim.startswith(_OF_PATHS))
    for key in _OF_PATHS:
        named = [c.removeprefix(key) for c in claims if c.startswith(key)]
        if len(named) > 3 and not paths:
            yield f"{key}of {len(named)} paths"
        elif named:
            yield key + " ".join(named)


def _values_apart(key: str, before: Value | None, after: Value | None) -> Iterator[str]:
    if isinstance(before, tuple) and isinstance(after, tuple):
        yield f"  {key}"
        yield from (f"    - {safe(item)}" for item in before if item not in after)
        yield from (f"    + {safe(item)}" for item in after if item not in before)
    else:
        yield f"  {key}: {written(before, key)} → {written(after, key)}"


def _by_key(remarks: Sequence[Remark]) -> str:
    """The keys that weigh most, and what all others come to."""
    points: dict[str, float] = defaultdict(float)
    for remark in remarks:
        table, _, name = remark.key.partition(".")
        points[f"{table}.{name.partition('.')[0]}"] += remark.points
    ordered = sorted(points.items(), key=lambda pair: -pair[1])
    told = [f"{key} {sum_:.1f}" for key, sum_ in ordered[:5]]
    rest = sum(sum_ for _, sum_ in ordered[5:])
    return ", ".join([*told, f"others {rest:.1f}"] if rest else told)


def _word(remark: Remark) -> str:
    return "accepted" if remark.accepted is not None else remark.severity or "note"


def _accepted(by: Accept) -> str:
    where = f"{safe(by.origin.file)}:{by.origin.line}"
    return f"accepted until {by.until} ({where}): {safe(by.because)}"


def place(remark: Remark) -> str:
    return f"{safe(remark.file)}:{remark.line}" if remark.line else safe(remark.file)


def safe(text: str) -> str:
    """Nothing in it that a terminal acts on, or that reorders a line."""
    return text if text.isprintable() else shown(text, len(text))[1:-1]


_SIZES = frozenset(key.name for key in KEYS if key.kind == "size")


def written(value: Value | None, key: str = "") -> str:
    """As it would stand in a file, for ``key``."""
    match value:
        case int() if key in _SIZES and value:
            power = max(p for p in range(4) if value % 1024**p == 0)
            unit = "KMG"[power - 1] if power else ""
            return f'"{value // 1024**power}{unit}"' if unit else str(value)
        case None:
            return "(nothing)"
        case bool():
            return "true" if value else "false"
        case tuple():
            return f"[{', '.join(written(item) for item in value)}]"
        case str():
            return f'"{safe(value)}"'
        case _:
            return str(value)


# ------------------------------------------------------------------------------- origin


def _told(policy: Policy) -> dict[str, Value]:
    return {**values(policy), **reasons(policy)}


def explained(policy: Policy, wanted: str | None) -> Iterator[str]:
    """Each value in force, the place that set it, and what that took the place of."""
    for key, value in _told(policy).items():
        if wanted is not None and key != wanted and not key.startswith(f"{wanted}."):
            continue
        history = policy.history.get(key, ())
        if isinstance(value, tuple):
            yield from _explained_list(key, value, history)
            continue
        yield f"{key} = {written(value, key)}"
        for number, said in enumerate(reversed(history)):
            other = written(said.value, key)
            words = "set in" if number == 0 else f"overrides {other} of"
            yield f"    {words} {safe(said.origin.file)}:{said.origin.line}"


def _explained_list(
    key: str, value: tuple[str, ...], history: Sequence[Said]
) -> Iterator[str]:
    yield f"{key} = [{'' if value else ']'}"
    for item in value:
        said = next(
            s for s in history if isinstance(s.value, tuple) and item in s.value
        )
        for later in history:
            if (
                isinstance(later.value, tuple)
                and item in later.value
                and not later.more
            ):
                said = later
        yield f"    {written(item)}  # {safe(said.origin.file)}:{said.origin.line}"
    if value:
        yield "]"
    dropped = [
        (item, said)
        for said in history
        if isinstance(said.value, tuple)
        for item in said.value
        if item not in value
    ]
    for item, said in dropped:
        origin = f"{safe(said.origin.file)}:{said.origin.line}"
        yield f"    without {written(item)} of {origin}"
    if not value and history:
        origin_ = history[-1].origin
        yield f"    set in {safe(origin_.file)}:{origin_.line}"


def answered(answers: Sequence[Answer]) -> Iterator[str]:
    """What became of each line in which a bundle asks for something."""
    if answers:
        yield f"what the bundle asks for ({safe(answers[0].origin.file)}):"
    for told in answers:
        word = "granted" if told.granted else "not granted"
        yield f"  line {told.origin.line}: {told.asked}: {word}: {safe(told.why)}"


def explained_data(policy: Policy, wanted: str | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in _told(policy).items():
        if wanted is not None and key != wanted and not key.startswith(f"{wanted}."):
            continue
        found[key] = {
            "value": list(value) if isinstance(value, tuple) else value,
            "said": [
                {
                    "value": list(s.value) if isinstance(s.value, tuple) else s.value,
                    "adds": s.more,
                    "file": s.origin.file,
                    "line": s.origin.line,
                }
                for s in policy.history.get(key, ())
            ],
        }
    return found


# ------------------------------------------------------------------------------- JUnit


def junit(
    outcomes: Sequence[Outcome], threshold: Severity, *, hostname: str, at: str
) -> str:
    """JUnit's XML: a suite for each input, a case for its validity and each finding.

    A mistake is an error, a finding that reaches ``threshold`` a failure; of what was
    tried, a case for each, failed or skipped. ``at`` is the time, ISO 8601 without a
    zone, as the schema has it.
    """
    top = ET.Element("testsuites")
    for number, outcome in enumerate(outcomes):
        found = audit.findings(outcome.remarks)
        bad = [
            r
            for r in found
            if r.accepted is None and audit.reaches(r.severity, threshold)
        ]
        failing = [p for p in outcome.live if p.result in ("broken", "failed")]
        skipped = [p for p in outcome.live if p.result == "untried"]
        suite = ET.SubElement(
            top,
            "testsuite",
            name=safe(outcome.name),
            package="isolauncher.policy",
            id=str(number),
            hostname=hostname,
            timestamp=at,
            time="0",
            tests=str(1 + len(found) + len(outcome.live)),
            errors=str(int(bool(outcome.errors))),
            failures=str(len(bad) + len(failing)),
            skipped=str(len(skipped)),
        )
        ET.SubElement(suite, "properties")
        valid = _case(suite, outcome.name, "is valid")
        if outcome.errors:
            error = ET.SubElement(
                valid, "error", type=outcome.errors[0].code, message="unusable"
            )
            error.text = safe_lines("\n".join(m.text() for m in outcome.errors))
        for remark in found:
            name = f"{remark.id} {remark.key} {remark.item}".strip()
            if remark.accepted is not None:
                name += f" (accepted until {remark.accepted.until})"
            case = _case(suite, outcome.name, name)
            if remark in bad:
                failure = ET.SubElement(
                    case, "failure", type=str(remark.severity), message=remark.id
                )
                failure.text = safe_lines(
                    f"{place(remark)}: {remark.message}\ninstead: {remark.fix}"
                )
        for proof in outcome.live:
            _tried(suite, outcome.name, proof)
        ET.SubElement(suite, "system-out")
        ET.SubElement(suite, "system-err")
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _tried(suite: ET.Element, policy: str, proof: Proof) -> None:
    case = _case(suite, policy, proof.claim)
    if proof.result == "untried":
        ET.SubElement(case, "skipped", message=safe(proof.detail))
    elif proof.result != "proved":
        failure = ET.SubElement(
            case, "failure", type=proof.result, message=safe(proof.claim)
        )
        failure.text = safe(proof.detail)


def _case(suite: ET.Element, policy: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=safe(policy), name=safe(name), time="0"
    )


def safe_lines(text: str) -> str:
    return "\n".join(safe(line) for line in text.split("\n"))


__all__ = [
    "Difference",
    "Outcome",
    "Proof",
    "Result",
    "Text",
    "answered",
    "difference",
    "explained",
    "explained_data",
    "junit",
    "place",
    "safe",
    "written",
]
