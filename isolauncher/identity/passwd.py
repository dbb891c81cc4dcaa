# SPDX-License-Identifier: GPL-3.0-or-later
"""passwd and its like, as an activity sees them in the place of this machine's."""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}", re.ASCII)
_PATH = re.compile(r"/[^:\x00-\x1f\x7f]{0,1023}")


class Views(NamedTuple):
    """Files of /etc as an activity sees them."""

    passwd: bytes
    group: bytes
    nsswitch: bytes
    hosts: bytes


def views(
    *,
    inner_uid: int,
    inner_gid: int,
    name: str,
    home: str,
    shell: str,
    hostname: str = "",
    mixes_sound: bool = False,
) -> Views:
    """root, nobody and the inner user; nobody else of this machine.

    ``name`` comes from the caller's machine and may hold anything: a name outside
    the grammar, or one of the two others' names, becomes ``user``. ``mixes_sound``: its
    group is called audio as well, whose name alsa-lib asks for before it mixes what
    several programs play (alsa.conf, defaults.pcm.ipc_gid).
    """
    if name in {"root", "nobody", "nogroup"} or not _NAME.fullmatch(name):
        name = {0: "root", 65534: "nobody"}.get(inner_uid, "user")
    home = home if _PATH.fullmatch(home) else "/"
    shell = shell if _PATH.fullmatch(shell) else "/bin/sh"
    users = {
        0: "root:x:0:0::/:/usr/sbin/nologin",
        65534: "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
    }
    users[inner_uid] = f"{name}:x:{inner_uid}:{inner_gid}::{home}:{shell}"
    groups = {0: "root:x:0:", 65534: "nogroup:x:65534:"}
    groups.setdefault(inner_gid, f"{name}:x:{inner_gid}:")
    group = _lines(groups) + (f"audio:x:{inner_gid}:\n" if mixes_sound else "").encode()
    host = f"127.0.1.1 {hostname}\n" if _NAME.fullmatch(hostname) else ""
    return Views(
        passwd=_lines(users),
        group=group,
        nsswitch=b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
        b"protocols: files\nservices: files\n",
        hosts=f"127.0.0.1 localhost\n::1 localhost\n{host}".encode(),
    )


def _lines(table: dict[int, str]) -> bytes:
    return ("\n".join(table[number] for number in sorted(table)) + "\n").encode()
