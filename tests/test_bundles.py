# SPDX-License-Identifier: GPL-3.0-or-later
"""Sugar bundles through the daemon: what they get, what they keep, what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import Person, make, overlay, person, system_directory
from support.daemons import Leftovers, Service, nothing_left, service
from support.peers import ALICE, BOB

WRITE = """#!/usr/bin/python3
import os, sys
root = os.environ["SUGAR_ACTIVITY_ROOT"]
for name in ("data", "instance", "tmp"):
    with open(os.path.join(root, name, "note"), "a") as file:
        file.write(sys.argv[2] + "\\n")
print("written", flush=True)
"""


@pytest.fixture(scope="module")
def system() -> Iterator[Path]:
    with system_directory() as path:
        yield path


@pytest.fixture(scope="module")
def show(system: Path) -> Path:
    return make(system / "show")


@pytest.fixture
def alice(daemon: Service) -> Iterator[Person]:
    with person(daemon, ALICE) as somebody:
        yield somebody


@pytest.fixture(autouse=True)
def _nothing_is_left(daemon: Service) -> Iterator[None]:
    before = Leftovers.now(daemon)
    yield
    nothing_left(daemon, before)


def output(
    somebody: Person, bundle: Path, **changes: object
) -> tuple[str, dict[str, object]]:
    """(what it printed, how it ended)."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as out:
        try:
            with somebody.launch(bundle, stdout=writer, **changes) as launched:  # type: ignore[arg-type]
                os.close(writer)
                writer = -1
                end = launched.end()
            return out.read(), end
        finally:
            if writer >= 0:
                os.close(writer)


def refusal(somebody: Person, bundle: Path, **changes: object) -> str:
    with somebody.launch(bundle, **changes) as launched:  # type: ignore[arg-type]
        said = launched.said
    assert said["event"] == "refused", said
    return str(said["code"])


def test_a_system_bundle_gets_sugars_environment_and_directories_of_its_own(
    alice: Person, show: Path
) -> None:
    text, end = output(alice, show, id="abc", object_id="17", uri="file:///x")
    assert end["status"] == 0, (text, end)
    seen = json.loads(text)
    root = f"{alice.home}/.sugar/default/org.laptop.Test"
    assert seen["argv"] == [
        f"{show}/bin/show",
        *("-b", "org.laptop.Test", "-a", "abc", "-o", "17", "-u", "file:///x"),
    ]
    assert seen["cwd"] == str(show)
    assert seen["uid"] == ALICE
    environment = seen["environment"]
    assert environment["HOME"] == str(alice.home)
    assert environment["SUGAR_ACTIVITY_ROOT"] == root
    assert environment["SUGAR_BUNDLE_PATH"] == str(show)
    assert environment["SUGAR_BUNDLE_ID"] == "org.laptop.Test"
    assert environment["XDG_RUNTIME_DIR"] == f"/run/user/{ALICE}"
    assert environment["PATH"].startswith(f"{show}/bin:")
    assert environment["GST_REGISTRY"] == f"{root}/data/.gstreamer-registry.bin"
    assert environment["MPLCONFIGDIR"] == f"{root}/data/.matplotlib"
    # Nothing is granted to play sound on.
    assert environment["SDL_AUDIODRIVER"] == "dummy"
    # Nothing of the accessibility bus is granted to be reached.
    assert environment["NO_AT_BRIDGE"] == "1"
    assert seen["home"] == [".sugar"]
    assert seen["root"] == {"data": [], "instance": [], "tmp": []}
    report = end["report"]
    assert isinstance(report, dict)
    assert report["activity"]["bundle_id"] == "org.laptop.Test"
    assert report["policy"]["name"] == "sugar"
    assert {"mount", "landlock", "seccomp", "uid"} <= set(report["enforced"])


def test_what_it_writes_is_the_persons_and_data_is_there_the_next_time(
    alice: Person, system: Path
) -> None:
    bundle = make(system / "write", programs={"write": WRITE}, exec="write first")
    for number in range(2):
        text, end = output(alice, bundle, id=f"n{number}")
        assert (text, end["status"]) == ("written\n", 0), end
    kept = alice.profile / "org.laptop.Test"
    assert (kept / "data/note").read_text() == "-b\n-b\n"
    for number in range(2):
        assert (kept / f"instance/n{number}/note").read_text() == "-b\n"
    for path in kept.rglob("note"):
        assert (path.stat().st_uid, path.stat().st_gid) == (ALICE, ALICE)


def test_settings_lie_in_its_home_and_end_with_it(alice: Person, system: Path) -> None:
    source = (
        "#!/usr/bin/python3\nimport os\n"
        "path = os.path.expanduser('~/.config/glib-2.0/settings/keyfile')\n"
        "print(open(path).read(), os.environ['GSETTINGS_BACKEND'])\n"
        "open(path, 'a').write('more'); os.mkdir(os.path.expanduser('~/.config/x'))\n"
        "os.mkdir(os.path.expanduser('~/.sugar/default/logs'))\n"
    )
    bundle = make(system / "settings", programs={"show": source})
    from isolauncher.furniture import SETTINGS

    text, end = output(alice, bundle, files={SETTINGS: b"[a]"})
    assert (text, end["status"]) == ("[a] keyfile\n", 0)
    assert sorted(p.name for p in alice.home.iterdir()) == [".sugar"]


def test_a_bundle_of_the_persons_own_is_untrusted_whatever_it_calls_itself(
    alice: Person,
) -> None:
    """Row 62."""
    bundle = make(alice.home / "Activities", id="org.laptop.Terminal", owner=ALICE)
    with alice.launch(bundle) as launched:
        assert launched.granted["policy"] == "untrusted"
        assert launched.granted["installed_by"] == "user"
        assert launched.end()["event"] == "exited"


def test_nobody_launches_a_bundle_that_he_cannot_read(
    daemon: Service, alice: Person
) -> None:
    bundle = make(alice.home / "Activities", owner=ALICE)
    bundle.chmod(0o700)
    with person(daemon, BOB) as bob:
        # Root's descriptor, as one that was passed on would be.
        assert refusal(bob, bundle) == "bundle-unreadable"


def test_only_own_directories_can_be_brought(
    daemon: Service, alice: Person, show: Path, tmp_path: Path
) -> None:
    with person(daemon, BOB) as bob:
        his = bob.directory("his")
        his.chmod(0o777)
        for name in ("data", "instance", "tmp"):
            for other in (his, Path("/etc"), Path("/"), show / "bin/show"):
                said = refusal(alice, show, brought={name: other})
                assert said == "request-bad-descriptor", (name, other)


def test_a_link_in_the_place_of_a_directory_is_none(alice: Person, show: Path) -> None:
    link = alice.profile / "link"
    link.symlink_to("/etc")
    assert refusal(alice, show, brought={"data": link}) == "request-bad-descriptor"


def test_what_is_no_socket_stands_nowhere_as_one(alice: Person, show: Path) -> None:
    for name in ("bus", "display"):
        for other in (Path("/etc/passwd"), Path("/dev/null"), alice.home):
            said = refusal(alice, show, brought={name: other})
            assert said == "request-bad-descriptor", (name, other)


def test_a_socket_that_the_person_may_not_use_is_none_for_its_activities(
    alice: Person, show: Path
) -> None:
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as sock:
        Path(place).chmod(0o755)
        sock.bind(f"{place}/bus")
        os.chmod(f"{place}/bus", 0o600)
        said = refusal(alice, show, brought={"bus": Path(f"{place}/bus")})
        assert said == "request-bad-descriptor"


def test_what_the_policy_has_no_place_for_is_refused_and_not_left_out(
    daemon: Service, alice: Person, show: Path
) -> None:
    daemon.policy(
        "narrow",
        'version = 1\n[match]\nbundle-id = ["org.laptop.Test"]\n'
        '[files]\ndata = "1M"\n',
    )
    try:
        with tempfile.TemporaryDirectory() as place:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(f"{place}/bus")
                path = Path(f"{place}/bus")
                for name in ("bus", "display"):
                    said = refusal(alice, show, brought={name: path})
                    assert said == "furniture-not-granted"
        text, end = output(alice, show)
        assert end["status"] == 0, text
    finally:
        (daemon.policies / "narrow.toml").unlink()


@pytest.mark.parametrize(
    "home", ["", "home", "/", "/etc", "/etc/x", "/usr/x", "/usr", "/a/../b", "/a\nb"]
)
def test_a_home_that_cannot_be_made_is_named(
    alice: Person, show: Path, home: str
) -> None:
    assert refusal(alice, show, environment={"HOME": home}) == "request-bad-home"


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ("HOME", "request-bad-home"),
        ("HOME/.sugar", "own-directories-shown"),
        ("{home}/.sugar/default", "own-directories-shown"),
        ("{home}/.sugar/default/org.laptop.Test", "own-directories-shown"),
    ],
)
def test_where_a_policy_shows_what_is_made_for_a_bundle_it_is_named(
    daemon: Service, alice: Person, show: Path, shown: str, code: str
) -> None:
    path = shown.replace("HOME", str(alice.home))
    daemon.policy(
        "shows",
        'version = 1\nextends = "sugar"\n[match]\nbundle-id = ["org.laptop.Test"]\n'
        f'[files]\nread = ["...", "{path}"]\n',
    )
    try:
        assert refusal(alice, show) == code
    finally:
        (daemon.policies / "shows.toml").unlink()


@pytest.mark.parametrize("profile", ["..", "a/b", "a\nb"])
def test_a_profile_that_is_no_name_is_refused(
    alice: Person, show: Path, profile: str
) -> None:
    said = refusal(alice, show, environment={"SUGAR_PROFILE": profile})
    assert said == "request-bad-profile"


def test_whoever_holds_the_other_end_of_the_pipe_learns_of_the_end(
    alice: Person, system: Path
) -> None:
    source = "#!/usr/bin/python3\nimport sys; print('up', flush=True); input()\n"
    bundle = make(system / "waits", programs={"show": source})
    reader, writer = os.pipe()
    with alice.launch(bundle, id="held", brought={"hold": writer}) as launched:
        os.close(writer)
        assert launched.said["event"] in ("started", "exited")
        launched.end()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_an_activity_outlives_who_asked_for_it_and_is_listed(
    daemon: Service, alice: Person, system: Path
) -> None:
    source = "#!/usr/bin/python3\nimport time; time.sleep(600)\n"
    bundle = make(system / "stays", programs={"show": source})
    with alice.launch(bundle, id="stays") as launched:
        assert launched.said["event"] == "started"
    rows = daemon.ask({"version": 1, "verb": "ps"})["activities"]
    assert isinstance(rows, list)
    (row,) = [row for row in rows if row["id"] == "stays"]
    assert row["bundle_id"] == "org.laptop.Test"
    assert row["state"] == "running"
    daemon.ask({"version": 1, "verb": "stop", "ids": ["stays"], "grace_ms": 0})


@pytest.fixture
def on_overlay(alice: Person) -> Iterator[Person]:
    with overlay(alice.home):
        yield alice


def test_where_the_persons_files_cannot_be_mapped_it_works_in_memory_of_hers(
    daemon: Service, on_overlay: Person, system: Path
) -> None:
    bundle = make(system / "overlay", programs={"write": WRITE}, exec="write first")
    scratch = daemon.run_dir / "scratch"
    reader, writer = os.pipe()
    with on_overlay.launch(bundle, stdout=writer, id="mem") as launched:
        os.close(writer)
        assert os.read(reader, 99) == b"written\n"
        assert launched.end()["status"] == 0
        # Hers to copy back, whoever wrote it.
        fd = os.open("data/note", os.O_RDONLY, dir_fd=launched.scratch)
        assert os.read(fd, 99) == b"-b\n"
        assert os.fstat(fd).st_uid == ALICE
        os.close(fd)
        size = os.statvfs(launched.scratch)
        assert size.f_blocks * size.f_frsize == 200 * 1024**2
    os.close(reader)
    assert os.listdir(scratch) == []


def test_what_works_in_memory_does_so_under_the_next_daemon_too(
    system: Path,
) -> None:
    source = "#!/usr/bin/python3\nimport time; time.sleep(600)\n"
    bundle = make(system / "goes-on", programs={"show": source})
    with service() as own, person(own, ALICE) as somebody, overlay(somebody.home):
        with somebody.launch(bundle, id="mem") as launched:
            assert launched.said["event"] == "started", launched.said
        (own.run_dir / "scratch/left").mkdir()
        own.stop(signal.SIGKILL)
        own.start()
        assert os.listdir(own.run_dir / "scratch") == ["mem"]
        assert os.path.ismount(own.run_dir / "scratch/mem")
        own.ask({"version": 1, "verb": "stop", "ids": ["mem"], "grace_ms": 0})
        assert os.listdir(own.run_dir / "scratch") == []


LIMITS = """#!/usr/bin/python3
import json, resource
names = ("NOFILE", "NPROC", "FSIZE", "DATA")
print(json.dumps({n: resource.getrlimit(getattr(resource, f"RLIMIT_{n}"))
                  for n in names}))
"""
ASKED = """# Rainbow's own words
lim_nofile 50
lim_nproc 5000
lim_fsize 65536
lim_mem 100000000
constant-uid
use-serial
dance
"""


def test_a_bundle_that_asks_for_less_has_less_and_never_more(
    alice: Person, system: Path
) -> None:
    """permissions.info, as it is seen from inside, from outside and in the report."""
    bundle = make(system / "asks", programs={"show": LIMITS})
    file = bundle / "activity/permissions.info"
    text, end = output(alice, bundle)
    before = json.loads(text)
    assert before["NOFILE"] == [1024, 1024]
    file.write_text(ASKED)
    text, end = output(alice, bundle)
    assert end["status"] == 0, end
    seen = json.loads(text)
    assert seen["NOFILE"] == [50, 50]
    assert seen["FSIZE"] == [65536, 65536]
    assert seen["NPROC"] == before["NPROC"] == [128, 128]
    report = end["report"]
    assert isinstance(report, dict)
    told = {s["what"]: s["why"] for s in report["skipped"]}
    where = "activity/permissions.info"
    more = told.pop(f"{where}:3: lim_nproc 5000")
    assert more.startswith("limits.processes is 128 (")
    assert more.endswith("), and a bundle cannot ask for more")
    assert "policies/sugar.toml:" in more
    assert told[f"{where}:6: constant-uid"].startswith("identity.uid is instance (")
    assert "devices.allow" in told[f"{where}:7: use-serial"]
    assert told[f"{where}:8: dance"] == "there is no such directive"
    for granted in ("lim_nofile", "lim_fsize", "lim_mem"):
        assert granted not in str(told)
    file.unlink()
    assert json.loads(output(alice, bundle)[0]) == before


TAKE = """#!/usr/bin/python3
try:
    taken = bytearray(b"x") * 150_000_000
    print("taken", flush=True)
except MemoryError:
    print("refused", flush=True)
"""


def test_memory_that_a_bundle_does_not_want_is_not_there(
    alice: Person, system: Path
) -> None:
    """Kept by a cgroup, where there is one, or else for each process by itself."""
    bundle = make(system / "takes", programs={"show": TAKE})
    assert output(alice, bundle)[0] == "taken\n"
    (bundle / "activity/permissions.info").write_text("lim_mem 100000000\n")
    text, end = output(alice, bundle)
    report = end["report"]
    assert isinstance(report, dict)
    if "cgroup" in report["enforced"]:
        assert (text, end["signal"]) == ("", signal.SIGKILL)
    else:
        assert (text, end["status"]) == ("refused\n", 0)


def test_the_mediator_is_told_the_lowered_limit(alice: Person, system: Path) -> None:
    bundle = make(system / "less")
    (bundle / "activity/permissions.info").write_text("lim_fsize 65536\n")
    with alice.launch(bundle) as launched:
        assert launched.granted["file_size"] == 65536
        launched.end()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"lim_nproc 5\n" * 6000, "bundle-too-large"),
        (b"lim_nproc 5\n" * 65, "bundle-value-too-long"),
        (b"\x7fELF\0\0", "bundle-not-text"),
        (b"lim_nproc 5\x1b[2J\n", "bundle-bad-value"),
        (b"\xff\xfe", "bundle-not-text"),
        ("fifo", "bundle-not-a-file"),
        ("link", "bundle-link"),
    ],
    ids=str,
)
def test_hostile_requests_end_the_launch_and_nothing_else(
    daemon: Service, data: bytes | str, code: str
) -> None:
    """Of a bundle of her own, which somebody sent her."""
    with person(daemon, ALICE) as somebody:
        bundle = make(somebody.home / "Activities", owner=ALICE)
        file = bundle / "activity/permissions.info"
        if data == "fifo":
            os.mkfifo(file)
        elif data == "link":
            file.symlink_to("/etc/shadow")
        else:
            assert isinstance(data, bytes)
            file.write_bytes(data)
        assert refusal(somebody, bundle) == code
        assert f'code="{code}"' in daemon.log
        file.unlink()
        assert output(somebody, bundle)[1]["status"] == 0
