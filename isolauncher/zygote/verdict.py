# SPDX-License-Identifier: GPL-3.0-or-later
"""Has modules imported under two identities, compares, and says which are fit.

Here is what starts the processes of `audit`, so nothing of what is audited runs here.
The first is as a zygote is; the second has another user, host, home, directory, and
another value for each variable, and traces what the first has seen and not placed. A
third, as the first, is asked only when the two differ: about what differs always.
"""

from __future__ import annotations

import os
import pwd
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from isolauncher.errors import ZygoteError
from isolauncher.zygote import describe, fresh, handover, preload, program
from isolauncher.zygote.audit import Told
from isolauncher.zygote.blame import can_look_for
from isolauncher.zygote.handover import sugar
from isolauncher.zygote.hazards import CACHES, Finding, stable
from isolauncher.zygote.variables import is_read_at_start

_NOBODY = 65534
_HOST = "isolauncher-audit"
# In all runs: in what order a set was gone through would differ.
_SEED = {"PYTHONHASHSEED": "1"}

# The first line must see sys.modules untouched.
_AUDIT = """\
import sys
COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[1]
import os
answer = os.open(sys.argv[2], os.O_WRONLY | os.O_CLOEXEC)
from isolauncher.zygote import noting
noting.begin()
from isolauncher.zygote import audit
audit.main(COLD, answer, sys.argv[3])
"""

_GLOBALS: dict[str, str] = {
    **{f"{cache.module}.{cache.name}": cache.answer for cache in CACHES},
    # Renewed by the hand-over: a global, or a module's all.
    "logging._startTime": "stdlib_caches",
    "multiprocessing.process._current_process": "randomness",
    "multiprocessing.process.ORIGINAL_DIR": "environment",
    "threading._active": "interpreter",
    "threading._main_thread": "interpreter",
    **dict.fromkeys(
        (
            f"gi.overrides.{n}.{g}"
            for n in ("Gdk", "Gtk")
            for g in ("argv", "initialized")
        ),
        "gtk",
    ),
    "optparse": "locale_time",
    **dict.fromkeys((sugar.STYLE, *sugar.PARTS), "sugar"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    environment: Mapping[str, str]
    cwd: str
    uid: int | None
    host: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``unfit``: why, in words; ``handover``: what makes a fit one fit."""

    entry: Mapping[str, Any]
    findings: tuple[Finding, ...]
    handover: tuple[str, ...]

    @property
    def unfit(self) -> tuple[str, ...]:
        faults = [str(fault) for fault in self.entry["faults"]]
        said = {stable(fault) for fault in faults}
        # Those that `preload` has no word for; of getenv(3) one word for all.
        more = [f for f in self.findings if not f.answer and not _is_said(f, said)]
        in_c = [f.variable for f in more if f.kind == "environment-c"]
        texts = [f.text for f in more if f.kind != "environment-c"]
        if in_c:
            names = ", ".join(dict.fromkeys(in_c))
            texts.append(f"read environment variables by getenv(3): {names}")
        return tuple(dict.fromkeys((*faults, *texts)))

    def as_data(self) -> dict[str, object]:
        return {
            **self.entry,
            "verdict": "skipped"
            if self.entry["absent"]
            else "unfit"
            if self.unfit
            else "fit",
            "unfit": list(self.unfit),
            "handover": list(self.handover),
            "findings": [asdict(finding) for finding in self.findings],
        }


_ONE_WORD = dict(zip(("socket", "process", "hook"), preload.BY_EVENT, strict=True))


def _is_said(finding: Finding, said: set[str]) -> bool:
    """Whether one of the faults in ``said`` is the same, seen from further away."""
    if finding.kind == "environment" and "read environment variables" in said:
        return True
    if finding.kind in _ONE_WORD:
        return _ONE_WORD[finding.kind] in said
    if finding.kind == "kept":
        return finding.text.partition(" in ")[0] in said
    return stable(finding.text) in said


@dataclass(frozen=True, slots=True)
class Verdicts:
    """``skipped``: in words, what this machine does not let one look at."""

    verdicts: tuple[Verdict, ...]
    traces: tuple[str, ...]
    skipped: tuple[str, ...]


def judge(names: Sequence[str], *, path: Sequence[str] = ()) -> Verdicts:
    """Import ``names`` in order, in one process for each identity.

    Again without those that end it. ZygoteError if none does so by itself.
    """
    try:
        return _judge(names, path)
    except ZygoteError as error:
        ended = dict(_enders(names, path, error))
    others = [name for name in names if name not in ended]
    rest = _judge(others, path) if others else Verdicts((), (), ())
    done = {verdict.entry["name"]: verdict for verdict in rest.verdicts}
    done |= {name: _ender(name, why) for name, why in ended.items()}
    return replace(rest, verdicts=tuple(done[name] for name in dict.fromkeys(names)))


def _enders(
    names: Sequence[str], path: Sequence[str], error: ZygoteError
) -> Iterator[tuple[str, str]]:
    """Those that end an interpreter which imports nothing else, and how."""
    if len(names) == 1:
        yield names[0], error.message
        return
    found = False
    for name in names:
        try:
            _run(_first(), Told(names=(name,), path=tuple(path)))
        except ZygoteError as own:
            found = True
            yield name, own.message
    if not found:
        raise error


def _ender(name: str, why: str) -> Verdict:
    entry = {
        **{"name": name, "us": 0, "rss": 0, "modules": 0},
        **{"faults": [why], "notes": [], "absent": ""},
    }
    return Verdict(entry=entry, findings=(), handover=())


def _judge(names: Sequence[str], path: Sequence[str]) -> Verdicts:
    with tempfile.TemporaryDirectory(prefix="isolauncher-audit-") as scratch:
        first = _first()
        one = _run(first, Told(names=tuple(names), path=tuple(path)))
        found = [Finding(**data) for data in one["findings"]]
        told = Told(names=tuple(names), path=tuple(path), trace=_unplaced(found))
        read = frozenset(_variables(found))
        second = _second(scratch, read)
        try:
            other = _run(second, told)
            failing = _failing(one, other)
        except ZygoteError as error:
            if len(names) > 1:
                raise  # nobody was left to say which it was
            ended = Finding(
                entry=names[0], kind="import", text=error.message, hazard="H40"
            )
            failing = [_elsewhere(ended)]
        if failing:
            # By the values of variables, it may be: what else there is shall be seen.
            plain = {n: v for n, v in second.environment.items() if n not in read}
            other = _run(replace(second, environment=plain), told)
        differing = _differing(one["globals"], other["globals"])
        again = {}
        if differing:
            again = _run(first, Told(names=tuple(names), path=tuple(path)))["globals"]
    merged = _merged(found, [Finding(**data) for data in other["findings"]])
    merged += [f for f in failing if f not in merged]
    held = [t for t in one["traces"] if t in other["traces"]]
    # What is the identity's differs with it; many a constant is some process id.
    shared = () if os.geteuid() == 0 else ("host name", "home")
    held = [t for t in held if (t[0], t[1]) in differing or t[2] in shared]
    merged += _of_globals(one, other["globals"], again, differing, held)
    return Verdicts(
        verdicts=tuple(_verdicts(one, merged)),
        traces=tuple(f"{m}.{n} holds the {what}" for m, n, what in held),
        skipped=tuple(
            dict.fromkeys((*one["skipped"], *other["skipped"], *_for_root_only()))
        ),
    )


def _unplaced(found: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    """For each entry what a trace is to find the line of."""
    texts: dict[str, dict[str, None]] = {}
    for finding in found:
        text = stable(finding.text)
        if not finding.line and can_look_for(text):
            texts.setdefault(finding.entry, {})[text] = None
    return {entry: tuple(own) for entry, own in texts.items()}


def _for_root_only() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    return ("another user and another host name, which only root can take",)


# Identities ------------------------------------------------------------------------


def _first() -> _Identity:
    return _Identity(
        environment={"LC_CTYPE": "C.UTF-8", "HOME": "/nonexistent"},
        cwd="/",
        uid=_NOBODY if os.geteuid() == 0 else None,
        host=None,
    )


def _second(scratch: str, variables: Iterable[str]) -> _Identity:
    root = os.geteuid() == 0
    uid = _unused_uid() if root else None
    places = {}
    for name in ("home", "work", "tmp", "run"):
        places[name] = os.path.join(scratch, name)
        os.mkdir(places[name], 0o700)
        if uid is not None:
            os.chown(places[name], uid, uid)
    os.chmod(scratch, 0o711)  # noqa: S103 (to pass through, not to read)
    environment = {
        **{name: f"audit-{name.lower()}" for name in variables},
        "HOME": places["home"],
        "USER": _HOST,
        "LOGNAME": _HOST,
        "PATH": f"{places['home']}/bin:/bin:/usr/bin",
        "TMPDIR": places["tmp"],
        "TZ": _another_day(),
        "LANGUAGE": "es",
        "LANG": "es_ES.UTF-8",
        "LC_CTYPE": "C.UTF-8",
        "XDG_RUNTIME_DIR": places["run"],
        **{
            f"XDG_{name}_HOME": f"{places['home']}/{name.lower()}"
            for name in ("CONFIG", "DATA", "CACHE", "STATE")
        },
    }
    more = sorted(
        name
        for name in program.available_locales()
        if name.endswith(".utf8") and not name.startswith("C.")
    )
    if more:
        environment["LC_ALL"] = more[0]
    return _Identity(
        environment=environment,
        cwd=places["work"],
        uid=uid,
        host=_HOST if root else None,
    )


def _another_day() -> str:
    """A zone, 14 h or -11 h from UTC, in which it is another date at this hour."""
    return "Pacific/Kiritimati" if time.gmtime().tm_hour >= 10 else "Pacific/Pago_Pago"


def _unused_uid() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(_NOBODY - 1, 0, -1) if uid not in taken)


def _variables(found: Iterable[Finding]) -> Iterable[str]:
    """Without those that no forked program is given."""
    names = (finding.variable for finding in found if finding.variable)
    return (name for name in names if not is_read_at_start(name))


# Processes -------------------------------------------------------------------------


def _run(who: _Identity, told: Told) -> dict[str, Any]:
    said: dict[str, Any] = fresh.answer(
        _AUDIT,
        replace(told, uid=who.uid, host=who.host).to_text(),
        environment={**who.environment, **_SEED},
        cwd=who.cwd,
    )
    return said


# Comparing -------------------------------------------------------------------------


Globals = Mapping[str, Mapping[str, str]]


def _differing(one: Globals, other: Globals) -> list[tuple[str, str]]:
    return [
        (module, name)
        for module, names in one.items()
        for name, value in names.items()
        if other.get(module, {}).get(name, value) != value
    ]


def _merged(one: list[Finding], other: list[Finding]) -> list[Finding]:
    """Those of the first run, placed by the second, and what only that has found."""
    placed = {(f.entry, stable(f.text)): f for f in other if f.line}
    merged = []
    for finding in one:
        better = placed.get((finding.entry, stable(finding.text)))
        if not finding.line and better is not None:
            finding = replace(finding, file=better.file, line=better.line)
        merged.append(finding)
    known = {(f.entry, f.kind, f.file, f.line) for f in merged}
    stables = {(f.entry, stable(f.text)) for f in merged}
    merged += [
        _elsewhere(f)
        for f in other
        if (f.entry, f.kind, f.file, f.line) not in known
        and (f.entry, stable(f.text)) not in stables
    ]
    return merged


def _elsewhere(finding: Finding) -> Finding:
    if finding.kind != "import":
        return finding
    return replace(finding, text=f"under another identity: {finding.text}")


def _failing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Finding]:
    """Imports that end only in the other run."""
    ended = {f["entry"] for f in one["findings"] if f["kind"] == "import"}
    return [
        _elsewhere(Finding(**data))
        for data in other["findings"]
        if data["kind"] == "import" and data["entry"] not in ended
    ]


def _of_globals(
    one: Mapping[str, Any],
    other: Globals,
    again: Globals,
    differing: Iterable[tuple[str, str]],
    held: Iterable[tuple[str, str, str]],
) -> list[Finding]:
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for module, name, what in held:
        texts[module, name] = (f"{module}.{name} holds the zygote's {what}", "H39")
    for module, name in differing:
        mine, theirs = one["globals"][module][name], other[module][name]
        values = describe.difference(mine, theirs)
        if again.get(module, {}).get(name, mine) == mine:
            said = f"{module}.{name} depends on whose it is: {values}"
            texts[module, name] = (said, "H39")
        else:
            said = f"{module}.{name} is another each time: {values}"
            texts[module, name] = (said, "H8")
    lines = {m: describe.lines(one["files"].get(m, "")) for m in {m for m, _ in texts}}
    made = {name for module, name in texts if name in lines[module]}
    found = []
    for (module, name), (text, hazard) in texts.items():
        line = lines[module].get(name, 0)
        # Imported from where it was made, which is told of.
        if not line and name in made:
            continue
        answer = _GLOBALS.get(f"{module}.{name}") or _GLOBALS.get(module, "")
        found.append(
            Finding(
                entry=one["brought"].get(module, ""),
                kind="value",
                text=text,
                hazard=hazard,
                answer=answer,
                file=one["files"].get(module, ""),
                line=line,
            )
        )
    return found


def _verdicts(one: Mapping[str, Any], findings: Sequence[Finding]) -> Iterable[Verdict]:
    renewers = _renewers()
    again = {one["files"][m]: a for m, a in _GLOBALS.items() if m in one["files"]}
    for entry in one["entries"]:
        name = str(entry["name"])
        mine = []
        for finding in findings:
            if finding.entry == name:
                if finding.kind == "translation" and finding.file in again:
                    finding = replace(finding, answer=again[finding.file])
                mine.append(finding)
        answers = {finding.answer for finding in mine if finding.answer}
        answers |= renewers.get(name, set())
        override = name.replace("gi.repository.", "gi.overrides.")
        answers |= renewers.get(override, set())
        order = [module.__name__.rpartition(".")[2] for module in handover.ORDER]
        yield Verdict(
            entry=entry,
            findings=tuple(dict.fromkeys(mine)),
            handover=tuple(sorted(answers, key=order.index)),
        )


def _renewers() -> dict[str, set[str]]:
    """For each module that the hand-over renews: which of its modules do."""
    found: dict[str, set[str]] = {}
    for module in handover.ORDER:
        names = (*getattr(module, "RENEW", ()), *getattr(module, "RENEWED", ()))
        for name in names:
            found.setdefault(name, set()).add(module.__name__.rpartition(".")[2])
    return found
