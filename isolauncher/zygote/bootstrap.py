# SPDX-License-Identifier: GPL-3.0-or-later
"""The script of a zygote, and the lowest frame of every program forked from it.

Exec'ed as ``/usr/bin/python3 /abs/bootstrap.py`` with no flags, nothing of the
daemon's environment and its channel as descriptor 0. Everything it does is in serve.py;
here stands only what must: the look at the interpreter before anything is imported, and
the last line, from which a program runs in a forked child as in a fresh interpreter.
"""

import sys

if not sys.argv[0].startswith("/proc/self/fd/"):
    # The package's parent, for our own imports only; serve.py takes it out again.
    sys.path[0] = __file__.rpartition("/isolauncher/zygote/")[0]
    sys.argv.append(sys.path[0])
    from isolauncher.zygote import unseen

    # Start again on this script compiled so that its frame is not shown.
    unseen.become(__file__)

COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[1]
from isolauncher.zygote import gathering, noting  # noqa: E402

noting.begin()
gathering.begin()
from isolauncher.zygote import program, serve  # noqa: E402

program.load(serve.main(COLD, sys.argv))()
