# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of forkserver.py: PRELOADED MODULE ..., which that module imports.

Told "one" on its standard input, it answers with nanoseconds, from `Process.start`
until the byte that the child sends can be read.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

PATIENCE_S = 60


def first_byte(writer: Connection, modules: list[str]) -> None:
    """In the child: what the server has not preloaded is told instead."""
    missing = [name for name in modules if name not in sys.modules]
    writer.send_bytes(", ".join(missing).encode() or b"x")


def serve(preloaded: str, modules: list[str]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    for _ in sys.stdin:
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=first_byte, args=(writer, modules))
        started = time.perf_counter_ns()
        child.start()
        reader.poll(PATIENCE_S)
        taken = time.perf_counter_ns() - started
        told = reader.recv_bytes()
        child.join()
        reader.close()
        writer.close()
        lacks = f"without {told.decode()}"
        print(taken if told == b"x" else lacks, flush=True)
    # The server and its resource tracker end with their ways to us.
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
