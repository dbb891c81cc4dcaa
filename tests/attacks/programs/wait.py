# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Says that it is there, and ends when it is told to."""

from __future__ import annotations

inside()

say({"ready": os.getpid()})
sys.stdin.readline()
say({"whole": True})
