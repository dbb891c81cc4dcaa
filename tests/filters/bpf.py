# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a seccomp filter in Python: what would the kernel do with this call?

Knows the instructions a seccomp program may have (kernel/seccomp.c,
seccomp_check_filter) and refuses all others, so that a filter for another
architecture can be judged here without that machine. Written from the kernel's
rules alone: it shares no code with what it judges.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_ARM = 0x40000028

KILL_PROCESS = 0x8000_0000
KILL_THREAD = 0x0000_0000
ERRNO = 0x0005_0000
ALLOW = 0x7FFF_0000

_LD_ABS, _LD_IMM, _LDX_IMM, _LD_MEM, _ST = 0x20, 0x00, 0x01, 0x60, 0x02
_AND, _OR, _RET = 0x54, 0x44, 0x06
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45


@dataclass(frozen=True)
class Verdict:
    """``errno`` is 0 when the call goes through; ``steps``: instructions run."""

    action: int
    errno: int
    steps: int

    @property
    def allowed(self) -> bool:
        return self.action == ALLOW

    @property
    def killed(self) -> bool:
        return self.action in (KILL_PROCESS, KILL_THREAD)


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """(code, jt, jf, k) each; what the kernel would refuse to install is refused."""
    if not program or len(program) % 8:
        raise ValueError(f"{len(program)} bytes are no instructions")
    code = list(struct.iter_unpack("=HBBI", program))
    if len(code) > 4096:
        raise ValueError(f"{len(code)} instructions; the kernel takes 4096")
    for at, (op, jt, jf, k) in enumerate(code):
        if op == _LD_ABS and (k % 4 or k >= 64):
            raise ValueError(f"{at}: load from {k}")
        if op in (_JEQ, _JGT, _JGE, _JSET) and at + 1 + max(jt, jf) >= len(code):
            raise ValueError(f"{at}: jumps out of the program")
        if op == _JA and at + 1 + k >= len(code):
            raise ValueError(f"{at}: jumps out of the program")
    if code[-1][0] != _RET:
        raise ValueError("does not end in a return")
    return code


class Machine:
    def __init__(self, program: bytes) -> None:
        self.code = decode(program)

    def run(self, arch: int, number: int, *args: int) -> Verdict:
        """One call as the kernel shows it to the filter (struct seccomp_data)."""
        full = [arg & 0xFFFF_FFFF_FFFF_FFFF for arg in args] + [0] * (6 - len(args))
        data = struct.pack(
            "=IIQ6Q", number & 0xFFFF_FFFF, arch, 0x7F00_0000_1000, *full
        )
        words = struct.unpack("<16I", data)
        memory = [0] * 16
        at = accumulator = steps = 0
        while True:
            op, jt, jf, k = self.code[at]
            at += 1
            steps += 1
            match op:
                case 0x20:
                    accumulator = words[k // 4]
                case 0x00:
                    accumulator = k
                case 0x60:
                    accumulator = memory[k]
                case 0x02:
                    memory[k] = accumulator
                case 0x54:
                    accumulator &= k
                case 0x44:
                    accumulator |= k
                case 0x05:
                    at += k
                case 0x15:
                    at += jt if accumulator == k else jf
                case 0x25:
                    at += jt if accumulator > k else jf
                case 0x35:
                    at += jt if accumulator >= k else jf
                case 0x45:
                    at += jt if accumulator & k else jf
                case 0x06:
                    action, value = k & 0xFFFF_0000, k & 0xFFFF
                    return Verdict(action, value if action == ERRNO else 0, steps)
                case _:
                    raise ValueError(f"{at - 1}: unknown instruction {op:#x}")
