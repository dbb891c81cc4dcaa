# SPDX-License-Identifier: GPL-3.0-or-later
"""TEMPORARY: without mediator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..furniture import DIRECTORIES


@dataclass
class Mediated:
    fds: dict[str, int]
    path: str = ""

    def forget(self) -> None:
        pass


class Mediators:
    @classmethod
    def start(cls) -> Mediators:
        return cls()

    def __enter__(self) -> Mediators:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def clear(self, running: Sequence[str]) -> None:
        pass

    def begin(
        self,
        granted: Mapping[str, object],
        *,
        environment: Mapping[str, str],
        object_id: str | None,
    ) -> Mediated:
        fds = {}
        home = environment["HOME"]
        for n in DIRECTORIES:
            p = f"{home}/.sugar/default/{granted['bundle_id']}/{n}"
            if n != "data":
                p += f"/{granted['id']}"
            os.makedirs(p, exist_ok=True)
            fds[n] = os.open(p, os.O_PATH | os.O_DIRECTORY)
        hold, end = os.pipe()
        fds["hold"] = end
        if "bus" in granted["furniture"] and "DBUS_SESSION_BUS_ADDRESS" in environment:
            run = environment["XDG_RUNTIME_DIR"]
            px = f"{run}/px-{granted['id']}"
            args = [
                "xdg-dbus-proxy",
                f"--fd={hold}",
                environment["DBUS_SESSION_BUS_ADDRESS"],
                px,
                "--filter",
                "--talk=org.laptop.sugar.DataStore",
                f"--own={granted['bundle_id']}",
                *[f"--call={c}" for c in granted["session_call"]],
                *[
                    f"--own={c}".replace("{activity-id}", granted["id"])
                    for c in granted["session_own"]
                ],
            ]
            # ready
            a, b = os.pipe()
            args[1] = f"--fd={b}"
            subprocess.Popen(args, pass_fds=[b], stderr=2)
            os.close(b)
            os.read(a, 1)
            fds["hold"] = end
            self.keep = a
            os.chmod(px, 0o666)
            fds["bus"] = os.open(px, os.O_PATH)
        return Mediated(fds)
