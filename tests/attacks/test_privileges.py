# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody becomes somebody else: ids, capabilities, and the other processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.attacks import (
    PROGRAMS,
    TIERS,
    attack,
    finish,
    host_pid,
    listed,
    running,
    source,
    unrefused,
)
from support.daemons import Service
from support.powers import need

INTERPRETER = os.path.realpath("/usr/bin/python3")
NO_CAPABILITY = ["0" * 16]
# EINVAL: no other id is mapped in the sandbox's user namespace.
ID_REFUSED = frozenset(("EPERM", "EINVAL", "EACCES", "ENOSYS", "write EPERM"))
CALLERS = (12345, 0)


@pytest.mark.parametrize("name", sorted(p.stem for p in PROGRAMS.glob("*.py")))
def test_no_attacking_program_runs_outside_a_sandbox(name: str) -> None:
    """Neither alone nor with its prelude, and not even as an ordinary user."""
    for text in (source(name), (PROGRAMS / f"{name}.py").read_text()):
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", text, "look", "x"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            user=12345,
            group=12345,
            extra_groups=[],
            cwd="/",
        )
        assert done.stdout == ""
        if name != "prelude":
            assert done.returncode == 1
            assert "refuses to run" in done.stderr or "'inside'" in done.stderr


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_no_call_makes_it_another_user_or_gives_a_capability(
    daemon: Service, tier: str, uid: int
) -> None:
    done = attack(daemon, "become", tier=tier, uid=uid)
    answers = done["refused"]
    assert isinstance(answers, dict)
    # The kernel asks nothing of who writes it: project ids mean nothing outside the
    # first user namespace (see FS_IOC_FSSETXATTR among the attacks on files).
    answers.pop("write self projid_map")
    assert unrefused(answers, ID_REFUSED) == {}
    assert done["after"] == done["before"]
    seen = done["after"]
    assert isinstance(seen, dict)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert seen[name] == NO_CAPABILITY
    assert seen["Groups"] == []
    assert len(set(seen["Uid"])) == len(set(seen["Gid"])) == 1
    if uid:
        assert seen["Uid"][0] == str(uid)
    assert seen["Uid"][0] != "0"
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == (["1"], ["2"])


@pytest.fixture(scope="module")
def bait(daemon: Service) -> Iterator[tuple[str, Path]]:
    """Interpreters that are set-user-id, set-group-id, and have file capabilities.

    And a policy that shows them. Not in /tmp, which many mount without setid bits.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="isolauncher-") as name:
        place = Path(name)
        bare = os.statvfs(place).f_flag & os.ST_NOSUID
        need("/var/tmp is mounted nosuid" if bare else None)
        place.chmod(0o755)
        for file, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("capable", 0o755)):
            shutil.copyfile(INTERPRETER, place / file)
            os.chown(place / file, 0, 0)
            os.chmod(place / file, mode)
        # struct vfs_cap_data, version 2, effective: cap_setuid and cap_sys_admin.
        mask = 1 << 7 | 1 << 21
        value = struct.pack("<5I", 0x02000000 | 1, mask, 0, 0, 0)
        os.setxattr(place / "capable", "security.capability", value)
        policy = daemon.policy(
            "bait",
            'version = 1\n[match]\ncallers = ["*"]\n'
            f'[files]\nread = ["...", "{place}"]\n',
        )
        yield policy, place


def _outside(path: Path) -> list[str]:
    """What an ordinary user becomes by running it unconfined: ids and nothing else."""
    what = (
        "import os; print(*os.getresuid(), *os.getresgid(),"
        "open('/proc/self/status').read().split('CapPrm:')[1].split()[0])"
    )
    done = subprocess.run(
        [path, "-I", "-c", what],
        capture_output=True,
        text=True,
        check=True,
        user=12345,
        group=12345,
        extra_groups=[],
        cwd="/",
    )
    return done.stdout.split()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_setuid_setgid_and_capable_files_give_nothing_inside_what_they_give_outside(
    daemon: Service, bait: tuple[str, Path], tier: str, uid: int
) -> None:
    policy, place = bait
    assert _outside(place / "setuid")[1:3] == ["0", "0"], "the bait is no bait"
    assert _outside(place / "setgid")[4:6] == ["0", "0"], "the bait is no bait"
    assert int(_outside(place / "capable")[6], 16) != 0, "the bait is no bait"
    paths = [str(place / name) for name in ("setuid", "setgid", "capable")]
    done = attack(daemon, "bait", *paths, tier=tier, uid=uid, policy=policy)
    inner_uid, inner_gid = str(done["uid"]), str(done["gid"])
    nothing = [inner_uid] * 3 + [inner_gid] * 3 + NO_CAPABILITY
    assert done["became"] == {path: nothing for path in paths}


@pytest.mark.parametrize("name", ["setuid", "setgid", "capable"])
def test_a_setuid_program_named_itself_starts_as_nobody_special(
    daemon: Service, bait: tuple[str, Path], name: str
) -> None:
    policy, place = bait
    what = "import os; print(os.getresuid(), os.getresgid())"
    done = daemon.run(
        "--policy", policy, "--", str(place / name), "-I", "-c", what, uid=12345
    )
    assert done.text == f"{(12345,) * 3} {(12345,) * 3}\n"


@pytest.mark.parametrize("tier", TIERS)
def test_two_activities_of_one_caller_are_two_users_and_cannot_touch_each_other(
    daemon: Service, tier: str
) -> None:
    ours, theirs = socket.socketpair()
    with running(daemon, "wait", tier=tier, id="victim") as victim:
        victim.line()
        pid = host_pid(daemon, "victim")
        init = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        pidfd = os.pidfd_open(pid)
        with ours, theirs:
            socket.send_fds(ours, [b"p"], [pidfd])
            pids = [pid, init, daemon.process.pid if daemon.process else 0, os.getpid()]
            done = finish(
                daemon,
                "sibling",
                *(str(p) for p in pids),
                tier=tier,
                stdin=theirs.fileno(),
            )
        os.close(pidfd)
        assert done.status == 0, done.errors
        assert done.report is not None
        other = listed(daemon, "victim")
        identity = done.report["identity"]
        assert isinstance(identity, dict)
        assert identity["uid"] != other["uid"]
        # It ends by itself and says so: nothing that was tried reached it.
        victim.tell()
        assert victim.line() == {"whole": True}
        assert victim.ended()[0] == 0
    answers = json.loads(done.text)
    gone = frozenset(("EPERM", "ESRCH", "ENOENT", "ENOSYS", "EINVAL", "EACCES"))
    assert unrefused(answers["named"], gone) == {}
    # A child to wait for is only one's own.
    assert answers["passed"].pop("waitid") == "ECHILD"
    passed = gone | {"ENOTTY", "EOPNOTSUPP"}
    assert unrefused(answers["passed"], passed) == {}
