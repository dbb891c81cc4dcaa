# SPDX-License-Identifier: GPL-3.0-or-later
"""The named lists of system calls a policy can choose from, as data.

A list is a tuple of rules; a rule lets a call through or answers it with an errno,
always or only for some arguments. What no rule matches is answered ENOSYS, as an
older kernel would: glibc and language run-times then fall back, so a call that is
newer than a list costs speed and not function. EPERM is for what exists, is known,
and is refused on purpose.

Nothing here is compiled or installed, and no call has a number but those that a
libseccomp of Debian 12 may not know; see filters.py.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

LET_THROUGH = 0
LOW_32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """``args[arg] & mask == value``: the only question a rule can ask.

    One kind of question keeps it decidable whether two rules can both match, and
    with a mask it says what the kernel will see: an ``int`` argument is the low
    half of its register, whatever the program left in the high half.
    """

    arg: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``answer`` is an errno, or 0 to let the call through; ``when``: all must hold.

    Rules of one call with different answers never match the same arguments, so
    their order means nothing and no compiler can get it wrong.
    """

    call: str
    answer: int
    when: tuple[When, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyscallList:
    """One of a handful of constants: compared by identity, to be looked up quickly."""

    name: str
    rules: tuple[Rule, ...]
    otherwise: int = errno.ENOSYS


# From 424 on a call has the same number on every architecture we compile for
# (scripts/syscall.tbl and arch/x86/entry/syscalls/syscall_64.tbl).
NUMBERS: Mapping[str, int] = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "faccessat2": 439,
    "process_madvise": 440,
    "epoll_pwait2": 441,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
}


def all_but(arg: int, values: Iterable[int], *, mask: int) -> tuple[When, ...]:
    """The questions of which one is true exactly when no value of ``values`` is.

    "Not equal under a mask" cannot be said to libseccomp. So the numbers are walked
    as a tree of bits from the highest down, and every branch that leads to none of
    the values is one question: it and its siblings never overlap.
    """
    bits = [1 << n for n in reversed(range(mask.bit_length())) if mask >> n & 1]

    def branches(depth: int, known: int, left: frozenset[int]) -> Iterator[When]:
        if not left:
            yield When(arg=arg, mask=sum(bits[:depth]), value=known)
        elif depth < len(bits):
            bit = bits[depth]
            ones = frozenset(value for value in left if value & bit)
            yield from branches(depth + 1, known | bit, ones)
            yield from branches(depth + 1, known, left - ones)

    return tuple(branches(0, 0, frozenset(values)))


def _allow(*calls: str) -> Iterator[Rule]:
    for words in calls:
        for call in words.split():
            yield Rule(call=call, answer=LET_THROUGH)


def _refuse(*calls: str) -> Iterator[Rule]:
    for words in calls:
        for call in words.split():
            yield Rule(call=call, answer=errno.EPERM)


def _one_of(
    call: str, arg: int, values: Iterable[int], *, answer: int, mask: int = LOW_32
) -> Iterator[Rule]:
    for value in values:
        when = When(arg=arg, mask=mask, value=value)
        yield Rule(call=call, answer=answer, when=(when,))


def _none_of(
    call: str, arg: int, values: Iterable[int], *, answer: int, mask: int = LOW_32
) -> Iterator[Rule]:
    for when in all_but(arg, values, mask=mask):
        yield Rule(call=call, answer=answer, when=(when,))


# --- namespaces -------------------------------------------------------------------
# CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET.
_NAMESPACES = 0x7E02_0000
# Only to unshare: in clone's flags these bits are the signal sent to the parent.
_NEWTIME = 0x80


def _namespaces() -> Iterator[Rule]:
    """No namespace may be made: each hands its maker capabilities in the kernel.

    clone is how every process and thread starts and unshare(CLONE_FS or _FILES) takes
    nothing from anyone, so both pass when no namespace is named. clone3 keeps its
    flags behind a pointer where no filter can look: ENOSYS, upon which every libc
    uses clone. Flags are argument 0 on both architectures; the kernel drops the high
    half of clone's and refuses unknown bits of unshare's.
    """
    for call, mask in (("clone", _NAMESPACES), ("unshare", _NAMESPACES | _NEWTIME)):
        yield from _one_of(call, 0, (0,), mask=mask, answer=LET_THROUGH)
        yield from _none_of(call, 0, (0,), mask=mask, answer=errno.EPERM)


# --- set-id bits --------------------------------------------------------------------
_SET_ID = 0o6000  # S_ISUID | S_ISGID, the same in every kernel
_S_IFMT = 0o170000
# Regular (named or by 0), FIFO, socket: the kinds that are not a device.
_PLAIN_KINDS = (0, 0o100000, 0o010000, 0o140000)
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: alike on x86-64 and arm64


def _set_id_bits() -> Iterator[Rule]:
    """Nobody makes a set-id file: through an idmapped mount it would be the person's.

    A set-id program of the caller's, written by the activity, is a way out for
    whoever runs it later. fchmodat2 and openat2 are on no list: the one is new, the
    mode of the other lies behind a pointer.
    """
    for call, arg in (
        ("chmod", 1),
        ("fchmod", 1),
        ("fchmodat", 2),
        ("creat", 1),
        ("mkdir", 1),
        ("mkdirat", 2),
    ):
        yield from _one_of(call, arg, (0,), mask=_SET_ID, answer=LET_THROUGH)
        yield from _none_of(call, arg, (0,), mask=_SET_ID, answer=errno.EPERM)

    for call, arg in (("mknod", 1), ("mknodat", 2)):
        mask = _S_IFMT | _SET_ID
        yield from _one_of(call, arg, _PLAIN_KINDS, mask=mask, answer=LET_THROUGH)
        yield from _none_of(call, arg, _PLAIN_KINDS, mask=mask, answer=errno.EPERM)

    for call, arg in (("open", 1), ("openat", 2)):
        # Without a flag that creates, a C program leaves the mode's register as it
        # happens to be and the kernel ignores it: so must we. All combinations of
        # the two flags under one mask, lest two branches match.
        yield from _one_of(call, arg, (0,), mask=_CREATES, answer=LET_THROUGH)
        for flags in (0o100, 0o20000000, _CREATES):
            creates = When(arg=arg, mask=_CREATES, value=flags)
            for bits in (0, 0o2000, 0o4000, 0o6000):
                mode = When(arg=arg + 1, mask=_SET_ID, value=bits)
                answer = errno.EPERM if bits else LET_THROUGH
                yield Rule(call=call, answer=answer, when=(creates, mode))


# --- devices --------------------------------------------------------------------------
# TIOCSTI and TIOCLINUX type into the terminal a launch inherits. TIOCSETD gives it
# another line discipline: the caller's terminal would stay so, and the rarely used
# ones have been ways into the kernel. TIOCSCTTY stays: it takes only a terminal that
# is nobody's, and whoever opens a pty (script, pty.spawn, a terminal) needs it.
_TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)


def _ioctl() -> Iterator[Rule]:
    """Everything but three; under 32 bits, as the kernel takes an unsigned int.

    Compared as 64 bits a request with a high bit set would pass and still be
    TIOCSTI to the kernel.
    """
    yield from _one_of("ioctl", 1, _TERMINAL_TRICKS, answer=errno.EPERM)
    yield from _none_of("ioctl", 1, _TERMINAL_TRICKS, answer=LET_THROUGH)


# --- sockets -------------------------------------------------------------------------
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_FAMILIES = 0x3F  # enough for every family there is; beyond, the list's own answer
# By default, ICMP (ping), TCP, UDP, ICMPv6, raw (the kernel's own EPERM), MPTCP.
_PROTOCOLS = (0, 1, 6, 17, 58, 255, 262)


def _sockets() -> Iterator[Rule]:
    """Local and IP sockets, and of netlink what getaddrinfo asks for interfaces.

    The other families (packet, vsock, alg, bluetooth, can, tipc, …) reach past the
    network namespace or are kernel code that a desktop program never calls. So are
    the rarer protocols of IP: the kernel loads a module for whoever asks (SCTP, DCCP,
    L2TP, SMC).
    """
    yield from _one_of("socket", 0, (_AF_UNIX,), answer=LET_THROUGH)
    for family in (_AF_INET, _AF_INET6):
        ip = When(arg=0, mask=LOW_32, value=family)
        for protocol in _PROTOCOLS:
            known = When(arg=2, mask=LOW_32, value=protocol)
            yield Rule(call="socket", answer=LET_THROUGH, when=(ip, known))
        for rare in all_but(2, _PROTOCOLS, mask=0x1FF):
            yield Rule(call="socket", answer=errno.EPROTONOSUPPORT, when=(ip, rare))
    yield from _none_of(
        "socket",
        0,
        (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK),
        mask=_FAMILIES,
        answer=errno.EAFNOSUPPORT,
    )
    netlink = When(arg=0, mask=LOW_32, value=_AF_NETLINK)
    route = When(arg=2, mask=LOW_32, value=0)
    yield Rule(call="socket", answer=LET_THROUGH, when=(netlink, route))
    # There are 32 protocols; under five bits the rest of them is five questions.
    for other in all_but(2, (0,), mask=0x1F):
        yield Rule(call="socket", answer=errno.EPROTONOSUPPORT, when=(netlink, other))

    yield from _one_of("socketpair", 0, (_AF_UNIX,), answer=LET_THROUGH)
    yield from _none_of(
        "socketpair", 0, (_AF_UNIX,), mask=_FAMILIES, answer=errno.EAFNOSUPPORT
    )


# --- the process itself --------------------------------------------------------------
_PRCTL_ALLOWED = (
    1,  # PR_SET_PDEATHSIG
    2,  # PR_GET_PDEATHSIG
    3,  # PR_GET_DUMPABLE
    4,  # PR_SET_DUMPABLE: opens only to the same uid, which only its sandbox has
    7,  # PR_GET_KEEPCAPS
    8,  # PR_SET_KEEPCAPS: keeps nothing where there is nothing
    15,  # PR_SET_NAME
    16,  # PR_GET_NAME
    21,  # PR_GET_SECCOMP
    22,  # PR_SET_SECCOMP: only ever tightens, see seccomp
    23,  # PR_CAPBSET_READ
    24,  # PR_CAPBSET_DROP: the kernel's own EPERM
    25,  # PR_GET_TSC
    26,  # PR_SET_TSC
    27,  # PR_GET_SECUREBITS
    28,  # PR_SET_SECUREBITS: locked, and the kernel says so
    29,  # PR_SET_TIMERSLACK
    30,  # PR_GET_TIMERSLACK
    34,  # PR_MCE_KILL_GET
    36,  # PR_SET_CHILD_SUBREAPER
    37,  # PR_GET_CHILD_SUBREAPER
    38,  # PR_SET_NO_NEW_PRIVS
    39,  # PR_GET_NO_NEW_PRIVS
    40,  # PR_GET_TID_ADDRESS
    41,  # PR_SET_THP_DISABLE
    42,  # PR_GET_THP_DISABLE
    47,  # PR_CAP_AMBIENT
    50,  # PR_SVE_SET_VL
    51,  # PR_SVE_GET_VL
    52,  # PR_GET_SPECULATION_CTRL
    53,  # PR_SET_SPECULATION_CTRL: a run-time's own guard; it can weaken only itself
    54,  # PR_PAC_RESET_KEYS
    55,  # PR_SET_TAGGED_ADDR_CTRL
    56,  # PR_GET_TAGGED_ADDR_CTRL
    60,  # PR_PAC_SET_ENABLED_KEYS
    61,  # PR_PAC_GET_ENABLED_KEYS
    63,  # PR_SME_SET_VL
    64,  # PR_SME_GET_VL
    65,  # PR_SET_MDWE: tightens
    66,  # PR_GET_MDWE
    74,  # PR_GET_SHADOW_STACK_STATUS
    75,  # PR_SET_SHADOW_STACK_STATUS
    76,  # PR_LOCK_SHADOW_STACK_STATUS
    0x41555856,  # PR_GET_AUXV
    0x53564D41,  # PR_SET_VMA: names for anonymous memory; allocators do it
)
_PRCTL_REFUSED = (
    31,  # PR_TASK_PERF_EVENTS_DISABLE
    32,  # PR_TASK_PERF_EVENTS_ENABLE
    35,  # PR_SET_MM: forges what /proc says of a process, and of which file it runs
    0x59616D61,  # PR_SET_PTRACER: invites a debugger past Yama
)
_PR_IS_INT = LOW_32  # the kernel's prctl takes `int option`


def _about_itself() -> Iterator[Rule]:
    """prctl by option; personality only as it is (0) and as a question (-1).

    ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC survive an exec and turn off what makes
    memory errors hard to use; 32-bit personalities lead to calls refused anyhow.
    """
    yield from _one_of("prctl", 0, _PRCTL_ALLOWED, mask=_PR_IS_INT, answer=LET_THROUGH)
    yield from _one_of("prctl", 0, _PRCTL_REFUSED, mask=_PR_IS_INT, answer=errno.EPERM)
    yield from _one_of("personality", 0, (0, LOW_32), answer=LET_THROUGH)
    # The three that programs ask for; any other value gets the list's own answer.
    yield from _one_of(
        "personality", 0, (0x0040000, 0x0400000, 0x0440000), answer=errno.EPERM
    )


_READ_AND_WRITE = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2
    lseek sendfile splice tee vmsplice copy_file_range readahead fadvise64
    fallocate truncate ftruncate sync syncfs fsync fdatasync sync_file_range
    cachestat
"""
_DESCRIPTORS = """
    close close_range dup dup2 dup3 fcntl flock pipe pipe2 memfd_create
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
    epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4
    timerfd_create timerfd_settime timerfd_gettime
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
"""
_FILES = """
    access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs
    getdents getdents64 getcwd chdir fchdir umask utime utimes futimesat utimensat
    link linkat unlink unlinkat symlink symlinkat readlink readlinkat
    rename renameat renameat2 rmdir chown fchown lchown fchownat
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr
    flistxattr removexattr lremovexattr fremovexattr
    setxattrat getxattrat listxattrat removexattrat
"""
_MEMORY = """
    mmap munmap mprotect mremap msync brk madvise mincore mlock mlock2 munlock
    mlockall munlockall pkey_mprotect pkey_alloc pkey_free mseal map_shadow_stack
    process_madvise membarrier
"""
_PROCESSES = """
    fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill
    pidfd_open pidfd_send_signal getpid getppid gettid getpgid setpgid getpgrp
    getsid setsid kcmp arch_prctl rseq set_tid_address set_robust_list
    get_robust_list futex futex_waitv futex_wake futex_wait futex_requeue
    getrlimit setrlimit prlimit64 getrusage getpriority setpriority
    ioprio_get ioprio_set getcpu
    sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam
    sched_getscheduler sched_setscheduler sched_getattr sched_setattr
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval
"""
_SIGNALS_AND_TIME = """
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend
    rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause
    restart_syscall nanosleep clock_nanosleep clock_gettime clock_getres
    gettimeofday time times alarm getitimer setitimer
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete
"""
# The set* of them are the kernel's to answer: in the sandbox's user namespace no
# other id is mapped (EINVAL) and no capability is left (EPERM).
_IDENTITY = """
    getuid geteuid getgid getegid getresuid getresgid getgroups
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
    capget capset uname sysinfo getrandom
"""
_TALK = """
    connect bind listen accept accept4 getsockname getpeername getsockopt setsockopt
    shutdown sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
    shmget shmat shmdt shmctl semget semop semtimedop semctl
    msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
"""
# Filters and rulesets only ever add up, the strictest answer wins, and this list's
# EPERM and ENOSYS outrank every listener: file(1), ssh, WebKit and Chromium put
# themselves behind a filter, and breaking that would make them weaker.
_TIGHTEN = """
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""

_OTHER_ROOTS = """
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount
    fspick mount_setattr open_tree_attr setns
    name_to_handle_at open_by_handle_at quotactl quotactl_fd fanotify_init
    fanotify_mark
"""
_OTHER_PROCESSES = """
    pidfd_getfd perf_event_open lookup_dcookie
"""
# The kernel allows them on processes of one's own uid that are no less confined, and
# that uid is one sandbox's; init, which it lies beneath, has another. What a traced
# process is made to call is filtered once more (seccomp(2), since Linux 4.8).
_TRACING = """
    ptrace process_vm_readv process_vm_writev
"""
_KERNEL = """
    bpf userfaultfd keyctl add_key request_key
    init_module finit_module delete_module kexec_load kexec_file_load
    reboot swapon swapoff acct syslog vhangup uselib nfsservctl iopl ioperm
    sethostname setdomainname
    settimeofday clock_settime clock_adjtime adjtimex
"""
# Where pages live is the machine's business; libnuma takes EPERM for "no NUMA here".
_PLACEMENT = """
    mbind migrate_pages move_pages set_mempolicy get_mempolicy
    set_mempolicy_home_node
"""


def _list(name: str, *, traces: bool) -> SyscallList:
    return SyscallList(
        name=name,
        rules=(
            *_allow(
                _READ_AND_WRITE,
                _DESCRIPTORS,
                _FILES,
                _MEMORY,
                _PROCESSES,
                _SIGNALS_AND_TIME,
                _IDENTITY,
                _TALK,
                _TIGHTEN,
                *((_TRACING,) if traces else ()),
            ),
            *_refuse(_OTHER_ROOTS, _OTHER_PROCESSES, _KERNEL, _PLACEMENT),
            *(() if traces else _refuse(_TRACING)),
            *_namespaces(),
            *_set_id_bits(),
            *_ioctl(),
            *_sockets(),
            *_about_itself(),
        ),
    )


DESKTOP = _list("desktop", traces=False)
DEBUG = _list("debug", traces=True)
"""And what strace and gdb need to look into programs of the same sandbox."""

LISTS: Mapping[str, SyscallList] = {one.name: one for one in (DESKTOP, DEBUG)}
