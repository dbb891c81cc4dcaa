# SPDX-License-Identifier: GPL-3.0-or-later
"""Icons of the system's are drawn once, by a child of the zygote's.

Sugar's toolkit draws each icon from its SVG file in every process that shows it, in 0.3
to 1 ms. What it drew is kept here, by the file's path, its text and the size; the file
is read at each use, and what is kept counts only if that is the text that was drawn. So
there is nothing to go stale. Only pictures are kept that depend on nothing else:
without text (fonts, language) or other files, in no unit of length but pixels, without
a person's colours; and of files that root alone can have written.

The child parses and draws; it has no rights, and the zygote takes pixels from it that
it does not look at. Programs have them in their own copy of memory: none can write to
what another sees.

What has text in it depends on fonts and language. A stem that waits in a session has
them, and draws those while it waits (`draw_lettered`), if the text comes out the same
on any display.

Hazards: none; it answers none and must add none. It is the code of one function that is
another (`unseen.exchange`); whatever is not as usual is left to the code that was
there.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from os.path import exists
from posix import stat  # a program may replace those of os
from typing import Any

from isolauncher.zygote import sets, unseen
from isolauncher.zygote.handover import Start, World, shelf
from isolauncher.zygote.handover.bytecode import files_of_root

MODULE = "sugar3.graphics.icon"
SIZES = (55, 39)
"""`style.STANDARD_ICON_SIZE` at the two scalings that Sugar has."""
THEME = "/usr/share/icons/sugar/scalable/actions"
MOST = 400
"""Files that are drawn, at most."""
_LARGEST = 64 * 1024
_PATIENCE_S = 20
_BYTES = 4
"""Of a pixel."""
_HEAD = struct.Struct("<5QIIII")
"""What stat(2) said; bytes of path, text and picture, which follow; and the size."""

_DEPENDS = re.compile(
    r"<(text|tspan|switch|image|foreignObject|style|script)\b|SYSTEM|systemLanguage"
    r"|href\s*=\s*[\"'](?!#)|@import|xi:include|url\(\s*[\"']?(?!#)"
)
"""What of a picture comes from elsewhere, or may."""
_LETTERS = re.compile(r"<(text|tspan)\b")
_FONT = re.compile(r"\b(font-[a-z]+)\s*[:=]\s*[\"']?([^;\"'<>]*)")
MOST_LETTERED = 48

_Stamp = tuple[int, ...]
_store: dict[str, tuple[_Stamp, str, dict[int, bytes]]] = {}
_lettered: list[str] = []
"""Paths of those with text in them: first some in which each font occurs."""


def settle(world: World) -> World:
    _store.clear()
    _lettered.clear()
    module: Any = sys.modules.get(MODULE)
    if module is not None and MODULE in world.shelved:
        unseen.exchange(
            module._IconBuffer.get_surface, _get_surface, DRAWN=_drawn(module)
        )
    return world


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it shows an icon."""


def _get_surface(self, sensitive=True, widget=None):  # type: ignore[no-untyped-def]
    # A model for `unseen.exchange`, which says what the names in capitals are.
    drawn = "DRAWN"
    plain = "PLAIN"
    surface = drawn(self, sensitive)  # type: ignore[operator]
    if surface is None:
        return plain(self, sensitive, widget)  # type: ignore[operator]
    return surface


def _drawn(module: Any) -> Any:
    """What gives a new picture that is known, and else says None."""
    kind, loader = module._IconBuffer, module._SVGLoader
    load, key = loader.load, kind._get_cache_key
    cairo, gtk3, store = module.cairo, module.Gtk, _store

    def drawn(buffer: Any, sensitive: object) -> Any:
        width = buffer.width
        if (
            sensitive is not True
            or type(buffer) is not kind
            or type(width) is not int
            or buffer.height != width
            or width not in SIZES
            or buffer.fill_color
            or buffer.stroke_color
            or buffer.cache
            or buffer.pixbuf is not None
            or buffer.badge_name is not None
            or buffer.background_color is not None
            or loader.load is not load
            or type(kind._loader) is not loader
            or kind._get_cache_key is not key
        ):
            return None
        known = buffer._get_cache_key(sensitive)
        if known in kind._surface_cache:
            return None
        path = buffer.file_name
        if not path:
            name = buffer.icon_name
            found = name and gtk3.IconTheme.get_default().lookup_icon(name, width, 0)
            path = found and found.get_filename()
            # It may say where a badge goes.
            if not path or exists(path.replace(".svg", ".icon")):
                return None
        kept = store.get(path)
        if kept is None or width not in kept[2] or path in kind._loader._cache:
            return None
        try:
            if _stamp(path) != kept[0]:
                return None
            with open(path, "r") as file:  # noqa: UP015 (an audit hook is told so)
                text = file.read()
        except (OSError, ValueError):
            return None
        if text != kept[1]:
            return None
        surface = cairo.ImageSurface(cairo.FORMAT_ARGB32, width, width)
        surface.get_data()[:] = decompress(kept[2][width])
        surface.mark_dirty()
        kind._surface_cache[known] = surface
        return surface

    decompress = zlib.decompress
    for function in (drawn, _stamp):
        unseen.hide(function)
    return drawn


# Drawing them ----------------------------------------------------------------------


def draw(world: World, nobody: int | None) -> None:
    """In the zygote, once it has settled: have a child draw them.

    ``nobody``: whose rights the child has; None: its own, who has none.
    """
    if MODULE not in world.shelf:
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            if nobody is not None:
                os.setresgid(nobody, nobody, nobody)
                os.setresuid(nobody, nobody, nobody)
            signal.alarm(_PATIENCE_S)
            _draw(world, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    at = 0
    while at + _HEAD.size <= len(data):
        *numbers, size = _HEAD.unpack_from(data, at)
        stamp, lengths = tuple(numbers[:-3]), numbers[-3:]
        at += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        if at > len(data):
            break  # it has ended before it was done
        path, text, picture = parts
        known = _store.setdefault(os.fsdecode(path), (stamp, text.decode(), {}))
        if size:
            known[-1][size] = picture
        else:
            _lettered.append(os.fsdecode(path))
    drawn = {name: len(sizes) for name, (*_, sizes) in _store.items()}
    for name, sizes in drawn.items():
        if sizes < len(SIZES) and name not in _lettered:
            del _store[name]


def _draw(world: World, writer: int) -> None:
    # What libraries have to say of a nobody without a home is no administrator's worry.
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for stream in (1, 2):
        os.dup2(null, stream)
    icon: Any = world.shelf[MODULE]
    rsvg: Any = world.shelf["gi.repository.Rsvg"]
    with shelf.lent(), open(writer, "wb") as file:

        def tell(path: str, stamp: _Stamp, text: str, size: int, data: bytes) -> None:
            parts = (os.fsencode(path), text.encode(), data)
            file.write(_HEAD.pack(*stamp, *map(len, parts), size))
            file.writelines(parts)

        for each in _worthy():
            pictures = _pictures(icon, rsvg, each[0])
            for size, data in zip(SIZES, pictures, strict=False):
                tell(*each, size, zlib.compress(data, 1))
        for each in _with_text():
            if _pictures(icon, rsvg, each[0]):
                tell(*each, 0, b"")


def _pictures(icon: Any, rsvg: Any, path: str) -> list[bytes]:
    """Of each size; none where it cannot be drawn, or would be another elsewhere."""
    try:
        pictures = [_picture(icon, path, size) for size in SIZES]
        # In no unit that is other pixels on another display.
        rsvg.set_default_dpi_x_y(200.0, 300.0)
        again = _picture(icon, path, SIZES[-1])
    except Exception:  # whoever shows it will be told
        return []
    finally:
        rsvg.set_default_dpi_x_y(-1.0, -1.0)
    return pictures if again == pictures[-1] else []


def draw_lettered(world: World, is_over: Callable[[], bool]) -> None:
    """In a stem that waits in a session; no other begins once ``is_over``."""
    icon: Any = world.shelf[MODULE]
    size = world.shelf["sugar3.graphics.style"].STANDARD_ICON_SIZE  # type: ignore[attr-defined]
    for path in _lettered:
        if is_over():
            return
        stamp, text, sizes = _store[path]
        try:
            with open(path) as file:
                if _stamp(path) != stamp or file.read() != text:
                    continue
            picture = _picture(icon, path, size)
        except Exception:  # noqa: S112 (whoever shows it will be told)
            continue
        sizes[size] = zlib.compress(picture, 1)


def _picture(icon: Any, path: str, size: int) -> bytes:
    buffer = icon._IconBuffer()
    buffer.file_name, buffer.width, buffer.height = path, size, size
    icon._IconBuffer._surface_cache = icon.LRU(1)
    surface = buffer.get_surface()
    if surface.get_stride() != size * _BYTES:
        raise ValueError(path)
    return bytes(surface.get_data())


def _stamp(path: str) -> _Stamp:
    seen = stat(path)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _worthy() -> Iterator[tuple[str, _Stamp, str]]:
    """Those that depend on nothing else."""
    drawable = (icon for icon in _shown() if not _DEPENDS.search(icon[2]))
    return islice(drawable, MOST)


def _with_text() -> list[tuple[str, _Stamp, str]]:
    """Those that depend on fonts and language too; each font and alphabet first."""
    known: set[object] = set()
    first: list[tuple[str, _Stamp, str]] = []
    more: list[tuple[str, _Stamp, str]] = []
    for icon in _shown():
        text = icon[2]
        if _LETTERS.search(text) and not _DEPENDS.search(_LETTERS.sub("", text)):
            # Libraries look for a font by blocks of characters.
            has = {*_FONT.findall(text), *(ord(letter) >> 8 for letter in text)}
            (more if has <= known else first).append(icon)
            known |= has
    return [*first, *more][:MOST_LETTERED]


def _shown() -> Iterator[tuple[str, _Stamp, str]]:
    """Icons that the system's activities name."""
    named = set(_named(files_of_root(sets.BUNDLES, ".py")))
    for path in files_of_root((THEME, *sets.BUNDLES), ".svg"):
        if os.path.basename(path).removesuffix(".svg") in named:
            try:
                stamp = _stamp(path)
                with open(path) as file:
                    text = file.read(_LARGEST + 1)
            except (OSError, ValueError):
                continue
            if len(text) <= _LARGEST:
                yield path, stamp, text


_QUOTED = re.compile(r"[\"']([\w.-]{1,64})[\"']")


def _named(paths: Iterable[str]) -> Iterator[str]:
    toolkit = [
        str(getattr(module, "__file__", None))
        for name, module in tuple(sys.modules.items())
        if name.startswith("sugar3.")
    ]
    for path in (*paths, *toolkit):
        try:
            with open(path, encoding="utf-8") as file:
                source = file.read(_LARGEST * 8)
        except (OSError, ValueError):
            continue
        yield from _QUOTED.findall(source)
