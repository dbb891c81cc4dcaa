# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of forkserver.py that is a program: what comes before it was preloaded.

Told "one" on its standard input, it answers with nanoseconds, from `Process.start`
until the byte that the child sends can be read.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

PATIENCE_S = 60


def first_byte(writer: Connection) -> None:
    """In the child, where all is imported."""
    writer.send_bytes(b"x")


def serve() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    for _ in sys.stdin:
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=first_byte, args=(writer,))
        started = time.perf_counter_ns()
        child.start()
        reader.poll(PATIENCE_S)
        taken = time.perf_counter_ns() - started
        told = reader.recv_bytes() == b"x"
        child.join()
        reader.close()
        writer.close()
        print(taken if told else "no byte came", flush=True)
    # The server and its resource tracker end with their ways to us.
    os._exit(0)


if __name__ == "__main__":
    serve()
