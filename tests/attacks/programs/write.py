# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Looks for something to write: tries every file and directory it can see."""

from __future__ import annotations

inside()

GIVEN = ("/tmp", "/dev/shm", "/var/tmp", "/proc")


def everything():
    """Paths, each with whether it is a directory; nothing that is its own."""
    tops = ["/proc/1"]
    for name in os.listdir("/proc"):
        if not name.isdigit() and name not in ("self", "thread-self", "mounts", "net"):
            if os.path.isdir(f"/proc/{name}"):
                tops.append(f"/proc/{name}")
            else:
                yield f"/proc/{name}", False
    for top in ("/", *tops):
        for place, directories, files in os.walk(top):
            yield place, True
            directories[:] = [
                name
                for name in directories
                if os.path.join(place, name) not in GIVEN
                and not os.path.islink(os.path.join(place, name))
            ]
            if place.startswith("/usr/") and place.count("/") > 3:
                # One mount, read-only: deeper down it is the same.
                directories.clear()
            for name in files:
                yield os.path.join(place, name), False


found, count = [], 0
for path, directory in everything():
    count += 1
    if directory:
        # What decides is the attempt, not the mode.
        if tried(os.mkdir, os.path.join(path, "isolauncher-was-here")) == "ok":
            found.append(path)
    elif not os.path.islink(path):
        # Some of /proc opens for everybody and refuses at the write.
        answer = written(path, b"0\n")
        if answer.removeprefix("write ") not in ("EPERM", "EACCES", "EROFS", "ENOENT"):
            found.append(path)

answers = {}
program = os.path.abspath(__file__)
for path in (program, "/etc/passwd", "/etc/hosts", "/usr/bin/python3", "/usr"):
    answers |= {
        f"truncate {path}": tried(os.truncate, path, 0),
        f"unlink {path}": tried(os.unlink, path),
        f"rmdir {path}": tried(os.rmdir, path),
        f"rename {path}": tried(os.rename, path, path + "~"),
        f"chmod {path}": tried(os.chmod, path, 0o777),
        f"chown {path}": tried(os.chown, path, os.getuid(), os.getgid()),
        f"utime {path}": tried(os.utime, path, (0, 0)),
        f"setxattr {path}": tried(os.setxattr, path, "user.x", b"x"),
        f"link {path}": tried(os.link, path, "/tmp/link"),
    }
    fd = os.open(path, os.O_RDONLY)
    # FS_IOC_SETFLAGS, immutable.
    value = ctypes.create_string_buffer(bytes(ctypes.c_long(0x10)))
    answers[f"immutable {path}"] = call("ioctl", fd, 0x40086602, value)
    answers[f"fchmod {path}"] = call("fchmod", fd, 0o777)
    answers[f"reopen {path}"] = opened(f"/proc/self/fd/{fd}", os.O_WRONLY)
for name in ("null", "zero", "full", "random", "urandom"):
    path = f"/dev/{name}"
    answers |= {
        f"unlink {path}": tried(os.unlink, path),
        f"chmod {path}": tried(os.chmod, path, 0o600),
        f"chown {path}": tried(os.chown, path, os.getuid(), os.getgid()),
        f"rename {path}": tried(os.rename, path, "/tmp/device"),
    }
for path in ("/proc/self/exe", "/proc/self/map_files"):
    answers[f"write {path}"] = opened(path, os.O_WRONLY)
# The top is not left by "..", nor by the working directory it was given.
up = os.path.join("/", *[".."] * 40)
answers["beyond the top"] = "EPERM" if os.path.samefile(up, "/") else "ok"
answers["beyond the cwd"] = "EPERM" if os.getcwd().startswith("/") else "ok"
say({"found": sorted(found), "count": count, "refused": answers})
