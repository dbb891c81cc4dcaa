# SPDX-License-Identifier: GPL-3.0-or-later
"""``devices_daemon.py DIRECTORY [OPTION…]``: ``isolauncher daemon``, whose devices are
those of DIRECTORY (see devices.py)."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[0] = str(TESTS.parent)
sys.path.append(str(TESTS))

from isolauncher import devices  # noqa: E402
from isolauncher.cli import main  # noqa: E402
from support.devices import StandIns  # noqa: E402

devices.KINDS = StandIns(Path(sys.argv.pop(1))).kinds
sys.exit(main.main(["daemon", *sys.argv[1:]]))
