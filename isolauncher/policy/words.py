# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy allows, in plain sentences: for a child, a parent or a teacher.

`tell` goes through what people ask about a program (may it use the network? what of
mine can it see? does it hear me?) and answers each from the policy in force, the same
that `explain` shows value by value. It leaves out what nobody asks who is not an
administrator, and says nothing of one machine or one person.

A sentence is English here. ``translate`` is gettext's, for whoever has a catalogue;
what is in brackets behind a ``%`` is filled in afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from isolauncher.policy import audit
from isolauncher.policy.model import IN_HOME, Policy, Value, values

Topic = Literal[
    "network",
    "documents",
    "files",
    "screen",
    "sound",
    "microphone",
    "camera",
    "devices",
    "programs",
    "memory",
    "storage",
]
Level = Literal["none", "some", "all"]
Translate = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One sentence. ``level``: how much of its topic there is, of what could be had."""

    topic: Topic
    level: Level
    says: str

    def as_data(self) -> dict[str, str]:
        return {"topic": self.topic, "level": self.level, "says": self.says}


def as_it_is(text: str) -> str:
    return text


def tell(policy: Policy, translate: Translate = as_it_is) -> tuple[Told, ...]:
    """Every topic at least once, in the order of `Topic`; of devices only if any."""
    return tuple(_told(policy, values(policy), translate))


def _told(policy: Policy, has: dict[str, Value], _: Translate) -> Iterator[Told]:
    yield _network(has, _)
    yield _documents(has, _)
    yield from _files(policy, _)
    yield _screen(has, _)
    yield from _devices(has, _)
    yield from _programs(policy, _)
    yield _memory(policy, _)
    yield _storage(policy, _)


def _network(has: dict[str, Value], _: Translate) -> Told:
    match has["network.access"]:
        case "none":
            return _say("network", "none", _("It cannot reach any network."))
        case "loopback":
            says = _("It has a network of its own, on which there is nobody else.")
            return _say("network", "some", says)
        case "filtered":
            says = _("On the network it can reach only: %(addresses)s.")
            allowed = _items(has["network.allow"])
            return _say("network", "some", says % {"addresses": ", ".join(allowed)})
        case _:
            says = _(
                "It can reach the whole network, and every service of this computer."
            )
            return _say("network", "all", says)


def _documents(has: dict[str, Value], _: Translate) -> Told:
    match has["files.documents"]:
        case "none":
            says = _("It has no Journal, and can save nothing there.")
            return _say("documents", "none", says)
        case "own":
            says = _("In the Journal it sees only what it has made itself.")
            return _say("documents", "some", says)
        case "opened":
            says = _(
                "In the Journal it sees what it has made itself, and what you give it."
            )
            return _say("documents", "some", says)
        case _:
            says = _("It can read, change and erase everything in your Journal.")
            return _say("documents", "all", says)


def _files(policy: Policy, _: Translate) -> Iterator[Told]:
    readable, writable = beyond_the_system(policy)
    if not readable and not writable:
        says = _("It sees no other files of yours, and none of other programs'.")
        yield _say("files", "none", says)
    if readable:
        says = _("It can read what you may read of: %(paths)s.")
        yield _say("files", "some", says % {"paths": _paths(readable)})
    if writable:
        says = _("It can change and erase what you may change of: %(paths)s.")
        yield _say("files", "all", says % {"paths": _paths(writable)})


def beyond_the_system(policy: Policy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths to read, and to write, that are not only the system's own programs."""
    # A path that the audit knows nothing of may hold anything, and counts as much.
    found = {
        r.item
        for r in audit.remarks(policy)
        if r.key == "files.read" and (r.id.startswith("reads-") or r.points >= 1)
    }
    read = tuple(path for path in policy.view.read if path in found)
    return read, policy.view.write


def _screen(has: dict[str, Value], _: Translate) -> Told:
    if has["display.x11"] == "none":
        return _say("screen", "none", _("It can open no window."))
    says = _(
        "It opens windows. It could also watch other windows, and type into them: this "
        "kind of screen cannot prevent that."
    )
    return _say("screen", "all", says)


def _devices(has: dict[str, Value], _: Translate) -> Iterator[Told]:
    allowed = _items(has["devices.allow"])
    if "sound" in allowed:
        yield _say("sound", "all", _("It can play sounds."))
    else:
        yield _say("sound", "none", _("It cannot play sounds."))
    if "microphone" in allowed:
        yield _say("microphone", "all", _("It can listen through the microphone."))
    else:
        yield _say("microphone", "none", _("It cannot listen to you."))
    if "camera" in allowed:
        yield _say("camera", "all", _("It can see through the camera."))
    else:
        yield _say("camera", "none", _("It cannot see you through the camera."))
    names = {
        "gpu": _("the graphics card"),
        "serial": _("what is plugged into a serial port"),
        "joystick": _("joysticks"),
    }
    known = ("sound", "microphone", "camera")
    others = [names.get(one, one) for one in allowed if one not in known]
    if others:
        says = _("It can use: %(devices)s.")
        yield _say("devices", "some", says % {"devices": ", ".join(others)})


def _programs(policy: Policy, _: Translate) -> Iterator[Told]:
    bus = policy.bus
    called = dict.fromkeys(rule.partition("=")[0] for rule in bus.session_call)
    if called:
        says = _("It can ask these to do something: %(names)s.")
        names = (_("Sugar") if one == "org.laptop.Shell" else one for one in called)
        yield _say("programs", "some", says % {"names": ", ".join(names)})
    else:
        says = _("It can ask no other program to do something.")
        yield _say("programs", "none", says)
    if bus.accessibility:
        says = _("A screen reader can read aloud what is in its windows.")
        yield _say("programs", "some", says)
    if bus.input_method:
        says = _("An input method can be used to type into it.")
        yield _say("programs", "some", says)


def _memory(policy: Policy, _: Translate) -> Told:
    limits = policy.limits
    says = _("It can take up to %(memory)s of memory, for %(number)s processes.")
    if limits.cgroup == "if-possible":
        says = _(
            "It can take up to %(memory)s of memory, for %(number)s processes, as far "
            "as this computer can limit that."
        )
    size, number = written_size(limits.memory, _), str(limits.processes)
    return _say("memory", "some", says % {"memory": size, "number": number})


def _storage(policy: Policy, _: Translate) -> Told:
    view = policy.view
    if not view.data and (view.write or view.documents != "none"):
        says = _("When it is closed, it keeps only what it has saved.")
        return _say("storage", "some", says)
    if not view.data:
        return _say("storage", "none", _("It keeps nothing when it is closed."))
    says = _("It can keep up to %(size)s of its own when it is closed.")
    size = written_size(view.data, _)
    return _say("storage", "some", says % {"size": size})


def written_size(number: int, _: Translate = as_it_is) -> str:
    """In the largest unit that leaves whole numbers; as Sugar writes sizes."""
    forms = (_("%d B"), _("%d KB"), _("%d MB"), _("%d GB"))
    power = max(p for p in range(4) if number % 1024**p == 0) if number else 0
    count: int = number // 1024**power
    return forms[power] % count


def _paths(paths: tuple[str, ...]) -> str:
    return ", ".join(
        "~/" + path.removeprefix(IN_HOME) if path.startswith(IN_HOME) else path
        for path in paths
    )


def _items(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _say(topic: Topic, level: Level, says: str) -> Told:
    return Told(topic=topic, level=level, says=says)


__all__ = ["Level", "Told", "Topic", "beyond_the_system", "tell", "written_size"]
