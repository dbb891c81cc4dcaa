# SPDX-License-Identifier: GPL-3.0-or-later
"""Which paths of this machine no policy shows, or lets an activity write.

Looks at names only. Who mounts one asks again about what it turned out to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MADE_BY_US = ("/proc", "/sys", "/dev")
_SYNTHESIZED = "it is written for each activity"
MADE_PATHS: Mapping[str, str] = {
    "/tmp": "files.tmp says how large it is",  # noqa: S108 - refused, not used
    "/var/tmp": "it is a link to /tmp, which files.tmp gives a size",  # noqa: S108
    "/etc/passwd": _SYNTHESIZED,
    "/etc/group": _SYNTHESIZED,
    "/etc/nsswitch.conf": _SYNTHESIZED,
    "/etc/hosts": _SYNTHESIZED,
    "/etc/hostname": "namespaces.hostname says what is in it",
    "/etc/machine-id": "it is the same one for each activity of each machine",
}


def refuse_read(path: str, private: Iterable[str]) -> str | None:
    """Why no activity may be shown ``path``, or None. Looks at names only.

    Whoever mounts a path asks again, as for `refuse_write`.
    """
    if path == "/":
        return "it holds everything, and hides what was made for the activity"
    if path == "/etc":
        return "it holds passwords and private keys, and hides the activity's own files"
    for ours in private:
        if path == ours or path.startswith(ours + "/"):
            return f"{ours} is isolauncher's own"
    return None


def refuse_write(path: str, protected: Iterable[str]) -> str | None:
    """Why no activity may write ``path``, or None. Looks at names only.

    Whoever mounts a path asks again about what it turned out to be: a symbolic link
    outside can lead anywhere.
    """
    if path == "/":
        return "it holds everything"
    if path == "/etc" or path.startswith("/etc/"):
        return "/etc rules the machine, policies included"
    for ours in (*protected, *MADE_BY_US):
        if path == ours or path.startswith(ours + "/") or ours.startswith(path + "/"):
            return f"it holds or lies in {ours}, which isolauncher relies on"
    return None


def made_anew(path: str) -> str | None:
    """Why the host's ``path`` is no activity's: it has its own there; or None."""
    for ours in MADE_BY_US:
        if path == ours or path.startswith(ours + "/"):
            return f"it lies in {ours}, which every activity has anew"
    return "every activity has its own" if path in MADE_PATHS else None
