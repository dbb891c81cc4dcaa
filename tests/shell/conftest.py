# SPDX-License-Identifier: GPL-3.0-or-later
"""A session with Debian's shell in it, for the tests of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support import shell as shells
from support.clicks import Clicks
from support.daemons import ROOMS_AHEAD, service
from support.desktop import desktop
from support.desktop import missing as no_desktop
from support.powers import need, sandboxes
from support.sugar import Session, session


@pytest.fixture(scope="module")
def shell_session() -> Iterator[Callable[..., Clicks]]:
    """Begins one, which ends with the file.

    ``settings`` is what isolauncher.toml says to the shell; ``before`` is called with
    the session while there is no shell; the rest is for `support.shell.shell`.
    """
    need(sandboxes())
    need(no_desktop())
    need(shells.missing())
    with ExitStack() as stack:

        def begin(
            *,
            settings: str = "",
            before: Callable[[Session], None] = lambda made: None,
            **how: Any,
        ) -> Clicks:
            made = stack.enter_context(desktop())
            daemon = stack.enter_context(service(config=ROOMS_AHEAD))
            config = daemon.top / "shell.toml"
            config.write_text(f"version = 1\n{settings}")
            one = session(made, daemon)
            before(one)
            shell = shells.shell(made, daemon.socket, config=config, **how)
            return Clicks(shell=stack.enter_context(shell), session=one)

        yield begin
