# SPDX-License-Identifier: GPL-3.0-or-later
"""What an activity's environment holds: the policy's names and nothing else.

A name comes in by being asked for by the caller *and* kept by the policy, or by being
set by the policy. Variables that steer a loader or an interpreter, and those that
lead to a socket or a secret of the person, come in only where a policy writes their
name in full: a pattern such as ``GTK_*`` was written by somebody who thought of
harmless names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from isolauncher.errors import RequestError
from isolauncher.policy.model import Policy

MAX_VALUE = 32 * 1024
MAX_TOTAL = 96 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

# Read by the dynamic loader and the C library: glibc drops these for setuid programs
# (sysdeps/generic/unsecvars.h); a launch crosses a border of the same kind.
_C_LIBRARY = (
    "GCONV_PATH GETCONF_DIR GLIBC_TUNABLES HOSTALIASES LD_* LOCALDOMAIN LOCPATH "
    "MALLOC_* NIS_PATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS TMPDIR TZDIR"
)
# Name code that an interpreter, shell or tool runs or loads.
_INTERPRETERS = (
    "PYTHON* BASH_ENV BASH_FUNC_* BASHOPTS SHELLOPTS ENV PS4 IFS CDPATH GLOBIGNORE "
    "PROMPT_COMMAND ZDOTDIR PERL5* PERLLIB PERL_* PERLIO* RUBY* GEM_* BUNDLE_* NODE_* "
    "NPM_* LUA_* LUA5_* TCLLIBPATH TCL_LIBRARY R_PROFILE* R_ENVIRON* R_LIBS* JAVA_* "
    "JDK_* _JAVA_* CLASSPATH GUILE_* PHPRC PHP_INI_SCAN_DIR OCAMLRUNPARAM CAML* "
    "EMACSLOADPATH VIMINIT EXINIT VIM VIMRUNTIME MYVIMRC"
)
_TOOLKITS = (
    "GTK_MODULES GTK2_MODULES GTK3_MODULES GTK_PATH GTK_EXE_PREFIX GTK_DATA_PREFIX "
    "GTK_IM_MODULE_FILE GTK_RC_FILES GTK2_RC_FILES GDK_PIXBUF_MODULE* GIO_* GVFS_* "
    "GI_TYPELIB_PATH GSETTINGS_* GCONF_* GST_* G_MESSAGES_* G_SLICE G_DEBUG BABL_PATH "
    "GEGL_PATH PANGO_* QT_PLUGIN_PATH QT_QPA_* QT_STYLE_OVERRIDE QML* QTWEBENGINE* "
    "KDE_* LIBGL_* MESA_* EGL_* VK_* __GLX_* __EGL_* LIBVA_* VDPAU_* ALSA_* LADSPA_* "
    "LV2_PATH DSSI_PATH VST_PATH SDL_* IM_MODULE_PATH ENCHANT_* MAGICK_* FONTCONFIG_* "
    "OPENSSL_* SSL_* SSLKEYLOGFILE KRB5* LDAP* CURL_* MAGIC TERMINFO TERMINFO_DIRS "
    "TERMCAP LESSOPEN LESSCLOSE LESSKEY* PAGER MANPAGER BROWSER EDITOR VISUAL GIT_* "
    "LIBRARY_PATH CPATH C_INCLUDE_PATH COMPILER_PATH GCC_* PKG_CONFIG_*"
)
# Lead to a socket or a secret of the person.
_PERSON = (
    "SSH_* GPG_* GNUPGHOME XAUTHORITY ICEAUTHORITY SESSION_MANAGER NOTIFY_SOCKET "
    "LISTEN_* WATCHDOG_* CREDENTIALS_DIRECTORY MAINPID INVOCATION_ID JOURNAL_STREAM "
    "DBUS_* AT_SPI_* DISPLAY WAYLAND_* XDG_RUNTIME_DIR PULSE_* PIPEWIRE_* "
    "GNOME_KEYRING_* DOCKER_* KUBECONFIG AWS_* AZURE_* GOOGLE_* NETRC PGPASS* MYSQL_* "
    "SUDO_* ISOLAUNCHER_*"
)

DANGEROUS: tuple[str, ...] = tuple(
    f"{_C_LIBRARY} {_INTERPRETERS} {_TOOLKITS} {_PERSON}".split()
)
_EXACT = frozenset(name for name in DANGEROUS if not name.endswith("*"))
_PREFIXES = tuple(name[:-1] for name in DANGEROUS if name.endswith("*"))


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def is_dangerous(name: str) -> bool:
    """Whether only its full name lets it in."""
    return name in _EXACT or name.startswith(_PREFIXES)


def build(
    policy: Policy, asked: Mapping[str, str], setenv: Mapping[str, str]
) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """The environment, and what was dropped: ``(name, why)``, by name.

    ``asked`` is the caller's own environment: what is no variable's name in there
    (shells export functions under such names) is dropped. ``setenv`` was typed:
    there it is an error.
    """
    for name, value in (*asked.items(), *setenv.items()):
        # Neither exists in an environment: somebody made this up.
        if "=" in name or not (_is_bytes(name) and _is_bytes(value)):
            raise RequestError(
                f"environment: {name[:64]!a} or its value cannot be in an environment",
                code="request-bad-environment",
                hint="no NUL, and no '=' in a name",
            )
    for name in setenv:
        if not is_name(name):
            raise RequestError(
                f"--setenv: {name[:64]!a} is not a variable's name",
                code="request-bad-variable",
                hint="letters, digits and _, not beginning with a digit",
            )

    kept: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name, value in {**asked, **setenv}.items():
        why = _refusal(policy, name)
        if why:
            dropped[name] = why
        else:
            kept[name] = value
    for name in policy.environment.set:
        if name in setenv and name not in dropped:
            dropped[name] = f"the policy {policy.name} sets it itself"
    kept.update(policy.environment.set)

    if not any(kept.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")):
        # In the C locale a Python coerces its locale and turns UTF-8 mode on while it
        # starts; one that is forked has started already and could not follow.
        kept["LANG"] = "C.UTF-8"
    _bounded(kept)
    return kept, tuple(sorted(dropped.items()))


def _is_bytes(text: str) -> bool:
    """Whether the kernel would take it: decoded from bytes, and without NUL."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _refusal(policy: Policy, name: str) -> str:
    keep = policy.environment.keep
    if not is_name(name):
        return "not a variable's name"
    if name in keep:
        return ""
    matching = [
        pattern
        for pattern in keep
        if pattern.endswith("*") and name.startswith(pattern[:-1])
    ]
    origin = policy.origin.get("environment.keep")
    where = f" ({origin.file}:{origin.line})" if origin else ""
    if matching and not is_dangerous(name):
        return ""
    if matching:
        return (
            f"'{matching[0]}' in environment.keep{where} does not take variables that "
            "steer loaders or lead to the person's sockets; it would have to be named"
        )
    return f"not in environment.keep{where}"


def _bounded(kept: Mapping[str, str]) -> None:
    total = 0
    for name, value in kept.items():
        size = len(value.encode("utf-8", "surrogateescape"))
        if size > MAX_VALUE:
            raise RequestError(
                f"environment: the value of {name} is longer than {MAX_VALUE // 1024}K",
                code="request-environment-too-large",
                hint="unset it, or leave it out of the policy's environment.keep",
            )
        total += len(name) + size + 2
    if total > MAX_TOTAL:
        raise RequestError(
            f"environment: more than {MAX_TOTAL // 1024}K together",
            code="request-environment-too-large",
            hint="unset what the program does not need",
        )
