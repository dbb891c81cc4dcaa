# SPDX-License-Identifier: GPL-3.0-or-later
"""``standalone.py BOARD TOP [OPTION…]``: ``isolauncher run --standalone``, spoilt.

TOP holds run, state and policies. Only the first daemon looks at the board: what gives
back after one that was killed must be the product's own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))

import isolauncher  # noqa: E402

isolauncher.__path__.append(os.path.dirname(HERE))

from isolauncher import config, pool, serving  # noqa: E402
from isolauncher.cli import main  # noqa: E402
from isolauncher.spoilt.board import Board  # noqa: E402
from isolauncher.spoilt.kernel import Spoilt  # noqa: E402

BOARD, TOP = sys.argv[1:3]


def load() -> config.Config:
    settings = loaded(
        socket=f"{TOP}/run/socket",
        state_dir=f"{TOP}/state",
        policy_dir=f"{TOP}/policies",
    )
    # Not what tests beside this one use: a uid that a process has, whoever's it is, is
    # not given back.
    first = 90000 + 1000 * int(os.environ.get("ISOLAUNCHER_LANE", "0"))
    return replace(settings, uids=replace(settings.uids, first=first, last=first + 999))


def command(set_name: str) -> tuple[str, ...]:
    return (pool.INTERPRETER, os.path.join(HERE, "zygote.py"), BOARD)


def start(settings: config.Config):  # type: ignore[no-untyped-def]
    serving.start_standalone = started
    made = Spoilt(Board(BOARD), "daemon")

    def become() -> None:
        became()
        made.pid = os.getpid()

    serving._become_standalone = become
    try:
        return started(settings, command=command, linux=made.as_kernel())
    finally:
        serving._become_standalone = became


loaded, config.load = config.load, load
started, serving.start_standalone = serving.start_standalone, start
became = serving._become_standalone
sys.exit(main.main(["run", "--standalone", *sys.argv[3:]]))
