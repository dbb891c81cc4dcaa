# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Tries to leave a set-user-id or set-group-id file in the directory it is given.

By every call that takes a mode or moves a file, and by attributes that mean the same.
"""

from __future__ import annotations

inside()

place = sys.argv[1]
os.chdir(place)
os.umask(0)
with open("plain", "w") as file:
    file.write("#!/bin/sh\nid\n")
plain = os.open("plain", os.O_RDWR)
directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
path_only = os.open("plain", os.O_PATH)
os.symlink("plain", "link")
HIGH = 0xDEAD << 32
UP = os.O_CREAT | os.O_RDWR
TMPFILE = os.O_TMPFILE
BARE = TMPFILE & ~os.O_DIRECTORY
answers = {}
for bits in (0o4755, 0o2755, 0o6755, 0o7777, 0o4000, 0o2000, 0o6001):
    how = (ctypes.c_uint64 * 3)(UP, bits, 0)
    there = (ctypes.c_uint64 * 3)(TMPFILE | os.O_RDWR, bits, 0)
    o = f"{bits:o}"
    answers |= {
        f"chmod {o}": call("chmod", "plain", bits),
        f"chmod high {o}": call("chmod", "plain", HIGH | bits),
        f"chmod by link {o}": call("chmod", "link", bits),
        f"fchmod {o}": call("fchmod", plain, bits),
        f"fchmod high {o}": call("fchmod", plain, HIGH | bits),
        f"fchmodat {o}": call("fchmodat", AT_FDCWD, "plain", bits),
        f"fchmodat fd {o}": call("fchmodat", directory, "plain", HIGH | bits),
        f"fchmodat proc {o}": call("fchmodat", 0, f"/proc/self/fd/{plain}", bits),
        f"fchmodat2 {o}": call("fchmodat2", AT_FDCWD, "plain", bits, 0),
        f"fchmodat2 nofollow {o}": call("fchmodat2", AT_FDCWD, "plain", bits, 0x100),
        f"fchmodat2 empty {o}": call("fchmodat2", path_only, "", bits, 0x1000),
        f"open {o}": call("open", f"a{o}", UP, bits),
        f"open high {o}": call("open", f"b{o}", HIGH | UP, HIGH | bits),
        f"open excl {o}": call("open", f"c{o}", UP | os.O_EXCL, bits),
        f"openat {o}": call("openat", AT_FDCWD, f"d{o}", UP, bits),
        f"openat fd {o}": call("openat", directory, f"e{o}", HIGH | UP, bits),
        f"tmpfile {o}": call("openat", AT_FDCWD, ".", TMPFILE | os.O_RDWR, bits),
        f"tmpfile open {o}": call("open", ".", TMPFILE | os.O_RDWR, bits),
        f"tmpfile creat {o}": call("open", ".", TMPFILE | UP, bits),
        f"tmpfile bare {o}": call("openat", AT_FDCWD, ".", BARE | os.O_RDWR, bits),
        f"creat {o}": call("creat", f"f{o}", bits),
        f"creat high {o}": call("creat", f"g{o}", HIGH | bits),
        f"openat2 {o}": call("openat2", AT_FDCWD, f"h{o}", how, 24),
        f"openat2 tmpfile {o}": call("openat2", AT_FDCWD, ".", there, 24),
        f"mkdir {o}": call("mkdir", f"i{o}", bits),
        f"mkdirat {o}": call("mkdirat", directory, f"j{o}", HIGH | bits),
        f"mknod {o}": call("mknod", f"k{o}", 0o100000 | bits, 0),
        f"mknod no kind {o}": call("mknod", f"l{o}", bits, 0),
        f"mknodat {o}": call("mknodat", AT_FDCWD, f"m{o}", 0o100000 | bits, 0),
        f"mknodat fifo {o}": call("mknodat", directory, f"n{o}", 0o010000 | bits, 0),
        f"mknodat sock {o}": call("mknodat", directory, f"o{o}", 0o140000 | bits, 0),
    }
answers["io_uring"] = call("io_uring_setup", 1, ctypes.create_string_buffer(120))

# Attributes that give as much as the bits.
mask = bytes((ctypes.c_uint32 * 5)(0x02000001, 1 << 7 | 1 << 21, 0, 0, 0))
rooted = bytes((ctypes.c_uint32 * 6)(0x03000001, 1 << 7, 0, 0, 0, 0))
attributes = {}
for name, key, value in (
    ("capability", "security.capability", mask),
    ("capability for a root", "security.capability", rooted),
    ("ima", "security.ima", b"\x01"),
    ("another", "security.x", b"x"),
    ("trusted", "trusted.x", b"x"),
):
    attributes |= {
        f"setxattr {name}": tried(os.setxattr, "plain", key, value),
        f"fsetxattr {name}": tried(os.setxattr, plain, key, value),
        f"lsetxattr {name}": tried(
            os.setxattr, "plain", key, value, follow_symlinks=False
        ),
    }
    pointed = (ctypes.c_uint32 * 4)()
    ctypes.cast(pointed, ctypes.POINTER(ctypes.c_uint64))[0] = word(value).value
    pointed[2] = len(value)
    attributes[f"setxattrat {name}"] = call(
        "setxattrat", AT_FDCWD, "plain", 0, key, pointed, 16
    )
for name, owner in (("root", 0), ("other", 1000), ("outer", 70001)):
    if owner != os.getuid():
        attributes[f"chown {name}"] = tried(os.chown, "plain", owner, -1)
        attributes[f"chgrp {name}"] = tried(os.chown, "plain", -1, owner)
# FS_IOC_FSSETXATTR with a project (another account's quota), FS_IOC_SETFLAGS.
project = (ctypes.c_uint32 * 7)(0, 0, 0, 4711, 0, 0, 0)
written("/proc/self/projid_map", b"0 0 4294967295\n")
attributes["project"] = call("ioctl", plain, 0x401C5820, project)
for name, flag in (("immutable", 0x10), ("append only", 0x20)):
    value = ctypes.create_string_buffer(bytes(ctypes.c_long(flag)))
    attributes[name] = call("ioctl", plain, 0x40086602, value)
attributes["link from /usr"] = tried(os.link, "/usr/bin/su", "su")
attributes["rename from /usr"] = tried(os.rename, "/usr/bin/su", "su")

# What a program does every day works, and by no roundabout way comes to a bit.
fine = {
    "write": tried(os.write, plain, b"x"),
    "chmod": tried(os.chmod, "plain", 0o750),
    "sticky": tried(os.chmod, "plain", 0o1750),
    "mkdir": tried(os.mkdir, "directory", 0o755),
    "fifo": tried(os.mkfifo, "fifo", 0o600),
    "user attribute": tried(os.setxattr, "plain", "user.x", b"x"),
    "chown to itself": tried(os.chown, "plain", os.getuid(), os.getgid()),
}
# An access list for itself: struct posix_acl_xattr_header and its entries.
everyone = 0xFFFFFFFF
entries = (
    (1, 7, everyone), (2, 7, os.getuid()), (4, 5, everyone),
    (0x10, 7, everyone), (0x20, 5, everyone),
)  # fmt: skip
acl = (2).to_bytes(4, "little") + b"".join(
    tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, perm, who in entries
)
listed = tried(os.setxattr, "plain", "system.posix_acl_access", acl)
unnamed = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o755)
fine["linkat"] = tried(
    os.link, f"/proc/self/fd/{unnamed}", "linked", src_dir_fd=directory
)
fine["rename"] = tried(os.rename, "linked", "renamed")
LIBC.renameat2(AT_FDCWD, b"renamed", AT_FDCWD, b"plain", 2)  # exchange
LIBC.renameat2(AT_FDCWD, b"renamed", AT_FDCWD, b"moved", 4)  # whiteout
with open("made", "w") as file:
    file.write("made")
os.system("cp plain copied; cp -a plain copied-all; install -m 755 plain installed")

found = {}
for root, directories, files in os.walk(place):
    for name in (*directories, *files):
        path = os.path.join(root, name)
        seen = os.lstat(path)
        owner = (seen.st_uid, seen.st_gid)
        if seen.st_mode & 0o6000 or owner != (os.getuid(), os.getgid()):
            found[path] = f"{seen.st_mode:o} {owner}"
say(
    {
        "bits": answers,
        "attributes": attributes,
        "fine": fine,
        "list": listed,
        "found": found,
    }
)
