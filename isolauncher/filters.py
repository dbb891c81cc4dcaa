# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles a list of system calls into the bytes the kernel takes; installs nothing.

The only door to libseccomp (Debian's python3-seccomp). Compiling takes some
milliseconds, so it is done when a policy is loaded and remembered for as long as the
list is the same; installing the bytes is the sealed child's business.

Every filter answers one call that no other filter does: prctl with the option ISOL
and the first 32 bits of the filter's digest. A sealed process that gets the errno
named in ``Filter.probe`` has this filter and no other, which /proc cannot tell.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Protocol

from .errors import HostError
from .syscalls import LET_THROUGH, LISTS, LOW_32, NUMBERS, SyscallList

NATIVE = os.uname().machine
ISOL = 0x49534F4C
STEP = "seccomp"

# Attr.CTL_OPTIMIZE: calls are found by halving, not one after the other.
_BINARY_TREE = 2

# By uname's name. A call of any other architecture that the processor can also run
# (i386 by int 0x80, x32, 32-bit ARM) ends the process: its numbers mean other calls,
# and after an errno a program would go on to try the next.
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "aarch64": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A compiled list for one architecture.

    ``digest`` names the rules (sha256, hexadecimal) and says nothing of the probe.
    ``probe`` is (number of the call, its arguments, the errno that answers it).
    """

    name: str
    arch: str
    bpf: bytes
    digest: str
    probe: tuple[int, tuple[int, ...], int]

    @property
    def instructions(self) -> int:
        return len(self.bpf) // 8


# What of the binding is used, since it brings no types of its own.
class _SyscallFilter(Protocol):
    def add_arch(self, arch: object) -> None: ...
    def remove_arch(self, arch: object) -> None: ...
    def set_attr(self, attr: int, value: object) -> None: ...
    def add_rule_exactly(
        self, action: object, syscall: int | str, *args: object
    ) -> None: ...
    def export_bpf(self, file: IO[bytes]) -> None: ...


class _Attr(Protocol):
    ACT_BADARCH: int
    CTL_OPTIMIZE: int


class _Libseccomp(Protocol):
    ALLOW: object
    KILL_PROCESS: object
    MASKED_EQ: object
    Attr: _Attr

    def ERRNO(self, errno: int) -> object: ...
    def Arch(self, arch: str = ...) -> object: ...
    def Arg(self, arg: int, op: object, mask: int, value: int) -> object: ...
    def SyscallFilter(self, defaction: object) -> _SyscallFilter: ...
    def resolve_syscall(self, arch: object, syscall: int | str) -> int | bytes: ...


# One rule with its call's number in the architecture at hand:
# (name, number, answer, ((arg, mask, value), ...)).
_Numbered = tuple[str, int, int, tuple[tuple[int, int, int], ...]]


def compile(name: str, *, arch: str = NATIVE) -> Filter:
    """The filter for the list ``name``; the same object while the list is the same."""
    try:
        chosen = LISTS[name]
    except KeyError:
        known = ", ".join(sorted(LISTS))
        raise HostError(
            f"there is no list of system calls named {name!r}",
            code="syscalls-unknown-list",
            hint=f"choose one of: {known}",
            step=STEP,
        ) from None
    return compile_list(chosen, arch=arch)


@functools.cache
def compile_list(chosen: SyscallList, *, arch: str = NATIVE) -> Filter:
    """As `compile`, for a list that need not be one of the shipped ones."""
    if arch not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise HostError(
            f"no filter can be made for the architecture {arch!r}",
            code="seccomp-unknown-architecture",
            hint=f"isolauncher knows {known}",
            step=STEP,
        )
    library = _library()
    try:
        rules = _number(library, chosen, arch)
        digest = _digest(chosen, arch, rules)
        probe = _probe(library, arch, digest)
        bpf = _assemble(library, chosen, arch, rules, probe)
    except (RuntimeError, ValueError, OSError) as why:
        raise HostError(
            f"libseccomp cannot compile the list {chosen.name!r} for {arch}: {why}",
            code="seccomp-compile-failed",
            hint="libseccomp 2.5 or newer and a kernel with seccomp are needed",
            step=STEP,
        ) from why
    return Filter(name=chosen.name, arch=arch, bpf=bpf, digest=digest, probe=probe)


def available() -> bool:
    """Whether python3-seccomp is installed."""
    try:
        _library()
    except HostError:
        return False
    return True


def _library() -> _Libseccomp:
    # Not at the top: whoever only reads a policy needs no libseccomp.
    try:
        import seccomp
    except ImportError as why:
        raise HostError(
            "Python's binding of libseccomp is not installed, so no filter of "
            "system calls can be made",
            code="seccomp-missing",
            hint="apt install python3-seccomp",
            step=STEP,
        ) from why
    library: _Libseccomp = seccomp
    return library


def _number(
    library: _Libseccomp, chosen: SyscallList, arch: str
) -> tuple[_Numbered, ...]:
    """The rules whose call exists in ``arch``.

    A call that has no number there cannot be made there; one that nobody here knows
    the number of gets the list's own answer. Either way, leaving it out refuses it.
    """
    token = library.Arch(_ARCHITECTURES[arch])
    native = library.Arch()
    numbers: dict[str, int | None] = {}
    for call in {rule.call for rule in chosen.rules}:
        numbers[call] = _resolve(library, token, call)
        if arch != NATIVE and not _translatable(library, native, call):
            numbers[call] = None
    numbered: list[_Numbered] = []
    for rule in chosen.rules:
        number = numbers[rule.call]
        if number is not None:
            when = tuple((ask.arg, ask.mask, ask.value) for ask in rule.when)
            numbered.append((rule.call, number, rule.answer, when))
    return tuple(sorted(numbered))


def _resolve(library: _Libseccomp, token: object, call: str) -> int | None:
    if call in NUMBERS:
        return NUMBERS[call]
    number = library.resolve_syscall(token, call)
    # Below zero: -1 for a name unknown to libseccomp, else a placeholder of its own
    # for a call this architecture lacks.
    return number if isinstance(number, int) and number >= 0 else None


def _translatable(library: _Libseccomp, native: object, call: str) -> bool:
    """libseccomp takes native numbers and finds the foreign one by name.

    So a call it has no name for cannot be in a filter for another machine. Nobody
    installs such a filter: it is compiled to be read and tested.
    """
    number = library.resolve_syscall(native, call)
    return isinstance(number, int) and number != -1


def _digest(chosen: SyscallList, arch: str, rules: tuple[_Numbered, ...]) -> str:
    lines = [f"isolauncher-syscalls 1 {arch} otherwise={chosen.otherwise}"]
    for _, number, answer, when in rules:
        asks = " ".join(f"{arg}&{mask:#x}=={value:#x}" for arg, mask, value in when)
        lines.append(f"{number} {answer} {asks}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _probe(
    library: _Libseccomp, arch: str, digest: str
) -> tuple[int, tuple[int, ...], int]:
    number = _resolve(library, library.Arch(_ARCHITECTURES[arch]), "prctl")
    if number is None:
        raise ValueError("prctl has no number")
    # 1000 to 3999: above every errno there is and the kernel's private ones for
    # restarting a call (512 to 530), below 4095 where errnos end.
    answer = 1000 + int(digest[8:16], 16) % 3000
    return number, (ISOL, int(digest[:8], 16), 0, 0, 0), answer


def _assemble(
    library: _Libseccomp,
    chosen: SyscallList,
    arch: str,
    rules: tuple[_Numbered, ...],
    probe: tuple[int, tuple[int, ...], int],
) -> bytes:
    program = library.SyscallFilter(library.ERRNO(chosen.otherwise))
    if arch != NATIVE:
        program.add_arch(library.Arch(_ARCHITECTURES[arch]))
        program.remove_arch(library.Arch())
    program.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    program.set_attr(library.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for call, number, answer, when in rules:
        action = library.ALLOW if answer == LET_THROUGH else library.ERRNO(answer)
        asks = [
            library.Arg(arg, library.MASKED_EQ, mask, value)
            for arg, mask, value in when
        ]
        # By number at home, where a call may be newer than libseccomp; by name
        # abroad, where a number would be taken for a native one.
        program.add_rule_exactly(action, number if arch == NATIVE else call, *asks)
    _, (option, word, *_), answer = probe
    program.add_rule_exactly(
        library.ERRNO(answer),
        "prctl",
        library.Arg(0, library.MASKED_EQ, LOW_32, option),
        library.Arg(1, library.MASKED_EQ, LOW_32, word),
    )
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
