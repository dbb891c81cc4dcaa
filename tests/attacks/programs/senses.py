# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Tells everything it can learn from its environment, as Python and as C see it."""

from __future__ import annotations

inside()

import locale  # noqa: E402 - only where it may run
import pathlib  # noqa: E402
import platform as machine  # noqa: E402
import re  # noqa: E402
import site  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

SCAN = re.compile(rb"bait-[0-9a-f]{32}")
own = "bait-" + "f" * 32
own_bytes = own.encode()


def memory():
    """Every string of the bait's form in all that is mapped here."""
    found, size = set(), 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
        for line in maps.read().splitlines():
            area, rights, *_ = line.split()
            if not rights.startswith("r") or "[vvar" in line or "[vsyscall" in line:
                continue
            start, end = (int(word_, 16) for word_ in area.split("-"))
            tail = b""
            for at in range(start, end, 1 << 20):
                try:
                    mem.seek(at)
                    block = mem.read(min(1 << 20, end - at))
                except (OSError, OverflowError, ValueError):
                    continue
                size += len(block)
                found |= {match.decode() for match in SCAN.findall(tail + block)}
                tail = block[-64:]
    return found, size


def glib():
    """What GLib says of the same things, where it is installed."""
    try:
        library = ctypes.CDLL("libglib-2.0.so.0")
    except OSError:
        return None
    for name in "home_dir tmp_dir user_cache_dir host_name user_runtime_dir".split():
        getattr(library, f"g_get_{name}").restype = ctypes.c_char_p
    library.g_time_zone_new_local.restype = ctypes.c_void_p
    library.g_time_zone_get_offset.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.g_time_zone_find_interval.argtypes = (
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int64,
    )
    library.g_getenv.restype = ctypes.c_char_p
    zone = library.g_time_zone_new_local()
    # G_TIME_TYPE_UNIVERSAL
    interval = library.g_time_zone_find_interval(zone, 2, 1_700_000_000)
    return {
        "home": library.g_get_home_dir().decode(),
        "temporary": library.g_get_tmp_dir().decode(),
        "cache": library.g_get_user_cache_dir().decode(),
        "host": library.g_get_host_name().decode(),
        "offset": library.g_time_zone_get_offset(zone, interval),
        "environ": {
            name: (library.g_getenv(name.encode()) or b"").decode() for name in C_NAMES
        },
    }


C_NAMES = sys.argv[1:]
found, size = memory()
LIBC.getenv.restype = ctypes.c_char_p
LIBC.nl_langinfo.restype = ctypes.c_char_p


class Tm(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int)
            for name in "sec min hour mday mon year wday yday dst".split()
        ),
        ("gmtoff", ctypes.c_long),
        ("zone", ctypes.c_char_p),
    )


moment = ctypes.c_long(1_700_000_000)
broken = Tm()
LIBC.localtime_r(ctypes.byref(moment), ctypes.byref(broken))
name_buffer = ctypes.create_string_buffer(256)
LIBC.gethostname(name_buffer, 256)
with open("/proc/self/environ", "rb") as file:
    environ = file.read().decode("utf-8", "surrogateescape")
say(
    {
        "environ": dict(os.environ),
        "proc": dict(
            entry.partition("=")[::2] for entry in environ.split("\0") if entry
        ),
        "c": {name: (LIBC.getenv(name.encode()) or b"").decode() for name in C_NAMES},
        "glib": glib(),
        "path": sys.path,
        "flags": str(sys.flags),
        "site": [site.ENABLE_USER_SITE, site.getuserbase()],
        "time zone": [time.tzname, time.localtime(1_700_000_000).tm_hour],
        "c time zone": [(broken.zone or b"").decode(), broken.hour],
        "encoding": [sys.getfilesystemencoding(), locale.getpreferredencoding()],
        "locale": locale.setlocale(locale.LC_ALL, ""),
        "c codeset": (LIBC.nl_langinfo(14) or b"").decode(),
        "home": os.path.expanduser("~"),
        "temporary": tempfile.gettempdir(),
        "hosts": [
            socket.gethostname(),
            machine.node(),
            os.uname().nodename,
            name_buffer.value.decode(),
            pathlib.Path("/etc/hostname").read_text().strip(),
        ],
        "bait": sorted(found - {own}),
        "seen own": own in found,
        "scanned": size,
    }
)
