# SPDX-License-Identifier: GPL-3.0-or-later
"""A desktop session without hardware: an X server, a session bus, a person.

`desktop` gives one and takes all of it away: Xvfb under a display number of its own
with a cookie, a dbus-daemon that starts services as any session's does (Sugar's
DataStore, dconf, the accessibility bus), and a home of a user who has no rights here.
Programs are started in it by `Desktop.start`; `Desktop.watch` tells which windows are
mapped, by the X server's own events. No window manager and no Sugar shell run.

Run as a program, this file is the session's supervisor: whatever the bus starts becomes
its child (PR_SET_CHILD_SUBREAPER), and it ends them all when its input ends, so that
nothing outlives a test that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolauncher.windows import Watch


PYTHON = "/usr/bin/python3"
PATIENCE_S = 30
SUGAR_ACTIVITIES = Path("/usr/share/sugar/activities")

USER = "isolauncher-desktop"
UID = 59990 - int(os.environ.get("ISOLAUNCHER_LANE", "0"))
"""Debian gives ordinary users 1000 to 59999, and begins at the other end.

Of each process that runs tests beside others another one: who cleans up after a session
looks for what is its person's.
"""

_SCREENSHOT = """
import sys
import gi
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk
root = Gdk.get_default_root_window()
picture = Gdk.pixbuf_get_from_window(root, 0, 0, root.get_width(), root.get_height())
sys.stdout.buffer.write(picture.save_to_bufferv("png", [], [])[1])
"""

_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_PR_SET_CHILD_SUBREAPER = 36
_FAMILY_LOCAL, _FAMILY_WILD = 256, 65535


@dataclass
class Desktop:
    """A session. ``environment`` is what a program of the person's gets, complete."""

    top: Path
    uid: int
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return Path(self.environment["HOME"])

    def start(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        **how: Any,
    ) -> subprocess.Popen[bytes]:
        """``words`` as the person, with ``environment`` beside the session's own.

        ``how`` goes to Popen; what it says of no stream is /dev/null. Whatever still
        runs when the session ends is killed.
        """
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = subprocess.Popen(
            words,
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            **{**streams, **self.person(), **how},
        )
        self.started.append(process)
        return process

    def run(self, *words: str, **how: Any) -> str:
        """What ``words`` prints, as the person; CalledProcessError if it fails."""
        given: dict[str, Any] = {"env": self.environment, **self.person(), **how}
        done = subprocess.run(
            words,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=True,
            **given,
        )
        return done.stdout.decode()

    def person(self) -> dict[str, Any]:
        """For Popen: to be the session's user, as far as we are somebody else."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.uid, "extra_groups": ()}

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch]:
        # Not above: the session's supervisor, which runs this file, has no path to it.
        from isolauncher.windows import Watch

        watch = Watch(self.environment)
        try:
            yield watch
        finally:
            watch.close()

    def screenshot(self) -> bytes:
        """What is on the screen, as PNG."""
        done = subprocess.run(
            [PYTHON, "-c", _SCREENSHOT],
            env=self.environment,
            stdout=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=True,
            **self.person(),
        )
        return done.stdout

    def activity(self, name: str, activity_id: str) -> tuple[list[str], Path]:
        """As the Sugar shell would start an installed one: the words, the directory."""
        place = SUGAR_ACTIVITIES / f"{name}.activity"
        info = dict(
            (word.strip() for word in line.split("=", 1))
            for line in (place / "activity/activity.info").read_text().splitlines()
            if "=" in line
        )
        words = [*info["exec"].split(), "-b", info["bundle_id"], "-a", activity_id]
        return words, place


def missing() -> str | None:
    """What this machine lacks for a session, in words; for `powers.need`."""
    for program in ("Xvfb", "dbus-daemon"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


@contextlib.contextmanager
def desktop(*, size: str = "1200x900x24", nested: bool = False) -> Iterator[Desktop]:
    """A session of its own. As root, its person is a user that exists for its time.

    ``nested``: in a window on our own display, which closes with the session.
    """
    with contextlib.ExitStack() as stack:
        top = Path(tempfile.mkdtemp(prefix="isolauncher-desktop-"))
        stack.callback(shutil.rmtree, top)
        uid = os.geteuid()
        name = f"uid{uid}"
        if uid == 0:
            uid, name = UID, USER
            _let_exist(stack, top)
        environment = _lay_out(top, uid, name)
        session = Desktop(top=top, uid=uid, environment=environment)
        number = ""
        if nested:
            number, window = _nested(size, environment["XAUTHORITY"])
            stack.callback(_kill, [window])
        supervisor = subprocess.Popen(
            [PYTHON, os.path.abspath(__file__), size, number],
            env=environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # What a terminal sends is for us, and then its input ends.
            start_new_session=True,
            **session.person(),
        )
        stack.callback(_end, supervisor)
        assert supervisor.stdout is not None
        said = supervisor.stdout.readline()
        assert said, "neither X server nor bus: are xvfb and dbus-daemon installed?"
        environment.update(json.loads(said))
        stack.callback(_kill, session.started)
        yield session


def _nested(size: str, auth: str) -> tuple[str, subprocess.Popen[bytes]]:
    """An X server in a window on our display, which the person could not open there."""
    made: list[subprocess.Popen[bytes]] = []
    screen = ("-screen", size, "-nolisten", "tcp", "-noreset", "-auth", auth)
    words = ("Xephyr", *screen, "-title", "Sugar through isolauncher")
    number = _started(lambda fd: [*words, "-displayfd", str(fd)], made)
    return number, made[0]


def _kill(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    for pipe in (supervisor.stdin, supervisor.stdout):
        assert pipe is not None
        pipe.close()
    assert supervisor.wait(PATIENCE_S) == 0, "the session's processes would not end"


def _lay_out(top: Path, uid: int, name: str) -> dict[str, str]:
    """Home, runtime directory and cookie; what is known before the servers are up."""
    top.chmod(0o755)
    home, runtime = top / "home", top / "run"
    cookie = home / ".Xauthority"
    for place in (home, runtime):
        place.mkdir(mode=0o700)
    secret = os.urandom(16)
    # By host name for those who look for that, and one that any name fits, since a
    # sandbox has another.
    cookie.write_bytes(
        _cookie(_FAMILY_LOCAL, socket.gethostname().encode(), secret)
        + _cookie(_FAMILY_WILD, b"", secret)
    )
    cookie.chmod(0o600)
    for place in (home, runtime, cookie):
        os.chown(place, uid, uid if uid != os.geteuid() else -1)
    return {
        "HOME": str(home),
        "USER": name,
        "LOGNAME": name,
        "SHELL": "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(runtime),
        "XAUTHORITY": str(cookie),
        # The machine's own is no business of the session's.
        "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent",
    }


def _cookie(family: int, address: bytes, secret: bytes) -> bytes:
    """One entry of an Xauthority file, for every display number (Xau(3))."""
    fields = (address, b"", b"MIT-MAGIC-COOKIE-1", secret)
    counted = b"".join(struct.pack(">H", len(f)) + f for f in fields)
    return struct.pack(">H", family) + counted


# ------------------------------------------------------------------------- the person


def _let_exist(stack: contextlib.ExitStack, top: Path) -> None:
    """Give the user a line in /etc/passwd and /etc/group, for these processes alone.

    A bus refuses to serve for, and to admit, a uid without a name. The machine's files
    are not written to: others are laid over them in our own mount namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name} for the session's user")

    # Not if we are out of the machine's already, as conftest.py takes us: a daemon that
    # was started since is where we are.
    ours, theirs = (f"/proc/{pid}/ns/mnt" for pid in ("self", os.getppid()))
    if os.readlink(ours) == os.readlink(theirs):
        call("unshare", _CLONE_NEWNS)
        call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    lines = {
        "passwd": f"{USER}:x:{UID}:{UID}:A person:{top}/home:/bin/sh\n",
        "group": f"{USER}:x:{UID}:\n",
    }
    for name, line in lines.items():
        place, own = f"/etc/{name}", top / name
        own.write_text(Path(place).read_text() + line)
        own.chmod(0o644)
        flags = ctypes.c_ulong(_MS_BIND)
        call("mount", bytes(own), place.encode(), None, flags, None)
        stack.callback(call, "umount2", place.encode(), _MNT_DETACH)


# ---------------------------------------------------------------------- the supervisor


def adopt() -> None:
    """From now on who loses its parent below this process is its child."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("cannot be a subreaper")


def _supervise(size: str, number: str) -> None:
    adopt()
    try:
        told = _servers(size, number)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        end_all()


def _servers(size: str, number: str) -> dict[str, str]:
    """``number`` is that of an X server which is there, or empty."""
    screen = ("-screen", "0", size, "-nolisten", "tcp", "-noreset")
    auth = ("-auth", os.environ["XAUTHORITY"])
    if not number:
        number = _started(lambda fd: ["Xvfb", "-displayfd", str(fd), *screen, *auth])
    # Before the bus, since what it starts may want a display.
    os.environ["DISPLAY"] = f":{number}"
    place = f"--address=unix:path={os.environ['XDG_RUNTIME_DIR']}/bus"
    bus = ("dbus-daemon", "--session", "--nofork", "--nopidfile", place)
    address = _started(lambda fd: [*bus, f"--print-address={fd}"])
    return {"DISPLAY": f":{number}", "DBUS_SESSION_BUS_ADDRESS": address}


def _started(
    words: Callable[[int], Sequence[str]],
    made: list[subprocess.Popen[bytes]] | None = None,
) -> str:
    """Start a server; the line it writes once it listens. ``made`` gets its process."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        words(writer),
        pass_fds=(writer,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=made is not None,
    )
    if made is not None:
        made.append(process)
    os.close(writer)
    with open(reader) as said:
        line = said.readline().strip()
    if not line:
        raise OSError(f"{words(writer)[0]} did not start")
    return line


def end_all() -> None:
    """Ask all below us to end, insist after 3 s, and leave when none is left."""
    number = signal.SIGTERM

    def insist(signum: int, frame: object) -> None:
        nonlocal number
        number = signal.SIGKILL
        for pid in _below(os.getpid()):
            _send(pid, number)

    signal.signal(signal.SIGALRM, insist)
    signal.setitimer(signal.ITIMER_REAL, 3, 0.2)
    with contextlib.suppress(ChildProcessError):
        while True:
            # Again after each that has ended: another may have been started meanwhile.
            for pid in _below(os.getpid()):
                _send(pid, number)
            os.waitpid(-1, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _below(pid: int) -> Iterator[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        yield child
        yield from _below(child)


if __name__ == "__main__":
    _supervise(*sys.argv[1:])
