# SPDX-License-Identifier: GPL-3.0-or-later
"""ps, stop, stats, daemon, and what gathers the verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isolauncher.cli import main as main_module
from isolauncher.cli import printable

from .fakedaemon import Client, Connection, FakeDaemon, Handler

ONE = {
    "id": "abc",
    "bundle_id": None,
    "pid": 4242,
    "uid": 70001,
    "caller_uid": 1000,
    "policy": "default",
    "tier": "fork",
    "path": "demand",
    "state": "running",
    "age_s": 3725.5,
}


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def answers(expected: dict[str, object], *replies: dict[str, object]) -> Handler:
    def handler(connection: Connection) -> None:
        assert connection.hear() == expected
        for reply in replies:
            connection.say(**reply)

    return handler


def lists(*parts: list[dict[str, object]]) -> Handler:
    return answers(
        {"version": 1, "verb": "ps"},
        *(
            {"event": "list", "activities": part, "more": part is not parts[-1]}
            for part in parts
        ),
    )


# ps


def test_ps_prints_an_aligned_table(at: Path) -> None:
    other = {**ONE, "id": "a_longer_id", "state": "starting", "pid": None, "age_s": 9}
    with FakeDaemon(at, lists([ONE, other])), Client(at, "ps") as command:
        status, out, err = command.finish()
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "ID            PID    UID  CALLER  POLICY   TIER  STATE         AGE  BUNDLE",
        "abc          4242  70001    1000  default  fork  running   1:02:05  -",
        "a_longer_id     -  70001    1000  default  fork  starting     0:09  -",
    ]


def test_ps_json_has_exactly_the_fields_that_are_promised(at: Path) -> None:
    with FakeDaemon(at, lists([{**ONE, "extra": 1}, {"id": "b"}])):
        with Client(at, "ps", "--json") as command:
            status, out, _ = command.finish()
    assert status == 0
    first, second = json.loads(out)
    assert first == ONE
    assert list(first) == list(second) == list(ONE)
    assert second["pid"] is None


def test_a_list_in_parts_is_one_list(at: Path) -> None:
    parts = [[{**ONE, "id": f"i{a}_{b}"} for b in range(3)] for a in range(3)]
    with FakeDaemon(at, lists(*parts)), Client(at, "ps", "--json") as command:
        out = command.finish()[1]
    assert [one["id"] for one in json.loads(out)] == [
        f"i{a}_{b}" for a in range(3) for b in range(3)
    ]


def test_nothing_running_is_an_empty_list(at: Path) -> None:
    with FakeDaemon(at, lists([])), Client(at, "ps", "--json") as command:
        assert command.finish() == (0, "[]\n", "")


def test_ps_lets_no_name_act_on_the_terminal(at: Path) -> None:
    bad = {**ONE, "policy": "\x1b]0;owned\x07\u202e\n", "state": {"\x9b": 1}}
    with FakeDaemon(at, lists([bad])), Client(at, "ps") as command:
        out = command.finish()[1]
    assert all(line.isprintable() for line in out.splitlines())
    assert len(out.splitlines()) == 2


def test_a_reader_that_leaves_early_is_no_error(at: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with FakeDaemon(at, lists([ONE])):
        with Client(at, "ps", stdout=writer) as command:
            os.close(writer)
            status, _, err = command.finish()
    assert (status, err) == (141, "")


@pytest.mark.parametrize("words", [("ps",), ("stop", "a"), ("stats",)])
def test_without_a_daemon_each_verb_says_so(at: Path, words: tuple[str, ...]) -> None:
    with Client(at, *words) as command:
        status, out, err = command.finish()
    assert (status, out) == (125, "")
    assert "[daemon-not-running]" in err


@pytest.mark.parametrize("words", [("ps",), ("stop", "a"), ("stats",)])
def test_a_daemon_that_says_nothing_is_no_success(
    at: Path, words: tuple[str, ...]
) -> None:
    with FakeDaemon(at, lambda connection: connection.hear() and None):
        with Client(at, *words) as command:
            status, out, err = command.finish()
    assert (status, out) == (125, "")
    assert "[daemon-no-answer]" in err


# stop


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        (["gone"], 0),
        (["gone", "gone"], 0),
        (["unknown"], 1),
        (["gone", "unknown"], 1),
        (["not-allowed"], 125),
        (["unknown", "not-allowed", "gone"], 125),
        (["failed"], 125),
        (["something new"], 125),
    ],
)
def test_the_status_of_stop_is_the_worst_of_all(
    at: Path, outcomes: list[str], status: int
) -> None:
    ids = [f"id{n}" for n in range(len(outcomes))]
    handler = answers(
        {"version": 1, "verb": "stop", "ids": ids, "grace_ms": 5000},
        {
            "event": "stopped",
            "results": [
                {"id": id, "result": outcome, "message": "so it is\x1b"}
                for id, outcome in zip(ids, outcomes, strict=True)
            ],
        },
    )
    with FakeDaemon(at, handler), Client(at, "stop", *ids) as command:
        got, out, err = command.finish()
    assert (got, out) == (status, "")
    assert len(err.splitlines()) == len(outcomes) - outcomes.count("gone")
    assert "\x1b" not in err


def test_the_grace_is_the_callers(at: Path) -> None:
    handler = answers(
        {"version": 1, "verb": "stop", "ids": ["a"], "grace_ms": 250},
        {"event": "stopped", "results": [{"id": "a", "result": "gone"}]},
    )
    with FakeDaemon(at, handler):
        with Client(at, "stop", "--grace", "0.25", "a") as command:
            assert command.finish() == (0, "", "")


def test_an_id_that_the_daemon_passes_over_is_no_success(at: Path) -> None:
    handler = answers(
        {"version": 1, "verb": "stop", "ids": ["a"], "grace_ms": 5000},
        {"event": "stopped", "results": []},
    )
    with FakeDaemon(at, handler), Client(at, "stop", "a") as command:
        assert command.finish()[0] == 125


@pytest.mark.parametrize("id", ["../x", "a/b", "a" * 300, "é", "", "\x1b[31m", "a b"])
def test_what_is_no_id_is_unknown_and_is_not_sent(at: Path, id: str) -> None:
    with Client(at, "stop", "--", id) as command:  # there is no daemon to ask
        status, _, err = command.finish()
    assert status == 1
    assert "[unknown-id]" in err
    assert "\x1b" not in err


@pytest.mark.parametrize("grace", ["-1", "nan", "inf", "601", "x", ""])
def test_a_grace_is_a_number_of_seconds(at: Path, grace: str) -> None:
    with Client(at, "stop", f"--grace={grace}", "a") as command:
        status, _, err = command.finish()
    assert status == 125
    assert "number of seconds" in err


def test_many_ids_are_asked_for_in_turn(at: Path) -> None:
    ids = [f"id{n}" for n in range(300)]

    def part(some: list[str]) -> Handler:
        return answers(
            {"version": 1, "verb": "stop", "ids": some, "grace_ms": 5000},
            {
                "event": "stopped",
                "results": [{"id": id, "result": "gone"} for id in some],
            },
        )

    with FakeDaemon(at, part(ids[:256]), part(ids[256:])):
        with Client(at, "stop", *ids) as command:
            assert command.finish() == (0, "", "")


# stats


def test_stats_are_said_as_they_were_measured(at: Path) -> None:
    stats = {"launches": {"count": 3, "p50_us": 1400.5}, "zygote": None}
    rows = [{"id": name, "pss_kb": 7} for name in "ab"]
    handler = answers(
        {"version": 1, "verb": "stats", "memory": True},
        {"event": "stats", "stats": stats, "more": True},
        {"event": "memory", "memory": rows[:1], "more": True},
        {"event": "memory", "memory": rows[1:], "more": False},
    )
    memory = {"a": {"pss_kb": 7}, "b": {"pss_kb": 7}}
    with FakeDaemon(at, handler, handler):
        with Client(at, "stats", "--json") as command:
            assert json.loads(command.finish()[1]) == {**stats, "memory": memory}
        with Client(at, "stats") as command:
            assert command.finish()[1].splitlines() == [
                "launches.count   3",
                "launches.p50_us  1400.5",
                "zygote           -",
                "memory.a.pss_kb  7",
                "memory.b.pss_kb  7",
            ]


# main


def test_the_version_and_the_help_are_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from isolauncher import __version__

    for words in (["--version"], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            main_module.main(words)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"isolauncher {__version__}" in out
    for verb in main_module.present():
        assert f"\n  {verb} " in out


@pytest.mark.parametrize("verb", main_module.present())
def test_every_verb_has_help_and_explains_every_option(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main_module.main([verb, "--help"])
    assert caught.value.code == 0
    assert f"isolauncher {verb}" in capsys.readouterr().out
    parser = main_module.load(verb)[1]
    assert parser.description
    for action in parser._actions:
        if action.option_strings:
            assert action.help, action.option_strings


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["--nonsense"], ["launch"], ["\x1b[31m"], [""]]
)
def test_what_is_no_verb_is_125_and_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main_module.main(words)
    assert caught.value.code == 125
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


def test_a_verb_that_is_absent_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(main_module.VERBS, "later", ("no_such_module", "comes later"))
    assert "later" not in main_module.present()
    with pytest.raises(SystemExit):
        main_module.main(["--help"])
    assert "comes later" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main_module.main(["later"])
    assert caught.value.code == 125


def test_the_module_is_the_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "isolauncher", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("isolauncher ")


def test_the_mistakes_of_a_configuration_are_all_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[uids]\nfrist = 1\n[quota]\n")
    assert main_module.main(["daemon", "--config", str(file)]) == 125
    err = capsys.readouterr().err
    for code in ("config-no-version", "config-unknown-key"):
        assert f"[{code}]" in err
    assert f"{file}:2: uids.frist" in err
    assert f"{file}:3: quota" in err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31m\x07", "\\x1b[31m\\x07"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b\u202e\u2028\udcff\ufeff", "\\x9b\\u202e\\u2028\\udcff\\ufeff"),
    ],
)
def test_a_terminal_shows_text_and_obeys_nothing(text: str, shown: str) -> None:
    assert printable(text) == shown
