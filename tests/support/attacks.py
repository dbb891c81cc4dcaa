# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an attacking program in a sandbox and reads what it managed.

The programs lie in tests/attacks/programs and print lines of JSON. Each runs as one
script with programs/prelude.py in front, because a sandbox shows nothing else.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .daemons import PATIENCE_S, Finished, Service

PROGRAMS = Path(__file__).resolve().parents[1] / "attacks" / "programs"
TIERS = ("fork", "exec")

# What a system call that must not work may answer.
REFUSED = frozenset(("EPERM", "EACCES", "ENOSYS"))
NOWHERE = frozenset(("ENOENT",))


def source(name: str) -> str:
    """The program's whole text, able to run where there is nothing but itself."""
    prelude = (PROGRAMS / "prelude.py").read_text()
    body = (PROGRAMS / f"{name}.py").read_text()
    # A __future__ import may only come first, and the prelude has it.
    return prelude + body.replace("from __future__ import annotations\n", "", 1)


def script(daemon: Service, name: str) -> str:
    return daemon.script(f"{name}.py", source(name))


def finish(daemon: Service, name: str, *arguments: str, **keywords: object) -> Finished:
    """Run the program; keywords as `Service.run`'s, and ``tier`` and ``policy``."""
    options: list[str] = []
    for option in ("tier", "policy", "id"):
        value = keywords.pop(option, None)
        if value is not None:
            options += [f"--{option}", str(value)]
    keywords.setdefault("uid", 12345)
    words = (*options, "--", script(daemon, name), *arguments)
    return daemon.run(*words, **keywords)  # type: ignore[arg-type]


def attack(
    daemon: Service, name: str, *arguments: str, **keywords: object
) -> dict[str, object]:
    """Run the program to its end; what its last line says."""
    done = finish(daemon, name, *arguments, **keywords)
    assert done.status == 0, (done.status, done.text, done.errors)
    answers = json.loads(done.text.splitlines()[-1])
    assert isinstance(answers, dict)
    return answers


def unrefused(
    answers: dict[str, object], allowed: frozenset[str] = REFUSED
) -> dict[str, object]:
    """Those answers that are not a refusal (or say that there is no such call)."""
    return {k: v for k, v in answers.items() if v not in allowed and v != "absent"}


@dataclass
class Running:
    """An activity in the middle of its run, which prints lines and reads lines."""

    process: subprocess.Popen[bytes]
    unread: bytes = b""

    def line(self) -> dict[str, object]:
        """Its next line; waits."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([fd], [], [], PATIENCE_S)
            assert ready, "it said nothing"
            more = os.read(fd, 65536)
            assert more, f"it ended: {self.unread!r} {self.ended()}"
            self.unread += more
        text, _, self.unread = self.unread.partition(b"\n")
        answers = json.loads(text)
        assert isinstance(answers, dict)
        return answers

    def tell(self, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """Wait for its end: status, and what it said on standard error."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode("utf-8", "replace")


@contextmanager
def running(
    daemon: Service, name: str, *arguments: str, **keywords: object
) -> Iterator[Running]:
    """The program with pipes to it; ended, if need be, at the end."""
    options: list[str] = []
    for option in ("tier", "policy", "id"):
        value = keywords.pop(option, None)
        if value is not None:
            options += [f"--{option}", str(value)]
    keywords.setdefault("uid", 12345)
    keywords.setdefault("stdin", subprocess.PIPE)
    words = ("run", *options, "--", script(daemon, name), *arguments)
    process = daemon.start_client(*words, **keywords)  # type: ignore[arg-type]
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                os.set_blocking(stream.fileno(), True)
                stream.close()


def host_pid(daemon: Service, activity_id: str) -> int:
    """The host's pid of a running activity's main process."""
    return int(str(listed(daemon, activity_id)["pid"]))


def listed(daemon: Service, activity_id: str) -> dict[str, object]:
    """What ``ps --json`` says of one activity."""
    done = daemon.isolauncher("ps", "--json")
    assert done.status == 0, done.errors
    found = [a for a in json.loads(done.text) if a["id"] == activity_id]
    assert len(found) == 1, done.text
    answer: dict[str, object] = found[0]
    return answer
