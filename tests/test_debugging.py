# SPDX-License-Identifier: GPL-3.0-or-later
"""strace and gdb, by who writes activities: inside of a sandbox, on what is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
from support import bundles
from support.daemons import TOP, Finished, Service
from support.powers import need, program, sandboxes

UID = 65000
TRACED = """#!/bin/sh
exec strace -f -e trace=file -o "$SUGAR_ACTIVITY_ROOT/data/trace" \\
    "$SUGAR_BUNDLE_PATH/bin/mine" "$@"
"""
CRASHES = "import os\nopen('/etc/hostname')\nos.abort()\n"
MINE = """#!/usr/bin/python3
open("/etc/hostname").close()
print("it ran")
"""


@pytest.fixture
def daemon(services: Callable[[str], Service]) -> Service:
    need(sandboxes())
    need(program("strace"))
    need(program("gdb"))
    return services("")


def test_a_developer_s_programs_can_be_traced_and_nothing_beside_them(
    daemon: Service,
) -> None:
    words = ("strace", "-e", "trace=openat", "cat", "/etc/hostname")
    done = daemon.run("--policy", "developer", "--", *words, uid=UID)
    assert (done.status, done.out) == (0, b"developer\n")
    assert b'openat(AT_FDCWD, "/etc/hostname", O_RDONLY' in done.err
    # Init is another's: the kernel refuses what the filter lets through.
    done = daemon.run("--policy", "developer", "--", "strace", "-p", "1", uid=UID)
    assert b"PTRACE_SEIZE, 1): Operation not permitted" in done.err
    done = daemon.run("--policy", "default", "--", *words, uid=UID)
    assert done.status != 0
    assert b"PTRACE_TRACEME: Operation not permitted" in done.err


def test_gdb_shows_a_developer_where_a_program_has_crashed(daemon: Service) -> None:
    crash = "import os; os.abort()"
    words = ("gdb", "-batch", "-ex", "run", "-ex", "bt", "--args", "python3", "-c")
    done = daemon.run("--policy", "developer", "--", *words, crash, uid=UID)
    assert b"Program received signal SIGABRT" in done.out
    assert b"Py_BytesMain" in done.out


def test_the_commands_of_docs_sugar_md_show_a_developer_s_own_program(
    daemon: Service,
) -> None:
    text = (TOP / "docs/sugar.md").read_text()
    asked = re.search(r'`extends = "developer"`, `(.+)`\nand `\[files\] (.+)`,', text)
    assert asked is not None
    callers, read = asked.groups()
    policy = (
        f'version = 1\nextends = "developer"\n[match]\n{callers}\n[files]\n{read}\n'
    )
    with bundles.system_directory() as place:
        (place / "my.py").write_text(CRASHES)
        daemon.policy("mine", policy.replace("/srv/mine", str(place)))
        traced, crashed = re.findall(
            "^    isolauncher run (--policy mine .*)$", text, re.M
        )

        def run(command: str) -> Finished:
            words = command.replace("/srv/mine", str(place)).split()
            return daemon.run(*words, uid=UID)

        assert b'"/etc/hostname", O_RDONLY' in run(traced).err
        assert b"Program received signal SIGABRT" in run(crashed).out


def test_an_activity_that_starts_itself_in_strace_is_traced_where_a_policy_says_so(
    daemon: Service,
) -> None:
    """docs/sugar.md tells how; the trace is among what the activity keeps."""
    daemon.policy(
        "mine",
        'version = 1\nextends = "developer"\n[match]\n'
        'bundle-id = ["org.example.Mine"]\ninstalled-by = "user"\n',
    )
    try:
        with bundles.person(daemon, UID) as person:
            bundle = bundles.make(
                person.home,
                id="org.example.Mine",
                exec="traced",
                programs={"traced": TRACED, "mine": MINE},
                owner=UID,
            )
            reader, writer = os.pipe()
            with open(reader, "rb") as said:
                with person.launch(bundle, stdout=writer) as launched:
                    os.close(writer)
                    end = launched.end()
                assert said.read() == b"it ran\n", end
            trace = person.profile / "org.example.Mine/data/trace"
            assert '"/etc/hostname", O_RDONLY' in trace.read_text()
            assert trace.stat().st_uid == UID
    finally:
        (daemon.policies / "mine.toml").unlink()


def test_the_page_on_sugar_shows_these_very_words() -> None:
    page = (TOP / "docs/sugar.md").read_text()
    assert "\n".join(TRACED.splitlines()[:2]) in page
