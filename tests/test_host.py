# SPDX-License-Identifier: GPL-3.0-or-later
"""host.py and `doctor`: the answers come from trying, and trying leaves nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import powers
from support.devices import refuse_nodes

from isolauncher import host
from isolauncher.cli import doctor

ALL = frozenset({"mnt", "pid", "net", "ipc", "uts", "user", "cgroup"})


def complete() -> host.Host:
    """A machine on which everything works."""
    values: dict[str, object] = {
        f.name: True for f in dataclasses.fields(host.Host) if f.type == "bool"
    }
    places = {
        name: host.CgroupPlace(version=2, path="/sys/fs/cgroup", enabled=True)
        for name in host.CONTROLLERS
    }
    values |= {
        "machine": "x86_64",
        "namespaces": ALL,
        "chrooted": False,
        "landlock": 1,
        "cgroups": places,
        "uids_taken": (),
    }
    return host.Host(**values)  # type: ignore[arg-type]


def ask(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    args = parser.parse_args(["doctor", *arguments])
    status = args.func(args)
    return status, capsys.readouterr().out


def test_probe_agrees_with_what_the_tests_find_by_themselves() -> None:
    powers.need(powers.sandboxes(), powers.landlock())
    found = host.probe()
    assert found.namespaces == ALL
    assert found.ids
    assert found.mapped_ids
    assert found.seccomp
    assert found.libseccomp
    assert found.landlock >= 1
    assert found.device_nodes == (refuse_nodes() is None)
    for controller in host.CONTROLLERS:
        assert (controller in found.cgroups) == (powers.cgroup(controller) is None)


def test_probe_leaves_no_process_descriptor_or_namespace_behind() -> None:
    spaces = sorted(ALL)
    before = [os.readlink(f"/proc/self/ns/{kind}") for kind in spaces]
    mounts = Path("/proc/self/mountinfo").read_text()
    descriptors = powers.open_descriptors()
    ids = (os.getresuid(), os.getresgid(), os.getgroups())
    children = _children()
    host.probe()
    assert [os.readlink(f"/proc/self/ns/{kind}") for kind in spaces] == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert powers.open_descriptors() == descriptors
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == ids
    assert _children() == children


def _children() -> set[str]:
    """Other tests may have daemons of theirs."""
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for path in lists for pid in path.read_text().split()}


def test_probe_leaves_no_cgroup_behind() -> None:
    found = host.probe()
    for place in found.cgroups.values():
        assert not list(Path(place.path).glob(f"isolauncher-probe-{os.getpid()}"))


def test_every_no_has_a_reason() -> None:
    found = host.probe()
    for field in dataclasses.fields(found):
        if getattr(found, field.name) is False and field.name != "chrooted":
            assert found.why.get(field.name), field.name
    for kind in ALL - found.namespaces:
        assert found.why.get(kind) or found.why.get("namespaces")
    for controller in host.CONTROLLERS:
        if controller not in found.cgroups:
            assert found.why[f"cgroup.{controller}"]


def test_a_trial_that_fails_tells_why_and_one_that_works_tells_nothing() -> None:
    assert host.tried(lambda: None) is None
    assert host.tried(lambda: os.stat("/no/such")) == "No such file or directory"
    assert host.tried(lambda: os._exit(3)) == "the trial ended with wait status 768"
    assert "ZeroDivisionError" in (host.tried(lambda: 1 // 0) or "")


def test_a_trial_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_PATIENCE_MS", 50)
    reader, writer = os.pipe()
    try:
        assert "no answer within" in (host.tried(lambda: os.read(reader, 1)) or "")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_taken_uid_of_the_range_is_named() -> None:
    taken = host.probe(uids=range(os.getuid(), os.getuid() + 1))
    assert taken.uids_taken == (os.getuid(),)
    assert "have owners" in taken.why["uids_taken"]


MOUNTS = """\
25 1 8:1 / / rw - ext4 /dev/vda rw
30 25 0:26 / {top}/v1/memory rw - cgroup cgroup rw,memory
31 25 0:27 / {top}/uni\\040fied rw - cgroup2 cgroup2 rw
"""


@pytest.fixture
def hierarchies(tmp_path: Path) -> Path:
    """Something shaped like /proc and two mounted hierarchies, with us in /own."""
    for name in ("self", "v1/memory/own", "uni fied/own"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "self/mountinfo").write_text(MOUNTS.format(top=tmp_path))
    (tmp_path / "self/cgroup").write_text("1:memory:/own\n0::/own\n")
    for name in ("uni fied", "uni fied/own"):
        (tmp_path / name / "cgroup.controllers").write_text("pids memory\n")
        (tmp_path / name / "cgroup.subtree_control").write_text("pids memory\n")
    return tmp_path


def test_our_own_group_of_version_2_is_preferred(hierarchies: Path) -> None:
    found = host.probe(proc=str(hierarchies))
    own = f"{hierarchies}/uni fied/own"
    assert found.cgroups["memory"].path == own
    assert found.cgroups["pids"].path == own
    assert found.cgroups["memory"].version == 2
    assert "cpu" not in found.cgroups
    assert found.why["cgroup.cpu"] == "no mounted cgroup hierarchy has it"
    assert not list((hierarchies / "uni fied").glob("**/isolauncher-probe-*"))


def test_version_1_is_used_for_what_version_2_lacks(hierarchies: Path) -> None:
    (hierarchies / "uni fied/cgroup.controllers").write_text("pids\n")
    found = host.probe(proc=str(hierarchies))
    assert found.cgroups["memory"] == host.CgroupPlace(
        version=1, path=f"{hierarchies}/v1/memory/own", enabled=True
    )
    assert found.cgroups["pids"].version == 2


def test_the_top_is_used_where_our_own_group_hands_nothing_down(
    hierarchies: Path,
) -> None:
    own = hierarchies / "uni fied/own"
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()
    found = host.probe(proc=str(hierarchies))
    assert found.cgroups["memory"].path == f"{hierarchies}/uni fied"


def test_the_group_above_a_leaf_of_our_own_is_used_before_the_top(
    hierarchies: Path,
) -> None:
    leaf = hierarchies / "uni fied/own/leaf"
    (leaf / "cgroup.subtree_control").mkdir(parents=True)
    (hierarchies / "self/cgroup").write_text("0::/own/leaf\n")
    found = host.probe(proc=str(hierarchies))
    assert found.cgroups["memory"].path == str(leaf.parent)


def test_a_group_that_lies_outside_of_what_is_mounted_is_not_followed(
    hierarchies: Path,
) -> None:
    (hierarchies / "self/cgroup").write_text("1:memory:/../own\n0::/../own\n")
    found = host.probe(proc=str(hierarchies))
    assert found.cgroups["memory"].path == f"{hierarchies}/uni fied"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("core\n", None),
        ("/var/crash/%p|%e\n", None),
        ("|/usr/lib/helper %P\n", "/usr/lib/helper"),
        (None, None),
    ],
)
def test_core_dumps_that_go_to_a_program_are_known_and_told(
    hierarchies: Path, pattern: str | None, why: str | None
) -> None:
    if pattern is not None:
        (hierarchies / "sys/kernel").mkdir(parents=True)
        (hierarchies / "sys/kernel/core_pattern").write_text(pattern)
    found = host.probe(proc=str(hierarchies))
    assert found.core == (why is None)
    (told,) = (f for f in doctor.examine(found) if f.what == "core dumps")
    assert told.full == found.core
    if why is not None:
        assert why in told.detail
        assert "limits.core" in told.follows


def test_doctor_is_content_with_a_complete_machine() -> None:
    findings = doctor.examine(complete())
    assert {finding.state for finding in findings} == {"ok"}
    assert all(finding.full for finding in findings)


NEEDED = [
    *(name for name, *_ in doctor._NEEDED),
    "namespaces",
]


@pytest.mark.parametrize("name", NEEDED)
def test_doctor_calls_missing_what_a_launch_cannot_do_without(name: str) -> None:
    lacking: object = ALL - {"net"} if name == "namespaces" else False
    machine = dataclasses.replace(complete(), **{name: lacking})
    bad = [finding for finding in doctor.examine(machine) if finding.state != "ok"]
    assert [finding.state for finding in bad] == ["missing"]
    assert not bad[0].full
    assert "nothing can be launched" in bad[0].follows


@pytest.mark.parametrize(
    ("name", "value"),
    [("landlock", 0), ("cgroups", {}), ("libseccomp", False), ("core", False)],
)
def test_doctor_does_not_call_a_weaker_launch_full(name: str, value: object) -> None:
    machine = dataclasses.replace(complete(), **{name: value})
    assert not all(finding.full for finding in doctor.examine(machine))


@pytest.mark.parametrize("name", [name for name, *_ in doctor._WELCOME])
def test_doctor_says_what_follows_from_a_thing_that_can_be_missed(name: str) -> None:
    machine = dataclasses.replace(complete(), **{name: False})
    (bad,) = (f for f in doctor.examine(machine) if f.state != "ok")
    assert bad.state == "limited"
    assert bad.full
    assert bad.follows


def test_doctor_tells_root_only_once_to_who_is_not_root() -> None:
    machine = dataclasses.replace(
        complete(), ids=False, mapped_ids=False, mount_api=False, pivot_root=False
    )
    fixes = [f.fix for f in doctor.examine(machine) if f.state != "ok" and f.fix]
    assert fixes == ["run this and the daemon as root of the machine"]


def test_doctor_status_says_whether_everything_is_enforced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    powers.need(powers.sandboxes(), powers.landlock())
    powers.need(*(powers.cgroup(name) for name in host.CONTROLLERS))
    status, lines = ask([], capsys)
    # That one is for an administrator to change, not a power that tests can need.
    assert (status == 0) == host.probe().core
    assert status != 0 or lines.endswith("would be enforced in full.\n")
    assert "missing" not in lines


def test_doctor_json_is_one_object_with_every_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text = ask(["--json"], capsys)
    answer = json.loads(text)
    assert answer["version"] == 1
    assert answer["full"] == (status == 0)
    whats = [finding["what"] for finding in answer["findings"]]
    assert len(whats) == len(set(whats))
    assert answer["host"]["machine"] == os.uname().machine


def test_doctor_can_say_that_python_prctl_is_missing(checkout: Path) -> None:
    """Without it kernel.py cannot even be imported."""
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'prctl' else find(name, *a)\n"
        "sys.modules['prctl'] = None\n"
        "from isolauncher.cli import doctor\n"
        "import argparse\n"
        "sys.exit(doctor.run(argparse.Namespace(json=True)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    findings = {f["what"]: f for f in json.loads(ended.stdout)["findings"]}
    assert findings["python-prctl"]["fix"] == "apt install python3-prctl"
    assert findings["seccomp"]["state"] == "missing"
