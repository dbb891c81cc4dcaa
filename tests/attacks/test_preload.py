# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that are not fit to be preloaded, and files that change afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import COMMAND, TOP, Leftovers, Service, nothing_left, service
from support.powers import need, sandboxes

from isolauncher.zygote import verdict

DAEMON = TOP / "tests" / "support" / "planted" / "daemon.py"

UNFIT = {
    "p_thread": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(9999,), daemon=True).start()\n",
    "p_socket": "import socket\nkept = socket.socket()\n",
    "p_file": "kept = open('/dev/null')\n",
    "p_raises": "raise RuntimeError('no')\n",
    "p_exits": "import sys\nsys.exit(3)\n",
    "p_hangs": "import time\ntime.sleep(9999)\n",
    "p_signal": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
    "p_cwd": "import os\nos.chdir('/usr')\n",
    "p_umask": "import os\nos.umask(0o777)\n",
    "p_environ": "import os\nos.environ['PLANTED'] = '1'\n",
    "p_reads": "import os\nSTATION = os.environ.get('STATION', 'home')\n",
    "p_locale": "import locale\nlocale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')\n",
}


DEADLY = {
    "p_ends": "import os\nos._exit(0)\n",
    "p_crashes": "import ctypes\nctypes.string_at(0)\n",
    "p_stops": "import os\nos.kill(os.getpid(), 19)\n",
}
"""Nothing in the zygote outlives them, or could end them."""


def planted(tmp: Path, **modules: str) -> Path:
    place = tmp / "planted"
    place.mkdir()
    for name, source in modules.items():
        (place / f"{name}.py").write_text(source)
    # The zygote imports as nobody.
    for directory in (place, *place.parents):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(directory.stat().st_mode | 0o005)
    return place


def test_attack_47_what_no_zygote_outlives_is_named_by_the_auditor_too(
    tmp_path: Path,
) -> None:
    place = planted(tmp_path, p_crashes=DEADLY["p_crashes"], p_ends=DEADLY["p_ends"])
    done = subprocess.run(
        [*COMMAND, "preload", "check", "textwrap", "p_crashes", "p_ends"],
        env={**os.environ, "PYTHONPATH": str(place)},
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "textwrap: fit" in done.stdout
    assert re.search(r"p_crashes: unfit: .* ended with status -11", done.stdout)
    assert re.search(r"p_ends: unfit: .* ended with status 0", done.stdout)


def test_attack_47_of_several_in_one_process_each_that_ends_it_is_named(
    tmp_path: Path,
) -> None:
    place = planted(tmp_path, p_ends=DEADLY["p_ends"])
    names = ("textwrap", "p_ends", "shlex")
    found = verdict.judge(names, path=[str(place)]).verdicts
    assert [v.entry["name"] for v in found] == list(names)
    assert [bool(v.unfit) for v in found] == [False, True, False]


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    need(sandboxes())
    place = planted(tmp_path_factory.mktemp("unfit"), p_fit="value = 1\n", **UNFIT)
    with service(command=(sys.executable, str(DAEMON), str(place))) as made:
        yield made


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_attack_47_an_unfit_module_is_named_and_not_preloaded(
    unfit: Service, name: str
) -> None:
    """Row 47: named in the log, left out of the zygote that serves."""
    assert re.search(rf'module-unfit set="python" module="{name}" why="\S', unfit.log)
    started = re.findall(r'zygote-started set="python".*', unfit.log)[-1]
    assert name in started
    assert "p_fit" not in started


def test_attack_47_a_zygote_without_the_culprits_serves(unfit: Service) -> None:
    """Row 47: one that was fit is there, and launches work in the fork tier."""
    before = Leftovers.now(unfit)
    script = unfit.script("ok.py", "import sys; print('p_fit' in sys.modules)")
    done = unfit.run(script)
    assert (done.status, done.err) == (0, b"")
    assert done.report is not None
    assert done.report["activity"]["tier"] == "fork"  # type: ignore[index]
    nothing_left(unfit, before)


def test_attack_47_what_no_zygote_outlives_is_named_and_left_out_too(
    tmp_path: Path,
) -> None:
    """Row 47: crashes, ends, stands still; the launch that waits is served."""
    need(sandboxes())
    place = planted(tmp_path, p_fit="value = 1\n", **DEADLY)
    with service(command=(sys.executable, str(DAEMON), str(place))) as daemon:
        for name in DEADLY:
            assert re.search(rf'module-unfit set="python" module="{name}"', daemon.log)
        (started,) = re.findall(r'zygote-started set="python".*', daemon.log)
        assert "p_fit" not in started
        done = daemon.run(daemon.script("ok.py", "print(1)"))
    assert (done.status, done.out, done.err) == (0, b"1\n", b"")
    assert done.report is not None
    assert done.report["activity"]["tier"] == "fork"  # type: ignore[index]


def test_attack_48_a_preloaded_file_that_changes_makes_a_new_zygote(
    tmp_path: Path,
) -> None:
    """Row 48: before the very next launch, and what runs is not touched by it."""
    need(sandboxes())
    place = planted(tmp_path, p_version="value = 1\n")
    source = (
        "import sys\nsys.path.append(sys.argv[1])\nimport p_version\n"
        "print(p_version.value, flush=True)\nsys.stdin.read()\n"
    )
    with service(command=(sys.executable, str(DAEMON), str(place))) as daemon:
        daemon.policy("planted", f'version = 1\n[files]\nread = ["...", "{place}"]\n')
        script = daemon.script("version.py", source)
        words = ("--policy", "planted", script, str(place))
        first = daemon.start_client("run", *words, stdin=-1)
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == b"1\n"
        # As an upgrade does it: a new file takes the old one's name.
        (tmp_path / "new.py").write_text("value = 2\n")
        os.replace(tmp_path / "new.py", place / "p_version.py")
        assert daemon.run(*words, input=b"").out == b"2\n"
        assert re.search(r'zygote-retired set="python" why="changed: ', daemon.log)
        assert "generation=2" in daemon.log
        assert first.poll() is None
        first.stdin.close()
        assert first.wait(30) == 0
        first.stdout.close()
        assert first.stderr is not None
        first.stderr.close()
