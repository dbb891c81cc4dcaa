# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever weakens a policy is seen: by a remark that names the key, and in the figure.

Every setting of every shipped policy is weakened, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from isolauncher.errors import PolicyError
from isolauncher.policy import audit
from isolauncher.policy.load import PolicyStore, trusted_owners
from isolauncher.policy.model import DEVICES, KEYS, Policy, Value, values

# Key to what is written in its place, from harmless to careless. Of a list each is
# one more item; of the rest, those after the one in force.
CHOICES: dict[str, tuple[Value, ...]] = {
    "identity.uid": ("instance", "bundle"),
    "identity.inner-uid": ("caller", "same"),
    "network.access": ("none", "loopback", "host"),
    "files.documents": ("none", "own", "opened", "all"),
    "display.x11": ("none", "shared"),
    "bus.accessibility": (False, True),
    "bus.input-method": (False, True),
    "limits.cgroup": ("required", "if-possible"),
    "kernel.landlock": ("required", "if-possible", "off"),
    "preload.set": ("python", "gtk3", "sugar3"),
    "preload.tier": ("exec", "fork"),
}
ITEMS: dict[str, tuple[str, ...]] = {
    "files.read": (
        *("{home}/Documents", "/home", "/root", "/etc", "/var", "/var/log", "/var/lib"),
        *("/run", "/run/user", "/srv/files", "/media", "/opt", "/boot", "/data"),
    ),
    "files.write": (
        *("{home}/Documents", "/home/somebody", "/srv/files", "/usr/local", "/opt"),
        *("/var/lib/games", "/data"),
    ),
    "bus.session-call": (
        "org.example.One=org.example.One.Do@/org/example",
        "org.example.One=org.example.One.*@/org/example",
        "org.example.One=*@/*",
        "org.freedesktop.systemd1=org.freedesktop.systemd1.Manager.StartUnit@/*",
    ),
    "devices.allow": DEVICES,
    "bus.session-own": ("org.example.One", "org.example.Two.*"),
    "environment.keep": ("NAME", "NAME_*", "LD_PRELOAD", "SSH_AUTH_SOCK"),
    "match.callers": ("*", "@staff", "root"),
    "match.bundle-id": ("org.example.One", "org.example.*"),
}
SETTINGS = {
    "PATH": ("/tmp:/usr/bin", "/usr/bin:/srv/bin"),
    "LD_PRELOAD": ("/usr/lib/x.so",),
    "NAME": ("value",),
}
NOT_WEAKER = {
    "namespaces.hostname",
    "network.allow",
    "kernel.syscalls",
}
"""One choice so far, or none that is weaker."""


def toml(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            return f'"{value}"'


def weaker(policy: Policy) -> Iterator[tuple[str, str]]:
    """Key, and the line that weakens it below its table's head."""
    for key, value in values(policy).items():
        name = key.rpartition(".")[2]
        if key in CHOICES:
            ranked = CHOICES[key]
            for worse in ranked[ranked.index(value) + 1 :]:
                yield key, f"{name} = {toml(worse)}"
        elif key in ITEMS:
            assert isinstance(value, tuple)
            for item in ITEMS[key]:
                if item not in value:
                    yield key, f'{name} = ["...", "{item}"]'
        elif key.startswith("limits.") or key in ("files.tmp", "files.data"):
            assert isinstance(value, int)
            yield from ((key, f"{name} = {n}") for n in _more(key, value))
    for variable, given in SETTINGS.items():
        for text in given:
            yield f"environment.set.{variable}", f'set = {{ {variable} = "{text}" }}'
    for key in ("match.callers", "match.bundle-id"):
        for item in ITEMS[key]:
            yield key, f'{key.partition(".")[2]} = ["{item}"]'
    yield "match.installed-by", 'installed-by = "user"\nbundle-id = ["org.example.A"]'


def _more(key: str, value: int) -> Iterator[int]:
    limit = next(k for k in KEYS if k.name == key)
    if key == "limits.nice":
        yield from range(value)
    elif key == "limits.cpu-seconds":
        yield from ((value * 2, 0) if value else ())
    elif value == 0:
        yield from (4096, 2**20)
    else:
        step = 2**20 if limit.kind == "size" else 1
        more = (value + step, value * 2, value * 64)
        yield from (n for n in more if n <= limit.maximum)


def written(place: Path, name: str, **texts: str) -> Policy:
    """``name`` of a directory that has these as well; PolicyError if it is none."""
    for one, text in texts.items():
        (place / f"{one}.toml").write_text(text)
    owners = trusted_owners() | {place.stat().st_uid}
    with closing(PolicyStore(etc_dir=str(place), owners=owners)) as policies:
        return policies.get(name)


def shipped(name: str) -> Policy:
    with closing(PolicyStore()) as policies:
        return policies.get(name)


def names() -> list[str]:
    with closing(PolicyStore()) as policies:
        return list(policies.names())


@pytest.mark.parametrize("name", names())
def test_every_weakening_is_seen_by_a_remark_that_names_its_key(
    name: str, tmp_path: Path
) -> None:
    head = f'version = 1\nextends = "{name}"\n'
    before = written(tmp_path, "mutant", mutant=head)
    plain = audit.remarks(before)
    seen = set()
    for number, (key, line) in enumerate(weaker(before)):
        table = key.partition(".")[0]
        try:
            text = f"{head}[{table}]\n{line}\n"
            mutant = written(tmp_path, f"m{number}", **{f"m{number}": text})
        except PolicyError as error:
            if key not in {mistake.key for mistake in error.mistakes}:
                raise
            continue  # no policy may say that at all
        finally:
            (tmp_path / f"m{number}.toml").unlink()
        found = audit.remarks(mutant)
        assert audit.exposure(found) > audit.exposure(plain), f"{key}: {line}"
        # What the key comes to now is more than before, and a remark of it says so.
        assert points(found, key) > points(plain, key), f"{key}: {line}"
        seen.add(".".join(key.split(".")[:2]))
    already = {"preload.set", "preload.tier", "limits.cgroup", "display.x11"}
    every = {".".join(key.split(".")[:2]) for key in values(before)}
    assert every - seen - NOT_WEAKER <= already | {"limits.cpu-seconds", "limits.nice"}


def test_there_are_hundreds_of_weakenings() -> None:
    assert sum(len(list(weaker(shipped(name)))) for name in names()) > 300


def points(found: tuple[audit.Remark, ...], key: str) -> float:
    return sum(remark.points for remark in found if remark.key == key)


def test_no_shipped_policy_has_a_dangerous_finding() -> None:
    for name in names():
        worst = audit.worst(audit.remarks(shipped(name)))
        assert not audit.reaches(worst, "dangerous"), name


@pytest.mark.parametrize(
    ("text", "id", "severity"),
    [
        ('[network]\naccess = "host"', "network-host", "dangerous"),
        ('[files]\nread = ["/home"]', "reads-everything", "dangerous"),
        ('[files]\nread = ["/run"]', "reads-sockets", "dangerous"),
        ('[files]\nread = ["/run/dbus"]', "reads-sockets", "dangerous"),
        ('[files]\nread = ["/run/media"]', "reads-others", "open"),
        ('[files]\nread = ["{home}/Mail"]', "reads-home", "open"),
        ('[files]\nread = ["/var/log"]', "reads-others", "open"),
        ('[files]\nread = ["/var/lib/dbus/machine-id"]', "reads-machine-id", "note"),
        ('[files]\nwrite = ["/usr/local"]', "writes-system", "dangerous"),
        ('[files]\nwrite = ["/home/ana"]', "writes-everything", "dangerous"),
        ('[files]\nwrite = ["/srv/x"]', "writes-outside", "open"),
        ('[files]\ndocuments = "all"', "documents-all", "dangerous"),
        ('[devices]\nallow = ["microphone"]', "hears", "open"),
        ('[devices]\nallow = ["camera"]', "sees", "open"),
        ('[devices]\nallow = ["serial"]', "serial-ports", "open"),
        ('[devices]\nallow = ["sound"]', "mixer", "note"),
        ('[devices]\nallow = ["gpu"]', "graphics-driver", "note"),
        ('[display]\nx11 = "shared"', "display-shared", "open"),
        ('[bus]\nsession-call = ["org.a.B=org.a.B.*@/*"]', "bus-wide", "open"),
        ('[environment]\nkeep = ["LD_PRELOAD"]', "environment-kept", "open"),
        ('[environment]\nset = { PATH = "/tmp" }', "path-open", "open"),
        ('[kernel]\nlandlock = "off"', "landlock-off", "open"),
        ('[identity]\nuid = "bundle"', "uid-kept", "note"),
        (
            '[network]\naccess = "host"\n[files]\nread = ["{home}/Mail"]',
            "can-send-away",
            "dangerous",
        ),
        (
            '[network]\naccess = "host"\n[display]\nx11 = "shared"',
            "can-send-screen",
            "dangerous",
        ),
        (
            '[network]\naccess = "host"\n[devices]\nallow = ["camera"]\n[grants]\n'
            'P_NET = { because = "A." }\nP_MIC_CAM = { because = "B." }',
            "can-send-heard",
            "dangerous",
        ),
    ],
)
def test_a_finding_names_the_line_and_what_to_write_instead(
    tmp_path: Path, text: str, id: str, severity: str
) -> None:
    policy = written(tmp_path, "one", one=f"version = 1\n{text}\n")
    told = audit.findings(audit.remarks(policy))
    (found,) = [remark for remark in told if remark.id == id]
    assert found.severity == severity
    assert found.file == str(tmp_path / "one.toml")
    line = (tmp_path / "one.toml").read_text().splitlines()[found.line - 1]
    assert line.startswith(found.key.split(".")[1])
    assert found.message[0].isupper() or found.message[0] in "/{" or found.item
    assert found.fix
    severities = [remark.severity for remark in told]
    assert severities == sorted(severities, key=lambda s: -audit.SEVERITIES.index(s))  # type: ignore[arg-type]


def test_of_a_list_the_file_that_added_an_item_is_named(tmp_path: Path) -> None:
    policy = written(
        tmp_path,
        "two",
        one='version = 1\n[files]\nread = ["/var/log"]\n',
        two='version = 1\nextends = "one"\n[files]\nread = ["...", "/srv"]\n',
    )
    told = audit.findings(audit.remarks(policy))
    assert [(r.item, Path(r.file).name) for r in told] == [
        ("/var/log", "one.toml"),
        ("/srv", "two.toml"),
    ]
