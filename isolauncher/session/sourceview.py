# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside Sugar's shell: whose file it takes for the document of an activity.

Who looks at an activity's source has the shell ask the activity for the path of its
document, which the shell shows, moves into the Journal when asked to, and deletes
once its window is closed. It does so with all of the person's rights, whatever path
the activity has answered. Here only a file counts that the activity has put into its
own `instance`, and the shell gets a copy of it to show and to delete. Where `instance`
is in memory (no id-mapped mounts, see ../scratch.py) the shell finds none there.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from contextlib import suppress
from typing import Any

from ..bundle import valid_bundle_id
from .bounded import Unfit, copy, see_room

MAX_BYTES = 16 << 20
"""Of a document; the shell waits while it is copied, and would while it shows it."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def copy_of(said: str, bundle_id: str, activity_id: str, profile: str) -> str:
    """Where a copy is of the document that an activity says is at ``said``.

    OSError, ValueError or Unfit if it is none of the activity's own, or too large.
    Without a sandbox `instance` is one for all of the bundle, and what is in there has
    no other name.
    """
    if not valid_bundle_id(bundle_id) or not re.fullmatch("[0-9a-zA-Z_]+", activity_id):
        raise ValueError("no activity has such ids")  # its window has the say on them
    root = os.path.join(profile, bundle_id)
    above, name = os.path.split(said)
    if above != os.path.join(root, "instance") or name in ("", ".", ".."):
        raise ValueError("it is not in the activity's own directory")
    of_a_person = os.path.join(profile, "isolauncher/user", bundle_id)
    sandboxes = (
        os.path.join(root, "instance", activity_id),
        os.path.join(of_a_person, "instance", activity_id),
    )
    # What has one cannot write to what is for all, where it is another's document.
    own = tuple(place for place in sandboxes if os.path.lexists(place))
    fd = _opened(own or (above,), name)
    try:
        return _copied(fd, name)
    finally:
        os.close(fd)


def _copied(fd: int, name: str) -> str:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no file")
    see_room(tempfile.gettempdir(), status.st_size, MAX_BYTES)
    target, path = tempfile.mkstemp(prefix="document-", suffix=f"-{name[-48:]}")
    try:
        copy(fd, target, status.st_size)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(target)
    return path


def _opened(places: tuple[str, ...], name: str) -> int:
    """The first that is there."""
    for place in places:
        try:
            directory = os.open(place, _DIRECTORY)
            try:
                return os.open(name, _FILE, dir_fd=directory)
            finally:
                os.close(directory)
        except FileNotFoundError:
            continue
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
        except (AttributeError, OSError, Unfit, ValueError) as error:
            logging.error("isolauncher: the document %r: %s", str(said)[:200], error)
            return None

    class Confined(viewsource.ViewSource):  # type: ignore[misc]
        """Every window of it is one of these."""

        __gtype_name__ = "IsolauncherViewSource"

        def __init__(
            self, window: Any, bundle: Any, said: Any, toolkit: Any, title: Any
        ) -> None:
            own = None if said is None else document(window, said)
            try:
                super().__init__(window, bundle, own, toolkit, title)
            except BaseException:
                # The shell deletes it with a window, and there is none.
                if own is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(own)
                raise

    viewsource.ViewSource = Confined
