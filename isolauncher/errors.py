# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of everything that can go wrong; imports nothing of ours.

    IsolauncherError
    ├── RequestError      what a caller asked cannot be understood or is out of bounds
    ├── NotAllowed        understood, but this caller may not
    ├── PolicyError       one or more policy files are unusable (all their mistakes)
    ├── BundleError       a bundle's files cannot be read, or are not what Sugar takes
    ├── IdentityError     no uid can be given
    ├── HostError         this machine cannot do what a policy requires
    ├── StepError         a step of a plan failed; nothing of the activity ran
    ├── VerifyError       what is differs from what was planned
    ├── WireError         a message is not one of ours, or the other end went away
    ├── ZygoteError       no zygote can be had, or it is not fit to fork
    ├── DaemonError       the daemon cannot be reached, started or is going away
    ├── ProgramNotFound         (exit status 127)
    └── ProgramNotExecutable    (exit status 126)

Libraries raise these; only the command line and the last ``finally`` of a forked
child turn them into an exit status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

COULD_NOT_LAUNCH = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class IsolauncherError(Exception):
    """Who, what was wanted, what stands in the way; what to do; a searchable code.

    ``step`` names the stage of a launch (``request``, ``policy``, ``plan``, or the
    name of a plan's step); ``code`` is a stable dashed word; ``hint`` says what to do
    and may be empty.
    """

    exit_status: int = COULD_NOT_LAUNCH
    default_step: str = "launch"

    def __init__(
        self, message: str, *, code: str, hint: str = "", step: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.step = step or self.default_step
        # What was known of the launch that failed, for --report.
        self.report: dict[str, object] | None = None

    def line(self) -> str:
        """The one line a person reads: ``step: message (hint)  [code]``."""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.step}: {self.message}{hint}  [{self.code}]"

    def __str__(self) -> str:
        return self.line()

    def as_fields(self) -> dict[str, object]:
        """For a message to another process; `from_fields` is the way back."""
        return {
            "step": self.step,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_status": self.exit_status,
        }


def from_fields(fields: Mapping[str, object]) -> IsolauncherError:
    """The error that another process told of; its class is told by exit status."""
    words = {
        name: str(fields.get(name, "")) for name in ("step", "code", "message", "hint")
    }
    kind = IsolauncherError
    match fields.get("exit_status"):
        case 126:
            kind = ProgramNotExecutable
        case 127:
            kind = ProgramNotFound
    return kind(
        words["message"], code=words["code"], hint=words["hint"], step=words["step"]
    )


_LINE = re.compile(
    r"(?P<step>[^:]*): (?P<message>.*?)(?: \((?P<hint>.*)\))?"
    r"  \[(?P<code>[a-z0-9-]+)\]",
    re.DOTALL,
)


def from_line(line: str) -> IsolauncherError:
    """The error whose `IsolauncherError.line` that is, or one with it as message."""
    match = _LINE.fullmatch(line)
    if match is None:
        return IsolauncherError(line, code="unknown")
    not_found = match["code"].endswith("-not-found")
    return from_fields({**match.groupdict(""), "exit_status": 127 * not_found})


class RequestError(IsolauncherError):
    default_step = "request"


class NotAllowed(IsolauncherError):
    default_step = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake in one policy file; ``line``, ``column`` count from 1, 0: unknown."""

    file: str
    line: int
    column: int
    key: str
    code: str
    message: str
    hint: str = ""

    def said(self) -> str:
        """Where, of what, what: all but the hint and the code."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        if self.column:
            place += f":{self.column}"
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} {self.message}"

    def text(self) -> str:
        hint = f"\n  ({self.hint})" if self.hint else ""
        return f"{self.said()}{hint}  [{self.code}]"


class PolicyError(IsolauncherError):
    """Carries every mistake found, not only the first."""

    default_step = "policy"

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        first = mistakes[0]
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        super().__init__(first.said() + more, code=first.code, hint=first.hint)
        self.mistakes = mistakes


class BundleError(IsolauncherError):
    """``file`` and ``line_number`` (from 1), if known, begin its message too."""

    default_step = "bundle"
    file: str = ""
    line_number: int = 0


class IdentityError(IsolauncherError):
    default_step = "identity"


class HostError(IsolauncherError):
    default_step = "host"


class StepError(IsolauncherError):
    """A step failed; ``errno`` is the kernel's answer, or 0."""

    def __init__(
        self,
        message: str,
        *,
        step: str,
        code: str = "step-failed",
        hint: str = "",
        errno: int = 0,
    ) -> None:
        super().__init__(message, code=code, hint=hint, step=step)
        self.errno = errno


class VerifyError(IsolauncherError):
    default_step = "verify"


class WireError(IsolauncherError):
    default_step = "wire"


class ZygoteError(IsolauncherError):
    default_step = "zygote"


class DaemonError(IsolauncherError):
    default_step = "daemon"


class ProgramNotExecutable(IsolauncherError):
    exit_status = NOT_EXECUTABLE
    default_step = "program"


class ProgramNotFound(IsolauncherError):
    exit_status = NOT_FOUND
    default_step = "program"
