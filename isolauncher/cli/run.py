# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher run``: one program under a policy, and its exit status as ours.

Reads the options, has client.py do the talking, and writes the report. Options end
at the program: what follows belongs to it.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
from typing import TYPE_CHECKING

from .. import client
from ..errors import DaemonError, IsolauncherError, RequestError
from . import tell

if TYPE_CHECKING:
    from .main import Parser

USAGE = """isolauncher run [OPTION…] [--] PROGRAM [ARG…]
       isolauncher run [OPTION…] -m MODULE [ARG…]"""

EPILOG = """\
PROGRAM is a Python script if it ends in .py or its first line names python3; then it
needs to be readable, else executable. Without a slash it is sought in the policy's
PATH. Standard input, output and error pass through, and so do the signals HUP INT
QUIT TERM USR1 USR2 WINCH. The program ends when this command does.

exit status: the program's own; 128+N when signal N ended it; 125 when it could not be
launched; 126 when it is not executable; 127 when it is not found."""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "run",
        usage=USAGE,
        description="Run a program under a policy.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="the policy's name (default: default); root may name a FILE.toml",
    )
    parser.add_argument(
        "--id", metavar="ID", help="what to call it: letters, digits, underscores"
    )
    parser.add_argument(
        "--setenv",
        metavar="K=V",
        action="append",
        default=[],
        help="set a variable, if the policy keeps its name; may be repeated",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write what was enforced and how it ended as JSON; -: the last line "
        "of standard output",
    )
    parser.add_argument(
        "--tier",
        choices=("fork", "exec"),
        help="fork from the zygote, or a fresh interpreter (default: the policy's)",
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="without a daemon, in this process tree; for root",
    )
    parser.add_argument(
        "-m", dest="module", metavar="MODULE", help="run a module as python3 -m does"
    )
    parser.add_argument(
        "program",
        metavar="PROGRAM",
        nargs="*",
        help="what to run, and its arguments",
    )
    parser.set_defaults(func=run)


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Split where the program begins; argparse would look for options behind it."""
    flags = {
        option: action.nargs == 0
        for action in parser._actions
        for option in action.option_strings
    }
    at = 0
    program: list[str] = []
    module = False
    while at < len(argv):
        word = argv[at]
        if word == "--":
            program = argv[at + 1 :]
            break
        if word == "-m" or (word.startswith("-m") and not word.startswith("--")):
            program = [word[2:], *argv[at + 1 :]] if word != "-m" else argv[at + 1 :]
            module = True
            break
        if not word.startswith("-") or word == "-":
            program = argv[at:]
            break
        at += 1 if flags.get(word, True) else 2
    args = parser.parse_args(argv[:at])
    args.program = program
    args.module = module
    if not program:
        parser.error("a module is wanted" if module else "a program is wanted")
    return args


def run(args: argparse.Namespace) -> int:
    """Launch, wait, write the report."""
    report: str | None = args.report
    dropped: tuple[str, ...] = ()
    if report is not None:
        refuse_unwritable(report)
    try:
        end, dropped = _launch(args)
    except IsolauncherError as error:
        end = client.End(error.exit_status, None, error)
    return tell_end(
        end,
        report,
        program=list(args.program),
        id=args.id,
        tier=args.tier,
        dropped=dropped,
    )


def tell_end(
    end: client.End,
    report: str | None,
    *,
    program: list[str],
    id: str | None,
    tier: str | None = None,
    dropped: tuple[str, ...] = (),
) -> int:
    """Say what failed, write the report, and return the status to exit with."""
    if end.reason():
        tell(end.reason())
    if report is not None:
        content = end.report or _failure(program, id, tier)
        if end.error is not None:
            content = {**content, "exit": {"status": None, "signal": None}}
            content["error"] = {
                "step": end.error.step,
                "code": end.error.code,
                "message": end.error.message,
            }
        _note_dropped(content, dropped)
        try:
            _write_report(report, content)
        except OSError as error:
            tell(f"the report cannot be written to {report}: {error.strerror}")
    return end.status


def _launch(args: argparse.Namespace) -> tuple[client.End, tuple[str, ...]]:
    launch = client.prepare(
        args.program,
        module=args.module,
        policy=args.policy,
        id=args.id,
        setenv=_setenv(args.setenv),
        # Standalone has no zygote at hand, and making one for one launch is no gain.
        tier=args.tier or ("exec" if args.standalone else None),
    )
    try:
        if args.standalone:
            end = _alone(launch)
        else:
            end = client.converse(
                client.connect(),
                launch,
                reconnect=lambda: client.connect(wait=False),
                tell=tell,
            )
    finally:
        launch.close()
    return _with_hint(end, args), launch.dropped


def _alone(launch: client.Launch) -> client.End:
    if os.geteuid() != 0:
        raise DaemonError(
            "--standalone makes a sandbox itself, which is for root",
            code="standalone-not-root",
            hint="use sudo, or leave it out where the daemon runs",
        )
    # The range of uids holds for it too, so it reads the daemon's configuration.
    from ..config import load
    from ..serving import end_standalone, start_standalone

    config = load()
    sock, child = start_standalone(config)
    try:
        return client.converse(sock, launch, reconnect=None, tell=tell)
    finally:
        end_standalone(child, config)


def _with_hint(end: client.End, args: argparse.Namespace) -> client.End:
    """Point out the file in the working directory that was probably meant."""
    name = args.program[0]
    if (
        end.error is not None
        and end.status == 127
        and not args.module
        and "/" not in name
        and os.path.isfile(name)
    ):
        end.error.hint = f"write ./{name} for the file in this directory"
    return end


def _setenv(pairs: list[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise RequestError(
                f"--setenv {pair!r} is not of the form NAME=VALUE",
                code="request-bad-value",
            )
        variables[name] = value
    return variables


def _failure(program: list[str], id: str | None, tier: str | None) -> dict[str, object]:
    """The report of a launch that no daemon has reported on."""
    return {
        "version": 1,
        "activity": {
            "id": id,
            "bundle_id": None,
            "program": program,
            "pid": None,
            "tier": tier,
            "path": None,
        },
        "caller": {"uid": os.geteuid(), "gid": os.getegid()},
        "policy": None,
        "identity": None,
        "namespaces": {},
        "enforced": [],
        "skipped": [],
        "timings_us": {},
        "exit": {"status": None, "signal": None},
    }


def _note_dropped(content: dict[str, object], dropped: tuple[str, ...]) -> None:
    """Add what was never sent to what was not done."""
    skipped = content.get("skipped")
    if isinstance(skipped, list):
        content["skipped"] = skipped + [
            {
                "what": f"environment variable {name}",
                "why": "no policy can keep a name of this form",
            }
            for name in dropped
        ]


def refuse_unwritable(file: str) -> None:
    """Say before the launch, not after it, that the report has no place."""
    if file == "-":
        return
    place = file if os.path.lexists(file) else os.path.dirname(file) or "."
    if _is_plain(file):
        place = os.path.dirname(file) or "."
    writable = os.access(place, os.W_OK) or _our_own(file) is not None
    if not file or not writable or os.path.isdir(file):
        raise RequestError(
            f"the report cannot be written to {file or 'a file without a name'}",
            code="report-not-writable",
            hint="name a file in a directory that exists and that you may write",
        )


def _is_plain(file: str) -> bool:
    """Whether ``file`` can be replaced: neither a link nor a device nor a FIFO."""
    try:
        return stat.S_ISREG(os.lstat(file).st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _write_report(file: str, content: dict[str, object]) -> None:
    line = json.dumps(content, ensure_ascii=True) + "\n"
    data = line.encode("ascii")
    if file == "-":
        _write_all(1, data)
    elif _is_plain(file):
        _replace(file, data)
    else:
        own = _our_own(file)
        if own is not None:
            _write_all(own, data)
            return
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
        fd = os.open(file, flags)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)


def _our_own(file: str) -> int | None:
    """Our standard output or error, where ``file`` is one of them: /dev/stdout.

    It may be a file, whose truncation would eat the program's output, or a pipe or
    terminal of somebody else's, which nobody but its holder may write to.
    """
    if _is_plain(file):
        return None
    try:
        target = os.stat(file)
    except OSError:
        return None
    for fd in (1, 2):
        if os.path.samestat(target, os.fstat(fd)):
            return fd
    return None


def _replace(file: str, data: bytes) -> None:
    """Whoever reads ``file`` sees the old report or the new one, never a half."""
    directory, name = os.path.split(file)
    draft = os.path.join(directory, f".{name}.{os.urandom(6).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(draft, file)
    except BaseException:
        os.unlink(draft)
        raise


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
