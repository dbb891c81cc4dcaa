# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad policy files, each with the exact error of every mistake in it.

Here stands what is wrong, at which place, of which key and with which code; what a
person reads stands in errors.txt, word for word. At the end come files that are bad by
what they are and by who may write them, and good ones that a caller or a machine cannot
have: rows 16 to 20 of the list of attacks.

Each text stands below a first line ``version = 1`` unless its name begins with
``bare``; so what is written first here is in line 2.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from support.powers import need, root

from isolauncher import plan
from isolauncher.apply import Context, apply
from isolauncher.errors import IsolauncherError, Mistake
from isolauncher.kernel import Recorder
from isolauncher.policy import choose, trust
from isolauncher.request import Caller

from .conftest import Shelf, shelf_in

Wanted = tuple[int, int, str, str]  # line, column, key, code

BAD: dict[str, tuple[str, list[Wanted]]] = {
    # The file itself
    "bare: empty": ("", [(1, 1, "version", "policy-version")]),
    "bare: no version": (
        "[limits]\nprocesses = 3\n",
        [(1, 1, "version", "policy-version")],
    ),
    "bare: version 2": ("version = 2\n", [(1, 11, "version", "policy-version")]),
    "bare: later version with keys we cannot know": (
        "version = 2\n[new]\nkey = 1\n",
        [(1, 11, "version", "policy-version")],
    ),
    "bare: version as text": (
        'version = "1"\n',
        [(1, 11, "version", "policy-version")],
    ),
    "bare: version true is not 1": (
        "version = true\n",
        [(1, 11, "version", "policy-version")],
    ),
    "bare: version 1.0 is not 1": (
        "version = 1.0\n",
        [(1, 11, "version", "policy-version")],
    ),
    "bare: not utf-8": (
        "version = 1\n# caf\udce9\n",
        [(2, 6, "", "policy-not-utf8")],
    ),
    "bare: byte order mark": (
        "\ufeffversion = 1\n",
        [(1, 1, "", "policy-not-toml")],
    ),
    "NUL in a comment": ("# a\0b\n", [(2, 4, "", "policy-not-toml")]),
    "prose": ("limits are good\n", [(2, 1, "", "policy-not-toml")]),
    "INI style": ("[limits]\nprocesses: 3\n", [(3, 1, "", "policy-not-toml")]),
    "no value": ("[limits]\nprocesses =\n", [(3, 12, "", "policy-not-toml")]),
    "word without quotes": (
        "[network]\naccess = none\n",
        [(3, 10, "", "policy-not-toml")],
    ),
    "size without quotes": ("[files]\ntmp = 64M\n", [(3, 7, "", "policy-not-toml")]),
    "text not closed": (
        '[network]\naccess = "none\n',
        [(3, 10, "", "policy-not-toml")],
    ),
    "list not closed": (
        '[files]\nread = ["/usr",\n\n[limits]\nprocesses = 3\n',
        [(3, 8, "", "policy-not-toml")],
    ),
    "table's name not closed": (
        "[limits\nprocesses = 3\n",
        [(2, 1, "", "policy-not-toml")],
    ),
    "two statements in a line": (
        "[limits]\nprocesses = 3 nice = 2\n",
        [(3, 15, "", "policy-not-toml")],
    ),
    "bad escape": (
        'description = "a\\qb"\n',
        [(2, 15, "", "policy-not-toml")],
    ),
    "carriage return alone": (
        "[limits]\rprocesses = 3\n",
        [(2, 9, "", "policy-not-toml")],
    ),
    "hex beyond all bounds": (
        "[limits]\nprocesses = 0x" + "f" * 9000 + "\n",
        [(3, 13, "limits.processes", "policy-out-of-range")],
    ),
    "decimal beyond what Python reads": (
        "[limits]\nprocesses = " + "9" * 9000 + "\n",
        [(3, 13, "", "policy-not-toml")],
    ),
    "nested too deep": (
        "[files]\nread = " + "[" * 500 + "]" * 500 + "\n",
        [(3, 17, "", "policy-not-toml")],
    ),
    "key of too many parts": (
        "a.b.c.d.e.f.g.h = 1\n",
        [(2, 13, "", "policy-not-toml")],
    ),
    # Said twice
    "duplicate key": (
        "[limits]\nprocesses = 3\nnice = 1\nprocesses = 4\n",
        [(5, 1, "limits.processes", "policy-duplicate-key")],
    ),
    "duplicate table": (
        "[limits]\nprocesses = 3\n[limits]\nnice = 4\n",
        [(4, 2, "limits", "policy-duplicate-key")],
    ),
    "duplicate by dots": (
        "limits.nice = 3\n[limits]\nnice = 4\n",
        [(3, 2, "limits", "policy-duplicate-key")],
    ),
    "duplicate within braces": (
        '[environment]\nset = { A = "1", A = "2" }\n',
        [(3, 18, "environment.A", "policy-duplicate-key")],
    ),
    # Unknown
    "misspelt key": (
        "[limits]\nproceses = 3\n",
        [(3, 1, "limits.proceses", "policy-unknown-key")],
    ),
    "misspelt table": (
        "[limit]\nprocesses = 3\n",
        [(2, 2, "limit", "policy-unknown-key")],
    ),
    "key of another table": (
        "[files]\nmemory = 3\n",
        [(3, 1, "files.memory", "policy-unknown-key")],
    ),
    "key without its table": ("memory = 3\n", [(2, 1, "memory", "policy-unknown-key")]),
    "underscore for dash": (
        "[limits]\nopen_files = 30\n",
        [(3, 1, "limits.open_files", "policy-unknown-key")],
    ),
    "capital": (
        "[Limits]\nopen-files = 30\n",
        [(2, 2, "Limits", "policy-unknown-key")],
    ),
    "another tool's word": (
        "NoNewPrivleges = true\n",
        [(2, 1, "NoNewPrivleges", "policy-unknown-key")],
    ),
    "unknown table inside a table": (
        "[limits.hard]\nprocesses = 3\n",
        [(2, 9, "limits.hard", "policy-unknown-key")],
    ),
    # Types
    "table given a number": ("limits = 3\n", [(2, 10, "limits", "policy-wrong-type")]),
    "table given as a list": (
        "[[limits]]\nnice = 3\n",
        [(2, 3, "limits", "policy-wrong-type")],
    ),
    "list given a text": (
        '[files]\nread = "/usr"\n',
        [(3, 8, "files.read", "policy-wrong-type")],
    ),
    "list with a number in it": (
        '[files]\nread = [\n  "/usr",\n  3,\n]\n',
        [(5, 3, "files.read", "policy-wrong-type")],
    ),
    "text given a number": (
        "description = 3\n",
        [(2, 15, "description", "policy-wrong-type")],
    ),
    "choice given a flag": (
        "[network]\naccess = false\n",
        [(3, 10, "network.access", "policy-wrong-type")],
    ),
    "flag given a text": (
        '[bus]\naccessibility = "false"\n',
        [(3, 17, "bus.accessibility", "policy-wrong-type")],
    ),
    "count given a flag": (
        "[limits]\nprocesses = true\n",
        [(3, 13, "limits.processes", "policy-not-a-number")],
    ),
    "count given a word": (
        '[limits]\nprocesses = "many"\n',
        [(3, 13, "limits.processes", "policy-not-a-number")],
    ),
    "count given digits in quotes": (
        '[limits]\nprocesses = "3"\n',
        [(3, 13, "limits.processes", "policy-not-a-number")],
    ),
    "count given a fraction": (
        "[limits]\nprocesses = 3.0\n",
        [(3, 13, "limits.processes", "policy-not-a-number")],
    ),
    "count given NaN": (
        "[limits]\nprocesses = nan\n",
        [(3, 13, "limits.processes", "policy-not-a-number")],
    ),
    "size given infinity": (
        "[limits]\nmemory = inf\n",
        [(3, 10, "limits.memory", "policy-not-a-number")],
    ),
    "size given a date": (
        "[limits]\nmemory = 2024-01-01\n",
        [(3, 10, "limits.memory", "policy-wrong-type")],
    ),
    "description over several lines": (
        'description = """a\nb"""\n',
        [(2, 15, "description", "policy-bad-text")],
    ),
    "description that turns the line around": (
        'description = "a\u202eb"\n',
        [(2, 15, "description", "policy-bad-text")],
    ),
    # Numbers
    "negative": (
        "[limits]\nprocesses = -1\n",
        [(3, 13, "limits.processes", "policy-out-of-range")],
    ),
    "no process at all": (
        "[limits]\nprocesses = 0\n",
        [(3, 13, "limits.processes", "policy-out-of-range")],
    ),
    "2 to the 64th": (
        "[limits]\nmemory = 18446744073709551616\n",
        [(3, 10, "limits.memory", "policy-out-of-range")],
    ),
    "2 to the 63rd": (
        "[limits]\nfile-size = 9223372036854775808\n",
        [(3, 13, "limits.file-size", "policy-out-of-range")],
    ),
    "overflow by unit": (
        '[limits]\nmemory = "9999999999999G"\n',
        [(3, 10, "limits.memory", "policy-out-of-range")],
    ),
    "negative size": (
        "[limits]\ncore = -1\n",
        [(3, 8, "limits.core", "policy-out-of-range")],
    ),
    "tmp of 0 would be without limit": (
        "[files]\ntmp = 0\n",
        [(3, 7, "files.tmp", "policy-out-of-range")],
    ),
    "memory too small to start": (
        '[limits]\nmemory = "1M"\n',
        [(3, 10, "limits.memory", "policy-out-of-range")],
    ),
    "nice upwards": (
        "[limits]\nnice = -5\n",
        [(3, 8, "limits.nice", "policy-out-of-range")],
    ),
    "nice beyond": (
        "[limits]\nnice = 20\n",
        [(3, 8, "limits.nice", "policy-out-of-range")],
    ),
    "cpu-weight 0": (
        "[limits]\ncpu-weight = 0\n",
        [(3, 14, "limits.cpu-weight", "policy-out-of-range")],
    ),
    "open-files below what a program needs": (
        "[limits]\nopen-files = 3\n",
        [(3, 14, "limits.open-files", "policy-out-of-range")],
    ),
    "unit typo": (
        '[limits]\nmemory = "10Q"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "unit in small letters": (
        '[limits]\nmemory = "10m"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "unit with a B": (
        '[limits]\nmemory = "10MB"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "size with a space": (
        '[limits]\nmemory = "10 M"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "size with a sign": (
        '[limits]\nmemory = "-10M"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "size with a fraction": (
        '[limits]\nmemory = "1.5G"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "size of other people's digits": (
        '[limits]\nmemory = "\u0661\u0662M"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "size with a newline behind it": (
        '[limits]\nmemory = "64M\\n"\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    "empty size": (
        '[limits]\nmemory = ""\n',
        [(3, 10, "limits.memory", "policy-bad-size")],
    ),
    # Choices and names
    "access misspelt": (
        '[network]\naccess = "nonne"\n',
        [(3, 10, "network.access", "policy-bad-choice")],
    ),
    "access in capitals": (
        '[network]\naccess = "NONE"\n',
        [(3, 10, "network.access", "policy-bad-choice")],
    ),
    "no such system call list": (
        '[kernel]\nsyscalls = "all"\n',
        [(3, 12, "kernel.syscalls", "policy-bad-choice")],
    ),
    "cgroup cannot be off": (
        '[limits]\ncgroup = "off"\n',
        [(3, 10, "limits.cgroup", "policy-bad-choice")],
    ),
    "hostname with a dot": (
        '[namespaces]\nhostname = "a.b"\n',
        [(3, 12, "namespaces.hostname", "policy-bad-hostname")],
    ),
    "hostname that is an option": (
        '[namespaces]\nhostname = "-a"\n',
        [(3, 12, "namespaces.hostname", "policy-bad-hostname")],
    ),
    "hostname of 64": (
        '[namespaces]\nhostname = "' + "a" * 64 + '"\n',
        [(3, 12, "namespaces.hostname", "policy-bad-hostname")],
    ),
    "hostname with a newline": (
        '[namespaces]\nhostname = "a\\n"\n',
        [(3, 12, "namespaces.hostname", "policy-bad-hostname")],
    ),
    "bundle id with a star inside": (
        '[match]\nbundle-id = ["org.*.Foo"]\n',
        [(3, 14, "match.bundle-id", "policy-bad-bundle-id")],
    ),
    "every bundle": (
        '[match]\nbundle-id = ["*"]\n',
        [(3, 14, "match.bundle-id", "policy-bad-bundle-id")],
    ),
    "dots in what is never inherited": (
        '[match]\ncallers = ["...", "alice"]\n',
        [(3, 12, "match.callers", "policy-misplaced-dots")],
    ),
    "caller by number": (
        '[match]\ncallers = ["1000"]\n',
        [(3, 12, "match.callers", "policy-bad-caller")],
    ),
    "caller with a newline": (
        '[match]\ncallers = ["alice\\nroot"]\n',
        [(3, 12, "match.callers", "policy-bad-caller")],
    ),
    # Paths
    "relative path": (
        '[files]\nread = ["usr"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "path with dots": (
        '[files]\nread = ["/usr/../etc"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "path with a slash at the end": (
        '[files]\nread = ["/usr/"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "path with two slashes": (
        '[files]\nread = ["//usr"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "path with a newline": (
        '[files]\nread = ["/usr\\nwrite"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "path with NUL": (
        '[files]\nread = ["/usr\\u0000"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "home by tilde": (
        '[files]\nread = ["~/x"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "empty path": ('[files]\nread = [""]\n', [(3, 9, "files.read", "policy-bad-path")]),
    "path twice": (
        '[files]\nread = ["/usr", "/usr"]\n',
        [(3, 17, "files.read", "policy-duplicate-item")],
    ),
    "dots not in front": (
        '[files]\nread = ["/srv", "..."]\n',
        [(3, 17, "files.read", "policy-misplaced-dots")],
    ),
    "all that is readable": (
        '[files]\nread = ["/"]\n',
        [(3, 9, "files.read", "policy-forbidden-path")],
    ),
    "all of /etc": (
        '[files]\nread = ["/etc"]\n',
        [(3, 9, "files.read", "policy-forbidden-path")],
    ),
    "the host's passwd": (
        '[files]\nread = ["/etc/passwd"]\n',
        [(3, 9, "files.read", "policy-forbidden-path")],
    ),
    "the host's proc": (
        '[files]\nread = ["/proc/1"]\n',
        [(3, 9, "files.read", "policy-forbidden-path")],
    ),
    "the host's devices": (
        '[files]\nwrite = ["/dev/sda"]\n',
        [(3, 10, "files.write", "policy-forbidden-path")],
    ),
    "isolauncher's state": (
        '[files]\nread = ["/var/lib/isolauncher/ledger"]\n',
        [(3, 9, "files.read", "policy-forbidden-path")],
    ),
    "writing everything": (
        '[files]\nwrite = ["/"]\n',
        [(3, 10, "files.write", "policy-forbidden-path")],
    ),
    "writing a policy": (
        '[files]\nwrite = ["/etc/isolauncher/policies"]\n',
        [(3, 10, "files.write", "policy-forbidden-path")],
    ),
    "writing above the shipped policies": (
        '[files]\nwrite = ["/usr/share"]\n',
        [(3, 10, "files.write", "policy-forbidden-path")],
    ),
    "writing what the daemon keeps": (
        '[files]\nwrite = ["/run"]\n',
        [(3, 10, "files.write", "policy-forbidden-path")],
    ),
    "300 paths": (
        "[files]\nread = [" + ",".join(f'"/srv/{n}"' for n in range(300)) + "]\n",
        [(3, 8, "files.read", "policy-too-many-items")],
    ),
    # Environment
    "keep everything": (
        '[environment]\nkeep = ["*"]\n',
        [(3, 9, "environment.keep", "policy-bad-variable")],
    ),
    "keep with a value": (
        '[environment]\nkeep = ["A=1"]\n',
        [(3, 9, "environment.keep", "policy-bad-variable")],
    ),
    "star in the middle": (
        '[environment]\nkeep = ["A*B"]\n',
        [(3, 9, "environment.keep", "policy-bad-variable")],
    ),
    "set to a number": (
        "[environment]\nset = { A = 1 }\n",
        [(3, 13, "environment.set.A", "policy-wrong-type")],
    ),
    "set to true": (
        "[environment.set]\nA = true\n",
        [(3, 5, "environment.set.A", "policy-wrong-type")],
    ),
    "set with NUL": (
        '[environment]\nset = { A = "x\\u0000y" }\n',
        [(3, 13, "environment.set.A", "policy-bad-variable")],
    ),
    "set a name that is none": (
        '[environment]\nset = { "A B" = "1" }\n',
        [(3, 9, "environment.set.'A B'", "policy-bad-variable")],
    ),
    "set given a list": (
        '[environment]\nset = ["A=1"]\n',
        [(3, 7, "environment.set", "policy-wrong-type")],
    ),
    # Not enforced yet
    "filtered network": (
        '[network]\naccess = "filtered"\nallow = ["tcp://a.org:443"]\n',
        [
            (3, 10, "network.access", "policy-not-enforced-yet"),
            (4, 9, "network.allow", "policy-not-enforced-yet"),
        ],
    ),
    "address without a port": (
        '[network]\nallow = ["tcp://a.org"]\n',
        [(3, 10, "network.allow", "policy-bad-address")],
    ),
    "documents that are none": (
        '[files]\ndocuments = "mine"\n',
        [(3, 13, "files.documents", "policy-bad-choice")],
    ),
    "device that is none": (
        '[devices]\nallow = ["gpu", "webcam"]\n',
        [(3, 17, "devices.allow", "policy-bad-choice")],
    ),
    "a display of its own": (
        '[display]\nx11 = "own"\n',
        [(3, 7, "display.x11", "policy-bad-choice")],
    ),
    "bus call that is none": (
        '[bus]\nsession-call = ["org.a.B"]\n',
        [(3, 17, "bus.session-call", "policy-bad-bus-rule")],
    ),
    "bus call at no path": (
        '[bus]\nsession-call = ["org.a.B=org.a.B.C"]\n',
        [(3, 17, "bus.session-call", "policy-bad-bus-rule")],
    ),
    "the launcher's own bus name": (
        '[bus]\nsession-call = ["org.sugarlabs.IsoLauncher1=*@/a"]\n',
        [(3, 17, "bus.session-call", "policy-grants-isolauncher")],
    ),
    "the Journal's store": (
        "[bus]\nsession-call = [\n"
        '"org.laptop.sugar.DataStore=a.B@/a",\n"org.laptop.*=a.B@/a"]\n',
        [
            (4, 1, "bus.session-call", "policy-grants-datastore"),
            (5, 1, "bus.session-call", "policy-grants-datastore"),
        ],
    ),
    "the bus itself": (
        '[bus]\nsession-own = ["org.freedesktop.*", "org.freedesktop.DBus"]\n',
        [
            (3, 16, "bus.session-own", "policy-grants-bus"),
            (3, 37, "bus.session-own", "policy-grants-bus"),
        ],
    ),
    "LaunchBundle": (
        "[bus]\nsession-call = [\n"
        '"org.laptop.Journal=org.laptop.Journal.LaunchBundle@/org/laptop/Journal",\n'
        '"org.laptop.Shell=org.laptop.Journal.*@/org/*",\n'
        '"org.freedesktop.Notifications=*@/*",\n'
        '"org.laptop.Journal=org.laptop.Journal.ChooseObject@/org/laptop/Journal",\n'
        '"org.freedesktop.Notifications=*@/org/freedesktop/Notifications",\n'
        "]\n",
        [(line, 1, "bus.session-call", "policy-grants-launch") for line in (4, 5, 6)],
    ),
    "the launcher's own bus name by a pattern": (
        '[bus]\nsession-own = ["org.sugarlabs.*"]\n',
        [(3, 16, "bus.session-own", "policy-grants-isolauncher")],
    ),
    "what is below the launcher's own bus name": (
        '[bus]\nsession-own = ["org.sugarlabs.IsoLauncher1.Activity1"]\n',
        [(3, 16, "bus.session-own", "policy-grants-isolauncher")],
    ),
    "preload set that is none": (
        '[preload]\nset = "sugar4"\n',
        [(3, 7, "preload.set", "policy-bad-choice")],
    ),
    "grant without a reason": (
        "[grants]\nP_MIC_CAM = {}\n",
        [(3, 13, "grants.P_MIC_CAM", "policy-bad-grant")],
    ),
    "grant that is none": (
        '[grants]\nmicrophone = { because = "x" }\n',
        [(3, 1, "grants.microphone", "policy-bad-grant")],
    ),
    "grant with two reasons": (
        '[grants]\nP_NET = { because = "x", why = "y" }\n',
        [(3, 9, "grants.P_NET", "policy-bad-grant")],
    ),
    "grant with an empty reason": (
        '[grants]\nP_NET = { because = "  " }\n',
        [(3, 9, "grants.P_NET", "policy-bad-grant")],
    ),
    "grant with a reason that plays tricks": (
        '[grants]\nP_NET = { because = "a\u202eb" }\n',
        [(3, 9, "grants.P_NET", "policy-bad-grant")],
    ),
    "grant with a flag": (
        "[grants]\nP_NET = true\n",
        [(3, 9, "grants.P_NET", "policy-bad-grant")],
    ),
    "grant misspelt": (
        '[grants]\nP_MICCAM = { because = "x" }\n',
        [(3, 1, "grants.P_MICCAM", "policy-bad-grant")],
    ),
    "grant of all of the firmware": (
        '[grants]\n"P_BIOS_*" = { because = "x" }\n',
        [(3, 1, "grants.P_BIOS_*", "policy-bad-grant")],
    ),
    "grant of what nothing can give": (
        '[grants]\nP_DOCUMENT_RO = { because = "x" }\n',
        [(3, 1, "grants.P_DOCUMENT_RO", "policy-not-enforced-yet")],
    ),
    "grant that another line takes back": (
        '[grants]\nP_NET = { because = "x" }\n[network]\naccess = "none"\n',
        [(3, 1, "grants.P_NET", "policy-grant-contradicts")],
    ),
    "grant that two lines take back": (
        "[limits]\nnice = 5\ncpu-weight = 50\n"
        '[grants]\nP_CPU_RL = { because = "x" }\n',
        [
            (6, 1, "grants.P_CPU_RL", "policy-grant-contradicts"),
            (6, 1, "grants.P_CPU_RL", "policy-grant-contradicts"),
        ],
    ),
    "grants as a list": (
        'grants = ["P_NET"]\n',
        [(2, 10, "grants", "policy-wrong-type")],
    ),
    # Exceptions
    "accept as a table": (
        '[accept]\nfinding = "network-host"\n',
        [(2, 2, "accept", "policy-wrong-type")],
    ),
    "accept without a reason": (
        '[[accept]]\nfinding = "network-host"\nuntil = 2027-06-30\n',
        [(2, 3, "accept.because", "policy-missing-key")],
    ),
    "accept for ever": (
        '[[accept]]\nfinding = "network-host"\nbecause = "x"\n',
        [(2, 3, "accept.until", "policy-missing-key")],
    ),
    "accept with an empty reason": (
        '[[accept]]\nfinding = "network-host"\nbecause = " "\nuntil = 2027-06-30\n',
        [(4, 11, "accept.because", "policy-wrong-type")],
    ),
    "accept until a text": (
        '[[accept]]\nfinding = "bus-wide"\nbecause = "x"\nuntil = "2027-06-30"\n',
        [(5, 9, "accept.until", "policy-wrong-type")],
    ),
    "accept until a moment": (
        '[[accept]]\nfinding = "bus-wide"\nbecause = "x"\n'
        "until = 2027-06-30T12:00:00Z\n",
        [(5, 9, "accept.until", "policy-wrong-type")],
    ),
    "accept until a year": (
        '[[accept]]\nfinding = "bus-wide"\nbecause = "x"\nuntil = 2027\n',
        [(5, 9, "accept.until", "policy-wrong-type")],
    ),
    "accept until a day that never comes": (
        '[[accept]]\nfinding = "bus-wide"\nbecause = "x"\nuntil = 2027-02-30\n',
        [
            (2, 3, "accept.until", "policy-missing-key"),
            (5, 9, "", "policy-not-toml"),
        ],
    ),
    "accept what is no finding": (
        '[[accept]]\nfinding = "network-hots"\nbecause = "x"\nuntil = 2027-06-30\n',
        [(3, 11, "accept.finding", "policy-bad-choice")],
    ),
    "accept that nobody gives a reason": (
        '[[accept]]\nfinding = "no-reason"\nbecause = "x"\nuntil = 2027-06-30\n',
        [(3, 11, "accept.finding", "policy-bad-choice")],
    ),
    "accept everything": (
        '[[accept]]\nfinding = "*"\nbecause = "x"\nuntil = 2027-06-30\n',
        [(3, 11, "accept.finding", "policy-bad-choice")],
    ),
    "accept of a key that is none": (
        '[[accept]]\nfinding = "bus-wide"\nkey = "bus.sesion-call"\n'
        'because = "x"\nuntil = 2027-06-30\n',
        [(4, 7, "accept.key", "policy-bad-choice")],
    ),
    "accept misspelt": (
        '[[accept]]\nfindings = "bus-wide"\nbecause = "x"\nuntil = 2027-06-30\n',
        [
            (2, 3, "accept.finding", "policy-missing-key"),
            (3, 1, "accept.findings", "policy-unknown-key"),
        ],
    ),
    "accept of a list": (
        '[[accept]]\nfinding = ["bus-wide"]\nbecause = "x"\nuntil = 2027-06-30\n',
        [(3, 11, "accept.finding", "policy-wrong-type")],
    ),
    # Expectations
    "expect as a table": (
        '[expect]\nthat = "x"\n',
        [(2, 2, "expect", "policy-wrong-type")],
    ),
    "expect not complete": (
        '[[expect]]\nthat = "x"\ntry = "read /a"\n',
        [(2, 3, "expect.result", "policy-missing-key")],
    ),
    "expect with another result": (
        '[[expect]]\nthat = "x"\ntry = "read /a"\nresult = "denied"\n',
        [(5, 10, "expect.result", "policy-bad-choice")],
    ),
    "expect an unknown verb": (
        '[[expect]]\nthat = "x"\ntry = "erase /a"\nresult = "refused"\n',
        [(4, 7, "expect.try", "policy-bad-expect")],
    ),
    "expect a verb without its object": (
        '[[expect]]\nthat = "x"\ntry = "connect tcp"\nresult = "refused"\n',
        [(4, 7, "expect.try", "policy-bad-expect")],
    ),
    "expect a port that is none": (
        '[[expect]]\nthat = "x"\ntry = "bind tcp 0.0.0.0:70000"\nresult = "allowed"\n',
        [(4, 7, "expect.try", "policy-bad-expect")],
    ),
    "expect what lies above the home": (
        '[[expect]]\nthat = "x"\ntry = "read {home}/../a"\nresult = "absent"\n',
        [(4, 7, "expect.try", "policy-bad-expect")],
    ),
    "expect misspelt": (
        '[[expect]]\nthat = "x"\ntry = "read /a"\nresult = "absent"\nresutl = "x"\n',
        [(6, 1, "expect.resutl", "policy-unknown-key")],
    ),
    # Extends
    "extends a path": (
        'extends = "../default"\n',
        [(2, 11, "extends", "policy-bad-name")],
    ),
    "extends outside by an absolute path": (
        'extends = "/etc/passwd"\n',
        [(2, 11, "extends", "policy-bad-name")],
    ),
    "extends what is not there": (
        'extends = "defualt"\n',
        [(2, 11, "extends", "policy-unknown")],
    ),
    "extends itself alone": (
        'extends = "bad"\n',
        [(2, 11, "extends", "policy-unknown")],
    ),
    "shows the whole home": (
        '[files]\nread = ["{home}/"]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "shows what lies above the home": (
        '[files]\nread = ["{home}/.."]\n',
        [(3, 9, "files.read", "policy-bad-path")],
    ),
    "extends two": (
        'extends = ["default", "untrusted"]\n',
        [(2, 11, "extends", "policy-wrong-type")],
    ),
    # Together
    "all mistakes at once, in the order of their lines": (
        "[limits]\nnice = 99\nproceses = 3\nmemory = 64M\ncore = 0\n"
        '[files]\nread = ["usr", "/dev", "/usr"]\n[limits]\nnice = 3\n'
        '[network]\naccess = "off"\n',
        [
            (3, 8, "limits.nice", "policy-out-of-range"),
            (4, 1, "limits.proceses", "policy-unknown-key"),
            (5, 10, "", "policy-not-toml"),
            (8, 9, "files.read", "policy-bad-path"),
            (8, 16, "files.read", "policy-forbidden-path"),
            (9, 2, "limits", "policy-duplicate-key"),
            (12, 10, "network.access", "policy-bad-choice"),
        ],
    ),
    "a broken list does not hide what comes behind it": (
        '[files]\nread = [\n  "/usr"\n  "/bin"\n]\nwrite = ["usr"]\n',
        [(5, 3, "", "policy-not-toml"), (7, 10, "files.write", "policy-bad-path")],
    ),
}


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Of a short path, which no error cuts."""
    with shelf_in(tmp_path_factory.mktemp("s")) as made:
        yield made


@cache
def errors() -> dict[str, str]:
    """errors.txt: below the name of each bad file what is said of it, whole."""
    text = Path(__file__).with_name("errors.txt").read_text(encoding="utf-8")
    told = (part.partition("\n") for part in text.split("\n== ")[1:])
    return {name: said.strip("\n") for name, _, said in told}


def exact(name: str, found: tuple[Mistake, ...], **places: object) -> None:
    """Whole, but for the paths of this run."""
    said = "\n".join(mistake.text() for mistake in found)
    for word, place in places.items():
        said = said.replace(str(place), word.upper())
    assert said == errors().get(name), f"errors.txt, {name!r}"


@pytest.mark.parametrize("name", BAD)
def test_each_mistake_is_named_with_its_place(shelf: Shelf, name: str) -> None:
    text, wanted = BAD[name]
    if not name.startswith("bare"):
        text = "version = 1\n" + text
    path = shelf.put("bad", text.encode("utf-8", "surrogateescape"))
    found = shelf.mistakes("bad")
    assert [(m.line, m.column, m.key, m.code) for m in found] == wanted
    exact(name, found, etc=shelf.etc, vendor=shelf.vendor)
    for mistake in found:
        assert mistake.file == str(path)
        assert mistake.text().replace("\n", "").isprintable()
        assert mistake.message
        assert mistake.hint or mistake.code in ("policy-not-toml", "policy-bad-expect")


def test_there_are_at_least_a_hundred_and_each_has_its_error() -> None:
    assert len(BAD) >= 150
    assert {*errors()} == {*BAD, *BAD_FILES, *FORBIDDEN, *REFUSED}


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("[limits]\nproceses = 3", "limits.processes"),
        ("[limit]\nnice = 3", "[limits]"),
        ("memory = 3", "limits.memory"),
        ("[files]\nmemory = 3", "limits.memory"),
        ("[limits]\nopen_files = 3", "limits.open-files"),
        ("[[expext]]\nthat = 'x'", "[[expect]]"),
        ("[match]\nbundle_id = []", "match.bundle-id"),
        ('[network]\naccess = "nonne"', "none"),
        ('extends = "defalt"', "default"),
    ],
)
def test_the_nearest_known_word_is_named(shelf: Shelf, line: str, meant: str) -> None:
    shelf.put("bad", f"version = 1\n{line}\n")
    assert meant in shelf.mistakes("bad")[0].hint


def test_a_mistake_reads_as_the_house_style_says(shelf: Shelf) -> None:
    path = shelf.put("bad", 'version = 1\n[limits]\nprocesses = "many"\n')
    assert shelf.mistakes("bad")[0].text() == (
        f"{path}:3:13: limits.processes: 'many' is not a whole number\n"
        "  (write a count such as 128, or leave the key out to keep the inherited one)"
        "  [policy-not-a-number]"
    )


def test_mistakes_of_a_file_it_stands_on_come_too(shelf: Shelf) -> None:
    shelf.put("base", "version = 1\n[limits]\nnice = 99\n", where="vendor")
    shelf.put("top", 'version = 1\nextends = "base"\n[limits]\nnise = 9\n')
    assert [(m.file.rpartition("/")[2], m.line) for m in shelf.mistakes("top")] == [
        ("top.toml", 4),
        ("base.toml", 3),
    ]


def test_a_hundred_mistakes_are_enough(shelf: Shelf) -> None:
    shelf.put("bad", "version = 1\n" + "".join(f"x{n} = 1\n" for n in range(4000)))
    codes = shelf.codes("bad")
    assert len(codes) == 101
    assert codes[-1] == "policy-too-many-mistakes"


def test_a_file_over_the_limit_is_refused(shelf: Shelf) -> None:
    shelf.put("bad", "version = 1\n" + "# x\n" * 17000)
    assert shelf.codes("bad") == ["policy-too-large"]


@pytest.mark.parametrize(
    "name",
    ["../default", "a/b", "", ".hidden", "-rf", "--x", "a b", "a\n", "ä", "a" * 65],
)
def test_a_policy_is_asked_for_by_a_plain_name(shelf: Shelf, name: str) -> None:
    assert shelf.codes(name) == ["policy-bad-name"]


def test_an_unknown_policy_is_named_with_the_nearest(shelf: Shelf) -> None:
    (mistake,) = shelf.mistakes("untrsted")
    assert mistake.code == "policy-unknown"
    assert "untrusted" in mistake.hint


# ------------------------------------- row 16: what they are, and who may write them


def _mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text("version = 1\n")
        path.chmod(mode)

    return make


def _foreign(path: Path) -> None:
    path.write_text("version = 1\n")
    os.chown(path, 12345, 0)


def _link(path: Path) -> None:
    path.with_name("real").write_text("version = 1\n")
    path.symlink_to("real")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _sparse(path: Path) -> None:
    path.write_text("version = 1\n")
    os.truncate(path, 1 << 40)


def _too_large(path: Path) -> None:
    path.write_bytes(b"#" * (trust.MAX_BYTES + 1))


BAD_FILES: dict[str, Callable[[Path], None]] = {
    "row 16: its group may write it": _mode(0o664),
    "row 16: everybody may write it": _mode(0o646),
    "row 16: somebody else's": _foreign,
    "row 16: a link": _link,
    "row 16: a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "row 16: a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "row 16: a fifo": os.mkfifo,
    "row 16: a socket": _socket,
    "row 16: /dev/zero": lambda path: os.mknod(path, 0o020644, os.makedev(1, 5)),
    "row 16: a directory": Path.mkdir,
    "row 16: a terabyte of nothing": _sparse,
    "row 16: a byte too much": _too_large,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", BAD_FILES)
def test_row_16_what_is_no_file_that_only_its_keeper_can_change(
    shelf: Shelf, name: str
) -> None:
    need(root())
    BAD_FILES[name](shelf.etc / "bad.toml")
    exact(name, shelf.mistakes("bad"), etc=shelf.etc)


def test_row_16_a_directory_that_others_may_write(shelf: Shelf) -> None:
    shelf.put("bad", "version = 1\n")
    shelf.etc.chmod(0o777)
    (mistake,) = shelf.mistakes("bad")
    assert mistake.text() == (
        f"{shelf.etc}: is a directory that others may write (mode 0777)\n"
        f"  (chmod go-w {shelf.etc})  [policy-not-trusted]"
    )


# -------------------------------- row 17: what lets an activity write its own policies

FORBIDDEN: dict[str, str] = {
    "row 17: the directory of policies": "{etc}",
    "row 17: a file in it": "{etc}/bad.toml",
    "row 17: the directory above it": "{above}",
    "row 17: what is shipped": "{vendor}",
    "row 17: /etc": "/etc",
    "row 17: where policies of other checkouts are": "/etc/isolauncher/policies",
    "row 17: the ledger": "/var/lib/isolauncher/identity",
    "row 17: everything": "/",
    "row 17: control groups": "/sys/fs/cgroup",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_row_17_what_no_activity_may_write(shelf: Shelf, name: str) -> None:
    path = FORBIDDEN[name].format(
        etc=shelf.etc, vendor=shelf.vendor, above=shelf.etc.parent
    )
    shelf.put("bad", f'version = 1\n[files]\nwrite = ["{path}"]\n')
    places = {"etc": shelf.etc, "vendor": shelf.vendor, "above": shelf.etc.parent}
    exact(name, shelf.mistakes("bad"), **places)


# ------------------- rows 18 to 20: good files that this caller or machine cannot have


def _own_file(shelf: Shelf) -> None:
    path = shelf.put("bad", "version = 1\n")
    caller = Caller(uid=12346, gid=12346, pid=0, groups=())
    choose.for_file(shelf.store, caller=caller, descriptor=-1, path=str(path))


def _not_admitted(shelf: Shelf) -> None:
    shelf.put("bad", 'version = 1\n[match]\ncallers = ["@nobodys-group", "root"]\n')
    caller = Caller(uid=12346, gid=12346, pid=0, groups=())
    choose.for_run(shelf.store, caller=caller, name="bad")


def _root_alone(shelf: Shelf) -> None:
    shelf.put("bad", "version = 1\n")
    caller = Caller(uid=12346, gid=12346, pid=0, groups=())
    choose.for_run(shelf.store, caller=caller, name="bad")


def _room(shelf: Shelf, text: str, abi: int = 0) -> plan.Room:
    """On a machine without control groups, and without Landlock if ``abi`` is 0."""
    shelf.put("bad", f"version = 1\n{text}")
    return plan.room(
        room_id="a0",
        policy=shelf.store.get("bad"),
        person=plan.Person(
            uid=70001,
            gid=70001,
            inner_uid=1000,
            inner_gid=1000,
            home="",
            passwd=b"",
            group=b"",
            nsswitch=b"",
            hosts=b"",
        ),
        view=plan.View(trees=(), links=()),
        machine=plan.Machine(
            landlock_abi=abi,
            cgroups=(),
            why_no_cgroup="none is mounted",
            hard_limits=(),
            root_over="/",
            init_uid=70000,
        ),
        filter_=plan.CompiledFilter(
            name="none", program=b"", probe_number=0, probe_arguments=(), probe_errno=0
        ),
    )


def _refusing(called: str, shelf: Shelf) -> None:
    """The kernel refuses one call on the way through the policy's steps."""

    def refuse(at: int, name: str) -> None:
        if name == called:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    kernel = Recorder(refuse=refuse).as_kernel()
    context = Context(kernel=kernel, descriptors={}, keep=frozenset())
    for planned in _room(shelf, "").steps:
        apply(planned.step, context)


REFUSED: dict[str, Callable[[Shelf], object]] = {
    "row 18: a file of one's own": _own_file,
    "row 18: a policy that admits others": _not_admitted,
    "row 18: a policy that admits root alone": _root_alone,
    "row 19: no Landlock": lambda shelf: _room(
        shelf, '[kernel]\nlandlock = "required"\n'
    ),
    "row 19: no control groups": lambda shelf: _room(
        shelf, '[limits]\ncgroup = "required"\n'
    ),
    "row 20: no namespaces": partial(_refusing, "unshare"),
    "row 20: no mounts": partial(_refusing, "make_private"),
    "row 20: no session of its own": partial(_refusing, "setsid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_18_to_20_who_and_what_cannot_have_it(shelf: Shelf, name: str) -> None:
    with pytest.raises(IsolauncherError) as caught:
        REFUSED[name](shelf)
    line = caught.value.line().replace(str(shelf.etc), "ETC")
    assert line == errors().get(name), f"errors.txt, {name!r}"
