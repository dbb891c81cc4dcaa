# SPDX-License-Identifier: GPL-3.0-or-later
"""A text's translation is found in fewer steps, each time anew.

Hazards: none; it answers none and must add none. `gettext` looks for the catalogues of
a domain at every text that it is to translate, and copies those that there are: 75 µs,
of which a start of Sugar's takes some 200. What it goes by is looked at as ever: the
variables, who normalizes a locale, whether a file is there. What is kept is which
directories of languages there were, for as long as the directory above has not changed,
as importlib keeps what is in a directory; and a copy of catalogues that are as they
were when it was made.

It is the code of `gettext.find` and `gettext.dgettext` that is another, so that nothing
else is; their frames are unseen, and whatever is not as usual is left to the code that
was there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from os import fsdecode
from posix import lstat, stat  # a program may replace those of os
from time import time
from types import FunctionType
from typing import Any

from isolauncher.zygote import unseen
from isolauncher.zygote.handover import Start, World

_VARIABLES = (b"LANGUAGE", b"LC_ALL", b"LC_MESSAGES", b"LANG")
_LANGPACK = "/usr/share/locale-langpack"
_SETTLED_S = 2
"""A directory that was changed later than so long ago may change unseen."""
_AS_DGETTEXT = object()
_OFTEN = 20
_MOST = 64


def settle(world: World) -> World:
    module = sys.modules.get("gettext")
    find = getattr(module, "find", None)
    # Debian's has a second place where it looks.
    if type(find) is FunctionType and _LANGPACK in find.__code__.co_consts:
        _replace(module)
        for _ in range(_OFTEN):
            find("nobody", "/nonexistent", all=True)
            module.dgettext("nobody", "")  # type: ignore[union-attr]
    return world


def apply(start: Start, world: World) -> None:
    """Nothing is left to do in the child until it translates."""


def _replace(module: Any) -> None:
    search = _search(module)
    unseen.exchange(module.find, _find, SEARCH=search)
    unseen.exchange(module.dgettext, _dgettext, TRANSLATE=_translate(module, search))


# Models for `unseen.exchange`, which says what the names in capitals are.


def _find(domain, localedir=None, languages=None, all=False):  # type: ignore[no-untyped-def]
    search = "SEARCH"
    plain = "PLAIN"
    found = search(domain, localedir, languages, all)  # type: ignore[operator]
    if found is None:
        return plain(domain, localedir, languages, all)  # type: ignore[operator]
    return found


def _dgettext(domain, message):  # type: ignore[no-untyped-def]
    translate = "TRANSLATE"
    plain = "PLAIN"
    text = translate(domain, message)  # type: ignore[operator]
    if text is None:
        return plain(domain, message)  # type: ignore[operator]
    return text


def _translate(
    module: Any, search: Callable[..., list[str] | None]
) -> Callable[[Any, Any], str | None]:
    """What translates in the usual case, and else says None."""
    names, there = module.__dict__, sys.modules
    kind, base = module.GNUTranslations, module.NullTranslations
    abspath, beside = os.path.abspath, f"{os.path.dirname(module.__file__)}/copy.py"
    own = [(each, _content(each)) for each in (kind, base)]
    # By their paths: the catalogues, what was in each, and what is asked instead.
    kept: dict[tuple[str, ...], tuple[list[Any], list[dict[str, Any]], Any]] = {}

    def is_usual() -> bool:
        return (
            names.get("GNUTranslations") is kind
            and type(names.get("_translations")) is dict
            and type(copy := getattr(there.get("copy"), "copy", None)) is FunctionType
            and copy.__code__.co_filename == beside
            and os.path.abspath is abspath
            and all(_content(each) == was for each, was in own)
        )

    def join(catalogues: list[Any]) -> Any:
        """As `gettext.translation` would."""
        copy = there["copy"].copy
        result, *more = [copy(each) for each in catalogues]
        for each in more:
            result.add_fallback(each)
        return result

    def translate(domain: Any, message: Any) -> str | None:
        if type(message) is not str:
            return None
        files = search(domain, None, None, _AS_DGETTEXT)
        if not files:
            return message if files == [] else None
        if not is_usual():
            return None
        key, known = tuple(files), names["_translations"]
        catalogues = [known.get((kind, file)) for file in files]
        asked = kept.get(key)
        if (
            asked is None
            or asked[0] != catalogues
            or asked[1] != [vars(each) for each in catalogues]
        ):
            for file, each in zip(files, catalogues, strict=True):
                if type(each) is not kind or abspath(file) != file:
                    return None
                if each._fallback is not None:
                    return None  # which `join` would add to
            was = [dict(vars(each)) for each in catalogues]
            asked = kept[key] = catalogues, was, join(catalogues)
        text: str = asked[2].gettext(message)
        return text

    for function in (is_usual, join, translate, _content):
        unseen.hide(function)
    return translate


def _content(kind: type) -> dict[str, object]:
    """What is in a class, but for what a first copy writes there (copyreg)."""
    return {**kind.__dict__, "__slotnames__": None}


def _search(module: Any) -> Callable[..., list[str] | None]:
    """What finds the catalogues in the usual case, and else says None."""
    names, there = module.__dict__, sys.modules
    environ: Any = os.environ
    path, exists, join = os.path, os.path.exists, os.path.join
    expand, find, translation = module._expand_lang, module.find, module.translation
    normalize = there["locale"].normalize
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    held: dict[tuple[str, tuple[str, ...]], tuple[object, list[str | None]]] = {}

    def directories(top: str, languages: tuple[str, ...]) -> list[str | None]:
        """For each language where its catalogues are; None if that is not there."""
        try:
            now = stat(top)
        except (OSError, ValueError):
            return [None] * len(languages)
        is_ = now.st_dev, now.st_ino, now.st_ctime_ns
        was = held.get((top, languages))
        if was is None or was[0] != is_:
            settled = now.st_ctime < time() - _SETTLED_S
            was = (
                is_,
                [
                    None if settled and _is_missing(one) else f"{one}/LC_MESSAGES/"
                    for one in (join(top, language) for language in languages)
                ],
            )
            if len(held) > _MOST:
                held.clear()
            held[top, languages] = was
        return was[1]

    def search(domain: Any, top: Any, languages: Any, all: Any) -> list[str] | None:
        if type(domain) is not str or "/" in domain:
            return None
        if all is _AS_DGETTEXT:
            if names["translation"] is not translation or names["find"] is not find:
                return None
            top, all = names["_localedirs"].get(domain), True
        locale = there.get("locale")
        if (
            languages is not None
            or all is not True
            or names["os"] is not os
            or os.path is not path
            or os.environ is not environ
            or path.exists is not exists
            or path.join is not join
            or names["_expand_lang"] is not expand
            or locale is None
            or locale.normalize is not normalize
        ):
            return None
        if top is None:
            top = names["_default_localedir"]
        if type(top) is not str or not top:
            return None
        words: list[str] = []
        for variable in _VARIABLES:
            value = environ._data.get(variable)
            if value:
                words = fsdecode(value).split(":")
                break
        if "C" not in words:
            words.append("C")
        asked = tuple([normalize(word) for word in words])
        order = known.get(asked)
        if order is None:
            order = known[asked] = _order(expand, words)
        name, found = f"{domain}.mo", []
        for pair in zip(
            directories(top, order), directories(_LANGPACK, order), strict=True
        ):
            for place in pair:
                if place is not None and exists(place + name):
                    found.append(place + name)
        return found

    for function in (directories, search):
        unseen.hide(function)
    return search


def _order(expand: Callable[[str], list[str]], words: list[str]) -> tuple[str, ...]:
    """The languages in the order in which they are looked for."""
    order: list[str] = []
    for word in words:
        order += (one for one in expand(word) if one not in order)
    return tuple(order[: order.index("C")] if "C" in order else order)


def _is_missing(path: str) -> bool:
    try:
        lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


for _function in (_order, _is_missing):
    unseen.hide(_function)
