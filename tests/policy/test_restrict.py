# SPDX-License-Identifier: GPL-3.0-or-later
"""`isolauncher restrict` takes, never gives, and loses nothing of anybody's."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.powers import need

from isolauncher import kernel
from isolauncher.cli import main
from isolauncher.errors import HostError, NotAllowed, PolicyError, RequestError
from isolauncher.policy import audit, choose, keep, load, restrict
from isolauncher.policy.load import PolicyStore
from isolauncher.policy.model import values
from isolauncher.session import installed

SHIPPED = Path(__file__).resolve().parents[2] / "policies"
ACTION = SHIPPED.parent / "integration/polkit/org.sugarlabs.isolauncher.policy"
LOG, CALCULATE, RECORD = "org.laptop.Log", "org.laptop.Calculate", "org.laptop.Record"


class Place:
    """An administrator's directory beside the shipped policies, and its store."""

    def __init__(self, etc: Path, vendor: Path = SHIPPED) -> None:
        self.etc = etc
        owners = frozenset({0, os.getuid(), SHIPPED.stat().st_uid})
        self.store = PolicyStore(str(vendor), str(etc), owners=owners)

    def standing(self, bundle_id: str = LOG) -> restrict.Standing:
        return restrict.standing(self.store, bundle_id)

    def take(self, *powers: str, bundle_id: str = LOG, **how: object) -> str:
        standing = self.standing(bundle_id)
        taken = restrict.powers(powers, standing)
        return keep.put(self.store, standing, taken, **how)  # type: ignore[arg-type]

    def files(self) -> dict[str, bytes]:
        """All that lies there, the hidden too."""
        if not self.etc.exists():
            return {}
        return {path.name: path.read_bytes() for path in self.etc.iterdir()}

    def write(self, name: str, text: str) -> Path:
        self.etc.mkdir(exist_ok=True)
        path = self.etc / name
        path.write_text(text)
        path.chmod(0o644)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "policies")
    yield made
    made.store.close()


# ------------------------------------------------------------------------------- taking


@pytest.mark.parametrize(
    ("bundle_id", "name", "powers"),
    [
        (LOG, "log", ("documents", "files")),
        (LOG, "log", ("files",)),
        (CALCULATE, "calculate", ("documents",)),
        # Which only a prefix governs, and which nothing does.
        (RECORD, f"{RECORD}.restricted", ("documents", "programs")),
    ],
)
def test_what_is_written_passes_test_policy_and_is_lower_there_alone(
    place: Place, bundle_id: str, name: str, powers: tuple[str, ...]
) -> None:
    base = place.standing(bundle_id).base
    path = place.take(*powers, bundle_id=bundle_id)
    assert path == str(place.etc / f"{name}.toml")
    arguments = [f"--policy-dir={place.etc}", "--threshold=dangerous"]
    assert main.main(["test-policy", *arguments]) == 0
    assert main.main(["test-policy", *arguments, name]) == 0
    now = choose.for_bundle(place.store, bundle_id, system=True).policy
    lowered = restrict.lowered(base, restrict.powers(powers, place.standing(bundle_id)))
    assert lowered
    assert values(now) == {**values(base), **lowered}
    assert audit.exposure(audit.remarks(now)) <= audit.exposure(audit.remarks(base))
    assert restrict.held(now) == tuple(
        p for p in restrict.held(base) if p not in powers
    )
    assert place.standing(bundle_id).taken == restrict.powers(
        powers, place.standing(bundle_id)
    )


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in SHIPPED.glob("*.toml") if "\nbundle-id =" in p.read_text()),
)
def test_every_power_of_every_shipped_policy_can_be_taken(
    place: Place, name: str
) -> None:
    base = place.store.get(name)
    for bundle_id in base.match.bundle_ids:
        bundle_id = bundle_id.replace("*", "Something")
        held = place.standing(bundle_id).held
        place.take(*held, bundle_id=bundle_id)
        now = choose.for_bundle(place.store, bundle_id, system=True).policy
        assert restrict.held(now) == ()
        assert now.match.callers == base.match.callers
    assert main.main(["test-policy", f"--policy-dir={place.etc}"]) == 0


def test_what_is_taken_is_replaced_as_a_whole_and_given_back(place: Place) -> None:
    place.take("documents")
    place.take("files")
    assert place.standing().taken == ("files",)
    assert place.standing().now.view.documents == "opened"
    assert [*place.files()] == ["log.toml"]
    assert place.take() == ""
    assert place.files() == {}
    assert place.standing().taken == ()
    assert place.take() == ""


def test_an_activity_stays_lower_when_its_shipped_policy_changes(
    tmp_path: Path,
) -> None:
    vendor = tmp_path / "vendor"
    shutil.copytree(SHIPPED, vendor)
    place = Place(tmp_path / "policies", vendor)
    place.take("documents", "files")
    shipped = vendor / "log.toml"
    text = shipped.read_text().replace('"/var/log"]', '"/var/log", "/srv/atlas"]')
    shipped.write_text(text)
    standing = place.standing()
    assert "/srv/atlas" in standing.base.view.read
    assert "/srv/atlas" not in standing.now.view.read
    place.store.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    """With shipped policies of its own, as another version may bring them."""
    vendor = tmp_path / "vendor"
    shutil.copytree(SHIPPED, vendor)
    made = Place(tmp_path / "policies", vendor)
    yield made
    made.store.close()


@pytest.mark.parametrize(
    ("power", "then", "now", "key"),
    [
        ("documents", 'tmp = "16M"', 'documents = "none"', "files.documents"),
        ("files", 'read = ["...", ', 'read = ["/usr", ', "files.read"),
        # Whom it admits, and what else the one governs in whose place it stands.
        ("files", "[match]\n", '[match]\ncallers = ["root"]\n', "match.callers"),
        ("files", f'["{LOG}"]', f'["{LOG}", "org.laptop.Other"]', "match.bundle-id"),
    ],
)
def test_what_gives_back_what_its_policy_lost_is_told_and_made_anew(
    own: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    power: str,
    then: str,
    now: str,
    key: str,
) -> None:
    monkeypatch.setattr(load, "vendor_directory", lambda: own.store.vendor_dir)
    own.take(power)
    assert own.standing().stale == ()
    shipped = Path(own.store.vendor_dir) / "log.toml"
    assert then in shipped.read_text()
    shipped.write_text(shipped.read_text().replace(then, now))
    standing = own.standing()
    assert standing.stale == (key,)

    arguments = ["log", f"--policy-dir={own.etc}", "--json"]
    assert main.main(["test-policy", *arguments, "--threshold=dangerous"]) == 0
    (tested,) = json.loads(capsys.readouterr().out)["policies"]
    told = [f for f in tested["findings"] if f["id"] == "restriction-stale"]
    assert [(f["key"], f["file"]) for f in told] == [(key, str(own.etc / "log.toml"))]
    assert main.main(["explain", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] == [key]
    assert main.main(["explain", *arguments[:2]]) == 0
    assert standing.outdated() in capsys.readouterr().err

    # The command that is told does it.
    words = standing.again().split()
    assert words[:3] == ["isolauncher", "restrict", LOG]
    own.take(*(word for word in words[3:] if word != "--as-shipped"))
    assert own.standing().stale == ()


def test_what_a_later_shipped_policy_makes_ambiguous_is_given_back(own: Place) -> None:
    own.take("documents", bundle_id=RECORD)
    (made,) = own.files()
    record = Path(own.store.vendor_dir) / "record.toml"
    record.write_text(
        f'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["{RECORD}"]\n'
    )
    with pytest.raises(PolicyError) as caught:
        choose.for_bundle(own.store, RECORD, system=True)
    assert (
        f"isolauncher restrict {RECORD} --as-shipped" in caught.value.mistakes[0].hint
    )
    standing = own.standing(RECORD)
    assert (standing.now, standing.taken) == (None, ("documents",))
    assert standing.base.name == "record"
    refused(own, "restrict-outdated", "documents", bundle_id=RECORD)
    assert [*own.files()] == [made]
    assert own.take(bundle_id=RECORD) == ""
    assert own.files() == {}
    assert own.standing(RECORD).name == "record"


def test_what_was_made_counts_from_the_policy_that_would_govern_now(own: Place) -> None:
    own.take("documents", bundle_id=RECORD)
    games = Path(own.store.vendor_dir) / "games.toml"
    games.write_text(
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.Rec.*"]\n'
    )
    assert own.standing(RECORD).stale == ()
    games.write_text(
        'version = 1\nextends = "calculate"\n' '[match]\nbundle-id = ["org.laptop.*"]\n'
    )
    sugar = Path(own.store.vendor_dir) / "sugar.toml"
    sugar.write_text(sugar.read_text().replace("org.laptop.*", "org.other.*"))
    standing = own.standing(RECORD)
    assert standing.base.name == "games"
    assert {"bus.session-call", "limits.memory"} <= {*standing.stale}
    own.take("documents", bundle_id=RECORD)
    assert own.standing(RECORD).stale == ()


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    place = Place(tmp_path / "isolauncher" / "policies")
    place.take("documents")
    for path in (place.etc, place.etc.parent):
        assert path.stat().st_mode & 0o7777 == 0o755
    assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
    place.store.close()


def test_a_umask_of_the_caller_s_changes_nothing(place: Place) -> None:
    before = os.umask(0)
    try:
        place.take("documents")
        assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
        os.umask(0o777)
        place.take("files")
        assert (place.etc / "log.toml").stat().st_mode & 0o7777 == 0o644
    finally:
        os.umask(before)


# ----------------------------------------------------------------------------- refusing

BY_HAND = """\
version = 1
extends = "log"

[match]
bundle-id = ["org.laptop.Log"]
"""


def refused(place: Place, code: str, *powers: str, **how: object) -> NotAllowed:
    before = place.files()
    with pytest.raises((NotAllowed, HostError)) as caught:
        place.take(*powers, **how)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert place.files() == before
    return caught.value  # type: ignore[return-value]


def test_a_file_that_an_administrator_wrote_is_left_alone(place: Place) -> None:
    place.write("log.toml", BY_HAND)
    error = refused(place, "restrict-by-hand", "documents")
    assert str(place.etc / "log.toml") in error.message
    # As root's, under another name, or where the name would be ours.
    os.rename(place.etc / "log.toml", place.etc / "mine.toml")
    with pytest.raises(PolicyError) as caught:
        place.standing()
    assert caught.value.code == "policy-match-ambiguous"


def test_one_of_ours_that_was_edited_is_an_administrator_s(place: Place) -> None:
    place.take("documents")
    path = place.etc / "log.toml"
    text = path.read_text()
    for edited in (
        text + "\n[limits]\nprocesses = 16\n",
        text.replace('documents = "own"', 'documents = "none"'),
        text.replace("# sha256", "# I looked at this.\n# sha256"),
        text.replace("without documents", "without files"),
    ):
        path.write_text(edited)
        refused(place, "restrict-by-hand", "files")
        refused(place, "restrict-by-hand")


def test_one_of_ours_under_another_s_name_is_left_alone(place: Place) -> None:
    place.take("documents", bundle_id=CALCULATE)
    made = place.etc / "calculate.toml"
    name = f"{RECORD}.restricted"
    made.rename(place.etc / f"{name}.toml")
    before = place.files()
    with pytest.raises(PolicyError):
        place.take("documents", bundle_id=CALCULATE)
    refused(place, "restrict-by-hand", "documents", bundle_id=RECORD)
    assert place.files() == before


def _link(path: Path, elsewhere: Path) -> None:
    elsewhere.write_text("secret = true\n")
    path.symlink_to(elsewhere)


def _socket(path: Path, elsewhere: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


LIES_THERE: dict[str, Callable[[Path, Path], object]] = {
    "a link": _link,
    "a link to nothing": lambda path, elsewhere: path.symlink_to(elsewhere),
    "a directory": lambda path, elsewhere: path.mkdir(),
    "a fifo": lambda path, elsewhere: os.mkfifo(path),
    "a socket": _socket,
}


@pytest.mark.parametrize("what", LIES_THERE)
def test_what_is_no_file_is_neither_followed_nor_replaced(
    place: Place, tmp_path: Path, what: str
) -> None:
    place.etc.mkdir()
    path, elsewhere = place.etc / "log.toml", tmp_path / "elsewhere"
    LIES_THERE[what](path, elsewhere)
    before = path.lstat()
    with pytest.raises((NotAllowed, PolicyError)) as caught:
        place.take("documents")
    assert caught.value.code in ("policy-not-trusted", "policy-unreadable")
    assert path.lstat().st_ino == before.st_ino
    assert not elsewhere.exists() or elsewhere.read_text() == "secret = true\n"
    assert os.listdir(place.etc) == ["log.toml"]


def test_one_of_ours_is_replaced_through_no_hard_link(
    place: Place, tmp_path: Path
) -> None:
    place.take("documents")
    kept = tmp_path / "kept.toml"
    os.link(place.etc / "log.toml", kept)
    before = kept.read_bytes()
    place.take("files")
    assert kept.read_bytes() == before


@pytest.mark.parametrize("which", ["policies", "above"])
def test_a_directory_that_others_may_write_is_refused(
    tmp_path: Path, which: str
) -> None:
    place = Place(tmp_path / "isolauncher" / "policies")
    place.etc.mkdir(parents=True)
    (place.etc if which == "policies" else place.etc.parent).chmod(0o777)
    with pytest.raises((NotAllowed, PolicyError)) as caught:
        place.take("documents")
    assert caught.value.code == "policy-not-trusted"
    assert place.files() == {}
    place.store.close()


def test_a_dangerous_policy_is_not_written_however_it_came_to_be(place: Place) -> None:
    place.write(
        "sugar.toml",
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.*"]\n'
        '[network]\naccess = "host"\n',
    )
    error = refused(place, "restrict-dangerous", "documents", bundle_id=RECORD)
    assert error.hint == "see line 6 of sugar.toml"
    # Without the network it is no danger.
    place.take("network", "documents", bundle_id=RECORD)
    assert place.standing(RECORD).now.network == "none"


def test_a_mistake_anywhere_stops_it_and_is_named(place: Place) -> None:
    path = place.write("else.toml", "version = 1\n[match]\nbundle-id = 3\n")
    with pytest.raises(PolicyError) as caught:
        place.take("documents")
    assert str(path) in caught.value.message
    assert [*place.files()] == ["else.toml"]


def test_two_policies_that_claim_one_bundle_stop_it_for_others_too(
    place: Place,
) -> None:
    mine = BY_HAND.replace(LOG, "org.laptop.Chat").replace('"log"', '"chat"')
    place.write("mine.toml", mine)
    with pytest.raises(PolicyError) as caught:
        place.take("documents")
    assert caught.value.code == "policy-match-ambiguous"
    files = {mistake.file for mistake in caught.value.mistakes}
    assert files == {str(place.etc / "mine.toml"), str(SHIPPED / "chat.toml")}
    assert [*place.files()] == ["mine.toml"]


@pytest.mark.parametrize(
    "more",
    [
        "[limits]\nprocesses = 4096\n",
        '[network]\naccess = "loopback"\n',
        "[limits]\nprocesses = 1\n",
    ],
)
def test_a_file_that_says_anything_else_is_not_written(
    place: Place, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    text = restrict.text
    monkeypatch.setattr(restrict, "text", lambda *words: f"{text(*words)}\n{more}")
    refused(place, "restrict-not-lower", "documents")


def test_two_bundles_of_one_policy_are_not_taken_for_one(
    tmp_path: Path,
) -> None:
    vendor = tmp_path / "vendor"
    shutil.copytree(SHIPPED, vendor)
    both = '["org.laptop.Log", "org.laptop.Other"]'
    text = (vendor / "log.toml").read_text().replace('["org.laptop.Log"]', both)
    (vendor / "log.toml").write_text(text)
    place = Place(tmp_path / "policies", vendor)
    error = refused(place, "restrict-shared", "documents")
    assert "org.laptop.Other" in error.message
    place.store.close()


@pytest.mark.parametrize("where", ["etc", "vendor"])
def test_what_others_extend_is_not_taken_from_them_too(own: Place, where: str) -> None:
    place = own.etc if where == "etc" else Path(own.store.vendor_dir)
    own.write("first.toml", 'version = 1\nextends = "log"\n')
    if where == "vendor":
        (own.etc / "first.toml").rename(place / "first.toml")
    (place / "second.toml").write_text('version = 1\nextends = "first"\n')
    error = refused(own, "restrict-shared", "documents")
    assert "first, second" in error.message
    assert own.standing().held == ("documents", "files")
    for name in ("first.toml", "second.toml"):
        (place / name).unlink()
    own.take("documents")


def test_what_others_cannot_do_without_is_not_taken_away(place: Place) -> None:
    place.take("documents", bundle_id=RECORD)
    name = f"{RECORD}.restricted"
    path = place.write("mine.toml", f'version = 1\nextends = "{name}"\n')
    for powers in ((), ("documents", "programs")):
        error = refused(place, "restrict-shared", *powers, bundle_id=RECORD)
        assert "mine" in error.message
    path.unlink()
    assert place.take(bundle_id=RECORD) == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("network",), "restrict-not-held"),
        (("documents", "everything"), "restrict-no-power"),
        (("../files",), "restrict-no-power"),
        (('documents"\n[network]\naccess = "host',), "restrict-no-power"),
        (("-x",), "restrict-no-power"),
    ],
)
def test_only_what_it_has_can_be_taken(
    place: Place, words: tuple[str, ...], code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        place.take(*words)
    assert caught.value.code == code
    assert place.files() == {}


def test_an_id_of_any_form_is_quoted_or_refused(place: Place) -> None:
    long = "org.laptop." + "x" * 60
    refused(place, "restrict-name-too-long", "documents", bundle_id=long)


# ------------------------------------------------------------------- while others write


def meanwhile(do: Callable[[], object]) -> Callable[..., None]:
    """The kernel's rename, behind somebody who was quicker once."""
    once = [do]

    def rename(*arguments: object, **how: object) -> None:
        while once:
            once.pop()()
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    return rename


def test_a_file_that_an_administrator_writes_meanwhile_is_not_lost(
    place: Place,
) -> None:
    def write() -> None:
        place.write("log.toml", BY_HAND)

    for powers in (("documents",), ("documents", "files"), ()):
        shutil.rmtree(place.etc, ignore_errors=True)
        if powers != ("documents",):
            place.take("files")
        with pytest.raises(NotAllowed) as caught:
            place.take(*powers, rename=meanwhile(write))
        assert caught.value.code == "restrict-changed"
        assert place.files() == {"log.toml": BY_HAND.encode()}


def test_what_came_there_since_it_was_looked_at_is_not_touched(place: Place) -> None:
    log, record = place.standing(), place.standing(RECORD)
    place.write("log.toml", BY_HAND)
    place.take("documents", bundle_id=CALCULATE)
    # One of ours, but another bundle's.
    name = f"{RECORD}.restricted.toml"
    (place.etc / "calculate.toml").rename(place.etc / name)
    before = place.files()
    for standing in (log, record):
        with pytest.raises((NotAllowed, PolicyError)):
            keep.put(place.store, standing, ("documents",))
        assert place.files() == before
    (place.etc / "log.toml").unlink()
    place.write("calculate.toml", "version = 1\n")
    before = place.files()
    with pytest.raises(NotAllowed) as caught:
        keep.put(place.store, record, ("documents",))
    assert caught.value.code == "restrict-by-hand"
    assert place.files() == before


def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    place: Place, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")

    def link() -> None:
        (place.etc / "log.toml").unlink()
        (place.etc / "log.toml").symlink_to(elsewhere)

    place.take("files")
    with pytest.raises(NotAllowed) as caught:
        place.take("documents", rename=meanwhile(link))
    assert caught.value.code == "restrict-changed"
    assert (place.etc / "log.toml").is_symlink()
    assert elsewhere.read_text() == "mine\n"
    assert os.listdir(place.etc) == ["log.toml"]


def test_two_at_once_leave_one_of_the_two(place: Place) -> None:
    place.take("files")

    def other() -> None:
        place.take("documents", "files")

    with pytest.raises(NotAllowed) as caught:
        place.take("documents", rename=meanwhile(other))
    assert caught.value.code == "restrict-changed"
    assert place.standing().taken == ("documents", "files")
    assert [*place.files()] == ["log.toml"]


def test_two_that_are_written_meanwhile_are_both_there_afterwards(place: Place) -> None:
    later = BY_HAND + "[limits]\nprocesses = 16\n"
    place.take("files")
    texts = [BY_HAND, later]

    def rename(*arguments: object, **how: object) -> None:
        if texts:
            place.write("new", texts.pop(0)).rename(place.etc / "log.toml")
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    with pytest.raises(HostError) as caught:
        place.take("documents", rename=rename)
    files = place.files()
    assert files.pop("log.toml") == later.encode()
    ((kept, text),) = files.items()
    assert text == BY_HAND.encode()
    assert kept in caught.value.message


@pytest.mark.parametrize("powers", [("documents",), ()])
def test_an_interruption_loses_nothing(place: Place, powers: tuple[str, ...]) -> None:
    def rename(*arguments: object, **how: object) -> None:
        if not done:
            place.write("new", BY_HAND).rename(place.etc / "log.toml")
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]
        done.append(arguments)
        signal.raise_signal(signal.SIGINT)

    done: list[object] = []
    place.take("files")
    with pytest.raises(KeyboardInterrupt):
        place.take(*powers, rename=rename)
    assert place.files() == {"log.toml": BY_HAND.encode()}


def test_where_files_cannot_be_exchanged_nothing_is_written(place: Place) -> None:
    def rename(*arguments: object, **how: object) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    refused(place, "restrict-no-exchange", "documents", rename=rename)
    place.take("files")
    refused(place, "restrict-no-exchange", "documents", rename=rename)
    refused(place, "restrict-no-exchange", rename=rename)


def test_what_cannot_be_put_back_is_kept_and_named(place: Place) -> None:
    place.take("files")
    calls: list[object] = []

    def rename(*arguments: object, **how: object) -> None:
        if calls:
            raise OSError(errno.EIO, "the disk is gone")
        calls.append(arguments)
        place.write("log.toml", BY_HAND)
        kernel.rename(*arguments, **how)  # type: ignore[arg-type]

    with pytest.raises(HostError) as caught:
        place.take("documents", rename=rename)
    files = place.files()
    (kept,) = (name for name in files if name.startswith(".restrict-"))
    assert files[kept] == BY_HAND.encode()
    assert kept in caught.value.message


def test_nothing_is_left_where_the_file_system_is_full(place: Place) -> None:
    import resource
    import signal

    place.take("files")
    before = place.files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The rehearsal writes too: it is the first that a limit of the caller's stops.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(HostError) as caught:
            place.take("documents")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "restrict-not-tried"
    assert place.files() == before


# ------------------------------------------------------------------------- the command


@pytest.fixture
def log_is_installed() -> None:
    need(None if _is_installed(LOG) else "sugar-log-activity is not installed")


def _is_installed(bundle_id: str) -> bool:
    return any(bundle_id == one for _, one, _ in installed._all(installed.SYSTEM))


@pytest.mark.usefixtures("log_is_installed")
def test_the_command_takes_shows_and_gives_back(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> dict[str, object]:
        here = f"--policy-dir={place.etc}"
        assert main.main(["restrict", LOG, *words, "--json", here]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    shown = said()
    assert (shown["policy"], shown["file"], shown["taken"]) == ("log", None, [])
    assert shown["held"] == ["documents", "files"]
    path = str(place.etc / "log.toml")
    assert said("files")["file"] == path
    assert said()["taken"] == ["files"]
    assert said("--as-shipped")["taken"] == []
    assert place.files() == {}


@pytest.mark.usefixtures("log_is_installed")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("org.laptop.NoSuch", "documents"), "bundle-not-found"),
        (("../../etc/passwd", "documents"), "restrict-bad-id"),
        (("org.laptop.Log\nx", "documents"), "restrict-bad-id"),
        (("/usr/share/sugar/activities/Log.activity",), "restrict-bad-id"),
        ((LOG, "documents", "--as-shipped"), "restrict-both"),
        ((LOG, "--print"), "restrict-no-power"),
    ],
)
def test_the_command_refuses(
    place: Place,
    words: tuple[str, ...],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = f"--policy-dir={place.etc}"
    assert main.main(["restrict", *words, here]) == 125
    assert capsys.readouterr().err.endswith(f"[{code}]\n")
    assert place.files() == {}


@pytest.mark.usefixtures("log_is_installed")
def test_who_comes_by_pkexec_chooses_no_directory(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKEXEC_UID", "1000")
    words = ["restrict", LOG, "documents", f"--policy-dir={place.etc}"]
    assert main.main(words) == 125
    assert capsys.readouterr().err.endswith("[restrict-directory]\n")
    assert place.files() == {}


@pytest.mark.usefixtures("log_is_installed")
def test_a_person_s_own_bundle_of_the_same_id_does_not_count(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle(tmp_path / "Activities/Mine.activity")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert installed.find("org.example.Mine", os.environ)
    here = f"--policy-dir={place.etc}"
    assert main.main(["restrict", "org.example.Mine", "documents", here]) == 125
    assert capsys.readouterr().err.endswith("[bundle-not-found]\n")


def test_a_bundle_that_others_can_change_is_not_everybody_s(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle(tmp_path / "all/Mine.activity")
    (tmp_path / "all/Mine.activity").chmod(0o777)
    monkeypatch.setattr(installed, "SYSTEM", (str(tmp_path / "all"),))
    here = f"--policy-dir={place.etc}"
    for words in (("documents",), ()):
        assert main.main(["restrict", "org.example.Mine", *words, here]) == 125
        said = capsys.readouterr().err
        assert said.endswith("[restrict-not-for-all]\n")
        assert str(tmp_path / "all/Mine.activity") in said
    assert place.files() == {}


def bundle(path: Path) -> None:
    (path / "activity").mkdir(parents=True)
    (path / "activity/activity.info").write_text(
        "[Activity]\nname = Mine\nbundle_id = org.example.Mine\nicon = mine\n"
        "exec = sugar-activity3 mine.Mine\nactivity_version = 1\nlicense = GPLv3\n"
    )


def test_polkit_asks_an_administrator_for_this_verb_and_no_other() -> None:
    (action,) = ElementTree.parse(ACTION).getroot().findall("action")  # noqa: S314
    notes = {one.get("key"): one.text for one in action.findall("annotate")}
    assert notes == {
        "org.freedesktop.policykit.exec.path": "/usr/bin/isolauncher",
        "org.freedesktop.policykit.exec.argv1": "restrict",
    }
    defaults = action.find("defaults")
    assert defaults is not None
    assert {one.tag: one.text for one in defaults} == {
        "allow_any": "no",
        "allow_inactive": "no",
        "allow_active": "auth_admin",
    }
