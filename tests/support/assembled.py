#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assembles what init becomes, by binutils; as a program, writes it where it belongs.

    python3 tests/support/assembled.py

puts the bytes of both sources into isolauncher/waiter/__init__.py. Nothing of the
product runs this: a test sees to it that what is there is what comes of the sources.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / "isolauncher/waiter"
TOOLS = {"x86_64": "x86_64-linux-gnu-", "aarch64": "aarch64-linux-gnu-"}
WIDTH = 64


def missing(machine: str) -> str | None:
    """Why that machine's source cannot be assembled here."""
    for tool in ("as", "objcopy"):
        if shutil.which(TOOLS[machine] + tool) is None:
            return f"there is no {TOOLS[machine]}{tool}"
    return None


def assemble(machine: str) -> bytes:
    """The source's bytes as they are in its one section: the file itself."""
    with tempfile.TemporaryDirectory() as top:
        made, out = f"{top}/made.o", f"{top}/out"
        tool = TOOLS[machine]
        source = PLACE / f"{machine}.S"
        subprocess.run([f"{tool}as", "-o", made, source], check=True)
        words = [f"{tool}objcopy", "-O", "binary", "-j", ".text", made, out]
        subprocess.run(words, check=True)
        return Path(out).read_bytes()


def as_lines(machine: str, program: bytes) -> str:
    text = program.hex()
    lines = [text[at : at + WIDTH] for at in range(0, len(text), WIDTH)]
    return "".join(f"        {line}\n" for line in lines)


def main() -> int:
    path = PLACE / "__init__.py"
    module = path.read_text(encoding="utf-8")
    for machine in TOOLS:
        lines = as_lines(machine, assemble(machine))
        pattern = re.compile(rf'(    "{machine}": """\n)[0-9a-f\s]*(    """)')
        module, count = pattern.subn(rf"\g<1>{lines}\g<2>", module)
        if count != 1:
            raise SystemExit(f"{path} has no place for {machine}")
    path.write_text(module, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
