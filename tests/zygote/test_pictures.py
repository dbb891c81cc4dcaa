# SPDX-License-Identifier: GPL-3.0-or-later
"""An icon that was drawn ahead is the one that a cold start draws."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desktop import Desktop, desktop, missing
from support.powers import installed, need
from support.sugar import schemas

from isolauncher.zygote import sets
from isolauncher.zygote.handover import pictures

from . import twins
from .test_warm import cold, environment_of, warmed, written

LOOKS = """\
import glob, hashlib, json, sys
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
from sugar3.graphics import icon
from sugar3.graphics.xocolor import XoColor
Gtk.Settings.get_default().set_property("gtk-icon-theme-name", "sugar")
heard = []
sys.addaudithook(lambda e, a: heard.append((str(a[0]), a[1])) if e == "open" else None)
told = {}
def look(name, sensitive=True, **how):
    buffer = icon._IconBuffer()
    for key, value in how.items():
        setattr(buffer, key, value)
    heard.clear()
    icon._IconBuffer._surface_cache = icon.LRU(100)
    try:
        surface = buffer.get_surface(sensitive)
    except Exception as error:
        told[name] = repr(error)
        return
    if surface is None:
        told[name] = None
        return
    again = buffer.get_surface(sensitive)
    told[name] = [
        hashlib.sha256(bytes(surface.get_data())).hexdigest(), surface is again,
        surface.get_width(), surface.get_height(), surface.get_stride(),
        str(surface.get_format()), surface.get_device_offset(),
        [h for h in heard if h[0].endswith(".svg")],
    ]
paths = sorted(
    glob.glob("/usr/share/sugar/activities/*/icons/*.svg")
    + glob.glob("/usr/share/icons/sugar/scalable/actions/*.svg"))
for path in paths:
    for size in (55, 39):
        look(f"{path} {size}", file_name=path, width=size, height=size)
one = "/usr/share/icons/sugar/scalable/actions/edit-copy.svg"
size = {"width": 55, "height": 55}
for name in ("edit-copy", "activity-stop", "no-such-icon", "computer-xo"):
    look(f"theme {name}", icon_name=name, **size)
    look(f"badge {name}", icon_name=name, badge_name="emblem-busy", **size)
look("sent by both", icon_name="activity-stop", file_name=one, **size)
look("grey", False, file_name=one, **size)
look("truthy", 1, file_name=one, **size)
look("fill", file_name=one, fill_color="#ff0000", **size)
look("stroke", file_name=one, stroke_color="#00ff00", **size)
look("background", file_name=one, background_color=Gdk.Color(0, 0, 65535), **size)
look("small", file_name=one, width=33, height=33)
look("its own size", file_name=one)
look("floats", file_name=one, width=55.0, height=55.0)
look("not square", file_name=one, width=55, height=39)
look("kept", file_name=one, cache=True, **size)
look("kept in the loader", file_name=one, **size)
class Mine(icon._IconBuffer):
    def _load_svg(self, file_name):
        return super()._load_svg(paths[0])
icon._IconBuffer._surface_cache = icon.LRU(100)
icon._IconBuffer._loader = icon._SVGLoader()
surface = Mine()
surface.file_name, surface.width, surface.height = one, 55, 55
told["of another class"] = hashlib.sha256(
    bytes(surface.get_surface().get_data())).hexdigest()
icon._SVGLoader.load = lambda self, *words: icon.Rsvg.Handle.new_from_file(paths[1])
look("another loader", file_name=one, **size)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Desktop]:
    need(missing(), installed("sugar3.activity.activity"))
    with schemas(), desktop() as made:
        yield made


@pytest.fixture(scope="module")
def zygote(made: Desktop) -> Iterator[twins.Zygote]:
    with twins.sugared(**made.person()) as started:
        yield started


def told(ended: twins.Ended) -> dict[str, Any]:
    assert ended.err == b"" or b"WARNING" in ended.err, ended.err.decode()
    found: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def alone(made: Desktop) -> dict[str, Any]:
    script = written(made, "looks.py", LOOKS)
    return told(cold(made, script, environment=environment_of(made)))


WITHOUT = "pictures._store.clear()"
COUNT = "print(len(pictures._store))"
ANOTHER_FILE = """
for path, (stamp, text, sizes) in pictures._store.items():
    pictures._store[path] = (*stamp[:-1], 1), text, {size: b"" for size in sizes}
"""
ANOTHER_TEXT = """
for path, (stamp, text, sizes) in pictures._store.items():
    pictures._store[path] = stamp, text + " ", {size: b"" for size in sizes}
"""


@pytest.mark.parametrize("before", [COUNT, WITHOUT, ANOTHER_FILE, ANOTHER_TEXT])
def test_each_is_as_it_is_drawn_in_a_cold_start(
    made: Desktop, zygote: twins.Zygote, alone: dict[str, Any], before: str
) -> None:
    """Also where what was drawn is not the file's text any more."""
    script = str(made.top / "looks.py")
    ended = warmed(zygote, script, environment=environment_of(made), before=before)
    other = told(ended)
    assert len(alone) > 500
    if before == ANOTHER_TEXT:
        # It has to be read to be seen.
        other = {n: v[:-1] if isinstance(v, list) else v for n, v in other.items()}
        alone = {n: v[:-1] if isinstance(v, list) else v for n, v in alone.items()}
    assert {n: (v, other.get(n)) for n, v in alone.items() if other.get(n) != v} == {}
    if before == COUNT:
        assert int(ended.out.split()[0]) > 100


WHITE = """
import zlib
for _, _, sizes in pictures._store.values():
    for size in sizes:
        sizes[size] = zlib.compress(bytes([255]) * (4 * size * size))
"""


def test_they_are_what_is_shown(
    made: Desktop, zygote: twins.Zygote, alone: dict[str, Any]
) -> None:
    """Else the one above would compare a thing with itself."""
    script = str(made.top / "looks.py")
    environment = environment_of(made)
    other = told(warmed(zygote, script, environment=environment, before=WHITE))
    changed = [name for name, value in alone.items() if other[name] != value]
    assert len(changed) > 200
    assert "theme edit-copy" in changed
    plain = ("grey", "fill", "stroke", "background", "small", "its own size", "floats")
    others = ("not square", "kept", "another loader", "of another class", "truthy")
    assert not {*plain, *others, "kept in the loader"} & {*changed}


@pytest.mark.parametrize(
    ("text", "depends"),
    [
        ("<svg><path d='M0 0'/></svg>", False),
        ("<svg><use href='#a'/><path fill='url(#b)'/></svg>", False),
        ("<svg><text>x</text></svg>", True),
        ("<svg><tspan/></svg>", True),
        ("<svg><image/></svg>", True),
        ("<svg><switch/></svg>", True),
        ("<svg><g systemLanguage='es'/></svg>", True),
        ("<svg><use xlink:href='other.svg#a'/></svg>", True),
        ('<svg><use xlink:href = "data:x"/></svg>', True),
        ("<svg fill='url(other.svg#a)'/>", True),
        ("<svg><style>@import 'x';</style></svg>", True),
        (
            "<!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>",
            True,
        ),
        ("<svg><xi:include/></svg>", True),
    ],
)
def test_what_comes_from_elsewhere_is_not_drawn_ahead(text: str, depends: bool) -> None:
    assert bool(pictures._DEPENDS.search(text)) is depends


@pytest.mark.skipif(os.geteuid() != 0, reason="whose files they are")
def test_only_files_of_root_that_somebody_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.bundles import system_directory

    svg = "<svg width='10' height='10'/>"
    with system_directory() as place:
        for name in ("named", "nameless", "writable", "a-persons", "large"):
            (place / f"{name}.svg").write_text(svg)
        (place / "a.py").write_text(
            "'named', \"writable\", 'a-persons', 'large', 'lead'"
        )
        (place / "writable.svg").chmod(0o666)
        os.chown(place / "a-persons.svg", 1000, 1000)
        (place / "large.svg").write_text(svg + " " * pictures._LARGEST)
        (place / "lead.svg").symlink_to(place / "named.svg")
        monkeypatch.setattr(sets, "BUNDLES", (str(place),))
        monkeypatch.setattr(pictures, "THEME", str(tmp_path))
        assert [f[::2] for f in pictures._worthy()] == [(f"{place}/named.svg", svg)]


@pytest.mark.skipif(os.geteuid() != 0, reason="whose files they are")
def test_each_font_is_drawn_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.bundles import system_directory

    texts = {
        "a": "<svg><text font-size='9' font-family='Sans'>a</text></svg>",
        "b": "<svg><text style='font-family: Sans; font-size:9'>b</text></svg>",
        "c": "<svg><text font-size='9' font-family='Serif'>c</text></svg>",
        "d": "<svg><text font-size='9' font-family='Sans'>\N{GREEK SMALL LETTER PI}"
        "</text></svg>",
        "e": "<svg><text font-size='8'>e</text><image href='e.png'/></svg>",
        "f": "<svg width='7'/>",
        "g": "<svg><text font-size='7' font-family='Sans'>g</text></svg>",
    }
    with system_directory() as place:
        (place / "a.py").write_text(repr(list(texts)))
        for name, text in texts.items():
            (place / f"{name}.svg").write_text(text)
        monkeypatch.setattr(sets, "BUNDLES", (str(place),))
        monkeypatch.setattr(pictures, "THEME", str(tmp_path))
        drawn = [os.path.basename(path)[0] for path, *_ in pictures._with_text()]
    assert drawn == ["a", "c", "d", "g", "b"]
