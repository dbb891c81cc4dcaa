# SPDX-License-Identifier: GPL-3.0-or-later
"""Who launches for the third time on demand is shown what he was, and only while it is.

What the kernel tells of, and what not, is test_ways.py's; that a program sees the same
as in any other sandbox is test_probe.py's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.bundles import system_directory
from support.daemons import Finished, Service, service
from support.peers import until
from support.powers import need, sandboxes

from isolauncher import seen

CAROL = 12347
CONFIG = "version = 1\n[rooms]\nahead = 0\nspares = 1\n"
LOOKS = """
import os, sys
for path in sys.argv[1:]:
    try:
        print(sorted(os.listdir(path)))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def daemon(services: Callable[[str], Service]) -> Service:
    need(sandboxes())
    return services(CONFIG)


def showing(where: Service, name: str, *paths: Path) -> str:
    read = json.dumps(["...", *map(str, paths)])
    return where.policy(
        name,
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nread = {read}\n',
    )


def launch(where: Service, policy: str, *paths: Path, uid: int = CAROL) -> Finished:
    script = where.script("looks.py", LOOKS)
    words = ("--policy", policy, "--", script, *map(str, paths))
    done = where.run(*words, uid=uid)
    assert (done.status, done.errors) == (0, ""), done
    assert done.report is not None
    assert done.report["activity"]["path"] == "demand"  # type: ignore[index]
    where.at_rest()
    return done


def openers(where: Service, uid: int) -> list[int]:
    """Those of a daemon's that wait for a caller."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_text(errors="replace").strip("\0")
            state, parent = _stat(int(path.parent.name))
            _, above = _stat(parent)
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The service's child, which is the daemon's.
        if where.process is None or above != where.process.pid:
            continue
        if title == f"isolauncher: opener({uid})" and state != "Z":
            found.append(int(path.parent.name))
    return found


def _stat(pid: int) -> tuple[str, int]:
    """Its state, and whose child it is."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0], int(words[1])


def switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def known(where: Service, policy: str, *paths: Path, uid: int = CAROL) -> int:
    """Launched twice, and looked at; the pid of the opener that waits now."""
    for _ in range(2):
        launch(where, policy, *paths, uid=uid)
    assert until(lambda: len(openers(where, uid)) == 1), openers(where, uid)
    return openers(where, uid)[0]


@pytest.fixture
def alone(daemon: Service) -> Service:
    """With nobody of Carol's waiting from the test before."""
    for uid in (CAROL, CAROL + 1):
        for pid in openers(daemon, uid):
            os.kill(pid, signal.SIGKILL)
        assert until(lambda uid=uid: not openers(daemon, uid))
    return daemon


def test_the_third_launch_has_only_its_program_opened(alone: Service) -> None:
    with system_directory() as shown:
        (shown / "one").touch()
        policy = showing(alone, "third", shown)
        pid = known(alone, policy, shown)
        before = switches(pid)
        assert launch(alone, policy, shown).text == "['one']\n"
        assert openers(alone, CAROL) == [pid]
        assert switches(pid) > before
        # What is in a directory that is shown is shown as it is.
        (shown / "two").touch()
        holds = os.listdir(f"/proc/{pid}/fd")
        assert launch(alone, policy, shown).text == "['one', 'two']\n"
        assert openers(alone, CAROL) == [pid]
        # Of no program that it has opened.
        assert len(os.listdir(f"/proc/{pid}/fd")) == len(holds)


def test_another_caller_is_shown_what_he_may_see(alone: Service) -> None:
    with system_directory() as shown:
        (shown / "hers").touch()
        os.chown(shown, CAROL, CAROL)
        shown.chmod(0o700)
        policy = showing(alone, "hers", shown)
        known(alone, policy, shown)
        assert launch(alone, policy, shown).text == "['hers']\n"
        for _ in range(3):
            done = launch(alone, policy, shown, uid=CAROL + 1)
            assert done.text == "FileNotFoundError\n"


def _replace(path: Path) -> None:
    path.rename(path.with_name("gone"))
    path.mkdir()
    (path / "new").touch()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (_replace, "['new']"),
    "gone": (lambda path: path.rename(path.with_name("gone")), "FileNotFoundError"),
    "not to be read": (lambda path: path.chmod(0o700), "FileNotFoundError"),
    "not to be reached": (lambda path: path.parent.chmod(0o700), "FileNotFoundError"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_opened_anew(
    alone: Service, change: tuple[Callable[[Path], object], str]
) -> None:
    with system_directory() as above:
        shown = above / "shown"
        shown.mkdir()
        policy = showing(alone, "changes", shown)
        known(alone, policy, shown)
        assert launch(alone, policy, shown).text == "[]\n"
        change[0](shown)
        for _ in range(3):
            assert launch(alone, policy, shown).text == f"{change[1]}\n"


def test_what_was_mounted_meanwhile_is_shown(alone: Service) -> None:
    with system_directory() as shown:
        (shown / "below").mkdir()
        policy = showing(alone, "mounted", shown)
        known(alone, policy, shown / "below")
        subprocess.run(["mount", "-t", "tmpfs", "seen", shown / "below"], check=True)
        try:
            (shown / "below" / "new").touch()
            assert launch(alone, policy, shown / "below").text == "['new']\n"
        finally:
            # Nothing that is remembered keeps it.
            subprocess.run(["umount", shown / "below"], check=True)
        assert launch(alone, policy, shown / "below").text == "[]\n"


def test_a_disk_that_somebody_may_take_away_is_not_kept(alone: Service) -> None:
    with system_directory() as shown:
        image = shown / "image"
        with open(image, "wb") as file:
            file.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        (shown / "disk").mkdir()
        loop = subprocess.run(["mount", "-o", "loop", image, shown / "disk"])
        need(None if loop.returncode == 0 else "no loop device can be mounted here")
        try:
            policy = showing(alone, "disk", shown / "disk")
            for _ in range(3):
                launch(alone, policy, shown / "disk")
            assert openers(alone, CAROL) == []
        finally:
            subprocess.run(["umount", shown / "disk"], check=True)


def test_an_edited_policy_governs_the_next_launch(alone: Service) -> None:
    with system_directory() as shown:
        policy = showing(alone, "edited", shown)
        known(alone, policy, shown)
        showing(alone, "edited")
        assert launch(alone, policy, shown).text == "FileNotFoundError\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_opener_that_its_caller_ends_is_replaced(
    alone: Service, number: signal.Signals
) -> None:
    with system_directory() as shown:
        policy = showing(alone, "killed", shown)
        pid = known(alone, policy, shown)
        os.kill(pid, number)
        assert until(lambda: pid not in openers(alone, CAROL))
        assert launch(alone, policy, shown).text == "[]\n"


def test_of_launches_at_once_each_has_its_own_program(alone: Service) -> None:
    with system_directory() as shown:
        policy = showing(alone, "several", shown)
        known(alone, policy, shown)
        clients = []
        for number in range(6):
            script = alone.script(f"says{number}.py", f"print({number})")
            words = ("run", "--policy", policy, "--", script)
            clients.append(alone.start_client(*words, uid=CAROL))
        for number, client in enumerate(clients):
            assert client.communicate(timeout=60)[0] == b"%d\n" % number
            assert client.returncode == 0
        alone.at_rest()
        assert len(openers(alone, CAROL)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_daemon(number: signal.Signals) -> None:
    need(sandboxes())
    with service(config=CONFIG) as where:
        uid = CAROL + 7
        known(where, showing(where, "ends"), uid=uid)
        where.stop(number)
        assert until(lambda: not openers(where, uid))
        where.start()


@pytest.mark.parametrize("more", ["[memory]\nkeep-free-mb = 1000000\n", ""])
def test_nobody_waits_where_nothing_is_to_wait(more: str) -> None:
    need(sandboxes())
    config = CONFIG + more if more else CONFIG.replace("spares = 1", "spares = 0")
    with service(config=config) as where:
        uid = CAROL + 8
        policy = showing(where, "none")
        script = where.script("looks.py", LOOKS)
        for _ in range(3):
            where.run("--policy", policy, "--", script, uid=uid)
            where.at_rest()
        assert openers(where, uid) == []


def test_it_is_kept_for_no_longer_than_it_is_of_use() -> None:
    """And of no more than a few callers, the latest."""
    assert seen.MOST * 4 <= 16
    need(sandboxes())
    with service(config=CONFIG) as where:
        policy = showing(where, "few")
        uids = [CAROL + 20 + number for number in range(seen.MOST + 1)]
        for uid in uids:
            known(where, policy, uid=uid)
        assert until(lambda: not openers(where, uids[0]))
        assert all(len(openers(where, uid)) == 1 for uid in uids[1:])


def test_who_comes_when_a_look_is_all_but_over_is_looked_for_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    async def once_more(views: seen.Views, made_from: str) -> None:
        looked.append(made_from)

    monkeypatch.setattr(seen.Views, "_once_more", once_more)
    monkeypatch.setattr(seen, "AFTER_S", 0)

    async def come() -> bool:
        daemon: Any = SimpleNamespace(
            config=SimpleNamespace(rooms=SimpleNamespace(spares=1)),
            alone=False,
            closing=asyncio.Event(),
            starting=lambda: False,
            rooms=SimpleNamespace(making=lambda: False),
        )
        views: Any = seen.Views(daemon, None)  # type: ignore[arg-type]
        over = asyncio.create_task(asyncio.sleep(0))
        views._looking = over
        await over
        for _ in range(2):
            views.came("facts")
        views._looked(over)
        for _ in range(10):
            await asyncio.sleep(0.01)
        return bool(views.is_busy())

    assert not asyncio.run(come())
    assert looked == ["facts"]
