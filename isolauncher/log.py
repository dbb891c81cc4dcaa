# SPDX-License-Identifier: GPL-3.0-or-later
"""One structured line per launch, refusal and end: to the journal where there is one.

Standard error otherwise, as ``event key=value …``. Values come from callers: they are
JSON strings there, so that none can start a line of its own. What callers can make
happen as often as they like is counted after a while (`Log.often`), so that nobody
drowns what others did.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

JOURNAL = "/run/systemd/journal/socket"

WHILE_S = 2.0


class Log:
    """``journal`` empty: standard error only. ``quiet``: nothing at all.

    ``lines``: see `often`. The journal, too, drops lines of a service that writes many,
    but whoever they are about (RateLimitBurst, journald.conf(5)).
    """

    def __init__(
        self, *, journal: str = JOURNAL, quiet: bool = False, lines: int = 100
    ) -> None:
        self._quiet = quiet
        self._lines = lines
        self._journal: socket.socket | None = None
        self._written: dict[tuple[str, object, object], int] = {}
        if journal and os.path.exists(journal) and not quiet:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            sock = socket.socket(socket.AF_UNIX, kind)
            try:
                sock.connect(journal)
            except OSError:
                sock.close()  # a socket nobody reads: standard error it is
            else:
                self._journal = sock

    def event(self, event: str, **values: object) -> None:
        """Write one line; a full journal or a closed stderr never stops a launch."""
        if self._quiet:
            return
        words = [f"{k}={json.dumps(v)}" for k, v in values.items() if v is not None]
        line = " ".join([event, *words])
        if self._journal is not None and self._to_journal(line, event, values):
            return
        try:
            print(f"isolauncher: {line}", file=sys.stderr, flush=True)
        except OSError:
            self._quiet = True

    def often(self, event: str, **values: object) -> None:
        """As `event`, but of one caller's with one code ``lines`` in ``WHILE_S``.

        A line at the end of it says how many were left out. For the event loop only.
        """
        alike = (event, values.get("caller"), values.get("code"))
        count = self._written[alike] = self._written.get(alike, 0) + 1
        if count == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(WHILE_S, self._tell_left_out, alike)
        if count <= self._lines:
            self.event(event, **values)

    def _tell_left_out(self, alike: tuple[str, object, object]) -> None:
        more = self._written.pop(alike, 0) - self._lines
        if more > 0:
            event, caller, code = alike
            self.event("left-out", of=event, caller=caller, code=code, lines=more)

    def close(self) -> None:
        """Tell what has been left out until now."""
        for alike in tuple(self._written):
            self._tell_left_out(alike)

    def _to_journal(self, line: str, event: str, values: dict[str, object]) -> bool:
        fields = {"MESSAGE": line, "SYSLOG_IDENTIFIER": "isolauncherd", "PRIORITY": "6"}
        fields["ISOLAUNCHER_EVENT"] = event
        for key, value in values.items():
            fields[f"ISOLAUNCHER_{key.upper()}"] = str(value)
        data = b""
        for key, text in fields.items():
            # The journal's native protocol: a length, since a value may hold newlines.
            raw = text.encode("utf-8", "surrogateescape")
            data += key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        assert self._journal is not None  # noqa: S101
        try:
            self._journal.send(data, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True
