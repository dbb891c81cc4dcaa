# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes in with the environment, what stays in memory, and what is drawn."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.attacks import TIERS, attack, running, source
from support.daemons import Service, service
from support.powers import library, need, sandboxes

CALLERS = (12345, 0)

# Baits: a form that is found in memory wherever they got to, never written here.
DAEMONS = "bait-" + secrets.token_hex(16)
CALLERS_OWN = "bait-" + secrets.token_hex(16)
SIBLINGS = "bait-" + secrets.token_hex(16)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    need(sandboxes())
    with service(environment={"SECRET": DAEMONS, "GTK_MODULES": DAEMONS}) as made:
        yield made


STEERING = (
    # glibc's unsecvars.h and more of the loader's and the library's.
    "LD_PRELOAD LD_AUDIT LD_LIBRARY_PATH LD_DEBUG LD_DEBUG_OUTPUT LD_PROFILE "
    "LD_BIND_NOW LD_ORIGIN_PATH LD_HWCAP_MASK LD_SHOW_AUXV LD_USE_LOAD_BIAS "
    "GCONV_PATH GETCONF_DIR GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH "
    "MALLOC_ARENA_MAX MALLOC_CHECK_ MALLOC_PERTURB_ MALLOC_TRACE MALLOC_TOP_PAD_ "
    "NIS_PATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS TMPDIR TZDIR "
    # Interpreters.
    "PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT PYTHONBREAKPOINT "
    "PYTHONWARNINGS PYTHONPYCACHEPREFIX PYTHONUSERBASE PYTHONHASHSEED PYTHONDEBUG "
    "PYTHONOPTIMIZE PYTHONUTF8 PYTHONMALLOC PYTHONDEVMODE PYTHONPLATLIBDIR "
    "PYTHONEXECUTABLE PYTHONCASEOK PYTHONSAFEPATH PYTHONNOUSERSITE "
    "BASH_ENV ENV BASH_FUNC_ls IFS PS4 PERL5LIB PERL5OPT PERL5DB RUBYOPT RUBYLIB "
    "NODE_OPTIONS NODE_PATH JAVA_TOOL_OPTIONS _JAVA_OPTIONS LUA_PATH LUA_INIT "
    # Toolkits.
    "GTK_MODULES GTK_PATH GTK3_MODULES GTK_EXE_PREFIX GDK_PIXBUF_MODULE_FILE "
    "GDK_PIXBUF_MODULEDIR GIO_EXTRA_MODULES GIO_MODULE_DIR GI_TYPELIB_PATH "
    "GSETTINGS_SCHEMA_DIR GST_PLUGIN_PATH GST_PLUGIN_SYSTEM_PATH GST_PLUGIN_SCANNER "
    "GST_REGISTRY QT_PLUGIN_PATH QT_QPA_PLATFORM_PLUGIN_PATH QML_IMPORT_PATH "
    "LIBGL_DRIVERS_PATH VK_ICD_FILENAMES SDL_DYNAMIC_API FONTCONFIG_FILE "
    "OPENSSL_CONF OPENSSL_MODULES SSL_CERT_FILE SSLKEYLOGFILE CURL_CA_BUNDLE "
    # Sockets and secrets of the person.
    "SSH_AUTH_SOCK SSH_AGENT_PID GPG_AGENT_INFO GNUPGHOME XAUTHORITY ICEAUTHORITY "
    "NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES CREDENTIALS_DIRECTORY "
    "DBUS_SESSION_BUS_ADDRESS DBUS_SYSTEM_BUS_ADDRESS DISPLAY WAYLAND_DISPLAY "
    "XDG_RUNTIME_DIR XDG_CONFIG_HOME XDG_DATA_DIRS PULSE_SERVER PIPEWIRE_REMOTE "
    "AT_SPI_BUS_ADDRESS SESSION_MANAGER DOCKER_HOST KUBECONFIG AWS_SECRET_ACCESS_KEY "
    "SUDO_USER SUDO_COMMAND ISOLAUNCHER_SOCKET USER LOGNAME MAIL SHELL PWD OLDPWD"
).split()


def _plain(policy: Mapping[str, str], caller: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", **policy, **caller}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_variables_that_steer_or_lead_to_the_person_are_dropped_everywhere(
    daemon: Service, tier: str, uid: int
) -> None:
    # What would steer the client itself is asked for by option, as a caller can.
    typed = [n for n in STEERING if n.startswith(("LD_", "PYTHON", "MALLOC", "GLIBC"))]
    setenv = [word for name in typed for word in ("--setenv", f"{name}=1")]
    environment = {name: "/nowhere" for name in STEERING if name not in typed}
    environment |= {"LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "Asia/Tokyo"}
    script = daemon.script("senses.py", source("senses"))
    done = daemon.run(
        *("--tier", tier, *setenv, "--", script, *STEERING),
        uid=uid,
        environment=environment,
    )
    assert done.status == 0, done.errors
    answers = json.loads(done.text)
    kept = {"LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "Asia/Tokyo"}
    assert answers["environ"] == answers["proc"] == _plain({}, kept)
    assert set(answers["c"].values()) == {""}
    version = "python3.11"
    assert answers["path"][0] == os.path.dirname(script)
    assert all(
        path.startswith((f"/usr/lib/{version[:7]}", "/usr/local/lib/python3"))
        or path == "/usr/lib/python311.zip"
        for path in answers["path"][1:]
    ), answers["path"]
    assert "hash_randomization=1" in answers["flags"]
    for word in ("inspect=0", "optimize=0", "debug=0", "dev_mode=False", "utf8_mode=0"):
        assert word in answers["flags"]
    assert done.report is not None
    told = str(done.report["skipped"])
    for name in ("LD_PRELOAD", "PYTHONPATH", "GLIBC_TUNABLES", "PYTHONHASHSEED"):
        assert f"environment variable {name}" in told


@pytest.mark.parametrize("tier", TIERS)
def test_no_secret_of_the_daemon_the_caller_or_a_sibling_is_in_its_memory(
    daemon: Service, tier: str
) -> None:
    theirs = daemon.policy(
        "keeps",
        'version = 1\n[match]\ncallers = ["*"]\n'
        '[environment]\nkeep = ["...", "SIBLINGS"]\n',
    )
    environment = {"CALLERS_OWN": CALLERS_OWN, "LANG": "C.UTF-8"}
    with running(
        daemon, "wait", policy=theirs, environment={"SIBLINGS": SIBLINGS}, tier=tier
    ) as sibling:
        sibling.line()
        answers = attack(daemon, "senses", tier=tier, environment=environment)
        sibling.tell()
        assert sibling.ended()[0] == 0
    # It does find what there is: its own.
    assert answers["seen own"] is True
    assert int(str(answers["scanned"])) > 1 << 20
    assert answers["bait"] == []


@pytest.mark.parametrize("tier", TIERS)
def test_each_activitys_own_zone_language_home_and_host_name_are_what_is_seen(
    daemon: Service, tier: str
) -> None:
    """By Python, libc and GLib; also when another one came before with other values."""
    need(library("libglib-2.0.so.0"))
    for zone, hour, home, host in (
        ("Asia/Tokyo", 7, "/tmp/one", "first"),
        ("America/Sao_Paulo", 19, "/tmp/two", "second"),
    ):
        policy = daemon.policy(
            host,
            'version = 1\n[match]\ncallers = ["*"]\n'
            f'[namespaces]\nhostname = "{host}"\n'
            f'[environment]\nset = {{ HOME = "{home}", TMPDIR = "/dev/shm", '
            f'XDG_CACHE_HOME = "{home}/cache" }}\n',
        )
        answers = attack(
            daemon,
            "senses",
            "HOME",
            "XDG_CACHE_HOME",
            "TZ",
            tier=tier,
            policy=policy,
            environment={"TZ": zone, "LANG": "C.UTF-8", "HOME": "/home/person"},
        )
        assert answers["c"] == {
            "HOME": home,
            "XDG_CACHE_HOME": f"{home}/cache",
            "TZ": zone,
        }
        assert answers["time zone"][1] == answers["c time zone"][1] == hour  # type: ignore[index]
        # No summer time since 2019.
        assert answers["glib"] == {
            "home": home,
            "temporary": "/dev/shm",
            "cache": f"{home}/cache",
            "host": host,
            "offset": {"Asia/Tokyo": 9, "America/Sao_Paulo": -3}[zone] * 3600,
            "environ": answers["c"],
        }
        assert answers["home"] == home
        assert answers["temporary"] == "/dev/shm"
        assert answers["hosts"] == [host] * 5
        assert answers["encoding"] == ["utf-8", "UTF-8"]
        assert answers["c codeset"] == "UTF-8"
        assert str(answers["locale"]).lower() in ("c.utf-8", "c.utf8")


@pytest.mark.parametrize("tier", TIERS)
def test_siblings_draw_different_numbers_names_and_keys(
    daemon: Service, tier: str
) -> None:
    need(library("libglib-2.0.so.0"))
    several = [attack(daemon, "chance", tier=tier) for _ in range(3)]
    first = several[0]["drawn"]
    assert isinstance(first, dict)
    for name in first:
        values = {str(one["drawn"][name]) for one in several}  # type: ignore[index]
        assert len(values) == 3, f"{name}: {values}"


def test_the_hash_seed_is_shared_in_the_fork_tier_only_and_never_with_exec(
    daemon: Service,
) -> None:
    """docs/threat-model.md owns up to the first; `untrusted` therefore says exec."""
    forked = [attack(daemon, "chance", tier="fork")["hash"] for _ in range(2)]
    fresh = [attack(daemon, "chance", tier="exec")["hash"] for _ in range(2)]
    assert forked[0] == forked[1]
    assert len({forked[0], *fresh}) == 3
    done = daemon.run("--policy", "untrusted", "--tier", "fork", "--", "true")
    assert done.report is not None
    assert done.report["activity"]["tier"] == "exec"  # type: ignore[index]


# ---------------------------------------------------------------------- false modules

NAMES = ("json", "random", "site", "sitecustomize", "usercustomize", "encodings", "re")


def _shadows(place: Path) -> None:
    """Modules that would say that they were imported, beside the program."""
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    for name in NAMES:
        if name == "encodings":
            (place / name).mkdir(exist_ok=True)
            (place / name).chmod(0o755)
        path = place / (f"{name}/__init__.py" if name == "encodings" else f"{name}.py")
        path.write_text(f"print('FALSE {name}', flush=True)\nWHERE = 'false'\n")
        path.chmod(0o644)
    (place / "program.py").write_text(
        "import sys\n"
        "for name in ('json', 'random', 're', 'encodings', 'colorsys'):\n"
        "    module = __import__(name)\n"
        "    print(name, getattr(module, '__file__', None))\n"
        "print('site' in sys.modules, 'sitecustomize' in sys.modules,\n"
        "      'usercustomize' in sys.modules, sys.path[0])\n"
    )


@pytest.mark.parametrize("tier", TIERS)
def test_run_shows_the_program_and_not_the_modules_beside_it(
    daemon: Service, tier: str
) -> None:
    place = daemon.top / "beside"
    _shadows(place)
    done = daemon.run("--tier", tier, "--", str(place / "program.py"), uid=12345)
    assert done.status == 0, done.errors
    assert "FALSE" not in done.text
    assert str(place) not in done.text.rpartition("\n")[0].rpartition("\n")[0]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("module", [False, True])
def test_a_shown_directory_shadows_as_in_a_cold_start_and_nothing_is_mixed(
    daemon: Service, tier: str, module: bool
) -> None:
    """Each false module that a fresh interpreter takes is taken, and no other."""
    place = daemon.top / "shown"
    _shadows(place)
    policy = daemon.policy(
        "shown",
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nread = ["...", "{place}"]\n',
    )
    program = ["-m", "program"] if module else [str(place / "program.py")]
    cold = subprocess.run(
        ["/usr/bin/python3", *program],
        cwd=place,
        env={"LANG": "C.UTF-8", "PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    options = ["--policy", policy, "--tier", tier]
    words = program if module else ["--", *program]
    done = daemon.run(*options, *words, uid=12345, cwd=place)
    assert done.status == 0, done.errors
    assert "FALSE json" in cold.stdout
    assert done.text == cold.stdout


@pytest.mark.parametrize("tier", TIERS)
def test_a_module_is_not_taken_from_a_directory_that_is_not_shown(
    daemon: Service, tier: str
) -> None:
    place = daemon.top / "hidden"
    _shadows(place)
    done = daemon.run("--tier", tier, "-m", "program", uid=12345, cwd=place)
    assert done.status == 1
    assert "No module named program" in done.errors
    done = daemon.run("--tier", tier, "-m", "json.tool", "--help", uid=12345, cwd=place)
    assert done.status == 0, done.errors
    assert "FALSE" not in done.text
