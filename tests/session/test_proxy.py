# SPDX-License-Identifier: GPL-3.0-or-later
"""The bus's filter, which waits before it is told what to filter."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolauncher.errors import HostError
from isolauncher.session import proxy


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    yield
    proxy.taken().close()


def told(one: proxy.Proxy, path: Path) -> None:
    one.filter([("unix:path=/nowhere", str(path), ())])
    one.wait()


def test_one_that_waits_filters_what_it_is_told(tmp_path: Path) -> None:
    proxy.prepare()
    waiting = proxy._ahead
    one = proxy.taken()
    assert one is waiting
    other = proxy.taken()
    assert other is not one
    other.close()
    path = tmp_path / "bus"
    assert not path.exists()
    told(one, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert one.is_ready
    one.close()
    assert one.process.returncode is not None


def test_more_words_than_a_pipe_holds_are_told(tmp_path: Path) -> None:
    rules = [f"--call=org.example.A{'a' * 200}.B{n}=*" for n in range(1000)]
    one = proxy.Proxy()
    one.filter([("unix:path=/nowhere", str(tmp_path / "bus"), rules)])
    one.wait()
    one.close()


def test_one_that_has_ended_is_not_taken(tmp_path: Path) -> None:
    proxy.prepare()
    ended = proxy._ahead
    assert ended is not None
    ended.process.send_signal(signal.SIGKILL)
    ended.process.wait()
    one = proxy.taken()
    assert one is not ended
    told(one, tmp_path / "bus")
    one.close()


def test_another_program_is_another_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "filter"
    program.write_bytes(Path(proxy.PROGRAM).read_bytes())
    program.chmod(0o755)
    monkeypatch.setattr(proxy, "PROGRAM", str(program))
    proxy.prepare()
    before = proxy._ahead
    new = tmp_path / "new"
    new.write_bytes(program.read_bytes())
    new.chmod(0o755)
    new.rename(program)
    one = proxy.taken()
    assert one is not before
    assert before is not None
    assert before.process.returncode is not None
    told(one, tmp_path / "bus")
    one.close()


def test_one_that_ends_before_it_is_told_says_so(tmp_path: Path) -> None:
    one = proxy.Proxy()
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    one.filter([("unix:path=/nowhere", str(tmp_path / "bus"), ())])
    with pytest.raises(HostError, match="did not start"):
        one.wait()
    one.close()


def test_one_that_nobody_tells_ends_with_who_would_have() -> None:
    said, its = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            one = proxy.Proxy()
            os.write(its, str(one.process.pid).encode())
        finally:
            os._exit(0)
    os.close(its)
    os.waitpid(child, 0)
    with open(said) as file:
        pid = int(file.read())
    until = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
