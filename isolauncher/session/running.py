# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs: as the daemon lists it, or as the session's service tells the bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .names import ACTIVITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One program that was launched; ``bundle_id`` "" if not from a bundle.

    ``pid`` is 0 until there is a process. ``caller_uid`` None: the service's person.
    """

    id: str
    bundle_id: str
    uid: int
    policy: str
    state: str = "running"
    pid: int = 0
    caller_uid: int | None = None


def listed() -> tuple[Running, ...]:
    """All that the daemon shows to us; IsolauncherError if it cannot be asked."""
    # Not at the top: Sugar's shell needs but the rest.
    from .. import client, wire

    found: list[Running] = []
    for part in client.ask({"version": wire.VERSION, "verb": "ps"}):
        rows = part.get("activities")
        for row in rows if isinstance(rows, list) else ():
            found.append(
                Running(
                    id=str(row["id"]),
                    bundle_id=str(row["bundle_id"] or ""),
                    uid=int(row["uid"]),
                    policy=str(row["policy"]),
                    state=str(row["state"]),
                    pid=int(row["pid"] or 0),
                    caller_uid=int(row["caller_uid"]),
                )
            )
    return tuple(found)


def managed(objects: Mapping[Any, Mapping[Any, Mapping[Any, Any]]]) -> list[Running]:
    """What an answer to GetManagedObjects tells."""
    return [
        Running(
            id=str(values["Id"]),
            bundle_id=str(values["BundleId"]),
            uid=int(values["Uid"]),
            policy=str(values["Policy"]),
            state=str(values["State"]),
            pid=int(values["Pid"]),
        )
        for interfaces in objects.values()
        for values in (interfaces[ACTIVITY],)
    ]


__all__ = ["Running", "listed", "managed"]
