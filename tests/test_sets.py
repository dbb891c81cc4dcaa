# SPDX-License-Identifier: GPL-3.0-or-later
"""Preload sets in the daemon: which zygote a policy's name comes to, and when."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import ROOMS_AHEAD, TOP, Leftovers, Service, service
from support.peers import until, zygotes
from support.powers import installed, need, sandboxes

SUGAR = "version = 1\n[preload]\nset = 'sugar3'\n"
LOOK = """
import os, sys
data = os.environ.get("HOME", "") + "/.local/share"
before = "gi.repository.GLib" in sys.modules
from gi.repository import GLib
print(before, type(GLib).__name__, GLib.get_user_data_dir() == data)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes(), installed("sugar3.activity.activity"))
    with service() as made:
        yield made


def test_a_set_is_started_when_it_is_first_needed(daemon: Service) -> None:
    assert set(zygotes(daemon)) == {"bare", "python"}
    policy = daemon.policy("sugared", SUGAR)
    # A zygote that has just come rehearses in a child.
    before = Leftovers.now(daemon)

    def at_rest() -> bool:
        nonlocal before
        before = Leftovers.now(daemon)
        return not before.processes

    assert until(at_rest)
    done = daemon.run("--policy", policy, daemon.script("look.py", LOOK))
    assert (done.status, done.err) == (0, b"")
    assert done.out == b"False GLibProxyModule True\n"
    assert done.report is not None
    assert done.report["activity"]["tier"] == "fork"
    assert not [s for s in done.report["skipped"] if "preload" in s["what"]]
    assert set(zygotes(daemon)) == {"bare", "python", "sugar3"}
    assert until(lambda: Leftovers.now(daemon) == before)


def test_own_module_that_preloaded_types_need_is_run_by_a_fresh_interpreter(
    daemon: Service,
) -> None:
    """GObject knows preloaded types by name: they cannot be imported once more."""
    # Not below /tmp, of which a sandbox has its own.
    with tempfile.TemporaryDirectory(dir="/srv") as place:
        os.chmod(place, 0o755)  # noqa: S103
        (Path(place) / "cairo.py").write_text("mine = 5\n")
        script = Path(place) / "own.py"
        script.write_text("import cairo; print(cairo.mine)")
        files = f"[files]\nread = ['...', '{place}']\n"
        policy = daemon.policy("reading", SUGAR + files)
        done = daemon.run("--policy", policy, str(script))
    assert (done.status, done.out, done.err) == (0, b"5\n", b"")
    assert done.report is not None
    assert done.report["activity"]["tier"] == "exec"
    (why,) = [s["why"] for s in done.report["skipped"] if s["what"] == "tier fork"]
    assert "cairo" in why


def test_no_error_of_our_calls_is_left_for_a_program(daemon: Service) -> None:
    script = daemon.script("errno.py", "import ctypes; print(ctypes.get_errno())\n")
    done = daemon.run(script)
    assert (done.status, done.out, done.err) == (0, b"0\n", b"")
    assert done.report is not None
    assert done.report["activity"]["tier"] == "fork"


def test_a_script_of_any_size_is_its_interpreters_matter(daemon: Service) -> None:
    """A file with holes is soon larger than what a sandbox may have in memory."""
    script = daemon.script("large.py", "print(1)\n")
    os.truncate(script, 1 << 40)
    done = daemon.run(script)
    assert (done.status, done.out) == (1, b"")
    assert "SyntaxError" in done.errors
    assert done.report is not None
    (why,) = [s["why"] for s in done.report["skipped"] if s["what"] == "tier fork"]
    assert why == "it is larger than 1 MiB"


def test_what_glib_reads_when_it_is_loaded_wants_a_fresh_interpreter(
    daemon: Service,
) -> None:
    policy = daemon.policy(
        "debugging", SUGAR + "[environment]\nset = { GI_TYPELIB_PATH = '/nowhere' }\n"
    )
    done = daemon.run("--policy", policy, daemon.script("look.py", LOOK))
    assert done.report is not None
    assert done.report["activity"]["tier"] == "exec"
    assert "GI_TYPELIB_PATH" in str(done.report["skipped"])


@pytest.fixture
def lacking(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A daemon on a machine where what is in the file is not installed."""
    need(sandboxes())
    place = tmp_path / "planted"
    place.mkdir()
    for directory in (place, *place.parents):
        directory.chmod(directory.stat().st_mode | 0o005)
    program = TOP / "tests/support/planted/daemon.py"
    with service(command=(sys.executable, str(program), str(place))) as made:
        yield made, place / "lacking"


@pytest.mark.parametrize(
    ("missing", "left"), [("sugar3", "gtk3"), ("gi sugar3", "python")]
)
def test_a_set_that_is_not_installed_is_the_largest_within_it(
    lacking: tuple[Service, Path], missing: str, left: str
) -> None:
    need(installed("sugar3.activity.activity"))
    daemon, file = lacking
    file.write_text(missing)
    policy = daemon.policy("sugared", SUGAR)
    script = daemon.script("ok.py", "print('ok')")
    for _ in range(2):
        done = daemon.run("--policy", policy, script)
        assert (done.status, done.out, done.err) == (0, b"ok\n", b"")
        assert done.report is not None
        assert done.report["activity"]["tier"] == "fork"
        assert done.report["activity"]["path"] == "demand"
        (why,) = [
            s["why"]
            for s in done.report["skipped"]
            if s["what"] == "preload set sugar3"
        ]
        assert "is not installed (install python3-" in why
        assert why.endswith(f"it has {left}")
        assert "sugar3" not in zygotes(daemon)
    # Tried once, not at each launch.
    assert daemon.log.count('zygote-set-lacks set="sugar3"') == 1
    # And again once something is installed.
    file.unlink()
    done = daemon.run("--policy", policy, script)
    assert done.report is not None
    assert "preload set" not in str(done.report["skipped"])
    assert "sugar3" in zygotes(daemon)


def test_sets_that_policies_name_are_started_ahead_where_rooms_are() -> None:
    need(sandboxes(), installed("sugar3.activity.activity"))
    with service(config=ROOMS_AHEAD) as daemon:
        # policies/sugar.toml names it.
        daemon.wait_for_log('zygote-started set="sugar3"')
