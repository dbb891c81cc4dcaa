# SPDX-License-Identifier: GPL-3.0-or-later
"""One structured line per launch, refusal and end: to the journal where there is one.

Standard error otherwise, as ``event key=value …``. Values come from callers: they are
JSON strings there, so that none can start a line of its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys

JOURNAL = "/run/systemd/journal/socket"


class Log:
    """``journal`` empty: standard error only. ``quiet``: nothing at all."""

    def __init__(self, *, journal: str = JOURNAL, quiet: bool = False) -> None:
        self._quiet = quiet
        self._journal: socket.socket | None = None
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
