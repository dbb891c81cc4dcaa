# SPDX-License-Identifier: GPL-3.0-or-later
"""A text is translated as in a cold start, whatever there is and whatever changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import twins

LOOKS = """
import gettext, inspect, locale, os, struct, sys, time, traceback

def write(language, domain, text, top="tree"):
    place = f"{top}/{language}/LC_MESSAGES"
    os.makedirs(place, exist_ok=True)
    pairs = [("", "Content-Type: text/plain; charset=UTF-8\\n"), ("Keep", text)]
    first, second = [], []
    data, at = b"", 28 + 16 * len(pairs)
    for column, table in ((0, first), (1, second)):
        for pair in pairs:
            word = pair[column].encode()
            table += [len(word), at + len(data)]
            data += word + b"\\0"
    head = [0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0]
    numbers = [*head, *first, *second]
    with open(f"{place}/{domain}.mo", "wb") as file:
        file.write(struct.pack(f"<{len(numbers)}I", *numbers) + data)

def tell(what, function, *words, **more):
    try:
        print(what, repr(function(*words, **more)))
    except Exception:
        print(what, traceback.format_exc())

def look(what, top="tree"):
    gettext.bindtextdomain("words", top)
    for domain in ("words", "others", "x/y", "", "n\\0l", "\\udc80"):
        tell(what, gettext.find, domain, top, None, True)
        tell(what, gettext.find, domain, top, all=True)
        tell(what, gettext.find, domain, top)
        tell(what, gettext.dgettext, domain, "Keep")
    tell(what, gettext.find, "words", top, ["de", "es"], all=True)
    tell(what, gettext.gettext, "Keep")
    tell(what, gettext.ngettext, "Keep", "Keeps", 2)
    tell(what, lambda: type(gettext.translation("words", top, fallback=True)))

os.makedirs("tree", exist_ok=True)
look("nothing")
look("nowhere", "nowhere")
tell("default", gettext.find, "words", None, None, True)
tell("dangling", os.symlink, "../behind", "tree/de")
time.sleep(2.2)
look("settled")
look("settled, once more")
write("es", "words", "Guardar")
look("came")
write("es", "others", "Otros")
look("one more in a directory that was there")
write("de", "words", "Behalten", "spare")
os.rename("spare/de", "behind")
look("where a link led")
for name in ("LANGUAGE", "LC_ALL", "LANG"):
    was = os.environ.get(name)
    os.environ[name] = "es_AR.UTF-8:de"
    look(name)
    del os.environ[name]
    look(f"no {name}")
    if was is not None:
        os.environ[name] = was
os.environ["LANGUAGE"] = "pt:C:es"
look("nothing behind C")
os.environ["LANGUAGE"] = "de_AT.ISO-8859-1@euro"
look("all parts")
locale.locale_alias["odd"] = "es_ES.UTF-8"
os.environ["LANGUAGE"] = "odd"
look("an alias of its own")
expand, exists, find = gettext._expand_lang, os.path.exists, gettext.find
gettext._expand_lang = lambda name: ["es"]
look("who expands")
gettext._expand_lang = expand
os.path.exists = lambda path: print("asked", path) or exists(path)
look("who looks")
os.path.exists = exists
gettext.find = lambda *words, **more: print("found", words, more) or []
look("who finds")
gettext.find = find
translation = gettext.translation
gettext.translation = lambda *words, **more: {}[words]
tell("who translates", gettext.dgettext, "words", "Keep")
gettext.translation = translation
for odd in (1, None, b"words", []):
    tell("odd", gettext.find, odd, "tree", None, True)
    tell("odd", gettext.dgettext, odd, "Keep")
    tell("odd", gettext.find, "words", odd, None, True)
    tell("odd", gettext.find, "words", "tree", None, odd)
for function in (find, gettext.dgettext):
    print(inspect.signature(function), inspect.getsource(function))
    print(function.__module__, function.__defaults__, function.__code__.co_filename)

import copy
os.environ["LANGUAGE"] = "es_AR:es"
write("es_AR", "words", "Guardalo")
kind = gettext.GNUTranslations

class Word(str):
    def __hash__(self):
        print("hashed")
        return hash("Keep")

def ask(what):
    for word in ("Keep", "Other", "", Word("Keep"), b"Keep", None, 1, []):
        tell(what, gettext.dgettext, "words", word)
        tell(what, gettext.gettext, word)
    read = gettext._translations.values()
    print(what, len(read), sorted(len(vars(each)) for each in read if each))

ask("several")
gettext.bindtextdomain("words", os.path.abspath("tree"))
ask("several, and where is known")
ask("several, once more")
read = gettext._translations.items()
first, second = (each for (_, path), each in read if "tree/es" in path)
for each in (first, second):
    each._catalog["Other"] = f"Otro {each is first}"
    ask("more in one")
    each._catalog = {"Keep": "another"}
    ask("all of one")
    each._info["x"] = 1
    ask("in what is common")
    each._charset, each.odd = "latin-1", True
    ask("an attribute")
first._fallback = gettext.NullTranslations()
ask("one behind it")
first._fallback = None
for place, name in ((kind, "gettext"), (kind, "add_fallback"), (kind, "__copy__"),
                    (gettext.NullTranslations, "gettext"), (kind, "__getattr__"),
                    (copy, "copy"), (os.path, "abspath"), (gettext, "GNUTranslations")):
    was = vars(place).get(name)
    setattr(place, name, lambda *words: print("called", len(words)) or was(*words))
    ask(f"another {name}")
    delattr(place, name)
    if was:
        setattr(place, name, was)
    ask("no more")
gettext._translations.clear()
ask("read anew")
gettext._translations = dict.fromkeys(gettext._translations)
ask("none of them")
gettext._translations = {}
write("es_AR", "words", "Lo guardo")
ask("written anew")
os.remove("tree/es_AR/LC_MESSAGES/words.mo")
ask("one less")

os.chmod("tree", 0)
look("nobody may")
os.chmod("tree", 0o700)
"""

ACTIVE = """
import gettext
asked = gettext.find, gettext.dgettext
print([any(map(callable, function.__code__.co_consts)) for function in asked])
"""

LANGUAGES: dict[str, dict[str, str]] = {
    "none": {},
    "spanish": {"LANG": "es_ES.UTF-8"},
    "several": {"LANGUAGE": "pt_BR:de:es"},
    "C": {"LANGUAGE": "C"},
    "empty": {"LANGUAGE": "", "LC_MESSAGES": "es"},
}


@pytest.mark.parametrize("languages", LANGUAGES)
def test_translated_as_in_a_cold_start(tmp_path: Path, languages: str) -> None:
    script = tmp_path / "looks.py"
    script.write_text(LOOKS)
    environment = {**twins.ENVIRONMENT, "LC_ALL": "", **LANGUAGES[languages]}
    environment["LC_CTYPE"] = "C.UTF-8"
    ended = []
    for place, run in (("cold", twins.cold), ("forked", twins.forked)):
        (tmp_path / place).mkdir()
        ended.append(
            run(str(script), environment=environment, cwd=str(tmp_path / place))
        )
    cold, forked = ended
    told = forked.out.splitlines()
    assert told == cold.out.splitlines()
    assert (forked.status, forked.err) == (cold.status, cold.err)
    assert forked.status == 0, forked.err.decode()
    assert len(told) > 500


def test_it_is_in_force(tmp_path: Path) -> None:
    """Else the one above would compare a thing with itself."""
    script = tmp_path / "active.py"
    script.write_text(ACTIVE)
    cold, forked = twins.both(str(script))
    assert cold.out == b"[False, False]\n"
    assert forked.out == b"[True, True]\n"
