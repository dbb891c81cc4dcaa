# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints isolauncher-policy(5) from the reference of the policy language.

    python3 tests/support/policy_page.py > docs/man/isolauncher-policy.5

Knows as much of Markdown as docs/policy.md uses: headings, paragraphs, lists of one or
two levels, fenced code, and three kinds of marks within a line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HEAD = r""".\" SPDX-License-Identifier: GPL-3.0-or-later
.\" Printed by tests/support/policy_page.py from docs/policy.md; change neither here.
.TH ISOLAUNCHER-POLICY 5 "" "isolauncher 0.1.0" "File Formats"
.SH NAME
isolauncher-policy \- what a program that isolauncher launches may see, use and reach
.SH DESCRIPTION
"""
TAIL = """.SH SEE ALSO
.BR isolauncher (1),
.BR isolauncherd (8)
"""
_MARK = re.compile(r"`([^`]+)`|\*([^*]+)\*")


def page(markdown: str) -> str:
    """The whole page; the document's title and its note on itself are left out."""
    blocks = re.split(r"\n{2,}", markdown.strip())
    return HEAD + "".join(_blocks(blocks[2:])) + TAIL


def _blocks(blocks: list[str]) -> Iterator[str]:
    code: list[str] = []
    for block in blocks:
        if code or block.startswith("```"):
            code.append(block)
            if block.rstrip().endswith("```"):
                text = "\n\n".join(code).partition("\n")[2].rpartition("\n")[0]
                yield f".PP\n.EX\n{_verbatim(text)}\n.EE\n"
                code = []
        elif block.startswith("## "):
            yield f'.SH "{_plain(block[3:]).upper()}"\n'
        elif block.startswith("### "):
            yield f'.SS "{_plain(block[4:])}"\n'
        elif block.startswith("- "):
            yield "".join(_list(block))
        else:
            yield f".PP\n{_text(block)}\n"


def _list(block: str) -> Iterator[str]:
    for item in re.split(r"\n(?=- )", block):
        whole, *below = re.split(r"\n  (?=- )", item)
        tag = re.fullmatch(r"`([^`]+)`(?:\s(\(.*?\)))?:\s(.*)", whole[2:], re.DOTALL)
        if tag:
            yield f".TP\n.B {_verbatim(tag[1])}\n"
            yield f"{_text(f'{tag[2]} {tag[3]}' if tag[2] else tag[3])}\n"
        else:
            yield f".IP \\(bu 2\n{_text(whole[2:])}\n"
        for line in below:
            yield f".RS\n.IP \\(bu 2\n{_text(line[2:])}\n.RE\n"


def _text(block: str) -> str:
    """One paragraph; no line may begin with what roff takes for a request."""
    words = _MARK.sub(_marked, _verbatim(" ".join(block.split())))
    return re.sub(r"(?<=[.!?:;]) (?=[A-Z`\\])", "\n", words)


def _marked(found: re.Match[str]) -> str:
    return rf"\fB{found[1]}\fR" if found[1] else rf"\fI{found[2]}\fR"


def _plain(text: str) -> str:
    return _verbatim(text.replace("`", ""))


def _verbatim(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    # A dot or a quote at a line's start would be a request.
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    top = Path(__file__).resolve().parents[2]
    sys.stdout.write(page((top / "docs/policy.md").read_text(encoding="utf-8")))
