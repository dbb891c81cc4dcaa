# SPDX-License-Identifier: GPL-3.0-or-later
"""bootstrap.py once more, with more on its path and in its set."""

import sys

if not sys.argv[0].startswith("/proc/self/fd/"):
    sys.path[0] = __file__.rpartition("/tests/support/")[0]
    sys.argv.append(sys.path[0])
    from isolauncher.zygote import unseen

    unseen.become(__file__)

PATH = (*sys.path[1:], sys.argv[1])
COLD = (tuple(sys.modules), PATH, tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[2]
from isolauncher.zygote import noting  # noqa: E402

noting.begin()
from isolauncher.zygote import program, serve  # noqa: E402


def listed(name):
    """The words of a file beside what is planted, if there is one."""
    import os

    try:
        with open(os.path.join(sys.argv[1], name)) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def plant():
    import os

    from isolauncher.zygote import preload, sets

    names = sorted(n[:-3] for n in os.listdir(sys.argv[1]) if n.endswith(".py"))
    sets.SETS["python"] = (*sets.SETS["python"], *names, *listed("also"))
    hidden = listed("lacking")
    really = preload._absent

    def absent(name):
        top = name.partition(".")[0]
        return f"{top} is not installed" if top in hidden else really(name)

    preload._absent = absent
    # One of them may hang, and nobody else takes as long.
    preload.preload.__kwdefaults__["time_limit_s"] = 3.0


plant()
program.load(serve.main(COLD, sys.argv))()
