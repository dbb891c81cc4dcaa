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
    return variable in MODULE_START or variable.startswith(starts)
