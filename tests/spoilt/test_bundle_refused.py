# SPDX-License-Identifier: GPL-3.0-or-later
"""The same as test_refused.py for what only a bundle's launch does.

Its home is made for it, its directories are its person's, and what they are mounted
with is prepared in a step of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.bundles import Launched, Person, make, person, system_directory
from support.spoiling import ALICE, Call

from isolauncher import steps
from spoilt.conftest import Full
from spoilt.test_refused import record, refuse

SAYS_SO = """#!/usr/bin/python3
import os
print("ran", flush=True)
open(os.path.join(os.environ["SUGAR_ACTIVITY_ROOT"], "data/ran"), "w").close()
"""


@dataclass
class Run:
    """As `support.spoiling.Run` answers, for one launch of a bundle."""

    launched: Launched
    said: dict[str, object]
    output: int

    def end(self) -> dict[str, object]:
        return self.said

    def printed(self) -> bytes:
        return os.read(self.output, 65536)

    def close(self) -> None:
        os.close(self.output)


@dataclass(frozen=True)
class OfBundle(Full):
    """Launches that Alice's session would have made, of a bundle of the system's."""

    alice: Person

    def launch(self, policy: str = "", **keywords: object) -> Run:  # type: ignore[override]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        keywords.pop("tier", None)
        named = keywords.pop("activity_id", None)
        try:
            with self.alice.launch(self.program, stdout=writer, id=named) as launched:  # type: ignore[arg-type]
                said = launched.end()
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return Run(launched, said, reader)


@pytest.fixture(scope="module")
def bundle(full: Full) -> Iterator[OfBundle]:
    with system_directory() as place, person(full.of.service, ALICE) as alice:
        path = make(place, programs={"show": SAYS_SO})
        data = alice.directory("org.laptop.Test", "data")
        made = OfBundle(full.of, data, str(path), alice)
        run = made.launch()
        assert made.ran(), run.said
        run.close()
        yield made


def test_a_bundle_s_launch_takes_the_steps_that_no_program_s_does(
    bundle: OfBundle,
) -> None:
    calls = own(bundle)
    assert steps.name_of(steps.MapOwner(uid=1, gid=1)) in {c.step for c in calls}
    assert "chown" in {c.name for c in calls}


@pytest.mark.timeout(240)
def test_whichever_call_of_its_own_is_refused_nothing_runs_and_nothing_is_left(
    bundle: OfBundle,
) -> None:
    table = own(bundle)
    faults, tried = refuse(bundle, "", table, [errno.EPERM])
    assert not faults, "\n".join(faults)
    assert tried == len(table) > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_it_matters_not_which_call_of_a_bundle_s_launch_is_refused(
    bundle: OfBundle,
) -> None:
    numbers = [errno.EPERM, errno.ENOMEM, errno.ENOSYS, errno.EIO, errno.EMFILE]
    table = record(bundle, "")
    faults, tried = refuse(bundle, "", table, numbers)
    assert not faults, "\n".join(faults)
    assert tried == len(table) * len(numbers)


def own(bundle: OfBundle) -> list[Call]:
    """The first of each kind of call in steps that are, or end, a bundle's alone."""
    kinds = (steps.Directory, steps.WriteFile, steps.MapOwner, steps.Attach)
    names = {steps.name_of(object.__new__(kind)) for kind in kinds}
    first: dict[tuple[str, str, str], Call] = {}
    last: dict[tuple[str, str, str], Call] = {}
    for call in record(bundle, ""):
        if call.step in names:
            kind = (call.actor, call.step, call.name)
            first.setdefault(kind, call)
            last[kind] = call
    return sorted({*first.values(), *last.values()}, key=lambda c: (c.actor, c.number))
