# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of one process, as the kernel counts it (proc_pid_smaps(5), smaps_rollup)."""

from __future__ import annotations

NAMES = ("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous", "AnonHugePages")


def rollup(pid: int) -> dict[str, int]:
    """Kilobytes by the kernel's names, and ``Uss``, what is nobody else's."""
    found: dict[str, int] = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in NAMES:
                found[name] = int(value.split()[0])
    return found | {"Uss": found["Private_Clean"] + found["Private_Dirty"]}
