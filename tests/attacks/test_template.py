# SPDX-License-Identifier: GPL-3.0-or-later
"""What the root is made of has been replaced: it is looked at, not believed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemons import TOP, Leftovers, nothing_left, service
from support.powers import namespaces, need, sandboxes

REPLACE = (
    'mount --bind "$1" "$2" && shift 2 && exec "$@"'  # in the daemon's namespace only
)


@pytest.mark.parametrize(
    ("device", "by"),
    [("/dev/full", "file"), ("/dev/full", "/dev/zero"), ("/dev/random", "/dev/tty")],
)
def test_cve_2025_31133_a_replaced_device_is_refused(
    tmp_path: Path, device: str, by: str
) -> None:
    """Row 32: a file or another device in a device's place is never mounted."""
    need(sandboxes(), namespaces("mnt"))
    if by == "file":
        by = str(tmp_path / "not-a-device")
        Path(by).write_text("")
    command = (
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-c", REPLACE, "sh", by, device),
        *(sys.executable, "-m", "isolauncher", "daemon"),
    )
    with service(command=command) as daemon:
        before = Leftovers.now(daemon)
        done = daemon.run("--tier", "exec", "--", "true")
        assert done.status == 125
        assert "[device-replaced]" in done.errors
        assert 'code="device-replaced"' in daemon.log
        nothing_left(daemon, before)


@pytest.mark.parametrize("verb", ["daemon", "standalone", "doctor"])
@pytest.mark.parametrize("by", ["nothing", "copies"])
def test_cve_2025_52881_a_replaced_proc_is_refused(
    tmp_path: Path, verb: str, by: str
) -> None:
    """Row 32: what is not the kernel's own /proc is neither read nor written."""
    need(sandboxes(), namespaces("mnt"))
    false = tmp_path / "proc"
    (false / "self" / "fd").mkdir(parents=True)
    if by == "copies":
        for name in ("status", "mountinfo", "cgroup", "stat", "uid_map"):
            shutil.copyfile(f"/proc/self/{name}", false / "self" / name)
    words = {
        "daemon": (
            *("daemon", "--socket", str(tmp_path / "run" / "socket")),
            *("--state-dir", str(tmp_path / "state")),
        ),
        "standalone": ("run", "--standalone", "--", "true"),
        "doctor": ("doctor",),
    }[verb]
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", REPLACE, "sh", str(false), "/proc"),
            *(sys.executable, "-m", "isolauncher", *words),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=TOP,
    )
    assert done.returncode == 125, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("[proc-replaced]\n")
    assert not (tmp_path / "run" / "socket").exists()
