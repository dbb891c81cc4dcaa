# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference: reference.c built, proved to do what the launcher does, spoken to.

It is proved by the launcher's own verifier, which reads /proc of its activity from
outside and judges what the activity found of itself, before anything is timed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import launch, plan, steps, verify
from ..errors import HostError
from ..memory import rollup
from . import lines, talk
from .patience import END_S, PATIENCE_S
from .planned import Planned

SOURCE = Path(__file__).with_name("reference.c")
COMPILER = ("cc", "-O2", "-std=gnu11", "-Wall")
PROBES = ("seccomp", "securebits", "landlock")


@dataclass(slots=True, kw_only=True)
class Reference:
    """One that runs. ``made`` counts its sandboxes, whose cgroups are called so."""

    program: talk.Program
    outside: int
    made: int = 0

    def as_data(self) -> dict[str, object]:
        """Its memory, measured as the zygote's is, with none of its sandboxes there."""
        found = rollup(self.program.pid)
        return {
            "anonymous_mb": round(found["Anonymous"] / 1024, 1),
            "huge_mb": round(found["AnonHugePages"] / 1024, 1),
        }

    def once(self) -> float:
        """Milliseconds from the fork of init to the activity's byte."""
        self.made += 1
        return self._ask("one") / 1e6

    def many(self, at_once: int, count: int) -> float:
        """Seconds that ``count`` of them take, each from fork to its end."""
        self.made += count
        # One a second is slow enough.
        patience_s = PATIENCE_S + count
        return self._ask(f"many {at_once} {count}", patience_s) / 1e9

    @contextmanager
    def held(self) -> Iterator[tuple[int, Mapping[str, int]]]:
        """A sandbox that stays: init's pid, and what its stem found of itself."""
        self.made += 1
        pid, *probes = self._words(f"hold {self.outside}")
        try:
            yield int(pid), dict(zip(PROBES, map(int, probes), strict=True))
        finally:
            self._words("end")

    def _ask(self, what: str, patience_s: float | None = None) -> int:
        return int(self._words(what, patience_s)[0])

    def _words(self, what: str, patience_s: float | None = None) -> list[str]:
        return _understand(self.program.ask(what, patience_s))


def _understand(line: str) -> list[str]:
    if not line or line.startswith("!"):
        why = line[1:].strip() or "it ended"
        raise HostError(
            f"the reference could not make the sandbox: {why}",
            code="bench-reference-failed",
        )
    return line.split()


def build(directory: Path) -> Path:
    """Compiled there; HostError where it cannot be."""
    if os.geteuid() != 0:
        raise HostError(
            "the reference makes the whole isolation, which is for root",
            code="bench-not-root",
        )
    if shutil.which(COMPILER[0]) is None:
        raise HostError(
            "there is no C compiler to build the reference with",
            code="bench-no-compiler",
            hint="apt install gcc libc6-dev",
        )
    program = directory / "reference"
    done = subprocess.run(
        (*COMPILER, "-o", str(program), str(SOURCE)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if "error" in line]
        raise HostError(
            f"the reference does not compile: {(words or ['no word why'])[0]}",
            code="bench-reference-not-built",
            hint="apt install gcc libc6-dev linux-libc-dev",
        )
    return program


@contextmanager
def running(program: Path, directory: Path, planned: Planned) -> Iterator[Reference]:
    """With the plan's steps and the zygote's memory, ready to be timed."""
    path = directory / f"steps-{planned.whole.room.id}"
    path.write_text(lines.write(planned.whole, planned.sources()))
    outside = launch.new_outside()
    try:
        with talk.running(
            (
                *(str(program), str(path)),
                *(str(planned.anonymous_kb), str(planned.huge_kb)),
            ),
            what="the reference",
            # The planner keeps the directories for as long as it runs.
            pass_fds=(outside, planned.hold),
        ) as spoken_to:
            _understand(spoken_to.hear())
            yield Reference(program=spoken_to, outside=outside)
    finally:
        os.close(outside)
        _sweep(planned)


def _sweep(planned: Planned) -> None:
    """Its cgroups, where it was killed and could not remove them itself."""
    deadline = time.monotonic() + END_S
    for above in planned.cgroups():
        for name in filter(str.isdigit, os.listdir(above)):
            while not _removed(f"{above}/{name}") and time.monotonic() < deadline:
                time.sleep(0.01)


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def prove_same(reference: Reference, planned: Planned) -> None:
    """Its sandbox is what the plan says, by the launcher's verifier, or VerifyError."""
    with reference.held() as (init, probes):
        (stem,) = children(init)
        verify_held(planned, init, stem, probes, str(reference.made))


def verify_held(
    planned: Planned, init: int, stem: int, probes: Mapping[str, int], name: str
) -> Mapping[str, str]:
    """The same of one that is there; its namespaces. ``name`` is of its cgroups."""
    # What the planner's daemon opened for whoever asked; then the reference, by path.
    sent = dict(planned.sent)
    # Its standard streams are the reference's to choose: nothing is planned of them.
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        sent[stream] = _file(f"/proc/{stem}/fd/{number}")
    room = planned.whole.room
    named = dataclasses.replace(room, steps=tuple(_named(room.steps, name)))
    whole = plan.Plan(room=named, rest=planned.whole.rest)
    sealed = verify.Sealed(init=init, stem=stem, sent=sent, probes=probes, notes=())
    verify.verify_begun(named, sealed)
    namespaces = verify.verify_left(whole, sealed)
    verify.verify(whole, sealed, namespaces)
    verify.verify_ready(whole, sealed)
    return namespaces


def _named(planned: tuple[steps.Planned, ...], name: str) -> Iterator[steps.Planned]:
    """Its cgroups are called by its number, an activity's by the activity."""
    for each in planned:
        step = each.step
        if isinstance(step, steps.JoinCgroup):
            step = steps.JoinCgroup(
                directories=tuple(
                    dataclasses.replace(d, path=f"{os.path.dirname(d.path)}/{name}")
                    for d in step.directories
                )
            )
        yield steps.Planned(actor=each.actor, step=step)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(word) for word in f.read().split()]


def _file(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
