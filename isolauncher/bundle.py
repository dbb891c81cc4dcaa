# SPDX-License-Identifier: GPL-3.0-or-later
"""activity.info and permissions.info → a frozen Bundle; runs nothing in it.

    `parse`         what an opener found (bundledir.py) → Bundle
    `command`       a bundle and what is asked of it → argv
    `environment`   the variables that Sugar adds for a bundle

Pure: opens nothing and knows no machine. A bundle means here what it means to Sugar:
sugar3's activitybundle.ActivityBundle reads it, activityfactory.get_command and
get_environment start it (0.120). Where Sugar would go on with something that no
honest bundle has, this refuses. A bundle says who it is; nothing here believes it.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NoReturn

from . import inifile
from .errors import BundleError, RequestError
from .request import valid_id

INFO = "activity/activity.info"
PERMISSIONS = "activity/permissions.info"
MAX_BYTES = 64 * 1024
MAX_ID = 128
MAX_PATH = 1024
MAX_SHORT = 256
MAX_EXEC = 1024
MAX_LIST = 16 * 1024
MAX_PARTICIPANTS = 1_000_000
MAX_WISHES = 64
MAX_ARGUMENT = 8 * 1024

Installer = Literal["system", "user"]

# It becomes the name of a directory, an element of a path and an option's value.
# Those that exist are written like org.laptop.Calculate or org.sugarlabs.web-native.
_ID = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_VERSION = re.compile(r"\d+(\.\d+)*([-~].[a-zA-Z]*)?")
# C0, DEL, C1 and Unicode's own two line ends: nothing that a name is written with.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_IN_TEXT = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")
# os.path.expandvars.
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bundle's directory as an opener found it.

    ``path`` is the kernel's name for it; ``why`` says what decided ``installed_by``.
    ``permissions`` None: there is no such file.
    """

    path: str
    installed_by: Installer
    why: str
    info: bytes
    permissions: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A line of permissions.info: a right asked for, with its arguments, unjudged."""

    words: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What Sugar knows of an activity before it runs, untranslated.

    ``exec`` is as written: `words` splits it. ``icon`` is a name without its suffix.
    ``mime_types`` and ``tags`` have the empty texts that Sugar makes of nothing.
    ``max_participants`` 0: not shared. ``permissions`` is the path of the file that
    has the ``wishes``, there or not.
    """

    bundle_id: str
    name: str
    version: str
    exec: str
    icon: str | None
    mime_types: tuple[str, ...]
    tags: tuple[str, ...]
    summary: str | None
    description: str | None
    license: str | None
    show_launcher: bool
    single_instance: bool
    max_participants: int
    wishes: tuple[Wish, ...]
    permissions: str
    path: str
    installed_by: Installer
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start, in the words of `isolauncher.plan.Start`.

    ``program_kind`` ``file``: ``path`` names it. ``name``: ``argv[0]`` is sought in
    the PATH that `environment` makes. The directory to start in is the bundle's.
    """

    program_kind: Literal["file", "name"]
    path: str
    argv: tuple[str, ...]


# Reading --------------------------------------------------------------------------


@lru_cache(maxsize=16)
def parse(found: Found) -> Bundle:
    """BundleError, with file and line, at the first thing that is not as it must be."""
    info = _Info(found)
    return Bundle(
        bundle_id=info.bundle_id(),
        name=info.needed("name"),
        version=info.version(),
        exec=info.exec(),
        icon=info.short("icon"),
        mime_types=info.items("mime_types"),
        tags=info.items("tags"),
        summary=info.text("summary"),
        description=info.text("description"),
        license=info.license(),
        show_launcher=info.value("show_launcher", MAX_SHORT) != "no",
        single_instance=info.value("single_instance", MAX_SHORT) == "yes",
        max_participants=info.max_participants(),
        wishes=_wishes(found),
        permissions=posixpath.join(found.path, PERMISSIONS),
        path=found.path,
        installed_by=found.installed_by,
        why=found.why,
    )


class _Info:
    """activity.info, read; each value is checked as it is taken out."""

    def __init__(self, found: Found) -> None:
        self.file = posixpath.join(found.path, INFO)
        text = _decode(found.info, self.file)
        try:
            section = inifile.section(inifile.read(text), "Activity")
        except inifile.Misread as e:
            _refuse(self.file, e.line, e.message, "bundle-bad-info", _FORM)
        if section is None:
            _refuse(self.file, 1, "there is no [Activity]", "bundle-bad-info", _FORM)
        self.section = section

    def line(self, key: str) -> int:
        return self.section[key].line

    def wrong(self, key: str, what: str, code: str, hint: str = "") -> NoReturn:
        _refuse(self.file, self.line(key), f"{key}: {what}", code, hint)

    def value(self, key: str, most: int) -> str | None:
        """As ConfigParser.get has it; None: neither here nor in [DEFAULT]."""
        if key not in self.section:
            return None
        try:
            value = inifile.expand(self.section, key)
        except inifile.Misread as e:
            _refuse(self.file, e.line, f"{key}: {e.message}", "bundle-bad-reference")
        if len(value) > most:
            self.wrong(
                key, f"is longer than {most} characters", "bundle-value-too-long"
            )
        return value

    def short(self, key: str, most: int = MAX_SHORT) -> str | None:
        """One line, without control characters."""
        value = self.value(key, most)
        if value is not None and _CONTROL.search(value):
            self.wrong(key, f"{_shown(value)} is not one line of text", _BAD_VALUE)
        return value

    def text(self, key: str) -> str | None:
        """Any number of lines."""
        value = self.value(key, MAX_BYTES)
        if value is not None and _CONTROL_IN_TEXT.search(value):
            self.wrong(key, "has control characters", _BAD_VALUE)
        return value

    def needed(self, key: str, most: int = MAX_SHORT) -> str:
        value = self.short(key, most)
        return self.missing(key) if value is None else value

    def missing(self, key: str) -> NoReturn:
        _refuse(self.file, 1, f"[Activity] has no {key}", "bundle-bad-info", _FORM)

    def items(self, key: str) -> tuple[str, ...]:
        value = self.value(key, MAX_LIST)
        if value is None:
            return ()
        items = tuple(item.strip() for item in value.strip(";").split(";"))
        if _CONTROL.search("".join(items)):
            self.wrong(key, "has control characters", _BAD_VALUE)
        return items

    def bundle_id(self) -> str:
        old = "bundle_id" not in self.section and "service_name" in self.section
        key = "service_name" if old else "bundle_id"
        value = self.value(key, MAX_BYTES)
        if value is None:
            self.missing(key)
        if not valid_bundle_id(value):
            self.wrong(
                key,
                f"{_shown(value)} is not the id of a bundle",
                "bundle-bad-id",
                f"such as org.laptop.Calculate: letters, digits, '_' and '-', with "
                f"'.' between them, at most {MAX_ID}",
            )
        return value

    def exec(self) -> str:
        # Of before 2009. Sugar makes this command of it, for which no program has
        # been there since Python 2 went.
        old = "exec" not in self.section and "class" in self.section
        if old:
            return "sugar-activity " + self.needed("class", MAX_EXEC)
        value = self.needed("exec", MAX_EXEC)
        if not value.split(" ")[0]:
            self.wrong("exec", "names no program", _BAD_VALUE)
        return value

    def version(self) -> str:
        value = self.short("activity_version")
        if value is None:
            return "0"
        numbers = re.split(r"[-~]", value)[0].split(".")
        if not _VERSION.fullmatch(value) or any(
            len(number) > 1 and number[0] == "0" for number in numbers
        ):
            self.wrong(
                "activity_version",
                f"{_shown(value)} is not a version",
                _BAD_VALUE,
                "such as 7, 1.2.3 or 1.2-peru, and no number begins with 0",
            )
        return value

    def max_participants(self) -> int:
        value = self.value("max_participants", MAX_SHORT)
        if value is None:
            return 0
        try:
            number = int(value)
        except ValueError:
            number = MAX_PARTICIPANTS + 1
        if abs(number) > MAX_PARTICIPANTS:
            what = f"{_shown(value)} is not a number up to {MAX_PARTICIPANTS}"
            self.wrong("max_participants", what, _BAD_VALUE)
        return number

    def license(self) -> str | None:
        if "license" not in self.section:
            return None
        # Sugar asks only whether it is there: a "%" in it means nothing.
        value = self.section["license"].text
        if _CONTROL_IN_TEXT.search(value):
            self.wrong("license", "has control characters", _BAD_VALUE)
        return value


_BAD_VALUE = "bundle-bad-value"
_FORM = "it has [Activity] with name, bundle_id and exec, each written key = value"


def valid_bundle_id(text: str) -> bool:
    return len(text) <= MAX_ID and _ID.fullmatch(text) is not None


def check_path(path: str) -> None:
    """BundleError if a bundle that lies there could not be named to it in full."""
    if not path.startswith("/"):
        what = "has no path that begins at /"
    elif len(path) > MAX_PATH:
        what = f"has a path of more than {MAX_PATH} characters"
    elif any("\ud800" <= char <= "\udfff" for char in path):
        what = "has a path that is not UTF-8"
    elif _CONTROL.search(path):
        what = "has a path with control characters"
    elif ":" in path:
        what = "has a path with a ':', where PATH ends one directory"
    else:
        return
    raise BundleError(
        f"{_shown(path)} {what}", code="bundle-bad-path", hint="rename the directory"
    )


def _wishes(found: Found) -> tuple[Wish, ...]:
    """Rainbow's format: a word a line, perhaps with arguments; "#" begins a comment."""
    if found.permissions is None:
        return ()
    file = posixpath.join(found.path, PERMISSIONS)
    text = _decode(found.permissions, file)
    wishes = []
    for number, line in enumerate(text.split("\n"), 1):
        words = tuple(line.partition("#")[0].split())
        if not words:
            continue
        if _CONTROL.search("".join(words)) or len(line) > MAX_SHORT:
            _refuse(file, number, "this is not a line of words", _BAD_VALUE)
        wishes.append(Wish(words=words, line=number))
    if len(wishes) > MAX_WISHES:
        last = wishes[MAX_WISHES].line
        _refuse(file, last, f"more than {MAX_WISHES} lines", "bundle-value-too-long")
    return tuple(wishes)


def _decode(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise too_large(file)
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        _refuse(file, line, "there is a NUL in it", "bundle-not-text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        _refuse(file, line, "it is not UTF-8", "bundle-not-text", "save it as UTF-8")
    if text.startswith("\ufeff"):
        hint = "save it as UTF-8 without one"
        _refuse(file, 1, "it begins with a byte order mark", "bundle-not-text", hint)
    return text


def too_large(file: str) -> BundleError:
    return BundleError(
        f"{file}: is larger than {MAX_BYTES // 1024}K",
        code="bundle-too-large",
        hint="it is a few lines of text",
    )


def _refuse(file: str, line: int, what: str, code: str, hint: str = "") -> NoReturn:
    error = BundleError(f"{file}:{line}: {what}", code=code, hint=hint)
    error.file, error.line_number = file, line
    raise error


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:59] + "…")


# Starting -------------------------------------------------------------------------


def words(bundle: Bundle, variables: Mapping[str, str]) -> tuple[str, ...]:
    """``exec`` with variables put in, then split at every single space: as Sugar does.

    ``variables`` are the activity's own; Sugar takes those of the shell.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] if found[1] is not None else found[2]
        return variables.get(name, found[0])

    split = tuple(_VARIABLE.sub(value, bundle.exec).split(" "))
    if not split[0]:
        raise BundleError(
            f"{posixpath.join(bundle.path, INFO)}: exec: {_shown(bundle.exec)} names "
            "no program here",
            code=_BAD_VALUE,
        )
    return split


def command(
    bundle: Bundle,
    split: tuple[str, ...],
    *,
    in_bundle: bool,
    activity_id: str,
    object_id: str | None = None,
    uri: str | None = None,
    invited: bool = False,
) -> Command:
    """As activityfactory.get_command composes it, of what `words` made.

    ``in_bundle``: BUNDLE/bin has something of the name of the first word.
    """
    first = split[0]
    asked = ["-b", bundle.bundle_id, "-a", activity_id]
    if object_id is not None:
        asked += ["-o", _argument("object id", object_id)]
    if uri is not None:
        asked += ["-u", _argument("uri", uri)]
    if invited:
        asked += ["-i"]
    if "/" not in first and not in_bundle:
        return Command(program_kind="name", path="", argv=(*split, *asked))
    if "/" not in first:
        path = first = posixpath.join(bundle.path, "bin", first)
    else:
        # Popen's cwd is the bundle's directory.
        path = posixpath.join(bundle.path, first)
    return Command(program_kind="file", path=path, argv=(first, *split[1:], *asked))


def _argument(what: str, text: str) -> str:
    if "\0" in text or len(text) > MAX_ARGUMENT:
        raise RequestError(
            f"the {what} {_shown(text)} has a NUL or more than {MAX_ARGUMENT} "
            "characters",
            code="request-bad-value",
        )
    return text


def new_activity_id(given: str | None) -> str:
    """``given``, if it can be an id; where there is none, a new one in Sugar's shape.

    That is 40 hex digits (sugar3.util.unique_id); here they cannot be guessed.
    """
    if not given:
        return secrets.token_hex(20)
    if not valid_id(given):
        raise RequestError(
            f"{_shown(given)} is not the id of an activity",
            code="request-bad-id",
            hint="1 to 64 letters, digits and underscores",
        )
    return given


def environment(
    bundle: Bundle,
    variables: Mapping[str, str],
    *,
    activity_root: str,
    user_activities: str,
) -> dict[str, str]:
    """``variables`` and what activityfactory.get_environment adds to the shell's own.

    ``activity_root`` is the path inside whose data, instance and tmp it may write.
    ``user_activities`` is where the person's own bundles are: see `user_activities`.
    SUGAR_BUNDLE_NAME and SUGAR_BUNDLE_VERSION are not of it: sugar-activity3 itself
    sets them, in the person's language.
    """
    added = {
        "SUGAR_BUNDLE_PATH": bundle.path,
        "SUGAR_BUNDLE_ID": bundle.bundle_id,
        "SUGAR_ACTIVITY_ROOT": activity_root,
        "PATH": search_path(bundle, variables.get("PATH", "")),
    }
    if bundle.path.startswith(user_activities):
        # The translations of others are the system's, in its own directory.
        added["SUGAR_LOCALEDIR"] = posixpath.join(bundle.path, "locale")
    return {**variables, **added}


def search_path(bundle: Bundle, path: str) -> str:
    own = posixpath.join(bundle.path, "bin")
    return f"{own}:{path}" if path else own


def user_activities(asked: Mapping[str, str], home: str) -> str:
    """sugar3.env.get_user_activities_path, of a caller's environment."""
    return asked.get("SUGAR_ACTIVITIES_PATH", posixpath.join(home, "Activities"))
