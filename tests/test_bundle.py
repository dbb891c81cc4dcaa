# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle means what it means to Sugar, or is refused; and what is started of one.

Sugar's own reader and its own composer of commands are asked about the same files.
"""

from __future__ import annotations

import configparser
import io
import itertools
import json
import logging
import os
import random
import re
import subprocess
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import powers

from isolauncher import bundle, inifile
from isolauncher.bundle import Bundle, Found
from isolauncher.errors import BundleError, RequestError
from isolauncher.policy import check

INSTALLED = Path("/usr/share/sugar/activities")
LAUNCH = Path(__file__).parent / "support/sugar_launch.py"

PLAIN = """\
[Activity]
name = Plain
bundle_id = org.example.Plain
exec = sugar-activity3 plain.Plain
"""


def found(info: str | bytes, **changes: object) -> Found:
    data = info.encode() if isinstance(info, str) else info
    values: dict[str, object] = {
        "path": "/there/Plain.activity",
        "installed_by": "user",
        "why": "",
        "info": data,
        "permissions": None,
        **changes,
    }
    return Found(**values)  # type: ignore[arg-type]


def parsed(info: str | bytes, **changes: object) -> Bundle:
    return bundle.parse(found(info, **changes))


def refused(info: str | bytes, **changes: object) -> BundleError:
    with pytest.raises(BundleError) as caught:
        parsed(info, **changes)
    return caught.value


# ------------------------------------------------------------- as ConfigParser reads

BITS = [
    *("[Activity]", "[DEFAULT]", "[activity]", "[", "]", "[]", "[Activity] x]"),
    *("name", "Name", "exec", "=", ":", "x=1", "bundle_id = org.x\n", "#", ";"),
    *(" ", "  ", "\t", "\n", "\n", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85"),
    *("%", "%%", "%(name)s", "%(Exec)s", "%(", ")s", "a", "é", "İ", "\u2028", "\ufeff"),
]


def by_configparser(text: str) -> dict[str, dict[str, str | None]] | None:
    """None where it refuses the file, or in place of a value."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return None

    def value(section: str, key: str) -> str | None:
        try:
            return parser.get(section, key)
        except configparser.InterpolationError:
            return None

    return {
        section: {key: value(section, key) for key in parser.options(section)}
        for section in parser.sections()
    }


def by_us(text: str) -> dict[str, dict[str, str | None]] | None:
    try:
        sections = inifile.read(text)
    except inifile.Misread:
        return None

    def value(section: inifile.Section, key: str) -> str | None:
        try:
            return inifile.expand(section, key)
        except inifile.Misread:
            return None

    whole = {name: inifile.section(sections, name) or {} for name in sections}
    del whole[inifile.DEFAULT]
    return {
        name: {key: value(section, key) for key in section}
        for name, section in whole.items()
    }


def test_a_file_is_read_as_configparser_reads_it() -> None:
    chance = random.Random(2008)  # noqa: S311
    taken = 0
    for _ in range(15_000):
        text = "".join(chance.choices(BITS, k=chance.randrange(1, 40)))
        if chance.random() < 0.7:
            text = "[Activity]\n" + text
        theirs = by_configparser(text)
        assert by_us(text) == theirs, text
        taken += bool(theirs)
    assert taken > 2000


@pytest.mark.parametrize("depth", [9, 10, 11])
def test_references_are_followed_as_deep_as_configparser_follows_them(
    depth: int,
) -> None:
    keys = "".join(f"k{n} = %(k{n + 1})s\n" for n in range(depth))
    text = f"[Activity]\n{keys}k{depth} = the %% end\n"
    assert by_us(text) == by_configparser(text)
    value = (by_us(text) or {})["Activity"]["k0"]
    assert value == (None if depth > 9 else "the % end")


def _bomb(end: str) -> str:
    """Ten lines: 600 to the tenth references."""
    keys = "".join(f"k{n} = {f'%(k{n + 1})s' * 600}\n" for n in range(9))
    return f"{PLAIN}{keys}icon = %(k0)s\nk9 = {end}\n"


LABOUR = {
    "spaces": "[Activity]\nname" + " " * 60_000 + "x",
    "percents": PLAIN + "icon = " + "%%" * 30_000,
    "brackets in a key": "[Activity]\n" + "%(" * 32_000,
    "brackets in a value": PLAIN + "icon = " + "%(" * 32_000,
    "sections": "[" * 65_000,
    "empty lines": "[Activity]\nname = x\n" + "\n " * 32_000,
    "more than every disk": _bomb("1234567"),
    "nothing, for ever": _bomb(""),
    "keys": PLAIN + "".join(f"{n:x}=\n" for n in range(10_000)),
    "keys for every section": "[DEFAULT]\n"
    + "".join(f"{n:x}=\n" for n in range(5000))
    + "".join(f"[{n:x}]\n" for n in range(5000)),
    "itself": PLAIN + "icon = %(icon)s\n",
}


@pytest.mark.parametrize("what", LABOUR)
def test_no_file_keeps_the_reader_busy(what: str) -> None:
    """The first takes configparser half a minute, the bombs for ever."""
    text = LABOUR[what]
    assert len(text) <= bundle.MAX_BYTES
    started = time.process_time()
    with suppress(BundleError):
        parsed(text)
    assert time.process_time() - started < 1


# -------------------------------------------------------------------- as Sugar reads


@pytest.fixture(scope="module")
def sugar(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[bytes], dict[str, object] | None]]:
    """What sugar3's ActivityBundle makes of an activity.info; None: nothing."""
    powers.need(powers.module("sugar3.bundle.activitybundle"))
    from sugar3.bundle.activitybundle import ActivityBundle

    place = str(tmp_path_factory.mktemp("Sugar.activity"))
    logging.disable()

    class Reader(ActivityBundle):  # type: ignore[misc]
        """It leaves its file to be closed by chance, of which pytest complains."""

        def get_file(self, filename: str) -> io.BytesIO:
            assert filename == bundle.INFO
            return io.BytesIO(self.data)

    def read(data: bytes) -> dict[str, object] | None:
        Reader.data = data
        try:
            it = Reader(place, translated=False)
        except Exception:
            # As the shell's registry, which leaves out a bundle with whatever error.
            return None
        return {
            "bundle_id": it.get_bundle_id(),
            "name": it.get_name(),
            "version": it.get_activity_version(),
            "exec": it.bundle_exec,
            "icon": it._icon,
            "mime_types": tuple(it.get_mime_types() or ()),
            "tags": tuple(it.get_tags() or ()),
            "summary": it.get_summary(),
            "description": it.get_description(),
            "show_launcher": it.get_show_launcher(),
            "single_instance": it.get_single_instance(),
            "max_participants": it.get_max_participants(),
        }

    yield read
    logging.disable(logging.NOTSET)


def stranger(data: bytes, theirs: dict[str, object], code: str) -> bool:
    """Whether ``code`` is a good reason to refuse what Sugar takes."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(data.decode())
    rest = dict(parser["Activity"])
    words = [
        *(str(theirs[key]) for key in ("name", "version", "exec", "icon")),
        *theirs["mime_types"],  # type: ignore[misc]
        *theirs["tags"],  # type: ignore[misc]
    ]
    texts = [
        str(theirs["summary"]),
        str(theirs["description"]),
        str(rest.get("license")),
    ]
    match code:
        case "bundle-not-text":
            return b"\0" in data
        case "bundle-value-too-long":
            return max(map(len, rest.values())) > 256
        case "bundle-bad-id":
            parts = str(theirs["bundle_id"]).split(".")
            signs = set("".join(parts)) - {"-", "_"}
            return (
                not all(parts)
                or parts[0][0] == "-"
                or not all(char.isascii() and char.isalnum() for char in signs)
                or len(".".join(parts)) > 128
            )
        case "bundle-bad-value":
            signs = {*"".join(words), *({*"".join(texts)} - {"\n", "\t"})}
            return (
                any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in signs)
                or str(theirs["exec"])[:1] in ("", " ")
                or abs(int(str(theirs["max_participants"]))) > 1_000_000
            )
    return False


def agree(data: bytes, theirs: dict[str, object] | None) -> bool:
    """Assert that Sugar and we take it alike; whether both took it."""
    ours = error = None
    try:
        ours = bundle.parse(found(data))
    except BundleError as e:
        error = e
    if error is not None:
        assert re.match(
            r"/there/Plain\.activity/activity/\w+\.info:\d+: ", error.message
        )
        if theirs is not None:
            assert stranger(data, theirs, error.code), (data, theirs, error)
        return False
    assert theirs is not None, data
    assert {name: getattr(ours, name) for name in theirs} == theirs, data
    return True


def test_every_installed_activity_is_read_as_sugar_reads_it(
    sugar: Callable[[bytes], dict[str, object] | None],
) -> None:
    files = [path.read_bytes() for path in INSTALLED.glob("*/" + bundle.INFO)]
    powers.need(None if files else "no activity is installed")
    for data in files:
        assert agree(data, sugar(data))


# Each as somebody has written it, or could.
VALID = [
    PLAIN,
    PLAIN.replace(" = ", "="),
    PLAIN.replace(" = ", ": "),
    PLAIN.replace("\n", "\r\n"),
    PLAIN.replace("name", "Name").replace("exec", "EXEC"),
    PLAIN.replace("bundle_id", "service_name"),
    PLAIN.replace("exec = sugar-activity3", "class ="),
    PLAIN + "service_name = org.other\nclass = other.Other\n",
    "# first\n; second\n\n" + PLAIN + "[Other]\nname = Another\n",
    PLAIN + "name_of = %(name)s\nsummary = 100%% of %(NAME)s\n",
    "[DEFAULT]\nlast = Suite\n[Activity]\nname = %(last)s\nicon = %(last)s\n"
    "bundle_id = org.laptop.%(last)s\nexec = sugar-activity %(last)s.%(last)s -s\n",
    PLAIN + "license = 100% free\nanything = %(nowhere)s\n",
    PLAIN + "mime_types =\ntags = ;;\n",
    PLAIN + "mime_types = a/b; c/d ;e/f, g/h;\ntags = Math;\n  Logic\n",
    PLAIN + "mime_types = ;a/b;;c/d;;\n",
    PLAIN + "description:\n    <p>One\n\n    two.</p>\n    # not this\n  three\n",
    PLAIN + "show_launcher = no\nsingle_instance = yes\n",
    PLAIN + "show_launcher = No\nsingle_instance = Yes\n",
    PLAIN + "max_participants = 10 \nicon = a/b\n",
    PLAIN + "max_participants = -1\n",
    PLAIN + "max_participants = 1_0\n",
    PLAIN + "max_participants = ٣\n",
    *(PLAIN + f"activity_version = {v}\n" for v in ("0", "1.0", "1.2.3-peru", "2~x")),
    PLAIN.replace("Plain\n", "Ca\u200dlcul ½ \N{SNAKE} عربي\n", 1),
    PLAIN.replace("exec = ", "exec = $HOME/"),
    PLAIN.replace("[Activity]", "[Activity] as it were"),
    "[DEFAULT]\nname = D\n[DEFAULT]\nicon = i\n" + PLAIN,
    PLAIN.replace("name = Plain", "name ="),
]

INVALID = [
    "",
    "name = x\n",
    PLAIN.replace("[Activity]", "[activity]"),
    PLAIN.replace("name =", "nam ="),
    PLAIN.replace("bundle_id", "id"),
    PLAIN.replace("exec", "run"),
    PLAIN.replace("org.example", "org example"),
    PLAIN + "Exec = twice\n",
    PLAIN + PLAIN,
    PLAIN + "no value\n",
    PLAIN + "= no key\n",
    PLAIN + "icon = 100%\n",
    PLAIN + "icon = %(nowhere)s\n",
    PLAIN + "icon = %(icon)s\n",
    PLAIN + "max_participants = many\n",
    PLAIN + "max_participants =\n",
    PLAIN + "max_participants = " + "9" * 5000 + "\n",
    *(PLAIN + f"activity_version = {v}\n" for v in ("", "01", "1.02", "1peru", "1.")),
    "\ufeff" + PLAIN,
    "\ufeff\n" + PLAIN,
]


@pytest.mark.parametrize("text", VALID, ids=range(len(VALID)))
def test_a_file_that_sugar_takes_means_the_same(
    sugar: Callable[[bytes], dict[str, object] | None], text: str
) -> None:
    assert agree(text.encode(), sugar(text.encode()))


@pytest.mark.parametrize("text", INVALID, ids=range(len(INVALID)))
def test_a_file_that_sugar_refuses_is_refused(
    sugar: Callable[[bytes], dict[str, object] | None], text: str
) -> None:
    assert sugar(text.encode()) is None
    assert not agree(text.encode(), None)


def test_files_made_by_chance_are_taken_alike_or_refused_for_a_reason(
    sugar: Callable[[bytes], dict[str, object] | None],
) -> None:
    chance = random.Random(2016)  # noqa: S311
    seeds = [text.encode() for text in VALID]
    seeds += [path.read_bytes() for path in INSTALLED.glob("*/" + bundle.INFO)]
    bits = [bit.encode() for bit in BITS] + [b"\0", b"\xff", b"\n\n", b"%(bundle_id)s"]
    taken = 0
    for _ in range(15_000):
        lines = chance.choice(seeds).splitlines(keepends=True)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(lines))
            line = lines[at]
            middle = chance.randrange(len(line) + 1)
            match chance.randrange(5):
                case 0:
                    lines[at] = line[:middle] + chance.choice(bits) + line[middle:]
                case 1:
                    lines[at] = line[:middle] + line[middle + 1 :]
                case 2:
                    lines.insert(at, chance.choice(lines))
                case 3:
                    lines.insert(at, b" " * chance.randrange(4) + chance.choice(bits))
                case 4:
                    lines[at] = line[:middle] + bytes([chance.randrange(256)])
        data = b"".join(lines)
        taken += agree(data, sugar(data))
    assert taken > 2000


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        (b"[Activity]\nname = a\0b\n", 2, "bundle-not-text"),
        (PLAIN.encode("utf-16"), 1, "bundle-not-text"),
        (b"[Activity]\n\nname = \xe9\n", 3, "bundle-not-text"),
        ("\ufeff" + PLAIN, 1, "bundle-not-text"),
        (PLAIN + "\nwhat\n", 6, "bundle-bad-info"),
        (PLAIN + "NAME = b\n", 5, "bundle-bad-info"),
        (PLAIN + "icon = %(x)s\n", 5, "bundle-bad-reference"),
        (PLAIN + "icon = a\n b\n", 5, "bundle-bad-value"),
        (PLAIN + "icon = \x1b]0;x\x07\n", 5, "bundle-bad-value"),
        (PLAIN + "summary = \x9b31m\n", 5, "bundle-bad-value"),
        (PLAIN + "license = \x1b[2J\n", 5, "bundle-bad-value"),
        (PLAIN + "tags = a\x7f\n", 5, "bundle-bad-value"),
        (PLAIN + "icon = " + "i" * 257 + "\n", 5, "bundle-value-too-long"),
        (PLAIN + "mime_types = " + "i;" * 9000 + "\n", 5, "bundle-value-too-long"),
        (PLAIN.replace("exec = s", "exec = \n s"), 4, None),
        (PLAIN.replace("exec = s", "exec = s\n s"), 4, "bundle-bad-value"),
        (PLAIN.replace("exec = s", "exec = \x01s"), 4, "bundle-bad-value"),
        (PLAIN.replace("exec = sugar-activity3 ", "exec = \n -"), 4, None),
        (PLAIN.replace("sugar-activity3 plain.Plain", ""), 4, "bundle-bad-value"),
        (PLAIN.replace("plain.P", "p" * 1100), 4, "bundle-value-too-long"),
        (PLAIN + "max_participants = 1000001\n", 5, "bundle-bad-value"),
        (PLAIN + "activity_version = 1-\x1b\n", 5, "bundle-bad-value"),
    ],
)
def test_what_is_hostile_or_wrong_is_refused_by_file_and_line(
    text: str | bytes, line: int, code: str | None
) -> None:
    if code is None:
        # A value that begins on the next line: its newline is in front of the word.
        code = "bundle-bad-value"
    error = refused(text)
    assert error.code == code
    assert error.step == "bundle"
    file = f"/there/Plain.activity/activity/activity.info:{line}: "
    assert error.message.startswith(file)
    assert error.line().isprintable()


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "",
            ".",
            "..",
            ".hidden",
            "a..b",
            "a.",
            "../../x",
            "a/b",
            "/a",
            "a\\b",
            "a b",
        ),
        *(
            "-rf",
            "--option",
            "a=b",
            "a:b",
            "a,b",
            "a*",
            "org.*",
            "~x",
        ),
        *("$HOME", "é.x", "org.\u202egro", "a\u200db", "x" * 129, "%%(name)s", "@a"),
    ],
)
def test_an_id_that_could_be_a_path_an_option_or_a_trick_is_refused(bad: str) -> None:
    error = refused(PLAIN.replace("org.example.Plain", bad))
    assert error.code == "bundle-bad-id"
    assert "activity.info:3: bundle_id: " in error.message
    assert error.line().isascii()
    assert error.line().isprintable()


@pytest.mark.parametrize(
    "good",
    [
        *("org.laptop.AbiWordActivity", "org.sugarlabs.web-native", "vu.lux.olpc.Maze"),
        *("org.olpc-france.LOL", "org.geogebra", "org.laptop.wp-nature-images"),
        *("_x.y_", "a", "2048", "x" * 128),
    ],
)
def test_an_id_as_bundles_have_it_is_taken_and_a_policy_can_name_it(good: str) -> None:
    assert parsed(PLAIN.replace("org.example.Plain", good)).bundle_id == good
    text = f"version = 1\n[match]\nbundle-id = ['{good}']\n"
    assert check.check(text.encode(), "x.toml").match.bundle_ids == (good,)


def test_a_file_that_is_too_large_is_refused() -> None:
    error = refused(PLAIN + "#" * bundle.MAX_BYTES)
    assert error.code == "bundle-too-large"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/home/a\nb/X.activity", "control characters"),
        ("/home/\udcff/X.activity", "not UTF-8"),
        ("/home/x:/tmp/X.activity", "':'"),
        ("(unreachable)/X.activity", "begins at /"),
        ("/" + "x" * 1100, "more than"),
    ],
)
def test_a_path_that_cannot_be_told_to_an_activity_is_refused(
    path: str, what: str
) -> None:
    with pytest.raises(BundleError) as caught:
        bundle.check_path(path)
    assert caught.value.code == "bundle-bad-path"
    assert what in caught.value.message
    assert caught.value.line().isascii()
    assert caught.value.line().isprintable()


def test_permissions_are_kept_as_they_are_asked_for() -> None:
    text = b"# Rainbow's\nuse-serial\n\n  lim_mem  1024 # MB\r\nconstant-uid"
    wishes = parsed(PLAIN, permissions=text).wishes
    assert [(wish.words, wish.line) for wish in wishes] == [
        (("use-serial",), 2),
        (("lim_mem", "1024"), 4),
        (("constant-uid",), 5),
    ]
    assert parsed(PLAIN).wishes == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"a\0", "bundle-not-text"),
        (b"\xff", "bundle-not-text"),
        (b"ok\n\x1b[2J", "bundle-bad-value"),
        (b"ok\n" + b"x" * 300, "bundle-bad-value"),
        (b"ok\n" * 65, "bundle-value-too-long"),
        (b"#" * 70_000, "bundle-too-large"),
    ],
)
def test_permissions_that_are_no_words_are_refused(data: bytes, code: str) -> None:
    error = refused(PLAIN, permissions=data)
    assert error.code == code
    assert "activity/permissions.info" in error.message


# ---------------------------------------------------------------------- what is started

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin",
    "HOME": "/nowhere",
    "WORDS": "two words",
    "A_1": "$HOME",
    "EMPTY": "",
    "LANG": "C.UTF-8",
}

EXECS = [
    "sugar-activity3 plain.Plain -s",
    "sugar-activity3  two.Spaces ",
    "run --quietly",
    "absent",
    "./bin/run",
    "../else",
    "/usr/bin/true x",
    "$WORDS/x ${WORDS} $A_1 ${A_1} $NONE ${NONE} $ ${} ${ $1 $$HOME ${HOME$HOME}",
    "run$EMPTY $EMPTY ${EMPTY}x é$HOMEé",
    "folder x",
    "broken x",
    "100%% $HOME",
]
KEYWORDS = ("activity_id", "object_id", "uri", "invited")
QUESTIONS = [(None, None, False), ("1f0b", None, True), ("", "http://x/ y", False)]


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """(bundle, BUNDLE/bin's names, question, what activityfactory says)."""
    powers.need(powers.module("sugar3.bundle.activitybundle"))
    top = tmp_path_factory.mktemp("home")
    own = {"SUGAR_HOME": str(top / "sugar"), "HOME": str(top)}
    cases = []
    for number, (words, question) in enumerate(itertools.product(EXECS, QUESTIONS)):
        name = f"{('Activities', 'Activities2', 'elsewhere')[number % 3]}/B{number}"
        place = top / name
        (place / "activity").mkdir(parents=True)
        (place / "bin/folder").mkdir(parents=True)
        (place / "bin/run").touch()
        (place / "bin/broken").symlink_to("nowhere")
        info = PLAIN.replace("sugar-activity3 plain.Plain", words)
        (place / bundle.INFO).write_text(info)
        environment = {**ENVIRONMENT, **own}
        if number % 4 == 3:
            environment["SUGAR_ACTIVITIES_PATH"] = str(top / "elsewhere")
        object_id, uri, invited = question
        case = {
            "path": str(place),
            "environment": environment,
            "activity_id": f"{number:040x}",
            "object_id": object_id,
            "uri": uri,
            "invited": invited,
        }
        cases.append((parsed(info, path=str(place)), case))
    asked = subprocess.run(
        ["/usr/bin/python3", LAUNCH],
        input="".join(json.dumps(case) + "\n" for _, case in cases),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin", "HOME": str(top), "NO_AT_BRIDGE": "1"},
    )
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    return [(*case, answer) for case, answer in zip(cases, answers, strict=True)]


def test_a_command_is_composed_as_sugar_composes_it(
    launches: list[tuple[Bundle, dict[str, object], dict[str, object]]],
) -> None:
    in_bundle = 0
    for it, case, theirs in launches:
        environment = case["environment"]
        assert isinstance(environment, dict)
        words = bundle.words(it, environment)
        inside = words[0] in ("run", "folder")
        in_bundle += inside
        made = bundle.command(
            it,
            words,
            in_bundle=inside,
            **{name: case[name] for name in KEYWORDS},  # type: ignore[arg-type]
        )
        assert list(made.argv) == theirs["command"], it.exec
        if made.program_kind == "file":
            # What Popen would run, in the bundle's directory.
            assert made.path == os.path.join(it.path, made.argv[0])
        else:
            assert "/" not in made.argv[0]
    assert in_bundle


def test_the_environment_is_sugar_s(
    launches: list[tuple[Bundle, dict[str, object], dict[str, object]]],
) -> None:
    translated = 0
    for it, case, theirs in launches:
        variables = case["environment"]
        assert isinstance(variables, dict)
        made = bundle.environment(
            it,
            variables,
            activity_root=f"{variables['SUGAR_HOME']}/default/{it.bundle_id}",
            user_activities=bundle.user_activities(variables, variables["HOME"]),
        )
        assert made == theirs["environment"], it.path
        translated += "SUGAR_LOCALEDIR" in made
    assert 0 < translated < len(launches)


def test_a_program_without_a_path_is_sought_in_the_bundle_first() -> None:
    it = parsed(PLAIN)
    assert bundle.search_path(it, "/usr/bin") == "/there/Plain.activity/bin:/usr/bin"
    # An empty entry would be the directory it is started in (environ(7)).
    assert bundle.search_path(it, "") == "/there/Plain.activity/bin"


def test_an_exec_that_names_nothing_in_this_environment_is_refused() -> None:
    it = parsed(PLAIN.replace("exec = ", "exec = $NAME "))
    assert bundle.words(it, {"NAME": "a b"})[:3] == ("a", "b", "sugar-activity3")
    with pytest.raises(BundleError):
        bundle.words(it, {"NAME": ""})


@pytest.mark.parametrize("bad", ["a\0b", "x" * 8193])
def test_an_argument_that_cannot_be_one_is_refused(bad: str) -> None:
    it = parsed(PLAIN)
    for name in ("object_id", "uri"):
        with pytest.raises(RequestError):
            bundle.command(
                it,
                ("x",),
                in_bundle=False,
                activity_id="1",
                **{name: bad},  # type: ignore[arg-type]
            )


def test_a_new_activity_id_has_sugar_s_shape_and_is_never_the_same() -> None:
    made = {bundle.new_activity_id(given) for given in ("", None) for _ in range(100)}
    assert len(made) == 200
    assert all(re.fullmatch("[0-9a-f]{40}", one) for one in made)


@pytest.mark.parametrize("good", ["a", "0" * 40, "DEAD_beef", "x" * 64])
def test_a_given_activity_id_is_kept(good: str) -> None:
    assert bundle.new_activity_id(good) == good


@pytest.mark.parametrize(
    "bad",
    ["../../x", "a/b", "x" * 65, "-rf", "--option", "a.b", "a\n", "\u202ea", "é", " "],
)
def test_a_given_activity_id_that_is_none_is_refused(bad: str) -> None:
    """CVE-2024-32462 and its class: never an option, never a path."""
    with pytest.raises(RequestError) as caught:
        bundle.new_activity_id(bad)
    assert caught.value.code == "request-bad-id"
