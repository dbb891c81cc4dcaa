# SPDX-License-Identifier: GPL-3.0-or-later
"""``daemon.py BOARD [OPTION…]``: ``isolauncher daemon`` with a spoilt kernel.

STAND_INS in the environment names a directory of devices (see ../devices.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[0] = TOP

import isolauncher  # noqa: E402

isolauncher.__path__.append(os.path.dirname(HERE))

from isolauncher import config, devices, pool, serving  # noqa: E402
from isolauncher.cli import main  # noqa: E402
from isolauncher.spoilt import less, plans  # noqa: E402
from isolauncher.spoilt.board import Board  # noqa: E402
from isolauncher.spoilt.kernel import Spoilt  # noqa: E402


def command(set_name: str) -> tuple[str, ...]:
    return (pool.INTERPRETER, os.path.join(HERE, "zygote.py"), BOARD)


def serve(settings: config.Config) -> int:
    board = Board(BOARD)
    made = Spoilt(board, "daemon").as_kernel()
    plans.bend_as_told(board)
    less.look_away_as_told(board)
    return real(settings, command=command, linux=made)


if STAND_INS := os.environ.get("STAND_INS"):
    sys.path.append(os.path.join(TOP, "tests"))
    from support.devices import StandIns

    devices.KINDS = StandIns(Path(STAND_INS)).kinds
BOARD = sys.argv.pop(1)
real = serving.main
serving.main = serve  # type: ignore[assignment]
sys.exit(main.main(["daemon", *sys.argv[1:]]))
