# SPDX-License-Identifier: GPL-3.0-or-later
"""Every privileged effect of a launch, in one match, each with why it is safe.

`apply` does one step of a plan with a kernel. It decides nothing, knows no order and
catches nothing that matters: whatever the kernel refuses ends the launch, as a
`StepError` that names the step. The refusals that are let pass (best effort the design
asks for, or an activity that gets less than it might) become notes in the report.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from . import steps
from .errors import StepError
from .kernel import (
    CLONE_NEWUSER,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    Kernel,
    fork,
)

_MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_MS_NOSUID_NOEXEC = 0x2 | 0x8


@dataclass(slots=True, kw_only=True)
class Context:
    """What a walker of the plan has at hand.

    ``descriptors`` maps the plan's names to descriptors; ``keep`` are those that
    survive `CloseDescriptors`; ``stem`` is the stem's pid as init sees it; ``root``
    the new root's mount; ``ruleset`` and ``filter`` are there until they bind;
    ``identity`` is the activity's uid inside, its uid and its gid outside; ``mappings``
    the user namespaces made for id-mapped mounts, by owner and group. ``owed`` are the
    turns of the other's that were not waited for yet.
    """

    kernel: Kernel
    descriptors: dict[str, int]
    keep: frozenset[int]
    stem: int = 0
    root: int = -1
    ruleset: int = -1
    owed: int = 0
    filter: bytes = b""
    identity: tuple[int, int, int] = (-1, -1, -1)
    notes: list[steps.Skipped] = field(default_factory=list)
    mappings: dict[tuple[int, int], int] = field(default_factory=dict)


def apply(step: steps.Step, c: Context) -> None:
    """Do one step; StepError names it and carries the kernel's errno."""
    try:
        _apply(step, c)
    except OSError as e:
        raise StepError(
            f"could not {step.describe()}: {e.strerror or e}",
            step=steps.name_of(step),
            errno=e.errno or 0,
        ) from e


def _apply(step: steps.Step, c: Context) -> None:
    k = c.kernel
    match step:
        case steps.NewSession():
            # Only leaves: init is nobody's process group leader after the fork.
            k.setsid()
        case steps.JoinKeyring():
            k.join_session_keyring()
        case steps.ScheduleNormally():
            k.schedule_normally()
        case steps.JoinCgroup():
            # The paths are the daemon's, made from its own directory and the id, whose
            # grammar has no slash and no dot.
            for directory in step.directories:
                k.mkdir(directory.path, 0o755)
                for name, value in directory.settings:
                    _write_setting(f"{directory.path}/{name}", value, c)
                k.write_file(f"{directory.path}/{directory.members}", b"0")
        case steps.Unshare():
            before = {n: k.namespace(n) for n in step.namespaces}
            k.unshare(_flags(step.namespaces))
            # Everything after this is done to the host if it is still the host's:
            # proved by looking, not by the call's word (openssh proves a drop so).
            _prove_other(before, k)
        case steps.FollowInit():
            for path in step.members:
                k.write_file(path, b"0")
            before = {n: k.namespace(n) for n in step.namespaces}
            k.join_namespaces(_INIT, _flags(step.namespaces))
            # As with those that init has made: what follows is in there, or nowhere.
            _prove_other(before, k)
        case steps.MakePrivate():
            k.make_private()
            if k.shares_mounts():
                raise OSError(errno.EPERM, "a mount is still shared with the host")
        case steps.NewRoot():
            # Mounted in a namespace nobody else is in; the directory below is ours.
            c.root = k.detached_mount(
                "tmpfs",
                {"size": str(step.size), "nr_inodes": "4096", "mode": "0755"},
                MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
            )
            over = os.open(step.over, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                k.move_mount(c.root, over)
            finally:
                os.close(over)
            os.fchdir(c.root)
        case steps.Directory():
            k.mkdir(_inside(step.path), step.mode)
            _give(step.path, step.owner, c)
        case steps.Symlink():
            k.symlink(step.target, _inside(step.path))
        case steps.WriteFile():
            # O_EXCL and O_NOFOLLOW in a tree that only this process has written to.
            k.create_file(_inside(step.path), step.data, step.mode)
            _give(step.path, step.owner, c)
        case steps.MemoryFiles():
            attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
            if not step.executable:
                attributes |= MOUNT_ATTR_NOEXEC
            fd = k.detached_mount(
                "tmpfs",
                {
                    "size": str(step.size),
                    "nr_inodes": str(step.inodes),
                    "mode": f"{step.mode:o}",
                    "uid": str(step.owner),
                    "gid": str(step.owner),
                },
                attributes,
            )
            _attach_at(fd, step.path, c)
            os.close(fd)
        case steps.MountDevices():
            # Without MOUNT_ATTR_NODEV, the only one of ours: all that is ever in it is
            # in the plan, and nobody can write to it once it is sealed.
            fd = k.detached_mount(
                "tmpfs",
                {"size": "65536", "nr_inodes": str(step.inodes), "mode": "0755"},
                MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
            )
            _attach_at(fd, "/dev", c)
            os.close(fd)
        case steps.MakeDevices():
            # The numbers are of nodes that the caller may open.
            for node in step.nodes:
                _make_device(node, step.owner, c)
        case steps.SealDevices():
            _seal(_inside("/dev"), c)
        case steps.Attach():
            _attach(step, c)
        case steps.Pivot():
            k.pivot_root(c.root)
        case steps.LeaveOldRoot():
            # It lies over the new one, which is where we are.
            k.unmount(".")
        case steps.MountProc():
            k.mount("proc", "/proc", "proc", _MS_NOSUID_NODEV_NOEXEC, "")
        case steps.MountTerminals():
            # newinstance: no terminal of the host is in it (devpts in the kernel docs).
            k.mount(
                "devpts",
                "/dev/pts",
                "devpts",
                _MS_NOSUID_NOEXEC,
                "newinstance,ptmxmode=0666,mode=0620",
            )
        case steps.SealRoot():
            _seal("/", c)
        case steps.SetHostname():
            k.sethostname(step.name)
        case steps.LoopbackUp():
            k.loopback_up()
        case steps.Priority():
            k.setpriority(step.nice)
            k.write_file("/proc/self/oom_score_adj", b"%d" % step.oom_score_adj)
        case steps.Stdio():
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                k.dup2(c.descriptors[name], number)
        case steps.ResetSignals():
            k.reset_signals()
        case steps.SetUmask():
            k.umask(step.umask)
        case steps.SetLimits():
            # Lowering needs no power; none is ever above what the daemon has.
            for limit, number in step.limits:
                k.setrlimit(limit, number, number)
        case steps.ClearGroups():
            k.setgroups(())
        case steps.NewUserNamespace():
            k.unshare(CLONE_NEWUSER)
        case steps.MapIdentity():
            # Written by init, which is root outside: the stem has no right to map a
            # uid other than its own (user_namespaces(7)).
            process = f"/proc/{c.stem}"
            k.write_file(f"{process}/setgroups", b"deny")
            k.write_file(
                f"{process}/gid_map", b"%d %d 1\n" % (step.inner_gid, step.gid)
            )
            k.write_file(
                f"{process}/uid_map", b"%d %d 1\n" % (step.inner_uid, step.uid)
            )
            c.identity = (step.inner_uid, step.uid, step.gid)
        case steps.MapOwner():
            _exchanged(step.uid, step.gid, c)
        case steps.NoNestedUserNamespaces():
            try:
                k.write_file("/proc/sys/user/max_user_namespaces", b"0")
            except OSError as e:
                # The filter refuses the calls too; this is the second lock.
                c.notes.append(
                    steps.Skipped(
                        what="user.max_user_namespaces", why=e.strerror or str(e)
                    )
                )
        case steps.BecomeUser():
            k.setresgid(step.gid)
            k.setresuid(step.uid)
        case steps.ShowAs():
            k.set_name(step.name)
            try:
                k.set_argument_area(
                    tuple(os.fsencode(a) for a in step.argv),
                    tuple(os.fsencode(e) for e in step.environ),
                )
            except OSError as e:
                # A kernel without CONFIG_CHECKPOINT_RESTORE: what stays visible is the
                # zygote's command line and padding, which hold nothing.
                c.notes.append(
                    steps.Skipped(
                        what="/proc/self/cmdline and environ", why=e.strerror or str(e)
                    )
                )
        case steps.DropCapabilities():
            k.drop_bounding_set()
            k.lock_securebits()
            k.clear_capabilities()
        case steps.Dumpable():
            k.set_dumpable(dumpable=True)
        case steps.NoNewPrivs():
            k.no_new_privs()
        case steps.LandlockRules():
            c.ruleset = k.landlock_ruleset(step.files, step.net, step.scopes)
            _allow(step.rules, c)
        case steps.Landlock():
            _allow(step.rules, c)
            k.landlock_restrict(c.ruleset)
            os.close(c.ruleset)
        case steps.CloseDescriptors():
            k.close_except(c.keep)
        case steps.Filter():
            c.filter = step.program
        case steps.Seccomp():
            k.seccomp(c.filter)
        case steps.LowerInit():
            # The bounding set while there is CAP_SETPCAP. What it has stays in force.
            k.drop_bounding_set()
            k.lock_securebits()
            k.setgroups(())
            k.no_new_privs()
        case steps.LeavePrivileges():
            # The uid while there is CAP_SETUID. With NO_SETUID_FIXUP locked the change
            # of uid takes nothing away (capabilities(7)): every capability is cleared
            # after it, by name.
            k.setresgid(step.uid)
            k.setresuid(step.uid)
            k.clear_capabilities()
            k.set_dumpable(dumpable=False)
            k.close_except(c.keep)
        case _:
            assert_never(step)


_INIT = 1
"""Init's pid, as the stem sees it."""


def _flags(namespaces: tuple[str, ...]) -> int:
    flags = 0
    for name in namespaces:
        flags |= steps.NAMESPACES[name]
    return flags


def _prove_other(before: Mapping[str, str], k: Kernel) -> None:
    for name, old in before.items():
        if k.namespace(name) == old:
            raise OSError(errno.EPERM, f"the {name} namespace is the same")


def _inside(path: str) -> str:
    """A path of the new root, from the root as working directory (see NewRoot)."""
    return "." + path


def _give(path: str, owner: int, c: Context) -> None:
    """To the activity, which cannot have put a link there yet: it has not begun."""
    if owner:
        c.kernel.chown(_inside(path), owner)


def _make_device(node: steps.DeviceNode, owner: int, c: Context) -> None:
    path = _inside(node.path)
    try:
        c.kernel.mknod(path, node.mode, node.major, node.minor)
    except PermissionError as e:
        # In a container that may make none: the activity has one device less.
        why = f"no node can be made here: {e.strerror or e}"
        c.notes.append(steps.Skipped(what=f"device {node.path}", why=why))
    else:
        _give(node.path, owner, c)


def _seal(path: str, c: Context) -> None:
    """Make the mount at a path of ours read-only, and not what is mounted below."""
    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        c.kernel.mount_setattr(root, set_=MOUNT_ATTR_RDONLY, recursive=False)
    finally:
        os.close(root)


def _allow(rules: tuple[steps.LandlockRule, ...], c: Context) -> None:
    for rule in rules:
        if rule.descriptor:
            c.kernel.landlock_allow(
                c.ruleset, c.descriptors[rule.descriptor], rule.rights
            )
            continue
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
        try:
            c.kernel.landlock_allow(c.ruleset, fd, rule.rights)
        finally:
            os.close(fd)


def _write_setting(path: str, value: str, c: Context) -> None:
    try:
        c.kernel.write_file(path, value.encode())
    except FileNotFoundError:
        # The swap's are missing where swap accounting is off: then there is
        # nothing to limit. Any other limit must exist, or we should not have planned.
        if not path.endswith(steps.SWAP_FILES):
            raise


def _attach_at(fd: int, path: str, c: Context) -> None:
    # From the root's own descriptor, through no link: what is attached last cannot be
    # led elsewhere by what was attached before.
    target = c.kernel.openat2(
        c.root,
        path.lstrip("/"),
        os.O_PATH,
        RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    )
    try:
        c.kernel.move_mount(fd, target)
    finally:
        os.close(target)


def _attach(step: steps.Attach, c: Context) -> None:
    fd = c.descriptors[step.descriptor]
    userns = -1 if step.mapped is None else _mapping(step, step.mapped, c)
    try:
        c.kernel.mount_setattr(
            fd,
            set_=step.attributes,
            recursive=step.kind == "directory",
            userns=userns,
        )
    except OSError as e:
        # EINVAL: this file system cannot be id-mapped (mount_setattr(2)).
        if userns < 0 or e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        if not step.attributes & MOUNT_ATTR_RDONLY:
            # What it wrote would be left to a uid that another gets one day.
            raise OSError(
                e.errno, "its file system cannot be id-mapped, so not for writing"
            ) from e
        what = f"id-mapped mount of {step.path}"
        if step.copy_mode is not None:
            _copy_in(step, c)
            c.notes.append(steps.Skipped(what=what, why="copied in instead"))
            return
        c.notes.append(steps.Skipped(what=what, why=e.strerror or str(e)))
        c.kernel.mount_setattr(
            fd, set_=step.attributes, recursive=step.kind == "directory"
        )
    _attach_at(fd, step.path, c)


def _copy_in(step: steps.Attach, c: Context) -> None:
    """Instead of a mount: the file's bytes, from the descriptor the caller opened."""
    assert step.copy_mode is not None  # noqa: S101 (for the type checker)
    source = c.descriptors[f"{step.descriptor}:read"]
    data = bytearray()
    while block := os.pread(source, 1 << 20, len(data)):
        data += block
        if len(data) > 1 << 20:
            raise OSError(errno.EFBIG, "too large to copy (more than 1 MiB)")
    os.unlink(_inside(step.path))
    c.kernel.create_file(_inside(step.path), bytes(data), step.copy_mode)


def _mapping(step: steps.Attach, owner: int, c: Context) -> int:
    """A user namespace in which the file system's ``owner`` is the activity's uid.

    The stem's own serves for reading when it maps just that. It maps nobody else, and
    what has an owner or a group that is not mapped cannot be written (EACCES); so for
    writing one is made in which all others stay who they are, by a child that lives no
    longer than it takes to open it. It costs a fork, and serves for all of one owner's.
    """
    inner, _, _ = c.identity
    if inner != owner or not step.attributes & MOUNT_ATTR_RDONLY:
        return _exchanged(owner, step.mapped_gid, c)
    if _OWN not in c.mappings:
        path = f"/proc/{c.stem}/ns/user"
        c.mappings[_OWN] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return c.mappings[_OWN]


_OWN = (-1, -1)


def _exchanged(owner: int, group: int, c: Context) -> int:
    """The user namespace in which they are the activity, and everybody else stays."""
    _, uid, gid = c.identity
    if (owner, group) not in c.mappings:
        c.mappings[owner, group] = user_namespace(
            c.kernel, _exchange(owner, uid), _exchange(group, gid)
        )
    return c.mappings[owner, group]


def user_namespace(kernel: Kernel, uid_map: bytes, gid_map: bytes) -> int:
    """A descriptor of a new one with these maps, in which nobody is.

    It takes a child, which ends before this returns.
    """
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    done_read, done_write = os.pipe2(os.O_CLOEXEC)
    child = fork()
    if child == 0:
        try:
            os.close(done_write)
            kernel.unshare(CLONE_NEWUSER)
            os.write(ready_write, b"0")
            os.read(done_read, 1)
        except OSError as e:
            os.write(ready_write, b"%d" % (e.errno or errno.EPERM))
        finally:
            os._exit(0)
    try:
        os.close(ready_write)
        refused = int(os.read(ready_read, 16) or b"%d" % errno.ECHILD)
        if refused:
            why = os.strerror(refused)
            raise OSError(refused, f"no user namespace to map its owner with: {why}")
        kernel.write_file(f"/proc/{child}/setgroups", b"deny")
        kernel.write_file(f"/proc/{child}/gid_map", gid_map)
        kernel.write_file(f"/proc/{child}/uid_map", uid_map)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.close(done_read)
        os.close(done_write)
        os.waitpid(child, 0)


def _exchange(inside: int, outside: int) -> bytes:
    """An id map: ``inside`` becomes ``outside``, every other id stays what it is.

    What the file system says belongs to ``outside`` belongs to nobody.
    """
    low, high = sorted((inside, outside))
    lines = [(inside, outside, 1)]
    for first, end in ((0, low), (low + 1, high), (high + 1, 2**32 - 1)):
        if first < end:
            lines.append((first, first, end - first))
    return b"".join(b"%d %d %d\n" % line for line in lines)
