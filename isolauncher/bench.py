# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch latency, measured: from the zygote, and as bubblewrap with a cold start.

Here is what is measured and how; how it is shown is in cli/bench.py. The daemons that
are measured are started for the purpose, in directories of their own, and ended again:
neither this machine's daemon nor its ledger nor its administrator's policies are
touched. Nothing here is on the way of a launch.

There are three contenders: a daemon as it is set up without being told anything, which
prepares rooms ahead; one that makes every sandbox on demand; and bubblewrap. Each runs
one script that imports twenty modules and then writes a byte to a pipe. A launch is
timed from just before it is asked for (the client's connection stands, its next act is
to send; or: just before bwrap is started) until that byte can be read here. They take
turns, and the order changes with each round, so that whatever else the machine does
falls on all. Nobody is timed before both daemons are at rest: what one prepares for
its next launch would slow the others down, and is in no launch's time.
"""

from __future__ import annotations

import os
import platform
import select
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import client, wire
from .config import Config, RoomsAhead
from .errors import COULD_NOT_LAUNCH, DaemonError, HostError, IsolauncherError
from .paths import vendor_policies

MODULES = (
    "argparse",
    "asyncio",
    "collections",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "email",
    "hashlib",
    "http.client",
    "json",
    "logging",
    "pathlib",
    "random",
    "re",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib.request",
)

PAIRS = 50
WARM_UP = 3
PATIENCE_S = 60
PYTHON = "/usr/bin/python3"
CONFINED = (
    *("--unshare-all", "--ro-bind", "/", "/"),
    *("--proc", "/proc", "--dev", "/dev", PYTHON),
)
# Both get the same one, so that neither interpreter pays for another locale.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

SCRIPT = f"""\
import os
import {", ".join(MODULES)}
os.write(1, b"x")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A contender's times in milliseconds, in the order they were measured."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def at(self, share: float) -> float:
        """The value that ``share`` of the samples do not exceed (nearest rank)."""
        ordered = sorted(self.samples)
        return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]

    def as_data(self) -> dict[str, object]:
        return {
            "median": round(self.median, 3),
            "min": round(min(self.samples), 3),
            "max": round(max(self.samples), 3),
            "p90": round(self.at(0.9), 3),
            "samples": [round(s, 3) for s in self.samples],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `quick` measured, on what, and what was in force meanwhile.

    ``reports`` are those of ``isolauncher``'s launches, as ``run --report`` writes
    them.
    """

    machine: Mapping[str, object]
    isolauncher: Spread
    on_demand: Spread
    bubblewrap: Spread
    reports: Sequence[Mapping[str, object]]

    @property
    def ratio(self) -> float:
        return self.bubblewrap.median / self.isolauncher.median

    @property
    def ratios(self) -> Spread:
        """Pair by pair: bubblewrap's time over ours."""
        pairs = zip(self.bubblewrap.samples, self.isolauncher.samples, strict=True)
        return Spread(samples=tuple(theirs / ours for theirs, ours in pairs))

    def ways(self) -> Mapping[str, int]:
        """How many of ``isolauncher``'s launches came which way."""
        found: Counter[str] = Counter()
        for report in self.reports:
            activity = report["activity"]
            assert isinstance(activity, dict)  # noqa: S101 (for the type checker)
            found[str(activity["path"])] += 1
        return found

    def phases(self) -> dict[str, int]:
        """The median of each of the report's ``timings_us``."""
        timings = [r["timings_us"] for r in self.reports]
        first = timings[0]
        return {
            name: round(statistics.median(t[name] for t in timings))  # type: ignore[index]
            for name in (first if isinstance(first, dict) else ())
        }

    def as_data(self) -> dict[str, object]:
        last = self.reports[-1]
        ratios = self.ratios
        return {
            "version": 1,
            "benchmark": "quick",
            "pairs": len(self.isolauncher.samples),
            "modules": list(MODULES),
            "machine": dict(self.machine),
            "commands": {
                "isolauncher": ["isolauncher", "run", "--", "SCRIPT"],
                "bubblewrap": ["bwrap", *CONFINED, "SCRIPT"],
            },
            "in_force": {
                name: last[name]
                for name in ("activity", "policy", "enforced", "skipped")
            },
            "unit": "ms",
            "isolauncher": self.isolauncher.as_data(),
            "ways": self.ways(),
            "on_demand": self.on_demand.as_data(),
            "bubblewrap": self.bubblewrap.as_data(),
            "ratio": {
                "of_medians": round(self.ratio, 3),
                "of_medians_on_demand": round(
                    self.bubblewrap.median / self.on_demand.median, 3
                ),
                "of_pairs": {
                    "median": round(ratios.median, 3),
                    "min": round(min(ratios.samples), 3),
                    "p10": round(ratios.at(0.1), 3),
                    "p90": round(ratios.at(0.9), 3),
                    "max": round(max(ratios.samples), 3),
                },
            },
            "phases_us": self.phases(),
        }


def quick(pairs: int, progress: Callable[[int], None] = lambda done: None) -> Result:
    """Measure ``pairs`` launches of each contender, in turns; for root."""
    bwrap = _refuse_impossible()
    machine = describe_machine(bwrap)
    reports: list[Mapping[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="isolauncher-bench-") as name:
        top = Path(name)
        script = top / "script.py"
        script.write_text(SCRIPT)
        script.chmod(0o644)
        with _daemon(top, "ahead") as ahead, _daemon(top, "demand", ahead=0) as demand:

            def from_room() -> float:
                taken, report = _from_zygote(ahead, script)
                reports.append(report)
                return taken

            contenders: dict[str, Callable[[], float]] = {
                "isolauncher": from_room,
                "on_demand": lambda: _from_zygote(demand, script)[0],
                "bubblewrap": lambda: _cold(bwrap, script),
            }
            samples: dict[str, list[float]] = {name: [] for name in contenders}
            order = list(contenders)
            for number in range(-WARM_UP, pairs):
                if number == 0:
                    reports.clear()
                for name in order:
                    for where in (ahead, demand):
                        _wait_for_rest(where)
                    taken = contenders[name]()
                    if number >= 0:
                        samples[name].append(taken)
                order.append(order.pop(0))
                progress(number + 1)
    return Result(
        machine=machine,
        reports=tuple(reports),
        **{name: Spread(samples=tuple(found)) for name, found in samples.items()},
    )


def _wait_for_rest(where: str) -> None:
    """Until a daemon neither launches nor cleans up nor prepares anything."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with client.connect(where) as sock:
            wire.send(sock, {"version": wire.VERSION, "verb": "stats"}, ())
            stats = wire.recv(sock).fields["stats"]
        assert isinstance(stats, dict)  # noqa: S101 (for the type checker)
        rooms = stats["rooms"]
        if not (rooms["wanted"] or rooms["ending"] or stats["activities"]):
            # What the kernel still does for those that have just ended.
            time.sleep(0.02)
            return
        time.sleep(0.005)
    raise DaemonError("the daemon does not come to rest", code="bench-timeout")


def _refuse_impossible() -> str:
    """The path of bwrap, when all that is needed is there."""
    if os.geteuid() != 0:
        raise HostError(
            "the benchmark starts a daemon of its own, which is for root",
            code="bench-not-root",
            hint="sudo isolauncher bench --quick",
        )
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise HostError(
            "bwrap, which launches are compared with, is not installed",
            code="bench-no-bubblewrap",
            hint="apt install bubblewrap",
        )
    return bwrap


def describe_machine(bwrap: str) -> dict[str, object]:
    """What the figures depend on, as far as the machine tells."""
    model = ""
    virtual = False
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        virtual |= name.strip() == "flags" and " hypervisor" in value
    memory = next((line for line in _lines("/proc/meminfo")), "").split()
    said = subprocess.run([bwrap, "--version"], capture_output=True, check=False)
    return {
        "cpu": model or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "memory_mb": int(memory[1]) // 1024 if len(memory) > 1 else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bubblewrap": said.stdout.decode("ascii", "replace").strip(),
        "load": [round(number, 2) for number in os.getloadavg()],
    }


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as f:
        yield from f


# ----------------------------------------------------------------------- the daemon


@contextmanager
def _daemon(above: Path, name: str, ahead: int = RoomsAhead().ahead) -> Iterator[str]:
    """A daemon in a child, with directories of its own; yields its socket."""
    # Every command started here, and their daemon, end up with this environment.
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.environ["ISOLAUNCHER_LOG"] = "stderr"
    top = above / name
    (top / "policies").mkdir(parents=True)
    config = Config(
        rooms=RoomsAhead(ahead=ahead),
        socket=str(top / "run" / "socket"),
        run_dir=str(top / "run"),
        state_dir=str(top / "state"),
        policy_dirs=(vendor_policies(), str(top / "policies")),
    )
    child = os.fork()
    if child == 0:
        _be_daemon(config, top / "log")
    try:
        _wait_for(child, config.socket, top / "log")
        yield config.socket
    finally:
        _end(child)
        os.environ.clear()
        os.environ.update(before)


def _be_daemon(config: Config, log: Path) -> None:
    """Never returns."""
    status = COULD_NOT_LAUNCH
    try:
        # A group of its own: ^C is ours, and ends it in order.
        os.setsid()
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        from . import daemon

        status = daemon.main(config)
    except IsolauncherError as error:
        os.write(2, f"{error.line()}\n".encode())
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _wait_for(child: int, path: str, log: Path) -> None:
    """Until it accepts connections, or has ended."""
    deadline = time.monotonic() + PATIENCE_S
    pidfd = os.pidfd_open(child)
    try:
        while not _listens(path):
            # The end of the child is an event; that somebody listens is not.
            ended, _, _ = select.select([pidfd], [], [], 0.01)
            if ended or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()
                raise DaemonError(
                    "the daemon to be measured did not start: "
                    + (said[-1] if said else "it said nothing"),
                    code="bench-no-daemon",
                )
    finally:
        os.close(pidfd)


def _listens(path: str) -> bool:
    try:
        client.connect(path).close()
    except DaemonError:
        return False
    return True


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGTERM)
    except ProcessLookupError:
        return
    os.waitpid(child, 0)


# ----------------------------------------------------------------------- contenders


def _from_zygote(where: str, script: Path) -> tuple[float, Mapping[str, object]]:
    """One launch by the daemon: milliseconds, and its report."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        launch = client.prepare([str(script)])
        try:
            with client.connect(where) as sock:
                sock.settimeout(PATIENCE_S)
                fds = (launch.fds[0], writer, launch.fds[2], *launch.fds[3:])
                started = time.perf_counter_ns()
                wire.send(sock, launch.message, fds)
                _first_byte(reader, sock)
                taken = time.perf_counter_ns() - started
                report = _end_of(sock)
        finally:
            launch.close()
    finally:
        os.close(reader)
        os.close(writer)
    return taken / 1e6, report


def _first_byte(reader: int, sock: socket.socket) -> None:
    """Wait until the program has written, or until the daemon has refused it."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(sock, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for fd, _ in poll.poll(PATIENCE_S * 1000):
            if fd == reader:
                return
            fields = wire.recv(sock).fields
            if fields.get("event") == "refused":
                raise client.refusal(fields)
            # "started" comes at about the same time; the end is looked for later.
            poll.unregister(sock)
    raise DaemonError("no byte came in time", code="bench-timeout")


def _end_of(sock: socket.socket) -> Mapping[str, object]:
    while True:
        fields = wire.recv(sock).fields
        report = fields.get("report")
        if fields.get("event") == "exited" and isinstance(report, dict):
            if fields.get("status") != 0:
                raise DaemonError(
                    f"the script ended with {fields.get('status')}", code="bench-failed"
                )
            return report


def _cold(bwrap: str, script: Path) -> float:
    """One launch by bubblewrap of a fresh interpreter: milliseconds."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        command = [bwrap, *CONFINED, str(script)]
        started = time.perf_counter_ns()
        with subprocess.Popen(command, stdout=writer, env=ENVIRONMENT) as process:
            # Ours is closed, so that a bwrap that fails is an end of file.
            os.close(writer)
            writer = -1
            byte = os.read(reader, 1)
            taken = time.perf_counter_ns() - started
        if byte != b"x" or process.returncode != 0:
            raise HostError(
                f"bwrap ended with {process.returncode} where it should have run "
                "the script",
                code="bench-bubblewrap-failed",
                hint="its own message is above",
            )
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return taken / 1e6
