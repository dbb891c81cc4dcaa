# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the request channel (rows 1 to 12 of the list of attacks)."""

from __future__ import annotations

import ast
import json
import os
import pickle
import random
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.daemons import (
    COMMAND,
    PATIENCE_S,
    ROOMS_AHEAD,
    TOP,
    Service,
    nothing_left,
)
from support.peers import (
    ALICE,
    BOB,
    QUICK,
    STANDARD,
    Watch,
    ask,
    descriptors,
    identity,
    normal_launch,
    peer,
    pids,
    read_log,
    run_message,
    until,
    verdict,
    zygotes,
)
from support.powers import need, program, sandboxes

from isolauncher import serving, wire
from isolauncher.descriptors import CONNECTION, LAUNCH, LEAST
from isolauncher.errors import DaemonError, WireError

CONFIG = QUICK


SHOW = """
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""
ODD = {
    "newline": "a\nb",
    "carriage-return": "a\rb",
    "crlf-header": "8\r\n--runtime-args\r\n--setuid=0",
    "zygote-command": "x\n3\n--setuid=1000\n--invoke-with\n/bin/sh",
    "equals": "a=b=c",
    "escape": "\x1b]0;owned\x07\x1b[2J",
    "right-to-left": "gnp.\u202eexe",
    "line-separator": "a\u2028b\x85c",
    "bytes-no-text": "\udcff\udc80",
    "quote": "'\"; $(touch /tmp/owned) `id` \\",
    "not-normal": "e\u0301\ufb01\ufeff",
    "percent": "%n%s%x",
    "option": "--policy=host",
}


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_cve_2024_31317_newline_is_data(
    daemon: Service, watch: Watch, tier: str, text: str, null: int, out: int
) -> None:
    """Row 1: in an argument and in the value of a variable nothing has a meaning."""
    script = daemon.script("show.py", SHOW)
    fd = os.open(script, os.O_PATH)
    try:
        said = ask(
            daemon,
            run_message(
                program_kind="file",
                argv=[script, text, "", text],
                tier=tier,
                environment={"LANG": "C.UTF-8", "COLORTERM": text, "EVIL": text},
                setenv={"TERM": text},
                descriptors=[*STANDARD, "program"],
            ),
            [null, out, null, fd],
            uid=BOB,
        )
    finally:
        os.close(fd)
    shown = json.loads(os.pread(out, 1 << 20, 0))
    assert said["status"] == 0
    arguments, environment = shown
    assert arguments == [text, "", text]
    assert environment["COLORTERM"] == environment["TERM"] == text
    assert "EVIL" not in environment
    report = said["report"]
    assert isinstance(report, dict)
    assert report["activity"]["program"] == [script, text, "", text]
    assert len(watch.lines(" launched ")) == len(watch.lines(" ended ")) == 1
    assert not os.path.exists("/tmp/owned")
    watch.settled()


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "a\nb"},
        {"id": "a\0b"},
        {"policy": "default\nuid=0"},
        {"policy": "default\0x"},
        {"policy": "../default"},
        {"policy": "default=1"},
        {"tier": "fork\nexec"},
        {"program_kind": "name\n"},
        {"argv": ["true\0--x"]},
        {"argv": ["true", "\0"]},
        {"argv": ["/bin/true"]},
        {"argv": ["sub/true"]},
        {"argv": [".."]},
        {"argv": [""]},
        {"program_kind": "module", "argv": ["os\nimport evil"]},
        {"program_kind": "module", "argv": ["os;evil"]},
        {"program_kind": "module", "argv": ["-c"]},
        {"program_kind": "module", "argv": ["..evil"]},
        {"environment": {"A\nB": "x"}},
        {"environment": {"A=B": "x"}},
        {"environment": {"": "x"}},
        {"environment": {"A": "x\0LD_PRELOAD=/evil.so"}},
        {"setenv": {"A\rB": "x"}},
        {"setenv": {"LD PRELOAD": "x"}},
        {"setenv": {"TERM": "\0"}},
        {"setenv": {"\u0430": "x"}},
        {"descriptors": ["stdin\n", "stdout", "stderr"]},
        {"descriptors": ["stdin", "stdout", "stderr\0"]},
    ],
    ids=lambda changes: ascii(next(iter(changes.items()))),
)
def test_cve_2024_31317_newline_in_a_name_is_refused(
    daemon: Service, watch: Watch, changes: dict[str, object]
) -> None:
    """Row 1: where only a name can stand, nothing else passes."""
    said = ask(daemon, run_message(**changes), uid=BOB)
    assert said["event"] == "refused"
    assert str(said["code"]).startswith("request-")
    assert "\n" not in str(said["message"])
    assert said["exit_status"] == 125
    watch.settled(str(said["code"]))


def test_a_program_called_like_a_log_line_writes_none(
    daemon: Service, watch: Watch
) -> None:
    """Row 1: what a caller names starts no line of its own in the log."""
    forged = 'x"\nisolauncher: launched id="forged" caller=0'
    said = ask(daemon, run_message(argv=[forged]), uid=BOB)
    assert said["exit_status"] == 127
    lines = read_log(daemon, watch.since)
    assert lines
    assert not [
        line for line in lines if line.startswith('isolauncher: launched id="f')
    ]
    watch.settled(str(said["code"]))


GOOD = wire.encode(run_message(id="framed"))


@pytest.mark.parametrize(
    "packet",
    [
        GOOD + GOOD,
        GOOD + b"\n" + GOOD,
        GOOD + b"\0",
        GOOD[: len(GOOD) // 2],
        GOOD[:1],
        GOOD[1:],
        b"%d\n" % len(GOOD) + GOOD,
        b"[" + GOOD + b"," + GOOD + b"]",
        b" ",
        b"\0" * 1000,
    ],
    ids=[
        *("glued", "lines", "nul", "half", "byte", "tail", "counted", "list"),
        *("space", "nuls"),
    ],
)
def test_a_packet_is_one_whole_message_or_refused(
    daemon: Service, watch: Watch, packet: bytes
) -> None:
    """Row 2: no second message is read out of a packet, none is put together."""
    said = ask(daemon, packet, uid=BOB)
    assert said["event"] == "refused"
    assert str(said["code"]).startswith("wire-not-")
    assert not watch.lines("framed")
    watch.settled(str(said["code"]))


def test_one_byte_at_a_time_is_refused_at_the_first(
    daemon: Service, watch: Watch
) -> None:
    """Row 2: a message split over many sends."""
    with peer(daemon, BOB) as sock:
        try:
            for byte in GOOD:
                sock.send(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            pass
        said = verdict(sock)
    assert said["code"] == "wire-not-json"
    watch.settled("wire-not-json")


def test_a_second_launch_on_a_connection_is_no_launch(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 2: two messages in two packets: the second gives up the first."""
    with peer(daemon, BOB) as sock:
        wire.send(sock, run_message(id="first", argv=["sleep", "60"]), [null] * 3)
        wire.send(sock, run_message(id="second", argv=["sleep", "60"]), [null] * 3)
        said = verdict(sock)
    assert said["event"] == "closed"
    assert not watch.lines("launched", "second")
    assert watch.lines("client-gone", "first")
    watch.settled()


def test_a_second_launch_beside_a_running_program_is_refused(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 2: while a program runs its client can say signals and nothing else."""
    with peer(daemon, BOB) as sock:
        wire.send(sock, run_message(id="first", argv=["sleep", "60"]), [null] * 3)
        assert wire.recv(sock).fields["event"] == "started"
        wire.send(sock, run_message(id="second"), [null] * 3)
        assert verdict(sock)["event"] in ("closed", "refused")
    assert not watch.lines("launched", "second")
    watch.settled("wire-too-many-descriptors", lines=None)


def test_a_stream_socket_cannot_speak_to_the_daemon(
    daemon: Service, watch: Watch
) -> None:
    """Row 2: the kernel keeps packets apart; a stream has none (EPROTOTYPE)."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            with pytest.raises(OSError, match="wrong type"):
                sock.connect(str(daemon.socket))
    watch.settled()


def test_silence_ends_in_time(daemon: Service, watch: Watch) -> None:
    """Row 2: a message that does not come, and an empty packet that is none."""
    with peer(daemon, BOB) as sock:
        assert verdict(sock)["code"] == "request-timeout"
    with peer(daemon, BOB) as sock:
        sock.send(b"")
        assert verdict(sock)["event"] == "closed"
    with peer(daemon, BOB) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert verdict(sock)["event"] == "closed"
    watch.settled("request-timeout")


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def _big(size: int) -> bytes:
    return b'{"version":1,"verb":"ps","x":"' + b"A" * size + b'"}'


LARGE = {
    "one-byte-more": lambda: _big(wire.MAX_MESSAGE - 31),
    "200K": lambda: _big(200_000),
    "nesting": lambda: b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "lists": lambda: b"[" * 131_000,
    "strings-without-end": lambda: b'"' + b'\\"' * 65_000,
    "a-million-digits": lambda: b'{"version":' + b"9" * 130_000 + b"}",
    "exponent": lambda: b'{"version":1e999999999}',
    "many-numbers": lambda: b'{"version":1,"verb":"stop","grace_ms":0,"ids":['
    + b"0," * 64_000
    + b"0]}",
    "many-keys": lambda: b"{" + b",".join(b'"%x":0' % n for n in range(13_000)) + b"}",
    "many-arguments": lambda: wire.encode(run_message(argv=["x"] * 30_000)),
    "long-argument": lambda: wire.encode(run_message(argv=["x", "y" * 100_000])),
    "many-variables": lambda: wire.encode(
        run_message(setenv={f"V{n}": "" for n in range(9_000)})
    ),
    "long-variable": lambda: wire.encode(run_message(setenv={"V" * 300: "x"})),
    "long-value": lambda: wire.encode(run_message(setenv={"TERM": "x" * 100_000})),
    "many-ids": lambda: wire.encode(
        {"version": 1, "verb": "stop", "ids": ["a"] * 20_000, "grace_ms": 0}
    ),
    "long-grace": lambda: wire.encode(
        {"version": 1, "verb": "stop", "ids": ["a"], "grace_ms": 2**62}
    ),
}


@pytest.mark.parametrize("made", LARGE.values(), ids=LARGE.keys())
def test_a_large_message_is_refused_in_little_memory_and_time(
    daemon: Service, watch: Watch, made: object
) -> None:
    """Row 3: a message over the limit, a million of something, deep nesting."""
    assert callable(made)
    data = made()
    first = ask(daemon, data, [], uid=BOB)
    assert first["event"] == "refused", first
    assert watch.where.process is not None
    before = _rss(watch.where.process.pid)
    started = time.monotonic()
    for _ in range(30):
        assert ask(daemon, data, [], uid=BOB)["event"] == "refused"
    assert time.monotonic() - started < 6
    assert _rss(watch.where.process.pid) < before + (4 << 20)
    watch.settled(str(first["code"]), lines=31)


@pytest.mark.parametrize("tier", ["fork", "exec"])
@pytest.mark.parametrize(
    "word",
    ["x" * 90_000, "\u00e9" * 45_000, "\udcff" * 90_000, "\x01" * 20_000],
    ids=["ascii", "two-bytes", "no-text", "control"],
)
def test_the_largest_arguments_do_not_cost_the_exit_status(
    daemon: Service, watch: Watch, tier: str, word: str
) -> None:
    """Row 3: what the limits let in is kept whole to the end, whatever its spelling."""
    message = run_message(argv=["sh", "-c", "exit 3", word], tier=tier)
    said = ask(daemon, message, uid=BOB)
    assert (said["event"], said["status"]) == ("exited", 3)
    watch.settled()


def test_the_largest_request_has_a_report_that_fits(
    daemon: Service, watch: Watch
) -> None:
    """Row 3: a report repeats the words and the variables that were dropped."""
    variables = {f"V{n:024}": "" for n in range(2000)} | {"LANG": "C.UTF-8"}
    for argv, status in ((["sh", "-c", "exit 3"], 3), (["nothing"], 127)):
        message = run_message(argv=[*argv, "x" * 60_000], environment=variables)
        said = ask(daemon, message, uid=BOB)
        assert said.get("status", said.get("exit_status")) == status
        report = said["report"]
        assert isinstance(report, dict)
        assert report["skipped"]
    watch.settled("program-not-found")


def test_sixty_four_megabytes_do_not_fit_a_packet(
    daemon: Service, watch: Watch
) -> None:
    """Row 3: the kernel refuses what is larger than the sender's buffer (EMSGSIZE)."""
    with peer(daemon, BOB) as sock:
        with pytest.raises(OSError, match=r"too long|No buffer"):
            sock.send(b"A" * (64 << 20))
    with peer(daemon) as sock:
        # Without CAP_NET_ADMIN the buffer stays as large as anybody's.
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 27)  # SO_SNDBUFFORCE
        sent = 0
        for size in (1 << 26, 1 << 20, 1 << 19, 1 << 18, wire.MAX_MESSAGE + 1000):
            try:
                sent = sock.send(b"A" * size)
                break
            except OSError:
                continue
        assert sent > wire.MAX_MESSAGE
        assert verdict(sock)["code"] == "wire-too-large"
    watch.settled("wire-too-large")


def _mutants(seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)  # noqa: S311
    samples = [
        wire.encode(run_message(argv=["nothing-there"])),
        wire.encode(run_message(program_kind="module", argv=["nothing.there"])),
        b'{"version":1,"verb":"stop","ids":["a","b"],"grace_ms":0}',
        b'{"version":1,"verb":"attach","id":"abc"}',
        b'{"version":1,"verb":"ps"}',
        b'{"version":1,"verb":"stats"}',
        pickle.dumps({"version": 1, "verb": "ps"}),
    ]
    pieces = [
        *(b"null", b"NaN", b"true", b"-1", b"1e999", b"4294967296", b"\\ud800"),
        *(b"\xff\xfe", b"\0", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\"),
        *(b'"uid":0,', b'"version":1,', b"[" * 40, b"A" * 3000, b"../../x"),
    ]
    while True:
        kind = dice.randrange(10)
        if kind == 0:
            yield dice.randbytes(dice.randrange(1, 500))
            continue
        data = bytearray(dice.choice(samples))
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(4):
                case 0:
                    del data[at : at + dice.randrange(1, 30)]
                case 1:
                    data[at:at] = dice.choice(pieces)
                case 2 if at < len(data):
                    data[at] = dice.randrange(256)
                case _:
                    data[at:at] = data[: dice.randrange(20)]
        if data:
            yield bytes(data)


def _fuzz(where: Service, count: int, seed: int) -> Counter[object]:
    dice = random.Random(seed)  # noqa: S311
    null = _null()
    pipe = os.pipe()
    kinds = [null, *pipe, os.open("/", os.O_PATH), os.memfd_create("x")]
    seen: Counter[object] = Counter()
    try:
        for number, data in enumerate(_mutants(seed)):
            if number == count:
                break
            fds = dice.choices(kinds, k=dice.choice((0, 0, 3, 3, 3, 1, 6, 7, 9)))
            said = ask(where, data, fds, uid=dice.choice((BOB, ALICE)))
            seen[said.get("code", said["event"])] += 1
    finally:
        for fd in kinds:
            os.close(fd)
    return seen


def test_two_thousand_random_messages_do_nothing(daemon: Service, watch: Watch) -> None:
    """Row 4: truncated, random, wrong-version and wrong-type bytes."""
    before = zygotes(daemon)
    seen = _fuzz(daemon, 2000, 20080312)
    assert len(seen) > 8
    assert "internal" not in seen
    assert zygotes(daemon) == before
    watch.settled("wire-not-json", lines=None)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_random_messages_do_nothing(
    daemon: Service, watch: Watch
) -> None:
    """Row 4."""
    before = zygotes(daemon)
    assert "internal" not in _fuzz(daemon, 100_000, 31317)
    assert zygotes(daemon) == before
    watch.settled("wire-not-json", lines=None)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": 0},
        {"version": -1},
        {"version": 2**63 - 1},
        {"version": "1"},
        {"version": True},
        {"version": 1.0},
        {"version": None},
        {"verb": "RUN"},
        {"verb": "launch"},
        {"verb": None},
        {"verb": ["run"]},
        {"verb": {"run": 1}},
        {"id": 7},
        {"argv": "true"},
        {"argv": [1]},
        {"argv": {"0": "true"}},
        {"argv": [["true"]]},
        {"argv": []},
        {"argv": None},
        {"environment": []},
        {"environment": {"A": 1}},
        {"environment": {"A": None}},
        {"setenv": None},
        {"umask": "022"},
        {"umask": -1},
        {"umask": 0o1777},
        {"umask": True},
        {"umask": 1e1},
        {"tied": 1},
        {"tied": None},
        {"tier": "FORK"},
        {"tier": True},
        {"program_kind": "path"},
        {"program_kind": None},
        {"descriptors": "stdin"},
        {"descriptors": None},
        {"descriptors": ["stdin", "stdout"]},
        {"descriptors": ["stdout", "stdin", "stderr"]},
        {"descriptors": ["stdin", "stdin", "stderr"]},
        {"descriptors": ["stdin", "stdout", "stderr", "root"]},
        {"descriptors": ["stdin", "stdout", "stderr", "program"]},
    ],
    ids=str,
)
def test_a_wrong_version_type_or_value_is_refused(
    daemon: Service, watch: Watch, change: dict[str, object]
) -> None:
    """Row 4."""
    said = ask(daemon, run_message(**change), uid=BOB)
    assert said["event"] == "refused"
    assert str(said["code"]).startswith("request-")
    watch.settled(str(said["code"]))


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch /tmp/isolauncher-unpickled",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_unread(
    daemon: Service, watch: Watch, protocol: int
) -> None:
    """Row 5: as root the daemon must have nothing that unpickles."""
    said = ask(daemon, pickle.dumps(_Bomb(), protocol), uid=BOB)
    assert str(said["code"]).startswith("wire-not-")
    assert not os.path.exists("/tmp/isolauncher-unpickled")
    watch.settled(str(said["code"]))


def test_no_code_of_ours_can_unpickle() -> None:
    """Row 5: no module of isolauncher imports a reader that makes objects of bytes."""
    banned = {
        "pickle",
        "cPickle",
        "marshal",
        "shelve",
        "dill",
        "yaml",
        "multiprocessing",
    }
    found = []
    for path in (TOP / "isolauncher").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if banned & {name.partition(".")[0] for name in names}:
                found.append(f"{path.name}:{node.lineno}")
    # The zygote keeps code of its own as bytes, between two execs of itself; and the
    # standard library's fork server is measured, as a program by itself.
    known = ("unseen.py:", "forkserver_program.py:")
    assert [f for f in found if not f.startswith(known)] == []


@pytest.mark.parametrize(
    "raw",
    [
        GOOD[:-1] + b',"id":"other"}',
        GOOD[:-1] + b',"verb":"ps"}',
        GOOD[:-1] + b',"\\u0069d":"other"}',
        GOOD[:-1] + b',"Id":"other"}',
        GOOD[:-1] + b',"":1}',
        GOOD.replace(b'"setenv":{}', b'"setenv":{"TERM":"a","TERM":"b"}'),
        GOOD.replace(b'"setenv":{}', b'"setenv":{"TERM":"a","TER\\u004d":"b"}'),
    ],
    ids=[
        "id",
        "verb",
        "spelt-otherwise",
        "case",
        "empty",
        "variable",
        "variable-spelt",
    ],
)
def test_a_field_given_twice_or_unknown_is_refused(
    daemon: Service, watch: Watch, raw: bytes
) -> None:
    """Row 5: two readers could each take another one of the two."""
    said = ask(daemon, raw, uid=BOB)
    assert said["event"] == "refused"
    assert said["code"] in ("wire-not-json", "request-unknown-field")
    watch.settled(str(said["code"]))


@pytest.mark.parametrize("uid", [70000, 70001, 79999, 89999])
@pytest.mark.parametrize(
    "packet", [GOOD, b"\xff garbage", b'{"version":1,"verb":"ps"}']
)
def test_an_activitys_uid_is_refused_before_its_message_is_read(
    daemon: Service, watch: Watch, uid: int, packet: bytes
) -> None:
    """Rows 6 and 67: whatever it says, the refusal is about who says it."""
    said = ask(daemon, packet, uid=uid)
    assert said["code"] == "caller-is-activity"
    watch.settled("caller-is-activity")


def test_an_activitys_uid_is_refused_that_says_nothing(
    daemon: Service, watch: Watch
) -> None:
    """Rows 6 and 67: refused at once, not when its message did not come in time."""
    with peer(daemon, 70002) as sock:
        assert verdict(sock)["code"] == "caller-is-activity"
    watch.settled("caller-is-activity")


@pytest.mark.parametrize("uid", [69999, 90000, 65534, 1, 2**31 - 2, 2**32 - 2])
def test_a_uid_beside_the_range_is_served(
    daemon: Service, watch: Watch, uid: int
) -> None:
    """Row 6: the border of the range is where it is said to be."""
    said = ask(daemon, run_message(), uid=uid)
    assert said["event"] == "exited", said
    report = said["report"]
    assert isinstance(report, dict)
    assert report["caller"] == {"uid": uid, "gid": uid}
    watch.settled()


def test_who_asks_is_who_connected(daemon: Service, watch: Watch, null: int) -> None:
    """Row 7: a connection that changes hands stays its maker's, and credentials that
    are sent along are believed by nobody."""
    with peer(daemon, BOB) as sock:
        credentials = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, bytes(12))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [null] * 3))
        claim = (*credentials[:2], _ucred(os.getpid(), 0, 0))
        sock.sendmsg([wire.encode(run_message())], [claim, rights])
        said = verdict(sock)
    assert said["event"] == "exited"
    report = said["report"]
    assert isinstance(report, dict)
    assert report["caller"] == {"uid": BOB, "gid": BOB}
    assert report["identity"]["inner_uid"] == BOB
    watch.settled()


def _ucred(pid: int, uid: int, gid: int) -> bytes:
    return array("i", [pid, uid, gid]).tobytes()


@pytest.mark.parametrize("value", [0, -1, 1000, 2**32, 2**32 - 1, "root", None, [0]])
@pytest.mark.parametrize("field", ["uid", "gid", "groups", "user", "caller", "euid"])
def test_no_field_has_room_for_another_uid(
    daemon: Service, field: str, value: object
) -> None:
    """Row 7."""
    said = ask(daemon, run_message(**{field: value}), uid=BOB)
    assert said["code"] == "request-unknown-field"


def test_those_refusals_left_nothing(watch: Watch) -> None:
    """Rows 7 and 8: after the loops above and below."""
    for field in ("uid", "capabilities"):
        ask(watch.where, run_message(**{field: 0}), uid=BOB)
    watch.settled("request-unknown-field", lines=2)


def test_a_policy_for_others_is_refused(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 7: by name, by a name that is no policy, by a file of one's own."""
    daemon.policy("only-root", 'version = 1\n[match]\ncallers = ["root"]\n')
    daemon.policy("nobody", "version = 1\n")
    daemon.policy("ghost", 'version = 1\n[match]\ncallers = ["@no-such-group"]\n')
    for name in ("only-root", "nobody", "ghost"):
        said = ask(daemon, run_message(policy=name), uid=BOB, groups=(0,))
        assert said["code"] == "policy-not-for-caller", said
    file = os.open(daemon.policies / "only-root.toml", os.O_RDONLY)
    names = [*STANDARD, "policy"]
    try:
        said = ask(daemon, run_message(descriptors=names), [null] * 3 + [file], uid=BOB)
    finally:
        os.close(file)
    assert said["code"] == "policy-file-not-for-caller"
    assert watch.lines('code="policy-file-not-for-caller"')
    watch.settled("policy-not-for-caller", lines=3)


@pytest.mark.parametrize(
    "field",
    [
        *("capabilities", "caps", "mounts", "binds", "devices", "preload", "preloads"),
        *("ld_preload", "modules", "pythonpath", "seccomp", "namespaces", "network"),
        *("root", "chroot", "cgroup", "limits", "hostname", "keyring", "nice"),
        *("no_new_privs", "privileged", "env", "cwd", "program", "uid_map", "read"),
    ],
)
def test_powers_cannot_be_expressed(daemon: Service, field: str) -> None:
    """Row 8."""
    for value in (["/root"], "all", {"/": "/host"}, True):
        said = ask(daemon, run_message(**{field: value}), uid=BOB)
        assert said["code"] == "request-unknown-field"


def _vanishing(where: Service, count: int, argv: list[str]) -> None:
    null = _null()
    for number in range(count):
        with peer(where, BOB if number % 2 else ALICE) as sock:
            wire.send(sock, run_message(argv=argv), [null] * 3)
            # Gone at another stage of its launch each time: some 30 ms of it.
            time.sleep(0.0005 * (number % 80))
    os.close(null)


def test_clients_that_vanish_after_connect_leave_nothing(
    daemon: Service, watch: Watch
) -> None:
    """Row 9."""
    for _ in range(200):
        with peer(daemon, BOB):
            pass
    watch.settled()


def test_clients_that_vanish_after_send_leave_nothing(
    daemon: Service, watch: Watch
) -> None:
    """Row 9: at any stage of a launch the child is reaped and the slot freed.

    More of them than answers fit the zygote's channel: each was once left there.
    """
    _vanishing(daemon, 300, ["sleep", "60"])
    watch.settled()


def test_clients_that_vanish_while_a_failed_launch_is_undone_leave_nothing(
    daemon: Service, watch: Watch
) -> None:
    """Row 9: giving back is finished whoever waits for it."""
    _vanishing(daemon, 80, ["no-such-program"])
    watch.settled()


def test_clients_that_are_killed_take_their_programs_along(
    daemon: Service, watch: Watch
) -> None:
    """Row 9: the command itself, with SIGKILL, before and after its program runs."""
    for number in range(8):
        client = daemon.start_client("run", "--", "sleep", "60", uid=BOB)
        until(lambda n=number: len(watch.lines(" launched ")) > n // 2, seconds=5)
        if number % 2 == 0:
            client.kill()
        else:
            client.send_signal(signal.SIGKILL)
        client.communicate()
    watch.settled()


def test_a_client_that_leaves_another_behind_does_not_end_its_program(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 9: of two clients attached to one program the last one counts."""
    with peer(daemon, BOB) as first:
        wire.send(first, run_message(id="two", argv=["sleep", "60"]), [null] * 3)
        assert wire.recv(first).fields["event"] == "started"
        with peer(daemon, BOB) as second:
            wire.send(second, {"version": 1, "verb": "attach", "id": "two"})
            assert wire.recv(second).fields["event"] == "started"
        with peer(daemon, ALICE) as third:
            wire.send(third, {"version": 1, "verb": "attach", "id": "two"})
            assert verdict(third)["code"] == "unknown-id"
        # The daemon has seen the second one go when it has answered the third.
        wire.send(first, {"verb": "signal", "signal": "TERM"})
        assert verdict(first)["signal"] == signal.SIGTERM
    assert not watch.lines("client-gone")
    watch.settled("unknown-id")


def test_five_hundred_connects_leave_others_served(
    daemon: Service, watch: Watch
) -> None:
    """Row 10: slow-loris: they connect and say nothing, or half of it, for ever."""
    stop = threading.Event()
    refused: Counter[object] = Counter()

    def besiege() -> None:
        with ExitStack() as stack:
            held = []
            for _ in range(500):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(sock)
                sock.settimeout(None)
                sock.connect(str(daemon.socket))
                held.append(sock)
            for sock in held:
                try:
                    said = wire.try_recv(sock)
                except WireError:
                    continue
                if said is not None:
                    refused[said.fields.get("code")] += 1
            stop.wait(20)

    besieger = _forked(BOB, besiege)
    try:
        for _ in range(5):
            started = time.monotonic()
            normal_launch(daemon, ALICE)
            assert time.monotonic() - started < 5
        assert until(lambda: len(watch.lines("quota-connections")) > 400)
        assert (
            len(watch.lines("request-timeout")) + len(watch.lines("quota-connections"))
            <= 500
        )
    finally:
        os.kill(besieger, signal.SIGKILL)
        os.waitpid(besieger, 0)
    watch.settled("quota-connections", lines=None)


def _forked(uid: int, work: object) -> int:
    """Run ``work`` as ``uid`` in a child that is killed by its maker."""
    assert callable(work)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
        finally:
            os._exit(0)
    return child


@contextmanager
def _room_for(where: Service, more: int) -> Iterator[None]:
    """Let the daemon open ``more`` descriptors than it has open now."""
    assert where.process is not None
    pid = where.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    now = descriptors(pid).total()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + more, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_daemon_that_runs_out_of_descriptors_goes_on(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 10: root has no quota; what cannot be accepted waits, and what has been
    begun comes to its end."""
    with _room_for(daemon, CONNECTION + LAUNCH * 2):
        with ExitStack() as stack:
            launched = []
            for number in range(300):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(sock)
                sock.setblocking(False)
                try:
                    sock.connect(str(daemon.socket))
                except BlockingIOError:
                    break
                if number % 10 == 0:
                    wire.send(sock, run_message(argv=["sleep", "9"]), [null] * 3)
                    launched.append(sock)
            assert until(lambda: watch.lines("cannot-accept"))
            for sock in launched[:3]:
                sock.settimeout(PATIENCE_S)
                said = wire.recv(sock).fields
                assert said.get("code", said["event"]) in ("started", "descriptors")
        watch.settled()


@pytest.mark.parametrize("tier", ["fork", "exec"])
def test_a_launch_fits_into_what_is_kept_free_for_it(
    daemon: Service, watch: Watch, tier: str, null: int
) -> None:
    """Row 10: with one descriptor less it is not begun, and nobody is refused."""
    with _room_for(daemon, CONNECTION + LAUNCH):
        normal_launch(daemon, tiers=(tier,))
        nothing_left(daemon, watch.leftovers)
        assert until(lambda: watch.held == watch.now_held())
    assert not watch.lines("cannot-accept")
    with _room_for(daemon, CONNECTION + LAUNCH - 1), peer(daemon, BOB) as sock:
        wire.send(sock, run_message(tier=tier), [null] * 3)
        assert until(lambda: watch.lines("cannot-accept"))
        assert not select.select([sock], [], [], 0)[0]
        # It waits in the queue, for as long as it takes.
        with _room_for(daemon, CONNECTION + LAUNCH):
            assert verdict(sock)["event"] == "exited"
    watch.settled()


def test_rooms_that_nobody_asked_for_make_way_for_who_asks(
    services: Callable[[str], Service], null: int
) -> None:
    """Row 10: what is prepared ahead holds descriptors, too."""
    need(sandboxes())
    where = services(ROOMS_AHEAD)
    for _ in range(3):
        normal_launch(where, tiers=("fork",))
        where.at_rest()
    assert where.at_rest()["rooms"]["ready"]  # type: ignore[index]
    since = len(where.log)
    # A room holds some ten: with what it gives back there is enough.
    with _room_for(where, CONNECTION + LAUNCH - 5), peer(where, ALICE) as sock:
        wire.send(sock, run_message(), [null] * 3)
        assert verdict(sock)["event"] == "exited"
    assert "cannot-accept" in where.log[since:]
    assert "rooms-dissolved" in where.log[since:]


def test_what_ends_is_given_back_without_a_descriptor_to_spare(
    daemon: Service, watch: Watch, null: int
) -> None:
    """Row 10: what gives some back must not need one first."""
    with peer(daemon, BOB) as sock:
        wire.send(sock, run_message(argv=["sleep", "60"]), [null] * 3)
        assert wire.recv(sock).fields["event"] == "started"
        with _room_for(daemon, 0):
            wire.send(sock, {"verb": "signal", "signal": "TERM"})
            assert verdict(sock)["signal"] == signal.SIGTERM
            nothing_left(daemon, watch.leftovers)
    watch.settled()


def test_a_daemon_with_few_descriptors_does_not_start(tmp_path: Path) -> None:
    """Row 10: it could not keep what it promises."""
    need(sandboxes(), program("prlimit"))
    done = _start(tmp_path, under=("prlimit", f"--nofile={LEAST - 1}:{LEAST - 1}"))
    assert done.returncode == 125, done.stderr
    assert "[daemon-few-descriptors]" in done.stderr
    assert not (tmp_path / "run").exists()


def _start(
    where: Path, *words: str, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    (where / "policies").mkdir(exist_ok=True)
    return subprocess.run(
        [
            *(*under, *COMMAND, "daemon", "--socket", str(where / "run" / "socket")),
            *("--state-dir", str(where / "state")),
            *("--policy-dir", str(where / "policies")),
            *words,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=TOP,
        timeout=50,
        check=False,
    )


def _symlink(top: Path) -> None:
    (top / "run").mkdir()
    (top / "run/socket").symlink_to(top / "target")


def _dangling_run(top: Path) -> None:
    (top / "run").symlink_to(top / "elsewhere")


def _linked_run(top: Path) -> None:
    (top / "elsewhere").mkdir()
    (top / "run").symlink_to(top / "elsewhere")


def _file(top: Path) -> None:
    (top / "run").mkdir()
    (top / "run/socket").write_text("mine")


def _fifo(top: Path) -> None:
    (top / "run").mkdir()
    os.mkfifo(top / "run/socket")


def _directory(top: Path) -> None:
    (top / "run/socket").mkdir(parents=True)


def _foreign_socket(top: Path) -> None:
    (top / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(top / "run/socket"))
    os.chown(top / "run/socket", BOB, BOB)


def _foreign_run(top: Path) -> None:
    (top / "run").mkdir()
    os.chown(top / "run", BOB, BOB)


def _writable_run(top: Path) -> None:
    (top / "run").mkdir()
    (top / "run").chmod(0o777)


def _sticky_run(top: Path) -> None:
    (top / "run").mkdir()
    (top / "run").chmod(0o1777)


def _group_run(top: Path) -> None:
    (top / "run").mkdir()
    (top / "run").chmod(0o775)


def _writable_parent(top: Path) -> None:
    top.chmod(0o777)


def _foreign_parent(top: Path) -> None:
    os.chown(top, BOB, BOB)


def _foreign_records(top: Path) -> None:
    (top / "run/activities").mkdir(parents=True)
    os.chown(top / "run/activities", BOB, BOB)


def _linked_records(top: Path) -> None:
    (top / "run").mkdir()
    (top / "elsewhere").mkdir()
    (top / "run/activities").symlink_to(top / "elsewhere")


def _writable_state(top: Path) -> None:
    (top / "state").mkdir()
    (top / "state").chmod(0o777)


def _foreign_state(top: Path) -> None:
    (top / "state").mkdir()
    os.chown(top / "state", BOB, BOB)


def _linked_state(top: Path) -> None:
    (top / "elsewhere").mkdir()
    (top / "state").symlink_to(top / "elsewhere")


@pytest.mark.parametrize("length", [108, 300])
def test_a_socket_s_path_that_is_too_long_is_told(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    top = tmp_path_factory.mktemp("long")
    (top / "policies").mkdir()
    path = f"{top}/".ljust(length, "s")
    done = _start(top, "--socket", path)
    assert done.returncode == 125
    assert done.stderr.endswith(
        "(it has at most 107 bytes (unix(7)))  [socket-path-too-long]\n"
    )
    assert done.stderr.count("\n") == 1


def test_who_names_a_directory_for_all_is_not_told_to_take_it_from_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    top = tmp_path_factory.mktemp("sticky")
    (top / "policies").mkdir()
    top.chmod(0o1777)
    done = _start(top, "--socket", f"{top}/socket")
    assert "0755" not in done.stderr
    assert "make a directory of root's in it" in done.stderr


PLANTS = [
    *(_symlink, _dangling_run, _linked_run, _file, _fifo, _directory),
    *(_foreign_socket, _foreign_run, _writable_run, _sticky_run, _group_run),
    *(_writable_parent, _foreign_parent, _foreign_records, _linked_records),
    *(_writable_state, _foreign_state, _linked_state),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda f: f.__name__.strip("_"))
def test_a_daemon_does_not_start_where_others_could_have_been(
    tmp_path_factory: pytest.TempPathFactory, plant: object
) -> None:
    """Row 11: the socket's path replaced or made beforehand, a parent to write in."""
    need(sandboxes())
    top = tmp_path_factory.mktemp("planted")
    top.chmod(0o755)
    (top / "policies").mkdir()
    assert callable(plant)
    plant(top)
    before = _tree(top)
    done = _start(top)
    assert done.returncode == 125, done.stderr
    assert done.stderr.count("\n") <= 2
    assert "[socket-replaced]" in done.stderr or "[directory-not-ours]" in done.stderr
    # Nothing was made through the link, removed, or taken over.
    assert before - _tree(top) == set()
    assert not [name for name, *_ in _tree(top) - before if "elsewhere" in name]
    assert not [name for name, *_ in _tree(top) - before if "target" in name]


@pytest.mark.parametrize(
    "words", [("--state-dir", "/proc/state"), ("--socket", "/proc/socket")]
)
def test_a_daemon_whose_directories_cannot_be_made_says_so_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, words: Sequence[str]
) -> None:
    """/proc is root's own, and nobody can make anything in it."""
    need(sandboxes())
    top = tmp_path_factory.mktemp("made")
    top.chmod(0o755)
    done = _start(top, *words)
    assert done.returncode == 125, done.stderr
    assert done.stderr.startswith("isolauncher: daemon: the directory /proc/")
    assert done.stderr.count("\n") == 1
    assert "[directory-not-made]" in done.stderr


def test_a_socket_that_cannot_be_made_says_so() -> None:
    """Its directory is there, and takes none."""
    need(sandboxes())
    with pytest.raises(DaemonError) as caught:
        serving._listen("/proc/isolauncher-socket")
    assert caught.value.code == "socket-not-made"


def _tree(top: Path) -> set[tuple[str, int, int]]:
    found = set()
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        found.add((str(path), status.st_mode, status.st_uid))
    return found


def test_a_second_daemon_does_not_take_over_a_socket_that_is_served(
    daemon: Service, watch: Watch
) -> None:
    """Row 11."""
    done = _start(daemon.top)
    assert done.returncode == 125
    assert "[daemon-running]" in done.stderr
    watch.settled()


def test_a_client_gives_nothing_to_a_daemon_of_somebody_else(
    daemon: Service, watch: Watch
) -> None:
    """Row 11: a socket that an attacker made where the caller looks."""
    place = daemon.top / "fake"
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as fake:
        with identity(ALICE):
            fake.bind(str(place / "socket"))
            fake.listen()
        os.chmod(place / "socket", 0o666)  # noqa: S103
        fake.setblocking(False)
        client = subprocess.run(
            [*COMMAND, "run", "true"],
            env={"ISOLAUNCHER_SOCKET": str(place / "socket"), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            cwd=TOP,
            check=False,
        )
        assert client.returncode == 125
        assert "[daemon-not-trusted]" in client.stderr
        sock, _ = fake.accept()
        with sock:
            assert sock.recv(1 << 17) == b""
    watch.settled()


IDS = [
    *("../../x", "a/b", "/etc/passwd", "..", ".", "a.b", "x" * 65, "x" * 300),
    *("-rf", "--option", "-", "--", "", " ", "a b", "a\n", "\na", "a\0", "\0"),
    *("\u202egnp", "\u00e9", "\u0661", "\uff11", "\u0430bc", "a\u200bb", "\udcff"),
    *("*", "?", "$HOME", "~", "a;b", "a|b", "%2e", "a=b", "a:b", "a@b", "NUL\x00"),
]


@pytest.mark.parametrize("name", IDS, ids=ascii)
def test_cve_2024_32462_an_id_is_never_a_path_or_an_option(
    daemon: Service, watch: Watch, name: str
) -> None:
    """Row 12: to launch, to attach and to stop."""
    codes = set()
    for message in (
        run_message(id=name),
        {"version": 1, "verb": "attach", "id": name},
        {"version": 1, "verb": "stop", "ids": ["ok", name], "grace_ms": 0},
    ):
        fds = None if message["verb"] == "run" else []
        said = ask(daemon, message, fds)
        assert said["event"] == "refused", said
        codes.add(str(said["code"]))
    assert codes <= {"request-bad-id", "request-bad-value"}, codes
    watch.settled(codes.pop(), lines=None)


@pytest.mark.parametrize("name", ["../../x", "a/b", "x" * 300, "", "\u202egnp"])
def test_cve_2024_32462_the_command_refuses_such_ids_too(
    daemon: Service, watch: Watch, name: str
) -> None:
    """Row 12: one line, status 125; and 1 where an id is only unknown."""
    done = daemon.isolauncher("run", f"--id={name}", "true")
    assert done.status == 125, done
    assert done.err.count(b"\n") <= 2
    assert daemon.isolauncher("stop", "--", name).status in (1, 125)
    watch.settled()


@pytest.mark.parametrize("name", ["0", "_", "x" * 64, "rm", "con", "NULL", "true"])
def test_a_good_id_is_only_a_name(daemon: Service, watch: Watch, name: str) -> None:
    """Row 12: what the grammar lets in means nothing to anybody."""
    said = ask(daemon, run_message(id=name), uid=BOB)
    assert said["event"] == "exited"
    watch.settled()


def test_no_zygote_died_of_any_of_this(daemon: Service) -> None:
    """All rows."""
    assert len(pids(daemon)) == 3
    assert not [line for line in read_log(daemon) if "zygote-ended" in line]
