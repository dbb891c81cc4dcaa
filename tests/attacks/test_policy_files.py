# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on and through policy files (rows 13 to 19, 62 and 66), on the real daemon.

What is wrong in a file is found by the loader, whose own tests are in tests/policy.
Here a launch is asked for: it must end in a line that names the file, and be none.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.daemons import COMMAND, TOP, Service, service
from support.peers import (
    ALICE,
    BOB,
    QUICK,
    STANDARD,
    Watch,
    ask,
    normal_launch,
    run_message,
)
from support.powers import mounting, need, program, sandboxes, seccomp

from isolauncher import cgroups

CONFIG = QUICK
OPEN = 'version = 1\n[match]\ncallers = ["*"]\n'


@pytest.fixture
def watch(daemon: Service) -> Iterator[Watch]:
    watch = Watch(daemon)
    yield watch
    for path in daemon.policies.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def _refused(
    where: Service, watch: Watch, policy: str, *, uid: int = BOB
) -> dict[str, object]:
    said = ask(where, run_message(policy=policy), uid=uid)
    assert said["event"] == "refused", said
    assert said["exit_status"] == 125
    assert said["step"] == "policy", said
    assert "\n" not in str(said["message"])
    watch.settled(str(said["code"]))
    return said


WRONG = {
    "misspelt-key": "[kernel]\nNoNewPrivleges = true\n",
    "misspelt-table": "[limit]\nprocesses = 1\n",
    "key-of-another-table": "[files]\nprocesses = 1\n",
    "twice": "[limits]\nprocesses = 1\nprocesses = 9\n",
    "table-twice": "[limits]\nprocesses = 1\n[limits]\nnice = 1\n",
    "dotted-and-table": "limits.processes = 1\n[limits]\nprocesses = 9\n",
    "wrong-type": '[limits]\nprocesses = "many"\n',
    "boolean": "[limits]\nprocesses = true\n",
    "negative": "[limits]\nprocesses = -1\n",
    "zero-processes": "[limits]\nprocesses = 0\n",
    "two-to-the-64": "[limits]\nprocesses = 18446744073709551616\n",
    "two-to-the-63": "[limits]\nopen-files = 9223372036854775808\n",
    "nan": "[limits]\nprocesses = nan\n",
    "infinite": "[limits]\nmemory = inf\n",
    "float": "[limits]\nprocesses = 3.0\n",
    "unit": '[limits]\nmemory = "10Q"\n',
    "unit-twice": '[limits]\nmemory = "10MM"\n',
    "no-number": '[limits]\nmemory = "M"\n',
    "negative-size": '[limits]\nmemory = "-1M"\n',
    "overflowing-size": '[limits]\nmemory = "99999999999G"\n',
    "hexadecimal": '[limits]\nmemory = "0x10M"\n',
    "other-digits": '[limits]\nmemory = "\u0661M"\n',
    "sticky-relative-path": '[files]\nread = ["etc"]\n',
    "path-with-dots": '[files]\nread = ["/usr/../etc"]\n',
    "path-with-nul": '[files]\nread = ["/usr\\u0000/x"]\n',
    "write-of-everything": '[files]\nwrite = ["/"]\n',
    "write-of-proc": '[files]\nwrite = ["/proc"]\n',
    "read-of-proc": '[files]\nread = ["/proc/1/root"]\n',
    "read-of-sys": '[files]\nread = ["/sys"]\n',
    "read-of-dev": '[files]\nread = ["/dev"]\n',
    "write-of-policies": '[files]\nwrite = ["/etc/isolauncher/policies"]\n',
    "write-of-cgroups": '[files]\nwrite = ["/sys/fs/cgroup"]\n',
    "unknown-list": '[kernel]\nsyscalls = "everything"\n',
    "unknown-network": '[network]\naccess = "all"\n',
    "unknown-inner-uid": '[identity]\ninner-uid = "0"\n',
    "hostname-newline": '[namespaces]\nhostname = "a\\nb"\n',
    "hostname-long": f'[namespaces]\nhostname = "{"a" * 65}"\n',
    "variable-with-equals": '[environment]\nset = { "A=B" = "x" }\n',
    "variable-with-nul": '[environment]\nset = { A = "x\\u0000y" }\n',
    "preload-path": '[preload]\nset = "/tmp/evil"\n',
    "preload-unknown": '[preload]\nset = "os"\n',
    "version-of-tomorrow": "",
    "extends-nothing": 'extends = "no-such-policy"\n',
    "extends-a-path": 'extends = "../../etc/shadow"\n',
    "extends-a-list": 'extends = ["default"]\n',
}


def _wrong(name: str, text: str) -> str:
    version = 2 if name == "version-of-tomorrow" else 1
    head, _, tail = text.partition("\n[")
    first = head + "\n" if head.startswith("extends") else ""
    rest = text if not first else tail
    return f"version = {version}\n{first}[match]\ncallers = ['*']\n{rest}"


@pytest.mark.parametrize(("name", "text"), WRONG.items(), ids=WRONG.keys())
def test_a_wrong_policy_launches_nothing_and_names_its_place(
    daemon: Service, watch: Watch, name: str, text: str
) -> None:
    """Rows 13 and 14: misspelt keys, wrong types, limits and units."""
    daemon.policy("wrong", _wrong(name, text))
    said = _refused(daemon, watch, "wrong")
    assert str(daemon.policies / "wrong.toml") in str(said["message"])


def test_the_command_finds_each_wrong_policy_and_names_its_place(
    daemon: Service, watch: Watch
) -> None:
    """Rows 13 and 14: the same ones, before a launch is asked for."""
    for name, text in WRONG.items():
        daemon.policy(name, _wrong(name, text))
    words = ("test-policy", "--policy-dir", str(daemon.policies))
    done = daemon.isolauncher(*words, *WRONG)
    assert done.status == 2
    for name in WRONG:
        assert f"{daemon.policies}/{name}.toml:" in done.text + done.errors, name
    # And each is enough by itself.
    assert daemon.isolauncher(*words, next(iter(WRONG))).status == 2
    watch.settled()


def _loop(where: Service) -> None:
    where.policy("wrong", OPEN.replace("1\n", '1\nextends = "two"\n', 1))
    where.policy("two", 'version = 1\nextends = "three"\n')
    where.policy("three", 'version = 1\nextends = "wrong"\n')


def _itself(where: Service) -> None:
    where.policy("wrong", OPEN.replace("1\n", '1\nextends = "wrong"\n', 1))


def _deep(where: Service) -> None:
    for number in range(1000):
        where.policy(f"p{number}", f'version = 1\nextends = "p{number + 1}"\n')
    where.policy("wrong", OPEN.replace("1\n", '1\nextends = "p0"\n', 1))
    where.policy("p1000", "version = 1\n")


def _outside(where: Service) -> None:
    (where.top / "outside.toml").write_text(OPEN)
    where.policy("wrong", OPEN.replace("1\n", '1\nextends = "../outside"\n', 1))


def _absolute(where: Service) -> None:
    (where.top / "outside.toml").write_text(OPEN)
    name = f"{where.top}/outside"
    where.policy("wrong", OPEN.replace("1\n", f'1\nextends = "{name}"\n', 1))


@pytest.mark.parametrize(
    "make", [_loop, _itself, _deep, _outside, _absolute], ids=lambda f: f.__name__[1:]
)
def test_extending_in_a_loop_outside_or_a_thousand_deep_names_the_chain(
    daemon: Service, watch: Watch, make: Callable[[Service], None]
) -> None:
    """Row 15."""
    make(daemon)
    said = _refused(daemon, watch, "wrong")
    if make is _loop:
        assert "two" in str(said["message"])
        assert "three" in str(said["message"])


def _mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text(OPEN)
        path.chmod(mode)

    return make


def _foreign(path: Path) -> None:
    path.write_text(OPEN)
    os.chown(path, BOB, BOB)


def _activitys(path: Path) -> None:
    path.write_text(OPEN)
    os.chown(path, 70001, 70001)


def _link(path: Path) -> None:
    target = path.parent.parent / "target.toml"
    target.write_text(OPEN)
    path.symlink_to(target)


def _link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    os.mknod(path, 0o644 | 0o020000, os.makedev(1, 5))


def _directory(path: Path) -> None:
    path.mkdir()


def _large(path: Path) -> None:
    path.write_text(OPEN + "# comment\n" * 100_000)


def _sparse(path: Path) -> None:
    path.write_text(OPEN)
    os.truncate(path, 1 << 40)


def _binary(path: Path) -> None:
    path.write_bytes(b"\0" * 5000)


BAD_FILES: dict[str, Callable[[Path], None]] = {
    "writable-by-group": _mode(0o664),
    "writable-by-all": _mode(0o646),
    "of-somebody-else": _foreign,
    "of-an-activity": _activitys,
    "link": _link,
    "link-to-zero": _link_to_zero,
    "fifo": _fifo,
    "zero": _zero,
    "directory": _directory,
    "large": _large,
    "sparse-terabyte": _sparse,
    "binary": _binary,
}


@pytest.mark.parametrize("make", BAD_FILES.values(), ids=BAD_FILES.keys())
@pytest.mark.parametrize("name", ["wrong", "default"])
def test_a_policy_file_that_others_could_have_written_is_refused(
    daemon: Service, watch: Watch, name: str, make: Callable[[Path], None]
) -> None:
    """Row 16; also where it stands in for the vendor's default."""
    path = daemon.policies / f"{name}.toml"
    make(path)
    said = ask(daemon, run_message(policy=name), uid=BOB)
    assert said["event"] == "refused", said
    assert said["step"] == "policy"
    assert str(path) in str(said["message"])
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
    watch.settled(str(said["code"]))


@pytest.mark.parametrize("kind", ["fifo", "zero", "link", "foreign", "memory", "path"])
def test_a_policy_file_brought_by_root_is_judged_by_its_descriptor(
    daemon: Service, watch: Watch, kind: str, null: int
) -> None:
    """Row 16: ``run --policy FILE``, where the file is what was opened."""
    place = daemon.top / "brought.toml"
    place.unlink(missing_ok=True)
    place.write_text(OPEN)
    if kind == "fifo":
        place.unlink()
        os.mkfifo(place)
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    elif kind == "zero":
        fd = os.open("/dev/zero", os.O_RDONLY)
    elif kind == "link":
        place.rename(daemon.top / "real.toml")
        place.symlink_to(daemon.top / "real.toml")
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW)
    elif kind == "foreign":
        os.chown(place, BOB, BOB)
        fd = os.open(place, os.O_RDONLY)
    elif kind == "memory":
        fd = os.memfd_create("policy")
        os.write(fd, OPEN.encode())
    else:
        fd = os.open(daemon.policies, os.O_PATH)
    names = [*STANDARD, "policy"]
    said = ask(daemon, run_message(descriptors=names), [null, null, null, fd])
    os.close(fd)
    assert said["event"] == "refused", said
    assert said["code"] == "policy-not-trusted", said
    watch.settled("policy-not-trusted")


def test_flatpak_3637_an_activity_cannot_write_where_policies_are(
    daemon: Service, watch: Watch
) -> None:
    """Row 17: whatever a policy grants: the directory, one above it, a link to it,
    the daemon's state and its own code."""
    (daemon.top / "shortcut").symlink_to(daemon.policies)
    (daemon.top / "scratch").mkdir(exist_ok=True)
    (daemon.top / "scratch").chmod(0o777)
    places = {
        "policies": daemon.policies,
        "above": daemon.top,
        "link": daemon.top / "shortcut",
        "state": daemon.state_dir,
        "ledger": daemon.state_dir / "identity",
        "run": daemon.run_dir,
        "records": daemon.run_dir / "activities",
        "code": TOP / "isolauncher",
        "above-the-code": TOP,
        "vendor": TOP / "policies",
    }
    for name, place in places.items():
        daemon.policy("grants", OPEN + f'[files]\nwrite = ["{place}"]\n')
        said = ask(
            daemon,
            run_message(
                policy="grants", argv=["sh", "-c", f": > {place}/planted.toml"]
            ),
        )
        assert not (place / "planted.toml").exists(), name
        assert said["event"] == "refused", (name, said)
        assert len(watch.lines(f'code="{said["code"]}"')) >= 1
    (daemon.top / "shortcut").unlink()
    watch.settled()


def test_an_activity_sees_no_policy_and_no_state(
    daemon: Service, watch: Watch, null: int, out: int
) -> None:
    """Row 17: what it cannot see it cannot create, replace or shadow."""
    for place in (
        daemon.policies,
        daemon.state_dir,
        daemon.run_dir,
        "/etc/isolauncher",
    ):
        said = ask(
            daemon,
            run_message(
                argv=["sh", "-c", f"ls -A {place}; mkdir -p {place}/x; ls /etc"]
            ),
            [null, out, null],
        )
        assert said["event"] == "exited"
        assert not Path(place, "x").exists()
    words = os.pread(out, 1 << 16, 0).decode().split()
    assert "isolauncher" not in words
    assert not [word for word in words if word.endswith(".toml")]
    watch.settled()


def test_a_weaker_policy_of_a_users_own_is_never_read(
    daemon: Service, watch: Watch
) -> None:
    """Row 18: the administrator's wins, and the report says which file decided."""
    home = daemon.top / "bob"
    for part in (".config/isolauncher/policies", ".local/share/isolauncher/policies"):
        place = home / part
        place.mkdir(parents=True)
        (place / "default.toml").write_text(OPEN + '[network]\naccess = "host"\n')
        (place / "weak.toml").write_text(OPEN + '[network]\naccess = "host"\n')
    os.chmod(home, 0o755)  # noqa: S103
    above = 'version = 1\nextends = "default"\n[match]\ncallers = ["*"]\n'
    daemon.policy("default", above + "[limits]\nopen-files = 207\n")
    environment = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "ISOLAUNCHER_POLICY_DIR": str(home / ".config/isolauncher/policies"),
        "ISOLAUNCHER_POLICIES": str(home / ".config/isolauncher/policies"),
    }
    words = ("--", "sh", "-c", "ulimit -n")
    done = daemon.run(*words, uid=BOB, environment=environment)
    assert done.status == 0, done
    assert done.text.strip() == "207"
    assert done.report is not None
    policy = done.report["policy"]
    assert isinstance(policy, dict)
    assert policy["files"][-1] == str(daemon.policies / "default.toml")
    for name in ("weak", str(home / ".config/isolauncher/policies/weak.toml")):
        done = daemon.run(
            "--policy", name, "--", "true", uid=BOB, environment=environment
        )
        assert done.status == 125
        assert done.err.count(b"\n") <= 2
    (daemon.policies / "default.toml").unlink()
    watch.settled()


def test_a_policy_edit_takes_effect_at_the_next_launch(
    daemon: Service, watch: Watch
) -> None:
    """Row 18: tightening one does not wait for a restart, however it is made."""
    words = ("--policy", "tight", "--", "sh", "-c", "ulimit -n")
    for number in range(200, 212):
        path = daemon.policies / "tight.toml"
        text = OPEN + f"[limits]\nopen-files = {number}\n"
        if number % 3 == 0 or not path.exists():
            path.write_text(text)
        elif number % 3 == 1:
            new = daemon.policies / ".tight.new"
            new.write_text(text)
            new.rename(path)
        else:
            path.unlink()
            path.write_text(text)
        done = daemon.isolauncher("run", *words, uid=BOB)
        assert done.text.strip() == str(number), done
    (daemon.policies / "tight.toml").unlink()
    assert daemon.isolauncher("run", *words, uid=BOB).status == 125
    watch.settled()


# ---------------------------------------------------------- row 19: what is not there


FILTERED = """
import errno, os, sys
import seccomp
filter_ = seccomp.SyscallFilter(seccomp.ALLOW)
filter_.set_attr(seccomp.Attr.CTL_NNP, 0)
for name in sys.argv[1].split(","):
    name, _, flag = name.partition("+")
    args = []
    if flag:
        args = [seccomp.Arg(0, seccomp.MASKED_EQ, int(flag, 16), int(flag, 16))]
    filter_.add_rule(seccomp.ERRNO(errno.ENOSYS), name, *args)
filter_.load()
os.execv(sys.argv[2], sys.argv[2:])
"""


def _without(calls: str, verb: str) -> tuple[str, ...]:
    """``isolauncher VERB`` on a kernel that has not got these system calls."""
    return ("/usr/bin/python3", "-c", FILTERED, calls, *COMMAND, verb)


def test_without_landlock_or_cgroups_a_policy_that_requires_them_launches_nothing() -> (
    None
):
    """Row 19: and one that says if-possible launches, and its report says so."""
    need(sandboxes(), seccomp(), mounting(), program("unshare"))
    hidden = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    without = _without("landlock_create_ruleset", "daemon")
    with service(
        command=("unshare", "-m", "sh", "-c", hidden, "sh", *without)
    ) as where:
        normal_launch(where)
        watch = Watch(where)
        for what, must in (
            ("landlock", '[kernel]\nlandlock = "required"\n'),
            ("cgroup", '[limits]\ncgroup = "required"\n'),
        ):
            where.policy("must", OPEN + must)
            said = ask(where, run_message(policy="must"), uid=BOB)
            assert said["event"] == "refused", said
            assert said["code"] == f"{what}-missing", said
            assert what in str(said["message"]).lower()
            watch.settled(str(said["code"]))
        report = ask(where, run_message(), uid=BOB)["report"]
        assert isinstance(report, dict)
        for what in ("landlock", "cgroup"):
            assert what not in report["enforced"]
            assert [s for s in report["skipped"] if what in s["what"]]
        watch.settled()


NEEDED = [
    *("unshare+10000000", "unshare+40000000", "unshare+20000000", "unshare+8000000"),
    *("pivot_root", "seccomp", "open_tree", "move_mount", "mount_setattr"),
    *("setgroups", "setresuid", "fsopen", "sethostname", "capset"),
]


@pytest.mark.parametrize(
    ("calls", "tier"), zip(NEEDED, itertools.cycle(("fork", "exec")), strict=False)
)
def test_without_what_every_launch_needs_nothing_is_launched(
    daemon: Service, watch: Watch, calls: str, tier: str
) -> None:
    """Row 19: no user, network, pid or ipc namespace, no seccomp, no mount API."""
    need(seccomp())
    words = ("--standalone", "--tier", tier, "--", "echo", "LAUNCHED")
    run = subprocess.run(
        [*_without(calls, "run"), *words],
        env={"PATH": "/usr/bin", "ISOLAUNCHER_SOCKET": str(daemon.socket)},
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.returncode, run.stdout) == (125, ""), run
    assert run.stderr.splitlines()[-1].endswith("]"), run
    # It is a daemon of its own beside the other one.
    alone = cgroups.alone(cgroups.name_for(daemon.run_dir))
    # Others come and go meanwhile.
    groups = (name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    assert not [name for name in groups if name.startswith(alone)]
    watch.settled()


@pytest.mark.long
@pytest.mark.parametrize("calls", NEEDED)
def test_without_what_every_launch_needs_no_daemon_launches(calls: str) -> None:
    """Row 19: the same of a daemon, in both tiers."""
    need(sandboxes(), seccomp())
    run = subprocess.run(
        [sys.executable, "-c", ONE_LAUNCH, str(TOP), *_without(calls, "daemon")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "LAUNCHED" not in run.stdout, run
    assert "REFUSED 125" in run.stdout or "NO DAEMON" in run.stdout, run


ONE_LAUNCH = """
import sys
top, *words = sys.argv[1:]
sys.path[:0] = [top, top + "/tests"]
from support.daemons import Leftovers, nothing_left, service
from support.peers import BOB, ask, run_message
try:
    with service(command=words) as where:
        before = Leftovers.now(where)
        for tier in ("fork", "exec"):
            said = ask(where, run_message(tier=tier), uid=BOB)
            if said["event"] == "exited":
                print("LAUNCHED", said)
            else:
                print("REFUSED", said["exit_status"], said["step"], said["code"])
        nothing_left(where, before)
except (AssertionError, FileNotFoundError) as why:
    if "daemon ended" not in str(why) and "activities" not in str(why):
        raise
    print("NO DAEMON", why)
"""


# ------------------------------------------------------ what belongs to a later issue


@pytest.mark.parametrize(
    "text",
    [
        '[bus]\nsession-own = ["org.sugarlabs.IsoLauncher1"]\n',
        '[bus]\nsession-own = ["org.sugarlabs.*"]\n',
        '[bus]\nsession-own = ["org.sugarlabs.IsoLauncher1.Activity1"]\n',
        '[bus]\nsession-call = ["org.sugarlabs.IsoLauncher1=*@/*"]\n',
        '[bus]\nsession-call = ["org.sugarlabs.IsoLauncher1=org.x.y@/org/x"]\n',
        '[bus]\nsession-call = ["org.sugarlabs.IsoLauncher1.sub=org.x.y@/org/x"]\n',
        '[bus]\nsession-call = ["org.laptop.Journal=org.laptop.Journal.*@/org/*"]\n',
        '[network]\naccess = "filtered"\nallow = ["tcp://example.org:443"]\n',
    ],
    ids=lambda text: text.split("\n")[1][:50],
)
def test_no_policy_grants_the_launcher_s_name_or_launching(
    daemon: Service, watch: Watch, text: str
) -> None:
    """Row 66: our own name on the bus for good."""
    daemon.policy("grants", OPEN + text)
    said = _refused(daemon, watch, "grants")
    later = text.startswith("[network]")
    assert (said["code"] == "policy-not-enforced-yet") is later, said


def test_nobody_runs_a_program_under_a_bundle_s_policy_by_saying_so(
    daemon: Service, watch: Watch
) -> None:
    """Row 62: nobody gets the policy or the uid of a bundle by calling himself so."""
    daemon.policy(
        "terminal",
        'version = 1\n[match]\nbundle-id = ["org.laptop.Terminal"]\n'
        '[network]\naccess = "host"\n',
    )
    said = ask(daemon, run_message(policy="terminal"), uid=BOB)
    assert said["code"] == "policy-not-for-caller"
    for change in (
        {"bundle": "org.laptop.Terminal"},
        {"bundle_id": "org.laptop.Terminal"},
        {"verb": "launch"},
    ):
        said = ask(daemon, run_message(**change), uid=BOB)
        assert said["code"] in ("request-unknown-field", "request-verb")
    activity = daemon.top / "Terminal.activity" / "activity"
    activity.mkdir(parents=True)
    (activity / "activity.info").write_text(
        "[Activity]\nname = Terminal\nbundle_id = org.laptop.Terminal\nexec = true\n"
    )
    done = daemon.isolauncher("launch", str(activity.parent), uid=BOB)
    assert done.status in (2, 125), done
    variables = {"SUGAR_BUNDLE_ID": "org.laptop.Terminal", "LANG": "C.UTF-8"}
    said = ask(daemon, run_message(environment=variables), uid=BOB)
    report = said["report"]
    assert isinstance(report, dict)
    assert report["policy"]["name"] == "default"
    assert report["activity"]["bundle_id"] is None
    watch.settled("policy-not-for-caller")


def test_the_same_program_of_two_callers_does_not_share_a_kept_uid(
    daemon: Service, watch: Watch
) -> None:
    """Row 62: what stays from run to run is keyed by the caller, not by a claim."""
    daemon.policy("keeps", OPEN + '[identity]\nuid = "bundle"\n')
    uids = {}
    for uid in (BOB, ALICE, 0):
        for argv in (["true"], ["false"]):
            said = ask(daemon, run_message(policy="keeps", argv=argv), uid=uid)
            report = said["report"]
            assert isinstance(report, dict)
            uids[uid, argv[0]] = report["identity"]["uid"]
    assert len(set(uids.values())) == 6
    said = ask(daemon, run_message(policy="keeps"), uid=BOB)
    assert said["report"]["identity"]["uid"] == uids[BOB, "true"]  # type: ignore[index]
    done = daemon.isolauncher(
        "identity", "gc", "--state-dir", str(daemon.state_dir), uid=0
    )
    assert done.status in (0, 2)
    del watch  # kept uids stay leased: that is their purpose
    normal_launch(daemon)


def test_those_who_stop_while_a_policy_is_bad_are_not_held(
    daemon: Service, watch: Watch
) -> None:
    """Rows 13 to 16: what runs goes on, and can be stopped, whatever becomes of
    the policy that it was launched under."""
    daemon.policy("changing", OPEN)
    client = daemon.start_client(
        "run", "--policy", "changing", "--id", "held", "sleep", "60", uid=BOB
    )
    with suppress(FileNotFoundError):
        daemon.wait_for_log('launched id="held"')
    daemon.policy("changing", "nonsense")
    assert daemon.isolauncher("stop", "held", uid=BOB).status == 0
    client.communicate(timeout=20)
    assert client.returncode == 128 + signal.SIGTERM
    watch.settled()
