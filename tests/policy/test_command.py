# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher test-policy`: validity and plan, for anyone, with exact statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    program = "import sys; from isolauncher.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "test-policy", *words],
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
        assert policy["exposure"] is None
        assert policy["findings"] == policy["live"] == []
    assert "says nothing" in report["notes"][0]


def test_the_text_names_the_files_and_the_plan(checkout: Path) -> None:
    done = call("untrusted", checkout=checkout)
    assert done.returncode == 0
    assert done.stdout.startswith("untrusted: valid\n")
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
    assert done.stdout.startswith("good: valid\n  Mine.\n")
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
    assert done.stdout.startswith("draw: valid\n")
    assert "system bundle" in done.stdout


def test_a_bundles_directory_is_not_understood_yet(
    checkout: Path, directory: Path
) -> None:
    done = call(str(directory), checkout=checkout)
    assert done.returncode == 2
    assert "test-policy-not-yet" in done.stderr


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


@pytest.mark.parametrize(
    "words",
    [
        ["--live"],
        ["--diff", "default", "untrusted"],
        ["--threshold", "open"],
        ["--format", "junit"],
    ],
)
def test_what_is_not_there_yet_is_refused_in_one_line(
    checkout: Path, words: list[str]
) -> None:
    done = call(*words, checkout=checkout)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words[0] in done.stderr
    assert "test-policy-not-yet" in done.stderr


@pytest.mark.parametrize("words", [["--nonsense"], ["--format", "xml"], ["--lvie"]])
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
    '[namespaces]\nhostname = "other"\n',
    '[identity]\ninner-uid = "same"\n',
    '[identity]\nuid = "bundle"\n',
    "[limits]\nprocesses = 65\n",
    '[limits]\nmemory = "2G"\n',
    "[limits]\nopen-files = 1025\n",
    '[limits]\nfile-size = "2G"\n',
    '[limits]\ncore = "1M"\n',
    "[limits]\ncpu-weight = 200\n",
    "[limits]\nnice = 1\n",
    "[limits]\ncpu-seconds = 1\n",
    '[environment]\nkeep = ["...", "LD_PRELOAD"]\n',
    '[environment]\nset = { PATH = "/tmp" }\n',
    '[kernel]\nlandlock = "off"\n',
    '[preload]\ntier = "exec"\n',
)


@pytest.mark.parametrize("text", WEAKER, ids=lambda t: t.strip().replace("\n", " "))
def test_attack_21_findings_are_a_later_issue_s_but_every_weakening_shows(
    checkout: Path, directory: Path, text: str
) -> None:
    """Row 21: no score is made yet; what a policy says otherwise is in what is told."""
    (directory / "mine.toml").write_text("version = 1\n")
    before = call("--policy-dir", str(directory), "--json", checkout=checkout)
    (directory / "mine.toml").write_text(f"version = 1\n{text}")
    after = call("--policy-dir", str(directory), "--json", checkout=checkout)
    assert (before.returncode, after.returncode) == (0, 0), after.stderr
    assert before.stdout != after.stdout
    assert json.loads(after.stdout)["policies"][0]["findings"] == []
    assert "says nothing" in json.loads(after.stdout)["notes"][0]
    # Nobody takes that for a verdict.
    threshold = call("--threshold", "note", "mine", checkout=checkout)
    assert threshold.returncode == 2
