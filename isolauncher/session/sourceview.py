# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: whose file it takes for the document of an activity.

Who looks at an activity's source has the shell ask the activity for the path of its
document, which the shell shows, moves into the Journal when asked to, and deletes
once its window is closed. It does so with all of the person's rights, whatever path
the activity has answered. Here only a file counts that the activity has put into its
own `instance`, and the shell gets a copy of it to show and to delete.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
from contextlib import ExitStack
from typing import Any

from ..bundle import valid_bundle_id

MAX_BYTES = 16 << 20
"""Of a document; the shell waits while it is copied, and would while it shows it."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def copy_of(said: str, bundle_id: str, activity_id: str, profile: str) -> str:
    """Where a copy is of the document that an activity says is at ``said``.

    OSError or ValueError if it is none of the activity's own. Without a sandbox
    `instance` is one for all of the bundle, and what is in there has no other name.
    """
    if not valid_bundle_id(bundle_id) or not re.fullmatch("[0-9a-zA-Z_]+", activity_id):
        raise ValueError("no activity has such ids")  # its window has the say on them
    root = os.path.join(profile, bundle_id)
    above, name = os.path.split(said)
    if above != os.path.join(root, "instance") or name in ("", ".", ".."):
        raise ValueError("it is not in the activity's own directory")
    places = (
        os.path.join(root, "instance", activity_id),
        os.path.join(profile, "isolauncher/user", bundle_id, "instance", activity_id),
        above,
    )
    with ExitStack() as stack:
        fd = _opened(places, name)
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise ValueError("it is no file, or too large")
        made, path = tempfile.mkstemp(prefix="document-", suffix=f"-{name[-64:]}")
        with os.fdopen(made, "wb") as copy, os.fdopen(os.dup(fd), "rb") as document:
            shutil.copyfileobj(document, copy)
    return path


def _opened(places: tuple[str, ...], name: str) -> int:
    """The first that is there: the sandbox's before what is one for all."""
    for place in places:
        try:
            directory = os.open(place, _DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            return os.open(name, _FILE, dir_fd=directory)
        except FileNotFoundError:
            continue
        finally:
            os.close(directory)
    raise FileNotFoundError("it is not there")


def install(viewsource: Any, model: Any, profile: str) -> None:
    """From now on the shell's window of sources shows and deletes copies alone.

    ``viewsource`` is the shell's module, ``model`` what knows whose a window is.
    """

    def document(window: Any, said: Any) -> str | None:
        activity = model._get_activity_by_xid(window)
        try:
            return copy_of(
                str(said),
                str(activity.get_bundle_id()),
                str(activity.get_activity_id()),
                profile,
            )
        except (AttributeError, OSError, ValueError) as error:
            logging.error("isolauncher: the document %r: %s", str(said)[:200], error)
            return None

    class Confined(viewsource.ViewSource):  # type: ignore[misc]
        """Every window of it is one of these."""

        __gtype_name__ = "IsolauncherViewSource"

        def __init__(
            self, window: Any, bundle: Any, said: Any, toolkit: Any, title: Any
        ) -> None:
            own = None if said is None else document(window, said)
            super().__init__(window, bundle, own, toolkit, title)

    viewsource.ViewSource = Confined
