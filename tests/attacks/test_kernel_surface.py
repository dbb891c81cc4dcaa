# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls, sockets, terminals and files of the kernel that are no program's business."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios

import pytest
from support.attacks import REFUSED, TIERS, attack, script, unrefused
from support.daemons import PATIENCE_S, Service

CALLERS = (12345, 0)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_the_rest_of_the_kernel_is_closed(daemon: Service, tier: str, uid: int) -> None:
    place = daemon.top / f"disk-{tier}-{uid}"
    place.mkdir(exist_ok=True)
    os.chown(place, uid, uid)
    # A directory of the host's disk that it may write is not the disk.
    policy = daemon.policy(
        place.name,
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nwrite = ["{place}"]\n',
    )
    done = attack(daemon, "surface", str(place), tier=tier, uid=uid, policy=policy)
    assert unrefused(done["refused"]) == {}  # type: ignore[arg-type]
    families = REFUSED | {"EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"}
    assert unrefused(done["sockets"], families) == {}  # type: ignore[arg-type]
    nothing = REFUSED | {"ENOTTY", "EOPNOTSUPP", "EROFS", "EINVAL", "EBADF"}
    assert unrefused(done["whole"], nothing) == {}  # type: ignore[arg-type]
    refused = REFUSED | {"ESRCH", "EROFS", "ENOENT", "write EPERM", "write EACCES"}
    assert unrefused(done["other"], refused) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("lead", [True, False])
def test_nothing_can_be_typed_into_the_callers_terminal(
    daemon: Service, tier: str, lead: bool
) -> None:
    """``lead``: the terminal belongs to the caller's session, or to nobody's."""
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~(termios.ECHO | termios.ICANON)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)

    def take_terminal() -> None:
        os.setsid()
        if lead:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    client = daemon.start_client(
        *("run", "--tier", tier, "--", script(daemon, "terminal")),
        uid=12345,
        stdin=slave,
        prepare=take_terminal,
    )
    try:
        out, err = client.communicate(timeout=PATIENCE_S)
        assert client.returncode == 0, err
        done = json.loads(out)
        nothing = REFUSED | {"ENOTTY", "ENXIO", "ENOENT", "EIO", "EBADF", "EINVAL"}
        answers = done["refused"]
        if not lead:
            # A terminal that is nobody's may be taken; typing into it may not.
            taken = {
                answers.pop("leader TIOCSCTTY"),
                answers.pop("leader open /dev/tty"),
            }
            assert taken <= {"ok", "ENOENT", "EPERM"}
            answers.pop("leader TIOCSCTTY steal")
        assert unrefused(answers, nothing) == {}
        assert (done["own"], done["tty"]) == ({"own terminal": "ok"}, 0)
        waiting = fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4)
        assert int.from_bytes(waiting, sys.byteorder) == 0
        discipline = fcntl.ioctl(slave, termios.TIOCGETD, b"\0" * 4)
        assert int.from_bytes(discipline, sys.byteorder) == 0
    finally:
        os.close(master)
        os.close(slave)
