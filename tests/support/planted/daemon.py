# SPDX-License-Identifier: GPL-3.0-or-later
"""``daemon.py DIRECTORY [OPTION…]``: ``isolauncher daemon`` with planted modules."""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))

from isolauncher import config, pool, serving  # noqa: E402
from isolauncher.cli import main  # noqa: E402


def command(set_name: str) -> tuple[str, ...]:
    return (pool.INTERPRETER, os.path.join(HERE, "zygote.py"), PLANTED)


def serve(settings: config.Config) -> int:
    return real(settings, command=command)


PLANTED = sys.argv.pop(1)
# As in zygote.py: one of them may hang where no alarm is heard.
pool.LOOKS_ENTRY = 6
real = serving.main
serving.main = serve  # type: ignore[assignment]
sys.exit(main.main(["daemon", *sys.argv[1:]]))
