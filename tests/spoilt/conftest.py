# SPDX-License-Identifier: GPL-3.0-or-later
"""One daemon whose kernel can be spoilt, and a launch that uses every step.

Where a table of calls is too long for every run, a run takes every Nth of them from
an offset of its own (`every`), or those and the first of each kind (`some`).
ISOLAUNCHER_OFFSET repeats one, and the `long` tests take all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from support.powers import landlock, loopback, need, sandboxes
from support.spoiling import ALICE, Call, Run, Spoilt, launch, spoilt_service

T = TypeVar("T")

EVERY = """version = 1
extends = "default"

[match]
callers = ["*"]

[identity]
inner-uid = "{inner}"

[network]
access = "loopback"

[files]
write = ["{write}"]

[devices]
allow = ["sound"]

[limits]
nice = 5
cpu-weight = 50
cpu-seconds = 1000
"""


@dataclass(frozen=True)
class Full:
    """Alice's program under a policy that uses every step.

    It is her own and nobody else's, and she has a directory to write in: both are
    mounted so that they are the activity's. It says so on both ways.
    """

    of: Spoilt
    directory: Path
    program: str

    def launch(self, policy: str = "every", **keywords: object) -> Run:
        # A umask that no zygote has, so that it can be seen to be set.
        return launch(
            self.of.service,
            self.program,
            str(self.directory),
            uid=ALICE,
            policy=policy,
            umask=0o027,
            **keywords,  # type: ignore[arg-type]
        )

    def ran(self) -> bool:
        """Whether the program ran since this was last asked."""
        try:
            (self.directory / "ran").unlink()
        except FileNotFoundError:
            return False
        return True


PROGRAM = """\
import sys
print("ran", flush=True)
open(sys.argv[1] + "/ran", "w").close()
"""


@pytest.fixture(scope="package")
def spoilt() -> Iterator[Spoilt]:
    need(sandboxes(), landlock(), loopback())
    with spoilt_service() as made:
        yield made


@pytest.fixture(scope="package")
def full(spoilt: Spoilt) -> Iterator[Full]:
    yield from full_for(spoilt)


def full_for(of: Spoilt) -> Iterator[Full]:
    # Not below /tmp: every activity has that anew.
    top = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/srv"))
    try:
        top.chmod(0o755)
        directory = top / "hers"
        directory.mkdir()
        program = top / "program.py"
        program.write_text(PROGRAM)
        for path, mode in ((directory, 0o700), (program, 0o700)):
            os.chown(path, ALICE, ALICE)
            path.chmod(mode)
        for name, inner in (("every", "caller"), ("same", "same")):
            of.service.policy(name, EVERY.format(inner=inner, write=directory))
        made = Full(of, directory, str(program))
        for name in ("every", "same"):
            # The first launch of a policy opens its directory, for good.
            run = made.launch(name)
            said = run.end()
            run.close()
            assert said is not None, of.service.log
            assert said.get("status") == 0, said
        assert made.ran()
        yield made
    finally:
        shutil.rmtree(top)


def every(table: Sequence[T], nth: int) -> Iterator[T]:
    """Every nth of a table, from an offset that differs from run to run."""
    text = os.environ.get("ISOLAUNCHER_OFFSET", "")
    offset = int(text) if text else time.time_ns() // 1000
    print(f"ISOLAUNCHER_OFFSET={offset % nth} takes {offset % nth}, every {nth}th")
    yield from table[offset % nth :: nth]


def some(table: Sequence[Call], nth: int) -> list[Call]:
    """The first call of each kind in each step, and every nth of all."""
    chosen = set(every(range(len(table)), nth))
    seen: set[tuple[str, str, str]] = set()
    for number, call in enumerate(table):
        kind = (call.actor, call.step, call.name)
        if kind not in seen:
            seen.add(kind)
            chosen.add(number)
    return [table[number] for number in sorted(chosen)]
