# SPDX-License-Identifier: GPL-3.0-or-later
"""The control panel's section in Sugar's own control panel, in two languages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.daemons import TOP, service
from support.desktop import SUGAR_ACTIVITIES, desktop, missing
from support.powers import need, program, sandboxes
from support.sugar import Session, profile, session

from isolauncher.policy import restrict
from isolauncher.policy.load import PolicyStore

PROGRAM = TOP / "tests/support/panel_program.py"
INSTALL = TOP / "integration/sugar/install-section"
SECTIONS = Path("/usr/share/sugar/extensions/cpsection")
LOG = "org.laptop.Log"

NO_NETWORK = "It cannot reach any network."
OPENED = "In the Journal it sees what it has made itself, and what you give it."
OWN = "In the Journal it sees only what it has made itself."
READS = "It can read what you may read of: ~/.sugar/default/logs, /var/log."
NO_FILES = "It sees no other files of yours, and none of other programs'."
BY_HAND = """\
version = 1
extends = "log"

[match]
bundle-id = ["org.laptop.Log"]
"""


# What /usr/bin/sugar sets for the shell.
DATA = "/usr/share/sugar/data"
VARIABLES = {
    "SUGAR_SCALING": "72",
    "SUGAR_GROUP_LABELS": f"{DATA}/group-labels.defaults",
    "SUGAR_MIME_DEFAULTS": f"{DATA}/mime.defaults",
    "SUGAR_ACTIVITIES_HIDDEN": f"{DATA}/activities.hidden",
}


@dataclass
class Panel:
    session: Session
    extensions: Path

    @property
    def top(self) -> Path:
        return self.session.desktop.top / "panel"

    def opened(self, policies: Path, *switches: str, **variables: str) -> Any:
        """What is drawn for Log, and after each switch that is pressed."""
        words = ("/usr/bin/python3", PROGRAM, self.extensions, policies, LOG, *switches)
        desktop = self.session.desktop
        done = subprocess.run(
            words,
            env={**self.session.environment, **VARIABLES, **variables},
            cwd=desktop.home,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            **desktop.person(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def written(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o644)
        os.chown(path, self.session.uid, -1)

    def directory(self, name: str) -> Path:
        """For policies, which the person may write as an administrator may hers."""
        made = self.session.desktop.home / name
        made.mkdir()
        os.chown(made, self.session.uid, -1)
        return made


@pytest.fixture(scope="module")
def panel() -> Iterator[Panel]:
    need(
        sandboxes(),
        missing(),
        None if SECTIONS.is_dir() else "sugar-session is not installed",
        None if (SUGAR_ACTIVITIES / "Log.activity").exists() else "there is no Log",
        program("msgfmt"),
    )
    with desktop() as person, service() as daemon:
        profile(person)
        top = person.top / "panel"
        subprocess.run((INSTALL, "--destdir", top), check=True)
        made = top / SECTIONS.relative_to("/")
        # Sugar's own beside it, as on a machine.
        shutil.copytree(SECTIONS, made, dirs_exist_ok=True)
        yield Panel(session(person, daemon), made.parent)


def test_what_is_installed_is_what_sugar_and_polkit_look_for(panel: Panel) -> None:
    section = panel.extensions / "cpsection/isolauncher"
    names = {path.name for path in section.iterdir()}
    assert {"__init__.py", "model.py", "view.py", "icons", "locale"} <= names
    action = panel.top / "usr/share/polkit-1/actions/org.sugarlabs.isolauncher.policy"
    command = next(
        line
        for line in (section / "installed.py").read_text().splitlines()
        if line.startswith("COMMAND = ")
    ).split("'")[1]
    assert f">{command}</annotate>" in action.read_text()


def test_what_was_installed_can_be_removed(tmp_path: Path) -> None:
    need(program("msgfmt"))

    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())

    own = tmp_path / "usr/share/sugar/extensions/cpsection/frame/view.py"
    own.parent.mkdir(parents=True)
    own.touch()
    for number in range(2):
        subprocess.run((INSTALL, "--packaged", "--destdir", tmp_path), check=True)
        assert "view.py" in files(), number
        assert "isolauncher.mo" in files()
    noted = tmp_path / "usr/share/sugar/extensions/cpsection/isolauncher/installed.py"
    assert "COMMAND = '/usr/bin/isolauncher'" in noted.read_text()
    for _ in range(2):
        subprocess.run((INSTALL, "--remove", "--destdir", tmp_path), check=True)
        assert files() == ["view.py"]


def test_what_polkit_would_have_root_run_is_there_and_root_s(tmp_path: Path) -> None:
    need(program("msgfmt"))
    checkout, place = tmp_path / "checkout", tmp_path / "place"
    for part in ("integration/sugar", "integration/polkit", "isolauncher"):
        shutil.copytree(TOP / part, checkout / part)

    def install() -> tuple[int, str]:
        words = (checkout / "integration/sugar/install-section", "--destdir", place)
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

    status, said = install()
    assert (status, place.exists()) == (1, False)
    command = checkout / ".venv/bin/isolauncher"
    assert f"{command} is missing" in said
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    assert install() == (0, "")
    command.parent.chmod(0o777)
    status, said = install()
    assert f"others than root can change {command}: {command.parent} has mode" in said
    command.parent.chmod(0o755)
    os.chown(checkout, 1000, -1)
    status, said = install()
    assert status == 0
    assert said.count(f"{checkout} belongs to uid 1000") == 2


def test_an_activity_in_words_and_what_is_taken_from_it(panel: Panel) -> None:
    policies = panel.directory("policies")
    told = panel.opened(policies, "files", "documents", "files")
    assert told["title"] == "Activity Permissions"
    assert told["icon"].endswith("isolauncher/icons/module-isolauncher.svg")
    assert told["missing_icons"] == []
    assert not told["rtl"]
    assert told["icon_left"] < told["arrow_left"]
    assert {"Log", "Calculate"} <= {*told["names"]}
    for says in (NO_NETWORK, OPENED, READS, "It cannot listen to you."):
        assert says in told["row"]
    without_files, without_both, again = told["after"]
    assert without_files["taken"] == ["files"]
    assert NO_FILES in without_files["row"]
    assert {OWN, NO_FILES} <= {*without_both["row"]}
    assert again["taken"] == ["documents"]
    assert {OWN, READS} <= {*again["row"]}
    assert all(one["alert"] == [] for one in told["after"])
    (written,) = policies.iterdir()
    assert 'documents = "own"' in written.read_text()


def test_what_was_taken_and_is_not_what_it_was_meant_to_be_is_mended(
    panel: Panel,
) -> None:
    """Its policy has changed since, or another has come that governs it."""
    store = PolicyStore(etc_dir=None)
    log, sugar = store.get("log"), store.get("sugar")
    before = replace(log, view=replace(log.view, read=(*log.view.read, "/etc/issue")))
    policies = panel.directory("mended")
    path = policies / "log.toml"
    panel.written(path, restrict.text(LOG, before, ["files"]))
    told = panel.opened(policies, "mend")
    says = "Its policy has changed since something was taken from it here, and what was"
    assert told["row"][:2] == [f"{says} taken does not follow that.", "Take it anew"]
    (after,) = told["after"]
    assert (after["taken"], after["alert"]) == (["files"], [])
    assert "Take it anew" not in after["row"]
    assert path.read_text() == restrict.text(LOG, log, ["files"])

    path.unlink()
    restricted = policies / f"{LOG}.restricted.toml"
    panel.written(restricted, restrict.text(LOG, sugar, ["programs"]))
    told = panel.opened(policies, "mend")
    says = "What was taken from it here stands in the way of its new policy."
    assert told["row"] == [says, "Give everything back"]
    (after,) = told["after"]
    assert READS in after["row"]
    assert os.listdir(policies) == []

    # And where another policy has come that stands on its own.
    panel.written(path, restrict.text(LOG, log, ["files"]))
    panel.written(policies / "mine.toml", 'version = 1\nextends = "log"\n')
    told = panel.opened(policies, "mend")
    says = "Others have the same policy, so nothing can be taken from it alone here."
    assert told["row"][:2] == [says, "Give everything back"]
    (after,) = told["after"]
    assert {READS, says} <= {*after["row"]}
    assert os.listdir(policies) == ["mine.toml"]


def test_a_policy_of_an_administrator_s_own_cannot_be_switched(panel: Panel) -> None:
    policies = panel.directory("by-hand")
    path = policies / "log.toml"
    panel.written(path, BY_HAND)
    # A switch that somebody gets to press all the same.
    told = panel.opened(policies, "files")
    says = f"An administrator wrote its policy, and it is changed only there: {path}"
    assert says in told["row"]
    (after,) = told["after"]
    assert after["alert"] == [
        "An administrator wrote the policy of this activity by hand; it stays as it is."
    ]
    assert READS in after["row"]
    assert path.read_text() == BY_HAND


def test_the_same_in_arabic_from_right_to_left(panel: Panel) -> None:
    need(program("localedef"))
    locales = panel.top / "locales"
    locales.mkdir()
    subprocess.run(
        ("localedef", "-i", "ar_EG", "-f", "UTF-8", locales / "ar_EG.UTF-8"), check=True
    )
    told = panel.opened(
        panel.directory("arabic"),
        LOCPATH=str(locales),
        LANG="ar_EG.UTF-8",
        LANGUAGE="ar",
    )
    assert told["title"] == "أذون الأنشطة"
    assert told["rtl"]
    assert told["icon_left"] > told["arrow_left"]
    assert "لا يستطيع الوصول إلى أي شبكة." in told["row"]
    assert not any(says.startswith("It ") for says in told["row"])


def test_who_is_confined_and_who_is_not(panel: Panel) -> None:
    session = panel.session
    words, place = session.desktop.activity("Log", "a" * 40)
    with session.desktop.watch() as watch:
        log = session.desktop.start(*words, cwd=place)
        watch.wait(lambda window: window.sugar_bundle == LOG, alive=log)
    with session.launch("org.laptop.Calculate", "calc1"):
        process = session.isolauncher("ps", "--windows", stdout=subprocess.PIPE)
        listed = process.communicate()[0].decode().splitlines()
        told = panel.opened(panel.directory("open"))
        # And where the daemon cannot be asked: no word for what nobody knows.
        gone = panel.opened(
            panel.directory("gone"), ISOLAUNCHER_SOCKET="/nonexistent/socket"
        )
    assert listed[0].split() == ["CONFINED", "PID", "ID", "POLICY", "BUNDLE", "TITLE"]
    assert {tuple(line.split(maxsplit=5)[::5]) for line in listed[1:]} == {
        ("no", "Log Activity"),
        ("yes", "Calculate Activity"),
    }
    assert open_windows(told) == {
        "Log Activity": "Not confined: it can do whatever you can.",
        "Calculate Activity": "Confined. Policy: calculate",
    }
    assert open_windows(gone) == {
        "Log Activity": "Not confined: it can do whatever you can.",
        "Calculate Activity": "Whether it is confined cannot be told now.",
    }


def open_windows(told: Any) -> dict[str, str]:
    """What is said under each title."""
    return dict(zip(told["open"][::2], told["open"][1::2], strict=True))


def test_a_real_polkit_lets_whom_it_is_told_run_this_verb_and_no_other(
    tmp_path: Path,
) -> None:
    need(
        sandboxes(),
        program("pkexec"),
        program("dbus-daemon"),
        program("msgfmt"),
        None if Path("/usr/lib/polkit-1/polkitd").exists() else "there is no polkitd",
        None if (SUGAR_ACTIVITIES / "Log.activity").exists() else "there is no Log",
    )
    command = TOP / ".venv/bin/isolauncher"
    lines = {
        f"games {command} restrict {LOG} files": 0,
        # Whose directory it is, is not theirs to say.
        f"games {command} restrict {LOG} files --policy-dir=/etc/polkit-1": 125,
        # Another verb, and another person: polkit's own answer, as nobody can be asked.
        f"games {command} test-policy": 127,
        f"nobody {command} restrict {LOG} documents": 127,
        f"games {command} restrict org.laptop.Calculate documents": 0,
        f"games {command} restrict org.laptop.Calculate --as-shipped": 0,
    }
    done = subprocess.run(
        ("unshare", "--mount", TOP / "tests/support/polkit.sh", tmp_path, INSTALL),
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text()
    assert [int(line) for line in done.stdout.split()] == [*lines.values()], said
    written = tmp_path / "etc/policies"
    assert [path.name for path in written.iterdir()] == ["log.toml"]
    (log,) = written.iterdir()
    assert log.stat().st_uid == 0
    assert log.stat().st_mode & 0o7777 == 0o644
    assert "restrict-directory" in said
