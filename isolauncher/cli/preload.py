# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher preload list|check``: what the zygotes import, and what that costs.

`list` measures in a fresh interpreter, started as a zygote is, which imports the list
under the same watch and then ends; `check` has `verdict` start several, under different
identities, and compare. Nothing is forked and no daemon is asked. Needs no root, but
only root can be another user and another host.
Exit status: 0; `check` gives 1 when a module is unfit.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..zygote import fresh
from ..zygote.sets import SETS
from . import printable

if TYPE_CHECKING:
    from .main import Parser

UNFIT = 1
_NO_HOME = "/nonexistent"

# What the fresh interpreter runs. The first line must see sys.modules untouched.
_MEASURE = """\
import sys
COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[1]
import json, os
from isolauncher.zygote import handover, preload
pristine = handover.Pristine.capture(*COLD)
report = preload.preload(sys.argv[3:], pristine=pristine, expected_fds=(0, 1, 2))
with open(sys.argv[2], "w") as out:
    json.dump({"entries": report.as_data()}, out)
    out.flush()
    # Not by the way an interpreter ends: an unfit module may hold that up.
    os._exit(0)
"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "preload",
        description="Show what each zygote imports and what it costs.",
        epilog="exit status: 0; 1 when `check` finds an unfit module or a difference.",
        allow_abbrev=False,
    )
    parser.set_defaults(func=run)
    inner = parser.add_subparsers(dest="what", required=True, metavar="list|check")
    listing = inner.add_parser(
        "list",
        description="Import each set in a fresh interpreter; show time and memory.",
        allow_abbrev=False,
    )
    listing.add_argument(
        "names", metavar="SET", nargs="*", help=f"one of {', '.join(SETS)}"
    )
    checking = inner.add_parser(
        "check",
        description="Import modules as a zygote would, as two users; say which are "
        "unfit, why, and at which line.",
        allow_abbrev=False,
    )
    checking.add_argument(
        "names",
        metavar="SET|MODULE|PATH",
        nargs="*",
        help="a set, a module (also one in PYTHONPATH), or the path of a module's file "
        "or package (default: every set)",
    )
    checking.add_argument(
        "--twin",
        metavar="PROGRAM",
        help="run a script fresh and forked, compare output, status and every global",
    )
    checking.add_argument("--policy", metavar="NAME", help="the one for --twin")
    checking.add_argument(
        "--standalone", action="store_true", help="--twin without a daemon; for root"
    )
    for one in (listing, checking):
        one.add_argument(
            "--json", action="store_true", help="one object instead of text"
        )


def run(args: argparse.Namespace) -> int:
    if getattr(args, "twin", None) is not None:
        return _twin(args)
    names: list[str] = args.names or list(SETS)
    if args.what == "list":
        for name in names:
            if name not in SETS:
                raise RequestError(
                    f"there is no preload set {printable(name)!r}",
                    code="preload-no-such-set",
                    hint=f"there are {', '.join(SETS)}",
                )
    found: dict[str, dict[str, list[Any]]]
    if args.what == "check":
        found = {name: _judged(name) for name in names}
    else:
        found = {name: _measure(SETS[name]) for name in names}
    if args.json:
        json.dump({"version": 1, "sets": found}, sys.stdout, indent=1)
        print()
    elif args.what == "list":
        _print_costs(found)
    else:
        _print_verdicts(found)
    verdicts = [e.get("verdict") for data in found.values() for e in data["entries"]]
    return UNFIT if "unfit" in verdicts else 0


def _judged(name: str) -> dict[str, list[Any]]:
    # Only this verb needs all that it imports.
    from ..zygote.verdict import judge

    if not name:
        raise RequestError(
            "'' is no name of a module or of a set", code="preload-no-such-module"
        )
    path = [d for d in os.environ.get("PYTHONPATH", "").split(os.pathsep) if d]
    modules: tuple[str, ...] = SETS.get(name, (name,))
    if os.sep in name or name.endswith(".py"):
        directory, module = _located(name)
        path, modules = [directory], (module,)
    found = judge(modules, path=[os.path.abspath(d) for d in path])
    return {
        "entries": [verdict.as_data() for verdict in found.verdicts],
        "traces": list(found.traces),
        "skipped": list(found.skipped),
    }


def _located(path: str) -> tuple[str, str]:
    """The directory to import from and the module's name, for a file or a package.

    RequestError where it is neither. Whether a zygote, which imports as nobody, can
    read it is found when it is imported.
    """
    full = os.path.abspath(path)
    package = os.path.isdir(full)
    file = os.path.join(full, "__init__.py") if package else full
    module = os.path.basename(full).removesuffix(".py")
    try:
        regular = stat.S_ISREG(os.stat(file).st_mode)
    except OSError as e:
        raise RequestError(
            f"{printable(path)}: {e.strerror}", code="preload-no-such-module"
        ) from e
    if not (regular and module.isidentifier() and file.endswith(".py")):
        raise RequestError(
            f"{printable(path)} is no Python module's file or package",
            code="preload-not-a-module",
        )
    return os.path.dirname(full), module


def _measure(modules: tuple[str, ...]) -> dict[str, list[Any]]:
    said: dict[str, list[Any]] = fresh.answer(
        _MEASURE, *modules, environment={"LC_CTYPE": "C.UTF-8", "HOME": _NO_HOME}
    )
    return said


def _twin(args: argparse.Namespace) -> int:
    from .. import twin

    options = ["--policy", args.policy] if args.policy else []
    options += ["--standalone"] if args.standalone else []
    found = twin.compare(args.twin, args.names, options)
    if args.json:
        said = {
            "differing": [{"what": p, "values": v} for p, v in found.differing],
            "allowed": found.allowed,
            "modules": found.modules,
            "whole": found.whole,
            "exec": found.why_exec or None,
        }
        json.dump({"version": 1, "twin": said}, sys.stdout, indent=1)
        print()
    elif found.why_exec:
        print(f"exec'ed in any case: {printable(found.why_exec)}")
    else:
        for path, values in found.differing:
            print(f"differs: {printable(path)}: {printable(values)}")
        what = f"{found.modules} modules, output and status compared"
        if not found.whole:
            what = "output and status compared; it left no time to look at its modules"
        print(
            f"{what}: {len(found.differing)} values differ, {found.allowed} more as "
            "docs/preload.md says"
        )
    return UNFIT if found.differing else 0


def _remark(entry: dict[str, Any]) -> str:
    faults = "; ".join(map(str, entry["faults"]))
    if faults:
        return f"  UNFIT: {printable(faults)}"
    return f"  skipped: {printable(str(entry['absent']))}" if entry["absent"] else ""


def _print_costs(found: dict[str, dict[str, list[Any]]]) -> None:
    for name, data in found.items():
        entries = data["entries"]
        total_us = sum(int(str(e["us"])) for e in entries)
        total_rss = sum(int(str(e["rss"])) for e in entries)
        print(
            f"{name}: {len(entries)} entries, {total_us / 1000:.0f} ms, "
            f"{total_rss / 1048576:.1f} MiB"
        )
        for e in entries:
            print(
                f"  {printable(str(e['name'])):34} {int(str(e['us'])) / 1000:8.1f} ms "
                f"{int(str(e['rss'])) // 1024:7} KiB {e['modules']!s:>4} modules"
                f"{_remark(e)}"
            )


def _print_verdicts(found: dict[str, dict[str, list[Any]]]) -> None:
    for data in found.values():
        for e in data["entries"]:
            print(f"{printable(str(e['name']))}: {printable(_verdict(e))}")
            for line in _places(e["findings"]):
                print(f"  {printable(line)}")
        for what in data["skipped"]:
            print(f"note: not looked at: {printable(str(what))}")


def _verdict(entry: dict[str, Any]) -> str:
    if entry["absent"]:
        return f"skipped: {entry['absent']}"
    if entry["verdict"] == "unfit":
        return f"unfit: {'; '.join(entry['unfit'])}"
    handover = ", ".join(entry["handover"])
    return f"fit with hand-over {handover}" if handover else "fit"


def _places(findings: list[dict[str, Any]]) -> list[str]:
    """A line for each place, with all that was found there of one hazard."""
    texts: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding["file"]:
            place = finding["file"]
            if finding["line"]:
                place += f":{finding['line']}"
            answer = f", renewed by {finding['answer']}" if finding["answer"] else ""
            why = f"[{finding['hazard']}{answer}]"
            texts.setdefault((place, why), []).append(finding["text"])
    return [
        f"{place}: {'; '.join(found)} {why}" for (place, why), found in texts.items()
    ]
