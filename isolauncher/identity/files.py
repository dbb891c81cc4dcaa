# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and directories by descriptor, of whose last part no link is followed."""

from __future__ import annotations

import os
from pathlib import Path


def open_dir(path: str | Path, directory: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, dir_fd=directory)


def write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def replace(name: str, content: bytes, directory: int) -> None:
    """Whole or not at all; the same for everybody to read."""
    new = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(new, flags, 0o644, dir_fd=directory)
    try:
        os.fchmod(fd, 0o644)
        write_all(fd, content)
    finally:
        os.close(fd)
    os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)


def remove_tree(name: str, directory: int) -> None:
    """A file, or a directory of files; never follows a link."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        fd = open_dir(name, directory)
        try:
            for inside in os.listdir(fd):
                remove_tree(inside, fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=directory)
