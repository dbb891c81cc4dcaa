# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle asks for: never more than the policy that governs it allows."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from isolauncher import bundle
from isolauncher.errors import BundleError
from isolauncher.policy import wishes
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy
from isolauncher.policy.wishes import Answer

from .conftest import Shelf
from .test_command import command

FILE = "/opt/Test.activity/activity/permissions.info"
INFO = "[Activity]\nname = A\nbundle_id = org.laptop.Own\nexec = a\n"


def found(permissions: bytes | None) -> bundle.Found:
    return bundle.Found(
        path="/opt/Test.activity",
        installed_by="system",
        why="",
        info=INFO.encode(),
        permissions=permissions,
    )


@pytest.fixture
def policy(shelf: Shelf) -> Policy:
    shelf.put("mine", "version = 1\n[limits]\nprocesses = 50\nopen-files = 300\n")
    return shelf.store.get("mine")


def ask(policy: Policy, text: str) -> tuple[Policy, tuple[Answer, ...]]:
    read = bundle.parse(found(text.encode()))
    return wishes.answer(policy, read.wishes, read.permissions)


def test_a_lower_limit_is_given_and_its_line_is_its_origin(policy: Policy) -> None:
    text = "# limits\nlim_nproc 20\nlim_nofile 64\nlim_fsize 8192\nlim_mem 67108864\n"
    lowered, answers = ask(policy, text)
    assert lowered.limits == replace(
        policy.limits,
        processes=20,
        open_files=64,
        file_size=8192,
        memory=64 * 1024**2,
    )
    assert all(told.granted for told in answers)
    assert [(a.origin.file, a.origin.line) for a in answers] == [
        (FILE, n) for n in (2, 3, 4, 5)
    ]
    assert lowered.origin["limits.processes"] == answers[0].origin
    assert [said.value for said in lowered.history["limits.processes"]] == [128, 50, 20]
    assert answers[0].why == "limits.processes is 20; without it 50"
    assert answers[3].why == "limits.memory is 64M; without it 1G"
    # Nothing else of the policy is another.
    same = replace(lowered, limits=policy.limits, origin=policy.origin)
    assert same == policy


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "lim_nproc 51",
            "limits.processes is 50 ({mine}:3), and a bundle cannot ask for more",
        ),
        (
            "lim_mem 9999999999999999999",
            "limits.memory is 1G ({default}:{memory}), and a bundle cannot ask for "
            "more",
        ),
        ("lim_nproc many", "'many' is not a whole number of pieces"),
        ("lim_mem 64M", "'64M' is not a whole number of bytes"),
        ("lim_mem -1", "'-1' is not a whole number of bytes"),
        ("lim_mem \u0663", "'\u0663' is not a whole number of bytes"),
        (
            "lim_mem " + "9" * 200,
            "limits.memory is 1G ({default}:{memory}), and a bundle cannot ask for "
            "more",
        ),
        ("lim_mem 9.9", "'9.9' is not a whole number of bytes"),
        ("lim_nproc", "one number is expected behind it"),
        ("lim_nproc 1 2", "one number is expected behind it"),
        ("constant-uid", "identity.uid is instance ({default}:{uid})"),
        ("constant-uid yes", "nothing is expected behind it"),
        ("use-serial", "devices.allow is empty ({default}:{devices})"),
        ("use-serial /dev/ttyS0", "nothing is expected behind it"),
        ("network", "there is no such directive"),
        ("lim_proc 5", "there is no such directive; did they mean lim_nproc?"),
    ],
)
def test_what_is_not_granted_changes_nothing_and_says_why(
    policy: Policy, line: str, why: str
) -> None:
    same, (told,) = ask(policy, line)
    assert same is policy
    assert not told.granted
    default, mine = policy.files
    at = {
        "default": default,
        "mine": mine,
        "devices": policy.origin["devices.allow"].line,
        "memory": policy.origin["limits.memory"].line,
        "uid": policy.origin["identity.uid"].line,
    }
    for name, value in at.items():
        why = why.replace(f"{{{name}}}", str(value))
    assert told.why == why
    assert told.origin.line == 1


def test_a_limit_goes_no_lower_than_the_language(policy: Policy) -> None:
    lowered, answers = ask(policy, "lim_nproc 0\nlim_mem 1\nlim_nofile 0\nlim_fsize 0")
    limits = lowered.limits
    assert (limits.processes, limits.memory) == (1, 16 * 1024**2)
    assert (limits.open_files, limits.file_size) == (16, 4096)
    assert not any(told.granted for told in answers)
    assert answers[1].why == "limits.memory is 16M, the least there is; without it 1G"


def test_of_several_lines_the_lowest_holds(policy: Policy) -> None:
    lowered, answers = ask(policy, "lim_nproc 9\nlim_nproc 40\nlim_nproc 5\n")
    assert lowered.limits.processes == 5
    assert [told.granted for told in answers] == [True, False, True]
    assert answers[1].why == (
        f"limits.processes is 9 ({FILE}:1), and a bundle cannot ask for more"
    )


def test_a_constant_uid_is_had_where_the_policy_says_so(shelf: Shelf) -> None:
    shelf.put("mine", 'version = 1\n[identity]\nuid = "bundle"\n')
    policy = shelf.store.get("mine")
    same, (told,) = ask(policy, "constant-uid")
    assert same is policy
    assert told.granted


def never_more(allowed: Policy, given: Policy) -> None:
    """Of four limits none is higher; whatever else a policy says is the same."""
    for _, field in wishes.LIMITS.values():
        assert getattr(given.limits, field) <= getattr(allowed.limits, field)
    fields = {
        field: getattr(given.limits, field) for _, field in wishes.LIMITS.values()
    }
    lowered = replace(allowed, limits=replace(allowed.limits, **fields))
    assert replace(given, origin=allowed.origin) == lowered


def fuzzed(number: int) -> Iterator[bytes]:
    parts = [
        *(f"\n{name} {number}\n" for name in wishes.LIMITS for number in (0, 20, 8192)),
        *(f"{name} " for name in wishes.DIRECTIVES),
        *("\n", "\n", "\n", " ", "\t", "#", "0", "-1", "7", "1e9", "4096", "0x10"),
        *("9" * 25, "\u202e", "\x1b[2J", "\0", "\udcff", "=", "lim_", "\r", "\u0663"),
    ]
    for seed in range(number):
        source = random.Random(seed)  # noqa: S311 - a test that repeats itself
        if seed % 8 == 0:
            yield source.randbytes(source.randrange(300))
            continue
        chosen = (source.choice(parts) for _ in range(source.randrange(20)))
        yield "".join(chosen).encode("utf-8", "surrogateescape")


def test_ten_thousand_fuzzed_files_raise_no_limit_and_no_traceback(
    policy: Policy,
) -> None:
    refused = lowered = 0
    for data in fuzzed(10_000):
        started = time.process_time()
        error = None
        try:
            read = bundle.parse(found(data))
        except BundleError as e:
            error = e
        if error is not None:
            refused += 1
            assert error.message.startswith(FILE)
            assert error.line().isprintable()
            continue
        given, answers = wishes.answer(policy, read.wishes, read.permissions)
        never_more(policy, given)
        lowered += given.limits != policy.limits
        for told in answers:
            assert told.asked.isprintable()
            assert len(told.asked) < 2000
            assert told.why.isprintable(), told.why
        assert time.process_time() - started < 0.5
    assert refused > 1000
    assert lowered > 300


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A bundle that somebody made, with its requests."""
    path = tmp_path / "Own.activity"
    (path / "activity").mkdir(parents=True)
    (path / "activity/activity.info").write_text(INFO)
    text = "lim_nproc 7\nlim_nofile 100000\nuse-\u202eserial\n"
    (path / "activity/permissions.info").write_text(text)
    return path


def test_explain_says_which_and_why(checkout: Path, own: Path) -> None:
    done = command("explain", str(own), checkout=checkout)
    assert done.returncode == 0, done.stderr
    file = f"{own}/activity/permissions.info"
    vendor = f"{checkout}/policies/untrusted.toml"
    assert f"limits.processes = 7\n    set in {file}:1\n    overrides 96 of" in (
        done.stdout
    )
    with closing(PolicyStore()) as policies:
        line = policies.get("untrusted").origin["limits.open-files"].line
    assert done.stdout.endswith(
        f"what the bundle asks for ({file}):\n"
        "  line 1: lim_nproc 7: granted: limits.processes is 7; without it 96\n"
        "  line 2: lim_nofile 100000: not granted: limits.open-files is 256 "
        f"({vendor}:{line}), and a bundle cannot ask for more\n"
        "  line 3: use-\\u202eserial: not granted: there is no such directive; did "
        "they mean use-serial?\n"
    )


def test_test_policy_shows_the_plan_with_the_lowered_limits(
    checkout: Path, own: Path
) -> None:
    done = command("test-policy", str(own), checkout=checkout)
    assert done.returncode == 0, done.stderr
    assert "nproc=7" in done.stdout
    assert "line 2: lim_nofile 100000: not granted" in done.stdout
