# SPDX-License-Identifier: GPL-3.0-or-later
"""All ways to start one script that are compared, each as a call that takes its time.

A launch is timed from just before it is asked for (a client's connection stands, its
next act is to send; a command is about to be started; the reference is about to fork)
until the script writes its byte. What cannot be had on this machine says why.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .. import client, wire
from ..errors import DaemonError, HostError
from . import daemons, forkserver, lacks, planned, reference, scripts
from .daemons import PYTHON
from .patience import END_S, PATIENCE_S, read

Report = Mapping[str, object]

BWRAP = (
    *("bwrap", "--unshare-all", "--ro-bind", "/", "/"),
    *("--proc", "/proc", "--dev", "/dev", PYTHON),
)
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "cold": (PYTHON,),
    "bwrap": BWRAP,
    "firejail": (
        *("firejail", "--quiet", "--noprofile", "--net=none", "--caps.drop=all"),
        *("--seccomp", "--nonewprivs", "--private-dev", "--read-only=/", PYTHON),
    ),
    "unshare": (
        *("unshare", "--fork", "--pid", "--mount", "--net", "--ipc", "--uts"),
        *("--cgroup", "--user", "--map-root-user", "--mount-proc", PYTHON),
    ),
    "systemd-run": (
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect"),
        # Not PrivateTmp: below /tmp is the script.
        *("-p", "PrivateNetwork=yes", "-p", "PrivateDevices=yes"),
        *("-p", "ProtectSystem=strict", "-p", "NoNewPrivileges=yes"),
        *("-p", "MemoryMax=1G", "-p", "TasksMax=64", PYTHON),
    ),
    "nsjail": (
        *("nsjail", "--really_quiet", "--mode", "o", "--chroot", "/"),
        *("--disable_proc", "--rlimit_as", "inf", "--", PYTHON),
    ),
}
"""Started anew for each launch; the script comes last."""

OURS = ("pool", "demand", "exec")
FORKSERVER = "forkserver"
REFERENCE = "reference"
NAMES = (*OURS, *COMMANDS, FORKSERVER, REFERENCE)

TRIES = 3
"""Launches until one has come the way that its contender is named for."""

WORDS: Mapping[str, str] = {
    "pool": "isolauncher, from a room",
    "demand": "isolauncher, on demand",
    "exec": "isolauncher, exec tier",
    "cold": "python3, not confined",
    "bwrap": "bubblewrap, cold start",
    "firejail": "firejail, cold start",
    "unshare": "unshare(1), cold start",
    "systemd-run": "systemd-run, cold start",
    "nsjail": "nsjail, cold start",
    FORKSERVER: "multiprocessing.forkserver",
    REFERENCE: "reference in C, on demand",
}


@dataclass(slots=True, kw_only=True)
class Kit:
    """What contenders share. ``missing`` says of those that are not there, why.

    ``plans`` are by policy: a daemon is started for each.
    """

    top: Path
    wanted: frozenset[str]
    stack: ExitStack
    ahead: daemons.Own | None = None
    demand: daemons.Own | None = None
    reference_program: Path | None = None
    missing: dict[str, lacks.Lack] = field(default_factory=dict)
    plans: dict[str, planned.Planned] = field(default_factory=dict)

    def plan(self, imports: scripts.Imports) -> planned.Planned:
        """Of a launch under the list's policy; the program is a script as any."""
        policy = imports.policy or "default"
        if policy not in self.plans:
            self.plans[policy] = self.stack.enter_context(
                planned.planned(
                    daemons.config(self.top, f"plan-{policy}"),
                    imports.policy,
                    scripts.write(self.top, imports),
                )
            )
        return self.plans[policy]

    def rest(self) -> None:
        """The same before each, whoever it is: until both daemons are at rest."""
        both = (self.ahead, self.demand)
        daemons.wait_for_rest(*(own.socket for own in both if own is not None))


@dataclass(slots=True, kw_only=True)
class Contenders:
    """By name; ``launches`` are of each that is ours, in order.

    ``strays`` counts those that came another way than the one their contender is named
    for: they are timed by nobody.
    """

    once: dict[str, Callable[[], float]]
    missing: dict[str, lacks.Lack]
    launches: dict[str, list[Launch]]
    strays: Counter[str]
    facts: dict[str, object]

    def begin(self) -> None:
        """What was only to warm up is forgotten."""
        for launches in self.launches.values():
            launches.clear()
        self.strays.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One by the daemon: milliseconds, to the script's first line and to its byte."""

    taken: float
    first_line: float
    report: Report

    @property
    def way(self) -> str:
        activity = self.report["activity"]
        assert isinstance(activity, dict)  # noqa: S101 (for the type checker)
        return str(activity["path"])


@contextmanager
def kit(top: Path, wanted: frozenset[str]) -> Iterator[Kit]:
    """Daemons and the reference, as far as wanted and possible."""
    with ExitStack() as stack:
        made = Kit(top=top, wanted=wanted, stack=stack)
        stack.enter_context(daemons.environment())
        root = os.geteuid() == 0
        if wanted & {"pool", "exec"} and root:
            made.ahead = stack.enter_context(daemons.own(top, "ahead"))
        if "demand" in wanted and root:
            made.demand = stack.enter_context(daemons.own(top, "demand", ahead=0))
        for name in OURS:
            if name in wanted and not root:
                why = "it needs a daemon of its own, which is for root"
                made.missing[name] = lacks.Lack(why=why, failed=False)
        if REFERENCE in wanted:
            with lacks.noted(made.missing, REFERENCE):
                made.reference_program = reference.build(top)
        yield made


@contextmanager
def contenders(kit: Kit, imports: scripts.Imports) -> Iterator[Contenders]:
    """Of one list of imports; each has been tried, or is missing."""
    script = scripts.write(kit.top, imports)
    found = Contenders(
        once={}, missing=dict(kit.missing), launches={}, strays=Counter(), facts={}
    )
    with ExitStack() as stack:
        for name in NAMES:
            if name not in kit.wanted or name in found.missing:
                continue
            with lacks.noted(found.missing, name):
                once = _maker(kit, imports, script, name, found, stack)
                once()
                found.once[name] = once
        yield found


def _maker(
    kit: Kit,
    imports: scripts.Imports,
    script: Path,
    name: str,
    found: Contenders,
    stack: ExitStack,
) -> Callable[[], float]:
    if name in OURS:
        where = kit.demand if name == "demand" else kit.ahead
        assert where is not None  # noqa: S101 (for the type checker)
        return _ours(kit, imports, script, name, where.socket, found)
    if name == FORKSERVER:
        server = stack.enter_context(forkserver.running(kit.top, imports))
        return server.once
    if name == REFERENCE:
        assert kit.reference_program is not None  # noqa: S101
        plan_of = kit.plan(imports)
        made = stack.enter_context(
            reference.running(kit.reference_program, kit.top, plan_of)
        )
        reference.prove_same(made, plan_of)
        found.facts[REFERENCE] = plan_of.as_data() | made.as_data()
        return made.once
    command = COMMANDS[name]
    if command[0] != PYTHON and shutil.which(command[0]) is None:
        raise HostError(f"{command[0]} is not installed", code="bench-not-installed")
    return _command((*command, str(script)), is_ours=command[0] == PYTHON)


def _ours(
    kit: Kit,
    imports: scripts.Imports,
    script: Path,
    name: str,
    where: str,
    found: Contenders,
) -> Callable[[], float]:
    """A launch that came the way that ``name`` says."""
    launches = found.launches.setdefault(name, [])
    tier = "exec" if name == "exec" else None

    def once() -> float:
        for _ in range(TRIES):
            launch = from_daemon(where, script, policy=imports.policy, tier=tier)
            if launch.way == name:
                launches.append(launch)
                return launch.taken
            found.strays[name] += 1
            kit.rest()
        raise DaemonError(
            f"{TRIES} launches one after the other came not by {name} but by "
            f"{launch.way}",
            code="bench-other-way",
        )

    return once


def _command(words: tuple[str, ...], *, is_ours: bool) -> Callable[[], float]:
    """One that has never run here is no failure: it may need what is not there."""
    has_run = is_ours

    def once() -> float:
        nonlocal has_run
        try:
            taken = cold(words)
        except HostError as error:
            if has_run:
                raise
            raise HostError(error.message, code="bench-does-not-run") from error
        has_run = True
        return taken

    return once


# ---------------------------------------------------------------------- one launch


def from_daemon(
    where: str, script: Path, *, policy: str | None = None, tier: str | None = None
) -> Launch:
    """One launch by the daemon, until all of it is given back."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        launch = client.prepare([str(script)], policy=policy, tier=tier)
        try:
            with client.connect(where) as sock:
                sock.settimeout(PATIENCE_S)
                fds = (launch.fds[0], writer, launch.fds[2], *launch.fds[3:])
                started = time.monotonic_ns()
                wire.send(sock, launch.message, fds)
                _first_byte(reader, sock)
                report = end_of(sock)
                words = os.read(reader, 64)
        finally:
            launch.close()
    finally:
        os.close(reader)
        os.close(writer)
    said = scripts.Said.read(words)
    if said is None:
        raise DaemonError(f"the script said {words!r}", code="bench-failed")
    return Launch(
        taken=(said.written - started) / 1e6,
        first_line=(said.begun - started) / 1e6,
        report=report,
    )


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
            if fields.get("event") == "exited":
                raise _failed(fields)
            # "started" comes at about the same time; the end is looked for later.
    raise DaemonError("no byte came in time", code="bench-timeout")


def end_of(sock: socket.socket, patience_s: float = PATIENCE_S) -> Report:
    """How it ended, once all of it is gone; DaemonError unless well, or in time."""
    sock.settimeout(patience_s)
    while True:
        fields = wire.recv(sock).fields
        if fields.get("event") == "refused":
            raise client.refusal(fields)
        report = fields.get("report")
        if fields.get("event") == "exited" and isinstance(report, dict):
            if fields.get("status") != 0:
                raise _failed(fields)
            return report


def _failed(fields: Mapping[str, object]) -> DaemonError:
    return DaemonError(
        f"the script ended with {fields.get('status')}", code="bench-failed"
    )


def cold(command: tuple[str, ...]) -> float:
    """One start of a fresh interpreter: milliseconds."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        started = time.monotonic_ns()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            env=daemons.ENVIRONMENT,
            start_new_session=True,
        ) as process:
            try:
                # Ours is closed, so that one that fails is an end of file.
                os.close(writer)
                writer = -1
                words = read(reader, command[0])
                _, complaints = process.communicate(timeout=END_S)
            except BaseException:
                # With what it has started; it is not reaped, so the number is its own.
                if process.returncode is None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                raise
        said = scripts.Said.read(words)
        if said is None or process.returncode != 0:
            lines = complaints.decode("utf-8", "replace").strip().splitlines()
            raise HostError(
                f"{command[0]} ended with {process.returncode} where it should have "
                f"run the script: {lines[-1] if lines else 'it said nothing'}",
                code="bench-command-failed",
            )
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return (said.written - started) / 1e6
