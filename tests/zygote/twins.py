# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one program twice: by a cold start, and forked from a zygote (bootstrap.py).

A zygote is started once for all programs that want the same preloaded, as the real one
is; what a test spoils in it is spoilt in a child that does the rest of its work.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolauncher.zygote import sets

PYTHON = "/usr/bin/python3"
BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap.py"
# Where root, too, can make none: dconf would.
NO_HOME = "/dev/null/home"
ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": NO_HOME, "PATH": "/usr/bin:/bin"}
ZYGOTE_ENVIRONMENT = {"LC_CTYPE": "C.UTF-8", "HOME": NO_HOME, "PAD": "x" * 4096}
PATIENCE_S = 50


@dataclass(frozen=True)
class Ended:
    status: int
    out: bytes
    err: bytes

    def json(self) -> Any:
        assert self.status == 0, self.err.decode()
        return json.loads(self.out)


def run(
    command: list[str], environment: dict[str, str], cwd: str, stdin: bytes | None
) -> Ended:
    done = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        capture_output=True,
        timeout=PATIENCE_S,
        **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}),
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def cold(
    *argv: str,
    environment: dict[str, str] = ENVIRONMENT,
    cwd: str = "/",
    stdin: bytes | None = None,
) -> Ended:
    return run([PYTHON, *argv], environment, cwd, stdin)


class Zygote:
    """What has imported its list, and does the rest in a child for each program."""

    def __init__(self, told: dict[str, Any], **person: Any) -> None:
        """``person``: for Popen, whose it is to be."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(PATIENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [PYTHON, str(BOOTSTRAP), json.dumps(told)],
                env=ZYGOTE_ENVIRONMENT,
                cwd="/",
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                **person,
            )

    def run(self, told: dict[str, Any], stdin: bytes | None) -> Ended:
        """As `run`, of which this is the twin: pipes, each read to its end."""
        source, feed = (os.open(os.devnull, os.O_RDONLY), -1)
        if stdin is not None:
            os.close(source)
            source, feed = os.pipe()
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        try:
            message = json.dumps(told).encode()
            socket.send_fds(self.channel, [message], [source, their_out, their_err])
        finally:
            for fd in (source, their_out, their_err):
                os.close(fd)
        feeder = threading.Thread(target=_feed, args=(feed, stdin))
        feeder.start()
        text = _to_the_end(out, err)
        feeder.join()
        status = self.channel.recv(64)
        assert status, "the zygote has ended"
        return Ended(int(status), *text)

    def end(self) -> None:
        self.channel.close()
        self.process.wait(PATIENCE_S)


def _feed(fd: int, data: bytes | None) -> None:
    if data is not None:
        try:
            with open(fd, "wb") as pipe:
                pipe.write(data)
        except BrokenPipeError:
            pass  # it did not want to read more


def _to_the_end(*fds: int) -> list[bytes]:
    texts = {fd: b"" for fd in fds}
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(PATIENCE_S)
            assert ready, f"no output and no end of it: {texts}"
            for key, _ in ready:
                block = os.read(key.fd, 1 << 16)
                texts[key.fd] += block
                if not block:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return list(texts.values())


@functools.cache
def zygote(wanted: str) -> Zygote:
    made = Zygote(json.loads(wanted))
    atexit.register(made.end)
    return made


def forked(
    *argv: str,
    environment: dict[str, str] = ENVIRONMENT,
    cwd: str = "/",
    stdin: bytes | None = None,
    umask: int | None = None,
    preload: list[str] | None = None,
    path: list[str] | None = None,
    **told: Any,
) -> Ended:
    kind = "script"
    if argv[0] == "-m":
        kind, argv = "module", argv[1:]
    told["start"] = {
        "kind": kind,
        "program": argv[0],
        "arguments": argv[1:],
        "environment": environment,
        "cwd": cwd,
        "umask": umask,
    }
    wanted = json.dumps({"preload": preload, "path": path or []})
    return zygote(wanted).run(told, stdin)


def start(
    *argv: str, environment: dict[str, str] = ENVIRONMENT, cwd: str = "/"
) -> dict[str, Any]:
    """The fields of a `Start` of a script."""
    return {
        "kind": "script",
        "program": argv[0],
        "arguments": argv[1:],
        "environment": environment,
        "cwd": cwd,
    }


def both(*argv: str, **how: Any) -> tuple[Ended, Ended]:
    return cold(*argv, **how), forked(*argv, **how)


@contextmanager
def sugared(**person: Any) -> Iterator[Zygote]:
    """A person's own, with all of the set sugar3."""
    started = Zygote({"preload": [*sets.SUGAR3]}, **person)
    try:
        yield started
    finally:
        started.end()
