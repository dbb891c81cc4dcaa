# SPDX-License-Identifier: GPL-3.0-or-later
"""A real daemon for a test, what it leaves behind, and callers of any uid.

`Service` runs ``isolauncher daemon`` in directories of its own; `Service.run` is the
command ``isolauncher run`` as a uid; `Leftovers` compares the machine before and
after: processes, mounts, cgroups, ledger, files in the run directory.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from isolauncher import cgroups, wire

TOP = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "isolauncher")
PATIENCE_S = 60
SPARES = os.environ.get("ISOLAUNCHER_SPARES", "0")
ROOMS_AHEAD = "version = 1\n[rooms]\nahead = 4\n"
"""For a daemon that prepares rooms; others of the tests' do not."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended. ``report`` is --report's, None without one."""

    status: int
    out: bytes
    err: bytes
    report: dict[str, object] | None = None

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        return self.err.decode("utf-8", "replace")


@dataclass
class Service:
    """One daemon with its own socket, run, state and policy directories.

    ``command`` may start another program that is a daemon (one with a spoilt kernel).
    """

    top: Path
    command: Sequence[str] = (*COMMAND, "daemon")
    environment: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    process: subprocess.Popen[bytes] | None = None
    groups: list[str] | None = None
    """The daemon's own cgroups, in each hierarchy; it makes them when it starts."""

    @property
    def socket(self) -> Path:
        return self.run_dir / "socket"

    @property
    def run_dir(self) -> Path:
        return self.top / "run"

    @property
    def state_dir(self) -> Path:
        return self.top / "state"

    @property
    def policies(self) -> Path:
        return self.top / "policies"

    @property
    def log(self) -> str:
        return (self.top / "log").read_text(errors="replace")

    def policy(self, name: str, text: str) -> str:
        """Write an administrator's policy and return its name."""
        (self.policies / f"{name}.toml").write_text(text)
        return name

    def _whole_config(self) -> str:
        """Without what is made ahead, and comes and goes, unless a test says so."""
        text = self.config or "version = 1\n"
        if "[rooms]" not in text:
            text = f"{text}\n[rooms]\nahead = 0\n"
        if "spares" not in text:
            text = text.replace("[rooms]\n", f"[rooms]\nspares = {SPARES}\n")
        return text

    def start(self, *, serving: Callable[[], None] | None = None) -> None:
        """Start, and return when it serves and its zygotes are up.

        ``serving`` is called in between, as soon as clients can connect.
        """
        for directory in (self.run_dir, self.state_dir, self.policies):
            directory.mkdir(mode=0o755, exist_ok=True)
        already = self._log_size()
        words = [
            *self.command,
            *("--socket", str(self.socket), "--state-dir", str(self.state_dir)),
            *("--policy-dir", str(self.policies)),
        ]
        path = self.top / "isolauncher.toml"
        path.write_text(self._whole_config())
        words += ["--config", str(path)]
        with open(self.top / "log", "ab") as log:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=TOP,
                env={
                    **{k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
                    "ISOLAUNCHER_LOG": "stderr",
                    **self.environment,
                },
            )
        self.wait_for_log("serving", since=already)
        if serving is not None:
            serving()
        self.wait_for_log("zygotes-ready", since=already)
        if "ahead = 0" not in self._whole_config():
            # Or what it holds would still change.
            self.wait_for_log("sets-ready", since=already)
        self.groups = None

    def _log_size(self) -> int:
        try:
            return (self.top / "log").stat().st_size
        except FileNotFoundError:
            return 0

    def wait_for_log(self, word: str, *, since: int = 0) -> str:
        """Wait until the log has a line with ``word``; the text from ``since`` on."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            text = (self.top / "log").read_bytes()[since:].decode("utf-8", "replace")
            if word in text:
                return text
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the daemon ended: {text}")
            # A plain file cannot be waited for; its writer is another process.
            select.select([], [], [], 0.01)
        raise AssertionError(f"{word!r} did not come: {text}")

    def wait_until_told(self, activity_id: str) -> None:
        """Until the client of this activity has been told that it runs.

        What the program says may come earlier. The line and the message are written
        in one go, so who is answered after the line is answered after the message.
        """
        self.wait_for_log(f'launched id="{activity_id}"')
        self.ask({"version": 1, "verb": "ps"})

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self.process = None

    def client(self) -> socket.socket:
        """A raw connection, for tests that speak the protocol themselves."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(PATIENCE_S)
        sock.connect(str(self.socket))
        return sock

    def ask(self, message: Mapping[str, object]) -> dict[str, object]:
        with self.client() as sock:
            wire.send(sock, message)
            return wire.recv(sock).fields

    def at_rest(self) -> dict[str, object]:
        """The daemon's stats once nothing runs, or is made ahead, or taken down."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            stats = self.ask({"version": wire.VERSION, "verb": "stats"})["stats"]
            assert isinstance(stats, dict)
            rooms = stats["rooms"]
            wanted = rooms["wanted"] or stats["spares"]["wanted"]
            if not (wanted or rooms["ending"] or stats["activities"]):
                return stats
            # Nothing tells: what we wait for is that nothing more happens.
            select.select([], [], [], 0.01)
        raise AssertionError(f"the daemon does not come to rest: {stats}")

    def start_client(
        self,
        *words: str,
        uid: int = 0,
        stdin: object = subprocess.DEVNULL,
        cwd: str | Path = "/",
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        """``isolauncher WORDS…`` as ``uid``, with pipes for its output."""
        script = (
            "import sys, os; sys.path.insert(0, sys.argv[1]); uid = int(sys.argv[2]);"
            "from isolauncher.cli import main, run, ps, stop;"
            "from isolauncher import client;"
            "uid and (os.setgroups([]), os.setresgid(uid, uid, uid),"
            " os.setresuid(uid, uid, uid));"
            "os.chdir(sys.argv[3]);"
            "sys.exit(main.main(sys.argv[4:]))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", script, str(TOP), str(uid), str(cwd), *words],
            stdin=stdin,  # type: ignore[arg-type]
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                **(environment or {}),
                "ISOLAUNCHER_SOCKET": str(self.socket),
            },
            preexec_fn=prepare,
        )

    def isolauncher(
        self, *words: str, input: bytes | None = None, **keywords: object
    ) -> Finished:
        if input is not None:
            keywords["stdin"] = subprocess.PIPE
        process = self.start_client(*words, **keywords)  # type: ignore[arg-type]
        try:
            out, err = process.communicate(input, timeout=PATIENCE_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return Finished(process.returncode, out, err)

    def run(self, *words: str, **keywords: object) -> Finished:
        """``isolauncher run --report … WORDS…``; the report is read and removed."""
        with tempfile.TemporaryDirectory() as place:
            os.chmod(place, 0o777)  # noqa: S103 - the caller may be any uid
            path = f"{place}/report"
            done = self.isolauncher("run", "--report", path, *words, **keywords)  # type: ignore[arg-type]
            report = None
            if os.path.exists(path):
                report = json.loads(Path(path).read_text())
        return Finished(done.status, done.out, done.err, report)

    def script(self, name: str, source: str) -> str:
        """A world-readable script in a directory everyone may enter; its path."""
        place = self.top / "programs"
        place.mkdir(exist_ok=True)
        path = place / name
        path.write_text(source)
        return str(path)


@contextmanager
def service(
    *,
    command: Sequence[str] = (*COMMAND, "daemon"),
    environment: Mapping[str, str] | None = None,
    config: str = "",
) -> Iterator[Service]:
    """A started daemon in a fresh directory; stopped, and looked after, at the end."""
    # Not pytest's own directory: that one is 0700, and callers of any uid come here.
    top = Path(tempfile.mkdtemp(prefix="isolauncher-", dir="/tmp"))
    top.chmod(0o755)
    made = Service(
        top=top, command=command, environment=environment or {}, config=config
    )
    try:
        made.start()
        yield made
    finally:
        made.stop(signal.SIGTERM)
        kill_recorded(made.run_dir)
        shutil.rmtree(top)


def kill_recorded(run: Path) -> None:
    """An activity outlives its daemon; after a test it must not."""
    for path in run.glob("activities/*"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event.get("event") == "planned":
                with suppress(ProcessLookupError):
                    os.kill(int(event["init_pid"]), signal.SIGKILL)


@dataclass(frozen=True)
class Leftovers:
    """What a launch could leave on the machine, as sets to compare."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    namespaces: frozenset[str]
    records: frozenset[str]
    leases: frozenset[str]

    @classmethod
    def now(cls, where: Service) -> Leftovers:
        assert where.process is not None
        below = [p for p in _pids_below(where.process.pid) if not _is_spare(p)]
        return cls(
            processes=frozenset(_sandbox_processes(below)),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            cgroups=frozenset(_cgroups(where)),
            namespaces=frozenset(_namespaces([where.process.pid, *below])),
            records=frozenset(os.listdir(where.run_dir / "activities")),
            leases=frozenset(_files(where.state_dir / "identity" / "uids")),
        )


def _files(directory: Path) -> Iterator[str]:
    if directory.is_dir():
        yield from os.listdir(directory)


def _pids_below(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    stat = file.read(4096)
            except (FileNotFoundError, ProcessLookupError):
                continue
            parent = int(stat.rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            yield child
            todo.append(child)


def _sandbox_processes(pids: Iterable[int]) -> Iterator[str]:
    """What the daemon has below it, but zygotes and openers.

    These end in their own time: test_rooms.py sees to it that they do.
    """
    for pid in pids:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"zygote(" not in title and not title.startswith(b"isolauncher: opener"):
            yield str(pid)


def _is_spare(pid: int) -> bool:
    """Forked ahead, or the child of one that is: test_forked_ahead.py's to judge."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    parent = int(stat.rpartition(")")[2].split()[1])
    if title.startswith(b"isolauncher: stem("):
        return _is_spare(parent)
    return title.startswith(b"isolauncher: init, spare")


def _cgroups(where: Service) -> Iterator[str]:
    """The groups below this daemon's own; other daemons may be at work as well."""
    if where.groups is None:
        own = cgroups.name_for(where.run_dir)
        where.groups = [
            os.path.join(directory, own)
            for directory, names, _ in os.walk("/sys/fs/cgroup")
            if own in names
        ]
    for top in where.groups:
        for directory, names, _ in os.walk(top):
            yield from (os.path.join(directory, name) for name in names)


def _namespaces(pids: Iterable[int]) -> Iterator[str]:
    for pid in pids:
        for kind in ("mnt", "net", "user", "pid"):
            try:
                yield os.readlink(f"/proc/{pid}/ns/{kind}")
            except (FileNotFoundError, ProcessLookupError):
                continue


def nothing_left(where: Service, before: Leftovers) -> None:
    """Assert that the machine is as before; waits for what the kernel does after."""
    deadline = time.monotonic() + 10
    while (odd := _changes(where, before)) and time.monotonic() < deadline:
        select.select([], [], [], 0.002)
    assert not odd, odd


def _changes(where: Service, before: Leftovers) -> list[str]:
    now = Leftovers.now(where)
    odd = []
    for name in Leftovers.__dataclass_fields__:
        was, is_ = getattr(before, name), getattr(now, name)
        if is_ - was:
            odd.append(f"{name}: left {is_ - was}")
        # A process that was on its way out, or to be a zygote, when it was counted.
        if was - is_ and name not in ("processes", "namespaces"):
            odd.append(f"{name}: gone {was - is_}")
    return odd
