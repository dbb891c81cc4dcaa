# SPDX-License-Identifier: GPL-3.0-or-later
"""bootstrap.py once more, with a spoilt kernel; its one argument is the board's file.

The same shape, line for line: started with no flags, it looks at the interpreter
before anything is imported, starts again unseen, and its last line runs the program.
"""

import sys

if not sys.argv[0].startswith("/proc/self/fd/"):
    sys.path[0] = __file__.rpartition("/tests/support/")[0]
    sys.argv.append(sys.path[0])
    from isolauncher.zygote import unseen

    unseen.become(__file__)

COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = sys.argv[2]
from isolauncher.zygote import program, serve  # noqa: E402


def spoilt():
    import isolauncher

    # As a part of the package: a program must not find the test's modules either.
    isolauncher.__path__.append(sys.argv[2] + "/tests/support")
    from isolauncher.spoilt import less
    from isolauncher.spoilt.board import Board
    from isolauncher.spoilt.kernel import Spoilt

    board = Board(sys.argv[1])
    less.leave_out_as_told(board)
    made = Spoilt(board, "zygote")
    return lambda: made.as_kernel()


program.load(serve.main(COLD, sys.argv, spoilt()))()
