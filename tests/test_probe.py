# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program sees under the default policy, in both tiers and standalone.

The witness is tests/support/probe.py, asked once for each way to launch and each kind
of caller; every test then reads one promise off what it said.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import probe
from support.daemons import PATIENCE_S, ROOMS_AHEAD, Service
from support.powers import need, sandboxes

NAMELESS = 12345
KINDS = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
KEPT = {"LANG": "C.UTF-8", "TZ": "Asia/Kathmandu", "LC_TIME": "C.UTF-8"}
POLICY = {"HOME": "/tmp", "PATH": "/usr/local/bin:/usr/bin:/bin"}
DROPPED = {"SECRET": "hunter2", "LD_LIBRARY_PATH": "/tmp", "PYTHONPATH": "/tmp"}


def named() -> int:
    """A uid with an NSS entry that is not root's; uids of persons first."""
    uids = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid]
    persons = [uid for uid in uids if 1000 <= uid < 60000]
    return (persons or uids)[0]


@dataclass(frozen=True)
class Way:
    """A way to launch, and who asks for it."""

    tier: str
    caller: str
    standalone: bool = False
    room: bool = False

    def __str__(self) -> str:
        place = "standalone" if self.standalone else "room" if self.room else "daemon"
        return f"{place}-{self.tier}-{self.caller}"

    @property
    def uid(self) -> int:
        return {"root": 0, "named": named(), "nameless": NAMELESS}[self.caller]


WAYS = (
    *(Way(tier, who) for tier in ("fork", "exec") for who in ("root", "named")),
    *(Way(tier, "nameless") for tier in ("fork", "exec")),
    *(Way(tier, "root", standalone=True) for tier in ("fork", "exec")),
    *(Way(tier, "named", room=True) for tier in ("fork", "exec")),
    Way("fork", "root", room=True),
)


@dataclass(frozen=True)
class Seen:
    """What the probe said, and what the report says about it."""

    way: Way
    program: str
    said: dict[str, object]
    report: dict[str, object]


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """A directory with a home of mode 0700 for each caller, the probe in it 0600."""
    top = Path(tempfile.mkdtemp(prefix="isolauncher-homes-", dir="/tmp"))
    top.chmod(0o755)
    for who in ("root", "named", "nameless"):
        uid = Way("fork", who).uid
        home = top / who
        home.mkdir(mode=0o700)
        program = home / "probe.py"
        shutil.copyfile(probe.__file__, program)
        program.chmod(0o600)
        (home / "diary").write_text("private")
        for path in (home, program, home / "diary"):
            os.chown(path, uid, uid)
    yield top
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def ahead(services: Callable[[str], Service]) -> Service:
    """A daemon that prepares rooms for who comes again."""
    need(sandboxes())
    return services(ROOMS_AHEAD)


@pytest.fixture(scope="module", params=WAYS, ids=str)
def seen(
    request: pytest.FixtureRequest, daemon: Service, ahead: Service, homes: Path
) -> Seen:
    way: Way = request.param
    if way.room:
        daemon = ahead
        for _ in range(2):
            done = daemon.run("--tier", way.tier, "--", "true", uid=way.uid)
            assert done.status == 0
        assert daemon.at_rest()["rooms"]["ready"]  # type: ignore[index]
    program = str(homes / way.caller / "probe.py")
    words = ["--tier", way.tier]
    if way.standalone:
        words.append("--standalone")
    done = daemon.run(
        *words,
        *("--", program, "one", "two words"),
        uid=way.uid,
        cwd=homes / way.caller,
        environment=KEPT | DROPPED,
        prepare=lambda: os.umask(0o027) and None,
    )
    assert (done.status, done.errors) == (0, "")
    assert done.report is not None
    assert done.report["activity"]["tier"] == way.tier  # type: ignore[index]
    if way.room:
        launched = str(done.report["activity"]["id"])  # type: ignore[index]
        (line,) = (
            text
            for text in daemon.log.splitlines()
            if "launched" in text and launched in text
        )
        assert "ahead" in line, line
    return Seen(way, program, json.loads(done.text), done.report)


def test_its_uid_and_gid_are_of_the_range_outside_and_the_caller_s_inside(
    seen: Seen,
) -> None:
    identity = seen.report["identity"]
    outer = identity["uid"]  # type: ignore[index]
    assert 70001 <= outer <= 89999
    # For root its own: nobody inside shall believe that it is root.
    inner = outer if seen.way.uid == 0 else seen.way.uid
    assert seen.said["ids"] == [inner] * 6
    assert seen.said["uid_map"] == [str(inner), str(outer), "1"]
    assert seen.said["gid_map"] == [str(inner), str(outer), "1"]
    assert identity == {"uid": outer, "gid": outer, "groups": [], "inner_uid": inner}
    assert seen.report["caller"] == {"uid": seen.way.uid, "gid": seen.way.uid}


def test_it_has_no_supplementary_group(seen: Seen) -> None:
    assert seen.said["groups"] == []


def test_its_own_passwd_has_its_name_and_nobody_else_s(seen: Seen) -> None:
    lines = str(seen.said["passwd"]).splitlines()
    entries = {int(line.split(":")[2]): line.split(":")[0] for line in lines}
    inner = seen.said["ids"][0]  # type: ignore[index]
    assert set(entries) == {0, inner, 65534}
    if seen.way.caller == "named":
        assert entries[inner] == pwd.getpwuid(inner).pw_name


def test_it_is_not_pid_1_and_sees_no_process_but_init_and_itself(seen: Seen) -> None:
    pid = str(seen.said["pid"])
    assert pid != "1"
    assert seen.said["ppid"] == 1
    assert set(seen.said["processes"]) == {"1", pid}  # type: ignore[call-overload]
    assert seen.said["processes"]["1"].startswith("(init(")  # type: ignore[index]


def test_it_has_no_controlling_terminal_and_is_in_init_s_session(seen: Seen) -> None:
    assert seen.said["sid"] in (1, seen.said["pid"])


def test_tmp_is_empty_but_for_the_chain_down_to_the_program(seen: Seen) -> None:
    program = Path(seen.program)
    chain = [str(p) for p in (*program.parents, program) if len(p.parts) > 2]
    assert seen.said["tmp"] == sorted(chain)


def test_there_is_no_home_and_no_shadow(seen: Seen) -> None:
    assert seen.said["home"] == "ENOENT"
    assert seen.said["root_home"] == "ENOENT"
    assert seen.said["shadow"] == "ENOENT"


def test_the_root_holds_what_the_policy_names_and_nothing_else(seen: Seen) -> None:
    named_by_policy = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}
    own = {"dev", "etc", "proc", "run", "tmp", "var"}
    assert set(seen.said["root"]) <= named_by_policy | own  # type: ignore[call-overload]


def test_there_is_at_most_the_loopback_interface(seen: Seen) -> None:
    assert seen.said["interfaces"] in ([], ["lo"])


def test_every_capability_set_is_empty(seen: Seen) -> None:
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    status = seen.said["status"]
    assert {status[name] for name in sets} == {"0" * 16}  # type: ignore[index]


def test_no_new_privs_and_a_seccomp_filter_are_in_force(seen: Seen) -> None:
    status = seen.said["status"]
    assert status["NoNewPrivs"] == "1"  # type: ignore[index]
    assert status["Seccomp"] == "2"  # type: ignore[index]


def test_no_signal_is_blocked_or_ignored_beyond_what_python_does(seen: Seen) -> None:
    status = seen.said["status"]
    assert int(status["SigBlk"], 16) == 0  # type: ignore[index]
    # SIGPIPE (13) and SIGXFSZ (25), as in any Python.
    assert int(status["SigIgn"], 16) == 1 << 12 | 1 << 24  # type: ignore[index]
    assert int(status["SigCgt"], 16) == 1 << 1  # type: ignore[index]


def test_seven_namespaces_are_its_own_and_named_in_the_report(seen: Seen) -> None:
    inside = seen.said["namespaces"]
    assert set(inside) == set(KINDS)  # type: ignore[call-overload]
    for kind in KINDS:
        assert inside[kind] != os.readlink(f"/proc/self/ns/{kind}")  # type: ignore[index]
    assert seen.report["namespaces"] == inside


def test_the_host_name_is_the_policy_s(seen: Seen) -> None:
    assert seen.said["hostname"] == "isolauncher"


def test_it_holds_descriptors_0_to_2_only(seen: Seen) -> None:
    fds = seen.said["fds"]
    assert set(fds) == {"0", "1", "2"}  # type: ignore[call-overload]
    assert fds["0"] == "/dev/null"  # type: ignore[index]
    assert fds["1"].startswith("pipe:")  # type: ignore[index]
    assert fds["2"].startswith("pipe:")  # type: ignore[index]


def test_the_environment_is_what_the_policy_names_and_proc_shows_the_same(
    seen: Seen,
) -> None:
    assert seen.said["environ"] == KEPT | POLICY
    shown = str(seen.said["proc_environ"]).split("\0")
    assert dict(v.split("=", 1) for v in shown if v) == KEPT | POLICY
    told = " ".join(entry["what"] for entry in seen.report["skipped"])  # type: ignore[attr-defined]
    dropped = set(told.replace(",", " ").split())
    assert dropped.issuperset(DROPPED)


def test_argv_cwd_umask_and_command_line_are_a_plain_start_s(seen: Seen) -> None:
    assert seen.said["argv"] == [seen.program, "one", "two words"]
    words = ["/usr/bin/python3", seen.program, "one", "two words", ""]
    assert str(seen.said["cmdline"]).split("\0") == words
    assert seen.said["cwd"] == str(Path(seen.program).parent)
    assert seen.said["path0"] == str(Path(seen.program).parent)
    assert seen.said["umask"] == 0o027
    assert seen.said["executable"] == "/usr/bin/python3"


def test_nothing_of_the_host_is_mounted_writable(seen: Seen) -> None:
    for line in seen.said["mounts"]:  # type: ignore[attr-defined]
        fields, _, rest = line.partition(" - ")
        path, options = fields.split()[4:6]
        if rest.split()[0] in ("tmpfs", "proc", "devpts") and path != "/":
            continue
        if path.startswith("/dev/"):
            continue
        assert "ro" in options.split(","), line


def test_the_report_says_all_that_is_in_force(seen: Seen) -> None:
    enforced = set(seen.report["enforced"])  # type: ignore[call-overload]
    always = {
        *("uid", "groups", "capabilities", "no_new_privs", "securebits", "mount"),
        *("pid", "net", "ipc", "uts", "cgroupns", "user", "rlimits", "seccomp"),
        *("keyring", "descriptors", "environment"),
    }
    assert always <= enforced
    assert enforced <= always | {"cgroup", "landlock"}


def test_two_that_run_at_once_share_neither_uid_nor_namespace(
    daemon: Service,
) -> None:
    source = Path(probe.__file__).read_text() + "    sys.stdout.flush()\n"
    waiting = daemon.script("waiting_probe.py", source + "    sys.stdin.read()\n")
    both = [
        daemon.start_client("run", "--", waiting, stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        first, second = (json.loads(one.stdout.readline()) for one in both)  # type: ignore[union-attr]
        assert first["uid_map"][1] != second["uid_map"][1]
        for kind in KINDS:
            assert first["namespaces"][kind] != second["namespaces"][kind]
        assert len(first["processes"]) == len(second["processes"]) == 2
    finally:
        for one in both:
            one.communicate(b"", timeout=PATIENCE_S)
    assert [one.returncode for one in both] == [0, 0]


WAITS = "import sys; print('up', flush=True); sys.stdin.read()\n"


def outside(script: str) -> Path:
    """The program's directory in the machine's own /proc."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            uid = os.stat(f"/proc/{name}").st_uid
        except OSError:
            continue
        if os.fsencode(script) in words and 70001 <= uid <= 89999:
            found.append(Path(f"/proc/{name}"))
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("way", [w for w in WAYS if not w.room], ids=str)
def test_from_outside_root_sees_the_same(daemon: Service, way: Way) -> None:
    script = daemon.script(f"{way}.py", WAITS)
    (daemon.top / str(way)).mkdir()
    os.chown(daemon.top / str(way), way.uid, way.uid)
    report = daemon.top / str(way) / "report"
    words = ["run", "--tier", way.tier, "--report", str(report)]
    client = daemon.start_client(
        *words,
        *(["--standalone"] if way.standalone else []),
        *("--", script),
        uid=way.uid,
        stdin=subprocess.PIPE,
        environment=KEPT | DROPPED,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        place = outside(script)
        status = probe.status(str(place))
        namespaces = {kind: os.readlink(place / "ns" / kind) for kind in KINDS}
        fds = sorted(os.listdir(place / "fd"))
        environ = (place / "environ").read_text().split("\0")
    finally:
        _, errors = client.communicate(b"", timeout=PATIENCE_S)
    assert (client.returncode, errors) == (0, b"")
    said = json.loads(report.read_text())
    outer = str(said["identity"]["uid"])
    assert status["Uid"] == status["Gid"] == " ".join([outer] * 4)
    assert status["Groups"] == ""
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {status[name] for name in sets} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["NSpid"].split()[-1] != "1"
    assert namespaces == said["namespaces"]
    for kind in KINDS:
        assert namespaces[kind] != os.readlink(f"/proc/self/ns/{kind}")
    assert fds == ["0", "1", "2"]
    assert dict(v.split("=", 1) for v in environ if v) == KEPT | POLICY
