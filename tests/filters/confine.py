# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a program as nobody with a filter in force, or, to compare, without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from isolauncher.filters import Filter

HERE = Path(__file__).parent
# The interpreter itself: a virtual environment may lie where nobody cannot look.
PYTHON = os.path.realpath(sys.executable)
_SECCOMP = {"x86_64": 317, "aarch64": 277}
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}


def run(
    argv: list[str], *, filter_: Filter | None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    installer = (HERE / "installer.py").read_text()
    file = os.memfd_create("filter")
    try:
        descriptor, probe = "-", "-"
        if filter_ is not None:
            os.write(file, filter_.bpf)
            number, args, answer = filter_.probe
            descriptor = str(file)
            probe = f"{number}:{answer}:{','.join(map(str, args))}"
        number_of_seccomp = str(_SECCOMP[os.uname().machine])
        return subprocess.run(
            [
                PYTHON,
                "-I",
                "-c",
                installer,
                descriptor,
                number_of_seccomp,
                probe,
                *argv,
            ],
            cwd="/",
            env=ENVIRONMENT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            pass_fds=(file,),
        )
    finally:
        os.close(file)


def python(
    text: str, *args: str, filter_: Filter | None
) -> subprocess.CompletedProcess[str]:
    """Runs ``text`` as the program of a Python interpreter."""
    return run([PYTHON, "-c", text, *args], filter_=filter_)
