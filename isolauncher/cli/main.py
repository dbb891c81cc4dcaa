# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher VERB …``: finds the verb's module, and is the one that exits.

Only the module of the verb that was asked for is imported: `run` is on the way of
every launch, and a verb that cannot be loaded must not take the others with it.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..errors import COULD_NOT_LAUNCH, IsolauncherError, PolicyError
from . import complain, printable, tell

# Verb → its module in this package, and what it does in one line.
VERBS: dict[str, tuple[str, str]] = {
    "run": ("run", "run a program, a script or a module under a policy"),
    "launch": ("launch", "launch a Sugar bundle under the policy that governs it"),
    "ps": ("ps", "list what runs"),
    "stop": ("stop", "end what runs, politely at first"),
    "stats": ("stats", "show what the daemon has measured: launches, rooms, zygotes"),
    "test-policy": ("test_policy", "check policies: mistakes, what they open, plans"),
    "explain": ("explain", "show which file and line set each value of a policy"),
    "restrict": ("restrict", "take powers from an activity, or give them back"),
    "preload": ("preload", "show what each zygote imports and what it costs"),
    "identity": ("identity", "show which uid belongs to which activity"),
    "doctor": ("doctor", "show what this machine can enforce and what is missing"),
    "bench": ("bench", "measure launches against cold starts"),
    "daemon": ("daemon", "be the daemon, in the foreground"),
    "completion": ("completion", "print the completion script of a shell"),
}

EPILOG = """\
exit status of run and launch: the program's own; 128+N when signal N ended it; 125
when it could not be launched, with one line that says which step failed, why and what
to do; 126 when it is not executable; 127 when it is not found.

ISOLAUNCHER_SOCKET names another daemon's socket for every command.
`isolauncher VERB --help` says more about a verb."""


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes of usage told apart from any program's own status."""

    usage_status = COULD_NOT_LAUNCH

    def _get_formatter(self) -> argparse.HelpFormatter:
        # With a width it need not import shutil, and all archivers, to find one:
        # argparse makes a formatter for each option, whether help is asked or not.
        return self.formatter_class(prog=self.prog, width=_width())  # type: ignore[call-arg]

    def error(self, message: str) -> NoReturn:
        hint = f"(see `{self.prog} --help`)"
        complain(f"{self.prog}: {printable(message)} {hint}  [usage]")
        sys.exit(self.usage_status)


def present() -> tuple[str, ...]:
    """The verbs whose module is there."""
    return tuple(
        verb for verb, (module, _) in VERBS.items() if find_spec(_full(module))
    )


def load(verb: str) -> tuple[ModuleType, Parser]:
    """The module of a verb and its own parser."""
    module = import_module(_full(VERBS[verb][0]))
    subparsers = Parser(prog="isolauncher").add_subparsers()
    module.add_parser(subparsers)
    return module, subparsers.choices[verb]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the result is the exit status."""
    _have_standard_descriptors()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            status = _verb(words)
        except SystemExit:
            sys.stdout.flush()  # the help
            raise
        sys.stdout.flush()
        return status
    except PolicyError as error:
        for mistake in error.mistakes:
            # The text of a mistake has lines of its own; only they may break it.
            for line in mistake.text().split("\n"):
                complain(printable(line))
        return error.exit_status
    except IsolauncherError as error:
        tell(error.line())
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        tell(
            f"this interpreter ({sys.executable}) lacks {error.name}: {error} "
            "(see `isolauncher doctor`)  [import-failed]"
        )
        return COULD_NOT_LAUNCH
    except BrokenPipeError:
        _output_is_lost()
        return 141
    except OSError as error:
        if error.errno == errno.ENOENT and not _has_directory():
            tell(
                "the working directory has been removed (name the path from /, or "
                "change to another directory)  [no-working-directory]"
            )
            return COULD_NOT_LAUNCH
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # The one large thing that a verb writes.
        _output_is_lost()
        tell(f"standard output cannot be written: {error.strerror}  [output-lost]")
        return COULD_NOT_LAUNCH


def _has_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _output_is_lost() -> None:
    """Without this the interpreter would complain once more: it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def _verb(words: list[str]) -> int:
    if words and words[0] in VERBS and find_spec(_full(VERBS[words[0]][0])):
        module, parser = load(words[0])
        own = getattr(module, "parse", None)
        args = own(parser, words[1:]) if own else parser.parse_args(words[1:])
        status: int = args.func(args)
        return status
    parser = Parser(
        prog="isolauncher",
        usage="isolauncher VERB [OPTION…] [ARG…]",
        description="Launches programs confined by a policy, from a preloaded zygote.",
        epilog=f"verbs:\n{_table()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"isolauncher {__version__}"
    )
    if words and not words[0].startswith("-"):
        parser.error(f"{words[0]!r} is no verb; there are {' '.join(present())}")
    parser.parse_args(words)
    parser.error(f"a verb is wanted: {' '.join(present())}")


def _table() -> str:
    verbs = present()
    width = max(map(len, verbs))
    return "\n".join(f"  {verb:{width}}  {VERBS[verb][1]}" for verb in verbs)


def _full(module: str) -> str:
    return f"{__package__}.{module}"


def _width() -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns) - 2
    except (OSError, ValueError):
        return 78


def _have_standard_descriptors() -> None:
    """Fill 0 to 2 where the caller closed one.

    The next file opened would get its number, and be passed on as the program's own.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # The interpreter has no file for one that was closed when it started, and print
    # would write to standard output what is meant for standard error.
    escaped = "backslashreplace"
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", errors=escaped, closefd=False)  # noqa: SIM115
