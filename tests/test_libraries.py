# SPDX-License-Identifier: GPL-3.0-or-later
"""What libraries ask of a machine that activities use which Debian does not have.

Small programs that do what pygame, SDL and others do; docs/sugar.md has the activities
that were tried.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.daemons import Service
from support.powers import need, sandboxes

ASKS_LIBDBUS = """
import ctypes
dbus = ctypes.CDLL("libdbus-1.so.3")
dbus.dbus_get_local_machine_id.restype = ctypes.c_char_p
print(dbus.dbus_get_local_machine_id().decode())
"""


@pytest.mark.parametrize("policy", ["default", "untrusted", "sugar"])
def test_libdbus_gets_a_machine_id_which_says_nothing_of_the_machine(
    daemon: Service, policy: str
) -> None:
    """SDL asks at its start (src/core/linux/SDL_ibus.c), and aborts without one."""
    need(sandboxes())
    asks = daemon.script("asks.py", ASKS_LIBDBUS)
    said = [daemon.run("--policy", policy, "--", asks) for _ in range(2)]
    assert [(done.status, done.errors) for done in said] == [(0, "")] * 2
    assert said[0].text == said[1].text
    assert len(said[0].text) == 32 + 1
    own = Path("/etc/machine-id")
    assert not own.exists() or said[0].text != own.read_text()
