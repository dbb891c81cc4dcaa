# SPDX-License-Identifier: GPL-3.0-or-later
"""How many launches a second, asked for by several clients at once.

Each client is a process that launches a script which only writes its byte, waits until
that has ended and all of it is given back, and launches again. The reference has as
many sandboxes under way, and gives them back as well. The two take turns.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import DaemonError, HostError, IsolauncherError
from . import contenders, machine, reference, scripts

ROUNDS = 3
CLIENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Launches a second: of each contender by the number of clients, one a round."""

    launches: int
    rates: Mapping[int, Mapping[str, list[float]]]
    missing: Mapping[str, str]
    load: tuple[list[float], list[float]]

    def median(self, clients: int, name: str) -> float:
        return statistics.median(self.rates[clients][name])

    def as_data(self) -> dict[str, object]:
        return {
            "unit": "launches per second",
            "launches": self.launches,
            "load": list(self.load),
            "left_out": dict(self.missing),
            "clients": {
                str(clients): {
                    name: {
                        "median": round(self.median(clients, name), 2),
                        "rounds": [round(rate, 2) for rate in rounds],
                    }
                    for name, rounds in rates.items()
                }
                for clients, rates in self.rates.items()
            },
        }


def measure(
    kit: contenders.Kit,
    clients: int,
    launches: int,
    progress: Callable[[str], None],
) -> Throughput:
    """With one client and with ``clients``; ``launches`` are those of a round."""
    imports = scripts.LISTS["nothing"]
    script = scripts.write(kit.top, imports)
    before = machine.load()
    rates: dict[int, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        missing = dict(kit.missing)
        timed: dict[str, Callable[[int], float]] = {}
        for name, where in (("pool", kit.ahead), ("demand", kit.demand)):
            if where is not None and name in kit.wanted:
                timed[name] = _by_clients(where.socket, script, launches)
        if kit.reference_program is not None:
            try:
                timed[contenders.REFERENCE] = _by_reference(
                    kit, kit.reference_program, imports, launches, stack
                )
            except IsolauncherError as error:
                missing[contenders.REFERENCE] = contenders.why(error)
        if not timed:
            why = "; ".join(f"{n}: {w}" for n, w in missing.items())
            raise HostError(f"nothing can be measured: {why}", code="bench-nothing")
        for count in dict.fromkeys((1, clients)):
            of = rates.setdefault(count, {name: [] for name in timed})
            for number in range(ROUNDS):
                for name, take in timed.items():
                    kit.rest()
                    of[name].append(launches / take(count))
                progress(f"{count} clients {number + 1}/{ROUNDS}")
    return Throughput(
        launches=launches,
        rates=rates,
        missing=missing,
        load=(before, machine.load()),
    )


def _by_reference(
    kit: contenders.Kit,
    program: Path,
    imports: scripts.Imports,
    launches: int,
    stack: ExitStack,
) -> Callable[[int], float]:
    of = kit.plan(imports)
    made = stack.enter_context(reference.running(program, kit.top, of))
    reference.prove_same(made, of)
    return lambda clients: made.many(clients, launches)


def _by_clients(where: str, script: Path, launches: int) -> Callable[[int], float]:
    """A call that takes the number of clients and returns seconds."""

    def take(clients: int) -> float:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        pids = []
        for number in range(clients):
            share = launches // clients + (number < launches % clients)
            pid = os.fork()
            if pid == 0:
                os.close(go_write)
                _be_client(where, script, share, ready_write, go_read)
            pids.append(pid)
        for fd in (ready_write, go_read):
            os.close(fd)
        for _ in pids:
            os.read(ready_read, 1)
        os.close(ready_read)
        started = time.perf_counter()
        os.close(go_write)
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        taken = time.perf_counter() - started
        if any(statuses):
            raise DaemonError("a client's launch failed", code="bench-failed")
        return taken

    return take


def _be_client(where: str, script: Path, share: int, ready: int, go: int) -> None:
    """Never returns."""
    status = 1
    try:
        os.write(ready, b".")
        os.read(go, 1)
        for _ in range(share):
            contenders.from_daemon(where, script)
        status = 0
    except BaseException as error:
        os.write(2, f"isolauncher bench: {error}\n".encode())
    finally:
        os._exit(status)
