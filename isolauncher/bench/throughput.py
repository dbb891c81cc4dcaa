# SPDX-License-Identifier: GPL-3.0-or-later
"""How many launches a second, asked for by several clients at once.

Each client is a process that launches a script which only writes its byte, waits until
that has ended and all of it is given back, and launches again. The reference has as
many sandboxes under way, and gives them back as well. The two take turns.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import DaemonError
from . import contenders, daemons, forks, lacks, machine, reference, scripts
from .figures import Spread
from .patience import read
from .turns import in_turns

ROUNDS = 3
CLIENTS = 8
MEASURED = ("pool", "demand", contenders.REFERENCE)
"""Who can have several under way; the others have no say in how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Launches a second: of each contender by the number of clients, one each turn.

    ``ways`` counts how those of each came, by the daemon's own figures.
    """

    launches: int
    rates: Mapping[int, Mapping[str, Spread]]
    ways: Mapping[int, Mapping[str, Mapping[str, int]]]
    missing: lacks.Lacks
    others: tuple[str, ...]
    load: tuple[list[float], list[float]]

    def median(self, clients: int, name: str) -> float:
        return self.rates[clients][name].median

    def as_data(self) -> dict[str, object]:
        return {
            "unit": "launches per second",
            "launches": self.launches,
            "load": list(self.load),
            **lacks.as_data(self.missing),
            "not_measured": list(self.others),
            "clients": {
                str(clients): {
                    name: {
                        "median": round(self.median(clients, name), 2),
                        "rounds": [round(rate, 2) for rate in spread.samples],
                        "ways": dict(self.ways[clients].get(name, {})),
                    }
                    for name, spread in rates.items()
                }
                for clients, rates in self.rates.items()
            },
        }


def measure(
    kit: contenders.Kit,
    clients: int,
    launches: int,
    seed: int,
    progress: Callable[[str], None],
) -> Throughput:
    """With one client and with ``clients``; ``launches`` are those of a round."""
    imports = scripts.LISTS["nothing"]
    script = scripts.write(kit.top, imports)
    before = machine.load()
    missing = {n: lack for n, lack in kit.missing.items() if n in MEASURED}
    timed: dict[str, Callable[[int], float]] = {}
    sockets: dict[str, str] = {}
    rates: dict[int, dict[str, Spread]] = {}
    ways: dict[int, dict[str, Counter[str]]] = {}

    def rate(name: str, count: int) -> float:
        already = _ways(sockets.get(name))
        found = launches / timed[name](count)
        came = ways[count].setdefault(name, Counter())
        came.update(_ways(sockets.get(name)) - already)
        return found

    def told(count: int) -> Callable[[int], None]:
        return lambda done: progress(f"{count} clients {done}/{ROUNDS}")

    with ExitStack() as stack:
        for name, where in (("pool", kit.ahead), ("demand", kit.demand)):
            if where is not None and name in kit.wanted:
                timed[name] = _by_clients(where.socket, script, launches)
                sockets[name] = where.socket
        if kit.reference_program is not None:
            with lacks.noted(missing, contenders.REFERENCE):
                timed[contenders.REFERENCE] = _by_reference(
                    kit, kit.reference_program, imports, launches, stack
                )
        for count in dict.fromkeys((1, clients)):
            ways[count] = {}
            rates[count] = in_turns(
                {n: partial(rate, n, count) for n in timed if n not in missing},
                ROUNDS,
                seed=seed,
                warm_up=1,
                rest=kit.rest,
                begun=ways[count].clear,
                progress=told(count),
                failed=missing,
            )
    whole = [name for name in timed if name not in missing]
    if not whole:
        raise lacks.nothing(missing)
    return Throughput(
        launches=launches,
        rates={n: {name: of[name] for name in whole} for n, of in rates.items()},
        ways=ways,
        missing=missing,
        others=tuple(n for n in contenders.NAMES if n in kit.wanted - set(MEASURED)),
        load=(before, machine.load()),
    )


def _ways(where: str | None) -> Counter[str]:
    """How many launches of a daemon have come which way so far."""
    launches = daemons.ask_stats(where)["launches"] if where is not None else {}
    assert isinstance(launches, dict)  # noqa: S101 (for the type checker)
    return Counter({way: of["count"] for way, of in launches.items()})


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
        with ExitStack() as stack:
            ready, is_ready, waits, go = (
                stack.enter_context(open(fd, mode, buffering=0))
                for ends in (os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC))
                for fd, mode in zip(ends, ("rb", "wb"), strict=True)
            )

            def act(share: int) -> int:
                go.close()
                is_ready.write(b".")
                waits.read(1)
                for _ in range(share):
                    contenders.from_daemon(where, script)
                return 0

            pids: list[int] = []
            # Whatever fails here, none of them is left.
            stack.callback(_end, pids)
            for number in range(clients):
                share = launches // clients + (number < launches % clients)
                pids.append(forks.fork(partial(act, share), _complain))
            is_ready.close()
            missing = clients
            while missing:
                came = read(ready.fileno(), "a client")
                if not came:
                    raise DaemonError("a client ended", code="bench-failed")
                missing -= len(came)
            started = time.perf_counter()
            go.close()
            statuses = [os.waitpid(pids.pop(), 0)[1] for _ in range(clients)]
            taken = time.perf_counter() - started
        if any(statuses):
            raise DaemonError("a client's launch failed", code="bench-failed")
        return taken

    return take


def _end(pids: list[int]) -> None:
    for pid in pids:
        forks.end(pid)


def _complain(line: str) -> None:
    forks.complain(f"isolauncher bench: {line}")
