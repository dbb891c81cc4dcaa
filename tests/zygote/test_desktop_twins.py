# SPDX-License-Identifier: GPL-3.0-or-later
"""From the sets gtk3 and sugar3: a forked program's desktop is a cold one's.

The same bundle under the same policy, once in the tier exec and once forked, in a
session with display, bus and settings; as four persons would have it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import bundles
from support.daemons import service
from support.desktop import desktop, missing
from support.powers import installed, need, sandboxes
from support.reach import mounted_over
from support.sugar import PATIENCE_S, Session, schemas, session

from .test_twin import flat

WITNESS = Path(__file__).resolve().parent / "twin" / "desktop.py"

# Field → why it may differ.
ALLOWED = {
    "random": "siblings must not draw the same",
}


FONT, USER = "org.sugarlabs.font", "org.sugarlabs.user"
COLOURS = (USER, "color", "#AC32FF,#9A5200")


@dataclass(frozen=True)
class Person:
    environment: Mapping[str, str] = field(default_factory=dict)
    # Who has chosen no colours gets others at each start.
    settings: tuple[tuple[str, str, str], ...] = (COLOURS,)


LOCALES = {"es_ES": "UTF-8", "ar_EG": "UTF-8", "ne_NP": "UTF-8"}
INTERFACE = "org.gnome.desktop.interface"
PERSONS = {
    "plain": Person(),
    "spanish": Person({"LANG": "es_ES.UTF-8", "LANGUAGE": "es"}),
    "arabic": Person({"LANG": "ar_EG.UTF-8", "TZ": "Africa/Cairo"}),
    "nepali": Person({"LANG": "ne_NP.UTF-8", "TZ": "Asia/Kathmandu"}),
    "large": Person(
        {"SUGAR_SCALING": "150"},
        (
            (FONT, "default-size", "18"),
            (FONT, "default-face", "DejaVu Serif"),
            (USER, "nick", "Ana"),
            (USER, "color", "#008009,#FF2B34"),
            (INTERFACE, "text-scaling-factor", "1.5"),
            (INTERFACE, "font-name", "DejaVu Serif 14"),
        ),
    ),
}


@pytest.fixture(scope="module")
def sugar() -> Iterator[Session]:
    need(sandboxes(), missing(), installed("sugar3.activity.activity"))
    with ExitStack() as stack:
        # The tests' mounts are their own (conftest.py): no locale is installed.
        locales = stack.enter_context(mounted_over("/usr/lib/locale"))
        for name, charset in LOCALES.items():
            words = ("localedef", "--no-archive", "-i", name, "-f", charset)
            place = locales / f"{name}.utf8"
            subprocess.run([*words, str(place)], check=True, timeout=PATIENCE_S)
        stack.enter_context(schemas())
        made = stack.enter_context(desktop())
        daemon = stack.enter_context(service())
        logs = made.home / ".sugar/default/logs"
        logs.mkdir(parents=True)
        for path in (logs, logs.parent, logs.parent.parent):
            os.chown(path, made.uid, made.uid)
        yield session(made, daemon)


@pytest.fixture(scope="module")
def bundle() -> Iterator[Path]:
    with bundles.system_directory() as place:
        programs = {"witness": WITNESS.read_text()}
        yield bundles.make(
            place, id="org.laptop.Twin", exec="witness gtk3", programs=programs
        )


@pytest.fixture(scope="module")
def sugared(bundle: Path) -> Path:
    """The same bundle, which asks for Sugar too."""
    place = bundle.parent / "more"
    place.mkdir()
    programs = {"witness": WITNESS.read_text()}
    return bundles.make(place, id="org.laptop.Twin", exec="witness", programs=programs)


def state(
    sugar: Session, bundle: Path, set_name: str, tier: str, person: Person
) -> dict[str, Any]:
    sugar.service.policy(
        "twin",
        "version = 1\nextends = 'sugar'\n[match]\nbundle-id = ['org.laptop.Twin']\n"
        f"[preload]\nset = '{set_name}'\ntier = '{tier}'\n",
    )
    for schema, key, value in person.settings:
        sugar.desktop.run("gsettings", "set", schema, key, value)
    report = sugar.desktop.home / "report"
    try:
        process = sugar.isolauncher(
            *("launch", "-a", "a" * 40, "--report", str(report), str(bundle)),
            environment=person.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        for schema, key, _ in person.settings:
            sugar.desktop.run("gsettings", "reset", schema, key)
    assert process.returncode == 0, err.decode()
    assert json.loads(report.read_text())["activity"]["tier"] == tier
    said: dict[str, Any] = json.loads(out)
    # The time of day is in GLib's own warnings.
    return said | {"errors": re.sub(r"\d\d:\d\d:\d\d\.\d+", "", err.decode())}


@pytest.mark.parametrize("name", PERSONS)
@pytest.mark.parametrize("set_name", ["gtk3", "sugar3"])
def test_a_forked_desktop_is_a_cold_ones(
    sugar: Session, bundle: Path, sugared: Path, set_name: str, name: str
) -> None:
    used = bundle if set_name == "gtk3" else sugared
    person = PERSONS[name]
    cold = state(sugar, used, set_name, "exec", person)
    forked = state(sugar, used, set_name, "fork", person)
    _is_the_persons(cold, name)
    one, other = flat(cold), flat(forked)
    differing = {
        n: (one.get(n), other.get(n))
        for n in {**one, **other}
        if n.partition("/")[0] not in ALLOWED and one.get(n) != other.get(n)
    }
    assert differing == {}


# What a person sees of a program and is used to.
LOOKS = (
    *("C locale", "Python locale", "time", "GLib time", "gettext", "C gettext"),
    *("settings", "direction", "language", "fonts", "colours", "style"),
    *("interface settings", "sugar person"),
)


@pytest.mark.parametrize("name", PERSONS)
def test_an_isolated_program_looks_as_it_does_without_us(
    sugar: Session, sugared: Path, name: str
) -> None:
    person = PERSONS[name]
    for schema, key, value in person.settings:
        sugar.desktop.run("gsettings", "set", schema, key, value)
    try:
        process = sugar.desktop.start(
            str(sugared / "bin/witness"),
            environment=person.environment,
            stdout=subprocess.PIPE,
        )
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        for schema, key, _ in person.settings:
            sugar.desktop.run("gsettings", "reset", schema, key)
    without = json.loads(out)
    isolated = state(sugar, sugared, "sugar3", "fork", person)
    assert set(LOOKS) <= without.keys()
    one, other = (flat({n: s[n] for n in LOOKS}) for s in (without, isolated))
    assert {n: (one[n], other.get(n)) for n in one if one[n] != other.get(n)} == {}


def _is_the_persons(cold: dict[str, Any], name: str) -> None:
    """That there is something to compare: the cold one is what was asked for."""
    if name == "spanish":
        assert cold["C gettext"][0] == "_Cancelar"
    elif name == "arabic":
        assert cold["direction"][0] == "rtl"
    elif name == "nepali":
        assert cold["time"][0][0] == "+0545"
        assert cold["language"][0] == "ne-np"
    elif name == "large" and "sugar person" in cold:
        assert cold["style"]["STANDARD_ICON_SIZE"] == 82
        assert cold["style"]["FONT_SIZE"] == 18.0
        assert cold["sugar person"] == ["Ana", "#008009,#FF2B34"]


def test_siblings_draw_nothing_alike(sugar: Session, sugared: Path) -> None:
    drawn = [
        state(sugar, sugared, "sugar3", "fork", PERSONS["plain"])["random"]
        for _ in range(2)
    ]
    assert not set(drawn[0]) & set(drawn[1])
