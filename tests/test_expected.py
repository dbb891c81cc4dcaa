# SPDX-License-Identifier: GPL-3.0-or-later
"""Launches that are expected: as any other, for the same words and file alone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.daemons import ROOMS_AHEAD, Finished, Service
from support.powers import need, sandboxes

from isolauncher import ahead, expected, road, rooms, seen, verify
from isolauncher.errors import StepError, VerifyError
from isolauncher.request import Caller

CAROL = 12347
TELLS = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "variable": os.environ.get("TOLD"),
    "umask": os.umask(0), "stdin": sys.stdin.read(),
    "streams": [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)],
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "shown": open("/proc/self/cmdline").read().split("\\0")[1:-1],
    "modules": len(sys.modules), "path": sys.path, "version": 1,
}))
print("said", file=sys.stderr)
"""
POLICY = """
version = 1
[match]
callers = ["*"]
[environment]
keep = ["...", "TOLD"]
[files]
read = ["...", "{shown}"]
"""


@pytest.fixture(scope="module")
def shown() -> Iterator[Path]:
    """A directory outside /tmp, which a sandbox has one of its own of."""
    with tempfile.TemporaryDirectory(prefix="isolauncher-", dir="/var/tmp") as place:
        os.chmod(place, 0o755)  # noqa: S103
        yield Path(place)


@pytest.fixture(scope="module")
def daemon(services: Callable[[str], Service], shown: Path) -> Service:
    need(sandboxes())
    where = services(ROOMS_AHEAD)
    where.policy("told", POLICY.format(shown=shown))
    return where


@pytest.fixture
def script(daemon: Service, request: pytest.FixtureRequest) -> str:
    return daemon.script(f"{request.node.name.partition('[')[0]}.py", TELLS)


def launch(where: Service, script: str, *words: str, **more: object) -> Finished:
    done = where.run("--policy", "told", "--", script, *words, **more)
    assert done.status == 0, done
    return done


def told(done: Finished) -> dict[str, object]:
    return json.loads(done.out)  # type: ignore[no-any-return]


def room(where: Service) -> str:
    """Of the last launch: expected, ahead or on-demand."""
    lines = [li for li in where.log.splitlines() if "isolauncher: launched" in li]
    return lines[-1].partition('room="')[2].partition('"')[0]


def expecting(where: Service, script: str, *words: str, **more: object) -> Finished:
    """Launch until the next one is expected; what the last one told."""
    for _ in range(2):
        done = launch(where, script, *words, **more)
        where.at_rest()
    return done


def test_the_third_time_only_streams_are_missing(daemon: Service, script: str) -> None:
    rooms = []
    seen = []
    for word in (b"one", b"two", b"three", b"four"):
        done = launch(daemon, script, "a", input=word)
        seen.append(told(done))
        rooms.append(room(daemon))
        assert seen[-1]["stdin"] == word.decode()
        assert done.err == b"said\n"
        daemon.at_rest()
    assert rooms == ["on-demand", "on-demand", "expected", "expected"]
    assert [{**s, "stdin": ""} for s in seen[1:]] == [{**seen[0], "stdin": ""}] * 3


def test_other_words_are_not_what_was_expected(daemon: Service, script: str) -> None:
    first = told(expecting(daemon, script, "a"))
    done = told(launch(daemon, script, "b"))
    assert room(daemon) == "ahead"
    assert done["argv"] == [script, "b"]
    assert done["shown"] == [script, "b"]
    daemon.at_rest()
    assert told(launch(daemon, script, "a")) == first
    assert room(daemon) == "expected"  # it has waited meanwhile


@pytest.mark.parametrize("what", ["variable", "umask", "cwd"])
def test_nor_is_another_environment_mask_or_directory(
    daemon: Service, script: str, what: str
) -> None:
    first = told(expecting(daemon, script))
    words = {
        "variable": {"environment": {"TOLD": "other"}},
        "umask": {"prepare": lambda: os.umask(0o077)},
        "cwd": {"cwd": "/usr"},
    }[what]
    other = told(launch(daemon, script, **words))
    assert room(daemon) == "ahead"
    assert other[what] != first[what]


def _edit(script: Path) -> None:
    script.write_text(TELLS.replace('"version": 1', '"version": 2'))


def _replace(script: Path) -> None:
    new = script.with_name("new.py")
    _edit(new)
    new.rename(script)


@pytest.mark.parametrize("change", [_edit, _replace])
def test_a_program_that_was_changed_runs_as_it_is(
    daemon: Service, script: str, change: Callable[[Path], None]
) -> None:
    expecting(daemon, script)
    change(Path(script))
    done = told(launch(daemon, script))
    assert done["version"] == 2
    assert room(daemon) == "ahead"


def test_a_directory_made_anew_is_the_one_it_runs_in(
    daemon: Service, shown: Path
) -> None:
    place = shown / "here"
    place.mkdir()
    lists = daemon.script("lists.py", "import os\nprint(os.listdir('.'))\n")
    expecting(daemon, lists, cwd=str(place))
    place.rmdir()
    place.mkdir()
    (place / "new").touch()
    assert launch(daemon, lists, cwd=str(place)).out == b"['new']\n"
    assert room(daemon) == "expected"


def test_it_serves_nobody_else(daemon: Service, script: str) -> None:
    expecting(daemon, script, uid=CAROL)
    launch(daemon, script)
    assert room(daemon) != "expected"
    launch(daemon, script, uid=CAROL)
    assert room(daemon) == "expected"


def test_one_with_an_id_of_its_own_is_served_by_another(
    daemon: Service, script: str
) -> None:
    expecting(daemon, script)
    done = daemon.run("--policy", "told", "--id", "mine", "--", script)
    assert done.status == 0
    assert room(daemon) == "ahead"


def test_one_that_was_killed_while_it_waited_is_not_missed(
    daemon: Service, script: str
) -> None:
    expecting(daemon, script)
    waiting = list(_stems(daemon))
    assert waiting
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert told(launch(daemon, script))["version"] == 1
    assert room(daemon) == "ahead"


def _stems(where: Service) -> Iterator[int]:
    """Waiting ones, by the script that they show."""
    for record in (where.run_dir / "activities").iterdir():
        events = [json.loads(line) for line in record.read_text().splitlines()]
        if not any(e["event"] in ("go", "exited") for e in events):
            yield from (e["pid"] for e in events if e["event"] == "forked")


def test_what_waits_is_confined_already(daemon: Service, script: str) -> None:
    expecting(daemon, script)
    (pid,) = _stems(daemon)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status
    shown = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert shown[1:-1] == [script]
    held = {os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1, 2)}
    assert held == {"/dev/null"}


def test_a_disk_that_can_be_taken_away_is_not_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mount that a descriptor is open in cannot be unmounted."""
    file = tmp_path / "file"
    file.touch()
    fd = os.open(file, os.O_PATH)
    try:
        elsewhere = SimpleNamespace(st_dev=-1)
        monkeypatch.setattr(seen.kernel, "file_system", lambda fd: 0xEF53)
        monkeypatch.setattr(seen.os, "stat", lambda path: elsewhere)
        assert not seen.stays(fd)
        elsewhere.st_dev = os.fstat(fd).st_dev
        assert seen.stays(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_it_is_looked_at_while_it_hands_over_and_again_if_need_be(
    monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """In any case "go" comes when the stem has said that it is ready, no sooner."""
    done: list[str] = []
    looks = iter([True] * wrong + [False])

    def look(whole: object, sealed: verify.Sealed) -> None:
        assert sealed.sent["stdin"] == (1, 2)
        done.append("look")
        if next(looks):
            raise VerifyError("wrong", code="verify-difference")

    def saying(what: str) -> Callable[[], object]:
        async def say() -> object:
            done.append(what)
            return SimpleNamespace(at_us=0, tier="fork", why="")

        return say

    words = ("dressed", "ready", "go")
    sandbox = SimpleNamespace(stem_pid=1, **{word: saying(word) for word in words})
    record = SimpleNamespace(write=lambda line: done.append("record"))
    room = rooms.Room(id="one", ahead=True, record=record)  # type: ignore[arg-type]
    monkeypatch.setattr(verify, "verify_ready", look)
    monkeypatch.setattr(road.rooms, "file_of", lambda fd: (1, 2))
    monkeypatch.setattr(road.rooms, "told_to_end", lambda room: None)
    room.sandbox = sandbox  # type: ignore[assignment]
    activity = SimpleNamespace(room=room, tier="fork", path="pool", skipped=[])
    state = verify.Sealed(init=2, stem=1, sent={}, probes={}, notes=())
    sealed = SimpleNamespace(whole=None, enforced=(), namespaces={}, state=state)
    daemon = SimpleNamespace(
        describe=lambda activity: {},
        counts=SimpleNamespace(runs=lambda activity: done.append("runs")),
    )
    launch = road.go(activity, daemon, sealed, road.Clock(0), {"stdin": 0})  # type: ignore[arg-type]
    last = ["record", "runs", "go"]
    if wrong < 2:
        asyncio.run(launch)
        again = ["look"] * wrong
        assert done == ["dressed", "look", "ready", *again, *last]
    else:
        with pytest.raises(VerifyError):
            asyncio.run(launch)
        assert done == ["dressed", "look", "ready", "look"]


def test_no_fresh_interpreter_is_expected(daemon: Service, script: str) -> None:
    for _ in range(2):
        daemon.run("--policy", "told", "--tier", "exec", "--", script)
        daemon.at_rest()
    assert daemon.run("--policy", "told", "--tier", "exec", "--", script).status == 0
    assert room(daemon) == "ahead"


def test_what_has_been_let_run_is_not_let_run_again(
    daemon: Service, shown: Path
) -> None:
    """Its interpreter has gone, which shows when it is to begin."""
    shell = shown / "shell"
    shutil.copy("/bin/sh", shell)
    script = daemon.script("shells", f"#!{shell}\necho hello\n")
    os.chmod(script, 0o755)  # noqa: S103
    for _ in range(2):
        assert launch(daemon, script).out == b"hello\n"
        daemon.at_rest()
    shell.unlink()
    since = len(daemon.log)
    done = daemon.run("--policy", "told", "--", script)
    assert done.status == 127, done
    assert "interpreter" in done.errors
    assert daemon.log[since:].count("launched") == 0
    # And it is one launch less that is under way, not two: rooms are made again.
    shutil.copy("/bin/sh", shell)
    launch(daemon, script)
    daemon.at_rest()
    launch(daemon, script)
    assert room(daemon) == "expected"


def test_a_file_that_cannot_be_told_from_another_is_not_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = SimpleNamespace(
        id=None,
        bundle=None,
        lease_key=None,
        program_kind="file",
        fds={"program": 0},
        **dict.fromkeys(("argv", "tier", "umask", "cwd", "variables", "not_kept")),
    )
    assert expected.of(wanted) is not None  # type: ignore[arg-type]
    monkeypatch.setattr(expected, "_file", lambda fd: None)
    assert expected.of(wanted) is None  # type: ignore[arg-type]


def test_a_room_is_made_from_descriptors_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The number of one that a launch meanwhile has closed may be another caller's."""
    facts = rooms.Facts(
        policy=SimpleNamespace(digest="", name=""),  # type: ignore[arg-type]
        caller=Caller(uid=CAROL, gid=CAROL, pid=0, groups=()),
        name="",
        home="/",
        own_home=False,
        set_name="python",
        lease_key=None,
        machine=SimpleNamespace(),  # type: ignore[arg-type]
    )
    held: list[int] = []

    async def made(*words: object, **more: object) -> None:
        rooms_.launched(facts, asked())

    async def seal(daemon: object, room: object, launch: expected.Again) -> None:
        held.append(os.fstat(launch.program).st_ino)
        raise StepError("that will do", step="test")

    def asked() -> expected.Again:
        program = os.open(tmp_path / "file", os.O_PATH | os.O_CREAT)
        return expected.Again(
            serves="the same",  # type: ignore[arg-type]
            wanted=None,  # type: ignore[arg-type]
            tier="fork",
            skipped=(),
            program=program,
        )

    (tmp_path / "file").touch()
    monkeypatch.setattr(ahead, "prepare", made)
    monkeypatch.setattr(expected, "_seal", seal)
    daemon = SimpleNamespace(
        config=SimpleNamespace(
            limits=SimpleNamespace(launch_ms=5000),
            memory=SimpleNamespace(keep_free_mb=0),
        ),
        log=SimpleNamespace(event=lambda *words, **more: None),
    )
    rooms_ = ahead.Rooms(daemon, most=4, per_caller=2)  # type: ignore[arg-type]
    monkeypatch.setattr(rooms_, "dissolve", lambda room: None)

    class Checker:
        async def watched(self, watch: object) -> None:
            return None

    real = rooms.Room

    def with_checker(**fields: object) -> rooms.Room:
        return real(**fields, checker=Checker())  # type: ignore[arg-type]

    monkeypatch.setattr(ahead, "Room", with_checker)

    async def make() -> None:
        rooms_.launched(facts, first := asked())
        await rooms_._make(facts, first)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(make())
    assert held == [(tmp_path / "file").stat().st_ino]
    rooms_._mounts.close()
    assert len(os.listdir("/proc/self/fd")) <= before
