# SPDX-License-Identifier: GPL-3.0-or-later
"""What the root is made of has been replaced: it is looked at, not believed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.daemons import Leftovers, nothing_left, service
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
