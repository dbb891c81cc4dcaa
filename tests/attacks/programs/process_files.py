# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Goes through /proc for other processes and for what belongs to the host."""

from __future__ import annotations

inside()

pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
private = {}
for name in (
    "root cwd exe environ mem maps smaps numa_maps auxv fd fdinfo ns/mnt ns/user "
    "ns/net ns/pid ns/ipc ns/uts ns/cgroup io personality stack syscall pagemap "
    "map_files timers clear_refs"
).split():
    path = f"/proc/1/{name}"
    if not os.path.lexists(path):
        continue
    if name in ("fd", "fdinfo", "map_files"):
        private[path] = tried(os.listdir, path)
    elif name == "clear_refs":
        private[path] = written(path, b"1")
    else:
        private[path] = opened(path)
for name in ("fd/0", "fd/3", "root/etc/passwd", "cwd/etc/passwd", "map_files/0-1"):
    private[f"/proc/1/{name}"] = opened(f"/proc/1/{name}")
host = {path: opened(path) for path in sys.argv[1:]}
say({"pids": pids, "own": os.getpid(), "private": private, "host": host})
