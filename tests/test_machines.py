# SPDX-License-Identifier: GPL-3.0-or-later
"""Other machines than this one: a fresh Debian 12, and Debian's own kernel.

They take minutes and fetch packages, so they are `long`; the scripts in machines/ can
be run by hand and say how.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import powers

MACHINES = Path(__file__).resolve().parent / "machines"

pytestmark = pytest.mark.long

ENFORCED = set(
    "uid groups capabilities no_new_privs securebits mount pid net ipc uts cgroupns "
    "user rlimits cgroup seccomp landlock keyring descriptors environment".split()
)


def on(script: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MACHINES / script, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_a_clean_clone_on_a_fresh_debian_sets_itself_up_and_passes() -> None:
    powers.need(*map(powers.program, ("systemd-nspawn", "debootstrap")))
    done = on("fresh-debian.sh")
    assert done.returncode == 0, done.stdout[-8000:]


def test_a_launch_of_each_tier_is_enforced_in_full_under_debian_s_own_kernel() -> None:
    powers.need(*map(powers.program, ("systemd-nspawn", "qemu-system-x86_64")))
    launch = ".venv/bin/isolauncher run --standalone --tier"
    script = f"""
        set -e
        uname -r
        .venv/bin/isolauncher doctor
        {launch} exec --report - -- integration/demo/what_i_see.py
        {launch} fork --report - -- integration/demo/what_i_see.py
    """
    done = on("debian-kernel-qemu.sh", "sh", "-c", script)
    assert done.returncode == 0, done.stdout[-8000:]
    assert "6.1." in done.stdout
    reports = [
        json.loads(line)
        for line in done.stdout.splitlines()
        if line.startswith('{"version"')
    ]
    assert [r["activity"]["tier"] for r in reports] == ["exec", "fork"]
    for report in reports:
        assert set(report["enforced"]) == ENFORCED, report["skipped"]
