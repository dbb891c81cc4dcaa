# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the host becomes visible: from descriptors to detached mounts and paths.

Openers (see reopen.py) have opened what a policy names with the caller's rights; the
program and its directory are descriptors of the caller's own. Here root makes mounts
of them, attached nowhere yet, and says where each belongs. No path is resolved but
the five devices' that everybody has; of what a policy grants beyond them only the
numbers are taken, for nodes of the activity's own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from . import devices, kernel, plan, reopen, steps
from .errors import ProgramNotExecutable, ProgramNotFound, RequestError, StepError
from .policy.model import IN_HOME, Policy
from .request import Caller


def wants(policy: Policy, home: str) -> tuple[reopen.Want, ...]:
    """The host paths to open for a policy; ``home`` empty: none in a home."""

    def there(paths: tuple[str, ...]) -> Iterator[str]:
        for path in paths:
            if not path.startswith(IN_HOME):
                yield path
            elif home:
                yield f"{home}/{path.removeprefix(IN_HOME)}"

    # The host's network is of little use without the names its resolver knows.
    resolver = ("/etc/resolv.conf",) if policy.network == "host" else ()
    return (
        *(reopen.Want(path=p, writable=False) for p in there(policy.view.read)),
        *(reopen.Want(path=p, writable=False) for p in resolver),
        *(reopen.Want(path=p, writable=True) for p in there(policy.view.write)),
        *(
            reopen.Want(path=n.pattern, writable=n.writable, device=True)
            for n in devices.wanted(policy.devices)
        ),
    )


class Mounts:
    """Detached mounts by the plan's names for them, until they have been sent."""

    def __init__(self, linux: kernel.Kernel) -> None:
        self._linux = linux
        self.fds: dict[str, int] = {}

    def clone(self, name: str, fd: int, *, recursive: bool, shown: str) -> None:
        """Make one of what ``fd`` is, as it is mounted here."""
        try:
            self.fds[name] = self._linux.open_tree(fd, recursive=recursive)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise StepError(
                    f"{shown}: {e.strerror}", step="open-tree", errno=e.errno or 0
                ) from e
            raise RequestError(
                f"{shown} lies in another mount namespace, or cannot be mounted",
                code="foreign-mount",
                hint="name a file that this machine's root sees under the same name",
            ) from e

    def look(self, root: int, path: str) -> tuple[int, int]:
        """Device and inode of ``path`` below ``root``, through no link; or (-1, -1)."""
        resolve = (
            kernel.RESOLVE_IN_ROOT
            | kernel.RESOLVE_NO_SYMLINKS
            | kernel.RESOLVE_NO_MAGICLINKS
        )
        with suppress(OSError):  # a link, or nothing: no file that was sent
            fd = self._linux.openat2(root, path, os.O_PATH, resolve)
            try:
                status = os.fstat(fd)
                return status.st_dev, status.st_ino
            finally:
                os.close(fd)
        return -1, -1

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


def show(
    mounts: Mounts,
    opened: tuple[reopen.Opened, ...],
    caller: Caller,
    *,
    refuse_read: Callable[[str], str | None],
    refuse_write: Callable[[str], str | None],
    allowed: tuple[str, ...],
) -> tuple[plan.View, list[steps.Skipped]]:
    """The view a policy's paths make, the devices included; what is not there.

    A path of the policy's may be a link to one that no policy may name.
    ``allowed`` are the kinds of devices that the policy names.
    """
    trees: list[plan.Tree] = []
    links: list[plan.Link] = []
    skipped: list[steps.Skipped] = []
    for entry in sorted(opened, key=lambda o: o.path):
        if any(devices.of_kind(kind, entry.path) for kind in allowed):
            continue  # below
        if entry.kind == "link":
            links.append(plan.Link(path=entry.path, target=entry.target))
        elif entry.kind == "absent":
            skipped.append(steps.Skipped(what=f"files {entry.path}", why=entry.why))
        else:
            if entry.writable and (why := refuse_write(entry.path)):
                raise RequestError(
                    f"files.write: {entry.path}: {why}", code="write-refused"
                )
            if why := refuse_read(entry.path):
                skipped.append(steps.Skipped(what=f"files {entry.path}", why=why))
                continue
            if _covered(entry, trees):
                continue
            name = f"tree:{len(trees)}"
            directory = entry.kind == "directory"
            mounts.clone(name, entry.fd, recursive=directory, shown=entry.path)
            trees.append(
                plan.Tree(
                    path=entry.path,
                    descriptor=name,
                    kind="directory" if directory else "file",
                    writable=entry.writable,
                    owned_by=_owner(entry, caller),
                    group=caller.gid,
                )
            )
    nodes, lacking = _granted(opened, allowed)
    view = plan.View(trees=tuple(trees), links=tuple(links), devices=nodes)
    return view, [*skipped, *lacking]


def _granted(
    opened: tuple[reopen.Opened, ...], allowed: tuple[str, ...]
) -> tuple[tuple[steps.DeviceNode, ...], list[steps.Skipped]]:
    """The nodes of the kinds that the policy names, and what there is not."""
    nodes: dict[str, steps.DeviceNode] = {}
    skipped: list[steps.Skipped] = []
    found = (
        devices.Found(
            path=entry.path,
            device=_number(entry.fd) if entry.fd >= 0 else 0,
            why=entry.why,
        )
        for entry in opened
    )
    for given in devices.given(allowed, found):
        for path, (kind, number) in given.nodes.items():
            nodes[path] = plan.device_node(path, kind, number)
        if given.why:
            what = "some devices" if given.nodes else "devices"
            skipped.append(steps.Skipped(what=f"{what} {given.kind}", why=given.why))
    return tuple(nodes[path] for path in sorted(nodes)), skipped


def _covered(entry: reopen.Opened, trees: list[plan.Tree]) -> bool:
    """Already shown, with the same access, by a tree above."""
    above = [
        t
        for t in trees
        if t.kind == "directory" and entry.path.startswith(t.path.rstrip("/") + "/")
    ]
    return bool(above) and above[-1].writable == entry.writable and not entry.writable


def _owner(entry: reopen.Opened, caller: Caller) -> int | None:
    """Whose files become the activity's own: the caller's, where it needs them so.

    Wherever it may write, whoever owns the directory: what it makes must not be left
    to its own uid, which another activity gets one day.
    """
    private = entry.owner == caller.uid and not entry.public
    return caller.uid if entry.writable or private else None


def _number(fd: int) -> int:
    """A character device's (st_rdev), whatever was told of it; 0: it is none."""
    status = os.fstat(fd)
    return status.st_rdev if stat.S_ISCHR(status.st_mode) else 0


def show_devices(mounts: Mounts) -> None:
    """Those that every sandbox has."""
    for name in plan.DEVICES:
        _device(name, mounts)


def _device(name: str, mounts: Mounts) -> None:
    fd = os.open(f"/dev/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        number = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISCHR(status.st_mode) or number != plan.DEVICES[name]:
            # CVE-2025-31133: a file in the place of a device would be mounted.
            raise StepError(
                f"/dev/{name} is not the device {plan.DEVICES[name]}",
                step="devices",
                code="device-replaced",
            )
        mounts.clone(f"device:{name}", fd, recursive=False, shown=f"/dev/{name}")
    finally:
        os.close(fd)


# ----------------------------------------------------------------------- the program


def show_program(
    mounts: Mounts,
    program: reopen.Program,
    fd: int,
    view: plan.View,
    root: int,
    caller: Caller,
) -> plan.Tree | None:
    """How the program's own file is shown; None where the view has it already.

    ``fd`` is the caller's descriptor of it, ``root`` one of the room's root.
    """
    path = program_path(fd)
    _check_program(program, path)
    if path in plan.MADE_FILES:
        raise ProgramNotExecutable(
            f"{path}: the sandbox has a file of its own there",
            code="program-not-a-file",
        )
    if plan.below(path, view.trees):
        # Named by its path inside: it must be that very file there.
        refuse_other(mounts, path, fd, root)
        return None
    mounts.clone("program", fd, recursive=False, shown=path)
    return plan.Tree(
        path=path,
        descriptor="program",
        kind="file",
        writable=False,
        # Its owner's rights include reading: only to one who may.
        owned_by=None if program.public or not program.readable else program.owner,
        group=caller.gid,
        copy_mode=_copy_mode(program),
    )


def _check_program(program: reopen.Program, shown: str) -> None:
    """ProgramNotExecutable unless the caller may read or execute it."""
    if not (program.readable or program.executable):
        raise ProgramNotExecutable(
            f"{shown}: you may neither read nor execute it",
            code="program-not-yours",
            hint="a Python script needs read, any other program execute permission",
        )


def _copy_mode(program: reopen.Program) -> int | None:
    """How a copy would be made in place of a mount; None: nothing to copy from."""
    if program.fd < 0:
        return None
    return 0o555 if program.executable else 0o444


def refuse_other(mounts: Mounts, path: str, fd: int, root: int) -> None:
    """RequestError unless ``path`` in the room is the file of ``fd``.

    The kernel tells the path as it is in the mount namespace of the file: another
    file may have that name here, or be mounted over it.
    """
    found = mounts.look(root, path)
    sent = os.fstat(fd)
    if found != (sent.st_dev, sent.st_ino):
        raise RequestError(
            f"{path} is another file here than the one that was sent",
            code="foreign-mount",
            hint="name a file that this machine's root sees under the same name",
        )


def program_path(fd: int) -> str:
    """Where the kernel says the caller's descriptor lies."""
    path = "the program"
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        status = os.fstat(fd)
    except OSError as e:
        # Deeper than PATH_MAX, or in a file system that shows itself to its owner.
        raise ProgramNotExecutable(
            f"{path}: root cannot look at it: {e.strerror}",
            code="program-not-reachable",
            hint="copy it to another place",
        ) from e
    if status.st_nlink == 0 or not path.startswith("/"):
        raise ProgramNotFound(
            f"{path}: the program has no name any more", code="program-deleted"
        )
    for hidden in ("/proc/", "/sys/"):
        if path.startswith(hidden):
            raise ProgramNotExecutable(
                f"{path}: not a program", code="program-not-a-file"
            )
    return path


def cwd(fds: Mapping[str, int]) -> str:
    if "cwd" not in fds:
        return "/"
    try:
        mode = os.fstat(fds["cwd"]).st_mode
        path = os.readlink(f"/proc/self/fd/{fds['cwd']}")
    except OSError:
        return "/"  # as where it is not in the view: see `_program_path`
    if not stat.S_ISDIR(mode):
        raise RequestError("cwd is not a directory", code="request-bad-cwd")
    return path if path.startswith("/") else "/"
