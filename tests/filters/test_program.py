# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled program answers as the rules say, on both architectures.

Judged by an interpreter of its own (bpf.py), with numbers and constants written out
here, so that arm64 is proved on any machine and a wrong table cannot agree with
itself.
"""

from __future__ import annotations

import errno
import random
import sys
from collections import defaultdict

import pytest
from support import powers

from isolauncher import filters
from isolauncher.errors import HostError
from isolauncher.syscalls import DESKTOP, NUMBERS, Rule, SyscallList, When

from . import bpf

ARCHES = ("x86_64", "aarch64")
both = pytest.mark.parametrize("arch", ARCHES)

# (x86-64, arm64) from the kernel's own headers; None: no such call there.
NR: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_gettime": (228, 113),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "creat": (85, None),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "faccessat2": (439, 439),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "get_mempolicy": (239, 236),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_create_ruleset": (444, 444),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "membarrier": (324, 283),
    "memfd_create": (319, 279),
    "migrate_pages": (256, 238),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mseal": (462, 462),
    "name_to_handle_at": (303, 264),
    "open": (2, None),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "read": (0, 63),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rseq": (334, 293),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setresuid": (117, 147),
    "settimeofday": (164, 170),
    "setuid": (105, 146),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statx": (332, 291),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
    "vhangup": (153, 58),
}

ALLOWED = "allowed"
PASS = """
    clock_gettime close_range execve faccessat2 fork futex futex_waitv kcmp kill
    landlock_create_ruleset membarrier memfd_create mq_open pidfd_open prlimit64 read
    rseq seccomp setgroups setresuid setuid statx vfork
""".split()
EPERM = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module
    fanotify_init finit_module fsconfig fsmount fsopen fspick get_mempolicy
    init_module ioperm iopl kexec_file_load kexec_load keyctl lookup_dcookie mbind
    migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
    process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key
    set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon syslog
    umount2 userfaultfd vhangup
""".split()
ENOSYS = """
    clone3 openat2 fchmodat2 io_uring_setup io_uring_enter io_uring_register io_setup
""".split()

O_CREAT, O_TMPFILE, O_RDWR = 0o100, 0o20000000, 2
HIGH = 0xDEAD_BEEF_0000_0000  # what a register may hold above an int
THREAD = 0x3D0F00  # pthread_create's flags

# (call, arguments, answer): what tells a right filter from a nearly right one.
CASES: list[tuple[str, tuple[int, ...], int | str]] = [
    *[(call, (), ALLOWED) for call in PASS],
    *[(call, (), errno.EPERM) for call in EPERM],
    *[(call, (), errno.ENOSYS) for call in ENOSYS],
    # Namespaces.
    ("clone", (17,), ALLOWED),
    ("clone", (THREAD,), ALLOWED),
    ("clone", (0x4111,), ALLOWED),
    *[
        (call, (flag | low,), errno.EPERM)
        for call in ("clone", "unshare")
        for low in (0, 17, THREAD, HIGH)
        for flag in (
            0x00020000,
            0x02000000,
            0x04000000,
            0x08000000,
            0x10000000,
            0x20000000,
            0x40000000,
            0x7E020000,
        )
    ],
    ("unshare", (0x80,), errno.EPERM),
    ("unshare", (0x200,), ALLOWED),
    ("unshare", (0x400,), ALLOWED),
    ("unshare", (0,), ALLOWED),
    # Set-id bits.
    *[
        (call, (*(0 for _ in range(at)), high | mode), answer)
        for call, at in (
            ("chmod", 1),
            ("fchmod", 1),
            ("fchmodat", 2),
            ("creat", 1),
            ("mkdir", 1),
            ("mkdirat", 2),
            ("mknod", 1),
            ("mknodat", 2),
        )
        for high in (0, HIGH)
        for mode, answer in (
            (0, ALLOWED),
            (0o644, ALLOWED),
            (0o1777, ALLOWED),
            (0o4755, errno.EPERM),
            (0o2755, errno.EPERM),
            (0o6000, errno.EPERM),
            (0o2000, errno.EPERM),
        )
    ],
    *[
        (call, (*(0 for _ in range(at)), kind | 0o600), answer)
        for call, at in (("mknod", 1), ("mknodat", 2))
        for kind, answer in (
            (0o100000, ALLOWED),
            (0o010000, ALLOWED),
            (0o140000, ALLOWED),
            (0o020000, errno.EPERM),
            (0o060000, errno.EPERM),
            (0o040000, errno.EPERM),
            (0o120000, errno.EPERM),
            (0o104000, errno.EPERM),
            (0o012000, errno.EPERM),
        )
    ],
    *[
        (call, (*(0 for _ in range(at)), high | flags, mode), answer)
        for call, at in (("open", 1), ("openat", 2))
        for high in (0, HIGH)
        for flags, mode, answer in (
            (0, 0, ALLOWED),
            (0, 0o7777, ALLOWED),
            (O_RDWR, HIGH | 0o6755, ALLOWED),
            (0o200000 | 0o40000, 0o6755, ALLOWED),  # O_DIRECTORY of either machine
            (O_RDWR | O_CREAT, 0o644, ALLOWED),
            (O_RDWR | O_CREAT, HIGH | 0o644, ALLOWED),
            (O_RDWR | O_CREAT, 0o1644, ALLOWED),
            (O_RDWR | O_CREAT, 0o4755, errno.EPERM),
            (O_RDWR | O_CREAT, 0o2755, errno.EPERM),
            (O_CREAT, HIGH | 0o6000, errno.EPERM),
            (O_RDWR | O_TMPFILE, 0o600, ALLOWED),
            (O_RDWR | O_TMPFILE | 0o200000, 0o4700, errno.EPERM),
            (O_RDWR | O_TMPFILE | 0o40000, 0o2700, errno.EPERM),
            (O_CREAT | O_TMPFILE, 0o600, ALLOWED),
            (O_CREAT | O_TMPFILE, 0o6700, errno.EPERM),
        )
    ],
    # The terminal.
    *[
        ("ioctl", (0, high | request), errno.EPERM)
        for request in (0x5412, 0x541C, 0x5423)
        for high in (0, 1 << 32, 1 << 63, HIGH, 0xFFFF_FFFF_0000_0000)
    ],
    *[
        ("ioctl", (0, request), ALLOWED)
        for request in (
            *(0, 0x5401, 0x5402, 0x540E, 0x540F, 0x5410, 0x5411, 0x5413, 0x5414),
            *(0x541B, 0x541D, 0x5420, 0x5421, 0x5422, 0x5424, 0x5450, 0x5451),
            *(0x8912, 0x80045430, 0xFFFF_FFFF_8004_5430, 0xC0106400),
            *(0x5412 << 32, 0x15412, 0x8000_5412),
        )
    ],
    # Sockets.
    *[("socket", (family, 1, 0), ALLOWED) for family in (1, 2, 10, HIGH | 2)],
    ("socket", (2, 3, 255), ALLOWED),
    ("socket", (16, 3, 0), ALLOWED),
    ("socket", (16, 0x80003, HIGH), ALLOWED),
    *[
        ("socket", (16, 3, high | protocol), errno.EPROTONOSUPPORT)
        for protocol in range(1, 32)
        for high in (0, HIGH)
    ],
    *[
        ("socket", (family, 3, 0), errno.EAFNOSUPPORT)
        for family in range(47)
        if family not in (1, 2, 10, 16)
    ],
    ("socket", (64 + 1, 1, 0), errno.ENOSYS),
    ("socketpair", (1, 1, 0), ALLOWED),
    ("socketpair", (2, 1, 0), errno.EAFNOSUPPORT),
    ("socketpair", (16, 3, 0), errno.EAFNOSUPPORT),
    # The process itself.
    *[
        ("prctl", (option,), ALLOWED)
        for option in (1, 4, 15, 22, 38, 53, HIGH | 15, 0x53564D41)
    ],
    *[
        ("prctl", (option,), errno.EPERM)
        for option in (31, 32, 35, HIGH | 35, 0x59616D61)
    ],
    ("prctl", (62,), errno.ENOSYS),
    ("prctl", (0x49534F4C, 0), errno.ENOSYS),
    ("personality", (0,), ALLOWED),
    ("personality", (0xFFFF_FFFF,), ALLOWED),
    ("personality", (0xFFFF_FFFF_FFFF_FFFF,), ALLOWED),
    ("personality", (0x0040000,), errno.EPERM),
    ("personality", (0x0400000,), errno.EPERM),
    ("personality", (8,), errno.ENOSYS),
]


@pytest.fixture(scope="module", autouse=True)
def _libseccomp() -> None:
    powers.need(powers.seccomp())


def number_of(call: str, arch: str) -> int | None:
    return NR[call][ARCHES.index(arch)]


@both
def test_desktop_answers_each_case_as_written(arch: str) -> None:
    machine = bpf.Machine(filters.compile("desktop", arch=arch).bpf)
    wrong = []
    for call, args, wanted in CASES:
        number = number_of(call, arch)
        if number is None:
            continue
        verdict = machine.run(bpf.AUDIT_ARCH[arch], number, *args)
        got = ALLOWED if verdict.allowed else verdict.errno
        if got != wanted or verdict.killed:
            wrong.append((call, [hex(arg) for arg in args], wanted, verdict))
    assert not wrong


def by_the_rules(
    chosen: SyscallList, numbers: dict[str, int], arch_number: int, args: list[int]
) -> set[int]:
    """Every answer that the rules give: more than one would be a contradiction."""
    answers = {
        rule.answer
        for rule in chosen.rules
        if numbers.get(rule.call) == arch_number
        and all(args[ask.arg] & ask.mask == ask.value for ask in rule.when)
    }
    return answers or {chosen.otherwise}


@both
def test_program_and_rules_agree_on_calls_thrown_at_them(arch: str) -> None:
    library = filters._library()
    token = library.Arch(arch)
    numbers = {}
    questions: dict[int, list[When]] = defaultdict(list)
    for rule in DESKTOP.rules:
        number = filters._resolve(library, token, rule.call)
        # A filter for another machine lacks what this libseccomp cannot name.
        if number is not None and (arch == filters.NATIVE or number < 457):
            numbers[rule.call] = number
            questions[number].extend(rule.when)
    machine = bpf.Machine(filters.compile("desktop", arch=arch).bpf)
    dice = random.Random(49)  # noqa: S311 - a test that repeats, not a secret
    for number in range(520):
        asks = questions[number]
        for _ in range(300 if asks else 2):
            args = [dice.getrandbits(64) for _ in range(6)]
            for _ in range(dice.randrange(4) if asks else 0):
                ask = dice.choice(asks)
                noise = args[ask.arg] if dice.random() < 0.5 else 0
                args[ask.arg] = ask.value | noise & ~ask.mask
                if dice.random() < 0.3:
                    args[ask.arg] ^= 1 << dice.randrange(64)
            verdict = machine.run(bpf.AUDIT_ARCH[arch], number, *args)
            assert not verdict.killed
            answer = 0 if verdict.allowed else verdict.errno
            assert {answer} == by_the_rules(DESKTOP, numbers, number, args), (
                number,
                [hex(arg) for arg in args],
            )


@both
def test_calls_of_another_architecture_end_the_process(arch: str) -> None:
    machine = bpf.Machine(filters.compile("desktop", arch=arch).bpf)
    others = {bpf.AUDIT_ARCH_I386, bpf.AUDIT_ARCH_ARM, *bpf.AUDIT_ARCH.values(), 0}
    for other in others - {bpf.AUDIT_ARCH[arch]}:
        for number in range(520):
            assert machine.run(other, number).action == bpf.KILL_PROCESS


def test_x32_calls_end_the_process() -> None:
    machine = bpf.Machine(filters.compile("desktop", arch="x86_64").bpf)
    for number in (*range(600), 0x3FFF_FFFE):
        verdict = machine.run(bpf.AUDIT_ARCH["x86_64"], 0x4000_0000 | number)
        assert verdict.action == bpf.KILL_PROCESS


@both
def test_numbers_nobody_has_yet_are_enosys(arch: str) -> None:
    machine = bpf.Machine(filters.compile("desktop", arch=arch).bpf)
    beyond = (max(NUMBERS.values()) + 1, 499, 1000, 0x3FFF_FFFF, 0xFFFF_FFFF)
    for number in beyond:
        verdict = machine.run(bpf.AUDIT_ARCH[arch], number)
        assert (verdict.action, verdict.errno) == (bpf.ERRNO, errno.ENOSYS)


def test_calls_newer_than_libseccomp_are_in_the_native_filter() -> None:
    machine = bpf.Machine(filters.compile("desktop").bpf)
    for call in ("mseal", "setxattrat", "removexattrat"):
        assert machine.run(bpf.AUDIT_ARCH[filters.NATIVE], NUMBERS[call]).allowed


@both
def test_only_this_filter_answers_its_probe(arch: str) -> None:
    desktop = filters.compile("desktop", arch=arch)
    number, args, answer = desktop.probe
    assert number == number_of("prctl", arch)
    assert args[:2] == (0x49534F4C, int(desktop.digest[:8], 16))
    assert 1000 <= answer < 4000
    verdict = bpf.Machine(desktop.bpf).run(bpf.AUDIT_ARCH[arch], number, *args)
    assert (verdict.action, verdict.errno) == (bpf.ERRNO, answer)

    weaker = SyscallList(name="desktop", rules=DESKTOP.rules[:-1])
    other = filters.compile_list(weaker, arch=arch)
    assert other.digest != desktop.digest
    verdict = bpf.Machine(other.bpf).run(bpf.AUDIT_ARCH[arch], number, *args)
    assert (verdict.action, verdict.errno) == (bpf.ERRNO, errno.ENOSYS)


def test_every_weakened_rule_changes_digest_and_probe() -> None:
    desktop = filters.compile("desktop")
    seen = {desktop.digest}
    probes = {desktop.probe}
    some = range(0, len(DESKTOP.rules), 23)
    for at in some:
        rules = (*DESKTOP.rules[:at], *DESKTOP.rules[at + 1 :])
        weaker = filters.compile_list(SyscallList(name="desktop", rules=rules))
        seen.add(weaker.digest)
        probes.add(weaker.probe)
    # Rules for calls of the other architecture only change nothing here.
    elsewhere = [
        at
        for at in some
        if filters._resolve(
            filters._library(), filters._library().Arch(), DESKTOP.rules[at].call
        )
        is None
    ]
    assert len(seen) == len(probes) == 1 + len(some) - len(elsewhere)


def test_digest_follows_from_the_rules_alone() -> None:
    desktop = filters.compile("desktop")
    shuffled = SyscallList(name="another name", rules=DESKTOP.rules[::-1])
    again = filters.compile_list(shuffled)
    assert again is not desktop
    assert (again.digest, again.bpf) == (desktop.digest, desktop.bpf)
    assert len({filters.compile("desktop", arch=arch).digest for arch in ARCHES}) == 2


def test_a_list_is_compiled_once() -> None:
    assert filters.compile("desktop") is filters.compile("desktop")


@both
def test_desktop_is_short_for_what_programs_do_most(arch: str) -> None:
    desktop = filters.compile("desktop", arch=arch)
    assert desktop.instructions < 1500
    machine = bpf.Machine(desktop.bpf)
    for call in ("read", "futex", "clock_gettime", "execve", "statx"):
        number = number_of(call, arch)
        assert number is not None
        assert machine.run(bpf.AUDIT_ARCH[arch], number).steps <= 24


def test_without_libseccomp_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "seccomp", None)  # type: ignore[misc]
    rule = Rule(call="read", answer=0)
    with pytest.raises(HostError) as caught:
        filters.compile_list(SyscallList(name="one", rules=(rule,)))
    assert caught.value.code == "seccomp-missing"
    assert caught.value.hint == "apt install python3-seccomp"
    assert not filters.available()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(HostError) as caught:
        filters.compile("dekstop")
    assert (caught.value.code, caught.value.step) == (
        "syscalls-unknown-list",
        "seccomp",
    )
    assert "desktop" in caught.value.hint
    with pytest.raises(HostError) as caught:
        filters.compile("desktop", arch="m68k")
    assert caught.value.code == "seccomp-unknown-architecture"


def test_rules_libseccomp_cannot_take_are_an_error_and_never_left_out() -> None:
    twice = (When(arg=0, mask=1, value=1), When(arg=0, mask=2, value=2))
    rule = Rule(call="read", answer=errno.EPERM, when=twice)
    with pytest.raises(HostError) as caught:
        filters.compile_list(SyscallList(name="twice", rules=(rule,)))
    assert caught.value.code == "seccomp-compile-failed"
