# SPDX-License-Identifier: GPL-3.0-or-later
"""``short_of_memory.py MEMINFO [OPTION…]``: a daemon that has it as the machine's."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from isolauncher import memory  # noqa: E402
from isolauncher.cli import main  # noqa: E402

memory.MEMINFO = sys.argv.pop(1)
sys.exit(main.main(["daemon", *sys.argv[1:]]))
