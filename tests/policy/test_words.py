# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies allow, in plain sentences: true of each, and nothing left out."""

from __future__ import annotations

import gettext
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from support.powers import need, program

from isolauncher.policy import words
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import Policy

SHIPPED = sorted(
    path.stem for path in (Path(__file__).parents[2] / "policies").glob("*.toml")
)
SECTION = Path(__file__).parents[2] / "integration/sugar/cpsection/isolauncher"

NO_NETWORK = "It cannot reach any network."
OPENED = "In the Journal it sees what it has made itself, and what you give it."
OWN = "In the Journal it sees only what it has made itself."
NO_FILES = "It sees no other files of yours, and none of other programs'."
NOBODY = "It can ask no other program to do something."
DEAF_AND_BLIND = [
    "It cannot play sounds.",
    "It cannot listen to you.",
    "It cannot see you through the camera.",
]

PLAY = ("browse", "jukebox", "memorize")

# What is said of the network, the Journal and files, and of other programs.
SAID = {
    "default": [NO_NETWORK, "It has no Journal, and can save nothing there.", NO_FILES],
    "developer": [
        "It has a network of its own, on which there is nobody else.",
        OWN,
        NO_FILES,
    ],
    "exam": [NO_NETWORK, OWN, NO_FILES],
    "untrusted": [NO_NETWORK, OWN, NO_FILES],
    "log": [
        NO_NETWORK,
        OPENED,
        "It can read what you may read of: ~/.sugar/default/logs, /var/log.",
    ],
}


def says(policy: Policy, *topics: str) -> list[str]:
    told = words.tell(policy)
    return [one.says for one in told if not topics or one.topic in topics]


@pytest.fixture(scope="module")
def store() -> PolicyStore:
    return PolicyStore(etc_dir=None)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_policy_in_words(store: PolicyStore, name: str) -> None:
    policy = store.get(name)
    expected = SAID.get(name, [NO_NETWORK, OPENED, NO_FILES])
    assert says(policy, "network", "documents", "files") == expected
    heard = ["It can play sounds."] if name in PLAY else DEAF_AND_BLIND[:1]
    found = says(policy, "sound", "microphone", "camera")
    assert found == [*heard, *DEAF_AND_BLIND[1:]]
    asks = ["It can ask these to do something: Sugar."] if name == "sugar" else [NOBODY]
    assert says(policy, "programs") == asks
    window = says(policy, "screen")[0]
    assert window.startswith("It can open no" if name == "default" else "It opens")


def test_memory_and_room_are_the_policy_s_own(store: PolicyStore) -> None:
    calculate, browse = store.get("calculate"), store.get("browse")
    assert says(calculate, "memory", "storage") == [
        "It can take up to 256 MB of memory, for 32 processes, as far as this computer "
        "can limit that.",
        "It can keep up to 16 MB of its own when it is closed.",
    ]
    assert says(browse, "memory") == [
        "It can take up to 1 GB of memory, for 256 processes."
    ]
    default = store.get("default")
    assert says(default, "storage") == ["It keeps nothing when it is closed."]
    for view in (
        replace(default.view, documents="own"),
        replace(default.view, write=("/srv/class",)),
    ):
        assert says(replace(default, view=view), "storage") == [
            "When it is closed, it keeps only what it has saved."
        ]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_topic_has_a_sentence_in_the_same_order(
    store: PolicyStore, name: str
) -> None:
    topics = list(dict.fromkeys(one.topic for one in words.tell(store.get(name))))
    wanted = [topic for topic in get_args(words.Topic) if topic != "devices"]
    assert topics == wanted


WIDER: dict[str, tuple[str, str, Callable[[Policy], Policy]]] = {
    "loopback": ("network", "some", lambda p: replace(p, network="loopback")),
    "network": ("network", "all", lambda p: replace(p, network="host")),
    "documents": (
        "documents",
        "all",
        lambda p: replace(p, view=replace(p.view, documents="all")),
    ),
    "home": (
        "files",
        "some",
        lambda p: replace(
            p, view=replace(p.view, read=(*p.view.read, "{home}/Pictures"))
        ),
    ),
    "elsewhere": (
        "files",
        "some",
        lambda p: replace(p, view=replace(p.view, read=(*p.view.read, "/data/photos"))),
    ),
    "write": (
        "files",
        "all",
        lambda p: replace(p, view=replace(p.view, write=("/srv/class",))),
    ),
    "window": ("screen", "all", lambda p: replace(p, x11="shared")),
    "calls": (
        "programs",
        "some",
        lambda p: replace(
            p, bus=replace(p.bus, session_call=("org.example.Printer=*",))
        ),
    ),
    "reader": (
        "programs",
        "some",
        lambda p: replace(p, bus=replace(p.bus, accessibility=True)),
    ),
    "input": (
        "programs",
        "some",
        lambda p: replace(p, bus=replace(p.bus, input_method=True)),
    ),
}


@pytest.mark.parametrize("what", WIDER)
def test_what_a_policy_gives_more_is_said(store: PolicyStore, what: str) -> None:
    topic, level, widen = WIDER[what]
    before = store.get("default")
    after = widen(before)
    new = [one for one in words.tell(after) if one not in words.tell(before)]
    # That it keeps what it writes somewhere is said as well.
    told = [(one.topic, one.level) for one in new if one.topic != "storage"]
    assert told == [(topic, level)]


@pytest.mark.parametrize(
    ("device", "topic"),
    [
        ("sound", "sound"),
        ("microphone", "microphone"),
        ("camera", "camera"),
        ("joystick", "devices"),
    ],
)
def test_a_device_that_a_policy_gives_is_said(
    store: PolicyStore, device: str, topic: str
) -> None:
    policy = store.get("sugar")
    before = words.tell(policy)
    given = replace(policy, devices=(device,))
    new = {one.topic for one in words.tell(given) if one not in before}
    # One is not taken for another, as who listens for who plays.
    assert new == {topic}


def test_only_the_addresses_that_are_allowed_are_named(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = store.get("sugar")
    given = {
        **words.values(policy),
        "network.access": "filtered",
        "network.allow": ("tcp://wiki.laptop.org:443",),
    }
    monkeypatch.setattr(words, "values", lambda _: given)
    assert says(policy, "network") == [
        "On the network it can reach only: tcp://wiki.laptop.org:443."
    ]


@pytest.mark.parametrize(
    ("size", "written"),
    [(0, "0 B"), (1000, "1000 B"), (1024, "1 KB"), (1536 * 1024**2, "1536 MB")],
)
def test_a_size_is_written_without_a_fraction(size: int, written: str) -> None:
    assert words.written_size(size) == written


# ------------------------------------------------------------------------- translations


def messages(text: str) -> dict[str, str]:
    """msgid to msgstr of a .po file, as msgfmt or xgettext write them."""
    found: dict[str, str] = {}
    quoted = r'(?:"(?:[^"\\]|\\.)*"\s*)+'
    for one in re.finditer(rf"msgid ({quoted})msgstr ({quoted})", text):
        parts = (re.findall(r'"((?:[^"\\]|\\.)*)"', group) for group in one.groups())
        message, translation = ("".join(part) for part in parts)
        found[message] = translation
    found.pop("", None)
    return found


@pytest.fixture(scope="module")
def wanted() -> set[str]:
    """Every message in words.py and the control panel's section."""
    need(program("xgettext"))
    sources = [Path(words.__file__), *sorted(SECTION.glob("*.py"))]
    done = subprocess.run(
        ("xgettext", "-L", "Python", "-k_", "--from-code=UTF-8", "-o", "-", *sources),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(messages(done.stdout))


@pytest.mark.parametrize("path", SECTION.glob("po/*.po"), ids=lambda path: path.stem)
def test_a_catalogue_has_all_messages_but_those_that_sugar_translates(
    path: Path, wanted: set[str]
) -> None:
    has = messages(path.read_text(encoding="utf-8"))
    assert has.keys() <= wanted
    catalogue = gettext.translation("sugar", languages=[path.stem], fallback=True)
    need(None if catalogue.info() else "sugar-session is not installed")
    missing = {one for one in wanted - has.keys() if catalogue.gettext(one) == one}
    assert missing == set()
    for message, translation in has.items():
        assert translation, message
        fields = re.findall(r"%(?:\(\w+\))?[sd]", message)
        assert sorted(re.findall(r"%(?:\(\w+\))?[sd]", translation)) == sorted(fields)


def test_every_sentence_is_translated_before_it_is_filled_in(
    store: PolicyStore,
) -> None:
    def shouted(text: str) -> str:
        return re.sub(r"%(?:\(\w+\))?[sd]|[^%]", lambda m: _upper(m[0]), text)

    def _upper(text: str) -> str:
        return text if text.startswith("%") else text.upper()

    for name in SHIPPED:
        for before, after in zip(
            words.tell(store.get(name)),
            words.tell(store.get(name), shouted),
            strict=True,
        ):
            assert after.says.upper() == before.says.upper()
            assert after.says != before.says
