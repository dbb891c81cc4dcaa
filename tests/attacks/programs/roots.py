# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Tries every call that changes what a path means, or reaches past the view."""

from __future__ import annotations

inside()

buffer = ctypes.create_string_buffer(4096)
here = os.open("/", os.O_PATH | os.O_DIRECTORY)
handle = (ctypes.c_uint32 * 40)(128, 0x81)
attributes = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
how = (ctypes.c_uint64 * 3)(0, 0, 0)
request = (ctypes.c_uint64 * 4)(32, 0, 0xFFFFFFFFFFFFFFFF, 0)
answers = {}
for kind in "tmpfs proc sysfs devpts cgroup cgroup2 overlay bpf debugfs ext4".split():
    answers[f"mount {kind}"] = call("mount", "none", "/tmp", kind, 0, 0)
    answers[f"fsopen {kind}"] = call("fsopen", kind, 0)
os.mkdir("/tmp/place")
answers |= {
    "chroot": apart("chroot", "/tmp/place"),
    "pivot_root": call("pivot_root", "/tmp/place", "/tmp/place"),
    "bind": call("mount", "/usr", "/tmp/place", 0, 0x1000, 0),
    "remount rw": call("mount", "none", "/usr", 0, 0x1020, 0),
    "remount suid": call("mount", "none", "/", 0, 0x20, 0),
    "make shared": call("mount", "none", "/", 0, 0x104000, 0),
    "move": call("mount", "/tmp", "/usr", 0, 0x2000, 0),
    "umount /usr": call("umount2", "/usr", 2),
    "umount /tmp": call("umount2", "/tmp", 0),
    "umount expire": call("umount2", "/tmp", 4),
    "open_tree": call("open_tree", AT_FDCWD, "/usr", 0),
    "open_tree clone": call("open_tree", AT_FDCWD, "/usr", 1),
    "open_tree_attr": call("open_tree_attr", AT_FDCWD, "/usr", 1, attributes, 32),
    "move_mount": call("move_mount", here, "", AT_FDCWD, "/tmp", 4),
    "fspick": call("fspick", AT_FDCWD, "/usr", 0),
    "fsconfig": call("fsconfig", here, 6, 0, 0, 0),
    "fsmount": call("fsmount", here, 0, 0),
    "mount_setattr": call("mount_setattr", AT_FDCWD, "/usr", 0, attributes, 32),
    "mount_setattr all": call("mount_setattr", -1, "/", 0x8000, attributes, 32),
    "statmount": call("statmount", request, buffer, 4096, 0),
    "listmount": call("listmount", request, buffer, 16, 0),
    "name_to_handle_at": call("name_to_handle_at", here, "", handle, buffer, 0x1000),
    "open_by_handle_at": call("open_by_handle_at", here, handle, 0),
    "open_by_handle_at pidfs": call("open_by_handle_at", -10002, handle, 0),
    "openat2": call("openat2", AT_FDCWD, "/usr", how, 24),
    "fanotify": call("fanotify_init", 0, 0),
    "fanotify fid": call("fanotify_init", 0x200, 0),
    "quotactl": call("quotactl", 0x800002, "/dev/vda", 0, buffer),
    "quotactl_fd": call("quotactl_fd", here, 0x800002, 0, buffer),
    "swapon": call("swapon", "/tmp/place", 0),
    "swapoff": call("swapoff", "/tmp/place"),
    "acct": call("acct", "/tmp/place"),
    "acct off": call("acct", 0),
    "nfsservctl": call("nfsservctl", 0, 0, 0),
    "uselib": call("uselib", "/usr/bin/python3"),
    "unshare mount": apart("unshare", 0x20000),
    "mknod disk": tried(os.mknod, "/tmp/disk", 0o060666, os.makedev(254, 0)),
    "mknod memory": tried(os.mknod, "/tmp/mem", 0o020666, os.makedev(1, 1)),
    "mknod tty": tried(os.mknod, "/tmp/tty", 0o020666, os.makedev(5, 0)),
    "mknod null": tried(os.mknod, "/tmp/null", 0o020666, os.makedev(1, 3)),
    "mknod whiteout": tried(os.mknod, "/tmp/white", 0o020666, 0),
    "mknodat high": call("mknodat", AT_FDCWD, "/tmp/h", 1 << 32 | 0o020666, 0x101),
}
for name, kind in (("mnt", 0x20000), ("net", 0x40000000), ("pid", 0x20000000)):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    answers[f"setns {name}"] = call("setns", fd, kind)
say(answers)
