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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .. import launch, plan, verify
from ..errors import HostError
from . import steps
from .planned import Planned

SOURCE = Path(__file__).with_name("reference.c")
COMPILER = ("cc", "-O2", "-std=gnu11", "-Wall")
PROBES = ("seccomp", "securebits", "landlock")


@dataclass(slots=True, kw_only=True)
class Reference:
    """One that runs. ``made`` counts its sandboxes, whose cgroups are called so."""

    to: IO[str]
    said: IO[str]
    outside: int
    made: int = 0

    def once(self) -> float:
        """Milliseconds from the fork of init to the activity's byte."""
        self.made += 1
        return self._ask("one") / 1e6

    def many(self, at_once: int, count: int) -> float:
        """Seconds that ``count`` of them take, each from fork to its end."""
        self.made += count
        return self._ask(f"many {at_once} {count}") / 1e9

    @contextmanager
    def held(self) -> Iterator[tuple[int, Mapping[str, int]]]:
        """A sandbox that stays: init's pid, and what its stem found of itself."""
        self.made += 1
        pid, *probes = self._words(f"hold {self.outside}")
        try:
            yield int(pid), dict(zip(PROBES, map(int, probes), strict=True))
        finally:
            self._words("end")

    def _ask(self, what: str) -> int:
        return int(self._words(what)[0])

    def _words(self, what: str) -> list[str]:
        self.to.write(f"{what}\n")
        self.to.flush()
        return _understand(self.said.readline())


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
    path.write_text(steps.write(planned.whole, planned.sources()))
    outside = launch.new_outside()
    try:
        with subprocess.Popen(
            (
                *(str(program), str(path)),
                *(str(planned.anonymous_kb), str(planned.huge_kb)),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(outside,),
            text=True,
        ) as process:
            assert process.stdin is not None  # noqa: S101 (for the type checker)
            assert process.stdout is not None  # noqa: S101
            try:
                _understand(process.stdout.readline())
                yield Reference(to=process.stdin, said=process.stdout, outside=outside)
            finally:
                process.stdin.close()
    finally:
        os.close(outside)


def prove_same(reference: Reference, planned: Planned) -> None:
    """Its sandbox is what the plan says, by the launcher's verifier, or VerifyError."""
    with reference.held() as (init, probes):
        (stem,) = children(init)
        verify_held(planned, init, stem, probes, str(reference.made))


def verify_held(
    planned: Planned, init: int, stem: int, probes: Mapping[str, int], name: str
) -> Mapping[str, str]:
    """The same of one that is there; its namespaces. ``name`` is of its cgroups."""
    sent = {n: _file(path) for n, path in planned.sources().items()}
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


def _named(planned: tuple[plan.Planned, ...], name: str) -> Iterator[plan.Planned]:
    """Its cgroups are called by its number, an activity's by the activity."""
    for each in planned:
        step = each.step
        if isinstance(step, plan.JoinCgroup):
            step = plan.JoinCgroup(
                directories=tuple(
                    dataclasses.replace(d, path=f"{os.path.dirname(d.path)}/{name}")
                    for d in step.directories
                )
            )
        yield plan.Planned(actor=each.actor, step=step)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(word) for word in f.read().split()]


def _file(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
