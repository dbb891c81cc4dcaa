# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables that are read once, at a start or an import, and never again.

Only names. A program that is given one of them gets a fresh interpreter
(`program.needs_exec`), so a preloaded module may have read it (`audit`).
"""

from __future__ import annotations

# Read while it runs, or without meaning unless the interpreter is interactive.
HARMLESS = frozenset(
    {"PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT", "PYTHONSTARTUP", "PYTHONUSERBASE"}
)
MODULE_START = frozenset(
    {"PY_SAX_PARSER", "DEB_PYTHON_INSTALL_LAYOUT"}
    | {"_PYTHON_PROJECT_BASE", "_PYTHON_SYSCONFIGDATA_NAME"}
)
# Of packages that others have written and that an administrator may preload: which of
# two implementations, what to warn of, how much to remember.
PACKAGE_START = (
    *("AIOHTTP_NO_EXTENSIONS", "FROZENLIST_NO_EXTENSIONS", "MULTIDICT_NO_EXTENSIONS"),
    *("YARL_NO_EXTENSIONS", "APPENGINE_RUNTIME", "HTTPX_LOG_LEVEL"),
    *("MSGPACK_PUREPYTHON", "PSUTIL_DEBUG", "PURE_PYTHON", "PYZMQ_BACKEND"),
    *("GEVENT_", "GRPC_", "MPMATH_", "PANDAS_", "PILLOW_", "SAGE_ROOT", "SQLALCHEMY_"),
    *("SYMPY_", "TORNADO_", "TRAVIS_BUILD_NUMBER", "ZOPE_INTERFACE_"),
)
LIBRARY_START = ("LD_", "GLIBC_TUNABLES", "MALLOC_", "OPENSSL_", "SSLKEYLOGFILE")
# GLib's and GObject's constructors and first uses, and the repository of typelibs'.
GLIB_START = (
    *("G_DEBUG", "G_SLICE", "GOBJECT_DEBUG", "GI_TYPELIB_PATH", "G_RANDOM_V"),
    *("G_MESSAGES_PREFIXED", "G_RESOURCE_OVERLAYS", "G_ENABLE_DIAGNOSTIC"),
    # Of file names and messages: asked for once, if anything has to be converted.
    *("CHARSET", "G_FILENAME_ENCODING", "G_BROKEN_FILENAMES"),
)
# The constructors of GDK, and of GnuTLS with what it uses; GdkPixbuf's list of formats.
WINDOW_START = (
    *("DESKTOP_STARTUP_ID", "DESKTOP_AUTOSTART_ID", "GDK_PIXBUF_MODULE_FILE"),
    *("GNUTLS_", "NETTLE_", "P11_KIT_"),
)
# The constructors of pixman, of OpenGL's libraries, of Mesa's drivers and of LLVM.
DRAWING_START = (
    *("PIXMAN_DISABLE", "__GL", "GALLIUM_", "R600_", "D3D12_", "LLVM_"),
    "AS_SECURE_LOG_FILE",
)


def is_read_at_start(variable: str) -> bool:
    """Whether a program that is given it gets a fresh interpreter (`needs_exec`)."""
    starts = (*LIBRARY_START, *GLIB_START, *WINDOW_START, *DRAWING_START)
    return is_of_a_module(variable) or variable.startswith(starts)


def is_of_a_module(variable: str) -> bool:
    """Whether a module is known to read it when it is imported."""
    return variable in MODULE_START or variable.startswith(PACKAGE_START)
