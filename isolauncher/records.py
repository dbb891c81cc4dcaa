# SPDX-License-Identifier: GPL-3.0-or-later
"""One file per activity in the run directory: what a restarted daemon needs to know.

``activities/ID`` holds JSON objects, a line each, only ever appended:

    {"event": "planned", …}   what was leased, and init, before it is sent its plan;
                              once more when a room becomes an activity's, but of one
                              that was expected and keeps its name
    {"event": "forked", …}    the stem's pid; pids come with their start times
    {"event": "go", …}        from here on the activity runs
    {"event": "exited", …}    written by init, whatever became of the daemon

The file gets its name when its first line is in it, and link(2) refuses a name that is
there: so no record is empty and no id runs twice. A line is one write(2) to a
file opened with O_APPEND, so a reader sees whole lines or, after a crash, a last one
cut short, which does not count.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import RequestError

MAX_RECORD = 2 << 20
"""Two lines hold the arguments (96 KiB), each byte of them six characters of JSON."""


def line(event: str, fields: Mapping[str, object]) -> bytes:
    """For `Record.write`: what can be made before it is so."""
    return json.dumps({"event": event, **fields}).encode() + b"\n"


@dataclass(slots=True)
class Record:
    """An open record; ``fd`` is shared with init, which appends the last line."""

    path: Path
    fd: int

    def append(self, event: str, fields: Mapping[str, object]) -> None:
        self.write(line(event, fields))

    def write(self, line: bytes) -> None:
        if os.write(self.fd, line) != len(line):
            raise OSError(5, f"{self.path}: the record was cut short")

    def rename(self, activity_id: str) -> None:
        """A room's becomes an activity's; RequestError if there is one of that id."""
        path = self.path.with_name(activity_id)
        try:
            os.link(self.path, path)
        except FileExistsError:
            raise _taken(activity_id) from None
        self.path.unlink()
        self.path = path

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        # Closed last: a claim ends with it.
        self.path.unlink(missing_ok=True)
        self.close()


def create(run_dir: Path, activity_id: str, fields: Mapping[str, object]) -> Record:
    """Make the record of a new activity; RequestError if the id is taken."""
    path = run_dir / "activities" / activity_id
    flags = os.O_RDWR | os.O_TMPFILE | os.O_APPEND | os.O_CLOEXEC
    record = Record(path, os.open(path.parent, flags, 0o600))
    try:
        record.append("planned", {"id": activity_id, **fields})
        # A directory descriptor, unused, makes this linkat(2), which can follow.
        magic = f"/proc/self/fd/{record.fd}"
        os.link(magic, path, src_dir_fd=record.fd, follow_symlinks=True)
    except FileExistsError:
        record.close()
        raise _taken(activity_id) from None
    except BaseException:
        record.close()
        raise
    return record


def _taken(activity_id: str) -> RequestError:
    return RequestError(
        f"an activity {activity_id!r} is already running",
        code="id-taken",
        hint="stop it, or choose another --id",
    )


def claim(record: Record) -> bool:
    """Be the only one who buries it; held until the record is closed.

    Of what standalone daemons leave, several may be at it at once, and the last must
    not remove the record of another activity that has the same id by then.
    """
    try:
        fcntl.flock(record.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(record.fd).st_nlink > 0


def reopen(run_dir: Path, activity_id: str) -> Record:
    path = run_dir / "activities" / activity_id
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return Record(path, os.open(path, flags))


def read(record: Record) -> dict[str, dict[str, object]]:
    """Event to its fields; a torn last line is left out."""
    data = os.pread(record.fd, MAX_RECORD, 0)
    events: dict[str, dict[str, object]] = {}
    for line in data.split(b"\n")[:-1]:
        try:
            value: object = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            events[value["event"]] = value
    return events


def names(run_dir: Path) -> list[str]:
    try:
        return sorted(os.listdir(run_dir / "activities"))
    except FileNotFoundError:
        return []


def start_time(pid: int) -> int:
    """Clock ticks after boot at which a process started; 0 if it has ended.

    With the pid it names a process for ever (proc_pid_stat(5), field 22). One that
    only waits to be reaped has ended: whose child it is may take its time.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            words = os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if words[0] in (b"Z", b"X") else int(words[19])


@cache
def own_start_time(pid: int) -> int:
    """The same of this process, whose ``pid`` is given; it does not change."""
    return start_time(pid)


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
