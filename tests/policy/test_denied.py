# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/denied.md, tried: each example prints what it says there.

The blocks of a section are done in their order. ``toml`` is what the policy `mine` has
of its own from there on; ``console`` is typed in one sandbox under it, or outside where
the command names isolauncher; behind the word may stand on which machines, and
``bundle``: in a bundle's program. ``log`` is in the daemon's log, or the session's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import bundles
from support.daemons import TOP, Leftovers, Service, nothing_left
from support.desktop import desktop, missing
from support.peers import BOB
from support.powers import need, program, sandboxes
from support.sugar import NAME, Session, profile, session

from isolauncher.policy.model import KEYS

ATLAS = Path("/srv/atlas")
PLAIN = 'version = 1\n[match]\ncallers = ["*"]\n'
BUNDLE = 'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.example.Draw"]\n'
BLOCK = re.compile(r"^```([a-z -]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- the next command --"


def document() -> str:
    return (TOP / "docs/denied.md").read_text(encoding="utf-8")


def sections() -> dict[str, list[tuple[list[str], str]]]:
    """The blocks below each heading, with the words behind the backquotes."""
    parts = re.split(r"^#{2,3} (.*)$", document(), flags=re.MULTILINE)
    return {
        name: [(words.split(), text) for words, text in BLOCK.findall(body)]
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
        if BLOCK.search(body)
    }


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command with what it prints."""
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = step.partition("\n")
        yield command, expected


def pattern(expected: str) -> str:
    """A line "…" is any number of lines, "…" in a line the rest of it."""
    escaped = re.escape(expected).replace(re.escape("…\n"), "(?:.*\n)*?")
    return escaped.replace(re.escape("…"), "[^\n]*")


@dataclass
class Machine:
    """The daemon, a shell beside it, and a session for bundles if one is asked for."""

    service: Service
    stack: ExitStack
    tools: Path
    can: frozenset[str] = frozenset()
    made: tuple[Session, Path, Path] | None = field(default=None)

    def policy(self, text: str, *, bundle: bool) -> None:
        self.service.policy("mine", (BUNDLE if bundle else PLAIN) + text)

    def inside(self, words: Sequence[str]) -> list[str]:
        """What each command prints, typed one after the other in one sandbox."""
        done = self.service.isolauncher(
            *("run", "--policy", "mine", "--", "sh", "-c", _script(words)), uid=BOB
        )
        assert done.status != 125, done.errors
        return done.text.split(f"{MARK}\n")[1:]

    def outside(self, command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            user=BOB,
            group=BOB,
            extra_groups=(),
            env={
                "PATH": f"{self.tools}:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(TOP),
                "ISOLAUNCHER_SOCKET": str(self.service.socket),
            },
            timeout=60,
            check=False,
        )
        return self.named(done.stdout)

    def named(self, text: str) -> str:
        """As on a machine where isolauncher is installed."""
        for place, name in (
            (self.service.policies, "/etc/isolauncher/policies"),
            (TOP / "policies", "/usr/share/isolauncher/policies"),
        ):
            # At the beginning of a path only: a checkout may be /isolauncher.
            text = re.sub(rf"(?<![\w/.-]){re.escape(str(place))}", name, text)
        return text

    def in_bundle(self, words: Sequence[str]) -> list[str]:
        where, bundle, _ = self.session()
        path = bundle / "bin/draw"
        path.write_text(f"#!/bin/sh\n{_script(words)}\n")
        said = where.output(str(bundle))
        assert MARK in said, said
        return said.split(f"{MARK}\n")[1:]

    def session(self) -> tuple[Session, Path, Path]:
        if self.made is None:
            need(missing())
            person = self.stack.enter_context(desktop())
            profile(person)
            where = session(person, self.service)
            log = person.top / "service.log"
            with open(log, "wb") as file:
                person.start(
                    *(sys.executable, "-m", "isolauncher.session.service"),
                    environment=where.environment,
                    stderr=file,
                )
            person.run("gdbus", "wait", "--session", "--timeout", "30", NAME)
            place = self.stack.enter_context(bundles.system_directory())
            made = bundles.make(
                place, id="org.example.Draw", exec="draw", programs={"draw": ""}
            )
            self.made = where, made, log
        return self.made

    def logged(self, line: str, *, by_session: bool) -> bool:
        if not by_session:
            return line in self.named(self.service.log)
        text = self.session()[2].read_text()
        return line in re.sub(r"\b[0-9a-f]{40}\b", "ID", text)


def _script(words: Sequence[str]) -> str:
    """Each in a shell of its own, as errors name the line of it."""
    typed = (f"echo {shlex.quote(MARK)}\nsh -c {shlex.quote(word)}" for word in words)
    return "exec 2>&1\n" + "\n".join(typed)


@contextmanager
def atlas() -> Iterator[None]:
    """What the document speaks of: maps, and a script with a module beside it."""
    ATLAS.mkdir()
    try:
        (ATLAS / "map.txt").write_text("a map\n")
        (ATLAS / "legend.py").write_text('RED = "a road"\n')
        show = '#!/usr/bin/python3\nimport legend\nprint("red:", legend.RED)\n'
        (ATLAS / "show.py").write_text(show.partition("\n")[2])
        (ATLAS / "drawings").mkdir()
        os.chown(ATLAS / "drawings", BOB, BOB)
        made = bundles.make(ATLAS / "made", id="org.example.Draw", exec="draw")
        made.rename(ATLAS / "Draw.activity")
        asked = ATLAS / "Draw.activity/activity/permissions.info"
        asked.write_text("lim_nproc 5000\n")
        yield
    finally:
        shutil.rmtree(ATLAS)


@pytest.fixture(scope="module")
def machine(daemon: Service) -> Iterator[Machine]:
    need(sandboxes(), *map(program, ("bwrap", "xdpyinfo", "gdbus")))
    before = Leftovers.now(daemon)
    with ExitStack() as stack:
        stack.enter_context(atlas())
        tools = daemon.top / "tools"
        tools.mkdir()
        stack.callback(shutil.rmtree, tools)
        command = tools / "isolauncher"
        command.write_text(
            "#!/bin/sh\nverb=$1; shift\ncase $verb in explain|test-policy)\n"
            f'set -- --policy-dir {daemon.policies} "$@";; esac\n'
            f'exec {sys.executable} -m isolauncher $verb "$@"\n'
        )
        command.chmod(0o755)
        daemon.policy("untold", "version = 1\n")
        report = daemon.run("--", "true", uid=BOB).report
        assert report is not None
        enforced = report["enforced"]
        assert isinstance(enforced, list)
        names = {"cgroups": "cgroup" in enforced, "landlock": "landlock" in enforced}
        can = frozenset(n if has else f"no-{n}" for n, has in names.items())
        yield Machine(daemon, stack, tools, can)
        for path in daemon.policies.iterdir():
            path.unlink()
    nothing_left(daemon, before)


@pytest.mark.parametrize("name", sections())
def test_each_example_prints_what_it_says(machine: Machine, name: str) -> None:
    blocks = sections()[name]
    bundle = any("bundle" in words for words, _ in blocks)
    machine.policy("", bundle=bundle or "Draw" in str(blocks))
    for (kind, *words), text in blocks:
        if kind == "toml":
            machine.policy(text, bundle=bundle)
        elif kind == "log":
            by_session = "session" in words
            for line in text.splitlines():
                assert machine.logged(line, by_session=by_session), line
        elif machine.can.issuperset({*words} - {"bundle"}):
            _typed(machine, text, bundle="bundle" in words)


def _typed(machine: Machine, text: str, *, bundle: bool) -> None:
    typed = list(commands(text))
    outside = [bool(re.search(r"\bisolauncher\b", word)) for word, _ in typed]
    words = [word for (word, _), out in zip(typed, outside, strict=True) if not out]
    if not words:
        inside: list[str] = []
    elif bundle:
        inside = machine.in_bundle(words)
    else:
        inside = machine.inside(words)
    assert len(inside) == len(words), inside
    for (command, expected), out in zip(typed, outside, strict=True):
        said = machine.outside(command) if out else inside.pop(0)
        assert re.fullmatch(pattern(expected), said), (command, said)


def test_every_key_of_the_language_is_told_of() -> None:
    table = document().partition("## Every key")[2]
    told = set(re.findall(r"`([a-z0-9.-]+)`", table.replace("`explain BUNDLE`", "")))
    known = {
        k.name for k in KEYS if k.name not in ("version", "description", "extends")
    }
    assert known - told == set()
    assert {name for name in told if "." in name} - known == set()


def test_every_link_leads_to_a_heading() -> None:
    text = document()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings
    }
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    assert {*links} <= anchors, {*links} - anchors
    for name in re.findall(r"\]\(([a-z-]+\.md)\)", text):
        assert (TOP / "docs" / name).exists()
