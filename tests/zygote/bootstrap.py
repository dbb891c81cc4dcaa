# SPDX-License-Identifier: GPL-3.0-or-later
"""A zygote without sandbox or daemon, for tests: preloads, forks, hands over, runs.

Started as the real one is, its channel is descriptor 0. Its one argument is JSON:
``preload`` and ``path`` (more entries of sys.path for planted modules). It imports them
and does no more; each message, with three descriptors for the standard streams, is for
a child of its own, which does the rest that a zygote does: ``start`` (the fields of
`Start`), ``plant`` (code run before it settles: what it spoils the hand-over must
mend), ``without`` (modules of the hand-over left out), ``children`` (how many, one
after the other), ``first`` (a `Start` that was handed over to before), ``warm`` (and
warmed then, with icons that were drawn), ``before`` (code that a warmed child runs
while it waits), ``stop`` (end where a launch would wait for its "go"). The answer is
the last child's status.
"""

import sys

TOP = __file__.rpartition("/tests/")[0] if "/tests/" in __file__ else sys.argv[2]
if not sys.argv[0].startswith("/proc/self/fd/"):
    sys.path[0] = TOP
    sys.argv.append(TOP)
    from isolauncher.zygote import unseen

    unseen.become(__file__)

COLD = (tuple(sys.modules), tuple(sys.path[1:]), tuple(sys.path_importer_cache))
sys.path[0] = TOP
from isolauncher.zygote import gathering, noting  # noqa: E402

noting.begin()
gathering.begin()
from isolauncher.zygote import (  # noqa: E402
    handover,
    preload,
    program,
    sets,
    unseen,
    warm,
)

unseen.close_image(sys.argv[0])


def zygote():
    import json
    import os
    import socket

    unseen.prove()
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)
    told = json.loads(sys.argv[1])
    pristine = handover.Pristine.capture(*COLD)
    names = told.get("preload")
    names = sets.PYTHON if names is None else names
    sys.path[1:1] = told.get("path", [])
    kept = gathering.names(names)
    report = preload.preload(
        names, pristine=pristine, expected_fds=(0, 1, 2, channel.fileno())
    )
    del kept
    gathering.end()
    gathering.specs(map(sys.modules.get, report.world.shelved))
    if report.unfit:
        raise SystemExit(f"unfit: {report.unfit}")
    while True:
        data, ancillary, _, _ = channel.recvmsg(1 << 17, 64)
        if not data:
            os._exit(0)
        rights = ancillary[0][2]
        fds = [int.from_bytes(rights[n : n + 4], sys.byteorder) for n in (0, 4, 8)]
        pid = os.fork()
        if not pid:
            channel.close()
            return settled(json.loads(data), report, fds)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        channel.send(b"%d" % os.waitstatus_to_exitcode(status))


def as_start(fields):
    return handover.Start(**{**fields, "arguments": tuple(fields["arguments"])})


def read(start, world):
    try:
        return program.prepare(start, world)
    except handover.Fresh:
        import os

        handover.signals.for_exec()
        words = [sys.executable, start.program, *start.arguments]
        os.execve(words[0], words, start.environment)


def settled(told, report, fds):
    import gc
    import os

    if told.get("plant"):
        exec(told["plant"], {})  # noqa: S102
    without = told.get("without", [])
    for module in handover.ORDER:
        if module.__name__.rpartition(".")[2] in without:
            module.apply = lambda start, world: None
            for more in ("begin", "RENEW"):
                if hasattr(module, more):
                    delattr(module, more)
            # This one's only counts, and without its count there is no hand-over.
            if hasattr(module, "settle") and module is not handover.modules:
                del module.settle
    world = handover.settle(report.world)
    if told.get("warm"):
        handover.pictures.draw(world, None)
    handover.begin(world)
    gc.collect()
    gc.freeze()
    start = as_start(told["start"])
    handover.streams.before_fork()
    for _ in range(told.get("children", 1)):
        pid = os.fork()
        if not pid:
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            if told.get("first"):
                first = as_start(told["first"])
                handover.run(first, world)
                if told.get("warm"):
                    lacks = warm.warm(first, world)
                    known = {
                        "lacks": lacks,
                        "gtk": handover.gtk,
                        "pictures": handover.pictures,
                    }
                    exec(told.get("before", ""), known)  # noqa: S102
            handover.run(start, world)
            prepared = read(start, world)
            if told.get("stop"):
                os._exit(0)
            return prepared
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
    if code < 0:
        import signal

        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


program.load(zygote())()
