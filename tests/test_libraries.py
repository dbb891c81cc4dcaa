# SPDX-License-Identifier: GPL-3.0-or-later
"""What libraries ask of a machine that activities use which Debian does not have.

Small programs that do what pygame, SDL and others do; docs/sugar.md has the activities
that were tried.
"""

from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

import pytest
from support.bundles import Person, make, person, system_directory
from support.daemons import Service
from support.peers import ALICE
from support.powers import need, sandboxes

ASKS_LIBDBUS = """
import ctypes
dbus = ctypes.CDLL("libdbus-1.so.3")
dbus.dbus_get_local_machine_id.restype = ctypes.c_char_p
print(dbus.dbus_get_local_machine_id().decode())
"""


@pytest.mark.parametrize("policy", ["default", "untrusted", "sugar"])
def test_libdbus_gets_a_machine_id_which_says_nothing_of_the_machine(
    daemon: Service, policy: str
) -> None:
    """SDL asks at its start (src/core/linux/SDL_ibus.c), and aborts without one."""
    need(sandboxes())
    asks = daemon.script("asks.py", ASKS_LIBDBUS)
    said = [daemon.run("--policy", policy, "--", asks) for _ in range(2)]
    assert [(done.status, done.errors) for done in said] == [(0, "")] * 2
    assert said[0].text == said[1].text
    assert len(said[0].text) == 32 + 1
    own = Path("/etc/machine-id")
    assert not own.exists() or said[0].text != own.read_text()


PLAYS = """#!/usr/bin/python3
import ctypes, os
sdl = ctypes.CDLL("libSDL2-2.0.so.0")
sdl.SDL_GetCurrentAudioDriver.restype = ctypes.c_char_p
sdl.SDL_GetError.restype = ctypes.c_char_p
AUDIO = 0x10
failed = sdl.SDL_Init(AUDIO)
print(failed, (sdl.SDL_GetError() if failed else sdl.SDL_GetCurrentAudioDriver()))
"""


@pytest.mark.parametrize("owner", [0, ALICE])
def test_who_plays_with_sdl_starts_though_nothing_is_granted_to_be_heard(
    daemon: Service, owner: int
) -> None:
    """pygame.init() passes over it, pygame.mixer.init() is an error that ends games."""
    need(sandboxes())
    need(None if find_library("SDL2-2.0") else "libsdl2-2.0-0 is not installed")
    with system_directory() as place, person(daemon, ALICE) as alice:
        plays = make(place, programs={"show": PLAYS}, owner=owner)
        assert said_by(alice, plays) == "0 b'dummy'\n"


@pytest.mark.parametrize(
    ("line", "driver"),
    [
        ('[environment]\nset = { SDL_AUDIODRIVER = "pulseaudio" }\n', "pulseaudio"),
        ('[devices]\nallow = ["sound"]\n', ""),
        ('[devices]\nallow = ["joystick"]\n', "dummy"),
    ],
)
def test_a_policy_that_grants_sound_or_names_a_driver_is_left_alone(
    daemon: Service, line: str, driver: str
) -> None:
    need(sandboxes())
    daemon.policy(
        "heard",
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.Heard"]\n'
        + line,
    )
    tells = "#!/bin/sh\necho $SDL_AUDIODRIVER\n"
    try:
        with system_directory() as place, person(daemon, ALICE) as alice:
            bundle = make(place, id="org.laptop.Heard", programs={"show": tells})
            assert said_by(alice, bundle) == f"{driver}\n"
    finally:
        (daemon.policies / "heard.toml").unlink()


FORKS = """#!/usr/bin/python3
import threading, time
for _ in range(79):
    threading.Thread(target=time.sleep, args=(1,)).start()
print(threading.active_count())
"""


@pytest.mark.parametrize("owner", [0, ALICE])
def test_there_is_room_for_the_threads_of_a_web_page(
    daemon: Service, owner: int
) -> None:
    """WebKit aborts where it gets none."""
    need(sandboxes())
    with system_directory() as place, person(daemon, ALICE) as alice:
        bundle = make(place, id="org.a.Page", programs={"show": FORKS}, owner=owner)
        assert said_by(alice, bundle) == "80\n"


def said_by(somebody: Person, bundle: Path) -> str:
    reader, writer = os.pipe()
    with open(reader) as out:
        with open(writer, "wb") as both, somebody.launch(bundle, stdout=writer) as it:
            both.close()
            it.end()
        return out.read()
