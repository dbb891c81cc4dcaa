# SPDX-License-Identifier: GPL-3.0-or-later
"""Says that it is there, and ends when it is told to."""

from __future__ import annotations

inside()

say({"ready": os.getpid()})
sys.stdin.readline()
say({"whole": True})
