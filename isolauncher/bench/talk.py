# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are spoken to: told a line, they answer with one, in time or not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

from . import patience


@dataclass(slots=True, kw_only=True)
class Program:
    """``what`` is how errors call it."""

    what: str
    pid: int
    to: int
    said: int
    _held: bytes = b""

    def ask(self, line: str, patience_s: float | None = None) -> str:
        """Its answer, as `hear`."""
        # One that has ended is heard of below.
        with suppress(BrokenPipeError):
            os.write(self.to, f"{line}\n".encode())
        return self.hear(patience_s)

    def hear(self, patience_s: float | None = None) -> str:
        """Its next line; "" when it has ended. HostError where none comes in time."""
        until = monotonic() + (patience_s or patience.PATIENCE_S)
        while b"\n" not in self._held:
            data = patience.read(self.said, self.what, max(0.0, until - monotonic()))
            if not data:
                return ""
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line.decode("utf-8", "replace").strip()


@contextmanager
def running(
    words: Sequence[str],
    *,
    what: str,
    environment: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
) -> Iterator[Program]:
    """In a session of its own, so that what ends it is us: ^C is not for it.

    It is to end with its standard input or by SIGTERM, in order; it is killed else.
    """
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=pass_fds,
        start_new_session=True,
        bufsize=0,
    ) as process:
        assert process.stdin is not None  # noqa: S101 (for the type checker)
        assert process.stdout is not None  # noqa: S101
        try:
            yield Program(
                what=what,
                pid=process.pid,
                to=process.stdin.fileno(),
                said=process.stdout.fileno(),
            )
        finally:
            process.stdin.close()
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """It, or where it does not end in time all of its group; reaped in any case."""
    process.terminate()
    try:
        process.wait(patience.END_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.returncode is None:
            # Nobody has reaped it: the number is its group's still.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
