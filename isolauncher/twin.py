# SPDX-License-Identifier: GPL-3.0-or-later
"""One program twice, from a fresh interpreter and from the zygote, compared.

    isolauncher preload check --twin PROGRAM

The same program, policy, request and environment, in the tiers ``exec`` and ``fork``:
what it prints, how it ends, and at its end every global of every module it has loaded
(zygote/witness.py) must be equal. The first is done twice: what two cold starts have
not in common, as a set's order under another hash seed, is nobody's promise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import paths
from .errors import ProgramNotFound, RequestError

ALLOWED = {
    "importlib": "its _find_and_load is the shelf's; see docs/preload.md",
    "path caches": "what comes from the shelf is not sought in the path",
    "re": "it remembers expressions that other modules had compiled",
    "flags": "an enum remembers each combination of flags that somebody asked for",
}
"""What may differ, each with why; `is_allowed` says which values that are."""

_MARK = "\x1eisolauncher twin\x1e"
_PATIENCE_S = 300
_PROGRAM = """\
def _isolauncher_run():
    import sys

    def run(source, path, witness, mark):
        main = sys.modules["__main__"].__dict__
        sys.argv[0] = main["__file__"] = path
        code = compile(source, path, "exec", dont_inherit=True)
        failed = ended = None
        try:
            exec(code, main)
        except SystemExit as error:
            ended = error
        except BaseException as error:
            # Not this function's own frame.
            failed = error.with_traceback(error.__traceback__.tb_next)
        names = list(sys.modules)
        space = {{"__name__": "witness"}}
        exec(compile(witness, "<witness>", "exec"), space)
        text = __import__("json").dumps(space["describe"](names))
        sys.stdout.flush()
        sys.__stdout__.write(mark + text + "\\n")
        sys.__stdout__.flush()
        if failed or ended:
            raise failed or ended

    return run


_isolauncher_run()({source!r}, {path!r}, {witness!r}, {mark!r})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One run: status, output and errors of the program, and its state at the end.

    ``state`` None: it ended in a way that left no time to look. ``tier`` is the
    report's, ``why`` what it says of another than was asked for.
    """

    status: int
    out: str
    err: str
    state: dict[str, Any] | None
    tier: str
    why: str

    def comparable(self) -> dict[str, Any]:
        own = {"status": self.status, "out": self.out, "err": self.err}
        return {**own, **(self.state or {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """``differing``: path of a value, and the two; ``modules``: how many were equal."""

    differing: tuple[tuple[str, str], ...]
    allowed: int
    modules: int
    whole: bool
    why_exec: str


def compare(
    program: str, arguments: Sequence[str], options: Sequence[str] = ()
) -> Compared:
    """Run a script three times; ``options`` are those of `isolauncher run`.

    RequestError, and ProgramNotFound, for what is no Python script.
    """
    with _Stage(program) as stage:
        cold, again, forked = (
            stage.run(tier, arguments, options) for tier in ("exec", "exec", "fork")
        )
    if forked.tier != "fork":
        return Compared(
            differing=(), allowed=0, modules=0, whole=True, why_exec=forked.why
        )
    found = unlike(*(ended.comparable() for ended in (cold, again, forked)))
    return Compared(
        differing=tuple((p, v) for p, v in found if not is_allowed(p)),
        allowed=sum(is_allowed(p) for p, _ in found),
        modules=len(cold.state or ()),
        whole=cold.state is not None,
        why_exec="",
    )


class _Stage:
    """A directory with the program and, around it, what looks when it has ended."""

    def __init__(self, program: str) -> None:
        path = os.path.abspath(program)
        try:
            with open(path, "rb") as file:
                source = file.read().decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ProgramNotFound(
                f"{program}: no such program", code="program-not-found"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{program} cannot be read as a Python script: {error}",
                code="twin-not-a-script",
                hint="name the .py file itself",
            ) from None
        self._top = tempfile.mkdtemp(prefix="isolauncher-twin-")
        os.chmod(self._top, 0o755)  # noqa: S103 (an activity must find it)
        self._script = os.path.join(self._top, "twin.py")
        with open(self._script, "w", encoding="utf-8") as file:
            file.write(script(source, path))

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._top, ignore_errors=True)

    def run(self, tier: str, arguments: Sequence[str], options: Sequence[str]) -> Ended:
        report = os.path.join(self._top, "report")
        command = [sys.executable, "-m", "isolauncher", "run", *options]
        command += ["--tier", tier, "--report", report, "--", self._script, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(paths.PACKAGE)}
        with suppress(FileNotFoundError):
            # Else an earlier run's would be taken for this one's.
            os.unlink(report)
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=_PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RequestError(
                f"it has not ended within {_PATIENCE_S} s in the tier {tier}",
                code="twin-hangs",
                hint="a program that ends by itself can be compared",
            ) from None
        try:
            with open(report, encoding="utf-8") as file:
                said = json.load(file)
        except (OSError, ValueError):
            # No daemon, say: that is in the line that `run` has written.
            last = done.stderr.strip().rpartition("\n")[2]
            raise RequestError(
                f"`isolauncher run` wrote no report: {last}", code="twin-no-report"
            ) from None
        if "error" in said:
            raise RequestError(
                f"it was not launched: {said['error']['message']}",
                code=said["error"]["code"],
            )
        out, state = heard(done.stdout)
        why = [s["why"] for s in said["skipped"] if s["what"] == "tier fork"]
        return Ended(
            status=done.returncode,
            out=out,
            err=done.stderr,
            state=state,
            tier=said["activity"]["tier"],
            why="; ".join(why),
        )


def script(source: str, path: str) -> str:
    """A script that does what ``source`` does at ``path``, and then is looked at."""
    # By the first line it is decided which interpreter may run it.
    line = source.partition("\n")[0]
    first = f"{line}\n" if line.startswith("#!") else ""
    with open(os.path.join(paths.PACKAGE, "zygote/witness.py")) as file:
        witness = file.read()
    return first + _PROGRAM.format(
        source=source, path=path, witness=witness, mark=_MARK
    )


def heard(printed: str) -> tuple[str, dict[str, Any] | None]:
    """What the program printed, and the state at its end."""
    out, mark, state = printed.partition(_MARK)
    return out, json.loads(state) if mark else None


def unlike(cold: Any, again: Any, forked: Any) -> list[tuple[str, str]]:
    """What the forked one has not in common with a cold start that two of these have.

    By path, with both values; those of `is_allowed` are among them.
    """
    noise = {_value(path) for path, _ in differences(cold, again)}
    found = differences(cold, forked)
    return [(path, value) for path, value in found if _value(path) not in noise]


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two descriptions differ: path, and both values, shortened."""
    if type(one) is not type(other):
        yield path, f"{str(one)[:150]} | {str(other)[:150]}"
    elif isinstance(one, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
        if one.keys() == other.keys() and list(one) != list(other):
            yield f"{path}/", "in another order"
    elif isinstance(one, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(first, second, f"{path}/{number}")
    elif one != other:
        yield path, f"{str(one)[:150]} | {str(other)[:150]}"


def _value(path: str) -> tuple[str, ...]:
    """Module and global: what two cold starts have not in common is told by these."""
    return tuple(path.split("/")[1:3])


def is_allowed(path: str) -> bool:
    _, module, *rest = path.split("/")
    name = rest[0] if rest else ""
    if module in ("_frozen_importlib", "importlib._bootstrap"):
        return name == "_find_and_load"
    if module == "sys":
        return name == "path_importer_cache"
    return (module, name) == ("re", "_cache") or "/_value2member_map_" in path


__all__ = ["ALLOWED", "Compared", "compare", "heard", "is_allowed", "script", "unlike"]
