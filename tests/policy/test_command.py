# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher test-policy` and `explain`: for anyone, with exact statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.powers import need, root

BAD = 'version = 1\n[limits]\nproceses = 3\nmemory = "10Q"\n'
GOOD = 'version = 1\ndescription = "Mine."\n[limits]\nnice = 7\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    return path


def call(
    *words: str, checkout: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return command("test-policy", *words, checkout=checkout, cwd=cwd)


def command(
    *words: str, checkout: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    program = "import sys; from isolauncher.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        timeout=50,
    )


def test_every_shipped_policy_is_valid_and_has_a_plan(checkout: Path) -> None:
    done = call("--json", checkout=checkout)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == 1
    names = [policy["name"] for policy in report["policies"]]
    assert {"default", "untrusted"} <= set(names)
    for policy in report["policies"]:
        assert policy["errors"] == []
        assert policy["plan"]
        assert policy["files"][0].endswith("/default.toml")
        assert policy["exposure"] > 0
        lines = policy["exposure_lines"]
        total = sum(line["points"] for line in lines)
        assert policy["exposure"] == pytest.approx(total, abs=1e-4)
        assert all(line["line"] for line in lines)
        for finding in policy["findings"]:
            assert set(finding) == {
                *("id", "severity", "key", "file", "line", "message", "fix")
            }
            assert finding["severity"] in ("note", "open")
        assert policy["live"] == []
    assert "nothing was tried" in report["notes"][0]


def test_the_text_names_the_files_and_the_plan(checkout: Path) -> None:
    done = call("untrusted", checkout=checkout)
    assert done.returncode == 0
    assert done.stdout.startswith("untrusted: valid, exposure ")
    assert "policies/default.toml, " in done.stdout
    assert "seccomp" in done.stdout or "system call" in done.stdout


def test_mistakes_come_all_at_once_with_their_places(
    checkout: Path, directory: Path
) -> None:
    path = directory / "bad.toml"
    path.write_text(BAD)
    done = call("--policy-dir", str(directory), checkout=checkout)
    assert done.returncode == 2
    assert "bad: unusable, 2 mistakes" in done.stdout
    assert f"{path}:3:1: limits.proceses: there is no key" in done.stderr
    assert "did you mean limits.processes?" in done.stderr
    assert f"{path}:4:10: limits.memory: '10Q' is not a size" in done.stderr

    done = call("--policy-dir", str(directory), "--json", "bad", checkout=checkout)
    assert done.returncode == 2
    (policy,) = json.loads(done.stdout)["policies"]
    assert set(policy["errors"][0]) == {
        "file",
        "line",
        "column",
        "key",
        "code",
        "message",
        "hint",
    }
    assert [error["line"] for error in policy["errors"]] == [3, 4]


def test_one_unusable_input_among_good_ones_is_status_2(
    checkout: Path, directory: Path
) -> None:
    (directory / "good.toml").write_text(GOOD)
    done = call("--policy-dir", str(directory), "good", "nosuch", checkout=checkout)
    assert done.returncode == 2
    assert "good: valid" in done.stdout
    assert "policy-unknown" in done.stderr


def test_a_file_is_named_by_a_path(checkout: Path, directory: Path) -> None:
    (directory / "good.toml").write_text(GOOD)
    done = call("./good.toml", checkout=checkout, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("good: valid, exposure ")
    missing = call("./no.toml", checkout=checkout, cwd=directory)
    assert missing.returncode == 2
    assert "there is no such file" in missing.stderr


def test_a_bundle_id_names_the_policy_that_governs_it(
    checkout: Path, directory: Path
) -> None:
    (directory / "draw.toml").write_text(
        'version = 1\n[match]\nbundle-id = ["org.a.*"]\n'
    )
    done = call("--policy-dir", str(directory), "org.a.Draw", checkout=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("draw: valid, exposure ")
    assert "system bundle" in done.stdout


def test_a_bundles_directory_is_read_as_a_launch_would(
    checkout: Path, directory: Path
) -> None:
    done = call(str(directory), checkout=checkout)
    assert done.returncode == 2
    assert "bundle-no-info" in done.stderr
    (directory / "activity").mkdir()
    (directory / "activity/activity.info").write_text(
        "[Activity]\nname = A\nbundle_id = org.laptop.Own\nactivity_version = 1\n"
        "icon = a\nexec = sugar-activity3 a.A\nlicense = GPLv3+\n"
    )
    done = call(str(directory), checkout=checkout)
    assert done.returncode == 0, done.stderr
    # It lies where others than root can write, so its id is only a claim.
    assert done.stdout.startswith("untrusted: valid, exposure ")
    assert "installed by the user" in done.stdout
    info = directory / "activity/activity.info"
    info.write_text(info.read_text().replace("exec =", "exec"))
    done = call("--json", str(directory), checkout=checkout)
    assert done.returncode == 2
    (mistake,) = json.loads(done.stdout)["policies"][0]["errors"]
    assert (mistake["file"], mistake["line"]) == (str(info), 6)
    assert "activity.info" not in mistake["message"]
    nowhere = call("./nowhere", checkout=checkout, cwd=directory)
    assert nowhere.returncode == 2
    assert "bundle-not-found" in nowhere.stderr


def test_two_policies_that_claim_the_same_bundles_are_unusable(
    checkout: Path, directory: Path
) -> None:
    for name in ("a", "b"):
        (directory / f"{name}.toml").write_text(
            'version = 1\n[match]\nbundle-id = ["org.a.*"]\n'
        )
    done = call("--policy-dir", str(directory), checkout=checkout)
    assert done.returncode == 2
    assert done.stderr.count("policy-match-ambiguous") == 2


def test_a_file_name_that_can_be_no_policy_is_unusable(
    checkout: Path, directory: Path
) -> None:
    (directory / "a b\u202e.toml").write_text(GOOD)
    done = call("--policy-dir", str(directory), checkout=checkout)
    assert done.returncode == 2
    assert "policy-bad-name" in done.stderr
    assert "\u202e" not in done.stderr


@pytest.mark.parametrize("content", ["missing", "empty"])
def test_a_directory_without_policies_is_unusable(
    checkout: Path, directory: Path, content: str
) -> None:
    if content == "missing":
        directory.rmdir()
    done = call("--policy-dir", str(directory), checkout=checkout)
    assert done.returncode == 2
    assert done.stderr.count("[policy-no") == 1


def test_a_finding_that_reaches_the_threshold_is_status_1(
    checkout: Path, directory: Path
) -> None:
    (directory / "open.toml").write_text('version = 1\n[display]\nx11 = "shared"\n')
    (directory / "bad.toml").write_text('version = 1\n[network]\naccess = "host"\n')
    place = ("--policy-dir", str(directory))
    assert call(*place, "open", checkout=checkout).returncode == 0
    done = call(*place, "--threshold", "open", "open", checkout=checkout)
    assert done.returncode == 1
    assert f"{directory}/open.toml:3" in done.stdout
    assert "display-shared" in done.stdout
    assert (
        call(*place, "--threshold", "note", "default", checkout=checkout).returncode
        == 0
    )
    assert call(*place, "bad", checkout=checkout).returncode == 1
    # What cannot be used goes before what was found.
    assert call(*place, "bad", "nosuch", checkout=checkout).returncode == 2


def test_two_policies_are_compared_by_effect(checkout: Path, directory: Path) -> None:
    (directory / "a.toml").write_text('version = 1\n[limits]\nmemory = "1G"\n')
    (directory / "b.toml").write_text(
        'version = 1\n[limits]\nmemory = "1024M"\n[files]\nread = ["...", "/srv"]\n'
    )
    place = ("--policy-dir", str(directory))
    done = call(*place, "--diff", "a", "b", checkout=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "a and b:\n"
        "  files.read\n"
        "    + /srv\n"
        "  + open files.read: /srv: what other programs and people have stored, as far "
        "as the person may read it.\n"
        "  exposure +3.0\n"
    )
    done = call(*place, "--json", "--diff", "b", "a", checkout=checkout)
    diff = json.loads(done.stdout)["diff"]
    assert list(diff["values"]) == ["files.read"]
    (gone,) = diff["findings"]["only_in_first"]
    assert (gone["id"], diff["findings"]["only_in_second"]) == ("reads-others", [])
    same = call(*place, "--diff", "a", "default", checkout=checkout)
    assert "every value is the same" in same.stdout
    assert call("--diff", "a", "b", "c", checkout=checkout).returncode == 2


def test_junit_has_a_suite_for_each_and_a_case_for_each_finding(
    checkout: Path, directory: Path
) -> None:
    (directory / "good.toml").write_text('version = 1\n[display]\nx11 = "shared"\n')
    (directory / "bad.toml").write_text(BAD)
    place = ("--policy-dir", str(directory))
    words = (*place, "--format", "junit", "--threshold", "open")
    done = call(*words, checkout=checkout)
    assert done.returncode == 2
    suites = {s.get("name"): s for s in ET.fromstring(done.stdout)}  # noqa: S314 (our own)
    for suite in suites.values():
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error")))
        assert suite[0].tag == "properties"
        assert [child.tag for child in suite][-2:] == ["system-out", "system-err"]
    assert (suites["good"].get("failures"), suites["bad"].get("errors")) == ("1", "1")
    failure = suites["good"].find("testcase/failure")
    assert failure is not None
    assert failure.text is not None
    assert f"{directory}/good.toml:3" in failure.text
    error = suites["bad"].find("testcase/error")
    assert error is not None
    assert error.text is not None
    assert "limits.processes?" in error.text


def test_explain_names_what_set_a_value_and_what_that_overrides(
    checkout: Path, directory: Path
) -> None:
    (directory / "mine.toml").write_text(
        'version = 1\nextends = "untrusted"\n[limits]\nmemory = "64M"\n'
        '[files]\nread = ["...", "/srv"]\n'
        '[environment]\nset = { A = "1", HOME = false }\n'
    )
    place = ("--policy-dir", str(directory))
    done = command("explain", *place, "mine", "limits.memory", checkout=checkout)
    assert done.returncode == 0, done.stderr
    _, value, here, vendor = done.stdout.splitlines()[:4]
    assert value == 'limits.memory = "64M"'
    assert here == f"    set in {directory}/mine.toml:4"
    assert vendor.startswith("    overrides ")
    assert "policies/untrusted.toml:" in vendor
    done = command("explain", *place, "mine", checkout=checkout)
    assert f'"/srv"  # {directory}/mine.toml:6' in done.stdout
    assert 'environment.set.A = "1"' in done.stdout
    assert "environment.set.HOME" not in done.stdout
    done = command("explain", *place, "--json", "mine", "files", checkout=checkout)
    said = json.loads(done.stdout)
    assert said["values"]["files.read"]["said"][-1] == {
        "value": ["/srv"],
        "adds": True,
        "file": f"{directory}/mine.toml",
        "line": 6,
    }
    wrong = command("explain", "default", "limits.memroy", checkout=checkout)
    assert wrong.returncode == 125
    assert "did you mean limits.memory?" in wrong.stderr
    assert command("explain", "nosuch", checkout=checkout).returncode == 125
    nowhere = command("explain", "--policy-dir", "/x", "default", checkout=checkout)
    assert nowhere.returncode == 125
    assert "there is no directory /x" in nowhere.stderr


@pytest.mark.parametrize(
    "words",
    [["--nonsense"], ["--format", "xml"], ["--lvie"], ["--json", "--format", "junit"]],
)
def test_a_wrong_option_is_status_2(checkout: Path, words: list[str]) -> None:
    assert call(*words, checkout=checkout).returncode == 2


def test_neither_apply_nor_init_nor_a_third_party_package_is_imported(
    checkout: Path,
) -> None:
    program = (
        "import sys\n"
        "from isolauncher.cli.main import main\n"
        "status = main(['test-policy', '--json'])\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    assert "isolauncher.plan" in loaded
    assert not {
        name
        for name in loaded
        if name in ("isolauncher.apply", "isolauncher.init", "isolauncher.verify")
        or name.startswith("isolauncher.live")
        or name.partition(".")[0] in ("seccomp", "pyroute2", "dbus", "gi")
    }


def test_it_runs_as_anyone_and_takes_their_own_files(checkout: Path) -> None:
    need(root())
    for directory in (checkout, *checkout.parents):
        if not os.stat(directory).st_mode & 0o001:
            need(f"nobody can reach {directory}")
    program = (
        "import os, pathlib, sys, tempfile\n"
        "os.setgroups([]); os.setresgid(12345, 12345, 12345)\n"
        "os.setresuid(12345, 12345, 12345)\n"
        "top = pathlib.Path(tempfile.mkdtemp())\n"
        f"(top / 'mine.toml').write_text({GOOD!r})\n"
        "from isolauncher.cli.main import main\n"
        "status = main(['test-policy', str(top / 'mine.toml'), 'default'])\n"
        "(top / 'mine.toml').unlink(); top.rmdir()\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "mine: valid" in done.stdout


WEAKER = (
    '[network]\naccess = "loopback"\n',
    '[network]\naccess = "host"\n',
    '[files]\nread = ["...", "/srv"]\n',
    '[files]\nwrite = ["/srv"]\n',
    '[files]\ntmp = "65M"\n',
    '[identity]\ninner-uid = "same"\n',
    '[identity]\nuid = "bundle"\n',
    "[limits]\nprocesses = 129\n",
    '[limits]\nmemory = "2G"\n',
    "[limits]\nopen-files = 1025\n",
    '[limits]\nfile-size = "2G"\n',
    '[limits]\ncore = "1M"\n',
    "[limits]\ncpu-weight = 200\n",
    '[environment]\nkeep = ["...", "LD_PRELOAD"]\n',
    '[environment]\nset = { PATH = "/tmp" }\n',
    '[kernel]\nlandlock = "off"\n',
)


@pytest.mark.parametrize("text", WEAKER, ids=lambda t: t.strip().replace("\n", " "))
def test_attack_21_a_weakening_that_nobody_mentions_is_in_the_figure_all_the_same(
    checkout: Path, directory: Path, text: str
) -> None:
    """Row 21; every setting of every shipped policy: tests/policy/test_audit.py."""
    (directory / "mine.toml").write_text("version = 1\n")
    before = call("--policy-dir", str(directory), "--json", checkout=checkout)
    (directory / "mine.toml").write_text(f"version = 1\n{text}")
    after = call("--policy-dir", str(directory), "--json", checkout=checkout)
    assert before.returncode == 0
    assert after.returncode < 2, after.stderr
    (one,) = json.loads(before.stdout)["policies"]
    (other,) = json.loads(after.stdout)["policies"]
    assert other["exposure"] > one["exposure"]
    table, _, key = text[1:].partition("]\n")
    name = f"{table}.{key.partition(' ')[0]}"
    lines = [line for line in other["exposure_lines"] if line["key"].startswith(name)]
    assert any(line["file"] == str(directory / "mine.toml") for line in lines)
