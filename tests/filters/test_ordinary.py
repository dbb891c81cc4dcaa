# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that mean no harm do not notice the desktop filter."""

from __future__ import annotations

import shutil

import pytest
from support import powers

from isolauncher import filters

from . import confine, ordinary


@pytest.fixture(autouse=True)
def _can_filter() -> None:
    powers.need(powers.seccomp())


@pytest.mark.parametrize("check", ordinary.CHECKS)
def test_desktop_lets_python_programs_do(check: str) -> None:
    text = (confine.HERE / "ordinary.py").read_text()
    done = confine.python(text, check, filter_=filters.compile("desktop"))
    assert done.returncode == 0, done.stderr


SHELL = """
set -e
cd "$(mktemp -d)"
mkdir -p a/b && echo one > a/b/file && ln -s file a/b/link && chmod 750 a/b
mkfifo pipe && (echo through > pipe &) && read -r line < pipe
cp -a a copy && mv copy copy2 && touch -d 2001-01-01 copy2/b/file && du -s . >/dev/null
tar cf - a | (mkdir out && cd out && tar xf -)
install -m 755 /bin/true ./installed && ./installed
seq 1 2000 | sort -rn | uniq | wc -l
ls -lR > listing; stat . > /dev/null; df . > /dev/null
dd if=/dev/zero of=z count=9 2>/dev/null
sleep 60 & kill $!; wait $! || test $? = 143
ulimit -n 64; nice -n 1 true; timeout 5 true; id -u >/dev/null; nproc >/dev/null
rm -rf "$PWD"
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_desktop_lets_shells_and_coreutils_work(shell: str) -> None:
    done = confine.run([shell, "-c", SHELL], filter_=filters.compile("desktop"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2000"]


GIT = """
set -e
cd "$(mktemp -d)" && export HOME="$PWD"
git init -q here && cd here && git config user.email a@b && git config user.name a
echo 1 > f && git add f && git commit -qm one && git clone -q . ../there && git gc -q
test "$(git -C ../there log --format=%s)" = one && rm -rf "$HOME"
"""

# Whatever of these the machine has, beyond what every Debian has.
TOOLS = {
    "git": GIT,
    "file": "file /bin/sh",
    "sqlite3": "sqlite3 :memory: 'select 1'",
    "dbus-run-session": "dbus-run-session -- true",
    "node": 'node -e \'require("fs").readFile("/etc/passwd", () => '
    'require("child_process").execSync("true"))\'',
    "java": "java -version",
    "script": "script -qec 'echo held' /dev/null",
    "perl": "perl -MSocket -e 'socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die'",
}


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if shutil.which(tool)])
def test_desktop_lets_this_machines_tools_work(tool: str) -> None:
    command = ["sh", "-c", TOOLS[tool]]
    without = confine.run(command, filter_=None)
    behind = confine.run(command, filter_=filters.compile("desktop"))
    assert without.returncode == 0, f"fails without the filter too: {without.stderr}"
    assert behind.returncode == 0, behind.stderr
