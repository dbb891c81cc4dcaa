# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Has the caller's terminal as standard input and tries to type into it."""

from __future__ import annotations

inside()

import termios  # noqa: E402 - only where it may run

letter = ctypes.create_string_buffer(b"i")
paste = ctypes.create_string_buffer(b"\x03\x00")
answers = {}
for name, request in (
    ("TIOCSTI", 0x5412),
    ("TIOCLINUX", 0x541C),
    ("TIOCSETD", 0x5423),
):
    value = paste if name == "TIOCLINUX" else letter
    for half in (0, 1, 0xABCD, 0x80000000, 0xFFFFFFFF):
        answers[f"{name} {half:#x}"] = call("ioctl", 0, half << 32 | request, value)
    # By another way to the same terminal.
    fd = os.dup(1)
    answers[f"{name} dup"] = call("ioctl", fd, request, value)
answers |= {
    "TIOCSCTTY": call("ioctl", 0, 0x540E, 0),
    "TIOCSCTTY steal": call("ioctl", 0, 0x540E, 1),
    "TIOCNOTTY": call("ioctl", 0, 0x5422, 0),
    "TIOCSPGRP": call("ioctl", 0, 0x5410, (ctypes.c_int * 1)(os.getpgrp())),
    "TIOCGPGRP": call("ioctl", 0, 0x540F, ctypes.create_string_buffer(8)),
    "TIOCGSID": call("ioctl", 0, 0x5429, ctypes.create_string_buffer(8)),
    "TIOCCONS": call("ioctl", 0, 0x541D, 0),
    "TIOCVHANGUP": call("ioctl", 0, 0x5437, 0),
    "TIOCGPTPEER": call("ioctl", 0, 0x5441, os.O_RDWR),
    "KDSKBENT": call("ioctl", 0, 0x4B47, ctypes.create_string_buffer(16)),
    "VT_ACTIVATE": call("ioctl", 0, 0x5606, 1),
    "open /dev/tty": opened("/dev/tty", os.O_RDWR),
    "open the same": opened("/proc/self/fd/0", os.O_RDWR),
    "open by name": opened(os.readlink("/proc/self/fd/0"), os.O_RDWR),
    "pts 0": opened("/dev/pts/0", os.O_RDWR),
}
child = os.fork()
if child == 0:
    # As the leader of a session of its own, which has no terminal yet.
    os.setsid()
    led = {
        "leader TIOCSCTTY": call("ioctl", 0, 0x540E, 0),
        "leader TIOCSCTTY steal": call("ioctl", 0, 0x540E, 1),
        "leader open /dev/tty": opened("/dev/tty", os.O_RDWR),
        "leader TIOCSTI": call("ioctl", 0, 0x5412, letter),
    }
    with open("/tmp/led", "w") as file:
        json.dump(led, file)
    os._exit(0)
os.waitpid(child, 0)
with open("/tmp/led") as file:
    answers |= json.load(file)

# One's own terminals are another matter, but also there nobody types for another.
master, slave = os.openpty()
own = {"own terminal": "ok" if os.isatty(slave) else "no"}
answers["own TIOCSTI"] = call("ioctl", slave, 0x5412, letter)
with open("/proc/self/stat") as file:
    tty = int(file.read().rpartition(")")[2].split()[4])
with open("/tmp/answers", "w") as file:
    json.dump({"refused": answers, "own": own, "tty": tty}, file)
attributes = termios.tcgetattr(0)
with open("/tmp/answers") as file:
    print(file.read(), flush=True)
