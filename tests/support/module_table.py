# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a table of modules for docs/preload.md: what each costs, and the verdict.

    sudo python3 tests/support/module_table.py docs/preload.md

Measured on this machine, as `isolauncher preload list` and `check` do it; the packages
of tests/twins/test_packages.py too, each in an interpreter of its own, and whether one
that is forked is what a cold start makes. Needs what `make test-long` installs, and
some ten minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(TOP), str(TOP / "tests")]

from isolauncher.cli import preload  # noqa: E402
from isolauncher.zygote import sets, verdict  # noqa: E402

TITLE = "## Every module"
HEAD = f"""{TITLE}

Printed by tests/support/module_table.py, on Debian 12; change nothing here. The time is
that of the entry's import after those above it, the memory what the process grew by,
and the hand-over's modules are those that renew what the import leaves.
"""
PACKAGES = """
### Packages that are on no list

Each by itself, after nothing else: what a list of one's own would cost. *Forked* says
whether a program that imports it is, forked from a zygote that has it preloaded, value
by value what a cold start makes of it (tests/twins/test_packages.py).
"""


def text(forked: Mapping[str, str]) -> str:
    """The section; ``forked`` says of each package what came of comparing it."""
    return HEAD + "".join(_sets()) + PACKAGES + "".join(_packages(forked))


def _sets() -> Iterator[str]:
    known: set[str] = set()
    for name, entries in sets.SETS.items():
        costs = {e["name"]: e for e in preload._measure(entries)["entries"]}
        yield f"\n### `{name}`\n\n| entry | ms | MB | modules | verdict |\n"
        yield "|---|--:|--:|--:|---|\n"
        for found in verdict.judge(entries).verdicts:
            said = found.as_data()
            if said["name"] not in known:
                yield _row(said, costs[said["name"]])
        known |= set(entries)


def _packages(forked: Mapping[str, str]) -> Iterator[str]:
    yield "\n| import | ms | MB | modules | verdict | forked |\n"
    yield "|---|--:|--:|--:|---|---|\n"
    for name, what in forked.items():
        (found,) = verdict.judge((name,)).verdicts
        (cost,) = preload._measure((name,))["entries"]
        yield _row(found.as_data(), cost, what)


def _row(said: Mapping[str, Any], cost: Mapping[str, Any], *more: str) -> str:
    words = preload._verdict(dict(said)).replace("|", "\\|")
    cells = (
        f"`{said['name']}`",
        f"{cost['us'] / 1000:.1f}",
        f"{cost['rss'] / 1048576:.1f}",
        str(cost["modules"]),
        words if len(words) <= 160 else f"{words[:157]}…",
        *more,
    )
    return f"| {' | '.join(cells)} |\n"


def rows(document: str) -> dict[str, tuple[str, ...]]:
    """What the table in a document says: entry to its other cells."""
    found = {}
    for line in document.partition(TITLE)[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].startswith("`"):
            found[cells[0].strip("`")] = tuple(cells[1:])
    return found


def main() -> None:
    from twins import test_packages

    path = Path(sys.argv[1])
    before = path.read_text(encoding="utf-8").partition(TITLE)[0]
    path.write_text(before + text(test_packages.forked()), encoding="utf-8")


if __name__ == "__main__":
    main()
