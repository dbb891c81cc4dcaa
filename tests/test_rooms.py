# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms prepared ahead: given out only while they are right, and never left behind.

That a program sees the same in one as in any other sandbox is test_probe.py's.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.bundles import system_directory
from support.daemons import ROOMS_AHEAD, Finished, Leftovers, Service, service
from support.peers import until, zygotes
from support.powers import need, root, sandboxes
from support.spoiling import launch as spoiling_launch

from isolauncher import ahead, init, opener, reopen, rooms, wire
from isolauncher import launch as road
from isolauncher.channel import readable
from isolauncher.errors import IdentityError, StepError
from isolauncher.kernel import Recorder
from isolauncher.policy import wishes
from isolauncher.policy.load import PolicyStore, trusted_owners
from isolauncher.policy.model import Policy
from isolauncher.reopen import Opened, Program, Want
from isolauncher.request import Caller

CAROL = 12347
ATTENTIVE = """
import os, sys
for path in sys.argv[1:]:
    try:
        print(path, sorted(os.listdir(path)))
    except OSError as error:
        print(path, type(error).__name__)
"""


@pytest.fixture(scope="module")
def daemon(services: Callable[[str], Service]) -> Service:
    need(sandboxes())
    return services(ROOMS_AHEAD)


def launch(where: Service, policy: str, *words: str, **keywords: object) -> Finished:
    script = where.script("attentive.py", ATTENTIVE)
    done = where.run("--policy", policy, "--", script, *words, **keywords)
    assert (done.status, done.errors) == (0, ""), done
    return done


def way(done: Finished) -> object:
    assert done.report is not None
    return done.report["activity"]["path"]  # type: ignore[index]


def prepared(where: Service, policy: str, **keywords: object) -> None:
    """Two launches, and a third finds its room ready."""
    for _ in range(2):
        launch(where, policy, **keywords)
        where.at_rest()
    assert where.at_rest()["rooms"]["ready"]  # type: ignore[index]


def showing(where: Service, name: str, *paths: Path, **more: str) -> str:
    read = json.dumps(["...", *map(str, paths)])
    lines = ["version = 1", *(f"{k} = {v}" for k, v in more.items())]
    text = "\n".join(
        [*lines, "[match]", 'callers = ["*"]', "[files]", f"read = {read}"]
    )
    return where.policy(name, text + "\n")


def test_who_launches_for_the_third_time_finds_a_room_ready(daemon: Service) -> None:
    policy = showing(daemon, "third")
    ways = []
    for _ in range(3):
        ways.append(way(launch(daemon, policy)))
        daemon.at_rest()
    assert ways == ["demand", "demand", "pool"]


def test_a_room_of_one_caller_is_not_given_to_another(daemon: Service) -> None:
    policy = showing(daemon, "mine")
    prepared(daemon, policy, uid=CAROL)
    assert way(launch(daemon, policy)) == "demand"
    assert way(launch(daemon, policy, uid=CAROL)) == "pool"


def test_an_edited_policy_governs_the_next_launch(daemon: Service) -> None:
    with system_directory() as place:
        policy = showing(daemon, "edited")
        prepared(daemon, policy)
        showing(daemon, "edited", place)
        done = launch(daemon, policy, str(place))
    assert done.text == f"{place} []\n"
    assert way(done) == "demand"


def test_a_directory_that_was_replaced_is_not_shown_as_it_was(daemon: Service) -> None:
    with system_directory() as place:
        (place / "here").mkdir()
        policy = showing(daemon, "replaced", place / "here")
        prepared(daemon, policy)
        (place / "here").rename(place / "gone")
        (place / "here").mkdir()
        (place / "here" / "new").touch()
        done = launch(daemon, policy, str(place / "here"))
    assert done.text == f"{place}/here ['new']\n"
    assert way(done) == "demand"


def test_a_directory_that_the_caller_may_not_read_any_more_is_not_shown(
    daemon: Service,
) -> None:
    with system_directory() as place:
        (place / "secret").touch()
        policy = showing(daemon, "secret", place)
        prepared(daemon, policy, uid=CAROL)
        assert "secret" in launch(daemon, policy, str(place), uid=CAROL).text
        daemon.at_rest()
        place.chmod(0o700)
        done = launch(daemon, policy, str(place), uid=CAROL)
    assert done.text == f"{place} FileNotFoundError\n"
    assert way(done) == "demand"


def test_what_was_mounted_meanwhile_is_seen(daemon: Service) -> None:
    with system_directory() as place:
        (place / "below").mkdir()
        policy = showing(daemon, "mounted", place)
        prepared(daemon, policy)
        subprocess.run(["mount", "-t", "tmpfs", "room", place / "below"], check=True)
        try:
            (place / "below" / "new").touch()
            done = launch(daemon, policy, str(place / "below"))
        finally:
            subprocess.run(["umount", place / "below"], check=True)
        assert done.text == f"{place}/below ['new']\n"
        assert way(done) == "demand"
        # And the one made then does not keep what has been taken away.
        done = launch(daemon, policy, str(place / "below"))
        assert done.text == f"{place}/below []\n"


def test_a_launch_with_an_id_of_its_own_has_the_rooms_lease(daemon: Service) -> None:
    policy = showing(daemon, "named")
    prepared(daemon, policy)
    script = daemon.script("wait.py", "import sys; print(1, flush=True); input()")
    words = ("run", "--policy", policy, "--id", "my_own", "--", script)
    client = daemon.start_client(*words, stdin=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.read(2) == b"1\n"
    (listed,) = (
        json.loads(path.read_text())
        for path in (daemon.state_dir / "identity" / "uids").iterdir()
        if "my_own" in path.read_text()
    )
    running = daemon.ask({"version": 1, "verb": "ps"})["activities"]
    assert [(a["uid"], a["path"]) for a in running] == [(listed["uid"], "pool")]  # type: ignore[index,union-attr]
    client.communicate(b"\n", timeout=30)
    assert client.returncode == 0


def test_a_room_whose_opener_its_caller_has_killed_is_not_used(daemon: Service) -> None:
    policy = showing(daemon, "killed")
    prepared(daemon, policy, uid=CAROL)
    for pid in _titled(daemon, f"opener({CAROL})"):
        os.kill(pid, signal.SIGKILL)
    assert way(launch(daemon, policy, uid=CAROL)) == "demand"


def test_an_opener_that_its_caller_has_stopped_ends_all_the_same() -> None:
    need(root())

    async def check() -> None:
        openers = opener.Service()
        try:
            one = opener.Opener(openers, Caller(uid=CAROL, gid=CAROL, groups=(), pid=0))
            await one.open((), None)
            pidfd = os.dup(one._pidfd)
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            one.close()
            await asyncio.wait_for(readable(pidfd), 20 * opener.LEAVE_S)
            os.close(pidfd)
        finally:
            openers.close()

    asyncio.run(check())


def test_a_service_of_openers_that_was_killed_is_started_again() -> None:
    need(sandboxes())
    with service(config=ROOMS_AHEAD) as daemon:
        (pid,) = _titled(daemon, "isolauncher: opener\0")
        os.kill(pid, signal.SIGKILL)
        # Those that it has forked already, and those of the next one.
        for _ in range(opener.SPARES + 1):
            launch(daemon, showing(daemon, "again"))
        assert len(_titled(daemon, "isolauncher: opener\0")) == 1


@pytest.mark.parametrize("who", ["init", "stem"])
def test_a_room_that_ended_of_itself_is_taken_down(daemon: Service, who: str) -> None:
    policy = showing(daemon, f"ended_{who}")
    empty = _empty(daemon)
    prepared(daemon, policy)
    (init,) = _inits(daemon) - empty
    if who == "init":
        os.kill(init, signal.SIGKILL)
    else:
        children = Path(f"/proc/{init}/task/{init}/children").read_text()
        os.kill(int(children), signal.SIGKILL)
        # Nobody need notice before somebody asks for it.
    assert way(launch(daemon, policy)) == "demand"
    daemon.at_rest()


def test_rooms_end_with_their_zygote(daemon: Service) -> None:
    policy = showing(daemon, "zygote")
    prepared(daemon, policy)
    before = _inits(daemon)
    os.kill(zygotes(daemon)["python"], signal.SIGKILL)
    daemon.wait_for_log("zygote-ended")
    assert way(launch(daemon, policy)) == "demand"
    daemon.at_rest()
    assert not before & _inits(daemon)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_rooms_end_with_their_daemon(number: signal.Signals) -> None:
    need(sandboxes())
    with service(config=ROOMS_AHEAD) as daemon:
        before = Leftovers.now(daemon)
        prepared(daemon, showing(daemon, "daemon"))
        init = _inits(daemon)
        assert init
        daemon.stop(number)
        assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in init))
        daemon.config = "version = 1\n[rooms]\nahead = 0\n"
        daemon.start()
        assert Leftovers.now(daemon).leases == before.leases
        assert Leftovers.now(daemon).cgroups == before.cgroups


def test_a_caller_out_of_uids_gets_the_one_that_its_room_has() -> None:
    need(sandboxes())
    config = "version = 1\n[quotas]\nuids = 1\n[rooms]\nahead = 4\n"
    with service(config=config) as daemon:
        one, other = showing(daemon, "one"), showing(daemon, "other")
        for _ in range(40):
            launch(daemon, one, uid=CAROL)
            # Not made where the activity before it has its uid still, as is usual on a
            # busy machine.
            if daemon.at_rest()["rooms"]["ready"]:  # type: ignore[index]
                break
        else:
            raise AssertionError(daemon.log)
        assert way(launch(daemon, other, uid=CAROL)) == "demand"


def test_a_caller_has_no_more_rooms_than_the_daemon_is_told() -> None:
    need(sandboxes())
    config = "version = 1\n[rooms]\nahead = 3\nper-caller = 1\n"
    with service(config=config) as daemon:
        before = Leftovers.now(daemon)
        for name in ("a", "b", "c"):
            prepared(daemon, showing(daemon, name), uid=CAROL)
        assert daemon.at_rest()["rooms"]["ready"] == 1  # type: ignore[index]
        for uid in (CAROL + 1, CAROL + 2, CAROL + 3):
            prepared(daemon, showing(daemon, "a"), uid=uid)
        assert daemon.at_rest()["rooms"]["ready"] == 3  # type: ignore[index]
        daemon.policy("a", "version = 1\n")  # every room is of another policy now
        assert len(Leftovers.now(daemon).leases - before.leases) == 3


def test_stats_tell_a_caller_of_its_own_launches_only(daemon: Service) -> None:
    policy = showing(daemon, "stats")
    launch(daemon, policy, uid=CAROL + 7)
    done = daemon.isolauncher("stats", "--json", uid=CAROL + 7)
    mine = json.loads(done.out)
    assert mine["launches"].keys() == {"demand"}
    assert mine["launches"]["demand"]["count"] == 1
    everyone = json.loads(daemon.isolauncher("stats", "--json").out)
    assert everyone["launches"]["demand"]["count"] > 1
    times = everyone["launches"]["demand"]["timings_us"]["total"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"]


def test_a_caller_out_of_uids_takes_the_rooms_of_no_other() -> None:
    need(sandboxes())
    config = "version = 1\n[quotas]\nuids = 1\n[rooms]\nahead = 4\n"
    with service(config=config) as daemon:
        policy = showing(daemon, "one")
        prepared(daemon, policy, uid=CAROL + 1)
        prepared(daemon, policy, uid=CAROL)
        assert way(launch(daemon, showing(daemon, "other"), uid=CAROL)) == "demand"
        assert way(launch(daemon, policy, uid=CAROL + 1)) == "pool"


def test_nobody_launches_under_the_name_of_a_room(daemon: Service) -> None:
    """Its cgroup has that name, whether it waits or another's activity is in it."""
    policy = showing(daemon, "called")
    others = _empty(daemon)
    prepared(daemon, policy)
    (init,) = _inits(daemon) - others
    title = Path(f"/proc/{init}/cmdline").read_text()
    name = title.partition("(")[2].partition(")")[0]
    script = daemon.script("wait.py", "import sys; print(1, flush=True); input()")
    words = ("run", "--policy", policy, "--id", name, "--", script)
    done = daemon.isolauncher(*words, uid=CAROL)
    assert (done.status, "already" in done.errors) == (125, True), done
    others = ("run", "--policy", policy, "--id", "of_its_own", "--", script)
    client = daemon.start_client(*others, stdin=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.read(2) == b"1\n"
    running = daemon.ask({"version": 1, "verb": "ps"})["activities"]
    assert [a["path"] for a in running] == ["pool"]  # type: ignore[index,union-attr]
    done = daemon.isolauncher(*words, uid=CAROL)
    assert (done.status, "already" in done.errors) == (125, True), done
    client.communicate(b"\n", timeout=30)
    assert client.returncode == 0


@pytest.mark.long
def test_launches_with_rooms_leave_no_descriptor_and_no_memory() -> None:
    need(sandboxes())
    with service(config="version = 1\n[rooms]\nahead = 1\n") as daemon:
        policy = showing(daemon, "often")
        prepared(daemon, policy)
        script = daemon.script("often.py", "")
        assert daemon.process is not None
        process = Path(f"/proc/{daemon.process.pid}")

        def held() -> tuple[int, int]:
            assert daemon.at_rest()["rooms"]["ready"] == 1  # type: ignore[index]
            resident = int((process / "statm").read_text().split()[1])
            size = resident * os.sysconf("SC_PAGE_SIZE")
            return len(os.listdir(process / "fd")), size

        def launches(count: int) -> None:
            for number in range(count):
                run = spoiling_launch(daemon, script, policy=policy)
                said = run.end()
                run.close()
                assert said is not None
                assert said.get("status") == 0, said
                if number % 5 == 0:
                    daemon.at_rest()

        launches(15)
        descriptors, memory = held()
        launches(35)
        # An opener's end is heard of a moment after its room is given.
        assert until(lambda: held()[0] <= descriptors), (held(), descriptors)
        assert held()[1] - memory < 2 << 20


# ------------------------------------------------------- told to end, at any moment


def activity_in(room: rooms.Room) -> road.Activity:
    return road.Activity(
        id="one",
        caller_uid=CAROL,
        caller_gid=CAROL,
        bundle_id=None,
        policy="p",
        policy_files=(),
        tier="fork",
        path="pool",
        program=["p"],
        room=room,
        tied=True,
    )


def test_an_end_told_while_a_stale_room_goes_is_that_of_the_next() -> None:
    async def check() -> None:
        activity = activity_in(rooms.Room(id="ahead"))
        gone = asyncio.Event()

        def dissolve(room: rooms.Room) -> asyncio.Task[object]:
            room.end()
            return asyncio.create_task(gone.wait())

        daemon = SimpleNamespace(rooms=SimpleNamespace(dissolve=dissolve))
        leaving = asyncio.create_task(road._leave_room(daemon, activity))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        activity.room.end()
        gone.set()
        await leaving
        assert activity.room.id == "one"
        assert activity.room.dissolved

    asyncio.run(check())


def test_a_stale_room_is_waited_for_by_who_is_cut_short() -> None:
    async def check() -> None:
        activity = activity_in(rooms.Room(id="ahead"))
        gone = asyncio.Event()

        def dissolve(room: rooms.Room) -> asyncio.Task[object]:
            return asyncio.create_task(gone.wait())

        daemon = SimpleNamespace(rooms=SimpleNamespace(dissolve=dissolve))
        leaving = asyncio.create_task(road._leave_room(daemon, activity))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not leaving.done()
        gone.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(check())


def changed_by(change: Callable[[Path], object], path: Path) -> bool:
    """Whether an opener, asked again after ``change``, finds ``path`` another."""
    want = Want(path=str(path), writable=False)
    before = list(reopen._follow(want))
    straight = reopen._straight_way(want, before)
    assert straight is not None
    assert reopen._is_same(want, before, straight)
    change(path)
    wire.close_all(e.fd for e in before if e.fd >= 0)
    return not reopen._is_same(want, before, straight)


def replace_it(path: Path) -> None:
    (path.parent / "new").write_text("")
    (path.parent / "new").rename(path)


def link_it(path: Path) -> None:
    path.rename(path.parent / "moved")
    path.symlink_to(path.parent / "moved")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0),
        lambda path: os.chown(path, 1, -1),
        replace_it,
        link_it,
        Path.unlink,
    ],
)
def test_a_path_that_has_changed_is_not_the_same(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    need(sandboxes())
    (tmp_path / "file").write_text("")
    assert changed_by(change, tmp_path / "file")


def test_a_path_that_has_appeared_is_not_the_same(tmp_path: Path) -> None:
    assert changed_by(Path.touch, tmp_path / "file")
    assert not changed_by(lambda path: None, tmp_path / "nothing")


def test_a_room_that_cannot_be_renamed_is_given_no_program() -> None:
    class Given:
        async def program(self) -> Program:
            raise AssertionError

        def rename(self, activity_id: str) -> None:
            raise IdentityError("no", code="identity-not-held")

    given = Given()
    one = {"checker": given, "record": given, "sandbox": given}
    room = rooms.Room(id="a", leased_as="a", ahead=True, **one)  # type: ignore[arg-type]
    activity = activity_in(room)
    with pytest.raises(IdentityError):
        asyncio.run(road._room(SimpleNamespace(), activity, None, 7))  # type: ignore[arg-type]


def test_whose_a_bundles_room_is_is_written_while_it_is_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And before it is let run; of a program, while its opener is."""
    done: list[str] = []
    names = ("rename", "pass_on", "append", "describe")
    said = SimpleNamespace(
        **{n: lambda *words, n=n, **more: done.append(n) for n in names}
    )
    daemon = SimpleNamespace(ledger=said, describe=said.describe)

    async def seal(*words: Any) -> None:
        done.append("told")
        words[-1]()
        done.append("sealed")

    async def go(*words: object) -> None:
        done.append("go")

    monkeypatch.setattr(road.road, "seal", seal)
    monkeypatch.setattr(road.road, "go", go)
    room = rooms.Room(id="a", leased_as="a", ahead=True, record=said, checker=said)  # type: ignore[arg-type]
    activity = activity_in(room)

    async def launch() -> None:
        program = await road._room(daemon, activity, None, None)  # type: ignore[arg-type]
        await road._road(activity, daemon, None, program, None)  # type: ignore[arg-type]

    asyncio.run(launch())
    assert done == ["told", "rename", "pass_on", "describe", "append", "sealed", "go"]
    assert room.leased_as == activity.id


def test_what_was_begun_for_a_room_comes_to_its_end_however_often_it_is_cut_short(
    tmp_path: Path,
) -> None:
    """Else the zygote's answer to it would be taken for that to the next launch."""
    opened = os.open(tmp_path, os.O_PATH)

    async def check() -> None:
        go_on = asyncio.Event()
        answered = False

        async def fork() -> object:
            nonlocal answered
            await go_on.wait()
            answered = True
            raise StepError("no", step="fork")

        async def find() -> tuple[tuple[Opened, ...], Program | None]:
            await go_on.wait()
            return (Opened(path="/", kind="directory", fd=opened),), None

        room = rooms.Room(id="one")
        both = asyncio.create_task(rooms._both(room, fork(), find()))  # type: ignore[arg-type]
        for _ in range(3):
            await asyncio.sleep(0)
            both.cancel()
            await asyncio.sleep(0)
        assert not both.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await both
        assert answered

    asyncio.run(check())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)


def test_the_next_one_waits_until_what_was_launched_has_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    # Processor time of two, look by look: the second is open at last.
    seen = {7: [0.0, 0.4, 0.4, 0.4], 8: [0.3, 0.5, 0.75, 0.751]}

    def used(pid: int) -> float:
        looks.append(pid)
        return seen[pid].pop(0)

    monkeypatch.setattr(ahead, "_processor_s", used)
    monkeypatch.setattr(ahead, "LOOK_S", 0.25)

    async def look(activities: list[SimpleNamespace]) -> float:
        now = asyncio.get_running_loop().time
        began = now()
        for activity in activities:
            activity.started += began
        daemon = SimpleNamespace(activities=dict(enumerate(activities)))
        await ahead.Rooms._opened(SimpleNamespace(_daemon=daemon))  # type: ignore[arg-type]
        return now() - began

    def one(pid: int, **other: Any) -> SimpleNamespace:
        begun = {"state": "running", "bundle_id": "x", "started": -1.0, "pid": pid}
        return SimpleNamespace(**(begun | other))

    assert 0.7 < asyncio.run(look([one(7), one(8)])) < 5
    assert looks == [7, 8] * 4
    # None of these opens a window now.
    others = (
        one(9, bundle_id=None),
        one(9, state="exited"),
        one(9, started=-ahead.OPENED_S - 1),
    )
    assert asyncio.run(look(list(others))) < 0.2


def test_processor_time_is_told_of_who_runs() -> None:
    before = ahead._processor_s(os.getpid())
    while ahead._processor_s(os.getpid()) < before + 0.02:
        pass
    assert ahead._processor_s(0) == 0.0


def _titled(where: Service, words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
            status = (path.parent / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words.encode() in title and "State:\tZ" not in status:
            pid = int(path.parent.name)
            if _is_below(pid, where):
                found.append(pid)
    return found


def _is_below(pid: int, where: Service) -> bool:
    assert where.process is not None
    while pid > 1:
        if pid == where.process.pid:
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def _inits(where: Service) -> set[int]:
    return set(_titled(where, "isolauncher: init("))


def _empty(where: Service) -> set[int]:
    """The inits of rooms that other tests left; this one's comes beside them."""
    where.at_rest()
    return _inits(where)


@pytest.mark.parametrize("launches", [1, 3])
def test_no_opener_waits_while_an_activity_runs(launches: int) -> None:
    """On demand, and in a room that was prepared ahead."""
    need(sandboxes())
    with service(config="version = 1\n[rooms]\nahead = 1\n") as daemon:
        policy = showing(daemon, "quiet")
        if launches > 1:
            prepared(daemon, policy, uid=CAROL)
        script = daemon.script("waits.py", "print(1, flush=True); input()")
        words = ("run", "--policy", policy, "--", script)
        client = daemon.start_client(*words, uid=CAROL, stdin=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.read(2) == b"1\n"
        # The next room has one; it is made when this launch is through.
        rooms = daemon.ask({"version": 1, "verb": "stats"})["stats"]["rooms"]  # type: ignore[index,call-overload]
        most = rooms["ready"] + rooms["wanted"]
        assert until(lambda: len(_titled(daemon, f"opener({CAROL})")) <= most)
        client.communicate(b"\n", timeout=30)
        assert client.returncode == 0


def test_two_bundles_of_one_policy_that_ask_for_different_limits_are_no_versions(
    tmp_path: Path,
) -> None:
    """An edit puts the older one's room out of use; what a bundle asks for does not."""
    owners = trusted_owners() | {tmp_path.stat().st_uid}
    file = tmp_path / "mine.toml"
    with closing(PolicyStore(etc_dir=str(tmp_path), owners=owners)) as policies:
        file.write_text("version = 1\n")
        policy = policies.get("mine")
        file.write_text("version = 1\n[limits]\nprocesses = 30\n")
        edited = policies.get("mine")
    asking = SimpleNamespace(words=("lim_nproc", "20"), line=1)
    lowered, _ = wishes.answer(policy, [asking], "permissions.info")
    assert lowered.limits.processes == 20

    def of(policy: Policy) -> rooms.Facts:
        return rooms.Facts(
            policy=policy,
            caller=Caller(uid=CAROL, gid=CAROL, pid=0, groups=()),
            name="",
            home="/",
            own_home=True,
            set_name="python",
            lease_key=None,
            machine=SimpleNamespace(),  # type: ignore[arg-type]
        )

    asked = {
        p.limits.processes: ahead._Asked(facts=of(p), count=2, at=0.0)
        for p in (policy, lowered)
    }
    for number, same in ((128, policy), (20, lowered)):
        assert asked[number].is_replaced_by(of(same))
        assert asked[number].is_replaced_by(of(edited))
    assert not asked[128].is_replaced_by(of(lowered))
    assert not asked[20].is_replaced_by(of(policy))


def test_init_opens_nothing_once_it_has_said_that_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its new name takes a file of /proc, which the daemon saw now and then."""
    done: list[str] = []

    class Ended(Exception):
        pass

    def ends(*words: object) -> None:
        raise Ended

    room = SimpleNamespace(id="room", steps=(), ahead=True, more=False)
    rest = SimpleNamespace(id="asked", steps=(), last=True)
    come = iter([(room, {}), (rest, {"record": -1})])
    for name, value in {
        "_pass": lambda baton: None,
        "walk": lambda *words: done.append("walk"),
        "walk_alone": lambda *words: done.append("walk alone"),
        "_name": lambda id, kernel: done.append(f"name {id}"),
        "_tell": lambda event, channel, c: done.append(f"tell {event}"),
        "rehearse": lambda: None,
        "receive": lambda channel, kind: next(come),
        "_ended_soon": ends,
    }.items():
        monkeypatch.setattr(init, name, value)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    context = init.Context(kernel=Recorder(), descriptors={}, keep=frozenset())
    context.stem = os.getpid()
    with ours, theirs, pytest.raises(Ended):
        init._accompany(ours, theirs, context)
    assert done == [
        *("name room", "walk", "tell room"),
        *("walk alone", "name asked", "tell left"),
    ]


def test_an_answer_that_failed_is_not_waited_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def heard(one: object) -> object:
        raise StepError("it did not open", step="open", code="open-failed")

    monkeypatch.setattr(opener.Opener, "_heard", heard)
    one = opener.Opener(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]

    async def ask() -> bool:
        with pytest.raises(StepError):
            await one.same()
        monkeypatch.setattr(opener.Opener, "_heard", None)
        return await one.same()

    assert not asyncio.run(ask())


def test_of_what_is_not_there_is_told_where_the_way_ends(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name, end in (("no", "no"), ("no/deeper", "no"), ("link/no", "there/no")):
        *_, last = reopen._follow(Want(path=f"{tmp_path}/{name}", writable=False))
        assert last.kind == "absent"
        assert last.why == f"{tmp_path}/{end}: {os.strerror(errno.ENOENT)}"
