# SPDX-License-Identifier: GPL-3.0-or-later
"""What forkserver.py has run, as a module; its words are PRELOADED MODULE ...

MODULE ... are what PRELOADED imports. Told "one" on its standard input, it answers with
nanoseconds, from `Process.start` until the child sends its byte.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

PATIENCE_S = 50


def first_byte(writer: Connection, modules: list[str]) -> None:
    """In the child: what it lacks of the server's, or has too much, is told instead."""
    missing = [name for name in modules if name not in sys.modules]
    if sys.modules["__main__"].__name__ != "__main__":
        missing.append("sparing it the program")
    writer.send_bytes(", ".join(missing).encode() or b"x%d" % time.monotonic_ns())


def serve() -> None:
    preloaded, *modules = sys.argv[1:]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded, __name__])
    for _ in sys.stdin:
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=first_byte, args=(writer, modules))
        started = time.monotonic_ns()
        child.start()
        if not reader.poll(PATIENCE_S):
            print("no byte came in time", flush=True)
            break
        told = reader.recv_bytes()
        child.join()
        reader.close()
        writer.close()
        written = told.removeprefix(b"x")
        lacks = f"without {told.decode()}"
        print(int(written) - started if written.isdigit() else lacks, flush=True)
    # The server and its resource tracker end with their ways to us.
    os._exit(0)
